package main

// The queue on disk: what was answered ok is in it until it is delivered. It knows no HTTP and no Slack.
//
//	DIR/lock            held as long as a process uses the spool
//	DIR/00000042.log    segments of records (record.go), 16 MiB each
//	DIR/dead-00000007.log  dead letters: the same lines, with the reason
//	DIR/recent          ids made of idempotency keys whose segments are gone
//	DIR/*.bad           segments that had damaged lines, kept when all else in them was done
//
// One goroutine, run, writes. It takes what is queued, does one write and one sync for all of it, then the marks of what is done,
// then answers: group commit. A mark needs no free space, so a full disk drains. A file whose sync has failed is never synced again, since the
// kernel reports such an error once and drops the data: its records move to a new file, and it goes.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	segmentSize   = 16 << 20
	batchRecords  = 1024
	batchBytes    = 1 << 20
	slackSegments = 4 // files may hold twice what waits and so many segments more before old ones are carried forward
	probeEvery    = time.Second
)

var (
	errGone     = errors.New("not there any more")
	errNoRecord = errors.New("the record is damaged")
)

// ref says where a record lies. Files are numbered once for both kinds; the top bit tells dead letters.
type ref uint64

const (
	refOffset        = 32 // bits: an offset within a file
	deadFile  uint64 = 1 << (63 - refOffset)
)

func newRef(file uint64, offset int64) ref { return ref(file<<refOffset | uint64(offset)) }
func (r ref) file() uint64                 { return uint64(r) >> refOffset }
func (r ref) offset() int64                { return int64(r & (1<<refOffset - 1)) }

// entry is a message that was added, and where it lies.
type entry struct {
	ref ref
	m   *message
}

// change is what is done to the spool in one: all of it or, after an error, nothing. Additions are on disk before
// anything is marked done.
type change struct {
	add  []*message // to what waits
	bury []*message // to the dead letters
	done []ref
	then func(error) // runs on the writer's goroutine: it must not wait for the spool

	err error
}

// segment is a file of records.
type segment struct {
	file    uint64
	f       *os.File
	size    int64
	records int
	live    int // of these not done
	damaged atomic.Bool
}

// kind is deadFile for dead letters, 0 for what waits.
func (seg *segment) kind() uint64 { return seg.file & deadFile }

type spool struct {
	dir    string
	lock   *os.File
	log    *slog.Logger
	stored func([]entry)     // gets what was added, in order, before the change is answered
	moved  func(map[ref]ref) // records have new places; returns when nobody uses the old ones

	mu       sync.Mutex
	queue    []*change
	wake     chan struct{}
	segments map[uint64]*segment
	failed   error // why nothing can be stored, nil while it can

	// Owned by run:
	open    map[uint64]*segment // by kind: where records are appended; where there is none, the next one opens a file
	last    uint64              // file number
	seq     uint64
	recent  recentIDs
	dirty   map[*segment]bool  // to be synced
	broken  map[*segment]error // to be replaced: what was not synced before the error is not to be trusted
	held    []*change          // answered when the broken files that their marks lie in are replaced
	closing bool

	bytes   atomic.Int64 // of all files
	damaged atomic.Int64 // lines
	ended   chan struct{}
}

// openSpool locks dir, which it makes if need be. The error names the directory.
func openSpool(dir string, log *slog.Logger) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s is in use by another process", dir)
	}
	return &spool{
		dir: dir, lock: lock, log: log, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		segments: map[uint64]*segment{}, open: map[uint64]*segment{}, dirty: map[*segment]bool{}, broken: map[*segment]error{},
	}, nil
}

func (s *spool) path(file uint64) string {
	if file&deadFile != 0 {
		return filepath.Join(s.dir, fmt.Sprintf("dead-%08d.log", file&^deadFile))
	}
	return filepath.Join(s.dir, fmt.Sprintf("%08d.log", file))
}

// submit hands c to the writer, which calls c.then.
func (s *spool) submit(c *change) {
	s.mu.Lock()
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *spool) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// apply is submit for those who wait for the answer.
func (s *spool) apply(c *change) error {
	answer := make(chan error, 1)
	c.then = func(err error) { answer <- err }
	s.submit(c)
	return <-answer
}

// seen tells whether all of messages were stored before, under their idempotency keys.
func (s *spool) seen(messages []*message) bool {
	return !slices.ContainsFunc(messages, func(m *message) bool { return !isKeyed(m.ID) || !s.recent.has(m.ID) })
}

// gather lets those run who are about to submit, as long as more is queued by that: their changes share one sync.
func (s *spool) gather() {
	queued := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queue)
	}
	for before, same := queued(), 0; before > 0 && before < batchRecords && same < 3; same++ {
		runtime.Gosched()
		if now := queued(); now > before {
			before, same = now, -1
		}
	}
}

// take returns what the next commit does: not more than fits a batch.
func (s *spool) take() []*change {
	s.gather()
	s.mu.Lock()
	defer s.mu.Unlock()
	records, size, n := 0, int64(0), 0
	for n < len(s.queue) && records < batchRecords && size < batchBytes {
		for _, m := range s.queue[n].add {
			size += m.size()
		}
		records += len(s.queue[n].add) + len(s.queue[n].done)
		n++
	}
	batch := s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) > 0 {
		s.wakeUp()
	}
	return batch
}

// run writes until close.
func (s *spool) run() {
	defer close(s.ended)
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for !s.closing {
		select {
		case <-s.wake:
			s.commit(s.take())
		case <-ticker.C:
			s.heal()
			s.probe()
			s.carryForward()
		}
	}
}

// close ends run when all that was submitted is done, and releases the spool.
func (s *spool) close() {
	s.submit(&change{then: func(error) { s.closing = true }})
	<-s.ended
	s.lock.Close()
}

// health returns why nothing can be stored, nil while it can.
func (s *spool) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *spool) setFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// probe finds out whether there is room again, after a write that failed.
func (s *spool) probe() {
	if s.health() == nil || len(s.broken) > 0 {
		return
	}
	path := filepath.Join(s.dir, "probe")
	err := os.WriteFile(path, make([]byte, 64<<10), 0o600)
	os.Remove(path)
	s.setFailed(err)
}

// commit does a batch: writes and syncs the additions, marks and syncs what is done, answers.
func (s *spool) commit(batch []*change) {
	last, broken := s.last, len(s.broken)
	waiting, graves := addition{}, addition{kind: deadFile}
	added := s.stage(batch, &waiting, &graves)
	s.write(&waiting)
	s.write(&graves)
	s.markAll(batch, false) // these need no sync before
	s.sync()
	s.finish(&waiting)
	s.finish(&graves)
	for _, c := range batch {
		switch {
		case c.err != nil:
		case c.add != nil:
			c.err = waiting.err
		case c.bury != nil:
			c.err = graves.err
		}
	}
	s.markAll(batch, true)
	s.sync()
	if len(added) > 0 && waiting.err == nil {
		s.setFailed(nil)
		for _, e := range added {
			if isKeyed(e.m.ID) {
				s.recent.add(seqID{e.m.seq, e.m.ID})
			}
		}
		s.stored(added) // before anything moves
	}
	s.answer(batch)
	clear(batch)                // the queue's array, of which it is a part, would keep the messages
	if len(s.broken) > broken { // what could not be replaced is tried again once a second
		s.heal()
	}
	if s.last != last { // there is a new file
		s.carryForward()
	}
}

// stage gathers what batch adds, and returns what will wait. A message whose idempotency key is a recent one is left out, but a dead
// letter that is sent again has one, of course.
func (s *spool) stage(batch []*change, waiting, graves *addition) (added []entry) {
	now, claimed, twins := time.Now().UnixMilli(), s.heldMarks(), map[string]bool{}
	for _, c := range batch {
		c.err = s.claim(c, claimed)
		if c.adds() && c.err == nil && len(s.broken) > 0 {
			c.err = s.health() // they could not be replaced
		}
		if c.err != nil {
			continue
		}
		for _, m := range c.add {
			if isKeyed(m.ID) && !m.resent {
				if twins[m.ID] || s.recent.has(m.ID) {
					continue
				}
				twins[m.ID] = true
			}
			s.seq++
			m.seq, m.queued = s.seq, now
			added = append(added, entry{s.put(waiting, m.seq, now, m.route.String(), m.encoded()), m})
		}
		for _, m := range c.bury {
			s.put(graves, m.seq, now, m.route.String(), m.encoded())
		}
	}
	return added
}

func (c *change) adds() bool { return c.add != nil || c.bury != nil }

// claim refuses a change of what is done already: the second of two who send the same dead letter again.
func (s *spool) claim(c *change, claimed map[ref]bool) error {
	for _, r := range c.done {
		var status [1]byte
		seg := s.segments[r.file()]
		if seg == nil || claimed[r] {
			return errGone
		}
		if r.file()&deadFile != 0 { // what waits is marked by its lane alone
			if _, err := seg.f.ReadAt(status[:], r.offset()); err == nil && status[0] == done {
				return errGone
			}
		}
		claimed[r] = true
	}
	return nil
}

// addition is what one write appends to a file of a kind: all of it or, after an error, nothing.
type addition struct {
	kind    uint64
	seg     *segment // nil where there is no record
	data    []byte
	records int
	err     error
}

// put appends a record to a and returns where it will lie.
func (s *spool) put(a *addition, seq uint64, at int64, route string, body []byte) ref {
	if a.seg == nil && a.err == nil {
		a.seg, a.err = s.room(a.kind)
	}
	if a.err != nil {
		return 0
	}
	place := newRef(a.seg.file, a.seg.size+int64(len(a.data)))
	a.data = appendRecord(a.data, seq, at, route, body)
	a.records++
	return place
}

// write writes a behind the records of its file.
func (s *spool) write(a *addition) {
	if a.seg == nil {
		return
	}
	if _, a.err = a.seg.f.WriteAt(a.data, a.seg.size); a.err == nil {
		s.dirty[a.seg] = true
	}
}

// finish makes a a part of its file, if the sync of that went well.
func (s *spool) finish(a *addition) {
	if a.err == nil {
		a.err = s.broken[a.seg]
	}
	switch {
	case a.err != nil:
		s.undo(a)
	case a.seg != nil:
		a.seg.size += int64(len(a.data))
		a.seg.records += a.records
		a.seg.live += a.records
		s.bytes.Add(int64(len(a.data)))
	}
}

// undo cuts the file of a back. The next write goes to a new one, unless this is empty: a full disk, or a limit on the size
// of files, is over when the old one has drained.
func (s *spool) undo(a *addition) {
	s.setFailed(a.err)
	s.log.Error("the spool could not store", "err", a.err)
	if a.seg == nil {
		return
	}
	if err := a.seg.f.Truncate(a.seg.size); err != nil {
		s.fail(a.seg, err)
	}
	if a.seg.size > 0 {
		s.end(a.seg)
	}
}

// end has nothing more appended to seg.
func (s *spool) end(seg *segment) {
	if s.open[seg.kind()] == seg {
		delete(s.open, seg.kind())
	}
	s.dirty[seg] = true // all in it may be done: then the next sync deletes it
}

// fail notes that what was written to seg and not synced cannot be trusted.
func (s *spool) fail(seg *segment, err error) {
	if s.broken[seg] == nil {
		s.log.Error("a file of the spool has failed: its records move to a new one", "file", s.path(seg.file), "err", err)
	}
	s.broken[seg] = err
	s.end(seg)
}

// markAll marks what is done by the changes of batch, by those that add or by the others.
func (s *spool) markAll(batch []*change, adds bool) {
	for _, c := range batch {
		if c.err != nil || c.adds() != adds {
			continue
		}
		for _, r := range c.done {
			s.mark(r)
		}
	}
}

// mark overwrites the status of the record at r. It needs no free space.
func (s *spool) mark(r ref) {
	seg := s.segments[r.file()]
	seg.live--
	s.dirty[seg] = true
	if _, err := seg.f.WriteAt([]byte{done}, r.offset()); err != nil {
		s.fail(seg, err) // its change is held, and carrying the file forward leaves the record behind
	}
}

// sync brings to disk what was written, and deletes files in which all is done.
func (s *spool) sync() {
	for seg := range s.dirty {
		delete(s.dirty, seg)
		if s.broken[seg] != nil {
			continue
		}
		if err := syncData(seg.f); err != nil {
			s.fail(seg, err)
			continue
		}
		s.retire(seg)
	}
}

// retire deletes seg, or keeps it as *.bad, if all in it is done and nothing will be appended.
func (s *spool) retire(seg *segment) {
	if seg.live > 0 || seg == s.open[seg.kind()] || s.broken[seg] != nil {
		return
	}
	path, recent := s.path(seg.file), filepath.Join(s.dir, recentFile)
	s.recent.save(recent) // before the ids in seg are gone; if there is no room, then after it
	if seg.damaged.Load() {
		if err := os.Rename(path, strings.TrimSuffix(path, ".log")+".bad"); err != nil {
			s.log.Error("keeping a damaged file of the spool", "err", err)
			return
		}
	} else if err := os.Remove(path); err != nil {
		s.log.Error("deleting a file of the spool", "err", err)
		return
	}
	s.mu.Lock()
	delete(s.segments, seg.file)
	s.mu.Unlock()
	delete(s.dirty, seg)
	s.bytes.Add(-seg.size)
	seg.f.Close()
	if err := s.recent.save(recent); err != nil {
		s.log.Error("remembering idempotency keys", "err", err)
	}
}

// room returns the file that takes more records of a kind. The name of a new one is on disk before anything in it can be
// acknowledged.
func (s *spool) room(kind uint64) (*segment, error) {
	old := s.open[kind]
	if old != nil && old.size < segmentSize {
		return old, nil
	}
	file := kind | (s.last + 1)
	f, err := os.OpenFile(s.path(file), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	s.last++
	if err := s.syncDir(); err != nil {
		f.Close()
		os.Remove(s.path(file))
		return nil, err
	}
	if old != nil {
		s.end(old)
	}
	seg := &segment{file: file, f: f}
	s.open[kind] = seg
	s.mu.Lock()
	s.segments[file] = seg
	s.mu.Unlock()
	return seg, nil
}

func (s *spool) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// answer answers the changes. One with marks in a file that has failed is held until heal has replaced that.
func (s *spool) answer(batch []*change) {
	lost := func(r ref) bool { return s.broken[s.segments[r.file()]] != nil }
	for _, c := range batch {
		if c.err == nil && slices.ContainsFunc(c.done, lost) {
			s.held = append(s.held, c)
			continue
		}
		c.then(c.err)
	}
}

// read returns the message at r: errGone where it has moved, errNoRecord where it is damaged.
func (s *spool) read(r ref) (*message, error) {
	seg := s.segment(r)
	if seg == nil {
		return nil, errGone
	}
	line, err := bufio.NewReader(io.NewSectionReader(seg.f, r.offset(), math.MaxInt64)).ReadBytes('\n')
	if errors.Is(err, os.ErrClosed) {
		return nil, errGone
	}
	var m *message
	eachRecord(line, func(offset int, r record) {
		if offset == 0 {
			m, _ = r.message()
		}
	})
	if m == nil {
		return nil, errNoRecord
	}
	return m, nil
}

// segment returns the file of r, nil where it is gone.
func (s *spool) segment(r ref) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments[r.file()]
}

// spoil notes that a record could not be read: its file is kept.
func (s *spool) spoil(r ref) {
	s.damaged.Add(1)
	if seg := s.segment(r); seg != nil {
		seg.damaged.Store(true)
	}
}

// each calls f for every record that is not done, of dead letters or of what waits. What changes meanwhile may be
// missed or told twice.
func (s *spool) each(dead bool, f func(ref, record)) {
	s.mu.Lock()
	segments := slices.Collect(maps.Values(s.segments))
	s.mu.Unlock()
	var data []byte
	for _, seg := range segments {
		if (seg.kind() == deadFile) != dead {
			continue
		}
		data, _, _ = seg.walk(data, func(at ref, r record) { // one that is deleted meanwhile has none
			if !r.done {
				f(at, r)
			}
		})
	}
}

// walk calls f for every record of the file, done or not. It reads all of that into the space of buf, which it returns, with
// the number of damaged lines.
func (seg *segment) walk(buf []byte, f func(ref, record)) (data []byte, damaged int, err error) {
	info, err := seg.f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data = slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	n, err := seg.f.ReadAt(data, 0)
	if n < len(data) && err != io.EOF {
		return nil, 0, err
	}
	data = data[:n]
	damaged = eachRecord(data, func(offset int, r record) { f(newRef(seg.file, int64(offset)), r) })
	return data, damaged, nil
}
