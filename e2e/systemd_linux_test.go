package e2e

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
)

// The server serves on both sockets that systemd has opened, also a connection that has waited since before the start.
// It does not remove them when it stops. It leaves sockets alone that are meant for another process. File descriptors
// that are no sockets are an error.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, nil)
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
	body := NotifyBody("general", 0, true)
	fmt.Fprintf(early, "POST /notify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		len(body), body)
	config := WriteFile(t, "slackboard.toml",
		strings.Replace(ServerConfig(slack.URL), "127.0.0.1:0", "unix:/no/such/folder/s", 1))
	start := func(pid string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "LISTEN_PID="+pid+" LISTEN_FDS=2 exec "+Program("slackboard")+" -c "+config)
		cmd.Dir = t.TempDir()
		a, _ := tcp.(*net.TCPListener).File()
		b, _ := unix.(*net.UnixListener).File()
		cmd.ExtraFiles = []*os.File{a, b}
		return cmd
	}
	s := StartServerIn(t, start("$$"))
	if answer, _ := io.ReadAll(early); !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
		t.Errorf("the request before the start got %s", answer)
	}
	for _, server := range []string{tcp.Addr().String(), "unix:" + socket} {
		code, _, stderr := RunProgram(t, "hi", nil, "slackboard-cli", "-s", server, "-t", "general",
			"-sync")
		if code != 0 {
			t.Errorf("%s: %d %s", server, code, stderr)
		}
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the server has removed systemd's socket: %v", err)
	}
	if other := StartProcess(t, start("1")); other.Wait() != 1 ||
		!strings.Contains(other.Stderr.String(), "/no/such/folder") {
		t.Errorf("the server has taken another process's sockets: %s", other.Stderr.String())
	}
	cmd := start("$$")
	cmd.ExtraFiles = []*os.File{os.Stdin, os.Stdin}
	if other := StartProcess(t, cmd); other.Wait() != 1 ||
		!strings.Contains(other.Stderr.String(), "file descriptor 3, from systemd, is not a listening socket") {
		t.Errorf("file descriptors that are no sockets: %s", other.Stderr.String())
	}
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

// The server reports to systemd when it is ready, how it is, when a reload begins and how it ends, and when it stops.
func TestTellsSystemd(t *testing.T) {
	t.Parallel() // it waits
	slack := NewFakeSlack(t, func(Delivery) Reply { return Reply{Status: 503} })
	manager := NewServiceManager(t)
	good := ServerConfig(slack.URL)
	path := WriteFile(t, "slackboard.toml", good)
	cmd := exec.Command(Program("slackboard"), "-c", path)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "NOTIFY_SOCKET="+manager.Socket)
	s := StartServerIn(t, cmd)
	manager.Next(`^READY=1$`)
	manager.Next(`^STATUS=nothing waits; nothing was delivered since the start$`)
	if status, _ := s.Request("POST", "/notify", NotifyBody("general", 1, false)); status != 200 {
		t.Errorf("/notify after READY=1: got %d, want 200", status)
	}
	reload := func(config, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		before := monotonic(t)
		s.Signal(syscall.SIGHUP)
		usec, _ := strconv.ParseInt(manager.Next(`^RELOADING=1\nMONOTONIC_USEC=(\d+)$`), 10, 64)
		if at := time.Duration(usec) * time.Microsecond; at < before.Truncate(time.Microsecond) || at > monotonic(t) {
			t.Errorf("the reload is said to begin at %v, want a time from %v to now", at, before)
		}
		manager.Next(want)
	}
	reload(good+"[log]\nlevel = 'debug'\n", `^READY=1\nSTATUS=configuration reloaded$`)
	reload(good+"[log]\nlevel = 'loud'\n", `^READY=1\nSTATUS=the last reload was refused`)
	if Long() {
		manager.Next(`^STATUS=the last reload was refused, .*; #general (fails|cannot be reached) since .*; 1 wait, ` +
			`the oldest since `)
	}
	s.Signal(syscall.SIGTERM)
	manager.Next(`^STOPPING=1$`)
	s.Wait()
}

// The units in deploy/ pass systemd-analyze verify, and the service has an exposure of at most 2.0 in systemd-analyze
// security.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("skipped: there is no systemd-analyze here")
	}
	dir := t.TempDir()
	program := regexp.MustCompile(`/usr/local/bin/slackboard`)
	units := []string{"slackboard.service", "slackboard.socket"}
	for _, name := range units {
		unit := program.ReplaceAllString(ReadFile(t, "../deploy/"+name), Program("slackboard"))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range units {
		out, err := exec.Command(analyze, "verify", "--recursive-errors=no", "--man=no",
			filepath.Join(dir, unit)).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", unit, err, out)
		}
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20",
		filepath.Join(dir, "slackboard.service")).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}
