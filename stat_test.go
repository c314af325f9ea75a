package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// A histogram of /metrics counts a duration in each bucket whose bound it does not exceed, and sums up in seconds.
func TestHistogram(t *testing.T) {
	h := histogram{bounds: []float64{1, 5}}
	for _, d := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, time.Minute} {
		h.observe(d)
	}
	var got bytes.Buffer
	e := exposition{bufio.NewWriter(&got)}
	e.histogram("x", "y", h)
	e.Flush()
	if want := "# HELP x y\n# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_bucket{le=\"5\"} 3\nx_bucket{le=\"+Inf\"} 4\n" +
		"x_sum 68\nx_count 4\n"; got.String() != want {
		t.Errorf("got %s, want %s", got.String(), want)
	}
}

// /stat/app lists what is in trouble, most waiting messages first: one entry for a destination that fails, and one
// entry for all destinations of a token that pauses or of a webhook that cannot be reached. The sentence says the same.
func TestTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, `[core]
channel_rate = 0
batch = 1
slack_token = 'xoxb-1-a'
[[tags]]
tag = 'cdn'
channel = '#cdn'
[[tags]]
tag = 'db'
channel = '#db'
[[tags]]
tag = 'hook'
channel = '#hook'
slack_url = 'http://127.0.0.1:1/hook'
[[tags]]
tag = 'hook2'
channel = '#hook'
slack_url = 'http://127.0.0.1:1/hook'
[[tags]]
tag = 'gone'
channel = '#gone'
slack_url = 'http://127.0.0.1:1/gone'
[[tags]]
tag = 'gone2'
channel = '#gone2'
slack_url = 'http://127.0.0.1:1/gone'
`)
		p := newInProcess(t, cfg, posterFunc(func(_ credential, body []byte) outcome {
			switch {
			case bytes.Contains(body, []byte("#hook")):
				return outcome{class: retry, reason: "status 503"}
			case bytes.Contains(body, []byte("#gone")):
				return outcome{class: retry, unreached: true, reason: "connection refused"}
			}
			return outcome{class: limited, wait: 15 * time.Minute, reason: "ratelimited"}
		}))
		send := func(tag string, n int) {
			for range n {
				if w := p.do("POST", "/notify", string(e2e.NotifyBody(tag, 1, false))); w.Code != 200 {
					t.Fatal(w.Code, w.Body)
				}
				synctest.Wait()
			}
		}
		check := func(state, sentence string, want ...string) {
			t.Helper()
			st := p.stat(t)
			var got []string
			for _, x := range st.Trouble {
				got = append(got, fmt.Sprint(x.Kind, " ", x.Channel, x.Destinations, " ", x.Waiting, " ", x.Reason,
					!x.Since.IsZero(), !x.NextAttemptAt.IsZero()))
			}
			if !slices.Equal(got, want) || st.TroubleTotal != len(want) || st.State != state ||
				!regexp.MustCompile(sentence).MatchString(st.Sentence) {
				t.Errorf("%s, %q:\n%s\nwant %s, %q:\n%s", st.State, st.Sentence, strings.Join(got, "\n"), state,
					sentence, strings.Join(want, "\n"))
			}
		}
		send("cdn", 1)
		paused := "paused #cdn1 1 slack's rate limit, met by #cdnfalse true"
		check("paused", `^a pause for #cdn until .*: slack's rate limit, met by #cdn; 1 wait`, paused)
		send("hook", 2)
		send("hook2", 1)
		hook := "failing #hook1 3 status 503true true"
		check("failing", `^#hook fails since .*: status 503; a pause for #cdn until`, hook, paused)
		send("db", 4)
		paused = "paused #db2 5 slack's rate limit, met by #cdnfalse true"
		check("failing", `^a pause for #db and 1 more until .*; #hook fails since .*; 8 wait`, paused, hook)
		send("gone", 6)
		send("gone2", 1)
		gone := "unreachable #gone2 7 connection refusedtrue true"
		tags := p.stat(t).Tags
		at := slices.IndexFunc(tags, func(row *tagStat) bool { return row.Tag == "db" })
		if row := tags[at]; row.Trouble != "paused" || row.NextAttemptAt.IsZero() {
			t.Errorf("the row of tag db, which pauses: %+v", row)
		}
		check("failing",
			`^#gone and 1 more cannot be reached since .*: connection refused \(and 1 more fail\); a pause`, gone,
			paused, hook)
	})
}

// manyWait returns a server with n destinations. Each fails and has one waiting message with a text of size bytes. The
// server makes no posts.
func manyWait(t testing.TB, n, size int) *inProcess {
	t.Helper()
	p := newInProcess(t, testConfig(t, tagsConfig(n)), posterFunc(func(credential, []byte) outcome {
		return down(0, recorded{})
	}))
	p.deliverer.locked(func() { p.deliverer.resting++ })
	text := strings.Repeat("x", size)
	for from := 0; from < n; from += 1000 {
		var messages []*message
		for i := from; i < min(n, from+1000); i++ {
			messages = append(messages, &message{ID: newID(), Text: text, route: route{tag: fmt.Sprintf("t%d", i)}})
		}
		if err := p.deliverer.store(messages); err != nil {
			t.Fatal(err)
		}
	}
	p.deliverer.locked(func() {
		for _, l := range p.deliverer.lanes {
			l.err, l.errSince = "connection refused", time.Now()
		}
	})
	return p
}

// However many messages wait, one of them is read from disk to show the counters. The test counts the bytes that this
// process reads: it must not run in parallel with other tests.
func TestStatReadsOneMessage(t *testing.T) {
	if _, err := os.Stat("/proc/self/io"); err != nil {
		t.Skip("skipped: no /proc/self/io here")
	}
	const size = 200_000
	p := manyWait(t, 50, size)
	read := func() (n int) {
		_, rest, _ := strings.Cut(e2e.ReadFile(t, "/proc/self/io"), "rchar: ")
		fmt.Sscan(rest, &n)
		return n
	}
	for _, path := range []string{"/metrics", "/stat/app", "/stat/app?tags=10", "/debug/vars"} {
		before := read()
		w := p.do("GET", path, "")
		if n := read() - before; w.Code != 200 || n < size || n > 2*size {
			t.Errorf("%s: %d, %d bytes read, want one message of %d", path, w.Code, n, size)
		}
	}
	if st := p.stat(t); st.OldestWaitingSeconds <= 0 || st.TroubleTotal != 50 {
		t.Errorf("want the age of the oldest message, and 50 destinations in trouble: %+v", st)
	}
}

// BenchmarkStat measures what it costs to show the counters, with 100,000 destinations that fail and have a message
// waiting.
//
//	go test -run '^$' -bench Stat .
func BenchmarkStat(b *testing.B) {
	p := manyWait(b, 100_000, 200)
	for _, path := range []string{"/metrics", "/stat/app?tags=50", "/stat/app?tags=50&q=t99", "/stat/app"} {
		b.Run(strings.ReplaceAll(path[1:], "/", "."), func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime()
			for b.Loop() {
				w := &discarded{header: http.Header{}}
				p.http.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			}
			// The time of the processor, since ns/op says little on a busy machine.
			b.ReportMetric(float64((processorTime()-before).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// discarded is an http.ResponseWriter that discards what is written.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(int)             {}

// processorTime returns how long processors have worked for this process.
func processorTime() time.Duration {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// However many channels clients name, and however long Slack's answers are, the counters take bounded memory. Beyond
// maxChannels, messages are counted for "(others)".
func TestRememberedRoutes(t *testing.T) {
	s := newStats()
	channel, reason := strings.Repeat("c", nameLimit-6), credential{}.redact(strings.Repeat("r ", 1<<19))
	for i := range maxChannels + 1000 {
		r := route{channel: fmt.Sprintf("%06d", i) + channel}
		s.count(r, counts{Accepted: 1, Waiting: 1})
		s.posted([]*message{{route: r}}, 1, outcome{class: retry, reason: reason}, 0)
	}
	s.count(route{tag: "one that is configured"}, counts{Accepted: 1, Waiting: 1})
	bytes, accepted := 0, int64(0)
	for r, st := range s.routes {
		bytes += len(r.channel) + len(st.LastError)
		accepted += st.Accepted
	}
	others := s.routes[route{channel: "(others)"}].Accepted
	if len(s.routes) != maxChannels+2 || bytes > 32<<20 || accepted != maxChannels+1001 || others != 1000 {
		t.Errorf("%d routes take %d bytes; %d accepted, %d of them as (others)", len(s.routes), bytes, accepted, others)
	}
}

// Every counter of the table counts something: after this test none of them is 0 in /stat/app or /metrics. Each metric
// has a help text.
func TestEveryCounter(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, stormConfig+"[[tags]]\ntag = 'more'\n")
	answers := map[string]outcome{
		"bad":     {class: badContent, reason: "no_text"},
		"limited": {class: limited, wait: time.Hour, reason: "ratelimited"},
	}
	tries := 0
	slack := posterFunc(func(_ credential, body []byte) outcome {
		if bytes.Contains(body, []byte("again")) {
			if tries++; tries == 1 {
				return down(0, recorded{})
			}
		}
		for text, out := range answers {
			if bytes.Contains(body, []byte(text)) {
				return out
			}
		}
		return outcome{class: delivered}
	})
	send := func(p *inProcess, channel, text string) {
		w := p.do("POST", "/notify-directly",
			fmt.Sprintf(`{"payload":{"channel":%q,"text":%q}}`, channel, text))
		if w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	p := newInProcess(t, cfg, slack)
	send(p, "#a", "bad")
	send(p, "#b", "limited")
	e2e.Poll(t, "all is tried", func() bool { st := p.stat(t); return st.Dead == 1 && st.RateLimited == 1 })
	p.stop()
	files, _ := filepath.Glob(filepath.Join(cfg.spool.dir, "*.log"))
	for _, log := range files {
		err := os.WriteFile(log, []byte(strings.Replace(e2e.ReadFile(t, log), "limited", "LIMITED", 1)),
			0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	p = newInProcess(t, cfg, slack)
	send(p, "#c", "again")
	send(p, "#d", "limited")
	e2e.Poll(t, "the message that failed once is delivered", func() bool {
		return p.stat(t).Retries > 0 && p.stat(t).Delivered > 0
	})
	e2e.Poll(t, "the damaged line is found", func() bool { return p.stat(t).Damaged > 0 })
	for _, state := range []string{"waiting", "dead"} {
		var list struct{ Messages []messageView }
		if err := json.Unmarshal(p.operator("GET", "/messages?state="+state).Body.Bytes(), &list); err != nil ||
			len(list.Messages) == 0 {
			t.Fatal(state, err, list)
		}
		if w := p.operator("DELETE", "/messages/"+list.Messages[0].ID); w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	send(p, "#d", "limited")
	send(p, "#a", "bad")
	e2e.Poll(t, "the bad message is a dead letter", func() bool { return p.stat(t).Dead > 0 })
	guarded := *cfg
	guarded.core.authToken = newSecret("T0KEN")
	p.deliverer.config.Store(&guarded)
	p.do("GET", "/metrics", "")
	p.deliverer.config.Store(cfg)
	p.stats.locked(func() { p.stats.ReloadRefused = true })

	st, metrics := p.stat(t), "\n"+p.do("GET", "/metrics", "").Body.String()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[counters]()) {
		if f.Tag.Get("json") != "" && reflect.ValueOf(st.counters).FieldByIndex(f.Index).IsZero() {
			t.Errorf("/stat/app: %s is still zero", f.Name)
		}
		name, ok := f.Tag.Lookup("metric")
		if ok && !regexp.MustCompile(`\nslackboard_`+name+`(\{.*\})? [1-9]`).MatchString(metrics) &&
			f.Type.Kind() != reflect.Float64 {
			t.Errorf("/metrics: %s is missing or still zero", name)
		}
		if ok && f.Tag.Get("help") == "" {
			t.Errorf("/metrics: %s has no help text", name)
		}
	}
}

// Overlapping requests for /stat/go do not disturb each other: each gets the collections since the one before it, 256
// at most.
func TestStatGoAtOnce(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	each(100, 8, func(i int) {
		if i%2 == 0 {
			runtime.GC()
		}
		var st struct {
			Pauses []float64 `json:"gc_pause"`
		}
		w := p.do("GET", "/stat/go", "")
		if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || len(st.Pauses) > 256 {
			t.Errorf("%d pauses of collections, want 256 at most; %v", len(st.Pauses), err)
		}
	})
}
