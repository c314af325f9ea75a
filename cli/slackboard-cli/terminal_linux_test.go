package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// slackboard-cli needs at most 64 MiB of resident memory, whatever its input is.
func TestCliMemory(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"-t a", "-t a -code", "-c a -l crit -escape"} {
		for _, unit := range []string{"a line of <output> & more", "\x1b[31m\"\xff\r"} {
			_, code, kB := e2e.PeakOf(t, func(url string) *exec.Cmd {
				cmd := clientCommand("slackboard-cli", flags+" -s "+url, "")
				yes := exec.Command("sh", "-c", fmt.Sprintf(`yes "$0" | head -c %d`, e2e.Megabytes()<<20), unit)
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
			t.Logf("%d MB of input %s: %d kB resident at most", e2e.Megabytes(), flags, kB)
		}
	}
}

// At a terminal, a client that will try again says why, and when. Without a terminal it prints only one line, at the
// end.
func TestClientsSayWhatTheyWaitFor(t *testing.T) {
	t.Parallel()
	dead := e2e.DeadAddress(t)
	p, tty := e2e.StartAtTerminal(t, clientCommand("slackboard-cli",
		"-s "+dead+" -t a -retry-max 2 -retry-wait-min 10ms", "hi"))
	if code := p.Wait(); code != 1 {
		t.Errorf("exit %d, %q", code, tty.Shown.String())
	}
	refused := "slackboard-cli: " + dead + ": dial tcp " + dead + ": connect: connection refused: the next try is in "
	e2e.Poll(t, "two tries are announced", func() bool {
		shown := tty.Shown.String()
		return strings.Contains(shown, refused+"10ms\r\n") && strings.Contains(shown, refused+"20ms\r\n") &&
			strings.Contains(shown, "not sent: ") && strings.Count(shown, "\n") == 3
	})
	code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli", "-s", dead, "-t", "a", "-retry-max", "2",
		"-retry-wait-min", "10ms")
	if code != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("without a terminal: exit %d, %q", code, stderr)
	}
}

func TestCliSaysThatItWaitsForInput(t *testing.T) {
	t.Parallel()
	const waits = "slackboard-cli: waiting for the end of standard input"
	s := e2e.NewScripted(t)
	start := time.Now()
	p, tty := e2e.StartAtTerminal(t, clientCommand("slackboard-cli", "-t a -s "+s.URL, ""))
	cmd := clientCommand("slackboard-cli", "-t a -s "+s.URL, "")
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	piped := e2e.StartProcess(t, cmd)
	io.WriteString(pipe, "some")
	e2e.Poll(t, "it says what it waits for", func() bool {
		return strings.Contains(tty.Shown.String(), waits) && strings.Contains(piped.Stderr.String(), waits)
	})
	if took := time.Since(start); took < 5*time.Second {
		t.Errorf("said after %v", took)
	}
	io.WriteString(tty, "hi\n\x04")
	io.WriteString(pipe, " more")
	pipe.Close()
	if code, code2 := p.Wait(), piped.Wait(); code != 0 || code2 != 0 || len(s.Texts()) != 2 ||
		strings.Count(piped.Stderr.String(), "\n") != 1 {
		t.Errorf("exit %d and %d, %q, sent %q", code, code2, piped.Stderr.String(), s.Texts())
	}
}

// clientCommand returns a command for a client, with flags separated by blanks and text as its standard input. If text
// is "", Stdin is nil.
func clientCommand(program, flags, text string) *exec.Cmd {
	cmd := exec.Command(e2e.Program(program), strings.Fields(flags)...)
	if text != "" {
		cmd.Stdin = strings.NewReader(text)
	}
	return cmd
}
