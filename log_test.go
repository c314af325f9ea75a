package main

// The logs: a file that takes no lines must not stop the server.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// gate is a file whose writes block until open is closed.
type gate struct {
	e2e.Buffer
	open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(p)
}

// If a file does not take lines, logRoom lines wait for it. Further lines are lost and counted. When the file takes
// lines again, those that wait are written, in order.
func TestLogLosesLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		l := newLogs(&e2e.Buffer{}, g)
		line := strings.Repeat("x", 1023) + "\n"
		fmt.Fprint(&l.errors, "first\n")
		synctest.Wait() // the first line is being written: it does not wait any more
		for range logRoom + 5 {
			fmt.Fprint(&l.errors, line)
		}
		if got := l.lost(); got != 5 {
			t.Errorf("%d lines dropped, want 5", got)
		}
		close(g.open)
		synctest.Wait()
		fmt.Fprint(&l.errors, "last\n")
		synctest.Wait()
		if want := "first\n" + strings.Repeat(line, logRoom) + "last\n"; g.String() != want {
			t.Errorf("the file has %d bytes, want %d", len(g.String()), len(want))
		}
		l.close()
	})
}

// fullDisk is a file on a disk that is full.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// close writes the lines that wait. If a file blocks, close returns after flushTime. A line that the file refuses is
// counted as dropped and delays nothing.
func TestLogsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, g := &e2e.Buffer{}, &gate{open: make(chan struct{})}
		l := newLogs(out, g)
		fmt.Fprint(&l.posts, "last words\n")
		l.log.Error("nobody takes this")
		start := time.Now()
		l.close()
		if took := time.Since(start); took != flushTime || out.String() != "last words\n" {
			t.Errorf("close took %v, want flushTime; standard output has %q", took, out.String())
		}
		close(g.open)

		start = time.Now()
		l = newLogs(out, fullDisk{})
		l.log.Error("nobody takes this either")
		l.close()
		if took := time.Since(start); took != 0 || l.lost() != 1 {
			t.Errorf("close took %v, want 0; %d lines dropped, want 1", took, l.lost())
		}
	})
}

// A line is written to the file that was the log at that moment, even if the log changes to another file right after
// it. If a change fails, the server can go back to the file before.
func TestLogChanges(t *testing.T) {
	dir := t.TempDir()
	cfg := dryRunConfig()
	l := newLogs(os.Stdout, os.Stderr)
	for i := range 50 {
		cfg.log.access = filepath.Join(dir, fmt.Sprint(i))
		if err := l.switchTo(cfg); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			fmt.Fprintf(&l.access, "%d\n", i)
		}
	}
	for i := range 50 {
		want := strings.Repeat(fmt.Sprintln(i), 20)
		e2e.Poll(t, "all lines are there", func() bool {
			return e2e.ReadFile(t, filepath.Join(dir, fmt.Sprint(i))) == want
		})
	}
	cfg.log.access, cfg.log.errors = filepath.Join(dir, "new"), dir
	if err := l.switchTo(cfg); err == nil {
		t.Error("a folder was taken for a log")
	}
	cfg.log.access, cfg.log.errors = filepath.Join(dir, "49"), "stderr"
	if err := l.switchTo(cfg); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&l.access, "still\n")
	e2e.Poll(t, "the file before the error is in use again", func() bool {
		return strings.HasSuffix(e2e.ReadFile(t, filepath.Join(dir, "49")), "still\n")
	})
}

// If nobody reads the output of a dry run, a post that cannot be printed is not lost: it has to be tried again.
func TestPrinterWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		defer close(g.open)
		out := &logFile{room: 1}
		out.switchTo(unclosed{g})
		defer out.switchTo(nil)
		for i, want := range []class{delivered, delivered, retry} { // the first is being written, the second waits
			if o := (printer{out}).post(credential{}, []byte("{}")); o.class != want {
				t.Errorf("post %d: %+v", i, o)
			}
			synctest.Wait()
		}
	})
}

// A dry run takes three posts at the same moment, one for each of its tags, even if none of them is written yet.
func TestPrinterHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		l := newLogs(g, &e2e.Buffer{})
		defer l.close()
		defer close(g.open)
		for i := range 3 {
			if o := (printer{&l.posts}).post(credential{}, []byte("{}")); o.class != delivered {
				t.Errorf("post %d: %+v", i, o)
			}
			synctest.Wait()
		}
	})
}
