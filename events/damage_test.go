package events_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
)

// alter changes the payload of an event. The function change gets the payload as text.
func (f *fixture) alter(t *testing.T, stream events.Stream, version int, change func(string) string) {
	t.Helper()
	var payload []byte
	err := f.db.Owner.QueryRow(t.Context(), `select payload from events where stream = $1 and version = $2`, stream, version).Scan(&payload)
	if err != nil {
		t.Fatal(err)
	}
	altered := change(string(payload))
	if altered == string(payload) {
		t.Fatalf("the payload is unchanged: %s", payload)
	}
	f.db.Damage(t, `update events set payload = $3 where stream = $1 and version = $2`, stream, version, []byte(altered))
}

func replace(from, to string) func(string) string {
	return func(payload string) string { return strings.Replace(payload, from, to, 1) }
}

// quarantine returns the streams in quarantine.
func (f *fixture) quarantine(t *testing.T) (streams []events.Stream) {
	t.Helper()
	damaged, err := f.Quarantine(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range damaged {
		if d.At.IsZero() {
			t.Errorf("%v has no time", d)
		}
		streams = append(streams, d.Stream)
	}
	return streams
}

func (f *fixture) row(t *testing.T, job uuid.UUID) (state string) {
	t.Helper()
	if err := f.db.Owner.QueryRow(t.Context(), `select state from history where job = $1`, job).Scan(&state); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestDamagedStreamIsSetAside damages one event of a running job in each of several ways.
// The stream must be set aside. It must be logged once, without its content. It must
// accept no further event. Other streams must stay as they are.
func TestDamagedStreamIsSetAside(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var log bytes.Buffer
	f.Store = events.NewStore(f.db.App, f.vault, slog.New(slog.NewTextHandler(&log, nil)))
	var want []events.Stream
	for name, k := range map[string]struct {
		version int
		change  func(string) string // of the payload, or nil
		sealed  string              // an expression for the new ciphertext, or empty
		reason  string
	}{
		"not JSON":           {3, func(p string) string { return "\x00" + p[1:] }, "", "not decodable"},
		"cut":                {2, func(p string) string { return p[:len(p)/2] }, "", "not decodable"},
		"empty":              {1, func(string) string { return "" }, "", "not decodable"},
		"time":               {3, replace(`"at":"2`, `"at":"x`), "", "not decodable"},
		"type of a member":   {2, replace(`"attempt":1`, `"attempt":"secret"`), "", "not decodable"},
		"ciphertext":         {1, nil, "set_byte(sealed, 20, get_byte(sealed, 20) # 1)", "sealed members not readable"},
		"later ciphertext":   {3, nil, "set_byte(sealed, 20, get_byte(sealed, 20) # 1)", "sealed members not readable"},
		"another ciphertext": {3, nil, "(select sealed from events as first where stream = $1 and version = 1)", "sealed members not readable"},
		"no ciphertext":      {3, nil, "null", "sealed members missing, but not erased"},
		"commitment":         {3, replace(`"text":"`, `"texts":"`), "", "sealed members differ from their commitments"},
		"version":            {3, replace(`"version":3`, `"version":9`), "", "columns and payload differ"},
		"type":               {2, replace("job.started", "job.sTarted"), "", "columns and payload differ"},
		"stream":             {3, replace(`"stream":"job/`, `"stream":"JOB/`), "", "columns and payload differ"},
		"event before":       {3, nil, "", "does not name the hash of the event before it"},
	} {
		intact, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
		if err != nil {
			t.Fatal(err)
		}
		job, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
		if err != nil {
			t.Fatal(err)
		}
		stream := events.JobStream(job.ID)
		want = append(want, stream)
		switch {
		case k.sealed != "":
			f.db.Damage(t, `update events set sealed = `+k.sealed+` where stream = $1 and version = $2`, stream, k.version)
		case k.change != nil:
			f.alter(t, stream, k.version, k.change)
		default:
			f.alter(t, stream, k.version-1, replace(`"kernel":"k"`, `"kernel":"j"`))
		}
		for range 2 {
			_, err = f.Job(t.Context(), job.ID)
			d, ok := errors.AsType[*events.Damage](err)
			if !errors.Is(err, events.ErrDamaged) || !ok || d.Stream != stream || d.Version != k.version || d.Owner != f.owner || d.Reason != k.reason {
				t.Errorf("%s: %v, want damage at version %d: %s", name, err, k.version, k.reason)
			}
		}
		if state := f.row(t, job.ID); state != "damaged" {
			t.Errorf("%s: the job is %s in the view, want damaged", name, state)
		}
		if _, err := f.AppendJob(t.Context(), job, events.JobCancelled{By: "owner"}); !errors.Is(err, events.ErrDamaged) {
			t.Errorf("%s: append to a damaged stream: %v, want ErrDamaged", name, err)
		}
		if intact, err = f.put(t.Context(), intact, completedFacts()[3:]...); err != nil || intact.State != events.Completed {
			t.Errorf("%s: another job: %+v, %v", name, intact, err)
		}
	}
	if got := f.quarantine(t); !cmp.Equal(len(got), len(want)) {
		t.Errorf("in quarantine: %v, want %v", got, want)
	}
	if n := strings.Count(log.String(), "damaged stream set aside"); n != len(want) || strings.Contains(log.String(), "secret") {
		t.Errorf("%d lines for %d streams:\n%s", n, len(want), log.String())
	}
	if outstanding, err := f.Outstanding(t.Context(), f.owner, 100); err != nil || len(outstanding) != 0 {
		t.Errorf("outstanding jobs: %v, %v, want none", outstanding, err)
	}
}

// An owner column that names another owner leads to another key, and an event that cannot
// follow the earlier events makes no job. Both must be found although each payload decodes.
func TestEventsOfOtherOwnersAndOrdersAreDamaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	for name, k := range map[string]struct {
		version int
		damage  string
		reason  string
	}{
		"owner of the first event": {1, `owner = '` + other.String() + `'`, "sealed members not readable"},
		"erased owner":             {1, `owner = '` + uuid.NewString() + `'`, "cannot follow the events before it"},
		"owner of a later event":   {2, `owner = '` + other.String() + `'`, "cannot follow the events before it"},
		"order":                    {2, `payload = convert_to(replace(convert_from(payload, 'UTF8'), '"from_token":0', '"from_token":7'), 'UTF8')`, "cannot follow the events before it"},
	} {
		job, err := f.put(t.Context(), f.newJob(), completedFacts()[:2]...)
		if err != nil {
			t.Fatal(err)
		}
		f.db.Damage(t, `update events set `+k.damage+` where stream = $1 and version = $2`, events.JobStream(job.ID), k.version)
		_, err = f.Job(t.Context(), job.ID)
		if d, ok := errors.AsType[*events.Damage](err); !ok || d.Reason != k.reason {
			t.Errorf("%s: %v, want damage: %s", name, err, k.reason)
		}
	}
}

// Another process may be able to read an event that this process cannot read. So the
// stream must not be set aside.
func TestUnknownEventsAndKeysAreNotSetAside(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	put := func() events.Stream {
		job, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
		if err != nil {
			t.Fatal(err)
		}
		return events.JobStream(job.ID)
	}
	schema, kind, key := put(), put(), put()
	f.alter(t, schema, 2, replace(`"schema":2`, `"schema":3`))
	f.alter(t, kind, 2, replace("job.started", "job.praised"))
	f.db.Damage(t, `update events set type = 'job.praised' where stream = $1 and version = 2`, kind)
	stranger, err := vault.New(bytes.Repeat([]byte{8}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		stream events.Stream
		vault  *vault.Vault
		want   error
	}{{schema, f.vault, events.ErrCorrupt}, {kind, f.vault, events.ErrCorrupt}, {key, stranger, vault.ErrUnreadable}} {
		store := events.NewStore(f.db.App, k.vault, slog.New(slog.DiscardHandler))
		if _, err := store.Job(t.Context(), k.stream.ID()); !errors.Is(err, k.want) || errors.Is(err, events.ErrDamaged) {
			t.Errorf("%v, want %v", err, k.want)
		}
		r, err := store.RebuildHistory(t.Context(), events.Observer{})
		if err != nil || r.Wrong != 0 || len(r.Damaged) == 0 {
			t.Errorf("rebuild: %+v, %v, want the stream reported and no row changed", r, err)
		}
	}
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("in quarantine: %v, want none", got)
	}
}

// TestRebuildPassesDamagedStreams rebuilds a view with a wrong row and three damaged
// streams. The rebuild must correct the row and set the streams aside. After the events
// are repaired, another rebuild must end the quarantine.
func TestRebuildPassesDamagedStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var jobs []events.Job
	for n := range 4 {
		j, err := f.put(t.Context(), f.newJob(), completedFacts()[:2+n]...)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	running, wrong, advanced, completed := jobs[0], jobs[1], jobs[2], jobs[3]
	for _, j := range []events.Job{running, advanced, completed} {
		f.alter(t, events.JobStream(j.ID), 2, replace(`"fact"`, `"FACT!`))
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update history set state = 'failed' where job = $1`, wrong.ID); err != nil {
		t.Fatal(err)
	}
	mustReport := func(what string, r events.Report, err error, jobs, wrong, damaged int) {
		t.Helper()
		if err != nil || r.Jobs != jobs || r.Wrong != wrong || len(r.Damaged) != damaged {
			t.Errorf("%s: %+v, %v; want %d jobs, %d wrong and %d damaged", what, r, err, jobs, wrong, damaged)
		}
	}
	r, err := f.CheckHistory(t.Context(), events.Observer{})
	mustReport("check", r, err, 1, 1, 3)
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("a check has set aside %v", got)
	}
	r, err = f.RebuildHistory(t.Context(), events.Observer{})
	mustReport("rebuild", r, err, 1, 1, 3)
	r, err = f.CheckHistory(t.Context(), events.Observer{})
	mustReport("check after the rebuild", r, err, 1, 0, 3)
	if got := f.quarantine(t); len(got) != 3 {
		t.Errorf("in quarantine: %v, want 3 streams", got)
	}
	for id, want := range map[uuid.UUID]string{running.ID: "damaged", wrong.ID: "running", advanced.ID: "damaged", completed.ID: "completed"} {
		if got := f.row(t, id); got != want {
			t.Errorf("a row is %s, want %s", got, want)
		}
	}
	if list, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10); err != nil || len(list) != 1 || list[0].Text != "the text is secret too" {
		t.Errorf("history: %+v, %v, want the completed job from the view", list, err)
	}
	for _, j := range []events.Job{running, advanced, completed} {
		f.alter(t, events.JobStream(j.ID), 2, replace(`"FACT!`, `"fact"`))
	}
	r, err = f.RebuildHistory(t.Context(), events.Observer{})
	mustReport("rebuild of restored events", r, err, 4, 2, 0)
	r, err = f.CheckHistory(t.Context(), events.Observer{})
	mustReport("check of restored events", r, err, 4, 0, 0)
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("in quarantine: %v, want none", got)
	}
	if _, err := f.AppendJob(t.Context(), running, events.JobCancelled{By: "owner"}); err != nil {
		t.Error(err)
	}
}

// A damaged row of the view must not hide the other rows. The text of the damaged row's
// job must come from the events. If they are damaged too, the job must have no text.
func TestHistoryPassesDamagedRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
			t.Fatal(err)
		}
	}
	mustList := func(n int) {
		t.Helper()
		list, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10)
		list = slices.DeleteFunc(list, func(r events.Record) bool { return r.State == events.StateDamaged && r.Prompt+r.Text == "" })
		if err != nil || len(list) != n {
			t.Fatalf("%d records, %v, want %d", len(list), err, n)
		}
		for _, r := range list {
			if r.Text != "the text is secret too" || r.CompletionTokens != 3 {
				t.Errorf("%+v", r)
			}
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update history set sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)`); err != nil {
		t.Fatal(err)
	}
	mustList(3)
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong != 3 {
		t.Errorf("%+v, %v, want 3 wrong rows", r, err)
	}
	var stream events.Stream
	if err := f.db.Owner.QueryRow(t.Context(), `select stream from events where type = 'job.advanced' order by stream limit 1`).Scan(&stream); err != nil {
		t.Fatal(err)
	}
	f.alter(t, stream, 3, func(p string) string { return p[1:] })
	mustList(2)
	if r, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil || r.Wrong != 2 {
		t.Errorf("%+v, %v, want 2 rows corrected", r, err)
	}
	mustList(2)
}

// An account with a damaged event and a damaged key must still accept facts without
// sealed members. Above all, it must be possible to erase the account.
func TestDamagedAccountCanBeErased(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stream := events.AccountStream(f.owner)
	f.alter(t, stream, 1, func(p string) string { return p[1:] })
	if _, err := f.Page(t.Context(), stream, 0, 10); !errors.Is(err, events.ErrDamaged) {
		t.Errorf("%v, want ErrDamaged", err)
	}
	if got := f.quarantine(t); !cmp.Equal(got, []events.Stream{stream}) {
		t.Errorf("in quarantine: %v, want %v", got, stream)
	}
	f.db.Damage(t, `update owner_keys set wrapped = '\x00'`)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize)) // a new vault, which has not cached the key
	if err != nil {
		t.Fatal(err)
	}
	f.Store = events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
	appendFact := func(fact events.Fact) error {
		return f.Write(t.Context(), func(tx *events.Tx) error { return tx.AppendAccount(t.Context(), f.owner, fact) })
	}
	if err := appendFact(events.AccountErased{}); err != nil {
		t.Errorf("append an erasure: %v", err)
	}
	f.closeOwner(t)
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Error(err)
	}
	if owners, err := f.ClosedOwners(t.Context(), 10); err != nil || len(owners) != 0 {
		t.Errorf("owners whose keys exist: %v, %v, want none", owners, err)
	}
}

// TestJobsAreReadTogether reads jobs of two owners in one query. Each must be the job that is read
// alone, and those that cannot be read must be missing.
func TestJobsAreReadTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ids []uuid.UUID
	for i := range 4 {
		if i == 2 {
			f.owner = uuid.New()
			f.register(t, f.owner)
		}
		job, err := f.put(t.Context(), f.newJob(), completedFacts()...)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, job.ID)
	}
	f.db.Damage(t, `update events set payload = '\x00' where stream = $1 and version = 2`, events.JobStream(ids[3]))
	found, err := f.JobsByID(t.Context(), append(ids, uuid.New()))
	if err != nil || len(found) != 3 {
		t.Fatalf("%d jobs, %v", len(found), err)
	}
	for _, id := range ids[:3] {
		alone, err := f.Job(t.Context(), id)
		if diff := cmp.Diff(alone, found[id], cmp.AllowUnexported(events.Job{})); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
	if found, err := f.JobsByID(t.Context(), nil); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}
