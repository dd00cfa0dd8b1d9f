package jobs

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"colophon/events"
)

// sim is the queue in time steps: slots that take the first of the queue when
// they are free, and the rules of this package for who is first.
type sim struct {
	now     int
	free    int
	queue   []*simJob
	running []*simJob
	starved int // after how long the oldest job of an owner is promoted; 0 is never
}

type simJob struct {
	owner, priority   int
	at, due, id       int // submitted; scheduled, which is later if it was promoted
	service           int
	started, finished int
}

func (s *sim) submit(id, owner, service int) *simJob {
	load := events.Load{}
	for _, j := range slices.Concat(s.running, s.queue) {
		if j.owner == owner {
			load.Outstanding++
		}
	}
	for _, j := range s.queue {
		if j.owner == owner {
			load.Priority = max(load.Priority, j.priority)
		}
	}
	j := &simJob{owner: owner, priority: priority(load), at: s.now, due: s.now, id: id, service: service, started: -1, finished: -1}
	s.queue = append(s.queue, j)
	return j
}

// step lets one unit of time pass.
func (s *sim) step() {
	s.running = slices.DeleteFunc(s.running, func(j *simJob) bool {
		if s.now < j.started+j.service {
			return false
		}
		j.finished = s.now
		s.free++
		return true
	})
	s.promote()
	slices.SortFunc(s.queue, func(a, b *simJob) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.due, b.due), cmp.Compare(a.id, b.id))
	})
	for s.free > 0 && len(s.queue) > 0 {
		j := s.queue[0]
		s.queue = s.queue[1:]
		j.started = s.now
		s.running = append(s.running, j)
		s.free--
	}
	s.now++
}

func (s *sim) promote() {
	if s.starved == 0 {
		return
	}
	oldest := map[int]*simJob{}
	for _, j := range s.queue {
		if o := oldest[j.owner]; o == nil || j.id < o.id {
			oldest[j.owner] = j
		}
	}
	for owner, j := range oldest {
		waits := func(other *simJob) bool { return other.owner == owner && other.priority == 1 }
		runs := func(other *simJob) bool { return other.owner == owner }
		if s.now-j.due > s.starved && !slices.ContainsFunc(s.queue, waits) && !slices.ContainsFunc(s.running, runs) {
			j.priority, j.due = 1, s.now
		}
	}
}

// TestAFloodOfAnySizeCostsOthersOneServiceTime has one owner submit as much as
// he likes and another one job after the other.
func TestAFloodOfAnySizeCostsOthersOneServiceTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const longest = 20
		s := &sim{free: rapid.IntRange(1, 8).Draw(rt, "slots"), starved: rapid.SampledFrom([]int{0, 1, 30, 200}).Draw(rt, "promote after")}
		service := rapid.IntRange(1, longest)
		ids := 0
		flood := rapid.SliceOfN(rapid.IntRange(0, 100), 1, 8).Draw(rt, "flood") // jobs, and a pause of as many steps
		var waiting *simJob
		pause := 0
		for i := range 2000 {
			if i%50 == 0 && len(flood) > 0 {
				for range flood[0] {
					ids++
					s.submit(ids, 1, service.Draw(rt, "service"))
				}
				flood = flood[1:]
			}
			if waiting == nil && pause == 0 {
				ids++
				waiting = s.submit(ids, 2, service.Draw(rt, "service"))
				pause = rapid.IntRange(0, 30).Draw(rt, "pause")
			}
			s.step()
			switch {
			case waiting == nil:
				pause--
			case waiting.started < 0 && s.now-waiting.at > 2*longest:
				rt.Fatalf("a job has waited for %d steps, the longest takes %d", s.now-waiting.at, longest)
			case waiting.finished >= 0:
				waiting = nil
			}
		}
	})
}

// TestNobodyIsStarved has more owners with one job each than can be served, and
// one with several.
func TestNobodyIsStarved(t *testing.T) {
	run := func(starved int) (ended int) {
		s := &sim{free: 2, starved: starved}
		ids := 0
		var flood []*simJob
		for range 20 {
			ids++
			flood = append(flood, s.submit(ids, 0, 5))
		}
		users := make([]*simJob, 10)
		for range 5000 {
			for i, j := range users {
				if j == nil || j.finished >= 0 {
					ids++
					users[i] = s.submit(ids, i+1, 5)
				}
			}
			s.step()
		}
		for _, j := range flood {
			if j.finished >= 0 {
				ended++
			}
		}
		return ended
	}
	if n := run(30); n != 20 {
		t.Errorf("%d of 20 jobs have ended", n)
	}
	if n := run(0); n > 2 {
		t.Errorf("%d of 20 jobs have ended without any promotion: this test shows nothing", n)
	}
}
