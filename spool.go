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
//	CRC LEN D SEQ TIME FATE ATTEMPTS PLACE      it is done; its W line lies at PLACE, SEGMENT:OFFSET
//	CRC LEN K SEQ ID                            it is gone, but its idempotency key is remembered
//
// SEQ numbers the messages in the order of acceptance, TIME is in Unix milliseconds. The last line about a message
// counts. A message that is carried forward has its W line, and its X line, written again under the same number.
//
// One goroutine, run, writes: one write and one sync for all that is queued, then the index, then the answers. Only
// the newest segment is written and only the oldest is removed, after what is live in it was carried forward. So no
// line outlives the one that it is about. After a write or a sync that failed, the file is not to be believed, since the
// kernel reports such an error once and drops the data: what is known to be good of it is copied into the spare
// segment, which takes its name.

import (
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
	slackSegments = 2                          // see clean
	keysKept      = 16_384
	lineLimit     = 8 << 20 // bytes; no message comes near that
	probeEvery    = time.Second
	headerSize    = len("9a0b3c4d 000000f3 ")
)

var (
	errGone    = errors.New("not there any more")
	errDamaged = errors.New("the line is damaged")
)

// place is where a line lies: a segment's number and an offset in it.
type place uint64

func newPlace(segment uint64, offset int64) place { return place(segment<<32 | uint64(offset)) }
func (p place) segment() uint64                   { return uint64(p >> 32) }
func (p place) offset() int64                     { return int64(p & (1<<32 - 1)) }

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

type spool struct {
	dir     string
	lock    *os.File
	opened  os.FileInfo // of lock
	log     *slog.Logger
	sync    func(*os.File) error // syncData
	history atomic.Int64         // bytes of the log that are kept for look-ups after all in them is done

	mu       sync.Mutex
	queue    []*change
	wake     chan struct{}
	live     map[uint64]place // W lines of what waits or is a dead letter
	dead     map[uint64]place // X lines of the dead letters
	segments map[uint64]*segment
	keys     map[string]uint64 // ids made of idempotency keys: at least the newest keysKept, with their numbers
	failed   error             // why nothing can be added, nil while it can

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
	trouble        map[string]string // what was logged, and has not ended

	bytes   atomic.Int64 // of all segments
	damaged atomic.Int64 // lines
	quit    chan struct{}
	ended   chan struct{}
}

// line is one of the log. Its route, json and body are parts of the bytes that it was parsed from.
type line struct {
	kind     byte
	seq      uint64
	replaces uint64
	at       int64 // Unix ms
	route    []byte
	id       string
	body     []byte // the JSON behind the id
	json     []byte // all of it; not set in lines that are to be written
	attempts int
	reason   string // of an X line; the fate in a D line
	place    place  // of the W line, in a D line

	lies place // this line itself
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      = make([]byte, 256<<10)
)

// appendTo appends the line and its newline to b.
func (l *line) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, "________ ________ "...)
	number := func(n uint64) { b = strconv.AppendUint(append(b, ' '), n, 10) }
	b = append(b, l.kind)
	number(l.seq)
	switch l.kind {
	case 'W':
		number(l.replaces)
		number(uint64(l.at))
		b = append(append(append(b, ' '), l.route...), ` {"id":"`...)
		b = append(append(append(b, l.id...), '"'), l.body...)
	case 'X':
		number(uint64(l.attempts))
		b = append(append(b, ' '), encode(l.reason)...)
	case 'D':
		number(uint64(l.at))
		b = append(append(b, ' '), l.reason...)
		number(uint64(l.attempts))
		number(l.place.segment())
		b = strconv.AppendInt(append(b, ':'), l.place.offset(), 10)
	case 'K':
		b = append(append(b, ' '), l.id...)
	}
	hexadecimal := func(to []byte, n uint32) {
		hex.Encode(to, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	hexadecimal(b[start+9:], uint32(len(b)-start-headerSize))
	hexadecimal(b[start:], crc32.Checksum(b[start+9:], castagnoli))
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
	number := func(s []byte) uint64 {
		n, err := strconv.ParseUint(string(s), 10, 64)
		ok = ok && err == nil
		return n
	}
	kind := string(field())
	l.seq = number(field())
	switch kind {
	case "W":
		l.replaces, l.at, l.route, l.json = number(field()), int64(number(field())), field(), rest
		quoted, has := bytes.CutPrefix(rest, []byte(`{"id":"`))
		id, body, closed := bytes.Cut(quoted, []byte(`"`))
		l.id, l.body, ok = string(id), body, ok && has && closed
	case "X":
		l.attempts = int(number(field()))
		ok = json.Unmarshal(rest, &l.reason) == nil && ok
	case "D":
		l.at, l.reason, l.attempts = int64(number(field())), string(field()), int(number(field()))
		file, offset, _ := bytes.Cut(rest, []byte(":"))
		l.place = newPlace(number(file), int64(number(offset)))
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
	if err := json.Unmarshal(l.json, m); err != nil {
		return nil, errDamaged
	}
	m.seq, m.queued, m.route = l.seq, l.at, parseRoute(string(l.route))
	return m, nil
}

// eachLine calls f for the lines of b, which lies at start, and bad with how many are damaged in between. It returns how
// many bytes it is through with: unless final, what may be the beginning of a line is left for a next call.
func eachLine(b []byte, start place, final bool, f func(l line, n int), bad func(lines int)) (used int) {
	for used < len(b) {
		l, n := parseLine(b[used:])
		if n > 0 {
			l.lies = start + place(used)
			f(l, n)
			used += n
			continue
		}
		from := used
		for ; used < len(b); used++ { // to where a whole line begins: a damaged one costs no other
			rest := b[used:]
			length := lineLength(rest)
			if !final && (length > len(rest) || len(rest) < headerSize) {
				break
			}
			if length > 0 {
				if _, n := parseLine(rest); n > 0 {
					break
				}
			}
		}
		if used == from {
			return used
		}
		bad(1 + bytes.Count(b[from:used-1], []byte("\n")))
	}
	return used
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
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &spool{
		dir: dir, lock: lock, log: log, sync: syncData, wake: make(chan struct{}, 1), staged: map[uint64]bool{},
		live: map[uint64]place{}, dead: map[uint64]place{}, segments: map[uint64]*segment{}, keys: map[string]uint64{}, trouble: map[string]string{}, quit: make(chan struct{}), ended: make(chan struct{}),
	}
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		err = fmt.Errorf("%s is in use by another process", dir)
	}
	if err == nil {
		s.opened, err = lock.Stat()
	}
	if err == nil {
		err = s.load()
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// load replays the log.
func (s *spool) load() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), ".log"), 10, 32)
		switch {
		case isOldFormat(name):
			return fmt.Errorf("%s is of an earlier format, which this version does not read: let the version that wrote it "+
				"deliver what waits, or set dir in [spool] to another folder", name)
		case err != nil || number == 0 || s.path(number) != name:
			s.log.Error("not a file of the spool: it is left alone", "file", name)
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
		var end int64
		if end, seg.size, seg.damaged, err = s.walk(number, s.apply); err != nil {
			return err
		}
		if number == s.newest { // what a crash tore is behind the last good line
			seg.size = end
		} else if seg.size > end {
			seg.damaged++
		}
		s.damaged.Add(int64(seg.damaged))
		s.bytes.Add(seg.size)
	}
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool has damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir)
	}
	if s.f, err = os.OpenFile(s.path(s.newest), os.O_RDWR, 0); err != nil {
		return err
	}
	s.suspect = s.sync(s.f) != nil // who wrote it may have been killed before that
	return nil
}

// isOldFormat tells a file of the spool's earlier format, whose lines begin with a status and a checksum.
func isOldFormat(path string) bool {
	if strings.HasPrefix(filepath.Base(path), "dead-") {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 11)
	n, _ := io.ReadFull(f, head)
	return n == len(head) && (head[0] == 'P' || head[0] == 'D') && head[1] == ' ' && head[10] == ' '
}

func (s *spool) path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%08d.log", number))
}
func (s *spool) sparePath() string { return filepath.Join(s.dir, "spare") }

// walk calls f for every line of a segment. It returns where the last good line ends, where the file does but for its
// zeros, and how many lines before the last good one are damaged.
func (s *spool) walk(number uint64, f func(line)) (end, size int64, damaged int, err error) {
	file, err := os.Open(s.path(number))
	if err != nil {
		return 0, 0, 0, err
	}
	defer file.Close()
	buf, at, bad, final := make([]byte, 0, len(zeros)), int64(0), 0, false
	good := func(l line, n int) {
		damaged, end = damaged+bad, l.lies.offset()+int64(n)
		bad = 0
		f(l)
	}
	for !final {
		n, err := io.ReadFull(file, buf[len(buf):cap(buf)])
		if final = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !final {
			return 0, 0, 0, err
		}
		if buf = buf[:len(buf)+n]; bytes.Equal(buf, zeros[:min(len(buf), len(zeros))]) {
			at, buf, bad = at+int64(len(buf)), buf[:0], bad+1 // a hole, or what was never written
			continue
		}
		size = at + int64(len(bytes.TrimRight(buf, "\x00")))
		used := eachLine(buf, newPlace(number, at), final, good, func(n int) { bad += n })
		at += int64(used)
		if rest := copy(buf, buf[used:]); rest < cap(buf) {
			buf = buf[:rest]
		} else {
			buf = append(buf[:rest], make([]byte, rest)...)[:rest]
		}
	}
	return end, size, damaged, nil
}

// apply does to the index what a line says: at the start for all there are, and then for each that was written.
func (s *spool) apply(l line) {
	s.seq = max(s.seq, l.seq)
	at, known := s.live[l.seq]
	switch l.kind {
	case 'W':
		if known { // it was carried forward
			s.segments[at.segment()].live--
		}
		s.live[l.seq] = l.lies
		s.segments[l.lies.segment()].messages++
		s.segments[l.lies.segment()].live++
		s.forget(l.replaces)
	case 'X':
		if known {
			s.dead[l.seq] = l.lies
		}
	case 'D':
		if known && l.reason == fateDamaged {
			s.segments[at.segment()].damaged++
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
	if at, ok := s.live[seq]; ok {
		s.segments[at.segment()].live--
		delete(s.live, seq)
		delete(s.dead, seq)
	}
}

// do has the writer make c, and returns when that is on disk: nil, or why nothing of it is.
func (s *spool) do(c *change) error {
	c.done = make(chan struct{})
	s.mu.Lock()
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
	s.f.Close()
	s.lock.Close()
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
		_, ok := s.live[seq]
		return !ok || s.staged[seq]
	}
	now := time.Now().UnixMilli()
	for i := range c.end {
		e := &c.end[i]
		if _, isDead := s.dead[e.seq]; gone(e.seq) || isDead && e.fate == fateDead {
			e.gone = true
			continue
		}
		s.staged[e.seq] = true
		l := line{kind: 'D', seq: e.seq, at: now, reason: e.fate, attempts: e.attempts, place: s.live[e.seq]}
		if e.fate == fateDead {
			l.kind, l.reason = 'X', e.reason
		}
		lines = append(lines, l)
	}
	for _, m := range c.add {
		_, known := s.keys[m.ID]
		twin := slices.ContainsFunc(lines, func(l line) bool { return isKeyed(m.ID) && l.id == m.ID })
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
		if lines[i].kind == 'D' && lines[i].place == 0 { // of what is added by the same change
			lines[i].place = lines[i-1].lies
		}
		b = lines[i].appendTo(b)
		if i < len(lines)-1 && len(b) < batchBytes {
			continue
		}
		if !s.spare && at+int64(len(b)) > segmentSize {
			return cmp.Or(s.full, errors.New("no room")) // beyond it, writing could fail
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
		s.log.Error("it is over: "+what, "dir", s.dir)
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
	now, err := os.Stat(s.lock.Name())
	if err == nil && !os.SameFile(s.opened, now) {
		err = fmt.Errorf("%s was replaced: restart the server to use the new one", s.dir)
	}
	if err == nil {
		_, err = os.Stat(s.path(s.newest))
	}
	return err
}

// makeSpare makes the next segment, if there is none. What a crash left of one is written over: that needs no room.
func (s *spool) makeSpare() error {
	if s.spare {
		return nil
	}
	name := s.sparePath() + ".new"
	os.Rename(s.sparePath(), name)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := 0; at < segmentSize && err == nil; at += len(zeros) {
		_, err = f.Write(zeros)
	}
	if err = cmp.Or(err, f.Truncate(segmentSize), s.sync(f)); err != nil {
		os.Remove(name)
		return err
	}
	err = os.Rename(name, s.sparePath())
	s.spare = err == nil
	return err
}

// renew copies what is known to be good of a newest segment that is suspect to the spare one, which takes its name.
func (s *spool) renew() error {
	if !s.suspect {
		return nil
	}
	name := s.sparePath() + ".new" // until it has a name of its own, makeSpare begins anew
	f, err := os.OpenFile(s.sparePath(), os.O_RDWR, 0)
	if err != nil {
		s.spare = false
		return err
	}
	s.spare = false
	good := io.NewSectionReader(s.f, 0, s.segments[s.newest].size)
	if err = os.Rename(s.sparePath(), name); err == nil {
		_, err = io.Copy(f, good)
	}
	if err = cmp.Or(err, s.sync(f)); err == nil {
		err = os.Rename(name, s.path(s.newest))
	}
	if err != nil {
		f.Close()
		return err
	}
	s.f.Close()
	s.f = f
	if err := s.syncDir(); err != nil {
		return err
	}
	s.suspect = false
	return nil
}

// roll makes the spare segment the newest, where that is full or there is none yet.
func (s *spool) roll() error {
	if s.newest > 0 && s.segments[s.newest].size < rollAt {
		return nil
	}
	f, err := os.OpenFile(s.sparePath(), os.O_RDWR, 0)
	if s.spare = false; err != nil {
		return err
	}
	if err := os.Rename(s.sparePath(), s.path(s.newest+1)); err != nil {
		f.Close()
		return err
	}
	if s.f != nil {
		s.f.Truncate(s.segments[s.newest].size) // its zeros
		s.f.Close()
	}
	s.f = f
	s.mu.Lock()
	s.newest++
	s.oldest = cmp.Or(s.oldest, s.newest)
	s.segments[s.newest] = &segment{}
	s.mu.Unlock()
	err = s.syncDir() // the name is on disk before anything in it is acknowledged
	s.suspect = err != nil
	return err
}

func (s *spool) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// clean removes the oldest segment when all in it is done and the log is larger than what is kept for look-ups, or
// when the log is larger than that, twice what is live, and some segments. On a full disk nothing is kept.
func (s *spool) clean() {
	for s.oldest < s.newest && !s.suspect {
		oldest := s.segments[s.oldest]
		if oldest == nil {
			s.oldest++
			continue
		}
		keep := s.history.Load()
		if !s.spare {
			keep = 0
		}
		if oldest.live > 0 {
			for _, seg := range s.segments {
				keep += 2 * seg.size * int64(seg.live) / int64(max(seg.messages, 1))
			}
			if s.spare {
				keep += slackSegments * segmentSize
			}
		}
		if s.bytes.Load() <= keep {
			return
		}
		err := s.removeOldest()
		if s.report("cleaning the spool fails", err); err != nil {
			return
		}
	}
}

// removeOldest carries forward what is live in the oldest segment, then removes that.
func (s *spool) removeOldest() error {
	if s.carried != s.oldest {
		if err := s.carryForward(); err != nil {
			return err
		}
		s.carried = s.oldest
	}
	path, seg := s.path(s.oldest), s.segments[s.oldest]
	var err error
	if seg.damaged > 0 {
		err = os.Rename(path, strings.TrimSuffix(path, ".log")+".bad")
	} else {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.bytes.Add(-seg.size)
	s.mu.Lock()
	delete(s.segments, s.oldest)
	s.mu.Unlock()
	s.oldest++
	return s.syncDir()
}

// carryForward appends again what is live in the oldest segment, and the keys that are remembered.
func (s *spool) carryForward() error {
	var lines []line
	var failed error
	size := int64(0)
	write := func() {
		if s.spare && s.segments[s.newest].size >= rollAt {
			failed = s.roll()
			s.makeSpare() // if there is no room for it, the rest of the newest segment has to do
		}
		if failed == nil {
			failed = s.append(lines)
		}
		lines, size = nil, 0
	}
	_, _, _, err := s.walk(s.oldest, func(l line) {
		key := isKeyed(l.id) && s.keys[l.id] == l.seq
		switch {
		case failed != nil:
			return
		case l.kind == 'W' && s.live[l.seq] == l.lies:
			l.route, l.body = bytes.Clone(l.route), bytes.Clone(l.body)
			lines = append(lines, l)
			if at, isDead := s.dead[l.seq]; isDead {
				x, err := s.readLine(at)
				failed = err
				x.kind, x.seq = 'X', l.seq
				lines = append(lines, x)
			}
		case key && (l.kind == 'W' || l.kind == 'K'):
			lines = append(lines, line{kind: 'K', seq: l.seq, id: l.id})
		}
		if size += l.size(); size >= batchBytes {
			write()
		}
	})
	if cmp.Or(err, failed) == nil {
		write()
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
	return s.live[seq], s.dead[seq]
}

// readLine reads the line at p. errDamaged is for what was read and is no line; any other error says nothing about it.
func (s *spool) readLine(p place) (line, error) {
	f, err := os.Open(s.path(p.segment()))
	if err != nil {
		return line{}, err
	}
	defer f.Close()
	return lineAt(f, p)
}

func lineAt(f *os.File, p place) (line, error) {
	b := make([]byte, 1024)
	for {
		n, err := f.ReadAt(b, p.offset())
		if err != nil && err != io.EOF {
			return line{}, err
		}
		if size := lineLength(b[:n]); size > n && n == len(b) {
			b = make([]byte, size)
			continue
		}
		l, size := parseLine(b[:n])
		if l.lies = p; size == 0 {
			return l, errDamaged
		}
		return l, nil
	}
}

// read returns the line of a message that waits or is a dead letter, and of the latter its X line, too.
func (s *spool) read(seq uint64) (w, x line, err error) {
	for {
		at, dead := s.where(seq)
		if at == 0 {
			return w, x, errGone
		}
		w, err = s.readLine(at)
		if dead != 0 && err == nil {
			if x, err = s.readLine(dead); err == errDamaged {
				x, err = line{kind: 'X', reason: "its reason is damaged"}, nil
			}
		}
		if err == nil && w.seq != seq {
			err = errDamaged
		}
		if now, deadNow := s.where(seq); err == nil || now == at && dead == deadNow {
			return w, x, err
		} // else it has just moved
	}
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

// each calls f for every message that waits or is a dead letter, in no order. What changes meanwhile may be missed.
// f must not keep parts of the line.
func (s *spool) each(f func(w line, dead bool)) error {
	for _, number := range s.numbers() {
		_, _, _, err := s.walk(number, func(l line) {
			if w, x := s.where(l.seq); l.kind == 'W' && w == l.lies {
				f(l, x != 0)
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // that is removed meanwhile
			return err
		}
	}
	return nil
}

// all calls f for every message that the log knows, in no order, with its W line and what became of it: its D line, an X
// line of which nothing but the kind is set, or a zero one. What changes meanwhile may be missed. f must not keep parts of
// the W line.
func (s *spool) all(ctx context.Context, f func(w, became line)) error {
	type done struct {
		seq      uint64
		at       int64
		attempts int
		fate     string
		lies     place
	}
	ended := map[place]done{}            // by the place of the W line, until that is met
	for _, number := range s.numbers() { // a D line is never in an older segment than its W line
		_, _, _, err := s.walk(number, func(l line) {
			if l.kind == 'D' {
				ended[l.place] = done{l.seq, l.at, l.attempts, l.reason, l.lies}
			}
		})
		if err == nil {
			_, _, _, err = s.walk(number, func(l line) {
				if l.kind != 'W' {
					return
				}
				d, over := ended[l.lies]
				delete(ended, l.lies)
				w, x := s.where(l.seq)
				switch {
				case over && d.seq == l.seq:
					f(l, line{kind: 'D', seq: d.seq, at: d.at, attempts: d.attempts, reason: d.fate, lies: d.lies})
				case w == l.lies && x != 0:
					f(l, line{kind: 'X'})
				case w == l.lies:
					f(l, line{})
				}
			})
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // that is removed meanwhile
			return err
		}
	}
	return nil
}

// find returns the newest W line with an id, and the line that says what became of it: a zero one while it waits.
func (s *spool) find(id string) (w, became line, err error) {
	needle := []byte(`{"id":"` + id + `"`)
	for _, number := range s.numbers() {
		data, err := os.ReadFile(s.path(number))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return w, became, err
		}
		for from := 0; ; from++ {
			i := bytes.Index(data[from:], needle)
			if i < 0 {
				break
			}
			from += i
			start := bytes.LastIndexByte(data[:from], '\n') + 1
			if l, n := parseLine(data[start:]); n > 0 && l.kind == 'W' && l.id == id {
				w = l
			}
		}
		if w.kind != 0 {
			break
		}
	}
	if at, _ := s.where(w.seq); at != 0 {
		return s.read(w.seq)
	}
	for _, number := range s.numbers() {
		_, _, _, err := s.walk(number, func(l line) {
			if l.kind == 'D' && l.seq == w.seq {
				became = l
			}
		})
		if became.kind != 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return w, became, err
		}
	}
	return w, became, errGone
}
