package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slackboard/e2e"
	"slices"
	"strings"
	"testing"
)

// Every fault of a configuration is reported, with its line and with what to write instead. No error shows a secret. Of
// faults in the language, such as a multi-line string, the first alone is reported.
func TestConfigFaults(t *testing.T) {
	const head = "[core]\nslack_url = 'https://hooks.invalid/x'\n"
	for _, test := range []struct {
		name, toml string
		want       []string // the lines of the error, without the file's name
	}{
		{"fine", head, nil},
		{"unknown key", head + "prot = 1\n", []string{`3: unknown key "prot" in [core]: write port`}},
		{"unknown section", head + "[cores]\nx = 1\n", []string{"3: unknown section [cores]: write [core]"}},
		{"key outside", "port = 1\n" + head,
			[]string{`1: key "port" is outside of a section: write its [section] above it`}},
		{"no section of that name", "x = 1\n" + head + "[net]\nport = 'x'\n",
			[]string{`1: key "x" is outside of a section: write its [section] above it`,
				"4: unknown section [net]: known are [[senders]], [[tags]], [core], [log], [spool], [ui]"}},
		{"key of another section", head + "dir = '/x'\n",
			[]string{`3: unknown key "dir" in [core]: known are port, socket_mode, auth_token, tls_cert, tls_key, ` +
				`tls_client_ca, slack_url, slack_token, slack_api_url, qps, max_delay_duration, channel_rate, ` +
				`batch, report_tag`}},
		{"a misspelt key has a value, too", "[core]\nSlackURL = 'SECRET'\n",
			[]string{`2: unknown key "SlackURL" in [core]: write slack_url`,
				"1: there is no destination: set slack_url or slack_token in [core]"}},
		{"dotted key", "core.port = 1\n",
			[]string{"1: wants [NAME], [[NAME]] or NAME = VALUE, and nothing behind it: dotted keys, nested tables " +
				"and multi-line strings are not supported"}},
		{"twice", head + "qps = 1\n'qps' = 2\n[log]\n[core]\nqps = 3\nbatch = 0\n",
			[]string{"4: qps in [core] is on line 3 already",
				"6: [core] is on line 1 already: bring the two together", "7: qps in [core] is on line 3 already",
				"8: batch in [core]: wants an integer from 1 to 100"}},
		{"a number in quotes", head + "qps = '0'\n[spool]\nmax_bytes = '2000000'\n",
			[]string{"3: qps in [core]: wants quotes around a text, and none around a number",
				"5: max_bytes in [spool]: wants quotes around a text, and none around a number"}},
		{"a text without quotes", head + "auth_token = true\n[[tags]]\ntag = 5\nusername = -7\n[spool]\ndir = 0\n",
			[]string{"3: auth_token in [core]: wants quotes around a text, and none around a number",
				"5: tag in [[tags]]: wants quotes around a text, and none around a number",
				"6: username in [[tags]]: wants quotes around a text, and none around a number",
				"8: dir in [spool]: wants quotes around a text, and none around a number"}},
		{"a port without quotes", head + "port = 29801\n", nil},
		{"a section twice", head + "[log]\n[core]\n['log']\n[[tags]]\ntag = 'a'\n[[tags]]\ntag = 'b'\n",
			[]string{"4: [core] is on line 1 already: bring the two together",
				"5: [log] is on line 3 already: bring the two together"}},
		{"tokens of senders", "[core]\nauth_token = 'SECRET'\nslack_token = 'x'\n" +
			"[[senders]]\nname = 'a'\ntoken = 'SECRET'\n" +
			"[[senders]]\nname = 'b'\ntoken = 'SECRET-2'\n[[senders]]\nname = 'b'\ntoken = 'SECRET-2'\n" +
			"[[senders]]\nname = 'c'\ntoken = 'SECRET-2'\n",
			[]string{"6: token of sender a is the auth_token or another sender's: make a new one",
				"15: token of sender c is the auth_token or another sender's: make a new one"}},
		{"wrong type", head + "qps = '5s'\nbatch = true\nchannel_rate = 9_223_372_036_854_775_808\n",
			[]string{"3: qps in [core]: wants quotes around a text, and none around a number",
				"4: batch in [core]: wants an integer from 1 to 100",
				"5: channel_rate in [core]: wants an integer from 0 to 1000"}},
		{"a table for a value", head + "[core.port]\n",
			[]string{"3: wants [NAME], [[NAME]] or NAME = VALUE, and nothing behind it: dotted keys, nested tables " +
				"and multi-line strings are not supported"}},
		{"out of range", head + "qps = -1\nmax_delay_duration = 86401\n",
			[]string{"3: qps in [core]: wants an integer from 0 to 1000000",
				"4: max_delay_duration in [core]: wants an integer from -1 to 86400"}},
		{"history", head + "[spool]\nhistory_bytes = 0\n", nil},
		{"too much history", head + "[spool]\nhistory_bytes = 1_099_511_627_777\n",
			[]string{"4: history_bytes in [spool]: wants an integer from 0 to 1099511627776"}},
		{"port", head + "port = 'x'\n",
			[]string{`3: port in [core]: "x" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port too large", head + "port = 70000\n",
			[]string{`3: port in [core]: "70000" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"port without a path", head + "port = 'unix:'\n",
			[]string{`3: port in [core]: "unix:" is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535`}},
		{"not a URL, and not shown", "[core]\nslack_url = 'SECRET'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes"}},
		{"a URL with a blank at its end", "[core]\nslack_url = 'https://h.invalid/SECRET '\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes"}},
		{"a URL with a newline",
			"[core]\nslack_url = \"https://h.invalid/SECRET\\n\"\n[[tags]]\ntag = 'a'\nslack_url = " +
				"\"https://h.invalid/\\r\\nSECRET\"\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks " +
				"and quotes", "5: slack_url in [[tags]]: wants a URL like https://HOST/PATH: ASCII without " +
				"blanks and quotes"}},
		{"a URL in quotes", "[core]\nslack_url = '\"https://h.invalid/SECRET\"'\nslack_api_url = " +
			"'“https://h.invalid/”'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes",
				"3: slack_api_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes"}},
		{"a URL without a host", "[core]\nslack_url = 'https:///SECRET'\nslack_api_url = 'http://:80/x'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes",
				"3: slack_api_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes"}},
		{"a token with blanks",
			"[core]\nslack_token = \"SECRET\\t\"\nauth_token = 'SECRET '\n[[tags]]\ntag = 'a'\nslack_token = ' " +
				"SECRET'\n[[tags]]\ntag = 'b'\nslack_token = \"SEC\\u200BRET\"\n[[senders]]\nname = 'a'\ntoken = " +
				"\"SECRET\\u00A0\"\n",
			[]string{`2: slack_token in [core]: wants a token: ASCII without blanks and quotes, and ` +
				`not "..."`, `3: auth_token in [core]: wants a token: ASCII without blanks and quotes, ` +
				`and not "..."`, `6: slack_token in [[tags]]: wants a token: ASCII without blanks ` +
				`and quotes, and not "..."`,
				`9: slack_token in [[tags]]: wants a token: ASCII without blanks and ` +
					`quotes, and not "..."`,
				`12: token in [[senders]]: wants a token: ASCII without blanks and ` +
					`quotes, and not "..."`}},
		{"a token in quotes", "[core]\nslack_token = '\"SECRET\"'\nauth_token = \"'SECRET'\"\n",
			[]string{`2: slack_token in [core]: wants a token: ASCII without blanks and quotes, and not "..."`,
				`3: auth_token in [core]: wants a token: ASCII without blanks and quotes, and not "..."`}},
		{"a URL with no port", "[core]\nslack_url = 'https://h:x/SECRET'\nslack_api_url = 'https://h/%zz'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes",
				"3: slack_api_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes"}},
		{"the example's URL",
			"[core]\nslack_url = 'https://hooks.slack.com/services/…'\nslack_api_url = " +
				"'https://xn--bcher-kva.example/%C3%BC/'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks " +
				"and quotes"}},
		{"the example's token", "[core]\nslack_token = 'xoxb-…'\n",
			[]string{`2: slack_token in [core]: wants a token: ASCII without blanks and quotes, and not "..."`}},
		{"level", head + "[log]\nlevel = 'loud'\n",
			[]string{"4: level in [log]: wants panic, fatal, error, warn, info or debug"}},
		{"no log", head + "[log]\naccess_log = ''\n",
			[]string{"4: access_log in [log]: wants a text that is not empty"}},
		{"no destination", "", []string{"1: there is no destination: set slack_url or slack_token in [core]"}},
		{"a tag without destination", "[[tags]]\ntag = 'a'\n[[tags]]\ntag = 'b'\nslack_token = 'x'\n",
			[]string{`1: tag "a" has no destination: set slack_url or slack_token for it, or in [core]`}},
		{"a tag without channel", head + "[[tags]]\ntag = 'a'\nslack_token = 'x'\nchannel = ''\n",
			[]string{`6: tag "a" has no channel: a slack_token needs one`}},
		{"tag is missing", head + "[[tags]]\n\nchannel = '#a'\n", []string{"3: this [[tags]] has no tag"}},
		{"tag is empty", head + "[[tags]]\ntag = ''\n", []string{"4: tag in [[tags]]: wants a text that is not empty"}},
		{"one bracket", head + "[tags]\ntag = 'a'\n", []string{"3: unknown section [tags]: write [[tags]]"}},
		{"two brackets", "[[core]]\nslack_url = 'https://hooks.invalid/x'\n",
			[]string{"1: unknown section [[core]]: write [core]",
				"1: there is no destination: set slack_url or slack_token in [core]"}},
		{"one letter is missing", head + "[[tag]]\ntag = 'a'\n[[tag]]\ntag = 'b'\nqps = 1\n",
			[]string{"3: unknown section [[tag]]: write [[tags]]", "5: unknown section [[tag]]: write [[tags]]"}},
		{"senders, two of one name",
			head + "[[senders]]\nname = 'a'\ntoken = 'x'\n[[senders]]\nname = 'a'\ntoken = 'y'\n", nil},
		{"a sender's keys are missing",
			head + "[[senders]]\n[[senders]]\nname = ''\ntoken = ''\n[[senders]]\nname = 'a'\ntoken = ''\n",
			[]string{"5: name in [[senders]]: wants 1 to 64 characters of ASCII without blanks and quotes",
				`6: token in [[senders]]: wants a token: ASCII without blanks and quotes, and not "..."`,
				`9: token in [[senders]]: wants a token: ASCII without blanks and quotes, and not "..."`,
				"3: this [[senders]] has no name", "3: this [[senders]] has no token"}},
		{"a sender's name", head + "[[senders]]\nname = 'a b'\ntoken = 'x'\n[[sender]]\nname = '" +
			strings.Repeat("x", 65) + "'\ntoken = 'y'\n",
			[]string{"4: name in [[senders]]: wants 1 to 64 characters of ASCII without blanks and quotes",
				"6: unknown section [[sender]]: write [[senders]]"}},
		{"masked", "[core]\nslack_url = '...'\n[[tags]]\ntag = 'a'\nslack_token = '...'\n",
			[]string{"2: slack_url in [core]: wants a URL like https://HOST/PATH: ASCII without blanks and quotes",
				`5: slack_token in [[tags]]: wants a token: ASCII without blanks and quotes, and not "..."`}},
		{"all at once, in order", head + "x = 1\n[log]\nlevel = 5\n[[tags]]\n",
			[]string{`3: unknown key "x" in [core]: known are port, socket_mode, auth_token, tls_cert, tls_key, ` +
				`tls_client_ca, slack_url, slack_token, slack_api_url, qps, max_delay_duration, channel_rate, ` +
				`batch, report_tag`, "5: level in [log]: wants quotes around a text, and none around a number",
				"6: this [[tags]] has no tag"}},
		{"syntax", head + "port = “x”\n",
			[]string{`3: wants a value, and nothing behind it: a "string" or 'string' (in straight quotes, with no ` +
				`escapes but \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX), a decimal integer, true or false; arrays, ` +
				`inline tables, multi-line strings, floats, dates, times and other number bases are not supported`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := e2e.WriteFile(t, "s.toml", test.toml)
			_, err := loadConfig(options{file: path})
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

// What /config/app shows has no secret in it. It does not load as it is, since "..." is not accepted as a secret. With
// the secrets put back it loads, and gives the same configuration.
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
	shown := cfg.masked()
	if strings.Contains(shown, "SECRET") || strings.Count(shown, `= "..."`) != 4 ||
		!strings.Contains(shown, `level = "error"`) {
		t.Errorf("shown with a secret, or without four masks and the default level: %s", shown)
	}
	path := e2e.WriteFile(t, "shown.toml", shown)
	if _, err := loadConfig(options{file: path}); err == nil || strings.Count(err.Error(), ": wants a ") != 4 {
		t.Errorf("loaded with masked secrets: got %v, want an error for each of the 4", err)
	}
	again, err := loadConfig(options{file: e2e.WriteFile(t, "unmasked.toml", unmasked(shown))})
	if err != nil {
		t.Fatal(err)
	}
	if again.masked() != shown {
		t.Errorf("got\n%s\nwant\n%s", again.masked(), shown)
	}
}

// dryRunConfig returns the configuration of a dry run without a file.
func dryRunConfig() *config {
	c, err := loadConfig(options{dryRun: true})
	if err != nil {
		panic(err)
	}
	return c
}

// unmasked returns what /config/app shows with a secret in place of each "...".
func unmasked(shown string) string {
	parts := strings.Split(strings.ReplaceAll(shown, `url = "..."`, `url = "https://h.invalid/"`), `token = "..."`)
	for i := 1; i < len(parts); i++ { // each token differs: two senders must not have the same
		parts[0] += fmt.Sprintf(`token = "x%d"`, i) + parts[i]
	}
	return parts[0]
}

// A configuration file that holds secrets and that everybody may read gives one warning, however many secrets it holds.
// A reference to a secret (env:NAME, file:/path) is not a secret.
func TestReadableSecrets(t *testing.T) {
	t.Setenv("TOKEN", "SECRET\r\n")
	file := e2e.WriteFile(t, "token", "SECRET\n")
	for _, test := range []struct {
		name, toml string
		mode       os.FileMode
		warns      bool
	}{
		{"a literal", "[core]\nauth_token = 'env:TOKEN'\nslack_token = 'x'\n[[senders]]\nname = 'a'\ntoken = 'y'\n",
			0o644, true},
		{"not for others", "[core]\nauth_token = 'y'\nslack_token = 'x'\n", 0o640, false},
		{"of a sender", "[core]\nslack_token = 'env:TOKEN'\n[[senders]]\nname = 'a'\ntoken = 'y'\n", 0o604, true},
		{"the word required", "[core]\nslack_token = 'env:TOKEN'\n[[senders]]\nname = 'a'\ntoken = 'required'\n",
			0o604, true},
		{"references and none",
			"[core]\nslack_url = ''\nslack_token = 'env:TOKEN'\n[[senders]]\nname = 'a'\ntoken = 'file:" + file + "'\n",
			0o644, false},
	} {
		path := e2e.WriteFile(t, "s.toml", test.toml)
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		var want []string
		if test.warns {
			want = []string{path + " holds a secret and everybody may read it: chmod o-r"}
		}
		c, err := loadConfig(options{file: path})
		if err != nil || !slices.Equal(c.warnings, want) {
			t.Errorf("%s: %v, warnings %q, want %q", test.name, err, c.warnings, want)
		}
	}
}

// If secrets cannot be read, loadConfig returns the configuration beside the errors: -health has to work for a user who
// may not read the secrets.
func TestUnreadableSecrets(t *testing.T) {
	path := e2e.WriteFile(t, "s.toml",
		"[core]\nslack_token = 'env:NO_SUCH'\n[[senders]]\nname = 'a'\ntoken = 'file:/no/such'\n[[senders]]\nname = "+
			"'a'\ntoken = 'env:NO_SUCH'\n")
	if c, err := loadConfig(options{file: path}); c == nil || err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, %v", c, err)
	}
}

// A tag posts with its own credential or, if it has none, with that of [core]. If slack_token and slack_url are both
// set, the token is used. To look up a tag that is not configured is an error.
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

// docs/configuration.md lists exactly the keys of config.go, each in its section and with its default.
func TestDocumentedKeys(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	c := &config{tags: []*tag{{}}, senders: []*sender{{}}}
	want := map[string]string{}
	for _, s := range c.sections() {
		for _, k := range s.keys {
			k.store(k.preset)
			want[s.header+" "+k.name] = "`" + tomlQuote(k.to) + "`"
			if k.preset == required {
				want[s.header+" "+k.name] = "*required*"
			}
		}
	}
	got, section := map[string]string{}, ""
	for line := range strings.Lines(e2e.ReadFile(t, "docs/configuration.md")) {
		if header, ok := strings.CutPrefix(line, "##"); ok {
			section = strings.Trim(header, "#` \n")
		} else if keys, _, ok := strings.Cut(line, "): "); ok && strings.HasPrefix(section, "[") {
			for _, m := range regexp.MustCompile("`(\\w+)` \\(([^)]+)").FindAllStringSubmatch(keys, -1) {
				got[section+" "+m[1]] = m[2]
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("docs/configuration.md has\n%q\nthe table of keys in config.go has\n%q", got, want)
	}
}

// An unknown name is taken for a known one if the two differ in one place, by at most two letters and at most half of
// the name. Case and brackets do not count.
func TestNearest(t *testing.T) {
	names := strings.Fields("core tags spool log ui max_bytes slack_url Deploys deploys-2")
	for name, want := range map[string]string{
		"core": "core", "cores": "core", "Core": "core", "croe": "core", "tag": "tags", "tgas": "tags", "logs": "log",
		"maxbytes":  "max_bytes",
		"max-bytes": "max_bytes", "Slack-URL": "slack_url", "deploys": "Deploys", "deploy": "Deploys",
		"deploys-3": "deploys-2", "gui": "ui",
		"": "", "x": "", "i": "", "port": "", "nope": "", "tagged": "", "deployment": "", "bytes": "",
		strings.Repeat("core", 1<<18): "",
	} {
		if got := nearest(name, names); got != want {
			t.Errorf("%.20q is taken for %q, want %q", name, got, want)
		}
	}
}

// The configuration of a dry run without a file, as /config/app shows it, loads once its secret is put back.
func TestDryRunConfigIsValid(t *testing.T) {
	path := e2e.WriteFile(t, "dry.toml", unmasked(dryRunConfig().masked()))
	if _, err := loadConfig(options{file: path}); err != nil {
		t.Error(err)
	}
}

// A configuration that loads is shown by /config/app in a form that loads again and is shown the same. If one does not
// load, each error names a line.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(dryRunConfig().masked()))
	f.Add([]byte(hookAndTags))
	f.Add([]byte("[core]\nport = 1\nauth_token = 'env:HOME'\nsocket_mode = '0660'\n[[tags]]\ntag = \"a\"\nslack_url " +
		"= 'http://h/'\n"))
	f.Add([]byte("[core]\nslack_url = 'http://h/'\n[spool]\nhistory_bytes = 0\n[[senders]]\nname = 'a'\ntoken = " +
		"'x'\n[[senders]]\nname = 'a'\ntoken = 'y'\n"))
	f.Add([]byte("core = 1\n[tags]\nx = 2\n[nothing]\n"))
	path := filepath.Join(f.TempDir(), "slackboard.toml")
	f.Fuzz(func(t *testing.T, src []byte) {
		if bytes.Contains(src, []byte("file:")) || bytes.Contains(src, []byte("tls_")) {
			t.Skip("may read any file")
		}
		os.WriteFile(path, src, 0o600)
		c, err := loadConfig(options{file: path})
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				var n int
				if _, err := fmt.Sscanf(strings.TrimPrefix(line, path), ":%d:", &n); err != nil || n < 1 {
					t.Errorf("%q gives an error that names no line: %q", src, line)
				}
			}
			return
		}
		shown := c.masked()
		os.WriteFile(path, []byte(unmasked(shown)), 0o600)
		again, err := loadConfig(options{file: path})
		if err != nil {
			t.Fatalf("%q is shown as %s: %v", src, shown, err)
		}
		if again.masked() != shown {
			t.Errorf("%q is shown as %s, then as %s", src, shown, again.masked())
		}
	})
}
