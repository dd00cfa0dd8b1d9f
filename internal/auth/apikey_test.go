package auth

import (
	"regexp"
	"strings"
	"testing"
)

// scanned is the expression that docs/adr/0038-api-keys.md gives to secret scanners.
var scanned = regexp.MustCompile(`\bsk-colophon-[0-9A-Za-z]{38}\b`)

// TestAPIKeysHaveTheDocumentedForm compares keys with the form and the example of the decision
// record. All digits must occur, and no key twice.
func TestAPIKeysHaveTheDocumentedForm(t *testing.T) {
	const documented = "sk-colophon-0123456789ABCDEFGHIJKLMNOPQRSTUV"
	if got := documented + checksum(documented); got != "sk-colophon-0123456789ABCDEFGHIJKLMNOPQRSTUV3maya6" || !wellFormed(got) {
		t.Errorf("the documented key is %s, well-formed %v", got, wellFormed(got))
	}
	seen, digits := map[string]bool{}, map[rune]int{}
	const n = 2000
	for range n {
		key := newAPIKey()
		if seen[key] || !wellFormed(key) || scanned.FindString("key="+key+"\n") != key {
			t.Fatalf("key %s", key)
		}
		seen[key] = true
		for _, c := range key[len(keyPrefix) : keyLength-keyChecksum] {
			digits[c]++
		}
	}
	for _, c := range base62 { // n*32/62 of each are expected, with a standard deviation of 32
		if got, want := digits[c], n*keyRandom/len(base62); got < want-200 || got > want+200 {
			t.Errorf("%d times %q, want about %d", got, c, want)
		}
	}
}

// TestMalformedKeysCostNoQuery presents keys with each kind of fault. The service must refuse
// them without asking to query the database.
//
// security: API4:2023
func TestMalformedKeysCostNoQuery(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := newAPIKey()
	for what, text := range map[string]string{
		"prefix alone":          keyPrefix,
		"too short":             key[:keyLength-1],
		"too long":              key + "0",
		"very long":             keyPrefix + strings.Repeat("A", 1<<20),
		"a line break":          key + "\n",
		"another prefix":        strings.Replace(key, "colophon", "Colophon", 1),
		"another digit":         strings.Replace(key, key[20:21], string(base62[(strings.IndexByte(base62, key[20])+1)%62]), 1),
		"swapped digits":        keyPrefix + "10" + strings.Repeat("0", keyRandom-2) + checksum(keyPrefix+"01"+strings.Repeat("0", keyRandom-2)),
		"no digit":              key[:20] + "-" + key[21:],
		"two bytes of UTF-8":    key[:20] + "é" + key[22:],
		"a wrong checksum":      key[:keyLength-1] + string(base62[(strings.IndexByte(base62, key[keyLength-1])+1)%62]),
		"the case of the sum":   key[:keyLength-keyChecksum] + swapCase(key[keyLength-keyChecksum:]) + "!",
		"a key with a NUL byte": key[:20] + "\x00" + key[21:],
	} {
		_, err := f.VerifyKey(t.Context(), text, func() error {
			t.Errorf("%s: the database is to be queried", what)
			return nil
		})
		wantError(t, err, ErrAPIKey)
		if err != nil && strings.Contains(err.Error(), key[20:30]) {
			t.Errorf("%s: the error repeats the key: %v", what, err)
		}
	}
}

func swapCase(text string) string {
	if upper := strings.ToUpper(text); upper != text {
		return upper
	}
	return strings.ToLower(text)
}
