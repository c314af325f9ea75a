package main

// Who may do what: senders, operators, and those who ask from the server's own host.

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// A request with a header that a proxy adds does not count as one from this host, even if the client has sent an empty
// header of the same name, which stands in front of it.
func TestForwardedBehindAnEmptyLine(t *testing.T) {
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip", "X-Forwarded-Host",
		"X-Forwarded-Proto", "X-Forwarded", "X-Original-Forwarded-For",
		"Forwarded-For", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
		"X-Envoy-External-Address", "x_forwarded_for"} {
		r := httptest.NewRequest("GET", "/messages", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:1234", "localhost"
		if !fromHere(r) {
			t.Error("not taken for a request from this host, although it has no " + name)
		}
		r.Header[name] = []string{"", "for=192.0.2.1"}
		if fromHere(r) {
			t.Errorf("%s: taken for a request from this host, although it came through a proxy", name)
		}
	}
}

// The answer to a message with sync=true may be written later than other answers: after max_delay_duration and the time
// that a post may take.
func TestSyncOutlivesTheWriteTimeout(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, e2e.WithCore(hookAndTags, "max_delay_duration = 600")), &recorder{})
	w := &deadlineWriter{}
	req, _ := http.NewRequest("POST", "http://localhost/notify", strings.NewReader(e2e.NotifyBody("a", 1, true)))
	p.http.ServeHTTP(w, req)
	if wait := time.Until(w.deadline); wait < 620*time.Second {
		t.Errorf("the answer has to be written within %v, want at least 620 s", wait)
	}
}

// deadlineWriter discards the answer and keeps the deadline for writing it.
type deadlineWriter struct{ deadline time.Time }

func (w *deadlineWriter) SetWriteDeadline(at time.Time) error { w.deadline = at; return nil }
func (w *deadlineWriter) Header() http.Header                 { return http.Header{} }
func (w *deadlineWriter) Write(b []byte) (int, error)         { return len(b), nil }
func (w *deadlineWriter) WriteHeader(int)                     {}

const twoSenders = `
[[senders]]
name = "ci"
token = "C1"
[[senders]]
name = "web"
token = "0ld"
[[senders]]
name = "web"
token = "N3w"
`

// A sender may post and do nothing else, an operator may do everything. If any token is configured, nobody may post
// without one. /healthz and /readyz answer everybody.
func TestSenders(t *testing.T) {
	t.Parallel()
	reads := []string{"GET /stat/app", "GET /stat/go", "GET /config/app", "GET /ui/", "GET /", "GET /metrics",
		"GET /debug/vars", "GET /messages?state=dead", "GET /messages/0",
		"POST /messages/retry?tag=a", "POST /messages/0/retry", "DELETE /messages?state=dead&tag=a",
		"DELETE /messages/0", "GET /nothing"}
	posts := []string{"POST /notify", "POST /notify/", "POST /notify-directly"}
	const passes = 0 // in place of a status: the request is not refused
	for _, test := range []struct {
		name, toml, token string
		post, read        int
	}{
		{"senders and operators, an operator", e2e.WithCore(hookAndTags, "auth_token = '0P'") + twoSenders, "0P",
			passes, passes},
		{"senders and operators, a sender", e2e.WithCore(hookAndTags, "auth_token = '0P'") + twoSenders, "C1",
			passes, 403},
		{"senders and operators, nobody", e2e.WithCore(hookAndTags, "auth_token = '0P'") + twoSenders, "", 401, 401},
		{"senders and operators, a sender with a blank", e2e.WithCore(hookAndTags, "auth_token = '0P'") + twoSenders,
			"C1 ", passes, 403},
		{"senders, the old token", hookAndTags + twoSenders, "0ld", passes, 403},
		{"senders, the new token", hookAndTags + twoSenders, "N3w", passes, 403},
		{"senders, nobody", hookAndTags + twoSenders, "", 401, passes},
		{"senders, a stranger", hookAndTags + twoSenders, "x", 401, passes},
		{"operators, nobody", e2e.WithCore(hookAndTags, "auth_token = '0P'"), "", 401, 401},
		{"no tokens", hookAndTags, "", passes, passes},
		{"no tokens, one is brought", hookAndTags, "x", passes, passes},
	} {
		p := newInProcess(t, testConfig(t, test.toml), &recorder{})
		for want, requests := range map[*int][]string{&test.post: posts, &test.read: reads} {
			for _, request := range requests {
				method, path, _ := strings.Cut(request, " ")
				w := p.askAs(test.token, method, "http://localhost"+path,
					`{"tag":"a","text":"x","payload":{"text":"x"}}`)
				// A 403 because the request comes from another host is no refusal here: httptest's requests do.
				refused := w.Code == 401 || w.Code == 403 && !strings.Contains(w.Body.String(), "own host only")
				if refused != (*want != passes) || refused && w.Code != *want {
					t.Errorf("%s: %s: %d %s", test.name, request, w.Code, w.Body)
				}
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if w := p.askAs(test.token, "GET", path, ""); w.Code != 200 {
				t.Errorf("%s: %s: %d", test.name, path, w.Code)
			}
		}
		if w := p.askAs(test.token, "GET", "/check", ""); (w.Code == 401) != (test.post == 401) || w.Code == 403 {
			t.Errorf("%s: /check: %d", test.name, w.Code)
		}
	}
}

// A sender's name is in the access log, and in the spool with its message. No token is in the logs or in the spool.
func TestSenderIsNamed(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, e2e.WithCore(hookAndTags, "auth_token = '0P3RATOR'")+twoSenders),
		&recorder{script: down})
	p.askAs("N3w", "POST", "/notify", e2e.NotifyBody("a", 1, false))
	p.askAs("0P3RATOR", "POST", "/notify", e2e.NotifyBody("a", 2, false))
	p.askAs("C1", "POST", "/notify-directly", `{"payload":{"channel":"#c","text":"3"}}`)
	p.askAs("C1", "GET", "/config/app", "")
	stored := ""
	files, _ := filepath.Glob(filepath.Join(p.cfg().spool.dir, "*"))
	for _, file := range files {
		stored += e2e.ReadFile(t, file)
	}
	if strings.Count(stored, `"sender":`) != 2 || !strings.Contains(stored, `"sender":"web"`) ||
		!strings.Contains(stored, `"sender":"ci"`) {
		t.Errorf("the spool has %s", stored)
	}
	log := p.out.String()
	lines := strings.Split(log, "\n")
	if !strings.Contains(lines[0], `"sender":"web"`) || strings.Contains(lines[1], "sender") ||
		!strings.Contains(lines[2], `"sender":"ci"`) || !strings.Contains(lines[3], `"sender":"ci"`) {
		t.Errorf("the access log is %s", log)
	}
	if all := log + stored + p.logs.String(); strings.Contains(all, "N3w") || strings.Contains(all, "0P3RATOR") ||
		strings.Contains(all, `C1`) {
		t.Errorf("a token shows: %s", all)
	}
}

// Without an auth_token, messages can be seen, sent again and dropped only from the server's own host: not from another
// host, not through a proxy, and not under a host name that may be another site's (DNS rebinding).
func TestOperatorsOnly(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	for _, request := range []string{"GET /messages?state=dead", "GET /messages/x", "POST /messages/x/retry",
		"POST /messages/retry?tag=a", "DELETE /messages/x", "DELETE /messages?state=dead&tag=a"} {
		method, path, _ := strings.Cut(request, " ")
		if w := p.do(method, path, ""); w.Code != http.StatusForbidden {
			t.Errorf("%s from another host: %d", request, w.Code)
		}
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr, r.Host = "[::1]:5", "[::1]:29800"
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		if w := newRecorderFor(p, r); w.Code != http.StatusForbidden {
			t.Errorf("%s through a proxy: %d", request, w.Code)
		}
		r.Header.Del("X-Forwarded-For")
		r.Host = "evil.example:29800" // DNS rebinding
		if w := newRecorderFor(p, r); w.Code != http.StatusForbidden {
			t.Errorf("%s with another host name: %d", request, w.Code)
		}
		r.Host = "[::1]:29800"
		if w := newRecorderFor(p, r); w.Code == http.StatusForbidden {
			t.Errorf("%s from ::1: %d", request, w.Code)
		}
	}
}
