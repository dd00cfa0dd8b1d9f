package receipt_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"colophon/events/receipt"
)

func ExampleCommit() {
	seed := make([]byte, receipt.SeedSize) // a real seed is random
	member := receipt.Member{Stream: "job/01a205f5-d3cb-7edf-b4b0-4999c136b1eb", Version: 1, Type: "job.accepted", Name: "prompt"}
	blinding := receipt.Blinding(seed, member.Name)
	fmt.Printf("%x\n", receipt.Commit(member, blinding, []byte(`"Once upon a time"`)))
	// Output: 7de882dfa30c1c40dbed71d6ee37e29c2bd6af83b332beb7a9c75abf9b737728
}

// The wanted values were computed with the hashlib and hmac modules of Python.
func TestCommitmentsHaveTheirDocumentedBytes(t *testing.T) {
	seed := make([]byte, receipt.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	for _, k := range []struct{ member, value, blinding, commitment string }{
		{"prompt", `"Once"`, "a7747680b7f914bff3e6961d5b26b4eff012b2f7aeecd0d140cb7391bf9de430", "b56b2c79df38921f4befffee3002238e2df663adea48c45b151be1fa6addceea"},
		{"text", `""`, "27a0eabaf34a3623827e82713f146e82e8c1a889564c6df9e5045f5fc6f61709", "de1c0bb6da3062849b6f3c7c4deac4469389bc55289092f46b86504fb867cd63"},
		{"tokens", `[1,2]`, "b12d36642abf3ad33c3b0f765164671e4991fc696d3befe65c852806eaddc061", "6dd1e40ffa2945e6655065e8a0cfd4ad829e191245b302fe2c7c9a8f8ed1e864"},
	} {
		member := receipt.Member{Stream: "job/01a205f5-d3cb-7edf-b4b0-4999c136b1eb", Version: 12, Type: "job.advanced", Name: k.member}
		blinding := receipt.Blinding(seed, k.member)
		commitment := receipt.Commit(member, blinding, []byte(k.value))
		if hex.EncodeToString(blinding) != k.blinding || hex.EncodeToString(commitment[:]) != k.commitment {
			t.Errorf("%s: blinding %x, commitment %x", k.member, blinding, commitment)
		}
	}
}

// No change of a member, a blinding value or a value may leave the commitment as it is. That
// includes bytes that move from one part to the next part.
func TestCommitmentsDiffer(t *testing.T) {
	member := receipt.Member{Stream: "job/a", Version: 11, Type: "job.advanced", Name: "text"}
	seen := map[[32]byte]string{}
	add := func(what string, m receipt.Member, blinding, value string) {
		c := receipt.Commit(m, []byte(blinding), []byte(value))
		if other, ok := seen[c]; ok {
			t.Errorf("%s has the commitment of %s", what, other)
		}
		seen[c] = what
	}
	add("the original", member, "blinding", `"value"`)
	for what, change := range map[string]func(*receipt.Member){
		"another stream":     func(m *receipt.Member) { m.Stream = "job/b" },
		"another version":    func(m *receipt.Member) { m.Version = 12 },
		"another type":       func(m *receipt.Member) { m.Type = "job.completed" },
		"another member":     func(m *receipt.Member) { m.Name = "tokens" },
		"a moved digit":      func(m *receipt.Member) { m.Stream, m.Version = "job/a1", 1 },
		"a moved letter":     func(m *receipt.Member) { m.Type, m.Name = "job.advancedt", "ext" },
		"a negative version": func(m *receipt.Member) { m.Version = -11 },
	} {
		other := member
		change(&other)
		add(what, other, "blinding", `"value"`)
	}
	add("another blinding value", member, "blindinG", `"value"`)
	add("another value", member, "blinding", `"Value"`)
	add("a moved byte", member, `blinding"`, `value"`)
	add("no blinding value", member, "", `blinding"value"`)
}

func TestBlindingValuesDiffer(t *testing.T) {
	seed := make([]byte, receipt.SeedSize)
	other := bytes.Repeat([]byte{1}, receipt.SeedSize)
	if bytes.Equal(receipt.Blinding(seed, "text"), receipt.Blinding(seed, "tokens")) || bytes.Equal(receipt.Blinding(seed, "text"), receipt.Blinding(other, "text")) {
		t.Error("two members or two seeds have the same blinding value")
	}
}
