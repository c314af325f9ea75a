package main

// The command: its process group, the signals it gets, and the status it leaves.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
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
	err     error  // nil if it succeeded
	output  string // what is kept of it
	total   int64  // bytes of it
}

// catchSignals keeps the signals for the command from ending us. One that we ignore (nohup) it goes on to ignore.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 16)
	for _, s := range []os.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGPIPE, // not for the command: when nobody reads what we print, that is no reason to die
	} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	return signals
}

// ends tells whether s asks for an end.
func ends(s os.Signal) bool {
	return s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP || s == syscall.SIGQUIT
}

// cancelAtSignal is for the time after the command.
func cancelAtSignal(cancel context.CancelFunc, signals <-chan os.Signal) {
	for s := range signals {
		if ends(s) {
			cancel()
		}
	}
}

// process is the command while it runs.
type process struct {
	*exec.Cmd
	out   *output
	own   bool // it has a process group of its own
	told  bool // to end: then its children end with it
	ended chan error
}

// runCommand runs args and returns once it has ended and its output is copied.
func runCommand(args []string, out *output, signals <-chan os.Signal, timeout, killAfter time.Duration) result {
	r := result{args: args, started: time.Now()}
	p, err := start(args, out)
	if err == nil {
		err = p.wait(signals, timeout, killAfter)
		r.took = time.Since(r.started)
		p.settle(signals)
	}
	r.status, r.err = statusOf(err), err
	return r
}

// start starts args with our standard input, environment and folder. At a terminal the command stays in our process
// group: the terminal stops one that reads from it in another, and sends Ctrl-C to this one only.
func start(args []string, out *output) (*process, error) {
	p := &process{Cmd: exec.Command(args[0], args[1:]...), out: out, own: !isTerminal(0), ended: make(chan error, 1)}
	if errors.Is(p.Err, exec.ErrDot) { // the PATH says so
		p.Err = nil
	}
	p.Stdin = os.Stdin
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: p.own}
	if err := out.start(p.Cmd); err != nil {
		return nil, err
	}
	go func() { p.ended <- p.Wait() }()
	return p, nil
}

// isTerminal tells whether fd is the terminal that controls us. One that does not stops nobody who reads from it, and a
// mode cannot tell: /dev/null is a character device as well.
func isTerminal(fd uintptr) bool {
	var group int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return errno == 0
}

// wait returns how the command ended. Until then it gets our signals, and those that its time brings.
func (p *process) wait(signals <-chan os.Signal, timeout, killAfter time.Duration) error {
	var term, kill <-chan time.Time
	var late error
	if timeout > 0 {
		term = time.After(timeout)
	}
	for {
		select {
		case s := <-signals:
			p.forward(s)
		case <-term:
			late = fmt.Errorf("%w after %v", errTimedOut, timeout)
			p.signal(syscall.SIGTERM)
			kill = time.After(killAfter)
		case <-kill:
			p.signal(syscall.SIGKILL)
		case err := <-p.ended:
			return cmp.Or(late, err)
		}
	}
}

// settle returns when the output is at its end and, if the command was told to end, its group is empty: after the grace
// at the latest, unless those who read our own output are slower.
func (p *process) settle(signals <-chan os.Signal) {
	p.out.stopAt(time.Now().Add(grace))
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
	atTerminal := !p.own && (s == syscall.SIGINT || s == syscall.SIGQUIT) // it sent them to the command as well
	if s != syscall.SIGPIPE && !atTerminal {
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

// errTimedOut says that -timeout ended the command.
var errTimedOut = errors.New("timed out")

// statusOf returns what a shell would, and timeout(1).
func statusOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errTimedOut):
		return 124
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 127
	}
	return 126
}
