package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSeedDecidesThePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		kills := rapid.IntRange(1, 300).Draw(t, "kills")
		workers, apis := rapid.IntRange(1, 5).Draw(t, "workers"), rapid.IntRange(1, 5).Draw(t, "apis")
		during := time.Duration(rapid.IntRange(5, 1000).Draw(t, "seconds")) * time.Second
		faults := plan(seed, kills, workers, apis, during)
		if diff := cmp.Diff(faults, plan(seed, kills, workers, apis, during), cmp.AllowUnexported(fault{})); diff != "" {
			t.Fatalf("the same seed makes another plan:\n%s", diff)
		}
		planned := map[string]int{}
		var killed [2]int // kills of workers by build
		for _, f := range faults {
			planned[f.kind()]++
			if number, ok := workerNumber(f.target); ok && f.action == kill {
				killed[buildOf(number)]++
			}
			if number, ok := workerNumber(f.target); ok && (number < 1 || number > workers) {
				t.Errorf("%s is planned for %s of %d workers", f.action, f.target, workers)
			}
			if f.at < time.Duration(faultFreeShare*float64(during)) || f.at > during || f.lasts < 0 || f.lasts > 15*time.Second {
				t.Errorf("fault out of bounds: %+v", f)
			}
			if (f.target == stranger) != (f.action == startStranger) || (f.target == storedEvent) != (f.action == alter) {
				t.Errorf("%s is planned for %s", f.action, f.target)
			}
			if f.target == poolerName && f.action != kill {
				t.Errorf("%s is planned for %s", f.action, f.target)
			}
			name, network, _ := strings.Cut(f.target, "/")
			if (network != "") != (f.kind() == "cuts") {
				t.Errorf("%s is planned for %s", f.action, f.target)
			}
			if slices.Contains([]action{crash, shoot, refresh, setClock, promote, writeProtect}, f.action) != (name == "postgres") && f.action != freeze {
				t.Errorf("%s is planned for %s", f.action, f.target)
			}
		}
		for build, n := range killed {
			if workers > 1 && kills > 1 && n == 0 {
				t.Errorf("%d kills of %d workers: none of build %d", kills, workers, build)
			}
		}
		for kind, least := range map[string]int{
			"kills": kills, "cuts": kills, "freezes": kills / 3, "restarts": kills / 5, "settings of the clock": kills / 10,
			"read-only periods": kills / 12, "promotions": kills / 25, "kills of the pooler": kills / 8, "wrong keys": kills / 12, "damaged events": kills / 12,
		} {
			if n := planned[kind]; n == 0 || n < least || n > least+1 {
				t.Errorf("%d kills requested, planned %d %s", kills, n, kind)
			}
		}
		for kind := range planned {
			if !slices.Contains(kinds, kind) {
				t.Errorf("%q is not in the report", kind)
			}
		}
		if !slices.IsSortedFunc(faults, func(a, b fault) int { return int(a.at - b.at) }) {
			t.Error("the faults are not ordered by time")
		}
	})
}

func TestEveryRequestHasItsOwnSeed(t *testing.T) {
	seeds := map[uint64]bool{}
	for seed := range uint64(3) {
		for _, r := range newRequests(500, seed) {
			if seeds[r.Seed] {
				t.Fatalf("seed %d twice", r.Seed)
			}
			seeds[r.Seed] = true
		}
	}
}
