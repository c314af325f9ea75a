package main

// The clients at a terminal, as PID 1, and where nobody listens to them.

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"slackboard/e2e"
)

// terminal is a pseudo-terminal, as those see it who sit in front of it.
type terminal struct {
	*os.File
	shown e2e.Buffer
}

// startAtTerminal starts cmd in a session of its own, in the foreground of a new terminal. Standard input, output and error
// are the terminal where cmd has none.
func startAtTerminal(t *testing.T, cmd *exec.Cmd) (*e2e.Process, *terminal) {
	t.Helper()
	front, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("skipped: there is no pseudo-terminal here: %v", err)
	}
	var number, unlock int32
	for request, arg := range map[uintptr]*int32{syscall.TIOCGPTN: &number, syscall.TIOCSPTLCK: &unlock} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, front.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
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
	p := &e2e.Process{Cmd: cmd, T: t, Ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(p.Ended) }()
	tty := &terminal{File: front}
	go io.Copy(&tty.shown, front)
	t.Cleanup(func() { p.Kill(); front.Close() })
	return p, tty
}

func null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A command that asks at the terminal, whatever its standard input is, gets its answer; Ctrl-C ends it.
func TestLogAsksAtTheTerminal(t *testing.T) {
	for _, test := range []struct {
		name  string
		stdin bool // the terminal
		typed string
		code  int
		shows string
	}{
		{"standard input", true, "hello\n", 3, "got hello"},
		{"/dev/tty, under </dev/null", false, "hello\n", 3, "got hello"},
		{"Ctrl-C", true, "\x03", 130, "signal: interrupt"},
		{"Ctrl-C, under </dev/null", false, "\x03", 130, "signal: interrupt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := logCommand("-notify=false -tee", "printf 'password: ' >/dev/tty; read x </dev/tty; echo got $x; exit 3")
			if !test.stdin {
				cmd.Stdin = null(t)
			}
			p, tty := startAtTerminal(t, cmd)
			e2e.Poll(t, "it asks", func() bool { return strings.Contains(tty.shown.String(), "password: ") })
			io.WriteString(tty, test.typed)
			if code := p.Wait(); code != test.code {
				t.Errorf("exit %d, %q", code, tty.shown.String())
			}
			e2e.Poll(t, test.shows, func() bool { return strings.Contains(tty.shown.String(), test.shows) })
		})
	}
}

// In the background of a terminal, a command has a group of its own: it is ended as a whole.
func TestLogInTheBackground(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command("sh", "-c", `set -m; "$0" -notify=false -timeout 300ms -- sh -c "sh -c 'echo \$\$ >$1; sleep 600; sleep 600' & wait" </dev/null & wait $!`,
		e2e.Program("slackboard-log"), pids)
	p, tty := startAtTerminal(t, cmd)
	pid := pidIn(t, pids)
	if code := p.Wait(); code != 124 {
		t.Errorf("exit %d, %q", code, tty.shown.String())
	}
	e2e.Poll(t, "the grandchild is gone", func() bool { return !isAlive(pid) })
}

// Where people wait they are told why: no server answers, or standard input does not end.
func TestClientsSayWhatTheyWaitFor(t *testing.T) {
	dead := e2e.DeadAddress(t)
	p, tty := startAtTerminal(t, clientCommand("slackboard-cli", "-s "+dead+" -t a -retry-max 2 -retry-wait-min 10ms", "hi"))
	if code := p.Wait(); code != 1 {
		t.Errorf("exit %d, %q", code, tty.shown.String())
	}
	refused := "slackboard-cli: " + dead + ": dial tcp " + dead + ": connect: connection refused: the next try is in "
	e2e.Poll(t, "two tries are announced", func() bool {
		shown := tty.shown.String()
		return strings.Contains(shown, refused+"10ms\r\n") && strings.Contains(shown, refused+"20ms\r\n") && strings.Contains(shown, "not sent: ") && strings.Count(shown, "\n") == 3
	})
	code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", dead, "-t", "a", "-retry-max", "2", "-retry-wait-min", "10ms")
	if code != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("without a terminal: exit %d, %q", code, stderr)
	}
}

func TestCliSaysThatItWaitsForInput(t *testing.T) {
	t.Parallel()
	const waits = "slackboard-cli: waiting for the end of standard input"
	s := newScripted(t)
	start := time.Now()
	p, tty := startAtTerminal(t, clientCommand("slackboard-cli", "-t a -s "+s.URL, ""))
	cmd := clientCommand("slackboard-cli", "-t a -s "+s.URL, "")
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	piped := e2e.StartProcess(t, cmd)
	io.WriteString(pipe, "some")
	e2e.Poll(t, "it says what it waits for", func() bool {
		return strings.Contains(tty.shown.String(), waits) && strings.Contains(piped.Stderr.String(), waits)
	})
	if took := time.Since(start); took < 5*time.Second {
		t.Errorf("said after %v", took)
	}
	io.WriteString(tty, "hi\n\x04")
	io.WriteString(pipe, " more")
	pipe.Close()
	if code, code2 := p.Wait(), piped.Wait(); code != 0 || code2 != 0 || len(s.texts()) != 2 || strings.Count(piped.Stderr.String(), "\n") != 1 {
		t.Errorf("exit %d and %d, %q, sent %q", code, code2, piped.Stderr.String(), s.texts())
	}
}

// clientCommand is a client whose flags are separated by blanks. Without a text it has no standard input.
func clientCommand(program, flags, text string) *exec.Cmd {
	cmd := exec.Command(e2e.Program(program), strings.Fields(flags)...)
	if text != "" {
		cmd.Stdin = strings.NewReader(text)
	}
	return cmd
}

// When nobody reads standard error or output, neither client dies of it.
func TestClientsWithoutAReader(t *testing.T) {
	for _, test := range []struct {
		name, script string
		code         int
		told         string
	}{
		{"cli", `echo hi | BIN/slackboard-cli -s unix:/nowhere,URL -t a -spool SPOOL`, 0, "hi\n"},
		{"cli, something to say", `echo hi | BIN/slackboard-cli -s unix:/nowhere -t a -spool SPOOL`, 0, ""},
		{"cli, more to say", `echo hi | BIN/slackboard-cli -s URL -t a -spool /dev/null`, 0, "hi\n"},
		{"cli, nothing sent", `echo hi | BIN/slackboard-cli -s unix:/nowhere -t a -retry-max 0`, 1, ""},
		{"cli, usage", `BIN/slackboard-cli -nope`, 2, ""},
		{"cli, help", `BIN/slackboard-cli -h`, 0, ""},
		{"log", `BIN/slackboard-log -s URL -t a -log /nowhere/log -- sh -c 'echo out; exit 3'`, 3, "\nout\n"},
		{"log, a file is missing", `BIN/slackboard-log -s URL -t a -auth file:/nowhere -- sh -c 'exit 3'`, 3, ""},
		{"log, usage", `BIN/slackboard-log -nope`, 125, ""},
	} {
		s, status := newScripted(t), filepath.Join(t.TempDir(), "status")
		script := strings.NewReplacer("BIN", e2e.Binaries(), "URL", s.URL, "SPOOL", t.TempDir()).Replace(test.script)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close() // nobody reads
		cmd := exec.Command("sh", "-c", script+` >&3 2>&3; echo $? >"$0"`, status)
		cmd.ExtraFiles = []*os.File{w}
		e2e.StartProcess(t, cmd).Wait()
		w.Close()
		texts := s.texts()
		if got := e2e.ReadFile(t, status); got != fmt.Sprintln(test.code) || test.told == "" && len(texts) != 0 || test.told != "" && (len(texts) != 1 || !strings.Contains(texts[0], test.told)) {
			t.Errorf("%s: exit %q, want %d; told %q", test.name, got, test.code, texts)
		}
	}
}

// As PID 1 of a container slackboard-log reaps orphans, passes TERM on, and does not wait for the dead.
func TestLogAsPID1(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, for a PID namespace")
	}
	if out, err := exec.Command("unshare", "-pf", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("skipped: no PID namespace here: %v %s", err, out)
	}
	asPID1 := func(flags, script string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"-pf", "--mount-proc", "--kill-child"}, logCommand(flags, script).Args...)...)
	}
	// A hundred orphans have come and gone when the script counts who is left.
	zombies := `for i in $(seq 100); do sh -c '(exec true) & exit 0'; done; n=1; while [ $n -gt 0 ]; do n=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z 1 '); done; exit 7`
	p := e2e.StartProcess(t, asPID1("-notify=false -timeout 20s", zombies))
	if code := p.Wait(); code != 7 {
		t.Errorf("exit %d, %s", code, p.Stderr.String())
	}
	endsAtOnce(t, func() *exec.Cmd { return asPID1("-notify=false -timeout 100ms", "sh -c 'sleep 600' & sleep 600") })
}

// endsAtOnce runs a command that the timeout ends: once out of five times it must not take the 2 s that what is left
// of its group is waited for.
func endsAtOnce(t *testing.T, command func() *exec.Cmd) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		start := time.Now()
		p := e2e.StartProcess(t, command())
		if code := p.Wait(); code != 124 {
			t.Fatalf("exit %d, %s", code, p.Stderr.String())
		}
		if took = append(took, time.Since(start)); took[len(took)-1] < 2*time.Second {
			return
		}
	}
	t.Errorf("took %v", took)
}

// A timeout does not wait for zombies either where the parent of orphans reaps none, as here.
func TestLogWaitsForNoZombie(t *testing.T) {
	t.Parallel()
	endsAtOnce(t, func() *exec.Cmd {
		return logCommand("-notify=false -timeout 100ms", "sh -c 'sleep 600; true' & sleep 600")
	})
}
