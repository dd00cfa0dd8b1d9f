package jobs_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/migrations"
)

// TestWorkersStatementsWorkInEveryQueryMode runs SQL statements that a short job does not
// need, in every query mode of pgx: renewed leases, the rescue of a dead worker's job,
// ageing, estimates, deadlines, and the check of the history view. None may fail.
func TestWorkersStatementsWorkInEveryQueryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range pgtest.QueryModes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := *pgtest.New(t, migrations.Up)
			pool, err := pg.Connect(t.Context(), pgtest.With(db.URL, "default_query_exec_mode", mode), migrations.AppRole)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			db.App = pool
			f, e := &fixture{t: t, db: &db}, newEngine()
			f.store = f.newStore()
			f.queue = f.newQueue(jobs.Limits{Outstanding: 10, Queued: 10, Tokens: 10_000})
			f.owner = f.register()

			orphan := f.orphan(12, 0, "-1 second")
			w, err := jobs.NewWorker(pool, f.store, e, policy.Default, 1, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := jobs.Age(w, t.Context()); err != nil {
				t.Error(err)
			}
			pause := make(chan struct{})
			e.pause[6+20] = pause
			r := newReceiver(t)
			hook := f.hook(r.URL)
			f.workSlots(e, 8, f.delivering)
			orphan = f.until(orphan, tokens(16))
			f.leaseRenewed(orphan)
			if _, err := f.queue.Outlook(t.Context(), orphan); err != nil {
				t.Error(err)
			}
			close(pause)
			if j := f.until(orphan, final); j.State != events.Completed {
				t.Errorf("the job ended as %s", j.State)
			}
			r.next(500)
			f.untilDelivery(hook, attempted(1))
			f.hurry()
			r.next(200)
			f.webhookStatements(hook, f.untilDelivery(hook, ended).ID)
			if _, err := f.store.Overdue(t.Context(), time.Second, 10); err != nil {
				t.Error(err)
			}
			// The statements below damage the history view. Its rebuild must repair the
			// rows, correct the budgets and end the quarantine.
			for _, sql := range []string{
				`update history set model = 'wrong'`,
				`insert into quarantine (stream, version, owner, reason) select 'job/' || job, 1, owner, 'test' from history`,
				`insert into budgets (owner, day, tokens) select owner, (now() at time zone 'UTC')::date, 1000 from history on conflict (owner, day) do update set tokens = 1000`,
			} {
				if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			for _, wrong := range []int{1, 0} {
				if r, err := f.store.RebuildHistory(t.Context(), events.Observer{}); err != nil || r.Jobs != 1 || r.Wrong != wrong {
					t.Errorf("rebuild: %+v, %v, want %d rows corrected", r, err, wrong)
				}
			}
			if r, err := f.store.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Jobs != 1 || r.Wrong > 0 {
				t.Errorf("check: %+v, %v", r, err)
			}
			if damaged, err := f.store.Quarantine(t.Context(), "", 10); err != nil || len(damaged) > 0 {
				t.Errorf("in quarantine: %v, %v", damaged, err)
			}
			f.damage(orphan, 1)
			if _, err := f.store.Job(t.Context(), orphan.ID); !errors.Is(err, events.ErrDamaged) {
				t.Errorf("%v, want ErrDamaged", err)
			}
			for _, forget := range []error{f.store.ForgetIdempotencyKeys(t.Context()), f.store.ForgetBudgets(t.Context()), f.store.ForgetDeliveries(t.Context())} {
				if forget != nil {
					t.Error(forget)
				}
			}
		})
	}
}

// webhookStatements calls what users do with a webhook and its message.
func (f *fixture) webhookStatements(w events.Webhook, message uuid.UUID) {
	f.t.Helper()
	_, rotated := f.store.RotateWebhook(f.t.Context(), f.owner, w.ID)
	_, changed := f.store.UpdateWebhook(f.t.Context(), f.owner, w.ID, events.WebhookChange{URL: new("https://webhook.invalid/"), Events: []string{"job.failed"}})
	_, sent := f.store.Resend(f.t.Context(), f.owner, w.ID, message)
	_, pinged := f.store.Ping(f.t.Context(), f.owner, w.ID)
	page, listed := f.store.Deliveries(f.t.Context(), f.owner, w.ID, events.DeliveryDelivered, message, 10)
	_, lag := events.DeliveryLag(f.t.Context(), f.db.App)
	deleted := f.store.DeleteWebhook(f.t.Context(), f.owner, w.ID)
	if err := errors.Join(rotated, changed, sent, pinged, listed, lag, deleted); err != nil || len(page) != 0 {
		f.t.Errorf("%v, %+v", err, page)
	}
}

// leaseRenewed waits until the lease of the given job has been renewed.
func (f *fixture) leaseRenewed(j events.Job) {
	f.t.Helper()
	type lease struct {
		Holder  uuid.UUID
		Expires time.Time
	}
	var first *lease
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		rows, _ := f.db.Owner.Query(f.t.Context(), `select holder, expires_at from leases where job = $1`, j.ID)
		now, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[lease])
		if err != nil {
			f.t.Fatal(err)
		}
		switch {
		case first == nil:
			first = now
		case now.Holder != first.Holder:
			f.t.Fatal("the lease expired")
		case now.Expires.After(first.Expires):
			return
		}
	}
	f.t.Fatal("the lease was never renewed")
}
