package httpd

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"testing"
)

func TestOnlyPlainLoopbackListenersAreLocal(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	for name, k := range map[string]struct {
		address string
		options ListenOptions
		local   bool
	}{
		"loopback":           {"127.0.0.1:0", ListenOptions{}, true},
		"localhost":          {"localhost:0", ListenOptions{}, true},
		"every address":      {"0.0.0.0:0", ListenOptions{}, false},
		"with a certificate": {"127.0.0.1:0", ListenOptions{TLS: &tls.Config{}}, false},
		"behind a proxy":     {"127.0.0.1:0", ListenOptions{Trusted: proxies}, false},
	} {
		k.options.MaxConnections, k.options.Log = 1, slog.New(slog.DiscardHandler)
		listener, err := Listen(t.Context(), k.address, k.options)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if got := listener.IsLocal(); got != k.local {
			t.Errorf("%s: %v", name, got)
		}
	}
}
