package policy

import "slices"

// Filter reads a text that is generated piece by piece. It returns the number of bytes
// of the text that may be emitted. Whatever text follows, these bytes are not part of a
// refused word. The results depend only on the rules and the text, not on how the text
// is cut into pieces. A text that is resumed after an emitted piece therefore gets the
// same results as a text that was never interrupted.
//
// A Filter must not be used by two goroutines at once.
type Filter struct {
	matcher matcher
	length  int   // length of the text so far, in bytes
	ends    []int // ends of pieces after free, up to which the text contains no refused word
	free    int   // number of bytes of the text that may be emitted
	refused bool
}

// Filter returns a filter for a text that follows the prompt. The parameter emitted is
// the part of the text that has been emitted already. A word that begins in the prompt
// and ends in the text is refused too. A refused word at the start of the text is
// refused even if the prompt's last letters make it part of a longer word.
func (r *Rules) Filter(prompt, emitted string) *Filter {
	f := &Filter{matcher: matcher{rules: r}}
	for i, c := range prompt {
		letters(c, func(l letter) {
			f.matcher.next(l, i-len(prompt)) // the result is ignored, because Rules.Prompt has already refused words within the prompt
		})
	}
	f.matcher.states = slices.DeleteFunc(f.matcher.states, func(t state) bool { return f.matcher.complete(&t) })
	f.matcher.last = between
	f.Add(emitted)
	f.free, f.ends = len(emitted), nil
	return f
}

// Add adds a piece, which must consist of whole characters. It returns the number of
// bytes, from the start of the text, that may be emitted. If the text is not refused,
// these bytes are whole pieces. If it is refused, they are the bytes before the refused
// word or character. After a refusal, no more pieces may be added.
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

// End marks the end of the text. It returns the same values as Add.
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
	// start may be less than f.free, because the refused word may begin in the prompt
	// or in text that was emitted under earlier rules.
	f.free, f.refused = max(f.free, start), true
	return f.free, true
}
