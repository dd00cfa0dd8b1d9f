package watermark

import (
	"crypto/cipher"
	"encoding/binary"
	"slices"
)

// A noise gives each token that may follow a context a number between 0 and 1. It is not
// safe for concurrent use.
type noise struct {
	cipher  cipher.Block
	scratch [16]byte
}

// noise returns the noise of the tokens that follow a context.
func (k Key) noise(salt byte, w window) *noise {
	n := &noise{scratch: [16]byte{0: 1, 3: salt}}
	for i, t := range w {
		binary.BigEndian.PutUint32(n.scratch[4+4*i:], uint32(t))
	}
	k.block.Encrypt(n.scratch[:], n.scratch[:])
	n.cipher = newAES(n.scratch[:])
	return n
}

// uniform returns the number of a token.
func (n *noise) uniform(token uint32) float64 {
	n.scratch = [16]byte{}
	binary.BigEndian.PutUint32(n.scratch[12:], token/2)
	n.cipher.Encrypt(n.scratch[:], n.scratch[:])
	return uniform(n.scratch[8*(token%2):])
}

// uniform returns the number that the first eight bytes of b give, an odd multiple of
// 2^-53. So 1 minus this number is exact, and neither is 0.
func uniform(b []byte) float64 {
	return (float64(int64(binary.BigEndian.Uint64(b)>>12)) + 0.5) * 0x1p-52
}

// stream returns the key stream of the first tokens, eight bytes of each. It uses the
// memory of b if there is enough.
func (n *noise) stream(b []byte, tokens int) []byte {
	b = slices.Grow(b[:0], 8*tokens)[:8*tokens]
	clear(b)
	n.scratch = [16]byte{}
	cipher.NewCTR(n.cipher, n.scratch[:]).XORKeyStream(b, b)
	return b
}
