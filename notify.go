package main

// HTTP in: the route table; a message is decoded, checked, and accepted or posted at once. Both endpoints end in accept.

import (
	"bytes"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	bodyLimit = 1 << 20  // bytes of a request's body
	small     = 16 << 10 // of a body that always finds room
	maxLarge  = 8        // larger ones that are in hand at the same time: memory is bounded, whoever asks
	largeWait = 5 * time.Second
)

// server answers requests. It is built once, in run.
type server struct {
	deliver  *deliverer
	spool    *spool
	stats    *stats
	log      *slog.Logger
	access   io.Writer // one line a request
	hostname string
	large    chan struct{} // holds a token for each large body that is in hand
	looking  chan struct{} // holds a token for a look-up that reads the log
	requests requestCounts
	lost     func() int64 // log lines
	gc       gcSample
	config   atomic.Pointer[config]
}

// cfg returns the configuration as it is now: a reload may change it between two calls.
func (s *server) cfg() *config { return s.config.Load() }

// handler is the route table.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /notify", s.notify)
	mux.HandleFunc("POST /notify-directly", s.notifyDirectly)
	mux.HandleFunc("GET /stat/go", s.statGo)
	mux.HandleFunc("GET /stat/app", s.statApp)
	mux.HandleFunc("GET /messages", s.operator(s.listMessages))
	mux.HandleFunc("GET /messages/{id}", s.operator(s.showMessage))
	mux.HandleFunc("POST /messages/{id}/retry", s.operator(s.retryMessage))
	mux.HandleFunc("POST /messages/retry", s.operator(s.retryMessages))
	mux.HandleFunc("DELETE /messages/{id}", s.operator(s.dropMessage))
	mux.HandleFunc("DELETE /messages", s.operator(s.dropMessages))
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /debug/vars", s.debugVars)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /config/app", s.configApp)
	mux.HandleFunc("GET /app/config", s.configApp) // its name in 0.6
	mux.HandleFunc("GET /ui/", s.page)
	mux.HandleFunc("GET /ui", toPage)
	mux.HandleFunc("GET /{$}", toPage)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { answerUnknown(mux, w, r) })

	guarded := s.guarded(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, res := time.Now(), &response{ResponseWriter: w, status: http.StatusOK}
		if strings.Contains(r.URL.Path, "//") { // the original's clients post to //notify
			r.URL.Path = path.Clean(r.URL.Path)
		}
		defer func() {
			if res.large != nil {
				<-res.large
			}
		}()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		guarded.ServeHTTP(res, r)
		if r.Pattern == "" { // it was refused before its route was looked up
			_, r.Pattern = mux.Handler(r)
		}
		s.requests.add(r.Pattern, res.status)
		s.logAccess(start, res, r)
	})
}

// requestCounts counts requests by the pattern of their route and the status of the answer.
type requestCounts struct{ n expvar.Map }

func (c *requestCounts) add(pattern string, status int) { c.n.Add(strconv.Itoa(status)+" "+pattern, 1) }

// each calls f for every count, in a fixed order.
func (c *requestCounts) each(f func(route string, status int, n int64)) {
	c.n.Do(func(count expvar.KeyValue) {
		code, route, _ := strings.Cut(count.Key, " ")
		status, _ := strconv.Atoi(code)
		f(route, status, count.Value.(*expvar.Int).Value())
	})
}

// answerUnknown answers what no pattern matches: 405 where another method would, else 404.
func answerUnknown(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(other); pattern != "/" {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 {
		answer{status: http.StatusNotFound, Message: "there is nothing at " + r.URL.Path}.send(w)
		return
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	answer{status: http.StatusMethodNotAllowed, Message: r.Method + " is not allowed here: use " + strings.Join(allow, " or ")}.send(w)
}

// response keeps for the access log what was answered.
type response struct {
	http.ResponseWriter
	status    int
	tag, host string
	ids       []string
	large     chan struct{} // not nil: it holds a token for the body
}

func (r *response) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer is what every request gets that is not given a document.
type answer struct {
	Message string   `json:"message"`
	Detail  string   `json:"detail,omitempty"`
	IDs     []string `json:"ids,omitempty"` // of what was accepted, one for each destination

	status     int
	retryAfter time.Duration // 0 where trying again cannot help, or could double a message
}

func (a answer) send(w http.ResponseWriter) {
	if res, ok := w.(*response); ok {
		res.ids = a.IDs
	}
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(a.retryAfter.Seconds()))))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	w.Write(encodeLine(a))
}

func badRequest(format string, args ...any) answer {
	return answer{status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// accessLine has the original's keys first.
type accessLine struct {
	Type          string   `json:"type"`
	Time          string   `json:"time"`
	RemoteAddr    string   `json:"remote_addr"`
	URI           string   `json:"uri"`
	Method        string   `json:"method"`
	Proto         string   `json:"proto"`
	ContentLength int64    `json:"content_length"`
	Tag           string   `json:"tag"` // or the channel
	Host          string   `json:"host"`
	Status        int      `json:"status"`
	IDs           []string `json:"ids,omitempty"`
	DurationMS    float64  `json:"duration_ms"`
}

// logAccess writes the line of a request. What the page asks for again and again has one at level debug only.
func (s *server) logAccess(start time.Time, res *response, r *http.Request) {
	poll := r.Method == http.MethodGet && res.status == http.StatusOK && r.Header.Get(pollHeader) != ""
	if poll && !s.log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	s.access.Write(encodeLine(accessLine{
		Type: "accepted-request", Time: start.Format(time.RFC3339Nano), RemoteAddr: r.RemoteAddr, URI: r.RequestURI,
		Method: r.Method, Proto: r.Proto, ContentLength: r.ContentLength, Tag: res.tag, Host: res.host,
		Status: res.status, IDs: res.ids, DurationMS: float64(time.Since(start).Microseconds()) / 1000,
	}))
}

// decode reads the one JSON document that the body has to be into v. It answers and returns false if it is not.
// The Content-Type is not looked at: curl -d and fluentd send JSON as a form.
func (s *server) decode(w http.ResponseWriter, r *http.Request, v any) bool {
	tooLarge := answer{status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("Request-body is larger than %d bytes", bodyLimit)}
	if r.ContentLength > bodyLimit {
		w.Header().Set("Connection", "close")
		tooLarge.send(w)
		return false
	}
	buffer := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), small)+bytes.MinRead))
	reader := http.MaxBytesReader(w, r.Body, bodyLimit)
	n, err := buffer.ReadFrom(io.LimitReader(reader, small))
	if err == nil && n == small {
		select {
		case s.large <- struct{}{}:
			if res, ok := w.(*response); ok {
				res.large = s.large
			}
		case <-time.After(largeWait):
			w.Header().Set("Connection", "close")
			answer{status: http.StatusServiceUnavailable, retryAfter: time.Second, Message: "too many large requests at the same time"}.send(w)
			return false
		}
		buffer.Grow(int(max(r.ContentLength-n, 0)) + bytes.MinRead)
		_, err = buffer.ReadFrom(reader)
	}
	body := buffer.Bytes()
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		w.Header().Set("Connection", "close")
		tooLarge.send(w)
		return false
	case errors.Is(err, os.ErrDeadlineExceeded):
		answer{status: http.StatusRequestTimeout, Message: "Request-body did not arrive in time"}.send(w)
		return false
	case err == nil && !utf8.Valid(body):
		body = bytes.ToValidUTF8(body, []byte("\ufffd"))
		fallthrough
	case err == nil:
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		answer{status: http.StatusBadRequest, Message: "Request-body is malformed", Detail: err.Error()}.send(w)
		return false
	}
	return true
}

// notify accepts a message for a tag.
func (s *server) notify(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Tag, Host, Text, Level, Title string
		Sync                          bool
	}
	if !s.decode(w, r, &req) {
		return
	}
	host := s.noteSender(w, r, req.Tag, req.Host)
	entries := s.cfg().byTag[req.Tag]
	switch {
	case req.Tag == "":
		badRequest("tag is missing").send(w)
		return
	case len(entries) == 0:
		badRequest("tag:%s is not found", req.Tag).send(w)
		return
	case strings.TrimSpace(req.Text) == "" && strings.TrimSpace(req.Title) == "":
		badRequest("text is missing").send(w)
		return
	}
	var messages []*message
	for i := range entries {
		messages = append(messages, &message{Host: host, Level: req.Level, Title: req.Title, Text: req.Text, route: route{tag: req.Tag, index: i}})
	}
	s.accept(w, r, messages, req.Sync).send(w)
}

// notifyDirectly accepts a payload for Slack.
func (s *server) notifyDirectly(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Payload json.RawMessage
		Host    string
		Sync    bool
	}
	if !s.decode(w, r, &req) {
		return
	}
	channel, err := s.checkPayload(req.Payload)
	host := s.noteSender(w, r, channel, req.Host)
	if err != nil {
		badRequest("%v", err).send(w)
		return
	}
	m := &message{Host: host, Payload: req.Payload, route: route{channel: channel}}
	s.accept(w, r, []*message{m}, req.Sync).send(w)
}

// checkPayload returns the channel that a payload names, "" for the webhook's own.
func (s *server) checkPayload(raw json.RawMessage) (channel string, err error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return "", errors.New("payload is missing, or not a JSON object")
	}
	if value := fields["channel"]; value != nil && json.Unmarshal(value, &channel) != nil {
		return "", errors.New("payload.channel is not a string")
	}
	says := func(key string) bool {
		var text string
		if json.Unmarshal(fields[key], &text) == nil {
			return strings.TrimSpace(text) != ""
		}
		return fields[key] != nil && string(fields[key]) != "[]"
	}
	switch {
	case !says("text") && !says("blocks") && !says("attachments"):
		return channel, errors.New("payload has neither text nor blocks nor attachments")
	case s.cfg().credential() == (credential{}):
		return channel, errors.New("/notify-directly needs slack_url or slack_token in [core]")
	case channel == "" && s.cfg().core.token != (secret{}):
		return channel, errors.New("payload.channel is missing")
	}
	return channel, nil
}

// noteSender returns the sender's host, its address where it does not say, and notes both for the access log.
func (s *server) noteSender(w http.ResponseWriter, r *http.Request, to, host string) string {
	if host == "" {
		var err error
		if host, _, err = net.SplitHostPort(r.RemoteAddr); err != nil {
			host = s.hostname // the other end of a unix socket
		}
	}
	if res, ok := w.(*response); ok {
		res.tag, res.host = to, host
	}
	return host
}

// accept takes responsibility for messages, or with sync posts them now and answers what became of them. The same key
// again is answered as the first time.
func (s *server) accept(w http.ResponseWriter, r *http.Request, messages []*message, sync bool) answer {
	key := r.Header.Get("Idempotency-Key")
	for _, m := range messages {
		m.ID, m.queued = newID(), time.Now().UnixMilli()
		if key != "" && !sync {
			m.ID = keyedID(key, m.route)
		}
	}
	if sync {
		limit := s.cfg().delayLimit()
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit + postTimeout + 10*time.Second))
		return s.acceptNow(messages, limit)
	}
	if s.spool.seen(messages) {
		return answer{status: http.StatusOK, Message: "ok", IDs: ids(messages)}
	}
	if wait := s.qpsDelay(messages); wait > 0 {
		return answer{status: http.StatusTooManyRequests, retryAfter: wait, Message: "too many messages wait for slack: qps delays them by more than max_delay_duration"}
	}
	if err := s.deliver.store(messages); err != nil {
		return answer{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, Message: "message is not stored: " + err.Error()}
	}
	return answer{status: http.StatusOK, Message: "ok", IDs: ids(messages)}
}

// qpsDelay returns how much longer than max_delay_duration messages would take, 0 if they would not.
func (s *server) qpsDelay(messages []*message) time.Duration {
	core := &s.cfg().core
	if core.qps == 0 || core.maxDelay < 0 {
		return 0
	}
	delay := time.Duration(s.deliver.ahead(messages[0].route)+len(messages)-1) * time.Second / time.Duration(core.qps)
	return max(0, delay-time.Duration(core.maxDelay)*time.Second)
}

// acceptNow posts to all destinations side by side. None waits longer than limit for its turn.
func (s *server) acceptNow(messages []*message, limit time.Duration) answer {
	outs := make([]chan outcome, len(messages))
	for i, m := range messages {
		outs[i] = make(chan outcome, 1)
		go func() { outs[i] <- s.deliver.postNow(m, limit) }()
	}
	var failed []outcome
	for _, out := range outs {
		if o := <-out; o.class != delivered {
			failed = append(failed, o)
		}
	}
	if len(failed) == 0 {
		return answer{status: http.StatusOK, Message: "ok", IDs: ids(messages)}
	}
	a := answer{status: http.StatusTooManyRequests, Message: "failed to post message to slack: " + failed[0].reason}
	again := len(failed) == len(messages)
	for _, o := range failed {
		if !o.limited {
			a.status = http.StatusBadGateway
		}
		again = again && o.class == retry && !o.unsure
		a.retryAfter = max(a.retryAfter, o.wait, time.Second)
	}
	if !again {
		a.status, a.retryAfter = http.StatusBadGateway, 0
	}
	return a
}

func ids(messages []*message) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = m.ID
	}
	return ids
}

// configApp shows the running configuration, with secrets masked.
func (s *server) configApp(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, s.cfg().masked())
}
