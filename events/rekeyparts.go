package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// parts is a table with the sealed parts of files or batches.
type parts struct {
	table string
	whole string // column with the id of the file or the batch
	rows  int    // rows that are sealed again in one transaction
	aad   func(uuid.UUID, int) string
}

// part names a part of a file or a batch.
type part struct {
	Whole  uuid.UUID
	Number int
}

// parts is like events, for the parts of files or batches that follow one.
func (k *rekeying) parts(ctx context.Context, tx pgx.Tx, batch *pgx.Batch, of parts, after part) (int, part, error) {
	type row struct {
		part
		Sealed []byte
	}
	rows, _ := tx.Query(ctx, `select `+of.whole+`, number, sealed from `+of.table+` where owner = $1 and (`+of.whole+`, number) > ($2, $3) order by `+of.whole+`, number limit $4`,
		k.Owner, after.Whole, after.Number, of.rows)
	page, err := pgx.CollectRows(rows, func(found pgx.CollectableRow) (r row, err error) {
		err = found.Scan(&r.Whole, &r.Number, &r.Sealed)
		return r, err
	})
	if err != nil {
		return 0, after, fmt.Errorf("read the table %s: %w", of.table, err)
	}
	for _, r := range page {
		after = r.part
		sealed, err := k.value(r.Sealed, of.aad(r.Whole, r.Number))
		if err != nil {
			k.left(fmt.Sprintf("part %d of %s %s: not readable", r.Number, of.whole, r.Whole))
		}
		if sealed != nil {
			batch.Queue(`update `+of.table+` set sealed = sealed_by($1, $2::integer, $3) where `+of.whole+` = $4 and number = $5 and sealed = $6`,
				k.Owner, k.Next.Number(), sealed, r.Whole, r.Number, r.Sealed).Exec(add(&k.Rekeyed.Parts))
		}
	}
	return len(page), after, nil
}
