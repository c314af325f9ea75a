package main

// Where the server listens: two that start at once.

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// staleSocket leaves a socket as a dead server does.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

// Two servers start at once on one socket, where a dead one left its own: one of them serves there, the other says why not.
func TestTwoStartsAtOnce(t *testing.T) {
	skipForRaces(t)
	for _, test := range []struct{ name, first, second, want string }{
		{"one spool", "spool", "spool", "spool is in use by another process"},
		{"two spools", "spool", "other", "a running server listens there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range rounds(50, 5) {
				dir := t.TempDir()
				socket := filepath.Join(dir, "s")
				staleSocket(t, socket)
				var two []*process
				for _, spool := range []string{test.first, test.second} {
					config := fmt.Sprintf("[core]\nport='unix:%s'\nslack_url='http://127.0.0.1:1/'\n[spool]\ndir='%s'\n", socket, filepath.Join(dir, spool))
					two = append(two, startProcess(t, exec.Command(filepath.Join(binaries, "slackboard"), "-c", writeFile(t, "s.toml", config))))
				}
				server, other := two[0], two[1]
				select {
				case <-server.ended:
					server, other = other, server
				case <-other.ended:
				case <-time.After(patience):
					t.Fatalf("both run: %s, %s", server.stderr.String(), other.stderr.String())
				}
				if code := other.wait(); code != 1 || !strings.Contains(other.stderr.String(), test.want) {
					t.Errorf("exit %d: %s", code, other.stderr.String())
				}
				server.addr = socket
				server.isAlive()
				server.signal(syscall.SIGTERM)
				if code := server.wait(); code != 0 {
					t.Errorf("exit %d: %s", code, server.stderr.String())
				}
			}
		})
	}
}

// If the folder of the socket is locked by another program, the start says so after a while.
func TestSocketFolderLocked(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := listenUnix(filepath.Join(dir, "s"), ""); err == nil || !strings.Contains(err.Error(), "lock its folder") {
			t.Errorf("got %v", err)
		}
	})
	f.Close()
	var opened atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if l, err := listenUnix(filepath.Join(dir, "s"), "0600"); err == nil {
				opened.Add(1)
				t.Cleanup(func() { l.Close() })
			}
		})
	}
	all.Wait()
	if opened.Load() != 1 {
		t.Errorf("%d listen on one socket", opened.Load())
	}
}
