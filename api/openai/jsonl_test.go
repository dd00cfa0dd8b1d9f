package openai

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

// chunked returns the chunks of a file, after it has checked their numbers and sizes.
func chunked(t *testing.T, file []byte, one bool) (chunks [][]byte, err error) {
	t.Helper()
	reader := bytes.NewReader(file)
	next := 1
	store := func(firstLine int, lines []byte) error {
		if firstLine != next || len(lines) == 0 || len(lines) > chunkBytes+MaxLineBytes {
			t.Fatalf("a chunk of %d bytes begins with line %d, want %d", len(lines), firstLine, next)
		}
		next += bytes.Count(lines, []byte("\n"))
		chunks = append(chunks, bytes.Clone(lines))
		return nil
	}
	var size int64
	if one {
		size, err = Chunks(iotest.OneByteReader(reader), store)
	} else {
		size, err = Chunks(reader, store)
	}
	if err == nil && (size != int64(len(file)) || !bytes.Equal(bytes.Join(chunks, nil), file)) {
		t.Fatalf("%d bytes of %d in %d chunks", size, len(file), len(chunks))
	}
	for i, c := range chunks {
		if i < len(chunks)-1 && c[len(c)-1] != '\n' {
			t.Fatalf("chunk %d of %d ends inside a line", i, len(chunks))
		}
	}
	return chunks, err
}

// TestNamesOfMembersAreExact reads lines whose members have names in another case. They are
// refused, so no line has two ids of which one counts.
func TestNamesOfMembersAreExact(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`{"custom_id":"a","CUSTOM_ID":"b","method":"POST","url":"/v1/completions","body":{}}`,
		`{"Custom_Id":"a","method":"POST","url":"/v1/completions","body":{}}`,
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{},"Body":{}}`,
	} {
		if r, fault := ReadBatchRequest([]byte(line), EndpointCompletions); fault == nil || fault.Code != "invalid_json_line" {
			t.Errorf("%s is read as %+v, %+v", line, r, fault)
		}
	}
}

// TestLargeFilesAreRefused reads files at the limits and beyond them.
func TestLargeFilesAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxLineBytes-1) + "\n"
	for name, k := range map[string]struct {
		file string
		want error
	}{
		"empty":              {"", nil},
		"no line feed":       {"a", nil},
		"most lines":         {strings.Repeat("a\n", MaxFileLines-1) + "a", nil},
		"one line more":      {strings.Repeat("a\n", MaxFileLines) + "a", ErrTooManyLines},
		"ended by line feed": {strings.Repeat("a\n", MaxFileLines), nil},
		"longest line":       {"a\n" + long, nil},
		"longer line":        {"a\nx" + long, ErrLineTooLong},
		"most bytes":         {strings.Repeat(long, 16), nil},
		"one byte more":      {strings.Repeat(long, 16) + "a", ErrFileTooLarge},
	} {
		if _, err := chunked(t, []byte(k.file), false); !errors.Is(err, k.want) {
			t.Errorf("%s: %v, want %v", name, err, k.want)
		}
	}
	broken := errors.New("broken")
	if _, err := Chunks(iotest.ErrReader(broken), nil); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := Chunks(strings.NewReader("a"), func(int, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// FuzzBatchInput reads any file as the input of a batch. The chunks must be the file, whatever
// its reader returns at a time, and a line that is accepted must have what a line needs.
func FuzzBatchInput(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "a", "a\n\nb", "\r\n", strings.Repeat("x", 70_000) + "\n{}", "\xff\n", "null\n[]\n\"\"",
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m"}}` + "\n",
		`{"custom_id":"","method":"POST","url":"/v1/completions","body":{}}`,
		`{"custom_id":"a","custom_id":"b","method":"POST","url":"/v1/completions","body":{}}`,
		`{"custom_id":"\ud800","method":"POST","url":"/v1/completions","body":{}}`,
		`{"custom_id":"a","method":"GET","url":"/v1/completions","body":[]} {}`,
		`{"Custom_ID":null,"method":1,"url":{},"body":` + strings.Repeat("[", 40),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		chunks, err := chunked(t, file, false)
		again, errAgain := chunked(t, file, true)
		if !errors.Is(errAgain, err) || !bytes.Equal(bytes.Join(chunks, nil), bytes.Join(again, nil)) {
			t.Fatalf("%v, and byte by byte %v", err, errAgain)
		}
		for line := range bytes.Lines(file) {
			r, fault := ReadBatchRequest(bytes.TrimSuffix(line, []byte("\n")), EndpointCompletions)
			switch {
			case fault == nil && (r.CustomID == "" || r.Method != "POST" || r.URL != EndpointCompletions || len(r.Body) < 2):
				t.Fatalf("%q is accepted as %+v", line, r)
			case fault != nil && (fault.Code == "" || fault.Message == ""):
				t.Fatalf("%q is refused with %+v", line, fault)
			}
		}
	})
}
