package main

// The logs: the access log and the error log. Each can switch to another file while the server writes to it. The logs
// cannot stop the server: if a file takes no lines, such as a pipe that nobody reads, the lines are lost, and nothing
// else happens.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// levelNotice is above all other levels: a notice is logged whatever log.level is.
const levelNotice = slog.LevelError + 4

const (
	logRoom   = 2048            // lines that wait for a file
	flushTime = 2 * time.Second // limit for writing the lines that wait, when a file is closed
)

// logFile writes lines to a file. Write does not block: it queues a line, and a goroutine, run, writes the line.
type logFile struct {
	room int          // how many lines may wait
	lost atomic.Int64 // lines that could not be written

	mu    sync.Mutex
	to    io.WriteCloser
	lines chan []byte   // lines that wait for to; nil if there is no file
	ended chan struct{} // closed when they are written and to is closed
}

// Write queues a whole line. It returns an error, and the line is lost, if too many lines wait or if there is no
// file.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.lines <- bytes.Clone(line):
		return len(line), nil
	default:
		l.lost.Add(1)
		return 0, errors.New("too many lines wait for the file")
	}
}

// switchTo switches to another file, or to none if to is nil. It does not wait for the old file. The lines that wait
// are still written to the old file, then the file is closed, then the channel ended is closed. Lines that a named
// pipe does not take within flushTime are lost.
func (l *logFile) switchTo(to io.WriteCloser) (ended <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines != nil {
		close(l.lines)
	}
	if f, ok := l.to.(*os.File); ok {
		f.SetWriteDeadline(time.Now().Add(flushTime)) // only pipes have a deadline; other files need none
	}
	ended, l.to, l.lines = l.ended, to, nil
	if to != nil {
		l.lines, l.ended = make(chan []byte, l.room), make(chan struct{})
		go l.run(to, l.lines, l.ended)
	}
	return ended
}

// run writes each line with one write. So the lines of several processes that write to one pipe do not mix, if they
// are not longer than PIPE_BUF: see pipe(7).
func (l *logFile) run(to io.WriteCloser, lines <-chan []byte, ended chan<- struct{}) {
	defer close(ended)
	defer to.Close()
	for line := range lines {
		if _, err := to.Write(line); err != nil {
			l.lost.Add(1)
		}
	}
}

// unclosed is standard output or standard error: it stays open when a log switches to another file.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// logs holds the log files of the server and, in a dry run, the output for posts.
type logs struct {
	access, errors logFile
	posts          logFile // of a dry run: standard output
	level          slog.LevelVar
	log            *slog.Logger              // writes to errors
	standard       map[string]io.WriteCloser // the files that "stdout" and "stderr" stand for
}

// newLogs returns logs that write to standard error until switchTo is called. The posts of a dry run go to standard
// output.
func newLogs(stdout, stderr io.Writer) *logs {
	l := &logs{standard: map[string]io.WriteCloser{"stdout": unclosed{stdout}, "stderr": unclosed{stderr}}}
	l.access.room, l.errors.room, l.posts.room = logRoom, logRoom, 8 // a post may be large
	l.access.switchTo(l.standard["stderr"])
	l.errors.switchTo(l.standard["stderr"])
	l.posts.switchTo(l.standard["stdout"])
	l.log = slog.New(slog.NewTextHandler(&l.errors, &slog.HandlerOptions{
		Level: &l.level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Any() == levelNotice {
				a.Value = slog.StringValue("NOTICE")
			}
			return a
		},
	}))
	return l
}

// switchTo switches to the log files and the level of cfg. It does not block. After an error, some of them may have
// been switched.
func (l *logs) switchTo(cfg *config) error {
	if l.level.UnmarshalText([]byte(cfg.log.level)) != nil {
		l.level.Set(levelNotice) // panic or fatal: only notices are logged
	}
	return errors.Join(l.open(&l.access, "access_log", cfg.log.access), l.open(&l.errors, "error_log", cfg.log.errors))
}

// open switches log to the file name, or to standard output or error if name is "stdout" or "stderr". key names the
// configuration's key in an error.
func (l *logs) open(log *logFile, key, name string) (err error) {
	file := l.standard[name]
	if file == nil { // a named pipe that is open for reading as well needs no reader: its reader may go away
		file, err = os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	}
	if err != nil {
		return fmt.Errorf("log.%s: %w", key, err)
	}
	log.switchTo(file)
	return nil
}

// close writes the lines that wait; it takes at most flushTime. Lines that are logged after close are lost.
func (l *logs) close() {
	enough := time.After(flushTime)
	for _, ended := range []<-chan struct{}{l.access.switchTo(nil), l.errors.switchTo(nil), l.posts.switchTo(nil)} {
		select {
		case <-ended:
		case <-enough:
			return
		}
	}
}

func (l *logs) lost() int64 {
	return l.access.lost.Load() + l.errors.lost.Load() + l.posts.lost.Load()
}

func (l *logs) warn(cfg *config) {
	for _, warning := range cfg.warnings {
		l.notice(warning)
	}
}

// notice logs msg whatever log.level is.
func (l *logs) notice(msg string, args ...any) {
	l.log.Log(context.Background(), levelNotice, msg, args...)
}
