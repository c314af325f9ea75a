package main

// Full disks, power cuts and errors from the disk, real ones: what needs root on Linux.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// filled is a disk that another program has filled, with a server on it for which three messages wait.
func filled(t *testing.T, test func(t *testing.T, p *inProcess, slack *recorder, filler string)) {
	disk := e2e.SmallDisk(t)
	cfg := testConfig(t, hookAndTags)
	cfg.spool.dir = filepath.Join(disk, "spool")
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: down}
		p := newInProcess(t, cfg, slack)
		for i := range 3 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		filler := filepath.Join(disk, "filler")
		if err := os.WriteFile(filler, make([]byte, 68<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		test(t, p, slack, filler)
	})
}

// Dead letters need no room.
func TestNoRoomForDeadLetters(t *testing.T) {
	filled(t, func(t *testing.T, p *inProcess, slack *recorder, filler string) {
		slack.mu.Lock()
		slack.script = func(int, recorded) outcome { return outcome{class: badContent, reason: "no_text"} }
		slack.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 3 || st.Waiting != 0 {
			t.Errorf("without room: %+v", st)
		}
		p = p.restart(t, hookAndTags, slack)
		if st := p.stat(t); st.Dead != 3 || st.Waiting != 0 {
			t.Errorf("after a restart: %+v", st)
		}
	})
}

// A disk that another program has filled takes what is left of the segment and of the spare one, then refuses; with room again
// it goes on. Nothing of it is lost, nor is what was refused delivered.
func TestDiskThatAnotherFills(t *testing.T) {
	filled(t, func(t *testing.T, p *inProcess, slack *recorder, filler string) {
		body := `{"tag":"b","text":"` + strings.Repeat("x", 500_000) + `"}`
		accepted, refused := 0, 0
		for range 80 {
			switch w := p.do("POST", "/notify", body); {
			case w.Code == 200:
				accepted++
			case w.Code == 503 && w.Header().Get("Retry-After") != "":
				refused++
			default:
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		}
		if accepted < 20 || refused < 20 || p.spool.health() == nil {
			t.Errorf("%d accepted, %d refused, health %v", accepted, refused, p.spool.health())
		}
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != int64(3+accepted) {
			t.Errorf("without room, but drained: %+v", st)
		}
		os.Remove(filler)
		time.Sleep(2 * time.Second)
		if w := p.do("POST", "/notify", body); w.Code != 200 {
			t.Errorf("with room again: %d %s", w.Code, w.Body)
		}
		time.Sleep(time.Minute)
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != int64(4+accepted) {
			t.Errorf("with room again: %+v", st)
		}
	})
}

// A full disk drains although its oldest segment is for a dead destination, as large as the room that is left.
func TestFullDiskBehindADeadDestination(t *testing.T) {
	for _, size := range []int{30, 200, 1000}[:e2e.Rounds(3, 1)] {
		s := openRunning(t, filepath.Join(e2e.SmallDisk(t), "spool"))
		dead := s.add(t, 13<<20/100_000, 100_000)
		var others []uint64
		c := &change{}
		for s.do(c) == nil {
			for _, m := range c.add {
				others = append(others, m.seq)
			}
			c = &change{}
			for range 500 {
				c.add = append(c.add, &message{ID: newID(), Text: strings.Repeat("x", size), route: route{tag: "b"}})
			}
		}
		ended := make(chan struct{})
		go func() {
			for some := range slices.Chunk(others, 100) {
				s.end(fateDelivered, some...)
			}
			close(ended)
		}()
		e2e.Poll(t, fmt.Sprintf("%d messages of %d bytes are recorded as delivered", len(others), size), func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
		e2e.Poll(t, "it takes messages again", func() bool { return s.health() == nil })
		dead = append(dead, s.add(t, 10, 1000)...)
		e2e.Poll(t, "disk use falls", func() bool { return s.bytes.Load() < 2*segmentSize })
		for _, seq := range dead {
			if _, _, err := s.read(seq); err != nil {
				t.Errorf("message %d: %v", seq, err)
			}
		}
		s.close()
	}
}
