package jobs

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/model/watermark"
)

var (
	// errWatermarkScheme occurs when this build cannot compute a job's watermark. Another
	// build may.
	errWatermarkScheme = errors.New("this build does not know the scheme of the watermark")

	// errWatermarkKey occurs when the owner's watermark key is not the one that the job was
	// accepted with. No worker can run the job.
	errWatermarkKey = errors.New("the watermark key that the job was accepted with is gone")
)

// findWatermarkKey returns an owner's watermark key, as [events.Store.FindWatermarkKey] does.
type findWatermarkKey func(ctx context.Context, owner uuid.UUID) (key watermark.Key, found bool, err error)

// watermarkKey returns the key that marks the text of a job, or nil for a job without a
// watermark. The error is errWatermarkScheme, errWatermarkKey, or one of find.
func watermarkKey(ctx context.Context, find findWatermarkKey, job events.Job) (*watermark.Key, error) {
	if job.Watermark == (events.Watermark{}) {
		return nil, nil
	}
	if job.Watermark.Parameters != watermark.Parameters {
		return nil, errWatermarkScheme
	}
	key, found, err := find(ctx, job.Owner)
	switch {
	case err != nil:
		return nil, err
	case !found || key.ID() != job.Watermark.Key:
		return nil, errWatermarkKey
	}
	return &key, nil
}

// watermark returns how the text of a new job is marked. It is zero for a text without a
// mark. A text at temperature 0 has none, because none of its tokens has an alternative. The
// first marked job of an owner creates the owner's key.
func (q *Queue) watermark(ctx context.Context, owner uuid.UUID, r Request) (w events.Watermark, err error) {
	if !r.Watermark && !q.Watermark || r.Temperature == 0 {
		return w, nil
	}
	key, err := q.store.WatermarkKey(ctx, owner)
	if err != nil {
		return w, err
	}
	return events.Watermark{Key: key.ID(), Parameters: watermark.Parameters}, nil
}
