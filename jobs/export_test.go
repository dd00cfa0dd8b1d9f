package jobs

import (
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/migrations"
)

// EachByNext lets fake engines implement NextEach.
var EachByNext = eachByNext

// Age lets tests call age directly. A worker calls age only every ten seconds.
var Age = (*Worker).age

// EraseClosed lets tests call eraseClosed directly. A queue calls eraseClosed only
// every five seconds.
var EraseClosed = (*Queue).eraseClosed

// EraseOld lets tests call eraseOld directly. RunRetention calls it only once a minute.
var EraseOld = eraseOld

// RetryAfter lets tests see the waits after failed attempts at messages.
var RetryAfter = retryAfter

// EraseUnkept lets tests call eraseUnkept directly. A queue calls it only every 15 seconds.
var EraseUnkept = (*Queue).eraseUnkept

// CrashWait is the delay after the second and each further crash, after ShortenTiming.
const CrashWait = 400 * time.Millisecond

// Refresh calls refresh, which Run calls every second.
var Refresh = (*Queue).refresh

// Measured returns the time of the latest Refresh, by the database's clock.
func Measured(q *Queue) time.Time { return q.currentRate().now }

// ShortenTiming shortens the intervals of a worker's background work, but not
// leaseTime. Call ShortenTiming before Start.
func (w *Worker) ShortenTiming() { w.timing = shortTiming() }

// ShortenTiming shortens the intervals of a queue's background work. It also shortens
// the time for which the queue leaves overdue jobs to their workers. Call ShortenTiming
// before Run.
func (q *Queue) ShortenTiming() {
	q.timing = shortTiming()
	q.timing.overdueGrace = 100 * time.Millisecond
}

// LogTo makes a worker log to another handler. Call it before Start.
func (w *Worker) LogTo(h slog.Handler) { w.log = slog.New(h) }

// SameKernelFor sets the time for which a started job waits for a worker with the same
// arithmetic. Call it before Start.
func (w *Worker) SameKernelFor(d time.Duration) { w.timing.sameKernel = d }

func shortTiming() timing {
	t := defaultTiming()
	t.renew = 200 * time.Millisecond
	t.sweep = 100 * time.Millisecond
	t.retryKernel = 20 * time.Millisecond
	t.retryLeased = 100 * time.Millisecond
	t.endOverdue = 100 * time.Millisecond
	t.retryUnreadable = 20 * time.Millisecond
	t.unreadableGrace = 500 * time.Millisecond
	t.crashWaits = []time.Duration{0, CrashWait, CrashWait, CrashWait}
	return t
}

// PollEvery sets the interval at which a worker with eight slots looks for new queue
// entries. Call it before Start.
func (w *Worker) PollEvery(interval time.Duration) {
	var err error
	if w.river, err = w.newFetcher(8, interval); err != nil {
		panic(err)
	}
}

// NotifyInTransactions lets River announce the queue's inserts in their transactions, as
// River does by default. The benchmarks compare this with announcements after the commit,
// which the queue still makes as well.
func (q *Queue) NotifyInTransactions() {
	client, err := river.NewClient(riverpgxv5.New(q.pool), &river.Config{
		Schema:        migrations.RiverSchema,
		Logger:        q.log,
		FetchCooldown: time.Millisecond, // the shortest time between two announcements
		Test:          river.TestConfig{Time: insertClock{}},
	})
	if err != nil {
		panic(err)
	}
	q.river = client
}
