package main

// The queue on disk: a log of lines that is only appended to and, in memory, an index of where each message lies. It
// knows no HTTP and no Slack; nobody else knows where a line lies.
//
//	DIR/lock          held as long as a process uses the spool
//	DIR/00000042.log  a segment of the log, 16 MiB
//	DIR/spare         the next segment, full of zeros: writing into it needs no room and changes no metadata
//	DIR/*.bad         segments that had damaged lines, kept when the log needs them no more
//
// A line is a checksum (CRC-32C of all behind it), a length (of all behind it and its blank), and what it says. All
// lines have the same fields, 0 or - where there is nothing to say:
//
//	CRC LEN W SEQ REPLACES TIME 0 ROUTE ID {…}    a message waits. It replaces dead letter REPLACES (0: none)
//	CRC LEN X SEQ 0 TIME ATTEMPTS - - REASON      it is a dead letter
//	CRC LEN D SEQ 0 TIME ATTEMPTS - - FATE        it is done
//	CRC LEN K SEQ 0 0 0 - ID                      it is gone, but its idempotency key is remembered
//
// SEQ numbers the messages in the order of acceptance, TIME is in Unix milliseconds. The last line about a message
// counts. A message that is carried forward has its W line, and its X line, written again under the same number.
//
// One goroutine, run, writes: one write and one sync for all that is queued, then the index, then the answers. Only
// the newest segment is written and only the oldest is removed, after what is live in it was carried forward. So no
// line outlives the one that it is about. After a write or a sync that failed, the file is not to be believed, since
// the kernel reports such an error once and drops the data: what is known to be good of it is copied into the spare
// segment, which takes its name.

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
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

// places is where lines lie, by their messages' numbers. A place takes 10 bytes where numbers are dense, 150 at most.
type places map[uint64]*[16]place

var nowhere [16]place

func (p places) at(seq uint64) place { return cmp.Or(p[seq/16], &nowhere)[seq%16] }

// set notes that a line lies at a place, or is none any more (0).
func (p places) set(seq uint64, at place) {
	some := p[seq/16]
	if some == nil {
		some = new([16]place)
		p[seq/16] = some
	}
	if some[seq%16] = at; *some == nowhere {
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
	wasDead  bool   // set by do: it was a dead letter
}

// change is what one caller wants written, all of it or, after an error, nothing.
type change struct {
	// add gets a number; none where its key is known, or the dead letter that it replaces is gone. What was posted with
	// sync goes into the history.
	add  []*message
	end  []ending   // alone: an error of the disk is tried again until it passes
	done chan error // the answer
}

// segment is a file of the log.
type segment struct {
	size           int64
	messages, live int  // W lines; of these, those of messages that wait or are dead letters
	damaged        bool // it had damaged lines: known since one was read, or since it was carried forward
}

// liveBytes returns about how much of the segment is live.
func (seg *segment) liveBytes() int64 {
	return seg.size * int64(seg.live) / int64(max(seg.messages, 1))
}

type spool struct {
	dir     *os.Root // the folder that was opened, even after another has taken its name
	folder  *os.File // the same: its sync puts names on disk
	lock    *os.File
	log     *slog.Logger
	sync    func(*os.File) error
	history atomic.Int64 // bytes of the log that are kept for look-ups after all in them is done
	changes chan *change // to run

	guard
	live     places // W lines of what waits or is a dead letter
	dead     places // X lines of the dead letters
	segments map[uint64]*segment
	keys     map[string]uint64 // ids made of idempotency keys: at least the newest keysKept, with their numbers

	still sync.RWMutex // held by all: nothing is carried forward meanwhile

	// Owned by run:
	newest, oldest uint64
	f              *os.File // the newest segment
	w              *bufio.Writer
	suspect        error // why it is not to be believed
	spare          bool  // there is one
	seq            uint64
	carried        uint64 // the oldest segment, once what is live in it was carried forward
	cleanErr       error  // of the last attempt to remove a segment
	trouble        error  // what was logged last

	bytes   atomic.Int64          // of all segments
	damaged atomic.Int64          // lines
	failed  atomic.Pointer[error] // why nothing can be added, to nil while it can
	quit    chan struct{}
	ended   chan struct{}
}

// line is one of the log. Its route and says are parts of the bytes that it was parsed from.
type line struct {
	kind                        byte
	seq, replaces, at, attempts uint64 // at: Unix ms
	route                       []byte
	id                          string
	says                        []byte // the message as JSON, the reason of a dead letter, or a fate
	lies                        place  // of the line itself
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      = make([]byte, 256<<10)
)

// appendTo appends the line and its newline to b.
func (l *line) appendTo(b []byte) []byte {
	start, route, id := len(b), cmp.Or(string(l.route), "-"), cmp.Or(l.id, "-")
	// The kind stands behind blanks, which checksum and length take.
	b = fmt.Appendf(b, "%*c %d %d %d %d %s %s ", headerSize+1, l.kind, l.seq, l.replaces, l.at, l.attempts, route, id)
	b = append(b, l.says...) // it may be large: fmt would copy it once more
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

// parseLine reads the line that b begins with. n is its length, 0 if it is damaged. A whole line of another format has
// no kind.
func parseLine(b []byte) (l line, n int) {
	if n = lineLength(b); n == 0 || n > len(b) {
		return line{}, 0
	}
	sum, err := strconv.ParseUint(string(b[:8]), 16, 32)
	if err != nil || crc32.Checksum(b[9:n-1], castagnoli) != uint32(sum) {
		return line{}, 0
	}
	fields := bytes.SplitN(b[headerSize:n-1], []byte(" "), 8)
	if len(fields) < 8 || len(fields[0]) != 1 || !bytes.Contains([]byte("WXDK"), fields[0]) {
		return line{}, n
	}
	for i, to := range []*uint64{&l.seq, &l.replaces, &l.at, &l.attempts} {
		if *to, err = strconv.ParseUint(string(fields[i+1]), 10, 64); err != nil {
			return line{}, n
		}
	}
	l.kind, l.route, l.id, l.says = fields[0][0], fields[5], string(fields[6]), fields[7]
	return l, n
}

// size is what a W line takes of max_bytes.
func (l *line) size() int64 { return lineSize(len(l.route), len(l.id), len(l.says)) }

func lineSize(route, id, body int) int64 { return int64(64 + route + id + body) }

// message decodes a W line. With an error, the message has what could be read.
func (l *line) message() (m *message, err error) {
	m = &message{ID: l.id, route: parseRoute(string(l.route)), seq: l.seq, queued: int64(l.at)}
	if json.Unmarshal(l.says, m) != nil {
		err = errDamaged
	}
	return m, err
}

// state says what became of the message whose last line is l, a zero one if it has but its W line.
func (l line) state() string {
	switch {
	case l.kind == 0:
		return "waiting"
	case l.kind == 'X':
		return "dead"
	case string(l.says) == fateDelivered:
		return "delivered"
	}
	return "dropped"
}

// keyedID returns the id of a message to a route, with the client's key: the same for the same ones.
func keyedID(key string, r route) string {
	sum := sha256.Sum256([]byte(key + "\x00" + r.String()))
	return fmt.Sprintf("k%x", sum)[:16]
}

func isKeyed(id string) bool { return strings.HasPrefix(id, "k") }

// openSpool locks dir, which it makes if need be, and reads what an earlier process left. It brings files to disk with
// syncFile. The error names the folder or the file.
func openSpool(dir string, syncFile func(*os.File) error, log *slog.Logger) (*spool, error) {
	made := os.MkdirAll(dir, 0o700)
	root, err := os.OpenRoot(dir)
	if err = cmp.Or(made, err); err != nil {
		return nil, err
	}
	folder, err := root.Open(".")
	lock, failed := root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	s := &spool{
		dir: root, folder: folder, lock: lock, log: log, sync: syncFile, w: bufio.NewWriterSize(nil, batchBytes),
		live: places{}, dead: places{}, segments: map[uint64]*segment{}, keys: map[string]uint64{},
		changes: make(chan *change), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	s.failed.Store(new(error))
	if err = cmp.Or(err, failed); err == nil && syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		err = fmt.Errorf("%s is in use by another process", dir)
	}
	if err == nil {
		err = s.replay()
	}
	if err != nil {
		s.closeFiles()
	}
	return s, err
}

// replay reads the log into the index.
func (s *spool) replay() error {
	entries, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return err
	}
	torn := false
	for _, e := range entries { // in the order of their numbers
		name, isLog := strings.CutSuffix(e.Name(), ".log")
		number, _ := strconv.ParseUint(name, 10, 32)
		switch {
		case isLog && strings.HasPrefix(name, "dead-"):
			return s.earlierFormat(e.Name())
		case number == 0 || fileName(number) != e.Name():
			continue
		case torn: // a crash does that in the newest segment only
			s.damaged.Add(1)
			s.segments[s.newest].damaged = true
		}
		seg, damaged := &segment{size: 1 << 32}, 0 // offsets have 32 bits
		s.segments[number], s.newest, s.oldest = seg, number, cmp.Or(s.oldest, number)
		if seg.size, damaged, torn, err = s.walk(number, s.apply); err != nil {
			return err
		}
		s.damaged.Add(int64(damaged))
		s.bytes.Add(seg.size)
	}
	if s.newest == 0 { // the spare segment becomes the first one
		s.newest, s.oldest, s.segments[1], s.suspect = 1, 1, &segment{}, fs.ErrNotExist
		return s.makeRoom()
	}
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool has damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir.Name())
	}
	if s.f, err = s.dir.OpenFile(fileName(s.newest), os.O_RDWR, 0); err == nil {
		s.suspect = cmp.Or(s.sync(s.f), s.folder.Sync()) // who wrote it may have been killed before that
	}
	return err
}

// earlierFormat is the error for a file of an earlier format of the spool. The lines of the first one begin with a
// status and a checksum.
func (s *spool) earlierFormat(name string) error {
	return fmt.Errorf("%s/%s is of an earlier format: let the version that wrote it deliver what waits",
		s.dir.Name(), name)
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
	var size int64 // behind it lies what was never written, or is being written
	s.locked(func() { size = s.segments[segment].size })
	at, bad, lineBegins, lines := int64(0), 0, true, bufio.NewScanner(io.LimitReader(file, size))
	lines.Buffer(make([]byte, len(zeros)), 2*lineLimit) // it grows with them
	lines.Split(func(b []byte, atEOF bool) (n int, token []byte, err error) {
		if len(b) == 0 || !atEOF && len(b) < max(headerSize, lineLength(b)) {
			return 0, nil, nil // until there is more of it
		}
		l, n := parseLine(b)
		whole := n > 0 && (bad == 0 || b[n-1] == '\n')
		ofFirst := at == 0 && len(b) > 10 && bytes.ContainsAny(b[:1], "PD") && b[1] == ' ' && b[10] == ' '
		switch {
		case whole && l.kind == 0, ofFirst:
			return 0, nil, s.earlierFormat(fileName(segment))
		case whole:
			l.lies = newPlace(segment, at)
			end, damaged, bad, torn, lineBegins = at+int64(n), damaged+bad, 0, false, true
			f(l)
		default:
			// one byte, or all of a hole or what was never written
			n = max(1, len(b)-len(bytes.TrimLeft(b, "\x00")))
			torn = torn || b[0] != 0
			bad += asInt(lineBegins)
			lineBegins = b[n-1] == '\n'
		}
		at += int64(n)
		return n, b[:n], nil
	})
	for lines.Scan() {
	}
	return end, damaged, torn, lines.Err()
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
		if at != 0 && string(l.says) == fateDamaged {
			s.segmentOf(at).damaged = true
			s.damaged.Add(1)
		}
		s.forget(l.seq)
	}
	if isKeyed(l.id) && l.seq >= s.keys[l.id] {
		if s.keys[l.id] = l.seq; len(s.keys) >= 2*keysKept { // then half of them are forgotten
			oldest := slices.Sorted(maps.Values(s.keys))[keysKept]
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
func (s *spool) segmentOf(p place) *segment { return cmp.Or(s.segments[p.segment()], new(segment)) }

// do has the writer make c, and returns when that is on disk: nil, or why nothing of it is. What ends messages is asked
// for until then.
func (s *spool) do(c *change) error {
	for c.done = make(chan error, 1); ; time.Sleep(probeEvery) {
		select {
		case s.changes <- c:
			if err := <-c.done; err == nil || c.add != nil {
				return err
			}
		case <-s.ended:
			return errors.New("the spool is closed")
		}
	}
}

// run writes until close, and then what is asked for at that moment.
func (s *spool) run() {
	defer close(s.ended)
	tick := time.Tick(probeEvery)
	s.commit(nil, true) // makes the spare
	for open := true; open; {
		batch, tryAgain := []*change(nil), true // what has failed is tried again: at each tick, and at the end
		select {
		case c := <-s.changes:
			batch, tryAgain = append(batch, c), false
		case <-tick:
		case <-s.quit:
			open = false
		}
		s.commit(s.collect(batch), tryAgain)
		s.clean(tryAgain)
	}
	s.closeFiles()
}

func (s *spool) closeFiles() {
	s.f.Close()
	s.lock.Close()
	s.folder.Close()
	s.dir.Close()
}

// close ends run once what is asked for is done, as far as the disk lets it, and releases the folder.
func (s *spool) close() {
	close(s.quit)
	<-s.ended
}

// collect adds to a batch what else is asked for, not more than fits. It lets those run who are about to ask: what they
// want shares one sync.
func (s *spool) collect(batch []*change) []*change {
	for size, idle := int64(0), 0; len(batch) < batchChanges && size < batchBytes && idle < 3; {
		select {
		case c := <-s.changes:
			batch, idle = append(batch, c), 0
			for _, m := range c.add {
				size += m.size()
			}
		default:
			idle++
			runtime.Gosched()
		}
	}
	return batch
}

// commit writes a batch, then answers it; what cannot be added is refused at once. It logs an error when that begins or
// changes, and its end.
func (s *spool) commit(batch []*change, tryAgain bool) {
	full, lines, ended, staged := s.prepare(tryAgain), []line(nil), map[uint64]bool{}, []*change(nil)
	for _, c := range batch {
		if full != nil && c.add != nil {
			c.done <- full
			continue
		}
		lines, staged = s.stage(lines, c, ended), append(staged, c)
	}
	err := s.append(lines, segmentSize) // beyond that, the disk may be full
	for _, c := range staged {
		c.done <- err
	}
	failed := cmp.Or(full, err)
	trouble := cmp.Or(failed, s.cleanErr)
	switch {
	case fmt.Sprint(trouble) == fmt.Sprint(s.trouble):
	case trouble == nil:
		s.log.Error("the spool works again", "dir", s.dir.Name())
	default:
		s.log.Error("the spool does not work", "dir", s.dir.Name(), "err", trouble)
	}
	s.trouble = trouble
	s.failed.Store(&failed)
}

// stage adds the lines of c. What has ended before, or by this batch, is left out, and so is a message whose key is
// known.
func (s *spool) stage(lines []line, c *change, ended map[uint64]bool) []line {
	gone := func(seq uint64) bool { return s.live.at(seq) == 0 || ended[seq] }
	now := uint64(time.Now().UnixMilli())
	for i := range c.end {
		e := &c.end[i]
		e.wasDead = s.dead.at(e.seq) != 0
		if e.gone = gone(e.seq) || e.fate == fateDead && e.wasDead; e.gone {
			continue
		}
		ended[e.seq] = true
		l := line{kind: 'D', seq: e.seq, at: now, attempts: uint64(e.attempts), says: []byte(e.fate)}
		if e.fate == fateDead {
			l.kind, l.says = 'X', []byte(cleaned(e.reason, titleLimit))
		}
		lines = append(lines, l)
	}
	for _, m := range c.add {
		twin := isKeyed(m.ID) && slices.ContainsFunc(lines, func(l line) bool { return l.id == m.ID })
		if m.replaces == 0 && (s.keys[m.ID] != 0 || twin) || m.replaces != 0 && gone(m.replaces) {
			continue
		}
		ended[m.replaces] = true
		s.seq++
		m.seq, m.queued = s.seq, int64(now)
		lines = append(lines, line{kind: 'W', seq: m.seq, replaces: m.replaces, at: now,
			route: []byte(m.route.String()), id: m.ID, says: m.encoded()})
		if m.sync {
			lines = append(lines, line{kind: 'D', seq: m.seq, at: now, attempts: 1, says: []byte(fateDelivered)})
		}
	}
	return lines
}

// append brings lines to disk and then into the index: all of them or, after an error, none. Without a spare segment
// the newest one must not grow beyond limit.
func (s *spool) append(lines []line, limit int64) error {
	if len(lines) == 0 || s.suspect != nil {
		return s.suspect
	}
	seg, b := s.segments[s.newest], []byte(nil)
	at := seg.size
	w, to := s.w, io.NewOffsetWriter(s.f, at)
	w.Reset(to)
	if !s.spare { // nothing is written unless all of it fits
		w = bufio.NewWriterSize(to, int(limit-at))
	}
	for i := range lines {
		lines[i].lies = newPlace(s.newest, at)
		b = lines[i].appendTo(b[:0])
		if at += int64(len(b)); at > limit && !s.spare {
			return errors.New("there is no room on the disk")
		}
		w.Write(b)
	}
	if err := cmp.Or(w.Flush(), s.sync(s.f)); err != nil { // Flush knows of errors before it, too
		s.suspect = err
		s.f.Truncate(seg.size) // so that what is refused now is not found by a start before the file is renewed
		return err
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

// prepare sees to the folder, which has to be the one that was opened: else what is written reaches nobody. Then,
// unless that has failed since the last tick, it sees to room in it. It returns why nothing can be added.
func (s *spool) prepare(tryAgain bool) error {
	opened, err := s.lock.Stat()
	there, gone := os.Stat(s.lock.Name())
	_, lost := s.dir.Stat(fileName(s.newest))
	if err = cmp.Or(err, gone, lost); err == nil && !os.SameFile(opened, there) {
		err = errors.New("it was replaced: restart the server to use the new one")
	}
	if err != nil {
		s.suspect = fmt.Errorf("the spool's folder is gone: %w", err)
		return s.suspect
	}
	if err = s.health(); err == nil || tryAgain {
		err = s.makeRoom()
	}
	return err
}

// makeRoom sees to a newest segment that can be written, and a spare one behind it. The spare one becomes the newest:
// in place of one that is suspect, with what is known to be good of that, or behind one that is full.
func (s *spool) makeRoom() error {
	number, seg, err := s.newest, s.segments[s.newest], s.makeSpare()
	switch {
	case err != nil || s.suspect == nil && seg.size < rollAt:
		return err
	case s.suspect == nil:
		number, seg = number+1, &segment{}
	}
	f, err := s.dir.OpenFile(spareName, os.O_RDWR, 0)
	if s.spare = false; err != nil {
		return err
	}
	_, err = io.Copy(f, io.NewSectionReader(s.f, 0, seg.size))
	if err = cmp.Or(err, s.sync(f)); err == nil {
		err = s.dir.Rename(spareName, fileName(number))
	}
	if err != nil {
		f.Close()
		return err
	}
	s.f.Truncate(s.segments[s.newest].size) // its zeros
	s.f.Close()
	s.locked(func() { s.f, s.newest, s.segments[number] = f, number, seg })
	s.suspect = s.folder.Sync() // the name is on disk before anything in it is acknowledged
	return cmp.Or(s.suspect, s.makeSpare())
}

// makeSpare makes the next segment, if there is none. What an earlier process left of one is written over: that needs
// no room.
func (s *spool) makeSpare() error {
	if s.spare {
		return nil
	}
	f, err := s.dir.OpenFile(spareName, os.O_WRONLY|os.O_CREATE, 0o600)
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
	if s.spare = err == nil; err != nil {
		s.dir.Remove(spareName)
	}
	return err
}

// clean removes the oldest segments as long as there is more than has to be kept.
func (s *spool) clean(tryAgain bool) {
	for ; s.suspect == nil && (tryAgain || s.cleanErr == nil) && s.hasTooMuch() && s.still.TryLock(); tryAgain = false {
		s.cleanErr = s.removeOldest()
		s.still.Unlock()
		s.makeSpare() // with the room that there is now
	}
}

// hasTooMuch tells whether the oldest segment has to go: when all in it is done, as soon as the log is larger than what
// is kept for look-ups, else when it is larger than that, twice what is live, and some segments. On a full disk nothing
// is kept for look-ups, and what is done makes room as soon as what is live in the oldest segment fits into the newest.
func (s *spool) hasTooMuch() bool {
	oldest, newest, bytes, live := s.segments[s.oldest], s.segments[s.newest], s.bytes.Load(), int64(0)
	for _, seg := range s.segments {
		live += seg.liveBytes()
	}
	switch {
	case oldest == newest:
		return false
	case oldest.live == 0:
		return !s.spare || bytes > s.history.Load()
	case s.spare:
		return bytes > s.history.Load()+2*live+slackSegments*segmentSize
	}
	return bytes > live+batchBytes && newest.size+oldest.liveBytes() < carryLimit
}

// removeOldest carries forward what is live in the oldest segment, then removes that.
func (s *spool) removeOldest() error {
	seg, name := s.segments[s.oldest], fileName(s.oldest)
	if err := s.carryForward(); err != nil {
		return err
	}
	err := s.folder.Sync() // the one before does not come back: it holds what lines in this one have ended
	if err == nil && seg.damaged {
		err = s.dir.Rename(name, strings.TrimSuffix(name, ".log")+".bad")
	} else if err == nil {
		err = s.dir.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.bytes.Add(-seg.size)
	s.locked(func() { delete(s.segments, s.oldest) })
	s.oldest = slices.Min(s.numbers())
	return nil
}

// carryForward appends again the lines of the oldest segment that the index knows, and the keys that are remembered.
func (s *spool) carryForward() error {
	if s.carried == s.oldest { // but it could not be removed
		return nil
	}
	lines, failed := []line(nil), error(nil)
	size, limit, oldest := int64(0), int64(segmentSize), s.segments[s.oldest]
	if oldest.live > 0 {
		limit = carryLimit
	}
	write := func() {
		if s.spare {
			s.makeRoom() // if there is none for another spare, the rest of the newest segment has to do
		}
		failed = s.append(lines, limit)
		lines, size = nil, 0
	}
	_, damaged, torn, err := s.walk(s.oldest, func(l line) {
		w, x := s.live.at(l.seq), s.dead.at(l.seq)
		switch {
		case failed != nil:
			return
		case l.kind == 'W' && w == l.lies, l.kind == 'X' && x == l.lies && w != 0:
			l.route, l.says = bytes.Clone(l.route), bytes.Clone(l.says)
			lines = append(lines, l)
		case isKeyed(l.id) && s.keys[l.id] == l.seq: // of a W or a K line
			lines = append(lines, line{kind: 'K', seq: l.seq, id: l.id})
		}
		if size += l.size(); size >= batchBytes {
			write()
		}
	})
	if err == nil && failed == nil {
		write()
	}
	if err = cmp.Or(err, failed); err != nil {
		return err
	}
	s.carried, oldest.damaged = s.oldest, oldest.damaged || damaged > 0 || torn || oldest.live > 0
	return nil
}

// seen tells whether all of messages were stored before, under their idempotency keys.
func (s *spool) seen(messages []*message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(messages, func(m *message) bool { return s.keys[m.ID] == 0 })
}

// health returns why nothing can be stored, nil while it can.
func (s *spool) health() error { return *s.failed.Load() }

// where returns where the W line of a message lies that waits or is a dead letter, and the X line of the latter.
func (s *spool) where(seq uint64) (w, x place) {
	s.locked(func() { w, x = s.live.at(seq), s.dead.at(seq) })
	return w, x
}

// readLine reads the line at p, which is about message seq. errDamaged is for what was read and is not that line; any
// other error says nothing about it.
func (s *spool) readLine(p place, seq uint64) (l line, err error) {
	f, err := s.dir.Open(fileName(p.segment()))
	if errors.Is(err, fs.ErrNotExist) && !slices.Contains(s.numbers(), p.segment()) {
		return l, errDamaged // when its segment was removed, else it would have been carried forward
	}
	if err != nil {
		return l, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if _, err = f.ReadAt(b, p.offset()); err == nil {
		b = make([]byte, lineLength(b))
		_, err = f.ReadAt(b, p.offset())
	}
	if l, _ = parseLine(b); err == io.EOF || err == nil && l.seq != seq {
		err = errDamaged
	}
	return l, err
}

// found is a message that the log knows: its number and, once it is done, where its W line and its D line lie.
type found struct {
	seq         uint64
	lies, ended place
}

// read returns a message, and the line that says what became of it: its D line, the X line of a dead letter, a zero one
// if it waits.
func (s *spool) read(f found) (m *message, became line, err error) {
	at, last := f.lies, f.ended
	if last == 0 {
		at, last = s.where(f.seq)
	}
	if at == 0 {
		return nil, became, errGone
	}
	w, err := s.readLine(at, f.seq)
	if err == nil && last != 0 {
		if became, err = s.readLine(last, f.seq); err == errDamaged && f.ended == 0 {
			became, err = line{kind: 'X', seq: f.seq, says: []byte("its reason is damaged")}, nil
		}
	}
	if now, deadNow := s.where(f.seq); f.ended == 0 && (now != at || deadNow != last) {
		return s.read(f) // it has just moved
	}
	m, damaged := w.message()
	return m, became, cmp.Or(err, damaged)
}

// numbers returns those of the segments, the newest first.
func (s *spool) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.segments), func(a, b uint64) int { return cmp.Compare(b, a) })
}

// all calls f for every message that waits or is a dead letter and, with history, for all others that the log knows:
// those of the newest segment first, with its W line and its state. It asks after each segment whether that is enough.
// What changes meanwhile may be missed; nothing is carried forward. f must not keep parts of the W line.
func (s *spool) all(history bool, enough func() bool, f func(m found, w line, state string)) (err error) {
	type end struct {
		state string
		lies  place
	}
	ended := map[uint64]end{} // whose W lines were not met yet: they are in the same segment or an older one
	s.still.RLock()
	defer s.still.RUnlock()
	for _, number := range s.numbers() {
		if history {
			_, _, _, err = s.walk(number, func(l line) {
				if l.kind == 'D' {
					ended[l.seq] = end{l.state(), l.lies}
				}
			})
		}
		_, _, _, failed := s.walk(number, func(l line) {
			d, over := ended[l.seq]
			w, x := s.where(l.seq)
			switch {
			case l.kind != 'W':
			case over:
				delete(ended, l.seq)
				f(found{l.seq, l.lies, d.lies}, l, d.state)
			case w == l.lies && x != 0:
				f(found{seq: l.seq}, l, "dead")
			case w == l.lies:
				f(found{seq: l.seq}, l, "waiting")
			}
		})
		if err = cmp.Or(err, failed); err != nil || enough() {
			return err
		}
	}
	return nil
}
