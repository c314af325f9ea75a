package main

import (
	"cmp"
	"fmt"
	"sync"
)

// quota bounds the bytes that wait: in all, and half of that for one destination, so that one that fails leaves room
// for the others.
type quota struct {
	mu    sync.Mutex
	limit int64
	all   int64
	of    map[destination]int64
}

func newQuota(limit int64) *quota { return &quota{limit: limit, of: map[destination]int64{}} }

// take reserves n bytes for a message to a destination.
func (q *quota) take(to destination, n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all+n > q.limit {
		return q.fullError()
	}
	if q.of[to]+n > q.limit/2 {
		return fmt.Errorf("half of the spool waits for %s", cmp.Or(to.channel, "this webhook"))
	}
	q.all += n
	q.of[to] += n
	return nil
}

// full returns an error when not even a message of ordinary size fits.
func (q *quota) full() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all+4096 > q.limit {
		return q.fullError()
	}
	return nil
}

func (q *quota) fullError() error {
	return fmt.Errorf("the spool is full: %d bytes wait for slack", q.all)
}

func (q *quota) give(to destination, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all -= n
	if q.of[to] -= n; q.of[to] == 0 {
		delete(q.of, to)
	}
}

// move charges n bytes to another destination.
func (q *quota) move(from, to destination, n int64) {
	if from != to {
		q.give(from, n)
		q.give(to, -n)
	}
}

func (q *quota) setLimit(limit int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
}
