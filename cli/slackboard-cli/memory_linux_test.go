package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"slackboard/e2e"
)

// Reading from a terminal works: the command stays in the terminal's process group, and Ctrl-C reaches it.
func TestLogAtATerminal(t *testing.T) {
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
	// One INT of the terminal is one for the command: it is not forwarded as well. Another signal is.
	p, _ = atTerminal("trap \"echo got INT\" INT; trap \"echo got USR1; exit 5\" USR1; kill -INT $PPID; kill -USR1 $PPID; while :; do sleep 0.02; done")
	if code := p.Wait(); code != 5 || strings.Contains(p.Stdout.String(), "got INT\r\n") || !strings.Contains(p.Stdout.String(), "got USR1\r\n") {
		t.Errorf("exit %d, %q", code, p.Stdout.String())
	}
}

// peakOf runs the client that command returns for a server's URL. It returns the most kB that were resident before the server
// answered: all that a client makes of a text is made by then.
func peakOf(t *testing.T, command func(url string) *exec.Cmd) (p *e2e.Process, code, kB int) {
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
	p = e2e.StartProcess(t, command(s.URL))
	close(started)
	return p, p.Wait(), kB
}

// megabytes is how much the tests of memory pass through a client.
func megabytes() int {
	if e2e.Long() {
		return 1024
	}
	return 64
}

// Memory is bounded, whatever the output.
func TestLogMemory(t *testing.T) {
	for _, flags := range []string{"", "-tee", "-log /dev/null"} {
		p, code, kB := peakOf(t, func(url string) *exec.Cmd {
			cmd := logCommand(flags+" -s "+url+" -t a", fmt.Sprintf("yes 'a line of <output> & more' | head -c %d; exit 1", megabytes()<<20))
			if flags == "-tee" {
				cmd.Stdout = null(t)
			}
			return cmd
		})
		if code != 1 || kB == 0 || kB > 32<<10 {
			t.Errorf("%s: exit %d, %d kB resident, want at most %d", flags, code, kB, 32<<10)
		}
		if printed := len(p.Stderr.String()); flags == "" && printed < 1<<20 {
			t.Errorf("only %d bytes are printed", printed)
		}
		t.Logf("%d MB of output %s: %d kB resident at most", megabytes(), flags, kB)
	}
}

// Memory is bounded, whatever the input.
func TestCliMemory(t *testing.T) {
	for _, flags := range []string{"-t a", "-t a -code", "-c a -l crit -escape"} {
		for _, unit := range []string{"a line of <output> & more", "\x1b[31m\"\xff\r"} {
			_, code, kB := peakOf(t, func(url string) *exec.Cmd {
				cmd := clientCommand("slackboard-cli", flags+" -s "+url, "")
				yes := exec.Command("sh", "-c", fmt.Sprintf(`yes "$0" | head -c %d`, megabytes()<<20), unit)
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				t.Cleanup(func() { r.Close() })
				yes.Stdout, cmd.Stdin = w, r
				e2e.StartProcess(t, yes)
				return cmd
			})
			if code != 0 || kB == 0 || kB > 64<<10 {
				t.Errorf("%s: exit %d, %d kB resident, want at most %d", flags, code, kB, 64<<10)
			}
			t.Logf("%d MB of input %s: %d kB resident at most", megabytes(), flags, kB)
		}
	}
}
