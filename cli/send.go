package cli

// The way to the servers: one after the other, round after round.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 60 * time.Second // long, because a sync answer waits for Slack
)

// server is one place where requests go.
type server struct {
	base   string // the URL in front of /notify
	client *http.Client
}

// parseServers reads the argument of -s. There is at least one server in what it returns.
func parseServers(list string, config *tls.Config) ([]server, error) {
	var servers []server
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
			servers = append(servers, server{"http://localhost", newClient(path, config)})
			continue
		}
		base := strings.TrimRight(s, "/")
		if !strings.Contains(s, "://") {
			base = "http://" + base
		}
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || s == "unix:" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not a server: host:port, http://…, https://… or unix:/path", s)
		}
		servers = append(servers, server{base, newClient("", config)})
	}
	return servers, nil
}

// way carries requests to the servers.
type way struct {
	servers []server
	token   string
}

// refusal is final: no server is asked again.
type refusal struct {
	error
	bad bool // it is about the request, and not about who sends it or what lies in between
}

// Send hands m to a server, after what the spool keeps. It returns nil when a server took m, or when the spool keeps it.
func (f *Flags) Send(ctx context.Context, m Message) error {
	r, err := f.request(m)
	if err != nil {
		return err
	}
	w, err := f.way()
	if err != nil {
		return f.keep(r, err)
	}
	if err := f.sendKept(ctx, w); err != nil && f.keep(r, err) == nil {
		return nil // behind the others: it must not overtake them
	}
	for round := 0; ; round++ {
		wait, err := w.round(ctx, r)
		var no refusal
		refused := errors.As(err, &no)
		if err == nil || refused && no.bad {
			return err
		}
		if round == 0 && f.keep(r, err) == nil {
			return nil
		}
		if refused {
			return err
		}
		if round >= f.RetryMax {
			return err
		}
		if wait == 0 {
			wait = f.RetryWaitMin << min(round, 20)
		}
		select {
		case <-time.After(min(wait, f.RetryWaitMax)):
		case <-ctx.Done():
			return err
		}
	}
}

// way reads what Check did not: the files.
func (f *Flags) way() (w way, err error) {
	if w.token, err = readToken(f.Auth); err != nil {
		return w, fmt.Errorf("-auth: %w", err)
	}
	var config tls.Config
	if f.CACert != "" {
		if config.RootCAs, err = readAuthorities(f.CACert); err != nil {
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

// readToken returns the token that auth is or names. No error shows it.
func readToken(auth string) (string, error) {
	token := auth
	if path, ok := strings.CutPrefix(auth, "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		token = strings.TrimRight(string(content), "\r\n")
	}
	if auth != "" && !isWord(token) {
		return "", errors.New("the token is not one word of printable characters")
	}
	return token, nil
}

// isWord tells whether an HTTP header can carry s.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

func readAuthorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in %s", path)
	}
	return pool, nil
}

// newClient returns a client that dials the unix socket, or TCP if that is "". It follows no redirect: that would make a
// GET of the POST, or take the token elsewhere.
func newClient(socket string, config *tls.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport.DialContext = dialer.DialContext
	if socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return &http.Client{
		Transport:     transport,
		Timeout:       connectTimeout + answerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// round offers r to one server after the other, until one answers for good. wait is the longest that a server asked
// for before it wants to be asked again, 0 if none did.
func (w way) round(ctx context.Context, r request) (wait time.Duration, err error) {
	var errs []error
	for _, s := range w.servers {
		told, err := w.post(ctx, s, r)
		if err == nil || errors.As(err, new(refusal)) {
			return 0, err
		}
		wait, errs = max(wait, told), append(errs, err)
	}
	return wait, errors.Join(errs...)
}

// post offers r to s. After an error that is not a refusal trying again can help, and doubles nothing; wait is what
// the server said about when.
func (w way) post(ctx context.Context, s server, r request) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return 0, refusal{err, false}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", r.Key)
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var withURL *url.Error
		if errors.As(err, &withURL) {
			err = withURL.Err
		}
		return 0, fmt.Errorf("%s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil { // half an answer is none
		return 0, fmt.Errorf("%s: its answer breaks off: %w", req.URL.Host, err)
	}
	return judge(resp, answer)
}

// judge returns what an answer means. One that is not as slackboard answers comes from a proxy, or from another program: there is
// no server there now; but 413 is about the request, whoever says it. A 502 is final but for one with Retry-After: Slack has refused the message, or may have posted it.
func judge(resp *http.Response, answer []byte) (wait time.Duration, err error) {
	var said struct{ Message string }
	status, ours := resp.StatusCode, json.Unmarshal(answer, &said) == nil && said.Message != ""
	if status == http.StatusOK && ours {
		return 0, nil
	}
	err = fmt.Errorf("%s answered %d: %s", resp.Request.URL.Host, status, said.Message)
	if !ours {
		text, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
		err = fmt.Errorf("%s answered %d, and not as slackboard does: %.200q", resp.Request.URL.Host, status, text)
	}
	seconds, parseErr := strconv.Atoi(resp.Header.Get("Retry-After"))
	told := parseErr == nil && seconds >= 0
	switch {
	case !ours && status != http.StatusRequestEntityTooLarge, status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout,
		status == http.StatusBadGateway && told:
		return time.Duration(min(seconds, 1<<30)) * time.Second, err
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return 0, refusal{fmt.Errorf("%w (see -auth and -cert)", err), false}
	}
	return 0, refusal{err, status/100 == 4}
}
