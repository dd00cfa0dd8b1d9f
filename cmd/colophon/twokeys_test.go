package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// This file makes a ciphertext of AES-GCM that opens under two keys. The attack is that of
// Dodis, Grubbs, Ristenpart and Woodage, "Fast Message Franking: From Invisible Salamanders
// to Encryptment" (CRYPTO 2018), and of Albertini, Duong, Gueron, Kölbl, Luykx and Schmieg,
// "How to Abuse and Fix Authenticated Encryption Without Key Commitment" (USENIX Security
// 2022).
//
// The tag is the polynomial GHASH of the associated data and the ciphertext, taken at a
// point that the key determines, plus a mask of the key. For two given keys, the tags are
// equal if one linear equation over GF(2^128) holds for the ciphertext. The papers solve it
// with one block of the ciphertext, whose plaintext is then noise. Here, the unknowns are
// single bits that the plaintexts leave open, such as the low bits of letters. So the
// plaintexts contain no noise that a reader could notice.

// byteSet is a set of bytes.
type byteSet [256]bool

func setOf(all ...byte) *byteSet {
	var s byteSet
	for _, b := range all {
		s[b] = true
	}
	return &s
}

func setWhere(in func(b byte) bool) *byteSet {
	var s byteSet
	for b := range s {
		s[b] = in(byte(b))
	}
	return &s
}

var (
	anyByte = setWhere(func(byte) bool { return true })

	// jsonSpace is the white space of JSON.
	jsonSpace = setOf([]byte(" \t\r\n")...)

	// jsonNoise is what encoding/json accepts in a string. It reads invalid UTF-8 as U+FFFD.
	jsonNoise = setWhere(func(b byte) bool { return b >= ' ' && b != '"' && b != '\\' })

	// jsonLetters is ASCII that encoding/json writes in a string as it is.
	jsonLetters = setWhere(func(b byte) bool {
		return b >= ' ' && b < 0x7f && b != '"' && b != '\\' && b != '<' && b != '>' && b != '&'
	})

	base64Letters = setOf([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")...)

	// base64Last is the last letter of 32 bytes in base64, which has four bits.
	base64Last = setOf([]byte("AEIMQUYcgkosw048")...)
)

// cell is a place in both plaintexts: the bytes that each of them may have there.
type cell [2]*byteSet

// first returns cells with a text of the first plaintext, over other bytes of the second.
func first(text string, other *byteSet) (cells []cell) {
	for _, b := range []byte(text) {
		cells = append(cells, cell{setOf(b), other})
	}
	return cells
}

// second is first for a text of the second plaintext.
func second(text string, other *byteSet) []cell { return swap(first(text, other)) }

// swap swaps the plaintexts of cells.
func swap(cells []cell) (swapped []cell) {
	for _, c := range cells {
		swapped = append(swapped, cell{c[1], c[0]})
	}
	return swapped
}

// repeat returns n cells of the same kind.
func repeat(n int, c cell) []cell { return slices.Repeat([]cell{c}, n) }

// maxForged bounds the length of a forged plaintext. A try that needs more begins again.
const maxForged = 6000

// forger makes one ciphertext. Its plaintexts are laid over each other from the first byte
// to the last one.
type forger struct {
	nonce      [12]byte
	aad        []byte
	blocks     [2]cipher.Block
	keystreams [2][]byte
	cells      []cell
	free       [2]int // the bits of the equation are taken from the cells from free[0] to before free[1]
}

// counter returns the encryption of the counter block n.
func (f *forger) counter(key int, n uint32) []byte {
	block := binary.BigEndian.AppendUint32(slices.Clone(f.nonce[:]), n)
	f.blocks[key].Encrypt(block, block)
	return block
}

// fits reports whether some byte of the ciphertext decrypts to bytes of the cell.
func (f *forger) fits(at int, c cell) bool {
	for key := range f.keystreams {
		for len(f.keystreams[key]) <= at {
			n := uint32(len(f.keystreams[key]) / aes.BlockSize)
			f.keystreams[key] = append(f.keystreams[key], f.counter(key, n+2)...) // counter 1 is for the tag
		}
	}
	difference := f.keystreams[0][at] ^ f.keystreams[1][at]
	for b, ok := range c[0] {
		if ok && c[1][byte(b)^difference] {
			return true
		}
	}
	return false
}

// put appends cells at the first place at which they fit. The cells before that place are
// filled with padding. put reports false if there is no such place.
func (f *forger) put(padding cell, token ...cell) bool {
	for at := len(f.cells); at+len(token) < maxForged; at++ {
		fit := true
		for i, c := range token {
			fit = fit && f.fits(at+i, c)
		}
		switch {
		case fit:
			f.cells = append(f.cells, token...)
			return true
		case !f.fits(at, padding):
			return false
		}
		f.cells = append(f.cells, padding)
	}
	return false
}

// choose returns a ciphertext byte for a cell, and a mask of its low bits. Each value of
// these bits fits the cell.
func (f *forger) choose(at int) (chosen, mask byte) {
	all := func(c, mask byte) bool {
		for low := range int(mask) + 1 {
			b := c&^mask | byte(low)
			if !f.cells[at][0][b^f.keystreams[0][at]] || !f.cells[at][1][b^f.keystreams[1][at]] {
				return false
			}
		}
		return true
	}
	for bits := 7; bits >= 0; bits-- {
		mask = 1<<bits - 1
		for c := range 256 {
			if all(byte(c), mask) {
				return byte(c), mask
			}
		}
	}
	panic("no byte fits the cell") // put has checked it
}

// solve chooses the ciphertext, and sets the free bits so that the tags of both keys are
// equal. It reports false if the free bits do not suffice.
func (f *forger) solve() (sealed []byte, ok bool) {
	text := make([]byte, len(f.cells))
	masks := make([]byte, len(f.cells))
	for at := range f.cells {
		text[at], masks[at] = f.choose(at)
	}
	aadBlocks := (len(f.aad) + aes.BlockSize - 1) / aes.BlockSize
	blocks := aadBlocks + (len(text)+aes.BlockSize-1)/aes.BlockSize + 1
	var powers [2][]element // the powers of H from 0 on
	for key := range powers {
		var zero [aes.BlockSize]byte
		f.blocks[key].Encrypt(zero[:], zero[:])
		h, power := elementOf(zero[:]), element{hi: 1 << 63} // this is the element 1
		for range blocks + 1 {
			powers[key] = append(powers[key], power)
			power = power.times(h)
		}
	}
	tag := func(key int) element {
		return ghash(f.aad, text, powers[key]).plus(elementOf(f.counter(key, 1)))
	}

	// Each free bit adds a known element to the difference of the tags. These elements, as
	// vectors of 128 bits, get a basis in echelon form.
	type row struct {
		sum  element
		bits []byte // the free bits that add up to sum
	}
	var basis [128]*row
	reduce := func(r *row) (leading int) {
		for r.sum != (element{}) {
			leading = r.sum.leading()
			if basis[leading] == nil {
				return leading
			}
			r.sum = r.sum.plus(basis[leading].sum)
			for i, b := range basis[leading].bits {
				r.bits[i] ^= b
			}
		}
		return -1
	}
	size := f.free[1] - f.free[0]
	for at := f.free[0]; at < f.free[1]; at++ {
		exponent := blocks - aadBlocks - at/aes.BlockSize
		weight := powers[0][exponent].plus(powers[1][exponent])
		for bit := byte(1); bit != 0 && masks[at]&bit != 0; bit <<= 1 {
			var unit [aes.BlockSize]byte
			unit[at%aes.BlockSize] = bit
			r := &row{elementOf(unit[:]).times(weight), make([]byte, size)}
			r.bits[at-f.free[0]] = bit
			if leading := reduce(r); leading >= 0 {
				basis[leading] = r
			}
		}
	}
	r := &row{tag(0).plus(tag(1)), make([]byte, size)}
	if reduce(r) >= 0 {
		return nil, false
	}
	for i, b := range r.bits {
		text[f.free[0]+i] ^= b
	}
	sealed = slices.Concat(f.nonce[:], text)
	sealed = binary.BigEndian.AppendUint64(sealed, tag(0).hi)
	return binary.BigEndian.AppendUint64(sealed, tag(0).lo), true
}

// forge returns a nonce, a ciphertext and a tag that open under both keys. lay puts the
// cells of the plaintexts, and reports false if they do not fit. Then forge calls it again,
// with another nonce.
func forge(t *testing.T, keys [2][]byte, aad string, lay func(f *forger) bool) []byte {
	t.Helper()
	var blocks [2]cipher.Block
	var errs [2]error
	for i, key := range keys {
		blocks[i], errs[i] = aes.NewCipher(key)
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for range 1_000_000 { // some ten thousand are enough
		f := &forger{aad: []byte(aad), blocks: blocks}
		_, _ = rand.Read(f.nonce[:]) // never fails
		if !lay(f) {
			continue
		}
		if sealed, ok := f.solve(); ok {
			return sealed
		}
	}
	t.Fatal("no nonce was found")
	return nil
}

// element is an element of GF(2^128) as AES-GCM writes it (NIST SP 800-38D): the first bit
// is the coefficient of 1.
type element struct{ hi, lo uint64 }

func elementOf(block []byte) element {
	return element{binary.BigEndian.Uint64(block), binary.BigEndian.Uint64(block[8:])}
}

func (e element) plus(o element) element { return element{e.hi ^ o.hi, e.lo ^ o.lo} }

// bit returns the coefficient of the power n.
func (e element) bit(n int) bool {
	if n < 64 {
		return e.hi>>(63-n)&1 == 1
	}
	return e.lo>>(127-n)&1 == 1
}

// leading returns the number of the first bit that is set.
func (e element) leading() int {
	for n := range 128 {
		if e.bit(n) {
			return n
		}
	}
	return -1
}

func (e element) times(o element) (product element) {
	for n := range 128 {
		if e.bit(n) {
			product = product.plus(o)
		}
		carry := o.lo & 1
		o = element{o.hi >> 1, o.lo>>1 | o.hi<<63}
		if carry == 1 {
			o.hi ^= 0xe1 << 56 // the polynomial 1 + x + x^2 + x^7 + x^128
		}
	}
	return product
}

// ghash returns the hash of the associated data and the ciphertext. powers are those of H.
func ghash(aad, text []byte, powers []element) (sum element) {
	padded := func(b []byte) []byte { return append(slices.Clone(b), make([]byte, -len(b)&(aes.BlockSize-1))...) }
	all := append(padded(aad), padded(text)...)
	all = binary.BigEndian.AppendUint64(all, uint64(len(aad))*8)
	all = binary.BigEndian.AppendUint64(all, uint64(len(text))*8)
	for blocks := len(all) / aes.BlockSize; len(all) > 0; blocks-- {
		sum = sum.plus(elementOf(all).times(powers[blocks]))
		all = all[aes.BlockSize:]
	}
	return sum
}
