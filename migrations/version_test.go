package migrations

import "testing"

func TestOldVersionsOfPostgresAreRefused(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"14.23": false, "9.6.24": false, "15.0": true, "18.1 (Debian 18.1-1)": true, "19beta1": true, "": true,
	} {
		if err := checkVersion(version); (err == nil) != want {
			t.Errorf("%q: %v", version, err)
		}
	}
}
