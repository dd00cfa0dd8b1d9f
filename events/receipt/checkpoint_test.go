package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// example is the checkpoint of c2sp.org/tlog-checkpoint.
const example = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

func TestCheckpointsAreReadStrictly(t *testing.T) {
	t.Parallel()
	c, err := ParseCheckpoint(example)
	if err != nil || c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 || c.Text() != example {
		t.Errorf("%+v, %v", c, err)
	}
	if _, ok := c.Previous(); ok {
		t.Error("it names a previous log")
	}
	extended := example + "first\nsecond\n"
	if c, err := ParseCheckpoint(extended); err != nil || c.Text() != extended || len(c.Extensions) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{
		"", "\n", "a\n", "a\n1\n", example[:len(example)-1], example + "\n", "\n" + example,
		strings.Replace(example, "\n2085", "\n02085", 1),
		strings.Replace(example, "\n2085", "\n+2085", 1),
		strings.Replace(example, "\n2085", "\n-2085", 1),
		strings.Replace(example, "20852163", "9223372036854775808", 1),
		strings.Replace(example, "q2I=", "q2J=", 1), // the same bytes in other base64
		strings.Replace(example, "CsUY", "", 1),
	} {
		if c, err := ParseCheckpoint(bad); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%q: %+v, %v", bad, c, err)
		}
	}
}

func TestCheckpointNamesThePreviousLog(t *testing.T) {
	t.Parallel()
	old := Checkpoint{Origin: "old.example/log", Size: 7, Root: tlog.Hash{1}}
	c := Checkpoint{Origin: "new.example/log", Size: 9, Root: tlog.Hash{2}, Extensions: []string{"other"}}
	c.Continue(old)
	read, err := ParseCheckpoint(c.Text())
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := read.Previous(); !ok || p.Text() != old.Text() {
		t.Errorf("%+v, %v, want %+v", p, ok, old)
	}
	for _, line := range []string{"previous", "previous a 1", "previous a b c", "previous a 1 AAAA"} {
		if p, ok := (Checkpoint{Extensions: []string{line}}).Previous(); ok {
			t.Errorf("%q: %+v", line, p)
		}
	}
}

// newKey returns a log's signer and verifier.
func newKey(t *testing.T, name string) (note.Signer, Key) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	signer, err1 := note.NewSigner(private)
	verifier, err2 := ParseKey(public)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

func sign(t *testing.T, text string, signers ...note.Signer) string {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func TestOnlyTheLogsKeysOpenACheckpoint(t *testing.T) {
	t.Parallel()
	signer, key := newKey(t, "example.com/behind-the-sofa")
	second, secondKey := newKey(t, "example.com/behind-the-sofa")
	other, otherKey := newKey(t, "other.example")
	signed := sign(t, example, signer, second, other)
	c, err := OpenCheckpoint(signed, otherKey, key)
	if err != nil || c.Text() != example || len(c.ByLog) != 1 || len(c.Others) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := OpenCheckpoint(signed, key, secondKey); err != nil || len(c.ByLog) != 2 || len(c.Others) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := OpenCheckpoint(signed, otherKey); err == nil {
		t.Errorf("the key of another log opens %+v", c)
	}
	if c, err := OpenCheckpoint(signed); err == nil {
		t.Errorf("no key opens %+v", c)
	}
	for i := range signed {
		for _, flip := range []byte{1, 2, 4, 0x20, 0x80} {
			changed := []byte(signed)
			changed[i] ^= flip
			c, err := OpenCheckpoint(string(changed), key)
			if err == nil && (c.Text() != example || len(c.ByLog) != 1) {
				t.Fatalf("byte %d changed: %+v", i, c)
			}
		}
	}
}

// TestCosignatures compares a cosignature with the message of c2sp.org/tlog-cosignature.
func TestCosignatures(t *testing.T) {
	t.Parallel()
	at := time.Unix(1679315147, 0)
	c := NewCosigner("witness.example.com/w1", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)), func() time.Time { return at })
	signed := sign(t, example, c)
	n, err := note.Open([]byte(signed), note.VerifierList(c.Witness))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := CosignatureTime(n.Sigs[0]); err != nil || !got.Equal(at) {
		t.Errorf("cosigned at %v, %v, want %v", got, err, at)
	}
	public, _ := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	signature, _ := c.Sign([]byte(example))
	if !ed25519.Verify(public, []byte("cosignature/v1\ntime 1679315147\n"+example), signature[8:]) {
		t.Error("another message is signed")
	}
	for i := range signature {
		changed := bytes.Clone(signature)
		changed[i] ^= 1
		if c.Verify([]byte(example), changed) {
			t.Errorf("valid with byte %d changed", i)
		}
	}
	for _, length := range []int{0, 8, 71, 73} {
		if c.Verify([]byte(example), make([]byte, length)) {
			t.Errorf("valid with %d bytes", length)
		}
	}
	w, err := ParseWitness(c.String())
	if err != nil || w != c.Witness {
		t.Errorf("%v, %v, want %v", w, err, c.Witness)
	}
	_, logKey, err := note.GenerateKey(rand.Reader, "log.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a", "a+b", "a+b+c", logKey, c.String() + "A", strings.Replace(c.String(), "w1", "w2", 1), "+" + c.String()} {
		if w, err := ParseWitness(bad); err == nil {
			t.Errorf("%q: %v", bad, w)
		}
	}
}

// TestPolicies reads policies, and asks them about sets of witnesses.
func TestPolicies(t *testing.T) {
	t.Parallel()
	names := "abcdef"
	keys := map[byte]Witness{}
	text := "# a comment\n\n"
	for _, name := range []byte(names) {
		c := NewCosigner("witness.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{name}, ed25519.SeedSize)), time.Now)
		keys[name] = c.Witness
		text += "witness " + string(name) + "\t" + c.String() + " https://witness.example/" + string(name) + "/\n"
	}
	_, vkey, err := note.GenerateKey(rand.Reader, "log.example")
	if err != nil {
		t.Fatal(err)
	}
	groups := "group X 2 a b c\n  group Y any d e f\ngroup both all X Y\n"
	p, err := ParsePolicy("log " + vkey + " https://log.example/log\n" + text + groups + "quorum both\n")
	if err != nil || len(p.Logs) != 1 || len(p.Witnesses) != 6 || p.Witnesses[0].URL != "https://witness.example/a" {
		t.Fatalf("%+v, %v", p, err)
	}
	satisfied := func(p *Policy, set string) bool {
		return p.Satisfied(func(w Witness) bool {
			for _, name := range []byte(set) {
				if keys[name] == w {
					return true
				}
			}
			return false
		})
	}
	for set, want := range map[string]bool{"": false, "ab": false, "abd": true, "acf": true, "abcdef": true, "abc": false, "def": false, "ade": false} {
		if got := satisfied(p, set); got != want {
			t.Errorf("%q: %v, want %v", set, got, want)
		}
	}
	for quorum, want := range map[string]string{"none": "", "a": "a"} {
		if p, err := ParsePolicy(text + "quorum " + quorum); err != nil || !satisfied(p, want) || satisfied(p, "b") != (quorum == "none") {
			t.Errorf("quorum %s: %v", quorum, err)
		}
	}
	a := keys['a'].String()
	for _, bad := range []string{
		"", "quorum a", "quorum none\nquorum none", "quorum none extra", "Quorum none", "witness a\nquorum none",
		"witness a " + a + "\nwitness b " + a + "\nquorum none", "witness none " + a + "\nquorum none",
		"witness a " + a + " ftp://host/\nquorum none", "witness a " + a + " host\nquorum none",
		"witness a " + a + "\ngroup g 0 a\nquorum g", "witness a " + a + "\ngroup g 2 a\nquorum g", "witness a " + a + "\ngroup g 01 a\nquorum g",
		"witness a " + a + "\ngroup g any a a\nquorum g", "witness a " + a + "\ngroup g any a\ngroup h any a\nquorum g", "witness a " + a + "\ngroup a any a\nquorum a", "group g any g\nquorum g",
		"log " + vkey + "\nlog " + vkey + "\nquorum none", "log a+b+c\nquorum none", "quorum none\r\n", "quorum none\x00",
	} {
		if p, err := ParsePolicy(bad); !errors.Is(err, ErrPolicy) {
			t.Errorf("%q: %+v, %v", bad, p, err)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(example)
	f.Add(example + "previous a 1 CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCheckpoint(text)
		if err == nil && c.Text() != text {
			t.Errorf("%q is read as %+v", text, c)
		}
		c.Previous()
	})
}

func FuzzPolicy(f *testing.F) {
	w := NewCosigner("w", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), time.Now)
	f.Add("witness a " + w.String() + " https://w.example\ngroup g any a\nquorum g\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePolicy(text); err == nil {
			p.Satisfied(func(Witness) bool { return true })
		}
	})
}

func TestKeysAreReadFromLines(t *testing.T) {
	t.Parallel()
	_, a, err := note.GenerateKey(rand.Reader, "log.example")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{a: 1, a + "\n": 1, "\n" + a + "\r\n \n" + a + "\n": 2} {
		if keys, err := ParseKeys(text); err != nil || len(keys) != want || keys[0].Name() != "log.example" {
			t.Errorf("%q: %v, %v", text, keys, err)
		}
	}
	for _, bad := range []string{"", "\n", a + " " + a, a[1:], a + "\nother"} {
		if keys, err := ParseKeys(bad); !errors.Is(err, ErrKeys) {
			t.Errorf("%q: %v, %v", bad, keys, err)
		}
	}
}
