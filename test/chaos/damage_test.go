package main

import (
	"maps"
	"strings"
	"testing"

	"colophon/client"
)

// damagedRecord returns a correct record of one damaged job that was set aside and
// reported.
func damagedRecord() damage {
	return damage{
		altered: map[string]int{"j": 3}, aside: map[string]int{"j": 3}, listed: map[string]bool{"j": true},
		answers: map[string]string{"j": client.CodeDamaged}, unreadable: map[string]string{"j": "damaged"},
	}
}

func TestDamagedJobsMustBeSetAsideAndReported(t *testing.T) {
	if got := checkDamage(damagedRecord()); len(got) > 0 {
		t.Errorf("a reported job is a violation:\n%s", found(got))
	}
	for name, c := range map[string]struct {
		tamper func(d *damage)
		rule   string
	}{
		"served":               {func(d *damage) { d.answers["j"] = "completed" }, "the owner of a damaged job is told"},
		"not set aside":        {func(d *damage) { clear(d.aside) }, "a damaged job is set aside"},
		"another event":        {func(d *damage) { d.aside["j"] = 2 }, "the quarantine names the damaged event"},
		"not reported":         {func(d *damage) { clear(d.listed) }, "a damaged job is reported"},
		"an intact job aside":  {func(d *damage) { d.aside["k"] = 1 }, "only a damaged job is set aside"},
		"an unreadable stream": {func(d *damage) { d.unreadable["k"] = "damaged" }, "every stored event can be read"},
	} {
		d := damagedRecord()
		c.tamper(&d)
		if got := found(checkDamage(d)); !strings.Contains(got, c.rule) {
			t.Errorf("%s: not found: %s; found:\n%s", name, c.rule, got)
		}
	}
}

// TestClientsOfDamagedJobs checks observations of damaged jobs. A client may see the
// whole text, or its beginning and then the answer that the job is damaged.
func TestClientsOfDamagedJobs(t *testing.T) {
	refused := func(o observation) observation {
		o.refused = true
		return o
	}
	streamed := observation{job: "j", mode: "sse", events: recorded()[:4]}
	asked := observation{job: "j", mode: "poll", snapshots: polled().snapshots[:4]}
	for _, o := range []observation{streamedAndPolled(), polled(), refused(streamed), refused(asked), refused(observation{job: "j"})} {
		if got := checkClient(o, nil, wanted); len(got) > 0 {
			t.Errorf("%+v:\n%s", o, found(got))
		}
	}
	for rule, o := range map[string]observation{
		"the final event":            streamed,
		"a final state":              asked,
		"a client sees its job":      {job: "j"},
		"the pieces so far":          refused(observation{job: "j", events: append(recorded()[:2:2], event{Version: 3, Type: "job.advanced", Text: "two"})}),
		"begins the undisturbed one": refused(observation{job: "j", snapshots: []snapshot{{Version: 3, Completion: "two"}}}),
	} {
		if got := found(checkClient(o, nil, wanted)); !strings.Contains(got, rule) {
			t.Errorf("not found: %s; found:\n%s", rule, got)
		}
	}
}

func TestReportOfADamagedJob(t *testing.T) {
	id := jobID.String()
	damaged := func(r *record, s *[]observation) {
		clear(r.streams)
		r.damage = damagedRecord()
		r.damage.altered = map[string]int{id: 3}
		r.damage.aside, r.damage.listed = maps.Clone(r.damage.altered), map[string]bool{id: true}
		r.damage.answers, r.damage.unreadable = map[string]string{id: client.CodeDamaged}, map[string]string{id: "damaged"}
		(*s)[0] = observation{job: id, mode: "wait", refused: true}
	}
	if p := reportOn(damaged); len(p.Violations) > 0 {
		t.Errorf("a damaged job is a violation:\n%s", found(p.Violations))
	}
	p := reportOn(func(r *record, s *[]observation) { damaged(r, s); (*s)[0].job = "" })
	if len(p.Violations) > 0 {
		t.Errorf("a client that never knew its job:\n%s", found(p.Violations))
	}
	p = reportOn(func(_ *record, s *[]observation) { (*s)[0] = observation{mode: "wait", refused: true} })
	if got := found(p.Violations); !strings.Contains(got, "only a damaged job is refused") {
		t.Errorf("a refused client without a damaged job: found\n%s", got)
	}
	p = reportOn(func(r *record, s *[]observation) {
		damaged(r, s)
		*s = append(*s, observation{request: 0, refused: true})
	})
	if got := found(p.Violations); !strings.Contains(got, "only a damaged job is refused") {
		t.Errorf("two refused clients of one damaged job: found\n%s", got)
	}
}
