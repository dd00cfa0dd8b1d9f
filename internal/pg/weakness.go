package pg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Weaknesses returns the faults of a database URL for production use. A fault is a
// connection to another machine that may be unencrypted, or a password that is easy to
// guess. No result contains a part of the password.
func Weaknesses(databaseURL string) (weak []string, err error) {
	cfg, err := parse(databaseURL)
	if err != nil {
		return nil, err
	}
	conn := cfg.ConnConfig
	hosts, clear := []string{conn.Host}, map[string]bool{conn.Host: conn.TLSConfig == nil}
	for _, other := range conn.Fallbacks {
		if !slices.Contains(hosts, other.Host) {
			hosts = append(hosts, other.Host)
		}
		clear[other.Host] = clear[other.Host] || other.TLSConfig == nil
	}
	network := false
	for _, host := range hosts {
		if socket(host) {
			continue
		}
		network = true
		if clear[host] && !onLoopback(host) {
			weak = append(weak, fmt.Sprintf("the connection to %s may be in the clear: add sslmode=verify-full, or require", host))
		}
	}
	certified := conn.TLSConfig != nil && (len(conn.TLSConfig.Certificates) > 0 || conn.TLSConfig.GetClientCertificate != nil)
	switch {
	case !network || conn.Password == "" && certified:
	case conn.Password == "":
		weak = append(weak, "there is neither a password nor a client certificate")
	case slices.ContainsFunc(guessed(conn), func(s string) bool { return s != "" && strings.EqualFold(s, conn.Password) }):
		weak = append(weak, "the password is easily guessed")
	case len(conn.Password) < shortest:
		weak = append(weak, fmt.Sprintf("the password is shorter than %d characters", shortest))
	}
	return weak, nil
}

// shortest is the smallest length, in bytes, of a password that is hard to guess.
const shortest = 12

// guessed returns the passwords that attackers try first.
func guessed(conn *pgx.ConnConfig) []string {
	return []string{conn.User, conn.Database, "postgres", "password", "secret", "changeme", "colophon", "admin"}
}

func socket(host string) bool { return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") }

func onLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}
