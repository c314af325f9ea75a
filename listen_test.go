package main

// Where the server listens: few file descriptors, and two that start at once.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// withFiles runs a program with so many file descriptors.
func withFiles(files int, program string, args ...string) *exec.Cmd {
	script := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)
	return exec.Command("sh", append([]string{"-c", script, program}, args...)...)
}

// With 30 file descriptors, all messages of 40 destinations are accepted while Slack answers none, and delivered when it
// does. Then most descriptors are free.
func TestFewFileDescriptors(t *testing.T) {
	answer := make(chan struct{})
	slack := e2e.NewFakeSlack(t, func(e2e.Delivery) e2e.Reply { <-answer; return e2e.Reply{} })
	tags := tagNames("t", 40)
	config := spoolConfig(filepath.Join(t.TempDir(), "spool")) + tagConfig(slack.URL+"/services/x", tags...)
	s := e2e.StartServerIn(t, withFiles(30, e2e.Program("slackboard"), "-c", e2e.WriteFile(t, "s.toml", config)))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: e2e.Patience}
	var all sync.WaitGroup
	for _, tag := range tags {
		all.Go(func() {
			resp, err := client.Post("http://"+s.Addr+"/notify", "", strings.NewReader(notifyBody(tag, 1, false)))
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %v %v", tag, resp, err)
			}
		})
	}
	all.Wait()
	close(answer)
	drained(t, s)
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid)); err == nil && len(files) > 25 {
		t.Errorf("%d of 30 file descriptors are in use by an idle server", len(files))
	}
	if strings.Contains(s.Stderr.String(), "too many open files") {
		t.Errorf("the log says %s", s.Stderr.String())
	}
}

func TestLimits(t *testing.T) {
	for _, test := range []struct{ files, connections, posts int }{
		{0, 4, 4}, {30, 6, 4}, {64, 32, 6}, {256, 128, 30}, {1024, 512, maxPosts}, {65536, maxConnections, maxPosts},
	} {
		if connections, posts := share(test.files); connections != test.connections || posts != test.posts {
			t.Errorf("%d files: %d connections, %d posts", test.files, connections, posts)
		}
	}
}

// Idle connections are closed for new ones: clients that keep theirs keep out nobody.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	p := newInProcess(t, dryRunConfig(), &recorder{})
	web := newWebServer(p.server, 4, t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go web.Serve(l)
	defer web.Close()
	for range 12 {
		client := http.Client{Transport: &http.Transport{}, Timeout: e2e.Patience}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://" + l.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// A connection that waits for its turn does not hold up a stop.
func TestStopWhileConnectionsWait(t *testing.T) {
	p := newInProcess(t, dryRunConfig(), &recorder{})
	stop, cancel := context.WithCancel(t.Context())
	defer cancel()
	web := newWebServer(p.server, 1, stop)
	var begun atomic.Int64
	limit := web.ConnState
	web.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew {
			begun.Add(1)
		}
		limit(conn, state)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go web.Serve(l)
	defer web.Close()
	for range 2 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\n")
	}
	e2e.Poll(t, "the second connection waits", func() bool { return begun.Load() == 2 })
	cancel()
	enough, done := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer done()
	start := time.Now()
	web.Shutdown(enough)
	if took := time.Since(start); took > web.ReadHeaderTimeout/2 {
		t.Errorf("it took %v", took)
	}
}

// scriptedListener fails as errs say, then accepts.
type scriptedListener struct {
	net.Listener
	errs []error
}

func (l *scriptedListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return &net.TCPConn{}, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	if err == nil {
		return &net.TCPConn{}, nil
	}
	return nil, err
}

// Accepting that fails is an error in the log, once until it works again.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log e2e.Buffer
		l := &scriptedListener{errs: []error{syscall.EMFILE, syscall.EMFILE, nil, syscall.ENOBUFS, nil, net.ErrClosed}}
		d := &door{Listener: l, cfg: dryRunConfig, log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 2 {
			if _, err := d.Accept(); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.Accept(); err != net.ErrClosed {
			t.Errorf("got %v", err)
		}
		for text, want := range map[string]int{"no connection can": 2, "accepted again": 2, "too many open files": 1} {
			if got := strings.Count(log.String(), text); got != want {
				t.Errorf("the log says %q %d times, want %d: %s", text, got, want, log.String())
			}
		}
	})
}

// staleSocket leaves a socket as a dead server does.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

// Two servers start at once on one socket, where a dead one left its own: one of them serves, the other says why not.
func TestTwoStartsAtOnce(t *testing.T) {
	for _, test := range []struct{ name, first, second, want string }{
		{"one spool", "spool", "spool", "spool is in use by another process"},
		{"two spools", "spool", "other", "a running server listens there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range rounds(50, 5) {
				dir := t.TempDir()
				socket := filepath.Join(dir, "s")
				staleSocket(t, socket)
				var two []*e2e.Process
				for _, spool := range []string{test.first, test.second} {
					config := fmt.Sprintf("[core]\nport='unix:%s'\nslack_url='http://127.0.0.1:1/'\n[spool]\ndir='%s'\n",
						socket, filepath.Join(dir, spool))
					cmd := exec.Command(e2e.Program("slackboard"), "-c", e2e.WriteFile(t, "s.toml", config))
					two = append(two, e2e.StartProcess(t, cmd))
				}
				server, other := two[0], two[1]
				select {
				case <-server.Ended:
					server, other = other, server
				case <-other.Ended:
				case <-time.After(e2e.Patience):
					t.Fatalf("both run: %s, %s", server.Stderr.String(), other.Stderr.String())
				}
				if code := other.Wait(); code != 1 || !strings.Contains(other.Stderr.String(), test.want) {
					t.Errorf("exit %d: %s", code, other.Stderr.String())
				}
				server.Addr = socket
				server.IsAlive()
				server.Signal(syscall.SIGTERM)
				if code := server.Wait(); code != 0 {
					t.Errorf("exit %d: %s", code, server.Stderr.String())
				}
			}
		})
	}
}

// Of several servers that start at once, one listens: they take turns at the folder of the socket.
func TestOneListens(t *testing.T) {
	dir := t.TempDir()
	staleSocket(t, filepath.Join(dir, "s"))
	var opened atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if l, err := listenUnix(filepath.Join(dir, "s"), "0600"); err == nil {
				opened.Add(1)
				t.Cleanup(func() { l.Close() })
			}
		})
	}
	all.Wait()
	if opened.Load() != 1 {
		t.Errorf("%d listen on one socket", opened.Load())
	}
}
