package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model/gpt2/hub"
	"colophon/model/modeltest"
)

// serveRepository serves files as the repository maker/tiny of a hub and returns the URL
// of the hub. The weights are stored with Git LFS.
func serveRepository(t *testing.T, files fstest.MapFS) string {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	mux := http.NewServeMux()
	mux.Handle("/maker/tiny/resolve/"+commit+"/", http.StripPrefix("/maker/tiny/resolve/"+commit+"/", http.FileServerFS(files)))
	mux.HandleFunc("/api/models/maker/tiny/revision/{revision}", func(w http.ResponseWriter, r *http.Request) {
		var siblings []any
		for name, f := range files {
			entry := map[string]any{"rfilename": name, "size": len(f.Data)}
			if strings.HasSuffix(name, ".safetensors") {
				entry["lfs"] = map[string]any{"sha256": fmt.Sprintf("%x", sha256.Sum256(f.Data)), "size": len(f.Data)}
			}
			siblings = append(siblings, entry)
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": siblings}); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// TestPulledRepositoryRunsByItsName pulls a repository whose weights are in several files.
// The name of the repository then selects the model, without the hub.
func TestPulledRepositoryRunsByItsName(t *testing.T) {
	n := modeltest.NewNetwork(map[string]any{"activation_function": "relu"})
	files := n.Shards(2)
	files["README.md"] = &fstest.MapFile{Data: []byte("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")}
	url := serveRepository(t, files)
	data := t.TempDir()
	for _, name := range []string{"maker/tiny", "maker/tiny@v1"} {
		if _, _, err := command(t, "", "model", "verify", "--data", data, name); err == nil || !strings.Contains(err.Error(), "colophon model pull ORG/NAME") {
			t.Errorf("%s before: %v", name, err)
		}
		out, _, err := command(t, "", "model", "pull", "--data", data, "--hf-endpoint", url, name)
		if err != nil || !strings.Contains(out, name+" is in ") || !strings.Contains(out, "commit 0123456789ab, weights sha256:") {
			t.Fatalf("%s: %s, %v", name, out, err)
		}
		if out, _, err = command(t, "", "model", "list", "--data", data); err != nil || !strings.Contains(out, "F32   40       mit") || strings.Count(out, "verified") != strings.Count(out, "maker/tiny") || !strings.Contains(out, name+" ") {
			t.Errorf("%s: %s, %v", name, out, err)
		}
		if out, _, err = command(t, "", "model", "verify", "--data", data, name); err != nil || strings.Count(out, "as at the first pull") != len(files) || !strings.Contains(out, "maker/tiny at revision 0123456789abcdef") {
			t.Errorf("%s: %s, %v", name, out, err)
		}
		const nowhere = "http://127.0.0.1:1"
		if _, _, err := command(t, "", "generate", "--data", data, "--hf-endpoint", nowhere, "--model", name, "--max-new-tokens", "5", "the dog"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out, _, err = command(t, "", "model", "logits", "--data", data, "--hf-endpoint", nowhere, "--model", name, "--weights", "f32", "--ids", "1")
		if err != nil || !strings.HasPrefix(out, `{"shape":[1,300],"logits":[[`) {
			t.Errorf("%s: %.80s, %v", name, out, err)
		}
	}
	// Weights that have changed must be refused when they are packed, here for a format that
	// was not used before. A pull must replace them.
	shard := filepath.Join(data, "models", "maker--tiny", "model-00002-of-00002.safetensors")
	if err := flip(shard); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, "", "generate", "--data", data, "--hf-endpoint", url, "--model", "maker/tiny", "--weights", "int8", "the dog"); err == nil || !strings.Contains(err.Error(), "the weights have the digest") {
		t.Errorf("changed weights: %v", err)
	}
	if out, _, err := command(t, "", "model", "list", "--data", data); err != nil || !strings.Contains(out, "damaged") {
		t.Errorf("changed weights: %s, %v", out, err)
	}
	if _, _, err := command(t, "", "model", "pull", "--data", data, "--hf-endpoint", url, "maker/tiny"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(shard); err != nil || string(b) != string(files["model-00002-of-00002.safetensors"].Data) {
		t.Errorf("the shard is not replaced: %v", err)
	}
}

// TestDirectoryIsVerifiedWithAllItsFiles prints the digest that --weights-digest requires.
func TestDirectoryIsVerifiedWithAllItsFiles(t *testing.T) {
	dir := t.TempDir()
	for name, f := range modeltest.NewNetwork(nil).Shards(2) {
		if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := command(t, "", "model", "verify", dir)
	if err != nil || strings.Count(out, "sha256:") != 7 {
		t.Fatalf("%s, %v", out, err)
	}
	_, rest, _ := strings.Cut(out, "all weights")
	digest := strings.Fields(rest)[0]
	if _, _, err := command(t, "", "generate", "--model", dir, "--weights-digest", digest, "--max-new-tokens", "3", "the"); err != nil {
		t.Error(err)
	}
}

// TestUnpinnedWeightsNeedADigestInProduction names a model whose digests are not known
// before it is pulled.
func TestUnpinnedWeightsNeedADigestInProduction(t *testing.T) {
	f := &modelFlags{}
	for model, want := range map[string]int{"opticks": 0, "gpt2": 0, "gpt2-medium": 1, "maker/tiny": 1} {
		f.Model = model
		if got := f.faults(hub.Releases()); len(got) != want {
			t.Errorf("%s: %q", model, got)
		}
	}
}

func TestTokenizeRefusesATextWithoutTokens(t *testing.T) {
	dir := t.TempDir()
	files := fstest.MapFS{"vocab.json": {Data: []byte(`{"a":0,"b":1}`)}, "merges.txt": {Data: nil}}
	for name, f := range files {
		if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, _, err := command(t, "ab", "model", "tokenize", "--model", dir); err != nil || out != "[0,1]\n" {
		t.Errorf("%s, %v", out, err)
	}
	if out, _, err := command(t, "abc", "model", "tokenize", "--model", dir); err == nil || out != "" || !strings.Contains(err.Error(), "no token for a byte") {
		t.Errorf("%s, %v", out, err)
	}
}
