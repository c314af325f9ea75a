package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
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

func TestRecordFormat(t *testing.T) {
	line := appendRecord(nil, 1234567, 1763899200123, route{tag: "error s3", index: 1}.String(), []byte(`{"id":"a"}`))
	if want := "1234567 1763899200123 tag:error%20s3/1 {\"id\":\"a\"}\n"; !bytes.HasPrefix(line, []byte("P ")) || string(line[seqAt:]) != want {
		t.Errorf("got %q", line)
	}
	r, ok := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
	if !ok || r.done || r.seq != 1234567 || r.at != 1763899200123 || r.id() != "a" {
		t.Errorf("got %+v, %v", r, ok)
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
	one := appendRecord(nil, 1, 2, "to:#c", []byte(`{"id":"k1","text":"x"}`))
	f.Add([]byte(string(one) + string(one)))
	f.Add(bytes.ReplaceAll(append(one, one...), []byte("\n"), []byte("X")))
	f.Fuzz(func(t *testing.T, data []byte) {
		eachRecord(data, func(offset int, r record) {
			if offset < 0 || offset >= len(data) {
				t.Errorf("offset %d of %d bytes", offset, len(data))
			}
			if m, err := r.message(); err == nil {
				_ = m.route.String()
			}
		})
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "00000001.log"), data, 0o600)
		sp, err := openSpool(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sp.load(); err != nil {
			t.Error(err)
		}
		go sp.run()
		sp.close()
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
		if n := p.deliver.quota.all; n != 0 {
			t.Errorf("%d bytes are still reserved", n)
		}
	})
}

// What was written takes no memory any more, also when nothing comes after it.
func TestWriterForgets(t *testing.T) {
	p := newInProcess(t, testConfig(t, hookAndTags), &recorder{script: down})
	hold := make(chan bool)
	p.spool.submit(&change{then: func(error) { <-hold }})
	var written []weak.Pointer[change]
	for range 100 {
		c := &change{then: func(error) {}}
		written = append(written, weak.Make(c))
		p.spool.submit(c)
	}
	close(hold)
	poll(t, "it is forgotten", func() bool {
		runtime.GC()
		return !slices.ContainsFunc(written, func(c weak.Pointer[change]) bool { return c.Value() != nil })
	})
}

func TestRecentIDsAreBounded(t *testing.T) {
	var r recentIDs
	for i := range recentLimit + 10 {
		r.add(seqID{uint64(i), fmt.Sprintf("k%d", i)})
	}
	if len(r.seen) != recentLimit || r.seen["k9"] || !r.seen["k10"] {
		t.Errorf("%d ids, k9 %v, k10 %v", len(r.seen), r.seen["k9"], r.seen["k10"])
	}
}

// An id that lies in the file and in the spool does not take the place of another.
func TestRecentIDsFoundTwice(t *testing.T) {
	var saved, loaded recentIDs
	var found []seqID
	for i := range 2 * recentLimit {
		found = append(found, seqID{uint64(i), fmt.Sprintf("k%d", i)})
		saved.add(found[i])
	}
	path := filepath.Join(t.TempDir(), recentFile)
	if err := saved.save(path); err != nil {
		t.Fatal(err)
	}
	loaded.load(path, found)
	if len(loaded.seen) != recentLimit {
		t.Errorf("%d ids, want %d", len(loaded.seen), recentLimit)
	}
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
			for _, m := range p.deliver.recent.views(p.cfg()) {
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
	if _, err := loadConfig(writeFile(t, "x.toml", "[core]\nslack_url='http://h.invalid/'\nreport_tag='x'\n"), forPosting); err == nil || !strings.Contains(err.Error(), `:3: report_tag: there is no tag "x"`) {
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

// A crash may leave a message in two places: it is one message, and the waiting one wins.
func TestDoublesAtStart(t *testing.T) {
	dir := t.TempDir()
	line := func(seq uint64, id string) string {
		return string(appendRecord(nil, seq, time.Now().UnixMilli(), "tag:a/0", []byte(fmt.Sprintf(`{"id":%q,"text":"%d"}`, id, seq))))
	}
	for name, content := range map[string]string{
		"00000001.log":      line(1, "i1") + line(3, "i3"),
		"00000002.log":      line(2, "i2") + line(1, "i1"), // 1 was carried forward
		"dead-00000003.log": line(2, "i2") + line(4, "i4") + line(4, "i4"),
		"notes.txt":         "kept",
		"x.log":             "no file of the spool: left alone",
	} {
		os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
	}
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		cfg := testConfig(t, hookAndTags)
		cfg.spool.dir = dir
		p := newInProcess(t, cfg, slack)
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "1 2 3" {
			t.Errorf("posted %q, want 1 2 3", got)
		}
		if st := p.stat(t); st.FoundAtStart != 4 || st.Dead != 1 || st.Damaged != 0 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// A record that is damaged while the server runs costs that record.
func TestDamageWhileRunning(t *testing.T) {
	inBubble(t, hookAndTags, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		slack.script = down
		for i := range 3 {
			p.do("POST", "/notify", notifyBody("a", i, false))
		}
		synctest.Wait()
		path := p.spool.path(p.spool.last)
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
		type list struct {
			Messages []messageView
			Total    int
		}
		get := func(path string) (l list) {
			t.Helper()
			w := p.operator("GET", path)
			if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
			return l
		}
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

// Sequence numbers go on where all that they were given to is gone: the ids of recent keys are told apart by them.
func TestRecentIDsAfterAnEmptySpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, hookAndTags)
		var recent strings.Builder
		for i := range recentLimit {
			fmt.Fprintf(&recent, "%d k%015x\n", 1000+i, i)
		}
		cfg.spool.dir = t.TempDir()
		os.WriteFile(filepath.Join(cfg.spool.dir, recentFile), []byte(recent.String()), 0o600)
		slack := &recorder{}
		p := newInProcess(t, cfg, slack)
		p.notifyWith(t, "key", "a", 1)
		for range 2 {
			p = p.restart(t, hookAndTags, slack)
			p.notifyWith(t, "key", "a", 1)
		}
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "1" {
			t.Errorf("posted %q, want 1", got)
		}
	})
}

// A route that an earlier version wrote in another way is the same route.
func TestSpellingsOfARoute(t *testing.T) {
	dir := t.TempDir()
	var lines []byte
	for i, r := range []string{"tag:a/0", "tag:%61/0", "tag:a/00"} {
		lines = appendRecord(lines, uint64(i+1), time.Now().UnixMilli(), r, fmt.Appendf(nil, `{"id":"i%d","text":"%[1]d"}`, i+1))
	}
	os.WriteFile(filepath.Join(dir, "00000001.log"), lines, 0o600)
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
