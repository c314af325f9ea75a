package main

// What the tests of this folder share: servers in process.

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// testConfig returns the configuration file written as toml, checked.
func testConfig(t testing.TB, toml string) *config {
	t.Helper()
	c, err := loadConfig(options{file: e2e.WriteFile(t, "slackboard.toml", toml)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// inProcess is a server in this process.
type inProcess struct {
	*server
	http http.Handler
	logs *e2e.Buffer                  // at debug level
	out  *e2e.Buffer                  // the access log
	disk atomic.Pointer[func() error] // what a sync of the spool does and returns before it does anything
	stop func()
}

// aSlack is what a server in process posts to.
type aSlack interface {
	post(to credential, body []byte) outcome
}

func newInProcess(t testing.TB, cfg *config, slack aSlack) *inProcess {
	t.Helper()
	p := &inProcess{logs: &e2e.Buffer{}, out: &e2e.Buffer{}}
	log := slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.spool.dir == "slackboard.spool" {
		cfg.spool.dir = filepath.Join(t.TempDir(), "spool")
	}
	sp, err := openSpool(cfg.spool.dir, func(f *os.File) error {
		if disk := p.disk.Load(); disk != nil {
			return (*disk)()
		}
		if _, ok := t.(*testing.B); ok {
			return syncData(f)
		}
		return nil // no test cuts the power of the machine
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	st := newStats()
	d, err := newDeliverer(cfg, slack.post, maxPosts, sp, st, log)
	if err != nil {
		t.Fatal(err)
	}
	p.server = &server{deliverer: d, access: p.out, bodies: make(chan struct{}, maxLarge),
		lost: func() int64 { return 3 }}
	p.http = p.handler()
	go sp.run()
	p.stop = sync.OnceFunc(func() {
		d.stop()
		sp.close()
	})
	t.Cleanup(p.stop)
	return p
}

// stat returns the counters, after it has checked that they add up.
func (p *inProcess) stat(t testing.TB) (st appStat) {
	t.Helper()
	body := p.do("GET", "/stat/app", "").Body.Bytes()
	e2e.ReadStat(t, body)
	if err := json.Unmarshal(body, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// do makes a request of the server in process.
func (p *inProcess) do(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

// askAs makes a request with a Bearer token, if there is one.
func (p *inProcess) askAs(token, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return newRecorderFor(p, r)
}

// recorder is a Slack in Process: it answers by script, at once where there is none.
type recorder struct {
	mu     sync.Mutex
	posts  []recorded
	script func(n int, r recorded) outcome // n counts the posts of r's destination, from 1
	count  map[string]int
}

type recorded struct {
	at      time.Time
	to      string // the webhook or token
	channel string
	text    string
}

func (s *recorder) post(to credential, body []byte) outcome {
	var p struct{ Channel, Text string }
	if json.Unmarshal(body, &p); !json.Valid(body) { // a text may be no string: it goes through as it came
		panic(fmt.Sprintf("posted %q", body))
	}
	text, _, _ := strings.Cut(p.Text, "\n") // without "accepted …, delayed …"
	r := recorded{time.Now(), cmp.Or(to.token.reveal(), to.url.reveal()), p.Channel, text}
	s.mu.Lock()
	s.posts = append(s.posts, r)
	if s.count == nil {
		s.count = map[string]int{}
	}
	s.count[r.to+r.channel]++
	n, script := s.count[r.to+r.channel], s.script
	s.mu.Unlock()
	if script == nil {
		return outcome{class: delivered}
	}
	return script(n, r)
}

func (s *recorder) all() []recorded {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]recorded(nil), s.posts...)
}

// texts returns what a channel was given, in order.
func (s *recorder) texts(channel string) string {
	var texts []string
	for _, r := range s.all() {
		if r.channel == channel {
			texts = append(texts, r.text)
		}
	}
	return strings.Join(texts, " ")
}

func newRecorderFor(p *inProcess, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, r)
	return w
}

// inBubble runs test in simulated time with a server whose Slack is script.
func inBubble(t *testing.T, toml string, script func(int, recorded) outcome,
	test func(*testing.T, *inProcess, *recorder)) {
	t.Helper()
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: script}
		test(t, newInProcess(t, cfg, slack), slack)
	})
}

const hookAndTags = `
[core]
channel_rate = 0
batch = 1
slack_url = "http://hook.invalid/core"
[[tags]]
tag = "a"
channel = "#a"
[[tags]]
tag = "b"
channel = "#b"
[[tags]]
tag = "ab"
channel = "#a"
[[tags]]
tag = "ab"
channel = "#b"
[[tags]]
tag = "own"
channel = "#own"
slack_url = "http://hook.invalid/own"
[[tags]]
tag = "bot"
channel = "#bot"
slack_token = "xoxb-0"
[[tags]]
tag = "bot2"
channel = "#bot2"
slack_token = "xoxb-0"
`

func tagsConfig(n int) string {
	var b strings.Builder
	b.WriteString("[core]\nchannel_rate = 0\nbatch = 1\nslack_url = 'http://127.0.0.1:1/'\n")
	for i := range n {
		fmt.Fprintf(&b, "[[tags]]\ntag = 't%d'\nchannel = '#c%d'\n", i, i)
	}
	return b.String()
}

// each runs f so many times, from so many goroutines.
func each(times, goroutines int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < times; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// reload changes p over to toml, and returns when it has.
func (p *inProcess) reload(t *testing.T, toml string) {
	t.Helper()
	cfg := testConfig(t, toml)
	if err := p.deliverer.reload(cfg, func(route, counts) {}); err != nil {
		t.Fatal(err)
	}
}

// holdsNothing checks that nothing counts for max_bytes.
func (p *inProcess) holdsNothing(t *testing.T) {
	t.Helper()
	p.deliverer.mu.Lock()
	defer p.deliverer.mu.Unlock()
	if p.deliverer.bytes != 0 {
		t.Errorf("of max_bytes %d is taken", p.deliverer.bytes)
	}
	for to, l := range p.deliverer.lanes {
		if l.bytes != 0 {
			t.Errorf("of max_bytes %d is taken for %v", l.bytes, to.channel)
		}
	}
}

// notifyWith posts a message for a tag with an idempotency key and returns its ids.
func (p *inProcess) notifyWith(t *testing.T, key, tag string, n int) []string {
	t.Helper()
	r := httptest.NewRequest("POST", "/notify", strings.NewReader(e2e.NotifyBody(tag, n, false)))
	r.Header.Set("Idempotency-Key", key)
	w := newRecorderFor(p, r)
	var a answer
	if json.Unmarshal(w.Body.Bytes(), &a); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return a.IDs
}

// restart ends p and returns a server on the same spool.
func (p *inProcess) restart(t *testing.T, toml string, slack aSlack) *inProcess {
	t.Helper()
	p.stop()
	cfg := testConfig(t, toml)
	cfg.spool.dir = p.cfg().spool.dir
	return newInProcess(t, cfg, slack)
}

func down(int, recorded) outcome { return outcome{class: retry, reason: "connection refused"} }

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

const stormConfig = `
[core]
slack_url = "http://hook.invalid/core"
[[tags]]
tag = "a"
channel = "#ops"
[[tags]]
tag = "b"
channel = "#ops"
[[tags]]
tag = "other"
channel = "#ops"
username = "other"
[[tags]]
tag = "quiet"
channel = "#quiet"
`

// storm is a Slack in process that keeps posts whole.
type storm struct {
	mu     sync.Mutex
	posts  []stormPost
	reject func(stormPost) bool // for its content
}

type stormPost struct {
	at          time.Time
	body        string
	Channel     string
	Username    string
	Text        string
	Attachments []struct{ Color, Title, Text, Footer, Fallback, Pretext string }
}

func (s *storm) post(_ credential, body []byte) outcome {
	p := stormPost{at: time.Now(), body: string(body)}
	if err := json.Unmarshal(body, &p); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts = append(s.posts, p)
	if s.reject != nil && s.reject(p) {
		return outcome{class: badContent, reason: "invalid_attachments"}
	}
	return outcome{class: delivered}
}

func (s *storm) all() []stormPost {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posts)
}

// texts returns what p shows, in order.
func (p stormPost) texts() (texts []string) {
	if p.Text != "" {
		texts = append(texts, p.Text)
	}
	for _, a := range p.Attachments {
		texts = append(texts, a.Text)
	}
	return texts
}

// inStorm runs test in simulated time, past the first second of the server.
func inStorm(t *testing.T, toml string, test func(*testing.T, *inProcess, *storm)) {
	t.Helper()
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		slack := &storm{}
		p := newInProcess(t, cfg, slack)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		test(t, p, slack)
	})
}

func (p *inProcess) send(t *testing.T, body string) {
	t.Helper()
	if w := p.do("POST", "/notify", body); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
}

// gaps fails for two posts of a channel within less than a second.
func (s *storm) gaps(t *testing.T) {
	t.Helper()
	last := map[string]time.Time{}
	for i, p := range s.all() {
		if gap := p.at.Sub(last[p.Channel]); gap < time.Second {
			t.Errorf("post %d to %s came %v after the one before", i, p.Channel, gap)
		}
		last[p.Channel] = p.at
	}
}

type posterFunc func(to credential, body []byte) outcome

func (f posterFunc) post(to credential, body []byte) outcome { return f(to, body) }
