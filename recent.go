package main

// The ids of recent messages that came with an Idempotency-Key: the same key again is the same message.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

const (
	recentLimit = 16_384
	recentFile  = "recent"
)

// keyedID returns the id of a message to a route, with the client's key: the same for the same ones.
func keyedID(key string, r route) string {
	sum := sha256.Sum256([]byte(key + "\x00" + r.String()))
	return "k" + hex.EncodeToString(sum[:])[:15]
}

func isKeyed(id string) bool { return strings.HasPrefix(id, "k") }

// seqID is an id with the sequence number of its message.
type seqID struct {
	seq uint64
	id  string
}

// recentIDs is the last recentLimit of them.
type recentIDs struct {
	mu      sync.Mutex // for seen: requests look there, the writer alone changes it
	seen    map[string]bool
	order   []seqID // oldest first
	unsaved bool    // not all of them are in the file
}

func (r *recentIDs) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[id]
}

// add remembers an id whose message is on disk.
func (r *recentIDs) add(id seqID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id.id] {
		return
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[id.id] = true
	r.order = append(r.order, id)
	r.unsaved = true
	if len(r.order) > recentLimit {
		delete(r.seen, r.order[0].id)
		r.order = r.order[1:]
	}
}

// newest returns the last recentLimit of ids, oldest first. One that is there twice, in the file and in the spool, counts once.
func newest(ids []seqID) []seqID {
	sort.Slice(ids, func(i, j int) bool { return ids[i].seq < ids[j].seq })
	ids = slices.Compact(ids)
	return ids[max(0, len(ids)-recentLimit):]
}

// load fills r with what was saved and what was found in the spool, and returns the last sequence number of these. A line
// that makes no sense is passed over: it costs no message.
func (r *recentIDs) load(path string, found []seqID) (last uint64) {
	saved, _ := os.ReadFile(path)
	for line := range strings.Lines(string(saved)) {
		number, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		if seq, err := strconv.ParseUint(number, 10, 64); err == nil && isKeyed(id) {
			found = append(found, seqID{seq, id})
		}
	}
	for _, id := range newest(found) {
		r.add(id)
		last = id.seq
	}
	return last
}

// save replaces the file path, if an id has come since the last time.
func (r *recentIDs) save(path string) error {
	if !r.unsaved {
		return nil
	}
	var b bytes.Buffer
	for _, id := range r.order {
		fmt.Fprintf(&b, "%d %s\n", id.seq, id.id)
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = syncData(f)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		os.Remove(path + ".new")
		return err
	}
	r.unsaved = false
	return nil
}
