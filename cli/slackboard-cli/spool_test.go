package main

// The clients' spool: a message that no server takes is kept, and sent later, once and in order.

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slackboard/e2e"
)

// keep stores a message for each of texts in the spool, the oldest first.
func keep(t testing.TB, spool string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		code, _, stderr := e2e.RunProgram(t, text, nil, "slackboard-cli", "-s", "unix:/nowhere", "-t", "a", "-spool",
			spool)
		if code != 0 || !strings.Contains(stderr, "slackboard-cli: kept in "+spool+" for a later run: ") {
			t.Fatalf("exit %d, %q", code, stderr)
		}
	}
}

// keepCopies stores n messages in the spool, with the texts 0 to n-1. A client stores the first; the others are copies
// of its file.
func keepCopies(t testing.TB, spool string, n int) {
	t.Helper()
	keep(t, spool, "0")
	first := e2e.FilesIn(t, spool)[0]
	content := e2e.ReadFile(t, filepath.Join(spool, first))
	key := strings.TrimSuffix(first[strings.LastIndex(first, "-")+1:], ".json")
	for i := 1; i < n; i++ {
		copied := strings.Replace(strings.ReplaceAll(content, key, fmt.Sprintf("KEY%d", i)), `"text":"0"`,
			fmt.Sprintf(`"text":"%d"`, i), 1)
		e2e.WriteInto(t, spool, fmt.Sprintf("%s%06d.json", strings.TrimSuffix(first, ".json"), i), copied)
	}
}

// A kept message is one file that only its owner may read. It has everything of the request except the token. The next
// run sends it first, unchanged.
func TestSpoolKeeps(t *testing.T) {
	t.Parallel()
	spool := filepath.Join(t.TempDir(), "spool")
	busy := e2e.NewScripted(t, e2e.Because(503, ""))
	env := []string{"SLACKBOARD_SPOOL=" + spool, "SLACKBOARD_AUTH_TOKEN=xyzzy", "SLACKBOARD_SERVER=" + busy.URL}
	code, stdout, stderr := e2e.RunProgram(t, "one & <two>", env, "slackboard-cli",
		append(strings.Fields(e2e.Patient), "-t", "a", "-title", "T")...)
	if want := "slackboard-cli: kept in " + spool + " for a later run: " + strings.TrimPrefix(busy.URL, "http://") +
		" answered 503: because\n"; code != 0 || stdout != "" || stderr != want {
		t.Errorf("exit %d, %q %q, want %q", code, stdout, stderr, want)
	}
	names := e2e.FilesIn(t, spool)
	if len(names) != 1 || !strings.HasSuffix(names[0], ".json") {
		t.Fatalf("the spool has %q", names)
	}
	info, err := os.Stat(filepath.Join(spool, names[0]))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	content := e2e.ReadFile(t, filepath.Join(spool, names[0]))
	if strings.Contains(content, "xyzzy") || !strings.Contains(content, "one & <two>") {
		t.Errorf("kept as %s", content)
	}
	s := e2e.NewScripted(t)
	env[2] = "SLACKBOARD_SERVER=" + s.URL
	if code, stdout, stderr := e2e.RunProgram(t, "three", env, "slackboard-cli", "-t", "a"); code != 0 ||
		stdout+stderr != "" {
		t.Errorf("exit %d, %q %q", code, stdout, stderr)
	}
	tried, got := busy.Requests(), s.Requests()
	if len(tried) != 1 || len(got) != 2 || got[0] != tried[0] || got[0].Auth != "Bearer xyzzy" ||
		got[1].Text() != "three" || got[1].Key == got[0].Key {
		t.Errorf("tried %+v, got %+v", tried, got)
	}
	if names := e2e.FilesIn(t, spool); len(names) != 0 {
		t.Errorf("the spool still has %q", names)
	}
}

// A message that no server took is kept, and the exit status is 0. With -sync, or if a server refuses the message for
// good, it is not kept, and the exit status is 1.
func TestSpoolKeepsWhatNoServerTook(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		reply    e2e.Reply
		flags    string
		requests int
		kept     bool
	}{
		{"429", e2e.Because(429, "3600"), e2e.Patient, 1, true},
		{"503", e2e.Because(503, ""), e2e.Patient, 1, true},
		{"504", e2e.Because(504, ""), e2e.Patient, 1, true},
		{"502 with Retry-After", e2e.Because(502, "3600"), e2e.Patient, 1, true},
		{"no answer", e2e.Reply{}, e2e.Patient, 1, true},
		{"half an answer", e2e.Reply{Status: e2e.HalfAnswer}, e2e.Patient, 1, true},
		{"a token that cannot be read", e2e.OKReply, "-auth=file:/no/such/file", 0, true},
		{"400", e2e.Because(400, ""), e2e.Patient, 1, false},
		{"401", e2e.Because(401, ""), e2e.Patient, 1, true},
		{"502", e2e.Because(502, ""), e2e.Patient, 1, true},
		{"a proxy's 502", e2e.Reply{Status: 502, Body: "<html>"}, e2e.Patient, 1, true},
		{"another program", e2e.Reply{Status: 404, Body: "404 page not found\n"}, e2e.Patient, 1, true},
		{"another program's 200", e2e.Reply{Status: 200, Body: "<html>login</html>"}, e2e.Patient, 1, true},
		{"a proxy's 413", e2e.Reply{Status: 413, Body: "<html>"}, e2e.Patient, 1, false},
		{"-sync", e2e.Because(503, ""), "-sync -retry-max=2 " + e2e.Hasty, 3, false},
	} {
		s, spool := e2e.NewScripted(t, test.reply), filepath.Join(t.TempDir(), "spool")
		code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli",
			append(strings.Fields(test.flags), "-s", s.URL, "-t", "a", "-spool", spool)...)
		kept := e2e.KeptTexts(t, spool)
		if (code == 0) != test.kept || (len(kept) == 1) != test.kept ||
			strings.Contains(stderr, "kept in") != test.kept || len(s.Requests()) != test.requests {
			t.Errorf("%s: exit %d, %d requests, kept %q, %q", test.name, code, len(s.Requests()), kept, stderr)
		}
	}
}

// A new message does not overtake the messages that are kept.
func TestSpoolKeepsTheOrder(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	keep(t, spool, "1", "2", "3")
	if got := e2e.KeptTexts(t, spool); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("kept %q", got)
	}
	s := e2e.NewScripted(t, e2e.OKReply, e2e.Because(503, ""), e2e.OKReply)
	for _, text := range []string{"4", "5"} {
		if code, _, stderr := e2e.RunProgram(t, text, nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool",
			spool); code != 0 {
			t.Errorf("exit %d, %s", code, stderr)
		}
	}
	if got, left := s.Texts(), e2e.KeptTexts(t, spool); !slices.Equal(got, []string{"1", "2", "2", "3", "4", "5"}) ||
		len(left) != 0 {
		t.Errorf("sent %q, left %q", got, left)
	}
}

// A file that is not a request, or that the server refuses, is set aside. Other files in the folder stay.
func TestSpoolSetsAside(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	keep(t, spool, "refused", "taken")
	request := e2e.ReadFile(t, filepath.Join(spool, e2e.FilesIn(t, spool)[0]))
	bad := map[string]string{"00.json": "", "02.json": "\x00\xff", "03.json": request[:len(request)/2],
		"06.json": strings.Repeat("x", 3<<20),
		"07.json": `{"path":" %zz","to":"a","key":"K","body":{}}`, "08.json": "{}", "09.json": "null",
		"10.json": `{"path":"/ui/","to":"a","key":"K"}`, "11.json": `{"path":"/stat/go","to":"a","key":"K","body":{}}`,
		"12.json": `{"path":"@127.0.0.1:1/notify","to":"a","key":"K","body":{}}`}
	for name, content := range bad {
		e2e.WriteInto(t, spool, name, content)
	}
	e2e.WriteInto(t, spool, "README", "not ours")
	if err := syscall.Mkfifo(filepath.Join(spool, "pipe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := e2e.NewScripted(t, e2e.Because(413, ""), e2e.OKReply)
	code, _, stderr := e2e.RunProgram(t, "new", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool", spool)
	if got := s.Texts(); code != 0 || !slices.Equal(got, []string{"refused", "taken", "new"}) ||
		strings.Count(stderr, "set aside as ") != len(bad)+1 {
		t.Errorf("exit %d, sent %q, %s", code, got, stderr)
	}
	names := e2e.FilesIn(t, spool)
	for name, content := range bad {
		if slices.Contains(names, name) || e2e.ReadFile(t, filepath.Join(spool, name+".bad")) != content {
			t.Errorf("%s is not set aside as it was", name)
		}
	}
	if len(names) != len(bad)+3 || !slices.Contains(names, "README") || !slices.Contains(names, "pipe.json") ||
		e2e.ReadFile(t, filepath.Join(spool, names[len(names)-3])) != request {
		t.Errorf("the spool has %q", names)
	}
}

// A file that somebody else has put into the folder does not hold up other messages, whatever its key is.
func TestSpoolTakesAnyKey(t *testing.T) {
	t.Parallel()
	spool, s := t.TempDir(), e2e.NewScripted(t)
	e2e.WriteInto(t, spool, "0.json", `{"path":"/notify","to":"a","key":"K\n","body":{"tag":"a","text":"old"}}`)
	code, _, stderr := e2e.RunProgram(t, "new", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool", spool)
	if got := s.Texts(); code != 0 || !slices.Equal(got, []string{"old", "new"}) {
		t.Errorf("exit %d, sent %q, %s", code, got, stderr)
	}
}

// A message is kept if the server answers 401 or 403 (the token), or 301, 500 or 502: then the request itself is not
// at fault.
func TestSpoolOutlivesAWrongToken(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 401, 403, 500, 502} {
		spool := t.TempDir()
		keep(t, spool, "one")
		s := e2e.NewScripted(t, e2e.Because(status, ""))
		code, _, stderr := e2e.RunProgram(t, "two", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool", spool)
		if got := e2e.KeptTexts(t, spool); code != 0 || !slices.Equal(got, []string{"one", "two"}) ||
			len(s.Requests()) != 1 {
			t.Errorf("%d: exit %d, kept %q, %q", status, code, got, stderr)
		}
	}
}

// A run sends all messages in the spool, the oldest first, and then its own.
func TestSpoolSendsMany(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	keepCopies(t, spool, 300)
	s := e2e.NewScripted(t)
	code, _, stderr := e2e.RunProgram(t, "new", nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool", spool)
	if got := s.Texts(); code != 0 || stderr != "" || len(got) != 301 || got[0] != "0" || got[299] != "299" ||
		got[300] != "new" || len(e2e.FilesIn(t, spool)) != 0 {
		t.Errorf("exit %d, %q, sent %q", code, stderr, got)
	}
}

// If a server does not answer the request of a kept message, a new message for another tag is sent after 10 s.
func TestSpoolTimeLimit(t *testing.T) {
	if !e2e.Long() {
		t.Skip("skipped: takes 10 s, runs with CI=true")
	}
	t.Parallel()
	spool := t.TempDir()
	keep(t, spool, "old")
	s := e2e.NewScripted(t, e2e.Reply{Hang: true}, e2e.OKReply)
	start := time.Now()
	code, _, stderr := e2e.RunProgram(t, "new", nil, "slackboard-cli", "-s", s.URL, "-t", "b", "-spool", spool)
	if got := s.Texts(); code != 0 || stderr != "" || time.Since(start) < 10*time.Second ||
		!slices.Equal(got, []string{"old", "new"}) {
		t.Errorf("exit %d after %v, %q, sent %q", code, time.Since(start), stderr, got)
	}
	if got := e2e.KeptTexts(t, spool); !slices.Equal(got, []string{"old"}) {
		t.Errorf("kept %q", got)
	}
	t.Logf("took %v", time.Since(start))
}

// While another run holds the lock, a run with a message waits for that run. A run without a message does not wait.
func TestSpoolLock(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	keep(t, spool, "old")
	dir, err := os.Open(spool)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s := e2e.NewScripted(t)
	if code, _, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "-spool", spool, "--",
		"true"); code != 0 || stderr != "" || len(s.Texts()) != 0 {
		t.Errorf("exit %d, %q, sent %q", code, stderr, s.Texts())
	}
	cmd := exec.Command(e2e.Program("slackboard-cli"), "-s", s.URL, "-t", "a", "-spool", spool)
	cmd.Stdin = strings.NewReader("new")
	p := e2e.StartProcess(t, cmd)
	e2e.Poll(t, "the new one is kept", func() bool { return len(e2e.KeptTexts(t, spool)) == 2 })
	if got := s.Texts(); len(got) != 0 {
		t.Errorf("sent %q", got)
	}
	dir.Close()
	if code := p.Wait(); code != 0 || p.Stderr.String() != "" || !slices.Equal(s.Texts(), []string{"old", "new"}) ||
		len(e2e.FilesIn(t, spool)) != 0 {
		t.Errorf("exit %d, %q, sent %q", code, p.Stderr.String(), s.Texts())
	}
}

// A message that slackboard cannot take now (503, 429) holds back later messages for the same tag or channel, in their
// order, and no others.
func TestSpoolIsNoLane(t *testing.T) {
	t.Parallel()
	for _, busy := range []e2e.Reply{e2e.Because(503, "5"), e2e.Because(429, "5")} {
		spool := t.TempDir()
		for i, to := range []string{"-t=dead", "-t=ops", "-c=dead", "-t=dead", "-c=ops"} {
			e2e.RunProgram(t, fmt.Sprint(i), nil, "slackboard-cli", "-s", "unix:/nowhere", to, "-spool", spool)
		}
		var mu sync.Mutex
		var took, refused []string
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body struct {
				Tag, Text string
				Payload   struct{ Channel, Text string }
			}
			json.Unmarshal([]byte(e2e.ReadAll(r.Body)), &body)
			mu.Lock()
			defer mu.Unlock()
			if text := body.Text + body.Payload.Text; strings.Contains(body.Tag+body.Payload.Channel, "dead") {
				refused = append(refused, text)
				w.WriteHeader(busy.Status)
				io.WriteString(w, busy.Body)
			} else {
				took = append(took, text)
				io.WriteString(w, `{"message":"ok"}`)
			}
		}))
		defer s.Close()
		for _, own := range []struct{ to, stderr string }{{"-t=ops", ""}, {"-t=dead", "slackboard-cli: kept in "}} {
			code, _, stderr := e2e.RunProgram(t, "own", nil, "slackboard-cli", "-s", s.URL, own.to, "-spool", spool)
			if code != 0 || !strings.HasPrefix(stderr, own.stderr) || own.stderr == "" && stderr != "" {
				t.Errorf("exit %d, %q", code, stderr)
			}
		}
		mu.Lock()
		if got, left := fmt.Sprint(took, refused), fmt.Sprint(e2e.KeptTexts(t, spool)); got != "[1 4 own] [0 2 0 2]" ||
			left != "[0  3 own]" {
			t.Errorf("%d: took and refused %s, left %s", busy.Status, got, left)
		}
		mu.Unlock()
	}
}

// If the spool cannot be written, the client says so, and sends the message as without a spool.
func TestSpoolThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	file := e2e.WriteFile(t, "file", "")
	for _, spool := range []string{file, filepath.Join(t.TempDir(), "no", "spool")} {
		s := e2e.NewScripted(t, e2e.Because(503, ""), e2e.OKReply)
		code, _, stderr := e2e.RunProgram(t, "hi", nil, "slackboard-cli",
			append(strings.Fields(e2e.Hasty), "-s", s.URL, "-t", "a", "-spool", spool)...)
		if code != 0 || !strings.Contains(stderr, "slackboard-cli: -spool: ") || len(s.Requests()) != 2 {
			t.Errorf("exit %d, %d requests, %q", code, len(s.Requests()), stderr)
		}
	}
}

// slackboard-log sends what earlier runs kept even if its command succeeds. Otherwise these messages would wait for
// the next failure.
func TestSpoolIsSentBySuccess(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	code, _, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", "unix:/nowhere", "-t", "a", "-spool", spool,
		"--", "sh", "-c", "exit 7")
	if code != 7 || !strings.Contains(stderr, "slackboard-log: kept in ") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	for range 2 {
		code, stdout, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", "unix:/nowhere", "-t", "a", "-spool",
			spool, "--", "true")
		if code != 0 || stdout+stderr != "" || len(e2e.KeptTexts(t, spool)) != 1 {
			t.Errorf("exit %d, %q %q", code, stdout, stderr)
		}
	}
	s := e2e.NewScripted(t)
	code, stdout, stderr := e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "-spool", spool, "--",
		"true")
	if got := s.Texts(); code != 0 || stdout+stderr != "" || len(got) != 1 ||
		!strings.Contains(got[0], "Error: exit status 7\n") || len(e2e.FilesIn(t, spool)) != 0 {
		t.Errorf("exit %d, %q %q, sent %q", code, stdout, stderr, got)
	}
}

// Ten clients use one spool at once, while the server is down, running, killed and started again. Each message reaches
// Slack, and the clients double none.
func TestSpoolTenClients(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spool, socket := filepath.Join(dir, "spool"), filepath.Join(dir, "s")
	slack := e2e.NewFakeSlack(t, nil)
	config := strings.Replace(e2e.ServerConfig(slack.URL), "127.0.0.1:0", "unix:"+socket, 1)
	config = strings.Replace(config, "channel_rate = 0\n", "channel_rate = 0\nbatch = 1\n", 1) + "[spool]\ndir = '" +
		dir + "/server'\n"
	var want []string
	atOnce := func(n int) {
		var clients sync.WaitGroup
		for range n {
			text := fmt.Sprintf("message %d.", len(want))
			want = append(want, text)
			clients.Go(func() {
				if code, _, stderr := e2e.RunProgram(t, text, nil, "slackboard-cli", "-s", "unix:"+socket, "-t",
					"general", "-spool", spool); code != 0 {
					t.Errorf("%s: exit %d, %s", text, code, stderr)
				}
			})
		}
		clients.Wait()
	}
	atOnce(10)
	if kept := e2e.KeptTexts(t, spool); len(kept) != 10 {
		t.Errorf("kept %q", kept)
	}
	first := e2e.StartServer(t, config)
	killed := make(chan struct{})
	go func() { // while the clients send
		slack.WaitForPosts(t, 3)
		first.Kill()
		close(killed)
	}()
	atOnce(10)
	<-killed
	atOnce(10)
	e2e.StartServer(t, config)
	atOnce(10)
	for range 10 {
		if len(e2e.FilesIn(t, spool)) == 0 {
			break
		}
		atOnce(1)
	}
	posts := slack.WaitFor(t, fmt.Sprintf("each of %d messages", len(want)), func(got []e2e.Delivery) bool {
		return !slices.ContainsFunc(want, func(text string) bool {
			return !slices.ContainsFunc(got, func(d e2e.Delivery) bool {
				return strings.Contains(d.Body,
					`"`+text+`"`)
			})
		})
	})
	if left := e2e.FilesIn(t, spool); len(left) != 0 {
		t.Errorf("left in the spool: %q", left)
	}
	// The server was killed while it posted, which may double one post: see docs/design.md.
	if len(posts) > len(want)+1 {
		t.Errorf("%d posts of %d messages", len(posts), len(want))
	}
}

// The same with a server that answers one of three requests with 503, takes one but closes the connection without an
// answer, and takes and answers one.
func TestSpoolTenClientsHalfAnswers(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	var mu sync.Mutex
	// taken has the texts by key: like slackboard, this server takes a message with a known key only once.
	requests, healthy, taken := 0, false, map[string]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := e2e.ClientRequest{Body: e2e.ReadAll(r.Body)}
		mu.Lock()
		defer mu.Unlock()
		requests++
		if !healthy && requests%3 == 0 {
			w.WriteHeader(503)
			return
		}
		taken[r.Header.Get("Idempotency-Key")] = body.Text()
		if !healthy && requests%3 == 1 {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, `{"message":"ok"}`)
	}))
	t.Cleanup(s.Close)
	var want []string
	for range 4 {
		var clients sync.WaitGroup
		for range 10 {
			text := fmt.Sprint(len(want))
			want = append(want, text)
			clients.Go(func() {
				if code, _, stderr := e2e.RunProgram(t, text, nil, "slackboard-cli", "-s", s.URL, "-t", "a", "-spool",
					spool); code != 0 {
					t.Errorf("exit %d, %s", code, stderr)
				}
			})
		}
		clients.Wait()
	}
	kept := len(e2e.FilesIn(t, spool))
	mu.Lock()
	healthy = true
	mu.Unlock()
	e2e.RunProgram(t, "", nil, "slackboard-log", "-s", s.URL, "-t", "a", "-spool", spool, "--", "true")
	got := slices.Sorted(maps.Values(taken))
	slices.Sort(want)
	if left := e2e.FilesIn(t, spool); !slices.Equal(got, want) || kept == 0 || len(left) != 0 {
		t.Errorf("%d were kept, %q are left; taken: %q, want %q", kept, left, got, want)
	}
	t.Logf("%d requests for %d messages, %d were kept in the end", requests, len(want), kept)
}

// A file of another user stays as it is: a file that cannot be read is not set aside.
func TestSpoolOfTwoUsers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to be two users")
	}
	spool, err := os.MkdirTemp("", "spool")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(spool)
	keep(t, spool, "root's")
	os.Chmod(spool, 0o777)
	os.Chmod(e2e.Binaries(), 0o755)
	s := e2e.NewScripted(t)
	cmd := exec.Command(e2e.Program("slackboard-cli"), "-s", s.URL, "-t", "a", "-spool", spool)
	cmd.Stdin, cmd.Dir, cmd.SysProcAttr = strings.NewReader("nobody's"), "/", e2e.AsNobody()
	p := e2e.StartProcess(t, cmd)
	if code := p.Wait(); code != 0 || !strings.HasSuffix(p.Stderr.String(), ": permission denied\n") ||
		!slices.Equal(s.Texts(), []string{"nobody's"}) {
		t.Errorf("exit %d, %q, sent %q", code, p.Stderr.String(), s.Texts())
	}
	if names := e2e.FilesIn(t, spool); len(names) != 1 || !strings.HasSuffix(names[0], ".json") {
		t.Errorf("the spool has %q", names)
	}
}
