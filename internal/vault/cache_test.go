package vault

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// table is a fake of the table owner_keys in which every owner has the same key.
type table struct {
	wrapped []byte
	delay   func() // if set, QueryRow calls delay after reading the row and before returning it
	reads   int
}

func (db *table) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	db.wrapped = nil
	return pgconn.CommandTag{}, nil
}

func (db *table) QueryRow(context.Context, string, ...any) pgx.Row {
	db.reads++
	return row(func(dst *[]byte) {
		*dst = db.wrapped
		if db.delay != nil {
			db.delay()
		}
	})
}

type row func(dst *[]byte)

func (r row) Scan(dst ...any) error { r(dst[0].(*[]byte)); return nil }

func newTable(t *testing.T, owner uuid.UUID) (*Vault, *table) {
	t.Helper()
	v, err := New(bytes.Repeat([]byte{1}, MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	return v, &table{wrapped: v.Own().seal(make([]byte, 32), owner[:])}
}

// cachedKeys returns the number of keys in memory, plus the number of tombstones of
// erased owners.
func (v *Vault) cachedKeys() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keys.Len() + len(v.erased)
}

// TestLateReaderDoesNotUndoAnErasure erases an owner while a reader still holds the
// owner's row. The reader must not put the key into the cache after the erasure.
func TestLateReaderDoesNotUndoAnErasure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		owner := uuid.New()
		for _, late := range []time.Duration{0, KeyTTL / 2, KeyTTL, 2 * KeyTTL} {
			v, db := newTable(t, owner)
			erased := make(chan struct{})
			db.delay = func() { <-erased; time.Sleep(late) }
			read := make(chan error)
			go func() {
				_, err := v.Key(t.Context(), db, owner)
				read <- err
			}()
			synctest.Wait()
			if err := v.Erase(t.Context(), db, owner); err != nil {
				t.Fatal(err)
			}
			close(erased)
			if err := <-read; late < KeyTTL && !errors.Is(err, ErrErased) {
				t.Errorf("a reader %v late: %v", late, err)
			}
			db.delay = nil
			for range 3 {
				if _, err := v.Key(t.Context(), db, owner); !errors.Is(err, ErrErased) {
					t.Errorf("after a reader %v late: %v", late, err)
				}
				time.Sleep(KeyTTL / 2)
			}
		}
	})
}

// TestKeysLeaveMemory expects that the vault removes keys, and tombstones of erased
// owners, from memory after KeyTTL.
func TestKeysLeaveMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		owner := uuid.New()
		v, db := newTable(t, owner)
		for i := range 2 { // the second iteration begins after the key has left memory
			for range 3 {
				if _, err := v.Key(t.Context(), db, owner); err != nil {
					t.Fatal(err)
				}
			}
			if n := v.cachedKeys(); n != 1 || db.reads != i+1 {
				t.Errorf("%d keys, read %d times", n, db.reads)
			}
			time.Sleep(KeyTTL)
			synctest.Wait()
			if n := v.cachedKeys(); n != 0 {
				t.Errorf("%d keys are left", n)
			}
		}
		if err := v.Erase(t.Context(), db, owner); err != nil {
			t.Fatal(err)
		}
		if n := v.cachedKeys(); n != 1 {
			t.Errorf("%d tombstones", n)
		}
		time.Sleep(KeyTTL)
		synctest.Wait()
		if n := v.cachedKeys(); n != 0 {
			t.Errorf("%d tombstones are left", n)
		}
	})
}

// TestCacheIsBounded adds more than maxCached keys. The cache must hold only the
// maxCached most recently used keys, but the tombstones of all erased owners.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		erased, owner := uuid.New(), uuid.New()
		v, db := newTable(t, owner)
		if err := v.Erase(t.Context(), &table{}, erased); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Key(t.Context(), db, owner); err != nil {
			t.Fatal(err)
		}
		for i := range 2 * maxCached {
			v.mu.Lock()
			v.remember(uuid.New(), &Key{}, time.Now().Add(KeyTTL))
			v.mu.Unlock()
			if i == maxCached/2 { // this read makes the owner's key the most recently used key
				if _, err := v.Key(t.Context(), db, owner); err != nil || db.reads != 1 {
					t.Errorf("read %d times, %v", db.reads, err)
				}
			}
			if _, kept := v.keys.Peek(owner); kept != (i <= maxCached/2+maxCached-1) {
				t.Fatalf("after %d other keys the key is kept: %v", i+1, kept)
			}
		}
		if n := v.cachedKeys(); n != maxCached+1 {
			t.Errorf("%d keys and tombstones, want %d", n, maxCached+1)
		}
		if _, err := v.Key(t.Context(), db, erased); !errors.Is(err, ErrErased) {
			t.Errorf("an erased owner: %v", err)
		}
		time.Sleep(KeyTTL) // all timers of the cache fire within this time
		synctest.Wait()
		if n := v.cachedKeys(); n != 0 {
			t.Errorf("%d keys and tombstones are left", n)
		}
	})
}
