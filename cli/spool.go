package cli

// The folder that keeps what no server took: one file a request, DIR/20060102T150405.000000000Z-KEY.json, for its owner
// only. Names sort by time. A later run sends the oldest first; a file that is not a request, or that a server refuses,
// becomes *.bad. Nothing else in the folder is touched.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	drainMost = 100 // requests that one run sends for others
	drainTime = 10 * time.Second
)

// Flush sends what the spool keeps, for a run that has nothing to say itself. What cannot be sent stays.
func (f *Flags) Flush(ctx context.Context) {
	if w, err := f.way(); err == nil {
		f.sendKept(ctx, w)
	}
}

// keep returns nil once r would survive a power cut, and cause if it is not to be kept, or cannot be.
func (f *Flags) keep(r request, cause error) error {
	if f.Spool == "" || f.Sync {
		return cause
	}
	if err := store(f.Spool, r); err != nil {
		f.Complain(fmt.Errorf("-spool: not kept: %w", err))
		return cause
	}
	f.Complain(fmt.Errorf("kept in %s for a later run: %w", f.Spool, cause))
	return nil
}

// store returns nil once r is on disk.
func store(dir string, r request) error {
	if os.Mkdir(dir, 0o700) == nil {
		syncDir(filepath.Dir(dir))
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer tmp.Close()
	name := time.Now().UTC().Format("20060102T150405.000000000Z") + "-" + r.Key + ".json"
	for _, step := range []func() error{
		func() error { _, err := tmp.Write(encode(r)); return err },
		tmp.Sync,
		func() error { return os.Rename(tmp.Name(), filepath.Join(dir, name)) },
		func() error { return syncDir(dir) },
	} {
		if err := step(); err != nil {
			os.Remove(tmp.Name())
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sendKept sends the oldest kept requests, in order, unless another run is doing that. An error means that no server
// takes one now.
func (f *Flags) sendKept(ctx context.Context, w way) error {
	if f.Spool == "" {
		return nil
	}
	dir, err := os.Open(f.Spool)
	if err != nil {
		return nil // keep, should it come to that, says what is wrong with it
	}
	defer dir.Close() // and gives up the lock
	err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		f.Complain(fmt.Errorf("-spool: nothing kept is sent: %w", err))
		return nil
	}
	// The oldest first: a folder is read in the order of its names. The one error is a bad pattern.
	kept, _ := fs.Glob(os.DirFS(f.Spool), "*.json")
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	for _, name := range kept[:min(len(kept), drainMost)] {
		if err := f.sendFile(ctx, w, filepath.Join(f.Spool, name)); ctx.Err() != nil {
			return nil // the time is over, which says nothing about the next message
		} else if err != nil {
			return err
		}
	}
	return nil
}

// sendFile sends what path keeps, or sets it aside. An error means that no server takes it now.
func (f *Flags) sendFile(ctx context.Context, w way, path string) error {
	r, err := readKept(path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil // another user's, or dropped by someone
	}
	if err == nil {
		_, err = w.round(ctx, r)
	}
	var no refusal
	switch {
	case err == nil:
		err = os.Remove(path) // one that comes back after a power cut is known to the server by its key
	case errors.As(err, &no) && no.bad:
		f.Complain(fmt.Errorf("set aside as %s.bad: %w", path, err))
		err = os.Rename(path, path+".bad")
	default:
		return err
	}
	if err != nil {
		f.Complain(fmt.Errorf("-spool: %w", err))
	}
	return nil
}

// readKept returns the request in a file. One that store did not write is refused.
func readKept(path string) (r request, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // nobody waits for a FIFO
	if err != nil {
		return r, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, 2*MaxRequest))
	if err != nil {
		return r, refusal{fmt.Errorf("it is not a request: %w", err), true}
	}
	known := json.Unmarshal(content, &r) == nil && (r.Path == "/notify" || r.Path == "/notify-directly")
	if !known || !isWord(r.Key) || len(r.Body) == 0 || r.Body[0] != '{' {
		return r, refusal{errors.New("it is not a request"), true}
	}
	return r, nil
}
