package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stuck returns a pipe that nobody reads. If it has no reader at all, a write to it raises SIGPIPE.
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

// startUnheard starts cmd, a server whose output cannot be read, on a unix socket. It returns when the server answers.
func startUnheard(t *testing.T, cmd *exec.Cmd) *Process {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	cmd.Args = append(cmd.Args, "-port", "unix:"+socket)
	p := StartProcess(t, cmd)
	p.Addr = socket
	p.IsAlive()
	return p
}

// If nobody reads standard output, standard error or a named pipe that is a log, the server still answers requests,
// reloads its configuration and stops.
func TestLogsCannotStopTheServer(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
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
				path := WriteFile(t, "s.toml", ServerConfig(slack.URL)+"[log]\naccess_log='"+test.log+"'\n")
				args := []string{"-c", path}
				if flag == "-dry-run" {
					args = append(args, "-dry-run")
				}
				cmd := exec.Command(Program("slackboard"), args...)
				cmd.Dir, cmd.Env = filepath.Dir(path), append(os.Environ(), "TMPDIR="+t.TempDir())
				cmd.Stdout, cmd.Stderr = stuck(t, test.reader), stuck(t, test.reader)
				p := startUnheard(t, cmd)
				long := "/healthz?" + strings.Repeat("x", 7000)
				for i := range 2100 { // more than a pipe and the buffer hold
					if status, body := p.Request("GET", long, ""); status != 200 {
						t.Fatalf("request %d: %d %s", i, status, body)
					}
				}
				if status, body := p.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 200 {
					t.Errorf("/notify: got %d %s, want 200", status, body)
				}
				p.Signal(syscall.SIGHUP)
				p.IsAlive()
				start := time.Now()
				p.Signal(syscall.SIGTERM)
				if code := p.Wait(); code != 0 {
					t.Errorf("exit %d", code)
				}
				t.Logf("the stop took %v", time.Since(start))
				if left := FilesIn(t, strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")); len(left) > 0 {
					t.Errorf("the server leaves %v behind", left)
				}
			})
		}
	}
}

// A log may be a named pipe. It needs no reader at the start: a reader that comes later gets what was logged before. If
// a reader goes, another one may come.
func TestNamedPipeAsLog(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := StartServer(t, ServerConfig("http://127.0.0.1:1")+"[log]\naccess_log='"+fifo+"'\n")
	for i := range 3 {
		path := fmt.Sprintf("/healthz?%d", i)
		s.Request("GET", path, "")
		f, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		f.SetReadDeadline(time.Now().Add(Patience))
		if line, err := bufio.NewReader(f).ReadString('\n'); err != nil || !strings.Contains(line, path) {
			t.Errorf("reader %d: %q %v", i, line, err)
		}
		f.Close()
		if i == 1 {
			s.Signal(syscall.SIGHUP)
			Poll(t, "the configuration is read again", func() bool {
				return strings.Contains(s.Stderr.String(), "configuration reloaded")
			})
		}
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
}
