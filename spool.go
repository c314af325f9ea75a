package main

// The queue on disk: a log of lines that is only appended to and, in memory, an index of where each message lies. It
// knows no HTTP and no Slack; nobody else knows where a line lies.
//
//	DIR/lock          held as long as a process uses the spool
//	DIR/00000042.log  a segment of the log, 16 MiB
//	DIR/spare         the next segment, full of zeros: writing into it needs no room and changes no metadata
//	DIR/*.bad         segments that had damaged lines, kept when the log needs them no more
//
// A line is a checksum (CRC-32C of all behind it), a length (of all behind it and its blank), and what it says:
//
//	CRC LEN W SEQ REPLACES TIME ROUTE {"id":…}  a message waits. It replaces dead letter REPLACES (0: none)
//	CRC LEN X SEQ ATTEMPTS "REASON"             it is a dead letter
//	CRC LEN D SEQ TIME FATE ATTEMPTS            it is done
//	CRC LEN K SEQ ID                            it is gone, but its idempotency key is remembered
//
// SEQ numbers the messages in the order of acceptance, TIME is in Unix milliseconds. The last line about a message
// counts. A message that is carried forward has its W line, and its X line, written again under the same number.
//
// One goroutine, run, writes: one write and one sync for all that is queued, then the index, then the answers. Only
// the newest segment is written and only the oldest is removed, after what is live in it was carried forward. So no
// line outlives the one that it is about. After a write or a sync that failed, the file is not to be believed: the
// kernel reports such an error once and drops the data. What is known to be good of the file is copied into the spare
// segment, which takes its name.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	segmentSize   = 16 << 20
	batchChanges  = 1024
	batchBytes    = 1 << 20
	rollAt        = segmentSize - 2*batchBytes // the rest is for what ends messages, should the disk be full
	carryLimit    = segmentSize - batchBytes   // then, what is carried forward leaves that to them
	slackSegments = 2                          // see hasTooMuch
	keysKept      = 16_384
	lineLimit     = 8 << 20 // bytes; no message comes near that
	probeEvery    = time.Second
	spareName     = "spare"
	newSpareName  = "spare.new"
	headerSize    = len("9a0b3c4d 000000f3 ")
)

var (
	errGone    = errors.New("not there any more")
	errDamaged = errors.New("the line is damaged")
	errClosed  = errors.New("the spool is closed")
	errFull    = errors.New("there is no room on the disk")
)

// place is where a line lies: a segment's number and an offset in it.
type place uint64

func newPlace(segment uint64, offset int64) place { return place(segment<<32 | uint64(offset)) }
func (p place) segment() uint64                   { return uint64(p >> 32) }
func (p place) offset() int64                     { return int64(p & (1<<32 - 1)) }

// places is where lines lie, by their messages' numbers. A place takes 10 bytes where numbers are dense, 150 at most.
type places map[uint64]*[16]place

func (p places) at(seq uint64) place {
	if some := p[seq/16]; some != nil {
		return some[seq%16]
	}
	return 0
}

// set notes that a line lies at a place, or is none any more (0).
func (p places) set(seq uint64, at place) {
	some := p[seq/16]
	if some == nil {
		some = new([16]place)
		p[seq/16] = some
	}
	if some[seq%16] = at; at == 0 && *some == ([16]place{}) {
		delete(p, seq/16)
	}
}

// Fates of a message, as they stand in its D line.
const (
	fateDelivered = "delivered"
	fateDropped   = "dropped" // by an operator
	fateDamaged   = "damaged" // its line could not be read
	fateDead      = "dead"    // not the end: it is a dead letter, and its line an X
)

// ending is what becomes of a message.
type ending struct {
	seq      uint64
	route    route
	fate     string
	attempts int
	reason   string // of a dead letter
	gone     bool   // set by do: it had ended before
}

// change is what one caller wants written, all of it or, after an error, nothing.
type change struct {
	add  []*message // gets a number; none where its key is known, or the dead letter that it replaces is gone
	over bool       // what is added was delivered already: it goes into the history
	end  []ending   // alone: an error of the disk is tried again until it passes
	err  error
	done chan struct{}
}

// segment is a file of the log.
type segment struct {
	size           int64
	messages, live int // W lines; of these, those of messages that wait or are dead letters
	damaged        int // lines
}

// liveBytes returns about how much of the segment is live.
func (seg *segment) liveBytes() int64 {
	return seg.size * int64(seg.live) / int64(max(seg.messages, 1))
}

type spool struct {
	dir     *os.Root // the folder that was opened, even after another has taken its name
	lock    *os.File
	opened  os.FileInfo // of lock
	log     *slog.Logger
	sync    func(*os.File) error // syncData
	history atomic.Int64         // bytes of the log that are kept for look-ups after all in them is done

	mu       sync.Mutex
	queue    []*change
	wake     chan struct{}
	live     places // W lines of what waits or is a dead letter
	dead     places // X lines of the dead letters
	segments map[uint64]*segment
	none     segment
	keys     map[string]uint64 // ids made of idempotency keys: at least the newest keysKept, with their numbers
	failed   error             // why nothing can be added, nil while it can
	closed   bool

	still sync.RWMutex // held by walkAll

	// Owned by run:
	newest, oldest uint64
	f              *os.File // the newest segment
	suspect        bool     // a write to f has failed
	spare          bool     // there is one
	seq            uint64
	staged         map[uint64]bool // ended by the commit that is being made
	retryAt        time.Time       // what has failed is not tried again before
	buf            []byte
	full           error             // what kept the last attempt from making room
	carried        uint64            // the oldest segment, once what is live in it was carried forward
	cleanAt        time.Time         // after an error, nothing is removed before
	trouble        map[string]string // what was logged, and has not ended

	bytes   atomic.Int64 // of all segments
	damaged atomic.Int64 // lines
	quit    chan struct{}
	ended   chan struct{}
}

// line is one of the log. Its route and body are parts of the bytes that it was parsed from.
type line struct {
	kind     byte
	seq      uint64
	replaces uint64
	at       int64 // Unix ms
	route    []byte
	id       string
	body     []byte // the JSON behind the id
	attempts int
	reason   string // of an X line; the fate in a D line
	lies     place
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      = make([]byte, 256<<10)
)

// appendTo appends the line and its newline to b.
func (l *line) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, "________ ________ "...)
	switch l.kind {
	case 'W':
		b = fmt.Appendf(b, `W %d %d %d %s {"id":"%s"`, l.seq, l.replaces, l.at, l.route, l.id)
		b = append(b, l.body...) // it may be large: fmt would copy it once more
	case 'X':
		b = fmt.Appendf(b, "X %d %d %s", l.seq, l.attempts, encode(l.reason))
	case 'D':
		b = fmt.Appendf(b, "D %d %d %s %d", l.seq, l.at, l.reason, l.attempts)
	case 'K':
		b = fmt.Appendf(b, "K %d %s", l.seq, l.id)
	}
	copy(b[start+9:], fmt.Sprintf("%08x", len(b)-start-headerSize))
	copy(b[start:], fmt.Sprintf("%08x", crc32.Checksum(b[start+9:], castagnoli)))
	return append(b, '\n')
}

// lineLength returns how long the line that b begins with says it is, with its newline; 0 where no line begins.
func lineLength(b []byte) int {
	if len(b) < headerSize || b[8] != ' ' || b[17] != ' ' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[9:17]), 16, 32)
	if err != nil || n > lineLimit {
		return 0
	}
	return headerSize + int(n) + 1
}

// parseLine reads the line that b begins with. n is its length, 0 if it is damaged.
func parseLine(b []byte) (l line, n int) {
	if n = lineLength(b); n == 0 || n > len(b) {
		return line{}, 0
	}
	sum, err := strconv.ParseUint(string(b[:8]), 16, 32)
	if err != nil || crc32.Checksum(b[9:n-1], castagnoli) != uint32(sum) {
		return line{}, 0
	}
	rest, ok := b[headerSize:n-1], true
	field := func() (word []byte) {
		word, rest, _ = bytes.Cut(rest, []byte(" "))
		return word
	}
	number := func() uint64 {
		n, err := strconv.ParseUint(string(field()), 10, 64)
		ok = ok && err == nil
		return n
	}
	kind := string(field())
	l.seq = number()
	switch kind {
	case "W":
		l.replaces, l.at, l.route = number(), int64(number()), field()
		quoted, has := bytes.CutPrefix(rest, []byte(`{"id":"`))
		id, body, closed := bytes.Cut(quoted, []byte(`"`))
		l.id, l.body, ok = string(id), body, ok && has && closed
	case "X":
		l.attempts = int(number())
		ok = json.Unmarshal(rest, &l.reason) == nil && ok
	case "D":
		l.at, l.reason, l.attempts = int64(number()), string(field()), int(number())
	case "K":
		l.id = string(rest)
	default:
		ok = false
	}
	if !ok {
		return line{}, 0
	}
	l.kind = kind[0]
	return l, n
}

// size is what a W line takes of max_bytes.
func (l *line) size() int64 { return lineSize(len(l.route), len(l.id), len(l.body)) }

func lineSize(route, id, body int) int64 { return int64(64 + route + id + body) }

// message decodes a W line.
func (l *line) message() (*message, error) {
	m := &message{}
	if err := json.Unmarshal(fmt.Appendf(nil, `{"id":"%s"%s`, l.id, l.body), m); err != nil {
		return nil, errDamaged
	}
	m.seq, m.queued, m.route = l.seq, l.at, parseRoute(string(l.route))
	return m, nil
}

// lineReader reads lines. Its buffer grows with them.
type lineReader struct{ *bufio.Reader }

// peek returns the bytes of the line that comes next, as far as they are there. They stay valid until the next read.
func (r *lineReader) peek() (b []byte, err error) {
	b, err = r.Peek(headerSize)
	if n := lineLength(b); n > 0 {
		if n > r.Size() {
			r.Reader = bufio.NewReaderSize(r.Reader, max(n, 2*r.Size()))
		}
		b, err = r.Peek(n)
	}
	if err == io.EOF {
		err = nil
	}
	return b, err
}

// keyedID returns the id of a message to a route, with the client's key: the same for the same ones.
func keyedID(key string, r route) string {
	sum := sha256.Sum256([]byte(key + "\x00" + r.String()))
	return "k" + hex.EncodeToString(sum[:])[:15]
}

func isKeyed(id string) bool { return strings.HasPrefix(id, "k") }

// openSpool locks dir, which it makes if need be, and reads what an earlier process left. The error names the folder
// or the file.
func openSpool(dir string, log *slog.Logger) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &spool{
		dir: root, log: log, sync: syncData, wake: make(chan struct{}, 1), staged: map[uint64]bool{},
		live: places{}, dead: places{}, segments: map[uint64]*segment{}, keys: map[string]uint64{},
		trouble: map[string]string{}, quit: make(chan struct{}), ended: make(chan struct{}),
	}
	s.lock, err = root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil && syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		err = fmt.Errorf("%s is in use by another process", dir)
	}
	if err == nil {
		s.opened, err = s.lock.Stat()
	}
	if err == nil {
		err = s.load()
	}
	if err != nil {
		s.closeFiles()
		return nil, err
	}
	return s, nil
}

// load replays the log.
func (s *spool) load() error {
	entries, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, e := range entries {
		name, isLog := strings.CutSuffix(e.Name(), ".log")
		number, err := strconv.ParseUint(name, 10, 32)
		switch {
		case !isLog:
		case s.isOldFormat(e.Name()):
			return fmt.Errorf("%s is of an earlier format, which this version does not read: let the version that "+
				"wrote it "+
				"deliver what waits, or set dir in [spool] to another folder", filepath.Join(s.dir.Name(), e.Name()))
		case err != nil || number == 0 || fileName(number) != e.Name():
			s.log.Error("not a file of the spool: it is left alone", "dir", s.dir.Name(), "file", e.Name())
		default:
			numbers = append(numbers, number)
		}
	}
	if len(numbers) == 0 {
		return first(s.makeSpare, s.roll)
	}
	slices.Sort(numbers)
	s.oldest, s.newest = numbers[0], numbers[len(numbers)-1]
	for _, number := range numbers {
		seg := &segment{}
		s.segments[number] = seg
		torn := false
		if seg.size, seg.damaged, torn, err = s.walk(number, s.apply); err != nil {
			return err
		}
		if torn && number != s.newest { // in the newest, a crash did that
			seg.damaged++
		}
		s.damaged.Add(int64(seg.damaged))
		s.bytes.Add(seg.size)
	}
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool has damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir.Name())
	}
	if s.f, err = s.dir.OpenFile(fileName(s.newest), os.O_RDWR, 0); err != nil {
		return err
	}
	s.suspect = cmp.Or(s.sync(s.f), s.syncDir()) != nil // who wrote it may have been killed before that
	return nil
}

// isOldFormat tells a file of the spool's earlier format, whose lines begin with a status and a checksum.
func (s *spool) isOldFormat(name string) bool {
	if strings.HasPrefix(name, "dead-") {
		return true
	}
	f, err := s.dir.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 11)
	n, _ := io.ReadFull(f, head)
	return n == len(head) && (head[0] == 'P' || head[0] == 'D') && head[1] == ' ' && head[10] == ' '
}

func fileName(segment uint64) string { return fmt.Sprintf("%08d.log", segment) }

// walk calls f for every line of a segment; f must not keep parts of the line. It returns where the last one ends, how
// many damaged ones are before that, and whether there is something but zeros behind it. Behind damage, a line has to
// end with a newline: what looks like one inside a text does not, so that one damaged line costs no other and lets none
// in.
func (s *spool) walk(segment uint64, f func(line)) (end int64, damaged int, torn bool, err error) {
	file, err := s.dir.Open(fileName(segment))
	if err != nil {
		return 0, 0, false, err
	}
	defer file.Close()
	r, at, bad, lineBegins := lineReader{bufio.NewReaderSize(file, len(zeros))}, int64(0), 0, true
	for {
		b, err := r.peek()
		if err != nil || len(b) == 0 {
			return end, damaged, torn, err
		}
		l, n := parseLine(b)
		if n > 0 && (bad == 0 || b[n-1] == '\n') {
			l.lies = newPlace(segment, at)
			end, damaged, bad, torn, lineBegins = at+int64(n), damaged+bad, 0, false, true
			f(l)
		} else {
			b, _ = r.Peek(r.Buffered())
			n = max(1, len(b)-len(bytes.TrimLeft(b, "\x00"))) // one byte, or all of a hole or what was never written
			torn = torn || b[0] != 0
			bad += number(lineBegins)
			lineBegins = b[n-1] == '\n'
		}
		at += int64(n)
		r.Discard(n)
	}
}

// apply does to the index what a line says: at the start for all there are, and then for each that was written.
func (s *spool) apply(l line) {
	s.seq = max(s.seq, l.seq)
	at := s.live.at(l.seq)
	switch l.kind {
	case 'W':
		s.segmentOf(at).live-- // it was carried forward
		s.live.set(l.seq, l.lies)
		s.segmentOf(l.lies).messages++
		s.segmentOf(l.lies).live++
		s.forget(l.replaces)
	case 'X': // its W line comes later, if that was carried forward
		s.dead.set(l.seq, l.lies)
	case 'D':
		if at != 0 && l.reason == fateDamaged {
			s.segmentOf(at).damaged++
			s.damaged.Add(1)
		}
		s.forget(l.seq)
	}
	if isKeyed(l.id) && l.seq >= s.keys[l.id] {
		if s.keys[l.id] = l.seq; len(s.keys) >= 2*keysKept {
			numbers := slices.Sorted(maps.Values(s.keys))
			oldest := numbers[len(numbers)-keysKept]
			maps.DeleteFunc(s.keys, func(_ string, seq uint64) bool { return seq < oldest })
		}
	}
}

// forget takes a message that has ended out of the index.
func (s *spool) forget(seq uint64) {
	s.segmentOf(s.live.at(seq)).live--
	s.live.set(seq, 0)
	s.dead.set(seq, 0)
}

// segmentOf returns the segment that p lies in, one that counts for nothing where there is none.
func (s *spool) segmentOf(p place) *segment {
	if seg := s.segments[p.segment()]; seg != nil {
		return seg
	}
	return &s.none
}

// do has the writer make c, and returns when that is on disk: nil, or why nothing of it is.
func (s *spool) do(c *change) error {
	c.done = make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	s.wakeUp()
	<-c.done
	return c.err
}

func (s *spool) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes until close.
func (s *spool) run() {
	defer close(s.ended)
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	s.commit(nil) // makes the spare
	for open := true; open; {
		select {
		case <-s.wake:
		case <-ticker.C:
		case <-s.quit:
			open = false
		}
		s.commit(s.take())
		s.clean()
	}
	for batch := s.take(); len(batch) > 0; batch = s.take() {
		if s.commit(batch); s.health() != nil {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.queue {
		c.err = errClosed
		close(c.done)
	}
	s.closeFiles()
}

func (s *spool) closeFiles() {
	s.f.Close()
	s.lock.Close()
	s.dir.Close()
}

// close ends run once what is queued is done, as far as the disk lets it, and releases the folder.
func (s *spool) close() {
	close(s.quit)
	<-s.ended
}

// take returns what the next commit does: not more than fits a batch.
func (s *spool) take() []*change {
	s.gatherChanges()
	s.mu.Lock()
	defer s.mu.Unlock()
	size, n := int64(0), 0
	for ; n < len(s.queue) && n < batchChanges && size < batchBytes; n++ {
		for _, m := range s.queue[n].add {
			size += m.size()
		}
	}
	batch := slices.Clone(s.queue[:n])
	if s.queue = slices.Delete(s.queue, 0, n); len(s.queue) > 0 {
		s.wakeUp()
	}
	return batch
}

// gatherChanges lets those run who are about to ask for a change, as long as more is queued by that: their changes
// share one sync.
func (s *spool) gatherChanges() {
	queued := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queue)
	}
	for before, same := queued(), 0; before > 0 && before < batchChanges && same < 3; same++ {
		runtime.Gosched()
		if now := queued(); now > before {
			before, same = now, -1
		}
	}
}

// commit writes a batch, then answers it. What ends messages and cannot be written stays in the queue.
func (s *spool) commit(batch []*change) {
	full, blocked := s.prepare()
	var lines []line
	for _, c := range batch {
		if c.err = blocked; c.add != nil {
			c.err = full
		}
		if c.err == nil {
			lines = s.stage(lines, c)
		}
	}
	clear(s.staged)
	err := s.append(lines)
	var kept []*change
	for _, c := range batch {
		if c.err = cmp.Or(c.err, err); c.err != nil && c.add == nil {
			kept = append(kept, c)
			continue
		}
		close(c.done)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(kept, s.queue...)
	s.failed = cmp.Or(full, err)
}

// stage adds the lines of c. What has ended before is left out, and so is a message whose key is known.
func (s *spool) stage(lines []line, c *change) []line {
	gone := func(seq uint64) bool {
		return s.live.at(seq) == 0 || s.staged[seq]
	}
	now := time.Now().UnixMilli()
	for i := range c.end {
		e := &c.end[i]
		if gone(e.seq) || e.fate == fateDead && s.dead.at(e.seq) != 0 {
			e.gone = true
			continue
		}
		s.staged[e.seq] = true
		l := line{kind: 'D', seq: e.seq, at: now, reason: e.fate, attempts: e.attempts}
		if e.fate == fateDead {
			l.kind, l.reason = 'X', e.reason
		}
		lines = append(lines, l)
	}
	for _, m := range c.add {
		_, known := s.keys[m.ID]
		twin := isKeyed(m.ID) && slices.ContainsFunc(lines, func(l line) bool { return l.id == m.ID })
		if m.replaces == 0 && (known || twin) || m.replaces != 0 && gone(m.replaces) {
			continue
		}
		if m.replaces != 0 {
			s.staged[m.replaces] = true
		}
		s.seq++
		m.seq, m.queued = s.seq, now
		lines = append(lines, line{kind: 'W', seq: m.seq, replaces: m.replaces, at: now,
			route: []byte(m.route.String()), id: m.ID, body: m.encoded()})
		if c.over {
			lines = append(lines, line{kind: 'D', seq: m.seq, at: now, reason: fateDelivered, attempts: 1})
		}
	}
	return lines
}

// append brings lines to disk and then into the index: all of them or, after an error, none.
func (s *spool) append(lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	seg, b := s.segments[s.newest], s.buf[:0]
	at := seg.size
	var err error
	for i := range lines {
		lines[i].lies = newPlace(s.newest, at+int64(len(b)))
		b = lines[i].appendTo(b)
		if i < len(lines)-1 && (len(b) < batchBytes || !s.spare) {
			continue
		}
		if !s.spare && at+int64(len(b)) > segmentSize { // beyond it, writing could fail
			return cmp.Or(s.full, errFull)
		}
		if _, err = s.f.WriteAt(b, at); err != nil {
			break
		}
		at, b = at+int64(len(b)), b[:0]
	}
	if err == nil {
		err = s.sync(s.f)
	}
	s.report("writing to the spool fails", err)
	if err != nil {
		s.suspect, s.full, s.retryAt = true, err, time.Now().Add(probeEvery)
		s.f.Truncate(seg.size) // so that what is refused now is not found by a start before the file is renewed
		return err
	}
	if s.buf = b[:0]; cap(b) > 4*batchBytes {
		s.buf = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lines {
		s.apply(l)
	}
	s.bytes.Add(at - seg.size)
	seg.size = at
	return nil
}

// report logs an error when it begins or changes, and its end.
func (s *spool) report(what string, err error) {
	before, was := s.trouble[what]
	switch {
	case err == nil && was:
		delete(s.trouble, what)
		s.log.Error("it is over: "+what, "dir", s.dir.Name())
	case err != nil && err.Error() != before:
		s.trouble[what] = err.Error()
		s.log.Error(what, "err", err)
	}
}

// first does steps until one of them fails.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// prepare sees to a newest segment that can be written and a spare one behind it. full is why nothing can be added,
// blocked why nothing can be written at all.
func (s *spool) prepare() (full, blocked error) {
	gone := s.folder()
	if s.report("the spool's folder is gone", gone); gone != nil {
		return gone, gone
	}
	if s.full == nil || !time.Now().Before(s.retryAt) {
		s.full = first(s.makeSpare, s.renew, s.roll, s.makeSpare)
		s.retryAt = time.Now().Add(probeEvery)
		s.report("the spool takes no messages", s.full)
	}
	if s.suspect {
		return s.full, s.full
	}
	return s.full, nil
}

// folder returns an error where the folder that was opened is not there any more: what is written reaches nobody.
func (s *spool) folder() error {
	there, err := os.Stat(s.lock.Name())
	if err == nil && !os.SameFile(s.opened, there) {
		err = fmt.Errorf("%s was replaced: restart the server to use the new one", s.dir.Name())
	}
	if err == nil {
		_, err = s.dir.Stat(fileName(s.newest))
	}
	return err
}

// makeSpare makes the next segment, if there is none. What a crash left of one is written over: that needs no room.
func (s *spool) makeSpare() error {
	if s.spare {
		return nil
	}
	s.dir.Rename(spareName, newSpareName)
	f, err := s.dir.OpenFile(newSpareName, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = s.sync(f) // a disk that fails need not be given zeros every second
	for at := 0; at < segmentSize && err == nil; at += len(zeros) {
		_, err = f.Write(zeros)
	}
	if err == nil {
		err = cmp.Or(f.Truncate(segmentSize), s.sync(f))
	}
	if err != nil {
		s.dir.Remove(newSpareName)
		return err
	}
	err = s.dir.Rename(newSpareName, spareName)
	s.spare = err == nil
	return err
}

// renew copies what is known to be good of a newest segment that is suspect to the spare one, which takes its name.
func (s *spool) renew() error {
	if !s.suspect {
		return nil
	}
	return s.takeSpare(s.newest, io.NewSectionReader(s.f, 0, s.segments[s.newest].size))
}

// roll makes the spare segment the newest, where that is full or there is none yet.
func (s *spool) roll() error {
	if s.newest > 0 && s.segments[s.newest].size < rollAt {
		return nil
	}
	return s.takeSpare(s.newest+1, strings.NewReader(""))
}

// takeSpare makes the spare segment the newest, with this number and content.
func (s *spool) takeSpare(number uint64, content io.Reader) error {
	f, err := s.dir.OpenFile(spareName, os.O_RDWR, 0)
	if s.spare = false; err != nil {
		return err
	}
	if _, err = io.Copy(f, content); err == nil {
		err = s.sync(f)
	}
	if err == nil {
		err = s.dir.Rename(spareName, fileName(number))
	}
	if err != nil {
		f.Close()
		return err
	}
	if s.f != nil {
		s.f.Truncate(s.segments[s.newest].size) // its zeros
		s.f.Close()
	}
	s.f = f
	s.mu.Lock()
	s.newest, s.oldest = number, cmp.Or(s.oldest, number)
	if s.segments[number] == nil {
		s.segments[number] = &segment{}
	}
	s.mu.Unlock()
	err = s.syncDir() // the name is on disk before anything in it is acknowledged
	s.suspect = err != nil
	return err
}

func (s *spool) syncDir() error {
	d, err := s.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// clean removes the oldest segments as long as there is more than has to be kept.
func (s *spool) clean() {
	for s.oldest < s.newest && !s.suspect && !time.Now().Before(s.cleanAt) && s.folder() == nil && s.still.TryLock() {
		done := s.segments[s.oldest] != nil && !s.hasTooMuch()
		var err error
		if !done {
			err = s.removeOldest()
			s.report("cleaning the spool fails", err)
		}
		s.still.Unlock()
		if err != nil {
			s.cleanAt = time.Now().Add(probeEvery)
		}
		if done || err != nil {
			return
		}
		if !s.spare {
			s.makeSpare() // with the room that there is now
		}
	}
}

// hasTooMuch tells whether the oldest segment has to go: when all in it is done, as soon as the log is larger than what
// is kept for look-ups, else when it is larger than that, twice what is live, and some segments. On a full disk nothing
// is kept for look-ups, and what is done makes room as soon as what is live in the oldest segment fits into the newest.
func (s *spool) hasTooMuch() bool {
	oldest, newest, live := s.segments[s.oldest], s.segments[s.newest], int64(0)
	for _, seg := range s.segments {
		live += seg.liveBytes()
	}
	switch {
	case oldest.live == 0 && s.spare:
		return s.bytes.Load() > s.history.Load()
	case oldest.live == 0:
		return true
	case s.spare:
		return s.bytes.Load() > s.history.Load()+2*live+slackSegments*segmentSize
	}
	return s.bytes.Load() > live+batchBytes && newest.size+oldest.liveBytes() < carryLimit
}

// removeOldest carries forward what is live in the oldest segment, then removes that.
func (s *spool) removeOldest() error {
	seg, name := s.segments[s.oldest], fileName(s.oldest)
	if seg == nil {
		s.oldest++
		return nil
	}
	if s.carried != s.oldest {
		if err := s.carryForward(); err != nil {
			return err
		}
		s.carried = s.oldest
	}
	err := s.syncDir() // the one before does not come back: it holds what lines in this one have ended
	switch {
	case err != nil:
	case seg.damaged > 0:
		err = s.dir.Rename(name, strings.TrimSuffix(name, ".log")+".bad")
	default:
		err = s.dir.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.bytes.Add(-seg.size)
	s.mu.Lock()
	delete(s.segments, s.oldest)
	s.mu.Unlock()
	s.oldest++
	return nil
}

// carryForward appends again the lines of the oldest segment that the index knows, and the keys that are remembered.
func (s *spool) carryForward() error {
	var lines []line
	var failed error
	size, oldest := int64(0), s.segments[s.oldest]
	write := func() {
		if s.spare && s.segments[s.newest].size >= rollAt {
			failed = s.roll()
			s.makeSpare() // if there is no room for it, the rest of the newest segment has to do
		}
		if !s.spare && oldest.live > 0 && s.segments[s.newest].size+size > carryLimit {
			failed = errFull
		}
		if failed == nil {
			failed = s.append(lines)
		}
		lines, size = nil, 0
	}
	_, _, _, err := s.walk(s.oldest, func(l line) {
		switch {
		case failed != nil:
			return
		case l.kind == 'W' && s.live.at(l.seq) == l.lies, l.kind == 'X' && s.dead.at(l.seq) == l.lies &&
			s.live.at(l.seq) != 0:
			l.route, l.body = bytes.Clone(l.route), bytes.Clone(l.body)
			lines = append(lines, l)
		case (l.kind == 'W' || l.kind == 'K') && isKeyed(l.id) && s.keys[l.id] == l.seq:
			lines = append(lines, line{kind: 'K', seq: l.seq, id: l.id})
		}
		if size += l.size(); size >= batchBytes {
			write()
		}
	})
	if cmp.Or(err, failed) == nil {
		write()
	}
	if cmp.Or(err, failed) == nil && oldest.live > 0 { // a line was damaged since the start
		oldest.damaged++
	}
	return cmp.Or(err, failed)
}

// seen tells whether all of messages were stored before, under their idempotency keys.
func (s *spool) seen(messages []*message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(messages, func(m *message) bool { return s.keys[m.ID] == 0 })
}

// health returns why nothing can be stored, nil while it can.
func (s *spool) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// where returns where the W line of a message lies that waits or is a dead letter, and the X line of the latter.
func (s *spool) where(seq uint64) (w, x place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live.at(seq), s.dead.at(seq)
}

// readLine reads the line at p. errDamaged is for what was read and is no line; any other error says nothing about it.
func (s *spool) readLine(p place) (l line, err error) {
	f, err := s.dir.Open(fileName(p.segment()))
	if err != nil {
		return l, err
	}
	defer f.Close()
	r := lineReader{bufio.NewReader(io.NewSectionReader(f, p.offset(), lineLimit))}
	b, err := r.peek()
	l, n := parseLine(b)
	if l.lies = p; err == nil && n == 0 {
		err = errDamaged
	}
	return l, err
}

// read returns the line of a message that waits or is a dead letter, and of the latter its X line, too.
func (s *spool) read(seq uint64) (w, x line, err error) {
	for {
		at, dead := s.where(seq)
		if at == 0 {
			return w, x, errGone
		}
		if w, err = s.readLine(at); err == nil && w.seq != seq || errors.Is(err, fs.ErrNotExist) && s.isRemoved(at) {
			err = errDamaged
		}
		if x = (line{}); err == nil && dead != 0 {
			x, err = s.readLine(dead)
			if err == errDamaged || errors.Is(err, fs.ErrNotExist) {
				x, err = line{kind: 'X', seq: seq, reason: "its reason is damaged"}, nil
			}
		}
		if now, deadNow := s.where(seq); now == at && deadNow == dead {
			return w, x, err
		} // else it has just moved
	}
}

// isRemoved tells whether the segment of a line was removed: if the line did not move before, it was damaged.
func (s *spool) isRemoved(p place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments[p.segment()] == nil
}

// message returns one that waits or is a dead letter.
func (s *spool) message(seq uint64) (*message, error) {
	w, _, err := s.read(seq)
	if err != nil {
		return nil, err
	}
	return w.message()
}

// numbers returns those of the segments, the newest first.
func (s *spool) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	numbers := slices.Sorted(maps.Keys(s.segments))
	slices.Reverse(numbers)
	return numbers
}

// walkAll calls each of fs for every line of a segment, from the newest segment back, until ctx ends. Meanwhile nothing
// is carried forward.
func (s *spool) walkAll(ctx context.Context, fs ...func(line)) error {
	s.still.RLock()
	defer s.still.RUnlock()
	for _, number := range s.numbers() {
		for _, f := range fs {
			if _, _, _, err := s.walk(number, f); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// each calls f for every message that waits or is a dead letter, in no order. What changes meanwhile may be missed.
func (s *spool) each(f func(w line, dead bool)) error {
	return s.walkAll(context.Background(), func(l line) {
		if w, x := s.where(l.seq); l.kind == 'W' && w == l.lies {
			f(l, x != 0)
		}
	})
}

// all calls f for every message that the log knows, those of the newest segment first, with its W line and what became
// of it: the kind, fate and place of its D line, the kind of its X line, or a zero line. What changes meanwhile may be
// missed. f must not keep parts of the W line.
func (s *spool) all(ctx context.Context, f func(w, became line)) error {
	type end struct {
		fate string
		lies place
	}
	ended := map[uint64]end{} // whose W lines were not met yet: they are in the same segment or an older one
	return s.walkAll(ctx, func(l line) {
		if l.kind == 'D' {
			ended[l.seq] = end{l.reason, l.lies}
		}
	}, func(l line) {
		if l.kind != 'W' {
			return
		}
		d, over := ended[l.seq]
		w, x := s.where(l.seq)
		switch {
		case over:
			delete(ended, l.seq)
			f(l, line{kind: 'D', reason: d.fate, lies: d.lies})
		case w == l.lies && x != 0:
			f(l, line{kind: 'X'})
		case w == l.lies:
			f(l, line{})
		}
	})
}
