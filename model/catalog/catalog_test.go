package catalog

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model/kernel"
	"colophon/model/opticks"
)

func TestNamesAreFoundBeforeDirectories(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir(BuiltIn, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := Find(BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Tokenizer(); err != nil {
		t.Errorf("%s is not the embedded model: %v", BuiltIn, err)
	}
	if m, err = Find("./" + BuiltIn); err != nil || m.Name != BuiltIn {
		t.Fatalf("%+v: %v", m, err)
	}
	if _, _, err := m.Tokenizer(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("./%s is not the empty directory: %v", BuiltIn, err)
	}
}

func TestUnknownNameListsTheKnownOnes(t *testing.T) {
	_, err := Find("gpt9")
	if e, ok := errors.AsType[*NotFoundError](err); !ok || e.Name != "gpt9" || !strings.Contains(err.Error(), BuiltIn) {
		t.Errorf("%v", err)
	}
}

func TestWeightsOfAnotherDigestAreRefused(t *testing.T) {
	m, err := Find(BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	_, digest, err := DigestOf(m.Files, "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	m.Digest = "sha256:" + digest
	e, err := m.LoadWeights(LoadOptions{})
	if err != nil {
		t.Fatalf("the right digest: %v", err)
	}
	e.Close()
	m.Digest = "sha256:" + strings.Repeat("0", 64)
	if e, err := m.LoadWeights(LoadOptions{}); err == nil || !strings.Contains(err.Error(), digest) {
		t.Errorf("loaded as %v: %v", e, err)
	}
}

func TestVerifyJoinsTheProblemsOfAllFiles(t *testing.T) {
	files := fstest.MapFS{}
	for _, name := range Files(opticks.Files()) {
		b, err := fs.ReadFile(opticks.Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: b}
	}
	m := Model{Name: "copy", From: "copy", Files: files}
	if _, err := m.Verify(context.Background()); err != nil {
		t.Fatalf("an intact model: %v", err)
	}
	files["vocab.json"] = &fstest.MapFile{Data: []byte("{")}
	files["model.safetensors"] = &fstest.MapFile{Data: files["model.safetensors"].Data[:100]}
	_, err := m.Verify(context.Background())
	if err == nil || !strings.Contains(err.Error(), "vocab.json") || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("two damaged files: %v", err)
	}
}

func TestWeightsDigestIsThatOfTheEngine(t *testing.T) {
	m, err := Find(BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.LoadWeights(LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if digest, err := m.WeightsDigest(); err != nil || digest != e.Info().Digest() || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("%q, %v; the engine has %q", digest, err, e.Info().Digest())
	}
	m.Digest = "sha256:pinned"
	if digest, err := m.WeightsDigest(); err != nil || digest != m.Digest {
		t.Errorf("%q, %v", digest, err)
	}
	if digest, err := (Model{Files: fstest.MapFS{}}).WeightsDigest(); err != nil || digest != "" {
		t.Errorf("without weights: %q, %v", digest, err)
	}
}

func TestDigestIsSHA256InHex(t *testing.T) {
	for text, ok := range map[string]bool{
		"sha256:" + strings.Repeat("0a", 32): true, "sha256:" + strings.Repeat("0A", 32): true,
		"": false, "sha256:": false, strings.Repeat("0a", 32): false, "sha256:" + strings.Repeat("0a", 31): false, "sha256:" + strings.Repeat("0g", 32): false, "md5:" + strings.Repeat("0a", 32): false,
	} {
		var d Digest
		if err := d.UnmarshalText([]byte(text)); (err == nil) != ok || ok && d != Digest("sha256:"+strings.Repeat("0a", 32)) {
			t.Errorf("%q: %s, %v", text, d, err)
		}
	}
}

// TestPackedWeightsAreKept loads a model whose packed weights are kept, as those of a pulled
// model are. They must be read, replaced when they are damaged, and kept for each format. If
// they cannot be written, the model must load all the same.
func TestPackedWeightsAreKept(t *testing.T) {
	m, err := Find(BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	if m.Digest, err = m.WeightsDigest(); err != nil {
		t.Fatal(err)
	}
	var notes []string
	m.note = func(text string) { notes = append(notes, text) }
	m.packed = filepath.Join(t.TempDir(), packedDir, "opticks")
	load := func(weights kernel.Format) {
		t.Helper()
		e, err := m.Load(LoadOptions{Weights: weights})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if e.Info().Digest() != m.Digest {
			t.Errorf("loaded %s", e.Info().Weights)
		}
	}
	for _, weights := range []kernel.Format{kernel.F16, kernel.Int8} {
		path := m.packed + "." + weights.String()
		load(weights)
		first, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		load(weights)
		if again, err := os.Stat(path); err != nil || !os.SameFile(first, again) {
			t.Errorf("%s: written again, %v", weights, err)
		}
		if len(notes) > 0 {
			t.Errorf("%s: %q", weights, notes)
		}
		if err := os.Truncate(path, first.Size()-1); err != nil {
			t.Fatal(err)
		}
		load(weights)
		if again, err := os.Stat(path); err != nil || again.Size() != first.Size() {
			t.Errorf("%s: not written again, %v", weights, err)
		}
		if len(notes) != 1 || !strings.Contains(notes[0], path) || !strings.HasSuffix(notes[0], "packing the weights again") {
			t.Errorf("%s: %q", weights, notes)
		}
		notes = nil
	}
	m.packed = filepath.Join(m.packed+".int8", "in-a-file") // as with a directory that may not be written
	load(kernel.F16)
	if len(notes) != 2 || !strings.HasSuffix(notes[1], "the next start packs them again") {
		t.Errorf("%q", notes)
	}
}
