package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"slackboard/e2e"
)

// Each kind of line is written in the documented format, and read back as it was. A flipped bit is noticed, except in
// the newline. A whole line of another format is read as one without a kind.
func TestLineFormat(t *testing.T) {
	for _, test := range []struct {
		says string
		line line
	}{
		{`W 7 3 1763899200123 0 tag:error%20s3/1 0a {"text":"x"}`, line{kind: 'W', seq: 7, replaces: 3,
			time: 1763899200123, route: []byte("tag:error%20s3/1"), id: "0a", says: []byte(`{"text":"x"}`)}},
		{`X 7 0 1763899200123 3 - - invalid_blocks: "a" <b>`, line{kind: 'X', seq: 7, time: 1763899200123, attempts: 3,
			route: []byte("-"), id: "-", says: []byte(`invalid_blocks: "a" <b>`)}},
		{`D 7 0 1763899200123 2 - - delivered`, line{kind: 'D', seq: 7, time: 1763899200123, attempts: 2,
			route: []byte("-"), id: "-", says: []byte(fateDelivered)}},
		{`K 7 0 0 0 - k0123456789abcde `, line{kind: 'K', seq: 7, route: []byte("-"), id: "k0123456789abcde"}},
	} {
		want := e2e.SpoolLine("%s", test.says)
		if got := string(test.line.appendTo(nil)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		read, n := parseLine([]byte(want + "x"))
		if n != len(want) || fmt.Sprintf("%+v", read) != fmt.Sprintf("%+v", test.line) {
			t.Errorf("%q is read as %+v, %d of %d bytes", want, read, n, len(want))
		}
		for i := range len(want) - 1 { // the checksum does not cover the newline
			if broken := []byte(want); true {
				broken[i] ^= 1
				if _, n := parseLine(broken); n > 0 {
					t.Errorf("a bit of byte %d of %q is flipped, and the line still counts as whole", i, want)
				}
			}
		}
	}
	for _, says := range []string{``, `W`, `W 1`, `W 1 0 2 to:x {"text":"no id"}`, `W x 0 2 0 to:x a {}`,
		`X 1 0 2 3 - -`, `D 1 0 2 -1 - - delivered`, `D 1 0 2 x - - delivered`, `WW 1 0 2 0 to:x a {}`,
		`Q 1 0 2 0 to:x a {}`, `W 1 0 2 to:x {"id":"a","text":"a b c d e f"}`} {
		if l, n := parseLine([]byte(e2e.SpoolLine("%s", says))); n == 0 || l.kind != 0 {
			t.Errorf("%q is read as %+v, want a whole line without a kind", says, l)
		}
	}
}

// Whatever is in a file of the spool, reading it ends without an error, and each line that was read is written again as
// the same line.
func FuzzSpoolFile(f *testing.F) {
	one := []byte(e2e.SpoolLine(`W 1 0 2 0 to:#c k1 {"text":"x"}`) + e2e.SpoolLine(`X 1 0 2 1 - - y`))
	f.Add(slices.Concat(one, one, []byte(e2e.SpoolLine("D 1 0 2 3 - - dropped"))))
	f.Add(bytes.ReplaceAll(append(one, one...), []byte("\n"), []byte("X")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 10 && data[1] == ' ' && data[10] == ' ' {
			return // it may be the earlier format, which is refused
		}
		for at := 0; at < len(data); at++ {
			l, n := parseLine(data[at:])
			if n == 0 {
				continue
			}
			at += n - 1
			again := l.appendTo(nil)
			if back, n := parseLine(again); n != len(again) || back.kind != l.kind || back.seq != l.seq {
				t.Errorf("%+v is written as %q", l, again)
			}
			if m, err := l.message(); l.kind == 'W' && err == nil {
				_ = m.route.String()
			}
		}
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "00000001.log"), data, 0o600)
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		sp := &spool{ // not openSpool: its syncs take most of the time
			dir: root, live: places{}, dead: places{}, keys: map[string]uint64{},
			segments: map[uint64]*segment{1: {size: int64(len(data))}},
		}
		if _, _, _, err := sp.walk(1, sp.apply); err != nil {
			t.Error(err)
		}
	})
}

// A message that is on disk is not in memory any more, even if nothing is written after it.
func TestWriterForgets(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, hookAndTags), &recorder{script: down})
	var written []weak.Pointer[message]
	for i := range 100 {
		m := &message{ID: newID(), Text: fmt.Sprint(i), route: route{tag: "a"}}
		written = append(written, weak.Make(m))
		if err := p.deliverer.store([]*message{m}); err != nil {
			t.Fatal(err)
		}
	}
	e2e.Poll(t, "no message is in memory", func() bool {
		runtime.GC()
		return !slices.ContainsFunc(written, func(m weak.Pointer[message]) bool { return m.Value() != nil })
	})
}

// unsynced is used in place of syncData, which would take most of the time: no test in process cuts the power.
func unsynced(*os.File) error { return nil }

// openAlone opens a spool without its writer.
func openAlone(t testing.TB, dir string) *spool {
	t.Helper()
	s, err := openSpool(dir, unsynced, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The newest keysKept idempotency keys are remembered, even if the segments of their messages are removed. Older keys
// are forgotten: at most 2*keysKept are in memory.
func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openAlone(t, dir)
	go s.run()
	for batch := range 5 { // 13 MB each
		var add []*message
		for i := range keysKept / 2 {
			add = append(add, &message{ID: fmt.Sprintf("k%015x", batch*keysKept/2+i), Text: strings.Repeat("x", 1500),
				route: route{tag: "a"}})
		}
		for some := range slices.Chunk(add, 1000) {
			c := &change{add: some}
			if err := s.do(c); err != nil {
				t.Fatal(err)
			}
			c = &change{}
			for _, m := range some {
				c.end = append(c.end, ending{seq: m.seq, fate: fateDelivered})
			}
			s.do(c)
		}
	}
	for range 2 { // as it is, and after a restart
		s.mu.Lock()
		if len(s.keys) > 2*keysKept || s.keys["k000000000000000"] != 0 {
			t.Errorf("%d keys are in memory; the oldest should be forgotten, but is of message %d", len(s.keys),
				s.keys["k000000000000000"])
		}
		for i := range keysKept {
			if id := fmt.Sprintf("k%015x", 5*keysKept/2-1-i); s.keys[id] == 0 {
				t.Fatalf("the key %d before the last is forgotten", i)
			}
		}
		if len(s.segments) > 1 {
			t.Errorf("%d segments, want 1, since all messages are done", len(s.segments))
		}
		s.mu.Unlock()
		s.close()
		s = openAlone(t, dir)
		go s.run()
	}
	s.close()
}

// Messages that wait survive a restart, in order. If the configuration is corrected, they are delivered. If their tag
// is gone, they become dead letters, which can be sent again when the tag is back.
func TestRestartHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := &recorder{script: func(_ int, r recorded) outcome {
			if r.to == "http://hook.invalid/core" {
				return outcome{class: badCredential, reason: "no_service"}
			}
			return outcome{class: delivered}
		}}
		p := newInProcess(t, testConfig(t, hookAndTags), bad)
		for i := range 5 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
			p.notifyWith(t, fmt.Sprint("key ", i), "b", i)
		}
		time.Sleep(time.Minute)
		good := &recorder{}
		healed := strings.Replace(strings.Replace(hookAndTags, "hook.invalid/core", "hook.invalid/new", 1),
			"\ntag = \"b\"", "\ntag = \"gone\"", 1)
		p = p.restart(t, healed, good)
		time.Sleep(time.Hour)
		if got := good.texts("#a"); got != "0 1 2 3 4" || good.all()[0].to != "http://hook.invalid/new" {
			t.Errorf("after the restart, posted %q, want 0 1 2 3 4 to the new webhook", got)
		}
		st := p.stat(t)
		if st.FoundAtStart != 10 || st.Delivered != 5 || st.Dead != 5 {
			t.Errorf("counters: %+v", st)
		}
		var list struct{ Messages []messageView }
		json.Unmarshal(p.operator("GET", "/messages?state=dead").Body.Bytes(), &list)
		for _, m := range list.Messages {
			if m.Error != "tag b is not configured" {
				t.Errorf("dead letter: %+v", m)
			}
		}
		p = p.restart(t, hookAndTags, good)
		if st := p.stat(t); st.FoundAtStart != 5 || st.Dead != 5 {
			t.Errorf("counters after another restart: %+v", st)
		}
		if w := p.operator("POST", "/messages/retry?tag=b"); w.Code != 200 ||
			!strings.Contains(w.Body.String(), `"count": 5`) {
			t.Errorf("sending the dead letters again: got %d %s, want a count of 5", w.Code, w.Body)
		}
		time.Sleep(time.Hour)
		if st := p.stat(t); st.Dead != 0 || st.Delivered != 5 {
			t.Errorf("after sending the dead letters again: %+v", st)
		}
		if got := good.texts("#b"); got != "0 1 2 3 4" {
			t.Errorf("after sending the dead letters again: posted %q, want 0 1 2 3 4", got)
		}
	})
}

// The messages of one destination may take half of max_bytes, those of all destinations together the whole. When they
// are delivered, there is room again.
func TestQuota(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	isDown := true
	inBubble(t, hookAndTags+"[spool]\nmax_bytes = 1048576\n", func(n int, r recorded) outcome {
		mu.Lock()
		defer mu.Unlock()
		if isDown {
			return down(n, r)
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		send := func(tag string) int {
			w := p.do("POST", "/notify", fmt.Sprintf(`{"tag":%q,"text":"%s"}`, tag, strings.Repeat("x", 50_000)))
			if w.Code != 200 && (w.Code != 503 || w.Header().Get("Retry-After") == "") {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			return w.Code
		}
		fill := func(tag string) (n int) {
			for send(tag) == 200 {
				n++
			}
			return n
		}
		if n := fill("a"); n != 10 {
			t.Errorf("one destination took %d messages of 50 kB, want half of 1 MiB", n)
		}
		if n := fill("own"); n != 10 {
			t.Errorf("a second destination took %d messages of 50 kB, want half of 1 MiB", n)
		}
		if n := fill("b"); n != 0 {
			t.Errorf("a third destination took %d messages, want none: the spool is full", n)
		}
		mu.Lock()
		isDown = false
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Waiting != 0 || send("b") != 200 {
			t.Errorf("not drained: %+v", st)
		}
	})
}

// Segments whose messages are all done are removed. A waiting message in an old segment is carried forward, so that it
// does not keep the segment. No message is lost.
func TestCarryForward(t *testing.T) {
	t.Parallel()
	e2e.NeedsLong(t)
	inBubble(t, hookAndTags+"[spool]\nhistory_bytes = 0\n", func(n int, r recorded) outcome {
		if r.channel == "#a" {
			return down(n, r)
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		const rounds = 170
		big := strings.Repeat("x", 1_000_000)
		var most int64
		for i := range rounds {
			if i%10 == 0 {
				p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
			}
			if w := p.do("POST", "/notify", fmt.Sprintf(`{"tag":"b","text":"%s"}`, big)); w.Code != 200 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			time.Sleep(time.Second)
			most = max(most, p.spool.bytes.Load())
		}
		if limit := int64((marginSegments + 2) * (segmentSize + 1<<20)); most > limit {
			t.Errorf("the spool took %d bytes, want less than %d", most, limit)
		}
		if files, _ := filepath.Glob(filepath.Join(p.cfg().spool.dir, "*.log")); len(files) > marginSegments+2 {
			t.Errorf("files: %v", files)
		}
		healed := &recorder{}
		p = p.restart(t, hookAndTags, healed)
		time.Sleep(time.Hour)
		want := ""
		for i := 0; i < rounds; i += 10 {
			want = strings.TrimSpace(want + fmt.Sprintf(" %d", i))
		}
		if got := healed.texts("#a"); got != want {
			t.Errorf("after a restart: %q, want %q", got, want)
		}
		p.stat(t)
	})
}

// A start finds the right messages, whatever a crash has left: messages that were carried forward while their old
// segment is still there (one waits, one is a dead letter, one is done), a dead letter that was sent again, a line that
// was torn at the end. Other files in the folder do not matter.
func TestFoundAtStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := func(seq, replaces int, id string) string {
		return e2e.SpoolLine(`W %d %d %d 0 tag:a/0 %s {"text":"%[1]d"}`, seq, replaces, time.Now().UnixMilli(), id)
	}
	for name, content := range map[string]string{
		"00000001.log": w(1, 0, "i1") + w(3, 0, "i3") + w(4, 0, "i4") + w(5, 0,
			"i5") + e2e.SpoolLine(`X 4 0 5 2 - - no_text`) + e2e.SpoolLine(`X 5 0 5 1 - - no_text`) + w(6, 0, "i6"),
		"00000003.log": w(2, 0, "i2") + w(1, 0, "i1") + w(4, 0, "i4") + e2e.SpoolLine(`X 4 0 5 2 - - no_text`) + w(7, 5,
			"i5") + e2e.SpoolLine("D 6 0 1763899200123 1 - - delivered") + w(8, 0, "i8")[:40],
		"notes.txt": "kept",
		"x.log":     "no file of the spool: left alone",
	} {
		os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
	}
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		cfg := testConfig(t, hookAndTags)
		cfg.spool.dir = dir
		p := newInProcess(t, cfg, slack)
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "1 2 3 7" {
			t.Errorf("posted %q, want 1 2 3 7", got)
		}
		if st := p.stat(t); st.FoundAtStart != 5 || st.Dead != 1 || st.Damaged != 0 {
			t.Errorf("counters: %+v", st)
		}
		if dead := p.list(t, "/messages?state=dead").Messages; len(dead) != 1 || dead[0].ID != "i4" ||
			dead[0].Attempts != 2 || dead[0].Error != "no_text" {
			t.Errorf("dead letters: %+v", dead)
		}
		p.holdsNothing(t)
	})
}

// If a line is damaged while the server runs, its message is lost, and no other.
func TestDamageWhileRunning(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		slack.script = down
		for i := range 3 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		synctest.Wait()
		path := filepath.Join(p.cfg().spool.dir, "00000001.log")
		data := []byte(e2e.ReadFile(t, path))
		at := bytes.Index(data, []byte(`"text":"1"`))
		data[at+8] = 'X'
		os.WriteFile(path, data, 0o600)
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "0 0 2" {
			t.Errorf("posted %q, want 0 0 2", got)
		}
		if st := p.stat(t); st.Damaged != 1 || st.Dropped != 1 || st.Waiting != 0 {
			t.Errorf("counters: %+v", st)
		}
		p.holdsNothing(t)
	})
}

// A route that an earlier version spelled in another way is read as the same route.
func TestSpellingsOfARoute(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lines := ""
	for i, r := range []string{"tag:a/0", "tag:%61/0", "tag:a/00"} {
		lines += e2e.SpoolLine(`W %d 0 %d 0 %s i%[1]d {"text":"%[1]d"}`, i+1, time.Now().UnixMilli(), r)
	}
	os.WriteFile(filepath.Join(dir, "00000001.log"), []byte(lines), 0o600)
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		cfg := testConfig(t, hookAndTags)
		cfg.spool.dir = dir
		p := newInProcess(t, cfg, slack)
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "1 2 3" {
			t.Errorf("posted %q, want 1 2 3", got)
		}
		if st := p.stat(t); st.FoundAtStart != 3 || st.Delivered != 3 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// The name of the spool's folder may have any characters, such as those of a pattern.
func TestFolderOfAnyName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, hookAndTags)
		cfg.spool.dir = filepath.Join(t.TempDir(), "a [b]*?\\")
		p := newInProcess(t, cfg, &recorder{script: down})
		p.send(t, e2e.NotifyBody("a", 1, false))
		slack := &recorder{}
		p.restart(t, hookAndTags, slack)
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "1" {
			t.Errorf("after a restart, posted %q, want 1", got)
		}
	})
}

// If the spool's folder, or the file in it, goes away while the server runs, no message is accepted until it is back.
// Nothing is lost. A folder that took its place is not touched.
func TestFolderGoesAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(t *testing.T, dir string) (back func()){
		"renamed": func(t *testing.T, dir string) func() {
			os.Rename(dir, dir+".old")
			return func() { os.Rename(dir+".old", dir) }
		},
		"replaced by an empty one": func(t *testing.T, dir string) func() {
			os.Rename(dir, dir+".old")
			os.Mkdir(dir, 0o700)
			return func() { os.Remove(dir); os.Rename(dir+".old", dir) }
		},
		"replaced by another spool": func(t *testing.T, dir string) func() {
			os.Rename(dir, dir+".old")
			os.CopyFS(dir, os.DirFS(dir+".old"))
			noise := bytes.Repeat([]byte("noise\n"), 1<<20)
			os.WriteFile(filepath.Join(dir, "00000001.log"), noise, 0o600)
			before := e2e.Snapshot(t, dir)
			return func() {
				if after := e2e.Snapshot(t, dir); !maps.Equal(before, after) {
					t.Error("the other spool was touched")
				}
				os.Rename(dir, dir+".other")
				os.Rename(dir+".old", dir)
			}
		},
		"its file renamed": func(t *testing.T, dir string) func() {
			name := filepath.Join(dir, "00000001.log")
			os.Rename(name, name+".old")
			return func() { os.Rename(name+".old", name) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
				p.send(t, e2e.NotifyBody("a", 1, false))
				p.send(t, e2e.NotifyBody("b", 1, false))
				time.Sleep(time.Minute)
				back := away(t, p.cfg().spool.dir)
				time.Sleep(probeEvery)
				synctest.Wait()
				if w := p.do("GET", "/readyz", ""); w.Code != 503 {
					t.Errorf("a second after the folder went away: /readyz answers %d %s, want 503", w.Code, w.Body)
				}
				for range 3 {
					if w := p.do("POST", "/notify", e2e.NotifyBody("b", 2, false)); w.Code != 503 ||
						w.Header().Get("Retry-After") == "" {
						t.Errorf("without the folder: got %d %s, want 503 with a Retry-After", w.Code, w.Body)
					}
				}
				slack.mu.Lock()
				slack.script = nil
				slack.mu.Unlock()
				time.Sleep(time.Hour)
				if n := strings.Count(p.logs.String(), "the spool's folder is gone"); n < 1 || n > 2 {
					t.Errorf("%d lines of the log say that the folder is gone, want 1 or 2", n)
				}
				back()
				time.Sleep(probeEvery)
				synctest.Wait()
				if w := p.do("GET", "/readyz", ""); w.Code != 200 {
					t.Errorf("a second after the folder is back: /readyz answers %d %s, want 200", w.Code, w.Body)
				}
				p.send(t, e2e.NotifyBody("b", 3, false))
				time.Sleep(time.Hour)
				if st := p.stat(t); st.Delivered != 3 || st.Damaged != 0 {
					t.Errorf("counters: %+v", st)
				}
				p.holdsNothing(t)
			})
		})
	}
}

// openRunning opens a spool and starts its writer. It keeps no history.
func openRunning(t testing.TB, dir string) *spool {
	t.Helper()
	s := openAlone(t, dir)
	go s.run()
	return s
}

// add stores n messages with a text of size bytes each, and returns their numbers.
func (s *spool) add(t testing.TB, n, size int) (numbers []uint64) {
	t.Helper()
	c := &change{}
	for range n {
		c.add = append(c.add, &message{ID: newID(), Text: strings.Repeat("x", size), route: route{tag: "a"}})
	}
	if err := s.do(c); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.add {
		numbers = append(numbers, m.seq)
	}
	return numbers
}

// end records that messages end with fate.
func (s *spool) end(fate string, numbers ...uint64) {
	c := &change{}
	for _, seq := range numbers {
		c.end = append(c.end, ending{seq: seq, fate: fate, attempts: 2, reason: "because"})
	}
	s.do(c)
}

// pass stores so many messages of 1 MB and records each as delivered.
func (s *spool) pass(t testing.TB, megabytes int) {
	t.Helper()
	for range megabytes {
		s.end(fateDelivered, s.add(t, 1, 1_000_000)...)
	}
}

// all finds each live message once, even if a segment has to be removed meanwhile. Otherwise a reload would forget a
// message.
func TestEachWhileCleaning(t *testing.T) {
	t.Parallel()
	s := openRunning(t, t.TempDir())
	defer s.close()
	want := s.add(t, 100, 1000)
	s.pass(t, 45) // with a few MB more, the first segment has to be removed
	var got []uint64
	err := s.all(false, func() bool { return false }, func(_ found, w line, _ string) {
		if !slices.Contains(want, w.seq) {
			return
		}
		if got = append(got, w.seq); len(got) == 1 {
			s.pass(t, 20)
		}
	})
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Errorf("found %d messages, want each of the %d once: %v", len(got), len(want), err)
	}
	first := slices.Min(s.numbers())
	s.pass(t, 2)
	if slices.Min(s.numbers()) == first { // now it is removed
		t.Error("the first segment had not to be removed: the test shows nothing")
	}
}

// If a crash left a dead letter whose W line was carried forward, but not its X line, it is still a dead letter when
// the old segments are removed.
func TestDeadLetterHalfCarried(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := func(seq int) string { return e2e.SpoolLine(`W %d 0 5 0 tag:a/0 i%[1]d {"text":"%[1]d"}`, seq) }
	for name, content := range map[string]string{
		"00000001.log": w(1) + w(2) + e2e.SpoolLine(`X 2 0 5 1 - - b`),
		"00000003.log": e2e.SpoolLine(`X 1 0 5 4 - - no_text`),
		"00000009.log": w(1) + w(2) + e2e.SpoolLine(`X 2 0 5 2 - - b`),
	} {
		os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
	}
	for range 2 {
		s := openRunning(t, dir)
		s.pass(t, 1)
		e2e.Poll(t, "the old segments are removed", func() bool { return slices.Equal(s.numbers(), []uint64{9}) })
		for seq, attempts := range []int{1: 4, 2: 2} {
			_, x, err := s.read(found{seq: uint64(seq)})
			if seq > 0 && (err != nil || x.kind != 'X' || int(x.attempts) != attempts) {
				t.Errorf("dead letter %d: %+v, %v", seq, x, err)
			}
		}
		s.close()
	}
}

// A segment whose last line was damaged before the start is kept as *.bad as well.
func TestDamagedLastLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e2e.WriteInto(t, dir, fileName(1), e2e.SpoolLine(`W 1 0 5 0 tag:a/0 i1 {"text":"1"}`)+
		e2e.SpoolLine(`D 1 0 5 1 - - delivered`)+
		strings.Replace(e2e.SpoolLine(`W 2 0 5 0 tag:a/0 i2 {}`), "i2", "i3", 1))
	e2e.WriteInto(t, dir, fileName(2), e2e.SpoolLine(`W 3 0 5 0 tag:a/0 i3 {"text":"3"}`))
	s := openRunning(t, dir)
	defer s.close()
	s.pass(t, 1)
	e2e.Poll(t, "the log needs the first segment no more", func() bool { return slices.Min(s.numbers()) > 1 })
	if _, err := os.Stat(filepath.Join(dir, "00000001.bad")); err != nil || s.damaged.Load() != 1 {
		t.Errorf("the damaged file is not kept: %v; %d damaged lines", err, s.damaged.Load())
	}
}

// If lines are damaged while the server runs, and the log then needs their segment no more, the messages of these lines
// are lost, and no others. A dead letter whose reason is damaged stays one. The damaged file is kept.
func TestDamageBeforeCleaning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openRunning(t, dir)
	numbers := s.add(t, 5, 100)
	s.end(fateDead, numbers[3:]...)
	name := filepath.Join(dir, "00000001.log")
	data := []byte(e2e.ReadFile(t, name))
	for i, line := range slices.Collect(bytes.Lines(data))[:7] {
		if i == 1 || i == 3 || i == 6 { // messages 2 and 4, and the reason of dead letter 5
			line[30] ^= 1
		}
	}
	os.WriteFile(name, data, 0o600)
	s.pass(t, 60)
	if slices.Min(s.numbers()) == 1 {
		t.Fatal("the first segment is still in the log: the test shows nothing")
	}
	for i, want := range []error{nil, errDamaged, nil, errDamaged, nil} {
		m, x, err := s.read(found{seq: numbers[i]})
		if err != want || err == nil && (m.seq != numbers[i] || i == 4 && string(x.says) != "the reason is damaged") {
			t.Errorf("message %d: %+v %+v, %v", i, m, x, err)
		}
		s.end(fateDamaged, numbers[i])
	}
	if _, err := os.Stat(filepath.Join(dir, "00000001.bad")); err != nil {
		t.Error("the damaged file is not kept:", err)
	}
	if n := s.damaged.Load(); n != 5 || len(s.live) != 0 {
		t.Errorf("%d damaged lines, want 5; %d live messages, want none", n, len(s.live))
	}
	s.close()
}

// If one bit of the log is flipped, whichever it is, one line at most is lost, and it is counted as damaged. A bit of a
// newline costs no line, nor does one that makes a digit of a checksum a capital letter.
func TestEachBit(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, says := range []string{
		`W 1 0 5 0 to:#c 1 {"text":"1"}`, `W 2 0 5 0 tag:a/0 k0123456789abcde {"text":"JJJ********"}`,
		`X 1 0 6 3 - - channel_not_found`, `W 3 0 7 0 to:#c 3 {"text":"0123abcd 00000018 W 7 0 8 0 "}`,
		`D 2 0 8 1 - - delivered`, `K 1 0 0 0 - k1123456789abcde `, `W 4 1 9 0 to:#c 4 {"text":"4"}`,
		`W 5 0 9 0 to:#c 5 {"text":"5"}`,
	} {
		lines = append(lines, e2e.SpoolLine("%s", says))
	}
	holds := func(log string) (all string, damaged int64) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "00000001.log"), []byte(log), 0o600)
		s := openAlone(t, dir)
		defer s.closeFiles()
		s.all(false, func() bool { return false }, func(_ found, w line, state string) {
			all += fmt.Sprintf("%d %s %s\n", w.seq, w.says, state)
		})
		return fmt.Sprint(all, s.keys), s.damaged.Load()
	}
	whole, _ := holds(strings.Join(lines, ""))
	for i, text := range lines {
		before, behind := strings.Join(lines[:i], ""), strings.Join(lines[i+1:], "")
		without, _ := holds(before + behind)
		for at := range text {
			for round := range e2e.Rounds(8, 1) {
				flipped, bit := []byte(text), (at+round)%8
				flipped[at] ^= 1 << bit
				got, damaged := holds(before + string(flipped) + behind)
				const sum = 8 // where the checksum ends: A is the same digit as a
				harmless := at == len(text)-1 || at < sum && bit == 5 && text[at] >= 'a' && text[at] <= 'f'
				want, least := without, asInt(behind != "") // the last line may be one that a crash tore
				if harmless {
					want, least = whole, 0
				}
				if got != want || damaged < int64(least) || damaged > 2 || harmless && damaged > 0 {
					t.Fatalf("bit %d of byte %d of %q flipped: %d damaged lines: %s", bit, at, text, damaged, got)
				}
			}
		}
	}
}

// What a message says is never taken for a line of the log, even if the message's own line is damaged.
func TestLinesInsideTexts(t *testing.T) {
	t.Parallel()
	for _, inner := range []string{"D 1 0 5 1 - - dropped", "K 1 0 0 0 - k0123456789abcde ", `X 1 0 5 1 - - :`,
		"K 1 k0123456789abcde"} {
		body := []byte(e2e.SpoolLine(`W 2 0 5 0 to:#c 2 {"payload":{"a %s":"","text":"2"}}`,
			strings.TrimSuffix(e2e.SpoolLine("%s", inner), "\n")))
		for i := range 18 {
			log := []byte(e2e.SpoolLine(`W 1 0 5 0 to:#c 1 {"text":"1"}`) + string(body) +
				e2e.SpoolLine(`W 3 0 5 0 to:#c 3 {"text":"3"}`))
			log[bytes.IndexByte(log, '\n')+1+i] ^= 1
			got, dir := "", t.TempDir()
			os.WriteFile(filepath.Join(dir, "00000001.log"), log, 0o600)
			s := openAlone(t, dir)
			s.walk(1, func(l line) { got += fmt.Sprintf("%c%d ", l.kind, l.seq) })
			s.closeFiles()
			if got != "W1 W3 " {
				t.Errorf("%q: byte %d is damaged, and it is read as %s", inner, i, got)
			}
		}
	}
}

// listed returns the texts of the messages that GET path lists, with blanks between them.
func (p *inProcess) listed(t *testing.T, path string) string {
	t.Helper()
	var texts []string
	for _, m := range p.list(t, path).Messages {
		texts = append(texts, m.Text)
	}
	return strings.Join(texts, " ")
}

// Messages that were delivered or dropped are found in lists and by id, also after a restart, until the log is larger
// than history_bytes. The idempotency key of a message is known even after that.
func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const toml = hookAndTags + "[spool]\nhistory_bytes = 33554432\n"
		slack := &recorder{script: func(n int, r recorded) outcome {
			switch {
			case r.channel == "#own" && n <= 2:
				return outcome{class: retry, reason: "no"}
			case r.channel == "#b":
				return outcome{class: badContent, reason: "invalid_blocks"}
			}
			return outcome{class: delivered}
		}}
		p := newInProcess(t, testConfig(t, toml), slack)
		start := time.Now().UTC()
		for i := range 3 {
			p.send(t, e2e.NotifyBody("a", i, false))
			time.Sleep(time.Second)
		}
		p.send(t, e2e.NotifyBody("own", 3, false))
		id := p.notifyWith(t, "key", "b", 4)[0]
		time.Sleep(time.Minute)
		if w := p.operator("DELETE", "/messages/"+id); w.Code != 200 {
			t.Errorf("drop: %d %s", w.Code, w.Body)
		}
		dropped := time.Now().UTC()
		time.Sleep(time.Minute)
		check := func(what string) {
			t.Helper()
			if got := p.listed(t, "/messages?state=delivered"); got != "3 2 1 0" {
				t.Errorf("%s: delivered %q", what, got)
			}
			if got := p.listed(t, "/messages?state=delivered&tag=a&limit=2"); got != "2 1" {
				t.Errorf("%s: the last two of a: %q", what, got)
			}
			if got := p.listed(t, "/messages?state=dropped"); got != "4" {
				t.Errorf("%s: dropped %q", what, got)
			}
			delivered := p.list(t, "/messages?state=delivered").Messages
			if len(delivered) != 4 {
				return
			}
			var m messageView
			json.Unmarshal(p.operator("GET", "/messages/"+delivered[0].ID).Body.Bytes(), &m)
			if m.State != "delivered" || m.Attempts != 3 || !m.AcceptedAt.Equal(start.Add(3*time.Second)) ||
				m.DeliveredAt.IsZero() || m.DeliveredAt.Before(m.AcceptedAt.Add(3*time.Second)) {
				t.Errorf("%s: %+v", what, m)
			}
			m = messageView{}
			json.Unmarshal(p.operator("GET", "/messages/"+id).Body.Bytes(), &m)
			if m.State != "dropped" || !m.DroppedAt.Equal(dropped) || m.Attempts != 1 {
				t.Errorf("%s: %+v", what, m)
			}
		}
		check("at first")
		p = p.restart(t, toml, slack)
		check("after a restart")

		most, big := int64(0), strings.Repeat("x", 1_000_000)
		for range 60 {
			m := &message{ID: newID(), Text: big, route: route{tag: "a"}, sync: true} // as one that was delivered
			p.spool.do(&change{add: []*message{m}})
			time.Sleep(time.Second)
			most = max(most, p.spool.bytes.Load())
		}
		if most > 34<<20 || most < 16<<20 {
			t.Errorf("the log took %d bytes at most, want about history_bytes", most)
		}
		if w := p.operator("GET", "/messages/"+id); w.Code != 404 {
			t.Errorf("a message whose segment is removed: got %d %s, want 404", w.Code, w.Body)
		}
		if n := p.list(t, "/messages?state=delivered").Total; n < 15 || n > 40 {
			t.Errorf("%d delivered messages are found, want 15 to 40", n)
		}
		if again := p.notifyWith(t, "key", "b", 4); again[0] != id {
			t.Errorf("the key is forgotten: got the id %s, the first time %s", again[0], id)
		}
		p = p.restart(t, hookAndTags+"[spool]\nhistory_bytes = 0\n", slack)
		p.send(t, e2e.NotifyBody("a", 9, false))
		time.Sleep(time.Minute)
		if n := p.spool.bytes.Load(); n > segmentSize+1<<20 {
			t.Errorf("without a history the log takes %d bytes", n)
		}
		p.stat(t)
		p.holdsNothing(t)
	})
}

// After a key is forgotten, a request with this key stores a new message. It has the same id as the first one, which is
// a dead letter: both can be listed and sent again.
func TestForgottenKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: func(n int, r recorded) outcome {
			if r.channel == "#b" {
				return outcome{class: badContent, reason: "invalid_blocks"}
			}
			return outcome{class: delivered}
		}}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		id := p.notifyWith(t, "key", "b", 1)
		time.Sleep(time.Minute)
		var others []*message
		for i := range 2 * keysKept {
			others = append(others, &message{ID: fmt.Sprintf("k%015x", i), Text: "x", route: route{tag: "a"}})
		}
		for some := range slices.Chunk(others, 1000) {
			c := &change{add: some}
			p.spool.do(c)
			for _, m := range some {
				c.end = append(c.end, ending{seq: m.seq, fate: fateDelivered})
			}
			p.spool.do(&change{end: c.end})
		}
		if again := p.notifyWith(t, "key", "b", 2); again[0] != id[0] {
			t.Fatalf("the same key has another id: first %v, then %v", id, again)
		}
		time.Sleep(time.Minute)
		for restarts := range 3 {
			if got := p.listed(t, "/messages?state=dead"); got != "2 1" {
				t.Errorf("after %d restarts the dead letters are %q, want 2 1", restarts, got)
			}
			if st := p.stat(t); st.Dead != 2 {
				t.Errorf("counters: %+v", st)
			}
			p = p.restart(t, hookAndTags, slack)
		}
		if w := p.operator("POST", "/messages/retry?tag=b"); !strings.Contains(w.Body.String(), `"count": 2`) {
			t.Errorf("sending both again: got %s, want a count of 2", w.Body)
		}
		time.Sleep(time.Minute)
		if got := p.listed(t, "/messages?state=dead"); got != "2 1" {
			t.Errorf("both sent again and refused again: the dead letters are %q, want 2 1", got)
		}
		p.stat(t)
	})
}

// If a segment cannot be read, its messages do not count as damaged: their lane tries again later, and shows why. Lists
// are answered 503.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 3 {
			p.send(t, e2e.NotifyBody("a", i, false))
		}
		time.Sleep(time.Second)
		name := filepath.Join(p.cfg().spool.dir, "00000001.log")
		os.Rename(name, name+".away")
		os.Mkdir(name, 0o700) // a folder can be opened, but not be read as a file
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(time.Hour)
		st := p.stat(t)
		if st.Waiting != 3 || st.Damaged != 0 || st.Tags[0].LastError == "" {
			t.Errorf("while the segment cannot be read: %+v", st)
		}
		if n := strings.Count(p.logs.String(), "reading the spool: "); n != 1 {
			t.Errorf("%d lines of the log say that the spool cannot be read, want 1", n)
		}
		if w := p.operator("GET", "/messages?state=delivered"); w.Code != 503 {
			t.Errorf("a list while the segment cannot be read: got %d %s, want 503", w.Code, w.Body)
		}
		os.Remove(name)
		os.Rename(name+".away", name)
		time.Sleep(time.Hour)
		if st := p.stat(t); st.Delivered != 3 || st.Damaged != 0 {
			t.Errorf("after the segment can be read again: %+v", st)
		}
		p.holdsNothing(t)
	})
}

// model does random things to a server, in simulated time, and keeps what is known from outside: what the server
// promised, and what its Slack took. It is also that Slack, and the disk that fails.
type model struct {
	t      *testing.T
	mu     sync.Mutex
	random *rand.Rand // for what is done to the server
	fate   *rand.Rand // for Slack and the disk
	calm   bool       // Slack takes everything, and the disk works
	broken time.Time  // until then, no sync succeeds
	epoch  int        // restarts
	posts  int
	took   map[modelMessage]modelPost
	// The posts of a channel that came again, by the epoch of the first time: one at most, and only if that epoch is in
	// unclean.
	doubled map[modelPost]map[int]bool
	unclean map[int]bool   // epochs that ended while the disk failed
	last    map[string]int // by tag and entry: the highest number that has come for the first time
	next    int
	acked   map[modelMessage]string // what was answered 200, with its tag
	ids     map[string]modelMessage
	keys    map[string]int // the number of the first message with a key
	refused map[int]bool
	again   map[int]bool // need not come in order: they have sync, or have been dead letters
	dropped map[modelMessage]bool
}

// modelMessage is the number of a message and, since a tag may have two entries, the first letter of its channel.
type modelMessage struct {
	number int
	entry  byte
}

// modelPost is a post that Slack took.
type modelPost struct {
	epoch, number int
	channel       string
}

// post is Slack: it answers after up to 3 s. Unless m is calm, every third answer is an error.
func (m *model) post(_ credential, body []byte) outcome {
	var p stormPost
	if err := json.Unmarshal(body, &p); err != nil {
		panic(err)
	}
	m.mu.Lock()
	out, wait := outcome{class: delivered}, time.Duration(m.fate.IntN(3000))*time.Millisecond
	if !m.calm && m.fate.IntN(3) == 0 {
		out = []outcome{
			{class: retry, reason: "status 500"}, {class: badContent, reason: "no_text"},
			{class: badContent, tooMuch: true, reason: "too long"},
			{class: badDestination, reason: "is_archived"}, {class: badCredential, reason: "token_revoked"},
			{class: inBetween, reason: "a proxy"},
			{class: limited, wait: 3 * time.Second, reason: "rate limited"},
			{class: retry, unreached: true, reason: "connection refused"},
			{class: retry, unsure: true, reason: "timeout"}, {class: retry, broken: true, unsure: true, reason: "EOF"},
		}[m.fate.IntN(10)]
	}
	m.mu.Unlock()
	time.Sleep(wait)
	m.mu.Lock()
	defer m.mu.Unlock()
	if out.class != delivered {
		return out
	}
	m.posts++
	for _, text := range p.texts() {
		var n int
		fmt.Sscan(text, &n)
		m.take(modelMessage{n, p.Channel[1]}, modelPost{m.epoch, m.posts, p.Channel})
	}
	return out
}

// take notes that Slack took msg, after it has checked that this may happen now.
func (m *model) take(msg modelMessage, post modelPost) {
	before, came := m.took[msg]
	m.took[msg] = post
	switch {
	case m.refused[msg.number] || m.dropped[msg]:
		m.t.Errorf("%v was refused (%v) or dropped, and is delivered", msg, m.refused[msg.number])
	case came && before.epoch == post.epoch:
		m.t.Errorf("%v is delivered twice: %+v, %+v", msg, before, post)
	case came:
		at := modelPost{epoch: before.epoch, channel: before.channel}
		if m.doubled[at] == nil {
			m.doubled[at] = map[int]bool{}
		}
		if m.doubled[at][before.number] = true; len(m.doubled[at]) > 1 || !m.unclean[before.epoch] {
			m.t.Errorf("%v came again: %+v, %+v; epoch %d ended well: %v", msg, before, post, before.epoch,
				!m.unclean[before.epoch])
		}
	case !m.again[msg.number]:
		lane := m.acked[msg] + string(msg.entry)
		if m.last[lane] > msg.number {
			m.t.Errorf("%s: %d came before %d", lane, m.last[lane], msg.number)
		}
		m.last[lane] = msg.number
	}
}

// disk is called in place of each sync. It fails until m.broken, and now and then unless m is calm.
func (m *model) disk() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(m.broken) || !m.calm && m.fate.IntN(40) == 0 {
		return errors.New("input/output error")
	}
	return nil
}

// accept sends a message for a tag, with a key, with sync or with neither, and notes what the server promises.
func (m *model) accept(p *inProcess, tag string, padding int) {
	m.mu.Lock()
	m.next++
	n, key, isSync := m.next, "", m.random.IntN(30) == 0
	entries := map[string]string{"ab": "ab", "own": "o"}[tag]
	if entries == "" {
		entries = tag[:1]
	}
	for _, e := range entries { // noted now, since the message may be posted before the answer comes
		m.acked[modelMessage{n, byte(e)}] = tag
	}
	m.again[n] = isSync
	m.mu.Unlock()
	r := httptest.NewRequest("POST", "/notify",
		strings.NewReader(fmt.Sprintf(`{"tag":%q,"text":"%d %s","sync":%v}`, tag, n, strings.Repeat("x", padding),
			isSync)))
	if m.random.IntN(3) == 0 && !isSync {
		key = fmt.Sprint(tag, m.random.IntN(20))
		r.Header.Set("Idempotency-Key", key)
	}
	w := newRecorderFor(p, r)
	var a answer
	json.Unmarshal(w.Body.Bytes(), &a)
	m.mu.Lock()
	defer m.mu.Unlock()
	first, known := m.keys[key]
	if w.Code != 200 || key != "" && known {
		for _, e := range entries {
			msg := modelMessage{n, byte(e)}
			delete(m.acked, msg)
			if _, came := m.took[msg]; came && !isSync {
				m.t.Errorf("%v is delivered, but was answered %d, or had a known key", msg, w.Code)
			}
		}
		m.refused[n] = !isSync
	}
	switch {
	case w.Code == 200 && key != "" && known:
		for i, id := range a.IDs {
			if m.ids[id] != (modelMessage{first, entries[i]}) {
				m.t.Errorf("key %s has the id %s, which is %v, not %d", key, id, m.ids[id], first)
			}
		}
	case w.Code == 200:
		for i, id := range a.IDs {
			m.ids[id] = modelMessage{n, entries[i]}
		}
		if key != "" {
			m.keys[key] = n
		}
	case w.Code != 503 && !isSync:
		m.t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// operate sends again or drops one message of a tag, or all dead letters of the tag.
func (m *model) operate(p *inProcess, tag string) {
	state := []string{"dead", "waiting"}[m.random.IntN(2)]
	found := p.list(m.t, "/messages?state="+state+"&tag="+tag).Messages
	if len(found) == 0 {
		return
	}
	v := found[m.random.IntN(len(found))]
	method, path := "DELETE", "/messages/"+v.ID
	switch m.random.IntN(4) {
	case 0:
		method, path = "POST", path+"/retry"
	case 1:
		method, path = "POST", "/messages/retry?tag="+tag
	case 2:
		if path = "/messages?state=dead&tag=" + tag; state != "dead" {
			return
		}
	}
	if method == "POST" && state == "dead" || strings.Contains(path, "?tag") {
		m.loseTheirPlace(p, tag)
	}
	w := p.operator(method, path)
	if w.Code >= 500 && w.Code != 503 || w.Code == 400 {
		m.t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	if method == "POST" || w.Code != 200 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range found {
		if one := strings.HasSuffix(path, v.ID); one || path[9] == '?' {
			msg := m.ids[v.ID]
			if m.dropped[msg] = true; m.took[msg].number > 0 && m.took[msg].epoch == m.epoch {
				m.t.Errorf("%v is dropped after it was delivered", msg)
			}
		}
	}
}

// loseTheirPlace notes that the dead letters of a tag need not come in order: they are sent again, behind others.
func (m *model) loseTheirPlace(p *inProcess, tag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range p.list(m.t, "/messages?state=dead&tag="+tag).Messages {
		m.again[m.ids[v.ID].number] = true
	}
}

// Messages, restarts, reloads, operators and failures of Slack and of the disk, at random: no message that was answered
// 200 is lost, or comes again after its delivery was recorded. Messages come in order. One that was refused or dropped
// does not come.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := time.Now().UnixNano()
	if s := os.Getenv("SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	for i := range e2e.Rounds(15, 2) {
		if !t.Run(fmt.Sprint(i), func(t *testing.T) { runModel(t, uint64(seed)+uint64(i), (seed+int64(i))%10 == 0) }) {
			t.Fatalf("run the test with SEED=%d to see this again", seed+int64(i))
		}
	}
}

// runModel does 200 random things, then lets everything work, and checks what became of all messages.
func runModel(t *testing.T, seed uint64, large bool) {
	variants := []string{hookAndTags, strings.ReplaceAll(hookAndTags, "#a", "#a2"),
		strings.Replace(hookAndTags, "batch = 1", "batch = 20", 1),
		strings.ReplaceAll(strings.Replace(hookAndTags, "batch = 1", "batch = 5", 1), "#b", "#b2")}
	for i := range variants {
		variants[i] += "[spool]\nhistory_bytes = 0\n"
	}
	tags := []string{"a", "b", "ab", "own", "bot"}
	synctest.Test(t, func(t *testing.T) {
		m := &model{
			t: t, random: rand.New(rand.NewPCG(seed, 1)), fate: rand.New(rand.NewPCG(seed, 2)),
			took: map[modelMessage]modelPost{}, doubled: map[modelPost]map[int]bool{},
			unclean: map[int]bool{}, last: map[string]int{}, acked: map[modelMessage]string{},
			ids: map[string]modelMessage{}, keys: map[string]int{},
			refused: map[int]bool{}, again: map[int]bool{}, dropped: map[modelMessage]bool{},
		}
		disk := m.disk
		p := newInProcess(t, testConfig(t, variants[0]), m)
		p.disk.Store(&disk)
		dir := p.cfg().spool.dir
		breakFor := func(d time.Duration) { m.mu.Lock(); m.broken = time.Now().Add(d); m.mu.Unlock() }
		restart := func() {
			p.stop()
			m.mu.Lock()
			m.epoch++
			m.mu.Unlock()
			cfg := testConfig(t, variants[m.random.IntN(len(variants))])
			cfg.spool.dir = dir
			p = newInProcess(t, cfg, m)
			p.disk.Store(&disk)
		}
		for range 200 {
			tag, padding := tags[m.random.IntN(len(tags))], 0
			if large {
				padding = m.random.IntN(600_000)
			}
			switch n := m.random.IntN(100); {
			case n < 60:
				m.accept(p, tag, padding)
			case n < 75:
				time.Sleep(time.Duration(m.random.IntN(20_000)) * time.Millisecond)
			case n < 77:
				breakFor(time.Duration(m.random.IntN(5000)) * time.Millisecond)
			case n < 82:
				p.reload(t, variants[m.random.IntN(len(variants))])
			case n < 84:
				restart()
			case n < 85:
				m.mu.Lock()
				m.unclean[m.epoch] = true
				m.mu.Unlock()
				breakFor(time.Minute)
				restart()
				breakFor(0)
			default:
				m.operate(p, tag)
			}
			if m.random.IntN(5) == 0 {
				p.stat(t)
			}
		}
		m.mu.Lock()
		m.calm = true
		m.mu.Unlock()
		for _, tag := range tags {
			time.Sleep(time.Hour)
			m.loseTheirPlace(p, tag)
			p.operator("POST", "/messages/retry?tag="+tag)
			time.Sleep(time.Hour)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		lost := 0
		for msg := range m.acked {
			if _, came := m.took[msg]; !came && !m.dropped[msg] {
				t.Errorf("%v is lost", msg)
				lost++
			}
		}
		if st := p.stat(t); st.Waiting != 0 || st.Dead != 0 || st.Damaged != 0 {
			t.Errorf("at the end: %+v", st)
		}
		p.holdsNothing(t)
		if n := p.spool.bytes.Load(); n > segmentSize+1<<20 {
			t.Errorf("all messages are done, but the log takes %d bytes", n)
		}
		t.Logf("seed %d: %d messages, %d accepted, %d dropped, %d restarts, %d posts doubled", seed, m.next,
			len(m.acked), len(m.dropped), m.epoch, len(m.doubled))
	})
}

// powerCuts is a spool whose disk loses its power again and again. After a cut, the disk has all that was synced, and
// any of the sectors that were written but not synced. The segment that was removed last may be there again.
type powerCuts struct {
	t      *testing.T
	random *rand.Rand
	s      *spool
	dir    string
	next   string // the folder as it is after the cut
	cutAt  int    // so many syncs succeed before the cut; negative after it
	synced []byte // what was synced of the newest segment
	of     uint64 // its number
	torn   int    // cuts after which some sectors were missing

	mu    sync.Mutex
	fates map[uint64]string // of acknowledged messages: "" if it waits, its fate, "?" while one is being written
	ids   map[uint64]string
	keys  map[string]uint64
}

// sync is called in place of each sync of the spool. When it is time for the cut, it writes into p.next what the disk
// has after the cut.
func (p *powerCuts) sync(f *os.File) error {
	s := p.s
	if f != s.f || s.segments[s.newest] == nil {
		return nil
	}
	if p.cutAt < 0 {
		return errors.New("the power is off")
	}
	if p.of == 0 { // at the start
		p.synced = make([]byte, s.segments[s.newest].size)
		f.ReadAt(p.synced, 0)
	} else if p.of != s.newest {
		p.synced = nil
	}
	p.of = s.newest
	// After the synced bytes, there may be what the cut before has torn.
	size, pending := min(len(p.synced), int(s.segments[s.newest].size)), make([]byte, 4<<20)
	n, _ := f.ReadAt(pending, int64(size))
	before := append(p.synced, make([]byte, n)...)
	now := append(p.synced[:size:size], bytes.TrimRight(pending[:n], "\x00")...)
	if p.cutAt--; p.cutAt >= 0 {
		p.synced = now
		return nil
	}
	mixed := false
	for at := size &^ 511; at < len(now); at += 512 {
		if from := max(at, size); p.random.IntN(2) == 0 {
			copy(now[from:min(at+512, len(now))], before[from:])
			mixed = true
		}
	}
	if mixed {
		p.torn++
	}
	for number := range s.segments {
		if name := fileName(number); number != s.newest {
			os.Link(filepath.Join(p.dir, name), filepath.Join(p.next, name))
		}
	}
	if name := fileName(s.oldest - 1); p.random.IntN(2) == 0 {
		os.Link(filepath.Join(p.dir, "old-"+name), filepath.Join(p.next, name))
	}
	os.WriteFile(filepath.Join(p.next, fileName(s.newest)), now, 0o600)
	return errors.New("the power is off")
}

// produce stores messages, ends them, and sends dead letters again, as lanes and operators do, until the power is off.
func (p *powerCuts) produce(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	for {
		m := &message{ID: newID(), Text: strings.Repeat("x", random.IntN(100<<random.IntN(13))), route: route{tag: "a"}}
		if random.IntN(3) == 0 {
			m.ID = "k" + m.ID[1:]
		}
		if p.s.do(&change{add: []*message{m}}) != nil {
			return
		}
		seq, fate := m.seq, ""
		p.mu.Lock()
		p.fates[seq], p.ids[seq] = "", m.ID
		if isKeyed(m.ID) {
			p.keys[m.ID] = seq
		}
		p.mu.Unlock()
		for _, fate = range []string{fateDead, fateDelivered, fateDropped} {
			if random.IntN(2) == 0 {
				continue
			}
			p.set(seq, "?")
			if p.s.do(&change{end: []ending{{seq: seq, fate: fate, attempts: 3, reason: "because"}}}) != nil {
				return
			}
			if p.set(seq, fate); fate != fateDead {
				break
			}
		}
		if p.fate(seq) == fateDead && random.IntN(2) == 0 { // sent again
			p.set(seq, "?")
			again := &message{ID: m.ID, Text: m.Text, route: m.route, replaces: seq}
			if p.s.do(&change{add: []*message{again}}) != nil {
				return
			}
			p.set(seq, fateDropped)
			p.mu.Lock()
			p.fates[again.seq], p.ids[again.seq] = "", m.ID
			p.mu.Unlock()
		}
	}
}

// endMost drops seven of eight messages from before the cut, so that there are segments to remove.
func (p *powerCuts) endMost() {
	p.mu.Lock()
	c := &change{}
	for seq := range p.fates {
		if seq%8 != 0 {
			p.fates[seq] = "?"
			c.end = append(c.end, ending{seq: seq, fate: fateDropped})
		}
	}
	p.mu.Unlock()
	if p.s.do(c) == nil {
		for _, e := range c.end {
			p.set(e.seq, fateDropped)
		}
	}
}

func (p *powerCuts) set(seq uint64, fate string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fates[seq] = fate
}

func (p *powerCuts) fate(seq uint64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fates[seq]
}

// check compares what is found after a cut with what was acknowledged before it.
func (p *powerCuts) check(cut int) {
	for seq, fate := range p.fates {
		m, x, err := p.s.read(found{seq: seq})
		is := fateDelivered
		switch {
		case err == nil && x.kind == 0:
			is = ""
		case err == nil && x.attempts == 3 && string(x.says) == "because":
			is = fateDead
		case err != errGone:
			p.t.Errorf("cut %d: message %d: %+v, %v", cut, seq, x, err)
		}
		if fate == fateDropped {
			fate = fateDelivered
		}
		if fate != "?" && is != fate || err == nil && m.ID != p.ids[seq] {
			p.t.Errorf("cut %d: message %d, id %s, is acknowledged as %q; it is %q: %+v", cut, seq, p.ids[seq], fate,
				is, m)
		}
		p.fates[seq] = is
		if is == fateDelivered {
			delete(p.fates, seq) // its number may come again
		}
	}
	for key, seq := range p.keys {
		if p.s.keys[key] < seq {
			p.t.Errorf("cut %d: the key of message %d is forgotten", cut, seq)
		}
	}
}

// After a power cut, each message has the fate that was acknowledged before the cut, and its key is known. What was
// being written at that moment may have happened or not.
func TestPowerCutsInProcess(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p := &powerCuts{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), fates: map[uint64]string{}, ids: map[uint64]string{},
		keys: map[string]uint64{},
	}
	base, acknowledged := t.TempDir(), 0
	p.dir = filepath.Join(base, "0")
	removed := uint64(0)
	for cut := range e2e.Rounds(40, 3) {
		p.s = openAlone(t, p.dir)
		p.check(cut)
		if p.next = filepath.Join(base, fmt.Sprint(cut+1)); os.Mkdir(p.next, 0o700) != nil || t.Failed() {
			t.Fatal("a check has failed, or the next folder cannot be made")
		}
		for number := range p.s.segments { // so that a segment that is removed can come back
			os.Link(filepath.Join(p.dir, fileName(number)), filepath.Join(p.dir, "old-"+fileName(number)))
		}
		p.cutAt, p.of, p.s.sync = 1+p.random.IntN(40), 0, p.sync
		first := p.s.oldest
		go p.s.run()
		var producers sync.WaitGroup
		producers.Go(p.endMost)
		for i := range 16 {
			producers.Go(func() { p.produce(seed + uint64(cut*16+i)) })
		}
		e2e.Poll(t, "the power is cut", func() bool {
			return p.s.health() != nil && strings.Contains(p.s.health().Error(), "power")
		})
		p.s.close()
		producers.Wait()
		removed += p.s.oldest - first
		os.RemoveAll(p.dir)
		p.dir = p.next
		acknowledged = max(acknowledged, len(p.ids))
	}
	t.Logf("%d messages, %d keys, %d still known, %d cuts torn, %d segments removed", acknowledged, len(p.keys),
		len(p.fates), p.torn, removed)
	if p.torn == 0 {
		t.Error("no cut has torn anything: the test shows nothing")
	}
}

// A large message for 100 destinations is in memory once, not 100 times.
func TestLargeMessageForMany(t *testing.T) {
	toml := "[core]\nslack_url = 'http://hook.invalid/core'\n"
	for i := range 100 {
		toml += fmt.Sprintf("[[tags]]\ntag = 'a'\nchannel = '#a%d'\n", i)
	}
	p := newInProcess(t, testConfig(t, toml), &recorder{script: down})
	body := `{"tag":"a","text":"` + strings.Repeat("x", 1_000_000) + `"}`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p.send(t, body)
	runtime.ReadMemStats(&after)
	if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 60 {
		t.Errorf("storing the message allocated %d MB, want 60 at most", mb)
	} else {
		t.Logf("storing the message allocated %d MB", mb)
	}
	p.stop()
	s := openAlone(t, p.cfg().spool.dir)
	if n := len(s.live); n == 0 || s.segments[1].live != 100 {
		t.Errorf("want 100 live messages in the first segment: %+v", s.segments[1])
	}
	s.closeFiles()
}

// filled runs test with a server whose disk another program has filled, with the file filler. Three messages wait.
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

// If the disk is full, messages can still become dead letters, and they are dead letters after a restart.
func TestNoRoomForDeadLetters(t *testing.T) {
	t.Parallel()
	filled(t, func(t *testing.T, p *inProcess, slack *recorder, filler string) {
		slack.mu.Lock()
		slack.script = func(int, recorded) outcome { return outcome{class: badContent, reason: "no_text"} }
		slack.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 3 || st.Waiting != 0 {
			t.Errorf("on the full disk, want 3 dead letters: %+v", st)
		}
		p = p.restart(t, hookAndTags, slack)
		if st := p.stat(t); st.Dead != 3 || st.Waiting != 0 {
			t.Errorf("after a restart, want 3 dead letters: %+v", st)
		}
	})
}

// If another program has filled the disk, messages are accepted as long as they fit into the newest segment and the
// spare one, then they are refused. When there is room again, messages are accepted again. All accepted messages are
// delivered, and none of the refused ones.
func TestDiskThatAnotherFills(t *testing.T) {
	t.Parallel()
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
			t.Errorf("on the full disk, not all accepted messages are delivered: %+v", st)
		}
		os.Remove(filler)
		time.Sleep(2 * time.Second)
		if w := p.do("POST", "/notify", body); w.Code != 200 {
			t.Errorf("with room again: %d %s", w.Code, w.Body)
		}
		time.Sleep(time.Minute)
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != int64(4+accepted) {
			t.Errorf("with room again, not all accepted messages are delivered: %+v", st)
		}
	})
}

// Once there is a spare segment again, a full disk is over with the next change, not only at the next tick: meanwhile,
// the lines that end messages would make the newest segment grow over all the room that there is.
func TestFullDiskIsOverAtOnce(t *testing.T) {
	t.Parallel()
	s := openRunning(t, t.TempDir())
	numbers := s.add(t, 2, 1000)
	full := error(syscall.ENOSPC)
	s.failed.Store(&full)
	s.end(fateDelivered, numbers[0])
	if err := s.health(); err != nil {
		t.Errorf("the spool does not take messages: %v", err)
	}
	s.close()
}

// A full disk drains, and messages are accepted again, even if 13 MiB in its oldest segment wait for a dead destination
// and have to be carried forward into the room that is left.
func TestFullDiskBehindADeadDestination(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 200, 30}[:e2e.Rounds(3, 1)] {
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
		e2e.Poll(t, "the spool takes messages again", func() bool { return s.health() == nil })
		dead = append(dead, s.add(t, 10, 1000)...)
		e2e.Poll(t, "disk use falls while messages pass", func() bool {
			c := &change{add: []*message{{ID: newID(), Text: strings.Repeat("x", 1_000_000), route: route{tag: "b"}}}}
			if s.do(c) == nil {
				s.end(fateDelivered, c.add[0].seq)
			}
			return s.bytes.Load() < 2*segmentSize
		})
		for _, seq := range dead {
			if _, _, err := s.read(found{seq: seq}); err != nil {
				t.Errorf("message %d: %v", seq, err)
			}
		}
		s.close()
	}
}

// While the disk fails, it is tried once a second, messages are refused, and no lane makes another post before the fate
// of its head is on disk. When the disk works again, everything goes on.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 3 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		synctest.Wait()
		tries := 0
		fails := func() error { tries++; return syscall.EIO }
		p.disk.Store(&fails)
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(time.Minute)
		if w := p.do("POST", "/notify", e2e.NotifyBody("b", 3, false)); w.Code != 503 ||
			w.Header().Get("Retry-After") == "" || p.spool.health() == nil {
			t.Errorf("got %d %s, health %v", w.Code, w.Body, p.spool.health())
		}
		if tries < 50 || tries > 70 {
			t.Errorf("tried %d times in a minute, want once a second", tries)
		}
		before := tries
		for range 50 { // in the same second
			p.do("POST", "/notify", e2e.NotifyBody("b", 3, false))
		}
		if tries > before {
			t.Errorf("tried %d times more for 50 requests", tries-before)
		}
		again := make(chan error, 1)
		go func() {
			_, _, err := p.resend([]found{{seq: 99}}) // a dead letter that another operator has just sent again
			again <- err
		}()
		time.Sleep(10 * time.Second)
		if len(again) == 0 {
			t.Error("sending again a dead letter that is gone waits for the disk")
		}
		if got := slack.texts("#a"); got != "0 0" {
			t.Errorf("posted %q, want 0 twice", got)
		}
		if n := strings.Count(p.logs.String(), "level=ERROR"); n > 3 {
			t.Errorf("%d errors are logged: %s", n, p.logs)
		}
		p.disk.Store(nil)
		time.Sleep(time.Minute)
		if err := p.spool.health(); err != nil {
			t.Errorf("still not healthy: %v", err)
		}
		p = p.restart(t, hookAndTags, slack)
		if got := slack.texts("#a"); got != "0 0 1 2" {
			t.Errorf("posted %q, want 0 0 1 2", got)
		}
		if st := p.stat(t); st.FoundAtStart != 0 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// The example of a log in docs/design.md can be read: its lines are whole, and say what the text above them says.
func TestDocumentedLog(t *testing.T) {
	_, example, _ := strings.Cut(e2e.ReadFile(t, "docs/design.md"), "```spool\n")
	example, _, _ = strings.Cut(example, "```")
	dir, got := t.TempDir(), ""
	e2e.WriteInto(t, dir, fileName(1), example)
	sp, err := openSpool(dir, unsynced, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer sp.closeFiles()
	err = sp.all(true, func() bool { return false }, func(_ found, w line, state string) {
		got += fmt.Sprintf("%d %d %s, ", w.seq, w.replaces, state)
	})
	if want := "1 0 delivered, 3 2 waiting, "; err != nil || got != want || sp.damaged.Load() != 0 {
		t.Errorf("got %q, %v, %d damaged lines; want %q", got, err, sp.damaged.Load(), want)
	}
}
