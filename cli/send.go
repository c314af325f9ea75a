package cli

// The way to the server: one request, and its retries.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// answerTimeout is long because a sync=true answer waits for Slack.
const answerTimeout = 60 * time.Second

// server is where requests go.
type server struct {
	base   string // the URL in front of /notify
	socket string // the unix socket to dial, "" for TCP
}

func parseServer(s string) (server, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
		return server{base: "http://localhost", socket: path}, nil
	}
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return server{}, fmt.Errorf("%q is not a server: host:port, http://…, https://… or unix:/path", s)
	}
	return server{base: strings.TrimRight(s, "/")}, nil
}

func (s server) client() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if s.socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		}
	}
	return &http.Client{Transport: transport, Timeout: answerTimeout}
}

// Send hands m to the server. It tries again where that can help: when the server cannot be reached, is busy, or says
// when to come back.
func (f *Flags) Send(ctx context.Context, m Message) error {
	s, err := parseServer(f.Server)
	if err != nil {
		return err
	}
	path, body, err := f.request(m)
	if err != nil {
		return err
	}
	client, key := s.client(), rand.Text()
	for try := 0; ; try++ {
		wait, err := post(ctx, client, s.base+path, key, body)
		if err == nil || wait < 0 || try >= f.RetryMax {
			return err
		}
		if wait == 0 {
			wait = f.RetryWaitMin << min(try, 20)
		}
		select {
		case <-time.After(min(wait, f.RetryWaitMax)):
		case <-ctx.Done():
			return err
		}
	}
}

// post makes one request. By key the server knows one that it has accepted already. wait says when to try again after err: 0 for a back-off, -1 for never.
func post(ctx context.Context, client *http.Client, target, key string, body []byte) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return -1, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		var withURL *url.Error
		if errors.As(err, &withURL) {
			err = fmt.Errorf("%s: %w", req.URL.Host, withURL.Err)
		}
		return 0, err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode == http.StatusOK {
		return 0, nil
	}
	err = fmt.Errorf("%s answered %d: %s", req.URL.Host, resp.StatusCode, said(answer))
	seconds, parseErr := strconv.Atoi(resp.Header.Get("Retry-After"))
	told := parseErr == nil && seconds >= 0
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	case http.StatusBadGateway:
		if !told { // Slack has refused it, or may have posted it
			return -1, err
		}
	default:
		return -1, err
	}
	if !told {
		return 0, err
	}
	return time.Duration(seconds) * time.Second, err
}

// said returns the server's message, or what stands there in its place.
func said(answer []byte) string {
	var a struct{ Message string }
	if json.Unmarshal(answer, &a) == nil && a.Message != "" {
		return a.Message
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
	return fmt.Sprintf("%.200q", text)
}
