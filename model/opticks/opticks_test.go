package opticks

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"colophon/model"
	"colophon/model/gpt2"
)

// card returns MODEL_CARD.md.
func card(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("MODEL_CARD.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestModelCardHasTheDigestsOfAllFiles(t *testing.T) {
	want := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z.]+)` \\|.*\\| `([0-9a-f]{64})` \\|$").FindAllStringSubmatch(card(t), -1) {
		want[m[1]] = m[2]
	}
	names, err := fs.Glob(Files(), "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 4 || len(want) != len(names) {
		t.Errorf("%d embedded files, the card has %d", len(names), len(want))
	}
	for _, name := range names {
		b, err := fs.ReadFile(Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); got != want[name] {
			t.Errorf("%s has sha256 %s, the card says %q", name, got, want[name])
		}
	}
}

// MODEL_CARD.md must give the loss that the model has on the held-out text.
func TestModelCardHasTheMeasuredLoss(t *testing.T) {
	m := regexp.MustCompile(`\*\*([0-9.]+) nats per token, ([0-9.]+) bits per byte\*\*`).FindStringSubmatch(card(t))
	if m == nil {
		t.Fatal("the card does not give the loss")
	}
	e, err := gpt2.Load(Files(), gpt2.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	text, err := os.ReadFile("testdata/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	info := e.Info()
	ids := []int{info.EOS}
	for section := range strings.SplitSeq(string(text), "\f") {
		ids = append(append(ids, e.Encode(section)...), info.EOS)
	}

	var (
		group sync.WaitGroup
		rows  = (len(ids) - 1) / info.Context
		nats  = make([]float64, rows)
		errs  = make([]error, rows)
		bytes int
	)
	for i := range rows {
		row := ids[i*info.Context : (i+1)*info.Context+1]
		for _, id := range row[1:] {
			if id != info.EOS {
				bytes += len(e.Decode([]int{id}))
			}
		}
		group.Go(func() { nats[i], errs[i] = loss(t, e, row) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, n := range nats {
		total += n
	}
	perToken := total / float64(rows*info.Context)
	perByte := total / math.Ln2 / float64(bytes)
	for i, got := range []float64{perToken, perByte} {
		if want, err := strconv.ParseFloat(m[i+1], 64); err != nil || !(math.Abs(got-want) < 0.001) {
			t.Errorf("loss is %.4f nats per token, %.4f bits per byte; the card says %s and %s", perToken, perByte, m[1], m[2])
		}
	}
}

// loss returns the sum of the losses, in nats, of all tokens of a row except the first
// token.
func loss(t *testing.T, e model.Engine, row []int) (float64, error) {
	s, err := e.Open(t.Context(), "")
	if err != nil {
		return 0, err
	}
	defer s.Close()
	total := 0.0
	for i, id := range row[:len(row)-1] {
		logits, err := s.Next(t.Context(), id)
		if err != nil {
			return 0, err
		}
		sum := 0.0
		for _, x := range logits {
			sum += math.Exp(float64(x))
		}
		total += math.Log(sum) - float64(logits[row[i+1]])
	}
	return total, nil
}
