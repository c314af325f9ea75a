package cli

// The folder that keeps messages until a server has them: one file each, DIR/20060102T150405.000000000Z-KEY.json, for
// its owner only. Names sort by time. The oldest goes first; what a server refuses for good becomes *.bad. Nothing
// else in the folder is touched.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const drainTime = 10 * time.Second // for what other runs have left, and for those to end that are sending it

// Flush sends what the spool keeps, for a run that has nothing to say itself. What cannot be sent stays.
func (f *Flags) Flush(ctx context.Context) { f.drain(ctx, "") }

// store returns the name of the file that keeps r once that would survive a power cut.
func store(dir string, r request) (name string, err error) {
	if os.Mkdir(dir, 0o700) == nil {
		syncDir(filepath.Dir(dir))
	}
	name = time.Now().UTC().Format("20060102T150405.000000000Z") + "-" + r.Key + ".json"
	tmp := filepath.Join(dir, ".new-"+r.Key)
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = file.Write(encode(r))
	err = cmp.Or(err, file.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return name, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		defer d.Close()
		err = d.Sync()
	}
	return err
}

// drain sends what the spool keeps, in order, up to the file own, unless another run is doing that: with a file of its
// own it waits for that run. It returns why own is not sent. What slackboard refuses for now holds up what goes to
// the same tag or channel, and nothing else.
func (f *Flags) drain(ctx context.Context, own string) failure {
	w, err := f.way()
	if err != nil {
		return failure{err: err}
	}
	late, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	dir, err := os.Open(f.Spool)
	if err != nil {
		return failure{err: err}
	}
	defer dir.Close() // and gives up the lock
	for errors.Is(syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		if own == "" || late.Err() != nil {
			return failure{err: errors.New("another run is sending")}
		}
		time.Sleep(20 * time.Millisecond)
	}
	blocked := map[string]failure{}
	names, _ := fs.Glob(os.DirFS(f.Spool), "*.json") // in order; the one error is a bad pattern
	for _, name := range names {
		path := filepath.Join(f.Spool, name)
		r, err := readKept(path)
		fail := blocked[r.To]
		switch {
		case errors.As(err, new(*fs.PathError)):
			f.Complain(fmt.Errorf("-spool: %w", err))
			continue
		case err != nil:
			fail = failure{err, refused, 0}
		case fail.err != nil:
		case name == own:
			fail = w.round(ctx, r)
		case late.Err() != nil:
			fail = failure{errors.New("older messages go first"), busy, 0}
		default:
			fail = w.round(late, r)
		}
		switch {
		case fail.err == nil || fail.kind == refused && name == own:
			err = os.Remove(path) // one that comes back after a power cut is known to the server by its key
		case fail.kind == refused:
			f.Complain(fmt.Errorf("set aside as %s.bad: %w", path, fail.err))
			err = os.Rename(path, path+".bad")
		case fail.kind == busy || late.Err() != nil:
			blocked[r.To] = fail
		default:
			return fail
		}
		if err != nil {
			f.Complain(fmt.Errorf("-spool: %w", err))
		}
		if name == own {
			return fail
		}
	}
	return failure{} // another run has sent own
}

// readKept returns the request in a file.
func readKept(path string) (r request, err error) {
	content, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(content, &r) != nil {
		err = errors.New("it is not a request")
	}
	return r, err
}
