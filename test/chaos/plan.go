package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A blow is a fault that is injected into a process or a connection.
type blow struct {
	at     time.Duration // since the beginning
	target string        // such as "worker-2", "worker-2/database", "api-1/clients", "postgres"
	act    act
	lasts  time.Duration // until it is over: the process starts again, the connection works
}

// act is what a blow does.
type act string

const (
	kill    act = "kill"    // SIGKILL, and a new process afterwards
	freeze  act = "freeze"  // SIGSTOP, SIGCONT
	restart act = "restart" // SIGTERM, and a new process as soon as the old one has ended
	cut     act = "cut"     // connections are reset
	slow    act = "slow"    // connections take long
	mute    act = "mute"    // connections pass nothing on, and then continue
	lose    act = "lose"    // connections pass nothing on, and then are reset
	deafen  act = "deafen"  // requests arrive and the answers to them never do

	crash   act = "crash"   // Postgres stops at once and has to recover
	shoot   act = "shoot"   // SIGKILL to one of Postgres's backends, which takes all of them down
	refresh act = "refresh" // Postgres stops in order, fast, and starts again
)

// kind returns the report's word for the act.
func (a act) kind() string {
	switch a {
	case kill, crash, shoot:
		return "kills"
	case freeze:
		return "freezes"
	case restart, refresh:
		return "restarts"
	}
	return "cuts"
}

// quietBegin is the share of the time before the first blow. Jobs run undisturbed
// meanwhile.
const quietBegin = 0.06

// plan returns the blows that the seed decides, in the order of their time:
// kills of processes and, beside them, a third as many freezes, as many cuts and
// a fifth as many restarts.
func plan(seed uint64, kills, workers, apis int, during time.Duration) []blow {
	rng := rand.New(rand.NewPCG(seed, 2))
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(rng.Int64N(int64(to-from))) }
	worker := func() string { return fmt.Sprintf("worker-%d", 1+rng.IntN(workers)) }
	api := func() string { return fmt.Sprintf("api-%d", 1+rng.IntN(apis)) }
	var blows []blow
	add := func(target string, a act, lasts time.Duration) {
		at := between(time.Duration(quietBegin*float64(during)), during)
		blows = append(blows, blow{at, target, a, lasts})
	}
	for i := range kills {
		switch {
		case i%20 < 13:
			add(worker(), kill, between(200*time.Millisecond, 3*time.Second))
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
		case i%2 == 0: // longer than the lease: others take over, and then a zombie wakes up
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
		switch a := []act{cut, cut, cut, slow, mute, lose, deafen}[rng.IntN(7)]; a {
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
	slices.SortStableFunc(blows, func(a, b blow) int { return cmp.Compare(a.at, b.at) })
	return blows
}
