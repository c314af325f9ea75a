package main

// The command: its process group, the signals it gets, its output, and its exit status.

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"slackboard/cli"
)

// grace is how long slackboard-log waits for children of the command after the command has ended: for children that
// hold its output open, and for children that got a TERM together with the command.
const grace = 2 * time.Second

// command holds the flags, the running command, and how it ended.
type command struct {
	cli.Flags
	noArgs, tee        bool
	logPath            string
	timeout, killAfter time.Duration

	cmd     *exec.Cmd
	signals chan os.Signal // passed on to the command; after its end, a signal ends our own waiting
	isGroup bool           // the command has a process group of its own
	told    bool           // the command got a TERM: its children have to end, too

	files  []*os.File    // the pipes, and the -log file, which may be a FIFO: reads and writes may block
	copied chan struct{} // closed when all copying has ended
	mu     sync.Mutex    // guards log and kept: with -tee two goroutines write
	log    *os.File      // nil without -log, and after an error
	kept   cli.Text

	started time.Time
	took    time.Duration
	status  int
	err     error // nil if the command succeeded
}

// run runs args with our standard input, environment and folder. It returns when the command has ended and its output
// is copied, as far as settle waits for it. If the -log file cannot be opened, run tells the user, and runs the
// command without it.
func (c *command) run(args []string) {
	c.cmd, c.started = exec.Command(args[0], args[1:]...), time.Now()
	c.signals, c.copied = make(chan os.Signal, 16), make(chan struct{})
	for _, s := range []os.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	} {
		if !signal.Ignored(s) { // an ignored signal, as under nohup, stays ignored in the command
			signal.Notify(c.signals, s)
		}
	}
	if c.logPath != "" {
		// With O_NONBLOCK, a FIFO that nobody reads is an error. Without it, the open would block.
		var err error
		c.log, err = os.OpenFile(c.logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o644)
		if err != nil {
			c.Complain(fmt.Errorf("-log: %w", err))
		}
		c.files = append(c.files, c.log)
	}
	adoptOrphans()
	switch c.err = c.start(); {
	case c.err == nil:
		c.wait()
		c.took = time.Since(c.started)
		signal.Ignore(syscall.SIGUSR1, syscall.SIGUSR2) // they are for the command only, and must not end our waiting
		c.settle()
	case !errors.Is(c.err, exec.ErrNotFound) && !errors.Is(c.err, fs.ErrNotExist):
		c.status = 126 // 126 and 127 as in the shell
	default:
		c.status = 127
		if strings.ContainsAny(args[0], " |&;<>()$=*") {
			c.err = fmt.Errorf("%w; for a shell line: -- sh -c '…'", c.err)
		}
	}
	c.mu.Lock() // never unlocked: log and kept must not change any more
	if err := c.log.Close(); c.log != nil && err != nil {
		c.Complain(fmt.Errorf("-log: %w", err))
	}
}

// start starts the command and copies its output: standard output and standard error through one pipe, which keeps
// their order, or with -tee through a pipe each. The command gets a process group of its own, except in the foreground
// of a terminal, where it stays in ours: the terminal stops a process that reads from it in another group, and sends
// Ctrl-C only to the group in its foreground.
func (c *command) start() error {
	c.isGroup = !inForeground()
	if errors.Is(c.cmd.Err, exec.ErrDot) { // found in ".": the user's PATH allows it
		c.cmd.Err = nil
	}
	c.cmd.Stdin, c.cmd.SysProcAttr = os.Stdin, &syscall.SysProcAttr{Setpgid: c.isGroup}
	tees := []*os.File{nil}
	if c.tee {
		tees = []*os.File{os.Stdout, os.Stderr}
	}
	var streams sync.WaitGroup
	for _, tee := range tees {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close() // after the start, when the command has its own copy
		c.cmd.Stdout, c.cmd.Stderr = cmp.Or[io.Writer](c.cmd.Stdout, w), w
		c.files = append(c.files, r)
		streams.Go(func() { c.copy(r, tee) })
	}
	go func() { streams.Wait(); close(c.copied) }()
	return c.cmd.Start()
}

// inForeground tells whether our process group is in the foreground of a terminal: tcgetpgrp(3).
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	var group int32
	syscall.Syscall(syscall.SYS_IOCTL, tty.Fd(), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return int(group) == syscall.Getpgrp()
}

// copy copies r to kept, to the -log file and to tee, until r ends or its deadline has passed. If nobody reads tee any
// more, copy closes r, and the command gets SIGPIPE, as it would without us.
func (c *command) copy(r, tee *os.File) {
	defer r.Close()
	buf := make([]byte, 64<<10) // as much as a pipe holds: one read empties it
	for end := error(nil); end == nil; {
		var n int
		// At the deadline the pipe may still hold output that was written before: read once more.
		if n, end = r.Read(buf); errors.Is(end, os.ErrDeadlineExceeded) {
			r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			n, _ = r.Read(buf)
		}
		c.mu.Lock()
		c.kept.Write(buf[:n])
		c.pass(buf[:n], &c.log, "-log")
		c.mu.Unlock()
		if errors.Is(c.pass(buf[:n], &tee, "-tee"), syscall.EPIPE) {
			return
		}
	}
}

// pass writes p to *file, unless that is nil. After an error it tells the user and sets *file to nil.
func (c *command) pass(p []byte, file **os.File, flag string) (err error) {
	if *file != nil && len(p) > 0 {
		if _, err = (*file).Write(p); err != nil {
			c.Complain(fmt.Errorf("%s: %w", flag, err))
			*file = nil
		}
	}
	return err
}

// wait returns when the command has ended, with its status and error in c. Until then it passes our signals on, and
// sends TERM after -timeout, and KILL when -kill-after has passed as well.
func (c *command) wait() {
	ended := make(chan syscall.WaitStatus, 1)
	go c.reap(ended)
	term, kill := time.After(cmp.Or(c.timeout, math.MaxInt64)), (<-chan time.Time)(nil)
	for {
		select {
		case s := <-c.signals:
			if c.isGroup || s != syscall.SIGINT && s != syscall.SIGQUIT { // the terminal has sent these to both
				c.signal(s.(syscall.Signal))
			}
		case <-term:
			c.err = fmt.Errorf("timed out after %v", c.timeout)
			c.signal(syscall.SIGTERM)
			kill = time.After(c.killAfter)
		case <-kill:
			c.signal(syscall.SIGKILL)
		case how := <-ended:
			switch c.status = how.ExitStatus(); {
			case c.err != nil:
				c.status = 124
			case how.Signaled():
				c.status, c.err = 128+int(how.Signal()), fmt.Errorf("signal: %v", how.Signal())
			case c.status != 0:
				c.err = fmt.Errorf("exit status %d", c.status)
			}
			return
		}
	}
}

// reap waits for all children until there are none: the command, and orphans that we have adopted. An orphan that
// nobody waits for stays a zombie, and with it the command's group would not be empty.
func (c *command) reap(ended chan<- syscall.WaitStatus) {
	var status syscall.WaitStatus
	for err := error(nil); err != syscall.ECHILD; {
		var pid int
		if pid, err = syscall.Wait4(-1, &status, 0, nil); pid == c.cmd.Process.Pid {
			ended <- status
		}
	}
}

// signal sends s to the command's group. If the command is in our group, signal sends s to the command alone: our
// caller may be in our group, too.
func (c *command) signal(s syscall.Signal) {
	target := c.cmd.Process.Pid
	if c.isGroup {
		target = -target
	}
	syscall.Kill(target, s)
	if s == syscall.SIGTERM {
		syscall.Kill(target, syscall.SIGCONT) // a stopped process would not end
		c.told = true
	}
}

// settle returns when the output is copied and, if the command got a TERM, the command's own group is empty. After the
// grace, settle kills that group, and the output that comes later is not read. settle takes longer than the grace only
// if those who read our own output are slow. Then a signal ends the wait.
func (c *command) settle() {
	over := time.Now().Add(grace)
	for _, f := range c.files {
		f.SetDeadline(over) // fails if f is a plain file or nil: these need no deadline
	}
	lingers := func() bool { return c.told && c.isGroup && syscall.Kill(-c.cmd.Process.Pid, 0) == nil }
	for lingers() && time.Now().Before(over) {
		time.Sleep(10 * time.Millisecond)
	}
	if lingers() {
		c.signal(syscall.SIGKILL)
	}
	for {
		select {
		case <-c.copied:
			return
		case <-c.signals:
			if time.Now().After(over) {
				return
			}
		}
	}
}
