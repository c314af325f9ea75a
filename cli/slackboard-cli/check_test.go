package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slackboard/e2e"
)

// -check reports by day what would fail at night. It sends no message and runs no command.
func TestClientCheck(t *testing.T) {
	t.Parallel()
	token := e2e.WriteFile(t, "token", "xyzzy")
	socket := filepath.Join(t.TempDir(), "s")
	open := e2e.StartServer(t, strings.Replace(e2e.ServerConfig("http://127.0.0.1:1"), "127.0.0.1:0", "unix:"+socket,
		1))
	s := e2e.StartServer(t, strings.Replace(e2e.ServerConfig("http://127.0.0.1:1"), "[core]\n",
		"[core]\nauth_token = 'xyzzy'\n", 1))
	dead := e2e.DeadAddress(t)
	for _, test := range []struct {
		flags string
		code  int
		want  string // how the line begins after the program's name; on standard output if code is 0
	}{
		{"-s unix:" + socket + " -t general", 0, "ok: unix:" + socket + " takes messages for general\n"},
		{"-s unix:" + socket + " -c general", 0, "ok: unix:" + socket + " takes messages for #general\n"},
		{"-s unix:" + socket + " -t nope", 1, "unix:" + socket + " answered 404: tag:nope is not found\n"},
		{"-s " + s.Addr + " -t general -auth file:" + token, 0, "ok: " + s.Addr + " takes messages for general\n"},
		{"-s " + s.Addr + " -t general", 1, s.Addr + " answered 401: the token is missing or wrong"},
		{"-s " + s.Addr + " -t general -auth file:/no/such/file", 1,
			"-auth: open /no/such/file: no such file or directory\n"},
		{"-s " + s.Addr + " -t general -cacert /no/such/file", 1,
			"-cacert: open /no/such/file: no such file or directory\n"},
		{"-s " + s.Addr + " -t general -cert /no/such/file -key /no/such/file", 1,
			"-cert and -key: open /no/such/file: no such file or directory\n"},
		{"-s " + s.Addr + "," + dead + " -t general -auth xyzzy", 1,
			dead + ": dial tcp " + dead + ": connect: connection refused\n"},
		{"-s unix:/nowhere -t general", 1, "unix:/nowhere: dial unix /nowhere: connect: no such file or directory\n"},
	} {
		for _, program := range []string{"slackboard-cli", "slackboard-log"} {
			code, stdout, stderr := e2e.RunProgram(t, "hi", nil, program,
				append(strings.Fields(test.flags), "-check")...)
			told, other := stdout, stderr
			if test.code == 1 {
				told, other = stderr, stdout
			}
			if code != test.code || other != "" || !strings.HasPrefix(told, program+": "+test.want) ||
				strings.Count(told, "\n") != 1 {
				t.Errorf("%s %s: exit %d, %q %q", program, test.flags, code, stdout, stderr)
			}
		}
	}
	ran := filepath.Join(t.TempDir(), "ran")
	code, _, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-check", "-s", "unix:"+socket, "-t", "general",
		"--", "touch", ran)
	if _, err := os.Stat(ran); code != 0 || err == nil {
		t.Errorf("exit %d, %q; the command was run: %t", code, stderr, err == nil)
	}
	if st := open.Stat(t); st.Accepted != 0 {
		t.Errorf("something was sent: %+v", st)
	}
}

// The clients do not use the proxies that the environment names: a proxy must not get the token.
func TestClientUsesNoProxy(t *testing.T) {
	t.Parallel()
	proxy := e2e.NewScripted(t)
	var env []string
	for _, name := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"} {
		env = append(env, name+"="+proxy.URL)
	}
	for _, server := range []string{"http://relay.invalid:29800", "https://relay.invalid", "relay.invalid"} {
		code, _, stderr := e2e.RunProgram(t, "hi", env, "slackboard-cli", "-s", server, "-t", "a", "-auth", "xyzzy",
			"-retry-max", "0")
		if code != 1 || !strings.Contains(stderr, "lookup relay.invalid") || len(proxy.Requests()) != 0 {
			t.Errorf("%s: exit %d, %q, the proxy got %+v", server, code, stderr, proxy.Requests())
		}
	}
}

// An error names the server as the user does and, if that is a name, also the address that answered.
func TestClientErrorsNameTheServer(t *testing.T) {
	t.Parallel()
	s := e2e.NewScripted(t, e2e.Because(400, ""), e2e.Because(503, ""),
		e2e.Reply{Status: http.StatusOK, Body: "<html>"})
	port := s.URL[strings.LastIndex(s.URL, ":")+1:]
	socket := filepath.Join(t.TempDir(), "s")
	e2e.NewScriptedAt(t, socket, e2e.Because(400, ""))
	for _, test := range []struct{ server, want string }{
		{"localhost:" + port, "localhost:" + port + " (127.0.0.1:" + port + ") answered 400: because"},
		{"127.0.0.1:" + port, "127.0.0.1:" + port + " answered 503: because"},
		{"http://localhost:" + port + "/", "localhost:" + port + " (127.0.0.1:" + port +
			") answered 200, and not as slackboard does"},
		{"unix:" + socket, "unix:" + socket + " answered 400: because"},
		{"unix:/nowhere", "unix:/nowhere: dial unix /nowhere: connect: "},
		{"127.0.0.2", "127.0.0.2:29800: dial tcp 127.0.0.2:29800: connect: "},
	} {
		code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", test.server, "-t", "a", "-retry-max",
			"0")
		if code != 1 || !strings.HasPrefix(stderr, "slackboard-cli: not sent: "+test.want) {
			t.Errorf("%s: exit %d, %q, want %q", test.server, code, stderr, test.want)
		}
	}
}

// -l takes the names that people use for the levels.
func TestCliLevels(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"message": "message", "info": "info", "warn": "warn", "warning": "warn",
		"crit": "crit", "error": "crit"} {
		s := e2e.NewScripted(t)
		if code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-l",
			flag); code != 0 || !strings.Contains(s.Requests()[0].Body, `"level":"`+want+`"`) {
			t.Errorf("-l %s: exit %d, %s", flag, code, stderr)
		}
	}
}
