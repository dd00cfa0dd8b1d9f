package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// cosignatureAlgorithm identifies Ed25519 cosignatures in the keys of witnesses.
const cosignatureAlgorithm = 4

// errWitnessKey occurs when a text is not the key of a witness.
var errWitnessKey = errors.New("not the key of a witness: want NAME+HASH+KEY with an Ed25519 key for cosignatures")

// Witness verifies the cosignatures of a witness (c2sp.org/tlog-cosignature, Ed25519). A
// cosignature says that the witness has seen the log grow up to the checkpoint without a
// change of what it had seen before. Witness implements note.Verifier.
type Witness struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

var _ note.Verifier = Witness{}

// ParseWitness reads a witness's key in the form NAME+HASH+KEY.
func ParseWitness(vkey string) (Witness, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || base64.StdEncoding.EncodeToString(key) != encoded || len(key) != 1+ed25519.PublicKeySize || key[0] != cosignatureAlgorithm {
		return Witness{}, errWitnessKey
	}
	w := Witness{name, [ed25519.PublicKeySize]byte(key[1:])}
	if !ValidName(name) || fmt.Sprintf("%08x", w.KeyHash()) != hash {
		return Witness{}, errWitnessKey
	}
	return w, nil
}

// ValidName reports whether a text can be the name of a log or of a witness: it has no
// space, no control character and no plus sign.
func ValidName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
}

// String returns the witness's key in the form NAME+HASH+KEY.
func (w Witness) String() string {
	encoded := base64.StdEncoding.EncodeToString(append([]byte{cosignatureAlgorithm}, w.key[:]...))
	return fmt.Sprintf("%s+%08x+%s", w.name, w.KeyHash(), encoded)
}

// Name returns the witness's name.
func (w Witness) Name() string { return w.name }

// KeyHash returns the key's id in signature lines.
func (w Witness) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(w.name+"\n\x04"), w.key[:]...))
	return binary.BigEndian.Uint32(sum[:])
}

// Verify reports whether a cosignature of a checkpoint's text is valid.
func (w Witness) Verify(text, cosignature []byte) bool {
	if len(cosignature) != 8+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(cosignature)
	return at < 1<<63 && ed25519.Verify(w.key[:], cosigned(at, text), cosignature[8:])
}

// cosigned returns the message that a witness signs.
func cosigned(at uint64, text []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), text...)
}

// CosignatureTime returns the time at which a witness says it has made a cosignature. The
// parameter is the signature of a note that has been verified with a [Witness].
func CosignatureTime(s note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
	if err != nil || len(raw) != 4+8+ed25519.SignatureSize {
		return time.Time{}, errors.New("not a cosignature")
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])&(1<<63-1)), 0).UTC(), nil
}

// Cosigner signs checkpoints as a witness. It implements note.Signer.
type Cosigner struct {
	Witness
	key ed25519.PrivateKey
	now func() time.Time
}

var _ note.Signer = Cosigner{}

// NewCosigner returns a cosigner. The function now returns the time of a cosignature.
func NewCosigner(name string, key ed25519.PrivateKey, now func() time.Time) Cosigner {
	public, _ := key.Public().(ed25519.PublicKey)
	return Cosigner{Witness{name, [ed25519.PublicKeySize]byte(public)}, key, now}
}

// Sign returns a cosignature of a checkpoint's text with the present time.
func (c Cosigner) Sign(text []byte) ([]byte, error) {
	at := uint64(c.now().Unix())
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(c.key, cosigned(at, text))...), nil
}

// verifies reports whether a signature line is the witness's for the checkpoint.
func (w Witness) verifies(c Checkpoint, s note.Signature) bool {
	raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
	return err == nil && len(raw) > 4 && w.Verify([]byte(c.Text()), raw[4:])
}
