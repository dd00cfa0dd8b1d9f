package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"colophon/model/gpt2"
	"colophon/model/modeltest"
)

const (
	firstCommit = "0123456789abcdef0123456789abcdef01234567"
	laterCommit = "89abcdef0123456789abcdef0123456789abcdef"
)

// repository makes the hub serve a repository maker/tiny at firstCommit. Weights are
// stored with Git LFS.
func (h *fakeHub) repository(files fstest.MapFS) Release {
	h.files = files
	h.prefix = "/maker/tiny/resolve/" + firstCommit + "/"
	h.list = func(w http.ResponseWriter, _ *http.Request) { h.writeList(w, firstCommit) }
	r, ok := Repository("maker/tiny")
	if !ok {
		panic("no repository")
	}
	h.release = r
	return r
}

// writeList answers as the hub does to the question for the files of a repository.
func (h *fakeHub) writeList(w http.ResponseWriter, commit string) {
	type file = map[string]any
	files := []file{{"rfilename": ".gitattributes", "size": 10}, {"rfilename": "onnx/model.onnx", "size": 99, "lfs": file{"sha256": digest(nil), "size": 99}}}
	for name, f := range h.files {
		entry := file{"rfilename": name, "size": len(f.Data)}
		if path.Ext(name) == ".safetensors" {
			entry["lfs"] = file{"sha256": digest(f.Data), "size": len(f.Data), "pointerSize": 134}
		}
		files = append(files, entry)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(file{"id": "maker/tiny", "sha": commit, "siblings": files})
}

// loads returns an error unless the pulled model has the files of the hub and can be run.
func (h *fakeHub) loads(models string, r Release) error {
	fsys := os.DirFS(r.Dir(models))
	for name, f := range h.files {
		if got, err := fs.ReadFile(fsys, name); err != nil || string(got) != string(f.Data) {
			return fmt.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(f.Data))
		}
	}
	checkpoint, err := gpt2.ReadCheckpoint(fsys)
	if err != nil {
		return err
	}
	defer checkpoint.Close()
	recorded, err := r.Recorded(models)
	if err != nil {
		return err
	}
	if got, err := checkpoint.Digest(); err != nil || got != recorded.Weights() || recorded.Revision != firstCommit {
		return fmt.Errorf("weights %s at %s, recorded are %s, %v", got, recorded.Revision, recorded.Weights(), err)
	}
	return nil
}

func TestFirstPullRecordsWhatItFinds(t *testing.T) {
	n := modeltest.NewNetwork(nil)
	tokenizer := n.Files()
	delete(tokenizer, "vocab.json")
	delete(tokenizer, "merges.txt")
	tokenizer["tokenizer.json"] = &fstest.MapFile{Data: modeltest.TokenizerJSON(300, nil)}
	card := n.Files()
	card["README.md"] = &fstest.MapFile{Data: []byte("---\nlicense: mit\n---\n")}
	card["generation_config.json"] = &fstest.MapFile{Data: []byte(`{"eos_token_id":[3,4]}`)}
	for name, files := range map[string]fstest.MapFS{"one file": n.Files(), "shards": n.Shards(3), "tokenizer.json": tokenizer, "card": card} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, h *fakeHub) {
				r := h.repository(files)
				models := t.TempDir()
				if err := errors.Join(Pull(t.Context(), models, r, h.options()), h.loads(models, r)); err != nil {
					t.Fatal(err)
				}
				// A later pull must fetch nothing, and ask for nothing, even if the branch has moved.
				h.list = func(w http.ResponseWriter, _ *http.Request) { h.writeList(w, laterCommit) }
				h.requests = nil
				if err := Pull(t.Context(), models, r, h.options()); err != nil || len(h.requests) != 0 {
					t.Errorf("a second pull: %v, %d requests", err, len(h.requests))
				}
				// A damaged file must be replaced by that of the recorded commit.
				damaged := "config.json"
				if err := os.WriteFile(filepath.Join(r.Dir(models), damaged), []byte("{}"), 0o644); err != nil {
					t.Fatal(err)
				}
				o := h.options()
				var notes []string
				o.Note = func(text string) { notes = append(notes, text) }
				recorded, err := Ensure(t.Context(), models, r, o)
				if err := errors.Join(err, h.loads(models, r)); err != nil || len(h.requests) != 1 || !recorded.Pinned() {
					t.Errorf("after damage: %v, %d requests", err, len(h.requests))
				}
				if len(notes) != 1 || !strings.Contains(notes[0], "is damaged") {
					t.Errorf("notes %q", notes)
				}
				if found := Pulled(models); len(found) != 1 || found[0].Name != "maker/tiny" || found[0].Weights() != recorded.Weights() {
					t.Errorf("pulled are %+v", found)
				}
			})
		})
	}
}

func TestFirstPullResumesTheWeights(t *testing.T) {
	bubble(t, nil, func(t *testing.T, h *fakeHub) {
		r := h.repository(modeltest.NewNetwork(nil).Files())
		models := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		h.answers = []http.HandlerFunc{stall(30, h.good)}
		o := h.options()
		small := len(h.files["config.json"].Data) + len(h.files["vocab.json"].Data) + len(h.files["merges.txt"].Data)
		o.Progress = func(done, _ int64) {
			if done >= int64(small)+30 {
				cancel()
			}
		}
		if err := Pull(ctx, models, r, o); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := os.Stat(r.Dir(models)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an incomplete model exists: %v", err)
		}
		h.requests = nil
		if err := errors.Join(Pull(t.Context(), models, r, h.options()), h.loads(models, r)); err != nil {
			t.Fatal(err)
		}
		if got := h.ranges(); !slices.Equal(got, []string{"30-"}) || len(h.requests) != 2 {
			t.Errorf("%d requests, ranges %q", len(h.requests), got)
		}
	})
}

func TestFirstPullsOfOneModelExcludeEachOther(t *testing.T) {
	bubble(t, nil, func(t *testing.T, h *fakeHub) {
		r := h.repository(modeltest.NewNetwork(nil).Files())
		models := t.TempDir()
		var pulls sync.WaitGroup
		for range 4 {
			pulls.Go(func() {
				if err := errors.Join(Pull(t.Context(), models, r, h.options()), h.loads(models, r)); err != nil {
					t.Error(err)
				}
			})
		}
		pulls.Wait()
		if n := len(h.requests); n != 1+len(h.files) {
			t.Errorf("%d requests, want one list and %d files", n, len(h.files))
		}
	})
}

// A revision has a directory of its own. The hub is asked for it by its name.
func TestRevisionIsPulledBesideTheMainBranch(t *testing.T) {
	bubble(t, nil, func(t *testing.T, h *fakeHub) {
		main := h.repository(modeltest.NewNetwork(nil).Files())
		models := t.TempDir()
		if err := Pull(t.Context(), models, main, h.options()); err != nil {
			t.Fatal(err)
		}
		for name, asked := range map[string]string{"maker/tiny@v1.2": "v1.2", "maker/tiny@refs/pr/3": "refs%2Fpr%2F3"} {
			r, ok := Repository(name)
			if !ok {
				t.Fatalf("%s is no repository", name)
			}
			h.requests = nil
			if err := errors.Join(Pull(t.Context(), models, r, h.options()), h.loads(models, r)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := h.requests[0].RequestURI; got != "/api/models/maker/tiny/revision/"+asked+"?blobs=true" {
				t.Errorf("%s: asked for %s", name, got)
			}
		}
		var names []string
		for _, r := range Pulled(models) {
			names = append(names, r.Name)
		}
		if !slices.Equal(names, []string{"maker/tiny", "maker/tiny@refs/pr/3", "maker/tiny@v1.2"}) {
			t.Errorf("pulled are %q", names)
		}
	})
}

func TestFirstPullRefusesWhatCannotBeRun(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(h *fakeHub)
		want    string
		fetched bool // whether the weights may have been fetched
	}{
		"pickle": {func(h *fakeHub) {
			h.files["pytorch_model.bin"] = h.files["model.safetensors"]
			delete(h.files, "model.safetensors")
		}, "there is only pytorch_model.bin, a pickle, which can run code when it is read, so it is not pulled", false},
		"no weights":    {func(h *fakeHub) { delete(h.files, "model.safetensors") }, "there is no model.safetensors and no model.safetensors.index.json", false},
		"no config":     {func(h *fakeHub) { delete(h.files, "config.json") }, "there is no config.json", false},
		"no tokenizer":  {func(h *fakeHub) { delete(h.files, "merges.txt") }, "the tokenizer is of another kind", false},
		"another model": {func(h *fakeHub) { h.files["config.json"].Data = []byte(`{"model_type":"llama"}`) }, `cannot be run: read config.json: model_type is "llama"`, false},
		"bad tokenizer": {func(h *fakeHub) { h.files["merges.txt"].Data = []byte("a\n") }, "cannot be run: read merges.txt: line 1", false},
		"other sizes":   {func(h *fakeHub) { h.files["config.json"].Data = []byte(`{}`) }, "config.json asks for [50257 768]", true},
		"missing shard": {func(h *fakeHub) {
			h.files = modeltest.NewNetwork(nil).Shards(2)
			delete(h.files, "model-00002-of-00002.safetensors")
		}, "names model-00002-of-00002.safetensors, which is not there", false},
		"hostile shard": {func(h *fakeHub) {
			h.files = modeltest.NewNetwork(nil).Shards(2)
			h.files["model.safetensors.index.json"].Data = []byte(`{"weight_map":{"a":"../../x.safetensors"}}`)
		}, `want the name of a safetensors file`, false},
		"unknown name": {func(h *fakeHub) { h.list = http.NotFound }, "is maker/tiny the name of a GPT-2 there, and main a revision?", false},
		"no list": {func(h *fakeHub) {
			h.list = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `[]`) }
		}, "the answer is not a list of files", false},
		"no commit": {func(h *fakeHub) {
			h.list = func(w http.ResponseWriter, _ *http.Request) { h.writeList(w, "../../main") }
		}, "the answer names no commit", false},
		"other weights": {func(h *fakeHub) {
			b := slices.Clone(h.files["model.safetensors"].Data)
			b[len(b)-1] ^= 1
			h.answers = []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { serve(w, r, b) }}
		}, "a file that is not the published one", true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, h *fakeHub) {
				r := h.repository(modeltest.NewNetwork(nil).Files())
				c.change(h)
				models := t.TempDir()
				err := Pull(t.Context(), models, r, h.options())
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "pull maker/tiny: ") {
					t.Errorf("%v, want %q", err, c.want)
				}
				if _, err := os.Stat(r.Dir(models)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the model exists: %v", err)
				}
				if got := h.ranges(); (len(got) > 0) != c.fetched {
					t.Errorf("weights were fetched as %q", got)
				}
			})
		})
	}
}

// A directory that no pull has made is left alone, and so is one with a record that cannot
// be read.
func TestFirstPullLeavesOtherDirectoriesAlone(t *testing.T) {
	bubble(t, nil, func(t *testing.T, h *fakeHub) {
		r := h.repository(modeltest.NewNetwork(nil).Files())
		models := t.TempDir()
		own := filepath.Join(r.Dir(models), "model.safetensors")
		if err := errors.Join(os.MkdirAll(filepath.Dir(own), 0o755), os.WriteFile(own, []byte("mine"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := Pull(t.Context(), models, r, h.options()); err == nil || !strings.Contains(err.Error(), "exists and was not pulled: remove it") {
			t.Errorf("%v", err)
		}
		for _, record := range []string{"{", "{}", `{"repository":"other/tiny","revision":"` + firstCommit + `","files":[{"name":"a","size":1,"sha256":"` + digest(nil) + `"}]}`} {
			if err := os.WriteFile(filepath.Join(r.Dir(models), recordFile), []byte(record), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := Pull(t.Context(), models, r, h.options()); err == nil || !strings.Contains(err.Error(), "to pull the model again") {
				t.Errorf("%s: %v", record, err)
			}
		}
		if b, err := os.ReadFile(own); err != nil || string(b) != "mine" || len(h.requests) != 0 {
			t.Errorf("%q, %v, %d requests", b, err, len(h.requests))
		}
	})
}

func TestRepositoryNamesCannotLeaveTheirDirectory(t *testing.T) {
	for name, want := range map[string]Release{
		"openai-community/gpt2":        {Name: "openai-community/gpt2", Repo: "openai-community/gpt2"},
		"a/b.c_d@main":                 {Name: "a/b.c_d@main", Repo: "a/b.c_d", Revision: "main"},
		"a/b@refs/pr/12":               {Name: "a/b@refs/pr/12", Repo: "a/b", Revision: "refs/pr/12"},
		"gpt2":                         {},
		"./gpt2":                       {},
		"/tmp/gpt2":                    {},
		"a/b/c":                        {},
		"a/..":                         {},
		"a/b@":                         {},
		"a/b@../c":                     {},
		"a/b@v1..v2":                   {},
		"a--b/c":                       {},
		"a/b@c/d":                      {},
		"a/b c":                        {},
		"a/b?x=1":                      {},
		"a/b@main@main":                {},
		strings.Repeat("a", 97) + "/b": {},
	} {
		got, ok := Repository(name)
		if ok != (want.Name != "") || got.Name != want.Name || got.Repo != want.Repo || got.Revision != want.Revision {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
}

// FuzzListing reads any bytes as an answer of the hub. Names and commits that it accepts
// are safe in paths.
func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"sha":"` + firstCommit + `","siblings":[{"rfilename":"config.json","size":2},{"rfilename":"model.safetensors","size":9,"lfs":{"sha256":"` + digest(nil) + `","size":9}}]}`))
	f.Add([]byte(`{"sha":"x","siblings":[{"rfilename":"../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		commit, files, err := parseListing(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(commit, "/.") {
			t.Fatalf("commit %q", commit)
		}
		for name, f := range files {
			if strings.ContainsAny(name, `/\`) || f.Size < 0 || f.SHA256 == "" && f.Size > maxPlain {
				t.Fatalf("accepted %+v", f)
			}
		}
	})
}

// FuzzRecord reads any bytes as a record. Names that it accepts are those of files in the
// same directory.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"repository":"a/b","revision":"` + firstCommit + `","files":[{"name":"config.json","size":2,"sha256":"` + digest(nil) + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		for _, f := range r.Files {
			if strings.ContainsAny(f.Name, `/\`) || f.Name == recordFile || f.Size < 0 || len(f.SHA256) != 64 {
				t.Fatalf("accepted %+v", f)
			}
		}
	})
}
