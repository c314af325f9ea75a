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
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// levelNotice is above all others: what is logged at any level.
const levelNotice = slog.LevelError + 4

const (
	logRoom   = 2048            // lines that wait for a file
	flushTime = 2 * time.Second // at most, for the lines that wait when a file is closed
)

// logFile is a file that is written line by line. Write does not block: a goroutine writes what waits.
type logFile struct {
	room int          // for lines that wait
	lost atomic.Int64 // lines that could not be written

	mu    sync.Mutex
	to    io.WriteCloser
	lines chan []byte   // wait for to; nil if there is none
	ended chan struct{} // closed when all of them are written
}

// Write takes a line or, with an error, nothing of it.
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

// switchTo goes on with another file, or with none. The file before is closed once the lines that wait for it are
// written. switchTo does not wait for that; it closes ended.
func (l *logFile) switchTo(to io.WriteCloser) (ended <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines != nil {
		close(l.lines)
	}
	if f, ok := l.to.(*os.File); ok {
		f.SetWriteDeadline(time.Now().Add(flushTime)) // pipes have one; other files need none
	}
	ended, l.to, l.lines = l.ended, to, nil
	if to != nil {
		l.lines, l.ended = make(chan []byte, l.room), make(chan struct{})
		go l.run(to, l.lines, l.ended)
	}
	return ended
}

// run writes each line with a write of its own: the lines of several processes that write to one pipe do not mix.
func (l *logFile) run(to io.WriteCloser, lines <-chan []byte, ended chan<- struct{}) {
	defer close(ended)
	defer to.Close()
	for line := range lines {
		if _, err := to.Write(line); err != nil {
			l.lost.Add(1)
		}
	}
}

// unclosed is standard output or error: it stays open when a log goes on with another file.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// logs are where the server writes what it does.
type logs struct {
	access, errors logFile
	posts          logFile // of a dry run: standard output
	level          slog.LevelVar
	log            *slog.Logger              // to errors
	standard       map[string]io.WriteCloser // what "stdout" and "stderr" are
}

// newLogs returns logs that are on standard error until switchTo.
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

// switchTo goes on with the files and the level of cfg. It does not block. An error may leave some of it changed.
func (l *logs) switchTo(cfg *config) error {
	if l.level.UnmarshalText([]byte(cfg.log.level)) != nil {
		l.level.Set(levelNotice) // at panic and fatal, nothing but notices is logged
	}
	return errors.Join(l.open(&l.access, "access_log", cfg.log.access), l.open(&l.errors, "error_log", cfg.log.errors))
}

// open has log go on with the file of that name, which key names.
func (l *logs) open(log *logFile, key, name string) (err error) {
	file := l.standard[name]
	if file == nil { // opened for reading as well: a named pipe needs no reader then, and its reader may go
		file, err = os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	}
	if err != nil {
		return fmt.Errorf("log.%s: %w", key, err)
	}
	log.switchTo(file)
	return nil
}

// close writes what waits, for flushTime at most. What is logged after it is lost.
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

// dropped returns how many lines could not be written.
func (l *logs) dropped() int64 {
	return l.access.lost.Load() + l.errors.lost.Load() + l.posts.lost.Load()
}

// warn logs what is questionable in cfg.
func (l *logs) warn(cfg *config) {
	for _, warning := range cfg.warnings {
		l.notice(warning)
	}
}

// notice logs at any level.
func (l *logs) notice(msg string, args ...any) {
	l.log.Log(context.Background(), levelNotice, msg, args...)
}
