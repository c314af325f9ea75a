package main

// The logs: nothing that they are written to can stop the server.

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// gate is a file that takes nothing until it is open.
type gate struct {
	e2e.Buffer
	open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(p)
}

// What a file does not take waits up to a limit. Beyond it lines are lost and counted; the others come, in order.
func TestLogLosesLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		l := newLogs(&e2e.Buffer{}, g, false)
		line := strings.Repeat("x", 1023) + "\n"
		fmt.Fprint(&l.errors, "first\n")
		synctest.Wait() // it is being written
		for range outputRoom/len(line) + 5 {
			fmt.Fprint(&l.errors, line)
		}
		if got := l.dropped(); got != 5 {
			t.Errorf("%d lines dropped, want 5", got)
		}
		close(g.open)
		synctest.Wait()
		fmt.Fprint(&l.errors, "last\n")
		synctest.Wait()
		if want := "first\n" + strings.Repeat(line, outputRoom/len(line)) + "last\n"; g.String() != want {
			t.Errorf("%d bytes came, want %d", len(g.String()), len(want))
		}
		if _, err := l.stdout.Write(make([]byte, 3*outputRoom)); err != nil {
			t.Errorf("a long line, with nothing before it: %v", err)
		}
		l.close()
	})
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A stop waits for the last lines, but not for long.
func TestLogsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, g := &e2e.Buffer{}, &gate{open: make(chan struct{})}
		l := newLogs(out, g, false)
		fmt.Fprint(l.stdout, "last words\n")
		l.log.Error("nobody takes this")
		start := time.Now()
		l.close()
		if took := time.Since(start); took != flushTime || out.String() != "last words\n" {
			t.Errorf("close took %v, %q came", took, out.String())
		}
		close(g.open)

		start = time.Now()
		l = newLogs(out, fullDisk{}, false)
		l.log.Error("nobody takes this either")
		l.close()
		if took := time.Since(start); took != 0 || l.dropped() != 1 {
			t.Errorf("close took %v, %d dropped", took, l.dropped())
		}
	})
}

// What was logged before a change is in the file from before, also if that is slow.
func TestLogChanges(t *testing.T) {
	dir := t.TempDir()
	cfg := dryRunConfig()
	l := newLogs(os.Stdout, os.Stderr, false)
	for i := range 50 {
		cfg.log.access = filepath.Join(dir, fmt.Sprint(i))
		if err := l.change(cfg); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			fmt.Fprintf(&l.access, "%d\n", i)
		}
	}
	for i := range 50 {
		want := strings.Repeat(fmt.Sprintln(i), 20)
		e2e.Poll(t, "all lines are there", func() bool { return e2e.ReadFile(t, filepath.Join(dir, fmt.Sprint(i))) == want })
	}
	cfg.log.access, cfg.log.errors = filepath.Join(dir, "new"), dir
	if err := l.change(cfg); err == nil {
		t.Error("a folder was taken for a log")
	}
	fmt.Fprint(&l.access, "still\n")
	e2e.Poll(t, "the file before the error is in use", func() bool {
		return strings.HasSuffix(e2e.ReadFile(t, filepath.Join(dir, "49")), "still\n")
	})
}

// A dry run whose output nobody reads keeps what it cannot print.
func TestPrinterWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		defer close(g.open)
		out := newOutput(g, &atomic.Int64{})
		defer out.close()
		for i, want := range []class{delivered, delivered, retry} { // the first is being written, the second waits
			if o := (printer{out}).post(t.Context(), credential{}, make([]byte, outputRoom/2)); o.class != want {
				t.Errorf("post %d: %+v", i, o)
			}
			synctest.Wait()
		}
	})
}

// stuck is a pipe that nobody reads. If it has no reader at all, writing to it is a SIGPIPE.
func stuck(t *testing.T, hasReader bool) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if hasReader {
		t.Cleanup(func() { r.Close() })
	} else {
		r.Close()
	}
	return w
}

// startUnheard starts cmd with a unix socket to listen on, and returns when it answers: it cannot be heard.
func startUnheard(t *testing.T, cmd *exec.Cmd) *e2e.Process {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	cmd.Args = append(cmd.Args, "-port", "unix:"+socket)
	p := e2e.StartProcess(t, cmd)
	p.Addr = socket
	p.IsAlive()
	return p
}

// Nobody reads standard output or error, or a named pipe: requests go on, and a stop is a stop.
func TestLogsCannotStopTheServer(t *testing.T) {
	slack := e2e.NewFakeSlack(t, nil)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, log string
		reader    bool
	}{
		{"SIGPIPE", "stderr", false},
		{"not read", "stderr", true},
		{"SIGPIPE, access log on standard output", "stdout", false},
		{"not read, access log on standard output", "stdout", true},
		{"named pipe", fifo, true},
	} {
		for _, flag := range []string{"-c", "-dry-run"} {
			t.Run(test.name+" "+flag, func(t *testing.T) {
				t.Parallel()
				path := e2e.WriteFile(t, "s.toml", server1(slack.URL)+"[log]\naccess_log='"+test.log+"'\n")
				args := []string{"-c", path}
				if flag == "-dry-run" {
					args = append(args, "-dry-run")
				}
				cmd := exec.Command(e2e.Program("slackboard"), args...)
				cmd.Dir, cmd.Env = filepath.Dir(path), append(os.Environ(), "TMPDIR="+t.TempDir())
				cmd.Stdout, cmd.Stderr = stuck(t, test.reader), stuck(t, test.reader)
				p := startUnheard(t, cmd)
				long := "/healthz?" + strings.Repeat("x", 7000)
				for i := range 200 { // more than a pipe and the buffer hold
					if status, body := p.Request("GET", long, ""); status != 200 {
						t.Fatalf("request %d: %d %s", i, status, body)
					}
				}
				if status, body := p.Request("POST", "/notify", notifyBody("general", 1, true)); status != 200 {
					t.Errorf("%d %s", status, body)
				}
				p.Signal(syscall.SIGHUP)
				p.IsAlive()
				start := time.Now()
				p.Signal(syscall.SIGTERM)
				if code := p.Wait(); code != 0 {
					t.Errorf("exit %d", code)
				}
				t.Logf("the stop took %v", time.Since(start))
				if left := filesIn(t, strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")); len(left) > 0 {
					t.Errorf("it leaves %v behind", left)
				}
			})
		}
	}
}

// A named pipe needs no reader at the start. One that comes gets what was logged before, one that goes can come again.
func TestNamedPipeAsLog(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := e2e.StartServer(t, server1("http://127.0.0.1:1")+"[log]\naccess_log='"+fifo+"'\n")
	for i := range 3 {
		path := fmt.Sprintf("/healthz?%d", i)
		s.Request("GET", path, "")
		f, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		f.SetReadDeadline(time.Now().Add(e2e.Patience))
		if line, err := bufio.NewReader(f).ReadString('\n'); err != nil || !strings.Contains(line, path) {
			t.Errorf("reader %d: %q %v", i, line, err)
		}
		f.Close()
		if i == 1 {
			s.Signal(syscall.SIGHUP)
			e2e.Poll(t, "the configuration is read again", func() bool {
				return strings.Contains(s.Stderr.String(), "was read again")
			})
		}
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
}
