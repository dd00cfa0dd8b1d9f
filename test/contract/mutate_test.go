package contract

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"
)

// mutations are functions that change a valid request. Each function reports whether it
// applies to the request.
var mutations = map[string]func(*generator, *request) bool{
	"wrong type": func(g *generator, r *request) bool {
		return g.replaceMember(r, func(s *schema) any {
			wrong := []any{}
			for _, other := range []member{
				{"string", "text"}, {"integer", int64(7)}, {"number", 7.5}, {"boolean", true}, {"array", []any{"a"}}, {"object", object{{"a", "b"}}}, {"null", nil},
			} {
				if !s.is(other.name) && !(other.name == "integer" && s.is("number")) {
					wrong = append(wrong, other.value)
				}
			}
			return pick(g, wrong...)
		})
	},
	"out of bounds": func(g *generator, r *request) bool { return g.replaceMember(r, g.outOfBounds) },
	"huge number": func(g *generator, r *request) bool {
		return g.replaceMember(r, func(s *schema) any {
			if !s.is("integer") && !s.is("number") {
				return notApplicable
			}
			return pick[any](g, verbatim("1e400"), verbatim("-1e400"), verbatim("9"+strings.Repeat("0", 400)), math.MaxFloat64, verbatim("18446744073709551616"), verbatim("1e999999999"))
		})
	},
	"not a number": func(g *generator, r *request) bool {
		return g.replaceMember(r, func(s *schema) any {
			if !s.is("integer") && !s.is("number") || r.media != "application/json" {
				return notApplicable
			}
			return verbatim(pick(g, "NaN", "Infinity", "-Infinity", "0x10", "010", "+1", "1.", ".5", "1e", "--1", "1_000", "１"))
		})
	},
	"nesting": func(g *generator, r *request) bool {
		if r.media != "application/json" {
			return false
		}
		deep := pick(g, strings.Repeat("[", 9000)+strings.Repeat("]", 9000), strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000), strings.Repeat("[", 30000))
		return g.replaceMember(r, func(s *schema) any { return verbatim(deep) })
	},
	"missing member": func(g *generator, r *request) bool {
		s := g.bodySchema(r)
		if s == nil || len(s.Required) == 0 {
			return false
		}
		name := pick(g, s.Required...)
		r.body = r.body.(object).without(name)
		r.part, r.invalid = "body."+name, true
		return true
	},
	"extra member": func(g *generator, r *request) bool {
		s := g.bodySchema(r)
		if s == nil || s.AdditionalProperties != false {
			return false
		}
		name := pick(g, "extra", "", "__proto__", "constructor", "owner", "role", "roles", "is_admin", "id", "$ref", "a\x00b", "prompt\u200b")
		if len(s.Properties) > 0 && g.chance(0.4) {
			name = strings.ToUpper(pick(g, sortedKeys(s.Properties)...)) // encoding/json would accept upper and lower case
		}
		r.body = r.body.(object).with(name, g.characters(5))
		r.invalid = true
		return true
	},
	"duplicated key": func(g *generator, r *request) bool {
		s := g.bodySchema(r)
		o, _ := r.body.(object)
		if s == nil || len(o) == 0 {
			return false
		}
		again := pick(g, o...)
		r.body = slices.Insert(slices.Clone(o), g.IntN(len(o)+1), member{again.name, g.valid(s.Properties[again.name], again.name)})
		r.part, r.invalid = "body."+again.name, true
		return true
	},
	"NUL": func(g *generator, r *request) bool {
		return g.replaceText(r, func(text string) any { return text[:g.IntN(len(text)+1)] + "\x00" + text[len(text)/2:] })
	},
	"lone surrogate": func(g *generator, r *request) bool {
		if r.media != "application/json" {
			return false
		}
		ok := g.replaceText(r, func(string) any {
			return verbatim(`"a` + pick(g, `\ud800`, `\udfff`, `\udc00\ud800`, `\ud83d`, `\ud83d\u0041`, `\uD800\\uDC00`) + `b"`)
		})
		r.invalid = r.invalid || ok
		return ok
	},
	"invalid UTF-8": func(g *generator, r *request) bool {
		bad := pick(g, "\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf")
		ok := g.replaceText(r, func(text string) any {
			if r.media != "application/json" {
				return verbatim(text + bad)
			}
			return verbatim(`"abc` + bad + `defgh"`)
		})
		r.invalid = r.invalid || ok && r.media != multipartType // a file has any bytes
		return ok
	},
	"not JSON": func(g *generator, r *request) bool {
		if r.media != "application/json" {
			return false
		}
		text := r.content()
		r.raw = pick(g,
			append(slices.Clone(text), " x"...), append(slices.Clone(text), text...), append([]byte("\ufeff"), text...), text[:len(text)-1], append(slices.Clone(text), 0),
			append([]byte("/* */"), text...), bytes.ReplaceAll(text, []byte(`"`), []byte(`'`)), append(slices.Clone(text[:len(text)-1]), ",}"...),
			[]byte("{"), []byte("nul"), []byte("\x00"), []byte("\xff\xfe{\x00}\x00"), []byte("<prompt>a</prompt>"), []byte(`{"prompt"`))
		r.invalid = true
		return true
	},
	"top-level value": func(g *generator, r *request) bool {
		if r.media != "application/json" {
			return false
		}
		r.body = pick[any](g, nil, "text", int64(1), true, []any{}, []any{r.body}, verbatim(" null "))
		r.raw = []byte(encode(r.body))
		r.invalid = true
		return true
	},
	"no body": func(g *generator, r *request) bool {
		if r.op.RequestBody == nil || !r.op.RequestBody.Required {
			return false
		}
		r.raw = []byte{}
		r.invalid = r.media == "application/json" // an empty form is an object without members
		return true
	},
	"large body": func(g *generator, r *request) bool {
		if r.op.RequestBody == nil || r.media == multipartType { // a file has another limit, and what follows a form counts for nothing
			return false
		}
		sizes := []int{65 << 10, 100 << 10, 1 << 20}
		if strings.HasPrefix(r.op.path, "/v1/") && r.op.path != "/v1/responses/input_tokens" { // prompts of these may be as long as a context
			sizes = []int{1<<20 + 1<<10, 2 << 20}
		}
		r.raw = append(r.content(), bytes.Repeat([]byte(" "), pick(g, sizes...))...)
		r.invalid = true
		return true
	},
	"media type": func(g *generator, r *request) bool {
		if r.op.RequestBody == nil || r.media == multipartType { // without its boundary, a form is malformed
			return false
		}
		r.raw = r.content()
		r.media = pick(g, "text/plain", "application/xml", "application/cbor", "multipart/form-data", "multipart/form-data; boundary=x", "application/jsonx", "application/x-www-form-urlencode",
			"application/problem+json", "application", "/", ";", "application/json, text/plain", "*/*", "application/json/x", "image/png", `text/html; charset="`)
		r.invalid = true
		return true
	},
	"broken form": func(g *generator, r *request) bool {
		if r.media != "application/x-www-form-urlencoded" {
			return false
		}
		text := r.content()
		r.raw = append(slices.Clone(text), pick(g, "&a=%zz", "&%", "&a=%f", ";a=b", "&username=a&username=b", "&a=%ff", "&%ff=a", "&extra=1&extra=1")...)
		r.invalid = true
		return true
	},
	"query": func(g *generator, r *request) bool {
		var known []string
		for _, p := range r.op.Parameters {
			if p.In == "query" {
				known = append(known, p.Name)
			}
		}
		if len(known) > 0 && g.chance(0.5) {
			name := pick(g, known...)
			r.part = "query." + name
			r.query = append(r.without(name), [2]string{name, pick(g, "", " ", "x", "-2", "1.0", "1e1", "0x1", "+5", "１", "99999999999999999999", "\x00")})
			return true
		}
		if g.chance(0.5) {
			name := pick(g, append(known, "page")...)
			r.more = pick(g, name+"=1;"+name+"=2", name+"=%zz", "%", name+"=1&"+name+"=1", name, "&&", name+"==", name+"=5%00")
			malformed := strings.Contains(r.more, ";") || strings.HasSuffix(r.more, "%") || strings.HasSuffix(r.more, "%zz")
			r.invalid = malformed || strings.Count(r.more, name+"=1") == 2 // the schema decides whether NUL is valid
			return true
		}
		r.query = append(r.query, [2]string{pick(g, append(known, "page", "", "a[b]", "limit ", "Limit", "\xff", "__proto__")...) + pick(g, "x", "", "[]"), pick(g, "", "1", "\x00", "-1", "1e3", " 5", "0x5", "99999999999999999999", strings.Repeat("9", 3000), "1;2", "\xff", "a,b")})
		return true // the validator decides later whether the query is valid
	},
	"repeated parameter": func(g *generator, r *request) bool {
		var known []parameter
		for _, p := range r.op.Parameters {
			if p.In == "query" {
				known = append(known, p)
			}
		}
		if len(known) == 0 {
			return false
		}
		p := pick(g, known...)
		again := [2]string{p.Name, plain(g.valid(p.Schema, p.Name))} // the parameter is valid if it occurs once
		r.query = append(r.without(p.Name), again, again)
		r.part, r.invalid = "query."+p.Name, true
		return true
	},
	"id spelling": func(g *generator, r *request) bool {
		var known []parameter
		for _, p := range r.op.Parameters {
			if g.doc.resolve(p.Schema).Format == "uuid" {
				known = append(known, p)
			}
		}
		if len(known) == 0 {
			return false
		}
		p := pick(g, known...)
		id := pick(g, spellings(g.anyID())...)
		if p.In == "query" {
			r.query = append(r.without(p.Name), [2]string{p.Name, id})
		} else {
			r.path = slices.Clone(r.path)
			r.path[slices.Index(strings.Split(strings.TrimPrefix(r.op.path, "/"), "/"), "{"+p.Name+"}")] = id
		}
		r.part, r.invalid = p.In+"."+p.Name, true
		return true
	},
	"header": func(g *generator, r *request) bool {
		var known []parameter
		for _, p := range r.op.Parameters {
			if p.In == "header" {
				known = append(known, p)
			}
		}
		if len(known) == 0 {
			return false
		}
		p := pick(g, known...)
		s := g.doc.resolve(p.Schema)
		if i := slices.IndexFunc(r.header, func(h [2]string) bool { return h[0] == p.Name }); i >= 0 {
			r.header = slices.Delete(r.header, i, i+1)
		}
		value := pick(g, "", "x", "-2", "1.5", "+1", "1e1", "99999999999999999999", "0x5", "1,2", "\xff\xfe", "\"", strings.Repeat("a", 20000), "=;,")
		if value == "" && p.Name == "Last-Event-ID" {
			return false // an empty header counts as absent, which the document cannot express
		}
		r.header = append(r.header, [2]string{p.Name, value})
		r.part = "header." + p.Name
		r.invalid = s.is("integer") || s.MaxLength != nil && *s.MaxLength < len(value)
		return true
	},
	"path parameter": func(g *generator, r *request) bool {
		for i, segment := range strings.Split(strings.TrimPrefix(r.op.path, "/"), "/") {
			if !strings.HasPrefix(segment, "{") {
				continue
			}
			id := r.path[i]
			r.path = slices.Clone(r.path)
			r.path[i] = pick(g, "x", "0", "\x00", "%", "..;", "a/b", "..", "*", "'", `"`, cmp.Or(id[:max(1, len(id))-1], "x"), id+"0", strings.Repeat("a", 5000), "\xff", "-1")
			r.part, r.invalid = "path."+strings.Trim(segment, "{}"), true
			r.unknownRoute = r.path[i] == ".." // a reader of the document may take the path for a shorter one
			return true
		}
		return false
	},
	"no access token": func(g *generator, r *request) bool {
		i := slices.IndexFunc(r.header, func(h [2]string) bool { return h[0] == "Authorization" })
		if i < 0 {
			return false
		}
		r.header = slices.Clone(r.header)
		token := g.caller.access
		flipped := []byte(token)
		flipped[g.IntN(len(flipped))] ^= 1
		if g.chance(0.2) {
			r.header = slices.Delete(r.header, i, i+1)
		} else {
			r.header[i][1] = pick(g, "", "Bearer", "Bearer ", "Basic dTpw", "Bearer null", "Bearer "+string(flipped), token, "Bearer "+token+"x", "Bearer "+token[:len(token)-1], "Bearer\t"+token,
				"Bearer "+token+","+token, "Bearer "+g.caller.refresh, "Bearer "+strings.Repeat("A", 9000), "Bearer eyJhbGciOiJub25lIn0.e30.", "Token "+token, "Bearer \xff\xff")
		}
		r.unauthorized = true
		return true
	},
	"unknown route": func(g *generator, r *request) bool {
		switch g.IntN(3) {
		case 0:
			r.method = pick(g, "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "BREW")
		case 1:
			r.path = append(slices.Clone(r.path), pick(g, "x", "..", ".env", "", "%2e%2e", "\x00", "cancel"))
		default:
			r.path = []string{pick(g, "admin", "debug", "metrics", ".git", "v2", "\xff", "etc", "jobs ", "JOBS", "Users"), pick(g, "x", "config", "pprof", "")}
		}
		r.unknownRoute = true
		return true
	},
}

// spellings returns other ways to write a UUID. At least one UUID parser accepts each of
// them.
func spellings(id string) []string {
	return []string{"{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id + "\x00", id + " ", " " + id}
}

// notApplicable is the result for a schema to which a mutation does not apply.
var notApplicable = &struct{ int }{}

func (g *generator) bodySchema(r *request) *schema {
	if _, ok := r.body.(object); !ok {
		return nil
	}
	return g.doc.resolve(r.op.RequestBody.Content[r.media].Schema)
}

// replaceMember gives one member of the body a value that its schema does not allow.
func (g *generator) replaceMember(r *request, value func(*schema) any) bool {
	s := g.bodySchema(r)
	if s == nil || len(s.Properties) == 0 {
		return false
	}
	name := pick(g, sortedKeys(s.Properties)...)
	property := g.doc.resolve(s.Properties[name])
	v := value(property)
	if v == notApplicable {
		return false
	}
	if _, text := v.(string); r.media != "application/json" && property.is("string") && !text {
		if _, ok := v.(verbatim); !ok {
			return false // every value of a form is a string
		}
	}
	if r.media != "application/json" && len(property.Enum) == 0 && property.is("string") && (property.MaxLength == nil || len(plain(v)) <= *property.MaxLength) {
		return false
	}
	if r.media != "application/json" && plain(v) == "" && !slices.Contains(s.Required, name) {
		return false // an empty parameter counts as absent, which the document cannot express
	}
	r.body = r.body.(object).with(name, v)
	r.part, r.invalid = "body."+name, true
	return true
}

// replaceText replaces a string member of the body, or the content of a member that is a
// list of strings.
func (g *generator) replaceText(r *request, change func(text string) any) bool {
	s := g.bodySchema(r)
	if s == nil {
		return false
	}
	var texts []string
	for _, name := range sortedKeys(s.Properties) {
		if p := g.doc.first(s.Properties[name]); p.is("string") || p.is("array") && g.doc.resolve(p.Items).is("string") {
			texts = append(texts, name)
		}
	}
	if len(texts) == 0 {
		return false
	}
	name := pick(g, texts...)
	property := g.doc.first(s.Properties[name])
	list := property.is("array")
	if list {
		property = g.doc.resolve(property.Items)
	}
	text, _ := g.valid(property, name).(string)
	v := change(text)
	if list {
		v = []any{v}
	}
	r.body = r.body.(object).with(name, v)
	r.part = "body." + name
	return true
}

// outOfBounds returns a random value of the right type that is outside the bounds of the
// schema.
func (g *generator) outOfBounds(s *schema) any {
	var wrong []any
	if len(s.OneOf) > 0 {
		return notApplicable // what is outside of one form may be another
	}
	if len(s.Enum) > 0 {
		wrong = append(wrong, "", "another", strings.ToUpper(s.Enum[0].(string)), s.Enum[0].(string)+" ")
	}
	if s.is("string") && s.MaxLength != nil {
		wrong = append(wrong, strings.Repeat("é", *s.MaxLength+1), g.characters(*s.MaxLength+1+g.IntN(3000)))
	}
	if s.is("string") && s.MinLength != nil && *s.MinLength > 0 {
		wrong = append(wrong, g.characters(*s.MinLength-1))
	}
	if s.is("string") && s.Format != "" && s.Format != "password" && s.Format != "binary" {
		wrong = append(wrong, "x")
	}
	if s.is("integer") || s.is("number") {
		low, high := bounds(s)
		wrong = append(wrong, low-1, high+1, low-1e6, high*10+10)
		if s.ExclusiveMinimum != nil {
			wrong = append(wrong, low)
		}
		if s.is("integer") {
			wrong = append(wrong, low+0.5)
		}
	}
	if s.is("array") && s.MaxItems != nil {
		list := make([]any, *s.MaxItems+1+g.IntN(200))
		for i := range list {
			list[i] = g.valid(s.Items, "")
		}
		wrong = append(wrong, list)
	}
	if s.is("array") {
		item := g.doc.resolve(s.Items)
		if v := g.outOfBounds(item); v != notApplicable {
			wrong = append(wrong, []any{v})
		}
	}
	if len(wrong) == 0 {
		return notApplicable
	}
	return pick(g, wrong...)
}
