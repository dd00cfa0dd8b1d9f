package policy

import (
	_ "embed"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// The length of a password in characters.
const (
	MinPassword = 8
	MaxPassword = 256
)

// What can be wrong with a password.
var (
	ErrPasswordLength   = Refusal{"password", "password_length", "the password must have 8 to 256 characters"}
	ErrPasswordEncoding = Refusal{"password", "password_encoding", "the password is not valid Unicode text: it has a lone surrogate, bytes that are not UTF-8, or the replacement character U+FFFD that stands for them"}
	ErrPasswordCommon   = Refusal{"password", "password_common", "the password is one of the first that anybody would guess; choose another"}
	ErrPasswordUsername = Refusal{"password", "password_username", "the password is little more than the user name; choose another"}
	ErrPasswordService  = Refusal{"password", "password_service", "the password is little more than the name of this service; choose another"}
)

// service is what this service is called, folded.
const service = "colophon"

// common has the passwords that guessing starts with, one folded password a
// line: of the most frequent ones in zxcvbn 4.4.2, which is under the licence of
// common.LICENSE, the first 3,000 that are long enough, and others. common_gen.go
// has put them together.
//
//go:embed common.txt
var common string

// Password returns a password that somebody of the user name chooses, in the form
// that is to be hashed, or a Refusal. The rules are those of NIST SP 800-63B: a
// length, a list of what is guessed first, what follows from the user name and
// the name of the service, and nothing about kinds of characters.
func Password(password, username string) (normal string, err error) {
	if damaged(password) {
		return "", ErrPasswordEncoding
	}
	// Normalisation can make a text longer or shorter; neither may help it.
	normal = norm.NFKC.String(password)
	given := utf8.RuneCountInString(password)
	if given > MaxPassword || min(given, utf8.RuneCountInString(normal)) < MinPassword {
		return "", ErrPasswordLength
	}
	folded := fold(password)
	unnamed := without(folded, fold(username))
	rest := without(unnamed, service)
	switch thin := weak(rest) || rest != folded && utf8.RuneCountInString(rest) < MinPassword; {
	case thin && unnamed != folded:
		return "", ErrPasswordUsername
	case thin && rest != unnamed:
		return "", ErrPasswordService
	case thin:
		return "", ErrPasswordCommon
	}
	return normal, nil
}

// weak reports whether a folded password is guessed first.
func weak(folded string) bool { return monotonous(folded) || isCommon(folded) }

// without returns a folded password without a word that everybody knows of its
// owner: what is left has to be a password by itself.
func without(folded, word string) string {
	if word == "" {
		return folded
	}
	return strings.ReplaceAll(folded, word, "")
}

// NormalPassword returns the form of a password that is to be compared with the
// hash of an account's: the one that Password returned for it. It judges
// nothing, except that what can be nobody's password comes out empty.
func NormalPassword(password string) string {
	if damaged(password) || utf8.RuneCountInString(password) > MaxPassword {
		return ""
	}
	return norm.NFKC.String(password)
}

func isCommon(folded string) bool {
	for line := range strings.Lines(common) {
		if strings.TrimSuffix(line, "\n") == folded {
			return true
		}
	}
	return false
}

// monotonous reports whether every character is the same distance of -1, 0 or 1
// from the one before it: "aaaaaaaa", "12345678", "zyxwvuts".
func monotonous(text string) bool {
	runes := []rune(text)
	if len(runes) < 2 {
		return true
	}
	step := runes[1] - runes[0]
	if step < -1 || step > 1 {
		return false
	}
	for i := 2; i < len(runes); i++ {
		if runes[i]-runes[i-1] != step {
			return false
		}
	}
	return true
}
