package main

// Shared by the tests of this folder: a server that runs inside the test process, and fakes of Slack.

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

// testConfig reads and checks toml as the server does with its configuration file. An error fails the test.
func testConfig(t testing.TB, toml string) *config {
	t.Helper()
	c, err := loadConfig(options{file: e2e.WriteFile(t, "slackboard.toml", toml)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// inProcess is a server that runs inside the test process. It listens nowhere: requests go to http.
type inProcess struct {
	*server
	http http.Handler
	logs *e2e.Buffer                  // at debug level
	out  *e2e.Buffer                  // the access log
	disk atomic.Pointer[func() error] // if set, it is called in place of each sync of the spool
	stop func()
}

// aSlack is what a server in process posts to.
type aSlack interface {
	post(to credential, body []byte) outcome
}

// newInProcess starts a server that posts to slack. It stops when the test ends. Its spool is in a temporary folder,
// unless cfg names one. A sync of the spool does nothing, except in benchmarks or if disk is set.
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
		return nil // no test that runs in process cuts the power
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

// stat returns the answer of /stat/app. The test fails if the counters do not add up.
func (p *inProcess) stat(t testing.TB) (st appStat) {
	t.Helper()
	body := p.do("GET", "/stat/app", "").Body.Bytes()
	e2e.ReadStat(t, body)
	if err := json.Unmarshal(body, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// do sends a request to the server, as from another host (192.0.2.1), and returns the answer.
func (p *inProcess) do(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

// askAs sends the same request as do, with token as the Bearer token. If token is "", the request has none.
func (p *inProcess) askAs(token, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return newRecorderFor(p, r)
}

// recorder is a fake Slack in this process. It records each post and answers it by script. Without a script it answers
// at once that the message is delivered.
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
	// An error of Unmarshal is ignored: the text of a payload may be something else than a string.
	if json.Unmarshal(body, &p); !json.Valid(body) {
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

// texts returns the texts of all posts to a channel, in order, with blanks between them.
func (s *recorder) texts(channel string) string {
	var texts []string
	for _, r := range s.all() {
		if r.channel == channel {
			texts = append(texts, r.text)
		}
	}
	return strings.Join(texts, " ")
}

// newRecorderFor sends r to the server and returns the answer.
func newRecorderFor(p *inProcess, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, r)
	return w
}

// inBubble runs test in simulated time (testing/synctest), with a server whose fake Slack answers by script.
func inBubble(t *testing.T, toml string, script func(int, recorded) outcome,
	test func(*testing.T, *inProcess, *recorder)) {
	t.Helper()
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: script}
		test(t, newInProcess(t, cfg, slack), slack)
	})
}

// hookAndTags has a webhook in [core], a tag with two entries, a tag with a webhook of its own, and two tags that share
// a token. Messages are neither paced nor merged.
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

// tagsConfig returns a configuration with n tags, each with a channel of its own. Nobody listens at its webhook's URL.
func tagsConfig(n int) string {
	var b strings.Builder
	b.WriteString("[core]\nchannel_rate = 0\nbatch = 1\nslack_url = 'http://127.0.0.1:1/'\n")
	for i := range n {
		fmt.Fprintf(&b, "[[tags]]\ntag = 't%d'\nchannel = '#c%d'\n", i, i)
	}
	return b.String()
}

// each calls f with every number from 0 to times-1, from several goroutines at once, and returns when all calls have.
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

// reload makes p use the configuration toml from now on.
func (p *inProcess) reload(t *testing.T, toml string) {
	t.Helper()
	cfg := testConfig(t, toml)
	if err := p.deliverer.reload(cfg, func(route, counts) {}); err != nil {
		t.Fatal(err)
	}
}

// holdsNothing checks that no bytes count for max_bytes any more, in total and in each lane.
func (p *inProcess) holdsNothing(t *testing.T) {
	t.Helper()
	p.deliverer.mu.Lock()
	defer p.deliverer.mu.Unlock()
	if p.deliverer.bytes != 0 {
		t.Errorf("%d bytes still count for max_bytes, want 0", p.deliverer.bytes)
	}
	for to, l := range p.deliverer.lanes {
		if l.bytes != 0 {
			t.Errorf("%d bytes still count for max_bytes in the lane of %v, want 0", l.bytes, to.channel)
		}
	}
}

// notifyWith posts message n for a tag with an idempotency key and returns the ids in the answer.
func (p *inProcess) notifyWith(t *testing.T, key, tag string, n int) []string {
	t.Helper()
	r := httptest.NewRequest("POST", "/notify", strings.NewReader(e2e.NotifyBody(tag, n, false)))
	r.Header.Set("Idempotency-Key", key)
	w := newRecorderFor(p, r)
	var a answer
	if json.Unmarshal(w.Body.Bytes(), &a); w.Code != 200 {
		t.Fatalf("/notify: got %d %s, want 200", w.Code, w.Body)
	}
	return a.IDs
}

// restart stops p and starts a new server on the same spool.
func (p *inProcess) restart(t *testing.T, toml string, slack aSlack) *inProcess {
	t.Helper()
	p.stop()
	cfg := testConfig(t, toml)
	cfg.spool.dir = p.cfg().spool.dir
	return newInProcess(t, cfg, slack)
}

// down is the script of a Slack that takes nothing: every post has to be tried again.
func down(int, recorded) outcome { return outcome{class: retry, reason: "connection refused"} }

// list is the answer of GET /messages.
type list struct {
	Messages []messageView
	Total    int
}

// list returns the answer of GET path, asked for from the server's own host.
func (p *inProcess) list(t *testing.T, path string) (l list) {
	t.Helper()
	w := p.operator("GET", path)
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return l
}

// operator sends a request as from the server's own host, where an operator needs no token, and returns the answer.
func (p *inProcess) operator(method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost:29800"
	return newRecorderFor(p, r)
}

// stormConfig merges and paces by the defaults. Messages of the tags a and b merge. Those of other do not merge with
// them: its username differs.
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

// storm is a fake Slack in this process that records posts whole. It delivers all that reject does not refuse.
type storm struct {
	mu     sync.Mutex
	posts  []stormPost
	reject func(stormPost) bool // true: the content of the post is refused
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

// texts returns the texts that p shows, in order: its own, if it has one, then those of its attachments.
func (p stormPost) texts() (texts []string) {
	if p.Text != "" {
		texts = append(texts, p.Text)
	}
	for _, a := range p.Attachments {
		texts = append(texts, a.Text)
	}
	return texts
}

// inStorm runs test in simulated time, with a server that was started two seconds ago: every lane may post at once.
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

// send posts body to /notify. Any other answer than 200 fails the test.
func (p *inProcess) send(t *testing.T, body string) {
	t.Helper()
	if w := p.do("POST", "/notify", body); w.Code != 200 {
		t.Fatalf("/notify: got %d %s, want 200", w.Code, w.Body)
	}
}

// gaps fails the test if two posts to one channel are less than a second apart.
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
