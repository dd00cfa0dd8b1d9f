package program

import "testing"

// TestReadyLineIsInTheLog writes the line that says a process is ready, together with a line
// before it. The log gets both before anybody learns that the process is ready.
func TestReadyLineIsInTheLog(t *testing.T) {
	o := &output{ready: make(chan struct{})}
	logged := ""
	o.log = writerFunc(func(b []byte) (int, error) {
		select {
		case <-o.ready:
			t.Error("ready before the log has the line")
		default:
		}
		logged += string(b)
		return len(b), nil
	})
	for _, piece := range []string{"the key\nrea", "dy http://127.0.0.1:1\nmore\n"} {
		if n, err := o.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(piece), err)
		}
	}
	select {
	case <-o.ready:
	default:
		t.Fatal("not ready")
	}
	if want := "the key\nready http://127.0.0.1:1\nmore\n"; logged != want || o.readyFor != "http://127.0.0.1:1" {
		t.Errorf("logged %q, ready for %q", logged, o.readyFor)
	}
}
