// Package e2e tests the built programs from outside: the server is a process, and Slack is a fake. This file has what
// the tests of all folders share: the built programs, processes, the fake Slack, waiting, and files.
package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var folder string // where the built programs are; set by Main

// build builds the three programs when a test first needs one. A test of the server in its own process needs none.
var build = sync.OnceFunc(func() {
	build := exec.Command("go", "build", "-o", folder+"/", "slackboard/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
})

// Main runs the tests of a package. On Linux, it fails if the tests leave processes behind. With bareVariable set, it
// runs serveBare instead.
func Main(m *testing.M) {
	if os.Getenv(bareVariable) != "" {
		serveBare()
	}
	dir, err := os.MkdirTemp("", "slackboard-test")
	if err != nil {
		panic(err)
	}
	folder = dir
	adoptOrphans()
	flag.Set("test.parallel", "4") // the default of -parallel: many tests only wait for a disk or a clock
	code := m.Run()
	if left := endLeftovers(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left processes behind:\n%s\n", strings.Join(left, "\n"))
		code = max(code, 1)
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// Binaries builds the three programs as a user builds them, and returns their folder.
func Binaries() string {
	build()
	return folder
}

// Program returns the path of a built program.
func Program(name string) string { return filepath.Join(Binaries(), name) }

// Process is a program under test.
type Process struct {
	Cmd    *exec.Cmd
	T      testing.TB
	Addr   string // of a server, from its log
	Stdout Buffer
	Stderr Buffer
	Ended  chan struct{}
	once   sync.Once
}

// StartProcess starts cmd. The process is killed when the test ends.
func StartProcess(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, T: t, Ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.Stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(p.Ended) }()
	t.Cleanup(func() { p.Kill() })
	return p
}

// Await returns once done returns true, as Poll does. If the process ends before that, the test fails at once.
func (p *Process) Await(what string, done func() bool) {
	p.T.Helper()
	Poll(p.T, what+", from "+p.Cmd.String(), func() bool {
		var ended bool
		select {
		case <-p.Ended:
			ended = true
		default:
		}
		happened := done()
		if ended && !happened {
			p.T.Fatalf("%s ended: %s%s", p.Cmd, p.Stdout.String(), p.Stderr.String())
		}
		return happened
	})
}

// StartServer starts the built slackboard with config in a new folder, and returns once the server listens. The spool
// is in that folder, unless config says otherwise.
func StartServer(t testing.TB, config string, flags ...string) *Process {
	t.Helper()
	path := WriteFile(t, "slackboard.toml", config)
	cmd := exec.Command(Program("slackboard"), append(flags, "-c", path)...)
	cmd.Dir = filepath.Dir(path)
	return StartServerIn(t, cmd)
}

// StartServerIn starts cmd, which is a server, and returns once the server listens.
func StartServerIn(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := StartProcess(t, cmd)
	p.Await("listening on …", func() (complete bool) {
		_, rest, _ := strings.Cut(p.Stderr.String(), "listening on ")
		p.Addr, _, complete = strings.Cut(rest, `"`)
		return complete
	})
	return p
}

// RunProgram runs one of the built programs, and returns its exit status and its output.
func RunProgram(t testing.TB, stdin string, env []string, name string, args ...string) (
	code int, stdout, stderr string,
) {
	t.Helper()
	cmd := exec.Command(Program(name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), env...)
	p := StartProcess(t, cmd)
	code = p.Wait()
	return code, p.Stdout.String(), p.Stderr.String()
}

// Signal sends s to the process.
func (p *Process) Signal(s os.Signal) {
	p.T.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.T.Fatal(err)
	}
}

// Wait waits for the end of the process and returns its exit status, -1 if a signal ended it. The test fails if that
// takes longer than 60 s.
func (p *Process) Wait() int {
	p.T.Helper()
	select {
	case <-p.Ended:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		p.Cmd.Process.Signal(syscall.SIGQUIT)
		<-p.Ended
		p.T.Fatalf("%s did not end: %s", p.Cmd, p.Stderr.String())
		return -1
	}
}

// Kill kills the process, and returns once the process has ended.
func (p *Process) Kill() {
	p.once.Do(func() {
		p.Cmd.Process.Kill()
		<-p.Ended
	})
}

// IsAlive returns once the server answers.
func (p *Process) IsAlive() {
	p.T.Helper()
	Poll(p.T, "/healthz answers", func() bool { status, _ := p.Request("GET", "/healthz", ""); return status == 200 })
}

// Client returns an HTTP client for the server's address, and the URL to use with it.
func (p *Process) Client() (*http.Client, string) {
	if !strings.HasPrefix(p.Addr, "/") {
		return http.DefaultClient, "http://" + p.Addr
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.Addr)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}, "http://unix"
}

// Request sends a request to the server and returns the status and the body of the answer. Without a whole answer, the
// status is 0, and the body is the error.
func (p *Process) Request(method, path, body string) (int, string) {
	client, base := p.Client()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		p.T.Fatal(err)
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

// Ask sends a request with headers, each as "Name: value". The server must listen on TCP, and must answer.
func (p *Process) Ask(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+p.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, ReadAll(resp.Body)
}

// Stat returns the counters of a server, and checks that they add up.
func (p *Process) Stat(t testing.TB) Stat {
	t.Helper()
	status, body := p.Request("GET", "/stat/app", "")
	if status != 200 {
		t.Fatalf("/stat/app: %d %s", status, body)
	}
	return ReadStat(t, []byte(body))
}

// Stat has the fields of the answer of /stat/app that the tests read.
type Stat struct {
	Accepted      int64  `json:"accepted"`
	FoundAtStart  int64  `json:"found_at_start"`
	Delivered     int64  `json:"delivered"`
	Dropped       int64  `json:"dropped"`
	Waiting       int64  `json:"waiting"`
	Dead          int64  `json:"dead"`
	Damaged       int64  `json:"damaged"`
	Posts         int64  `json:"posts"`
	Retries       int64  `json:"retries"`
	RateLimited   int64  `json:"rate_limited"`
	Unauthorized  int64  `json:"unauthorized"`
	ReloadRefused bool   `json:"reload_refused"`
	State         string `json:"state"`
	Sentence      string `json:"sentence"`
}

// ReadStat reads the answer of /stat/app and checks that its counters add up: accepted + found at start = delivered +
// dropped + waiting + dead.
func ReadStat(t testing.TB, body []byte) (st Stat) {
	t.Helper()
	if err := json.Unmarshal(body, &st); err != nil {
		t.Fatalf("/stat/app: %v: %.300s", err, body)
	}
	if in, out := st.Accepted+st.FoundAtStart, st.Delivered+st.Dropped+st.Waiting+st.Dead; in != out {
		t.Errorf("the counters do not add up: %d messages came in, %d are counted: %+v", in, out, st)
	}
	return st
}

// Delivery is one request that the fake Slack received.
type Delivery struct {
	At            time.Time
	Path          string
	Authorization string
	ContentType   string
	Remote        string
	Body          string
}

// Field returns a string of the payload, "" if there is none.
func (d Delivery) Field(key string) string {
	var m map[string]any
	json.Unmarshal([]byte(d.Body), &m)
	s, _ := m[key].(string)
	return s
}

// Reply is what the fake Slack, or a Scripted server, answers. For the zero Reply, the fake Slack answers 200 ok, and
// a Scripted server closes the connection without an answer.
type Reply struct {
	Status     int
	Body       string
	RetryAfter string
	Hang       bool // no answer until the client hangs up or the test ends
}

// FakeSlack keeps the requests that it receives, and answers as script says.
type FakeSlack struct {
	*httptest.Server
	mu     sync.Mutex
	got    []Delivery
	script func(Delivery) Reply
	begun  int           // requests received, also those that script has not answered
	change chan struct{} // closed and replaced when got grows
	done   chan struct{}
}

// NewFakeSlack starts a fake Slack that answers as script says, or ok if script is nil.
func NewFakeSlack(t testing.TB, script func(Delivery) Reply) *FakeSlack {
	t.Helper()
	f := &FakeSlack{script: script, change: make(chan struct{}), done: make(chan struct{})}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		close(f.done)
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *FakeSlack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // a client that was killed while it wrote has posted nothing
	}
	d := Delivery{
		At:            time.Now(),
		Path:          r.URL.Path,
		Authorization: r.Header.Get("Authorization"),
		ContentType:   r.Header.Get("Content-Type"),
		Remote:        r.RemoteAddr,
		Body:          string(body),
	}
	f.mu.Lock()
	f.begun++
	script := f.script
	f.mu.Unlock()
	var re Reply
	if script != nil {
		re = script(d)
	}
	f.mu.Lock()
	f.got = append(f.got, d)
	close(f.change)
	f.change = make(chan struct{})
	f.mu.Unlock()
	if re.Hang {
		select {
		case <-r.Context().Done():
		case <-f.done:
		}
		return
	}
	if re.RetryAfter != "" {
		w.Header().Set("Retry-After", re.RetryAfter)
	}
	if re.Status == 0 {
		re.Status, re.Body = 200, "ok"
		if strings.HasSuffix(d.Path, "chat.postMessage") {
			re.Body = `{"ok":true}`
		}
	}
	w.WriteHeader(re.Status)
	io.WriteString(w, re.Body)
}

// Begun returns how many requests were received, also those that have no answer yet.
func (f *FakeSlack) Begun() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun
}

// SetScript changes the answers from the next request on.
func (f *FakeSlack) SetScript(script func(Delivery) Reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

// Deliveries returns the requests received so far.
func (f *FakeSlack) Deliveries() []Delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Delivery(nil), f.got...)
}

// WaitFor waits until enough returns true for the requests received so far, and returns them.
func (f *FakeSlack) WaitFor(t testing.TB, what string, enough func([]Delivery) bool) []Delivery {
	t.Helper()
	deadline := time.After(Patience)
	for {
		f.mu.Lock()
		got, change := append([]Delivery(nil), f.got...), f.change
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

// WaitForPosts waits until n requests were received, and returns all.
func (f *FakeSlack) WaitForPosts(t testing.TB, n int) []Delivery {
	t.Helper()
	return f.WaitFor(t, strconv.Itoa(n), func(got []Delivery) bool { return len(got) >= n })
}

// Patience is how long a test waits for something to happen. What works takes less, even on a slow machine.
const Patience = 30 * time.Second

// Poll calls done until it returns true. The test fails if that takes longer than Patience.
func Poll(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Buffer takes the output of a process, or of a server in the test's own process. A test can read it meanwhile.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Reset forgets what was written.
func (l *Buffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// WriteFile writes a file with this name into a new folder, and returns its path.
func WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Normal returns doc with sorted keys, with numbers as they were, and without empty strings in its attachments.
func Normal(t testing.TB, doc string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", doc, err)
	}
	attachments, _ := v["attachments"].([]any)
	for _, a := range attachments {
		for key, value := range a.(map[string]any) {
			if value == "" {
				delete(a.(map[string]any), key)
			}
		}
	}
	return Encode(v)
}

// Encode returns v as JSON. < > & are not escaped.
func Encode(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // only for types that JSON does not have
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ReadAll reads r until its end or an error, and returns what it has read.
func ReadAll(r io.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

// WithCore returns config with more lines in [core].
func WithCore(config, lines string) string {
	return strings.Replace(config, "[core]", "[core]\n"+lines, 1)
}

const bareVariable = "SLACKBOARD_TEST_BARE" // if it is set, Main runs serveBare

// serveBare is the server that benchmarks compare with: it reads the body and answers. It is also a Slack that takes
// each post at once.
func serveBare() {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the test has ended, or was killed
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "\"listening on %s\"\n", l.Addr())
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"message":"ok"}`)
	})))
}

// StartBare starts serveBare in a process of its own.
func StartBare(b *testing.B) *Process {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), bareVariable+"=1")
	if _, err := cmd.StdinPipe(); err != nil { // closed when this process ends
		b.Fatal(err)
	}
	return StartServerIn(b, cmd)
}

// WriteInto writes a file into a folder.
func WriteInto(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FilesIn returns the names of the files in dir, none if there is no such folder.
func FilesIn(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// DeadAddress returns an address where nobody listens. Its port is below those that the system assigns (on Linux from
// 32768 on): no other test is assigned the port in the meantime.
func DeadAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// Authority is a certificate authority.
type Authority struct {
	t    *testing.T
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
	File string // Cert as a PEM file
}

// NewAuthority makes an authority whose own certificate is in File.
func NewAuthority(t *testing.T) *Authority {
	a := &Authority{t: t}
	var der []byte
	der, a.key = a.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.Cert, _ = x509.ParseCertificate(der)
	a.File = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

// make returns a new certificate, signed by a, and its key. The first certificate of a is signed with its own key.
func (a *Authority) make(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.Cert != nil {
		parent, signer = a.Cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *Authority) write(name, kind string, der []byte) string {
	return WriteFile(a.t, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// Files makes a certificate, and returns the paths of the certificate and of its key.
func (a *Authority) Files(template *x509.Certificate) (cert, key string) {
	der, k := a.make(template)
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write("cert.pem", "CERTIFICATE", der), a.write("key.pem", "EC PRIVATE KEY", private)
}

// NeedsRoot skips the test unless root runs it.
func NeedsRoot(t *testing.T, why string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, " + why)
	}
}

// Rounds returns how often a test repeats something: the first number in CI, the second elsewhere.
func Rounds(ci, otherwise int) int {
	if Long() {
		return ci
	}
	return otherwise
}

// Snapshot returns all that can be seen of a directory, by path: modes, times and contents.
func Snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		content := ""
		if err == nil && !d.IsDir() {
			content = ReadFile(t, path)
		}
		all[path] = fmt.Sprintln(info.Mode(), info.ModTime(), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// NotifyBody returns the body of a request to /notify, with the text n.
func NotifyBody(tag string, n int, sync bool) string {
	return fmt.Sprintf(`{"tag":%q,"text":"%d","sync":%v}`, tag, n, sync)
}

// StaleSocket makes a socket that nobody listens on, as a dead server leaves one behind.
func StaleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

// Long tells whether the tests may take long, as in CI.
func Long() bool { return os.Getenv("CI") == "true" }

// NeedsLong skips a test that takes long, except in CI.
func NeedsLong(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("skipped: takes long, runs with CI=true")
	}
}

// ServerConfig returns the configuration of a server on a free port, with two tags, for a Slack at url.
func ServerConfig(url string) string {
	return fmt.Sprintf("[core]\nport = '127.0.0.1:0'\nchannel_rate = 0\nslack_url = '%s/services/x'\n"+
		"[[tags]]\ntag = 'general'\nchannel = '#general'\n[[tags]]\ntag = 'cron'\nchannel = '#cron'\n", url)
}

// SpoolLine returns a line of the server's spool: the checksum, the length, and what format and args say.
func SpoolLine(format string, args ...any) string {
	says := fmt.Sprintf(format, args...)
	summed := fmt.Sprintf("%08x %s", len(says), says)
	return fmt.Sprintf("%08x %s\n", crc32.Checksum([]byte(summed), crc32.MakeTable(crc32.Castagnoli)), summed)
}

// ServiceManager is a socket like systemd's, to which a service reports: sd_notify(3).
type ServiceManager struct {
	*net.UnixConn
	t      *testing.T
	Socket string
}

// NewServiceManager listens on a new socket.
func NewServiceManager(t *testing.T) *ServiceManager {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &ServiceManager{conn, t, socket}
}

// Next reads the next report, which must match want. It returns what the last group of want matched, or the whole
// match if want has no group.
func (m *ServiceManager) Next(want string) (group string) {
	m.t.Helper()
	m.SetReadDeadline(time.Now().Add(Patience))
	b := make([]byte, 8192)
	n, err := m.Read(b)
	match := regexp.MustCompile(want).FindStringSubmatch(string(b[:n]))
	if err != nil || match == nil {
		m.t.Errorf("got %q %v, want %s", b[:n], err, want)
		return ""
	}
	return match[len(match)-1]
}
