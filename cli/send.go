package cli

// The way to the servers: one after the other, round after round.

import (
	"bytes"
	"cmp"
	"context"
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
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 60 * time.Second // long, because a sync answer waits for Slack
	defaultPort    = "29800"
)

// server is one place where requests go.
type server struct {
	name   string // for people: unix:/path or host:port
	base   string // the URL in front of /notify
	client *http.Client
}

// parseServers reads the argument of -s. There is at least one server in what it returns.
func parseServers(list string, config *tls.Config) ([]server, error) {
	var servers []server
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
			servers = append(servers, server{s, "http://localhost", newClient(path, config)})
			continue
		}
		address, isURL := strings.TrimRight(s, "/"), strings.Contains(s, "://")
		if !isURL {
			address = "http://" + address
		}
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" || s == "unix:" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not a server: host, host:port, http://…, https://… or unix:/path", s)
		}
		if !isURL && u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
		}
		servers = append(servers, server{u.Host, u.String(), newClient("", config)})
	}
	return servers, nil
}

// way carries requests to the servers.
type way struct {
	servers []server
	token   string
}

// kind says what a failure is about. From sender on it is final: no server is asked again.
type kind int

const (
	absent  kind = iota // no slackboard answers there now
	busy                // slackboard takes nothing now for that tag or channel
	sender              // who sends it, or what lies in between: what the spool keeps stays there
	refused             // the request
)

// failure is why a request was not taken. Its zero value: it was.
type failure struct {
	err  error
	kind kind
	wait time.Duration // what the server asks for before the next try, 0 if it does not say
}

// Send hands m to a server. With a spool, m goes behind what that keeps already, and an error means that m is not
// kept either.
func (f *Flags) Send(ctx context.Context, m Message) error {
	r := f.request(m)
	if f.Spool != "" && f.Sync {
		f.Flush(ctx)
	} else if f.Spool != "" {
		own, err := store(f.Spool, r)
		switch fail := f.drain(ctx, own); {
		case err != nil:
			f.Complain(fmt.Errorf("-spool: not kept: %w", err))
		case fail.err == nil || fail.kind == refused:
			return fail.err
		default:
			f.Complain(fmt.Errorf("kept in %s for a later run: %w", f.Spool, fail.err))
			return nil
		}
	}
	w, err := f.way()
	for round := uint(0); err == nil; round++ {
		fail := w.round(ctx, r)
		if fail.err == nil || fail.kind >= sender || round >= f.RetryMax {
			return fail.err
		}
		wait := min(cmp.Or(fail.wait, f.RetryWaitMin<<min(round, 20)), f.RetryWaitMax)
		if _, ok := TerminalGroup(os.Stderr.Fd()); ok {
			f.Complain(fmt.Errorf("%w: the next try is in %v", fail.err, wait))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fail.err
		}
	}
	return err
}

// Report asks all servers whether they would take a message, and sends none. It prints what is wrong, or that nothing
// is, in one line, and returns the exit status.
func (f *Flags) Report(ctx context.Context) int {
	w, err := f.way()
	query := url.Values{"tag": {f.Tag}, "channel": {channel(f.Channel)}}
	for _, s := range w.servers {
		err = errors.Join(err, w.post(ctx, s, request{Path: "/check?" + query.Encode()}).err)
	}
	if err != nil {
		f.Complain(err)
		return 1
	}
	fmt.Printf("%s: ok: %s takes messages for %s\n", f.program, f.Servers, cmp.Or(f.Tag, channel(f.Channel)))
	return 0
}

// CheckFiles tells the user which of the files that Send will read cannot be read now.
func (f *Flags) CheckFiles() {
	if _, err := f.way(); err != nil {
		f.Complain(err)
	}
}

// way reads the files that the flags name. No error shows the token.
func (f *Flags) way() (w way, err error) {
	w.token = f.Auth
	if path, ok := strings.CutPrefix(f.Auth, "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			return w, fmt.Errorf("-auth: %w", err)
		}
		w.token = strings.TrimRight(string(content), "\r\n")
	}
	isOdd := func(c rune) bool { return c <= ' ' || c > '~' }
	if f.Auth != "" && (w.token == "" || strings.ContainsFunc(w.token, isOdd)) {
		return w, errors.New("-auth: the token is not one word of printable characters")
	}
	var config tls.Config
	if f.CACert != "" {
		pem, err := os.ReadFile(f.CACert)
		if config.RootCAs = x509.NewCertPool(); err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("there is no certificate in %s", f.CACert)
		}
		if err != nil {
			return w, fmt.Errorf("-cacert: %w", err)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return w, fmt.Errorf("-cert and -key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	w.servers, err = parseServers(f.Servers, &config)
	return w, err
}

// newClient returns a client that dials the unix socket, or TCP if that is "". It uses no proxy: the servers are our
// own, and so is the token. It follows no redirect: that would make a GET of the POST, or take the token elsewhere.
func newClient(socket string, config *tls.Config) *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if socket != "" {
			network, address = "unix", socket
		}
		return (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, address)
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: connectTimeout},
		Timeout:       connectTimeout + answerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// round offers r to one server after the other, until one answers for good.
func (w way) round(ctx context.Context, r request) (all failure) {
	for _, s := range w.servers {
		fail := w.post(ctx, s, r)
		if fail.err == nil || fail.kind >= sender {
			return fail
		}
		all = failure{errors.Join(all.err, fail.err), max(all.kind, fail.kind), max(all.wait, fail.wait)}
	}
	return all
}

// post offers r to s.
func (w way) post(ctx context.Context, s server, r request) failure {
	name := s.name
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if address := c.Conn.RemoteAddr().String(); !strings.HasSuffix(name, address) {
			name = fmt.Sprintf("%s (%s)", s.name, address)
		}
	}})
	method := map[bool]string{true: http.MethodGet, false: http.MethodPost}[r.Body == nil]
	req, err := http.NewRequestWithContext(ctx, method, s.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return failure{err: err, kind: sender}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", r.Key)
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return failure{err: fmt.Errorf("%s: %w", name, errors.Unwrap(err))} // without the URL
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil { // half an answer is none
		return failure{err: fmt.Errorf("%s: its answer breaks off: %w", name, err)}
	}
	return judge(name, resp, answer)
}

// judge returns what an answer of a server means. One that is not as slackboard answers comes from a proxy, or from
// another program: there is no server there now; but 413 is about the request, whoever says it. A 502 is final except
// one with Retry-After: Slack has refused the message, or may have posted it.
func judge(name string, resp *http.Response, answer []byte) (fail failure) {
	var said struct{ Message string }
	ours := json.Unmarshal(answer, &said) == nil && said.Message != ""
	if ours && resp.StatusCode == http.StatusOK {
		return failure{}
	}
	fail.err = fmt.Errorf("%s answered %d: %s", name, resp.StatusCode, said.Message)
	if !ours {
		text, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
		fail.err = fmt.Errorf("%s answered %d, and not as slackboard does: %.200q", name, resp.StatusCode, text)
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	fail.wait = time.Duration(min(seconds, 1<<30)) * time.Second
	switch status := resp.StatusCode; {
	case !ours && status != http.StatusRequestEntityTooLarge: // absent
	case status == 401, status == 403:
		fail.err, fail.kind = fmt.Errorf("%w (see -auth and -cert)", fail.err), sender
	case status == 429, status == 503, status == 504, status == 502 && err == nil:
		fail.kind = busy
	case status/100 == 4:
		fail.kind = refused
	default:
		fail.kind = sender
	}
	return fail
}

// TerminalGroup returns the process group in the foreground of fd, ok false if fd is not the terminal that controls us.
func TerminalGroup(fd uintptr) (group int32, ok bool) {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return group, errno == 0
}
