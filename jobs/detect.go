package jobs

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/model/watermark"
)

// detectWait is the maximum time for which a detection waits for a free slot.
const detectWait = 5 * time.Second

// detectsPerOwner is the largest number of detections of one owner that run or wait for a
// slot of the process. Further ones wait for the owner's others, so that nobody's burst
// fills the line of all owners.
const detectsPerOwner = 1

// ErrDetectorBusy is returned by [Detector.Detect] if no slot became free in time.
var ErrDetectorBusy = errcode.New("detector_busy", "too many texts are examined at once")

// TextLengthError is returned by [Detector.Detect] for a text with more than
// watermark.MaxTokens tokens.
type TextLengthError struct{ Tokens int }

// Code returns the error's code for programs.
func (*TextLengthError) Code() string { return "text_length" }

func (e *TextLengthError) Error() string {
	return fmt.Sprintf("the text has %d tokens, and at most %d can be examined", e.Tokens, watermark.MaxTokens)
}

// Detection is what a text says about the watermark of one owner.
type Detection struct {
	Result watermark.Result
	Scored int    // number of tokens that were scored
	Key    string // id of the owner's key; "" if the owner has none, because no text of the owner was ever marked
}

// Detector looks for the watermarks of owners in texts. It is safe for concurrent use. It
// keeps no text, and writes none to the log, the database or an error.
//
// A detection computes for up to a second. So that detections leave processors for other
// work, a Detector runs few of them at a time, and the others wait.
type Detector struct {
	store  *events.Store
	encode func(text string) []int
	owners *ownerSemaphore
	slots  chan struct{} // semaphore that has one element per running detection
	wait   time.Duration
}

// NewDetector returns a detector for texts of the model whose tokenizer encodes them.
// Encode must be safe for concurrent use.
func NewDetector(store *events.Store, encode func(text string) []int) *Detector {
	return &Detector{
		store: store, encode: encode,
		owners: newOwnerSemaphore(detectsPerOwner),
		slots:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		wait:   detectWait,
	}
}

// Detect looks for the watermark of an owner in a text. If the owner has no key, no text
// has the owner's mark, and the result is that of a text without one. Detect never creates
// a key.
//
// The text may be any part of a generated text, with or without its prompt. A cut within a
// word changes the tokens of that word alone, and a mark depends on the three tokens before it.
//
// Detect returns a [TextLengthError], vault.ErrErased for an erased owner, and
// ErrDetectorBusy if the process examines too many other texts. If ctx ends, it returns
// ctx's error within milliseconds.
func (d *Detector) Detect(ctx context.Context, owner uuid.UUID, text string) (Detection, error) {
	release, err := d.acquire(ctx, owner)
	if err != nil {
		return Detection{}, err
	}
	defer release()
	// Some editors end lines with two characters. Models write one, so the two would hide
	// the mark around each end of a line.
	tokens := d.encode(strings.ReplaceAll(text, "\r\n", "\n"))
	if len(tokens) > watermark.MaxTokens {
		return Detection{}, &TextLengthError{len(tokens)}
	}
	// The key is read after the wait, in which the owner may have been erased.
	key, marks, err := d.store.FindWatermarkKey(ctx, owner)
	if err != nil {
		return Detection{}, err
	}
	var found Detection
	if marks {
		found.Key = key.ID()
		found.Result, found.Scored, err = key.Detect(ctx, tokens)
	} else {
		found.Result, found.Scored, err = watermark.Unmarked(tokens)
	}
	return found, err
}

// acquire waits for a slot of the owner and one of the process. The caller must call
// release.
func (d *Detector) acquire(ctx context.Context, owner uuid.UUID) (release func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.wait, ErrDetectorBusy)
	defer cancel()
	leave, err := d.owners.acquire(ctx, owner)
	if err != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case d.slots <- struct{}{}:
		return func() { <-d.slots; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
