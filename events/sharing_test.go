package events

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// Who asks while a query runs gets the answer of one that began afterwards, and
// shares that with all who asked meanwhile.
func TestASharedQueryBeginsAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sharing
		begun, answer := 0, make(chan struct{})
		ask := func() ([]Event, error) {
			begun++ // one at a time
			n := begun
			<-answer
			return []Event{{Version: n}}, nil
		}
		q := question{"job/x", 3}
		first := s.ask(q, ask)
		synctest.Wait() // it runs
		var late sync.WaitGroup
		for range 10 {
			late.Go(func() {
				l := s.ask(q, ask)
				<-l.done
				if l.err != nil || l.events[0].Version != 2 {
					t.Errorf("a late reader got query %d, %v", l.events[0].Version, l.err)
				}
			})
		}
		synctest.Wait()
		// Another question does not wait for them.
		<-s.ask(question{"job/x", 4}, func() ([]Event, error) { return nil, nil }).done
		close(answer)
		late.Wait()
		<-first.done
		synctest.Wait()
		if first.events[0].Version != 1 || begun != 2 || len(s.running) != 0 {
			t.Errorf("the first got query %d, %d were made, %d are left", first.events[0].Version, begun, len(s.running))
		}
	})
}

func TestASharedErrorIsEveryReaders(t *testing.T) {
	var s sharing
	broken := errors.New("broken")
	q := s.ask(question{"job/x", 0}, func() ([]Event, error) { return nil, broken })
	<-q.done
	if !errors.Is(q.err, broken) {
		t.Errorf("%v", q.err)
	}
}
