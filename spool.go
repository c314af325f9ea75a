package main

// The queue on disk: a log of lines, which only grows at its end, and in memory an index of where the lines of each
// message lie. This file knows nothing of HTTP and Slack. No other file knows where a line lies.
//
//	DIR/lock          locked while a process uses the spool
//	DIR/00000042.log  a segment of the log, about 16 MiB
//	DIR/spare         the next segment, full of zeros: a write needs no disk space, a sync writes no metadata
//	DIR/*.bad         segments with damaged lines that the log does not need any more, kept for the operator
//
// A line is a header, eight fields with a blank between them, and a newline. The header is a checksum and a length,
// each of them 8 hexadecimal digits and a blank. The length LEN is the number of bytes between the header and the
// newline. The checksum CRC is the CRC-32C of everything between its blank and the newline. An unused number is 0, an
// unused ROUTE or ID is -. The last field of a K line is empty.
//
//	CRC LEN W SEQ REPLACES TIME 0 ROUTE ID {…}    the message waits. It replaces the dead letter REPLACES (0: none)
//	CRC LEN X SEQ 0 TIME ATTEMPTS - - REASON      the message is a dead letter
//	CRC LEN D SEQ 0 TIME ATTEMPTS - - FATE        the message is done
//	CRC LEN K SEQ 0 0 0 - ID                      the message is gone, but its idempotency key is remembered
//
// SEQ numbers the messages in the order of acceptance. TIME is when the line was first written, in Unix milliseconds.
// ROUTE is what route.String returns, {…} is a message as JSON, FATE is one of the fates below. In the newest
// segment, zeros follow the last line, or the torn line that a crash left there.
//
// A message is live from its W line until it has a D line, or until a W line replaces it. A live message with an X
// line is a dead letter, a live message without an X line waits. A live message is carried forward by writing its W
// line, and its X line if there is one, again at the end of the log, unchanged. The W line may then come behind the X
// line.
//
// One goroutine, run, writes. It takes a batch of queued changes, writes their lines, syncs the file once, updates
// the index and then answers the callers. It writes only to the newest segment. It removes only the oldest segment,
// after it has carried forward its live messages and, as K lines, the idempotency keys that are still remembered. So
// the line that ended a message is never removed before the W line of the message.
//
// After a write or a sync that failed, the content of the file cannot be trusted: the kernel reports such an error
// once and drops the data. The lines that are known to be good are copied into the spare segment, which then takes
// the name of the file.

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
	segmentSize    = 16 << 20
	batchChanges   = 1024
	batchBytes     = 1 << 20
	rollAt         = segmentSize - 2*batchBytes // on a full disk, the rest is for the lines that end messages
	carryLimit     = segmentSize - batchBytes   // on a full disk, live messages are not carried beyond this offset
	marginSegments = 2                          // see hasTooMuch
	keysKept       = 16_384
	lineLimit      = 8 << 20 // bytes; the largest message is far smaller
	probeEvery     = time.Second
	spareName      = "spare"
	headerSize     = len("9a0b3c4d 000000f3 ")
)

var (
	errGone    = errors.New("not there any more")
	errDamaged = errors.New("the line is damaged")
)

// place is where a line lies: the number of a segment and an offset in it. 0 is no place.
type place uint64

func newPlace(segment uint64, offset int64) place { return place(segment<<32 | uint64(offset)) }
func (p place) segment() uint64                   { return uint64(p >> 32) }
func (p place) offset() int64                     { return int64(p & (1<<32 - 1)) }

// places maps the number of a message to the place of its line. A place takes 10 bytes of memory if the numbers are
// dense, 150 at most.
type places map[uint64]*[16]place

var nowhere [16]place

func (p places) at(seq uint64) place { return cmp.Or(p[seq/16], &nowhere)[seq%16] }

// set notes that the line of message seq lies at a place. If at is 0, there is no such line any more.
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

// Fates of a message. A D line contains one of the first three.
const (
	fateDelivered = "delivered"
	fateDropped   = "dropped" // by an operator
	fateDamaged   = "damaged" // its W line could not be read
	fateDead      = "dead"    // not the end: the message gets an X line, not a D line
)

// ending is what becomes of a message: it is done, or it becomes a dead letter.
type ending struct {
	seq      uint64
	route    route
	fate     string
	attempts int
	reason   string // why it becomes a dead letter
	gone     bool   // set by do: nothing was written, it was done before (with fateDead: or was dead before)
	wasDead  bool   // set by do: it was a dead letter
}

// change is what one caller wants to be written: all of it or, after an error, nothing.
type change struct {
	// The messages to add: do gives each of them its number, seq. A message is not added and gets no number if the
	// dead letter that it replaces is gone or, when it replaces none, if its idempotency key is known. A message that
	// was posted with sync is added as delivered, for look-ups.
	add  []*message
	end  []ending   // if add is nil, do tries again after an error of the disk
	done chan error // run's answer to do
}

// segment is a file of the log.
type segment struct {
	size           int64
	messages, live int  // its W lines; those of them that the index points to
	damaged        bool // it has damaged lines; may be false until carryForward has read the segment
}

// liveBytes returns about how many bytes of the segment belong to live messages.
func (seg *segment) liveBytes() int64 {
	return seg.size * int64(seg.live) / int64(max(seg.messages, 1))
}

type spool struct {
	dir     *os.Root // the folder that was opened, even after another folder has taken its name
	folder  *os.File // the same folder: its sync puts the names of files on disk
	lock    *os.File
	log     *slog.Logger
	sync    func(*os.File) error
	history atomic.Int64 // history_bytes: while the log is not larger, segments without live messages stay
	changes chan *change // to run

	// The index. Once run is running, only run changes it, with mu held; other goroutines hold mu to read it.
	guard
	live     places // the W lines of live messages
	dead     places // the X lines of dead letters
	segments map[uint64]*segment
	keys     map[string]uint64 // from ids made of idempotency keys to message numbers: at least the newest keysKept

	still sync.RWMutex // held by the method all: meanwhile nothing is carried forward or removed

	// Owned by run:
	newest, oldest uint64
	f              *os.File // the newest segment
	w              *bufio.Writer
	suspect        error // why nothing may be written to f; nil if writing is allowed
	spare          bool  // the spare segment exists and is complete
	seq            uint64
	carried        uint64 // the segment that was carried forward last
	cleanErr       error  // of the last removal of a segment; nil if it worked
	logged         error  // the error that was logged last; nil if it has ended

	bytes   atomic.Int64          // of all segments
	damaged atomic.Int64          // damaged lines
	failed  atomic.Pointer[error] // points to why nothing can be added, or to nil
	quit    chan struct{}
	ended   chan struct{}
}

// line is a line of the log. route and says share the memory of the bytes that the line was parsed from.
type line struct {
	kind                          byte
	seq, replaces, time, attempts uint64 // time: Unix ms
	route                         []byte
	id                            string
	says                          []byte // the message as JSON, the reason of a dead letter, or a fate
	place                         place  // where the line lies
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      = make([]byte, 256<<10)
)

// appendTo appends the line and its newline to b.
func (l *line) appendTo(b []byte) []byte {
	start, route, id := len(b), cmp.Or(string(l.route), "-"), cmp.Or(l.id, "-")
	// The blanks before the kind make room for the checksum and the length, which are filled in below.
	b = fmt.Appendf(b, "%*c %d %d %d %d %s %s ", headerSize+1, l.kind, l.seq, l.replaces, l.time, l.attempts, route, id)
	b = append(b, l.says...) // it may be large: fmt would copy it once more
	copy(b[start+9:], fmt.Sprintf("%08x", len(b)-start-headerSize))
	copy(b[start:], fmt.Sprintf("%08x", crc32.Checksum(b[start+9:], castagnoli)))
	return append(b, '\n')
}

// lineLength returns the length of the line that b begins with, as its header says, newline included. It returns 0 if
// b does not begin with a header, or if the header says more than lineLimit.
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

// parseLine parses the line that b begins with. n is its length with the newline, or 0 if the line is damaged or b
// does not contain all of it. The newline itself is not checked: see walk. If the checksum is right but the fields
// are those of another format, l has no kind (0).
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
	for i, to := range []*uint64{&l.seq, &l.replaces, &l.time, &l.attempts} {
		if *to, err = strconv.ParseUint(string(fields[i+1]), 10, 64); err != nil {
			return line{}, n
		}
	}
	l.kind, l.route, l.id, l.says = fields[0][0], fields[5], string(fields[6]), fields[7]
	return l, n
}

// size returns how many bytes of max_bytes a W line counts for.
func (l *line) size() int64 { return lineSize(len(l.route), len(l.id), len(l.says)) }

func lineSize(route, id, body int) int64 { return int64(64 + route + id + body) }

// message decodes a W line. If it returns an error, m has what could be read.
func (l *line) message() (m *message, err error) {
	m = &message{ID: l.id, route: parseRoute(string(l.route)), seq: l.seq, queued: int64(l.time)}
	if json.Unmarshal(l.says, m) != nil {
		err = errDamaged
	}
	return m, err
}

// state returns waiting, dead, delivered or dropped: the state of a message whose D line or X line is l. If the
// message has neither, l is the zero line. A message whose line was damaged counts as dropped.
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

// keyedID returns the id of a message that came with an idempotency key. Equal keys and routes give equal ids.
func keyedID(key string, r route) string {
	sum := sha256.Sum256([]byte(key + "\x00" + r.String()))
	return fmt.Sprintf("k%x", sum)[:16]
}

func isKeyed(id string) bool { return strings.HasPrefix(id, "k") }

// openSpool locks dir, makes it if it does not exist, and reads what an earlier process left there. The spool calls
// syncFile to bring the data of a file to disk. The error names the folder or the file, except an error of syncFile.
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

// replay reads the log into the index. If there is no log, it makes the first segment.
func (s *spool) replay() error {
	entries, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return err
	}
	torn := false
	for _, e := range entries { // sorted by name: in the order of the segments
		name, isLog := strings.CutSuffix(e.Name(), ".log")
		number, _ := strconv.ParseUint(name, 10, 32)
		switch {
		case isLog && strings.HasPrefix(name, "dead-"):
			return s.earlierFormat(e.Name())
		case number == 0 || fileName(number) != e.Name():
			continue
		case torn: // the segment before: a crash tears only the newest one, so this is damage
			s.damaged.Add(1)
			s.segments[s.newest].damaged = true
		}
		seg, damaged := &segment{size: 1 << 32}, 0 // walk reads up to size, and offsets have 32 bits
		s.segments[number], s.newest, s.oldest = seg, number, cmp.Or(s.oldest, number)
		if seg.size, damaged, torn, err = s.walk(number, s.apply); err != nil {
			return err
		}
		s.damaged.Add(int64(damaged))
		s.bytes.Add(seg.size)
	}
	if s.newest == 0 { // no log yet: the spare becomes the first segment
		s.newest, s.oldest, s.segments[1], s.suspect = 1, 1, &segment{}, fs.ErrNotExist
		return s.makeRoom()
	}
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool has damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir.Name())
	}
	if s.f, err = s.dir.OpenFile(fileName(s.newest), os.O_RDWR, 0); err == nil {
		s.suspect = cmp.Or(s.sync(s.f), s.folder.Sync()) // the process that wrote may have been killed before its sync
	}
	return err
}

// earlierFormat returns the error for a file of an earlier format of the spool. In the first format, a line begins
// with a status (P or D) and a checksum.
func (s *spool) earlierFormat(name string) error {
	return fmt.Errorf("%s/%s is of an earlier format: let the version that wrote it deliver what waits, "+
		"or set dir to another folder", s.dir.Name(), name)
}

func fileName(segment uint64) string { return fmt.Sprintf("%08d.log", segment) }

// walk calls f for every whole line of a segment. f must not keep parts of the line. end is the offset behind the
// last whole line, damaged is the number of damaged lines before end, and torn says that something other than zeros
// follows end.
//
// After damaged bytes, walk accepts a line only if it ends with a newline. The text of a message may contain
// something that looks like a line, but no newline follows it there. So a damaged line costs no other line, and
// nothing inside its text is taken for a line.
func (s *spool) walk(segment uint64, f func(line)) (end int64, damaged int, torn bool, err error) {
	file, err := s.dir.Open(fileName(segment))
	if err != nil {
		return 0, 0, false, err
	}
	defer file.Close()
	var size int64 // behind it, nothing was written, or lines are being written now
	s.locked(func() { size = s.segments[segment].size })
	at, bad, lineBegins, lines := int64(0), 0, true, bufio.NewScanner(io.LimitReader(file, size))
	lines.Buffer(make([]byte, len(zeros)), 2*lineLimit) // the buffer grows if a line needs more
	lines.Split(func(b []byte, atEOF bool) (n int, token []byte, err error) {
		if len(b) == 0 || !atEOF && len(b) < max(headerSize, lineLength(b)) {
			return 0, nil, nil // read more of the file first
		}
		l, n := parseLine(b)
		whole := n > 0 && (bad == 0 || b[n-1] == '\n')
		ofFirst := at == 0 && len(b) > 10 && bytes.ContainsAny(b[:1], "PD") && b[1] == ' ' && b[10] == ' '
		switch {
		case whole && l.kind == 0, ofFirst:
			return 0, nil, s.earlierFormat(fileName(segment))
		case whole:
			l.place = newPlace(segment, at)
			end, damaged, bad, torn, lineBegins = at+int64(n), damaged+bad, 0, false, true
			f(l)
		default:
			// Skip one byte, or a run of zeros: a hole in the file, or space that was never written.
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

// apply updates the index with a line of the log: at the start with every line there is, later with every line that
// run has written.
func (s *spool) apply(l line) {
	s.seq = max(s.seq, l.seq)
	at := s.live.at(l.seq)
	switch l.kind {
	case 'W':
		s.segmentOf(at).live-- // of the old W line, if this one carries the message forward
		s.live.set(l.seq, l.place)
		s.segmentOf(l.place).messages++
		s.segmentOf(l.place).live++
		s.forget(l.replaces)
	case 'X': // the W line may come later, if it was carried forward
		s.dead.set(l.seq, l.place)
	case 'D':
		if at != 0 && string(l.says) == fateDamaged {
			s.segmentOf(at).damaged = true
			s.damaged.Add(1)
		}
		s.forget(l.seq)
	}
	if isKeyed(l.id) && l.seq >= s.keys[l.id] {
		if s.keys[l.id] = l.seq; len(s.keys) >= 2*keysKept { // forget the older half
			oldest := slices.Sorted(maps.Values(s.keys))[keysKept]
			maps.DeleteFunc(s.keys, func(_ string, seq uint64) bool { return seq < oldest })
		}
	}
}

// forget takes a message that is done out of the index.
func (s *spool) forget(seq uint64) {
	s.segmentOf(s.live.at(seq)).live--
	s.live.set(seq, 0)
	s.dead.set(seq, 0)
}

// segmentOf returns the segment that p lies in. If there is none, it returns a new one, whose counts nobody reads.
func (s *spool) segmentOf(p place) *segment { return cmp.Or(s.segments[p.segment()], new(segment)) }

// do hands c to run and returns nil once all of c is on disk and in the index. After an error, nothing of c is there.
// If c.add is nil, do tries again after an error of the disk, until c is written or the spool is closed.
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

// run writes changes until close is called. Then it writes a last batch of those that are queued, and closes the
// files.
func (s *spool) run() {
	defer close(s.ended)
	tick := time.Tick(probeEvery)
	s.commit(nil, true) // makes the spare
	for open := true; open; {
		batch, tryAgain := []*change(nil), true // after an error: try again at each tick and at the end
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

// close stops run and returns once the lock is released. Changes that are queued are written first, if the disk
// works.
func (s *spool) close() {
	close(s.quit)
	<-s.ended
}

// collect adds queued changes to a batch: at most batchChanges of them, and messages of about batchBytes. While none
// is queued, it lets other goroutines run, three times in a row at most: a change that one of them sends shares the
// sync.
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

// commit writes a batch and answers the callers. If nothing can be added, it refuses the changes that add messages,
// before it writes the others. It logs an error when the error begins or changes, and when it has ended.
func (s *spool) commit(batch []*change, tryAgain bool) {
	full, lines, ended, staged := s.prepare(tryAgain), []line(nil), map[uint64]bool{}, []*change(nil)
	for _, c := range batch {
		if full != nil && c.add != nil {
			c.done <- full
			continue
		}
		lines, staged = s.stage(lines, c, ended), append(staged, c)
	}
	err := s.append(lines, segmentSize) // beyond segmentSize, the disk may be full
	for _, c := range staged {
		c.done <- err
	}
	failed := cmp.Or(full, err)
	trouble := cmp.Or(failed, s.cleanErr)
	switch {
	case fmt.Sprint(trouble) == fmt.Sprint(s.logged):
	case trouble == nil:
		s.log.Error("the spool works again", "dir", s.dir.Name())
	default:
		s.log.Error("the spool does not work", "dir", s.dir.Name(), "err", trouble)
	}
	s.logged = trouble
	s.failed.Store(&failed)
}

// stage appends the lines of c to lines. It leaves out an ending if the message had ended before or ends earlier in
// this batch: ended has the messages that end in this batch. It leaves out messages to add as change.add says.
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
		l := line{kind: 'D', seq: e.seq, time: now, attempts: uint64(e.attempts), says: []byte(e.fate)}
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
		lines = append(lines, line{kind: 'W', seq: m.seq, replaces: m.replaces, time: now,
			route: []byte(m.route.String()), id: m.ID, says: m.encoded()})
		if m.sync {
			lines = append(lines, line{kind: 'D', seq: m.seq, time: now, attempts: 1, says: []byte(fateDelivered)})
		}
	}
	return lines
}

// append writes lines to the newest segment, syncs it and updates the index: with all lines or, after an error, with
// none. If there is no spare, lines that would make the segment larger than limit are refused.
func (s *spool) append(lines []line, limit int64) error {
	if len(lines) == 0 || s.suspect != nil {
		return s.suspect
	}
	seg, b := s.segments[s.newest], []byte(nil)
	at := seg.size
	w, to := s.w, io.NewOffsetWriter(s.f, at)
	w.Reset(to)
	if !s.spare { // buffer all lines: nothing must be written unless all of them fit
		w = bufio.NewWriterSize(to, int(limit-at))
	}
	for i := range lines {
		lines[i].place = newPlace(s.newest, at)
		b = lines[i].appendTo(b[:0])
		if at += int64(len(b)); at > limit && !s.spare {
			return errors.New("there is no room on the disk")
		}
		w.Write(b)
	}
	if err := cmp.Or(w.Flush(), s.sync(s.f)); err != nil { // Flush also returns the error of an earlier Write
		s.suspect = err
		// The lines are refused. Without Truncate, a start before makeRoom has replaced the file would find them.
		s.f.Truncate(seg.size)
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

// prepare returns an error if nothing can be added. First it checks the folder: if the folder that was opened has
// been removed or replaced, nothing may be written, since no later start would find it. Then it makes room. If the
// last commit failed, prepare makes room only if tryAgain is true, or if the disk was full and there is a spare again:
// else the newest segment would grow until the next tick. Otherwise it returns the error of that commit.
func (s *spool) prepare(tryAgain bool) error {
	opened, err := s.lock.Stat()
	there, gone := os.Stat(s.lock.Name())
	_, lost := s.dir.Stat(fileName(s.newest))
	if err = cmp.Or(err, gone, lost); err == nil && !os.SameFile(opened, there) {
		err = errors.New("another one has its name: restart the server to use that")
	}
	if err != nil {
		s.suspect = fmt.Errorf("the spool's folder is gone: %w", err)
		return s.suspect
	}
	if err = s.health(); err == nil || tryAgain || s.spare && s.suspect == nil {
		err = s.makeRoom()
	}
	return err
}

// makeRoom provides a newest segment that can be written, and a spare. If the newest segment is suspect, the lines
// that are known to be good are copied into the spare, which replaces the segment. If the newest segment has reached
// rollAt, the spare becomes the next segment. If no spare can be made, makeRoom returns an error: no message can be
// added.
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
	s.f.Truncate(s.segments[s.newest].size) // cut off the zeros behind its last line
	s.f.Close()
	s.locked(func() { s.f, s.newest, s.segments[number] = f, number, seg })
	s.suspect = s.folder.Sync() // the name must be on disk before any line in the file is acknowledged
	return cmp.Or(s.suspect, s.makeSpare())
}

// makeSpare makes the spare segment if there is none. If an earlier process left a file of that name, makeSpare
// writes over it, which needs no more room.
func (s *spool) makeSpare() error {
	if s.spare {
		return nil
	}
	f, err := s.dir.OpenFile(spareName, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = s.sync(f) // a failing disk shows here, before it gets 16 MiB of zeros every second
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

// clean removes the oldest segments, one by one, while there is more than has to be kept. After an error it does
// nothing, unless tryAgain is true. It must not block on still: all may hold still for long, and run has to go on
// writing.
func (s *spool) clean(tryAgain bool) {
	for ; s.suspect == nil && (tryAgain || s.cleanErr == nil) && s.hasTooMuch() && s.still.TryLock(); tryAgain = false {
		s.cleanErr = s.removeOldest()
		s.still.Unlock()
		s.makeSpare() // there may be room for it now
	}
}

// hasTooMuch reports whether the oldest segment has to be removed. The newest segment is never removed.
//
//   - Without live messages, it is removed once the log is larger than history.
//   - With live messages, it is removed once the log is larger than history, twice the bytes of all live messages and
//     marginSegments segments together.
//   - On a full disk there is no spare, and nothing is kept for look-ups. Without live messages, it is removed at
//     once. With live messages, it is removed once more than batchBytes of the log are not live, and its live messages
//     fit into the newest segment below carryLimit.
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
		return bytes > s.history.Load()+2*live+marginSegments*segmentSize
	}
	return bytes > live+batchBytes && newest.size+oldest.liveBytes() < carryLimit
}

// removeOldest carries forward the live messages of the oldest segment, then removes the segment. If it has damaged
// lines, it is renamed to *.bad instead.
func (s *spool) removeOldest() error {
	seg, name := s.segments[s.oldest], fileName(s.oldest)
	if err := s.carryForward(); err != nil {
		return err
	}
	// Without this sync, a power cut could bring back the segment that was removed before this one. Messages in it
	// would be live again if the lines that ended them are in this segment.
	err := s.folder.Sync()
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

// carryForward writes lines of the oldest segment again, at the end of the log: the W and X lines of live messages.
// For each other message whose idempotency key is remembered, it writes a K line.
func (s *spool) carryForward() error {
	if s.carried == s.oldest { // done before, but the segment could not be removed
		return nil
	}
	lines, failed := []line(nil), error(nil)
	size, limit, oldest := int64(0), int64(segmentSize), s.segments[s.oldest]
	if oldest.live > 0 {
		limit = carryLimit
	}
	write := func() {
		if s.spare {
			s.makeRoom() // without another spare, append uses the rest of the newest segment
		}
		failed = s.append(lines, limit)
		lines, size = nil, 0
	}
	_, damaged, torn, err := s.walk(s.oldest, func(l line) {
		w, x := s.live.at(l.seq), s.dead.at(l.seq)
		switch {
		case failed != nil:
			return
		case l.kind == 'W' && w == l.place, l.kind == 'X' && x == l.place && w != 0:
			l.route, l.says = bytes.Clone(l.route), bytes.Clone(l.says)
			lines = append(lines, l)
		case isKeyed(l.id) && s.keys[l.id] == l.seq: // only W and K lines have an id
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

// seen reports whether the idempotency keys of all messages are remembered: the messages were stored before.
func (s *spool) seen(messages []*message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(messages, func(m *message) bool { return s.keys[m.ID] == 0 })
}

// health returns why nothing can be added, or nil if messages can be added.
func (s *spool) health() error { return *s.failed.Load() }

// where returns the places of the W line and the X line of a message. w is 0 if the message is not live, x is 0 if it
// is not a dead letter.
func (s *spool) where(seq uint64) (w, x place) {
	s.locked(func() { w, x = s.live.at(seq), s.dead.at(seq) })
	return w, x
}

// readLine reads the line at p, which is about message seq. It returns errDamaged if there is no such line at p, or
// if the segment is gone. After any other error, such as one of the disk, the line may be good.
func (s *spool) readLine(p place, seq uint64) (l line, err error) {
	f, err := s.dir.Open(fileName(p.segment()))
	if errors.Is(err, fs.ErrNotExist) && !slices.Contains(s.numbers(), p.segment()) {
		return l, errDamaged // removed with its segment: a good live line would have been carried forward
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

// found is a message in the log: its number and, if it is done, the places of its W line and its D line. The places
// of a live message are in the index.
type found struct {
	seq          uint64
	place, ended place
}

// read returns a message, and the line that says what became of it: the D line, the X line of a dead letter, or the
// zero line if the message waits. It returns errGone for a message that is not live, unless f has its places, and
// errDamaged if its W line or D line is damaged. If its X line is damaged, read returns an X line whose reason says
// so.
func (s *spool) read(f found) (m *message, became line, err error) {
	at, last := f.place, f.ended
	if last == 0 {
		at, last = s.where(f.seq)
	}
	if at == 0 {
		return nil, became, errGone
	}
	w, err := s.readLine(at, f.seq)
	if err == nil && last != 0 {
		if became, err = s.readLine(last, f.seq); err == errDamaged && f.ended == 0 {
			became, err = line{kind: 'X', seq: f.seq, says: []byte("the reason is damaged")}, nil
		}
	}
	if now, deadNow := s.where(f.seq); f.ended == 0 && (now != at || deadNow != last) {
		return s.read(f) // meanwhile it was carried forward, or its state changed
	}
	m, damaged := w.message()
	return m, became, cmp.Or(err, damaged)
}

// numbers returns the numbers of the segments, the newest first.
func (s *spool) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.segments), func(a, b uint64) int { return cmp.Compare(b, a) })
}

// all calls f for every live message and, with history, for every message that was delivered or dropped and is still
// in the log. It reads the newest segment first, and asks enough after each segment whether to stop. f gets the W
// line and the state of the message, and must not keep parts of the line. While all runs, nothing is carried forward.
// Changes during that time may be missed.
func (s *spool) all(history bool, enough func() bool, f func(m found, w line, state string)) (err error) {
	type end struct {
		state string
		place place
	}
	ended := map[uint64]end{} // messages whose W line is still to come: in the same segment or an older one
	s.still.RLock()
	defer s.still.RUnlock()
	for _, number := range s.numbers() {
		if history {
			_, _, _, err = s.walk(number, func(l line) {
				if l.kind == 'D' {
					ended[l.seq] = end{l.state(), l.place}
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
				f(found{l.seq, l.place, d.place}, l, d.state)
			case w == l.place && x != 0:
				f(found{seq: l.seq}, l, "dead")
			case w == l.place:
				f(found{seq: l.seq}, l, "waiting")
			}
		})
		if err = cmp.Or(err, failed); err != nil || enough() {
			return err
		}
	}
	return nil
}
