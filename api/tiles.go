package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const (
	textType = "text/plain; charset=utf-8"

	// forever is the Cache-Control of what never changes.
	forever = "public, max-age=31536000, immutable"

	// checkpointAge is the Cache-Control of what may change each second.
	checkpointAge = "public, max-age=1"

	// keyAge is the Cache-Control of the log's keys, which change when they rotate.
	keyAge = "public, max-age=60"
)

// textOutput is a plain text.
type textOutput struct {
	ContentType  string `header:"Content-Type"`
	CacheControl string `header:"Cache-Control" doc:"How long the answer may be cached."`
	Body         []byte
}

// log serves the log of events as a tiled transparency log (c2sp.org/tlog-tiles).
func (s *server) log(mux *routes) {
	text := func(description, example string) map[string]*huma.Response {
		return map[string]*huma.Response{"200": {Description: description, Content: map[string]*huma.MediaType{
			textType: {Schema: &huma.Schema{Type: huma.TypeString}, Example: example},
		}}}
	}
	register(s, huma.Operation{
		OperationID: "log-checkpoint", Method: http.MethodGet, Path: "/log/checkpoint", Tags: []string{"log"},
		Summary: "Get the latest checkpoint of the log",
		Description: "The number of events of the whole service and the root of their Merkle tree, signed (c2sp.org/tlog-checkpoint). " +
			"Tiles of the tree are at /log/tile/<L>/<N>[.p/<W>] and entries at /log/tile/entries/<N>[.p/<W>], as c2sp.org/tlog-tiles has them. " +
			"An entry is the SHA-256 of an event's payload: it says nothing of the event, and everybody who has the event can find it.",
		Responses: text("A signed note.", "log.example\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— log.example Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"),
		Errors:    []int{http.StatusNotFound},
		Metadata:  limited("log"),
	}, func(ctx context.Context, _ *struct{}) (*textOutput, error) {
		if s.PrivateLog {
			return nil, noSuchRoute()
		}
		checkpoint, err := s.Ledger.Checkpoint(ctx)
		return &textOutput{textType, checkpointAge, []byte(checkpoint)}, err
	})
	register(s, huma.Operation{
		OperationID: "log-key", Method: http.MethodGet, Path: "/log/key", Tags: []string{"log"},
		Summary: "Get the keys that sign the log's checkpoints",
		Description: "One key in each line, the newest first, in the form NAME+HASH+KEY of signed notes. While a key rotates, both keys sign. " +
			"Get the keys once, from a source that you trust, and keep them: a key that comes with a checkpoint proves nothing.",
		Responses: text("The keys.", "log.example+033de0ae+Ac4zctda0e5eza8HJyk9SxEdh+s3Ux18htTTAD8OuAn8\n"),
		Errors:    []int{http.StatusNotFound},
		Metadata:  limited("log"),
	}, func(ctx context.Context, _ *struct{}) (*textOutput, error) {
		if s.PrivateLog {
			return nil, noSuchRoute()
		}
		keys, err := s.Ledger.Keys(ctx)
		return &textOutput{textType, keyAge, []byte(strings.Join(append(keys, ""), "\n"))}, err
	})
	mux.HandleFunc("GET /log/tile/{level}/{path...}", s.tile)
	s.counted["GET /log/tile/{level}/{path...}"] = true
}

// tile serves a tile or an entry bundle.
func (s *server) tile(w http.ResponseWriter, r *http.Request) {
	if refused := s.takeOfNetwork(r.Context(), w.Header(), s.Limits.Log); refused != nil {
		s.answer(w, r, refused)
		return
	}
	n, width, ok := parseTile(r.PathValue("path"))
	if !ok || s.PrivateLog {
		s.answer(w, r, noSuchRoute())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	var content []byte
	var err error
	if level := r.PathValue("level"); level == "entries" {
		content, err = s.Ledger.Entries(ctx, n, width)
	} else {
		l, ok := decimal(level, 0, 63)
		if !ok {
			s.answer(w, r, noSuchRoute())
			return
		}
		content, err = s.Ledger.Tile(ctx, l, n, width)
	}
	if err != nil {
		s.answer(w, r, s.problemOf(r.Context(), err))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.Header().Set("Cache-Control", forever)
	_, _ = w.Write(content) // an error means that the client has disconnected
}

// parseTile reads the number and the width of a tile from the end of its path, such as
// x001/x234/067.p/8. Each tile has one path.
func parseTile(path string) (n int64, width int, ok bool) {
	path, partial, isPartial := strings.Cut(path, ".p/")
	width = 256
	if isPartial {
		if width, ok = decimal(partial, 1, 255); !ok {
			return 0, 0, false
		}
	}
	groups := strings.Split(path, "/")
	if len(groups) > 6 || groups[0] == "x000" {
		return 0, 0, false
	}
	for i, group := range groups {
		digits := group
		if i < len(groups)-1 {
			if digits, ok = strings.CutPrefix(group, "x"); !ok {
				return 0, 0, false
			}
		}
		if len(digits) != 3 || strings.Trim(digits, "0123456789") != "" {
			return 0, 0, false
		}
		n = n*1000 + int64(digits[0]-'0')*100 + int64(digits[1]-'0')*10 + int64(digits[2]-'0')
	}
	return n, width, true
}

// decimal reads a number without leading zeros.
func decimal(text string, least, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= least && n <= most && strconv.Itoa(n) == text
}
