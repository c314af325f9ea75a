package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// With an auth_token, every request needs it, as a Bearer token or as a password, except /healthz and /readyz. Other
// requests are answered 401 and counted. The clients take the token from a flag, a file or the environment. No answer
// and no log shows it.
func TestAuthToken(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, WithCore(ServerConfig(slack.URL), "auth_token = 'T0KEN'"))
	basic := func(user, password string) string {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return "Authorization: " + r.Header.Get("Authorization")
	}
	refused := 0
	for _, test := range []struct {
		header string
		status int
	}{
		{"Authorization: Bearer T0KEN", 200}, {"Authorization: bearer T0KEN", 200}, {basic("", "T0KEN"), 200},
		{basic("admin", "T0KEN"), 200},
		{"X: y", 401}, {"Authorization: T0KEN", 401}, {"Authorization: Bearer T0KE", 401},
		{"Authorization: Bearer T0KENT0KEN", 401},
		{"Authorization: Bearer", 401}, {"Authorization: Bearer  ", 401}, {basic("T0KEN", ""), 401},
		{basic("T0KEN", "x"), 401}, {"Authorization: Basic T0KEN", 401},
		{"Authorization: Digest T0KEN", 401}, {"Authorization: ", 401},
	} {
		for _, path := range []string{"GET /stat/app", "GET /stat/go", "GET /config/app", "GET /ui/", "GET /",
			"GET /metrics", "GET /debug/vars", "GET /messages?state=dead",
			"POST /notify", "POST //notify", "POST /notify-directly", "GET /nothing",
			"DELETE /messages?state=dead&tag=x"} {
			method, path, _ := strings.Cut(path, " ")
			resp, body := s.Ask(t, method, path, `{"tag":"general","text":"x","payload":{"text":"x"}}`, test.header)
			want := test.status
			if path == "/nothing" && want == 200 {
				want = 404
			}
			if resp.StatusCode != want {
				t.Errorf("%s %s with %q: %d", method, path, test.header, resp.StatusCode)
			}
			if test.status == 401 {
				refused++
				if !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") ||
					!strings.Contains(body, `"message":"the token is missing or wrong`) ||
					resp.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s: %v %s", path, resp.Header, body)
				}
			}
			if strings.Contains(body, "T0KEN") {
				t.Errorf("%s shows the token: %s", path, body)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if resp, _ := s.Ask(t, "GET", path, "", test.header); resp.StatusCode != 200 {
				t.Errorf("%s with %q: %d", path, test.header, resp.StatusCode)
			}
		}
	}
	if _, body := s.Ask(t, "GET", "/metrics", "", "Authorization: Bearer T0KEN"); !strings.Contains(body,
		fmt.Sprintf("\nslackboard_unauthorized_total %d\n", refused)) {
		t.Errorf("%d requests were refused, /metrics counts another number: %s", refused, body)
	}
	if _, body := s.Ask(t, "GET", "/stat/app", "", "Authorization: Bearer T0KEN"); !strings.Contains(body,
		fmt.Sprintf(`"unauthorized": %d`, refused)) {
		t.Errorf("%d requests were refused, /stat/app counts another number: %s", refused, body)
	}
	if strings.Contains(s.Stdout.String()+s.Stderr.String(), "T0KEN") {
		t.Error("the logs show the token")
	}
	file := WriteFile(t, "token", "T0KEN\n")
	for _, test := range []struct {
		program, flags, env string
		code                int
	}{
		{"slackboard-cli", "-auth T0KEN", "", 0}, {"slackboard-cli", "-auth file:" + file, "", 0},
		{"slackboard-cli", "", "SLACKBOARD_AUTH_TOKEN=T0KEN", 0},
		{"slackboard-cli", "-auth other", "", 1}, {"slackboard-cli", "", "", 1},
		{"slackboard-log", "-auth T0KEN -- false", "", 1}, {"slackboard-log", "-- false", "", 1},
	} {
		before := acceptedBy(t, s)
		args := append([]string{"-s", s.Addr, "-t", "general", "-retry-max", "0"}, strings.Fields(test.flags)...)
		code, _, stderr := RunProgram(t, "hi", []string{test.env}, test.program, args...)
		good := strings.Contains(test.flags+test.env, "T0KEN") || strings.Contains(test.flags, file)
		if taken := acceptedBy(t, s) > before; code != test.code || taken != good ||
			strings.Contains(stderr, "401") == good {
			t.Errorf("%s %s %s: exit %d, accepted %v, %s", test.program, test.flags, test.env, code, taken, stderr)
		}
	}
}

// acceptedBy returns how many messages the server with the token has accepted.
func acceptedBy(t *testing.T, p *Process) (n int) {
	_, body := p.Ask(t, "GET", "/stat/app", "", "Authorization: Bearer T0KEN")
	if _, err := fmt.Sscanf(body, "{\n \"accepted\": %d", &n); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return n
}

// If an auth_token is configured, whoever brings it sees messages, from any host. If none is, messages are shown to the
// server's own host only.
func TestOperatorFromElsewhere(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	for config, want := range map[string]int{ServerConfig(slack.URL): 403,
		WithCore(ServerConfig(slack.URL), "auth_token = 'T0KEN'"): 200} {
		s := StartServer(t, config)
		resp, body := s.Ask(t, "GET", "/messages?state=dead", "", "X-Forwarded-For: 192.0.2.1",
			"Authorization: Bearer T0KEN")
		if resp.StatusCode != want {
			t.Errorf("a list from another host: got %d %s, want %d", resp.StatusCode, body, want)
		}
	}
}

// A page of another site cannot post or change anything through the browser of somebody who may.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, ServerConfig(slack.URL))
	for _, test := range []struct {
		method, path, header string
		status               int
	}{
		{"POST", "/notify", "Sec-Fetch-Site: cross-site", 403}, {"POST", "/notify", "Sec-Fetch-Site: same-site", 403},
		{"POST", "/notify", "Origin: http://evil.invalid", 403}, {"POST", "/notify-directly", "Origin: null", 403},
		{"POST", "/messages/retry?tag=x", "Sec-Fetch-Site: cross-site", 403},
		{"DELETE", "/messages?state=dead&tag=x", "Origin: http://evil.invalid", 403},
		{"POST", "/notify", "Sec-Fetch-Site: same-origin", 200}, {"POST", "/notify", "Origin: http://" + s.Addr, 200},
		{"POST", "/notify", "Sec-Fetch-Site: none", 200},
		{"GET", "/ui/", "Sec-Fetch-Site: cross-site", 200},
	} {
		resp, body := s.Ask(t, test.method, test.path, `{"tag":"general","text":"x","payload":{"text":"x"}}`,
			test.header)
		if resp.StatusCode != test.status || test.status == 403 &&
			(resp.Header.Get("Content-Type") != "application/json" ||
				!strings.Contains(body, `{"message":"a page of another site`)) {
			t.Errorf("%s %s, %s: %d %s", test.method, test.path, test.header, resp.StatusCode, body)
		}
	}
	if st := s.Stat(t); st.Accepted != 3 {
		t.Errorf("%d messages were accepted, want 3", st.Accepted)
	}
}

// A server with a certificate speaks TLS 1.2 or later, and nothing else. With tls_client_ca, clients need a certificate
// of that authority, besides the token. -health works over TLS, also for a user who may not read the secrets.
func TestTLS(t *testing.T) {
	t.Parallel()
	slack, ca, other := NewFakeSlack(t, nil), NewAuthority(t), NewAuthority(t)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert, key := ca.Files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: both})
	forClients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	clientCert, clientKey := ca.Files(&x509.Certificate{ExtKeyUsage: forClients})
	strangerCert, strangerKey := other.Files(&x509.Certificate{ExtKeyUsage: forClients})
	config := WithCore(ServerConfig(slack.URL), fmt.Sprintf("tls_cert = '%s'\ntls_key = '%s'", cert, key))
	open := StartServer(t, config)
	closed := StartServer(t, WithCore(config, fmt.Sprintf("tls_client_ca = '%s'\nauth_token = 'T0KEN'", ca.File)))
	ours, theirs := " -cert "+clientCert+" -key "+clientKey, " -cert "+strangerCert+" -key "+strangerKey
	for _, test := range []struct {
		name, flags string
		code        int
		stderr      string
	}{
		{"TLS", "-s https://" + open.Addr + " -cacert " + ca.File, 0, ""},
		{"an authority we do not know", "-s https://" + open.Addr, 1, "signed by unknown authority"},
		{"plain HTTP", "-s " + open.Addr, 1, "HTTP request to an HTTPS server"},
		{"a certificate and the token", "-s https://" + closed.Addr + " -auth T0KEN -cacert " + ca.File + ours, 0, ""},
		{"a certificate alone", "-s https://" + closed.Addr + " -cacert " + ca.File + ours, 1, "401"},
		{"no certificate", "-s https://" + closed.Addr + " -auth T0KEN -cacert " + ca.File, 1, "certificate required"},
		{"a stranger's", "-s https://" + closed.Addr + " -auth T0KEN -cacert " + ca.File + theirs, 1, "tls: "},
	} {
		before := len(slack.Deliveries())
		for _, program := range []string{"slackboard-cli", "slackboard-log"} {
			args, command := strings.Fields(test.flags+" -sync -t general -retry-max 0"), []string(nil)
			if program == "slackboard-log" {
				command = []string{"--", "false"}
			}
			code, _, stderr := RunProgram(t, "hi", nil, program, append(args, command...)...)
			if command == nil && code != test.code || !strings.Contains(stderr, test.stderr) {
				t.Errorf("%s, %s: exit %d, %s", program, test.name, code, stderr)
			}
		}
		if got, want := len(slack.Deliveries())-before, 2*(1-test.code); got != want {
			t.Errorf("%s: %d of 2 messages arrived, want %d", test.name, got, want)
		}
	}
	for _, s := range []*Process{open, closed} { // -health asks the port that the configuration names
		path := s.Cmd.Args[len(s.Cmd.Args)-1]
		err := os.WriteFile(path, []byte(strings.Replace(ReadFile(t, path), "127.0.0.1:0", s.Addr, 1)),
			0o600)
		if err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := RunProgram(t, "", nil, "slackboard", "-health", "-c", path); code != 0 {
			t.Errorf("-health: %d %s", code, stderr)
		}
	}
	unreadable := WithCore(ReadFile(t, open.Cmd.Args[len(open.Cmd.Args)-1]), "auth_token = 'file:/no/such/file'")
	unreadable = strings.Replace(unreadable, key, "/no/such/key", 1)
	code, _, stderr := RunProgram(t, "", nil, "slackboard", "-health", "-c",
		WriteFile(t, "monitor.toml", unreadable))
	if code != 0 {
		t.Errorf("-health with secrets that cannot be read: %d %s", code, stderr)
	}
	// The server must not speak what is older than TLS 1.2.
	_, err := tls.Dial("tcp", open.Addr,
		&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		t.Error("the server speaks TLS 1.1")
	}
}

// A unix socket has the mode of core.socket_mode. The spool's folder is for the server's user only.
func TestSocketMode(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	for mode, want := range map[string]fs.FileMode{"0660": 0o660, "600": 0o600, "0666": 0o666} {
		socket := filepath.Join(t.TempDir(), "s")
		s := StartServer(t,
			strings.Replace(ServerConfig(slack.URL), "port = '127.0.0.1:0'",
				fmt.Sprintf("port = 'unix:%s'\nsocket_mode = '%s'", socket, mode), 1))
		info, err := os.Stat(socket)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", mode, info.Mode(), err)
		}
		if status, body := s.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 200 {
			t.Errorf("/notify over the socket: got %d %s, want 200", status, body)
		}
		if info, err := os.Stat(filepath.Join(s.Cmd.Dir, "slackboard.spool")); err != nil ||
			info.Mode().Perm() != 0o700 {
			t.Errorf("the spool's folder has the mode %v, want 0700; %v", info.Mode(), err)
		}
	}
}

// If other hosts can reach the server, and it asks for no token and no client certificate, it warns, at any log level.
func TestOpenToTheNetwork(t *testing.T) {
	t.Parallel()
	ca := NewAuthority(t)
	cert, key := ca.Files(&x509.Certificate{})
	certs := fmt.Sprintf("tls_cert = '%s'\ntls_key = '%s'\n", cert, key)
	for _, test := range []struct {
		name, port, lines string
		warnings          int
	}{
		{"all interfaces", "0", "", 1},
		{"all interfaces, encrypted", "0", certs, 1},
		{"with a token", "0", "auth_token = 'x'", 0},
		{"with certificates of clients", "0", certs + "tls_client_ca = '" + ca.File + "'", 0},
		{"loopback", "127.0.0.1:0", "", 0},
		{"a unix socket", "unix:" + filepath.Join(t.TempDir(), "s"), "", 0},
	} {
		s := StartServer(t, WithCore(strings.Replace(ServerConfig("http://127.0.0.1:1"), "127.0.0.1:0", test.port, 1),
			test.lines)+"[log]\nlevel = 'panic'\n")
		s.Signal(os.Interrupt)
		s.Wait()
		if got := strings.Count(s.Stderr.String(), "anybody who reaches this server may post"); got != test.warnings {
			t.Errorf("%s: %d warnings, want %d: %s", test.name, got, test.warnings, s.Stderr.String())
		}
	}
}

// A secret can be given as env:NAME or file:/path; a newline at its end does not matter. It is not shown anywhere. If
// everybody may read its file, the server warns. A reference to nothing, or to what is no token, is an error of one
// line, which does not show the value.
func TestSecretsByReference(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	dir := t.TempDir()
	file := func(name, content string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := strings.NewReplacer(
		"'"+slack.URL+"/services/x'", "'env:HOOK'",
		"tag = 'cron'", "tag = 'cron'\nslack_token = 'file:"+file("bot", "xoxb-S3CRET\n", 0o600)+"'",
		"[core]", "[core]\nslack_api_url = '"+slack.URL+"/api'\nauth_token = 'file:"+
			file("token", "T0KEN\n", 0o644)+"'",
	).Replace(ServerConfig(slack.URL))
	path := file("slackboard.toml", config, 0o600)
	cmd := exec.Command(Program("slackboard"), "-c", path)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOOK="+slack.URL+"/services/S3CRET\r\n")
	s := StartServerIn(t, cmd)
	for _, tag := range []string{"general", "cron"} {
		resp, body := s.Ask(t, "POST", "/notify", NotifyBody(tag, 1, true),
			"Authorization: Bearer T0KEN")
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", tag, resp.StatusCode, body)
		}
	}
	got := slack.Deliveries()
	if got[0].Path != "/services/S3CRET" || got[1].Authorization != "Bearer xoxb-S3CRET" {
		t.Errorf("want a post to the webhook of $HOOK, and one with the token of the file: %+v", got)
	}
	_, shown := s.Ask(t, "GET", "/config/app", "", "Authorization: Bearer T0KEN")
	if all := shown + s.Stdout.String() + s.Stderr.String(); strings.Contains(all, "S3CRET") ||
		strings.Contains(all, "T0KEN") || strings.Count(shown, `"..."`) != 3 {
		t.Errorf("a secret shows: %s", all)
	}
	if log := s.Stderr.String(); strings.Count(log, "everybody may read it") != 1 ||
		!strings.Contains(log, filepath.Join(dir, "token")+" holds a secret and everybody may read it: chmod o-r") {
		t.Errorf("the warning is missing: %s", log)
	}
	hook := file("hook.toml", "[core]\nslack_url = 'file:/no/such/file'\n[[tags]]\ntag = 'a'\n", 0o600)
	if _, _, stderr := RunProgram(t, "", nil, "slackboard", "-t", "-c", hook); strings.Count(stderr, "\n") != 1 {
		t.Errorf("one fault is not reported in one line: %s", stderr)
	}
	badToken := `2: auth_token in [core]: wants a token: ASCII without blanks and quotes, and not "..."`
	for value, want := range map[string]string{
		"env:NO_SUCH_THING": `2: auth_token in [core]: there is nothing in env:NO_SUCH_THING`,
		"file:/no/such/file": `2: auth_token in [core]: open /no/such/file: no such file or ` +
			`directory`,
		"file:" + file("empty", "\n", 0o600): `2: auth_token in [core]: there is nothing in file:` +
			filepath.Join(dir, "empty"),
		"file:" + file("words", "a b\n", 0o600):     badToken,
		"file:" + file("blank", "S3CRET \n", 0o600): badToken,
		"env:BLANK": badToken,
		"env:EMPTY": `2: auth_token in [core]: there is nothing in env:EMPTY`,
	} {
		bad := file("bad.toml", WithCore(ServerConfig(slack.URL), "auth_token = '"+value+"'"), 0o600)
		for _, flag := range [][]string{{"-c", bad}, {"-t", "-c", bad}} {
			env := []string{"BLANK=S3CRET \n", "EMPTY=\n"}
			if code, _, stderr := RunProgram(t, "", env, "slackboard", flag...); code != 1 ||
				stderr != bad+":"+want+"\n" {
				t.Errorf("%v %s: exit %d, %s", flag, value, code, stderr)
			}
		}
	}
}

// TLS files that are missing, empty or do not belong together, and a wrong socket_mode, are errors that say so.
func TestTLSFaults(t *testing.T) {
	t.Parallel()
	ca := NewAuthority(t)
	cert, key := ca.Files(&x509.Certificate{})
	_, otherKey := ca.Files(&x509.Certificate{})
	if err := os.Chmod(otherKey, 0o644); err != nil {
		t.Fatal(err)
	}
	empty := WriteFile(t, "empty.pem", "")
	for lines, want := range map[string]string{
		"tls_cert = '" + cert + "'":         "go together",
		"tls_key = '" + key + "'":           "go together",
		"tls_client_ca = '" + ca.File + "'": "go together",
		"tls_cert = '" + cert +
			"'\ntls_key = '/no/such'": ":2: tls_cert and tls_key go together: open /no/such",
		"tls_cert = '" + cert + "'\ntls_key = '" + otherKey +
			"'": "private key does not match",
		"tls_cert = '" + cert + "'\ntls_key = '" + key + "'\ntls_client_ca = '" + empty +
			"'": ":4: tls_client_ca in [core]: there is no certificate in " + empty,
		"tls_cert = '" + cert + "'\ntls_key = '" + key +
			"'\ntls_client_ca = '/no/such'": ":4: tls_client_ca in [core]: open /no/such",
		"socket_mode = 'rw'":   `:2: socket_mode in [core]: wants a mode like "0660"`,
		"socket_mode = '1777'": "wants a mode",
	} {
		path := WriteFile(t, "bad.toml", WithCore(ServerConfig("http://127.0.0.1:1"), lines))
		if code, _, stderr := RunProgram(t, "", nil, "slackboard", "-t", "-c", path); code != 1 ||
			!strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s", lines, code, stderr)
		}
	}
}
