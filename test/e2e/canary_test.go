package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// canaries are secrets that occur nowhere else. The key of a secret is its description.
type canaries map[string]string

// forms returns a secret in every encoding that a log or a table may use. The key of a
// form is the name of the encoding.
func forms(secret string) map[string]string {
	quoted := strconv.QuoteToASCII(secret)
	asJSON, _ := json.Marshal(secret)
	all := map[string]string{
		"plain":           secret,
		"hex":             hex.EncodeToString([]byte(secret)),
		"HEX":             strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"in a query":      url.QueryEscape(secret),
		"in a path":       url.PathEscape(secret),
		"quoted by Go":    quoted[1 : len(quoted)-1],
		"escaped in JSON": string(asJSON[1 : len(asJSON)-1]),
	}
	// Base64 encodes three bytes at a time, so a secret inside a longer text has three
	// forms. The first and last characters of such a form also depend on the neighbouring
	// bytes, so they are cut off.
	for shift := range 3 {
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, shift), secret...))
			all[name+" "+strconv.Itoa(shift)] = text[(shift*8+5)/6 : len(text)-2]
		}
	}
	return all
}

// in returns the canaries that a text contains, in order. Each result has the description
// and the form of a canary.
func (c canaries) in(text []byte) (found []string) {
	for what, secret := range c {
		for form, written := range forms(secret) {
			if bytes.Contains(text, []byte(written)) {
				found = append(found, what+", "+form)
			}
		}
	}
	slices.Sort(found)
	return found
}

// inHex finds bytes in the text of a row. Postgres writes such bytes as \x and
// hexadecimal digits.
var inHex = regexp.MustCompile(`\\x((?:[0-9a-f]{2})+)`)

// rows returns every row of every table as a text. The raw bytes of the row follow the
// text.
func rows(t *testing.T, conn *pgx.Conn) map[string][][]byte {
	t.Helper()
	found, _ := conn.Query(t.Context(), `
		select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`)
	tables, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][][]byte{}
	for _, table := range tables {
		found, _ := conn.Query(t.Context(), `select r::text from `+table+` r`)
		texts, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			row := []byte(text)
			for _, m := range inHex.FindAllStringSubmatch(text, -1) {
				raw, _ := hex.DecodeString(m[1])
				row = append(append(row, ' '), raw...)
			}
			all[table] = append(all[table], row)
		}
	}
	return all
}

// brokenModel writes the built-in model with weights so large that their sums overflow.
// The program can load this model, but every job of the model fails.
func brokenModel(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../model/opticks")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "model.safetensors")
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	size := binary.LittleEndian.Uint64(file)
	header := bytes.ReplaceAll(file[8:8+size], []byte(`"F16"`), []byte(`"BF16"`))
	largest := []byte{0x7f, 0x7f} // largest finite number of BF16
	weights := bytes.Repeat(largest, len(file[8+size:])/len(largest))
	file = slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header, weights)
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSecretsAreStoredAndLoggedNowhere sends passwords, tokens and prompts that occur
// nowhere else, in valid and invalid requests. The database, the logs, the metrics and
// the files must not contain any of these secrets.
//
// security: ASVS 16.2.5, ASVS 16.5.1, LLM02:2025
func TestSecretsAreStoredAndLoggedNowhere(t *testing.T) {
	t.Parallel()
	data := pgtest.Dir(t)
	secrets := canaries{
		"the password":          "Zürich quetzal/feather+0x5eed",
		"the wrong password":    "Genève marabou/feather+0x5eed",
		"the next password":     "Aarau cassowary/feather=0x5eed",
		"the prompt":            "a peacock's öre & plume",
		"a prompt refused":      "an ibis' öre\u0000& plume",
		"a text to examine":     "a kingfisher's ärmel & plume",
		"a stop text":           "puffin? ünd",
		"a text to tokenize":    "spoonbill's <ünd>",
		"a model in a query":    "dotterel ä&b",
		"a text in a path":      "toucan ä/b",
		"a text in a query":     "hoopoe ä&b",
		"a text in a header":    "kookaburra=b/c",
		"half a JSON text":      "flamingö \"c",
		"the name of a file":    "oystercatcher's ö & plume.jsonl",
		"a custom id":           "corncrake's é & plume",
		"a line's prompt":       "a nuthatch's ö & plume",
		"a refused line":        "a bluethroat's ä\u0000& plume",
		"a malformed line":      "lapwing ö {b",
		"a batch's metadata":    "goosander's ü & plume",
		"a response's metadata": "merganser's ö & plume",
		"instructions":          "a redshank's ü & plume",
		"a webhook's URL":       "bittern-ä/ü&b",
		"an unknown token":      "crt_pelicanpelicanpelicanpelicanpelicanpelicanpel",
		"an access token's sig": "shoebill-shoebill-shoebill",
	}
	flags := []string{"up", "--listen", "127.0.0.1:0", "--data", data, "--no-rate-limits", "--log-level", "debug", "--admin-listen", "127.0.0.1:0"}
	quoted := func(what string) string { b, _ := json.Marshal(secrets[what]); return string(b) }
	p := programtest.Start(t, nil, flags...)
	c := anonymous(t, p.URL)
	var log bytes.Buffer
	stop := func(p *programtest.Process) {
		admin := regexp.MustCompile(`url=(http://\S+)/metrics`).FindStringSubmatch(p.Log())
		if admin == nil {
			t.Fatal("the log does not name the admin listener")
		}
		metrics := anonymous(t, admin[1]).Do("GET", "/metrics", "").Must(t, 200)
		log.Write(metrics.Body)
		p.Stop()
		log.WriteString(p.Log())
	}

	// These requests sign up and sign in with right, wrong and incomplete data.
	c.Do("POST", "/users", `{"username":"canary","password":`+quoted("the password")+`}`).Must(t, 200)
	c.Do("POST", "/users", `{"username":"canary","password":`+quoted("the wrong password")+`}`).Must(t, 409)
	c.Do("POST", "/users", `{"username":"x","password":`+quoted("the wrong password")+`}`).Must(t, 422)
	c.Do("POST", "/users", `{"username":"canary2","password":`+quoted("half a JSON text")[1:]).Must(t, 400)
	c.Form("/token", "username", "canary", "password", secrets["the wrong password"]).Must(t, 401)
	c.Form("/token", "username", "no such user", "password", secrets["the wrong password"]).Must(t, 401)
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", secrets["an unknown token"]).Must(t, 401)
	first := c.SignIn("canary", secrets["the password"])
	var second apitest.Tokens
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", first.Refresh).Must(t, 200).Into(t, &second)
	for what, token := range map[string]string{"first": first.Access, "second": second.Access} {
		parts := strings.Split(token, ".")
		secrets["the "+what+" access token"], secrets["the "+what+" access token's signature"] = token, parts[2]
	}
	secrets["the first refresh token"], secrets["the second refresh token"] = first.Refresh, second.Refresh
	c.Access = strings.Join([]string{"x", "y", secrets["an access token's sig"]}, ".")
	c.Do("GET", "/history", "").Must(t, 401)
	c.Access = second.Access
	var key struct{ Key string }
	c.Do("POST", "/keys", `{"name":"canary"}`).Must(t, 201).Into(t, &key)
	secrets["an API key"], secrets["a mistyped API key"] = key.Key[16:], key.Key[16:40]+"!"
	c.As(key.Key).Do("GET", "/history", "").Must(t, 200)
	c.As(key.Key[:16]+secrets["a mistyped API key"]).Do("GET", "/history", "").Must(t, 401)
	c.Form("/revoke", "token", key.Key).Must(t, 200)

	var hook, rotated struct{ ID, Secret string }
	c.Do("POST", "/webhooks", `{"url":"https://webhook.invalid/?a=`+url.QueryEscape(secrets["a webhook's URL"])+`"}`).Must(t, 201).Into(t, &hook)
	c.Do("POST", "/webhooks", `{"url":`+quoted("a webhook's URL")+`}`).Must(t, 422)
	c.Do("POST", "/webhooks/"+hook.ID+"/rotate", "").Must(t, 200).Into(t, &rotated)
	c.Do("POST", "/webhooks/"+hook.ID+"/ping", "").Must(t, 202)
	secrets["a webhook's secret"], secrets["a webhook's next secret"] = hook.Secret[6:], rotated.Secret[6:]

	// One job is completed, one is cancelled, one loses its client, and some are refused.
	var ended client.Job
	c.Do("POST", "/generate", `{"prompt":`+quoted("the prompt")+`,"max_length":60,"stop":[`+quoted("a stop text")+`]}`, "Idempotency-Key", secrets["a text in a header"]).Must(t, 200).Into(t, &ended)
	c.Do("POST", "/detect", `{"text":`+quoted("a text to examine")+`}`).Must(t, 200)
	c.Do("POST", "/detect", `{"text":`+quoted("a text to examine")+`,"key":""}`).Must(t, 422)
	words := strings.Fields(ended.Completion)
	secrets["the text"] = strings.Join(words[:min(5, len(words))], " ")
	follow(c, ended.ID, "", 0)
	cancelled := c.Submit(`{"prompt":` + quoted("the prompt") + `,"max_new_tokens":200}`)
	c.Do("POST", "/jobs/"+cancelled+"/cancel", "").Must(t, 200)
	c.Do("POST", "/jobs", `{"prompt":`+quoted("the prompt")+`}`, "Cancel-After", "1").Must(t, 202)
	ctx, disconnect := context.WithTimeout(t.Context(), 30*time.Millisecond) // ends before the text is complete
	_, _ = c.Send(ctx, "POST", "/generate", `{"prompt":`+quoted("the prompt")+`,"max_new_tokens":200}`)
	disconnect()
	c.Do("POST", "/generate", `{"prompt":`+quoted("a prompt refused")+`}`).Must(t, 422)
	c.Do("POST", "/generate", `{"prompt":`+quoted("half a JSON text")).Must(t, 400)
	c.Do("POST", "/tokenize", `{"text":`+quoted("a text to tokenize")+`}`).Must(t, 200)
	c.Do("POST", "/tokenize", `{"text":"","x":`+quoted("a text to tokenize")+`}`).Must(t, 422)
	c.Do("GET", "/jobs?model="+url.QueryEscape(secrets["a model in a query"]), "").Must(t, 200)
	c.Do("POST", "/generate", `{"prompt":"a","`+secrets["a text in a header"]+`":1}`).Must(t, 422)
	c.Do("POST", "/generate", `{"prompt":`+quoted("the prompt")+`}`, "Cancel-After", secrets["a text in a header"]).Must(t, 422)
	c.Do("GET", "/jobs/"+url.PathEscape(secrets["a text in a path"]), "").Must(t, 422)
	c.Do("GET", "/"+url.PathEscape(secrets["a text in a path"]), "").Must(t, 404)
	c.Do("GET", "/history?x="+url.QueryEscape(secrets["a text in a query"]), "").Must(t, 422)
	sendOpenAI(t, c, secrets)
	stop(p)

	// A process with a broken model continues on the same data, so that its job fails.
	p = programtest.Start(t, nil, append(flags, "--weights", "f32", "--model", brokenModel(t))...)
	c.URL = p.URL
	c.SignIn("canary", secrets["the password"])
	broken := c.Submit(`{"prompt":` + quoted("the prompt") + `}`)
	failed := follow(c, broken, "", 3)
	if last := failed[len(failed)-1]; last.Event != "job.failed" {
		t.Errorf("the broken model's job: %+v", failed)
	}
	c.Do("POST", "/jobs/"+broken+"/cancel", "").Must(t, 200)
	stop(p)

	conn, err := pgx.Connect(t.Context(), pgtest.OpenServer(t, filepath.Join(data, "postgres")).URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))

	seen := 0
	for table, texts := range rows(t, conn) {
		for _, text := range texts {
			seen++
			if found := secrets.in(text); found != nil {
				t.Errorf("%s has %v: %.300q", table, found, text)
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d rows in all tables", seen)
	}
	if found := secrets.in(log.Bytes()); found != nil || log.Len() < 2000 {
		t.Errorf("%d bytes of log have %v:\n%s", log.Len(), found, log.Bytes())
	}
	files := 0
	err = filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if entry != nil && entry.Name() == "data" && strings.HasSuffix(filepath.Dir(path), "postgres") {
				return fs.SkipDir // the test has already read the rows in these files
			}
			return err
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		files++
		b, err := os.ReadFile(path)
		if found := secrets.in(b); found != nil {
			t.Errorf("%s has %v", path, found)
		}
		return err
	})
	if err != nil || files < 2 {
		t.Errorf("%d files beside the database, %v", files, err)
	}
	t.Logf("%d canaries in %d forms: 0 in %d rows, %d bytes of log and metrics, and %d files", len(secrets), len(forms("x1y2z3")), seen, log.Len(), files)

	// The search must find a secret that is in a table.
	tables := map[string]string{}
	for what, secret := range secrets {
		table := fmt.Sprintf("planted_%d", len(tables))
		plant := fmt.Sprintf(`create table %s as select '{}'::jsonb || jsonb_build_object('x', $$%s$$::text) as doc, '\x%x'::bytea as raw`,
			table, strings.ReplaceAll(secret, "\x00", ""), secret)
		if _, err := conn.Exec(t.Context(), plant); err != nil {
			t.Fatal(err)
		}
		tables[what] = "public." + table
	}
	planted := rows(t, conn)
	for what, table := range tables {
		if found := secrets.in(planted[table][0]); len(found) == 0 {
			t.Errorf("%s is not found in a table", what)
		}
	}
}

// TestPlantedSecretsAreFound hides secrets in every form between other text. The search
// must find each of them.
func TestPlantedSecretsAreFound(t *testing.T) {
	t.Parallel()
	secrets := canaries{"a": "Zürich quetzal/feather+0x5eed", "b": "plain-but-long-enough"}
	for what, secret := range secrets {
		for _, around := range []string{"", "x", "xy", "xyz", "\x00\x01"} {
			raw := around + secret + around
			for form, text := range map[string]string{
				"plain": raw, "hex": hex.EncodeToString([]byte(raw)), "base64": base64.StdEncoding.EncodeToString([]byte(raw)), "base64url": base64.URLEncoding.EncodeToString([]byte(raw)),
				"query": url.QueryEscape(raw), "path": url.PathEscape(raw), "Go": strconv.Quote(raw), "ASCII": strconv.QuoteToASCII(raw),
			} {
				if !slices.ContainsFunc(secrets.in([]byte("some text "+text+" more text")), func(f string) bool { return strings.HasPrefix(f, what+",") }) {
					t.Errorf("%q as %s is not found", raw, form)
				}
			}
		}
	}
	if found := secrets.in([]byte("Zurich quetzal, and plain text but long enough")); found != nil {
		t.Errorf("found %v in a text without secrets", found)
	}
}
