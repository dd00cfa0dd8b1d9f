package interop

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"colophon/test/program/programtest"
)

// hashEntries returns the hashes of the entries in a bundle.
func hashEntries(bundle []byte) (hashes [][]byte, err error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	for _, entry := range b.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}

// errHangs occurs when fsck does not end. It waits for its workers for ever when all of them
// have found a fault.
var errHangs = errors.New("fsck hangs")

// check runs tessera's fsck.
func check(ctx context.Context, fetcher fsck.Fetcher, verifier note.Verifier) error {
	ctx, cancel := context.WithTimeoutCause(ctx, programtest.Patience, errHangs)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- fsck.New(origin, verifier, fetcher, hashEntries, fsck.Opts{N: 8}).Check(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readAll reads all entries with torchwood's client, which compares each with the checkpoint.
func readAll(ctx context.Context, s *service, policy string) (entries int64, err error) {
	p, err := torchwood.ParsePolicy([]byte(policy))
	if err != nil {
		return 0, err
	}
	fetcher, err := torchwood.NewTileFetcher(s.URL + "/log")
	if err != nil {
		return 0, err
	}
	signed, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return 0, err
	}
	checkpoint, _, err := torchwood.VerifyCheckpoint(signed, p)
	if err != nil {
		return 0, err
	}
	c, err := torchwood.NewClient(fetcher)
	if err != nil {
		return 0, err
	}
	for range c.AllEntries(ctx, checkpoint.Tree, 0) {
		entries++
	}
	return entries, c.Err()
}

// TestOthersAgreeOnTheLog checks a log with tessera, torchwood and colophon, as it is and
// after somebody has changed the database. All three must agree.
func TestOthersAgreeOnTheLog(t *testing.T) {
	t.Parallel()
	n := events
	if testing.Short() {
		n = 3000
	}
	s := start(t)
	vkey, verifier := s.key(t)
	s.fill(t, n/2)
	earlier := s.get(t, "/log/checkpoint")
	s.fill(t, n)
	s.Stop()
	// From here on nobody signs: the tests change what was signed.
	s.Process = programtest.Start(t, s.settings, "api", "--listen", "127.0.0.1:0", "--no-rate-limits")
	fetcher, err := client.NewHTTPFetcher(s.log(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	key, since := file(t, vkey+"\n"), file(t, earlier)
	verdicts := func(t *testing.T, ok bool, status int, says string) {
		t.Helper()
		begin := time.Now()
		if err := check(t.Context(), fetcher, verifier); ok != (err == nil) {
			t.Errorf("tessera: %v", err)
		}
		tessera := time.Since(begin)
		begin = time.Now()
		entries, err := readAll(t.Context(), s, "log "+vkey+"\nquorum none\n")
		if ok != (err == nil) || ok && entries != int64(n) {
			t.Errorf("torchwood: %d entries, %v", entries, err)
		}
		wood := time.Since(begin)
		begin = time.Now()
		out, errOut, got := programtest.Run(t, s.settings, "", "log", "verify", "--url", s.URL+"/log", "--key", key, "--since", since)
		if got != status || !strings.Contains(out+errOut, says) {
			t.Errorf("colophon: status %d, want %d, %q: %s%s", got, status, says, out, errOut)
		}
		t.Attr("took", fmt.Sprintf("%d events: tessera %v, torchwood %v, colophon %v", n, tessera.Round(time.Millisecond), wood.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond)))
	}
	t.Run("unchanged", func(t *testing.T) { verdicts(t, true, 0, "begins with the entries of the earlier checkpoints (1)") })
	t.Run("client", func(t *testing.T) { followWithTessera(t, fetcher, verifier, earlier, n) })

	// Entries and tiles of level 0 are made from the same rows, so a changed entry is found by
	// the nodes above and by the root.
	t.Run("an entry", func(t *testing.T) {
		flip(t, s, "log_entries", "idx = 700")
		verdicts(t, false, 1, "refuted: entries 512 to 767: hash 2 of tile/1/000")
		flip(t, s, "log_entries", "idx = 700")
	})
	t.Run("a node", func(t *testing.T) {
		flip(t, s, "log_nodes", "level = 1 and n = 2")
		verdicts(t, false, 1, "refuted: entries 512 to 767: hash 2 of tile/1/000")
		flip(t, s, "log_nodes", "level = 1 and n = 2")
	})
	t.Run("another key", func(t *testing.T) {
		text, _, _ := strings.Cut(s.get(t, "/log/checkpoint"), "\n\n")
		private, _, err := note.GenerateKey(rand.Reader, origin)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := note.NewSigner(private)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: text + "\n"}, signer)
		if err != nil {
			t.Fatal(err)
		}
		s.db.Damage(t, `update log_checkpoints set note = $1 where size = $2`, string(signed), n)
		verdicts(t, false, 2, "no key that you trust has signed it")
	})
}

// flip changes a byte of a hash in the database, or changes it back.
func flip(t *testing.T, s *service, table, where string) {
	t.Helper()
	s.db.Damage(t, fmt.Sprintf(`update %s set hash = set_byte(hash, 5, get_byte(hash, 5) # 1) where %s`, table, where))
}

// followWithTessera lets tessera's client go on from an earlier checkpoint, and verifies
// proofs that the client makes from tiles.
func followWithTessera(t *testing.T, fetcher *client.HTTPFetcher, verifier note.Verifier, earlier string, n int) {
	t.Helper()
	ctx := t.Context()
	tracker, err := client.NewLogStateTracker(ctx, fetcher.ReadTile, []byte(earlier), verifier, origin, client.UnilateralConsensus(fetcher.ReadCheckpoint))
	if err != nil {
		t.Fatal(err)
	}
	if tracker.Latest().Size != uint64(n/2) {
		t.Fatalf("the earlier checkpoint has %d events", tracker.Latest().Size)
	}
	if _, consistency, _, err := tracker.Update(ctx); err != nil || len(consistency) == 0 {
		t.Fatalf("tessera does not follow the log: %d hashes, %v", len(consistency), err)
	}
	now := tracker.Latest()
	proofs, err := client.NewProofBuilder(ctx, now.Size, fetcher.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{0, 1, 255, 256, now.Size / 2, now.Size - 1} {
		bundle, err := client.GetEntryBundle(ctx, fetcher.ReadEntryBundle, index/256, now.Size)
		if err != nil {
			t.Fatal(err)
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(bundle.Entries[index%256])
		hashes, err := proofs.InclusionProof(ctx, index)
		if err == nil {
			err = proof.VerifyInclusion(rfc6962.DefaultHasher, index, now.Size, leaf, hashes, now.Hash)
		}
		if err != nil {
			t.Errorf("entry %d: %v", index, err)
		}
	}
}
