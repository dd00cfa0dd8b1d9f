package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
)

// A Message is one message of a stream of server-sent events. A Message without
// Data is a heartbeat, or says with Retry when to reconnect.
type Message struct {
	ID    string // the message's own id field, "" if it has none
	Event string // its type
	Data  string // its data lines, joined with line feeds
	Retry string // milliseconds in decimal digits, "" if it has no retry field
}

// maxMessage bounds a line of a stream and the data of a message, in bytes.
const maxMessage = 1 << 20

var errMessageTooLong = errors.New("a server-sent event is longer than 1 MiB")

// Messages reads server-sent events as they arrive, by the rules of the WHATWG's
// event stream format. It yields a message at each empty line, also when the
// message has no data.
//
// The sequence ends without an error where the reader ends between two messages.
// A reader that ends inside a message ends it with [io.ErrUnexpectedEOF], and
// the incomplete message is dropped. Any other error of the reader, and a line
// or a message of more than 1 MiB, end it as well. The Message beside an error is
// zero. A second range over the same sequence continues where the first stopped.
func Messages(r io.Reader) iter.Seq2[Message, error] {
	s := messageReader{r: bufio.NewReader(r), start: true}
	return func(yield func(Message, error) bool) {
		for {
			m, err := s.message()
			if errors.Is(err, io.EOF) || !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// messageReader splits a stream into messages.
type messageReader struct {
	r     *bufio.Reader
	line  []byte // the last line, without its end
	data  []byte // the data lines of the message so far
	start bool   // no line has been read
	cr    bool   // the last line ended with CR: an LF that follows belongs to it
}

// message reads up to the next empty line. It returns io.EOF if the stream ends
// between two messages.
func (s *messageReader) message() (Message, error) {
	var m Message
	s.data = s.data[:0]
	hasData := false
	for first := true; ; first = false {
		if err := s.readLine(); err != nil {
			if errors.Is(err, io.EOF) && (!first || len(s.line) > 0) {
				err = io.ErrUnexpectedEOF
			}
			return Message{}, err
		}
		if len(s.line) == 0 {
			m.Data = string(s.data)
			return m, nil
		}
		name, value, _ := bytes.Cut(s.line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) { // a comment has the name ""
		case "id":
			if !bytes.ContainsRune(value, 0) {
				m.ID = string(value)
			}
		case "event":
			m.Event = string(value)
		case "data":
			if len(s.data)+len(value) >= maxMessage {
				return Message{}, errMessageTooLong
			}
			if hasData {
				s.data = append(s.data, '\n')
			}
			s.data, hasData = append(s.data, value...), true
		case "retry":
			if isDigits(value) {
				m.Retry = string(value)
			}
		}
	}
}

// readLine reads a line that ends with LF, CR or both. After a CR it does not wait
// for an LF, so that a message is complete at its last byte.
func (s *messageReader) readLine() error {
	s.line = s.line[:0]
	b, err := s.r.ReadByte()
	if err == nil && s.cr && b == '\n' {
		b, err = s.r.ReadByte()
	}
	for ; err == nil && b != '\r' && b != '\n'; b, err = s.r.ReadByte() {
		if len(s.line) == maxMessage {
			return errMessageTooLong
		}
		s.line = append(s.line, b)
	}
	s.cr = b == '\r'
	if s.start {
		s.start, s.line = false, bytes.TrimPrefix(s.line, []byte("\ufeff"))
	}
	return err
}

func isDigits(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}
