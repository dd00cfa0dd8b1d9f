package client

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func collect(r io.Reader) (all []Message, err error) {
	for m, failed := range Messages(r) {
		if failed != nil {
			return all, failed
		}
		all = append(all, m)
	}
	return all, nil
}

func TestMessagesFollowTheStandard(t *testing.T) {
	for name, test := range map[string]struct {
		stream string
		want   []Message
		err    error
	}{
		"nothing":                      {"", nil, nil},
		"fields":                       {"id: 1\nevent: e\ndata: d\nretry: 5\n\n", []Message{{"1", "e", "d", "5"}}, nil},
		"no space":                     {"id:1\ndata:d\n\n", []Message{{ID: "1", Data: "d"}}, nil},
		"one space is dropped":         {"data:  d\n\n", []Message{{Data: " d"}}, nil},
		"colons in a value":            {"data: a: b\n\n", []Message{{Data: "a: b"}}, nil},
		"a comment":                    {": still here\n\n", []Message{{}}, nil},
		"a comment in a message":       {"id: 1\n: x\ndata: d\n\n", []Message{{ID: "1", Data: "d"}}, nil},
		"several data lines":           {"data: a\ndata\ndata:b\n\n", []Message{{Data: "a\n\nb"}}, nil},
		"an empty data line":           {"data\n\n", []Message{{}}, nil},
		"two empty data lines":         {"data:\ndata:\n\n", []Message{{Data: "\n"}}, nil},
		"the last id counts":           {"id: 1\nid: 2\n\n", []Message{{ID: "2"}}, nil},
		"the last event counts":        {"event: a\nevent: b\n\n", []Message{{Event: "b"}}, nil},
		"an id with NUL":               {"id: 1\nid: 2\x00\n\n", []Message{{ID: "1"}}, nil},
		"a retry without digits":       {"retry: 5\nretry: -1\nretry: 1s\nretry:\n\n", []Message{{Retry: "5"}}, nil},
		"unknown fields":               {"name: x\nID: 2\n id: 3\nid : 4\n\n", []Message{{}}, nil},
		"an id is not inherited":       {"id: 1\n\ndata: d\n\n", []Message{{ID: "1"}, {Data: "d"}}, nil},
		"CR":                           {"id: 1\rdata: d\r\rdata: e\r\r", []Message{{ID: "1", Data: "d"}, {Data: "e"}}, nil},
		"CRLF":                         {"id: 1\r\ndata: d\r\n\r\ndata: e\r\n\r\n", []Message{{ID: "1", Data: "d"}, {Data: "e"}}, nil},
		"mixed":                        {"id: 1\r\ndata: d\n\r\ndata: e\r\n\n", []Message{{ID: "1", Data: "d"}, {Data: "e"}}, nil},
		"LF CR are two ends":           {"data: d\n\rdata: e\n\r", []Message{{Data: "d"}, {Data: "e"}}, nil},
		"a byte order mark":            {"\ufeffid: 1\n\n", []Message{{ID: "1"}}, nil},
		"a byte order mark, empty":     {"\ufeff\ndata: d\n\n", []Message{{}, {Data: "d"}}, nil},
		"two byte order marks":         {"\ufeff\ufeffid: 1\ndata: d\n\n", []Message{{Data: "d"}}, nil},
		"a later byte order mark":      {"data: d\n\n\ufeffid: 1\n\n", []Message{{Data: "d"}, {}}, nil},
		"ends in a line":               {"id: 1\n\nid: 2", []Message{{ID: "1"}}, io.ErrUnexpectedEOF},
		"ends in a message":            {"id: 1\n\nid: 2\n", []Message{{ID: "1"}}, io.ErrUnexpectedEOF},
		"ends after a comment":         {": x\n", nil, io.ErrUnexpectedEOF},
		"ends between CR and LF":       {"id: 1\r\n\r", []Message{{ID: "1"}}, nil},
		"the longest line":             {"data:" + strings.Repeat("x", maxMessage-5) + "\n\n", []Message{{Data: strings.Repeat("x", maxMessage-5)}}, nil},
		"a line that is too long":      {"id: 1\n\n:" + strings.Repeat("x", maxMessage) + "\n\n", []Message{{ID: "1"}}, errMessageTooLong},
		"a message that is too long":   {strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 1100) + "\n", nil, errMessageTooLong},
		"comments have no length":      {strings.Repeat(": "+strings.Repeat("x", 1000)+"\n", 1100) + "data: d\n\n", []Message{{Data: "d"}}, nil},
		"text that is not ASCII":       {"data: φῶς 🌈\n\n", []Message{{Data: "φῶς 🌈"}}, nil},
		"a reader's error, at the end": {"id: 1\n\n" + broken, []Message{{ID: "1"}}, errBroken},
		"a reader's error, in a line":  {"id: 1\n\nid: 2" + broken, []Message{{ID: "1"}}, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			for how, reader := range map[string]func(io.Reader) io.Reader{
				"whole":        func(r io.Reader) io.Reader { return r },
				"byte by byte": iotest.OneByteReader,
				"error beside": iotest.DataErrReader,
			} {
				if how == "byte by byte" && len(test.stream) > maxMessage/2 {
					continue // this combination is too slow and adds no case
				}
				text, breaks := strings.CutSuffix(test.stream, broken)
				var r io.Reader = strings.NewReader(text)
				if breaks {
					r = io.MultiReader(r, iotest.ErrReader(errBroken))
				}
				got, err := collect(reader(r))
				if !slices.Equal(got, test.want) || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("%s: %.200q, %v", how, got, err)
				}
			}
		})
	}
}

var errBroken = errors.New("broken")

// broken, at the end of a test stream, means that the reader returns an error at this
// point.
const broken = "\xff!"

// TestMessagesArriveAtOnce sends a message that ends with CR or LF, and nothing after it.
// The reader must yield the message without a wait for more bytes.
func TestMessagesArriveAtOnce(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r"} {
		r, w := io.Pipe()
		go io.WriteString(w, "data: d"+end)
		for m, err := range Messages(r) {
			if m.Data != "d" || err != nil {
				t.Errorf("%q: %+v, %v", end, m, err)
			}
			break
		}
	}
}

func TestSecondRangeContinuesAfterTheFirst(t *testing.T) {
	stream := Messages(strings.NewReader("id: 1\n\nid: 2\n\n"))
	for _, want := range []string{"1", "2"} {
		for m, err := range stream {
			if m.ID != want || err != nil {
				t.Errorf("%+v, %v, want %s", m, err, want)
			}
			break
		}
	}
	for m, err := range stream {
		t.Errorf("after the end: %+v, %v", m, err)
	}
}

// FuzzMessages compares the reader with messagesByDefinition. Both must return the same
// messages, even if the stream arrives in two parts.
func FuzzMessages(f *testing.F) {
	for _, seed := range []string{
		"id: 1\nevent: e\ndata: d\nretry: 5\n\n", ": x\n\n", "data: a\r\ndata: b\r\n\r\n", "\ufeffdata\r\rid", "id: \x00\n\n", "retry: 1x\n\n\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		want, complete := messagesByDefinition(string(stream))
		got, err := collect(strings.NewReader(string(stream)))
		if !slices.Equal(got, want) || (err == nil) != complete || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%q: %q, %v, want %q", stream, got, err, want)
		}
		at := min(int(cut), len(stream))
		parts := io.MultiReader(strings.NewReader(string(stream[:at])), strings.NewReader(string(stream[at:])))
		if again, _ := collect(bufio.NewReaderSize(parts, 16)); !slices.Equal(again, want) {
			t.Fatalf("%q cut at %d: %q, want %q", stream, at, again, want)
		}
		// The messages before a cut must be the first messages of the whole stream.
		if first, _ := collect(strings.NewReader(string(stream[:at]))); len(first) > len(want) || !slices.Equal(first, want[:len(first)]) {
			t.Fatalf("%q up to %d: %q, want the beginning of %q", stream, at, first, want)
		}
	})
}

// messagesByDefinition reads a whole stream by the rules of the standard. The result
// complete reports whether the stream ends with a complete message.
func messagesByDefinition(stream string) (all []Message, complete bool) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	last := len(lines) - 1
	var m Message
	var data []string
	begun := lines[last] != ""
	pending := false
	for _, line := range lines[:last] {
		if line == "" {
			m.Data = strings.Join(data, "\n")
			all = append(all, m)
			m, data, pending = Message{}, nil, false
			continue
		}
		pending = true
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case name == "id" && !strings.Contains(value, "\x00"):
			m.ID = value
		case name == "event":
			m.Event = value
		case name == "data":
			data = append(data, value)
		case name == "retry" && value != "" && strings.Trim(value, "0123456789") == "":
			m.Retry = value
		}
	}
	return all, !begun && !pending
}
