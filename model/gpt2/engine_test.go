package gpt2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/model"
	"colophon/model/kernel"
	"colophon/model/modeltest"
)

// randomEngine returns an engine with the weights of randomCheckpoint.
func randomEngine(t testing.TB, c Config, opts Options) *Engine {
	t.Helper()
	ck := randomCheckpoint(c, 1)
	e, err := New(ck, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func everyFormat() []kernel.Format { return []kernel.Format{kernel.F32, kernel.F16, kernel.Int8} }

func randomIDs(rnd *rand.Rand, n, vocab int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = rnd.IntN(vocab)
	}
	return ids
}

func TestInfoNamesWeightsAndKernel(t *testing.T) {
	e := openEngine(t, tinyFiles("model.safetensors"), nil, Options{Name: "tiny"})
	want := model.Info{
		Name:    "tiny",
		Weights: "sha256:" + fileDigest(t, "testdata/tiny/model.safetensors") + "/f16",
		Kernel:  kernel.Fingerprint(kernel.F16), Context: 64, Vocab: 256, EOS: 255,
	}
	if !reflect.DeepEqual(e.Info(), want) {
		t.Errorf("%+v, want %+v", e.Info(), want)
	}
	if e.Encode("a") != nil || e.Decode([]int{1}) != nil {
		t.Error("Encode and Decode work without a tokenizer")
	}
}

func TestNewRefusesUnfitArguments(t *testing.T) {
	ck := randomCheckpoint(smallShape(), 1)
	if _, err := New(ck, nil, Options{Threads: -1}); err == nil {
		t.Error("New accepts negative threads")
	}
	ck.files[0].data = computedFile{} // an empty file, so that every read fails
	if _, err := New(ck, nil, Options{}); err == nil {
		t.Error("New accepts a file that ends early")
	}
	if _, err := New(scaledCheckpoint(smallShape(), 1, 1e6), nil, Options{}); err == nil || !strings.Contains(err.Error(), `tensor "wte.weight": weight`) || !strings.Contains(err.Error(), "use f32") {
		t.Errorf("weights too large for f16: %v", err)
	}
}

func TestNextRefusesInvalidTokens(t *testing.T) {
	modeltest.TestRefusals(t, randomEngine(t, smallShape(), Options{Threads: 2}))
}

func TestNextEachReturnsTheLogitsOfNext(t *testing.T) {
	e := randomEngine(t, smallShape(), Options{Threads: 2, Sequences: 2})
	modeltest.TestEach(t, e, randomIDs(rand.New(rand.NewPCG(5, 6)), e.info.Context, e.info.Vocab))
}

func TestOpenWaitsForRoom(t *testing.T) {
	e := randomEngine(t, smallShape(), Options{Threads: 1, Sequences: 2})
	a, b := modeltest.Open(t, e), modeltest.Open(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error)
	go func() {
		_, err := e.Open(ctx, "")
		opened <- err
	}()
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := e.Open(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	go func() {
		s, err := e.Open(t.Context(), "")
		if err == nil {
			defer s.Close()
			_, err = s.Next(t.Context(), 1)
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("Open does not wait for a third of two sequences: %v", err)
	default:
	}
	a.Close()
	if err := <-opened; err != nil {
		t.Errorf("after Close: %v", err)
	}
	b.Close()
	if len(e.slots) != 0 {
		t.Errorf("%d slots in use", len(e.slots))
	}
}

// New sequences must reuse the pages of closed sequences, and must never see the old
// contents of these pages. Memory must not grow with the number of sequences.
func TestPagesAreReused(t *testing.T) {
	c := smallShape()
	e := randomEngine(t, c, Options{Threads: 1, Sequences: 2})
	ids := randomIDs(rand.New(rand.NewPCG(1, 2)), c.Context, c.Vocab)
	want := alone(t, e, ids)
	for range 3 {
		if err := compare(e, "", ids, []int{70, len(ids)}, want, nil); err != nil {
			t.Fatal(err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if most := (c.Context + pageTokens - 1) / pageTokens; len(e.free) != most {
		t.Errorf("%d pages, want %d", len(e.free), most)
	}
}

// A cancelled call of Next must return. After Close, the pages and the slot of its
// sequence must be free. Other sequences must get the same logits as without the
// cancelled call.
func TestNextCanBeCancelled(t *testing.T) {
	c := smallShape()
	e := randomEngine(t, c, Options{Threads: 2, Sequences: 4})
	rnd := rand.New(rand.NewPCG(4, 4))
	ids := randomIDs(rnd, 100, c.Vocab)
	want := alone(t, e, ids)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := compare(e, "", ids, []int{1, 2, 3, 40, 41, 42, 100}, want, nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	cancelled := 0
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := e.Open(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		go cancel()
		_, err = s.Next(ctx, randomIDs(rnd, 120, c.Vocab)...)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancelled++
			if _, again := s.Next(t.Context(), 1); again != err {
				t.Fatalf("Next after cancellation: %v", again)
			}
		}
		s.Close()
	}
	close(stop)
	others.Wait()
	if cancelled == 0 {
		t.Error("no call was cancelled")
	}
	// All slots must be free again when the running steps have ended.
	for range cap(e.slots) {
		modeltest.Open(t, e)
	}
}

// A sequence that is abandoned and closed during a step must release its pages and slot
// after that step, and not before.
func TestCloseDuringStepReleasesAfterIt(t *testing.T) {
	c := smallShape()
	n, err := load(randomCheckpoint(c, 1), kernel.F16, 1)
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(n, nil, Options{Sequences: 1})
	pool := kernel.NewPool(1)
	defer pool.Close()
	f := newForward(n, pool, 1+maxPromptTokens, 1)
	opened, err := e.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*sequence)
	if _, err := s.submit(1, make([]int, maxPromptTokens+1)); err != nil {
		t.Fatal(err)
	}
	e.plan(f, nil)
	s.abandon()
	s.Close()
	if len(e.slots) != 1 || len(e.free) != 0 || len(e.queue) != 1 {
		t.Errorf("during the step: %d slots in use, %d pages free, %d queued", len(e.slots), len(e.free), len(e.queue))
	}
	f.run()
	e.finish(time.Millisecond, Times{})
	if len(e.slots) != 0 || len(e.free) != 2 || len(e.queue) != 0 {
		t.Errorf("after the step: %d slots in use, %d pages free, %d queued", len(e.slots), len(e.free), len(e.queue))
	}
}

func TestCloseEndsCallsInFlight(t *testing.T) {
	c := smallShape()
	ck := randomCheckpoint(c, 1)
	e, err := New(ck, nil, Options{Threads: 2, Sequences: 3})
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	ready := make(chan struct{}, 3)
	for range 3 {
		calls.Go(func() {
			s, err := e.Open(t.Context(), "")
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for n := 0; err == nil; n++ {
				if n == 2 {
					ready <- struct{}{}
				}
				if n%100 == 99 {
					s.Close()
					if s, err = e.Open(t.Context(), ""); err != nil {
						break
					}
				}
				_, err = s.Next(t.Context(), n%c.Vocab)
			}
			if !errors.Is(err, ErrClosed) {
				t.Errorf("in flight: %v", err)
			}
		})
	}
	for range 3 {
		<-ready
	}
	e.Close()
	e.Close()
	calls.Wait()
	if _, err := e.Open(t.Context(), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("Open: %v", err)
	}
}

// Every step must have the next token of each decoding sequence. It must also have as
// many prompt tokens as the step budget allows, oldest prompt first.
func TestPlanMixesPromptsAndDecoding(t *testing.T) {
	c := smallShape()
	c.Context = 400
	n, err := load(randomCheckpoint(c, 1), kernel.F16, 1)
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(n, nil, Options{Sequences: 8})
	pool := kernel.NewPool(1)
	defer pool.Close()
	f := newForward(n, pool, 8+maxPromptTokens, 8)
	enqueue := func(tokens int) *sequence {
		s, err := e.Open(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.(*sequence).submit(1, make([]int, tokens)); err != nil {
			t.Fatal(err)
		}
		return s.(*sequence)
	}
	step := func(took time.Duration) {
		e.plan(f, nil)
		f.run()
		e.finish(took, Times{})
	}
	again := func(s *sequence) {
		select {
		case err := <-s.done:
			if err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatal("a step left out a decoding sequence")
		}
		if _, err := s.submit(1, []int{1}); err != nil {
			t.Fatal(err)
		}
	}

	// Without decoding sequences, a step must have up to maxPromptTokens prompt tokens.
	first, second := enqueue(maxPromptTokens+8), enqueue(5)
	step(128 * time.Millisecond)
	if first.computed != maxPromptTokens || second.computed != 0 {
		t.Errorf("a step without decoding computed %d and %d prompt tokens", first.computed, second.computed)
	}
	step(13 * time.Millisecond)
	again(first)
	again(second)
	if e.decoding != 2 {
		t.Errorf("%d sequences are decoding, want 2", e.decoding)
	}
	step(8 * time.Millisecond) // a step without prompt tokens takes 8 ms

	// A step with decoding sequences must have up to 8 prompt tokens, because 8 take as
	// long as the decoding alone. This must hold even if one of the decoding sequences
	// has not called Next yet.
	third, fourth := enqueue(20), enqueue(3)
	var computed []string
	for range 3 {
		again(first)
		step(16 * time.Millisecond)
		computed = append(computed, fmt.Sprintf("%d+%d", third.computed, fourth.computed))
	}
	if want := []string{"8+0", "16+0", "20+3"}; !slices.Equal(computed, want) {
		t.Errorf("prompts are at %v, want %v", computed, want)
	}
	for _, s := range []*sequence{first, second, third, fourth} {
		s.Close()
	}
	if e.decoding != 0 {
		t.Errorf("%d sequences are decoding after all were closed", e.decoding)
	}
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	for i := range 6 {
		threads, weights := 1+i%2, everyFormat()[i/2]
		e := randomEngine(t, smallShape(), Options{Threads: threads, Weights: weights})
		s := modeltest.Open(t, e)
		token := []int{1}
		if n := testing.AllocsPerRun(pageTokens-10, func() {
			if _, err := s.Next(t.Context(), token...); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%d threads, %v: %g allocations per token", threads, weights, n)
		}
	}
}

func TestReadWeightsReadsAllBytes(t *testing.T) {
	e := randomEngine(t, smallShape(), Options{})
	pool := kernel.NewPool(2)
	defer pool.Close()
	if got, want := int64(e.ReadWeights(pool)), e.network.bytes(); got != want || want == 0 {
		t.Errorf("read %d of %d bytes", got, want)
	}
}
