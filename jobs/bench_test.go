package jobs_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/jobs"
)

// BenchmarkSubmit submits from 16 goroutines, for one owner or for 16 owners.
func BenchmarkSubmit(b *testing.B) {
	for _, owners := range []int{1, 16} {
		b.Run(fmt.Sprintf("owners=%d", owners), func(b *testing.B) {
			f := newLimitedFixture(b, jobs.Limits{Outstanding: 1 << 20, Queued: 1 << 20})
			ids := make([]uuid.UUID, owners)
			for i := range ids {
				ids[i] = f.register()
			}
			var wg sync.WaitGroup
			next := make(chan struct{})
			for i := range 16 {
				wg.Go(func() {
					for range next {
						if _, err := f.queue.Submit(b.Context(), ids[i%owners], request); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				next <- struct{}{}
			}
			close(next)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "submits/s")
		})
	}
}
