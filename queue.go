package main

// The messages that wait, in memory.

import (
	"errors"
	"sync"
)

const queueLimit = 64 << 20 // bytes

var errQueueFull = errors.New("too many messages wait for slack")

// ref names a message in the queue.
type ref uint64

// queued is what a lane knows of a message.
type queued struct {
	ref   ref
	route route
}

type queue struct {
	mu       sync.Mutex
	last     ref
	messages map[ref]*message
	bytes    int
}

func newQueue() *queue { return &queue{messages: map[ref]*message{}} }

// add takes all of messages or, with errQueueFull, none.
func (q *queue) add(messages []*message) ([]queued, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := 0
	for _, m := range messages {
		size += m.size()
	}
	if q.bytes+size > queueLimit {
		return nil, errQueueFull
	}
	q.bytes += size
	var added []queued
	for _, m := range messages {
		q.last++
		q.messages[q.last] = m
		added = append(added, queued{q.last, m.route})
	}
	return added, nil
}

func (q *queue) read(r ref) *message {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages[r]
}

func (q *queue) remove(r ref) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.messages[r].size()
	delete(q.messages, r)
}

// len returns how many messages wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages)
}
