package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A client waits at least 60 s for an answer: the server answers a sync request only after Slack has answered.
func TestAnswerMayTakeAMinute(t *testing.T) {
	f := Flags{Servers: "h:1,unix:/s"}
	if err := f.Ready(); err != nil || len(f.servers) != 2 {
		t.Fatal(f.servers, err)
	}
	for _, s := range f.servers {
		if s.client.Timeout < 60*time.Second {
			t.Errorf("%s: %v", s.base, s.client.Timeout)
		}
	}
}

// Each server in the argument of -s is refused, or has the URL that the user means.
func TestParseServers(t *testing.T) {
	for list, want := range map[string]string{
		"relay": "http://relay:29800", "relay:": "http://relay:29800", "relay/": "http://relay:29800",
		"relay:1/": "http://relay:1", "10.0.0.1": "http://10.0.0.1:29800",
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

// While no server answers, no file in the spool is changed or lost. A file that is not a request is set aside.
func FuzzSpool(f *testing.F) {
	f.Add(encode((&Flags{Tag: "a", Text: func(int) string { return "<hi>" }}).request()))
	f.Add([]byte(`{"path":"/notify","key":"K","body":{}}`))
	f.Add([]byte(`{"path":"/notify","key":"K","body":null} x`))
	f.Add([]byte(`{"path":" %","key":"\n"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		flags := Flags{Servers: "unix:/nowhere", Spool: t.TempDir()}
		path := filepath.Join(flags.Spool, "r.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		flags.Flush(t.Context())
		got, err := os.ReadFile(path)
		aside, errAside := os.ReadFile(path + ".bad")
		if (err == nil) == (errAside == nil) || string(got)+string(aside) != string(content) {
			t.Errorf("%q is kept as %q, %q", content, got, aside)
		}
	})
}
