package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
)

// A Message is one message of a stream of server-sent events. A Message without Data is a
// heartbeat, or its Retry says when to reconnect.
type Message struct {
	ID    string // the id field of this message, "" if the message has none
	Event string // type of the event
	Data  string // the data lines of the message, joined with line feeds
	Retry string // milliseconds in decimal digits, "" if the message has no retry field
}

// maxMessage bounds each line of a stream and the data of each message, in bytes.
const maxMessage = 1 << 20

var errMessageTooLong = errors.New("a server-sent event is longer than 1 MiB")

// Messages reads server-sent events as they arrive, by the rules of the WHATWG's event
// stream format. It yields a message at each empty line, even if the message has no data.
//
// If the reader ends between two messages, the sequence ends without an error. If the
// reader ends inside a message, the sequence ends with [io.ErrUnexpectedEOF] and drops
// the incomplete message. Any other error of the reader also ends the sequence, and so
// does a line or a message of more than 1 MiB. The Message that comes with an error is
// zero. A second range over the same sequence continues where the first range stopped.
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
	line  []byte // the last line, without its line ending
	data  []byte // the data lines of the message so far
	start bool   // no line has been read
	cr    bool   // the last line ended with CR, so an LF that follows belongs to that line
}

// message reads a message, up to the next empty line. It returns io.EOF if the stream
// ends between two messages.
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
		switch string(name) { // the name of a comment line is ""
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

// readLine reads a line that ends with LF, CR or both. After a CR it does not wait for an
// LF, so a message is complete when its last byte arrives.
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
