package main

import "testing"

// The web server has all four timeouts, so that a client which is slow or silent cannot keep a connection for good.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	web := newWebServer(newInProcess(t, dryRunConfig(), &recorder{}).server, 9, t.Context())
	if web.ReadHeaderTimeout == 0 || web.ReadTimeout == 0 || web.WriteTimeout == 0 || web.IdleTimeout == 0 {
		t.Errorf("a timeout is missing: %+v", web)
	}
}
