//go:build ignore

// Command common_gen adds passwords from a list to common.txt. It adds the first 3,000
// passwords of the list that are long enough for the length rule. The list has one
// password per line, with the most frequent password first:
//
//	npm pack zxcvbn@4.4.2 && tar xzf zxcvbn-4.4.2.tgz
//	node -p 'require("./package/lib/frequency_lists").passwords.join("\n")' | go run ./internal/policy/common_gen.go internal/policy/common.txt
package main

import (
	"bufio"
	"log"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

func main() {
	file := os.Args[1]
	before, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	all := strings.Fields(string(before))
	n := 0
	// All passwords of the list are ASCII, so the folded form of a password is its
	// lower case.
	for lines := bufio.NewScanner(os.Stdin); n < 3000 && lines.Scan(); {
		if password := strings.ToLower(lines.Text()); utf8.RuneCountInString(password) >= 8 {
			all = append(all, password)
			n++
		}
	}
	slices.Sort(all)
	if err := os.WriteFile(file, []byte(strings.Join(slices.Compact(all), "\n")+"\n"), 0o644); err != nil {
		log.Fatal(err)
	}
}
