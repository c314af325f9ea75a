package main

// HTTP in: the route table, and the path of a request to accept. Every request that brings a message goes through
// take, which reads the body, has it decoded and checked, and calls accept. accept stores the message or, with sync,
// posts it at once.

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
	bodyLimit = 1 << 20  // bytes: the largest body of a request
	largeFrom = 16 << 10 // bytes: a body of this size or more needs a slot
	maxLarge  = 8        // slots: large bodies in memory at the same time
	largeWait = 5 * time.Second
)

// server answers HTTP requests. It embeds the deliverer, which has the spool and the counters. run builds it, once.
type server struct {
	*deliverer
	access    io.Writer     // the access log
	bodies    chan struct{} // a slot for each large body in memory
	searching sync.Mutex    // held while a request searches the spool or reads a message to show it
	answered  keyedAnswers
	lost      func() int64 // returns how many log lines could not be written
	gc        gcSample
}

// handler returns the route table. Around it, each request is counted and gets its line in the access log.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(who access, pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, s.guarded(who, h)) }
	handle(anybody, "POST /notify", s.takes(s.notify, answer.send, false))
	handle(anybody, "POST /notify-directly", s.takes(s.notify, answer.send, false))
	handle(anybody, "POST /services/{tag}", s.takes(s.webhook, answer.sendAsWebhook, false))
	handle(anybody, "POST /services/{tag}/{token...}", s.takes(s.webhook, answer.sendAsWebhook, false))
	handle(anybody, "POST /api/chat.postMessage", s.takes(s.postMessage, answer.sendAsAPI, true))
	handle(anybody, "POST /api/auth.test", s.takes(authTest, answer.sendAsAPI, true))
	handle(anybody, "/api/", func(w http.ResponseWriter, _ *http.Request) { badRequest("unknown_method").sendAsAPI(w) })
	handle(anybody, "GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerTo(nil, 0).send(w) })
	handle(anybody, "GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answerTo(s.ready(), 0).send(w) })
	handle(senders, "GET /check", s.check)
	handle(operators, "GET /stat/go", shows(s.statGo))
	handle(operators, "GET /stat/app", shows(s.statApp))
	handle(operators, "GET /metrics", s.metrics)
	handle(operators, "GET /debug/vars", shows(s.debugVars))
	handle(operators, "GET /config/app", s.configApp)
	handle(operators, "GET /app/config", s.configApp) // the path in version 0.6 of the original
	handle(operators, "GET /ui/{file...}", s.page)
	handle(operators, "GET /ui", toPage)
	handle(operators, "GET /{$}", toPage)
	handle(operators, "/", func(w http.ResponseWriter, r *http.Request) { s.answerUnknown(mux, w, r) })
	handle(operatorsHere, "GET /messages", s.listMessages)
	handle(operatorsHere, "GET /messages/{id}", shows(s.showMessage))
	handle(operatorsHere, "POST /messages/{id}/retry", s.toOne(s.dueNow, s.resend))
	handle(operatorsHere, "POST /messages/retry", s.toAll(s.resend, "tag"))
	handle(operatorsHere, "DELETE /messages/{id}", s.toOne(s.drop, s.dropDead))
	handle(operatorsHere, "DELETE /messages", s.toAll(s.dropDead, "state", "tag"))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res := &response{
			ResponseWriter: w, Type: "accepted-request", Time: time.Now(), RemoteAddr: r.RemoteAddr,
			Method: r.Method, Proto: r.Proto, ContentLength: r.ContentLength, Status: http.StatusOK,
		}
		u := r.URL
		slash := r.Method == http.MethodPost && strings.HasSuffix(u.Path, "/") && u.Path != "/api/" // the mux adds that
		if slash || strings.Contains(u.Path, "//") {
			u.Path, u.RawPath = path.Clean(u.Path), path.Clean(u.RawPath) // the original's clients post to //notify
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(res, r)
		s.stats.requests.Add(fmt.Sprintf(`route=%q,status="%d"`, r.Pattern, res.Status), 1)
		poll := r.Method == http.MethodGet && res.Status == http.StatusOK && r.Header.Get(pollHeader) != ""
		if poll && !s.log.Enabled(r.Context(), slog.LevelDebug) {
			return // the page sends these every few seconds: they are logged at level debug only
		}
		res.URI = cleaned(s.shownURI(r), bodyLimit)
		res.DurationMS = float64(time.Since(res.Time).Microseconds()) / 1000
		s.access.Write(append(encode(res), '\n'))
	})
}

// answerUnknown answers a request that no pattern matches: 405 if another method would match, else 404.
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

// response records who makes a request and what the answer is. Encoded as JSON it is the line of the access log. The
// original's keys come first.
type response struct {
	http.ResponseWriter `json:"-"`

	Type          string    `json:"type"`
	Time          time.Time `json:"time"`
	RemoteAddr    string    `json:"remote_addr"`
	URI           string    `json:"uri"`
	Method        string    `json:"method"`
	Proto         string    `json:"proto"`
	ContentLength int64     `json:"content_length"`
	Tag           string    `json:"tag"` // without a tag: the channel
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

// answer is a short answer; send writes it as JSON. A request for a document, such as /stat/app, gets an answer only
// if there is an error.
type answer struct {
	Message string   `json:"message"`
	Detail  string   `json:"detail,omitempty"`
	IDs     []string `json:"ids,omitempty"` // of the accepted messages, one for each destination

	status     int
	code       string        // Slack's code for the error; "" if Slack has none
	retryAfter time.Duration // for Retry-After; 0: a retry cannot help, could double a message, or the time is unknown
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

// Error makes answer an error, for functions that refuse a request: they return the answer as their error.
func (a answer) Error() string { return a.Message }

// answerTo returns the answer for err: 200 if err is nil, err itself if it is an answer, 404 if it is errGone, else
// 503. The 503 gets retryAfter; if that is 0, it does not say when to try again.
func answerTo(err error, retryAfter time.Duration) answer {
	a := answer{status: http.StatusOK, Message: "ok"}
	switch {
	case err == nil, errors.As(err, &a):
		return a
	case errors.Is(err, errGone):
		return answer{status: http.StatusNotFound, Message: "there is no such message, or it is not kept any more"}
	}
	return answer{status: http.StatusServiceUnavailable, Message: err.Error(), retryAfter: retryAfter}
}

func badRequest(format string, args ...any) answer { return badPayload("", format, args...) }

// badPayload returns a 400 that says what is wrong with a payload. code is Slack's code for the fault, or "".
// Programs that know only Slack's API get the code instead of the message.
func badPayload(code, format string, args ...any) answer {
	return answer{status: http.StatusBadRequest, code: code, Message: fmt.Sprintf(format, args...)}
}

func malformed(err error) answer {
	return answer{status: http.StatusBadRequest, Message: "Request-body is malformed", Detail: err.Error()}
}

// A decoder makes a message from the body of a request. The route of the message leads to a channel, or to the first
// entry of a tag. The errors of a decoder are answers.
type decoder func(r *http.Request, body []byte) (message, error)

// takes returns the handler of one way in. decode makes the message from the body, send writes the answer. With
// tokenInBody, the token may be in the body if there is none in the path or the header.
func (s *server) takes(decode decoder, send func(answer, http.ResponseWriter), tokenInBody bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { send(s.take(w, r, decode, tokenInBody), w) }
}

// take brings a message from the request to accept: every message comes this way. It checks the token and reads the
// body, whose size is limited, before decode gets the body.
func (s *server) take(w http.ResponseWriter, r *http.Request, decode decoder, tokenInBody bool) answer {
	res := w.(*response)
	if !res.mayPost && !(tokenInBody && tokenOf(r) == "") {
		return s.unauthorized(w)
	}
	body, done, err := s.readBody(w, r, !res.mayPost)
	defer done()
	if err != nil {
		w.Header().Set("Connection", "close") // a part of the body may not have been read
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
	address, _, _ := net.SplitHostPort(r.RemoteAddr) // "" for a unix socket: the client is on this host
	m.Host, m.Sender = cmp.Or(cleaned(m.Host, nameLimit), address, hostname()), res.Sender
	res.Tag, res.Host = cleaned(cmp.Or(m.route.tag, m.route.channel), nameLimit), m.Host
	switch {
	case err != nil:
		return answerTo(err, 0)
	case m.sync: // this post, or that of an earlier request with the same key, may take long
		done()
		longest := s.cfg().delayLimit() + postTimeout + 10*time.Second
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longest))
	}
	return s.accept(r.Header.Get("Idempotency-Key"), &m)
}

// hostname returns this host's name. It is the host of a message that comes over a unix socket and names no host, and
// of the server's own messages.
func hostname() string {
	name, _ := os.Hostname()
	return cmp.Or(name, "localhost")
}

// readBody reads the body of r, at most bodyLimit bytes, and returns it as valid UTF-8. Its errors are answers. A
// large body holds a slot until done is called. stranger means that the request has not shown a valid token yet: a
// stranger with a large body is refused at once while half of the slots are in use.
func (s *server) readBody(w http.ResponseWriter, r *http.Request, stranger bool) (body []byte, done func(), err error) {
	done = func() {}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		w.Header().Set("Accept-Encoding", "identity") // RFC 9110, section 15.5.16
		coding = "Request-body is compressed (Content-Encoding: " + coding + "): send it uncompressed"
		return nil, done, answer{status: http.StatusUnsupportedMediaType, Message: coding}
	}
	reader := http.MaxBytesReader(w, r.Body, bodyLimit)
	if r.ContentLength <= bodyLimit { // a body that is announced as too large is not read at all
		body, err = io.ReadAll(io.LimitReader(reader, largeFrom))
	}
	if len(body) == largeFrom {
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
		whole := bytes.NewBuffer(append(make([]byte, 0, max(r.ContentLength, largeFrom)+bytes.MinRead), body...))
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

// notify decodes the original's requests: /notify has a message for a tag, /notify-directly has a payload for Slack.
// notify ignores the Content-Type: curl -d and fluentd send JSON but call it a form.
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

// check answers whether a message would be accepted now: a message for the tag in the query or, if there is none, for
// the channel in the query.
func (s *server) check(w http.ResponseWriter, r *http.Request) {
	tag, channel, err := r.URL.Query().Get("tag"), r.URL.Query().Get("channel"), error(nil)
	if tag == "" {
		_, err = s.checked(message{Payload: encode(ordered{"channel", channel, "text", "?"})})
	} else if s.cfg().byTag[tag] == nil {
		err = answer{status: http.StatusNotFound, Message: s.cfg().notFound(tag)}
	}
	answerTo(cmp.Or(s.ready(), err), 0).send(w)
}

// accept stores m once for each entry of its tag or, with sync, posts m to each entry now and answers what became of
// the posts. key is the Idempotency-Key of the request, or "". If a request with the same key was answered before,
// accept answers the same again, and stores and posts nothing. The exception is an answer with retryAfter: nothing
// had been done, so accept tries now.
func (s *server) accept(key string, m *message) answer {
	m.queued = time.Now().UnixMilli()
	m.encoded() // here, so that the copies for all destinations share the JSON: it may be large
	// There are no entries for a message to a channel, and none for a tag that a reload has just removed.
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

// acceptLater stores messages. It answers 200 only once they are on disk.
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
		return answerTo(fmt.Errorf("the message was not stored: %w", err), 5*time.Second)
	}
	return answer{status: http.StatusOK}
}

// keyedAnswers holds the requests in progress, and the last keysKept answers to requests with sync and an
// Idempotency-Key. These answers have to be kept here: the spool does not know of a post that failed.
type keyedAnswers struct {
	byID sync.Map // from the id of a request's first message to a chan, which holds the answer once there is one
	mu   sync.Mutex
	kept [keysKept]string // ids of the answers that are kept, in a ring
	next int              // index of the oldest in kept
}

// once calls do and returns its answer. If another request with the same id came first, once does not call do: it
// waits for that request's answer and returns it. With keep, the answer is kept for later requests, unless it has
// retryAfter: then nothing was done, and the next request tries again.
func (k *keyedAnswers) once(id string, keep bool, do func() answer) (a answer) {
	known, others := k.byID.LoadOrStore(id, make(chan answer, 1))
	defer func() { known.(chan answer) <- a }()
	if others {
		return <-known.(chan answer)
	}
	a = do()
	k.mu.Lock()
	defer k.mu.Unlock()
	if keep && a.retryAfter == 0 { // keep id, and forget the oldest instead
		id, k.kept[k.next] = k.kept[k.next], id
		k.next = (k.next + 1) % keysKept
	}
	k.byID.Delete(id)
	return a
}

// acceptNow posts to all destinations at the same time. No post waits for its turn longer than delayLimit, or 1 s if
// that is shorter.
func (s *server) acceptNow(messages []*message) answer {
	outs, limit := make(chan outcome, len(messages)), s.cfg().delayLimit()
	for _, m := range messages {
		go func() { outs <- s.postNow(m, limit) }()
	}
	a, n := answer{status: http.StatusOK}, [limited + 1]int{} // n: how many outcomes of each class
	for range messages {
		o := <-outs
		n[o.class]++
		if o.class != delivered {
			a.status, a.Message = http.StatusBadGateway, "failed to post message to slack: "+o.reason
			a.retryAfter = max(a.retryAfter, o.wait, time.Second)
		}
		if o.unsure {
			a.Detail = "the message may have been posted nevertheless"
		}
	}
	if n[retry]+n[limited] < len(messages) || a.Detail != "" { // a retry does not help, or doubles a message
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
