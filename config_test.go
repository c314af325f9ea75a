package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigFaults(t *testing.T) {
	const head = "[core]\nslack_url = 'https://hooks.invalid/x'\n"
	for _, test := range []struct {
		name, toml string
		want       []string // a line of the error each, without the file's name
	}{
		{"fine", head, nil},
		{"unknown key", head + "prot = 1\n", []string{`3: unknown key "prot" in [core]: known are port, socket_mode, auth_token, tls_cert, tls_key, tls_client_ca, slack_url, slack_token, slack_api_url, qps, max_delay_duration, channel_rate, batch, report_tag`}},
		{"unknown section", head + "[cores]\nx = 1\n", []string{`3: unknown section [cores]: known are [core], [[tags]], [spool], [log], [ui]`}},
		{"key outside", "port = 1\n" + head, []string{`1: unknown key "port" outside of a section: known are the sections [core], [[tags]], [spool], [log], [ui]`}},
		{"wrong type", head + "qps = '5'\n", []string{"3: qps in [core]: wants an integer, without quotes"}},
		{"wrong type too", head + "slack_token = 5\n", []string{"3: slack_token in [core]: wants a string"}},
		{"a table for a value", head + "[core.port]\n", []string{"3: port in [core]: wants a string"}},
		{"out of range", head + "qps = -1\nmax_delay_duration = 86401\n", []string{"3: qps in [core]: -1 is out of range: 0 to 1000000", "4: max_delay_duration in [core]: 86401 is out of range: -1 to 86400"}},
		{"port", head + "port = 'x'\n", []string{`3: port in [core]: "x" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port too large", head + "port = 70000\n", []string{`3: port in [core]: "70000" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port without a path", head + "port = 'unix:'\n", []string{`3: port in [core]: "unix:" wants a path: unix:/path`}},
		{"not a URL, and not shown", "[core]\nslack_url = 'SECRET'\n", []string{"2: slack_url in [core]: wants a URL like https://HOST/PATH"}},
		{"the example's token", "[core]\nslack_token = 'xoxb-…'\n", []string{"2: slack_token in [core]: wants a token: printable ASCII without blanks"}},
		{"level", head + "[log]\nlevel = 'loud'\n", []string{`4: level in [log]: "loud" is not a level: panic, fatal, error, warn, info or debug`}},
		{"no log", head + "[log]\naccess_log = ''\n", []string{"4: access_log in [log]: must not be empty"}},
		{"no destination", "", []string{"1: there is no destination: set slack_url or slack_token in [core]"}},
		{"a tag without destination", "[[tags]]\ntag = 'a'\n[[tags]]\ntag = 'b'\nslack_token = 'x'\n", []string{`1: tag "a" has no destination: set slack_url or slack_token for it, or in [core]`}},
		{"a tag without channel", head + "[[tags]]\ntag = 'a'\nslack_token = 'x'\nchannel = ''\n", []string{`6: tag "a" has no channel: a slack_token needs one`}},
		{"tag is missing", head + "[[tags]]\n\nchannel = '#a'\n", []string{`3: this [[tags]] has no tag: add tag = "NAME"`}},
		{"tag is empty", head + "[[tags]]\ntag = ''\n", []string{"4: tag in [[tags]]: must not be empty"}},
		{"one bracket", head + "[tags]\ntag = 'a'\n", []string{"3: tags is a list: write [[tags]], with two brackets, above each tag"}},
		{"two brackets", "[[core]]\nslack_url = 'https://hooks.invalid/x'\n", []string{"1: core is a section: write [core]", "1: there is no destination: set slack_url or slack_token in [core]"}},
		{"masked", "[core]\nslack_url = '...'\n[[tags]]\ntag = 'a'\nslack_token = '...'\n", []string{`2: slack_url is masked: put the real one in place of "..."`, `5: slack_token is masked: put the real one in place of "..."`}},
		{"all at once, in order", head + "x = 1\n[log]\nlevel = 5\n[[tags]]\n", []string{"3: unknown key \"x\" in [core]: known are port, socket_mode, auth_token, tls_cert, tls_key, tls_client_ca, slack_url, slack_token, slack_api_url, qps, max_delay_duration, channel_rate, batch, report_tag", "5: level in [log]: wants a string", `6: this [[tags]] has no tag: add tag = "NAME"`}},
		{"syntax", head + "port = “x”\n", []string{`3:8: “ is a typographic quote: use the straight one, "`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, "s.toml", test.toml)
			_, err := loadConfig(path, forPosting)
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), path+":", "")
			}
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What /config/app shows is a configuration again, the same one, and has no secret in it.
func TestMaskedRoundTrip(t *testing.T) {
	cfg := testConfig(t, `
[core]
port = "unix:/tmp/\"quoted\" \\ \u0007"
slack_url = "https://hooks.invalid/SECRET"
qps = 7
[[tags]]
tag = "ä"
channel = "#x"
slack_token = "xoxb-SECRET"
[ui]
root = "/nowhere"
`)
	if len(cfg.warnings) != 1 || !strings.Contains(cfg.warnings[0], ":11: ui.root: /nowhere is not a folder") {
		t.Errorf("warnings: %q", cfg.warnings)
	}
	shown := cfg.masked()
	if strings.Contains(shown, "SECRET") || strings.Count(shown, `= "..."`) != 2 || !strings.Contains(shown, `level = "error"`) {
		t.Errorf("shown: %s", shown)
	}
	path := writeFile(t, "shown.toml", shown)
	again, err := loadConfig(path, forCheck)
	if err != nil {
		t.Fatal(err)
	}
	if again.masked() != shown {
		t.Errorf("got\n%s\nwant\n%s", again.masked(), shown)
	}
	if _, err := loadConfig(path, forPosting); err == nil || strings.Count(err.Error(), "is masked") != 2 {
		t.Errorf("starting with it: %v", err)
	}
}

func TestTagCredentials(t *testing.T) {
	cfg := testConfig(t, `
[core]
slack_url = "https://h.invalid/core"
slack_token = "core"
[[tags]]
tag = "a"
[[tags]]
tag = "b"
slack_url = "https://h.invalid/b"
[[tags]]
tag = "c"
slack_url = "https://h.invalid/c"
slack_token = "c"
`)
	for name, want := range map[string]credential{
		"a": cfg.withToken(newSecret("core")), "b": {url: newSecret("https://h.invalid/b")}, "c": cfg.withToken(newSecret("c")),
	} {
		if to, _, err := cfg.lookup(route{tag: name}); err != nil || to.credential != want {
			t.Errorf("%s: got the wrong credential, %v", name, err)
		}
	}
	if _, _, err := cfg.lookup(route{tag: "gone"}); fmt.Sprint(err) != "tag gone is not configured" {
		t.Errorf("got %v", err)
	}
}

func TestDryRunConfigIsValid(t *testing.T) {
	path := writeFile(t, "dry.toml", dryRunConfig().masked())
	if _, err := loadConfig(path, forCheck); err != nil {
		t.Error(err)
	}
}

// What loads is shown in a form that loads; what does not says where.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(dryRunConfig().masked()))
	f.Add([]byte(hookAndTags))
	f.Add([]byte("[core]\nport = 1\nauth_token = 'env:HOME'\nsocket_mode = '0660'\n[[tags]]\ntag = \"a\"\nslack_url = 'http://h/'\n"))
	f.Add([]byte("core = 1\n[tags]\nx = 2\n[nothing]\n"))
	path := filepath.Join(f.TempDir(), "slackboard.toml")
	f.Fuzz(func(t *testing.T, src []byte) {
		if bytes.Contains(src, []byte("file:")) || bytes.Contains(src, []byte("tls_")) {
			t.Skip("may read any file")
		}
		os.WriteFile(path, src, 0o600)
		c, err := loadConfig(path, forPosting)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				var n int
				if _, err := fmt.Sscanf(strings.TrimPrefix(line, path), ":%d:", &n); err != nil || n < 1 {
					t.Errorf("%q gives %q", src, line)
				}
			}
			return
		}
		shown := c.masked()
		os.WriteFile(path, []byte(shown), 0o600)
		again, err := loadConfig(path, forCheck)
		if err != nil {
			t.Fatalf("%q is shown as %s: %v", src, shown, err)
		}
		if again.masked() != shown {
			t.Errorf("%q is shown as %s, then as %s", src, shown, again.masked())
		}
	})
}
