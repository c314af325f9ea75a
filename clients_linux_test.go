package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Reading from a terminal works: the command stays in the terminal's process group, and Ctrl-C reaches it.
func TestLogAtATerminal(t *testing.T) {
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("skipped: there is no script(1) here")
	}
	atTerminal := func(script string) (*process, func(string)) {
		cmd := exec.Command("script", "-qec", "exec "+filepath.Join(binaries, "slackboard-log")+ // else Ctrl-C ends the shell, too
			" -notify=false -tee -- sh -c '"+script+"'", "/dev/null")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		return startProcess(t, cmd), func(s string) {
			if _, err := stdin.Write([]byte(s)); err != nil {
				t.Error(err)
			}
		}
	}
	p, typed := atTerminal("echo ready; read x; echo got $x; exit 3")
	poll(t, "ready", func() bool { return strings.Contains(p.stdout.String(), "ready") })
	typed("hello\n")
	if code := p.wait(); code != 3 || !strings.Contains(p.stdout.String(), "got hello") {
		t.Errorf("exit %d, %q", code, p.stdout.String())
	}
	p, typed = atTerminal("trap \"echo got INT\" INT; echo ready; read x; read y; exit 4")
	poll(t, "ready", func() bool { return strings.Contains(p.stdout.String(), "ready") })
	typed("\x03")
	poll(t, "the command gets INT", func() bool { return strings.Contains(p.stdout.String(), "got INT") })
	typed("one\ntwo\n")
	if code := p.wait(); code != 4 || strings.Count(p.stdout.String(), "got INT\r\n") != 1 {
		t.Errorf("exit %d, %q", code, p.stdout.String())
	}
	// One INT of the terminal is one for the command: it is not forwarded as well. Another signal is.
	p, _ = atTerminal("trap \"echo got INT\" INT; trap \"echo got USR1; exit 5\" USR1; kill -INT $PPID; kill -USR1 $PPID; while :; do sleep 0.02; done")
	if code := p.wait(); code != 5 || strings.Contains(p.stdout.String(), "got INT\r\n") || !strings.Contains(p.stdout.String(), "got USR1\r\n") {
		t.Errorf("exit %d, %q", code, p.stdout.String())
	}
}

// Memory is bounded, whatever the output: 1 GB with CI=true, else 64 MB. The kernel's high-water mark is read while
// slackboard-log waits for the server's answer: all that it makes of the output is made by then.
func TestLogMemory(t *testing.T) {
	megabytes := 64
	if os.Getenv("CI") == "true" {
		megabytes = 1024
	}
	for _, flags := range []string{"", "-tee", "-log /dev/null"} {
		var p *process
		started, peak := make(chan struct{}), 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-started
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
			if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
				peak, _ = strconv.Atoi(string(m[1]))
			}
			io.WriteString(w, `{"message":"ok"}`)
		}))
		cmd := logCommand(flags+" -s "+s.URL+" -t a", fmt.Sprintf("yes 'a line of <output> & more' | head -c %d; exit 1", megabytes<<20))
		if flags == "-tee" {
			null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			cmd.Stdout = null
		}
		p = startProcess(t, cmd)
		close(started)
		code := p.wait()
		s.Close()
		if code != 1 || peak == 0 || peak > 32<<10 {
			t.Errorf("%s: exit %d, %d kB resident, want at most %d", flags, code, peak, 32<<10)
		}
		if printed := len(p.stderr.String()); flags == "" && printed < 1<<20 {
			t.Errorf("only %d bytes are printed", printed)
		}
		t.Logf("%d MB of output %s: %d kB resident at most", megabytes, flags, peak)
	}
}
