package e2e

import (
	"bufio"
	"cmp"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// The main job with real input: lines of a log arrive at Slack, and so does the report of a command that fails.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, ServerConfig(slack.URL))
	env := []string{"SLACKBOARD_SERVER=" + s.Addr}
	log, err := os.Open("testdata/app.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n := 0
	for lines := bufio.NewScanner(log); lines.Scan(); n++ {
		code, _, stderr := RunProgram(t, lines.Text(), env, "slackboard-cli", "-t", "general", "-l",
			"warn")
		if code != 0 {
			t.Fatalf("slackboard-cli: %d %s", code, stderr)
		}
		d := slack.WaitForPosts(t, n+1)[n]
		if !strings.Contains(d.Body, Encode(lines.Text())) || !strings.Contains(d.Body, "#ffdd00") {
			t.Errorf("line %q arrived as %s", lines.Text(), d.Body)
		}
	}
	if n < 10 {
		t.Fatalf("testdata/app.log has only %d lines, want 10 at least", n)
	}
	code, _, stderr := RunProgram(t, "", env, "slackboard-log", "-t", "cron", "--", "sh", "-c",
		"echo to stdout; echo to stderr >&2; exit 7")
	if code != 7 || !strings.Contains(stderr, "to stdout") {
		t.Errorf("slackboard-log: exit %d, want 7; %s", code, stderr)
	}
	d := slack.WaitForPosts(t, n+1)[n]
	for _, want := range []string{`"channel":"#cron"`, "#ff0000", "Host: ", "Command: sh -c", "to stdout", "to stderr",
		"Error: exit status 7"} {
		if !strings.Contains(d.Body, want) {
			t.Errorf("the report has no %q: %s", want, d.Body)
		}
	}
	code, stdout, stderr := RunProgram(t, "", env, "slackboard-log", "-t", "cron", "--", "sh", "-c",
		"echo fine")
	if code != 0 || stdout+stderr != "" {
		t.Errorf("a command that succeeds: exit %d, %q %q", code, stdout, stderr)
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 || len(slack.Deliveries()) != n+1 {
		t.Errorf("exit %d, %d posts, want 0, %d", code, len(slack.Deliveries()), n+1)
	}
}

// Requests as curl -d, Ruby's Net::HTTP and the fluentd plugin send them are accepted, although their Content-Type is
// not that of JSON.
func TestForeignClients(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, ServerConfig(slack.URL))
	notify, direct := `{"tag":"general","text":"hi"}`, `{"payload":{"channel":"#c","text":"hi"},"sync":false}`
	for i, raw := range []string{
		fmt.Sprintf("POST /notify HTTP/1.1\r\nHost: %s\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Length: "+
			"%d\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n%s", s.Addr, len(notify), notify),
		fmt.Sprintf("POST /notify-directly HTTP/1.1\r\nAccept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3\r\n"+
			"Accept: */*\r\nUser-Agent: Ruby\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
			"Connection: close\r\nContent-Length: %d\r\n\r\n%s", s.Addr, len(direct), direct),
		fmt.Sprintf("POST //notify HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(notify), notify),
		fmt.Sprintf("POST /notify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
			len(notify), notify),
	} {
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, raw)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("request %d: %v %v", i, resp, err)
		}
		slack.WaitForPosts(t, i+1)
	}
}

// A dry run without a configuration listens on port 29800 of this host and knows three tags. It prints each post as a
// line of JSON on standard output, and writes its logs to standard error.
func TestDryRun(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "127.0.0.1:29800")
	if err != nil {
		t.Skip("skipped: port 29800 is in use here:", err)
	}
	probe.Close()
	s := StartServerIn(t, exec.Command(Program("slackboard"), "-dry-run"))
	if s.Addr != "127.0.0.1:29800" {
		t.Errorf("listens on %s, want 127.0.0.1:29800", s.Addr)
	}
	for _, tag := range []string{"general", "random", "test"} {
		if status, body := s.Request("POST", "/notify", NotifyBody(tag, 1, true)); status != 200 {
			t.Errorf("%s: %d %s", tag, status, body)
		}
	}
	s.Request("POST", "/notify-directly", `{"payload":{"text":"a\nb"},"sync":true}`)
	want := `{"channel":"#general","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"1"}
{"channel":"#random","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"1"}
{"channel":"#test","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"1"}
{"icon_emoji":":clipboard:","parse":"full","text":"a\nb","username":"slackboard"}
`
	Poll(t, "the access log is on standard error", func() bool {
		return strings.Contains(s.Stderr.String(), `"uri":"/notify-directly"`)
	})
	Poll(t, "standard output is "+want, func() bool { return s.Stdout.String() == want })
}

// A dry run also works with a configuration that has no credential.
func TestDryRunWithConfig(t *testing.T) {
	t.Parallel()
	s := StartServer(t, "[core]\nport='127.0.0.1:0'\n[[tags]]\ntag='x'\nchannel='#y'\n", "-dry-run")
	s.Request("POST", "/notify", NotifyBody("x", 1, true))
	Poll(t, "the post is printed", func() bool { return strings.Contains(s.Stdout.String(), `"channel":"#y"`) })
}

// -port takes precedence over the configuration's port, also after a reload. If the port of a dry run is in use, the
// error says how to choose another one.
func TestPortFlag(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	code, _, stderr := RunProgram(t, "", nil, "slackboard", "-dry-run", "-port", busy.Addr().String())
	want := "slackboard: listen tcp " + busy.Addr().String() +
		": bind: address already in use: choose another one, as with -port 127.0.0.1:0 for any that is free\n"
	if code != 1 || stderr != want {
		t.Errorf("exit %d, %q, want %q", code, stderr, want)
	}
	config := strings.Replace(ServerConfig("http://127.0.0.1:1"), "127.0.0.1:0", busy.Addr().String(), 1)
	s := StartServer(t, config, "-port", "127.0.0.1:0")
	s.Signal(syscall.SIGHUP)
	Poll(t, "the configuration is read again", func() bool {
		return strings.Contains(s.Stderr.String(), "configuration reloaded")
	})
	if strings.Contains(s.Stderr.String(), "restart the server") {
		t.Errorf("with -port, the log must not ask for a restart: %s", s.Stderr.String())
	}
	path := WriteFile(t, "s.toml", config)
	if code, _, stderr := RunProgram(t, "", nil, "slackboard", "-health", "-c", path, "-port", s.Addr); code != 0 {
		t.Errorf("-health: exit %d, %s", code, stderr)
	}
}

// All three programs print the same version, and which Go and which system they are built for.
func TestVersion(t *testing.T) {
	t.Parallel()
	var release string
	for _, name := range []string{"slackboard", "slackboard-cli", "slackboard-log"} {
		code, stdout, stderr := RunProgram(t, "", nil, name, "-v")
		if want := name + " 1."; code != 0 || stderr != "" || !strings.HasPrefix(stdout, want) ||
			!strings.HasSuffix(stdout, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH+"\n") {
			t.Errorf("%s: exit %d, %q %q", name, code, stdout, stderr)
		}
		number, _, _ := strings.Cut(strings.Fields(stdout)[1], "+")
		if release = cmp.Or(release, number); number != release {
			t.Errorf("%s is version %s, another program %s", name, number, release)
		}
	}
	_, want, _ := RunProgram(t, "", nil, "slackboard", "-v")
	for _, arg := range []string{"-version", "--version"} {
		if code, stdout, stderr := RunProgram(t, "", nil, "slackboard", arg); code != 0 || stderr != "" ||
			stdout != want {
			t.Errorf("slackboard %s: exit %d, %q %q", arg, code, stdout, stderr)
		}
	}
}

// A wrong command line is one line of error and exit status 2. -h prints the usage on standard output.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "slackboard: no configuration: give one with -c FILE, or try it without Slack: slackboard -dry-run\n"},
		{"-t", 2, "slackboard: no configuration"},
		{"-dry-run x", 2, `slackboard: unexpected argument "x"`},
		{"-nope", 2, "slackboard: flag provided but not defined: -nope: see slackboard -h\n"},
		{"-t=maybe", 2, `slackboard: invalid boolean value "maybe" for -t`},
		{"-c", 2, "slackboard: flag needs an argument: -c: see slackboard -h\n"},
		{"-dry-run -port x", 2,
			`slackboard: invalid value "x" for flag -port: "x" is not PORT, HOST:PORT or unix:/path`},
		{"-c /no/such/file", 1, "slackboard: -c: open /no/such/file: no such file or directory\n"},
	} {
		code, stdout, stderr := RunProgram(t, "", nil, "slackboard", strings.Fields(test.args)...)
		if code != test.code || stdout != "" || !strings.HasPrefix(stderr, test.want) ||
			strings.Count(stderr, "\n") != 1 {
			t.Errorf("slackboard %s: exit %d, %q %q; want %d, %q", test.args, code, stdout, stderr, test.code,
				test.want)
		}
	}
	for _, arg := range []string{"-h", "-help", "--help"} {
		code, stdout, stderr := RunProgram(t, "", nil, "slackboard", arg)
		if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "slackboard is ") ||
			!strings.Contains(stdout, "  -dry-run\n") {
			t.Errorf("slackboard %s: exit %d, %q %q", arg, code, stdout, stderr)
		}
	}
}

// -t checks a configuration and starts nothing. It prints that the file is ok, with warnings on standard error, or
// exits with 1 and prints each fault.
func TestCheckOption(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "never.log")
	good := WriteFile(t, "good.toml", ServerConfig("https://hooks.invalid")+"[log]\naccess_log='"+log+"'\n")
	if err := os.Chmod(good, 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := RunProgram(t, "", nil, "slackboard", "-t", "-c", good)
	if code != 0 || stdout != good+": ok\n" || !strings.HasPrefix(stderr, good+" holds a secret") {
		t.Errorf("exit %d, %q %q", code, stdout, stderr)
	}
	if _, err := os.Stat(log); err == nil {
		t.Errorf("-t has made the log file")
	}
	bad := WriteFile(t, "bad.toml", "[core]\nfoo = 1\nqps = 'x'\n")
	code, stdout, stderr = RunProgram(t, "", nil, "slackboard", "-t", "-c", bad)
	if code != 1 || stdout != "" || strings.Count(stderr, bad+":") != 3 {
		t.Errorf("exit %d, %q %q", code, stdout, stderr)
	}
}

// If the server cannot start, it exits with 1 and says why, in one line.
func TestStartFails(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dir := t.TempDir()
	for _, test := range []struct{ name, toml, want string }{
		{"port busy", fmt.Sprintf("port='%s'", busy.Addr()), "slackboard: listen tcp " + busy.Addr().String() +
			": bind: address already in use\n"},
		{"not a socket", fmt.Sprintf("port='unix:%s'", WriteFile(t, "plain", "")), "slackboard: listen unix "},
		{"no folder", fmt.Sprintf("port='unix:%s/no/s'", dir), "slackboard: listen unix "},
		{"error log", fmt.Sprintf("port='127.0.0.1:0'\n[log]\nerror_log='%s'", dir),
			"slackboard: log.error_log: open " + dir + ": is a directory\n"},
		{"access log", fmt.Sprintf("port='127.0.0.1:0'\n[log]\naccess_log='%s/no/x'", dir),
			"slackboard: log.access_log: open " + dir + "/no/x: no such file or directory\n"},
	} {
		code, stdout, stderr := RunProgram(t, "", nil, "slackboard", "-c",
			WriteFile(t, "s.toml", "[spool]\ndir='"+filepath.Join(t.TempDir(), "spool")+
				"'\n[core]\nslack_url='http://127.0.0.1:1/'\n"+test.toml))
		if code != 1 || stdout != "" || !strings.HasPrefix(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q %q; want %q", test.name, code, stdout, stderr, test.want)
		}
	}
	t.Run("no permission", func(t *testing.T) {
		if os.Getuid() != 0 || runtime.GOOS != "linux" {
			t.Skip("skipped: needs root on Linux, to start the server without it")
		}
		cmd := exec.Command(Program("slackboard"), "-c", WriteFile(t, "s.toml", ""))
		// An unprivileged user may read neither the test's folder nor the configuration in it.
		cmd.SysProcAttr = AsNobody()
		os.Chmod(Binaries(), 0o755)
		p := StartProcess(t, cmd)
		if code := p.Wait(); code != 1 || !strings.HasSuffix(p.Stderr.String(), ": permission denied\n") {
			t.Errorf("exit %d, %q", code, p.Stderr.String())
		}
	})
}

// A port may be a number, with or without quotes, or be given with an IPv4 or IPv6 address.
func TestPortForms(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ port, prefix string }{
		{`"0"`, "[::]:"}, {`0`, "[::]:"}, {`"127.0.0.1:0"`, "127.0.0.1:"}, {`"[::1]:0"`, "[::1]:"},
	} {
		if test.prefix[0] == '[' {
			if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
				t.Logf("skipped: no IPv6 here for port %s", test.port)
				continue
			} else {
				l.Close()
			}
		}
		s := StartServer(t, "[core]\nport="+test.port+"\nslack_url='http://127.0.0.1:1/'\n[log]\nlevel='panic'\n")
		if !strings.HasPrefix(s.Addr, test.prefix) || strings.HasSuffix(s.Addr, ":0") {
			t.Errorf("port %s: listens on %s", test.port, s.Addr)
		}
	}
}

// A server can listen on a unix socket. It does not take over the socket of a running server, but replaces one that a
// dead server has left. It removes its socket when it stops. A message without a host that comes over the socket is of
// this host.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	socket := filepath.Join(t.TempDir(), "s")
	config := strings.Replace(ServerConfig(slack.URL), "127.0.0.1:0", "unix:"+socket, 1)
	first := StartServer(t, config)
	other := config + "[spool]\ndir='" + filepath.Join(t.TempDir(), "spool") + "'\n"
	code, _, stderr := RunProgram(t, "", nil, "slackboard", "-c", WriteFile(t, "s.toml", other))
	if code != 1 || !strings.Contains(stderr, "address already in use") {
		t.Errorf("a second server: exit %d, %s", code, stderr)
	}
	first.Kill() // leaves its socket behind
	second := StartServer(t, config)
	code, _, stderr = RunProgram(t, "hi", nil, "slackboard-cli", "-s", "unix:"+socket, "-t", "general", "-title",
		"T", "-sync")
	if code != 0 {
		t.Errorf("slackboard-cli: exit %d, %s", code, stderr)
	}
	host, _ := os.Hostname()
	if d := slack.WaitForPosts(t, 1)[0]; !strings.Contains(d.Body, `"footer":"`+host+`"`) {
		t.Errorf("from slackboard-cli, want this host in the footer: %s", d.Body)
	}
	second.Request("POST", "/notify", `{"tag":"general","title":"no host"}`)
	if d := slack.WaitForPosts(t, 2)[1]; !strings.Contains(d.Body, `"footer":"`+host+`"`) {
		t.Errorf("from a request without a host, want this host in the footer: %s", d.Body)
	}
	second.Signal(syscall.SIGTERM)
	second.Wait()
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left behind")
	}
}

// Two hundred clients that stop in the middle of their requests do not keep the server from serving another one.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, ServerConfig(slack.URL))
	for range 200 {
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST /notify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	}
	if status, body := s.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 200 {
		t.Errorf("another client: got %d %s, want 200", status, body)
	}
}

// After a SIGTERM, new connections are refused, and the request that is in hand is answered.
func TestStopAnswersRequestsInHand(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slack := NewFakeSlack(t, func(Delivery) Reply { <-release; return Reply{} })
	s := StartServer(t, ServerConfig(slack.URL))
	answered := make(chan int)
	go func() {
		status, _ := s.Request("POST", "/notify", NotifyBody("general", 1, true))
		answered <- status
	}()
	Poll(t, "the post begins", func() bool { return slack.Begun() > 0 })
	s.Signal(syscall.SIGTERM)
	Poll(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if status := <-answered; status != 200 {
		t.Errorf("the request in hand got %d, want 200", status)
	}
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
}

// A second SIGTERM ends the server at once, even if a post is in flight, and not with exit status 0.
func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, func(Delivery) Reply { return Reply{Hang: true} })
	s := StartServer(t, ServerConfig(slack.URL))
	s.Request("POST", "/notify", NotifyBody("general", 1, false))
	slack.WaitForPosts(t, 1)
	s.Signal(syscall.SIGTERM)
	Poll(t, "the server is stopping", func() bool { return strings.Contains(s.Stderr.String(), "stopping") })
	s.Signal(syscall.SIGTERM)
	if s.Wait(); s.Cmd.ProcessState.Success() {
		t.Errorf("exit 0, although a message is not delivered")
	}
}

// After a SIGTERM, messages that wait stay on disk, and the next server delivers them.
func TestWhatWaitsStays(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, func(Delivery) Reply { return Reply{Status: 503} })
	config := ServerConfig(slack.URL) + "[spool]\ndir='" + filepath.Join(t.TempDir(), "spool") + "'\n"
	s := StartServer(t, config)
	for i := range 3 {
		s.Request("POST", "/notify", NotifyBody("general", i, false))
	}
	n := len(slack.WaitForPosts(t, 1))
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 || !strings.Contains(s.Stderr.String(), "waiting=3") {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
	slack.SetScript(nil)
	s = StartServer(t, config)
	Poll(t, "all three are delivered", func() bool { return s.Stat(t).Delivered == 3 })
	if st := s.Stat(t); st.FoundAtStart != 3 || st.Accepted != 0 {
		t.Errorf("counters: %+v", st)
	}
	if n < 1 {
		t.Error("no message was tried before the SIGTERM")
	}
}

// If the spool's folder cannot be used, the error names the key to set. Without that key, the spool is in the first
// folder of $STATE_DIRECTORY.
func TestSpoolThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	plain := WriteFile(t, "plain", "")
	for _, dir := range []string{plain, plain + "/below"} {
		code, _, stderr := RunProgram(t, "", nil, "slackboard", "-c",
			WriteFile(t, "s.toml", ServerConfig("http://127.0.0.1:1")+"[spool]\ndir='"+dir+"'\n"))
		if code != 1 || !strings.HasPrefix(stderr, "slackboard: spool.dir: ") ||
			!strings.Contains(stderr, "set dir in [spool]") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", dir, code, stderr)
		}
	}
	state := t.TempDir()
	cmd := exec.Command(Program("slackboard"), "-c", WriteFile(t, "s.toml", ServerConfig("http://127.0.0.1:1")))
	cmd.Env = append(os.Environ(), "STATE_DIRECTORY="+state+":/elsewhere")
	StartServerIn(t, cmd)
	if _, err := os.Stat(filepath.Join(state, "lock")); err != nil {
		t.Errorf("the spool is not in $STATE_DIRECTORY: %v", err)
	}
}

// Posts to Slack obey HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.
func TestProxyAndCertificates(t *testing.T) {
	t.Parallel()
	var posted atomic.Int64
	slack := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posted.Add(1)
		io.WriteString(w, "ok")
	}))
	defer slack.Close()
	tunnels := make(chan string, 9)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels <- r.Method + " " + r.Host
		there, err := net.Dial("tcp", slack.Listener.Addr().String())
		if err != nil {
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		// The answer is written after Hijack: otherwise net/http might read what the client sends through the tunnel.
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(there, here); there.Close() }()
		io.Copy(here, there)
		here.Close()
	}))
	defer proxy.Close()
	certificate := WriteFile(t, "cert.pem",
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: slack.Certificate().Raw})))
	start := func(env ...string) *Process {
		path := WriteFile(t, "s.toml", ServerConfig("https://example.com")) // the name in the test server's certificate
		cmd := exec.Command(Program("slackboard"), "-c", path)
		cmd.Dir, cmd.Env = filepath.Dir(path), append(os.Environ(), env...)
		return StartServerIn(t, cmd)
	}
	s := start("HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "SSL_CERT_FILE="+certificate, "SSL_CERT_DIR=/nowhere")
	if status, body := s.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 200 ||
		posted.Load() != 1 {
		t.Errorf("through the proxy: got %d %s and %d posts, want 200 and 1", status, body, posted.Load())
	}
	if got := <-tunnels; got != "CONNECT example.com:443" {
		t.Errorf("the proxy was asked %s", got)
	}
	s = start("HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere")
	if status, body := s.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 502 ||
		!strings.Contains(body, "x509") {
		t.Errorf("without the certificate: %d %s", status, body)
	}
	<-tunnels
	s = start("HTTPS_PROXY="+proxy.URL, "NO_PROXY=example.com", "SSL_CERT_FILE="+certificate)
	if status, body := s.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 502 ||
		len(tunnels) != 0 {
		t.Errorf("with NO_PROXY: %d %s, %d tunnels", status, body, len(tunnels))
	}
}
