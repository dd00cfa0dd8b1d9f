package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/flight"
)

const (
	// keyTTL is the time for which a process uses what it has read of an API key. All of it
	// is immutable, except that the key can end, and that is in endedSessions. It must be
	// shorter than the time for which endedSessions remembers a key.
	keyTTL = 5 * time.Minute

	// maxKnownKeys is the maximum number of keys in memory. When a process knows more, it
	// reads all of them again.
	maxKnownKeys = 10_000

	// keyMemory is the time for which a process remembers that a key exists. Such a key is
	// read again without admission, so that a flood from its network does not shut it out.
	keyMemory = time.Hour
)

// errKeyEnded occurs when an API key was revoked, or its account disabled or erased.
var errKeyEnded = fmt.Errorf("%w: it was revoked", ErrAPIKey)

// knownKeys holds the API keys in memory that this process has read, and when they were used.
type knownKeys struct {
	now   func() time.Time // this process's clock
	reads flight.Group[*APIKey]

	mu     sync.Mutex
	byHash map[keyHash]knownKey
	used   map[uuid.UUID]time.Time // the latest use of each key, by the database's clock, that is not written yet
}

type knownKey struct {
	*APIKey
	read time.Time
}

func newKnownKeys(now func() time.Time) *knownKeys {
	return &knownKeys{
		now: now, reads: flight.Group[*APIKey]{Timeout: queryTimeout},
		byHash: map[keyHash]knownKey{}, used: map[uuid.UUID]time.Time{},
	}
}

// lookup returns a key that this process has read. A key that is not fresh must be read again.
func (k *knownKeys) lookup(hash keyHash) (key *APIKey, known, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	entry, ok := k.byHash[hash]
	return entry.APIKey, ok, ok && k.now().Sub(entry.read) < keyTTL
}

func (k *knownKeys) add(hash keyHash, key *APIKey, read time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.byHash) >= maxKnownKeys {
		clear(k.byHash)
	}
	k.byHash[hash] = knownKey{key, read}
}

// forget removes the keys that were read too long ago.
func (k *knownKeys) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	maps.DeleteFunc(k.byHash, func(_ keyHash, known knownKey) bool { return now.Sub(known.read) >= keyMemory })
}

// use notes that a key was used.
func (k *knownKeys) use(id uuid.UUID, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.After(k.used[id]) {
		k.used[id] = at
	}
}

// takeUsed returns the uses that are not written yet, and forgets them.
func (k *knownKeys) takeUsed() map[uuid.UUID]time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	used := k.used
	k.used = map[uuid.UUID]time.Time{}
	return used
}

// VerifyKey returns the identity that an API key authenticates, or ErrAPIKey. A malformed key
// costs no query. If this process has not used the key for an hour, VerifyKey calls admit before it
// queries the database, and returns the error of admit. Any other error means that the query
// has failed.
//
// A wrong key is not found by its time: what is looked up, in memory and in the index, is the
// SHA-256 of the key, and nobody can choose a key by a part of its hash. A key that is
// unknown, revoked or expired takes the same query if the process does not know it.
func (s *Service) VerifyKey(ctx context.Context, text string, admit func() error) (Identity, error) {
	if !wellFormed(text) {
		return Identity{}, fmt.Errorf("%w: it is malformed", ErrAPIKey)
	}
	hash := hashKey(text)
	key, known, fresh := s.known.lookup(hash)
	if !fresh {
		if !known {
			if err := admit(); err != nil {
				return Identity{}, err
			}
		}
		var err error
		key, err = s.known.reads.Do(ctx, hex.EncodeToString(hash[:]), func(ctx context.Context) (*APIKey, error) { return s.readKey(ctx, hash) })
		if err != nil {
			return Identity{}, err
		}
	}
	now := s.now()
	if !key.Expires.IsZero() && !now.Before(key.Expires) {
		return Identity{}, fmt.Errorf("%w: it has expired", ErrAPIKey)
	}
	err := s.ended.check(ctx, key.ID)
	if errors.Is(err, errSessionEnded) {
		return Identity{}, errKeyEnded
	}
	if err != nil {
		return Identity{}, err
	}
	s.known.use(key.ID, now)
	return Identity{Account: key.Account, Key: key, Expires: key.Expires}, nil
}

// readKey reads a key that is not revoked, and keeps it in memory. If there is none, it
// returns ErrAPIKey.
func (s *Service) readKey(ctx context.Context, hash keyHash) (*APIKey, error) {
	// A key that ends after this moment is read by a later poll of the ended sessions.
	read := s.known.now()
	rows, _ := s.pool.Query(ctx, `select `+keyColumns+` from api_keys where hash = $1 and revoked_at is null`, hash[:])
	key, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: it is unknown or was revoked", ErrAPIKey)
	}
	if err != nil {
		return nil, fmt.Errorf("look up an API key: %w", err)
	}
	s.known.add(hash, &key, read)
	return &key, nil
}

// writeUsed writes when the keys were last used. A use that cannot be written is kept for the
// next time.
func (s *Service) writeUsed(ctx context.Context) error {
	used := s.known.takeUsed()
	if len(used) == 0 {
		return nil
	}
	ids, times := make([]uuid.UUID, 0, len(used)), make([]time.Time, 0, len(used))
	for id, at := range used {
		ids, times = append(ids, id), append(times, at)
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout) // short, because a process that stops waits for it
	defer cancel()
	// Other transactions lock several keys too. Rows that they have locked are skipped, to
	// avoid deadlocks: another process has just written them, or they have ended.
	_, err := s.pool.Exec(ctx, `
		with free as (select id from api_keys where id = any($1) for no key update skip locked)
		update api_keys k set last_used_at = u.at
		from unnest($1::uuid[], $2::timestamptz[]) as u (id, at) join free using (id)
		where k.id = u.id and (k.last_used_at is null or k.last_used_at < u.at)`, ids, times)
	if err != nil {
		for id, at := range used {
			s.known.use(id, at)
		}
		return fmt.Errorf("write the last use of API keys: %w", err)
	}
	return nil
}
