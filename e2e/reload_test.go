package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// reloadable is a server whose configuration changes.
type reloadable struct {
	*Process
	t    *testing.T
	path string // of the configuration
}

// reload writes toml into the configuration's file, and returns when the server uses it. The test fails if the server
// refuses it or ends.
func (r *reloadable) reload(toml string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(toml), 0o600); err != nil {
		r.t.Fatal(err)
	}
	before := strings.Count(r.Stderr.String(), "configuration reloaded")
	r.Signal(syscall.SIGHUP)
	Poll(r.t, "the configuration is read again", func() bool {
		select {
		case <-r.Ended:
			r.t.Fatalf("the server has ended: %.20000s", r.Stderr.String())
		default:
		}
		return strings.Count(r.Stderr.String(), "configuration reloaded") > before
	})
}

// refuse writes toml into the configuration's file, and returns when the log has all faults: the server refuses it.
func (r *reloadable) refuse(toml string, faults ...string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(toml), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.Signal(syscall.SIGHUP)
	for _, fault := range faults {
		Poll(r.t, fault, func() bool { return strings.Contains(r.Stderr.String(), fault) })
	}
}

// newReloadable starts a server with the configuration toml.
func newReloadable(t *testing.T, toml string) *reloadable {
	s := StartServer(t, toml)
	return &reloadable{Process: s, t: t, path: s.Cmd.Args[len(s.Cmd.Args)-1]}
}

// A configuration with a fault is refused as a whole: the old one stays, and /metrics and /stat/app say that a reload
// was refused. A good one is taken as a whole. Keys that need a restart keep their old values, and the log says so.
func TestReloadOrNotAtAll(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	good := ServerConfig(slack.URL)
	s := newReloadable(t, good)
	s.refuse(strings.Replace(good, "tag = 'cron'", "tag = 'nightly'\nchanel = '#x'", 1)+"[log]\nlevel = 'loud'\n",
		s.path+`:10: unknown key \"chanel\"`, s.path+`:13: level in [log]`)
	if status, body := s.Request("POST", "/notify", NotifyBody("cron", 1, true)); status != 200 {
		t.Errorf("after a bad configuration: %d %s", status, body)
	}
	s.refuse(good+"[log]\naccess_log = '/no/such/folder/x'\n", "log.access_log: open /no/such/folder/x")
	if _, metrics := s.Request("GET", "/metrics", ""); !strings.Contains(metrics, "\nslackboard_reload_refused 1\n") ||
		!s.Stat(t).ReloadRefused {
		t.Error("/metrics or /stat/app does not say that the reload was refused")
	}
	s.reload(strings.NewReplacer("127.0.0.1:0", "127.0.0.1:1", "'cron'", "'nightly'").Replace(good) +
		"[spool]\ndir = 'other'\n")
	for _, want := range []string{"core.port has changed: restart the server",
		"spool.dir has changed: restart the server"} {
		if !strings.Contains(s.Stderr.String(), want) {
			t.Errorf("the log %s does not say %s", s.Stderr.String(), want)
		}
	}
	if s.Stat(t).ReloadRefused {
		t.Error("after a good reload, /stat/app still says that a reload was refused")
	}
	if status, body := s.Request("POST", "/notify", NotifyBody("nightly", 1, true)); status != 200 {
		t.Errorf("a new tag: %d %s", status, body)
	}
	if _, body := s.Request("GET", "/config/app", ""); !strings.Contains(body, `port = "127.0.0.1:0"`) ||
		!strings.Contains(body, `dir = "slackboard.spool"`) {
		t.Errorf("/config/app does not show the old port and the old spool.dir: %s", body)
	}
}

// A reload that is refused opens the log files again all the same: logrotate must not wait until somebody has corrected
// the configuration.
func TestRefusedReloadReopensLogs(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "access.log")
	good := ServerConfig("http://127.0.0.1:1") + "[log]\naccess_log = '" + log + "'\n"
	s := newReloadable(t, good)
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	s.refuse(good+"level = 'loud'\n", "the old configuration stays")
	s.Request("GET", "/healthz", "")
	Poll(t, "a line in the new file", func() bool { b, _ := os.ReadFile(log); return len(b) > 0 })
}

// A reload that hangs, here because it reads a secret from a pipe, does not keep the server from stopping.
func TestReloadThatHangs(t *testing.T) {
	t.Parallel()
	good := ServerConfig("http://127.0.0.1:1")
	s := newReloadable(t, good)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path, []byte(good+"slack_token = 'file:"+pipe+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Signal(syscall.SIGHUP)
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the server reads
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
}

// Reloads under load that change the credential, the certificate and the log files: no message is lost, doubled or
// refused, no connection is dropped, and each request has one line in one of the access logs.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const senders = 8
	reloads := 40
	if Long() {
		reloads = 150
	}
	slack := NewFakeSlack(t, nil)
	ca, pool, dir := NewAuthority(t), x509.NewCertPool(), t.TempDir()
	pool.AddCert(ca.Cert)
	log := filepath.Join(dir, "access.log")
	var configs []string
	for i := range 2 {
		cert, key := ca.Files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		configs = append(configs, strings.Replace(ServerConfig(fmt.Sprintf("%s/%d", slack.URL, i)), "[core]",
			fmt.Sprintf("[core]\nbatch = 1\nauth_token = 'T'\ntls_cert = '%s'\ntls_key = '%s'", cert, key),
			1)+"[log]\naccess_log = '"+log+"'\n")
	}
	s := newReloadable(t, configs[0])
	var requests, dropped, refused atomic.Int64
	var stopped atomic.Bool
	var all sync.WaitGroup
	for sender := range senders {
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool},
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				conn, err := net.Dial(network, addr)
				return watchedConn{conn, func() {
					if !stopped.Load() {
						dropped.Add(1)
					}
				}}, err
			},
		}}
		all.Go(func() {
			for n := 0; !stopped.Load(); n++ {
				req, _ := http.NewRequest("POST", "https://"+s.Addr+"/notify",
					strings.NewReader(NotifyBody("general", sender*1_000_000+n, false)))
				req.Header.Set("Authorization", "Bearer T")
				resp, err := client.Do(req)
				requests.Add(1)
				if err != nil {
					refused.Add(1)
					t.Errorf("sender %d: %v", sender, err)
					return
				}
				if body := ReadAll(resp.Body); resp.StatusCode != 200 {
					refused.Add(1)
					t.Errorf("sender %d: %d %s", sender, resp.StatusCode, body)
				}
				resp.Body.Close()
			}
		})
	}
	for i := range reloads {
		if err := os.Rename(log, fmt.Sprintf("%s.%d", log, i)); err != nil {
			t.Fatal(err)
		}
		s.reload(configs[(i+1)%2])
	}
	stopped.Store(true)
	all.Wait()
	if t.Failed() {
		t.Fatalf("the server says %.20000s", s.Stderr.String())
	}
	want := int(requests.Load() - refused.Load())
	posts := slack.WaitForPosts(t, want)
	arrived := map[string]int{}
	generations := map[string]int{}
	for _, d := range posts {
		arrived[d.Field("text")]++
		generations[d.Path]++
	}
	if len(arrived) != want || len(posts) != want || dropped.Load() != 0 || len(generations) != 2 {
		t.Errorf("%d accepted, %d connections dropped; %d posts of %d messages, by path: %v", want, dropped.Load(),
			len(posts), len(arrived), generations)
	}
	lines := 0
	files, _ := filepath.Glob(log + "*")
	for _, file := range files {
		lines += bytes.Count([]byte(ReadFile(t, file)), []byte("\n"))
	}
	if lines != want || len(files) != reloads+1 {
		t.Errorf("%d lines in %d access logs, want %d in %d", lines, len(files), want, reloads+1)
	}
	t.Logf("%d messages, %d reloads, %v", want, reloads, generations)
}

// watchedConn calls ended when a read fails, as it does when the other side has closed the connection.
type watchedConn struct {
	net.Conn
	ended func()
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.ended()
	}
	return n, err
}

// After a reload, a new token holds for the next request, and a change between plain HTTP and TLS for the next
// connection.
func TestReloadOfWhoMayPost(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
	ca := NewAuthority(t)
	cert, key := ca.Files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	good := ServerConfig(slack.URL)
	token := WriteFile(t, "token", "one\n")
	with := func(lines string) string { return strings.Replace(good, "[core]", "[core]\n"+lines, 1) }
	s := newReloadable(t, good)
	send := func(flags ...string) int {
		code, _, _ := RunProgram(t, "hi", nil, "slackboard-cli", append(flags, "-t", "general", "-retry-max", "0")...)
		return code
	}
	expect := func(what string, code int, flags ...string) {
		t.Helper()
		if got := send(flags...); got != code {
			t.Errorf("%s: exit %d, want %d", what, got, code)
		}
	}
	expect("open", 0, "-s", s.Addr)
	s.reload(with("auth_token = 'file:" + token + "'"))
	expect("no token", 1, "-s", s.Addr)
	expect("the token", 0, "-s", s.Addr, "-auth", "one")
	if err := os.WriteFile(token, []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.reload(with("auth_token = 'file:" + token + "'"))
	expect("the old token", 1, "-s", s.Addr, "-auth", "one")
	expect("the new token", 0, "-s", s.Addr, "-auth", "two")
	s.reload(with(fmt.Sprintf("tls_cert = '%s'\ntls_key = '%s'", cert, key)))
	expect("plain to TLS", 1, "-s", s.Addr)
	expect("TLS", 0, "-s", "https://"+s.Addr, "-cacert", ca.File)
	s.reload(good)
	expect("plain again", 0, "-s", s.Addr)
}
