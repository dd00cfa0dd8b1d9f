package gomlx

import (
	"testing"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/modeltest"
	"colophon/model/opticks"
)

// BenchmarkNext measures how long this engine and the native engine take for one token
// of the embedded model.
func BenchmarkNext(b *testing.B) {
	native, err := gpt2.Load(opticks.Files(), gpt2.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer native.Close()
	for name, e := range map[string]model.Engine{"native": native, "gomlx": open(b, opticks.Files())} {
		b.Run(name, func(b *testing.B) {
			context := e.Info().Context
			s := modeltest.Open(b, e)
			tokens := 0
			for b.Loop() {
				if tokens == context {
					s, tokens = modeltest.Open(b, e), 0
				}
				if _, err := s.Next(b.Context(), tokens); err != nil {
					b.Fatal(err)
				}
				tokens++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
