package gpt2

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"colophon/internal/strictjson"
)

// maxAdded is the largest number of added tokens.
const maxAdded = 1 << 12

// parseTokenizerJSON reads tokenizer.json, the file of Hugging Face's tokenizers. It
// returns an error that names the part if the file asks for anything but GPT-2's
// byte-level BPE, with added tokens.
func parseTokenizerJSON(b []byte) (*Tokenizer, error) {
	file, err := objectMembers(b)
	if err != nil {
		return nil, err
	}
	for name, check := range map[string]func(part) error{
		"normalizer":     part.checkNormalizer,
		"pre_tokenizer":  part.checkPreTokenizer,
		"post_processor": part.checkPostProcessor,
		"decoder":        part.checkDecoder,
	} {
		p, err := parsePart(file[name])
		if err == nil {
			err = check(p)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	t, ids, err := parseBPE(file["model"])
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if err := t.addTokens(file["added_tokens"], ids); err != nil {
		return nil, fmt.Errorf("added_tokens: %w", err)
	}
	return t, nil
}

// objectMembers returns the members of a JSON object in which no name is repeated.
func objectMembers(b []byte) (members, error) {
	m := members{}
	err := strictjson.Object(bytes.NewReader(b), func(name string, value []byte) error {
		m[name] = bytes.Clone(value)
		return nil
	})
	return m, jsonError("member", err)
}

// A part is a normalizer, pre-tokenizer, post-processor or decoder. The zero value is an
// absent one.
type part struct {
	Type           string            `json:"type"`
	AddPrefixSpace bool              `json:"add_prefix_space"`
	UseRegex       *bool             `json:"use_regex"`
	Normalizers    []json.RawMessage `json:"normalizers"`
	Pretokenizers  []json.RawMessage `json:"pretokenizers"`
	Processors     []json.RawMessage `json:"processors"`
	Single         []json.RawMessage `json:"single"`
}

func parsePart(b json.RawMessage) (part, error) {
	var p part
	if isSet(b) && (json.Unmarshal(b, &p) != nil || p.Type == "") {
		return p, errors.New("not an object with a type")
	}
	return p, nil
}

// only replaces a Sequence by its one element, or by an absent part if it has none.
func (p part) only(elements []json.RawMessage) (part, error) {
	if p.Type != "Sequence" {
		return p, nil
	}
	switch len(elements) {
	case 0:
		return part{}, nil
	case 1:
		return parsePart(elements[0])
	}
	return p, fmt.Errorf("a Sequence of %d is not supported", len(elements))
}

func (p part) unsupported(supported string) error {
	return fmt.Errorf("type %q is not supported, only %s", short(p.Type), supported)
}

func (p part) checkNormalizer() error {
	p, err := p.only(p.Normalizers)
	if err == nil && p.Type != "" {
		err = p.unsupported("none")
	}
	return err
}

func (p part) checkPreTokenizer() error {
	p, err := p.only(p.Pretokenizers)
	switch {
	case err != nil:
		return err
	case p.Type != "ByteLevel":
		return p.unsupported("ByteLevel")
	case p.AddPrefixSpace:
		return errors.New("add_prefix_space is not supported")
	case p.UseRegex != nil && !*p.UseRegex:
		return errors.New("ByteLevel without use_regex is not supported")
	}
	return nil
}

// checkPostProcessor accepts what adds no token to a text. ByteLevel only changes offsets.
func (p part) checkPostProcessor() error {
	p, err := p.only(p.Processors)
	switch {
	case err != nil:
		return err
	case p.Type == "" || p.Type == "ByteLevel":
		return nil
	case p.Type != "TemplateProcessing":
		return p.unsupported("ByteLevel, and TemplateProcessing without special tokens")
	}
	var piece struct{ Sequence json.RawMessage }
	if len(p.Single) != 1 || json.Unmarshal(p.Single[0], &piece) != nil || piece.Sequence == nil {
		return errors.New("TemplateProcessing that adds special tokens is not supported")
	}
	return nil
}

func (p part) checkDecoder() error {
	if p.Type != "" && p.Type != "ByteLevel" {
		return p.unsupported("ByteLevel")
	}
	return nil
}

// parseBPE reads the vocabulary and the merges of a tokenizer.json.
func parseBPE(b json.RawMessage) (*Tokenizer, map[string]int32, error) {
	if !isSet(b) {
		return nil, nil, errors.New("missing")
	}
	m, err := objectMembers(b)
	if err != nil {
		return nil, nil, err
	}
	var s struct {
		kind, prefix, suffix    string
		dropout                 float64
		fallback, ignoresMerges bool
	}
	s.kind = "BPE"
	for _, member := range []struct {
		name string
		to   any
		want string
	}{
		{"type", &s.kind, "a name"},
		{"dropout", &s.dropout, "a number"},
		{"continuing_subword_prefix", &s.prefix, "a text"},
		{"end_of_word_suffix", &s.suffix, "a text"},
		{"byte_fallback", &s.fallback, "true or false"},
		{"ignore_merges", &s.ignoresMerges, "true or false"},
	} {
		if err := m.read(member.name, member.to, member.want); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case s.kind != "BPE":
		return nil, nil, fmt.Errorf("type %q is not supported, only BPE", short(s.kind))
	case s.dropout != 0:
		return nil, nil, errors.New("dropout is not supported")
	case s.prefix != "":
		return nil, nil, errors.New("continuing_subword_prefix is not supported")
	case s.suffix != "":
		return nil, nil, errors.New("end_of_word_suffix is not supported")
	case s.fallback:
		return nil, nil, errors.New("byte_fallback is not supported")
	case s.ignoresMerges:
		return nil, nil, errors.New("ignore_merges is not supported")
	case !isSet(m["vocab"]) || !isSet(m["merges"]):
		return nil, nil, errors.New("vocab or merges is missing")
	}
	ids, err := parseVocab(m["vocab"])
	if err != nil {
		return nil, nil, fmt.Errorf("vocab: %w", err)
	}
	t, err := newTokenizer(ids)
	if err != nil {
		return nil, nil, fmt.Errorf("vocab: %w", err)
	}
	if t.merges, err = parseMergesJSON(m["merges"], ids); err != nil {
		return nil, nil, fmt.Errorf("merges: %w", err)
	}
	return t, ids, nil
}

// parseMergesJSON reads the merges in the order of rank. Each is two tokens with a space
// between them, or an array of two tokens.
func parseMergesJSON(b json.RawMessage, ids map[string]int32) (map[uint64]merge, error) {
	var list []json.RawMessage
	if json.Unmarshal(b, &list) != nil {
		return nil, errors.New("not an array")
	}
	merges := mergeList{ids, make(map[uint64]merge, len(list))}
	for i, b := range list {
		var line string
		var pair []string
		var err error
		switch {
		case json.Unmarshal(b, &line) == nil && line != "":
			err = merges.addLine(line)
		case json.Unmarshal(b, &pair) == nil && len(pair) == 2:
			err = merges.add(pair[0], pair[1])
		default:
			err = fmt.Errorf("%s is not two tokens", short(string(b)))
		}
		if err != nil {
			return nil, fmt.Errorf("merge %d: %w", i+1, err)
		}
	}
	return merges.merges, nil
}

// addTokens adds the tokens of added_tokens. A special token stands for its text, which
// no text is encoded to. Any other token is found in a text before the text is cut into
// words.
func (t *Tokenizer) addTokens(b json.RawMessage, ids map[string]int32) error {
	var list []struct {
		ID         int32  `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	if isSet(b) && json.Unmarshal(b, &list) != nil {
		return errors.New("not an array of tokens")
	}
	if len(list) > maxAdded {
		return fmt.Errorf("%d tokens, want at most %d", len(list), maxAdded)
	}
	byID := make(map[int32]string, len(ids))
	for s, id := range ids {
		byID[id] = s
	}
	for _, a := range list {
		id, inVocab := ids[a.Content]
		other, taken := byID[a.ID]
		switch {
		case a.Content == "":
			return errors.New("a token is empty")
		case a.ID < 0 || a.ID >= maxVocab:
			return fmt.Errorf("token %q has id %d, want 0 to %d", short(a.Content), a.ID, maxVocab-1)
		case inVocab && id != a.ID:
			return fmt.Errorf("token %q has the ids %d and %d", short(a.Content), id, a.ID)
		case taken && other != a.Content:
			return fmt.Errorf("tokens %q have the same id %d", []string{short(other), short(a.Content)}, a.ID)
		case !a.Special && (a.SingleWord || a.LStrip || a.RStrip):
			return fmt.Errorf("token %q has single_word, lstrip or rstrip, which is not supported", short(a.Content))
		}
		ids[a.Content], byID[a.ID] = a.ID, a.Content
		t.set(a.ID, a.Content)
		if !a.Special {
			// Hugging Face looks for tokens that are not normalized first.
			pass := &t.added[0]
			if a.Normalized {
				pass = &t.added[1]
			}
			pass.add(a.Content, a.ID)
		}
	}
	for _, pass := range t.added {
		for _, list := range pass {
			slices.SortStableFunc(list, func(x, y addedToken) int { return cmp.Compare(len(y.text), len(x.text)) })
		}
	}
	return nil
}

// addedTokens are texts that stand for a token each, by their first byte and longest
// first.
type addedTokens map[byte][]addedToken

type addedToken struct {
	text string
	id   int32
}

func (a *addedTokens) add(text string, id int32) {
	if *a == nil {
		*a = addedTokens{}
	}
	(*a)[text[0]] = append((*a)[text[0]], addedToken{text, id})
}

// split cuts a text into the added tokens that it has, and the parts between them, whose
// id is NoToken. If tokens overlap, the first one counts, and the longest of those that
// begin at the same byte.
func (a addedTokens) split(text string) iter.Seq2[string, int32] {
	return func(yield func(string, int32) bool) {
		from := 0
		for at := 0; len(a) > 0 && at < len(text); {
			found := a.at(text[at:])
			if found.text == "" {
				at++
				continue
			}
			if from < at && !yield(text[from:at], NoToken) {
				return
			}
			if !yield(found.text, found.id) {
				return
			}
			at += len(found.text)
			from = at
		}
		if from < len(text) {
			yield(text[from:], NoToken)
		}
	}
}

// at returns the longest token at the start of a text.
func (a addedTokens) at(text string) addedToken {
	for _, t := range a[text[0]] {
		if len(t.text) <= len(text) && text[:len(t.text)] == t.text {
			return t
		}
	}
	return addedToken{}
}
