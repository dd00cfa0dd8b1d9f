package watermark

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Parameters is the name and version of the scheme. Texts that were marked under another
// name cannot be detected or continued by this package.
const Parameters = "gumbel-h3-s8/1"

const (
	width = 3   // number of tokens in a context
	salts = 256 // number of salts
)

// These are the labels under which the secret is used. They keep its uses apart.
const (
	saltLabel  = "colophon watermark salt v1\x00"
	blockLabel = "colophon watermark block v1\x00"
	idLabel    = "colophon watermark key id v1\x00"
)

// KeySize is the number of bytes of the secret of a key.
const KeySize = 32

// A Key marks texts and detects its marks. It is made by [NewKey].
type Key struct {
	secret [KeySize]byte
	block  cipher.Block // encrypts the block of a context
}

// NewKey returns the key with the given secret, which must come from a secure source of
// random numbers.
func NewKey(secret [KeySize]byte) Key {
	k := Key{secret: secret}
	k.block = newAES(k.mac([]byte(blockLabel)))
	return k
}

// ID identifies the key, in 16 hexadecimal digits. It reveals nothing of the secret.
func (k Key) ID() string { return hex.EncodeToString(k.mac([]byte(idLabel))[:8]) }

// Format writes the id of the key for every verb, so that no log has the secret.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "watermark key %s", k.ID()) }

// salt returns the salt of the text with this seed and prompt.
func (k Key) salt(seed uint64, prompt []int) byte {
	b := binary.BigEndian.AppendUint64([]byte(saltLabel), seed)
	for _, t := range prompt {
		b = binary.BigEndian.AppendUint32(b, uint32(t))
	}
	return k.mac(b)[sha256.Size-1]
}

func (k Key) mac(message []byte) []byte {
	h := hmac.New(sha256.New, k.secret[:])
	h.Write(message)
	return h.Sum(nil)
}

// newAES returns the cipher of a key of 16 or 32 bytes.
func newAES(key []byte) cipher.Block {
	c, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for another size of the key
	}
	return c
}
