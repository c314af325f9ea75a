package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

func TestClientRequests(t *testing.T) {
	t.Parallel()
	host := e2e.Hostname()
	for _, test := range []struct {
		args, path, body string // %s in body is the host
	}{
		{"-t ops", "/notify", `{"tag":"ops","host":"%s","text":"hi","level":"message","sync":false}`},
		{"-t ops -l crit -title T -sync", "/notify",
			`{"tag":"ops","host":"%s","text":"hi","level":"crit","title":"T","sync":true}`},
		{"-c ops", "/notify-directly",
			`{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"text":"hi"},"host":"%s","sync":false}`},
		{"-c #ops -u me -i :x: -p none -sync", "/notify-directly",
			`{"payload":{"channel":"#ops","username":"me","icon_emoji":":x:","parse":"none","text":"hi"},` +
				`"host":"%s","sync":true}`},
		{"-c @me", "/notify-directly",
			`{"payload":{"channel":"@me","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"text":"hi"},"host":"%s","sync":false}`},
		{"-c C0123456789", "/notify-directly",
			`{"payload":{"channel":"C0123456789","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"text":"hi"},"host":"%s","sync":false}`},
		{"-c D0123456789", "/notify-directly",
			`{"payload":{"channel":"D0123456789","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"text":"hi"},"host":"%s","sync":false}`},
		{"-c CACHE", "/notify-directly",
			`{"payload":{"channel":"#CACHE","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"text":"hi"},"host":"%s","sync":false}`},
		{"-c ops -l warn", "/notify-directly",
			`{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"attachments":[{"color":"#ffdd00","text":"hi","fallback":"hi","footer":"%[1]s",` +
				`"mrkdwn_in":["text"]}]},"host":"%[1]s","sync":false}`},
		{"-c ops -l warn -C danger -title T", "/notify-directly",
			`{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full",` +
				`"attachments":[{"color":"danger","title":"T","text":"hi","fallback":"T: ` +
				`hi","footer":"%[1]s","mrkdwn_in":["text"]}]},"host":"%[1]s","sync":false}`},
	} {
		s := e2e.NewScripted(t)
		code, stdout, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli",
			append(strings.Fields(test.args), "-s", s.URL+"/")...)
		requests := s.Requests()
		if code != 0 || stdout+stderr != "" || len(requests) != 1 {
			t.Errorf("%s: exit %d, %q %q, %d requests", test.args, code, stdout, stderr, len(requests))
			continue
		}
		want := fmt.Sprintf(test.body, host)
		if got := withoutEmpty(t, requests[0].Body); requests[0].Path != test.path || got != withoutEmpty(t, want) {
			t.Errorf("%s: got %s %s, want %s", test.args, requests[0].Path, got, want)
		}
	}
}

// withoutEmpty is e2e.Normal for the body of a client's request: it also removes an empty title and color.
func withoutEmpty(t *testing.T, body string) string {
	return strings.NewReplacer(`,"title":""`, "", `"title":"",`, "", `"color":"",`, "").Replace(e2e.Normal(t, body))
}

func TestClientUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		program, args, stdin string
		code                 int
		want                 string
	}{
		{"slackboard-cli", "-s h:1", "hi", 2,
			"slackboard-cli: no destination: set a tag with -t, or a channel with -c\n"},
		{"slackboard-cli", "-s h:1 -t a -c b", "hi", 2, "slackboard-cli: -t and -c together: choose one\n"},
		{"slackboard-cli", "-t a", "hi", 2,
			"slackboard-cli: no server: add -s HOST, or set SLACKBOARD_SERVER=HOST in the environment\n"},
		{"slackboard-cli", "-t a -s ftp://x", "hi", 2, `slackboard-cli: "ftp://x" is not a server`},
		{"slackboard-cli", "-t a -s h:1 hello", "hi", 2,
			`slackboard-cli: unexpected argument "hello": the text comes from standard input, as in: echo hello | ` +
				`slackboard-cli -t ops`},
		{"slackboard-cli", "hello -t a -s h:1", "hi", 2,
			`slackboard-cli: unexpected argument "hello": the text comes from standard input`},
		{"slackboard-cli", "-t a -s 127.0.0.1:1", "", 1,
			"slackboard-cli: standard input is empty: there is nothing to send\n"},
		{"slackboard-cli", "-nope", "", 2,
			"slackboard-cli: flag provided but not defined: -nope: see slackboard-cli -h\n"},
		{"slackboard-cli", "-retry-max x", "", 2,
			`slackboard-cli: invalid value "x" for flag -retry-max: parse error: see slackboard-cli -h`},
		{"slackboard-cli", "-t a -s h:1 -cert x", "", 2, "slackboard-cli: -cert and -key go together: set both\n"},
		{"slackboard-cli", "-t a -s h:1 -retry-max -1", "", 2,
			`slackboard-cli: invalid value "-1" for flag -retry-max`},
		{"slackboard-cli", "-t a -s unix:", "hi", 2, `slackboard-cli: "unix:" is not a server`},
		{"slackboard-cli", "-t a -s h:1,,h:2", "", 2, `slackboard-cli: "" is not a server`},
		{"slackboard-cli", "-t a -s h:1 -l foo", "", 2,
			`slackboard-cli: invalid value "foo" for flag -l: want message, info, warn, warning, crit or error`},
		{"slackboard-cli", "-t a -s h:1 -l=", "", 2,
			`slackboard-cli: invalid value "" for flag -l: want message, info`},
		{"slackboard-cli", "-t a -s h:1 -u me", "", 2, "slackboard-cli: -u goes with -c: "},
		{"slackboard-cli", "-t a -s h:1 -i :x:", "", 2, "slackboard-cli: -i goes with -c: "},
		{"slackboard-cli", "-t a -s h:1 -p none", "", 2, "slackboard-cli: -p goes with -c: "},
		{"slackboard-cli", "-t a -s h:1 -C good", "", 2, "slackboard-cli: -C goes with -c: "},
		{"slackboard-cli", "-escape true -t a -s h:1", "", 2, "slackboard-cli: -escape true: write -escape=true\n"},
		{"slackboard-cli", "-retry-wait-min 1 -t a -s h:1", "", 2,
			`slackboard-cli: invalid value "1" for flag -retry-wait-min: want a TIME like 30s or 2h`},
		{"slackboard-log", "-s h:1 -t a -u me -- true", "", 125, "slackboard-log: -u goes with -c: "},
		{"slackboard-log", "-s h:1 -t a", "", 125,
			"slackboard-log: no command: slackboard-log [flags] -- command args…; the command was not run\n"},
		{"slackboard-log", "-s h:1 -- true", "", 125, "slackboard-log: no destination"},
		{"slackboard-log", "-nope", "", 125,
			"slackboard-log: flag provided but not defined: -nope: see slackboard-log -h; the command was not run\n"},
		{"slackboard-log", "-s h:1 -t a -timeout 1 -- true", "", 125,
			`slackboard-log: invalid value "1" for flag -timeout: want a TIME like 30s or 2h: see slackboard-log ` +
				`-h; the command was not run`},
		{"slackboard-log", "-s h:1 -t a -timeout -1s -- true", "", 125,
			`slackboard-log: invalid value "-1s" for flag -timeout: want a TIME like 30s or 2h`},
		{"slackboard-log", "-s h:1 -t a -tee true -- true", "", 125,
			"slackboard-log: -tee true: write -tee=true; the command was not run\n"},
		{"slackboard-log", "-s h:1 -t a -notify false -- true", "", 125,
			"slackboard-log: -notify false: write -notify=false; the command was not run\n"},
		{"slackboard-log", "-s h:1 --always 1 -t a -- true", "", 125,
			"slackboard-log: --always 1: write --always=1; the command was not run\n"},
		{"slackboard-log", "-s h:1 -t a -no-args 0 -- true", "", 125,
			"slackboard-log: -no-args 0: write -no-args=0; the command was not run\n"},
	} {
		code, stdout, stderr := e2e.RunProgram(t, test.stdin, []string{"SLACKBOARD_SERVER="}, test.program,
			strings.Fields(test.args)...)
		if code != test.code || stdout != "" || !strings.HasPrefix(stderr, test.want) ||
			strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s %s: exit %d, %q %q; want %d, %q", test.program, test.args, code, stdout, stderr, test.code,
				test.want)
		}
	}
}

// -h and --help print the usage, and not the token that is in the environment.
func TestClientHelp(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"slackboard-cli", "slackboard-log"} {
		for _, flag := range []string{"-h", "--help"} {
			code, stdout, stderr := e2e.RunProgram(t, "",
				[]string{"SLACKBOARD_AUTH_TOKEN=xyzzy", "SLACKBOARD_SERVER=plugh:1"}, program, flag)
			examples := 0
			for line := range strings.Lines(stdout) {
				if strings.HasPrefix(line, "  ") && strings.Contains(line, program+" -") {
					examples++
				}
			}
			if code != 0 || stderr != "" || examples != 2 || !strings.Contains(stdout, "-retry-wait-max") ||
				strings.Contains(stdout, "xyzzy") {
				t.Errorf("%s %s: exit %d, %d examples, %q\n%s", program, flag, code, examples, stderr, stdout)
			}
		}
	}
}

// How slackboard-cli turns its standard input into the text of a message.
func TestCliText(t *testing.T) {
	t.Parallel()
	host := e2e.Encode(e2e.Hostname())
	around := len(`{"host":,"level":"message","sync":false,"tag":"a","text":"","title":""}`) + len(host)
	full := strings.Repeat("x", 1<<20-around)
	df := "Filesystem Use%\n/dev/sda1   93%\n"
	for _, test := range []struct{ name, stdin, flags, want string }{
		{"as it is", "<!here> & co\n", "", "<!here> & co\n"},
		{"escaped", "<!here> & &amp; co\n", "-escape", "&lt;!here&gt; &amp; &amp;amp; co\n"},
		{"not UTF-8", "a\xff\xe2\x82b", "", "a\ufffd\ufffd\ufffdb"},
		{"all that a server takes", full, "", full},
		{"control characters", "a\x00b\x1bc\x07\td\r\n", "", "abc\td\n"},
		{"control characters, escaped", "a\x00b\x1b[31mc\x1b]0;t\a\td\r\n10%\r100%\n", "-escape", "abc\td\n100%\n"},
		{"a table", df, "-code", "```\n" + df + "```\n"},
		{"a table that would break out", "```<!here> @channel\r\n\x1b[31mx", "-code",
			"```\n`\u2060`\u2060`&lt;!here&gt; @\u2060channel\nx\n```\n"},
	} {
		s := e2e.NewScripted(t)
		code, _, stderr := e2e.RunProgram(t, test.stdin, nil, "slackboard-cli",
			append(strings.Fields(test.flags), "-s", s.URL, "-t", "a")...)
		if texts := s.Texts(); code != 0 || stderr != "" || len(texts) != 1 || texts[0] != test.want {
			t.Errorf("%s: exit %d, %.200q, got %.200q", test.name, code, stderr, texts)
		}
	}
}

// A text that is too long for a server is cut in its middle. The server gets its beginning, its end, and how many
// bytes are left out.
func TestCliCuts(t *testing.T) {
	t.Parallel()
	s := e2e.StartServer(t, e2e.ServerConfig("http://127.0.0.1:1"))
	for _, test := range []struct{ name, unit string }{{"letters", "line\n"}, {"quotes", "\""}, {"noise", "\xff"},
		{"ampersands", "&"}} {
		for _, size := range []int{600_000, 1_500_000} {
			if test.name == "letters" && size < 1<<20 {
				continue
			}
			stdin := "first\n" + strings.Repeat(test.unit, size/len(test.unit)) + "\nlast"
			for _, flags := range []string{"-t general", "-t general -escape", "-t general -code",
				"-c general -l crit -title " + strings.Repeat("T", 100_000)} {
				code, _, stderr := e2e.RunProgram(t, stdin, nil, "slackboard-cli",
					append(strings.Fields(flags), "-s", s.Addr)...)
				if code != 0 || stderr != "" {
					t.Errorf("%d %s, %.30s: exit %d, %.200q", size, test.name, flags, code, stderr)
				}
			}
		}
	}
	relay := e2e.NewScripted(t)
	e2e.RunProgram(t, "first\n"+strings.Repeat("\"", 1_500_000)+"\nlast", nil, "slackboard-cli", "-t", "a", "-s",
		relay.URL)
	text := relay.Texts()[0]
	head, rest, _ := strings.Cut(text, "\n[… ")
	count, tail, _ := strings.Cut(rest, " bytes left out …]\n")
	if lost, _ := strconv.Atoi(count); !strings.HasPrefix(head, "first\n") || !strings.HasSuffix(tail, "\nlast") ||
		lost+len(head)+len(tail) != 1_500_011 {
		t.Errorf("%s left out of %d: %.100q", count, len(text), text)
	}
}

func TestClientRetries(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		replies  []e2e.Reply
		code     int
		requests int
		least    time.Duration
		stderr   string
	}{
		{"429", []e2e.Reply{e2e.Because(429, ""), e2e.OKReply}, 0, 2, 0, ""},
		{"503", []e2e.Reply{e2e.Because(503, ""), e2e.Because(503, ""), e2e.OKReply}, 0, 3, 0, ""},
		{"504", []e2e.Reply{e2e.Because(504, ""), e2e.OKReply}, 0, 2, 0, ""},
		{"Retry-After is obeyed", []e2e.Reply{e2e.Because(503, "1"), e2e.OKReply}, 0, 2, time.Second, ""},
		{"Retry-After, up to -retry-wait-max", []e2e.Reply{e2e.Because(429, "3600"), e2e.OKReply}, 0, 2, time.Second,
			""},
		{"502", []e2e.Reply{e2e.Because(502, ""), e2e.OKReply}, 1, 1, 0, "answered 502: because\n"},
		{"502 with Retry-After", []e2e.Reply{e2e.Because(502, "0"), e2e.OKReply}, 0, 2, 0, ""},
		{"no answer", []e2e.Reply{{}, e2e.OKReply}, 0, 2, 0, ""},
		{"half an answer", []e2e.Reply{{Status: e2e.HalfAnswer}, e2e.OKReply}, 0, 2, 0, ""},
		{"400", []e2e.Reply{e2e.Because(400, "")}, 1, 1, 0, "answered 400: because\n"},
		{"401", []e2e.Reply{e2e.Because(401, "")}, 1, 1, 0, "answered 401: because (see -auth and -cert)\n"},
		{"413", []e2e.Reply{{Status: 413, Body: "<html>\nno"}}, 1, 1, 0,
			`answered 413, and not as slackboard does: "<html>"`},
		{"a proxy's 502", []e2e.Reply{{Status: 502, Body: "<html>"}, e2e.OKReply}, 0, 2, 0, ""},
		{"another program's 200", []e2e.Reply{{Status: 200, Body: "<html>"}, e2e.OKReply}, 0, 2, 0, ""},
		{"TLS", []e2e.Reply{{Status: 400, Body: "Client sent an HTTP request to an HTTPS server.\n"}}, 1, 4, 0,
			`answered 400, and not as slackboard does: "Client sent an HTTP request to an HTTPS server."`},
		{"lines", []e2e.Reply{{Status: 400, Body: `{"message":"one\ntwo"}`}}, 1, 1, 0, "answered 400: one; two\n"},
		{"for ever", []e2e.Reply{e2e.Because(503, "")}, 1, 4, 0, "answered 503: because\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := e2e.NewScripted(t, test.replies...)
			start := time.Now()
			code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli",
				append(strings.Fields(e2e.Hasty), "-s", s.URL, "-t", "a", "-retry-max", "3")...)
			requests := s.Requests()
			if code != test.code || len(requests) != test.requests || time.Since(start) < test.least ||
				!strings.Contains(stderr, test.stderr) {
				t.Errorf("exit %d after %d requests in %v, %q; want %d, %d, at least %v, %q",
					code, len(requests), time.Since(start), stderr, test.code, test.requests, test.least, test.stderr)
			}
			for _, r := range requests {
				if r.Key == "" || r.Key != requests[0].Key || r.Body != requests[0].Body {
					t.Errorf("a try differs from the first: %+v", r)
				}
			}
		})
	}
}

// A redirect could turn the POST into a GET, or take the token to another server.
func TestClientFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	other := e2e.NewScripted(t)
	s := httptest.NewServer(http.RedirectHandler(other.URL+"/notify", http.StatusTemporaryRedirect))
	t.Cleanup(s.Close)
	code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-auth", "xyzzy",
		"-retry-max", "0")
	if code != 1 || !strings.Contains(stderr, "answered 307") || len(other.Requests()) != 0 {
		t.Errorf("exit %d, %q, %d requests", code, stderr, len(other.Requests()))
	}
}

// A client that tries again reaches a server that starts late.
func TestClientWaitsForTheServer(t *testing.T) {
	t.Parallel()
	addr := e2e.DeadAddress(t)
	code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", addr, "-t", "a", "-retry-max", "1",
		"-retry-wait-min", "1ms")
	if code != 1 || stderr != "slackboard-cli: not sent: "+addr+": dial tcp "+addr+": connect: connection refused\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(e2e.Program("slackboard-cli"), "-s", "unix:"+socket, "-t", "a", "-retry-max", "10000",
		"-retry-wait-min", "1ms", "-retry-wait-max", "10ms")
	cmd.Stdin = strings.NewReader("hi")
	p := e2e.StartProcess(t, cmd)
	s := e2e.NewScriptedAt(t, socket)
	if code := p.Wait(); code != 0 || len(s.Requests()) != 1 {
		t.Errorf("exit %d, %d requests, %s", code, len(s.Requests()), p.Stderr.String())
	}
}

// With several servers: which are asked, and in which order. With the flags e2e.Patient a test fails if the client
// backs off.
func TestServersInTurn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		first        []e2e.Reply // nil: the first server does not listen
		second       []e2e.Reply
		flags        string
		code         int
		asked1, then int // requests to the first server, and to the second
		stderr       string
	}{
		{"the first takes it", []e2e.Reply{e2e.OKReply}, []e2e.Reply{e2e.OKReply}, e2e.Patient, 0, 1, 0, ""},
		{"the first is dead", nil, []e2e.Reply{e2e.OKReply}, e2e.Patient, 0, 0, 1, ""},
		{"the first dies over it", []e2e.Reply{{}}, []e2e.Reply{e2e.OKReply}, e2e.Patient, 0, 1, 1, ""},
		{"the first breaks off", []e2e.Reply{{Status: e2e.HalfAnswer}}, []e2e.Reply{e2e.OKReply}, e2e.Patient, 0, 1, 1,
			""},
		{"the first is busy", []e2e.Reply{e2e.Because(429, "3600")}, []e2e.Reply{e2e.OKReply}, e2e.Patient, 0, 1, 1,
			""},
		{"the first refuses", []e2e.Reply{e2e.Because(400, "")}, []e2e.Reply{e2e.OKReply}, e2e.Patient, 1, 1, 0,
			"answered 400: because"},
		{"the second refuses", nil, []e2e.Reply{e2e.Because(413, "")}, e2e.Patient, 1, 0, 1, "answered 413: because"},
		{"a whole round in vain", []e2e.Reply{e2e.Because(503, ""), e2e.OKReply},
			[]e2e.Reply{e2e.Because(503, ""), e2e.OKReply}, e2e.Hasty, 0, 2, 1, ""},
		{"all in vain", nil, []e2e.Reply{e2e.Because(503, "")}, e2e.Hasty + " -retry-max=1", 1, 0, 2,
			"connection refused; 127.0.0.1:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			first, second := e2e.NewScripted(t, test.first...), e2e.NewScripted(t, test.second...)
			if test.first == nil {
				first.Close()
			}
			code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli",
				append(strings.Fields(test.flags), "-t", "a", "-s", first.URL+" , "+second.URL+"/")...)
			got1, got2 := first.Requests(), second.Requests()
			if code != test.code || len(got1) != test.asked1 || len(got2) != test.then ||
				!strings.Contains(stderr, test.stderr) {
				t.Errorf("exit %d, %d and %d requests, %q", code, len(got1), len(got2), stderr)
			}
			for _, r := range slices.Concat(got1, got2) {
				if r.Key != slices.Concat(got1, got2)[0].Key {
					t.Errorf("two keys for one message")
				}
			}
		})
	}
}

// If the first of two servers dies between two messages, the second gets the second message.
func TestServerDiesInBetween(t *testing.T) {
	t.Parallel()
	first, second := e2e.NewScripted(t), e2e.NewScripted(t)
	for i, text := range []string{"one", "two"} {
		if code, _, stderr := e2e.RunProgram(t, text, nil, "slackboard-cli",
			append(strings.Fields(e2e.Patient), "-t", "a", "-s", first.URL+","+second.URL)...); code != 0 {
			t.Errorf("exit %d, %s", code, stderr)
		}
		if i == 0 {
			first.CloseClientConnections()
			first.Close()
		}
	}
	if !slices.Equal(first.Texts(), []string{"one"}) || !slices.Equal(second.Texts(), []string{"two"}) {
		t.Errorf("got %q and %q", first.Texts(), second.Texts())
	}
}

// A client waits for a server that answers slowly.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(2 * time.Second)
		io.WriteString(w, `{"message":"ok"}`)
	}))
	t.Cleanup(s.Close)
	start := time.Now()
	code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-retry-max", "0")
	if code != 0 || stderr != "" || time.Since(start) < 2*time.Second {
		t.Errorf("exit %d after %v, %q", code, time.Since(start), stderr)
	}
}

// The token is sent, whether a flag, the environment or a file has it. It is never printed.
func TestToken(t *testing.T) {
	t.Parallel()
	file := e2e.WriteFile(t, "token", "xyzzy\n")
	for _, test := range []struct {
		name, auth, env, sent, stderr string
	}{
		{"none", "", "", "", ""},
		{"-auth", "xyzzy", "plugh", "Bearer xyzzy", ""},
		{"environment", "", "xyzzy", "Bearer xyzzy", ""},
		{"file", "file:" + file, "", "Bearer xyzzy", ""},
		{"file in the environment", "", "file:" + file, "Bearer xyzzy", ""},
		{"no file", "file:/no/such/file", "", "",
			"slackboard-cli: not sent: -auth: open /no/such/file: no such file or directory\n"},
		{"empty file", "file:/dev/null", "", "", "slackboard-cli: not sent: -auth: the token is not one word"},
		{"two lines", "xyzzy\nxyzzy", "", "", "slackboard-cli: not sent: -auth: the token is not one word"},
	} {
		s := e2e.NewScripted(t, e2e.Because(401, ""))
		code, stdout, stderr := e2e.RunProgram(t, "hi", []string{"SLACKBOARD_AUTH_TOKEN=" + test.env}, "slackboard-cli",
			"-s", s.URL, "-t", "a", "-auth", test.auth)
		requests := s.Requests()
		if code != 1 || strings.Contains(stdout+stderr, "xyzzy") || !strings.HasPrefix(stderr, test.stderr) ||
			strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q %q", test.name, code, stdout, stderr)
		}
		if test.stderr == "" && (len(requests) != 1 || requests[0].Auth != test.sent) ||
			test.stderr != "" && len(requests) != 0 {
			t.Errorf("%s: sent %+v", test.name, requests)
		}
	}
}
