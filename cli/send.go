package cli

// A message as a request, and how it is sent: to one server after the other, in rounds.
//
// The spool is a folder that keeps each message until a server has it. A message is one file that only its owner may
// read, DIR/20060102T150405.000000000Z-KEY.json. The names sort by time, and the oldest message is sent first. If a
// server refuses an earlier run's message for good, or if a file is not a request, the file is renamed to *.bad. Files
// with other names are not touched.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 60 * time.Second // long, because a server answers a sync request after Slack
	drainTime      = 10 * time.Second // limits the wait for another run and the sending of older messages
	defaultPort    = "29800"
	maxRequest     = 1 << 20 // bytes of a request's body: a server takes no more
	titleLimit     = 1000    // characters
)

// request is a message to be sent, and as JSON the content of a file in the spool. The token is not part of it.
type request struct {
	Path string          `json:"path"`
	To   string          `json:"to,omitempty"` // the tag or the channel
	Key  string          `json:"key"`          // the Idempotency-Key: a server takes one key only once
	Body json.RawMessage `json:"body"`         // nil for -check
}

// request returns the message as a request. It cuts the text if the body would be larger than a server takes.
func (f *Flags) request() request {
	r := request{Path: "/notify", To: cmp.Or(f.Tag, channel(f.Channel)), Key: rand.Text()}
	if f.Tag == "" {
		r.Path = "/notify-directly"
	}
	for limit := maxRequest; ; limit = int(int64(limit) / 16 * 15 * maxRequest / int64(len(r.Body))) {
		if r.Body = encode(f.body(f.Text(limit))); len(r.Body) <= maxRequest || limit == 0 {
			return r
		}
	}
}

// body returns the fields of the request: those of /notify for a tag, those of /notify-directly for a channel.
func (f *Flags) body(text string) map[string]any {
	host, _ := os.Hostname()
	title := Cut(f.Title, titleLimit, Plain)
	body := map[string]any{"tag": f.Tag, "host": host, "text": text, "level": f.Level, "title": title, "sync": f.Sync}
	if f.Tag != "" {
		return body
	}
	payload := map[string]any{
		"channel": channel(f.Channel), "username": f.Username, "icon_emoji": f.Icon, "parse": f.Markup,
	}
	color := cmp.Or(f.Color, map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[f.Level])
	if color == "" && title == "" {
		payload["text"] = text
	} else {
		payload["attachments"] = []map[string]any{{
			"color": color, "title": title, "text": text, "footer": host, "mrkdwn_in": []string{"text"},
			"fallback": strings.TrimPrefix(title+": "+text, ": "), // what notifications show
		}}
	}
	return map[string]any{"payload": payload, "host": host, "sync": f.Sync}
}

// channel puts # in front of the name of a channel. A name stays as it is if it is empty, begins with # or @, or is
// the id of a channel, a direct message, a group or a user.
func channel(name string) string {
	if regexp.MustCompile(`^[#@]|^[CDGU][A-Z0-9]{8,}$|^$`).MatchString(name) {
		return name
	}
	return "#" + name
}

// encode returns v as JSON. Bytes that are not UTF-8 become U+FFFD. & < > are not escaped.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v) // cannot fail: v has strings, booleans, and JSON from encode
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// server is one of the servers in -s.
type server struct {
	name, base string // unix:/path or host:port, for error messages; the URL in front of /notify
	client     *http.Client
}

// parseServers reads the argument of -s. It returns at least one server, or an error. The HTTP clients use no proxy:
// the servers and the token are the user's own. They follow no redirect: a redirect could turn the POST into a GET, or
// take the token to another server.
func parseServers(list string, config *tls.Config) (servers []server, err error) {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		address, isURL := strings.TrimRight(name, "/"), strings.Contains(name, "://")
		network, socket := "tcp", ""
		if path, ok := strings.CutPrefix(name, "unix:"); ok && path != "" {
			address, network, socket = "http://localhost", "unix", path
		} else if !isURL {
			address = "http://" + address
		}
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" || name == "unix:" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not a server: host, host:port, http://…, https://… or unix:/path", name)
		}
		if socket == "" && !isURL && u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
		}
		if socket == "" {
			name = u.Host
		}
		dial := func(ctx context.Context, _, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, cmp.Or(socket, address))
		}
		transport := &http.Transport{DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: connectTimeout}
		servers = append(servers, server{name, u.String(), &http.Client{
			Transport:     transport,
			Timeout:       connectTimeout + answerTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}})
	}
	return servers, nil
}

// Ready reads the files of the token and the certificates, and the argument of -s. No error shows the token.
func (f *Flags) Ready() (err error) {
	f.token = f.Auth
	if path, ok := strings.CutPrefix(f.Auth, "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("-auth: %w", err)
		}
		f.token = strings.TrimRight(string(content), "\r\n")
	}
	if f.Auth != "" && !regexp.MustCompile(`^[!-~]+$`).MatchString(f.token) {
		return errors.New("-auth: the token is not one word of printable characters")
	}
	var config tls.Config
	if f.CACert != "" {
		pem, err := os.ReadFile(f.CACert)
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("-cacert: %w", cmp.Or(err, errors.New("there is no certificate in "+f.CACert)))
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return fmt.Errorf("-cert and -key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	f.servers, err = parseServers(f.Servers, &config)
	return err
}

// Report asks every server whether it would take a message. It sends none. It prints one line, ok or what is wrong,
// and returns the exit status.
func (f *Flags) Report() int {
	err := f.Ready()
	query := url.Values{"tag": {f.Tag}, "channel": {channel(f.Channel)}}
	for _, s := range f.servers {
		err = errors.Join(err, f.post(context.Background(), s, request{Path: "/check?" + query.Encode()}).err)
	}
	if err != nil {
		f.Complain(err)
		return 1
	}
	fmt.Printf("%s: ok: %s takes messages for %s\n", f.program, f.Servers, cmp.Or(f.Tag, channel(f.Channel)))
	return 0
}

// failure says why a server did not take a request. The zero value means that a server took it.
type failure struct {
	err     error
	final   bool          // this run must not try the request again
	refused bool          // later runs must not try it either: the request itself is wrong
	wait    time.Duration // the server's Retry-After, 0 without one
}

// Send sends the message, tells the user if that fails, and returns the exit status. With -spool and without -sync,
// the message is first stored in the spool, and sent after the older messages there. Then the exit status is 0 even if
// no server takes the message, unless a server refuses it for good. A message that cannot be stored is sent without
// the spool.
func (f *Flags) Send(ctx context.Context) int {
	r, isKept, send := f.request(), false, f.insist
	if f.Spool != "" && !f.Sync {
		if err := store(f.Spool, r); err == nil {
			isKept, send = true, f.drain
		} else {
			f.Complain(fmt.Errorf("-spool: not kept: %w", err))
		}
	}
	switch fail := send(ctx, r); {
	case fail.err == nil:
	case isKept && !fail.refused:
		f.Complain(fmt.Errorf("kept in %s for a later run: %w", f.Spool, fail.err))
	default:
		f.Complain(fmt.Errorf("not sent: %w", fail.err))
		return 1
	}
	return 0
}

// insist sends r, in up to 1+RetryMax rounds. Between two rounds it waits for the longest Retry-After of the servers
// or, without one, for RetryWaitMin, doubled for each round; never longer than RetryWaitMax. It stops early after a
// final failure, or if ctx ends during a wait.
func (f *Flags) insist(ctx context.Context, r request) failure {
	if err := f.Ready(); err != nil {
		return failure{err: err, final: true}
	}
	for round := uint(0); ; round++ {
		fail := f.round(ctx, r)
		if fail.err == nil || fail.final || round >= f.RetryMax {
			return fail
		}
		wait := min(cmp.Or(fail.wait, f.RetryWaitMin<<min(round, 20)), f.RetryWaitMax)
		if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			f.Complain(fmt.Errorf("%w: the next try is in %v", fail.err, wait))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fail
		}
	}
}

// round offers r to one server after the other, until a server takes it or the failure is final. Otherwise it returns
// the errors of all servers and the longest Retry-After.
func (f *Flags) round(ctx context.Context, r request) (all failure) {
	for _, s := range f.servers {
		fail := f.post(ctx, s, r)
		if fail.err == nil || fail.final {
			return fail
		}
		all = failure{err: errors.Join(all.err, fail.err), wait: max(all.wait, fail.wait)}
	}
	return all
}

// post sends r to s. An error has the name of s and, if the name is not an address, the address that answered.
func (f *Flags) post(ctx context.Context, s server, r request) failure {
	name := s.name
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if address := c.Conn.RemoteAddr().String(); !strings.HasSuffix(name, address) {
			name = fmt.Sprintf("%s (%s)", s.name, address)
		}
	}})
	method := map[bool]string{true: http.MethodGet, false: http.MethodPost}[r.Body == nil]
	req, err := http.NewRequestWithContext(ctx, method, s.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return failure{err: err, final: true, refused: true}
	}
	req.Header.Set("Content-Type", "application/json")
	// Our own keys stay as they are. A file that somebody else put into the spool may have any key.
	req.Header.Set("Idempotency-Key", url.QueryEscape(r.Key))
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return failure{err: fmt.Errorf("%s: %w", name, errors.Unwrap(err))} // Unwrap removes the URL
	}
	defer resp.Body.Close()
	// The error does not matter: half an answer is not JSON, so judge does not take it for slackboard's.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return judge(name, resp, answer)
}

// judge returns what an answer means. An answer without slackboard's JSON comes from a proxy or from another program:
// no server was reached, so the failure is not final. A 413 is final whoever sends it: the request is too large. A 502
// without a Retry-After is final, because Slack has refused the message or may have posted it. A 401 or 403 is final
// for this run, but does not refuse the request: a later run may have another token.
func judge(name string, resp *http.Response, answer []byte) (fail failure) {
	var said struct{ Message string }
	ours, status := json.Unmarshal(answer, &said) == nil && said.Message != "", resp.StatusCode
	text := ": " + said.Message
	if !ours {
		line, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
		text = fmt.Sprintf(", and not as slackboard does: %.200q", line)
	}
	fail.err = fmt.Errorf("%s answered %d%s", name, status, text)
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	fail.wait = time.Duration(min(seconds, 1<<30)) * time.Second
	switch {
	case ours && status == 200:
		return failure{}
	case !ours && status != 413, status == 429, status == 503, status == 504, status == 502 && err == nil:
	case status == 401, status == 403:
		fail.err, fail.final = fmt.Errorf("%w (see -auth and -cert)", fail.err), true
	default:
		fail.final, fail.refused = true, status/100 == 4
	}
	return fail
}

// Flush sends the messages in the spool, for a run without a message of its own. A message that cannot be sent stays
// in the spool. Without -spool, Flush does nothing.
func (f *Flags) Flush(ctx context.Context) { f.drain(ctx, request{}) }

// store returns nil once r is in a file that would survive a power cut.
func store(dir string, r request) error {
	if os.Mkdir(dir, 0o700) == nil {
		syncPath(filepath.Dir(dir))
	}
	name := time.Now().UTC().Format("20060102T150405.000000000Z") + "-" + r.Key + ".json"
	tmp := filepath.Join(dir, ".new-"+r.Key)
	defer os.Remove(tmp) // has no effect after the rename
	if err := cmp.Or(os.WriteFile(tmp, encode(r), 0o600), syncPath(tmp)); err != nil {
		return err
	}
	return cmp.Or(os.Rename(tmp, filepath.Join(dir, name)), syncPath(dir))
}

func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}

// drain sends the messages in the spool, the oldest first and own last, and returns why own was not sent. If another
// run is sending, drain waits for that run or, without own, returns at once. This wait and the sending of older
// messages take drainTime at most. A message that cannot be sent now holds back only later messages for the same tag
// or channel. A message that is refused for good is set aside as *.bad, except own: its file is removed, and the
// caller tells the user.
func (f *Flags) drain(ctx context.Context, own request) failure {
	dir, err := os.Open(f.Spool)
	if err != nil {
		return failure{err: err}
	}
	defer dir.Close() // releases the lock, too
	if err := f.Ready(); err != nil {
		return failure{err: err}
	}
	late, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	for errors.Is(syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		if own.Key == "" || late.Err() != nil {
			return failure{err: errors.New("another run is sending")}
		}
		time.Sleep(20 * time.Millisecond)
	}
	blocked := map[string]failure{}
	entries, err := os.ReadDir(f.Spool) // sorted; after an error, those that could be read
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || !e.Type().IsRegular() { // reading a named pipe would block
			continue
		}
		path, isOwn := filepath.Join(f.Spool, e.Name()), strings.HasSuffix(e.Name(), "-"+own.Key+".json")
		until := map[bool]context.Context{true: ctx, false: late}[isOwn]
		var r request
		content, err := os.ReadFile(path)
		fail := failure{err: errors.New("it is not a request"), refused: true}
		if json.Unmarshal(content, &r) == nil && strings.HasPrefix(r.Path, "/notify") && r.Body != nil {
			fail = blocked[r.To]
		}
		if fail.err == nil {
			fail = f.round(until, r)
		}
		switch {
		case err != nil: // not readable, such as another user's file: leave it alone
		case fail.err == nil || fail.refused && isOwn:
			err = os.Remove(path) // no sync: if a power cut brings it back, the server knows its key
		case fail.refused:
			f.Complain(fmt.Errorf("set aside as %s.bad: %w", path, fail.err))
			err = os.Rename(path, path+".bad")
		default:
			blocked[r.To] = fail
		}
		if err != nil {
			f.Complain(fmt.Errorf("-spool: %w", err))
		}
		if isOwn {
			return fail
		}
	}
	return failure{err: err} // nil: there is no own, or another run has sent it or set it aside
}
