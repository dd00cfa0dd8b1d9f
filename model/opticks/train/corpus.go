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

// paragraphs returns Newton's text from the transcription in Go's source tree. Each
// element is a paragraph or a heading, on one line. paragraphs omits the front matter,
// illustrations, tables, the editor's footnotes, and the transcriber's marks for
// italics and Greek letters.
func paragraphs(transcription string) ([]string, error) {
	start := strings.Index(transcription, firstLine)
	if start < 0 {
		return nil, fmt.Errorf("find %q: this is not the Opticks of Go's source tree", firstLine)
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

// divide splits the text into sections for training and held-out sections. A run is a
// group of consecutive paragraphs of at least 3,000 bytes together. The ninth of every
// sixteen runs is held out. Adjacent runs of the same kind form one section. Every
// paragraph ends in a line feed.
func divide(paragraphs []string) (training, heldOut []string) {
	const run, period, before = 3000, 16, 8
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
		case before: // the next run is held out
			flush(&training)
		case before + 1:
			flush(&heldOut)
		}
	}
	flush(&training)
	return training, heldOut
}
