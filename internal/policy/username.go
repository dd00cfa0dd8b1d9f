package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// These are the limits of a user name's length in characters.
const (
	MinUsername = 3
	MaxUsername = 50
)

// Username and NewUsername return these refusals.
var (
	ErrUsernameLength     = Refusal{"username", "username_length", "the user name must have 3 to 50 characters"}
	ErrUsernameEncoding   = Refusal{"username", "username_encoding", "the user name is not valid Unicode text: it has a lone surrogate, bytes that are not UTF-8, or the replacement character U+FFFD that stands for them"}
	ErrUsernameScripts    = Refusal{"username", "username_scripts", "the user name must not mix scripts such as Latin and Cyrillic, because their letters look alike"}
	ErrUsernameCharacters = Refusal{"username", "username_characters", "the user name must not have white space, control or invisible characters, the characters < > { } ; or their lookalikes"}
)

// Username returns the display form and the key of a user name, or a Refusal. The
// display form is the submitted name. The key is the same for all compatibility and case
// variants of the name. Two accounts must not have the same key. A new account must also
// follow the rules of [NewUsername].
func Username(name string) (display, key string, err error) {
	if damaged(name) {
		return "", "", ErrUsernameEncoding
	}
	if n := utf8.RuneCountInString(name); n < MinUsername || n > MaxUsername {
		return "", "", ErrUsernameLength
	}
	// The key is checked too, because folding can produce a refused character. A
	// compatibility variant of a refused character folds to the refused character. An
	// accent without a letter can fold to white space. Unassigned and private
	// characters are refused because a new Unicode version could change their keys.
	key = fold(name)
	unfit := func(r rune) bool { return invisible(r) || stripped(r) || !unicode.IsGraphic(r) }
	if strings.ContainsFunc(name, unfit) || strings.ContainsFunc(key, unfit) || key == "" {
		return "", "", ErrUsernameCharacters
	}
	return name, key, nil
}

// NewUsername applies the rules of Username and the rules for names of new accounts. It
// also returns the name's [Skeleton]. Two new accounts must not have the same skeleton.
func NewUsername(name string) (display, key, skeleton string, err error) {
	display, key, err = Username(name)
	if err != nil {
		return "", "", "", err
	}
	if mixesScripts(key) {
		return "", "", "", ErrUsernameScripts
	}
	return display, key, Skeleton(key), nil
}
