package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

const transcription = `Produced by volunteers.

_Advertisement_

My Design in this Book is not to explain the Properties of Light by
Hypotheses, but to _propose_ them.[A]


AX. I.

[Illustration: FIG. 1.]

If the Image PR [in _Fig._ 3.] be at [Greek: pt], or [Greek:
ph]; and
CD_q_.

    Deg.    Min.   |  10

      The Angle           The Ring

[Sidenote: _See
p. 5._]

FOOTNOTES:

[A] See our Author's Book.

       *       *       *       *       *

The End.`

func TestParagraphsAreNewtonsTextOnly(t *testing.T) {
	got, err := paragraphs(transcription)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"My Design in this Book is not to explain the Properties of Light by Hypotheses, but to propose them.",
		"AX. I.",
		"If the Image PR [in Fig. 3.] be at pt, or ph; and CDq.",
		"The End.",
	}
	if !slices.Equal(got, want) {
		t.Errorf("paragraphs are %q, want %q", got, want)
	}
	if _, err := paragraphs("Something else."); err == nil {
		t.Error("paragraphs accepts any text")
	}
}

func TestDivideHoldsOutOneRunInSixteen(t *testing.T) {
	var list []string
	for i := range 1000 {
		list = append(list, fmt.Sprintf("%04d %s", i, strings.Repeat("x", 995)))
	}
	training, heldOut := divide(list)
	if len(training) < 2 || len(heldOut) < 2 {
		t.Fatalf("%d and %d sections", len(training), len(heldOut))
	}
	all := append(slices.Clone(training), heldOut...)
	slices.Sort(all)
	if got := strings.Join(all, ""); got != strings.Join(list, "\n")+"\n" {
		t.Error("the sections together are not the text")
	}
	share := float64(len(strings.Join(heldOut, ""))) / float64(len(strings.Join(all, "")))
	if math.Abs(share-1./16) > 0.01 {
		t.Errorf("%.3f of the text is held out", share)
	}
}

func TestRowsAreReproducible(t *testing.T) {
	sections := []string{strings.Repeat(sample, 20), strings.Repeat("Of Colours. ", 200)}
	e := learned(t)
	r := newRows(e, sections)
	tokens, targets := r.batch(5)
	again, _ := r.batch(5)
	other, _ := r.batch(6)
	if len(tokens) != batch || len(targets) != batch {
		t.Fatalf("%d rows, want %d", len(tokens), batch)
	}
	for i := range tokens {
		if len(tokens[i]) != config.Context || !slices.Equal(tokens[i][1:], targets[i][:config.Context-1]) {
			t.Errorf("row %d: the targets are not the tokens that follow", i)
		}
		if !slices.Equal(tokens[i], again[i]) {
			t.Errorf("row %d: two batches of the same step differ", i)
		}
	}
	if slices.EqualFunc(tokens, other, slices.Equal[[]int32]) {
		t.Error("two steps have the same rows")
	}
}

func TestHeldOutRowsCoverTheText(t *testing.T) {
	sections := []string{strings.Repeat(sample, 20), strings.Repeat("Of Colours. ", 200)}
	e := learned(t)
	h := newHeldOut(e, sections)
	var text strings.Builder
	for _, row := range h.targets {
		for _, id := range row {
			if int(id) != e.eot() {
				text.WriteString(e.tokens[id])
			}
		}
	}
	whole := strings.Join(sections, "")
	if got := text.String(); !strings.HasPrefix(whole, got) || len(got) != h.bytes || len(whole)-len(got) > 4*config.Context {
		t.Errorf("the held-out rows have %d of %d bytes of the text, and say %d", len(got), len(whole), h.bytes)
	}
	if got := h.bitsPerByte(math.Ln2); got != float64(h.size())/float64(h.bytes) {
		t.Errorf("one bit per token is %v bits per byte", got)
	}
}
