package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// diskUse returns the bytes in use on the file system that dir lies on.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Blocks-fs.Bfree) * int64(fs.Bsize)
}

// full is a condition for load: 100 messages were answered 503.
func full(_, refused int) bool { return refused >= 100 }

// newFullDisk returns a test with a spool on a small disk, and with a Slack that is down.
func newFullDisk(t *testing.T) *crashTest {
	disk := SmallDisk(t)
	c := newCrashTest(t, 16)
	c.spool = filepath.Join(disk, "spool")
	for i, s := range c.senders {
		s.pad = strings.Repeat("x", 500*i) // small messages fill the last gap
	}
	c.history = "history_bytes = 0\n"
	c.down.Store(true)
	return c
}

// While the disk is full, messages are refused. When Slack works again, all accepted messages are delivered, disk use
// falls, and messages are accepted again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	c := newFullDisk(t)
	p := c.start()
	for range 2 {
		c.down.Store(true)
		c.load(p, full, func() {})
		before := diskUse(t, c.spool)
		c.down.Store(false)
		drained(t, p)
		Poll(t, "disk use falls", func() bool { return diskUse(t, c.spool) <= 2*segmentBytes+64<<10 })
		t.Logf("used when full: %d, drained: %d", before, diskUse(t, c.spool))
		c.load(p, accepted(500), func() {})
		drained(t, p)
	}
	c.verify(0)
}

// As TestFullDisk, with a server that is killed while the disk is full, and starts on the full disk.
func TestFullDiskAndKilled(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	c := newFullDisk(t)
	for range 2 {
		c.down.Store(true)
		p := c.start()
		c.load(p, full, p.Kill)
		p = c.start() // on the full disk
		if s := p.Stat(t); s.Waiting < 300 {
			t.Errorf("only %d messages wait, want 300 at least", s.Waiting)
		}
		c.load(p, full, p.Kill)
		c.down.Store(false)
		p = c.start()
		drained(t, p)
		c.load(p, accepted(100), p.Kill)
	}
	drained(t, c.start())
	c.verify(0)
}

// imageDisk is an ext4 file system in a file, used as a disk that can lose its power.
type imageDisk struct {
	t          *testing.T
	image, dir string
}

// newImageDisk makes and mounts an ext4 file system of 128 MiB.
func newImageDisk(t *testing.T) *imageDisk {
	t.Helper()
	NeedsRoot(t, "to mount an ext4 image")
	for _, tool := range []string{"mkfs.ext4", "mount", "umount", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("skipped:", err)
		}
	}
	d := &imageDisk{t, WriteFile(t, "ext4", ""), t.TempDir()}
	if err := os.Truncate(d.image, 128<<20); err != nil {
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

// runLine runs a command, whose words are separated by blanks, and returns its output.
func runLine(command string) (string, error) {
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	return string(out), err
}

// cutPower stops all writing at once: what is not on disk by now, the journal's last entries included, never gets
// there.
func (d *imageDisk) cutPower() {
	const ext4Shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
	noLogFlush := uint32(2)         // EXT4_GOING_FLAGS_NOLOGFLUSH
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer dir.Close()
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), ext4Shutdown,
		uintptr(unsafe.Pointer(&noLogFlush)))
	if errno != 0 {
		d.t.Fatal("shutdown of ext4: ", errno)
	}
}

// powerOn mounts the image again, which replays its journal. Before, it waits until the file system is gone from all
// mount namespaces, such as that of an unshare in a test of slackboard-log: else mount would take the same one again,
// without power.
func (d *imageDisk) powerOn() {
	d.t.Helper()
	d.run("umount " + d.dir)
	Poll(d.t, "the image has no loop device", func() bool { return d.run("losetup -j "+d.image) == "" })
	d.run("mount -o loop " + d.image + " " + d.dir)
}

// run runs a command, which must succeed, and returns its output.
func (d *imageDisk) run(command string) string {
	d.t.Helper()
	out, err := runLine(command)
	if err != nil {
		d.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

// As TestKill, with a disk that loses its power at the same moment: what was not synced is gone.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	disk := newImageDisk(t)
	c := newCrashTest(t, 16)
	c.spool, c.history = filepath.Join(disk.dir, "spool"), "history_bytes = 0\n"
	for i, s := range c.senders { // so that segments come and go
		s.pad = strings.Repeat("x", i<<12)
	}
	random := rand.New(rand.NewPCG(5, 6))
	for round := range Rounds(10, 2) {
		c.down.Store(round%3 == 0) // so that much waits
		p := c.start()
		c.load(p, accepted(50+random.IntN(400)), func() {
			// The kernel goes on: while it shuts down the journal, a sync may return without an error, although its
			// data are not on disk.
			c.noPower.Store(true)
			disk.cutPower()
			p.Kill()
		})
		disk.powerOn()
		c.noPower.Store(false)
	}
	c.down.Store(false)
	p := c.start()
	s := drained(t, p)
	p.Kill()
	c.verify(0)
	t.Logf("damaged: %d", s.Damaged)
}

// needsStrace skips the test for other users than root, and if there is no strace.
func needsStrace(t *testing.T) {
	t.Helper()
	NeedsRoot(t, "to trace the server")
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("skipped:", err)
	}
}

// traced returns the command that starts the next server under strace. With -D, the server is a child of the test.
func (c *crashTest) traced(output string, options ...string) *exec.Cmd {
	return c.command(append([]string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", output}, options...)...)
}

// A call for the disk fails when a thread of the server makes it for the nth time. No message that was answered 200 is
// lost, and the server goes on working.
func TestInjectedErrors(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	needsStrace(t)
	for _, fault := range []diskFault{{call: "fdatasync", errno: "EIO"}, {call: "pwrite64", errno: "ENOSPC"},
		{call: "pwrite64", errno: "EIO"}} {
		for n := range 4 {
			fault.n = n + 1
			t.Run(fault.String(), fault.inject)
		}
	}
	// Calls that begin or remove a segment, and those that read:
	for _, fault := range []diskFault{{call: "renameat", errno: "EIO"}, {call: "unlinkat", errno: "EIO"},
		{call: "fsync", errno: "EIO"},
		{call: "openat", errno: "EMFILE", file: "spare"}, {call: "openat", errno: "EIO", file: "spare"},
		{call: "pread64", errno: "EIO"}, {call: "openat", errno: "EMFILE", file: "00000001.log"}} {
		for n := range 2 {
			fault.n, fault.rolls = n+1, true
			if fault.file == "00000001.log" {
				fault.n += 9 // the start makes the first ones
			}
			t.Run(fault.String(), fault.inject)
		}
	}
}

// diskFault is an error that a call meets the nth time that a thread makes it.
type diskFault struct {
	call, errno, file string // only calls for file fail, if it is set
	n                 int
	rolls             bool // with traffic that begins and removes segments
}

func (f diskFault) String() string { return fmt.Sprintf("%s%s/%s/%d", f.call, f.file, f.errno, f.n) }

// inject runs a server whose call fails.
func (f diskFault) inject(t *testing.T) {
	c := newCrashTest(t, 4)
	if f.rolls {
		c.history = "history_bytes = 0\n"
		for _, s := range c.senders {
			s.pad = strings.Repeat("x", 120<<10)
		}
	}
	c.down.Store(f.n%2 == 1 && !f.rolls) // then only the spool has what was answered 200
	c.start().Kill()                     // makes a new spool, without errors
	trace := filepath.Join(t.TempDir(), "trace")
	options := []string{"-e", "trace=" + f.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, f.errno, f.n)}
	if f.file != "" {
		options = append(options, "-P", f.file)
	}
	p := StartServerIn(t, c.traced(trace, options...))
	injected := func() int { return strings.Count(ReadFile(t, trace), "(INJECTED)") }
	answered, after, refused := 0, 0, 0
	c.load(p, func(ok, no int) bool {
		refused = no
		// After the call has failed, the server has to accept 60 messages more.
		if answered++; after == 0 && answered%20 == 0 && injected() > 0 {
			after = ok + 60
		}
		return after > 0 && ok >= after
	}, func() {})
	if after == 0 {
		t.Fatalf("after %d messages, no thread has made its call %d of %s", answered, f.n, f.call)
	}
	if c.down.Load() && refused == 0 {
		t.Errorf("only accepting can have failed, but no message was refused: %s", ReadFile(t, trace))
	}
	c.down.Store(false)
	p.Kill()
	failed := injected()
	p = c.start()
	drained(t, p)
	p.Kill()
	c.verify(failed)
	t.Logf("%d times injected, %d refused", failed, refused)
}

// Delivered messages are kept for look-ups only as long as there is room: they do not keep new messages from being
// accepted for long.
func TestFullDiskWithNothingWaiting(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	slack := NewFakeSlack(t, nil)
	s := StartServer(t, ServerConfig(slack.URL)+"[spool]\nhistory_bytes = 1073741824\ndir='"+
		filepath.Join(SmallDisk(t), "spool")+"'\n")
	body := `{"tag":"general","text":"` + strings.Repeat("x", 1_000_000) + `"}`
	for i := range 100 {
		Poll(t, fmt.Sprintf("message %d is accepted", i), func() bool {
			status, _ := s.Request("POST", "/notify", body)
			return status == 200
		})
		Poll(t, "the message is delivered", func() bool { return s.Stat(t).Waiting == 0 })
	}
}

// limitFiles sets the size, in bytes, beyond which a process may not write a file: RLIMIT_FSIZE of prlimit(2).
func limitFiles(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: bytes, Max: 1<<64 - 1}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		t.Skip("skipped: prlimit: ", errno)
	}
}

// A server that may not write beyond the first MiB of a file any more (the kernel then sends SIGXFSZ) accepts nothing,
// and no lane goes on. When the limit is gone, everything goes on.
func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 16)
	for _, s := range c.senders {
		s.pad = strings.Repeat("x", 64<<10)
	}
	c.down.Store(true)
	p := c.start()
	c.load(p, accepted(50), func() {})
	limitFiles(t, p.Cmd.Process.Pid, 1<<20)
	c.load(p, full, func() {})
	c.down.Store(false)
	limitFiles(t, p.Cmd.Process.Pid, 1<<40)
	drained(t, p)
	c.load(p, accepted(400), func() {})
	t.Logf("%+v", drained(t, p))
	c.verify(0)
}

// A server that cannot make a segment does not start: it exits with 1 and says why in one line.
func TestFileSizeLimitAtStart(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 1)
	p := StartProcess(t, c.command("sh", "-c", `ulimit -f 2048 && exec "$@"`, "sh"))
	if code := p.Wait(); code != 1 || !strings.Contains(p.Stderr.String(), "file too large") ||
		strings.Count(p.Stderr.String(), "\n") != 1 {
		t.Errorf("exit %d, %s", code, p.Stderr.String())
	}
}
