package main

// The logs: two files, which can change over to others while they are written. They cannot stop the server: if a file
// takes no lines, such as a pipe that nobody reads, lines are lost and nothing else.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// levelNotice is above all others: what is logged at any level.
const levelNotice = slog.LevelError + 4

const (
	outputRoom = 1 << 20         // bytes of lines that wait for a file, and as many that are being written
	flushTime  = 2 * time.Second // at most, for the lines that wait when a file is closed
)

var errNoRoom = errors.New("too many lines wait for the file")

// output is a file that is written line by line. Write does not block: one goroutine writes what waits.
type output struct {
	to   io.Writer
	lost *atomic.Int64 // counts the lines that could not be written

	mu      sync.Mutex
	more    sync.Cond // waiting or closed has changed
	waiting []byte
	closed  bool
	ended   chan struct{} // closed when all is written
}

func newOutput(to io.Writer, lost *atomic.Int64) *output {
	o := &output{to: to, lost: lost, ended: make(chan struct{})}
	o.more.L = &o.mu
	go o.run()
	return o
}

// Write takes p, one or more lines, whole or, with errNoRoom, not at all. If nothing waits, there is room for any p.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) > 0 && len(o.waiting)+len(p) > outputRoom {
		o.lost.Add(1)
		return 0, errNoRoom
	}
	o.waiting = append(o.waiting, p...)
	o.more.Signal()
	return len(p), nil
}

// run writes each line with a write of its own: the lines of several processes that write to one pipe do not mix.
func (o *output) run() {
	defer close(o.ended)
	for writing := o.next(nil); len(writing) > 0; writing = o.next(writing) {
		for line := range bytes.Lines(writing) {
			if _, err := o.to.Write(line); err != nil {
				o.lost.Add(1)
			}
		}
	}
	if f, ok := o.to.(io.Closer); ok {
		f.Close()
	}
}

// next returns what waits, nothing at the end. What is written goes on in the memory of written.
func (o *output) next(written []byte) (waiting []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.waiting) == 0 && !o.closed {
		o.more.Wait()
	}
	waiting, o.waiting = o.waiting, written[:0]
	return waiting
}

// close closes the file once what waits is written. It does not wait for that.
func (o *output) close() {
	if f, ok := o.to.(*os.File); ok {
		f.SetWriteDeadline(time.Now().Add(flushTime)) // pipes have one; other files need none
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.more.Signal()
}

// logFile is a log: what is written to it goes to the output of the moment.
type logFile struct {
	mu sync.Mutex
	to *output
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// change goes on with another output and returns the one before.
func (l *logFile) change(to *output) (before *output) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, l.to = l.to, to
	return before
}

// logs are where the server writes what it does.
type logs struct {
	access, errors logFile
	level          slog.LevelVar
	log            *slog.Logger // to errors
	stdout, stderr *output
	dryRun         bool // standard output is for the posts
	lost           atomic.Int64
}

// newLogs returns logs that are on standard error until change.
func newLogs(stdout, stderr io.Writer, dryRun bool) *logs {
	l := &logs{dryRun: dryRun}
	l.stdout, l.stderr = newOutput(stdout, &l.lost), newOutput(stderr, &l.lost)
	l.access.to, l.errors.to = l.stderr, l.stderr
	l.log = slog.New(slog.NewTextHandler(&l.errors, &slog.HandlerOptions{
		Level: &l.level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if level, ok := a.Value.Any().(slog.Level); ok && level == levelNotice {
				a.Value = slog.StringValue("NOTICE")
			}
			return a
		},
	}))
	return l
}

// change goes on with the files and the level of cfg. After an error all is as it was.
func (l *logs) change(cfg *config) error {
	access, err := l.open("access_log", cfg.log.access)
	if err != nil {
		return err
	}
	errors, err := l.open("error_log", cfg.log.errors)
	if err != nil {
		l.leave(access)
		return err
	}
	l.leave(l.access.change(access))
	l.leave(l.errors.change(errors))
	l.level.Set(levels()[cfg.log.level])
	return nil
}

// leave closes an output that no log uses any more. Standard output and error stay.
func (l *logs) leave(o *output) {
	if o != l.stdout && o != l.stderr {
		o.close()
	}
}

// open must not block. A file is opened for reading as well: so a named pipe needs no reader, and its reader may go.
func (l *logs) open(key, name string) (*output, error) {
	switch {
	case name == "stdout" && !l.dryRun:
		return l.stdout, nil
	case name == "stdout", name == "stderr":
		return l.stderr, nil
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log.%s: %w", key, err)
	}
	return newOutput(f, &l.lost), nil
}

// close writes what waits, for flushTime at most. What is logged after it is lost.
func (l *logs) close() {
	enough, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	for _, o := range []*output{l.access.change(l.stderr), l.errors.change(l.stderr), l.stdout, l.stderr} {
		o.close()
		select {
		case <-o.ended:
		case <-enough.Done():
		}
	}
}

// dropped returns how many lines could not be written.
func (l *logs) dropped() int64 { return l.lost.Load() }

// warn logs what is questionable in cfg.
func (l *logs) warn(cfg *config, listeners []net.Listener) {
	for _, warning := range cfg.warnings {
		l.notice(warning)
	}
	if exposed(cfg, listeners) {
		l.notice("anybody who reaches this server may post: " +
			"set auth_token or tls_client_ca in [core], or port to 127.0.0.1:PORT")
	}
}

// notice logs at any level.
func (l *logs) notice(msg string, args ...any) {
	l.log.Log(context.Background(), levelNotice, msg, args...)
}
