package main

// Where the server listens: limits on connections, sockets, and reports to systemd.

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
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

// However many files the process may open, there are at least four connections and four posts. Neither number is above
// its maximum.
func TestLimits(t *testing.T) {
	for _, test := range []struct{ files, connections, posts int }{
		{0, 4, 4}, {30, 6, 4}, {64, 32, 6}, {256, 128, 30}, {1024, 512, maxPosts}, {65536, maxConnections, maxPosts},
	} {
		if connections, posts := shareFiles(test.files); connections != test.connections || posts != test.posts {
			t.Errorf("%d files: got %d connections and %d posts", test.files, connections, posts)
		}
	}
}

// If all connections are in use, idle ones are closed for new ones: clients that keep their connections open do not
// keep others out.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
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

// A connection that waits because all others are in use does not delay a stop.
func TestStopWhileConnectionsWait(t *testing.T) {
	t.Parallel()
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
		t.Errorf("Shutdown took %v, want much less than ReadHeaderTimeout", took)
	}
}

// scriptedListener returns the errors of errs, one for each call of Accept. For nil, and after the last error, it
// returns a connection.
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

// If no connection can be accepted, Accept tries again until one can, and logs one error. After a success, the next
// failure is logged again. A listener that is closed ends Accept.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log e2e.Buffer
		l := &scriptedListener{errs: []error{syscall.EMFILE, syscall.EMFILE, nil, syscall.ENOBUFS, nil, net.ErrClosed}}
		d := &listener{Listener: l, cfg: dryRunConfig, log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 2 {
			if _, err := d.Accept(); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.Accept(); err != net.ErrClosed {
			t.Errorf("after the listener is closed: got %v, want net.ErrClosed", err)
		}
		for text, want := range map[string]int{"no connection can": 2, "too many open files": 1} {
			if got := strings.Count(log.String(), text); got != want {
				t.Errorf("the log says %q %d times, want %d: %s", text, got, want, log.String())
			}
		}
	})
}

// If several servers start at once on a unix socket that a dead server has left, exactly one of them listens: they
// take turns, by a lock on the folder.
func TestOneListens(t *testing.T) {
	dir := t.TempDir()
	e2e.StaleSocket(t, filepath.Join(dir, "s"))
	var opened atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if l, err := listenAt("unix", filepath.Join(dir, "s"), "0600"); err == nil {
				opened.Add(1)
				t.Cleanup(func() { l.Close() })
			}
		})
	}
	all.Wait()
	if opened.Load() != 1 {
		t.Errorf("%d servers listen on one socket, want 1", opened.Load())
	}
}

// core.port may be a PORT, HOST:PORT or unix:/path.
func TestParsePort(t *testing.T) {
	for port, want := range map[string]string{"29800": ":29800", "unix:/a/b": "/a/b", "[::1]:1": "[::1]:1"} {
		if _, address, err := parsePort(port); err != nil || address != want {
			t.Errorf("port %s: %s, %v", port, address, err)
		}
	}
}

// Whatever a value contains, it cannot begin another assignment: each assignment is one line of at most 500 characters.
// If the service manager does not read, tellSystemd does not block for good.
func TestTellsSystemdOneLine(t *testing.T) {
	manager := e2e.NewServiceManager(t)
	t.Setenv("NOTIFY_SOCKET", manager.Socket)
	tellSystemd("READY=1", "STATUS=#a\nMAINPID=1\r\x00\u2028\u202eb\xff ok ✓")
	manager.Next(`^READY=1\nSTATUS=#a MAINPID=1  \x{202e}b\x{fffd} ok ✓$`)
	tellSystemd("STATUS=" + strings.Repeat("ü", 5000))
	manager.Next(`^STATUS=ü{493}$`)

	start := time.Now()
	for range 1000 {
		if tellSystemd("STATUS=nobody reads this"); time.Since(start) > time.Second {
			break
		}
	}
	t.Logf("a full queue took %v", time.Since(start))
}
