package e2e

// The trouble of one destination does not hurt the others: lanes that hang, fail or are limited beside healthy ones, a
// dead destination beside a gigabyte of messages for others. Also a million messages that wait, a million dead letters,
// and a storm.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkAccept compares accepting messages, which are synced to disk, with a bare net/http handler. Both are
// processes that this one loads by turns. An operation is half a second of each. The figures mean something only if
// the temporary folder is on a real disk.
//
//	go test -run '^$' -bench Accept -benchtime 3x
func BenchmarkAccept(b *testing.B) {
	for _, conns := range []int{1, 16, 64, 256} {
		for _, slack := range []string{"down", "delivering"} {
			b.Run(fmt.Sprintf("conns=%d/slack=%s", conns, slack), func(b *testing.B) {
				compareAccept(b, conns, slack == "delivering")
			})
		}
	}
}

// compareAccept compares with so many connections. If delivering is false, nobody listens at the webhook's address.
func compareAccept(b *testing.B, conns int, delivering bool) {
	const slice = 500 * time.Millisecond
	webhook := "http://127.0.0.1:1/"
	if delivering {
		webhook = "http://" + StartBare(b).Addr + "/"
	}
	tags := tagNames("tag", 16)
	s := StartServer(b, spoolConfig(b.TempDir())+tagConfig(webhook, tags...))
	bare := newLoad(b, StartBare(b).Addr, conns, tags)
	ours := newLoad(b, s.Addr, conns, tags)
	bare.run(b, slice/4) // connections, heaps and the disk get warm
	ours.run(b, slice/4)
	bare.reset()
	ours.reset()
	before := s.Stat(b).Delivered
	last := before
	for b.Loop() {
		ours.run(b, slice)
		last = s.Stat(b).Delivered
		// The server is stopped meanwhile: what it still posts to Slack must not slow the bare handler.
		s.Signal(syscall.SIGSTOP)
		bare.run(b, slice)
		s.Signal(syscall.SIGCONT)
	}
	b.ReportMetric(0, "ns/op") // left out: it is the length of the slices
	b.ReportMetric(ours.rate(), "req/s")
	b.ReportMetric(bare.rate(), "bare-req/s")
	b.ReportMetric(ours.rate()/bare.rate(), "ratio")
	if delivering {
		b.ReportMetric(float64(last-before)/ours.took.Seconds(), "delivered/s")
		if last == before {
			b.Error("nothing was delivered meanwhile")
		}
	}
	s.Stat(b)
}

// load is requests to one server from many connections.
type load struct {
	callers  []*caller
	requests [][]byte // one for each caller
	answered atomic.Int64
	took     time.Duration
}

func newLoad(b *testing.B, addr string, conns int, tags []string) *load {
	b.Helper()
	l := &load{}
	for i := range conns {
		l.callers = append(l.callers, newCaller(b, addr))
		l.requests = append(l.requests, numbered(tags[i%len(tags)], i, strings.Repeat("bottles of beer ", 12)))
	}
	return l
}

// run sends one request after the other on each connection, for the time of slice.
func (l *load) run(b *testing.B, slice time.Duration) {
	b.Helper()
	var wg sync.WaitGroup
	start := time.Now()
	deadline := start.Add(slice)
	for i, c := range l.callers {
		wg.Go(func() {
			n := 0
			for ; time.Now().Before(deadline); n++ {
				if err := c.call(l.requests[i]); err != nil {
					b.Error(err)
					break
				}
			}
			l.answered.Add(int64(n))
		})
	}
	wg.Wait()
	l.took += time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
}

// reset forgets what was measured.
func (l *load) reset() {
	l.answered.Store(0)
	l.took = 0
}

// rate returns how many requests were answered in a second.
func (l *load) rate() float64 { return float64(l.answered.Load()) / l.took.Seconds() }

// sink is a fake Slack for many or large posts. FakeSlack keeps every body. sink keeps only the number in a text such
// as "17 bottles", and its script may block.
type sink struct {
	*httptest.Server
	script func(sinkPost) Reply
	mu     sync.Mutex
	tries  map[string][]time.Time // by channel: every post that came in
	took   map[string][]int       // by channel: the numbers of the posts that were answered ok, in order
}

type sinkPost struct {
	channel string
	try     int             // counts the posts to the channel, from 1
	gone    <-chan struct{} // closed when the client has hung up
}

func newSink(t testing.TB, script func(sinkPost) Reply) *sink {
	t.Helper()
	s := &sink{script: script, tries: map[string][]time.Time{}, took: map[string][]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var p struct{ Channel, Text string }
	if body, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(body, &p) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.tries[p.Channel] = append(s.tries[p.Channel], time.Now())
	try := len(s.tries[p.Channel])
	s.mu.Unlock()
	re := s.script(sinkPost{p.Channel, try, r.Context().Done()})
	if r.Context().Err() != nil {
		return // nobody hears the answer
	}
	if re.Status != 0 {
		if re.RetryAfter != "" {
			w.Header().Set("Retry-After", re.RetryAfter)
		}
		w.WriteHeader(re.Status)
		return
	}
	word, _, _ := strings.Cut(p.Text, " ")
	number, err := strconv.Atoi(word)
	if err != nil {
		number = -1
	}
	s.mu.Lock()
	s.took[p.Channel] = append(s.took[p.Channel], number)
	s.mu.Unlock()
	io.WriteString(w, "ok")
}

// tried returns when the posts to a channel came in.
func (s *sink) tried(channel string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.tries[channel]...)
}

// taken returns the numbers of the posts to a channel that were answered ok, in order.
func (s *sink) taken(channel string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int(nil), s.took[channel]...)
}

// waitForAll returns once each tag's channel took n messages.
func (s *sink) waitForAll(t testing.TB, tags []string, n int) {
	t.Helper()
	for _, tag := range tags {
		Poll(t, fmt.Sprintf("slack takes %d of %s", n, tag), func() bool { return len(s.taken("#"+tag)) >= n })
	}
}

// checkOrder checks that a tag's channel took the messages 0 to n-1, each once, in this order.
func (s *sink) checkOrder(t testing.TB, tag string, n int) {
	t.Helper()
	took := s.taken("#" + tag)
	if len(took) != n {
		t.Errorf("%s: slack took %d messages, want %d: %.200v", tag, len(took), n, fmt.Sprint(took))
		return
	}
	for i, number := range took {
		if number != i {
			t.Errorf("%s: the post at %d is message %d, want %[2]d: %.200[4]s", tag, i, number, fmt.Sprint(took))
			return
		}
	}
}

// spoolConfig returns a server's configuration without tags. Each message is a post of its own, which is made as soon
// as Slack has answered the one before.
func spoolConfig(spool string) string {
	return fmt.Sprintf("[core]\nport='127.0.0.1:0'\nchannel_rate=0\nbatch=1\n[log]\naccess_log='%s'\n[spool]\n"+
		"dir='%s'\n", os.DevNull, spool)
}

// tagConfig returns [[tags]] that all post to one webhook, each to a channel with its name.
func tagConfig(webhook string, tags ...string) string {
	var b strings.Builder
	for _, tag := range tags {
		fmt.Fprintf(&b, "[[tags]]\ntag='%s'\nchannel='#%[1]s'\nslack_url='%s'\n", tag, webhook)
	}
	return b.String()
}

// tagNames returns n names, each with the prefix and a number of four digits.
func tagNames(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return names
}

// caller is a client with one connection. It does little itself, so that it measures the server.
type caller struct {
	conn net.Conn
	r    *bufio.Reader
}

func newCaller(t testing.TB, addr string) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &caller{conn, bufio.NewReader(conn)}
}

// numbered returns the request for a message whose text is n, a blank and padding.
func numbered(tag string, n int, padding string) []byte {
	body := fmt.Sprintf(`{"tag":"%s","text":"%d %s"}`, tag, n, padding)
	return fmt.Appendf(nil, "POST /notify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// call sends a request. Any other answer than 200 is an error.
func (c *caller) call(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	var status string
	var length int
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		} else if status == "" {
			status = string(bytes.TrimSpace(line))
		}
	}
	body, err := c.r.Peek(length)
	if err != nil {
		return err
	}
	if status != "HTTP/1.1 200 OK" {
		return fmt.Errorf("%s %s", status, body)
	}
	_, err = c.r.Discard(length)
	return err
}

// sendAll posts the messages from to to-1 to each tag, side by side. Each has to be answered with 200.
func sendAll(t testing.TB, p *Process, tags []string, from, to int) {
	t.Helper()
	var wg sync.WaitGroup
	for _, tag := range tags {
		c := newCaller(t, p.Addr)
		wg.Go(func() {
			for n := from; n < to; n++ {
				if err := c.call(numbered(tag, n, "bottles")); err != nil {
					t.Errorf("%s, message %d: %v", tag, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// checkDelivered waits until n messages count as delivered and none as waiting. It checks that no more are delivered
// and that none is a dead letter or dropped.
func checkDelivered(t testing.TB, p *Process, n int) (st Stat) {
	t.Helper()
	Poll(t, fmt.Sprintf("/stat/app says delivered %d, waiting 0", n), func() bool {
		st = p.Stat(t)
		return st.Delivered >= int64(n) && st.Waiting == 0
	})
	if st.Delivered != int64(n) || st.Dead != 0 || st.Dropped != 0 {
		t.Errorf("want %d delivered, none dead or dropped: %+v", n, st)
	}
	return st
}

// Destinations that hang, fail or are limited do not delay 50 healthy ones. When they work again, they get all their
// messages, in order. A limited destination gets no post before the time of its Retry-After is over.
func TestIsolation(t *testing.T) {
	t.Parallel()
	rounds, pauses, pause := 3, 1, 2*time.Second
	if Long() {
		rounds, pauses, pause = 20, 3, 5*time.Second
	}
	healed := make(chan struct{})
	var hanging, limited atomic.Int32
	slack := newSink(t, func(p sinkPost) Reply {
		if p.channel == "#hangs" {
			hanging.Add(1)
			defer hanging.Add(-1)
			select {
			case <-healed:
			case <-p.gone:
			}
			return Reply{}
		}
		select {
		case <-healed:
			return Reply{}
		default:
		}
		switch p.channel {
		case "#fails":
			return Reply{Status: 500}
		case "#limited":
			limited.Add(1)
			return Reply{Status: 429, RetryAfter: strconv.Itoa(int(pause.Seconds()))}
		}
		return Reply{}
	})
	bad, healthy := []string{"hangs", "fails", "limited"}, tagNames("healthy", 50)
	s := StartServer(t, spoolConfig(t.TempDir())+tagConfig(slack.URL+"/services/limited", "limited")+
		tagConfig(slack.URL+"/services/shared", append(healthy, "hangs", "fails")...))

	sendAll(t, s, bad, 0, 1)
	for _, tag := range bad {
		Poll(t, tag+" is tried", func() bool { return len(slack.tried("#"+tag)) > 0 })
	}
	sendAll(t, s, append(bad, healthy...), 1, rounds+1)
	slack.waitForAll(t, healthy, rounds)
	// The healthy destinations have all their messages. The others are as stuck as before:
	if n := hanging.Load(); n != 1 {
		t.Errorf("%d posts hang, want 1", n)
	}
	for _, tag := range bad {
		if took := slack.taken("#" + tag); len(took) > 0 {
			t.Fatalf("slack took %v of %s, which should be stuck: the test shows nothing", took, tag)
		}
	}
	Poll(t, fmt.Sprintf("the limited destination is tried %d times", pauses), func() bool {
		return len(slack.tried("#limited")) >= pauses
	})
	close(healed)
	slack.waitForAll(t, bad, rounds+1)
	for i, at := range slack.tried("#limited")[1 : limited.Load()+1] {
		if gap := at.Sub(slack.tried("#limited")[i]); gap < pause {
			t.Errorf("the limited destination was tried again %v after a 429 with Retry-After %v", gap, pause)
		}
	}
	for _, tag := range healthy { // their numbers begin with 1
		if took := fmt.Sprint(slack.taken("#" + tag)); took != fmt.Sprint(numbersTo(rounds + 1)[1:]) {
			t.Errorf("%s: slack took %s, want 1 to %d", tag, took, rounds)
		}
	}
	for _, tag := range bad {
		slack.checkOrder(t, tag, rounds+1)
	}
	if st := checkDelivered(t, s, len(healthy)*rounds+len(bad)*(rounds+1)); st.RateLimited != int64(limited.Load()) {
		t.Errorf("rate_limited %d, want %d", st.RateLimited, limited.Load())
	}
}

// numbersTo returns the numbers from 0 to n-1.
func numbersTo(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// 64 webhooks hang, as many as posts may be in flight to webhooks that Slack has not answered for. After they have
// failed, 32 of them at most are tried again at the same time: a healthy webhook delivers beside them.
func TestManyHangingWebhooks(t *testing.T) {
	t.Parallel()
	const count, each = 64, 3
	var first, again atomic.Int64
	var mostAgain peak
	cut, healed := make(chan struct{}), make(chan struct{})
	slack := newSink(t, func(p sinkPost) Reply {
		switch {
		case p.channel == "#healthy":
		case p.try == 1: // Slack hangs up, so that the test need not wait for the timeout of 30 s
			first.Add(1)
			<-cut
			panic(http.ErrAbortHandler)
		default:
			mostAgain.note(again.Add(1))
			defer again.Add(-1)
			select {
			case <-healed:
			case <-p.gone:
			}
		}
		return Reply{}
	})
	release := sync.OnceFunc(func() { close(cut) })
	t.Cleanup(release) // a test that fails before must not wait for these posts
	webhooks := tagNames("hook", count)
	config := spoolConfig(t.TempDir()) + tagConfig(slack.URL+"/services/healthy", "healthy")
	for _, tag := range webhooks {
		config += tagConfig(slack.URL+"/services/"+tag, tag)
	}
	s := StartServer(t, config)

	sendAll(t, s, webhooks, 0, each)
	Poll(t, "all webhooks hang", func() bool { return first.Load() == count })
	sendAll(t, s, []string{"healthy"}, 0, 1)
	release()
	Poll(t, "32 webhooks hang again", func() bool { return again.Load() == 32 })
	sendAll(t, s, []string{"healthy"}, 1, each)
	slack.waitForAll(t, []string{"healthy"}, each)
	if n := again.Load(); n != 32 {
		t.Errorf("%d webhooks hang after the healthy one has all its messages, want 32", n)
	}
	for _, tag := range webhooks {
		if took := slack.taken("#" + tag); len(took) > 0 {
			t.Fatalf("slack took %v of %s, which should hang: the test shows nothing", took, tag)
		}
	}
	if most := mostAgain.Load(); most > 32 {
		t.Errorf("%d lanes that had failed posted at once, want 32 at most", most)
	}
	close(healed)
	slack.waitForAll(t, webhooks, each)
	for _, tag := range append(webhooks, "healthy") {
		slack.checkOrder(t, tag, each)
	}
	checkDelivered(t, s, (count+1)*each)
}

// A dead destination has a message in about every segment. This does not keep the messages of others, which were
// delivered, on disk or in memory. When the destination works again, it gets its messages, in order.
func TestDeadDestinationDoesNotPinTheDisk(t *testing.T) {
	t.Parallel()
	const diskLimit, size, senders = 200 << 20, 256 << 10, 8
	volume := 64 << 20
	if Long() {
		volume = 1 << 30
	}
	var healed atomic.Bool
	// A sender takes a token for each message, and Slack gives it back: so only few messages wait, except those of the
	// dead destination.
	tokens := make(chan struct{}, 4*senders)
	for range cap(tokens) {
		tokens <- struct{}{}
	}
	slack := newSink(t, func(p sinkPost) Reply {
		if p.channel != "#dead" {
			tokens <- struct{}{}
		} else if !healed.Load() {
			return Reply{Status: 503}
		}
		return Reply{}
	})
	spool, others := t.TempDir(), tagNames("other", senders)
	config := spoolConfig(spool) + tagConfig(slack.URL+"/services/dead", "dead") + tagConfig(slack.URL+
		"/services/others", others...)
	s := StartServer(t, config)

	start, each, padding := time.Now(), volume/size/senders, strings.Repeat("bottles of beer ", size/16)
	var most peak
	var mu sync.Mutex
	dead, toDead := 0, newCaller(t, s.Addr)
	var wg sync.WaitGroup
	for i, tag := range others {
		c := newCaller(t, s.Addr)
		wg.Go(func() {
			for n := range each {
				select {
				case <-tokens:
				case <-time.After(Patience):
					t.Errorf("%s, message %d: nothing is delivered any more", tag, n)
					return
				}
				if err := c.call(numbered(tag, n, padding)); err != nil {
					t.Errorf("%s, message %d: %v", tag, n, err)
					return
				}
				if (i*each+n)%100 == 99 {
					mu.Lock()
					err := toDead.call(numbered("dead", dead, padding))
					dead++
					mu.Unlock()
					if err != nil {
						t.Errorf("a message for the dead destination: %v", err)
						return
					}
				}
				most.note(dirSize(spool))
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	slack.waitForAll(t, others, each)
	Poll(t, "only the dead destination's wait", func() bool { return s.Stat(t).Waiting == int64(dead) })
	for _, tag := range others {
		slack.checkOrder(t, tag, each)
	}
	memory, mostMemory := memoryOf(s)
	t.Logf("%d MiB in %d messages in %.1fs, %d of them to a dead destination: at most %d MiB on disk, %d MiB with %d "+
		"MiB waiting at the end; resident %d MB, at most %d MB",
		volume>>20, senders*each+dead, time.Since(start).Seconds(), dead, most.Load()>>20, dirSize(spool)>>20,
		dead*size>>20, memory, mostMemory)
	if most.Load() >= diskLimit {
		t.Errorf("the spool took %d MiB, want less than %d MiB", most.Load()>>20, diskLimit>>20)
	}
	if mostMemory > 256 { // delivered messages must not stay in memory either
		t.Errorf("the server took %d MB of memory, want 256 at most", mostMemory)
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}

	// After a new start, the test need not wait for the back-off, and the server has to put in order again what was
	// carried forward.
	healed.Store(true)
	s = StartServer(t, config)
	slack.waitForAll(t, []string{"dead"}, dead)
	slack.checkOrder(t, "dead", dead)
	if st := checkDelivered(t, s, dead); st.FoundAtStart != int64(dead) {
		t.Errorf("found_at_start %d, want %d", st.FoundAtStart, dead)
	}
	for _, tag := range others {
		slack.checkOrder(t, tag, each) // no message came a second time
	}
}

// peak is the highest number that was noted.
type peak struct{ atomic.Int64 }

func (p *peak) note(n int64) {
	for old := p.Load(); n > old && !p.CompareAndSwap(old, n); old = p.Load() {
	}
}

// dirSize returns how many bytes the files of dir have. A file that is deleted meanwhile does not count.
func dirSize(dir string) (size int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// memoryOf returns how many MB of memory of a process are resident now, and were at most, as Linux says. On other
// systems both are 0.
func memoryOf(p *Process) (now, most int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		var kB int
		if fields := strings.Fields(line); len(fields) > 1 {
			kB, _ = strconv.Atoi(fields[1])
		}
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			now = kB * 1024 / 1e6
		case strings.HasPrefix(line, "VmHWM:"):
			most = kB * 1024 / 1e6
		}
	}
	return now, most
}

// With a million messages that wait, the server takes at most 64 MB of memory at any time, also during its start. The
// time until it listens is only logged. The goal is 1.5 s.
func TestMillionWaiting(t *testing.T) {
	t.Parallel()
	counts := []int{20_000}
	if Long() {
		counts = []int{100_000, 1_000_000}
	}
	for _, n := range counts {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			spool, tags := t.TempDir(), tagNames("tag", 1000)
			size := writeSpool(t, spool, tags, n)
			down := NewFakeSlack(t, func(Delivery) Reply { return Reply{Status: 500, Body: "down"} })
			config := spoolConfig(spool) + tagConfig(down.URL+"/services/down", tags...)
			start := time.Now()
			s := StartServer(t, config)
			took := time.Since(start)
			atStart, most := memoryOf(s)
			Poll(t, "every tag is tried", func() bool { return s.Stat(t).Posts >= int64(len(tags)) })
			_, after := memoryOf(s)
			t.Logf("%d waiting in %d MiB: listening after %.2fs; resident %d MB, at most %d MB; at most %d MB after "+
				"a post for each tag", n, size>>20, took.Seconds(), atStart, most, after)
			if after > 64 {
				t.Errorf("the server took %d MB, want 64 at most", after)
			}
			if st := s.Stat(t); st.FoundAtStart != int64(n) || st.Waiting != int64(n) {
				t.Errorf("found_at_start %d, waiting %d, want %d", st.FoundAtStart, st.Waiting, n)
			}
		})
	}
}

// writeSpool writes a spool with n messages that wait, as a server would have, and returns how many bytes they take.
func writeSpool(t testing.TB, dir string, tags []string, n int) (size int64) {
	t.Helper()
	accepted := time.Now().UnixMilli() - int64(n)
	padding := strings.Repeat("bottles of beer ", 8)
	var file *os.File
	var w *bufio.Writer
	var room int
	finish := func() {
		if file == nil {
			return
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i, segment := 0, 1; i < n; i++ {
		line := SpoolLine(`W %d 0 %d 0 tag:%s/0 %016x {"host":"web1.example.com","text":"%[1]d %[5]s"}`,
			i+1, accepted+int64(i), tags[i%len(tags)], uint64(i+1)*0x9e3779b97f4a7c15, padding)
		if room < len(line) {
			finish()
			var err error
			file, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("%08d.log", segment)),
				os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			w = bufio.NewWriterSize(file, 1<<20)
			segment, room = segment+1, segmentBytes-1<<20
		}
		k, _ := w.WriteString(line)
		room, size = room-k, size+int64(k)
	}
	finish()
	return size
}

// With a million dead letters, finding one of them, listing them, and sending all of a tag again takes bounded memory:
// the server keeps their numbers, not their contents.
func TestMillionDead(t *testing.T) {
	t.Parallel()
	n := Rounds(1_000_000, 20_000)
	spool, tags := t.TempDir(), tagNames("tag", 10)
	writeSpool(t, spool, tags, n)
	last := filepath.Join(spool, "99999999.log")
	f, err := os.Create(last)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range n {
		w.WriteString(SpoolLine(`X %d 0 5 3 - - invalid_blocks`, i+1))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	os.Rename(last, filepath.Join(spool, "00009999.log"))
	slack := newSink(t, func(sinkPost) Reply { return Reply{} })
	s := StartServer(t, spoolConfig(spool)+tagConfig(slack.URL+"/services/x", tags...))
	_, atStart := memoryOf(s)
	start := time.Now()
	if status, body := s.Request("GET", fmt.Sprintf("/messages/%016x", uint64(0x9e3779b97f4a7c15)),
		""); status != 200 || !strings.Contains(body, "invalid_blocks") {
		t.Errorf("the first dead letter: got %d %s", status, body)
	}
	found := time.Since(start)
	if status, body := s.Request("GET", "/messages?state=dead&limit=10", ""); status != 200 ||
		!strings.Contains(body, fmt.Sprintf(`"total": %d`, n)) {
		t.Errorf("the list: got %d %.300s", status, body)
	}
	_, listed := memoryOf(s)
	start = time.Now()
	status, body := s.Request("POST", "/messages/retry?tag="+tags[3], "")
	if status != 200 || !strings.Contains(body, fmt.Sprintf(`"count": %d`, n/len(tags))) {
		t.Errorf("sending those of a tag again: got %d %s", status, body)
	}
	took := time.Since(start)
	_, most := memoryOf(s)
	t.Logf("%d dead letters: at most %d MB at the start, %d MB after one was found by id (%v) and all were listed, "+
		"%d MB after %d were sent again (%v)",
		n, atStart, listed, found.Round(time.Millisecond), most, n/len(tags), took.Round(time.Millisecond))
	if listed > 128 || most > 160 {
		t.Error("want 128 MB at most after the list, and 160 MB at most in all")
	}
	if st := s.Stat(t); st.Dead != int64(n-n/len(tags)) || st.FoundAtStart != int64(n) {
		t.Errorf("counters: %+v", st)
	}
}

// If a receiver wants a second between posts, all messages of a storm arrive, and the server is answered 429 at most
// twice.
func TestStormEndToEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var last time.Time
	limited, seen := 0, 0
	slack := NewFakeSlack(t, func(d Delivery) Reply {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < time.Second {
			limited++
			return Reply{Status: 429, RetryAfter: "1", Body: "rate_limited"}
		}
		last = time.Now()
		var post struct {
			Text        string
			Attachments []struct{ Text string }
		}
		json.Unmarshal([]byte(d.Body), &post)
		if seen += len(post.Attachments); post.Text != "" {
			seen++
		}
		return Reply{}
	})
	s := StartServer(t, strings.Replace(ServerConfig(slack.URL), "channel_rate = 0", "channel_rate = 1", 1))
	n, start := 60, time.Now()
	var senders sync.WaitGroup
	for host := range 10 {
		senders.Go(func() {
			for i := range n / 10 {
				s.Request("POST", "/notify",
					fmt.Sprintf(`{"tag":"general","text":"%d of %[2]d","host":"web-%[2]d"}`, i, host))
			}
		})
	}
	senders.Wait()
	Poll(t, "all messages are delivered", func() bool {
		st := s.Stat(t)
		return st.Delivered == int64(n) && st.Accepted == int64(n)
	})
	t.Logf("%d messages in %d posts, %v, %d times 429", n, len(slack.Deliveries()),
		time.Since(start).Round(time.Millisecond), limited)
	if limited > 2 {
		t.Errorf("the server was answered 429 %d times, want 2 at most", limited)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen != n {
		t.Errorf("the posts have %d messages, want %d", seen, n)
	}
}
