package main

// What systemd does: sockets that are open before the start, a place to report to. And its own opinion of the README's unit.

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"slackboard/e2e"
)

// The sockets that systemd has opened serve, both of them; those that wait in their queue before the start, too.
func TestSocketActivation(t *testing.T) {
	slack := e2e.NewFakeSlack(t, nil)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	early, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body := notifyBody("general", 0, true)
	fmt.Fprintf(early, "POST /notify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	config := e2e.WriteFile(t, "slackboard.toml", strings.Replace(server1(slack.URL), "127.0.0.1:0", "unix:/no/such/folder/s", 1))
	start := func(pid string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "LISTEN_PID="+pid+" LISTEN_FDS=2 exec "+e2e.Program("slackboard")+" -c "+config)
		cmd.Dir = t.TempDir()
		a, _ := tcp.(*net.TCPListener).File()
		b, _ := unix.(*net.UnixListener).File()
		cmd.ExtraFiles = []*os.File{a, b}
		return cmd
	}
	s := e2e.StartServerIn(t, start("$$"))
	if answer, _ := io.ReadAll(early); !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
		t.Errorf("the request before the start got %s", answer)
	}
	for _, server := range []string{tcp.Addr().String(), "unix:" + socket} {
		if code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", server, "-t", "general", "-sync"); code != 0 {
			t.Errorf("%s: %d %s", server, code, stderr)
		}
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the socket is systemd's: %v", err)
	}
	if other := e2e.StartProcess(t, start("1")); other.Wait() != 1 || !strings.Contains(other.Stderr.String(), "/no/such/folder") {
		t.Errorf("somebody else's sockets were taken: %s", other.Stderr.String())
	}
	cmd := start("$$")
	cmd.ExtraFiles = []*os.File{os.Stdin, os.Stdin}
	if other := e2e.StartProcess(t, cmd); other.Wait() != 1 || !strings.Contains(other.Stderr.String(), "file descriptor 3, from systemd, is no listening socket") {
		t.Errorf("no socket: %s", other.Stderr.String())
	}
}

// serviceManager is the socket that a service reports to.
type serviceManager struct {
	*net.UnixConn
	t      *testing.T
	socket string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{conn, t, socket}
}

// monotonic returns CLOCK_MONOTONIC of clock_gettime(2), which the time package does not show.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	const clockMonotonic = 1
	var now syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return time.Duration(now.Nano())
}

// next wants the next report to match, and returns what the first group of want matched.
func (m *serviceManager) next(want string) (group string) {
	m.t.Helper()
	m.SetReadDeadline(time.Now().Add(e2e.Patience))
	b := make([]byte, 8192)
	n, err := m.Read(b)
	match := regexp.MustCompile(want).FindStringSubmatch(string(b[:n]))
	if err != nil || match == nil {
		m.t.Errorf("got %q %v, want %s", b[:n], err, want)
		return ""
	}
	return match[len(match)-1]
}

func TestTellsSystemd(t *testing.T) {
	t.Parallel() // it waits
	slack := e2e.NewFakeSlack(t, func(e2e.Delivery) e2e.Reply { return e2e.Reply{Status: 503} })
	manager := newServiceManager(t)
	good := server1(slack.URL)
	path := e2e.WriteFile(t, "slackboard.toml", good)
	cmd := exec.Command(e2e.Program("slackboard"), "-c", path)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "NOTIFY_SOCKET="+manager.socket)
	s := e2e.StartServerIn(t, cmd)
	manager.next(`^READY=1$`)
	if status, _ := s.Request("POST", "/notify", notifyBody("general", 1, false)); status != 200 {
		t.Errorf("not served after READY: %d", status)
	}
	reload := func(config, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		before := monotonic(t)
		s.Signal(syscall.SIGHUP)
		usec, _ := strconv.ParseInt(manager.next(`^RELOADING=1\nMONOTONIC_USEC=(\d+)$`), 10, 64)
		if at := time.Duration(usec) * time.Microsecond; at < before.Truncate(time.Microsecond) || at > monotonic(t) {
			t.Errorf("reloaded at %v, not after %v, and before now", at, before)
		}
		manager.next(want)
	}
	reload(good+"[log]\nlevel = 'debug'\n", `^READY=1\nSTATUS=the configuration was read again$`)
	reload(good+"[log]\nlevel = 'loud'\n", `^READY=1\nSTATUS=the last reload was refused`)
	if isLong() {
		manager.next(`^STATUS=the last reload was refused, .*; #general (fails|cannot be reached) since .*; 1 wait, the oldest since `)
	}
	s.Signal(syscall.SIGTERM)
	manager.next(`^STOPPING=1$`)
	s.Wait()
}

// A value begins no assignment of its own, whatever is in it, and a manager that does not read holds up nobody.
func TestTellsSystemdOneLine(t *testing.T) {
	manager := newServiceManager(t)
	t.Setenv("NOTIFY_SOCKET", manager.socket)
	tellSystemd("READY=1", "STATUS=#a\nMAINPID=1\r\x00\u2028\u202eb\xff ok ✓")
	manager.next(`^READY=1\nSTATUS=#a MAINPID=1  \x{202e}b\x{fffd} ok ✓$`)
	tellSystemd("STATUS=" + strings.Repeat("ü", 5000))
	manager.next(`^STATUS=ü{493}$`)

	start := time.Now()
	for range 1000 {
		if tellSystemd("STATUS=nobody reads this"); time.Since(start) > time.Second {
			break
		}
	}
	t.Logf("a full queue took %v", time.Since(start))
}

// readmeBlock returns the README's block of that kind that contains text.
func readmeBlock(t *testing.T, kind, text string) string {
	t.Helper()
	for _, block := range strings.Split(e2e.ReadFile(t, "README.md"), "```"+kind+"\n")[1:] {
		if block, _, _ := strings.Cut(block, "```"); strings.Contains(block, text) {
			return block
		}
	}
	t.Fatalf("README.md has no block of %s with %q", kind, text)
	return ""
}

func TestReadmeUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("skipped: there is no systemd-analyze here")
	}
	dir := t.TempDir()
	program := regexp.MustCompile(`/usr/local/bin/slackboard`)
	for name, text := range map[string]string{"slackboard.service": "Type=notify", "slackboard.socket": "ListenStream="} {
		unit := program.ReplaceAllString(readmeBlock(t, "ini", text), e2e.Program("slackboard"))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range []string{"slackboard.service", "slackboard.socket"} {
		out, err := exec.Command(analyze, "verify", "--recursive-errors=no", "--man=no", filepath.Join(dir, unit)).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", unit, err, out)
		}
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", filepath.Join(dir, "slackboard.service")).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}
