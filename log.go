package main

// The logs: two files, which can change over to others while they are written.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
)

// levelNotice is above all others: what is logged at any level.
const levelNotice = slog.LevelError + 4

// logs are where the server writes what it does.
type logs struct {
	access, errors logFile
	level          slog.LevelVar
	log            *slog.Logger // to errors
	std            [2]io.Writer // what the names stdout and stderr stand for
}

// logFile is a log. The zero one is closed.
type logFile struct {
	mu sync.Mutex
	to io.Writer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// change closes the file and goes on with another.
func (l *logFile) change(to io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.to.(*os.File); ok && f != os.Stdout && f != os.Stderr {
		f.Close()
	}
	l.to = to
}

// openLogs opens the log files of cfg. A dry run leaves standard output to the posts.
func openLogs(cfg *config, dryRun bool, stdout, stderr io.Writer) (*logs, error) {
	if dryRun {
		stdout = stderr
	}
	l := &logs{std: [2]io.Writer{stdout, stderr}}
	l.log = slog.New(slog.NewTextHandler(&l.errors, &slog.HandlerOptions{
		Level: &l.level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if level, ok := a.Value.Any().(slog.Level); ok && level == levelNotice {
				a.Value = slog.StringValue("NOTICE")
			}
			return a
		},
	}))
	return l, l.change(cfg)
}

// change goes on with the files and the level of cfg. After an error all is as it was.
func (l *logs) change(cfg *config) error {
	access, err := l.open("access_log", cfg.log.access)
	if err != nil {
		return err
	}
	errors, err := l.open("error_log", cfg.log.errors)
	if err != nil {
		return err
	}
	l.access.change(access)
	l.errors.change(errors)
	l.level.Set(levels()[cfg.log.level])
	return nil
}

func (l *logs) open(key, name string) (io.Writer, error) {
	switch name {
	case "stdout":
		return l.std[0], nil
	case "stderr":
		return l.std[1], nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log.%s: %w", key, err)
	}
	return f, nil
}

// warn logs what is questionable in cfg.
func (l *logs) warn(cfg *config, listeners []net.Listener) {
	for _, warning := range cfg.warnings {
		l.notice(warning)
	}
	if exposed(cfg, listeners) {
		l.notice("anybody who reaches this server may post: set auth_token or tls_client_ca in [core], or port to 127.0.0.1:PORT")
	}
}

// notice logs at any level.
func (l *logs) notice(msg string, args ...any) {
	l.log.Log(context.Background(), levelNotice, msg, args...)
}

// dropped returns how many lines could not be written: a stand-in for the logs branch's.
func (l *logs) dropped() int64 { return 0 }
