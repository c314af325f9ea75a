package main

import "testing"

func TestParsePort(t *testing.T) {
	for port, want := range map[string]string{"29800": ":29800", "unix:/a/b": "/a/b", "[::1]:1": "[::1]:1"} {
		if _, address, err := parsePort(port); err != nil || address != want {
			t.Errorf("port %s: %s, %v", port, address, err)
		}
	}
}

func TestTimeouts(t *testing.T) {
	web := newWebServer(newInProcess(t, dryRunConfig(), &recorder{}).server, 9, t.Context())
	if web.ReadHeaderTimeout == 0 || web.ReadTimeout == 0 || web.WriteTimeout == 0 || web.IdleTimeout == 0 {
		t.Errorf("a timeout is missing: %+v", web)
	}
}
