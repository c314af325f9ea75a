package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// text returns a line of the log, from what it says behind its checksum and length.
func text(format string, args ...any) string {
	says := fmt.Sprintf(format, args...)
	summed := fmt.Sprintf("%08x %s", len(says), says)
	return fmt.Sprintf("%08x %s\n", crc32.Checksum([]byte(summed), crc32.MakeTable(crc32.Castagnoli)), summed)
}

// The format as it is written down: each kind of line, written and read.
func TestLineFormat(t *testing.T) {
	for _, test := range []struct {
		says string
		line line
	}{
		{`W 7 3 1763899200123 tag:error%20s3/1 {"id":"0a","text":"x"}`, line{kind: 'W', seq: 7, replaces: 3, at: 1763899200123,
			route: []byte("tag:error%20s3/1"), id: "0a", body: []byte(`,"text":"x"}`)}},
		{`X 7 3 "invalid_blocks: \"a\" <b>"`, line{kind: 'X', seq: 7, attempts: 3, reason: `invalid_blocks: "a" <b>`}},
		{`D 7 1763899200123 delivered 2 42:1048576`, line{kind: 'D', seq: 7, at: 1763899200123, reason: fateDelivered, attempts: 2, place: newPlace(42, 1<<20)}},
		{`K 7 k0123456789abcde`, line{kind: 'K', seq: 7, id: "k0123456789abcde"}},
	} {
		want := text("%s", test.says)
		if got := string(test.line.appendTo(nil)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		read, n := parseLine([]byte(want + "x"))
		if read.json = nil; n != len(want) || fmt.Sprintf("%+v", read) != fmt.Sprintf("%+v", test.line) {
			t.Errorf("%q is read as %+v, %d of %d bytes", want, read, n, len(want))
		}
		for i := range len(want) - 1 { // its newline says nothing
			if broken := []byte(want); true {
				broken[i] ^= 1
				if _, n := parseLine(broken); n > 0 {
					t.Errorf("a bit of byte %d of %q is wrong, and it is taken", i, want)
				}
			}
		}
	}
	for _, says := range []string{``, `W`, `W 1`, `W 1 0 2 to:x {"text":"no id"}`, `W x 0 2 to:x {"id":"a"}`, `X 1 2 reason`, `D 1 2 delivered 1`, `D 1 2 delivered 1 2:x`, `Q 1 2`, `WW 1 0 2 to:x {"id":"a"}`} {
		if l, n := parseLine([]byte(text("%s", says))); n > 0 {
			t.Errorf("%q is taken: %+v", says, l)
		}
	}
}

func TestRoutes(t *testing.T) {
	for _, r := range []route{{tag: "a"}, {tag: "a/b c\n%", index: 7}, {channel: "#x y"}, {channel: ""}, {channel: "tag:a/0"}, {tag: "ä“"}} {
		s := r.String()
		if got := parseRoute(s); got != r || strings.ContainsAny(s, " \n") {
			t.Errorf("%+v is %q, read as %+v", r, s, got)
		}
	}
}

func FuzzSpoolFile(f *testing.F) {
	one := []byte(text(`W 1 0 2 to:#c {"id":"k1","text":"x"}`) + text(`X 1 1 "y"`))
	f.Add(slices.Concat(one, one, []byte(text("D 1 2 dropped 3 1:0"))))
	f.Add(bytes.ReplaceAll(append(one, one...), []byte("\n"), []byte("X")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 10 && data[1] == ' ' && data[10] == ' ' {
			return // it may be the earlier format, which is refused
		}
		end := 0
		eachLine(data, newPlace(1, 0), true, func(l line, _ int) {
			if at := int(l.lies.offset()); at < end || at >= len(data) {
				t.Errorf("a line at %d of %d bytes, behind one that ends at %d", at, len(data), end)
			}
			again := l.appendTo(nil)
			if back, n := parseLine(again); n != len(again) || back.kind != l.kind || back.seq != l.seq {
				t.Errorf("%+v is written as %q", l, again)
			}
			if m, err := l.message(); l.kind == 'W' && err == nil {
				_ = m.route.String()
			}
			end = int(l.lies.offset()) + 1
		}, func(int) {})
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "00000001.log"), data, 0o600)
		sp, err := openSpool(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := sp.each(func(line, bool) {}); err != nil {
			t.Error(err)
		}
		sp.f.Close()
		sp.lock.Close()
	})
}

// notifyWith posts a message for a tag with an idempotency key and returns its ids.
func (p *inProcess) notifyWith(t *testing.T, key, tag string, n int) []string {
	t.Helper()
	r := httptest.NewRequest("POST", "/notify", strings.NewReader(notifyBody(tag, n, false)))
	r.Header.Set("Idempotency-Key", key)
	w := newRecorderFor(p, r)
	var a answer
	if json.Unmarshal(w.Body.Bytes(), &a); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return a.IDs
}

// restart ends p and returns a server on the same spool.
func (p *inProcess) restart(t *testing.T, toml string, slack poster) *inProcess {
	t.Helper()
	p.stop()
	cfg := testConfig(t, toml)
	cfg.spool.dir = p.cfg().spool.dir
	return newInProcess(t, cfg, slack)
}

func down(int, recorded) outcome { return outcome{class: retry, reason: "connection refused"} }

// The same key again is answered as the first time and stores nothing: while it waits, when it is delivered, when its file is
// gone, after restarts.
func TestIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		first := p.notifyWith(t, "key", "ab", 1)
		if again := p.notifyWith(t, "key", "ab", 1); fmt.Sprint(again) != fmt.Sprint(first) || len(first) != 2 || first[0] == first[1] {
			t.Errorf("got %v, first %v", again, first)
		}
		for range 3 { // the first restart deletes the file, the others know the key from elsewhere
			p = p.restart(t, hookAndTags, slack)
			if again := p.notifyWith(t, "key", "ab", 1); fmt.Sprint(again) != fmt.Sprint(first) {
				t.Errorf("after a restart: got %v, first %v", again, first)
			}
		}
		if other := p.notifyWith(t, "other", "a", 2); other[0] == first[0] {
			t.Errorf("another key has the same id")
		}
		time.Sleep(time.Minute)
		if a, b := slack.texts("#a"), slack.texts("#b"); a != "1 2" || b != "1" {
			t.Errorf("posted %q, %q", a, b)
		}
		if st := p.stat(t); st.Accepted != 1 {
			t.Errorf("accepted %d, want 1", st.Accepted)
		}
		p.holdsNothing(t)
	})
}

// What was written takes no memory any more, also when nothing comes after it.
func TestWriterForgets(t *testing.T) {
	p := newInProcess(t, testConfig(t, hookAndTags), &recorder{script: down})
	var written []weak.Pointer[message]
	for i := range 100 {
		m := &message{ID: newID(), Text: fmt.Sprint(i), route: route{tag: "a"}}
		written = append(written, weak.Make(m))
		if err := p.deliver.store([]*message{m}); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "it is forgotten", func() bool {
		runtime.GC()
		return !slices.ContainsFunc(written, func(m weak.Pointer[message]) bool { return m.Value() != nil })
	})
}

// openAlone opens a spool that nobody writes to.
func openAlone(t testing.TB, dir string) *spool {
	t.Helper()
	s, err := openSpool(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The newest keys are remembered whatever has been cleaned, and not without end.
func TestKeysAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := openAlone(t, dir)
	go s.run()
	for batch := range 5 { // and segments without an end to them
		var add []*message
		for i := range keysKept / 2 {
			add = append(add, &message{ID: fmt.Sprintf("k%015x", batch*keysKept/2+i), Text: strings.Repeat("x", 1500), route: route{tag: "a"}})
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
		if len(s.keys) > 2*keysKept || s.keys["k000000000000000"] != 0 {
			t.Errorf("%d keys, the first is %d", len(s.keys), s.keys["k000000000000000"])
		}
		for i := range keysKept {
			if id := fmt.Sprintf("k%015x", 5*keysKept/2-1-i); s.keys[id] == 0 {
				t.Fatalf("the key %d before the last is forgotten", i)
			}
		}
		if len(s.segments) > 1 {
			t.Errorf("%d segments, of which all is done", len(s.segments))
		}
		s.close()
		s = openAlone(t, dir)
		go s.run()
	}
	s.close()
}

// What waits survives a restart, in order; a corrected configuration heals it; a tag that is gone makes dead letters.
func TestRestartHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &recorder{script: func(_ int, r recorded) outcome {
			if r.to == "http://hook.invalid/core" {
				return outcome{class: badCredential, reason: "no_service"}
			}
			return outcome{class: delivered}
		}}
		p := newInProcess(t, testConfig(t, hookAndTags), bad)
		for i := range 5 {
			p.do("POST", "/notify", notifyBody("a", i, false))
			p.notifyWith(t, fmt.Sprint("key ", i), "b", i)
		}
		time.Sleep(time.Minute)
		good := &recorder{}
		healed := strings.Replace(strings.Replace(hookAndTags, "hook.invalid/core", "hook.invalid/new", 1), "\ntag = \"b\"", "\ntag = \"gone\"", 1)
		p = p.restart(t, healed, good)
		time.Sleep(time.Hour)
		if got := good.texts("#a"); got != "0 1 2 3 4" || good.all()[0].to != "http://hook.invalid/new" {
			t.Errorf("after the restart: %q", got)
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
			t.Errorf("counters after another: %+v", st)
		}
		if w := p.operator("POST", "/messages/retry?tag=b"); w.Code != 200 || !strings.Contains(w.Body.String(), `"count": 5`) {
			t.Errorf("send again: %d %s", w.Code, w.Body)
		}
		time.Sleep(time.Hour)
		if st := p.stat(t); st.Dead != 0 || st.Delivered != 5 {
			t.Errorf("sent again: %+v", st)
		}
		if got := good.texts("#b"); got != "0 1 2 3 4" {
			t.Errorf("sent again: %q", got)
		}
	})
}

func TestDeadByAgeAndByPoison(t *testing.T) {
	inBubble(t, hookAndTags+"[spool]\nmax_age = 7200\n", func(n int, r recorded) outcome {
		switch {
		case r.channel == "#a":
			return outcome{class: badCredential, reason: "token_revoked"}
		case r.text == "2":
			return outcome{class: retry, status: 500, reason: "status 500"}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		p.do("POST", "/notify", notifyBody("a", 1, false))
		p.do("POST", "/notify", notifyBody("b", 2, false))
		time.Sleep(59 * time.Minute)
		if st := p.stat(t); st.Dead != 0 {
			t.Errorf("dead too early: %+v", st)
		}
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 0 {
			t.Errorf("dead although its credential delivers nothing: %+v", st)
		}
		p.do("POST", "/notify-directly", `{"payload":{"channel":"#other","text":"3"}}`)
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 1 {
			t.Errorf("the poisonous one is not dead: %+v", st)
		}
		time.Sleep(time.Hour)
		if st := p.stat(t); st.Dead != 2 || st.Delivered != 1 {
			t.Errorf("the old one is not dead: %+v", st)
		}
		body := p.operator("GET", "/messages?state=dead").Body.String()
		for _, want := range []string{"nothing but errors of slack's for 1h0m0s, while other messages pass: status 500", "not delivered within 2h0m0s: token_revoked"} {
			if !strings.Contains(body, want) {
				t.Errorf("%q is not in %s", want, body)
			}
		}
	})
}

func TestReportTag(t *testing.T) {
	toml := strings.Replace(hookAndTags, "[core]", "[core]\nreport_tag = \"own\"", 1)
	inBubble(t, toml, func(_ int, r recorded) outcome {
		if r.channel == "#own" && r.text == "" {
			return outcome{class: delivered}
		}
		return outcome{class: badContent, reason: "invalid_blocks"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 3 {
			p.do("POST", "/notify", notifyBody("a", i, false))
		}
		p.do("POST", "/notify", notifyBody("own", 9, false)) // a dead letter of the report tag's
		time.Sleep(59 * time.Minute)
		reports := func() (n int) {
			for _, m := range p.list(t, "/messages?state=delivered").Messages {
				if m.Tag == "own" {
					n++
					if !strings.HasPrefix(m.Text, "A message for tag a could not be delivered: invalid_blocks. It is kept as dead letter ") {
						t.Errorf("report: %s", m.Text)
					}
				}
			}
			return n
		}
		if n := reports(); n != 1 {
			t.Errorf("%d reports, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		p.do("POST", "/notify", notifyBody("a", 4, false))
		time.Sleep(time.Minute)
		if n := reports(); n != 2 {
			t.Errorf("%d reports after an hour, want 2", n)
		}
		if st := p.stat(t); st.Dead != 5 {
			t.Errorf("counters: %+v", st)
		}
	})
	if _, err := loadConfig(writeFile(t, "x.toml", "[core]\nslack_url='http://h.invalid/'\nreport_tag='x'\n"), purpose{}); err == nil || !strings.Contains(err.Error(), `:3: report_tag: there is no tag "x"`) {
		t.Errorf("an unknown report_tag: %v", err)
	}
}

// One destination may use half of the spool, all together the whole; what is delivered makes room.
func TestQuota(t *testing.T) {
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
			t.Errorf("another took %d, want half of 1 MiB", n)
		}
		if n := fill("b"); n != 0 {
			t.Errorf("a third took %d of a full spool", n)
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

// Files whose messages are done go away; one that a waiting message pins is written again.
func TestCarryForward(t *testing.T) {
	if !isLong() {
		t.Skip("skipped: takes long, runs with CI=true")
	}
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
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
				p.do("POST", "/notify", notifyBody("a", i, false))
			}
			if w := p.do("POST", "/notify", fmt.Sprintf(`{"tag":"b","text":"%s"}`, big)); w.Code != 200 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			time.Sleep(time.Second)
			most = max(most, p.spool.bytes.Load())
		}
		if limit := int64((slackSegments + 2) * (segmentSize + 1<<20)); most > limit {
			t.Errorf("the spool took %d bytes, want less than %d", most, limit)
		}
		if files, _ := filepath.Glob(filepath.Join(p.cfg().spool.dir, "*.log")); len(files) > slackSegments+2 {
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

// What a crash leaves: a message that was carried forward and whose old segment is still there, once alive, once dead,
// once done; a dead letter that was sent again; a torn tail.
func TestFoundAtStart(t *testing.T) {
	dir := t.TempDir()
	w := func(seq, replaces int, id string) string {
		return text(`W %d %d %d tag:a/0 {"id":%q,"text":"%[1]d"}`, seq, replaces, time.Now().UnixMilli(), id)
	}
	for name, content := range map[string]string{
		"00000001.log": w(1, 0, "i1") + w(3, 0, "i3") + w(4, 0, "i4") + w(5, 0, "i5") + text(`X 4 2 "no_text"`) + text(`X 5 1 "no_text"`) + w(6, 0, "i6"),
		"00000003.log": w(2, 0, "i2") + w(1, 0, "i1") + w(4, 0, "i4") + text(`X 4 2 "no_text"`) + w(7, 5, "i5") + text("D 6 1763899200123 delivered 1 1:9") + w(8, 0, "i8")[:40],
		"notes.txt":    "kept",
		"x.log":        "no file of the spool: left alone",
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
		if dead := p.list(t, "/messages?state=dead").Messages; len(dead) != 1 || dead[0].ID != "i4" || dead[0].Attempts != 2 || dead[0].Error != "no_text" {
			t.Errorf("dead letters: %+v", dead)
		}
		p.holdsNothing(t)
	})
}

// A spool of the earlier format is refused in one line, and nothing in it is touched.
func TestEarlierFormat(t *testing.T) {
	for name, content := range map[string]string{
		"00000007.log":      "P 9a0b3c4d 1 1763899200123 tag:general/0 {\"id\":\"a\"}\n",
		"00000008.log":      "D 9a0b3c4d 1 1763899200123 tag:general/0 {\"id\":\"a\"}\n",
		"dead-00000001.log": "",
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{"lock": "", name: content} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, dir)
		code, _, stderr := runProgram(t, "", nil, "slackboard", "-c", writeFile(t, "s.toml", server1("http://127.0.0.1:1")+"[spool]\ndir='"+dir+"'\n"))
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, name) || !strings.Contains(stderr, "an earlier format") {
			t.Errorf("%s: exit %d, %q", name, code, stderr)
		}
		if after := snapshot(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s: before %q, after %q", name, before, after)
		}
	}
}

// A record that is damaged while the server runs costs that record.
func TestDamageWhileRunning(t *testing.T) {
	inBubble(t, hookAndTags, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		slack.script = down
		for i := range 3 {
			p.do("POST", "/notify", notifyBody("a", i, false))
		}
		synctest.Wait()
		path := p.spool.path(1)
		data := []byte(readFile(t, path))
		at := bytes.Index(data, []byte(`"text":"1"`))
		data[at+8] = 'X'
		os.WriteFile(path, data, 0o600)
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "0 0 2" {
			t.Errorf("posted %q", got)
		}
		if st := p.stat(t); st.Damaged != 1 || st.Dropped != 1 || st.Waiting != 0 {
			t.Errorf("counters: %+v", st)
		}
		p.holdsNothing(t)
	})
}

func TestOperatorsAPI(t *testing.T) {
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		switch r.channel {
		case "#a":
			return down(n, r)
		case "#b":
			return outcome{class: badContent, reason: "invalid_blocks"}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		start := time.Now().UTC()
		p.do("POST", "/notify", `{"tag":"a","text":"needle one","host":"web-01","level":"crit","title":"T"}`)
		p.do("POST", "/notify", notifyBody("a", 2, false))
		p.do("POST", "/notify", notifyBody("b", 3, false))
		p.do("POST", "/notify", notifyBody("b", 4, false))
		p.do("POST", "/notify-directly", `{"payload":{"channel":"#c","blocks":[{"type":"divider"}]}}`)
		synctest.Wait()
		p.do("POST", "/notify", notifyBody("own", 5, true))
		time.Sleep(10 * time.Second)
		get := func(path string) list { t.Helper(); return p.list(t, path) }
		count := func(method, path string, want int) {
			t.Helper()
			var got struct{ Count int }
			w := p.operator(method, path)
			if json.Unmarshal(w.Body.Bytes(), &got); w.Code != 200 || got.Count != want {
				t.Errorf("%s %s: %d %s, want count %d", method, path, w.Code, w.Body, want)
			}
		}
		waiting, dead, delivered := get("/messages?state=waiting"), get("/messages?state=dead"), get("/messages?state=delivered")
		if waiting.Total != 2 || dead.Total != 2 || delivered.Total != 2 {
			t.Fatalf("waiting %+v, dead %+v, delivered %+v", waiting, dead, delivered)
		}
		head := waiting.Messages[1]
		if head.State != "waiting" || head.Tag != "a" || head.Channel != "#a" || head.Host != "web-01" || head.Level != "crit" || head.Title != "T" ||
			head.Text != "needle one" || !head.AcceptedAt.Equal(start) || head.Attempts < 3 || head.NextAttemptAt == nil || head.Error != "connection refused" {
			t.Errorf("head of the lane: %+v", head)
		}
		if m := dead.Messages[0]; m.State != "dead" || m.Text != "4" || m.Attempts != 1 || m.Error != "invalid_blocks" {
			t.Errorf("dead letter: %+v", m)
		}
		if m := delivered.Messages[0]; m.State != "delivered" || m.Text != "5" || m.DeliveredAt == nil {
			t.Errorf("delivered: %+v", m)
		}
		if m := delivered.Messages[1]; m.Channel != "#c" || !strings.Contains(m.Text, "divider") {
			t.Errorf("delivered: %+v", m)
		}
		for path, want := range map[string]int{
			"/messages?state=waiting&tag=a": 2, "/messages?state=waiting&tag=b": 0, "/messages?state=waiting&q=NEEDLE": 1,
			"/messages?state=dead&q=invalid_": 2, "/messages?state=dead&q=x": 0, "/messages?state=delivered&tag=own": 1,
		} {
			if got := get(path); got.Total != want || len(got.Messages) != want {
				t.Errorf("%s: %d, want %d", path, got.Total, want)
			}
		}
		if l := get("/messages?state=dead&limit=1"); len(l.Messages) != 1 || l.Total != 2 {
			t.Errorf("limit: %+v", l)
		}
		for path, want := range map[string]int{
			"/messages": 400, "/messages?state=x": 400, "/messages?state=dead&limit=0": 400, "/messages/nope": 404,
			"/messages/" + head.ID: 200, "/messages/" + dead.Messages[0].ID: 200, "/messages/" + delivered.Messages[0].ID: 200,
		} {
			if w := p.operator("GET", path); w.Code != want {
				t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
			}
		}
		for _, request := range []string{"POST /messages/nope/retry", "DELETE /messages/nope", "POST /messages/" + delivered.Messages[0].ID + "/retry"} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 404 {
				t.Errorf("%s: %d", request, w.Code)
			}
		}
		for _, request := range []string{"POST /messages/retry", "DELETE /messages?state=dead", "DELETE /messages?state=waiting&tag=a"} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 400 {
				t.Errorf("%s: %d", request, w.Code)
			}
		}

		posts := len(slack.all())
		count("POST", "/messages/"+head.ID+"/retry", 1)
		synctest.Wait()
		if n := len(slack.all()); n != posts+1 {
			t.Errorf("a waiting one sent again is not due: %d posts, then %d", posts, n)
		}
		count("DELETE", "/messages/"+head.ID, 1)
		count("POST", "/messages/"+dead.Messages[1].ID+"/retry", 1)
		synctest.Wait()
		if l := get("/messages?state=dead"); l.Total != 2 || l.Messages[0].Text != "3" || !l.Messages[0].AcceptedAt.Equal(dead.Messages[1].AcceptedAt) {
			t.Errorf("sent again and refused again: %+v", l)
		}
		count("DELETE", "/messages/"+dead.Messages[0].ID, 1)
		count("DELETE", "/messages?state=dead&tag=a", 0)
		count("DELETE", "/messages?state=dead&tag=b", 1)
		if st := p.stat(t); st.Accepted != 6 || st.Delivered != 2 || st.Dropped != 3 || st.Waiting != 1 || st.Dead != 0 || st.OldestWaitingSeconds < 9 {
			t.Errorf("counters: %+v", st)
		}
		st := p.stat(t)
		if row := st.Tags[0]; row.Tag != "a" || row.Channel != "#a" || row.Accepted != 2 || row.Waiting != 1 || row.LastError != "connection refused" || row.LastAt == nil {
			t.Errorf("row of a: %+v", row)
		}
		if n := len(st.Tags); n != 8 || st.Tags[7].Channel != "#c" {
			t.Errorf("%d rows: %+v", n, st.Tags)
		}
	})
}

type list struct {
	Messages []messageView
	Total    int
}

func (p *inProcess) list(t *testing.T, path string) (l list) {
	t.Helper()
	w := p.operator("GET", path)
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return l
}

// operator makes a request from the server's own host.
func (p *inProcess) operator(method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost:29800"
	return newRecorderFor(p, r)
}

func TestOperatorsOnly(t *testing.T) {
	p := newInProcess(t, dryRunConfig(), &recorder{})
	for _, request := range []string{"GET /messages?state=dead", "GET /messages/x", "POST /messages/x/retry", "POST /messages/retry?tag=a", "DELETE /messages/x", "DELETE /messages?state=dead&tag=a"} {
		method, path, _ := strings.Cut(request, " ")
		if w := p.do(method, path, ""); w.Code != http.StatusForbidden {
			t.Errorf("%s from elsewhere: %d", request, w.Code)
		}
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr, r.Host = "[::1]:5", "[::1]:29800"
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		if w := newRecorderFor(p, r); w.Code != http.StatusForbidden {
			t.Errorf("%s through a proxy: %d", request, w.Code)
		}
		r.Header.Del("X-Forwarded-For")
		r.Host = "evil.example:29800" // DNS rebinding
		if w := newRecorderFor(p, r); w.Code != http.StatusForbidden {
			t.Errorf("%s by another name: %d", request, w.Code)
		}
		r.Host = "[::1]:29800"
		if w := newRecorderFor(p, r); w.Code == http.StatusForbidden {
			t.Errorf("%s from ::1: %d", request, w.Code)
		}
	}
}

func TestLateness(t *testing.T) {
	at := time.Date(2026, 11, 23, 3, 12, 30, 0, time.UTC)
	for delay, want := range map[time.Duration]string{
		time.Minute: "", 61 * time.Second: "accepted 03:12 UTC, delayed 1m", 3*time.Hour + 2*time.Minute + time.Second: "accepted 03:12 UTC, delayed 3h2m",
		50 * time.Hour: "accepted Nov 23 03:12 UTC, delayed 50h0m",
	} {
		if got := lateness(at, at.Add(delay)); got != want {
			t.Errorf("after %v: %q, want %q", delay, got, want)
		}
	}
	const late = "accepted 03:12 UTC, delayed 1m"
	m := func(m message) *message { m.queued = at.UnixMilli(); return &m }
	for _, test := range []struct {
		m    *message
		want string
	}{
		{m(message{Text: "x"}), `"text":"x\n` + late + `"`},
		{m(message{Text: "x", Level: "crit", Host: "h"}), `"footer":"h · ` + late + `"`},
		{m(message{Payload: json.RawMessage(`{"text":"x"}`)}), `"text":"x\n` + late + `"`},
		{m(message{Payload: json.RawMessage(`{"attachments":[{"text":"x"},{"footer":"f","n":1.50}]}`)}), `{"text":"x"},{"footer":"f · ` + late + `","n":1.50}`},
		{m(message{Payload: json.RawMessage(`{"attachments":[null]}`)}), `"attachments":[null]`},
		{m(message{Payload: json.RawMessage(`{"blocks":[1]}`)}), `"blocks":[1]`},
	} {
		if got := string(render(test.m, &tag{}, at.Add(61*time.Second))); !strings.Contains(got, test.want) {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

// A route that an earlier version wrote in another way is the same route.
func TestSpellingsOfARoute(t *testing.T) {
	dir := t.TempDir()
	lines := ""
	for i, r := range []string{"tag:a/0", "tag:%61/0", "tag:a/00"} {
		lines += text(`W %d 0 %d %s {"id":"i%[1]d","text":"%[1]d"}`, i+1, time.Now().UnixMilli(), r)
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
