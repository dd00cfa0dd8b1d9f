package jobs

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"colophon/events"
)

// sim simulates the queue in time steps. A free slot takes the first job of the queue,
// which is sorted by this package's priorities.
type sim struct {
	now      int
	free     int
	queue    []*simJob
	running  []*simJob
	ageAfter int // number of steps after which an owner's oldest waiting job gets priority 1, or 0 for never
}

type simJob struct {
	owner, priority   int
	at, due, id       int // at is the time of submission; due is the later of the times of submission and of ageing
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

// step runs the queue for one time step.
func (s *sim) step() {
	s.running = slices.DeleteFunc(s.running, func(j *simJob) bool {
		if s.now < j.started+j.service {
			return false
		}
		j.finished = s.now
		s.free++
		return true
	})
	s.age()
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

func (s *sim) age() {
	if s.ageAfter == 0 {
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
		if s.now-j.due > s.ageAfter && !slices.ContainsFunc(s.queue, waits) && !slices.ContainsFunc(s.running, runs) {
			j.priority, j.due = 1, s.now
		}
	}
}

// TestSimulatedFloodDelaysOthersByAtMostTwoServiceTimes submits floods of random sizes
// for one owner. Another owner submits one job after the other. Each of these jobs must
// start within twice the longest service time.
func TestSimulatedFloodDelaysOthersByAtMostTwoServiceTimes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const longest = 20
		s := &sim{free: rapid.IntRange(1, 8).Draw(rt, "slots"), ageAfter: rapid.SampledFrom([]int{0, 1, 30, 200}).Draw(rt, "age after")}
		service := rapid.IntRange(1, longest)
		ids := 0
		flood := rapid.SliceOfN(rapid.IntRange(0, 100), 1, 8).Draw(rt, "flood") // number of jobs in each flood; a flood starts every 50 steps
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
				rt.Fatalf("a job has waited for %d steps, the longest job takes %d", s.now-waiting.at, longest)
			case waiting.finished >= 0:
				waiting = nil
			}
		}
	})
}

// TestAgeingPreventsStarvation overloads the slots with owners who each have one
// outstanding job. One more owner has 20 jobs. With ageing, all 20 jobs must end. Without
// it, some of them must not.
func TestAgeingPreventsStarvation(t *testing.T) {
	run := func(ageAfter int) (ended int) {
		s := &sim{free: 2, ageAfter: ageAfter}
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
		t.Errorf("%d of 20 jobs have ended, want all", n)
	}
	if n := run(0); n > 2 {
		t.Errorf("%d of 20 jobs have ended without ageing, so the test shows nothing", n)
	}
}
