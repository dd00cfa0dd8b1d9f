package limit

import "testing"

func TestRateIsParsedStrictly(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"5/1m": true, "1/1s": true, "4294967295/24h": true, "0/1m": false, "5": false, "5/": false, "-1/1m": false, "5/1ms": false, "5/800h": false, "5/x": false,
		"5/1m x": false, "5/1m ": false, " 5/1m": false, "5 /1m": false, "+5/1m": false, "5/1m/1m": false, "4294967296/1m": false, "0x5/1m": false} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}
