package catalog

import (
	"encoding/hex"
	"errors"
	"strings"
)

// Digest is the SHA-256 of weights in the form sha256:248d….
type Digest string

// UnmarshalText reads a digest. Its letters may be large.
func (d *Digest) UnmarshalText(text []byte) error {
	name, ok := strings.CutPrefix(string(text), "sha256:")
	if raw, err := hex.DecodeString(name); !ok || err != nil || len(raw) != 32 {
		return errors.New("want sha256: and 64 hexadecimal digits")
	}
	*d = Digest("sha256:" + strings.ToLower(name))
	return nil
}
