package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An answer may take 60 s: a sync one waits for Slack.
func TestAnswerMayTakeAMinute(t *testing.T) {
	w, err := (&Flags{Servers: "h:1,unix:/s"}).way()
	if err != nil || len(w.servers) != 2 {
		t.Fatal(w, err)
	}
	for _, s := range w.servers {
		if s.client.Timeout < 60*time.Second {
			t.Errorf("%s: %v", s.base, s.client.Timeout)
		}
	}
}

// Whatever -s says, it is refused or leads somewhere.
func TestParseServers(t *testing.T) {
	for list, want := range map[string]string{
		"relay": "http://relay:29800", "relay:": "http://relay:29800", "relay/": "http://relay:29800", "relay:1/": "http://relay:1", "10.0.0.1": "http://10.0.0.1:29800",
		"[::1]": "http://[::1]:29800", "[::1]:1": "http://[::1]:1", "relay/slack": "http://relay:29800/slack",
		"http://relay": "http://relay", "https://relay/": "https://relay", "unix:/s": "http://localhost",
		"": "", "unix:": "", ":1": "", "http://": "", "ftp://relay": "", "http://:1": "", "a b": "", "relay:x": "",
	} {
		servers, err := parseServers(list, nil)
		if want == "" && err == nil || want != "" && (err != nil || len(servers) != 1 || servers[0].base != want) {
			t.Errorf("%q: %+v, %v; want %q", list, servers, err, want)
		}
	}
}

// Whatever lies in the spool, what is read from it can be encoded again.
func FuzzReadKept(f *testing.F) {
	r := (&Flags{Tag: "a"}).request(Message{Text: func(int) string { return "<hi>" }})
	f.Add(encode(r))
	f.Add([]byte(`{"path":"/notify","key":"K","body":{}}`))
	f.Add([]byte(`{"path":"/notify","key":"K","body":null} x`))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := readKept(path); err == nil {
			encode(r)
		}
	})
}
