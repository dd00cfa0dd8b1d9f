package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"colophon/internal/database"
	"colophon/internal/network"
	"colophon/internal/pg"
	"colophon/internal/vault"
	"colophon/model/catalog"
)

type productionFlags struct {
	Production bool `help:"Refuse to start with insecure settings; the error names all of them ($COLOPHON_PRODUCTION)."`
}

// check finds insecure settings before anything has started. With --production it returns
// an error that names every insecure setting. Without --production it logs a warning for
// each such setting, if other machines can reach the service.
func (f *processFlags) check(r roles, known catalog.Releases, log *slog.Logger) error {
	if err := f.adminFlags.check(); err != nil {
		return err
	}
	if err := f.options(log).Validate(); err != nil {
		return err
	}
	faults := f.databaseFlags.faults()
	if r.work != nil {
		faults = append(faults, f.modelFlags.faults(known)...)
	}
	if r.listen != nil {
		faults = append(faults, r.listen.faults()...)
	}
	faults = append(faults, f.webhookFlags.faults()...)
	return f.report(r, append(faults, f.adminFlags.faults()...), log)
}

// report returns insecure settings as an error if --production is set. Otherwise it logs
// them if other machines can reach the service.
func (f *processFlags) report(r roles, faults []string, log *slog.Logger) error {
	if f.Production && len(faults) > 0 {
		return &usageError{errors.New("--production refuses to start:\n  " + strings.Join(faults, "\n  ") + "\n")}
	}
	if r.listen != nil && !network.IsLoopback(r.listen.Listen) {
		for _, fault := range faults {
			log.Warn("insecure setting on an address that other machines reach", "fault", fault)
		}
	}
	return nil
}

// checkDatabase is check for what is known only when the database answers: the power of
// its logins, and whether a crash may lose accepted jobs.
func (f *processFlags) checkDatabase(ctx context.Context, r roles, db *database.Database) error {
	faults, err := db.PowerfulLogins(ctx)
	if err != nil {
		return err
	}
	if err := f.report(r, faults, db.Log); err != nil {
		return err
	}
	return checkDurability(ctx, db, f.Production)
}

// checkDurability returns an error if the database may lose accepted jobs in a crash and
// production is set. Without production, it logs a warning.
func checkDurability(ctx context.Context, db *database.Database, production bool) error {
	unsafe, err := db.Unsafe(ctx)
	if err != nil {
		return err
	}
	if production && len(unsafe) > 0 {
		return &usageError{errors.New("--production refuses to start:\n  --database-url: " + strings.Join(unsafe, "\n  --database-url: ") + "\n")}
	}
	for _, setting := range unsafe {
		db.Log.WarnContext(ctx, "database may lose accepted jobs in a crash", "fault", setting)
	}
	return nil
}

func (f *databaseFlags) faults() (faults []string) {
	flag := "--master-key"
	if f.KeyFile != "" {
		flag = "--master-key-file"
	}
	key, err := f.options(nil).ReadMasterKey()
	switch {
	case err != nil && f.KeyFile != "":
		faults = append(faults, err.Error())
	case f.MasterKey == nil && f.KeyFile == "":
		faults = append(faults, "--master-key: a key beside the data does not protect stolen data: set COLOPHON_MASTER_KEY (`openssl rand -base64 32`) from a secret store, or COLOPHON_MASTER_KEY_FILE")
	case vault.IsGuessable(key):
		faults = append(faults, flag+": the key is not random: make one with `openssl rand -base64 32`")
	}
	if second, err := f.options(nil).ReadSecondKey(); err != nil {
		faults = append(faults, err.Error())
	} else if second != nil && vault.IsGuessable(second) {
		faults = append(faults, "--second-master-key: the key is not random: make one with `openssl rand -base64 32`")
	}
	if f.DatabaseURL == "" {
		return append(faults, "--database-url: a private Postgres has no backup and no second machine: set DATABASE_URL")
	}
	for _, u := range []struct{ flag, url string }{{"--database-url", f.DatabaseURL}, {"--database-direct-url", f.DirectURL}} {
		if u.url == "" {
			continue
		}
		weak, err := pg.Weaknesses(u.url)
		if err != nil {
			weak = []string{err.Error()}
		}
		for _, w := range weak {
			faults = append(faults, u.flag+": "+w)
		}
	}
	return faults
}

func (f *modelFlags) faults(known catalog.Releases) []string {
	if known.Pinned(f.Model) || f.Model == catalog.BuiltIn || f.WeightsDigest != "" {
		return nil
	}
	return []string{"--model: the weights are not pinned: set --weights-digest (`colophon model verify` prints it)"}
}

func (f *listenFlags) faults() (faults []string) {
	if slices.Contains(f.CORSOrigins, "*") {
		faults = append(faults, "--cors-origins: * lets every page call the API: list the origins that may")
	}
	if f.NoRateLimits {
		faults = append(faults, "--no-rate-limits: a service in production needs its limits")
	}
	if f.TLSCert == "" && len(f.ACMEDomain) == 0 && len(f.TrustedProxies) == 0 && !network.IsLoopback(f.Listen) {
		faults = append(faults, "--listen: plain HTTP on an address that other machines reach: set --tls-cert and --tls-key, or --acme-domain, or --trusted-proxies if a proxy terminates TLS")
	}
	return faults
}

func (f *adminFlags) faults() []string {
	if f.AdminListen == "" || network.IsLoopback(f.AdminListen) {
		return nil
	}
	return []string{"--admin-listen: other machines can read the memory of this process: use 127.0.0.1"}
}
