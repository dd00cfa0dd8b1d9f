package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// An API key is keyPrefix, keyRandom random characters, and a checksum of all of them. All
// characters after the prefix are base62 digits. So secret scanners find keys with the
// expression sk-colophon-[0-9A-Za-z]{38}, and the service refuses a mistyped or invented key
// without a query.
const (
	keyPrefix   = "sk-colophon-"
	keyRandom   = 32 // 190 bits
	keyChecksum = 6  // a CRC-32 has at most 6 digits of base 62
	keyLength   = len(keyPrefix) + keyRandom + keyChecksum

	// keyShown is the number of characters of a key that remain visible. Four of them are
	// random, so 166 bits remain secret.
	keyShown = len(keyPrefix) + 4
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// keyHash is the SHA-256 of an API key, under which the key is stored.
type keyHash [sha256.Size]byte

func hashKey(text string) keyHash { return sha256.Sum256([]byte(text)) }

// newAPIKey returns a random API key.
func newAPIKey() string {
	var b strings.Builder
	b.WriteString(keyPrefix)
	for random := make([]byte, 64); b.Len() < keyLength-keyChecksum; {
		_, _ = rand.Read(random) // rand.Read never returns an error
		for _, c := range random {
			// Bytes from 248 on are dropped, so that all digits are equally likely.
			if int(c) < 256/len(base62)*len(base62) && b.Len() < keyLength-keyChecksum {
				b.WriteByte(base62[int(c)%len(base62)])
			}
		}
	}
	return b.String() + checksum(b.String())
}

// checksum returns the CRC-32 (IEEE) of a text as keyChecksum digits of base 62, the most
// significant first.
func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	var digits [keyChecksum]byte
	for i := keyChecksum - 1; i >= 0; i-- {
		digits[i] = base62[sum%uint32(len(base62))]
		sum /= uint32(len(base62))
	}
	return string(digits[:])
}

// IsAPIKey reports whether a credential has the prefix of API keys. No access token has it.
func IsAPIKey(credential string) bool { return strings.HasPrefix(credential, keyPrefix) }

// wellFormed reports whether a text has the form of an API key, with the right checksum.
func wellFormed(text string) bool {
	if len(text) != keyLength || !IsAPIKey(text) || strings.Trim(text[len(keyPrefix):], base62) != "" {
		return false
	}
	body := text[:keyLength-keyChecksum]
	return text[len(body):] == checksum(body)
}
