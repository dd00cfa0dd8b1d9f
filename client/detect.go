package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// A DetectionResult says whether a text has the watermark of an account.
type DetectionResult string

// The results of Detect.
const (
	WatermarkFound    DetectionResult = "found"     // passages of the text have the watermark
	WatermarkNotFound DetectionResult = "not_found" // it was not found, which proves nothing
	WatermarkTooShort DetectionResult = "too_short" // it was not found, and the text is too short to say
)

// A Detection is the result of looking for the watermark of the user's account in a text.
type Detection struct {
	Result       DetectionResult `json:"result"`
	TokensScored int             `json:"tokens_scored"` // number of tokens on which the result depends
	Key          string          `json:"key"`           // id of the account's watermark key; "" if no text was ever marked for the account
}

// Detect looks for the watermark of the user's account in a text. The text may be a part of a
// generated text, with or without its prompt. If it has more than 8,000 tokens, the error is
// a [*Problem] with the code [CodeTextLength]. The service does not keep the text.
func (c *Client) Detect(ctx context.Context, text string) (*Detection, error) {
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	r := &Request{Method: http.MethodPost, Path: "/detect", Body: body}
	found := &Detection{}
	if _, err := c.call(ctx, r, found); err != nil {
		return nil, err
	}
	if found.Result == "" {
		return nil, failed(r, fmt.Errorf("%w: a detection without a result", ErrProtocol))
	}
	return found, nil
}
