package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is a server for the clients: it answers with one reply after the other, the last one for good.
type scripted struct {
	*httptest.Server
	mu      sync.Mutex
	bodies  []string
	paths   []string
	times   []time.Time
	replies []reply
}

func newScripted(t *testing.T, replies ...reply) *scripted {
	s := &scripted{replies: replies}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := new(strings.Builder)
		fmt.Fprint(body, readAll(r.Body))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bodies, s.paths, s.times = append(s.bodies, body.String()), append(s.paths, r.URL.Path), append(s.times, time.Now())
		re := reply{status: 200, body: `{"message":"ok"}`}
		if len(s.replies) > 0 {
			re = s.replies[min(len(s.bodies), len(s.replies))-1]
		}
		if re.hang {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		if re.retryAfter != "" {
			w.Header().Set("Retry-After", re.retryAfter)
		}
		w.WriteHeader(re.status)
		w.Write([]byte(re.body))
	}))
	t.Cleanup(s.Close)
	return s
}

func TestClientRequests(t *testing.T) {
	host := hostname()
	for _, test := range []struct {
		args, path, body string // %s in body is the host
	}{
		{"-t ops", "/notify", `{"tag":"ops","host":"%s","text":"hi","level":"message","sync":false}`},
		{"-t ops -l crit -title T -sync", "/notify", `{"tag":"ops","host":"%s","text":"hi","level":"crit","title":"T","sync":true}`},
		{"-c ops", "/notify-directly", `{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"hi"},"host":"%s","sync":false}`},
		{"-c #ops -u me -i :x: -p none -sync", "/notify-directly", `{"payload":{"channel":"#ops","username":"me","icon_emoji":":x:","parse":"none","text":"hi"},"host":"%s","sync":true}`},
		{"-c @me", "/notify-directly", `{"payload":{"channel":"@me","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"hi"},"host":"%s","sync":false}`},
		{"-c C0123456789", "/notify-directly", `{"payload":{"channel":"C0123456789","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"hi"},"host":"%s","sync":false}`},
		{"-c D0123456789", "/notify-directly", `{"payload":{"channel":"D0123456789","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"hi"},"host":"%s","sync":false}`},
		{"-c CACHE", "/notify-directly", `{"payload":{"channel":"#CACHE","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"hi"},"host":"%s","sync":false}`},
		{"-c ops -l warn", "/notify-directly", `{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","attachments":[{"color":"#ffdd00","text":"hi","fallback":"hi","footer":"%[1]s","mrkdwn_in":["text"]}]},"host":"%[1]s","sync":false}`},
		{"-c ops -l warn -C danger -title T", "/notify-directly", `{"payload":{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","attachments":[{"color":"danger","title":"T","text":"hi","fallback":"T: hi","footer":"%[1]s","mrkdwn_in":["text"]}]},"host":"%[1]s","sync":false}`},
	} {
		s := newScripted(t)
		code, stdout, stderr := runProgram(t, "hi", nil, "slackboard-cli", append(strings.Fields(test.args), "-s", s.URL+"/")...)
		if code != 0 || stdout+stderr != "" || len(s.bodies) != 1 {
			t.Errorf("%s: exit %d, %q %q, %d requests", test.args, code, stdout, stderr, len(s.bodies))
			continue
		}
		want := fmt.Sprintf(test.body, host)
		if got := withoutEmpty(t, s.bodies[0]); s.paths[0] != test.path || got != withoutEmpty(t, want) {
			t.Errorf("%s: got %s %s, want %s", test.args, s.paths[0], got, want)
		}
	}
}

// withoutEmpty is normal for a client's request.
func withoutEmpty(t *testing.T, body string) string {
	return strings.NewReplacer(`,"title":""`, "", `"title":"",`, "", `"color":"",`, "").Replace(normal(t, body))
}

func TestClientUsage(t *testing.T) {
	for _, test := range []struct {
		program, args, stdin string
		code                 int
		want                 string
	}{
		{"slackboard-cli", "-s h:1", "hi", 2, "slackboard-cli: no destination: set a tag with -t, or a channel with -c\n"},
		{"slackboard-cli", "-s h:1 -t a -c b", "hi", 2, "slackboard-cli: -t and -c together: choose one\n"},
		{"slackboard-cli", "-t a", "hi", 2, "slackboard-cli: no server: set -s or SLACKBOARD_SERVER\n"},
		{"slackboard-cli", "-t a -s ftp://x", "hi", 2, `slackboard-cli: "ftp://x" is not a server`},
		{"slackboard-cli", "-t a -s h:1 text", "hi", 2, `slackboard-cli: unexpected argument "text": the text comes from standard input`},
		{"slackboard-cli", "-t a -s 127.0.0.1:1", "", 1, "slackboard-cli: standard input is empty: there is nothing to send\n"},
		{"slackboard-cli", "-nope", "", 2, "flag provided but not defined: -nope\n"},
		{"slackboard-log", "-s h:1 -t a", "", 125, "slackboard-log: no command: slackboard-log [flags] -- command args…\n"},
		{"slackboard-log", "-s h:1 -- true", "", 125, "slackboard-log: no destination"},
		{"slackboard-log", "-nope", "", 125, "flag provided but not defined: -nope\n"},
	} {
		code, stdout, stderr := runProgram(t, test.stdin, []string{"SLACKBOARD_SERVER="}, test.program, strings.Fields(test.args)...)
		if code != test.code || stdout != "" || !strings.HasPrefix(stderr, test.want) {
			t.Errorf("%s %s: exit %d, %q %q; want %d, %q", test.program, test.args, code, stdout, stderr, test.code, test.want)
		}
	}
}

func TestClientRetries(t *testing.T) {
	said := func(status int, retryAfter string) reply {
		return reply{status: status, body: `{"message":"because"}`, retryAfter: retryAfter}
	}
	ok := reply{status: 200, body: `{"message":"ok"}`}
	for _, test := range []struct {
		name     string
		replies  []reply
		code     int
		requests int
		least    time.Duration
		stderr   string
	}{
		{"429", []reply{said(429, ""), ok}, 0, 2, 0, ""},
		{"503", []reply{said(503, ""), said(503, ""), ok}, 0, 3, 0, ""},
		{"504", []reply{said(504, ""), ok}, 0, 2, 0, ""},
		{"Retry-After is obeyed", []reply{said(503, "1"), ok}, 0, 2, time.Second, ""},
		{"Retry-After, up to -retry-wait-max", []reply{said(429, "3600"), ok}, 0, 2, time.Second, ""},
		{"502", []reply{said(502, ""), ok}, 1, 1, 0, "answered 502: because\n"},
		{"502 with Retry-After", []reply{said(502, "0"), ok}, 0, 2, 0, ""},
		{"no answer", []reply{{hang: true}, ok}, 0, 2, 0, ""},
		{"400", []reply{said(400, "")}, 1, 1, 0, "answered 400: because\n"},
		{"413", []reply{{status: 413, body: "<html>\nno"}}, 1, 1, 0, `answered 413: "<html>"`},
		{"for ever", []reply{said(503, "")}, 1, 4, 0, "answered 503: because\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newScripted(t, test.replies...)
			start := time.Now()
			code, _, stderr := runProgram(t, "hi", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-retry-max", "3", "-retry-wait-min", "1ms", "-retry-wait-max", "1s")
			if code != test.code || len(s.bodies) != test.requests || time.Since(start) < test.least || !strings.Contains(stderr, test.stderr) {
				t.Errorf("exit %d after %d requests in %v, %q; want %d, %d, at least %v, %q",
					code, len(s.bodies), time.Since(start), stderr, test.code, test.requests, test.least, test.stderr)
			}
		})
	}
}

// A server that starts late gets the message.
func TestClientWaitsForTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	code, _, stderr := runProgram(t, "hi", nil, "slackboard-cli", "-s", addr, "-t", "a", "-retry-max", "1", "-retry-wait-min", "1ms")
	if code != 1 || !strings.Contains(stderr, "slackboard-cli: not sent: "+addr+": dial tcp "+addr+": connect: connection refused") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestLogExitStatus(t *testing.T) {
	s := newScripted(t, reply{status: 400, body: `{"message":"tag:a is not found"}`})
	dir := t.TempDir()
	plain := writeFile(t, "plain", "not a program")
	for _, test := range []struct {
		command []string
		code    int
		err     string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 3"}, 3, "Error: exit status 3"},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, "Error: signal: killed"},
		{[]string{"no-such-command"}, 127, "Error: exec:"},
		{[]string{dir + "/nothing"}, 127, "Error: fork/exec"},
		{[]string{plain}, 126, "Error: fork/exec"},
		{[]string{dir}, 126, "Error: "},
	} {
		args := append([]string{"-s", s.URL, "-t", "a", "--"}, test.command...)
		code, stdout, stderr := runProgram(t, "", nil, "slackboard-log", args...)
		if code != test.code || stdout != "" || !strings.Contains(stderr, test.err) {
			t.Errorf("%v: exit %d, %q; want %d, %q", test.command, code, stderr, test.code, test.err)
		}
		if note := "slackboard-log: not sent: "; test.code != 0 && !strings.Contains(stderr, note) {
			t.Errorf("%v: a notification that fails is not told: %q", test.command, stderr)
		}
	}
	before := len(s.bodies)
	log := dir + "/out.log"
	for range 2 {
		runProgram(t, "", nil, "slackboard-log", "-notify=false", "-log", log, "--", "sh", "-c", "echo out; echo err >&2; exit 1")
	}
	if got := readFile(t, log); got != "out\nerr\nout\nerr\n" || len(s.bodies) != before {
		t.Errorf("the log has %q, and %d were told", got, len(s.bodies)-before)
	}
	if code, _, stderr := runProgram(t, "", nil, "slackboard-log", "-notify=false", "-log", dir, "--", "sh", "-c", "exit 4"); code != 4 || !strings.Contains(stderr, "slackboard-log: -log: open "+dir+": is a directory") {
		t.Errorf("a log that cannot be written: exit %d, %s", code, stderr)
	}
}
