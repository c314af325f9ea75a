package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slackboard/e2e"
)

func TestConfigFaults(t *testing.T) {
	const head = "[core]\nslack_url = 'https://hooks.invalid/x'\n"
	for _, test := range []struct {
		name, toml string
		want       []string // a line of the error each, without the file's name
	}{
		{"fine", head, nil},
		{"unknown key", head + "prot = 1\n", []string{`3: unknown key "prot" in [core]: write port`}},
		{"unknown section", head + "[cores]\nx = 1\n",
			[]string{`3: unknown section [cores]: write [core]`,
				`3: [core] is on line 1 already: bring the two together`,
				`4: unknown key "x" in [core]: known are port, socket_mode, auth_token, tls_cert, tls_key, ` +
					`tls_client_ca, slack_url, slack_token, slack_api_url, qps, max_delay_duration, channel_rate, ` +
					`batch, report_tag`}},
		{"key outside", "port = 1\n" + head,
			[]string{`1: unknown key "port" outside of a section: it belongs below [core]`}},
		{"no section of that name", "x = 1\n" + head + "[net]\nport = 'x'\n",
			[]string{`1: unknown key "x" outside of a section: write the [section] that it belongs to above it`,
				`4: unknown section [net]: known are [core], [spool], [log], [ui], [[tags]], [[senders]]`}},
		{"key of another section", head + "dir = '/x'\n",
			[]string{`3: unknown key "dir" in [core]: it belongs below [spool]`}},
		{"a misspelt key has a value, too", "[core]\nSlackURL = 'SECRET'\n",
			[]string{`2: unknown key "SlackURL" in [core]: write slack_url`,
				"2: slack_url in [core]: wants a URL like https://HOST/PATH"}},
		{"dotted key", "core.port = 1\n",
			[]string{"1:5: dotted keys and nested tables are not supported: write the [section] on a line of its own"}},
		{"twice", head + "qps = 1\n'qps' = 2\n[log]\n[core]\nqps = 3\nbatch = 0\n",
			[]string{"4: qps in [core] is on line 3 already", "6: [core] is on line 1 already: bring the two together",
				"7: qps in [core] is on line 3 already", "8: batch in [core]: 0 is out of range: 1 to 100"}},
		{"wrong type", head + "qps = '5'\n", []string{"3: qps in [core]: wants an integer, without quotes"}},
		{"wrong type too", head + "slack_token = 5\n", []string{"3: slack_token in [core]: wants a string"}},
		{"a table for a value", head + "[core.port]\n",
			[]string{"3:6: dotted keys and nested tables are not supported: write the [section] on a line of its own"}},
		{"out of range", head + "qps = -1\nmax_delay_duration = 86401\n",
			[]string{"3: qps in [core]: -1 is out of range: 0 to 1000000",
				"4: max_delay_duration in [core]: 86401 is out of range: -1 to 86400"}},
		{"history", head + "[spool]\nhistory_bytes = 0\n", nil},
		{"too much history", head + "[spool]\nhistory_bytes = 1_099_511_627_777\n",
			[]string{"4: history_bytes in [spool]: 1099511627777 is out of range: 0 to 1099511627776"}},
		{"port", head + "port = 'x'\n",
			[]string{`3: port in [core]: "x" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port too large", head + "port = 70000\n",
			[]string{`3: port in [core]: "70000" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port without a path", head + "port = 'unix:'\n",
			[]string{`3: port in [core]: "unix:" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"not a URL, and not shown", "[core]\nslack_url = 'SECRET'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH"}},
		{"a URL with a blank at its end", "[core]\nslack_url = 'https://h.invalid/SECRET '\n",
			[]string{"2: slack_url in [core]: has a blank or a newline at its end"}},
		{"a URL with a newline", "[core]\nslack_url = \"https://h.invalid/SECRET\\n\"\n[[tags]]\ntag = 'a'\n" +
			"slack_url = \"https://h.invalid/\\r\\nSECRET\"\n", []string{
			"2: slack_url in [core]: has a blank or a newline at its end",
			"5: slack_url in [[tags]]: has a blank or a newline in it"}},
		{"a URL in quotes",
			"[core]\nslack_url = '\"https://h.invalid/SECRET\"'\nslack_api_url = '“https://h.invalid/”'\n", []string{
				"2: slack_url in [core]: has quotes within its quotes",
				"3: slack_api_url in [core]: has quotes within its quotes"}},
		{"a URL without a host", "[core]\nslack_url = 'https:///SECRET'\nslack_api_url = 'http://:80/x'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH",
				"3: slack_api_url in [core]: wants a URL like https://HOST/PATH"}},
		{"a token with blanks", "[core]\nslack_token = \"SECRET\\t\"\nauth_token = 'SECRET '\n[[tags]]\ntag = 'a'\n" +
			"slack_token = ' SECRET'\n[[tags]]\ntag = 'b'\nslack_token = \"SEC\\u200BRET\"\n[[senders]]\nname = 'a'\n" +
			"token = \"SECRET\\u00A0\"\n", []string{
			"2: slack_token in [core]: has a blank or a newline at its end",
			"3: auth_token in [core]: has a blank or a newline at its end",
			"6: slack_token in [[tags]]: has a blank or a newline in it",
			"9: slack_token in [[tags]]: has a blank or a newline in it",
			"12: token in [[senders]]: has a blank or a newline at its end"}},
		{"a token in quotes", "[core]\nslack_token = '\"SECRET\"'\nauth_token = \"'SECRET'\"\n",
			[]string{"2: slack_token in [core]: has quotes within its quotes",
				"3: auth_token in [core]: has quotes within its quotes"}},
		{"a URL for a token", "[core]\nslack_token = 'https://h.invalid/SECRET'\n",
			[]string{"2: slack_token in [core]: wants a token: printable ASCII without blanks, not a URL"}},
		{"the example's URL", "[core]\nslack_url = 'https://hooks.slack.com/services/…'\nslack_api_url = " +
			"'https://bücher.example/%C3%BC/'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH"}},
		{"the example's token", "[core]\nslack_token = 'xoxb-…'\n",
			[]string{"2: slack_token in [core]: wants a token: printable ASCII without blanks, not a URL"}},
		{"level", head + "[log]\nlevel = 'loud'\n",
			[]string{`4: level in [log]: "loud" is not a level: panic, fatal, error, warn, info or debug`}},
		{"no log", head + "[log]\naccess_log = ''\n", []string{"4: access_log in [log]: must not be empty"}},
		{"no destination", "", []string{"1: there is no destination: set slack_url or slack_token in [core]"}},
		{"a tag without destination", "[[tags]]\ntag = 'a'\n[[tags]]\ntag = 'b'\nslack_token = 'x'\n",
			[]string{`1: tag "a" has no destination: set slack_url or slack_token for it, or in [core]`}},
		{"a tag without channel", head + "[[tags]]\ntag = 'a'\nslack_token = 'x'\nchannel = ''\n",
			[]string{`6: tag "a" has no channel: a slack_token needs one`}},
		{"tag is missing", head + "[[tags]]\n\nchannel = '#a'\n",
			[]string{`3: this [[tags]] has no tag: add tag = "TAG"`}},
		{"tag is empty", head + "[[tags]]\ntag = ''\n", []string{"4: tag in [[tags]]: must not be empty"}},
		{"one bracket", head + "[tags]\ntag = 'a'\n", []string{"3: unknown section [tags]: write [[tags]]"}},
		{"two brackets", "[[core]]\nslack_url = 'https://hooks.invalid/x'\n",
			[]string{"1: unknown section [[core]]: write [core]"}},
		{"one letter is missing", head + "[[tag]]\ntag = 'a'\n[[tag]]\ntag = 'b'\nqps = 1\n",
			[]string{"3: unknown section [[tag]]: write [[tags]]", "5: unknown section [[tag]]: write [[tags]]",
				`7: unknown key "qps" in [[tags]]: it belongs below [core]`}},
		{"senders, two of one name",
			head + "[[senders]]\nname = 'a'\ntoken = 'x'\n[[senders]]\nname = 'a'\ntoken = 'y'\n", nil},
		{"a sender's keys are missing",
			head + "[[senders]]\n[[senders]]\nname = ''\ntoken = ''\n[[senders]]\nname = 'a'\ntoken = ''\n",
			[]string{`3: this [[senders]] has no name: add name = "NAME"`,
				`3: this [[senders]] has no token: add token = "TOKEN"`,
				"5: name in [[senders]]: wants a name: 1 to 64 characters of printable ASCII without blanks",
				"6: token in [[senders]]: wants a token: printable ASCII without blanks, not a URL",
				"9: token in [[senders]]: wants a token: printable ASCII without blanks, not a URL"}},
		{"a sender's name", head + "[[senders]]\nname = 'a b'\ntoken = 'x'\n[[sender]]\nname = '" +
			strings.Repeat("x", 65) + "'\ntoken = 'y'\n",
			[]string{"4: name in [[senders]]: has a blank or a newline in it",
				"6: unknown section [[sender]]: write [[senders]]",
				"7: name in [[senders]]: wants a name: 1 to 64 characters of printable ASCII without blanks"}},
		{"a token twice", "[[senders]]\nname = 'a'\ntoken = 'SECRET'\n[[senders]]\nname = 'a'\ntoken = 'SECRET'\n" +
			head + "auth_token = 'T0KEN'\n[[senders]]\nname = 'c'\ntoken = 'T0KEN'\n", []string{
			"6: token in [[senders]]: it is the same as on line 3: each sender needs its own",
			"12: token in [[senders]]: it is the same as on line 9: each sender needs its own"}},
		{"masked", "[core]\nslack_url = '...'\n[[tags]]\ntag = 'a'\nslack_token = '...'\n",
			[]string{`2: slack_url in [core]: is masked: put the real one in place of "..."`,
				`5: slack_token in [[tags]]: is masked: put the real one in place of "..."`}},
		{"all at once, in order", head + "x = 1\n[log]\nlevel = 5\n[[tags]]\n", []string{"3: unknown key \"x\" in " +
			"[core]: known are port, socket_mode, auth_token, tls_cert, tls_key, tls_client_ca, slack_url, " +
			"slack_token, slack_api_url, qps, max_delay_duration, channel_rate, batch, report_tag",
			"5: level in [log]: wants a string", `6: this [[tags]] has no tag: add tag = "TAG"`}},
		{"syntax", head + "port = “x”\n", []string{`3:8: “ is a typographic quote: use a straight one, " or '`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := e2e.WriteFile(t, "s.toml", test.toml)
			_, err := loadConfig(path, purpose{})
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
[[senders]]
name = "relay"
token = "SECRET-1"
[[senders]]
name = "relay"
token = "SECRET-2"
`)
	if len(cfg.warnings) != 1 || !strings.Contains(cfg.warnings[0], ":11: ui.root: /nowhere is not a folder") {
		t.Errorf("warnings: %q", cfg.warnings)
	}
	shown := cfg.masked()
	if strings.Contains(shown, "SECRET") || strings.Count(shown, `= "..."`) != 4 ||
		!strings.Contains(shown, `level = "error"`) {
		t.Errorf("shown: %s", shown)
	}
	path := e2e.WriteFile(t, "shown.toml", shown)
	again, err := loadConfig(path, purpose{check: true})
	if err != nil {
		t.Fatal(err)
	}
	if again.masked() != shown {
		t.Errorf("got\n%s\nwant\n%s", again.masked(), shown)
	}
	if _, err := loadConfig(path, purpose{}); err == nil || strings.Count(err.Error(), "is masked") != 4 {
		t.Errorf("starting with it: %v", err)
	}
}

// A configuration that everybody may read and that holds a secret is one warning, at the first secret.
func TestReadableSecrets(t *testing.T) {
	t.Setenv("TOKEN", "SECRET\r\n")
	file := e2e.WriteFile(t, "token", "SECRET\n")
	for _, test := range []struct {
		name, toml string
		mode       os.FileMode
		row        int
	}{
		{"a literal", "[core]\nauth_token = 'env:TOKEN'\nslack_token = 'x'\n[[senders]]\nname = 'a'\ntoken = 'y'\n",
			0o644, 3},
		{"not for others", "[core]\nslack_token = 'x'\n", 0o640, 0},
		{"of a sender", "[core]\nslack_token = 'env:TOKEN'\n[[senders]]\nname = 'a'\ntoken = 'y'\n", 0o604, 5},
		{"references, none and masked", "[core]\nslack_url = ''\nslack_token = 'env:TOKEN'\nauth_token = '...'\n" +
			"[[senders]]\nname = 'a'\ntoken = 'file:" + file + "'\n", 0o644, 0},
	} {
		path := e2e.WriteFile(t, "s.toml", test.toml)
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		var want []string
		if test.row > 0 {
			want = []string{fmt.Sprintf("%s:%d: %s holds a secret and everybody may read it: chmod o-r", path,
				test.row, path)}
		}
		c, err := loadConfig(path, purpose{check: true})
		if err != nil || !slices.Equal(c.warnings, want) {
			t.Errorf("%s: %v, warnings %q, want %q", test.name, err, c.warnings, want)
		}
	}
}

// A configuration is returned beside its faults: who asks for the health need not be able to read the secrets.
func TestUnreadableSecrets(t *testing.T) {
	path := e2e.WriteFile(t, "s.toml", "[core]\nslack_token = 'env:NO_SUCH'\n[[senders]]\nname = 'a'\ntoken = "+
		"'file:/no/such'\n[[senders]]\nname = 'a'\ntoken = 'env:NO_SUCH'\n")
	if c, err := loadConfig(path, purpose{}); c == nil || err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, %v", c, err)
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
		"a": cfg.credentialOf(newSecret("core"), secret{}), "b": {url: newSecret("https://h.invalid/b")},
		"c": cfg.credentialOf(newSecret("c"), secret{}),
	} {
		if to, _, err := cfg.lookup(route{tag: name}); err != nil || to.credential != want {
			t.Errorf("%s: got the wrong credential, %v", name, err)
		}
	}
	if _, _, err := cfg.lookup(route{tag: "gone"}); fmt.Sprint(err) != "tag gone is not configured" {
		t.Errorf("got %v", err)
	}
}

// README.md's table of keys is the one in config.go: section, key and default of each.
func TestReadmeTableOfKeys(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	c := defaultConfig()
	c.addTag()
	c.senders = []*sender{{}}
	want := map[string]string{}
	for _, s := range c.sections() {
		for _, k := range s.keys {
			switch value := k.shown(); {
			case k.preset == nil:
				want[s.header+" "+k.name] = "required"
			case value == `""`:
				want[s.header+" "+k.name] = ""
			default:
				want[s.header+" "+k.name] = "`" + value + "`"
			}
		}
	}
	got, section := map[string]string{}, ""
	_, table, _ := strings.Cut(e2e.ReadFile(t, "README.md"),
		"\n| section | key | default | meaning |\n|---|---|---|---|\n")
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 6 {
			break
		}
		section = cmp.Or(strings.Trim(cells[1], " `"), section)
		for name := range strings.SplitSeq(cells[2], ",") {
			got[section+" "+strings.Trim(name, " `")] = strings.TrimSpace(cells[3])
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("README.md has\n%q\nthe table of keys\n%q", got, want)
	}
}

func TestNearest(t *testing.T) {
	names := strings.Fields("core tags spool log ui max_bytes slack_url Deploys deploys-2")
	for name, want := range map[string]string{
		"core": "core", "cores": "core", "Core": "core", "croe": "core", "tag": "tags", "tgas": "tags", "logs": "log",
		"maxbytes": "max_bytes",
		"max-byte": "max_bytes", "Slack-URL": "slack_url", "deploys": "Deploys", "deploy": "Deploys",
		"deploys-3": "deploys-2", "gui": "ui",
		"": "", "x": "", "i": "", "port": "", "nope": "", "tagged": "", "deployment": "", "bytes": "",
		strings.Repeat("core", 1<<18): "",
	} {
		if got := nearest(name, slices.Values(names)); got != want {
			t.Errorf("%.20q is taken for %q, want %q", name, got, want)
		}
	}
}

func TestDryRunConfigIsValid(t *testing.T) {
	path := e2e.WriteFile(t, "dry.toml", dryRunConfig().masked())
	if _, err := loadConfig(path, purpose{check: true}); err != nil {
		t.Error(err)
	}
}

// What loads is shown in a form that loads; what does not says where.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(dryRunConfig().masked()))
	f.Add([]byte(hookAndTags))
	f.Add([]byte("[core]\nport = 1\nauth_token = 'env:HOME'\nsocket_mode = '0660'\n[[tags]]\ntag = \"a\"\nslack_url " +
		"= 'http://h/'\n"))
	f.Add([]byte("[core]\nslack_url = 'http://h/'\n[spool]\nhistory_bytes = 0\n[[senders]]\nname = 'a'\ntoken = 'x'\n" +
		"[[senders]]\nname = 'a'\ntoken = 'y'\n"))
	f.Add([]byte("core = 1\n[tags]\nx = 2\n[nothing]\n"))
	path := filepath.Join(f.TempDir(), "slackboard.toml")
	f.Fuzz(func(t *testing.T, src []byte) {
		if bytes.Contains(src, []byte("file:")) || bytes.Contains(src, []byte("tls_")) {
			t.Skip("may read any file")
		}
		os.WriteFile(path, src, 0o600)
		c, err := loadConfig(path, purpose{})
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
		again, err := loadConfig(path, purpose{check: true})
		if err != nil {
			t.Fatalf("%q is shown as %s: %v", src, shown, err)
		}
		if again.masked() != shown {
			t.Errorf("%q is shown as %s, then as %s", src, shown, again.masked())
		}
	})
}
