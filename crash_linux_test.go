package main

// Full disks, power cuts and errors from the disk, real ones: what needs root on Linux.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

func needsRoot(t *testing.T, why string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, " + why)
	}
}

// diskUse returns the bytes in use on the file system that dir lies on.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize
}

// full is a measure for load: every sender has been refused some times.
func full(_, refused int) bool { return refused >= 100 }

func newFullDisk(t *testing.T) *crashTest {
	disk := smallDisk(t)
	c := newCrashTest(t, 16)
	c.spool = filepath.Join(disk, "spool")
	for i, s := range c.senders {
		s.pad = strings.Repeat("x", 500*i) // small ones fill the last gap
	}
	c.down.Store(true)
	return c
}

func TestFullDisk(t *testing.T) {
	c := newFullDisk(t)
	p := c.start()
	for range rounds(3, 1) {
		c.down.Store(true)
		c.load(p, full, func() {})
		before := diskUse(t, c.spool)
		c.down.Store(false)
		drained(t, p)
		poll(t, "disk use falls", func() bool { return diskUse(t, c.spool) < before/4 })
		t.Logf("used when full: %d, drained: %d", before, diskUse(t, c.spool))
		c.load(p, accepted(500), func() {})
		drained(t, p)
	}
	c.verify(0)
}

func TestFullDiskAndKilled(t *testing.T) {
	c := newFullDisk(t)
	for range rounds(5, 1) {
		c.down.Store(true)
		p := c.start()
		c.load(p, full, p.kill)
		p = c.start() // there is no room for anything
		if s := p.stat(t); s.Waiting < 300 {
			t.Errorf("only %d wait", s.Waiting)
		}
		c.load(p, full, p.kill)
		c.down.Store(false)
		p = c.start()
		drained(t, p)
		c.load(p, accepted(100), p.kill)
	}
	drained(t, c.start())
	c.verify(0)
}

// imageDisk is an ext4 file system in a file, and as good as a disk that can lose its power.
type imageDisk struct {
	t          *testing.T
	image, dir string
}

func newImageDisk(t *testing.T) *imageDisk {
	t.Helper()
	needsRoot(t, "to mount an ext4 image")
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("skipped:", err)
		}
	}
	d := &imageDisk{t, writeFile(t, "ext4", ""), t.TempDir()}
	if err := os.Truncate(d.image, 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"mkfs.ext4 -q -F " + d.image, "mount -o loop " + d.image + " " + d.dir} {
		if out, err := runLine(command); err != nil {
			t.Skipf("skipped: %s: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() { syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	return d
}

func runLine(command string) (string, error) {
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	return string(out), err
}

// cutPower stops all writing at once: what is not on disk by now, the journal's last entries included, never gets there.
func (d *imageDisk) cutPower() {
	const ext4Shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
	noLogFlush := uint32(2)         // EXT4_GOING_FLAGS_NOLOGFLUSH
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer dir.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&noLogFlush))); errno != 0 {
		d.t.Fatal("shutdown of ext4: ", errno)
	}
}

// powerOn mounts the image again, which replays its journal.
func (d *imageDisk) powerOn() {
	d.t.Helper()
	for _, command := range []string{"umount " + d.dir, "mount -o loop " + d.image + " " + d.dir} {
		if out, err := runLine(command); err != nil {
			d.t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
}

func TestPowerCut(t *testing.T) {
	disk := newImageDisk(t)
	c := newCrashTest(t, 16)
	c.spool = filepath.Join(disk.dir, "spool")
	random := rand.New(rand.NewPCG(5, 6))
	for round := range rounds(20, 2) {
		c.down.Store(round%3 == 0) // so that much waits
		p := c.start()
		c.load(p, accepted(50+random.IntN(400)), func() {
			// The kernel goes on: a sync may return while its journal is being shut down, and tell the server a lie.
			c.noPower.Store(true)
			disk.cutPower()
			p.kill()
		})
		disk.powerOn()
		c.noPower.Store(false)
	}
	c.down.Store(false)
	p := c.start()
	s := drained(t, p)
	p.kill()
	c.verify(0)
	t.Logf("damaged: %d", s.Damaged)
}

// A key is remembered once its message is on disk. If it were before, the same key again, after a power cut, would be
// answered ok and nothing would be sent.
func TestKeyAndPowerCut(t *testing.T) {
	needsStrace(t)
	disk := newImageDisk(t)
	c := newCrashTest(t, 4)
	c.spool = filepath.Join(disk.dir, "spool")
	const other, keyed = 0, 3
	c.refused = true
	p := c.start()
	c.send(p, keyed)
	p.kill()
	c.refused = false
	release := make(chan struct{})
	c.slack.setScript(func(d delivery) reply { <-release; return c.take(d) })
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)

	// While the second file is slow to sync, the first is done with and the next keyed message comes: one commit does both.
	first, second := filepath.Join(c.spool, "00000001.log"), filepath.Join(c.spool, "00000002.log")
	p = startServerIn(t, c.traced("/dev/null", "-P", second, "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=300000"))
	poll(t, "a post begins", c.slack.hasBegun)
	var sending sync.WaitGroup
	sending.Go(func() { c.senders[other].send(p.addr) })
	poll(t, "it is written", func() bool { return len(readFile(t, second)) > 0 })
	goOn()
	sending.Go(func() { c.senders[keyed].send(p.addr) })
	poll(t, "the first file is gone", func() bool { _, err := os.Stat(first); return err != nil })
	disk.syncJournal()
	c.noPower.Store(true)
	disk.cutPower()
	p.kill()
	sending.Wait()
	disk.powerOn()
	c.noPower.Store(false)

	p = c.start()
	c.send(p, keyed)
	drained(t, p)
	p.kill()
	c.verify(0)
}

// The same where the message could not be written: it was the first of a new file, for which an old one was done with.
func TestKeyAndFailedWrite(t *testing.T) {
	needsStrace(t)
	c := newCrashTest(t, 4)
	for _, s := range c.senders {
		s.pad = strings.Repeat("x", 35_000)
	}
	const keyed = 3
	first, second := filepath.Join(c.spool, "00000001.log"), filepath.Join(c.spool, "00000002.log")
	p := startServerIn(t, c.traced("/dev/null", "-P", second, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO"))
	size := func() int64 {
		info, err := os.Stat(first)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for i := 0; size() < segmentSize; i++ {
		c.send(p, i%4)
	}
	drained(t, p)
	if status := c.senders[keyed].send(p.addr); status != 503 {
		t.Errorf("a message that cannot be written: %d, want 503", status)
	}
	p.kill()
	p = c.start()
	c.send(p, keyed)
	drained(t, p)
	c.verify(0)
}

// syncJournal writes the journal, as the kernel does every few seconds, and the data of none but its own file.
func (d *imageDisk) syncJournal() {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "another"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
}

func needsStrace(t *testing.T) {
	t.Helper()
	needsRoot(t, "to trace the server")
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("skipped:", err)
	}
}

// traced returns the next server, run by strace. -D makes it the child of the test all the same.
func (c *crashTest) traced(output string, options ...string) *exec.Cmd {
	return c.command(append([]string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", output}, options...)...)
}

// The Nth time that a thread of the server makes the call, it fails.
func TestInjectedErrors(t *testing.T) {
	needsStrace(t)
	for _, fault := range []struct{ call, errno string }{{"fdatasync", "EIO"}, {"pwrite64", "ENOSPC"}, {"pwrite64", "EIO"}} {
		for n := range rounds(50, 3) {
			t.Run(fmt.Sprintf("%s/%s/%d", fault.call, fault.errno, n+1), func(t *testing.T) { injectError(t, fault.call, fault.errno, n+1) })
		}
	}
}

func injectError(t *testing.T, call, errno string, n int) {
	c := newCrashTest(t, 4)
	c.down.Store(n%2 == 1) // then the spool alone has what was acknowledged
	trace := filepath.Join(t.TempDir(), "trace")
	p := startServerIn(t, c.traced(trace, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", call, errno, n)))
	injected := func() int { return strings.Count(readFile(t, trace), "(INJECTED)") }
	answered, after, refused := 0, 0, 0
	c.load(p, func(ok, no int) bool {
		refused = no
		// It fails, and after it the server goes on working.
		if answered++; after == 0 && answered%20 == 0 && injected() > 0 {
			after = ok + 60
		}
		return after > 0 && ok >= after || answered >= 20_000
	}, func() {})
	if after == 0 {
		t.Fatalf("%d messages, and no %dth %s of a thread", answered, n, call)
	}
	if c.down.Load() && refused == 0 {
		t.Errorf("nothing but accepting can have failed, and nobody was refused: %s", readFile(t, trace))
	}
	c.down.Store(false)
	p.kill()
	failed := injected()
	p = c.start()
	drained(t, p)
	p.kill()
	c.verify(failed)
	t.Logf("%d times injected, %d refused", failed, refused)
}

func smallDisk(t *testing.T) string {
	t.Helper()
	needsRoot(t, "to mount a small tmpfs")
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("skipped: no tmpfs can be mounted here:", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

// A disk that is full of what was delivered frees itself.
func TestFullDiskWithNothingWaiting(t *testing.T) {
	slack := newFakeSlack(t, nil)
	s := startServer(t, server1(slack.URL)+"[spool]\ndir='"+filepath.Join(smallDisk(t), "spool")+"'\n")
	body := `{"tag":"general","text":"` + strings.Repeat("x", 200_000) + `"}`
	for i := range 60 {
		poll(t, fmt.Sprintf("message %d is accepted", i), func() bool {
			status, _ := s.request("POST", "/notify", body)
			return status == 200
		})
		poll(t, "it is delivered", func() bool { return s.stat(t).Waiting == 0 })
	}
}

// Without room for dead letters what Slack refuses is not posted without end, and nothing is lost.
func TestNoRoomForDeadLetters(t *testing.T) {
	disk := smallDisk(t)
	cfg := testConfig(t, hookAndTags)
	cfg.spool.dir = filepath.Join(disk, "spool")
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: down}
		p := newInProcess(t, cfg, slack)
		for i := range 3 {
			p.do("POST", "/notify", notifyBody("a", i, false))
		}
		filler := filepath.Join(disk, "filler")
		if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		slack.mu.Lock()
		slack.script = func(int, recorded) outcome { return outcome{class: badContent, reason: "no_text"} }
		slack.mu.Unlock()
		before := len(slack.all())
		time.Sleep(10 * time.Minute)
		if n := len(slack.all()) - before; n < 3 || n > 3*12 {
			t.Errorf("%d posts of 3 messages in 10 minutes without room", n)
		}
		os.Remove(filler)
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 3 || st.Waiting != 0 {
			t.Errorf("with room again: %+v", st)
		}
	})
}
