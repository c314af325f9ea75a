package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// [ui] root serves a folder instead.
func TestPageOfOnesOwn(t *testing.T) {
	dir := filepath.Dir(WriteFile(t, "index.html", "<h1>mine</h1>"))
	s := StartServer(t, ServerConfig("http://127.0.0.1:1")+"[ui]\nroot='"+dir+"'\n")
	for path, want := range map[string]string{"/ui/": "<h1>mine</h1>", "/ui": "<h1>mine</h1>", "/": "<h1>mine</h1>"} {
		if status, body := s.Request("GET", path, ""); status != 200 || body != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	s = StartServer(t, ServerConfig("http://127.0.0.1:1")+"[ui]\nroot='/nowhere'\n")
	if status, body := s.Request("GET", "/ui/", ""); status != 200 || !strings.Contains(body, "<h1>Slackboard</h1>") || !strings.Contains(s.Stderr.String(), "/nowhere is not a folder") {
		t.Errorf("the built-in page: %d %s", status, s.Stderr.String())
	}
	if status, body := s.Request("GET", "/ui/nothing", ""); status != 404 || !strings.Contains(body, `"message"`) {
		t.Errorf("/ui/nothing: %d %s", status, body)
	}
}
