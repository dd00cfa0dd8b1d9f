package main

import (
	"strings"
	"testing"
	"time"
)

// twoClasses returns the texts of one request. The classes a/1 and b/1 give different texts
// from the third token on. The attempts of recorded are of the class a/1.
func twoClasses() oracle {
	other := text{Text: "one too free", Tokens: []int{1, 2, 6, 7, 8}, FinishReason: "length"}
	return oracle{"a/1": {0: wanted}, "b/1": {0: other}}
}

// handedOver returns a correct stream whose last attempt is of the class b/1, and the times
// of its writes. This attempt starts long after the event before it.
func handedOver() ([]event, []write) {
	s := recorded()
	s[5].Kernel = "b/1"
	s[6].Tokens, s[6].Text = []int{6, 7}, " too"
	s[7].Tokens, s[7].Text = []int{8}, " free"
	var writes []write
	for i := range s {
		at := time.Unix(int64(i), 0)
		if i >= 5 {
			at = at.Add(time.Minute)
		}
		writes = append(writes, write{version: i + 1, at: at})
	}
	return s, writes
}

func TestClassOfAJobIsThatOfItsFirstTokens(t *testing.T) {
	mixed, _ := handedOver()
	early := recorded() // another class starts the job and dies before it records a token
	early[1].Kernel, early[2].Tokens, early[3].FromToken = "b/1", nil, 0
	for name, c := range map[string]struct {
		stream  []event
		class   string
		mixedAt int
	}{
		"one class":               {recorded(), "a/1", 9},
		"another class continues": {mixed, "a/1", 6},
		"an early death":          {early, "a/1", 9},
		"no tokens":               {recorded()[:2], "a/1", 2},
		"not started":             {recorded()[:1], "", 1},
	} {
		if class, mixedAt := generatedBy(c.stream); class != c.class || mixedAt != c.mixedAt {
			t.Errorf("%s: class %q, mixed at %d, want %q, %d", name, class, mixedAt, c.class, c.mixedAt)
		}
	}
}

func TestBothClassesMayGenerateAText(t *testing.T) {
	mixed, writes := handedOver()
	other := recorded()
	for _, i := range []int{1, 3, 5} {
		other[i].Kernel = "b/1"
	}
	other[6].Tokens, other[6].Text = []int{6, 7}, " too"
	other[7].Tokens, other[7].Text = []int{8}, " free"
	for name, c := range map[string]struct {
		stream []event
		writes []write
		told   bool
	}{
		"the first class":  {recorded(), nil, false},
		"the second class": {other, nil, false},
		"both":             {mixed, writes, true},
	} {
		want, violations := twoClasses().expect("j", 0, c.stream, c.writes, c.told)
		if violations = append(violations, checkStream("j", c.stream, want)...); len(violations) > 0 {
			t.Errorf("%s:\n%s", name, found(violations))
		}
	}
}

func TestViolationsOfTheClassesAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func(s []event, writes []write, told *bool)
		rule   string
	}{
		"the owner is not told":  {func(_ []event, _ []write, told *bool) { *told = false }, "the owner is told whether kernels are mixed"},
		"the owner is told more": {func(s []event, _ []write, _ *bool) { s[5].Kernel = "a/1" }, "the owner is told whether kernels are mixed"},
		"the other class's text": {func(s []event, _ []write, told *bool) { s[5].Kernel, *told = "a/1", false }, "the text on record is the undisturbed one"},
		"an unknown class":       {func(s []event, _ []write, _ *bool) { s[1].Kernel, s[3].Kernel = "c/1", "c/1" }, "a kernel class of the fleet generates a text"},
		"a nameless class":       {func(s []event, _ []write, _ *bool) { s[1].Kernel, s[3].Kernel = "", "" }, "a kernel class of the fleet generates a text"},
		"no wait":                {func(_ []event, writes []write, _ *bool) { writes[5].at = writes[4].at.Add(time.Second) }, "a job with tokens waits for its kernel class"},
		"no wait and no tokens": {func(s []event, writes []write, told *bool) {
			s[3].Kernel, s[5].Kernel, *told = "b/1", "a/1", false
			s[6], s[7] = recorded()[6], recorded()[7]
		}, "a job with tokens waits for its kernel class"},
		"a wrong text before":   {func(s []event, _ []write, _ *bool) { s[2].Text = "One" }, "the text before the other kernels begins the undisturbed one"},
		"a wrong token before":  {func(s []event, _ []write, _ *bool) { s[2].Tokens = []int{1, 3} }, "the text before the other kernels begins the undisturbed one"},
		"a token lost by both":  {func(s []event, _ []write, _ *bool) { s[5].FromToken = 3 }, "continues at the next token"},
		"no end after handover": {func(s []event, _ []write, _ *bool) { s[8].Type = "job.advanced" }, "a job ends"},
	} {
		t.Run(name, func(t *testing.T) {
			s, writes := handedOver()
			told := true
			c.tamper(s, writes, &told)
			want, violations := twoClasses().expect("j", 0, s, writes, told)
			if got := found(append(violations, checkStream("j", s, want)...)); !strings.Contains(got, c.rule) {
				t.Errorf("not found: %s; found:\n%s", c.rule, got)
			}
		})
	}
}

// The events of a damaged job cannot be read. What its client has seen names the class, or
// begins the text of one.
func TestClientsOfDamagedJobsSeeTheTextOfOneClass(t *testing.T) {
	mixed, _ := handedOver()
	streamed := func(s []event) observation { return observation{job: "j", events: s, refused: true} }
	asked := func(completion string, mixed bool) observation {
		return observation{job: "j", refused: true, snapshots: []snapshot{{Version: 3, State: "running", Completion: completion, Mixed: mixed}}}
	}
	for name, o := range map[string]observation{
		"nothing seen": {job: "j", refused: true}, "one class": streamed(recorded()[:7]), "both classes": streamed(mixed[:7]),
		"the first class": asked("one two", false), "the second class": asked("one too", false), "told of both": asked("one two free", true),
	} {
		if got := checkClient(o, nil, twoClasses().expectSeen(o)); len(got) > 0 {
			t.Errorf("%s:\n%s", name, found(got))
		}
	}
	wrong := func(tamper func(s []event)) observation {
		s, _ := handedOver()
		tamper(s)
		return streamed(s[:7])
	}
	for name, o := range map[string]observation{
		"the text of neither class": asked("one tea", false),
		"the other class's text":    wrong(func(s []event) { s[5].Kernel = "a/1" }),
		"a wrong text before":       wrong(func(s []event) { s[2].Text = "One" }),
	} {
		if got := found(checkClient(o, nil, twoClasses().expectSeen(o))); !strings.Contains(got, "undisturbed") {
			t.Errorf("%s: found\n%s", name, got)
		}
	}
}

func TestReportCountsEachClass(t *testing.T) {
	p := reportOn(func(r *record, _ *[]observation) {
		r.streams[jobID.String()], r.writes = nil, map[string][]write{}
		r.streams[jobID.String()], r.writes[jobID.String()] = handedOver()
		r.mixed = map[string]bool{jobID.String(): true}
	})
	killed := func(target string, a action) injectedFault {
		return injectedFault{fault: fault{target: target, action: a}}
	}
	p.countKills([]injectedFault{
		killed("worker-1", kill), killed("worker-2", kill), killed("worker-3", kill), killed("worker-3", freeze), killed("api-1", kill), killed("postgres", crash),
	}, [2]string{"a/1", "b/1"})
	if a, b := *p.Classes["a/1"], *p.Classes["b/1"]; a != (Class{1, 2, 1, 1}) || b != (Class{0, 1, 1, 0}) || len(p.Classes) != 2 {
		t.Errorf("classes %+v, %+v of %d", a, b, len(p.Classes))
	}
	if p.Compared != 1 || p.Different != 1 || p.DifferentInterrupted != 1 {
		t.Errorf("%d compared, %d different, %d of these interrupted", p.Compared, p.Different, p.DifferentInterrupted)
	}
	if all := found(p.Violations); strings.Contains(all, "on record") || strings.Contains(all, "kernels") {
		t.Errorf("a mixed job is a violation:\n%s", all)
	}
}

func TestEachBuildIsBehindThePoolerAndWithoutIt(t *testing.T) {
	seen := map[[2]bool]bool{}
	for worker := 1; worker <= 4; worker++ {
		seen[[2]bool{buildOf(worker) == portable, behindPooler(worker)}] = true
	}
	if len(seen) != 4 || behindPooler(1) == behindPooler(2) {
		t.Errorf("four workers have only %v; APIs 1 and 2 behind the pooler: %v, %v", seen, behindPooler(1), behindPooler(2))
	}
}

func TestUnusedPoolerIsFound(t *testing.T) {
	if got := checkPooler(1); len(got) > 0 {
		t.Errorf("a pooler that carried a write: %v", got)
	}
	if got := found(checkPooler(0)); !strings.Contains(got, "processes behind the pooler write events") {
		t.Errorf("a pooler that carried nothing: found %q", got)
	}
}

func TestFleetHasBothBuilds(t *testing.T) {
	for workers := 2; workers <= 16; workers++ {
		count := [2]int{}
		for i := range workers {
			count[buildOf(i+1)]++
		}
		if count[portable] == 0 || count[released] < count[portable] {
			t.Errorf("%d workers: %v of the builds", workers, count)
		}
	}
}
