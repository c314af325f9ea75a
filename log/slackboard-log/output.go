package main

// What the command prints, on its way: read as fast as it comes, kept in part.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"slackboard/cli"
)

const pipeSize = 64 << 10 // what a pipe holds: one read empties it

// output takes what the command prints.
type output struct {
	tee      bool
	complain func(error)
	files    []*os.File    // that may hold us up: the pipes, and a FIFO as the -log file
	copied   chan struct{} // closed when all pipes have come to their end
	mu       sync.Mutex    // for what follows: with -tee two streams write
	kept     cli.Text
	log      *os.File // nil without -log, once it cannot be written, and at the end
}

// openOutput opens the -log file. If that fails it says so, and the command runs all the same.
func openOutput(logFile string, tee bool, complain func(error)) *output {
	o := &output{tee: tee, complain: complain, copied: make(chan struct{})}
	if logFile != "" {
		// O_NONBLOCK: a FIFO that nobody reads is an error, and does not hold up the command.
		var err error
		o.log, err = os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o644)
		if err != nil {
			complain(fmt.Errorf("-log: %w", err))
		}
		o.files = append(o.files, o.log)
	}
	return o
}

// start starts cmd with its output connected: both streams to one pipe, which keeps their order, or with -tee each to
// its own.
func (o *output) start(cmd *exec.Cmd) error {
	tees := []*os.File{nil}
	if o.tee {
		tees = []*os.File{os.Stdout, os.Stderr}
	}
	var streams sync.WaitGroup
	for _, tee := range tees {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close() // after the start: the command has its own
		if cmd.Stdout == nil {
			cmd.Stdout = w
		}
		cmd.Stderr = w
		o.files = append(o.files, r)
		streams.Go(func() { o.copy(r, tee) })
	}
	go func() { streams.Wait(); close(o.copied) }()
	return cmd.Start()
}

// copy takes what r has until its end or its deadline. When nobody reads tee any more the command is told as it would
// be without us: by SIGPIPE.
func (o *output) copy(r, tee *os.File) {
	defer r.Close()
	buf := make([]byte, pipeSize)
	for end := error(nil); end == nil; {
		var n int
		if n, end = r.Read(buf); errors.Is(end, os.ErrDeadlineExceeded) { // what came before it may wait in the pipe
			r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			n, _ = r.Read(buf)
		}
		o.mu.Lock()
		o.kept.Write(buf[:n])
		if err := write(&o.log, buf[:n]); err != nil {
			o.complain(fmt.Errorf("-log: %w", err))
		}
		o.mu.Unlock()
		if err := write(&tee, buf[:n]); errors.Is(err, syscall.EPIPE) {
			return
		} else if err != nil {
			o.complain(fmt.Errorf("-tee: %w", err))
		}
	}
}

// write writes p to the file, if there is one still: after an error there is none.
func write(file **os.File, p []byte) (err error) {
	if *file != nil && len(p) > 0 {
		if _, err = (*file).Write(p); err != nil {
			*file = nil
		}
	}
	return err
}

// close ends the -log file, and returns what is kept.
func (o *output) close() *cli.Text {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.log != nil {
		if err := o.log.Close(); err != nil {
			o.complain(fmt.Errorf("-log: %w", err))
		}
		o.log = nil
	}
	return &o.kept
}
