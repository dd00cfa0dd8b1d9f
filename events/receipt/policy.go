package receipt

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Policy says which logs are trusted, and which witnesses must have cosigned a checkpoint.
// Its text form is that of c2sp.org/tlog-policy.
type Policy struct {
	Logs      []Log
	Witnesses []PolicyWitness
	quorum    member // nil for "quorum none"
}

// Log is a log of a policy.
type Log struct {
	Key Key
	URL string // prefix of the log's tiles; may be empty
}

// PolicyWitness is a witness of a policy.
type PolicyWitness struct {
	Witness
	URL string // prefix to which checkpoints are submitted; may be empty
}

// member is a witness or a group of a policy. It reports whether the witnesses that have
// cosigned are enough.
type member func(cosigned func(Witness) bool) bool

// ErrPolicy occurs when a text is not a policy.
var ErrPolicy = errors.New("not a policy of c2sp.org/tlog-policy")

// maxPolicy is the maximum number of lines of a policy.
const maxPolicy = 1000

// policyReader reads the lines of a policy.
type policyReader struct {
	policy  *Policy
	members map[string]member
	grouped map[string]bool // names that are members of a group
	quorum  bool            // the line of the quorum was read
}

// ParsePolicy reads a policy. Every error is an [ErrPolicy] and names the line.
func ParsePolicy(text string) (*Policy, error) {
	r := policyReader{&Policy{}, map[string]member{}, map[string]bool{}, false}
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' && c != '\n' || c == 0x7f }) {
		return nil, fmt.Errorf("%w: it has a control character", ErrPolicy)
	}
	lines := strings.Split(text, "\n")
	if len(lines) > maxPolicy {
		return nil, fmt.Errorf("%w: it has more than %d lines", ErrPolicy, maxPolicy)
	}
	for i, line := range lines {
		fields := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := r.line(fields[0], fields[1:]); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrPolicy, i+1, err)
		}
	}
	if !r.quorum {
		return nil, fmt.Errorf("%w: it has no line with the quorum", ErrPolicy)
	}
	return r.policy, nil
}

func (r *policyReader) line(kind string, args []string) error {
	switch {
	case kind == "log" && (len(args) == 1 || len(args) == 2):
		return r.log(args)
	case kind == "witness" && (len(args) == 2 || len(args) == 3):
		return r.witness(args)
	case kind == "group" && len(args) >= 3:
		return r.group(args[0], args[1], args[2:])
	case kind == "quorum" && len(args) == 1:
		if r.quorum {
			return errors.New("a second quorum")
		}
		r.quorum = true
		if args[0] == "none" {
			return nil
		}
		if r.policy.quorum = r.members[args[0]]; r.policy.quorum == nil {
			return errUndefined
		}
		return nil
	}
	return errors.New("want log, witness, group or quorum with its arguments")
}

func (r *policyReader) log(args []string) error {
	key, err := ParseKey(args[0])
	if err != nil {
		return fmt.Errorf("the key of the log: %w", err)
	}
	address, err := optionalURL(args[1:])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(r.policy.Logs, func(l Log) bool { return l.Key.Name() == key.Name() && l.Key.KeyHash() == key.KeyHash() }) {
		return errors.New("a log with this key is there already")
	}
	r.policy.Logs = append(r.policy.Logs, Log{key, address})
	return nil
}

func (r *policyReader) witness(args []string) error {
	w, err := ParseWitness(args[1])
	if err != nil {
		return err
	}
	address, err := optionalURL(args[2:])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(r.policy.Witnesses, func(other PolicyWitness) bool { return other.key == w.key }) {
		return errors.New("a witness with this key is there already")
	}
	r.policy.Witnesses = append(r.policy.Witnesses, PolicyWitness{w, address})
	return r.define(args[0], func(cosigned func(Witness) bool) bool { return cosigned(w) })
}

func optionalURL(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	u, err := url.Parse(args[0])
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", errors.New("want a URL that begins with https:// or http://")
	}
	return strings.TrimSuffix(args[0], "/"), nil
}

func (r *policyReader) group(name, threshold string, names []string) error {
	k, err := strconv.Atoi(threshold)
	switch {
	case threshold == "any":
		k = 1
	case threshold == "all":
		k = len(names)
	case err != nil || k < 1 || k > len(names) || strconv.Itoa(k) != threshold:
		return fmt.Errorf("want any, all or a number from 1 to the group's %d members", len(names))
	}
	members := make([]member, len(names))
	for i, n := range names {
		if members[i], err = r.use(n); err != nil {
			return err
		}
	}
	return r.define(name, func(cosigned func(Witness) bool) bool {
		n := 0
		for _, m := range members {
			if m(cosigned) {
				n++
			}
		}
		return n >= k
	})
}

func (r *policyReader) define(name string, m member) error {
	if name == "none" || r.members[name] != nil {
		return errors.New("the name is taken")
	}
	r.members[name] = m
	return nil
}

// errUndefined occurs when a line uses a name that no line before defines.
var errUndefined = errors.New("a name that no line before defines")

// use returns the member of a name, which may be in one group.
func (r *policyReader) use(name string) (member, error) {
	m := r.members[name]
	if m == nil {
		return nil, errUndefined
	}
	if r.grouped[name] {
		return nil, errors.New("a name that is in two groups")
	}
	r.grouped[name] = true
	return m, nil
}

// Satisfied reports whether the witnesses that have cosigned a checkpoint are enough.
func (p *Policy) Satisfied(cosigned func(Witness) bool) bool {
	return p.quorum == nil || p.quorum(cosigned)
}

// Cosigned returns the valid cosignatures of a checkpoint by the policy's witnesses.
// Signatures of others are ignored, and so are invalid ones.
func (p *Policy) Cosigned(c SignedCheckpoint) map[Witness]note.Signature {
	valid := map[Witness]note.Signature{}
	for _, s := range c.Others {
		for _, w := range p.Witnesses {
			if s.Name == w.name && s.Hash == w.KeyHash() && w.verifies(c.Checkpoint, s) {
				valid[w.Witness] = s
			}
		}
	}
	return valid
}
