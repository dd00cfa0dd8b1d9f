package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"
)

// Format is the value of the member format of a receipt.
const Format = "colophon-receipt/1"

// maxReceipt bounds the length of a receipt in bytes.
const maxReceipt = 64 << 20

// Receipt shows what a service has recorded of a job. Its JSON form is specified in
// docs/receipts.md. [Verify] checks it.
type Receipt struct {
	Format string `json:"format"`
	Job    string `json:"job"` // id of the job

	// Events are the payloads of the job's events, from version 1 on. A payload is hashed
	// as it is, so it is stored as bytes and not as JSON.
	Events [][]byte `json:"events"`

	// Openings show secret members of events, by version and by the member's name.
	Openings map[int]map[string]Opening `json:"openings,omitempty"`

	// Proofs show by version that the log contains an event. The last event has a proof. An
	// event has one too if the event after it is of schema 1, which does not contain the hash
	// of the event before it.
	Proofs map[int]Inclusion `json:"proofs"`

	Checkpoint string   `json:"checkpoint"` // signed checkpoint of the log
	LogKeys    []string `json:"log_keys"`   // keys with which the log has signed it, in the form NAME+HASH+KEY
}

// Opening shows a secret member of an event. [Commit] computes the commitment from it that
// the event contains.
type Opening struct {
	Blinding []byte `json:"blinding"`
	Value    []byte `json:"value"` // canonical JSON
}

// Inclusion shows that the log contains an event at an index.
type Inclusion struct {
	Index  int64       `json:"index"`
	Hashes []tlog.Hash `json:"hashes"` // audit path of RFC 6962, from the leaf to the root
}

// errNotReceipt occurs when a text is not a receipt of this format.
var errNotReceipt = errors.New("not a receipt of the format " + Format)

// Parse reads a receipt strictly: an unknown or repeated member, and another spelling of a
// value than the usual one, are errors. White space and the order of members do not matter.
// Parse verifies nothing.
func Parse(text []byte) (*Receipt, error) {
	// json.Valid also bounds the depth of the text.
	if len(text) > maxReceipt || !utf8.Valid(text) || !json.Valid(text) {
		return nil, fmt.Errorf("%w: it is too long, or not JSON in UTF-8", errNotReceipt)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := uniqueNames(d); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotReceipt, err)
	}
	var r Receipt
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotReceipt, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%w: its format is %.100q", errNotReceipt, r.Format)
	}
	again, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotReceipt, err)
	}
	if equal, err := sameJSON(text, again); err != nil || !equal {
		return nil, fmt.Errorf("%w: it has members or spellings that the format does not have", errNotReceipt)
	}
	return &r, nil
}

// uniqueNames reads one JSON value and returns an error if an object repeats a name.
func uniqueNames(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	bracket, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	names := map[any]bool{}
	for d.More() {
		if bracket == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if names[name] {
				return errors.New("a member is repeated")
			}
			names[name] = true
		}
		if err := uniqueNames(d); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

// sameJSON reports whether two JSON texts have the same values.
func sameJSON(a, b []byte) (bool, error) {
	var texts [2][]byte
	for i, text := range [][]byte{a, b} {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		var v any
		err := d.Decode(&v)
		if err == nil {
			texts[i], err = json.Marshal(v)
		}
		if err != nil {
			return false, err
		}
	}
	return bytes.Equal(texts[0], texts[1]), nil
}

// TlogProof returns the proof of the last event in the format of c2sp.org/tlog-proof.
func (r *Receipt) TlogProof() string {
	p := r.Proofs[len(r.Events)]
	text := fmt.Appendf(nil, "c2sp.org/tlog-proof@v1\nindex %d\n", p.Index)
	for _, hash := range p.Hashes {
		text = fmt.Appendf(text, "%s\n", hash)
	}
	return string(text) + "\n" + r.Checkpoint
}

// NeedsProof reports for each event whether it needs a proof of its own. schemas are the
// schemas of a stream's events, from version 1 on.
func NeedsProof(schemas []int) []bool {
	needs := make([]bool, len(schemas))
	for i := range schemas {
		needs[i] = i == len(schemas)-1 || schemas[i+1] < 2
	}
	return needs
}
