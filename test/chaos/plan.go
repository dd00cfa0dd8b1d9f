package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fault is a planned disturbance of a process or a connection.
type fault struct {
	at     time.Duration // time since the start of the fault injection
	target string        // such as "worker-2", "worker-2/database", "api-1/clients", "postgres"
	action action
	lasts  time.Duration // until the process is started again or the connection works again
}

// action is the effect of a fault. The report shows each action under its value.
type action string

const (
	kill    action = "kill"    // SIGKILL, then a new process
	freeze  action = "freeze"  // SIGSTOP, then SIGCONT
	restart action = "restart" // SIGTERM, then a new process when the old one has ended
	cut     action = "cut"     // connections are reset
	slow    action = "slow"    // connections have a long delay
	mute    action = "mute"    // connections are blocked in both directions, then continue
	lose    action = "lose"    // connections are blocked in both directions, then reset
	deafen  action = "deafen"  // connections are blocked for answers only, then reset

	crash    action = "crash"     // Postgres stops at once and recovers at the next start
	shoot    action = "shoot"     // SIGKILL to one backend of Postgres; Postgres then ends all backends and recovers
	setClock action = "set clock" // the database's clock is set forward, then back

	promote      action = "promote"       // SIGKILL to all of Postgres; its synchronous standby takes over
	writeProtect action = "write-protect" // Postgres refuses all writes

	startStranger action = "start" // a worker with a wrong master key starts, and must end

	alter action = "alter" // a stored event of a job is made unreadable

	refresh action = "refresh" // Postgres shuts down cleanly, then starts again
)

// storedEvent is the target of the faults that alter a stored event.
const storedEvent = "event"

// kinds are the kinds of faults, in the order of the report.
var kinds = []string{"kills", "freezes", "restarts", "cuts", "settings of the clock", "promotions", "kills of the pooler", "read-only periods", "wrong keys", "damaged events"}

// kind returns the kind of the fault. The report counts faults by kind.
func (f fault) kind() string {
	if f.target == poolerName {
		return "kills of the pooler"
	}
	switch f.action {
	case kill, crash, shoot:
		return "kills"
	case freeze:
		return "freezes"
	case restart, refresh:
		return "restarts"
	case setClock:
		return "settings of the clock"
	case promote:
		return "promotions"
	case writeProtect:
		return "read-only periods"
	case startStranger:
		return "wrong keys"
	case alter:
		return "damaged events"
	}
	return "cuts"
}

// faultFreeShare is the share of the run before the first fault.
const faultFreeShare = 0.06

// The program has two builds: as it is released, and with portable Go instead of assembly.
// Workers of different builds are of different kernel classes.
const (
	released = iota
	portable
)

// buildOf returns the build of a worker. The numbers of workers begin at 1. Two workers or
// more have both builds.
func buildOf(worker int) int { return (worker + 1) % 2 }

// workerNumber returns the number of the worker that is the target of a fault.
func workerNumber(target string) (number int, ok bool) {
	name, isWorker := strings.CutPrefix(target, "worker-")
	number, err := strconv.Atoi(name)
	return number, isWorker && err == nil
}

// plan returns the faults of a seed, ordered by time. It plans the given number of kills
// and the same number of cuts. The kills of workers alternate between the builds. The
// other faults are shares of that number, rounded up: freezes a third, restarts a fifth
// clock changes a tenth and kills of the pooler an eighth. Read-only periods, wrong keys and damaged events are a
// twelfth each, and promotions are a twenty-fifth.
func plan(seed uint64, kills, workers, apis int, during time.Duration) []fault {
	rng := rand.New(rand.NewPCG(seed, 2))
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(rng.Int64N(int64(to-from))) }
	worker := func() string { return fmt.Sprintf("worker-%d", 1+rng.IntN(workers)) }
	workerOf := func(build int) string {
		if workers == 1 {
			return worker()
		}
		return fmt.Sprintf("worker-%d", 1+build+2*rng.IntN((workers+1-build)/2))
	}
	api := func() string { return fmt.Sprintf("api-%d", 1+rng.IntN(apis)) }
	var faults []fault
	add := func(target string, a action, lasts time.Duration) {
		at := between(time.Duration(faultFreeShare*float64(during)), during)
		faults = append(faults, fault{at, target, a, lasts})
	}
	for i := range kills {
		switch {
		case i%20 < 13:
			add(workerOf(i%2), kill, between(200*time.Millisecond, 3*time.Second))
		case i%20 < 17:
			add(api(), kill, between(100*time.Millisecond, 2*time.Second))
		case i%2 == 0:
			add("postgres", shoot, 0)
		default:
			add("postgres", crash, between(100*time.Millisecond, 2*time.Second))
		}
	}
	for i := range (kills + 2) / 3 {
		switch {
		case i%8 == 7:
			add("postgres", freeze, between(time.Second, 4*time.Second))
		case i%4 == 3:
			add(api(), freeze, between(500*time.Millisecond, 5*time.Second))
		case i%2 == 0: // longer than the lease, so another worker takes the job before the frozen worker wakes up
			add(worker(), freeze, between(7*time.Second, 11*time.Second))
		default:
			add(worker(), freeze, between(500*time.Millisecond, 3*time.Second))
		}
	}
	for i := range kills {
		target := worker() + "/database"
		switch {
		case i%5 == 0:
			target = api() + "/database"
		case i%5 < 3:
			target = api() + "/clients"
		}
		switch a := []action{cut, cut, cut, slow, mute, lose, deafen}[rng.IntN(7)]; a {
		case cut:
			add(target, a, 0)
		case slow:
			add(target, a, between(time.Second, 5*time.Second))
		default:
			add(target, a, between(500*time.Millisecond, 8*time.Second))
		}
	}
	for i := range (kills + 4) / 5 {
		switch i % 5 {
		case 4:
			add("postgres", refresh, between(100*time.Millisecond, time.Second))
		case 3:
			add(api(), restart, 0)
		default:
			add(worker(), restart, 0)
		}
	}
	for range (kills + 9) / 10 { // the clock stays ahead for longer than a lease lasts
		add("postgres", setClock, between(4*time.Second, 8*time.Second))
	}
	for range (kills + 11) / 12 {
		add("postgres", writeProtect, between(2*time.Second, 5*time.Second))
	}
	for range (kills + 7) / 8 {
		add(poolerName, kill, between(100*time.Millisecond, 2*time.Second))
	}
	for range (kills + 24) / 25 {
		add("postgres", promote, 0)
	}
	for range (kills + 11) / 12 {
		add(stranger, startStranger, 0)
		add(storedEvent, alter, 0)
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return faults
}
