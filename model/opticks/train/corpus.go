package main

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	firstLine  = "My Design in this Book is not to explain the Properties of Light"
	sidenote   = regexp.MustCompile(`(?s)\[(Illustration|Sidenote)[^\]]*\]`)
	greek      = regexp.MustCompile(`\[Greek:\s*([^\]]*)\]`)
	footnote   = regexp.MustCompile(`^\[[A-Z]\] `)
	noteMark   = regexp.MustCompile(`\[[A-Z]\]`)
	table      = regexp.MustCompile(`[|{}]|-{4}|_{3}|\S {3,}\S|\* +\*`)
	blankLines = regexp.MustCompile(`\n{2,}`)
)

// paragraphs returns Newton's text from the transcription in Go's source tree,
// a paragraph or heading each, on one line. It leaves out what comes before the
// text itself, illustrations, tables, footnotes (which are the editor's) and
// the transcriber's marks for italics and Greek letters.
func paragraphs(transcription string) ([]string, error) {
	start := strings.Index(transcription, firstLine)
	if start < 0 {
		return nil, fmt.Errorf("the text does not have the line %q: this is not the Opticks of Go's source tree", firstLine)
	}
	text := sidenote.ReplaceAllString(transcription[start:], "")
	var list []string
	for _, block := range blankLines.Split(text, -1) {
		if table.MatchString(block) || footnote.MatchString(block) || strings.HasPrefix(block, "FOOTNOTES") {
			continue
		}
		block = noteMark.ReplaceAllString(greek.ReplaceAllString(block, "$1"), "")
		block = strings.Join(strings.Fields(strings.ReplaceAll(block, "_", "")), " ")
		if block != "" {
			list = append(list, block)
		}
	}
	return list, nil
}

// divide sets one stretch in sixteen of the text aside, which is never trained
// on: the ninth of each sixteen runs of paragraphs of at least 3,000 bytes.
// A run that follows another of its kind in the text is part of the same
// section; paragraphs end in a line feed.
func divide(paragraphs []string) (training, heldOut []string) {
	const run, period, place = 3000, 16, 8
	var section strings.Builder
	flush := func(to *[]string) {
		if section.Len() > 0 {
			*to = append(*to, section.String())
			section.Reset()
		}
	}
	size, number := 0, 0
	for _, p := range paragraphs {
		section.WriteString(p + "\n")
		if size += len(p) + 1; size < run {
			continue
		}
		size = 0
		number++
		switch number % period {
		case place: // the next run is held out
			flush(&training)
		case place + 1:
			flush(&heldOut)
		}
	}
	flush(&training)
	return training, heldOut
}
