package gpt2

import (
	"math"
	"slices"
	"time"

	"colophon/model"
)

const (
	// maxDraftedRows is the largest number of rows of a step with draft tokens. A step with
	// more rows is bound by its arithmetic, so a draft token takes as long as a step of its own.
	maxDraftedRows = 16

	// eagerGain and cautiousGain are the smallest worthwhile ratios between the expected tokens per
	// second of a step with draft tokens and those of one without, by the mode of the trial.
	eagerGain, cautiousGain = 1.04, 1.25

	// longStep is the duration of a step from which on the time for guesses does not matter.
	longStep = 500 * time.Microsecond

	// draftLoss is the same ratio for each sequence of the step, also for one that has no draft.
	draftLoss = 0.98
)

// A speculation decides which guessed tokens a step computes beside the next token of each
// sequence. These are the draft tokens of the step. If the caller goes on with a draft token, the
// logits after it are there already. Otherwise the draft tokens have cost time and nothing else,
// because the caller never sees their logits.
//
// A few more rows cost little while a step is bound by memory. The decision rests on the
// chances of the guesses and on the measured duration of steps, so it fits any machine,
// network and text. It changes when logits are computed, and never their bits. A [trial] checks the
// decisions by the speed of the texts.
//
// The engine's mutex guards all fields.
type speculation struct {
	on     bool
	costs  [maxDraftedRows]stepCosts // by the number of sequences in the step
	trials [maxDraftedRows]trial     // by the number of sequences in the step
	stats  DraftStats

	sequences int       // number of sequences in the last step; 0 if it had tokens of a prompt
	ended     time.Time // end of the last step
	accepted  int       // stats.Accepted at that time

	plans  []draftPlan // working memory of choose
	chosen []*sequence // working memory of choose
}

// DraftStats counts the draft tokens that an engine has computed.
type DraftStats struct {
	Accepted int // number of draft tokens that their text went on with
	Rejected int // number of other draft tokens
}

// A draftPlan is a sequence with the draft tokens that choose has planned for it.
type draftPlan struct {
	*sequence
	planned  int     // number of draft tokens so far
	expected float64 // expected number of tokens that the sequence gains by the step
}

// chance returns the probability that the next draft token is accepted, or 0 if there is none.
func (d *draftPlan) chance() float64 {
	if d.planned >= d.room() {
		return 0
	}
	return d.guesses[d.planned].Chance
}

// useful reports whether guesses are worth their time for a step with one token for each of so
// many sequences.
func (p *speculation) useful(sequences int) bool {
	if !p.on || sequences == 0 || sequences >= maxDraftedRows {
		return false
	}
	return p.trials[sequences].mode == eager || p.costs[sequences].step() > longStep
}

// observe updates the costs and the trial of steps with one token for each of so many sequences.
// If there are none, the step had tokens of a prompt. observe returns the duration of such a step
// without draft tokens.
func (p *speculation) observe(sequences, drafts int, took time.Duration, now time.Time) time.Duration {
	usual := took
	if sequences > 0 {
		costs := &p.costs[sequences]
		costs.observe(drafts, took)
		if drafts > 0 {
			usual = costs.step()
		}
		if p.on && sequences == p.sequences {
			p.trials[sequences].observe(sequences+p.stats.Accepted-p.accepted, now.Sub(p.ended), usual)
		}
	}
	p.sequences, p.ended, p.accepted = sequences, now, p.stats.Accepted
	return usual
}

// choose sets the draft tokens of the sequences of a step. Each of them has one token in the
// step. choose adds the likeliest draft token, then the next likeliest, and keeps the number of
// them with the most expected tokens per second, unless that gains too little.
func (p *speculation) choose(step []*sequence) {
	if !p.useful(len(step)) || p.costs[len(step)].due() {
		return
	}
	costs := &p.costs[len(step)]
	p.plans, p.chosen = p.plans[:0], p.chosen[:0]
	for _, s := range step {
		p.plans = append(p.plans, draftPlan{sequence: s, expected: 1})
	}
	expected := float64(len(step))
	gain := cautiousGain
	if p.trials[len(step)].mode == eager {
		gain = eagerGain
	}
	best, kept := gain*expected, 0
	for rows := len(step) + 1; rows <= maxDraftedRows; rows++ {
		likeliest := 0
		for i := range p.plans {
			if p.plans[i].chance() > p.plans[likeliest].chance() {
				likeliest = i
			}
		}
		d := &p.plans[likeliest]
		chance := d.chance()
		if chance == 0 {
			break
		}
		p.chosen = append(p.chosen, d.sequence)
		d.planned++
		d.expected += chance
		expected += chance
		least := math.Inf(1)
		for _, d := range p.plans {
			least = min(least, d.expected)
		}
		if cost := costs.of(len(p.chosen)); expected/cost > best && least/cost >= draftLoss {
			best, kept = expected/cost, len(p.chosen)
		}
	}
	for _, s := range p.chosen[:kept] {
		s.draft = append(s.draft, s.guesses[len(s.draft)].Token)
	}
}

const (
	// costSamples is the number of steps from which a cost is computed, and leastSamples is the
	// number from which on it is trusted.
	costSamples, leastSamples = 16, 4

	// plainEvery is the number of steps after which the duration of a step without draft tokens
	// is measured again.
	plainEvery = 64

	// forgetEvery is the number of steps after which a cost that was not measured again is
	// forgotten, so that a decision against a number of draft tokens is tried again.
	forgetEvery = 512
)

// stepCosts has the durations of steps with one token for each of some number of sequences.
// The costs of draft tokens are ratios of steps that follow each other closely, because the
// other processes of the machine make all steps longer for a time.
type stepCosts struct {
	plain  [3]time.Duration // of the last steps without draft tokens
	plains int              // number of steps without draft tokens
	age    int              // number of steps since the last of them
	drafts [maxDraftedRows]draftCost
}

// A draftCost is the cost of a number of draft tokens: the duration of a step with them, divided by
// that of a step without.
type draftCost struct {
	samples [costSamples]float64 // of the last such steps
	n       int                  // number of such steps since the cost was forgotten
	age     int                  // number of steps since the last of them
	median  float64
}

// due reports whether the duration of a step without draft tokens must be measured.
func (c *stepCosts) due() bool { return c.plains < len(c.plain) || c.age >= plainEvery }

// of returns the cost of a number of draft tokens. If it is not known, that of the next smaller
// number counts, so that such a step is tried.
func (c *stepCosts) of(drafts int) float64 {
	for ; drafts > 0; drafts-- {
		if d := &c.drafts[drafts]; d.n >= leastSamples {
			return d.median
		}
	}
	return 1
}

// step returns the duration of a step without draft tokens.
func (c *stepCosts) step() time.Duration {
	x, y, z := c.plain[0], c.plain[1], c.plain[2]
	return max(min(x, y), min(max(x, y), z)) // the median
}

// observe updates the costs with the duration of a step.
func (c *stepCosts) observe(drafts int, took time.Duration) {
	for i := range c.drafts {
		d := &c.drafts[i]
		if d.age++; d.age >= forgetEvery {
			*d = draftCost{}
		}
	}
	c.age++
	if drafts == 0 {
		c.plain[c.plains%len(c.plain)] = max(took, 1)
		c.plains++
		c.age = 0
		return
	}
	d := &c.drafts[drafts]
	d.samples[d.n%costSamples] = took.Seconds() / c.step().Seconds()
	d.n++
	d.age = 0
	sorted := d.samples
	last := sorted[:min(d.n, costSamples)]
	slices.Sort(last)
	d.median = last[len(last)/2]
}

// room returns the largest number of draft tokens that the sequence may have in a step with its
// next token.
func (s *sequence) room() int { return min(len(s.guesses), s.engine.info.Context-s.cache.tokens-1) }

// Expect implements [model.Sequence].
func (s *sequence) Expect(guesses []model.Guess) bool {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	s.guesses = s.guesses[:0]
	for _, g := range guesses {
		if g.Token < 0 || g.Token >= e.info.Vocab {
			break
		}
		s.guesses = append(s.guesses, g)
	}
	return e.speculation.useful(max(1, e.decoding))
}

// goesOn reports whether the sequence goes on with the next draft token, whose logits have been
// computed. If so, it counts the token as computed. The engine's mutex must be held.
func (s *sequence) goesOn(tokens []int) bool {
	if len(tokens) != 1 || s.accepted == len(s.draft) || s.draft[s.accepted] != tokens[0] {
		return false
	}
	s.accepted++
	s.guesses = s.guesses[:0]
	s.engine.speculation.stats.Accepted++
	s.keep(tokens)
	return true
}

// takeBack drops the other draft tokens, and the pages that have nothing but them. The engine's
// mutex must be held.
func (s *sequence) takeBack() {
	e := s.engine
	e.speculation.stats.Rejected += len(s.draft) - s.accepted
	s.draft, s.accepted = s.draft[:0], 0
	pages := (s.cache.tokens + pageTokens - 1) / pageTokens
	e.free = append(e.free, s.cache.pages[pages:]...)
	s.cache.pages = slices.Delete(s.cache.pages, pages, len(s.cache.pages))
}

// DraftStats returns how many draft tokens have been computed so far.
func (e *Engine) DraftStats() DraftStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.speculation.stats
}
