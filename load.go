package main

// The start of the spool: what an earlier process left is read, whatever state it is in.

import (
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// group is what load found of one route.
type group struct {
	waiting []seqRef // in the order of acceptance
	bytes   int64    // of these
	dead    int
}

type seqRef struct {
	seq uint64
	ref ref
}

// sortBySeq brings what was accepted first to the front; of two copies of a message, what was written first.
func sortBySeq(refs []seqRef) {
	sort.Slice(refs, func(i, j int) bool {
		a, b := refs[i], refs[j]
		return a.seq < b.seq || a.seq == b.seq && a.ref < b.ref
	})
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
	l := loading{spool: s, groups: map[route]*group{}, dead: map[string]deadLetter{}}
	for _, name := range names {
		if err := l.file(name); err != nil {
			return nil, err
		}
	}
	for _, g := range l.groups {
		l.dropCopies(g)
	}
	for _, d := range l.dead {
		d.group.dead++
	}
	s.seq = max(s.seq, s.recent.load(filepath.Join(s.dir, recentFile), l.keyed)) // it tells old ids from new ones
	for _, seg := range s.segments {
		s.dirty[seg] = true
	}
	s.sync() // who wrote them may have been killed before that
	s.submit(&change{done: l.copies, then: func(error) {}})
	if n := s.damaged.Load(); n > 0 {
		s.log.Error("the spool had damaged lines: their files are kept as *.bad", "lines", n, "dir", s.dir)
	}
	_, err = s.room(0)
	return l.groups, err
}

// loading is what load gathers.
type loading struct {
	*spool
	groups map[route]*group
	dead   map[string]deadLetter // by id
	copies []ref                 // of what also lies elsewhere
	keyed  []seqID
	data   []byte
}

type deadLetter struct {
	ref   ref
	group *group
}

func (l *loading) file(name string) error {
	digits, isDead := strings.CutPrefix(strings.TrimSuffix(filepath.Base(name), ".log"), "dead-")
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || number >= deadFile {
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
	seg := &segment{file: number, f: f}
	l.segments[number] = seg
	data, damaged, err := seg.walk(l.data, func(at ref, r record) { l.record(seg, at, r) })
	if err != nil {
		return err
	}
	l.data, seg.size = data, int64(len(data))
	seg.damaged.Store(damaged > 0)
	l.bytes.Add(seg.size)
	l.damaged.Add(int64(damaged))
	return nil
}

func (l *loading) record(seg *segment, at ref, r record) {
	id := r.id()
	seg.records++
	l.seq = max(l.seq, r.seq)
	if isKeyed(id) {
		l.keyed = append(l.keyed, seqID{r.seq, id})
		if len(l.keyed) > 4*recentLimit {
			l.keyed = newest(l.keyed)
		}
	}
	if r.done {
		return
	}
	to := parseRoute(string(r.route))
	g := l.groups[to]
	if g == nil {
		g = &group{}
		l.groups[to] = g
	}
	seg.live++
	if d, ok := l.dead[id]; ok {
		l.copies = append(l.copies, d.ref)
		delete(l.dead, id)
	}
	if seg.kind() == deadFile {
		l.dead[id] = deadLetter{at, g}
		return
	}
	g.waiting = append(g.waiting, seqRef{r.seq, at})
	g.bytes += r.size()
}

// dropCopies brings what waits in g in order. Of a message that was carried forward the last copy stays.
func (l *loading) dropCopies(g *group) {
	sortBySeq(g.waiting)
	kept := g.waiting[:0]
	for i, w := range g.waiting {
		if i+1 < len(g.waiting) && g.waiting[i+1].seq == w.seq {
			if m, err := l.read(w.ref); err == nil {
				g.bytes -= m.size()
			}
			l.copies = append(l.copies, w.ref)
			continue
		}
		kept = append(kept, w)
	}
	g.waiting = kept
}
