package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/errcode"
	"colophon/internal/pg"
	"colophon/internal/vault"
)

const (
	// MaxFiles is the maximum number of uploaded files of an owner, those under way included.
	MaxFiles = 20

	// uploadTime is the age at which a file that is not stored is removed. No upload takes as long,
	// because package api ends it much earlier.
	uploadTime = time.Hour
)

var (
	// ErrTooManyFiles occurs when an owner has MaxFiles files.
	ErrTooManyFiles = errcode.New("too_many_files", fmt.Sprintf("an account has at most %d uploaded files", MaxFiles))

	// ErrFileInUse occurs when a batch that has not ended needs a file.
	ErrFileInUse = errcode.New("file_in_use", "a batch that has not ended reads the file")
)

// File is a file of an owner: the uploaded input of batches, or an output of a batch.
type File struct {
	ID        uuid.UUID
	Owner     uuid.UUID
	Batch     uuid.UUID // batch that made the file, or zero for an uploaded one
	Failed    bool      // the file has the lines of Batch that failed, and otherwise those that were completed
	Name      string    // name that the owner gave an uploaded file
	Bytes     int64     // size; of a file that a batch made, the size at the batch's end
	CreatedAt time.Time
}

// nameNumber is the number of the chunk that holds the name of a file.
const nameNumber = 0

func chunkAAD(file uuid.UUID, number int) string { return fmt.Sprintf("file %s %d", file, number) }

// box seals a value of an owner. It returns the ciphertext and the number of the key.
func (s *Store) box(ctx context.Context, db vault.DB, owner uuid.UUID, plain []byte, aad string) (sealed []byte, number int, err error) {
	key, err := s.vault.Key(ctx, db, owner)
	if err != nil {
		return nil, 0, err
	}
	return key.Seal(plain, aad), key.Number(), nil
}

// unbox opens a value that box has sealed. After vault.ErrUnreadable, the caller reads the value
// again, because it may be older than the key in memory, or the key older than the value.
func (s *Store) unbox(ctx context.Context, owner uuid.UUID, sealed []byte, aad string) ([]byte, error) {
	key, err := s.vault.Key(ctx, s.pool, owner)
	if err != nil {
		return nil, err
	}
	plain, err := key.Open(sealed, aad)
	if err != nil {
		s.vault.Forget(owner)
	}
	return plain, err
}

// rereading calls read, and once more after vault.ErrUnreadable.
func rereading[T any](read func() (T, error)) (T, error) {
	value, err := read()
	if errors.Is(err, vault.ErrUnreadable) {
		value, err = read()
	}
	return value, err
}

// lockOwner makes transactions of one owner that call it for the same purpose wait for each
// other.
func (tx *Tx) lockOwner(ctx context.Context, purpose string, owner uuid.UUID) error {
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::uuid, 0))`, purpose, owner)
	return err
}

// BeginFile begins an upload and returns the file's id. [Store.AddChunk] adds the contents, and
// [Store.StoreFile] ends the upload. It returns ErrTooManyFiles.
func (s *Store) BeginFile(ctx context.Context, owner uuid.UUID) (id uuid.UUID, err error) {
	err = s.Write(ctx, func(tx *Tx) error {
		if err := tx.lockOwner(ctx, "files", owner); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `select count(*) from files where owner = $1 and batch is null`, owner).Scan(&n); err != nil {
			return err
		}
		if n >= MaxFiles {
			return ErrTooManyFiles
		}
		id = s.NewID()
		var batch pgx.Batch
		queueOpenCheck(&batch, owner)
		batch.Queue(`insert into files (id, owner) values ($1, $2)`, id, owner)
		return sealRefused(tx.SendBatch(ctx, &batch).Close())
	})
	if err != nil {
		return id, fmt.Errorf("begin a file: %w", err)
	}
	return id, nil
}

// addChunk seals a chunk of a file that is under way and stores it. It runs more statements in
// the same transaction.
func (s *Store) addChunk(ctx context.Context, owner, file uuid.UUID, number, firstLine int, plain []byte, more func(*pgx.Batch)) error {
	return s.writeSealed(ctx, func(tx *Tx) error {
		sealed, key, err := s.box(ctx, tx, owner, plain, chunkAAD(file, number))
		if err != nil {
			return err
		}
		var batch pgx.Batch
		queueOpenCheck(&batch, owner)
		batch.Queue(`insert into file_chunks (file, number, owner, first_line, sealed) values ($1, $2, $3, $4, sealed_by($3, $6::integer, $5))`,
			file, number, owner, firstLine, sealed, key)
		if more != nil {
			more(&batch)
		}
		return s.refused(tx.SendBatch(ctx, &batch).Close(), owner)
	})
}

// AddChunk adds whole lines to a file that is under way. The chunks of a file have the numbers 1,
// 2 and so on. firstLine is the number of the first line, from 1.
func (s *Store) AddChunk(ctx context.Context, owner, file uuid.UUID, number, firstLine int, lines []byte) error {
	if err := s.addChunk(ctx, owner, file, number, firstLine, lines, nil); err != nil {
		return fmt.Errorf("add a chunk to file %s: %w", file, err)
	}
	return nil
}

// StoreFile ends an upload. From now on the owner has the file.
func (s *Store) StoreFile(ctx context.Context, owner, id uuid.UUID, name string, size int64) (File, error) {
	err := s.addChunk(ctx, owner, id, nameNumber, 0, []byte(name), func(batch *pgx.Batch) {
		batch.Queue(`update files set bytes = $2, stored_at = clock_timestamp() where id = $1`, id, size)
	})
	if err != nil {
		return File{}, fmt.Errorf("store file %s: %w", id, err)
	}
	return s.File(ctx, owner, id)
}

// fileColumns are the columns that files scans.
const fileColumns = `f.id, f.owner, f.batch, f.failed, f.bytes, f.created_at, c.sealed`

// ofFiles selects the stored files of an owner, with their names.
const ofFiles = ` from files f left join file_chunks c on c.file = f.id and c.number = 0 where f.stored_at is not null and f.owner = $1 `

func (s *Store) files(ctx context.Context, where string, args ...any) ([]File, error) {
	return rereading(func() ([]File, error) {
		rows, _ := s.pool.Query(ctx, `select `+fileColumns+ofFiles+where, args...)
		var sealed [][]byte
		all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (File, error) {
			var f File
			var batch *uuid.UUID
			var name []byte
			err := row.Scan(&f.ID, &f.Owner, &batch, &f.Failed, &f.Bytes, &f.CreatedAt, &name)
			if batch != nil {
				f.Batch = *batch
			}
			f.CreatedAt = f.CreatedAt.UTC()
			sealed = append(sealed, name)
			return f, err
		})
		if err != nil {
			return nil, err
		}
		for i := range all {
			if sealed[i] == nil {
				continue
			}
			name, err := s.unbox(ctx, all[i].Owner, sealed[i], chunkAAD(all[i].ID, nameNumber))
			if err != nil {
				return nil, err
			}
			all[i].Name = string(name)
		}
		return all, nil
	})
}

// File returns a stored file of an owner, or ErrNotFound.
func (s *Store) File(ctx context.Context, owner, id uuid.UUID) (File, error) {
	found, err := s.files(ctx, `and f.id = $2`, owner, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return File{}, fmt.Errorf("read file %s: %w", id, err)
	}
	return found[0], nil
}

// Files returns up to limit stored files of an owner: uploaded ones if uploaded is set, and those
// that batches made if made is set. They are in the order of their ids, which is that of their
// creation, or in the opposite order if descending is set. The parameter after is the last file of
// the previous page. Before the first page, it is the zero UUID, or uuid.Max if descending is set.
func (s *Store) Files(ctx context.Context, owner, after uuid.UUID, uploaded, made, descending bool, limit int) ([]File, error) {
	where := `and f.id > $2 and (f.batch is null and $3 or f.batch is not null and $4) order by f.id limit $5`
	if descending {
		where = `and f.id < $2 and (f.batch is null and $3 or f.batch is not null and $4) order by f.id desc limit $5`
	}
	found, err := s.files(ctx, where, owner, after, uploaded, made, limit)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	return found, nil
}

// DeleteFile deletes a file of an owner. It returns ErrFileInUse while a batch reads it, and
// ErrNotFound if the owner has no such file. The jobs of a batch outlive its files. Its lines do
// not: they are removed with the last file that is made from them.
func (s *Store) DeleteFile(ctx context.Context, owner, id uuid.UUID) error {
	err := s.Write(ctx, func(tx *Tx) error {
		// The batch is locked before its file, as by what removes batches. Of two deletions at the
		// same time, the later one finds no file any more.
		var batch *uuid.UUID
		_, err := tx.Exec(ctx, `select from batches where id = (select batch from files where id = $1 and owner = $2) for no key update`, id, owner)
		if err == nil {
			err = tx.QueryRow(ctx, `select batch from files where id = $1 and owner = $2 and stored_at is not null for update`, id, owner).Scan(&batch)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `delete from files where id = $1 and not exists (select from batches where owner = $2 and input = $1 and ended_at is null)`, id, owner)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrFileInUse
		}
		if err != nil || batch == nil {
			return err
		}
		_, err = tx.Exec(ctx, `delete from batch_lines where batch = $1 and number > 0 and not exists (select from files where batch = $1)`, batch)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete file %s: %w", id, err)
	}
	return nil
}

// DropFile removes a file whose upload has failed.
func (s *Store) DropFile(ctx context.Context, id uuid.UUID) error {
	if _, err := s.pool.Exec(ctx, `delete from files where id = $1 and stored_at is null`, id); err != nil {
		return fmt.Errorf("drop file %s: %w", id, err)
	}
	return nil
}

// A Chunk has some whole lines of a file.
type Chunk struct {
	Number    int
	FirstLine int // number of the first line, from 1
	Lines     []byte
}

// At returns the text of a line of the chunk, without its line feed. It returns false if the
// chunk does not have the line.
func (c Chunk) At(line int) (text []byte, ok bool) {
	rest := c.Lines
	for n := c.FirstLine; n <= line && len(rest) > 0; n++ {
		text, rest, _ = bytes.Cut(rest, []byte("\n"))
		ok = n == line
	}
	return text, ok
}

// ReadChunk returns the chunk of an owner's file that has the given line, or the last one of a
// file with fewer lines. It returns ErrNotFound if there is none.
func (s *Store) ReadChunk(ctx context.Context, owner, file uuid.UUID, line int) (Chunk, error) {
	c, err := s.chunk(ctx, owner, file, `first_line <= $3 order by number desc limit 1`, line)
	if err != nil {
		return c, fmt.Errorf("read line %d of file %s: %w", line, file, err)
	}
	return c, nil
}

// NextChunk returns the chunk of an owner's file that follows one with the given number, from
// 0. It returns ErrNotFound after the last one.
func (s *Store) NextChunk(ctx context.Context, owner, file uuid.UUID, after int) (Chunk, error) {
	c, err := s.chunk(ctx, owner, file, `number > $3 order by number limit 1`, after)
	if err != nil {
		return c, fmt.Errorf("read file %s after chunk %d: %w", file, after, err)
	}
	return c, nil
}

func (s *Store) chunk(ctx context.Context, owner, file uuid.UUID, where string, arg int) (Chunk, error) {
	return rereading(func() (c Chunk, err error) {
		var sealed []byte
		err = s.pool.QueryRow(ctx, `
			select number, first_line, sealed from file_chunks where owner = $1 and file = $2 and number > 0 and `+where, owner, file, arg).Scan(&c.Number, &c.FirstLine, &sealed)
		if errors.Is(err, pgx.ErrNoRows) {
			return c, ErrNotFound
		}
		if err == nil {
			c.Lines, err = s.unbox(ctx, owner, sealed, chunkAAD(file, c.Number))
		}
		return c, err
	})
}

// ForgetFiles removes uploads that were not completed.
func (s *Store) ForgetFiles(ctx context.Context) error {
	_, err := pg.DeleteBatches(ctx, s.pool, 1, forgetTimeout, `
		delete from files where id in (
			select id from files where batch is null and stored_at is null and created_at < clock_timestamp() - $1::interval order by created_at limit $2)`, uploadTime)
	if err != nil {
		return fmt.Errorf("remove files that were not uploaded completely: %w", err)
	}
	return nil
}

// RemoveOldFiles removes batches that ended more than the duration age ago by the database's
// clock, and uploaded files that are older and that no batch reads. It returns their number.
func (s *Store) RemoveOldFiles(ctx context.Context, age time.Duration) (removed int64, err error) {
	for _, sql := range []string{
		`delete from batches where id in (
			select id from batches where ended_at < clock_timestamp() - $1::interval order by ended_at limit $2 for update skip locked)`,
		`delete from files where id in (
			select id from files f where batch is null and stored_at < clock_timestamp() - $1::interval and created_at < clock_timestamp() - $1::interval
				and not exists (select from batches b where b.owner = f.owner and b.input = f.id and b.ended_at is null)
			order by created_at limit $2 for update skip locked)`,
	} {
		n, err := pg.DeleteBatches(ctx, s.pool, 1, forgetTimeout, sql, age)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("remove old files and batches: %w", err)
		}
	}
	return removed, nil
}

// removeFilesOf removes the files and the batches of an erased owner, some rows at a time. The
// owner is closed, so no row is added.
func (s *Store) removeFilesOf(ctx context.Context, owner uuid.UUID) error {
	for _, of := range []struct {
		rows int
		sql  string
	}{
		{100, `delete from file_chunks where owner = $1 and (file, number) in (select file, number from file_chunks where owner = $1 limit $2)`},
		{1000, `delete from batch_lines where owner = $1 and (batch, number) in (select batch, number from batch_lines where owner = $1 limit $2)`},
		{100, `delete from files where id in (select id from files where owner = $1 limit $2)`},
		{100, `delete from batches where id in (select id from batches where owner = $1 limit $2)`},
	} {
		if _, err := pg.DeleteBatches(ctx, s.pool, of.rows, forgetTimeout, of.sql, owner); err != nil {
			return fmt.Errorf("remove the files of owner %s: %w", owner, err)
		}
	}
	return nil
}
