package pg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Weaknesses says what is wrong with a database URL that is not for trying things
// out: connections to other machines that may be in the clear, and passwords that
// anybody would try. Nothing of the password is in what it returns.
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
	guessed := []string{conn.User, conn.Database, "postgres", "password", "secret", "changeme", "colophon", "admin"}
	if network && slices.ContainsFunc(guessed, func(s string) bool { return s != "" && strings.EqualFold(s, conn.Password) }) {
		weak = append(weak, "the password is one that anybody tries first")
	}
	return weak, nil
}

func socket(host string) bool { return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") }

func onLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}
