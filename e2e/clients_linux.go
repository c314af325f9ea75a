package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"unsafe"
)

// Terminal is a pseudo-terminal, as those see it who sit in front of it.
type Terminal struct {
	*os.File
	Shown Buffer
}

// StartAtTerminal starts cmd in a session of its own, in the foreground of a new terminal. Standard input, output and
// error are the terminal where cmd has none.
func StartAtTerminal(t *testing.T, cmd *exec.Cmd) (*Process, *Terminal) {
	t.Helper()
	front, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("skipped: there is no pseudo-terminal here: %v", err)
	}
	var number, unlock int32
	for request, arg := range map[uintptr]*int32{syscall.TIOCGPTN: &number, syscall.TIOCSPTLCK: &unlock} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, front.Fd(), request,
			uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	back, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	cmd.ExtraFiles = []*os.File{back}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if cmd.Stdin == nil {
		cmd.Stdin = back
	}
	if cmd.Stdout == nil {
		cmd.Stdout = back
	}
	cmd.Stderr = back
	p := &Process{Cmd: cmd, T: t, Ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(p.Ended) }()
	tty := &Terminal{File: front}
	go io.Copy(&tty.Shown, front)
	t.Cleanup(func() { p.Kill(); front.Close() })
	return p, tty
}

func Null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// PeakOf runs the client that command returns for a server's URL. It returns the most kB that were resident before the
// server answered: all that a client makes of a text is made by then.
func PeakOf(t *testing.T, command func(url string) *exec.Cmd) (p *Process, code, kB int) {
	t.Helper()
	started := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-started
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
		if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
			kB, _ = strconv.Atoi(string(m[1]))
		}
		io.WriteString(w, `{"message":"ok"}`)
	}))
	defer s.Close()
	p = StartProcess(t, command(s.URL))
	close(started)
	return p, p.Wait(), kB
}

// Megabytes is how much the tests of memory pass through a client.
func Megabytes() int {
	if Long() {
		return 1024
	}
	return 64
}
