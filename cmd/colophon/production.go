package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"colophon/internal/network"
	"colophon/internal/pg"
	"colophon/internal/vault"
	"colophon/model/catalog"
)

type productionFlags struct {
	Production bool `help:"Refuse to start with settings that are for trying it out; each of them is named ($COLOPHON_PRODUCTION)."`
}

// check refuses insecure flags before anything has started. With --production its
// error names every fault; without it, it warns of them if other machines reach the
// service.
func (f *processFlags) check(r roles, known catalog.Releases, log *slog.Logger) error {
	if err := f.adminFlags.check(); err != nil {
		return err
	}
	faults := f.databaseFlags.faults()
	if r.work != nil {
		faults = append(faults, f.modelFlags.faults(known)...)
	}
	reached := false
	if r.listen != nil {
		faults = append(faults, r.listen.faults()...)
		reached = !network.IsLoopback(r.listen.Listen)
	}
	faults = append(faults, f.adminFlags.faults()...)
	if f.Production && len(faults) > 0 {
		return &usageError{errors.New("--production refuses to start:\n  " + strings.Join(faults, "\n  ") + "\n")}
	}
	if reached {
		for _, fault := range faults {
			log.Warn("other machines reach this service, and --production would refuse to start it", "fault", fault)
		}
	}
	return nil
}

func (f *databaseFlags) faults() (faults []string) {
	switch {
	case f.MasterKey == nil:
		faults = append(faults, "--master-key: a key that is kept beside the data protects nothing from who has the data: set COLOPHON_MASTER_KEY (`openssl rand -base64 32`) from where secrets are kept")
	case vault.IsGuessable(f.MasterKey):
		faults = append(faults, "--master-key: the key is not random: `openssl rand -base64 32` makes one that is")
	}
	if f.DatabaseURL == "" {
		return append(faults, "--database-url: a private Postgres has no backup and no second machine: set DATABASE_URL")
	}
	weak, err := pg.Weaknesses(f.DatabaseURL)
	if err != nil {
		weak = []string{err.Error()}
	}
	for _, w := range weak {
		faults = append(faults, "--database-url: "+w)
	}
	return faults
}

func (f *modelFlags) faults(known catalog.Releases) []string {
	_, published := known.Named(f.Model)
	if published || f.Model == catalog.BuiltIn || f.WeightsDigest != "" {
		return nil
	}
	return []string{"--model: nothing says which weights the directory has to have: set --weights-digest (`colophon model verify` prints it)"}
}

func (f *listenFlags) faults() (faults []string) {
	if slices.Contains(f.CORSOrigins, "*") {
		faults = append(faults, "--cors-origins: * lets every page use the API: list the origins that may")
	}
	if f.NoRateLimits {
		faults = append(faults, "--no-rate-limits: requests have to be counted")
	}
	if f.TLSCert == "" && len(f.ACMEDomain) == 0 && len(f.TrustedProxies) == 0 && !network.IsLoopback(f.Listen) {
		faults = append(faults, "--listen: plain HTTP on an address that other machines reach: set --tls-cert and --tls-key, or --acme-domain, or --trusted-proxies if a proxy in front of it speaks TLS")
	}
	return faults
}

func (f *adminFlags) faults() []string {
	if f.AdminListen == "" || network.IsLoopback(f.AdminListen) {
		return nil
	}
	return []string{"--admin-listen: other machines can read this process's memory: use 127.0.0.1"}
}

// digest is a flag such as sha256:248d….
type digest string

// UnmarshalText reads a digest.
func (d *digest) UnmarshalText(text []byte) error {
	name, ok := strings.CutPrefix(string(text), "sha256:")
	if raw, err := hex.DecodeString(name); !ok || err != nil || len(raw) != 32 {
		return fmt.Errorf("a digest is sha256: and 64 digits of hexadecimal")
	}
	*d = digest("sha256:" + strings.ToLower(name))
	return nil
}
