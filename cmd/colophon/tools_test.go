package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// command runs a command of the program to its end and returns the command's output.
func command(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err = run(t.Context(), args, noEnvironment, strings.NewReader(stdin), &out, &errOut)
	return out.String(), errOut.String(), err
}

// generate runs `colophon generate` and returns its text.
func generate(t *testing.T, flags ...string) string {
	t.Helper()
	args := append([]string{"generate", "--seed", "7", "--max-new-tokens", "20", "The rays of light"}, flags...)
	out, _, err := command(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSameSeedGeneratesTheSameText(t *testing.T) {
	first, second := generate(t), generate(t)
	if first != second || !strings.HasPrefix(first, "The rays of light") || len(first) < 30 {
		t.Errorf("the same seed gave %q and %q", first, second)
	}
}

func TestDecodeReversesTokenize(t *testing.T) {
	for _, text := range []string{"", "The Rays of Light,\n\twhich differ. 😀 é", "<|endoftext|>"} {
		ids, _, err := command(t, text, "model", "tokenize")
		if err != nil {
			t.Fatal(err)
		}
		back, _, err := command(t, ids, "model", "tokenize", "--decode")
		if err != nil || back != text {
			t.Errorf("%q became %s and then %q, %v", text, ids, back, err)
		}
	}
	for _, bad := range []string{"", "17", "[99999999]", "[-1]", `["a"]`} {
		if out, _, err := command(t, bad, "model", "tokenize", "--decode"); err == nil {
			t.Errorf("%q was decoded to %q", bad, out)
		}
	}
}

// TestLogitsAgreeWithReferenceVectors runs a model that has no tokenizer. The logits must
// agree with the reference vectors.
func TestLogitsAgreeWithReferenceVectors(t *testing.T) {
	tiny := filepath.Join("..", "..", "model", "gpt2", "testdata", "tiny")
	raw, err := os.ReadFile(filepath.Join(tiny, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Cases []struct {
			Name   string
			IDs    []int `json:"input_ids"`
			Offset int   `json:"logits_offset_bytes"`
			Shape  []int `json:"logits_shape"`
		}
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(tiny, "logits.f32"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range golden.Cases {
		ids := strings.Trim(strings.ReplaceAll(fmt.Sprint(c.IDs), " ", ","), "[]")
		out, _, err := command(t, "", "model", "logits", "--weights", "f32", "--model", tiny, "--ids", ids)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Shape  []int
			Logits [][]float32
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got.Shape) != fmt.Sprint(c.Shape) || len(got.Logits) != c.Shape[0] {
			t.Fatalf("%s: shape %v, want %v", c.Name, got.Shape, c.Shape)
		}
		at := c.Offset
		for i, row := range got.Logits {
			for j, logit := range row {
				w := math.Float32frombits(binary.LittleEndian.Uint32(want[at:]))
				if at += 4; math.Abs(float64(logit-w)) > 1e-4 {
					t.Fatalf("%s: logit %d after token %d is %g, want %g", c.Name, j, i, logit, w)
				}
			}
		}
	}
	for _, bad := range []string{"256", "-1", "x", "1,,2", strings.Repeat("1,", 64) + "1"} {
		if _, _, err := command(t, "", "model", "logits", "--model", tiny, "--ids="+bad); err == nil {
			t.Errorf("--ids %s gave logits", bad)
		}
	}
}

func TestWrongArgumentsAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"dance"},
		{"up", "--lisen", "127.0.0.1:0"},
		{"up", "--limit-jobs", "5"},
		{"up", "--limit-jobs", "0/1m"},
		{"up", "--limit-jobs", "5/1"},
		{"up", "--engine", "steam"},
		{"up", "--weights", "lead"},
		{"--log-level", "loud", "up"},
		{"generate"},
		{"generate", "--model", filepath.Join(t.TempDir(), "nowhere"), "prompt"},
		{"model", "logits", "--ids", "one"},
		{"history", "rebuild", "--master-key", "short"},
	} {
		_, _, err := command(t, "", args...)
		if _, ok := errors.AsType[*usageError](err); !ok {
			t.Errorf("colophon %s: %v", strings.Join(args, " "), err)
		}
	}
	out, _, err := command(t, "", "--help")
	if err != nil || !strings.Contains(out, "up") {
		t.Errorf("--help: %v\n%s", err, out)
	}
}

func TestHistoryIsCheckedAndRebuiltWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	s := up(t)
	if out, _, err := command(t, "", append([]string{"migrate"}, s.data...)...); err != nil || !strings.Contains(out, "up to date") {
		t.Fatalf("%s, %v", out, err)
	}
	c := newUser(t, s.url, "rebuilder")
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	for _, args := range [][]string{{"--check"}, {}, {"--check"}} {
		out, _, err := command(t, "", slices.Concat([]string{"history", "rebuild"}, s.data, args)...)
		if err != nil || !strings.Contains(out, "1") {
			t.Errorf("rebuild %v: %s, %v", args, out, err)
		}
	}
	var history []struct{ Prompt string }
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 1 || history[0].Prompt != "Light" {
		t.Errorf("after the rebuild: %+v", history)
	}
}

// TestReadmeHasTheQuickStart requires that the README contains the text that `up` prints.
func TestReadmeHasTheQuickStart(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(fmt.Sprintf(quickStart, "http://127.0.0.1:8000")) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(string(readme), line) {
			t.Errorf("README.md lacks %q", line)
		}
	}
}
