package cli

// The message as a request, and its way to the servers: one after the other, round after round.
//
// The spool is a folder that keeps messages until a server has them: one file each, for its owner only,
// DIR/20060102T150405.000000000Z-KEY.json. Names sort by time, and the oldest goes first; what a server refuses for
// good becomes *.bad. Nothing else in the folder is touched.

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
	answerTimeout  = 60 * time.Second // long, because a sync answer waits for Slack
	drainTime      = 10 * time.Second // for what other runs have left, and for those to end that are sending it
	defaultPort    = "29800"
	maxRequest     = 1 << 20 // what a server takes: bytes of a request's body
	titleLimit     = 1000    // characters
)

// request is a message on its way. This is also what the spool keeps of it: there is no token in it.
type request struct {
	Path string          `json:"path"`
	To   string          `json:"to,omitempty"` // the tag or the channel
	Key  string          `json:"key"`          // by which a server finds out that it has the message already
	Body json.RawMessage `json:"body"`         // nil: the request is a question
}

// request returns the message as a request. It cuts as much of the text as a server would not take.
func (f *Flags) request() request {
	r := request{Path: "/notify", To: cmp.Or(f.Tag, channel(f.Channel)), Key: rand.Text()}
	if f.Tag == "" {
		r.Path = "/notify-directly"
	}
	for limit := maxRequest; ; limit = limit / 16 * 15 * maxRequest / len(r.Body) {
		if r.Body = encode(f.body(f.Text(limit))); len(r.Body) <= maxRequest || limit == 0 {
			return r
		}
	}
}

// body returns the message as the server knows it.
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

// channel puts # in front of a channel's name, except of #names, @names and ids of channels, direct messages, groups
// and users.
func channel(name string) string {
	if regexp.MustCompile(`^[#@]|^[CDGU][A-Z0-9]{8,}$|^$`).MatchString(name) {
		return name
	}
	return "#" + name
}

// encode returns v as JSON. Bytes that are not UTF-8 become U+FFFD; & < > stay one byte each.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v) // of strings and booleans: no error
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// server is one place where requests go.
type server struct {
	name, base string // for people: unix:/path or host:port; and the URL in front of /notify
	client     *http.Client
}

// parseServers reads the argument of -s. There is at least one server in what it returns. Their clients use no proxy:
// the servers are our own, and so is the token. They follow no redirect: that would make a GET of the POST, or take the
// token elsewhere.
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

// Ready reads the files that the flags name. No error shows the token.
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

// Report asks all servers whether they would take a message, and sends none. It prints one line that says what is
// wrong, or ok, and returns the exit status.
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

// failure is why a request was not taken. The zero value means that it was taken.
type failure struct {
	err     error
	final   bool          // this run asks no server again
	refused bool          // later runs ask no server again either: the request itself is wrong
	wait    time.Duration // the server's Retry-After, 0 without one
}

// Send hands the message to a server, tells the user if that fails, and returns the exit status. With a spool, the
// message is stored first, and sent after older ones: then a server that cannot be reached is no failure.
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

// insist sends r, round after round.
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

// round offers r to one server after the other, until a server takes it or refuses it for good.
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

// post offers r to s.
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
	req.Header.Set("Idempotency-Key", url.QueryEscape(r.Key)) // it stays as it is, unless somebody has made the file
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return failure{err: fmt.Errorf("%s: %w", name, errors.Unwrap(err))} // without the URL
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // judge does not take half an answer for slackboard's
	return judge(name, resp, answer)
}

// judge returns what an answer means. An answer that is not slackboard's comes from a proxy or from another program:
// then no server was reached, except that a 413 is always about the request. A 502 is final, except with a Retry-After:
// Slack has refused the message, or may have posted it.
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

// Flush sends what the spool keeps, for a run without a message of its own. What cannot be sent stays.
func (f *Flags) Flush(ctx context.Context) { f.drain(ctx, request{}) }

// store returns nil once r is in a file that would survive a power cut.
func store(dir string, r request) error {
	if os.Mkdir(dir, 0o700) == nil {
		syncPath(filepath.Dir(dir))
	}
	name := time.Now().UTC().Format("20060102T150405.000000000Z") + "-" + r.Key + ".json"
	tmp := filepath.Join(dir, ".new-"+r.Key)
	defer os.Remove(tmp) // unless it is renamed
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

// drain sends what the spool keeps, the oldest first, and own last. It returns why own was not sent. If another run is
// sending, drain waits for that run, or returns at once if there is no own. A message that cannot be sent now holds
// back the messages to the same tag or channel, and no others.
func (f *Flags) drain(ctx context.Context, own request) failure {
	dir, err := os.Open(f.Spool)
	if err != nil {
		return failure{err: err}
	}
	defer dir.Close() // which gives up the lock, too
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
	entries, _ := os.ReadDir(f.Spool) // in order; if it cannot be read, own is not sent
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || !e.Type().IsRegular() { // a named pipe would make us wait
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
		case err != nil: // another user's
		case fail.err == nil || fail.refused && isOwn:
			err = os.Remove(path) // if it comes back after a power cut, the server knows its key
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
	return failure{} // another run has sent own
}
