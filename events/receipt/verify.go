package receipt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrRefuted occurs when a receipt contradicts itself or the log: it was changed, or is
	// not of this log.
	ErrRefuted = errors.New("refuted")

	// ErrCannotTell occurs when nothing is wrong with a receipt, but something is missing for
	// a proof.
	ErrCannotTell = errors.New("cannot tell")
)

// Report says what a receipt proves.
type Report struct {
	Job    string
	Events []Event // from version 1 on

	Log   string // origin of the log
	Size  int64  // size of the log at the checkpoint
	Index int64  // index of the last event

	// Continues is the last checkpoint of the log that this log continues, or nil.
	Continues *Checkpoint

	// Opened are the secret members that the receipt shows, as JSON, by version and name.
	Opened map[int]map[string]json.RawMessage

	Cosigned []Cosignature // by the policy's witnesses
}

// Cosignature is the word of a witness that the checkpoint existed at a time.
type Cosignature struct {
	Witness string
	Time    time.Time
}

// Ended returns the last event if it ends the job, or if it says that the ended job was erased.
func (r *Report) Ended() (Event, bool) {
	if len(r.Events) == 0 {
		return Event{}, false
	}
	last := r.Events[len(r.Events)-1]
	return last, ends(last)
}

// typeErased is the type of the event that may follow the end of a job. It says that the
// service has erased the secret members.
const typeErased = "job.erased"

// Erased reports whether the service had erased the secret members of the job.
func (r *Report) Erased() bool {
	return len(r.Events) > 0 && r.Events[len(r.Events)-1].Type == typeErased
}

// ends reports whether no event can follow an event of a job, except one of typeErased.
func ends(e Event) bool {
	switch e.Type {
	case "job.completed", "job.cancelled", typeErased:
		return true
	case "job.failed":
		var fact struct{ Final bool }
		return json.Unmarshal(e.Fact, &fact) == nil && fact.Final
	}
	return false
}

// Fact returns a member that is not secret, such as "model" or "weights", from the last event
// that has it as a text. It returns "" if there is none.
func (r *Report) Fact(name string) (value string) {
	for _, e := range r.Events {
		var members map[string]json.RawMessage
		var text string
		if json.Unmarshal(e.Fact, &members) == nil && json.Unmarshal(members[name], &text) == nil {
			value = text
		}
	}
	return value
}

// Watermark says how the text of a job is marked. Only the holder of the key can detect the
// mark or execute the text again.
type Watermark struct {
	Key        string // id of the key
	Parameters string // name and version of the scheme
}

// Watermark returns the watermark that the job was accepted with. It reports false if there
// is none.
func (r *Report) Watermark() (w Watermark, ok bool) {
	if len(r.Events) == 0 {
		return w, false
	}
	var fact struct{ Watermark *Watermark }
	if json.Unmarshal(r.Events[0].Fact, &fact) != nil || fact.Watermark == nil {
		return w, false
	}
	return *fact.Watermark, true
}

// Prompt returns the job's prompt. It reports false if the receipt does not show it.
func (r *Report) Prompt() (prompt string, ok bool) {
	return asText(r.Opened[1]["prompt"])
}

// asText returns the text that a JSON string contains. It reports false for other JSON.
func asText(raw json.RawMessage) (text string, ok bool) {
	return text, len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil
}

// Text returns the text that the job has generated. It reports false if the receipt does not
// show all of it.
func (r *Report) Text() (text string, ok bool) {
	shown, parts := 0, 0
	for _, e := range r.Events {
		if e.Type != "job.advanced" {
			continue
		}
		parts++
		if part, ok := asText(r.Opened[e.Version]["text"]); ok {
			shown++
			text += part
		}
	}
	return text, shown == parts
}

// Verify checks a receipt. keys are the keys of logs that the caller trusts. With a policy,
// the logs of the policy are trusted too, and the checkpoint must have the cosignatures that
// the policy wants.
//
// The error is nil if everything that the report says is proven: the log has recorded these
// events of the job, from the first to the last, and the members that were opened are
// theirs. It wraps [ErrRefuted] if the receipt was changed or is not of the log, and
// [ErrCannotTell] if something is missing, such as a key that the caller trusts, the end of
// the job, or a part of its text. The report contains what was found until then.
//
// A receipt proves what the service has recorded. It does not prove that the log has no
// second stream of the job, which only a check of the whole log can.
func Verify(text []byte, keys Keys, policy *Policy) (*Report, error) {
	r, err := Parse(text)
	if err != nil {
		return &Report{}, fmt.Errorf("%w: %w", ErrCannotTell, err)
	}
	v := verifier{receipt: r, report: &Report{Job: r.Job, Opened: map[int]map[string]json.RawMessage{}}}
	if policy == nil {
		policy = &Policy{}
	}
	for _, step := range []func() error{v.events, v.openings, func() error { return v.checkpoint(keys, policy) }, v.proofs, v.complete} {
		if err := step(); err != nil {
			return v.report, err
		}
	}
	return v.report, v.missing
}

// verifier is the state of a verification.
type verifier struct {
	receipt *Receipt
	report  *Report
	size    int64
	root    tlog.Hash
	missing error // the first reason not to call the receipt proven; wraps ErrCannotTell
}

func refuted(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefuted, fmt.Errorf(format, args...))
}

// miss records that something is missing for a proof.
func (v *verifier) miss(format string, args ...any) {
	if v.missing == nil {
		v.missing = fmt.Errorf("%w: %w", ErrCannotTell, fmt.Errorf(format, args...))
	}
}

// events reads the payloads, which must be one stream of the job from its first event on.
func (v *verifier) events() error {
	for i, payload := range v.receipt.Events {
		e, err := ParseEvent(payload)
		if errors.Is(err, errNewer) {
			return fmt.Errorf("%w: event %d: %w", ErrCannotTell, i+1, err)
		}
		if err != nil {
			return refuted("event %d: %w", i+1, err)
		}
		if e.Stream != "job/"+v.receipt.Job || e.Version != i+1 {
			return refuted("event %d is event %d of %s", i+1, e.Version, e.Stream)
		}
		if (i == 0) != (e.Type == "job.accepted") {
			return refuted("event %d is %s", i+1, e.Type)
		}
		if i > 0 {
			before := v.report.Events[i-1]
			hash := sha256.Sum256(v.receipt.Events[i-1])
			switch {
			case before.Type == typeErased, ends(before) && e.Type != typeErased:
				return refuted("event %d follows the end of the job", i+1)
			case !ends(before) && e.Type == typeErased:
				return refuted("event %d erases a job that has not ended", i+1)
			case e.Schema < before.Schema:
				return refuted("event %d has an older schema than the event before it", i+1)
			case e.Schema > 1 && e.Prev != hex.EncodeToString(hash[:]):
				return refuted("event %d does not follow the event before it", i+1)
			}
		}
		v.report.Events = append(v.report.Events, e)
	}
	if len(v.report.Events) == 0 {
		return refuted("it has no events")
	}
	return nil
}

// openings compares the members that are shown with their commitments.
func (v *verifier) openings() error {
	for version, members := range v.receipt.Openings {
		if version < 1 || version > len(v.report.Events) || len(members) == 0 {
			return refuted("it opens members of event %d, which has none", version)
		}
		e := v.report.Events[version-1]
		v.report.Opened[version] = map[string]json.RawMessage{}
		for name, o := range members {
			c := Commit(Member{e.Stream, version, e.Type, name}, o.Blinding, o.Value)
			if len(o.Blinding) != sha256.Size || !Canonical(o.Value) || e.Commit[name] != hex.EncodeToString(c[:]) {
				return refuted("event %d: the value of %.50q is not the recorded one", version, name)
			}
			v.report.Opened[version][name] = o.Value
		}
	}
	return nil
}

// checkpoint verifies the signatures of the checkpoint. Each of them must be valid: by a key
// that the caller trusts, by a key of the receipt, or by a witness of the policy.
func (v *verifier) checkpoint(trusted Keys, policy *Policy) error {
	for _, l := range policy.Logs {
		trusted = append(slices.Clone(trusted), l.Key)
	}
	var embedded Keys
	for _, vkey := range v.receipt.LogKeys {
		key, err := ParseKey(vkey)
		if err != nil {
			return refuted("a key of the receipt: %w", err)
		}
		if embedded.contains(key) {
			return refuted("a key of the receipt is repeated")
		}
		embedded = append(embedded, key)
	}
	// Two keys of the same name and hash would be ambiguous, which is an error below.
	var all Keys
	for _, key := range slices.Concat(trusted, embedded) {
		if !all.contains(key) {
			all = append(all, key)
		}
	}
	c, err := OpenCheckpoint(v.receipt.Checkpoint, all...)
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok && unverified != nil {
		return fmt.Errorf("%w: no key of the receipt and no trusted key has signed the checkpoint", ErrCannotTell)
	}
	if err != nil {
		return refuted("%w", err)
	}
	v.size, v.root = c.Size, c.Root
	v.report.Log, v.report.Size = c.Origin, c.Size
	if p, ok := c.Previous(); ok {
		v.report.Continues = &p
	}
	for _, key := range embedded {
		if !c.SignedBy(key) {
			return refuted("the key %s+%08x of the receipt has not signed the checkpoint", key.Name(), key.KeyHash())
		}
	}
	if len(c.ByLog) > len(embedded) {
		return refuted("a key that has signed the checkpoint is not in the receipt")
	}
	if !slices.ContainsFunc(trusted, func(key Key) bool { return c.SignedBy(key) }) {
		v.miss("no key that you trust has signed the checkpoint of %s: a key in the receipt proves nothing about its owner", c.Origin)
	}
	return v.cosignatures(c, policy)
}

// cosignatures checks the cosignatures of the policy's witnesses.
func (v *verifier) cosignatures(c SignedCheckpoint, policy *Policy) error {
	valid := policy.Cosigned(c)
	for w, s := range valid {
		at, err := CosignatureTime(s)
		if err != nil {
			return refuted("the cosignature of %s: %w", w.Name(), err)
		}
		v.report.Cosigned = append(v.report.Cosigned, Cosignature{w.Name(), at})
	}
	slices.SortFunc(v.report.Cosigned, func(a, b Cosignature) int { return a.Time.Compare(b.Time) })
	for _, s := range c.Others {
		known := slices.ContainsFunc(policy.Witnesses, func(w PolicyWitness) bool { return w.Name() == s.Name && w.KeyHash() == s.Hash })
		switch {
		case !known:
			v.miss("the signature of %s was not checked: name its key in a policy", s.Name)
		case !slices.ContainsFunc(policy.Witnesses, func(w PolicyWitness) bool { return valid[w.Witness] == s }):
			return refuted("the cosignature of %s is not valid", s.Name)
		}
	}
	if !policy.Satisfied(func(w Witness) bool { _, ok := valid[w]; return ok }) {
		v.miss("the checkpoint lacks cosignatures that the policy wants")
	}
	return nil
}

// proofs checks that the log contains the events.
func (v *verifier) proofs() error {
	schemas := make([]int, len(v.report.Events))
	for i, e := range v.report.Events {
		schemas[i] = e.Schema
	}
	for i, needed := range NeedsProof(schemas) {
		if _, ok := v.receipt.Proofs[i+1]; needed && !ok {
			return refuted("event %d has no proof that the log contains it", i+1)
		}
	}
	last := int64(-1)
	for version := range len(v.receipt.Events) {
		p, ok := v.receipt.Proofs[version+1]
		if !ok {
			continue
		}
		hash := sha256.Sum256(v.receipt.Events[version])
		if p.Index <= last || p.Index >= v.size || tlog.CheckRecord(p.Hashes, v.size, v.root, p.Index, tlog.RecordHash(hash[:])) != nil {
			return refuted("the log does not contain event %d at index %d", version+1, p.Index)
		}
		last = p.Index
	}
	for version := range v.receipt.Proofs {
		if version < 1 || version > len(v.receipt.Events) {
			return refuted("it has a proof of event %d, which is missing", version)
		}
	}
	v.report.Index = last
	return nil
}

// complete looks for what a reader would take for granted.
func (v *verifier) complete() error {
	if _, ok := v.report.Ended(); !ok {
		v.miss("the job had not ended at this checkpoint")
	}
	if first := v.report.Events[0]; first.Schema < 2 {
		v.miss("the job began in an early release, whose events commit to no text")
	}
	shown := false
	for _, members := range v.report.Opened {
		_, ok := members["text"]
		shown = shown || ok
	}
	if _, all := v.report.Text(); shown && !all {
		v.miss("a part of the text is not shown")
	}
	return nil
}
