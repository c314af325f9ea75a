package main

// The start of the spool: what an earlier process left is read, whatever state it is in.

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

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
				if m, err := s.read(w.ref); err == nil {
					g.bytes -= m.size()
				}
				s.mark(w.ref)
				continue
			}
			kept = append(kept, w)
		}
		g.waiting = kept
	}
	s.seq = max(s.seq, s.recent.load(filepath.Join(s.dir, recentFile), l.keyed)) // it tells old ids from new ones
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
