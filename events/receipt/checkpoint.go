package receipt

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is the state of a log: how many events it has, and the root of their Merkle
// tree. Its text form is that of c2sp.org/tlog-checkpoint.
type Checkpoint struct {
	Origin     string // the log's name
	Size       int64  // number of events
	Root       tlog.Hash
	Extensions []string // further lines of the text
}

// ErrCheckpoint occurs when a text is not a checkpoint.
var ErrCheckpoint = errors.New("not a checkpoint")

// previous begins the extension line of [Checkpoint.Continue].
const previous = "previous "

// Tree returns the tree of the checkpoint.
func (c Checkpoint) Tree() tlog.Tree { return tlog.Tree{N: c.Size, Hash: c.Root} }

// Text returns the text that a log signs: the origin, the size in decimal, the root in
// base64, and the extensions, each on a line of its own.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root) + strings.Join(append(c.Extensions, ""), "\n")
}

// Continue adds the extension line that names the last checkpoint of the log that this log
// continues under another name: the word "previous" and the origin, size and root of that
// checkpoint, separated by spaces.
func (c *Checkpoint) Continue(p Checkpoint) {
	c.Extensions = append(c.Extensions, fmt.Sprintf("%s%s %d %s", previous, p.Origin, p.Size, p.Root))
}

// Previous returns the last checkpoint of the log that this log continues. It reports false
// if the checkpoint names none.
func (c Checkpoint) Previous() (p Checkpoint, ok bool) {
	for _, line := range c.Extensions {
		if rest, ok := strings.CutPrefix(line, previous); ok {
			if fields := strings.Split(rest, " "); len(fields) == 3 {
				p, err := parseState(fields[0], fields[1], fields[2])
				return p, err == nil
			}
		}
	}
	return p, false
}

// ParseCheckpoint reads the text of a checkpoint, which has no signatures. Every error is an
// [ErrCheckpoint]. The method Text of the result returns the same text again.
func ParseCheckpoint(text string) (c Checkpoint, err error) {
	body, ok := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 || slices.Contains(lines, "") {
		return c, fmt.Errorf("%w: want at least three lines and no empty one", ErrCheckpoint)
	}
	c, err = parseState(lines[0], lines[1], lines[2])
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	return c, err
}

// maxSize is the largest size of a checkpoint. Package tlog does not end with proofs of trees
// of more than 2^62 entries.
const maxSize = 1 << 62

func parseState(origin, size, root string) (c Checkpoint, err error) {
	c.Origin = origin
	if c.Size, err = strconv.ParseInt(size, 10, 64); err != nil || c.Size < 0 || c.Size > maxSize || strconv.FormatInt(c.Size, 10) != size {
		return c, fmt.Errorf("%w: the size is not a number in decimal up to 2^62", ErrCheckpoint)
	}
	hash, err := base64.StdEncoding.DecodeString(root)
	if err != nil || len(hash) != tlog.HashSize || base64.StdEncoding.EncodeToString(hash) != root {
		return c, fmt.Errorf("%w: the root is not %d bytes in base64", ErrCheckpoint, tlog.HashSize)
	}
	c.Root = tlog.Hash(hash)
	return c, nil
}

// SignedCheckpoint is a checkpoint that a log has signed.
type SignedCheckpoint struct {
	Checkpoint
	ByLog  []note.Signature // valid signatures of the log
	Others []note.Signature // signatures that were not verified, such as those of witnesses
}

// OpenCheckpoint reads a signed checkpoint and verifies the signatures of the log. It
// returns an error unless at least one of the keys has signed the checkpoint and every
// signature of these keys is valid. The name of a log's key is the origin of the log: a key
// with another name is ignored. A checkpoint with two signatures of the same key is refused.
func OpenCheckpoint(signed string, keys ...Key) (c SignedCheckpoint, err error) {
	origin, _, _ := strings.Cut(signed, "\n")
	var verifiers []note.Verifier
	for _, key := range keys {
		if key.Name() == origin {
			verifiers = append(verifiers, key.Verifier)
		}
	}
	n, err := note.Open([]byte(signed), note.VerifierList(verifiers...))
	if err != nil {
		return c, fmt.Errorf("open the checkpoint of %s: %w", origin, err)
	}
	_, lines, err := CutSignatures(signed)
	if err != nil {
		return c, err
	}
	all := slices.Concat(n.Sigs, n.UnverifiedSigs)
	if strings.Count(lines, "\n") != len(all) { // package note leaves out repeated lines
		return c, fmt.Errorf("%w: a signature is repeated", ErrCheckpoint)
	}
	for i, s := range all {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || base64.StdEncoding.EncodeToString(raw) != s.Base64 {
			return c, fmt.Errorf("%w: a signature is not in base64", ErrCheckpoint)
		}
		if slices.ContainsFunc(all[:i], func(other note.Signature) bool { return other.Name == s.Name && other.Hash == s.Hash }) {
			return c, fmt.Errorf("%w: a key has signed it twice", ErrCheckpoint)
		}
	}
	c.ByLog, c.Others = n.Sigs, n.UnverifiedSigs
	c.Checkpoint, err = ParseCheckpoint(n.Text)
	return c, err
}

// SignedBy reports whether a key of the log has signed the checkpoint.
func (c SignedCheckpoint) SignedBy(key interface {
	Name() string
	KeyHash() uint32
}) bool {
	return slices.ContainsFunc(c.ByLog, func(s note.Signature) bool { return s.Name == key.Name() && s.Hash == key.KeyHash() })
}

// CutSignatures returns the text of a signed note and its signature lines, without verifying
// them.
func CutSignatures(signed string) (text, lines string, err error) {
	i := strings.LastIndex(signed, "\n\n")
	if i < 0 || !strings.HasSuffix(signed, "\n") {
		return "", "", fmt.Errorf("%w: it has no signatures", ErrCheckpoint)
	}
	return signed[:i+1], signed[i+2:], nil
}
