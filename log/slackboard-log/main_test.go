package main

// slackboard-log as its command, its caller and Slack see it.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// logCommand returns a command: slackboard-log with flags, separated by blanks, that runs a script with sh.
func logCommand(flags, script string, args ...string) *exec.Cmd {
	args = append([]string{"--", "sh", "-c", script}, args...)
	return exec.Command(e2e.Program("slackboard-log"), append(strings.Fields(flags), args...)...)
}

// isAlive tells whether a process runs. A zombie does not run. Without /proc, it counts as running.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return syscall.Kill(pid, 0) == nil && (err != nil || !strings.HasPrefix(state, "Z"))
}

// pidIn waits until a script has written its process id into a file, and returns the id.
func pidIn(t *testing.T, path string) (pid int) {
	t.Helper()
	e2e.Poll(t, "a process id in "+path, func() bool {
		content, _ := os.ReadFile(path)
		line, complete := strings.CutSuffix(string(content), "\n")
		pid, _ = strconv.Atoi(line)
		return complete && pid > 0
	})
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

// For each command: the exit status, what is printed, and what Slack is told.
func TestLogTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := e2e.WriteFile(t, "plain", "not a program")
	for _, test := range []struct {
		name    string
		flags   string
		command []string
		code    int
		stdout  string
		stderr  string // a part of it; "" means that nothing is printed
		posted  string // a part of it; "" means that nothing is posted
	}{
		{"success is quiet", "", []string{"sh", "-c", "echo out; echo err >&2"}, 0, "", "", ""},
		{"success, told", "-always", []string{"echo", "out"}, 0, "", "", "Command: echo out\n"},
		{"success, passed through", "-tee", []string{"sh", "-c", "echo out; echo err >&2"}, 0, "out\n", "err\n", ""},
		{"status", "", []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 3, "",
			"Output:\nout\nerr\nExit status: 3\nError: exit status 3\n",
			"Output:\n```\nout\nerr\n```\nExit status: 3\nError: exit status 3\n"},
		{"no output", "", []string{"false"}, 1, "", "Output:\nExit status: 1\n", "Output:\nExit status: 1\n"},
		{"no newline", "", []string{"sh", "-c", "printf out; exit 1"}, 1, "", "Output:\nout\nExit status: 1\n",
			"Output:\n```\nout\n```\nExit status: 1\n"},
		{"status 255", "", []string{"sh", "-c", "exit 255"}, 255, "", "Error: exit status 255", "Exit status: 255\n"},
		{"KILL", "", []string{"sh", "-c", "kill -9 $$"}, 137, "", "Error: signal: killed\n",
			"Exit status: 137\nError: signal: killed\n"},
		{"SEGV", "", []string{"sh", "-c", "kill -11 $$"}, 139, "", "Error: signal: segmentation fault",
			"Exit status: 139\nError: signal: segmentation fault"},
		{"a status like a signal's", "", []string{"sh", "-c", "exit 137"}, 137, "", "Error: exit status 137\n",
			"Error: exit status 137\n"},
		{"not found", "", []string{"no-such-command"}, 127, "",
			"Error: exec: \"no-such-command\": executable file not found in $PATH\n",
			"Exit status: 127\nError: exec: "},
		{"no such file", "", []string{dir + "/nothing"}, 127, "", "no such file or directory\n", "Exit status: 127\n"},
		{"a shell line", "", []string{"ls | wc"}, 127, "", "; for a shell line: -- sh -c '…'\n",
			"; for a shell line: -- sh -c '…'\n"},
		{"a shell line with a path", "", []string{dir + "/nothing && true"}, 127, "",
			"no such file or directory; for a shell line: -- sh -c '…'\n", "Exit status: 127\n"},
		{"an assignment", "", []string{"A=1", "true"}, 127, "", "; for a shell line: -- sh -c '…'\n",
			"Exit status: 127\n"},
		{"colors and a progress bar", "", []string{"sh", "-c",
			`printf '\033[1;31mred\033[0m\n10%%\r100%%\n\033]0;title\007end\000\n'; exit 1`}, 1, "",
			"Output:\n\x1b[1;31mred\x1b[0m\n10%\r100%\n\x1b]0;title\aend\x00\n", "Output:\n```\nred\n100%\nend\n```\n"},
		{"a true of one's own", "-always", []string{"true"}, 0, "", "", "Command: true\n"},
		{"not executable", "", []string{plain}, 126, "", "permission denied\n", "Exit status: 126\n"},
		{"a directory", "", []string{dir}, 126, "", "permission denied\n", "Exit status: 126\n"},
		{"timeout", "-timeout 10ms", []string{"sleep", "600"}, 124, "", "Error: timed out after 10ms\n",
			"Exit status: 124\nError: timed out after 10ms\n"},
		{"timeout, KILL", "-timeout 10ms -kill-after 50ms", []string{"sh", "-c", "trap '' TERM; sleep 600; sleep 600"},
			124, "", "Error: timed out after 10ms\n", "Exit status: 124\n"},
		{"timeout, exits 0 at TERM", "-timeout 100ms", []string{"sh", "-c", "trap 'exit 0' TERM; sleep 600"}, 124, "",
			"Error: timed out after 100ms\n", "Exit status: 124\n"},
		{"timeout, stopped", "-timeout 300ms -kill-after 90s", []string{"sh", "-c", "kill -STOP $$; sleep 600"}, 124,
			"", "Error: timed out after 300ms\n", "Exit status: 124\n"},
		{"in time", "-timeout 10m", []string{"true"}, 0, "", "", ""},
		{"not told", "-notify=false", []string{"sh", "-c", "echo out; exit 4"}, 4, "", "Output:\nout\nExit status: 4\n",
			""},
		{"not told, always", "-notify=false -always", []string{"true"}, 0, "", "", ""},
		{"passed through, failure", "-tee", []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 3, "out\n",
			"err\nHost: ", "Output:\n```\n"},
		{"secret arguments", "-no-args", []string{"false", "xyzzy"}, 1, "", "Command: false\nStarted: ",
			"Command: false\nStarted: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := e2e.NewScripted(t)
			args := append(append(strings.Fields(test.flags), "-s", s.URL, "-t", "a", "--"), test.command...)
			code, stdout, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", args...)
			if code != test.code || stdout != test.stdout || !strings.Contains(stderr, test.stderr) ||
				test.stderr == "" && stderr != "" {
				t.Errorf("exit %d, %q %q; want %d, %q %q", code, stdout, stderr, test.code, test.stdout, test.stderr)
			}
			if texts := s.Texts(); test.posted == "" && len(texts) != 0 ||
				test.posted != "" && (len(texts) != 1 || !strings.Contains(texts[0], test.posted)) {
				t.Errorf("told %q, want %q", texts, test.posted)
			}
			if strings.Contains(stderr+fmt.Sprint(s.Texts()), "xyzzy") {
				t.Errorf("an argument is shown: %q %q", stderr, s.Texts())
			}
			if strings.Contains(test.flags, "-tee") && strings.Count(stderr, "err\n") != 1 {
				t.Errorf("printed twice: %q", stderr)
			}
		})
	}
}

// The whole message, for a tag and for a channel.
func TestLogMessage(t *testing.T) {
	t.Parallel()
	want := regexp.MustCompile("^Host: " + regexp.QuoteMeta(e2e.Hostname()) +
		"\nCommand: sh -c echo 'a &amp; b'; exit 7\n" +
		`Started: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC` + "\n" + `Took: \d+(\.\d+)?m?s` +
		"\nOutput:\n```\na &amp; b\n```\nExit status: 7\nError: exit status 7\n$")
	s := e2e.NewScripted(t)
	cmd := logCommand("-s "+s.URL+" -t ops -title nightly", "echo 'a & b'; exit 7")
	cmd.Env = append(os.Environ(), "TZ=UTC")
	e2e.StartProcess(t, cmd).Wait()
	requests := s.Requests()
	if len(requests) != 1 || !want.MatchString(requests[0].Text()) ||
		!strings.Contains(requests[0].Body, `"level":"crit"`) ||
		!strings.Contains(requests[0].Body, `"title":"nightly"`) || requests[0].Path != "/notify" {
		t.Errorf("told %+v", requests)
	}
	for _, test := range []struct{ script, level, color string }{{"exit 1", "crit", "#ff0000"},
		{"exit 0", "info", "#00ff00"}} {
		s := e2e.NewScripted(t)
		e2e.StartProcess(t, logCommand("-always -t ops -s "+s.URL, test.script)).Wait()
		e2e.StartProcess(t, logCommand("-always -c ops -s "+s.URL, test.script)).Wait()
		requests := s.Requests()
		if len(requests) != 2 || !strings.Contains(requests[0].Body, `"level":"`+test.level+`"`) ||
			!strings.Contains(requests[1].Body, `"color":"`+test.color+`"`) {
			t.Errorf("%s: told %+v", test.script, requests)
		}
		if test.script == "exit 0" && strings.Contains(requests[0].Text(), "Error:") {
			t.Errorf("success has an error: %s", requests[0].Text())
		}
	}
}

// Took is how long the command ran.
func TestLogTook(t *testing.T) {
	t.Parallel()
	s := e2e.NewScripted(t)
	e2e.StartProcess(t, logCommand("-s "+s.URL+" -t a", "sleep 1.1; exit 1")).Wait()
	_, rest, _ := strings.Cut(s.Texts()[0], "\nTook: ")
	line, _, _ := strings.Cut(rest, "\n")
	if took, err := time.ParseDuration(line); err != nil || took < 1100*time.Millisecond {
		t.Errorf("took %q", line)
	}
}

// Nothing in the output or the command notifies anybody or ends the block of code.
func TestLogHarmless(t *testing.T) {
	t.Parallel()
	s := e2e.NewScripted(t)
	evil := "<!channel> & <@U012>\n```\n@channel @Here, @everyone: ````` <http://x|y>\n\xff\xfe ok"
	cmd := logCommand("-s "+s.URL+" -t a", "cat; exit 1", "```", "<!here>", "@channel")
	cmd.Stdin = strings.NewReader(evil)
	p := e2e.StartProcess(t, cmd)
	p.Wait()
	text := s.Texts()[0]
	_, block, _ := strings.Cut(text, "Output:\n```\n")
	block, after, closed := strings.Cut(block, "\n```\n")
	want := "&lt;!channel&gt; &amp; &lt;@U012&gt;\n`\u2060`\u2060`\n@\u2060channel @\u2060Here, @\u2060everyone: " +
		"`\u2060`\u2060`\u2060`\u2060` &lt;http://x|y&gt;\n\ufffd\ufffd ok"
	if block != want || !closed || !strings.HasPrefix(after, "Exit status: 1\n") || strings.Count(text, "```") != 2 {
		t.Errorf("told %q, want %q", text, want)
	}
	if !strings.Contains(text, "exit 1 `\u2060`\u2060` &lt;!here&gt; @\u2060channel\n") {
		t.Errorf("the command is told as %q", text)
	}
	if !strings.Contains(p.Stderr.String(), evil) {
		t.Errorf("what is printed is not as it was: %q", p.Stderr.String())
	}

	code, _, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "--", "@here<!channel>\xff")
	if got := s.Texts()[1]; code != 127 || !strings.Contains(got, "\nCommand: @\u2060here&lt;!channel&gt;\ufffd\n") ||
		!strings.Contains(got, "\nError: exec: \"@\u2060here&lt;!channel&gt;") {
		t.Errorf("exit %d, %s told %q", code, stderr, got)
	}
}

// Of long output, the message has the first and the last lines, and says how many bytes are left out.
func TestLogExcerpt(t *testing.T) {
	t.Parallel()
	for _, script := range []string{
		"seq 1 100000; exit 1",
		"head -c 2000000 /dev/zero | tr '\\0' '<'; exit 1",
		"yes '@here ```' | head -n 5000; exit 1",
		"echo first; head -c 20000 /dev/zero | tr '\\0' x; printf '\\nlast'; exit 1",
	} {
		s := e2e.NewScripted(t)
		code, _, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "--", "sh", "-c",
			script)
		out, _ := exec.Command("sh", "-c", script).Output()
		_, block, _ := strings.Cut(s.Texts()[0], "Output:\n```\n")
		block, _, _ = strings.Cut(block, "\n```\nExit")
		plain := strings.NewReplacer("\u2060", "", "&lt;", "<").Replace
		head, rest, found := strings.Cut(block, "\n[… ")
		count, tail, _ := strings.Cut(rest, " bytes left out …]\n")
		head, tail = plain(head), plain(tail)
		lost, _ := strconv.Atoi(count)
		shown := len(out) - lost
		if n := utf8.RuneCountInString(plain(block)); code != 1 || !found || n > 3000 || n < 1500 {
			t.Errorf("%s: exit %d, %d characters: %s", script, code, n, block)
		}
		trimmed := len(out) - len(bytes.TrimSuffix(out, []byte("\n")))
		if d := shown - len(head) - len(tail) - trimmed; !bytes.HasPrefix(out, []byte(head)) ||
			!bytes.HasSuffix(bytes.TrimSuffix(out, []byte("\n")), []byte(tail)) || d < 0 || d > 1 {
			t.Errorf("%s: %d bytes left out of %d, shown %d and %d", script, lost, len(out), len(head), len(tail))
		}
		if len(out) > 1<<20 != strings.Contains(stderr, " bytes left out …]\n") || len(stderr) > 1<<20+1000 ||
			len(stderr) < min(1<<20, len(out)) {
			t.Errorf("%s: %d bytes of %d are printed", script, len(stderr), len(out))
		}
	}
	s := e2e.NewScripted(t)
	e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "--", "sh", "-c", "seq 1 100000; exit 1")
	text := s.Texts()[0]
	_, block, _ := strings.Cut(text, "```\n1\n2\n3\n")
	head, tail, _ := strings.Cut(block, "\n[… ")
	lines := strings.Split(head, "\n")
	if lines[len(lines)-1] != fmt.Sprint(3+len(lines)) ||
		!regexp.MustCompile(`^\d+ bytes left out …\]\n9\d{4}\n`).MatchString(tail) ||
		!strings.Contains(tail, "\n99999\n100000\n```\n") {
		t.Errorf("told %s", text)
	}
}

// The command inherits standard input, environment, folder, open files, umask and limits.
func TestLogInherits(t *testing.T) {
	t.Parallel()
	dir, _ := filepath.EvalSymlinks(t.TempDir())
	extra, err := os.Create(filepath.Join(dir, "extra"))
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cmd := exec.Command("sh", "-c",
		`ulimit -n 200; umask 027; exec "$0" -notify=false -tee -- sh -c 'cat; echo "$MARK"; pwd; ulimit -n; umask; `+
			`echo more >&3; ./here'`, e2e.Program("slackboard-log"))
	cmd.Stdin, cmd.Dir, cmd.ExtraFiles = strings.NewReader("input\n"), dir, []*os.File{extra}
	cmd.Env = append(os.Environ(), "MARK=mark")
	e2e.WriteInto(t, dir, "here", "#!/bin/sh\necho here\n")
	os.Chmod(filepath.Join(dir, "here"), 0o700)
	p := e2e.StartProcess(t, cmd)
	code := p.Wait()
	if want := "input\nmark\n" + dir + "\n200\n0027\nhere\n"; code != 0 || p.Stdout.String() != want ||
		e2e.ReadFile(t, extra.Name()) != "more\n" {
		t.Errorf("exit %d, %q %q, want %q", code, p.Stdout.String(), p.Stderr.String(), want)
	}
	cmd = exec.Command(e2e.Program("slackboard-log"), "-notify=false", "--", "here")
	cmd.Dir, cmd.Env = dir, []string{"PATH=.:/usr/bin:/bin"}
	if p := e2e.StartProcess(t, cmd); p.Wait() != 0 {
		t.Errorf("a command from . in PATH: exit %d, %s", p.Cmd.ProcessState.ExitCode(), p.Stderr.String())
	}
}

// Each signal is passed on to the command, which prints it. slackboard-log goes on.
func TestLogForwardsSignals(t *testing.T) {
	t.Parallel()
	names := map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP",
		syscall.SIGQUIT: "QUIT", syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2"}
	script := "for s in TERM INT HUP QUIT USR1 USR2; do trap \"echo got $s\" $s; done; echo ready; while kill -0 " +
		"$PPID; do sleep 0.02; done 2>/dev/null"
	p := e2e.StartProcess(t, logCommand("-notify=false -tee", script))
	e2e.Poll(t, "ready", func() bool { return strings.Contains(p.Stdout.String(), "ready\n") })
	for s, name := range names {
		p.Signal(s)
		e2e.Poll(t, "the command gets "+name, func() bool {
			return strings.Contains(p.Stdout.String(),
				"got "+name+"\n")
		})
	}
	select {
	case <-p.Ended:
		t.Errorf("it ended: %s", p.Stderr.String())
	default:
	}
	p.Kill()
}

// A signal that is ignored at the start, as under nohup, stays ignored.
func TestLogUnderNohup(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c",
		`trap '' HUP; exec "$0" -notify=false -tee -- sh -c 'echo ready; read x; kill -HUP $$; kill -HUP $PPID; `+
			`echo alive'`, e2e.Program("slackboard-log"))
	cmd.Stdin = strings.NewReader("go\n")
	p := e2e.StartProcess(t, cmd)
	if code := p.Wait(); code != 0 || p.Stdout.String() != "ready\nalive\n" {
		t.Errorf("exit %d, %q %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// After a TERM or a timeout no grandchild lives on, even if it ignores TERM.
func TestLogLeavesNoGrandchild(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, flags, grandchild string
		code                    int
	}{
		{"TERM", "", "sleep 600", 143},
		{"TERM, ignored", "", "trap '' TERM; sleep 600; sleep 600", 143},
		{"timeout", "-timeout 300ms", "sleep 600", 124},
		{"timeout, ignored", "-timeout 300ms -kill-after 300ms", "trap '' TERM; sleep 600; sleep 600", 124},
		{"timeout, ignored, without output", "-timeout 300ms",
			"trap '' TERM; exec >/dev/null 2>&1; sleep 600; sleep 600", 124},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pids := filepath.Join(t.TempDir(), "pid")
			p := e2e.StartProcess(t, logCommand("-notify=false "+test.flags,
				`sh -c "echo \$\$ >$1; $0" & wait; sleep 600`, test.grandchild, pids))
			pid := pidIn(t, pids)
			if !isAlive(pid) && test.flags == "" {
				t.Fatal("the grandchild has not begun")
			}
			start := time.Now()
			if test.flags == "" {
				p.Signal(syscall.SIGTERM)
			}
			code := p.Wait()
			if code != test.code {
				t.Errorf("exit %d, want %d: %s", code, test.code, p.Stderr.String())
			}
			e2e.Poll(t, "the grandchild is gone", func() bool { return !isAlive(pid) })
			t.Logf("took %v", time.Since(start))
		})
	}
}

// A background child that holds the output open does not keep slackboard-log from ending. What the child printed until
// then is in the message, and the child lives on.
func TestLogBackgroundChild(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"", "-tee "} {
		s := e2e.NewScripted(t)
		pids := filepath.Join(t.TempDir(), "pid")
		start := time.Now()
		p := e2e.StartProcess(t, logCommand(flags+"-s "+s.URL+" -t a",
			`(echo $$; sleep 0.3; echo late; exec sleep 600) & echo $! >"$0"; exit 3`, pids))
		pid := pidIn(t, pids)
		code := p.Wait()
		if texts := s.Texts(); code != 3 || len(texts) != 1 || !strings.Contains(texts[0], "\nlate\n") ||
			!isAlive(pid) {
			t.Errorf("exit %d, told %q", code, texts)
		}
		t.Logf("took %v", time.Since(start))
	}
}

// -tee passes the output on as it comes.
func TestLogTee(t *testing.T) {
	t.Parallel()
	cmd := logCommand("-notify=false -tee", "echo one; echo two >&2; read x; echo three; exit 5")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := e2e.StartProcess(t, cmd)
	e2e.Poll(t, "the output, while the command runs", func() bool {
		return p.Stdout.String() == "one\n" &&
			p.Stderr.String() == "two\n"
	})
	io.WriteString(stdin, "go\n")
	code := p.Wait()
	if code != 5 || p.Stdout.String() != "one\nthree\n" || strings.Contains(p.Stderr.String(), "Output:") ||
		!strings.Contains(p.Stderr.String(), "Error: exit status 5\n") {
		t.Errorf("exit %d, %q %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// If nobody reads the output of -tee, the command gets SIGPIPE, as it would without slackboard-log.
func TestLogTeeClosed(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"", `"$0" -notify=false -tee -- `} {
		script := fmt.Sprintf(`{ %s yes; echo $? >&2; } | head -n 1`, program)
		p := e2e.StartProcess(t, exec.Command("sh", "-c", script, e2e.Program("slackboard-log")))
		if code := p.Wait(); code != 0 || p.Stdout.String() != "y\n" || !strings.HasSuffix(p.Stderr.String(), "141\n") {
			t.Errorf("%s: exit %d, %q %q", script, code, p.Stdout.String(), p.Stderr.String())
		}
	}
}

// If nobody reads what slackboard-log prints, Slack is told all the same, and the exit status stays.
func TestLogBrokenOutput(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"", "-tee"} {
		s := e2e.NewScripted(t)
		status := filepath.Join(t.TempDir(), "status")
		p := e2e.StartProcess(t, exec.Command("sh", "-c",
			`{ "$0" -s "$1" -t a `+flags+` -- sh -c 'trap "" PIPE; seq 100000 2>&1; exit 3'; echo $? >"$2"; } 2>&1 `+
				`| head -n 1`,
			e2e.Program("slackboard-log"), s.URL, status))
		if code, texts := p.Wait(), s.Texts(); code != 0 || e2e.ReadFile(t, status) != "3\n" || len(texts) != 1 ||
			!strings.Contains(texts[0], "Exit status: 3\n") {
			t.Errorf("%s: exit %d, status %q, told %q", flags, code, e2e.ReadFile(t, status), texts)
		}
	}
}

// -tee passes on all that the command prints before its end, even if the reader is slower than the time that
// slackboard-log waits for background children.
func TestLogTeeSlowReader(t *testing.T) {
	t.Parallel()
	p := e2e.StartProcess(t,
		exec.Command("sh", "-c", `"$0" -notify=false -tee -- head -c 130000 /dev/zero | { sleep 3; wc -c; }`,
			e2e.Program("slackboard-log")))
	if code := p.Wait(); code != 0 || strings.TrimSpace(p.Stdout.String()) != "130000" {
		t.Errorf("exit %d, %q %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// The -log file grows while the command runs, and is complete even if no server can be reached.
func TestLogFile(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "out.log")
	for i, want := range []string{"", "one\ntwo\nthree\n"} {
		cmd := logCommand("-s unix:/nowhere -t a -retry-max 0 -log "+log,
			"echo one; echo two >&2; read x; echo three; exit 1")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p := e2e.StartProcess(t, cmd)
		e2e.Poll(t, "the output in the file, while the command runs", func() bool {
			content, _ := os.ReadFile(log)
			return string(content) == want+"one\ntwo\n"
		})
		io.WriteString(stdin, "go\n")
		if code := p.Wait(); code != 1 || e2e.ReadFile(t, log) != want+"one\ntwo\nthree\n" ||
			!strings.Contains(p.Stderr.String(), "\nslackboard-log: not sent: ") {
			t.Errorf("run %d: exit %d, the file has %q, %s", i, code, e2e.ReadFile(t, log), p.Stderr.String())
		}
	}
}

// If the -log file is a FIFO and its reader has stopped, slackboard-log gives up on it soon after the command has
// ended.
func TestLogStalledReader(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := e2e.StartProcess(t, logCommand("-notify=false -log "+fifo, "head -c 100000 /dev/zero; exit 4"))
	if code := p.Wait(); code != 4 || !strings.Contains(p.Stderr.String(),
		"slackboard-log: -log: write "+fifo+": i/o timeout\n") {
		t.Errorf("exit %d, %.200q", code, p.Stderr.String())
	}
}

// If the -log file cannot be written, one line says so, and the command runs all the same.
func TestLogFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ file, want string }{
		{dir, "open " + dir + ": is a directory"},
		{dir + "/no/log", "open " + dir + "/no/log: no such file or directory"},
		{fifo, "open " + fifo + ": "},
	}
	if runtime.GOOS == "linux" {
		tests = append(tests, struct{ file, want string }{"/dev/full", "write /dev/full: no space left on device"})
	}
	for _, test := range tests {
		p := e2e.StartProcess(t, logCommand("-notify=false -tee -log "+test.file,
			"echo one; sleep 0.1; echo two; exit 4"))
		code, stderr := p.Wait(), p.Stderr.String()
		if code != 4 || p.Stdout.String() != "one\ntwo\n" || strings.Count(stderr, "slackboard-log: ") != 1 ||
			!strings.Contains(stderr, "slackboard-log: -log: "+test.want) {
			t.Errorf("%s: exit %d, %q %q", test.file, code, p.Stdout.String(), stderr)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: the file without permission needs root")
	}
	os.Chmod(e2e.Binaries(), 0o755)
	cmd := logCommand("-notify=false -tee -log /slackboard-test.log", "echo one; exit 4")
	cmd.Dir, cmd.SysProcAttr = "/", e2e.AsNobody()
	p := e2e.StartProcess(t, cmd)
	if code := p.Wait(); code != 4 || p.Stdout.String() != "one\n" ||
		!strings.HasPrefix(p.Stderr.String(), "slackboard-log: -log: open /slackboard-test.log: permission denied\n") {
		t.Errorf("exit %d, %q %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// A server that does not answer delays neither the start of the command nor its output. A TERM ends the wait for the
// server. If the message cannot be sent, one line says so, and the exit status stays.
func TestLogNotificationFails(t *testing.T) {
	t.Parallel()
	s := e2e.NewScripted(t, e2e.Reply{Hang: true})
	p := e2e.StartProcess(t, logCommand("-s "+s.URL+" -t a -tee", "echo out; exit 6"))
	e2e.Poll(t, "the report is printed while the server hangs", func() bool {
		return len(s.Requests()) == 1 && p.Stdout.String() == "out\n" &&
			strings.Contains(p.Stderr.String(), "Error: exit status 6\n")
	})
	p.Signal(syscall.SIGUSR1)
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 6 || strings.Count(p.Stderr.String(), "slackboard-log: not sent: ") != 1 {
		t.Errorf("exit %d, %s", code, p.Stderr.String())
	}
	for _, test := range []struct {
		flags string
		lines int // 1 for "not sent", and 1 before the command runs if a file cannot be read
	}{
		{"-s unix:/nowhere -retry-max 0", 1}, {"-s http://" + e2e.DeadAddress(t) + " " + e2e.Hasty, 1},
		{"-s h:1 -auth file:/no/such/file", 2}, {"-s https://h:1 -cacert /no/such/file", 2},
		{"-s https://h:1 -cert /no/such/file -key /no/such/file", 2},
		{"-s " + e2e.NewScripted(t, e2e.Because(400, "")).URL, 1},
		{"-s " + e2e.NewScripted(t, e2e.Because(502, "")).URL, 1},
	} {
		for script, want := range map[string]int{"exit 6": 6, "exit 0": 0} {
			p := e2e.StartProcess(t, logCommand(test.flags+" -tee -t a -always -log /dev/null",
				"echo runs >&2; "+script))
			code, stderr := p.Wait(), p.Stderr.String()
			before, after, _ := strings.Cut(stderr, "runs\n")
			if code != want || strings.Count(stderr, "slackboard-log: ") != test.lines ||
				strings.Count(before, "slackboard-log: -") != test.lines-1 ||
				!strings.Contains(after, "slackboard-log: not sent: ") {
				t.Errorf("%s: exit %d, want %d: %s", test.flags, code, want, stderr)
			}
		}
	}
}

// With a spool, a message is kept if a TERM interrupts the sending.
func TestLogKeepsWhatIsInterrupted(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	s := e2e.NewScripted(t, e2e.Reply{Hang: true})
	p := e2e.StartProcess(t, logCommand("-s "+s.URL+" -t a -spool "+spool, "exit 6"))
	e2e.Poll(t, "the server is asked", func() bool { return len(s.Requests()) == 1 })
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 6 || len(e2e.KeptTexts(t, spool)) != 1 {
		t.Errorf("exit %d, kept %q, %s", code, e2e.KeptTexts(t, spool), p.Stderr.String())
	}
}

// The clients work as cron runs them, without HOME, without a terminal, and with almost no environment. They also work
// if standard input, output and error are closed.
func TestClientsUnderCron(t *testing.T) {
	t.Parallel()
	s := e2e.NewScripted(t)
	for _, test := range []struct {
		name, script string
		code         int
		stdout, told string
	}{
		{"slackboard-cli", `echo hi | BIN/slackboard-cli -s URL -t a`, 0, "", "hi\n"},
		{"slackboard-cli, closed output", `echo hi | BIN/slackboard-cli -s URL -t a >&- 2>&-`, 0, "", "hi\n"},
		{"slackboard-cli, closed input", `BIN/slackboard-cli -s URL -t a <&-`, 1, "", ""},
		{"slackboard-log", `BIN/slackboard-log -s URL -t a -- sh -c 'echo out; exit 3'`, 3, "", "\nout\n"},
		{"slackboard-log, closed input", `BIN/slackboard-log -s URL -t a -- sh -c 'cat; echo out; exit 3' <&-`, 3, "",
			"\nout\n"},
		{"slackboard-log, all closed", `BIN/slackboard-log -s URL -t a -- sh -c 'cat; echo out; exit 3' <&- >&- 2>&-`,
			3, "", "\nout\n"},
		{"slackboard-log, all closed, -tee",
			`BIN/slackboard-log -s URL -t a -tee -- sh -c 'cat; echo out; exit 3' <&- >&- 2>&-`, 3, "", "\nout\n"},
	} {
		before := len(s.Requests())
		script := strings.NewReplacer("BIN", e2e.Binaries(), "URL", s.URL).Replace(test.script)
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"PATH=/usr/bin:/bin"}, "/", &syscall.SysProcAttr{Setsid: true}
		p := e2e.StartProcess(t, cmd)
		code, texts := p.Wait(), s.Texts()[before:]
		if code != test.code || p.Stdout.String() != test.stdout || test.told == "" && len(texts) != 0 ||
			test.told != "" && (len(texts) != 1 || !strings.Contains(texts[0], test.told)) {
			t.Errorf("%s: exit %d, %q %q, told %q", test.name, code, p.Stdout.String(), p.Stderr.String(), texts)
		}
	}
}
