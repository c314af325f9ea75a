package main

// The command: its process group, the signals it gets, what it prints, and the status it leaves.

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

// grace is how long the command's children may go on after the command has ended: those that hold its output open, and
// those that got a TERM together with it.
const grace = 2 * time.Second

// command is what people want to run, while it runs, and what it leaves.
type command struct {
	cli.Flags
	noArgs, tee        bool
	logPath            string
	timeout, killAfter time.Duration

	cmd     *exec.Cmd
	signals chan os.Signal // to pass on to the command; after its end they are for us
	isGroup bool           // the command has a process group of its own
	told    bool           // the command got a TERM: its children have to end, too

	files  []*os.File    // reading or writing these may block: the pipes, and a FIFO as the -log file
	copied chan struct{} // closed when all pipes have come to their end
	mu     sync.Mutex    // for log and kept: with -tee two streams write
	log    *os.File      // nil without -log, and once it cannot be written
	kept   cli.Text

	started time.Time
	took    time.Duration
	status  int
	err     error // nil if it succeeded
}

// run runs args with our standard input, environment and folder, and returns once it has ended and its output is
// copied. If the -log file cannot be opened, the user is told, and args runs without it.
func (c *command) run(args []string) {
	c.cmd, c.started = exec.Command(args[0], args[1:]...), time.Now()
	c.signals, c.copied = make(chan os.Signal, 16), make(chan struct{})
	for _, s := range []os.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	} {
		if !signal.Ignored(s) { // as under nohup: the command ignores it, too
			signal.Notify(c.signals, s)
		}
	}
	if c.logPath != "" {
		// O_NONBLOCK: a FIFO that nobody reads is an error, and does not hold up the command.
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
		signal.Ignore(syscall.SIGUSR1, syscall.SIGUSR2) // they were for the command
		c.settle()
	case !errors.Is(c.err, exec.ErrNotFound) && !errors.Is(c.err, fs.ErrNotExist):
		c.status = 126 // as the shell's
	default:
		c.status = 127
		if strings.ContainsAny(args[0], " |&;<>()$=*") {
			c.err = fmt.Errorf("%w; for a shell line: -- sh -c '…'", c.err)
		}
	}
	c.mu.Lock() // for good: nothing is copied any more
	if err := c.log.Close(); c.log != nil && err != nil {
		c.Complain(fmt.Errorf("-log: %w", err))
	}
}

// start starts the command with its output connected: both streams to one pipe, which keeps their order, or with -tee
// each to its own. In the foreground of a terminal it stays in our process group: the terminal stops one that reads
// from it in another, and sends Ctrl-C to the one in its foreground only.
func (c *command) start() error {
	c.isGroup = !inForeground()
	if errors.Is(c.cmd.Err, exec.ErrDot) { // the PATH says so
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
		defer w.Close() // after the start: the command has its own
		c.cmd.Stdout, c.cmd.Stderr = cmp.Or[io.Writer](c.cmd.Stdout, w), w
		c.files = append(c.files, r)
		streams.Go(func() { c.copy(r, tee) })
	}
	go func() { streams.Wait(); close(c.copied) }()
	return c.cmd.Start()
}

// inForeground tells whether we are in the foreground of a terminal: tcgetpgrp(3).
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

// copy reads r until its end or its deadline. When nobody reads tee any more, the command gets SIGPIPE, as it would
// without us.
func (c *command) copy(r, tee *os.File) {
	defer r.Close()
	buf := make([]byte, 64<<10) // what a pipe holds: one read empties it
	for end := error(nil); end == nil; {
		var n int
		if n, end = r.Read(buf); errors.Is(end, os.ErrDeadlineExceeded) { // what came before it may wait in the pipe
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

// pass writes p to the file unless it is nil. After an error the user is told, and the file becomes nil.
func (c *command) pass(p []byte, file **os.File, flag string) (err error) {
	if *file != nil && len(p) > 0 {
		if _, err = (*file).Write(p); err != nil {
			c.Complain(fmt.Errorf("%s: %w", flag, err))
			*file = nil
		}
	}
	return err
}

// wait waits for the command's end. Until then it passes on our signals, and sends those of -timeout and -kill-after.
func (c *command) wait() {
	ended := make(chan syscall.WaitStatus, 1)
	go c.reap(ended)
	term, kill := time.After(cmp.Or(c.timeout, math.MaxInt64)), (<-chan time.Time)(nil)
	for {
		select {
		case s := <-c.signals:
			if c.isGroup || s != syscall.SIGINT && s != syscall.SIGQUIT { // those the terminal sent to it as well
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

// reap takes all children that end: the command, and orphans that have become ours. A zombie would keep the command's
// group from being empty.
func (c *command) reap(ended chan<- syscall.WaitStatus) {
	var status syscall.WaitStatus
	for err := error(nil); err != syscall.ECHILD; {
		var pid int
		if pid, err = syscall.Wait4(-1, &status, 0, nil); pid == c.cmd.Process.Pid {
			ended <- status
		}
	}
}

// signal sends s to the command's group or, if the command is in our group, to the command alone: our caller may be in
// our group, too.
func (c *command) signal(s syscall.Signal) {
	target := c.cmd.Process.Pid
	if c.isGroup {
		target = -target
	}
	syscall.Kill(target, s)
	if s == syscall.SIGTERM {
		syscall.Kill(target, syscall.SIGCONT) // a process that is stopped would not end
		c.told = true
	}
}

// settle returns when the output is at its end and, if the command got a TERM, when its group is empty. That takes the
// grace at most, except if those who read our own output are slower: then a signal ends the wait.
func (c *command) settle() {
	over := time.Now().Add(grace)
	for _, f := range c.files {
		f.SetDeadline(over) // an error means that it is not needed: f is a plain file, or nil
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
