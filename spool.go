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
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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

// group is what load found of one route.
type group struct {
	route   route
	waiting []seqRef // in the order of acceptance
	bytes   int64    // of these
	dead    int
}

type seqRef struct {
	seq uint64
	ref ref
}

// change is what is done to the spool in one: all of it or, after an error, nothing. Additions are on disk before
// anything is marked done.
type change struct {
	add  []*message // to what waits
	bury []*message // to the dead letters
	done []ref
	then func(error) // runs on the writer's goroutine: it must not wait for the spool

	added []entry
	err   error
}

// segment is a file of records.
type segment struct {
	file    uint64
	f       *os.File
	size    int64
	records int
	live    int // of these not done
	damaged bool
	keyed   bool  // has ids that must be remembered
	broken  error // a write or sync that failed: what was not synced before is not to be trusted
}

type spool struct {
	dir    string
	lock   *os.File
	log    *slog.Logger
	stored func([]entry)     // gets what was added, in order, before the change is answered
	moved  func(map[ref]ref) // records have new places; returns when nobody uses the old ones

	mu       sync.Mutex
	queue    []*change
	wake     chan struct{}
	closing  bool
	segments map[uint64]*segment
	sick     error // a file that has failed could not be replaced: nothing is taken
	failed   error // why the last write failed, nil after one that did not

	// Owned by run:
	active, graves *segment // where messages and dead letters are appended; nil: the next one opens a file
	last           uint64   // file number
	seq            uint64
	recent         recentIDs
	dirty          []*segment   // written since their last sync
	unmarked       map[ref]bool // done, but the mark could not be written
	broken         []*segment   // to be replaced
	held           []*change    // answered when the broken file that their marks lie in is replaced
	checked        time.Time    // when carrying forward was last considered

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
		dir: dir, lock: lock, log: log, wake: make(chan struct{}, 1), segments: map[uint64]*segment{}, unmarked: map[ref]bool{}, ended: make(chan struct{}),
	}, nil
}

func (s *spool) path(file uint64) string {
	if file&deadFile != 0 {
		return filepath.Join(s.dir, fmt.Sprintf("dead-%08d.log", file&^deadFile))
	}
	return filepath.Join(s.dir, fmt.Sprintf("%08d.log", file))
}

// load reads what an earlier process left. It is called once, before run. One message that a crash left in two places
// is found once: as the copy that was carried forward, and as waiting where it also is a dead letter.
func (s *spool) load() (map[route]*group, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	slices.Reverse(names) // dead-… comes first
	l := loading{spool: s, groups: map[string]*group{}, dead: map[string]buried{}}
	for _, name := range names {
		if err := l.file(name); err != nil {
			return nil, err
		}
	}
	found := map[route]*group{}
	for _, g := range l.groups {
		found[g.route] = g
		slices.SortFunc(g.waiting, func(a, b seqRef) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.ref, b.ref)) })
		kept := g.waiting[:0]
		for i, w := range g.waiting {
			if i+1 < len(g.waiting) && g.waiting[i+1].seq == w.seq {
				s.mark(w.ref)
				continue
			}
			kept = append(kept, w)
		}
		g.waiting = kept
	}
	s.recent.load(filepath.Join(s.dir, recentFile), newest(l.keyed))
	for _, seg := range s.segments {
		s.retire(seg)
	}
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool had damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir)
	}
	return found, s.openSegment(&s.active, 0)
}

// loading is what load gathers.
type loading struct {
	*spool
	groups map[string]*group
	dead   map[string]buried // by id
	keyed  []seqID
	data   []byte
}

type buried struct {
	ref   ref
	group *group
}

func (l *loading) file(name string) error {
	var number uint64
	digits, isDead := strings.CutPrefix(strings.TrimSuffix(filepath.Base(name), ".log"), "dead-")
	if _, err := fmt.Sscanf(digits, "%d", &number); err != nil || number >= deadFile {
		l.log.Error("not a file of the spool: it is left alone", "file", name)
		return nil
	}
	l.last = max(l.last, number)
	if isDead {
		number |= deadFile
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if l.data, err = readInto(l.data, f); err != nil {
		return err
	}
	seg := &segment{file: number, f: f, size: int64(len(l.data))}
	l.segments[number] = seg
	l.bytes.Add(seg.size)
	damaged := eachRecord(l.data, func(offset int, r record) { l.record(seg, offset, r) })
	l.damaged.Add(int64(damaged))
	seg.damaged = damaged > 0
	return nil
}

// readInto reads all of f into the space of b.
func readInto(b []byte, f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b = slices.Grow(b[:0], int(info.Size()))[:info.Size()]
	n, err := f.ReadAt(b, 0)
	if n == len(b) || err == io.EOF {
		err = nil
	}
	return b[:n], err
}

func (l *loading) record(seg *segment, offset int, r record) {
	id, at := r.id(), newRef(seg.file, int64(offset))
	seg.records++
	l.seq = max(l.seq, r.seq)
	if isKeyed(id) {
		seg.keyed = true
		l.keyed = append(l.keyed, seqID{r.seq, string(id)})
		if len(l.keyed) > 4*recentLimit {
			l.keyed = newest(l.keyed)
		}
	}
	if r.done {
		return
	}
	g := l.groups[string(r.route)]
	if g == nil {
		g = &group{route: parseRoute(string(r.route))}
		l.groups[string(r.route)] = g
	}
	seg.live++
	if seg.file&deadFile != 0 {
		if _, twice := l.dead[string(id)]; twice {
			l.mark(at)
			return
		}
		l.dead[string(id)] = buried{at, g}
		g.dead++
		return
	}
	if b, ok := l.dead[string(id)]; ok {
		l.mark(b.ref)
		b.group.dead--
		delete(l.dead, string(id))
	}
	g.waiting = append(g.waiting, seqRef{r.seq, at})
	g.bytes += r.size()
}

// submit hands c to the writer, which calls c.then.
func (s *spool) submit(c *change) {
	s.mu.Lock()
	s.queue = append(s.queue, c)
	s.mu.Unlock()
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

// take returns what the next commit does: not more than fits a batch, and nil when there is nothing.
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
	s.queue = s.queue[n:]
	return batch
}

// run writes until close.
func (s *spool) run() {
	defer close(s.ended)
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		batch := s.take()
		if len(batch) > 0 {
			s.commit(batch)
			continue
		}
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		if closing {
			return
		}
		select {
		case <-s.wake:
		case <-ticker.C:
			s.heal()
			s.probe()
			s.carryForward()
		}
	}
}

// close ends run when all that was submitted is done, and releases the spool.
func (s *spool) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.submit(&change{then: func(error) {}})
	<-s.ended
	s.lock.Close()
}

// health returns why nothing can be stored, nil while it can.
func (s *spool) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.sick, s.failed)
}

func (s *spool) setFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// probe finds out whether there is room again, after a write that failed.
func (s *spool) probe() {
	if s.health() == nil {
		return
	}
	path := filepath.Join(s.dir, "probe")
	err := os.WriteFile(path, make([]byte, 64<<10), 0o600)
	os.Remove(path)
	s.setFailed(err)
}

// commit does a batch: writes and syncs the additions, marks and syncs what is done, answers.
func (s *spool) commit(batch []*change) {
	waiting, graves := writing{to: &s.active}, writing{to: &s.graves, kind: deadFile}
	now, claimed := time.Now().UnixMilli(), map[ref]bool{}
	s.mu.Lock()
	sick := s.sick
	s.mu.Unlock()
	for _, c := range batch {
		c.err = s.claim(c, claimed)
		if c.adds() && c.err == nil {
			c.err = sick
		}
		if c.err != nil {
			continue
		}
		for _, m := range c.add {
			s.stage(&waiting, c, m, now)
		}
		for _, m := range c.bury {
			graves.changes, graves.records = append(graves.changes, c), graves.records+1
			graves.data = appendRecord(graves.data, m.seq, now, m.route.String(), m.encoded())
		}
	}
	s.write(&waiting)
	s.write(&graves)
	s.markAll(batch, func(c *change) bool { return !c.adds() }) // these need no sync before
	s.sync()
	s.finish(&waiting)
	s.finish(&graves)
	s.markAll(batch, (*change).adds)
	s.sync()
	s.heal()
	s.answer(batch)
	s.carryForward()
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

// writing is what one write appends to a file.
type writing struct {
	to      **segment // the file, nil for a new one
	kind    uint64
	data    []byte
	changes []*change // that want it
	records int
	fresh   map[string]seqID // keyed ids: they are remembered once their messages are on disk
	start   int64            // in the file
}

// stage appends m to w, unless its idempotency key is a recent one. A dead letter that is sent again has one, of course.
func (s *spool) stage(w *writing, c *change, m *message, now int64) {
	keyed := isKeyed(m.ID) && !m.resent
	if _, twin := w.fresh[m.ID]; twin && keyed {
		w.changes = append(w.changes, c) // it shares the fate of the first
		return
	}
	if keyed && s.recent.seen[m.ID] {
		return
	}
	s.seq++
	m.seq, m.queued = s.seq, now
	if keyed {
		if w.fresh == nil {
			w.fresh = map[string]seqID{}
		}
		w.fresh[m.ID] = seqID{m.seq, m.ID}
	}
	offset := len(w.data)
	w.data = appendRecord(w.data, m.seq, now, m.route.String(), m.encoded())
	w.records++
	w.changes = append(w.changes, c)
	c.added = append(c.added, entry{ref(offset), m})
}

// write appends w to its file. After an error the file is as it was, and the changes have the error.
func (s *spool) write(w *writing) {
	if len(w.data) == 0 {
		return
	}
	if seg := *w.to; seg == nil || seg.size >= segmentSize {
		if err := s.openSegment(w.to, w.kind); err != nil {
			s.undo(w, err)
			return
		}
	}
	seg := *w.to
	w.start = seg.size
	if _, err := seg.f.WriteAt(w.data, w.start); err != nil {
		s.undo(w, err)
		return
	}
	s.touch(seg)
}

// touch notes that seg has to be synced.
func (s *spool) touch(seg *segment) {
	if !slices.Contains(s.dirty, seg) {
		s.dirty = append(s.dirty, seg)
	}
}

// finish makes what was written a part of the file, if its sync went well.
func (s *spool) finish(w *writing) {
	if len(w.data) == 0 || w.changes == nil {
		return
	}
	seg := *w.to
	if seg.broken != nil {
		s.undo(w, seg.broken)
		return
	}
	seg.size += int64(len(w.data))
	seg.records += w.records
	seg.live += w.records
	for _, id := range newest(slices.Collect(maps.Values(w.fresh))) {
		s.recent.add(id)
		seg.keyed = true
	}
	s.setFailed(nil)
	s.bytes.Add(int64(len(w.data)))
	for _, c := range w.changes {
		for i := range c.added {
			if c.added[i].ref.file() == 0 {
				c.added[i].ref = newRef(seg.file, w.start+c.added[i].ref.offset())
			}
		}
	}
}

// undo fails what w was for and cuts the file back. The next write goes to a new file, unless this one is empty: a full
// disk, or a limit on the size of files, is over when the old one has drained.
func (s *spool) undo(w *writing, err error) {
	for _, c := range w.changes {
		c.err, c.added = err, nil
	}
	w.changes = nil
	s.setFailed(err)
	seg := *w.to
	if seg == nil {
		return
	}
	if err := seg.f.Truncate(seg.size); err != nil {
		s.fail(seg, err)
	}
	if seg.size > 0 || seg.broken != nil {
		*w.to = nil
	}
	s.log.Error("the spool could not store", "file", s.path(seg.file), "err", err)
}

// fail notes that what was written to seg and not synced cannot be trusted.
func (s *spool) fail(seg *segment, err error) {
	if seg.broken == nil {
		s.log.Error("a file of the spool has failed: its records move to a new one", "file", s.path(seg.file), "err", err)
		s.broken = append(s.broken, seg)
	}
	seg.broken = err
}

// markAll marks done what the changes of batch that are among which have done.
func (s *spool) markAll(batch []*change, among func(*change) bool) {
	for _, c := range batch {
		if c.err != nil || !among(c) {
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
	s.touch(seg)
	if _, err := seg.f.WriteAt([]byte{done}, r.offset()); err != nil {
		s.unmarked[r] = true // carrying the file forward leaves it behind
		s.fail(seg, err)
	}
}

// sync brings to disk what was written, and deletes files in which all is done.
func (s *spool) sync() {
	dirty := s.dirty
	s.dirty = nil
	for _, seg := range dirty {
		if seg.broken != nil {
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
	if seg.live > 0 || seg == s.active || seg == s.graves {
		return
	}
	remember := func() error { return nil }
	if seg.keyed {
		remember = func() error { return s.recent.save(filepath.Join(s.dir, recentFile)) }
	}
	err := remember()
	path := s.path(seg.file)
	if seg.damaged {
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
	s.dirty = slices.DeleteFunc(s.dirty, func(d *segment) bool { return d == seg })
	s.bytes.Add(-seg.size)
	seg.f.Close()
	if err != nil { // there was no room for it before
		if err := remember(); err != nil {
			s.log.Error("remembering idempotency keys", "err", err)
		}
	}
}

// openSegment puts a new file in *to. Its name is on disk before anything in it can be acknowledged.
func (s *spool) openSegment(to **segment, kind uint64) error {
	file := kind | (s.last + 1)
	f, err := os.OpenFile(s.path(file), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	s.last++
	if err := s.syncDir(); err != nil {
		f.Close()
		os.Remove(s.path(file))
		return err
	}
	old := *to
	*to = &segment{file: file, f: f}
	s.mu.Lock()
	s.segments[file] = *to
	s.mu.Unlock()
	if old != nil {
		s.retire(old)
	}
	s.checked = time.Time{}
	return nil
}

func (s *spool) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// answer hands over what was added and answers the changes. What lies in a file that has failed is held until heal has
// replaced that.
func (s *spool) answer(batch []*change) {
	var added []entry
	for _, c := range batch {
		if c.err == nil {
			added = append(added, c.added...)
		}
	}
	if len(added) > 0 {
		s.stored(added)
	}
	for _, c := range batch {
		lost := func(r ref) bool {
			seg := s.segments[r.file()]
			return seg != nil && seg.broken != nil
		}
		if c.err == nil && slices.ContainsFunc(c.done, lost) {
			s.held = append(s.held, c)
			continue
		}
		c.then(c.err)
	}
}

// heal replaces files that have failed. While that does not succeed, the spool is sick and takes nothing.
func (s *spool) heal() {
	if len(s.broken) == 0 {
		return
	}
	var sick error
	for _, seg := range slices.Clone(s.broken) {
		if err := s.carry(seg); err != nil {
			sick = fmt.Errorf("%s: %w", s.path(seg.file), err)
		}
	}
	s.mu.Lock()
	s.sick = sick
	s.mu.Unlock()
	if sick == nil {
		held := s.held
		s.held = nil
		for _, c := range held {
			c.then(nil)
		}
	}
}

// carry writes what is not done in seg again, to the end of the spool and with its sequence numbers, and removes seg.
func (s *spool) carry(seg *segment) error {
	to, kind := &s.active, seg.file&deadFile
	if kind != 0 {
		to = &s.graves
	}
	if *to == seg {
		*to = nil
	}
	data, err := readInto(nil, seg.f)
	if err != nil {
		return err
	}
	data = data[:min(int64(len(data)), seg.size)] // beyond it lies what was refused, if it could not be cut back
	w := writing{to: to, kind: kind}
	moved := map[ref]ref{}
	eachRecord(data, func(offset int, r record) {
		if old := newRef(seg.file, int64(offset)); !r.done && !s.unmarked[old] {
			moved[old] = ref(len(w.data))
			w.records++
			w.data = appendRecord(w.data, r.seq, r.at, string(r.route), r.body)
		}
	})
	if len(w.data) > 0 {
		if err := s.carryTo(&w); err != nil {
			return err
		}
		for old, offset := range moved {
			moved[old] = newRef((*to).file, w.start+int64(offset))
		}
	}
	if kind == 0 {
		s.translate(moved)
	}
	seg.live, seg.broken, seg.keyed = 0, nil, true
	s.broken = slices.DeleteFunc(s.broken, func(b *segment) bool { return b == seg })
	maps.DeleteFunc(s.unmarked, func(r ref, _ bool) bool { return r.file() == seg.file })
	s.retire(seg)
	return s.syncDir()
}

// carryTo writes and syncs w, a part of no change.
func (s *spool) carryTo(w *writing) error {
	c := &change{}
	w.changes = []*change{c}
	if s.write(w); c.err == nil {
		s.sync()
		s.finish(w)
	}
	return c.err
}

// translate tells everybody who knows a record by its old place.
func (s *spool) translate(moved map[ref]ref) {
	s.moved(moved)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.queue {
		for i, r := range c.done {
			if to, ok := moved[r]; ok {
				c.done[i] = to
			}
		}
	}
}

// carryForward keeps one waiting message from pinning a file: the emptiest files are written again until all of them
// hold no more than twice what waits and slackSegments. It looks after every new file, and once a second.
func (s *spool) carryForward() {
	if time.Since(s.checked) < time.Second {
		return
	}
	s.checked = time.Now()
	density := func(seg *segment) float64 { return float64(seg.live) / float64(max(seg.records, 1)) }
	for {
		var files, waiting float64
		var emptiest *segment
		for _, seg := range s.segments {
			if seg == s.active || seg.file&deadFile != 0 {
				continue
			}
			files += float64(seg.size)
			waiting += float64(seg.size) * density(seg)
			if emptiest == nil || density(seg) < density(emptiest) {
				emptiest = seg
			}
		}
		if emptiest == nil || files <= 2*waiting+slackSegments*segmentSize {
			return
		}
		if err := s.carry(emptiest); err != nil {
			s.log.Error("carrying a file of the spool forward", "err", err)
			return
		}
	}
}

// read returns the message at r: errGone where it has moved, errNoRecord where it is damaged.
func (s *spool) read(r ref) (*message, error) {
	s.mu.Lock()
	seg := s.segments[r.file()]
	s.mu.Unlock()
	if seg == nil {
		return nil, errGone
	}
	var line []byte
	for size := 4 << 10; ; size *= 8 {
		b := make([]byte, size)
		n, err := seg.f.ReadAt(b, r.offset())
		if errors.Is(err, os.ErrClosed) {
			return nil, errGone
		}
		end := bytes.IndexByte(b[:n], '\n')
		if end >= 0 || n < size {
			line = b[:n]
			if end >= 0 {
				line = b[:end]
			}
			break
		}
	}
	rec, ok := parseRecord(line)
	if !ok {
		salvage(line, func(offset int, r record) {
			if offset == 0 {
				rec, ok = r, true
			}
		})
	}
	if !ok {
		return nil, errNoRecord
	}
	m, err := rec.message()
	if err != nil {
		return nil, errNoRecord
	}
	return m, nil
}

// spoil notes that a record could not be read: its file is kept.
func (s *spool) spoil(r ref) {
	s.damaged.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.segments[r.file()]; seg != nil {
		seg.damaged = true
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
		if (seg.file&deadFile != 0) != dead {
			continue
		}
		var err error
		if data, err = readInto(data, seg.f); err != nil {
			continue // deleted meanwhile
		}
		eachRecord(data, func(offset int, r record) {
			if !r.done {
				f(newRef(seg.file, int64(offset)), r)
			}
		})
	}
}
