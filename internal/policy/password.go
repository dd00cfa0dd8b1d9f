package policy

import (
	_ "embed"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// These are the limits of a password's length in characters.
const (
	MinPassword = 8
	MaxPassword = 256
)

// Password returns these refusals.
var (
	ErrPasswordLength   = Refusal{"password", "password_length", "the password must have 8 to 256 characters"}
	ErrPasswordEncoding = Refusal{"password", "password_encoding", "the password is not valid Unicode text: it has a lone surrogate, bytes that are not UTF-8, or the replacement character U+FFFD that stands for them"}
	ErrPasswordCommon   = Refusal{"password", "password_common", "the password is one of the most common; choose another"}
	ErrPasswordUsername = Refusal{"password", "password_username", "the password is little more than the user name; choose another"}
	ErrPasswordService  = Refusal{"password", "password_service", "the password is little more than the name of this service; choose another"}
)

// service is the folded name of this service.
const service = "colophon"

// common has the most common passwords, one folded password per line. It has the first
// 3,000 passwords of zxcvbn 4.4.2 that are long enough, and some other passwords.
// common.LICENSE has the licence of zxcvbn. common_gen.go makes common.txt.
//
//go:embed common.txt
var common string

// Password returns the form in which a new password is hashed, or a Refusal. The rules
// are those of NIST SP 800-63B: a length and a list of common passwords. A password
// must not be derived from the user name or the name of the service. No rule asks for
// certain kinds of characters.
func Password(password, username string) (normal string, err error) {
	if damaged(password) {
		return "", ErrPasswordEncoding
	}
	// Normalisation can make a password longer or shorter. Both the given form and the
	// normal form must be long enough.
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

// weak reports whether a folded password is easily guessed.
func weak(folded string) bool { return monotonous(folded) || isCommon(folded) }

// without returns a folded password without all occurrences of a word that everybody
// knows. The caller checks whether the rest is a good password by itself.
func without(folded, word string) string {
	if word == "" {
		return folded
	}
	return strings.ReplaceAll(folded, word, "")
}

// NormalPassword returns the form in which a password is compared with an account's
// hash. Password returns the same form for a new password. NormalPassword applies no
// rules. It returns "" for a password that no account can have.
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

// monotonous reports whether the distance from each character to the next is always -1,
// always 0 or always 1: "zyxwvuts", "aaaaaaaa", "12345678".
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
