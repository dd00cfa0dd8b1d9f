package events

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"colophon/internal/vault"
)

// Events of schema 1 have their ciphertext in the payload, in the member "sealed" of the
// fact. They have no commitments and no hash of the previous event. The program writes no
// such events any more, and reads them for ever.

// openFact1 decrypts the member "sealed" and adds the decrypted members to the fact. If
// key is nil, openFact1 cannot decrypt the member. It then returns the fact unchanged
// and reports it as erased.
func openFact1(s stored, key *vault.Key) (fact json.RawMessage, erased bool, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(s.Fact, &members); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	box, ok := members["sealed"]
	if !ok {
		return s.Fact, false, nil
	}
	if key == nil {
		return s.Fact, true, nil
	}
	var encoded string
	if err := json.Unmarshal(box, &encoded); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	sealed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	plain, err := key.Open(sealed, aad(s.Stream, s.Version))
	if err != nil {
		return nil, false, err
	}
	delete(members, "sealed")
	if err := json.Unmarshal(plain, &members); err != nil { // adds the decrypted members to the map
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	fact, err = json.Marshal(members)
	return fact, false, err
}
