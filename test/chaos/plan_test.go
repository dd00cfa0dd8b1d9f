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
		blows := plan(seed, kills, workers, apis, during)
		if diff := cmp.Diff(blows, plan(seed, kills, workers, apis, during), cmp.AllowUnexported(blow{})); diff != "" {
			t.Fatalf("the same seed makes another plan:\n%s", diff)
		}
		kinds := map[string]int{}
		for _, b := range blows {
			kinds[b.act.kind()]++
			if b.at < time.Duration(quietBegin*float64(during)) || b.at > during || b.lasts < 0 || b.lasts > 15*time.Second {
				t.Errorf("a blow out of bounds: %+v", b)
			}
			name, network, _ := strings.Cut(b.target, "/")
			if (network != "") != (b.act.kind() == "cuts") {
				t.Errorf("%s cannot meet %s", b.act, b.target)
			}
			if slices.Contains([]act{crash, shoot, refresh}, b.act) != (name == "postgres") && b.act != freeze {
				t.Errorf("%s cannot meet %s", b.act, b.target)
			}
		}
		if kinds["kills"] != kills || kinds["cuts"] != kills || kinds["freezes"] < kills/3 || kinds["restarts"] < kills/5 {
			t.Errorf("%d kills were asked for: %v", kills, kinds)
		}
		if !slices.IsSortedFunc(blows, func(a, b blow) int { return int(a.at - b.at) }) {
			t.Error("not in the order of time")
		}
	})
}

func TestRequestsHaveSeedsOfTheirOwn(t *testing.T) {
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
