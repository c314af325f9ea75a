package main

// One post to Slack, and what became of it. The facts are Slack's:
// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/
// https://docs.slack.dev/reference/methods/chat.postMessage/
// https://docs.slack.dev/apis/web-api/rate-limits/
// and those of receivers that speak the same: Mattermost, Rocket.Chat, Discord, Zulip.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// class says what to do after a post.
type class int

const (
	delivered      class = iota
	retry                // Slack or the way to it is in trouble
	badContent           // permanent: this message will never be taken
	badDestination       // permanent: the channel will not take it, others may
	badCredential        // permanent until an operator mends the webhook or the token; the messages are good
	inBetween            // it is not Slack that answered
)

func (c class) String() string {
	return [...]string{"delivered", "retry", "content", "destination", "credential", "in_between"}[c]
}

// outcome is what became of one post.
type outcome struct {
	class                      class
	status                     int    // of the answer, 0 where there was none
	reason                     string // Slack's code, the status or the network's error; never a URL or a token
	limited                    bool   // a rate limit holds for wait
	wait                       time.Duration
	unsure                     bool // the message may have been posted all the same
	tooMuch, broken, unreached bool
}

// poster makes one post and says what became of it. slackClient is the one in earnest.
type poster interface {
	post(ctx context.Context, to credential, payload []byte) outcome
}

const (
	postTimeout = 30 * time.Second // a shorter one doubles messages that Slack took late
	answerLimit = 64 << 10         // of Slack's answer so much is looked at, and
	drainLimit  = 1 << 20          // so much is read for the connection to be used again
	longestWait = time.Hour        // of a Retry-After so much is believed
	quotaWait   = 15 * time.Minute // after a limit that is a workspace's quota and not a rate: no seconds were named
)

type slackClient struct{ client *http.Client }

// newSlackClient returns a client for up to posts simultaneous ones. HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and
// SSL_CERT_DIR are obeyed.
func newSlackClient(posts int) *slackClient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = posts, posts
	return &slackClient{&http.Client{
		Transport:     transport,
		Timeout:       postTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *slackClient) post(ctx context.Context, to credential, payload []byte) outcome {
	var begun atomic.Bool
	req, err := newPost(ctx, to, payload, &begun)
	if err != nil {
		return outcome{class: badCredential, reason: "the URL in the configuration is not valid"}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return outcome{class: retry, reason: networkReason(err), unsure: begun.Load()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return outcome{class: retry, reason: "answer broken off: " + networkReason(err), unsure: true}
	}
	io.CopyN(io.Discard, resp.Body, drainLimit)
	out := classify(resp.StatusCode, resp.Header, body)
	var said answerBody
	if json.Unmarshal(body, &said); to.token != (secret{}) && out.class == delivered && said.OK == nil {
		return outcome{class: retry, status: resp.StatusCode, unsure: true, reason: "the answer is not Slack's: see slack_api_url, and whether a proxy is in between"}
	}
	return out
}

// outgoing is the body of a post. begun tells whether some of it may be on its way.
type outgoing struct {
	io.Reader
	begun *atomic.Bool
}

func (o outgoing) Read(p []byte) (int, error) {
	o.begun.Store(true)
	return o.Reader.Read(p)
}

func newPost(ctx context.Context, to credential, payload []byte, begun *atomic.Bool) (*http.Request, error) {
	body := func() (io.ReadCloser, error) { return io.NopCloser(outgoing{bytes.NewReader(payload), begun}), nil }
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url.reveal(), nil)
	if err != nil {
		return nil, err
	}
	req.Body, _ = body()
	req.GetBody, req.ContentLength = body, int64(len(payload)) // again, when an idle connection has ended meanwhile
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "slackboard")
	if to.token != (secret{}) {
		req.Header.Set("Content-Type", "application/json; charset=utf-8") // without the charset Slack answers with a warning
		req.Header.Set("Authorization", "Bearer "+to.token.reveal())
	}
	return req, nil
}

// networkReason describes err without its URL, which is a secret: url.Error prints it whole. What net/http quotes is
// left out as well: it is what the other side sent, perhaps our own request.
func networkReason(err error) string {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		if withURL.Timeout() {
			return "no answer within " + postTimeout.String()
		}
		err = withURL.Err
	}
	reason, _, _ := strings.Cut(err.Error(), `"`)
	return strings.TrimRight(reason, " :")
}

// answerBody is what receivers say in JSON.
type answerBody struct {
	OK         *bool   `json:"ok"`
	Success    *bool   `json:"success"` // Rocket.Chat
	Error      string  `json:"error"`
	RetryAfter float64 `json:"retry_after"` // seconds; Discord's is a fraction
}

// classify decides what an answer of a webhook or of the Web API means. A body that cannot be read decides nothing:
// receivers differ, and a message that was taken must not be sent again.
func classify(status int, header http.Header, body []byte) outcome {
	var said answerBody
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(body, &said), &syntax) {
		said = answerBody{Error: string(body)} // a webhook's code, as plain text
	}
	denied := said.OK != nil && !*said.OK || said.Success != nil && !*said.Success
	if status/100 == 2 && !denied {
		return outcome{class: delivered, status: status}
	}
	code := errorCode(said.Error)
	o := outcome{status: status, reason: code}
	if code == "" {
		o.reason = strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))
	}
	known, ok := classOf(code)
	switch {
	case status == http.StatusTooManyRequests, code == "ratelimited", code == "rate_limited", code == "message_limit_exceeded":
		o.class, o.limited = retry, true
		wait, told := retryAfter(header.Get("Retry-After"), said.RetryAfter)
		if !told || code == "message_limit_exceeded" {
			wait = max(wait, quotaWait)
		}
		o.wait = wait
	case ok:
		o.class = known
	case status == http.StatusUnauthorized, status == http.StatusNotImplemented, status/100 == 3:
		o.class = badCredential
	case status >= 500, status == http.StatusRequestTimeout:
		o.class = retry
	default:
		o.class = badDestination
	}
	o.unsure = code == "internal_error" || code == "fatal_error" || status == http.StatusGatewayTimeout
	return o
}

// errorCode returns s if it is a code of Slack's, else nothing: any other text could repeat the webhook's URL.
func errorCode(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 60 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return s
}

// classOf knows the codes that decide by themselves, whatever the status that came with them.
func classOf(code string) (class, bool) {
	switch code {
	case "no_text", "missing_text_or_fallback_or_attachments", "msg_too_long", "msg_blocks_too_long", "invalid_payload",
		"invalid_attachments", "attachment_payload_limit_exceeded", "too_many_attachments", "invalid_blocks",
		"invalid_blocks_format", "invalid_metadata_format", "metadata_too_large", "markdown_text_conflict",
		"invalid_arguments", "invalid_arg_name", "invalid_array_arg", "invalid_charset", "invalid_form_data",
		"invalid_post_type", "missing_post_type", "invalid_json", "json_not_object", "cannot_reply_to_message",
		"user_not_found":
		return badContent, true
	case "not_authed", "invalid_auth", "invalid_token", "account_inactive", "token_revoked", "token_expired",
		"missing_scope", "not_allowed_token_type", "access_denied", "accesslimited", "app_access_restricted",
		"team_access_not_granted", "two_factor_setup_required", "enterprise_is_restricted", "method_deprecated",
		"deprecated_endpoint", "unknown_method", "no_service", "no_service_id", "no_team", "no_active_hooks",
		"team_disabled":
		return badCredential, true
	case "service_unavailable", "request_timeout", "internal_error", "fatal_error", "team_added_to_org",
		"org_login_required", "rollup_error":
		return retry, true
	}
	return 0, false
}

// retryAfter reads the header, in seconds or as a date (RFC 9110, 10.2.3), else the seconds that the body names.
// wait is from 0 to longestWait; told is false where neither says anything.
func retryAfter(header string, body float64) (wait time.Duration, told bool) {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(header), 64)
	if err != nil || math.IsNaN(seconds) {
		seconds = body
		if at, err := http.ParseTime(header); err == nil {
			seconds = max(time.Until(at).Seconds(), math.SmallestNonzeroFloat64)
		}
		if seconds == 0 {
			return 0, false
		}
	}
	seconds = min(max(seconds, 0), longestWait.Seconds())
	return time.Duration(seconds * float64(time.Second)), true
}
