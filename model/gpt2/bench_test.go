package gpt2

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"colophon/model/modeltest"
)

// BenchmarkDecode decodes several sequences in parallel. Each step computes one token
// of every sequence. The network has the shape of the published GPT-2. A step reads all
// weights once, so the throughput that SetBytes reports is the rate of reading weights
// from memory.
func BenchmarkDecode(b *testing.B) {
	for _, weights := range everyFormat() {
		e := randomEngine(b, Published(), Options{Weights: weights})
		for _, batch := range []int{1, 4, 8, 16} {
			b.Run(fmt.Sprintf("%v/batch=%d", weights, batch), func(b *testing.B) {
				b.SetBytes(e.network.bytes())
				var all sync.WaitGroup
				for i := range batch {
					s := modeltest.Open(b, e)
					all.Go(func() {
						defer s.Close()
						token := []int{i}
						for n := range b.N {
							if n%Published().Context == Published().Context-1 {
								s.Close()
								s = modeltest.Open(b, e)
							}
							logits, err := s.Next(b.Context(), token...)
							if err != nil {
								b.Error(err)
								return
							}
							token[0] = int(uint32(logits[0]*1000)) % Published().Vocab
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "tok/s")
			})
		}
	}
}

func BenchmarkPrefill(b *testing.B) {
	for _, weights := range everyFormat() {
		e := randomEngine(b, Published(), Options{Weights: weights})
		for _, n := range []int{128, 512} {
			b.Run(fmt.Sprintf("%v/prompt=%d", weights, n), func(b *testing.B) {
				ids := make([]int, n)
				for b.Loop() {
					s := modeltest.Open(b, e)
					if _, err := s.Next(b.Context(), ids...); err != nil {
						b.Fatal(err)
					}
					s.Close()
				}
				b.ReportMetric(float64(len(ids)*b.N)/b.Elapsed().Seconds(), "tok/s")
			})
		}
	}
}

// bytes returns the size in bytes of the weights that a step reads.
func (n *network) bytes() (size int64) {
	for m := range n.matrices {
		size += int64(m.Bytes())
	}
	return size
}

// BenchmarkLongPrompt measures the time of a prompt of 900 tokens, without other
// sequences and while seven sequences decode. Six of these have just begun. The metric
// beside/alone is the median with the other sequences, divided by the median without
// them.
func BenchmarkLongPrompt(b *testing.B) {
	prompt := make([]int, 900)
	for i := range prompt {
		prompt[i] = i * 7919 % Published().Vocab
	}
	for _, weights := range everyFormat() {
		b.Run(weights.String(), func(b *testing.B) {
			e := randomEngine(b, Published(), Options{Weights: weights})
			measure := func() time.Duration {
				s := modeltest.Open(b, e)
				defer s.Close()
				begin := time.Now()
				if _, err := s.Next(b.Context(), prompt...); err != nil {
					b.Fatal(err)
				}
				return time.Since(begin)
			}
			measure() // the first run also allocates memory, so it is not counted
			var alone, beside []time.Duration
			for b.Loop() {
				alone = append(alone, measure())
				stop := make(chan struct{})
				var running sync.WaitGroup
				decode := func(begin []int, decoding chan<- struct{}) {
					s := modeltest.Open(b, e)
					defer s.Close()
					next := begin
					for n := range Published().Context - len(begin) {
						logits, err := s.Next(b.Context(), next...)
						if err != nil {
							b.Error(err)
							return
						}
						if n == 20 {
							close(decoding)
						}
						select {
						case <-stop:
							return
						default:
							next = []int{int(uint32(logits[0]*1000)) % Published().Vocab}
						}
					}
				}
				first := make(chan struct{})
				running.Go(func() { decode(prompt[:32], first) })
				<-first // lets it decode alone for some steps, which are much shorter than steps with seven sequences
				for i := range 6 {
					running.Go(func() { decode(prompt[:40+8*i], make(chan struct{})) })
				}
				beside = append(beside, measure())
				close(stop)
				running.Wait()
			}
			slices.Sort(alone)
			slices.Sort(beside)
			b.ReportMetric(beside[len(beside)/2].Seconds()/alone[len(alone)/2].Seconds(), "beside/alone")
			b.ReportMetric(beside[len(beside)-1].Seconds()/alone[len(alone)/2].Seconds(), "longest/alone")
		})
	}
}

// BenchmarkClients measures eight clients that ask for text after text, with prompts of
// 16 to 240 tokens. slowest/median compares the throughput of the slowest run with that of
// the median run.
func BenchmarkClients(b *testing.B) {
	const clients, texts, length = 8, 4, 64
	for _, weights := range everyFormat() {
		b.Run(weights.String(), func(b *testing.B) {
			e := randomEngine(b, Published(), Options{Weights: weights})
			var runs []time.Duration
			for b.Loop() {
				begin := time.Now()
				var all sync.WaitGroup
				for client := range clients {
					all.Go(func() {
						for text := range texts {
							s := modeltest.Open(b, e)
							next := make([]int, 16+(client*texts+text)*7)
							for range length {
								logits, err := s.Next(b.Context(), next...)
								if err != nil {
									b.Error(err)
									break
								}
								next = []int{int(uint32(logits[0]*1000)) % Published().Vocab}
							}
							s.Close()
						}
					})
				}
				all.Wait()
				runs = append(runs, time.Since(begin))
			}
			slices.Sort(runs)
			median := runs[len(runs)/2].Seconds()
			b.ReportMetric(clients*texts*length/median, "tok/s")
			b.ReportMetric(median/runs[len(runs)-1].Seconds(), "slowest/median")
		})
	}
}
