package contract

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// attack is a text that is sent over a connection of its own. No HTTP client would send
// such a text.
type attack struct {
	kind     string
	method   string // method of the first request, because the answer to HEAD has no body
	text     string
	requests int  // number of requests in the text, for the report
	least    int  // the service must give at least this number of answers
	most     int  // the service must give at most this number of answers
	ends     bool // the client closes its side of the connection after the text
}

// String returns the text as a Go string, without access tokens.
func (a attack) String() string {
	text := bearer.ReplaceAllString(a.text, "${1}...")
	return a.kind + ": " + truncate(strconv.QuoteToASCII(text))
}

var bearer = regexp.MustCompile(`(Authorization: Bearer )[-\w.]{50,}`)

// next is a second request on the connection of an attack. The number of answers shows
// where the service saw the end of the first request.
const next = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// canary returns a random value that no answer may repeat.
func (g *generator) canary() string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	b := []byte("zq7")
	for range 10 {
		b = append(b, letters[g.IntN(len(letters))])
	}
	return string(b)
}

// parts are the parts of a valid request. The header does not tell the length of the
// body.
type parts struct {
	line, header string // each with its line breaks
	body         string
}

// length returns the request with a Content-Length header.
func (p parts) length() string {
	return p.line + p.header + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(p.body)) + p.body
}

// chunked returns the request with a chunked body.
func (p parts) chunked(chunks string) string {
	return p.line + p.header + "Transfer-Encoding: chunked\r\n\r\n" + chunks
}

// base returns a random valid request, with or without the caller's access token. The
// request never asks for an event stream.
func (h *hostile) base(g *generator) parts {
	r := h.compose(g)
	for h.costly(r) && !g.chance(0.02) {
		r = h.compose(g)
	}
	r.header = slices.DeleteFunc(r.header, func(h [2]string) bool { return h[0] == "Accept" || h[0] == "Authorization" && g.chance(0.3) })
	line, header, _ := strings.Cut(head(r.http(), "localhost"), "\n")
	return parts{line + "\n", header, string(r.content())}
}

// chunks writes a body as chunks of any sizes, which RFC 9112 allows.
func (g *generator) chunks(body string) string {
	var b strings.Builder
	size := func(n int) string {
		return pick(g, strconv.FormatInt(int64(n), 16), strings.ToUpper(strconv.FormatInt(int64(n), 16)), fmt.Sprintf("%08x", n)) +
			pick(g, "", "", ";", ";a=b", `;name="value"`, ";"+g.canary())
	}
	for body != "" {
		n := 1 + g.IntN(len(body))
		b.WriteString(size(n) + "\r\n" + body[:n] + "\r\n")
		body = body[n:]
	}
	return b.String() + "0\r\n" + pick(g, "", "", "X: "+g.canary()+"\r\n", "Content-Length: 5\r\n", "A: b\r\nC: d\r\n") + "\r\n"
}

// edit changes, removes or inserts some bytes.
func (g *generator) edit(text string) string {
	b := []byte(text)
	for range 1 + g.IntN(4) {
		if len(b) == 0 {
			break
		}
		at := g.IntN(len(b))
		switch g.IntN(4) {
		case 0:
			b[at] ^= 1 << g.IntN(8)
		case 1:
			b = slices.Delete(b, at, min(len(b), at+1+g.IntN(4)))
		case 2:
			b = slices.Insert(b, at, []byte(pick(g, "\r", "\n", "\r\n", "\x00", " ", "\t", ":", "\xff", "0", "chunked", "\r\n\r\n", "HTTP/1.1", "%", "{", "\""))...)
		default:
			b[at] = pick[byte](g, '\r', '\n', 0, ' ', ':', '9', 0xff, '"', '/')
		}
	}
	return string(b)
}

// once returns an attack that begins with one request. The service answers this request,
// and perhaps also the request next.
func once(text string, most int) attack {
	a := attack{method: http.MethodGet, text: text + next, requests: 2, least: 1, most: most}
	if len(a.text) > 4096 {
		a.least = 0 // net/http closes the connection with unread bytes, and the reset may overtake the answer
	}
	return a
}

// attacks has a function for each kind of attack. The function returns a random attack.
var attacks = map[string]func(*hostile, *generator) attack{
	"raw: chunked": func(h *hostile, g *generator) attack {
		p := h.base(g)
		return once(p.chunked(g.chunks(p.body)), 1) // the service closes the connection after a chunked request
	},
	"raw: malformed chunks": func(h *hostile, g *generator) attack {
		p := h.base(g)
		if g.chance(0.4) {
			a := once(p.chunked(g.edit(g.chunks(p.body+g.canary()))), 1)
			a.ends = true
			return a
		}
		a := once(p.chunked(pick(g, "", g.chunks(p.body)[:1], "5\r\nhello\r\n")+pick(g,
			"zz\r\n", "-1\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "\r\n", "fffffffffffffffff\r\n", "7fffffffffffffff\r\n", "ffffffffffffffff\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello\n0\r\n\r\n",
			"5 \r\nhello\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n", "5\n\nhello\r\n0\r\n\r\n", "5;\n\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5_0\r\n", "٥\r\nhello\r\n",
			"0\r\nno colon "+g.canary()+"\r\n\r\n", "0\r\n: x\r\n\r\n", "0\r\n folded\r\n\r\n", "0\r\nX: \x00\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n",
			"5;"+strings.Repeat("a", 4094), "5;"+strings.Repeat("a", 20000)+"\r\nhello\r\n0\r\n\r\n", "0\r\nX: "+strings.Repeat("a", 5000)+"\r\n\r\n", "0\r\n"+strings.Repeat("X: y\r\n", 3000)+"\r\n")), 1)
		a.ends = true
		return a
	},
	"raw: lengths": func(h *hostile, g *generator) attack {
		p := h.base(g)
		p.body += g.canary()
		n := len(p.body)
		wrong := pick(g, "+%d", "-%d", "0x%x", "%d;", "%d, %[1]d", "%d %[1]d", "%d.0", "%de0", "", "x%d", "99999999999999999999%d", "%d\r\nContent-Length: 0", "0\r\nContent-Length: %d", "%d\x00", "\x0b%d", "٥%d", "%d,", "\"%d\"", "%d\r\n 0", "9223372036854775808", "-9223372036854775808")
		if strings.Contains(wrong, "%") {
			wrong = fmt.Sprintf(wrong, n)
		}
		return once(p.line+p.header+"Content-Length: "+wrong+"\r\n\r\n"+p.body, 1)
	},
	"raw: same length twice": func(h *hostile, g *generator) attack { // RFC 9112 allows a service to take such a request
		p := h.base(g)
		n := len(p.body)
		return once(p.line+p.header+fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n", n, n)+p.body, 2)
	},
	"raw: both lengths": func(h *hostile, g *generator) attack {
		p := h.base(g)
		smuggled := "GET /" + g.canary() + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
		chunks := g.chunks(p.body) + pick(g, "", smuggled)
		lines := []string{fmt.Sprintf("Content-Length: %d\r\n", pick(g, 0, 4, len(p.body), len(chunks), 100000)), pick(g, "T", "t") + "ransfer-Encoding: " + pick(g, "chunked", "Chunked", "CHUNKED") + "\r\n"}
		g.Shuffle(2, func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		a := once(p.line+p.header+lines[0]+lines[1]+"\r\n"+chunks, 1)
		a.ends = g.chance(0.5)
		return a
	},
	"raw: transfer codings": func(h *hostile, g *generator) attack {
		p := h.base(g)
		coding := pick(g, "chunked, chunked", "identity", "identity, chunked", "chunked, identity", "gzip, chunked", "gzip", "xchunked", "chunkedx", "\x0bchunked", "\x00chunked", "chunked\x00", "chunked;a=b", "\"chunked\"", "'chunked'",
			"chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity", "identity\r\nTransfer-Encoding: chunked", "\r\n chunked", "chunked\r\n ,x", "", ",", ",chunked", "chunked,", "ｃhunked", "chunked "+g.canary(), g.canary())
		name := pick(g, "Transfer-Encoding:", "Transfer-Encoding: ", "transfer-encoding:\t", "TRANSFER-ENCODING: ")
		length := pick(g, "", fmt.Sprintf("Content-Length: %d\r\n", len(p.body)), "Content-Length: 0\r\n")
		a := once(p.line+p.header+length+name+coding+"\r\n\r\n"+g.chunks(p.body), 1)
		a.ends = true
		return a
	},
	"raw: almost a coding": func(h *hostile, g *generator) attack { // each name is malformed or is another header
		p := h.base(g)
		name := pick(g, "Transfer-Encoding : ", "Transfer_Encoding: ", " Transfer-Encoding: ", "Transfer-Encoding\t: ", "X-Transfer-Encoding: ", "Transfer-Encoding\x00: ", "Tran\r\nsfer-Encoding: ", "Transfer-Encoding\r\n: ", "Тransfer-Encoding: ")
		a := once(p.line+p.header+name+"chunked\r\n"+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(p.body))+p.body, 2)
		a.ends = true
		return a
	},
	"raw: line breaks": func(h *hostile, g *generator) attack {
		p := h.base(g)
		text := p.length()
		if g.chance(0.3) {
			text = p.chunked(g.chunks(p.body))
		}
		with, share := pick(g, "\n", "\r", "\r\r\n", "\n\r", "\r\n\r\n", "\r\n ", "\x85", "\u2028"), pick(g, 1.0, 0.3)
		var b strings.Builder
		for line := range strings.SplitAfterSeq(text, "\r\n") {
			if cut, ok := strings.CutSuffix(line, "\r\n"); ok && g.chance(share) {
				line = cut + with
			}
			b.WriteString(line)
		}
		return attack{method: http.MethodGet, text: b.String() + next, requests: 2, most: 3, ends: true}
	},
	"raw: headers": func(h *hostile, g *generator) attack {
		p := h.base(g)
		canary := g.canary()
		line := pick(g, canary, ": "+canary, " "+canary+": folded", "\t"+canary, "X\x00: "+canary, "X: \x00"+canary, "X: \x7f"+canary, canary+" y: 1", "Ünï: "+canary, "X: \xff\xfe"+canary, canary+": 1",
			"Host: "+canary, "Host: localhost", "Connection: Host", "Connection: "+canary, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
			"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings", "Upgrade: "+canary+"\r\nConnection: upgrade", "Expect: 100-continue", "Expect: "+canary,
			"Content-Encoding: gzip", "Content-Encoding: "+canary, "Trailer: Content-Length", "TE: trailers, "+canary, "Range: bytes=0-", "Range: bytes="+strings.Repeat("0-,", 2000)+"0-", "X-HTTP-Method-Override: DELETE",
			"X-Forwarded-For: "+canary, "X-Forwarded-For: "+strings.Repeat("1.1.1.1, ", 500), "X-Forwarded-Host: "+canary, "X-Original-URL: /users", "Forwarded: for="+canary, "Origin: https://"+canary+".example", "Sec-Fetch-Site: cross-site", "Origin: "+canary,
			"Authorization: Basic "+canary, "Authorization: Bearer "+canary, "Authorization: "+strings.Repeat("Bearer ", 500), "Cookie: "+strings.Repeat("a=b; ", 2000), "Content-Type: text/"+canary, "Content-Type: application/json; charset="+canary,
			"Idempotency-Key: "+canary, "Idempotency-Key: \"\xff\"", "Last-Event-ID: "+canary, "Last-Event-ID: 9223372036854775808", "If-None-Match: \""+canary+"\"", "If-None-Match: "+strings.Repeat("\"a\", ", 3000), "Prefer: wait=99999999999999999999", "Prefer: "+canary,
			"Accept: "+canary, "Accept: "+strings.Repeat("a/b;q=0.5,", 1500), "Accept: */*;q=-1", "X-Request-Id: "+canary, "Traceparent: 00-"+canary, "Keep-Alive: timeout="+canary, "Max-Forwards: 0", "If-Modified-Since: "+canary, "Proxy-Connection: keep-alive", "Accept-Encoding: gzip;q=x, "+canary)
		return once(p.line+pick(g, p.header+line+"\r\n", line+"\r\n"+p.header)+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(p.body))+p.body, 2)
	},
	"raw: targets": func(h *hostile, g *generator) attack {
		p := h.base(g)
		canary := g.canary()
		method := pick(g, "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", "get", "G E T", "", "\x00", "GET\t", "GÉT", "("+canary+")", canary, "M-SEARCH", strings.Repeat("A", 5000))
		target := pick(g, "*", "", "/", "//", "/../../etc/passwd", "/jobs/../users", "/%2e%2e/"+canary, "/"+canary, "/%00", "/%", "/%zz"+canary, "/%ff", "/\xff"+canary, "/\u202e", "http://"+canary+"/", "http://localhost/users/me", "https://localhost:0/jobs", "http:///", "http://[::1", "http://a:b@localhost/"+canary,
			canary, canary+":443", "localhost:443", "\\"+canary, "/jobs\\..", "/jobs;"+canary, "/jobs?"+canary, "/jobs#"+canary, "/jobs?a=%zz", "/jobs?a=1;b=2", "/jobs/ /events", "/jobs/"+canary+"/events", "/jobs/%2F", "/users/me%00", "/"+strings.Repeat("a/", 3000), "/"+strings.Repeat("../", 1000), "/?"+strings.Repeat("&", 9000), "/JOBS", "/jobs/", "/docs/"+canary, "/docs/../"+canary, "/openapi.json?"+canary, "javascript:alert(1)", "data:,"+canary, "/history?limit="+strings.Repeat("9", 400), "/metrics", "/debug/pprof/")
		version := pick(g, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/1.10", "HTTP/01.1", "http/1.1", "HTTP/1", "HTTP/ 1.1", "HTTPS/1.1", "", canary, "HTTP/9.9", "HTTP/-1.1", "HTTP/1.1 x")
		hosts := pick(g, "Host: localhost\r\n", "Host: localhost\r\n", "Host: localhost\r\n", "", "Host:\r\n", "Host: a b\r\n", "Host: "+canary+"\r\n", "Host: localhost:99999999\r\n", "Host: [::1\r\n", "Host: localhost@"+canary+"\r\n", "Host: \xff\r\n", "Host: localhost/"+canary+"\r\n", "Host: localhost\r\nHost: localhost\r\n", "Host: 127.0.0.1.\r\n", "Host: LOCALHOST\r\n", "Host: localhost,"+canary+"\r\n")
		_, rest, _ := strings.Cut(p.header, "\r\n") // the header without Host
		return once(method+" "+target+" "+version+"\r\n"+hosts+rest+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(p.body))+p.body, 2)
	},
	"raw: HEAD": func(h *hostile, g *generator) attack {
		p := h.base(g)
		_, target, _ := strings.Cut(p.line, " ")
		p.line = "HEAD " + target
		a := once(p.length(), 2)
		a.method = http.MethodHead
		return a
	},
	"raw: old versions": func(h *hostile, g *generator) attack {
		p := h.base(g)
		p.line = strings.Replace(p.line, "HTTP/1.1", pick(g, "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/0.9", "HTTP/2.0"), 1)
		text := pick(g, p.length(), p.chunked(g.chunks(p.body)), strings.Replace(p.length(), "Host: localhost\r\n", "Connection: keep-alive\r\n", 1))
		return once(text, 2)
	},
	"raw: oversized": func(h *hostile, g *generator) attack {
		p := h.base(g)
		n := pick(g, 4<<10, 33<<10, 70<<10, 300<<10)
		switch fill := strings.Repeat(g.canary(), n/12); g.IntN(8) {
		case 0:
			p.header += "X: " + fill + "\r\n"
		case 1:
			p.header += strings.Repeat("X"+g.canary()+": 1\r\n", n/17)
		case 2:
			p.line = "GET /jobs?" + strings.Repeat("limit=1&", n/8) + " HTTP/1.1\r\n"
		case 3:
			p.line = "GET /" + fill + " HTTP/1.1\r\n"
		case 4:
			p.line = fill + " / HTTP/1.1\r\n"
		case 5:
			p.body = pick(g, fill, `{"prompt":"`+fill+`"}`, strings.Repeat("[", n), strings.Repeat(`{"a":`, n/5), `{"`+strings.Repeat(`a":1,"`, n/6)+`"}`, "9"+strings.Repeat("0", n), strings.Repeat("username=a&", n/11))
		case 6:
			return attack{method: http.MethodGet, text: p.chunked(strings.Repeat("1\r\n \r\n", n/6)) + next, requests: 2, most: 1, ends: true}
		default:
			return attack{method: http.MethodGet, text: p.chunked(strings.Repeat("1;"+fill[:100]+"\r\n \r\n", n/106)) + next, requests: 2, most: 1, ends: true}
		}
		return attack{method: http.MethodGet, text: p.length() + next, requests: 2, most: 2, ends: true} // a reset of the connection may overtake the answer
	},
	"raw: truncated": func(h *hostile, g *generator) attack {
		p := h.base(g)
		text := pick(g, p.length(), p.chunked(g.chunks(p.body)))
		return attack{method: http.MethodGet, text: text[:g.IntN(len(text))], requests: 1, most: 1, ends: true}
	},
	"raw: pipelined": func(h *hostile, g *generator) attack {
		n := 2 + g.IntN(15)
		var b strings.Builder
		for range n - 1 {
			b.WriteString(h.base(g).length())
		}
		return attack{method: http.MethodGet, text: b.String() + next, requests: n, least: n, most: n}
	},
	"raw: edited": func(h *hostile, g *generator) attack {
		p := h.base(g)
		text := pick(g, p.length(), p.chunked(g.chunks(p.body)))
		return attack{method: http.MethodGet, text: g.edit(text), requests: 1, most: 3, ends: true}
	},
	"raw: no HTTP": func(_ *hostile, g *generator) attack {
		random := make([]byte, g.IntN(3000))
		for i := range random {
			random[i] = byte(g.Uint32())
		}
		text := pick(g, string(random), "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+string(random), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "SSH-2.0-"+g.canary()+"\r\n", "*1\r\n$4\r\nPING\r\n", "EHLO "+g.canary()+"\r\n",
			"\x00\x00\x00\x08\x04\xd2\x16\x2f", strings.Repeat("\r\n", 1+g.IntN(200))+next, strings.Repeat("\n", 1+g.IntN(200)), strings.Repeat("A", 1+g.IntN(5000)), string(bytes.Repeat([]byte{0}, 1+g.IntN(5000))), "GET /"+g.canary()+"\r\n\r\n", "GET", " "+next, "\r\n"+next)
		return attack{method: http.MethodGet, text: text, requests: 1, most: 2, ends: true}
	},
}
