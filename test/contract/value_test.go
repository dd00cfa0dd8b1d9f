package contract

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// object is a JSON object in which a name can occur twice.
type object []member

type member struct {
	name  string
	value any // string, int64, float64, bool, nil, []any, object or verbatim
}

// verbatim is text that is sent unchanged, even if it is not JSON.
type verbatim string

func (o object) at(name string) int {
	return slices.IndexFunc(o, func(m member) bool { return m.name == name })
}

func (o object) with(name string, value any) object {
	o = slices.Clone(o)
	if i := o.at(name); i >= 0 {
		o[i].value = value
		return o
	}
	return append(o, member{name, value})
}

func (o object) without(name string) object {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return m.name == name })
}

// encode writes a value as JSON.
func encode(v any) string {
	switch v := v.(type) {
	case verbatim:
		return string(v)
	case object:
		parts := make([]string, len(v))
		for i, m := range v {
			parts[i] = encode(m.name) + ":" + encode(m.value)
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = encode(e)
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("%#v: %v", v, err)) // the value comes from the generator, so an error is a bug
	}
	return string(b)
}

// generator makes random requests from a document. Only one goroutine may use it.
type generator struct {
	*rand.Rand
	doc     *document
	caller  *person  // the user who sends the requests
	own     []string // ids of the caller's jobs
	foreign []string // ids of other users' jobs, and of accounts

	owner, other *person // the users of sequences; nil before the first sequence

	etag string // ETag of the latest answer that had one
}

func (g *generator) chance(p float64) bool { return g.Float64() < p }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// valid returns a random value that the schema allows. Some strings also depend on the
// name, as the method text describes.
func (g *generator) valid(s *schema, name string) any {
	s = g.doc.resolve(s)
	switch {
	case s.is("null") && g.chance(0.1):
		return nil
	case len(s.OneOf) > 0:
		return g.valid(pick(g, s.OneOf...), name)
	case len(s.Enum) > 0:
		return pick(g, s.Enum...)
	case s.is("object"):
		var o object
		for _, property := range sortedKeys(s.Properties) {
			if slices.Contains(s.Required, property) || g.chance(0.4) {
				o = append(o, member{property, g.valid(s.Properties[property], property)})
			}
		}
		g.Shuffle(len(o), func(i, j int) { o[i], o[j] = o[j], o[i] })
		return o
	case s.is("array"):
		n := between(g, s.MinItems, s.MaxItems, 0, 5)
		if items := g.doc.resolve(s.Items); items.is("object") || items.is("array") {
			n = min(n, 3) // lists in lists would be larger than any body
		}
		list := make([]any, n)
		for i := range list {
			list[i] = g.valid(s.Items, name)
		}
		return list
	case s.is("integer"):
		low, high := bounds(s)
		return pick(g, int64(low), int64(high), int64(low)+g.Int64N(int64(min(high-low, 1<<53))+1))
	case s.is("number"):
		low, high := bounds(s)
		if s.ExclusiveMinimum != nil {
			low = math.Nextafter(low, high)
		}
		if s.ExclusiveMaximum != nil {
			high = math.Nextafter(high, low)
		}
		return pick(g, low, high, min(high, low+g.Float64()*(high-low)))
	case s.is("boolean"):
		return g.chance(0.5)
	case s.is("string"):
		return g.text(s, name)
	}
	panic(fmt.Sprintf("%s: no generator for a schema of type %q", name, s.Type))
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// between returns a random length from least to most. If least is nil, the lower bound is
// low. If most is nil, the upper bound is high.
func between(g *generator, least, most *int, low, high int) int {
	if least != nil {
		low = *least
	}
	if most != nil {
		high = *most
	}
	return low + g.IntN(max(0, high-low)+1)
}

// bounds returns the lowest and the highest value of a number. An integer may have either
// value.
func bounds(s *schema) (low, high float64) {
	low, high = -1<<53, 1<<53
	for _, p := range []*float64{s.Minimum, s.ExclusiveMinimum} {
		if p != nil {
			low = max(low, *p)
		}
	}
	for _, p := range []*float64{s.Maximum, s.ExclusiveMaximum} {
		if p != nil {
			high = min(high, *p)
		}
	}
	return low, high
}

// text returns a random string. A name, a password or a token is often the caller's own,
// because no schema can express which values are valid.
func (g *generator) text(s *schema, name string) string {
	lower := strings.ToLower(name)
	fits := func(text string) bool { n := len([]rune(text)); return s.MaxLength == nil || n <= *s.MaxLength }
	switch {
	case s.Format == "uuid":
		return g.anyID()
	case s.Format == "date-time":
		return time.Now().Add(time.Duration(g.Int64N(int64(48*time.Hour))) - 24*time.Hour).UTC().Format(time.RFC3339Nano)
	case s.Format == "date":
		return time.Now().AddDate(0, 0, g.IntN(9)-4).UTC().Format(time.DateOnly)
	case lower == "model" && g.chance(0.8): // only the served model is known
		return "opticks"
	case lower == "at" && g.chance(0.7): // a random time is rarely one of a job's life
		return pick(g, "1", "2", "3", time.Now().UTC().Format(time.RFC3339Nano))
	case s.Pattern != "":
		return rapid.StringMatching(s.Pattern).Example(g.IntN(1 << 30))
	case strings.Contains(lower, "username") && g.chance(0.5):
		return g.caller.name
	case strings.Contains(lower, "username"):
		return "user-" + strconv.FormatUint(g.Uint64(), 36)
	case strings.Contains(lower, "new_password"): // the caller must know the password afterwards
		return g.caller.password
	case strings.Contains(lower, "password") && g.chance(0.7):
		return g.caller.password
	case strings.Contains(lower, "refresh_token") && g.chance(0.5), lower == "token" && g.chance(0.3):
		if fits(g.caller.refresh) {
			return g.caller.refresh
		}
	case lower == "token" && g.chance(0.2) && fits(g.caller.access):
		return g.caller.access
	case lower == "if-none-match" && g.chance(0.3):
		return pick(g, "*", g.etag)
	case lower == "idempotency-key" && g.chance(0.8):
		return strconv.Quote(uuid.NewString())
	case len(s.Examples) > 0 && g.chance(0.3):
		return s.Examples[0].(string)
	}
	n := between(g, s.MinLength, s.MaxLength, 0, 40)
	if g.chance(0.6) {
		n = between(g, s.MinLength, nil, 0, min(n, 30))
	}
	return g.characters(n)
}

// characters returns a random string of n characters.
func (g *generator) characters(n int) string {
	alphabet := pick(g,
		"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,'0123456789",
		"äßé\u0301ǅﬁ\u200b\u200d\u00ad\u2028\ufeff中文한글עבריתالعربية😀👩\u200d🚀\U0001d4bb\U000e0041",
		"<>{};&\"'\\/%$\t\n\r-=+@|`")
	runes := []rune(alphabet)
	if g.chance(0.7) {
		runes = []rune("abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz ")
	}
	var b strings.Builder
	for range n {
		b.WriteRune(runes[g.IntN(len(runes))])
	}
	return b.String()
}

// anyID returns a random id, which belongs to one of the caller's jobs, to an object of
// another user, or to no object.
func (g *generator) anyID() string {
	switch {
	case len(g.own) > 0 && g.chance(0.6):
		return pick(g, g.own...)
	case len(g.foreign) > 0 && g.chance(0.5):
		return pick(g, g.foreign...)
	}
	return uuid.NewString()
}
