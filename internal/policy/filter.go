package policy

import "slices"

// Filter reads a text that is generated piece by piece and returns how much of it may
// be emitted. That part cannot belong to a refused word, whatever follows. Its results
// depend on the rules and the text alone, and not on the pieces. So a text that is
// resumed after an emitted piece gets the same results as an uninterrupted text.
//
// A Filter must not be used by two goroutines at once.
type Filter struct {
	matcher matcher
	length  int   // of the text, in bytes
	ends    []int // ends of pieces after free at which the text could end
	free    int   // bytes of the text that may be emitted
	refused bool
}

// Filter returns a filter for a text that follows the prompt. emitted is the part of
// the text that has been emitted already. A word that begins in the prompt is refused
// too, and so is a word that is only a word without the prompt's last letters.
func (r *Rules) Filter(prompt, emitted string) *Filter {
	f := &Filter{matcher: matcher{rules: r}}
	for i, c := range prompt {
		letters(c, func(l letter) {
			f.matcher.next(l, i-len(prompt)) // Rules.Prompt has refused words of the prompt itself
		})
	}
	f.matcher.states = slices.DeleteFunc(f.matcher.states, func(t state) bool { return f.matcher.complete(&t) })
	f.matcher.last = between
	f.Add(emitted)
	f.free, f.ends = len(emitted), nil
	return f
}

// Add adds a piece of whole characters and returns how many bytes of the text may be
// emitted. They end with a piece or, if the text is refused now, before the refused
// word or character. After a refusal, nothing may be added.
func (f *Filter) Add(piece string) (free int, refused bool) {
	if f.refused {
		return f.free, true
	}
	if start, refused := f.matcher.read(piece, f.length); refused {
		return f.refuse(start)
	}
	f.length += len(piece)
	if _, over := f.matcher.end(); !over {
		f.ends = append(f.ends, f.length)
	}
	certain := f.length
	if len(f.matcher.states) > 0 {
		certain = f.matcher.states[0].start
	}
	n := 0
	for n < len(f.ends) && f.ends[n] <= certain {
		f.free = f.ends[n]
		n++
	}
	f.ends = slices.Delete(f.ends, 0, n)
	return f.free, false
}

// End returns the same as Add for a text that ends here.
func (f *Filter) End() (free int, refused bool) {
	if f.refused {
		return f.free, true
	}
	if start, refused := f.matcher.end(); refused {
		return f.refuse(start)
	}
	return f.length, false
}

func (f *Filter) refuse(start int) (free int, refused bool) {
	// The word may begin in the prompt, or in text that was emitted under earlier
	// rules.
	f.free, f.refused = max(f.free, start), true
	return f.free, true
}
