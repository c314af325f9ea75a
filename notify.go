package main

// HTTP in: the route table. A body is read in one place; a message is decoded, checked, and stored or, with sync,
// posted at once. Every way in ends in accept.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

const (
	bodyLimit = 1 << 20  // bytes of a request's body
	small     = 16 << 10 // bytes; a body of more holds a token
	maxLarge  = 8        // tokens for large bodies: they bound the memory
	largeWait = 5 * time.Second
)

// server is a deliverer, with its spool and its counters, that answers requests. It is built once, in run.
type server struct {
	*deliverer
	access    io.Writer     // one line a request
	bodies    chan struct{} // a token for each large body in memory
	searching sync.Mutex    // held by the request that searches the spool, or reads a message
	answered  keyedAnswers
	lost      func() int64 // log lines that could not be written
	gc        gcSample
}

// handler is the route table.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	route := func(who access, pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, s.guarded(who, h)) }
	route(anybody, "POST /notify", s.takes(s.notify, answer.send, false))
	route(anybody, "POST /notify-directly", s.takes(s.notify, answer.send, false))
	route(anybody, "POST /services/{tag}", s.takes(s.webhook, answer.sendAsWebhook, false))
	route(anybody, "POST /services/{tag}/{token...}", s.takes(s.webhook, answer.sendAsWebhook, false))
	route(anybody, "POST /api/chat.postMessage", s.takes(s.postMessage, answer.sendAsAPI, true))
	route(anybody, "POST /api/auth.test", s.takes(authTest, answer.sendAsAPI, true))
	route(anybody, "/api/", func(w http.ResponseWriter, _ *http.Request) { badRequest("unknown_method").sendAsAPI(w) })
	route(anybody, "GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerTo(nil, 0).send(w) })
	route(anybody, "GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answerTo(s.ready(), 0).send(w) })
	route(senders, "GET /check", s.check)
	route(operators, "GET /stat/go", shows(s.statGo))
	route(operators, "GET /stat/app", shows(s.statApp))
	route(operators, "GET /metrics", s.metrics)
	route(operators, "GET /debug/vars", shows(s.debugVars))
	route(operators, "GET /config/app", s.configApp)
	route(operators, "GET /app/config", s.configApp) // its name in 0.6
	route(operators, "GET /ui/{file...}", s.page)
	route(operators, "GET /ui", toPage)
	route(operators, "GET /{$}", toPage)
	route(operators, "/", func(w http.ResponseWriter, r *http.Request) { s.answerUnknown(mux, w, r) })
	route(operatorsHere, "GET /messages", s.listMessages)
	route(operatorsHere, "GET /messages/{id}", shows(s.showMessage))
	route(operatorsHere, "POST /messages/{id}/retry", s.toOne(s.dueNow, s.resend))
	route(operatorsHere, "POST /messages/retry", s.toAll(s.resend, "tag"))
	route(operatorsHere, "DELETE /messages/{id}", s.toOne(s.drop, s.dropDead))
	route(operatorsHere, "DELETE /messages", s.toAll(s.dropDead, "state", "tag"))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res := &response{
			ResponseWriter: w, Type: "accepted-request", Time: time.Now(), RemoteAddr: r.RemoteAddr,
			Method: r.Method, Proto: r.Proto, ContentLength: r.ContentLength, Status: http.StatusOK,
		}
		u := r.URL
		slash := r.Method == http.MethodPost && strings.HasSuffix(u.Path, "/") && u.Path != "/api/"
		if slash || strings.Contains(u.Path, "//") {
			u.Path, u.RawPath = path.Clean(u.Path), path.Clean(u.RawPath) // the original's clients post to //notify
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(res, r)
		s.stats.requests.Add(fmt.Sprintf(`route=%q,status="%d"`, r.Pattern, res.Status), 1)
		poll := r.Method == http.MethodGet && res.Status == http.StatusOK && r.Header.Get(pollHeader) != ""
		if poll && !s.log.Enabled(r.Context(), slog.LevelDebug) {
			return // the page asks every few seconds: that has a line at level debug only
		}
		res.URI = cleaned(s.shownURI(r), bodyLimit)
		res.DurationMS = float64(time.Since(res.Time).Microseconds()) / 1000
		s.access.Write(append(encode(res), '\n'))
	})
}

// answerUnknown answers what no pattern matches: 405 if another method would match, else 404.
func (s *server) answerUnknown(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	a := answer{status: http.StatusNotFound, Message: "there is nothing at " + s.shownURI(r)}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		if _, pattern := mux.Handler(&http.Request{Method: method, URL: r.URL, Host: r.Host}); pattern != "/" {
			w.Header().Add("Allow", method)
			use := strings.Join(w.Header()["Allow"], " or ")
			a = answer{status: http.StatusMethodNotAllowed, Message: r.Method + " is not allowed here: use " + use}
		}
	}
	a.send(w)
}

// response keeps who makes the request and what the answer was. As JSON it is the line of the access log, which has the
// original's keys first.
type response struct {
	http.ResponseWriter `json:"-"`

	Type          string    `json:"type"`
	Time          time.Time `json:"time"`
	RemoteAddr    string    `json:"remote_addr"`
	URI           string    `json:"uri"`
	Method        string    `json:"method"`
	Proto         string    `json:"proto"`
	ContentLength int64     `json:"content_length"`
	Tag           string    `json:"tag"` // or the channel
	Host          string    `json:"host"`
	Status        int       `json:"status"`
	identity
	IDs        []string `json:"ids,omitempty"`
	DurationMS float64  `json:"duration_ms"`
}

func (r *response) WriteHeader(status int) {
	r.Status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer is a short answer, as JSON. Requests for a document, such as /stat/app, get an answer only after an error.
type answer struct {
	Message string   `json:"message"`
	Detail  string   `json:"detail,omitempty"`
	IDs     []string `json:"ids,omitempty"` // of what was accepted, one for each destination

	status     int
	code       string        // Slack's word for the error, if Slack has one
	retryAfter time.Duration // 0 if trying again cannot help, or could double a message
}

func (a answer) send(w http.ResponseWriter) { a.write(w, "application/json", append(encode(a), '\n')) }

func (a answer) write(w http.ResponseWriter, contentType string, body []byte) {
	w.(*response).IDs = a.IDs
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int((a.retryAfter+time.Second-1)/time.Second)))
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(a.status)
	w.Write(body)
}

// Error makes an answer an error, for functions that refuse a request.
func (a answer) Error() string { return a.Message }

// answerTo returns what a request is answered with: ok if err is nil, err itself if it is an answer, 404 for errGone,
// else 503 and when to try again (0: it does not say).
func answerTo(err error, retryAfter time.Duration) answer {
	a := answer{status: http.StatusOK, Message: "ok"}
	switch {
	case err == nil, errors.As(err, &a):
		return a
	case errors.Is(err, errGone):
		return answer{status: http.StatusNotFound, Message: "no such message waits or stands in the log any more"}
	}
	return answer{status: http.StatusServiceUnavailable, Message: err.Error(), retryAfter: retryAfter}
}

func badRequest(format string, args ...any) answer { return badPayload("", format, args...) }

// badPayload says what is wrong with a payload. Programs that know Slack only get the code, which is a word of Slack's.
func badPayload(code, format string, args ...any) answer {
	return answer{status: http.StatusBadRequest, code: code, Message: fmt.Sprintf(format, args...)}
}

func malformed(err error) answer {
	return answer{status: http.StatusBadRequest, Message: "Request-body is malformed", Detail: err.Error()}
}

// decoder makes a message of a request's body: its route is that to a channel, or to the first entry of its tag. Its
// errors are answers.
type decoder func(r *http.Request, body []byte) (message, error)

// takes returns the handler of a way in: decode reads the body, send writes the answer. With tokenInBody, the token may
// be in the body.
func (s *server) takes(decode decoder, send func(answer, http.ResponseWriter), tokenInBody bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { send(s.take(w, r, decode, tokenInBody), w) }
}

// take is the way of every message from the request to accept. The body is read, bounded and checked here, before it is
// decoded.
func (s *server) take(w http.ResponseWriter, r *http.Request, decode decoder, tokenInBody bool) answer {
	res := w.(*response)
	if !res.mayPost && !(tokenInBody && tokenOf(r) == "") {
		return s.unauthorized(w)
	}
	body, done, err := s.readBody(w, r, !res.mayPost)
	defer done()
	if err != nil {
		w.Header().Set("Connection", "close") // some of the body may not have been read
		return err.(answer)
	}
	if !res.mayPost {
		var in struct{ Token string }
		json.Unmarshal(asJSON(body), &in)
		if res.identity = s.cfg().identify(in.Token); !res.mayPost {
			return s.unauthorized(w)
		}
	}
	m, err := decode(r, body)
	address, _, _ := net.SplitHostPort(r.RemoteAddr) // "" for a unix socket: the sender is on this host
	m.Host, m.Sender = cmp.Or(cleaned(m.Host, nameLimit), address, hostname()), res.Sender
	res.Tag, res.Host = cleaned(cmp.Or(m.route.tag, m.route.channel), nameLimit), m.Host
	switch {
	case err != nil:
		return answerTo(err, 0)
	case m.sync: // its post, or another request's with the same key, may take long
		done()
		longest := s.cfg().delayLimit() + postTimeout + 10*time.Second
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longest))
	}
	return s.accept(r.Header.Get("Idempotency-Key"), &m)
}

// hostname is the sender of what comes from this host.
func hostname() string {
	name, _ := os.Hostname()
	return cmp.Or(name, "localhost")
}

// readBody returns the body of r: valid UTF-8, at most bodyLimit bytes. Its errors are answers. done gives back the
// token that a large body holds. A stranger has not shown who asks yet: half of these tokens are not for strangers.
func (s *server) readBody(w http.ResponseWriter, r *http.Request, stranger bool) (body []byte, done func(), err error) {
	done = func() {}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		w.Header().Set("Accept-Encoding", "identity") // RFC 9110, 15.5.16
		coding = "Request-body is compressed (Content-Encoding: " + coding + "): send it uncompressed"
		return nil, done, answer{status: http.StatusUnsupportedMediaType, Message: coding}
	}
	reader := http.MaxBytesReader(w, r.Body, bodyLimit)
	if r.ContentLength <= bodyLimit { // else nothing of it is read
		body, err = io.ReadAll(io.LimitReader(reader, small))
	}
	if len(body) == small {
		busy := answerTo(errors.New("too many large requests at the same time"), time.Second)
		if stranger && len(s.bodies) >= maxLarge/2 {
			return nil, done, busy
		}
		select {
		case s.bodies <- struct{}{}:
			done = sync.OnceFunc(func() { <-s.bodies })
		case <-time.After(largeWait):
			return nil, done, busy
		}
		whole := bytes.NewBuffer(append(make([]byte, 0, max(r.ContentLength, small)+bytes.MinRead), body...))
		_, err = whole.ReadFrom(reader)
		body = whole.Bytes()
	}
	switch {
	case r.ContentLength > bodyLimit, errors.As(err, new(*http.MaxBytesError)):
		tooLarge := fmt.Sprintf("Request-body is larger than %d bytes", bodyLimit)
		err = answer{status: http.StatusRequestEntityTooLarge, Message: tooLarge}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = answer{status: http.StatusRequestTimeout, Message: "Request-body did not arrive in time"}
	case err != nil:
		err = malformed(err)
	}
	body = bytes.TrimPrefix(body, []byte("\ufeff")) // a byte order mark
	return bytes.ToValidUTF8(body, []byte("\ufffd")), done, err
}

// notify decodes the original's requests: a message for a tag or, directly, a payload for Slack. It does not look at
// the Content-Type: curl -d and fluentd send JSON as a form.
func (s *server) notify(r *http.Request, body []byte) (m message, err error) {
	var req struct {
		Tag, Host, Text, Level, Title string
		Payload                       json.RawMessage
		Sync                          bool
	}
	if err := json.Unmarshal(asJSON(body), &req); err != nil {
		return m, malformed(err)
	}
	if r.URL.Path == "/notify-directly" {
		return s.checked(message{Host: req.Host, Payload: req.Payload, sync: req.Sync})
	}
	m = message{Host: req.Host, Level: cleaned(req.Level, nameLimit), Title: cleaned(req.Title, titleLimit),
		Text: req.Text, route: route{tag: cleaned(req.Tag, nameLimit)}, sync: req.Sync}
	switch {
	case m.route.tag == "":
		err = badRequest("tag is missing")
	case s.cfg().byTag[m.route.tag] == nil:
		err = badRequest("%s", s.cfg().notFound(m.route.tag))
	case strings.TrimSpace(req.Text+req.Title) == "":
		err = badRequest("text is missing")
	}
	return m, err
}

// check answers whether a message for a tag or, without one, for a channel would be accepted now.
func (s *server) check(w http.ResponseWriter, r *http.Request) {
	tag, channel, err := r.URL.Query().Get("tag"), r.URL.Query().Get("channel"), error(nil)
	if tag == "" {
		_, err = s.checked(message{Payload: encode(ordered{"channel", channel, "text", "?"})})
	} else if s.cfg().byTag[tag] == nil {
		err = answer{status: http.StatusNotFound, Message: s.cfg().notFound(tag)}
	}
	answerTo(cmp.Or(s.ready(), err), 0).send(w)
}

// accept stores a message for all entries of its tag or, with sync, posts it now and answers what became of it. The
// answer to a key that was seen before is the same as the first time.
func (s *server) accept(key string, m *message) answer {
	m.queued = time.Now().UnixMilli()
	m.encoded() // once for all destinations: it may be large
	// A channel has no entries, and a tag has none any more if a reload has just taken it away.
	entries := max(1, len(s.cfg().byTag[m.route.tag]))
	messages, ids := make([]*message, entries), make([]string, entries)
	for i := range entries {
		one := *m
		one.ID, one.route.index = newID(), i
		if key != "" {
			one.ID = keyedID(key, one.route)
		}
		messages[i], ids[i] = &one, one.ID
	}
	a := s.answered.once(ids[0], key != "" && m.sync, func() answer {
		switch {
		case key != "" && s.spool.seen(messages):
			return answer{status: http.StatusOK}
		case m.sync:
			return s.acceptNow(messages)
		}
		return s.acceptLater(messages)
	})
	if a.status == http.StatusOK {
		a.Message, a.IDs = "ok", ids
	}
	return a
}

// acceptLater answers 200 once messages are on disk.
func (s *server) acceptLater(messages []*message) answer {
	if core := &s.cfg().core; core.qps > 0 && core.maxDelay >= 0 {
		before := s.ahead(messages[0].route) + len(messages) - 1
		delay := time.Duration(before) * time.Second / time.Duration(core.qps)
		if wait := delay - time.Duration(core.maxDelay)*time.Second; wait > 0 {
			tooMany := "too many messages wait for slack: qps delays them by more than max_delay_duration"
			return answer{status: http.StatusTooManyRequests, retryAfter: wait, Message: tooMany}
		}
	}
	if err := s.store(messages); err != nil {
		return answerTo(fmt.Errorf("message is not stored: %w", err), 5*time.Second)
	}
	return answer{status: http.StatusOK}
}

// keyedAnswers has the answers to requests in hand and the last keysKept answers to requests with sync and an
// Idempotency-Key: the spool knows nothing of a post that failed.
type keyedAnswers struct {
	byID sync.Map // by the id of a request's first message: a chan that holds the answer once there is one
	mu   sync.Mutex
	kept [keysKept]string // ids, in a ring
	next int              // in kept: the oldest
}

// once does what a request asks for and returns the answer. If another request for id was first, it waits for the
// answer to that. An answer that invites to try again is not kept: nothing was done.
func (k *keyedAnswers) once(id string, keep bool, do func() answer) (a answer) {
	known, others := k.byID.LoadOrStore(id, make(chan answer, 1))
	defer func() { known.(chan answer) <- a }()
	if others {
		return <-known.(chan answer)
	}
	a = do()
	k.mu.Lock()
	defer k.mu.Unlock()
	if keep && a.retryAfter == 0 { // then the oldest is forgotten
		id, k.kept[k.next] = k.kept[k.next], id
		k.next = (k.next + 1) % keysKept
	}
	k.byID.Delete(id)
	return a
}

// acceptNow posts to all destinations side by side. No post waits for its turn longer than qps may delay it.
func (s *server) acceptNow(messages []*message) answer {
	outs, limit := make(chan outcome, len(messages)), s.cfg().delayLimit()
	for _, m := range messages {
		go func() { outs <- s.postNow(m, limit) }()
	}
	a, n := answer{status: http.StatusOK}, [limited + 1]int{} // how many outcomes there are of each class
	for range messages {
		o := <-outs
		n[o.class]++
		if o.class != delivered {
			a.status, a.Message = http.StatusBadGateway, "failed to post message to slack: "+o.reason
			a.retryAfter = max(a.retryAfter, o.wait, time.Second)
		}
		if o.unsure {
			a.Detail = "it may have been posted all the same"
		}
	}
	if n[retry]+n[limited] < len(messages) || a.Detail != "" { // trying again does not help, or doubles something
		a.retryAfter = 0
	} else if n[retry] == 0 {
		a.status = http.StatusTooManyRequests
	}
	return a
}

// configApp shows the running configuration, with secrets masked.
func (s *server) configApp(w http.ResponseWriter, _ *http.Request) {
	answer{status: http.StatusOK}.write(w, "text/plain; charset=utf-8", []byte(s.cfg().masked()))
}
