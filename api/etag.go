package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// etagOf returns the entity tag of a resource, which is a digest of the resource's JSON.
func etagOf(resource any) (string, error) {
	shown, err := json.Marshal(resource)
	if err != nil {
		return "", fmt.Errorf("make an entity tag: %w", err)
	}
	sum := sha256.Sum256(shown)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, nil
}

// conditional returns the entity tag of a resource and the status of the answer. The
// status is 304 if the If-None-Match header names the tag, and 200 otherwise.
func conditional(resource any, ifNoneMatch string) (etag string, status int, err error) {
	if etag, err = etagOf(resource); err != nil {
		return "", 0, err
	}
	if matches(ifNoneMatch, etag) {
		return etag, http.StatusNotModified, nil
	}
	return etag, http.StatusOK, nil
}

// matches reports whether an If-None-Match header names the entity tag. A weak tag with
// the same value matches too (RFC 9110, 13.1.2).
func matches(header, etag string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}
