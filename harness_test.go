package main

// What the tests share: the built binaries, a Slack that records what it is given, and servers in and out of process.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var binaries string // the folder with the three programs, as a user builds them

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "slackboard-test")
	if err != nil {
		panic(err)
	}
	binaries = dir
	build := exec.Command("go", "build", "-o", dir+"/", "./...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	adoptOrphans()
	code := m.Run()
	if left := endLeftovers(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left processes behind:\n%s\n", strings.Join(left, "\n"))
		code = max(code, 1)
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// delivery is one request that the fake Slack was given.
type delivery struct {
	at            time.Time
	path          string
	authorization string
	contentType   string
	remote        string
	body          string
}

// field returns a string of the payload, "" where there is none.
func (d delivery) field(key string) string {
	var m map[string]any
	json.Unmarshal([]byte(d.body), &m)
	s, _ := m[key].(string)
	return s
}

// reply is what the fake Slack answers. The zero one is 200 ok.
type reply struct {
	status     int
	body       string
	retryAfter string
	hang       bool // until the client hangs up or the test ends
}

// fakeSlack records what it is given and answers by script.
type fakeSlack struct {
	*httptest.Server
	mu     sync.Mutex
	got    []delivery
	script func(delivery) reply
	begun  int           // requests that came in
	change chan struct{} // closed and renewed when got grows
	done   chan struct{}
}

func newFakeSlack(t testing.TB, script func(delivery) reply) *fakeSlack {
	t.Helper()
	f := &fakeSlack{script: script, change: make(chan struct{}), done: make(chan struct{})}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		close(f.done)
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *fakeSlack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // a client that was killed while it wrote has posted nothing
	}
	d := delivery{time.Now(), r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.RemoteAddr, string(body)}
	f.mu.Lock()
	f.begun++
	script := f.script
	f.mu.Unlock()
	var re reply
	if script != nil {
		re = script(d)
	}
	f.mu.Lock()
	f.got = append(f.got, d)
	close(f.change)
	f.change = make(chan struct{})
	f.mu.Unlock()
	if re.hang {
		select {
		case <-r.Context().Done():
		case <-f.done:
		}
		return
	}
	if re.retryAfter != "" {
		w.Header().Set("Retry-After", re.retryAfter)
	}
	if re.status == 0 {
		re.status, re.body = 200, "ok"
		if strings.HasSuffix(d.path, "chat.postMessage") {
			re.body = `{"ok":true}`
		}
	}
	w.WriteHeader(re.status)
	io.WriteString(w, re.body)
}

func (f *fakeSlack) hasBegun() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun > 0
}

func (f *fakeSlack) setScript(script func(delivery) reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

func (f *fakeSlack) deliveries() []delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]delivery(nil), f.got...)
}

// waitFor returns once enough returns true for what was delivered.
func (f *fakeSlack) waitFor(t testing.TB, what string, enough func([]delivery) bool) []delivery {
	t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		got, change := append([]delivery(nil), f.got...), f.change
		f.mu.Unlock()
		if enough(got) {
			return got
		}
		select {
		case <-change:
		case <-deadline:
			t.Fatalf("slack got %d posts, not %s; the last: %+v", len(got), what, got[max(0, len(got)-3):])
		}
	}
}

func (f *fakeSlack) waitForPosts(t testing.TB, n int) []delivery {
	t.Helper()
	return f.waitFor(t, fmt.Sprintf("%d", n), func(got []delivery) bool { return len(got) >= n })
}

const patience = 30 * time.Second // for what a slow machine does late; nothing waits that long when it works

// poll returns once done returns true.
func poll(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// testConfig returns the configuration file written as toml, checked.
func testConfig(t testing.TB, toml string) *config {
	t.Helper()
	c, err := loadConfig(writeFile(t, "slackboard.toml", toml), purpose{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lockedBuffer is what a server in process logs to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// inProcess is a server in this process.
type inProcess struct {
	*server
	http http.Handler
	logs *lockedBuffer                // at debug level
	out  *lockedBuffer                // the access log
	disk atomic.Pointer[func() error] // what a sync of the spool does and returns before it does anything
	stop func()
}

func newInProcess(t testing.TB, cfg *config, slack poster) *inProcess {
	t.Helper()
	p := &inProcess{logs: &lockedBuffer{}, out: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.spool.dir == "slackboard.spool" {
		cfg.spool.dir = filepath.Join(t.TempDir(), "spool")
	}
	sp, err := openSpool(cfg.spool.dir, log)
	if err != nil {
		t.Fatal(err)
	}
	sp.sync = func(f *os.File) error {
		if disk := p.disk.Load(); disk != nil {
			if err := (*disk)(); err != nil {
				return err
			}
		}
		return syncData(f)
	}
	sp.history.Store(cfg.spool.historyBytes)
	st := newStats()
	d, err := newDeliverer(cfg, slack, maxPosts, sp, st, log)
	if err != nil {
		t.Fatal(err)
	}
	p.server = &server{spool: sp, stats: st, deliver: d, log: log, access: p.out, hostname: "here", large: make(chan struct{}, maxLarge), looking: make(chan struct{}, 1), lost: func() int64 { return 3 }}
	p.server.config.Store(cfg)
	p.http = p.handler()
	ctx, cancel := context.WithCancel(context.Background())
	go sp.run()
	go d.run(ctx)
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-d.ended
		sp.close()
	})
	t.Cleanup(p.stop)
	return p
}

// stat returns the counters, after it has checked that they add up.
func (p *inProcess) stat(t testing.TB) appStat {
	t.Helper()
	var st appStat
	if err := json.Unmarshal(p.do("GET", "/stat/app", "").Body.Bytes(), &st); err != nil {
		t.Fatal(err)
	}
	st.addsUp(t)
	return st
}

// do makes a request of the server in process.
func (p *inProcess) do(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

// process is a program under test.
type process struct {
	*exec.Cmd
	t      testing.TB
	addr   string // of a server, from its log
	stdout lockedBuffer
	stderr lockedBuffer
	ended  chan struct{}
	once   sync.Once
}

func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, t: t, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.stdout
	}
	cmd.Stderr = &p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.kill() })
	return p
}

// skipForRaces keeps go test -race from tests of other processes: it sees nothing there, and takes long.
func skipForRaces(t testing.TB) {
	t.Helper()
	if raceDetector {
		t.Skip("skipped: the race detector does not see into other processes")
	}
}

// startServer starts the built slackboard on a free port, or as config says, and returns once it listens. Its spool is
// in a folder of its own, unless config says otherwise.
func startServer(t testing.TB, config string, flags ...string) *process {
	t.Helper()
	path := writeFile(t, "slackboard.toml", config)
	cmd := exec.Command(filepath.Join(binaries, "slackboard"), append(flags, "-c", path)...)
	cmd.Dir = filepath.Dir(path)
	return startServerIn(t, cmd)
}

func startServerIn(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	skipForRaces(t)
	p := startProcess(t, cmd)
	poll(t, "listening on …, from "+cmd.String(), func() bool {
		_, rest, found := strings.Cut(p.stderr.String(), "listening on ")
		if !found {
			select {
			case <-p.ended:
				t.Fatalf("%s ended: %s", cmd, p.stderr.String())
			default:
			}
			return false
		}
		var complete bool
		p.addr, _, complete = strings.Cut(rest, `"`)
		return complete
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit status, -1 for a process that a signal ended.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		p.Process.Signal(syscall.SIGQUIT)
		<-p.ended
		p.t.Fatalf("%s did not end: %s", p.Cmd, p.stderr.String())
		return -1
	}
}

func (p *process) kill() {
	p.once.Do(func() {
		p.Process.Kill()
		<-p.ended
	})
}

// client returns an HTTP client for the server's address, and the URL to use with it.
func (p *process) client() (*http.Client, string) {
	if !strings.HasPrefix(p.addr, "/") {
		return http.DefaultClient, "http://" + p.addr
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.addr)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}, "http://unix"
}

// request returns status and body of a request to the server, 0 where there was no answer.
func (p *process) request(method, path, body string) (int, string) {
	client, base := p.client()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// stat returns the counters of a server, after it has checked that they add up.
func (p *process) stat(t testing.TB) (st appStat) {
	t.Helper()
	status, body := p.request("GET", "/stat/app", "")
	if err := json.Unmarshal([]byte(body), &st); status != 200 || err != nil {
		t.Fatalf("/stat/app: %d %v", status, err)
	}
	st.addsUp(t)
	return st
}

// runProgram runs one of the built programs to its end.
func runProgram(t testing.TB, stdin string, env []string, name string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), env...)
	p := startProcess(t, cmd)
	code = p.wait()
	return code, p.stdout.String(), p.stderr.String()
}

func readAll(r io.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
