package main

// The command: its process group, the signals it gets, and the status it leaves.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"slackboard/cli"
)

// grace is how long the command's children may go on after it has ended: those that hold its output open, and those
// that were told to end with it.
const grace = 2 * time.Second

// result is what a command leaves.
type result struct {
	args    []string
	started time.Time
	took    time.Duration
	status  int
	err     error // nil if it succeeded
	output  *cli.Text
}

// catchSignals keeps the signals for the command from ending us. One that we ignore (nohup) it goes on to ignore.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 16)
	for _, s := range []os.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	return signals
}

// ends tells whether s asks for an end.
func ends(s os.Signal) bool { return s != syscall.SIGUSR1 && s != syscall.SIGUSR2 }

// process is the command while it runs.
type process struct {
	*exec.Cmd
	out   *output
	own   bool // it has a process group of its own
	told  bool // to end: then its children end with it
	ended chan syscall.WaitStatus
}

// runCommand runs args with our standard input, environment and folder, and returns once it has ended and its output is
// copied. At a terminal the command stays in our process group: the terminal stops one that reads from it in another,
// and sends Ctrl-C to the one in its foreground only.
func runCommand(args []string, out *output, signals <-chan os.Signal, timeout, killAfter time.Duration) result {
	r := result{args: args, started: time.Now()}
	p := &process{Cmd: exec.Command(args[0], args[1:]...), out: out, own: !atTerminal()}
	p.ended = make(chan syscall.WaitStatus, 1)
	if errors.Is(p.Err, exec.ErrDot) { // the PATH says so
		p.Err = nil
	}
	p.Stdin = os.Stdin
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: p.own}
	adoptOrphans()
	if err := out.start(p.Cmd); err != nil {
		r.status, r.err = notStarted(args, err)
		return r
	}
	go p.reap()
	r.status, r.err = p.wait(signals, timeout, killAfter)
	r.took = time.Since(r.started)
	p.settle(signals)
	return r
}

// atTerminal tells whether we may read from a terminal: as standard input, or because we are in its foreground.
func atTerminal() bool {
	_, isStdin := cli.TerminalGroup(os.Stdin.Fd())
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return isStdin
	}
	defer tty.Close()
	group, _ := cli.TerminalGroup(tty.Fd())
	return isStdin || int(group) == syscall.Getpgrp()
}

// reap takes all children that end: the command, and orphans that have become ours. A zombie would keep the command's
// group from being empty.
func (p *process) reap() {
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, 0, nil); {
		case err == syscall.ECHILD:
			return
		case pid == p.Process.Pid:
			p.ended <- status
		}
	}
}

// wait returns how the command ended. Until then it gets our signals, and those that its time brings.
func (p *process) wait(signals <-chan os.Signal, timeout, killAfter time.Duration) (status int, err error) {
	var term, kill <-chan time.Time
	if timeout > 0 {
		term = time.After(timeout)
	}
	for {
		select {
		case s := <-signals:
			p.forward(s)
		case <-term:
			err = fmt.Errorf("timed out after %v", timeout)
			p.signal(syscall.SIGTERM)
			kill = time.After(killAfter)
		case <-kill:
			p.signal(syscall.SIGKILL)
		case how := <-p.ended:
			switch {
			case err != nil:
				return 124, err
			case how.Signaled():
				return 128 + int(how.Signal()), fmt.Errorf("signal: %v", how.Signal())
			case how.ExitStatus() != 0:
				return how.ExitStatus(), fmt.Errorf("exit status %d", how.ExitStatus())
			}
			return 0, nil
		}
	}
}

// settle returns when the output is at its end and, if the command was told to end, its group is empty: after the grace
// at the latest, unless those who read our own output are slower.
func (p *process) settle(signals <-chan os.Signal) {
	for _, f := range p.out.files {
		f.SetDeadline(time.Now().Add(grace)) // fails where it is not needed: for a plain file, or none
	}
	over, tick, copied := time.After(grace), time.Tick(10*time.Millisecond), p.out.copied
	for copied != nil || over != nil && p.lingers() {
		select {
		case <-copied:
			copied = nil
		case <-tick:
		case <-over:
			over = nil
			if p.lingers() {
				p.signal(syscall.SIGKILL)
			}
		case s := <-signals:
			if p.own {
				p.forward(s)
			}
			if over == nil && ends(s) { // someone has no patience with who reads our output
				return
			}
		}
	}
}

func (p *process) forward(s os.Signal) {
	if p.own || s != syscall.SIGINT && s != syscall.SIGQUIT { // those the terminal sent to the command as well
		p.signal(s.(syscall.Signal))
	}
}

// signal sends s to the command's group. In ours there is also who called us: there only the command gets it.
func (p *process) signal(s syscall.Signal) {
	target := p.Process.Pid
	if p.own {
		target = -target
	}
	syscall.Kill(target, s)
	if s == syscall.SIGTERM {
		syscall.Kill(target, syscall.SIGCONT) // one that is stopped would not end
		p.told = true
	}
}

// lingers tells, once the command has ended, whether something of its group lives that was told to end with it.
func (p *process) lingers() bool { return p.told && p.own && syscall.Kill(-p.Process.Pid, 0) == nil }

// notStarted returns the status of a command that could not be started: the shell's.
func notStarted(args []string, err error) (int, error) {
	if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		return 126, err
	}
	if strings.ContainsAny(args[0], " |&;<>()$=*") {
		err = fmt.Errorf("%w; for a shell line: -- sh -c '…'", err)
	}
	return 127, err
}
