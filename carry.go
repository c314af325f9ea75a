package main

// The spool's records move to new files: from files that have failed, and from those that hold little that still waits.

import "fmt"

// heal replaces files that have failed. While that does not succeed, nothing is added to the spool.
func (s *spool) heal() {
	for seg := range s.broken {
		if err := s.carry(seg); err != nil {
			s.setFailed(fmt.Errorf("%s: %w", s.path(seg.file), err))
			return
		}
	}
	held := s.held
	s.held = nil
	for _, c := range held {
		c.then(nil)
	}
}

// carry writes what is not done in seg again, to the end of the spool and with its sequence numbers, and removes seg.
func (s *spool) carry(seg *segment) error {
	a := addition{kind: seg.kind()}
	moved, done := map[ref]ref{}, s.heldMarks()
	_, _, err := seg.walk(nil, func(old ref, r record) {
		refused := old.offset() >= seg.size // and could not be cut back
		if !r.done && !done[old] && !refused {
			moved[old] = s.put(&a, r.seq, r.at, string(r.route), r.body)
		}
	})
	if err != nil {
		return err
	}
	s.write(&a)
	s.sync()
	if s.finish(&a); a.err != nil {
		return a.err
	}
	s.translate(moved)
	seg.records, seg.live = 0, 0 // not carried again, should it be impossible to delete
	delete(s.broken, seg)
	s.retire(seg)
	return s.syncDir()
}

// heldMarks returns what is done by changes that are not answered yet, whatever became of the marks.
func (s *spool) heldMarks() map[ref]bool {
	marks := map[ref]bool{}
	for _, c := range s.held {
		for _, r := range c.done {
			marks[r] = true
		}
	}
	return marks
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

// carryForward keeps one waiting message from pinning a file: those with the most that is done are written again until all
// of them hold no more than twice what waits and slackSegments. It looks after every new file, and once a second.
func (s *spool) carryForward() {
	for {
		var size, isDone, most int64
		var worst *segment
		for _, seg := range s.segments {
			if seg == s.open[0] || seg.kind() == deadFile {
				continue
			}
			n := seg.size * int64(seg.records-seg.live) / int64(max(seg.records, 1))
			if size, isDone = size+seg.size, isDone+n; n > most {
				most, worst = n, seg
			}
		}
		if worst == nil || size <= 2*(size-isDone)+slackSegments*segmentSize {
			return
		}
		if err := s.carry(worst); err != nil {
			s.log.Error("carrying a file of the spool forward", "err", err)
			return
		}
	}
}
