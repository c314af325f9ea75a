package main

// The files of the page, and the headers that the browser gets with them.

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"slackboard/e2e"
)

// The browser may keep the files of the page, but has to ask each time whether they have changed. It may keep nothing
// else. The requests that the page makes by itself (polls) are not in the access log, unless they fail or the level is
// debug.
func TestPageHeaders(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, hookAndTags), &recorder{})
	get := func(path string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost:29800"
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return newRecorderFor(p, r)
	}
	data := []string{"/stat/app", "/messages?state=any", "/messages/x", "/config/app", "/metrics", "/nothing"}
	for _, path := range data {
		if h := get(path).Header(); h.Get("Cache-Control") != "no-store" ||
			h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
	}
	for _, path := range []string{"/ui/", "/ui/app.js", "/ui/style.css"} {
		w := get(path)
		tag, policy := w.Header().Get("ETag"), w.Header().Get("Content-Security-Policy")
		ok := strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:;")
		if w.Code != 200 || tag == "" || w.Header().Get("Cache-Control") != "no-cache" || !ok {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		if w := get(path, "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s again: %d", path, w.Code)
		}
	}
	for path, want := range map[string]string{"/": "ui/", "/ui": "ui/"} {
		if w := get(path); w.Code != http.StatusFound || w.Header().Get("Location") != want {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	lines := func() int { return strings.Count(p.out.String(), "\n") }
	p.log = slog.New(slog.DiscardHandler)
	before := lines()
	get("/stat/app", pollHeader, "yes")
	if n := lines(); n != before {
		t.Error("a poll has a line in the access log")
	}
	get("/messages", pollHeader, "yes") // 400
	get("/stat/app")
	p.log = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
	get("/stat/app", pollHeader, "yes")
	if n := lines(); n != before+3 {
		t.Errorf("%d lines, want 3: a poll that fails, a request that is no poll, a poll at level debug", n-before)
	}
}

// The page has at most 600 lines that are not blank, none wider than 120 columns. It loads nothing from other servers,
// and all its links are relative.
func TestPageIsSmall(t *testing.T) {
	lines := 0
	for _, name := range []string{"index.html", "style.css", "app.js"} {
		content := e2e.ReadFile(t, "ui/"+name)
		for line := range strings.Lines(content) {
			if strings.TrimSpace(line) != "" {
				lines++
			}
			if utf8.RuneCountInString(line) > 121 {
				t.Errorf("%s: a line beyond 120 columns: %s", name, line)
			}
		}
		outside := regexp.MustCompile(`https?://[^\s"'`+"`"+`<]+|(src|href)="/|url\(`).FindAllString(content, -1)
		for _, url := range outside {
			name, said := url == "http://www.w3.org/2000/svg", strings.HasPrefix(url, "http://127.0.0.1:29800/")
			if !name && !said {
				t.Errorf("the page must not have this URL: %s", url)
			}
		}
	}
	if lines > 600 {
		t.Errorf("the page has %d lines that are not blank, 600 at most", lines)
	}
}
