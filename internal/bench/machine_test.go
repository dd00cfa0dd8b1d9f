package bench

import (
	"testing"
	"time"
)

func TestBusyProcessorsAreCounted(t *testing.T) {
	begin := readProcessorTime()
	if begin.all == 0 {
		t.Skip("the system does not count processor time")
	}
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
		continue
	}
	took := readProcessorTime().minus(begin)
	if !(took.busy > 0 && took.busy <= took.all && took.share() > 0 && took.share() <= 1) {
		t.Errorf("%+v", took)
	}
	if s := (processorTime{-1, 5}).share(); s != 0 {
		t.Errorf("a share of %g", s)
	}
}
