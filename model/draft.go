package model

import "slices"

// A Guess is a token that may follow in a text.
type Guess struct {
	Token  int
	Chance float64 // estimated probability that the text goes on with this guess and all before it
}

const (
	// maxGuesses is the largest number of guesses for a step.
	maxGuesses = 8

	// leastChance is the smallest chance of a guess that may be worth a step's time. If memory limits
	// the steps of an engine, another token makes a step some hundredths longer.
	leastChance = 0.08

	// maxMatch is the largest number of tokens by which a drafter tells matches apart. Longer
	// matches are hardly more often right.
	maxMatch = 8

	// outlookTokens is the number of likely tokens that a drafter remembers of each position.
	outlookTokens = 16
)

// A drafter guesses the next tokens of a text, so that an engine can compute them in one step. A
// wrong guess costs time and changes nothing.
//
// It looks for the longest end of the text that the text also has at an earlier place, and of
// several such places takes the last one. The token that followed there was chosen by the random number
// of its own index. The next token will be chosen by the number of the next index, which is
// known. So the guess is the token that this number chooses from the likely tokens of the
// earlier place. At temperature 0.8, it was right one and a half times to twice as often as the
// token that followed (docs/adr/0049-speculation.md).
type drafter struct {
	sampler *Sampler
	ends    func(token int) bool
	text    []int     // prompt and text
	prompt  int       // number of tokens of the prompt
	known   int       // number of tokens that have no outlook
	looks   []outlook // those of the tokens from index known on
	match   int       // number of tokens of the match for the next guess
	next    int       // the next guess; undefined if match is 0
	hits    [maxMatch + 1]hitRate
	guesses []Guess
}

// An outlook has the likeliest of the tokens that the sampler could choose, likeliest first.
type outlook struct {
	tokens []Candidate
	total  uint64 // weight of all tokens
}

// newDrafter returns a drafter for a text of which past has been generated.
func newDrafter(s *Sampler, ends func(token int) bool, prompt, past []int) *drafter {
	text := slices.Concat(prompt, past)
	d := &drafter{sampler: s, ends: ends, text: text, prompt: len(prompt), known: len(text)}
	d.match, d.next = d.guess(text)
	return d
}

// add adds the token that the sampler has just chosen. Unless a guess is useful, the next token
// is not guessed.
func (d *drafter) add(token int, useful bool) {
	if d.match > 0 {
		d.hits[d.match].count(d.next == token)
	}
	d.text = append(d.text, token)
	d.looks = append(d.looks, d.sampler.outlook())
	if d.match = 0; useful {
		d.match, d.next = d.guess(d.text)
	}
}

// draft returns up to n guesses. They are valid until the next call.
func (d *drafter) draft(n int) []Guess {
	d.guesses = d.guesses[:0]
	chance, match, token := 1.0, d.match, d.next
	text := d.text
	for match > 0 && len(d.guesses) < min(n, maxGuesses) && !d.ends(token) {
		if chance *= d.hits[match].rate(); chance < leastChance {
			break
		}
		d.guesses = append(d.guesses, Guess{token, chance})
		text = append(text, token)
		match, token = d.guess(text)
	}
	return d.guesses
}

// guess returns a guess for the token that follows a text, and the number of tokens of its
// match. Without a match there is no guess.
func (d *drafter) guess(text []int) (match, token int) {
	match, at := lastMatch(text)
	if match == 0 {
		return 0, 0
	}
	if i := at - d.known; i >= 0 && i < len(d.looks) {
		if token, ok := d.sampler.redraw(d.looks[i], text[d.prompt:]); ok {
			return match, token
		}
	}
	return match, text[at]
}

// lastMatch finds the longest end of a text, of at most maxMatch tokens, that the text also has at
// an earlier place. It returns the length, and the index of the token after the last such place.
func lastMatch(text []int) (match, at int) {
	last := len(text) - 1
	for i := last; i > 0 && match < maxMatch; i-- {
		n := 0
		for n < maxMatch && n < i && text[i-1-n] == text[last-n] {
			n++
		}
		if n > match {
			match, at = n, i
		}
	}
	return match, at
}

// A hitRate counts right guesses. Recent ones count more than early ones.
type hitRate struct{ right, all float64 }

func (r *hitRate) count(right bool) {
	const most = 64
	if right {
		r.right++
	}
	if r.all++; r.all >= most {
		r.right, r.all = r.right/2, r.all/2
	}
}

// rate estimates the share of right guesses. Before any guess, it is a quarter: less than most texts
// of temperature 0.8 have, so that one that does not repeat itself loses little.
func (r *hitRate) rate() float64 { return (r.right + 2) / (r.all + 8) }

// outlook returns the outlook of the token that Sample has just chosen. At temperature 0 it has
// no tokens.
func (s *Sampler) outlook() outlook {
	o := outlook{total: s.total}
	if len(s.kept) == 0 {
		return o
	}
	o.tokens = make([]Candidate, 0, outlookTokens)
	for _, c := range s.kept {
		n := len(o.tokens)
		if n == outlookTokens {
			if c.key > o.tokens[n-1].key {
				continue
			}
			n--
		}
		i := n
		for i > 0 && o.tokens[i-1].key > c.key {
			i--
		}
		o.tokens = slices.Insert(o.tokens[:n], i, c)
	}
	return o
}

// redraw returns the token that Sample would choose after the generated tokens if it had the
// candidates of an outlook. It returns false if that is none of the likely ones.
func (s *Sampler) redraw(o outlook, generated []int) (token int, ok bool) {
	if len(o.tokens) == 0 {
		return 0, false
	}
	if s.params.Choose != nil {
		return s.params.Choose(generated, o.tokens)
	}
	need, sum := scale(uniform(s.params.Seed, uint64(len(generated))), o.total, false)+1, uint64(0)
	for _, c := range o.tokens {
		if sum += c.weight; sum >= need {
			return c.Token(), true
		}
	}
	return 0, false
}
