package e2e

// What crashes, damage and errors may cost. No message that was answered 200 is lost, unless its line in the spool is
// damaged. The tests run the real binary: senders number their messages, a fake Slack keeps the numbers, and both are
// compared.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// segmentBytes is the size of a file of the spool.
const segmentBytes = 16 << 20

// drained waits until no message waits in p, and returns the counters.
func drained(t testing.TB, p *Process) (s Stat) {
	t.Helper()
	Poll(t, "nothing waits", func() bool { s = p.Stat(t); return s.Waiting == 0 })
	return s
}

// crashTest has one spool, the servers that run on it one after the other, the Slack that they post to, and one sender
// for each destination: so it is known in which order the messages of a destination were accepted.
type crashTest struct {
	t       testing.TB
	slack   *FakeSlack
	down    atomic.Bool // Slack answers 503
	noPower atomic.Bool // answers and posts of the server do not count: its host has lost its power
	refused bool        // nobody listens at the address that the next server has for Slack
	history string      // a line of [spool]
	spool   string
	starts  int
	senders []*crashSender
	mu      sync.Mutex
	got     map[arrival][][]int // for each post, the numbers of its messages
}

// arrival says which server posted (the first is 1), and to which channel.
type arrival struct {
	start   int
	channel string
}

// newCrashTest returns a test with so many destinations and senders. Every fourth sender is keyed.
func newCrashTest(t testing.TB, destinations int) *crashTest {
	c := &crashTest{t: t, spool: filepath.Join(t.TempDir(), "spool"), got: map[arrival][][]int{}}
	c.slack = NewFakeSlack(t, c.take)
	for i := range destinations {
		c.senders = append(c.senders,
			&crashSender{c: c, tag: fmt.Sprintf("t%d", i), keyed: i%4 == 3, refused: map[int]bool{}})
	}
	return c
}

// take is Slack: it notes the numbers in a post. The path of the webhook says which server made the post.
func (c *crashTest) take(d Delivery) Reply {
	if c.down.Load() || c.noPower.Load() {
		return Reply{Status: 503, Body: "down"}
	}
	start, err := strconv.Atoi(path.Base(d.Path))
	var post struct {
		Channel, Text string
		Attachments   []struct{ Text string } // of messages that were merged
	}
	if err == nil {
		err = json.Unmarshal([]byte(d.Body), &post)
	}
	texts := []string{post.Text}[:min(len(post.Text), 1)]
	for _, a := range post.Attachments {
		texts = append(texts, a.Text)
	}
	var numbers []int
	for _, text := range texts {
		n, err2 := strconv.Atoi(strings.SplitN(text, " ", 2)[0])
		numbers, err = append(numbers, n), cmp.Or(err, err2)
	}
	if err != nil || numbers == nil {
		c.t.Errorf("slack got %s %.200q: %v", d.Path, d.Body, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := arrival{start, post.Channel}
	c.got[at] = append(c.got[at], numbers)
	return Reply{}
}

// command returns the command that starts the next server. If before is given, such as strace with its flags, that runs
// the server.
func (c *crashTest) command(before ...string) *exec.Cmd {
	c.starts++
	url := c.slack.URL
	if c.refused {
		url = "http://127.0.0.1:1"
	}
	var toml strings.Builder
	batch := 1 + c.starts%2*19 // every other server merges messages
	fmt.Fprintf(&toml,
		"[core]\nport='127.0.0.1:0'\nchannel_rate=0\nbatch=%d\nslack_url='%s/services/%d'\n[spool]\ndir='%s'\n%s",
		batch, url, c.starts, c.spool, c.history)
	for _, s := range c.senders {
		fmt.Fprintf(&toml, "[[tags]]\ntag='%s'\nchannel='#%s'\n", s.tag, s.tag)
	}
	args := append(before, Program("slackboard"), "-c", WriteFile(c.t, "slackboard.toml", toml.String()))
	return exec.Command(args[0], args[1:]...)
}

// start starts the next server.
func (c *crashTest) start() *Process {
	c.t.Helper()
	return StartServerIn(c.t, c.command())
}

// load has every sender send to p, one message after the other. Once enough says that enough of them were answered 200
// (ok) or 503 (refused), it calls then, while the senders go on. It returns when they have stopped.
func (c *crashTest) load(p *Process, enough func(ok, refused int) bool, then func()) {
	c.t.Helper()
	var mu sync.Mutex
	var ok, refused int
	reached, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	reach := sync.OnceFunc(func() { close(reached) })
	var sending sync.WaitGroup
	for _, s := range c.senders {
		sending.Go(func() {
			defer s.client.CloseIdleConnections()
			for s.goesOn(stop) {
				status := s.send(p.Addr)
				if status == 0 {
					return // the server is gone
				}
				mu.Lock()
				if status == 200 {
					ok++
				} else {
					refused++
				}
				if enough(ok, refused) {
					reach()
				}
				mu.Unlock()
			}
		})
	}
	go func() { sending.Wait(); close(stopped) }()
	select {
	case <-reached:
		then()
	case <-stopped:
		c.t.Errorf("the server went away: %s", p.Stderr.String())
	case <-time.After(Patience):
		c.t.Errorf("too few answers: %d times 200, %d times 503: %s", ok, refused, p.Stderr.String())
	}
	close(stop)
	<-stopped
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// accepted is a condition for load: n messages were answered 200.
func accepted(n int) func(int, int) bool { return func(ok, _ int) bool { return ok >= n } }

// verify compares what Slack got with what the senders know, once everything is delivered: no message that was answered
// 200 is lost, none that was answered 503 came, and each destination got its messages in order. There was a crash
// between any two starts. It may double one post of each destination, and so may each of the failed writes.
func (c *crashTest) verify(failed int) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	acked, delivered, doubled := 0, 0, 0
	for _, s := range c.senders {
		type place struct{ start, post int }
		seen, last, post := map[int]place{}, -1, 0  // where a number came last
		doubles := make([]map[int]bool, c.starts+1) // of each server: its posts that came again, in whole or in part
		for start := 1; start <= c.starts; start++ {
			doubles[start] = map[int]bool{}
			for _, numbers := range c.got[arrival{start, "#" + s.tag}] {
				post++
				delivered += len(numbers)
				for _, n := range numbers {
					switch before, isDouble := seen[n]; {
					case before.start == start:
						c.t.Errorf("%s: server %d posted %d twice", s.tag, start, n)
					case isDouble:
						doubles[before.start][before.post] = true
					case n < last:
						c.t.Errorf("%s: server %d posted %d after %d", s.tag, start, n, last)
					}
					seen[n], last = place{start, post}, max(last, n)
				}
			}
		}
		for start, posts := range doubles {
			if doubled += len(posts); len(posts) > 1+failed {
				c.t.Errorf("%s: %d posts of server %d came again, want at most %d", s.tag, len(posts), start, 1+failed)
			}
		}
		var lost, ghosts []int
		for _, n := range s.acked {
			if seen[n].start == 0 {
				lost = append(lost, n)
			}
		}
		for n := range s.refused {
			if seen[n].start > 0 {
				ghosts = append(ghosts, n)
			}
		}
		if acked += len(s.acked); len(lost)+len(ghosts) > 0 {
			c.t.Errorf("%s: %d of %d answered 200 are lost: %.200s; answered 503, but delivered: %v", s.tag, len(lost),
				len(s.acked), fmt.Sprint(lost), ghosts)
		}
	}
	if acked == 0 {
		c.t.Error("no message was answered 200: the test shows nothing")
	}
	c.t.Logf("%d starts, %d acknowledged, %d delivered, %d posts doubled", c.starts, acked, delivered, doubled)
}

// crashSender sends numbered messages for one destination. If no answer comes, it goes on with the next number. A keyed
// one sends the same message with the same key again, until it is accepted.
type crashSender struct {
	c       *crashTest
	tag     string
	keyed   bool
	pad     string // the text after the number
	next    int
	acked   []int        // answered 200
	refused map[int]bool // answered 503
	client  http.Client
}

// goesOn reports whether stop is still open.
func (s *crashSender) goesOn(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

// send sends one message and returns the status, 0 if no complete answer came.
func (s *crashSender) send(addr string) int {
	if s.client.Transport == nil {
		s.client = http.Client{Transport: &http.Transport{}, Timeout: Patience} // a connection of its own, kept alive
	}
	n := s.next
	body := fmt.Sprintf(`{"tag":%q,"text":"%d %s"}`, s.tag, n, s.pad)
	req, err := http.NewRequest("POST", "http://"+addr+"/notify", strings.NewReader(body))
	if err != nil {
		s.c.t.Error(err)
		return 0
	}
	if s.keyed {
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", s.tag, n))
	} else {
		s.next++
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0
	}
	answer, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	switch {
	case err != nil || s.c.noPower.Load():
		return 0
	case resp.StatusCode == 200 && bytes.Contains(answer, []byte(`"ids":["`)):
		s.acked = append(s.acked, n)
		s.next = n + 1
	case resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "":
		if !s.keyed {
			s.refused[n] = true
		}
	default:
		s.c.t.Errorf("%s: %d %s %v", s.tag, resp.StatusCode, answer, resp.Header)
		return 0
	}
	return resp.StatusCode
}

// A server that is killed at any moment, also during its start, loses no message that was answered 200. Each kill
// doubles one post of each destination at most.
func TestKill(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 16)
	random := rand.New(rand.NewPCG(1, 2))
	for range Rounds(50, 4) {
		if random.IntN(4) == 0 { // in the middle of its start
			p := StartProcess(t, c.command())
			<-time.After(time.Duration(random.IntN(20_000)) * time.Microsecond)
			p.Kill()
		}
		p := c.start()
		c.load(p, accepted(1+random.IntN(400)), p.Kill)
	}
	drained(t, c.start())
	c.verify(0)
}

// As TestKill, with messages so large that segments are begun and removed all the time.
func TestKillWhileCleaning(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 8)
	c.history = "history_bytes = 0\n"
	for _, s := range c.senders {
		s.pad = strings.Repeat("x", 100<<10)
	}
	random := rand.New(rand.NewPCG(7, 8))
	for round := range Rounds(20, 3) {
		c.down.Store(round%5 == 2) // then waiting messages are carried forward
		if random.IntN(2) == 0 {
			p := StartProcess(t, c.command())
			<-time.After(time.Duration(random.IntN(40_000)) * time.Microsecond)
			p.Kill()
		}
		p := c.start()
		c.load(p, accepted(1+random.IntN(400)), p.Kill)
	}
	c.down.Store(false)
	s := drained(t, c.start())
	c.verify(0)
	t.Logf("damaged: %d", s.Damaged)
}

// As TestKill, while Slack is down or cannot be reached: the next servers find all messages and deliver them when Slack
// works again.
func TestKillWhileSlackIsDown(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 16)
	for round := range Rounds(10, 2) {
		c.refused = round%2 == 1
		c.down.Store(true)
		for range 2 { // the second server finds what the first one has accepted
			p := c.start()
			c.load(p, accepted(150), p.Kill)
		}
		c.refused = false
		c.down.Store(false)
		p := c.start()
		if s := p.Stat(t); s.FoundAtStart < 300 {
			t.Errorf("found %d at start, want at least 300", s.FoundAtStart)
		}
		c.load(p, accepted(50), p.Kill) // while it drains
	}
	drained(t, c.start())
	c.verify(0)
}

// A second server on the same spool exits with 1 and one line that names the spool, and does not touch it. The first
// server goes on.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	c := newCrashTest(t, 2)
	release := make(chan struct{})
	c.slack.SetScript(func(d Delivery) Reply { <-release; return c.take(d) }) // the spool does not change until then
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	first := c.start()
	c.send(first, 0, 1, 0, 1, 0)
	Poll(t, "both lanes post", func() bool { return c.slack.Begun() == 2 })
	before := Snapshot(t, c.spool)
	second := StartProcess(t, c.command())
	code, stderr := second.Wait(), second.Stderr.String()
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.spool) ||
		second.Stdout.String() != "" {
		t.Errorf("the second server: exit %d, stdout %q, stderr %q; want 1 and a line that names %s", code,
			second.Stdout.String(), stderr, c.spool)
	}
	if after := Snapshot(t, c.spool); !maps.Equal(before, after) {
		t.Errorf("the second server touched the spool: before %q, after %q", before, after)
	}
	goOn()
	c.send(first, 0, 1)
	if s := drained(t, first); s.Delivered != 7 || s.Accepted != 7 {
		t.Errorf("the first server: %+v, want 7 accepted and delivered", s)
	}
	c.verify(0)
}

// send sends one message of each of these senders. Each must be answered 200.
func (c *crashTest) send(p *Process, senders ...int) {
	c.t.Helper()
	for _, i := range senders {
		if status := c.senders[i].send(p.Addr); status != 200 {
			c.t.Fatalf("message %d of sender %d: %d, want 200", c.senders[i].next-1, i, status)
		}
	}
}

// spoolFiles are the files of a spool by name.
type spoolFiles map[string][]byte

// readSpool returns the files of a spool, without the spare segment and the zeros at the end of a file.
func readSpool(t testing.TB, dir string) spoolFiles {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := spoolFiles{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "spare") {
			continue // a server makes it anew when it starts
		}
		files[e.Name()] = bytes.TrimRight([]byte(ReadFile(t, filepath.Join(dir, e.Name()))), "\x00")
	}
	return files
}

// write makes dir anew, with these files and no others.
func (f spoolFiles) write(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range f {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// segment returns the name of the only segment that has lines.
func (f spoolFiles) segment(t testing.TB) (segment string) {
	t.Helper()
	for name, content := range f {
		if filepath.Ext(name) == ".log" && len(content) > 0 {
			if segment != "" {
				t.Fatalf("there are lines in two segments, %s and %s", segment, name)
			}
			segment = name
		}
	}
	return segment
}

// lineForm matches a W line. Its groups are the checksum, the bytes that it covers, the length, the bytes that it
// counts, and the number in the message's text.
var lineForm = regexp.MustCompile(
	`^([0-9a-f]{8}) (([0-9a-f]{8}) (W [0-9]+ 0 [0-9]+ 0 \S+ \S+ \{.*"text":"([0-9]+) .*\}))\n$`)

// fillSpool returns the files of a spool with n waiting messages, numbered from 0, as a killed server has left it, and
// the lines of the messages. The lines are checked against the documented format, without the server's own code.
func fillSpool(c *crashTest, n int) (files spoolFiles, records [][]byte) {
	c.t.Helper()
	c.refused = true
	p := c.start()
	for i := range n {
		s := c.senders[i%len(c.senders)]
		s.next = i
		if status := s.send(p.Addr); status != 200 {
			c.t.Fatalf("message %d: %d", i, status)
		}
	}
	p.Kill()
	c.refused = false
	files = readSpool(c.t, c.spool)
	records = slices.Collect(bytes.Lines(files[files.segment(c.t)]))
	if len(records) != n {
		c.t.Fatalf("%d lines, want %d: %q", len(records), n, files)
	}
	for i, line := range records {
		m := lineForm.FindSubmatch(line)
		if m == nil || string(m[1]) != fmt.Sprintf("%08x", crc32.Checksum(m[2], crc32.MakeTable(crc32.Castagnoli))) ||
			string(m[3]) != fmt.Sprintf("%08x", len(m[4])) || string(m[5]) != strconv.Itoa(i) {
			c.t.Fatalf("line %d is not as documented: %q", i, line)
		}
	}
	return files, records
}

// deliverFrom starts a server on these files, waits until no message waits, and kills it. It returns how often each
// number was posted, the counters, and the files of the spool after that.
func (c *crashTest) deliverFrom(files spoolFiles) (posted map[int]int, s Stat, left spoolFiles) {
	c.t.Helper()
	files.write(c.t, c.spool)
	return c.deliverAgain(files)
}

// deliverAgain is deliverFrom with the files that are in the spool already.
func (c *crashTest) deliverAgain(files spoolFiles) (posted map[int]int, s Stat, left spoolFiles) {
	c.t.Helper()
	p := c.start()
	s = drained(c.t, p)
	p.Kill()
	left = readSpool(c.t, c.spool)
	posted = map[int]int{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, numbers := range c.got {
		if at.start == c.starts {
			all := slices.Concat(numbers...)
			for _, n := range all {
				posted[n]++
			}
			if !slices.IsSorted(all) {
				c.t.Errorf("%s got %v, which is not in order", at.channel, all)
			}
			delete(c.got, at)
		}
	}
	return posted, s, left
}

// If one bit of the log is flipped, whichever it is, one message at most is lost. The damaged line is counted, unless
// it is the last, and the file is kept as it was. A bit of a newline costs nothing.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	maker := newCrashTest(t, 5)
	for _, s := range maker.senders {
		// J and * differ from a newline by one bit. The rest looks like the beginning of a line.
		s.pad = "JJJJJJJJ******** 0123abcd 00000018 W 7 0 8 0 "
	}
	files, records := fillSpool(maker, 20)
	segment := files.segment(t)
	step := int64(Rounds(97, 1999)) // TestEachBit flips each bit of each byte, in one process
	var next, starts atomic.Int64
	began := time.Now()
	t.Run("flips", func(t *testing.T) {
		for worker := range 4 {
			t.Run(strconv.Itoa(worker), func(t *testing.T) {
				t.Parallel()
				c := newCrashTest(t, 5)
				for at := next.Add(step) - step; at < int64(len(files[segment])); at = next.Add(step) - step {
					checkFlip(c, files, segment, records, int(at))
					starts.Add(1)
				}
			})
		}
	})
	t.Logf("%d starts, %v each", starts.Load(), time.Since(began)/time.Duration(starts.Load()))
}

// checkFlip flips one bit of byte at, delivers from the spool, and checks what that has cost.
func checkFlip(c *crashTest, files spoolFiles, segment string, records [][]byte, at int) {
	c.t.Helper()
	hit, offset := 0, at
	for ; offset >= len(records[hit]); hit++ {
		offset -= len(records[hit])
	}
	bit := (hit + offset) % 8 // so that each bit is flipped in every field
	flipped := bytes.Clone(files[segment])
	flipped[at] ^= 1 << bit
	damaged := maps.Clone(files)
	damaged[segment] = flipped
	posted, s, left := c.deliverFrom(damaged)
	fault := func(format string, args ...any) {
		c.t.Helper()
		c.t.Errorf("bit %d of byte %d, in line %d at %d (%q), is flipped: "+format,
			append([]any{bit, at, hit, offset, files[segment][at]}, args...)...)
	}
	for i := range records {
		if posted[i] != 1 && (i != hit || posted[i] != 0) {
			fault("message %d was posted %d times", i, posted[i])
		}
	}
	lost, last, letter := posted[hit] == 0, hit == len(records)-1, files[segment][at] >= 'a' &&
		files[segment][at] <= 'f'
	const sum = 8 // where the checksum ends: A is the same digit as a
	harmless := offset == len(records[hit])-1 || offset < sum && letter && bit == 5
	switch {
	case lost == harmless:
		fault("its message is lost: %v", lost)
	case lost && !last && s.Damaged == 0, s.Damaged > 2, !lost && s.Damaged > 0: // a crash may have torn the last
		fault("its message is lost: %v, but %d damaged lines are counted", lost, s.Damaged)
	}
	if !last && !bytes.HasPrefix(left[segment], flipped) {
		fault("the damaged file is not kept as it was: %q", left[segment])
	}
}

// However the files of a spool are damaged, each message whose line is whole is posted once, and nothing else. Damage
// is counted if a whole line follows it, or if it ends a segment that is not the newest: no crash leaves that.
func TestDamage(t *testing.T) {
	t.Parallel()
	maker := newCrashTest(t, 5)
	for _, s := range maker.senders {
		s.pad = strings.Repeat("0123456789", 25)
	}
	original, records := fillSpool(maker, 200)
	segment := original.segment(t)
	size := len(original[segment])
	last := size - len(records[199])
	random := rand.New(rand.NewPCG(3, 4))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	insert := func(at int, what []byte) func([]byte) []byte {
		return func(b []byte) []byte { return slices.Insert(b, at, what...) }
	}
	overwrite := func(times, length int) func([]byte) []byte {
		return func(b []byte) []byte {
			for range times {
				copy(b[random.IntN(size):], noise(1+random.IntN(length)))
			}
			return b
		}
	}
	type damage struct {
		name    string
		to      func(segment []byte) []byte
		counted bool // not if a crash could have left the same, nor if nothing shows that something is missing
	}
	cases := []damage{
		{"none", cut(size), false},
		{"a file of length zero", cut(0), false},
		{"the first byte is left", cut(1), false},
		{"cut between records", cut(last), false},
		{"cut in a checksum", cut(last + 5), false}, // a crash may have torn a line after which no whole one follows
		{"cut in a route", cut(last + 35), false},
		{"cut in the last record", cut(size - 50), false},
		{"cut in a record in the middle", cut(size / 2), false},
		{"without the final newline", cut(size - 1), false},
		{"a page of zeros", func(b []byte) []byte { clear(b[4096:8192]); return b }, true},
		{"the first page is zeros", func(b []byte) []byte { clear(b[:4096]); return b }, true},
		{"the last page is zeros", func(b []byte) []byte { clear(b[size&^4095:]); return b }, false},
		{"zeros at the end", insert(size, make([]byte, 10_000)), false},
		{"a megabyte of zeros in the middle", insert(last, make([]byte, 1<<20)), true},
		{"all is zeros", func(b []byte) []byte { clear(b); return b }, false},
		{"all is noise", func([]byte) []byte { return noise(size) }, false},
		{"noise at the end", insert(size, noise(5000)), false},
		{"noise in front", insert(0, append(noise(5000), '\n')), true},
		{"noise in front, without a newline", insert(0, append(bytes.ReplaceAll(noise(5000), []byte("\n"), nil), 'x')),
			true},
		{"an endless line", insert(last, append(bytes.Repeat([]byte("x"), 3<<20), '\n')), true},
		{"an endless line that is a message's beginning",
			insert(last, append(append(bytes.Clone(records[3][:60]), bytes.Repeat([]byte("x"), 3<<20)...), '\n')),
			true},
		{"empty lines", insert(last, []byte("\n\n\n")), true},
		{"a record twice", insert(last, records[7]), false},
		{"a record inside another", insert(last+40, records[7]), true},
	}
	for i := range Rounds(20, 2) {
		cases = append(cases, damage{fmt.Sprintf("overwritten %d", i), overwrite(2+random.IntN(8), 2000), true})
	}
	check := func(name string, files spoolFiles, counted bool) {
		t.Run(name, func(t *testing.T) { newCrashTest(t, 5).checkDamage(files, records, counted) })
	}
	for _, test := range cases {
		files := maps.Clone(original)
		files[segment] = test.to(bytes.Clone(original[segment]))
		check(test.name, files, test.counted)
	}
	for name, content := range map[string][]byte{"00099999.log": noise(10_000), "00000000.log": noise(100)} {
		files := maps.Clone(original)
		files[name] = content
		check("noise as "+name, files, false)
	}
	for name, content := range map[string][]byte{"small": original[segment], "large": noise(segmentBytes + 1000),
		"stale": append(bytes.Clone(original[segment]), make([]byte, segmentBytes-size)...)} {
		files := maps.Clone(original)
		files["spare"] = content
		check("a spare that is "+name, files, false)
	}
	files := maps.Clone(original)
	files["00000077.log"] = original[segment]
	check("the same file twice", files, false)
	files = maps.Clone(original)
	files["00000077.log"] = nil
	files[segment] = append(bytes.Clone(original[segment]),
		"what a crash would not leave in a segment that is not the newest"...)
	check("damage at the end of an old segment", files, true)
}

// checkDamage delivers from these files: each message whose line is whole is posted once, the others once at most. A
// second start posts nothing.
func (c *crashTest) checkDamage(files spoolFiles, records [][]byte, counted bool) {
	c.t.Helper()
	posted, s, left := c.deliverFrom(files)
	lost := 0
	for i, record := range records {
		whole := false
		for _, content := range files {
			whole = whole || bytes.Contains(content, record)
		}
		if posted[i] > 1 || whole && posted[i] == 0 {
			c.t.Errorf("message %d, whose line is whole: %v, was posted %d times", i, whole, posted[i])
		}
		if posted[i] == 0 {
			lost++
		}
	}
	if counted != (s.Damaged > 0) {
		c.t.Errorf("%d damaged lines are counted: none should be, or some should be", s.Damaged)
	}
	c.t.Logf("%d of %d lost, %d counted", lost, len(records), s.Damaged)
	if posted, s, _ := c.deliverAgain(left); len(posted) > 0 || s.FoundAtStart > 0 {
		c.t.Errorf("a second start found %d messages and posted %v, want none", s.FoundAtStart, posted)
	}
}

// A spool of an earlier format is refused in one line, and nothing in it is touched.
func TestEarlierFormat(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"00000007.log":      "P 9a0b3c4d 1 1763899200123 tag:general/0 {\"id\":\"a\"}\n",
		"00000008.log":      "D 9a0b3c4d 1 1763899200123 tag:general/0 {\"id\":\"a\"}\n",
		"dead-00000001.log": "",
		"00000009.log":      SpoolLine(`W 1 0 1763899200123 tag:general/0 {"id":"a","text":"a b c d e"}`),
		"00000010.log":      SpoolLine(`K 1 ka`),
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{"lock": "", name: content} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := Snapshot(t, dir)
		code, _, stderr := RunProgram(t, "", nil, "slackboard", "-c",
			WriteFile(t, "s.toml", ServerConfig("http://127.0.0.1:1")+"[spool]\ndir='"+dir+"'\n"))
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, name) ||
			!strings.Contains(stderr, "an earlier format") {
			t.Errorf("%s: exit %d, %q", name, code, stderr)
		}
		if after := Snapshot(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s: the folder was touched: before %q, after %q", name, before, after)
		}
	}
}
