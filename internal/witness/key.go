package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"colophon/events/receipt"
	"colophon/internal/datadir"
)

// keyPrefix begins a private key in its text form, which is that of signed notes.
const keyPrefix = "PRIVATE+KEY+"

// errKey occurs when a text is not the private key of a witness.
var errKey = errors.New("not the private key of a witness: want PRIVATE+KEY+NAME+HASH+KEY")

// LoadKey reads the private key of a witness from a file. If the file is missing, LoadKey
// makes a key with the given name and writes it there, with mode 0600. An existing key must
// have the name, unless the name is empty, and other accounts must not be able to read it.
func LoadKey(path, name string) (receipt.Cosigner, error) {
	text, err := os.ReadFile(path)
	if info, statErr := os.Stat(path); err == nil && statErr == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("other accounts may read %s (mode %04o): chmod 600 it, and if they may have read it, the key has leaked", path, info.Mode().Perm())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path, name)
	}
	if err != nil {
		return receipt.Cosigner{}, fmt.Errorf("read the key of the witness: %w", err)
	}
	c, err := parseKey(strings.TrimSpace(string(text)))
	if err == nil && name != "" && name != c.Name() {
		err = fmt.Errorf("it is the key of %s, not of %s", c.Name(), name)
	}
	if err != nil {
		return receipt.Cosigner{}, fmt.Errorf("read the key of the witness: %s: %w", path, err)
	}
	return c, nil
}

func createKey(path, name string) (receipt.Cosigner, error) {
	if !receipt.ValidName(name) {
		return receipt.Cosigner{}, fmt.Errorf("%s is missing, and a new key needs a name without spaces and plus signs, such as witness.example.com", path)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return receipt.Cosigner{}, fmt.Errorf("create the key of the witness: %w", err)
	}
	c := receipt.NewCosigner(name, private, time.Now)
	text := fmt.Sprintf("%s%s+%08x+%s\n", keyPrefix, name, c.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{4}, private.Seed()...)))
	err = datadir.Create(path, []byte(text))
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return LoadKey(path, name)
	}
	if err != nil {
		return receipt.Cosigner{}, fmt.Errorf("create the key of the witness: %w", err)
	}
	return c, nil
}

func parseKey(text string) (c receipt.Cosigner, err error) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	fields := strings.SplitN(rest, "+", 3)
	if !ok || len(fields) != 3 || !receipt.ValidName(fields[0]) {
		return c, errKey
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil || len(seed) != 1+ed25519.SeedSize || seed[0] != 4 {
		return c, errKey
	}
	c = receipt.NewCosigner(fields[0], ed25519.NewKeyFromSeed(seed[1:]), time.Now)
	if fmt.Sprintf("%08x", c.KeyHash()) != fields[1] {
		return c, errKey
	}
	return c, nil
}
