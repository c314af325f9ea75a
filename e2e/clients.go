package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// What the tests of the clients share.

// Scripted is a server for the clients: it answers with one reply after the other, the last one for good.
type Scripted struct {
	*httptest.Server
	mu      sync.Mutex
	got     []ClientRequest
	replies []Reply
	done    chan struct{}
}

// ClientRequest is what a client sent.
type ClientRequest struct {
	Path, Key, Auth, Body string
}

// Text returns the text of a message for a tag.
func (r ClientRequest) Text() string {
	var m struct{ Text string }
	json.Unmarshal([]byte(r.Body), &m)
	return m.Text
}

// HalfAnswer is the status of a reply that breaks off.
const HalfAnswer = -1

func NewScripted(t testing.TB, replies ...Reply) *Scripted {
	t.Helper()
	s := &Scripted{replies: replies, done: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.done)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *Scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := ReadAll(r.Body)
	s.mu.Lock()
	s.got = append(s.got,
		ClientRequest{r.URL.Path, r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization"), body})
	re := Reply{Status: 200, Body: `{"message":"ok"}`}
	if len(s.replies) > 0 {
		re = s.replies[min(len(s.got), len(s.replies))-1]
	}
	s.mu.Unlock()
	switch {
	case re.Hang:
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		return
	case re.Status == 0:
		panic(http.ErrAbortHandler) // the connection ends without an answer
	case re.Status == HalfAnswer:
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"mess`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	if re.RetryAfter != "" {
		w.Header().Set("Retry-After", re.RetryAfter)
	}
	w.WriteHeader(re.Status)
	io.WriteString(w, re.Body)
}

// Requests returns what came in.
func (s *Scripted) Requests() []ClientRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// Texts returns what the messages said, in the order in which they came in.
func (s *Scripted) Texts() []string {
	var texts []string
	for _, r := range s.Requests() {
		texts = append(texts, r.Text())
	}
	return texts
}

// Because is an answer of the server's, with a status.
func Because(status int, retryAfter string) Reply {
	return Reply{Status: status, Body: `{"message":"because"}`, RetryAfter: retryAfter}
}

var OKReply = Reply{Status: 200, Body: `{"message":"ok"}`}

// Patient are flags that let a back-off never end: who waits for it fails the test.
const Patient = "-retry-wait-min=1h -retry-wait-max=1h"

// Hasty are flags that try again at once.
const Hasty = "-retry-wait-min=1ms -retry-wait-max=1s"

// NewScriptedAt listens on a unix socket.
func NewScriptedAt(t *testing.T, socket string, replies ...Reply) *Scripted {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Scripted{replies: replies, done: make(chan struct{})}
	s.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// KeptTexts returns what the requests in the spool say, oldest first.
func KeptTexts(t testing.TB, spool string) (texts []string) {
	t.Helper()
	for _, name := range FilesIn(t, spool) {
		if strings.HasSuffix(name, ".json") {
			var kept struct{ Body struct{ Text string } }
			json.Unmarshal([]byte(ReadFile(t, filepath.Join(spool, name))), &kept)
			texts = append(texts, kept.Body.Text)
		}
	}
	return texts
}

// Hostname returns the name of this machine, as the programs say it.
func Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
