package main

// slackboard-log at a terminal and as PID 1, and both clients if nobody reads their output.

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// A command that asks at the terminal gets the answer, whatever its standard input is. Ctrl-C ends the command.
func TestLogAsksAtTheTerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		stdin bool // standard input is the terminal
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
			cmd := logCommand("-notify=false -tee",
				"printf 'password: ' >/dev/tty; read x </dev/tty; echo got $x; exit 3")
			if !test.stdin {
				cmd.Stdin = e2e.Null(t)
			}
			p, tty := e2e.StartAtTerminal(t, cmd)
			e2e.Poll(t, "it asks", func() bool { return strings.Contains(tty.Shown.String(), "password: ") })
			io.WriteString(tty, test.typed)
			if code := p.Wait(); code != test.code {
				t.Errorf("exit %d, %q", code, tty.Shown.String())
			}
			e2e.Poll(t, test.shows, func() bool { return strings.Contains(tty.Shown.String(), test.shows) })
		})
	}
}

// In the background of a terminal, the command has a group of its own, and the timeout ends the whole group.
func TestLogInTheBackground(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command("sh", "-c",
		`set -m; "$0" -notify=false -timeout 300ms -- sh -c "sh -c 'echo \$\$ >$1; sleep 600; sleep 600' & wait" `+
			`</dev/null & wait $!`,
		e2e.Program("slackboard-log"), pids)
	p, tty := e2e.StartAtTerminal(t, cmd)
	pid := pidIn(t, pids)
	if code := p.Wait(); code != 124 {
		t.Errorf("exit %d, %q", code, tty.Shown.String())
	}
	e2e.Poll(t, "the grandchild is gone", func() bool { return !isAlive(pid) })
}

// If nobody reads standard output and standard error, the clients do their work all the same.
func TestClientsWithoutAReader(t *testing.T) {
	t.Parallel()
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
		s, status := e2e.NewScripted(t), filepath.Join(t.TempDir(), "status")
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
		texts := s.Texts()
		if got := e2e.ReadFile(t, status); got != fmt.Sprintln(test.code) || test.told == "" && len(texts) != 0 ||
			test.told != "" && (len(texts) != 1 || !strings.Contains(texts[0], test.told)) {
			t.Errorf("%s: exit %q, want %d; told %q", test.name, got, test.code, texts)
		}
	}
}

// As PID 1 of a container, slackboard-log reaps orphans, and a timeout does not wait for zombies.
func TestLogAsPID1(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, for a PID namespace")
	}
	if out, err := exec.Command("unshare", "-pf", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("skipped: no PID namespace here: %v %s", err, out)
	}
	asPID1 := func(flags, script string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"-pf", "--mount-proc", "--kill-child"},
			logCommand(flags, script).Args...)...)
	}
	// The script makes a hundred orphans, and ends when none of them is a zombie.
	zombies := `for i in $(seq 100); do sh -c '(exec true) & exit 0'; done; n=1; while [ $n -gt 0 ]; do n=$(cat ` +
		`/proc/[0-9]*/stat 2>/dev/null | grep -c ') Z 1 '); done; exit 7`
	p := e2e.StartProcess(t, asPID1("-notify=false -timeout 20s", zombies))
	if code := p.Wait(); code != 7 {
		t.Errorf("exit %d, %s", code, p.Stderr.String())
	}
	endsAtOnce(t, func() *exec.Cmd { return asPID1("-notify=false -timeout 100ms", "sh -c 'sleep 600' & sleep 600") })
}

// endsAtOnce runs a command that -timeout ends, five times at most. Once it must take less than the 2 s that
// slackboard-log waits for a group that is not empty.
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

// A timeout does not wait for zombies, even if the parent of slackboard-log reaps no orphans, as in this test.
func TestLogWaitsForNoZombie(t *testing.T) {
	t.Parallel()
	endsAtOnce(t, func() *exec.Cmd {
		return logCommand("-notify=false -timeout 100ms", "sh -c 'sleep 600; true' & sleep 600")
	})
}

// The command can read from the terminal, because it stays in the terminal's process group. Ctrl-C reaches it.
func TestLogAtATerminal(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("skipped: there is no script(1) here")
	}
	atTerminal := func(script string) (*e2e.Process, func(string)) {
		cmd := exec.Command("script", "-qec", "exec "+e2e.Program("slackboard-log")+ // else Ctrl-C ends the shell, too
			" -notify=false -tee -- sh -c '"+script+"'", "/dev/null")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		return e2e.StartProcess(t, cmd), func(s string) {
			if _, err := stdin.Write([]byte(s)); err != nil {
				t.Error(err)
			}
		}
	}
	p, typed := atTerminal("echo ready; read x; echo got $x; exit 3")
	e2e.Poll(t, "ready", func() bool { return strings.Contains(p.Stdout.String(), "ready") })
	typed("hello\n")
	if code := p.Wait(); code != 3 || !strings.Contains(p.Stdout.String(), "got hello") {
		t.Errorf("exit %d, %q", code, p.Stdout.String())
	}
	p, typed = atTerminal("trap \"echo got INT\" INT; echo ready; read x; read y; exit 4")
	e2e.Poll(t, "ready", func() bool { return strings.Contains(p.Stdout.String(), "ready") })
	typed("\x03")
	e2e.Poll(t, "the command gets INT", func() bool { return strings.Contains(p.Stdout.String(), "got INT") })
	typed("one\ntwo\n")
	if code := p.Wait(); code != 4 || strings.Count(p.Stdout.String(), "got INT\r\n") != 1 {
		t.Errorf("exit %d, %q", code, p.Stdout.String())
	}
	// In the foreground, INT is not passed on: the terminal sends it to the command itself. USR1 is passed on.
	p, _ = atTerminal("trap \"echo got INT\" INT; trap \"echo got USR1; exit 5\" USR1; kill -INT $PPID; kill -USR1 " +
		"$PPID; while :; do sleep 0.02; done")
	if code := p.Wait(); code != 5 || strings.Contains(p.Stdout.String(), "got INT\r\n") ||
		!strings.Contains(p.Stdout.String(), "got USR1\r\n") {
		t.Errorf("exit %d, %q", code, p.Stdout.String())
	}
}

// slackboard-log needs at most 32 MiB of resident memory, whatever the output is.
func TestLogMemory(t *testing.T) {
	t.Parallel()
	lines, line := "yes 'a line of <output> & more'", "tr '\\0' x </dev/zero" // both are endless
	for _, test := range [][2]string{
		{"", lines}, {"-tee", lines}, {"-log /dev/null", lines}, {"", line}, {"-tee", line},
	} {
		flags, output := test[0], test[1]
		p, code, kB := e2e.PeakOf(t, func(url string) *exec.Cmd {
			cmd := logCommand(flags+" -s "+url+" -t a",
				fmt.Sprintf("%s | head -c %d; exit 1", output, e2e.Megabytes()<<20))
			if flags == "-tee" {
				cmd.Stdout = e2e.Null(t)
			}
			return cmd
		})
		if code != 1 || kB == 0 || kB > 32<<10 {
			t.Errorf("%s: exit %d, %d kB resident, want at most %d", flags, code, kB, 32<<10)
		}
		if printed := len(p.Stderr.String()); flags == "" && printed < 1<<20 {
			t.Errorf("only %d bytes are printed", printed)
		}
		t.Logf("%d MB of output %s: %d kB resident at most", e2e.Megabytes(), flags, kB)
	}
}
