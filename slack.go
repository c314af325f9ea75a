package main

// One post to Slack, and what became of it. The rules are Slack's:
// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/
// https://docs.slack.dev/reference/methods/chat.postMessage/
// https://docs.slack.dev/apis/web-api/rate-limits/
// and those of receivers that take the same payloads: Mattermost, Rocket.Chat, Discord, Zulip.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// class says what to do after a post.
type class int

const (
	delivered      class = iota
	retry                // Slack, or the way to it, is in trouble: try again
	badContent           // permanent: Slack will never take this message
	badDestination       // permanent: this channel will not take the message; another channel may
	badCredential        // permanent until an operator mends the webhook or the token; the messages are kept
	inBetween            // not Slack but something on the way answered: an operator has to look; the messages are kept
	limited              // a rate limit: no post during wait; for a token, no post to any of its channels
)

func (c class) String() string {
	return [...]string{"delivered", "retry", "content", "destination", "credential", "in_between", "limited"}[c]
}

// outcome is what became of one post.
type outcome struct {
	class     class
	reason    string        // one line: Slack's code or the HTTP status, then Slack's explanation; no URL and no token
	wait      time.Duration // until the next post; from an answer: at least leastWait, or 0 if it names no time
	tooMuch   bool          // the post is too large for the receiver, or may be
	unsure    bool          // the message may have been posted, although the answer does not say so
	broken    bool          // the answer to a post with a token broke off before its field ok
	unreached bool          // no part of an answer arrived
}

// A poster makes one post and returns what became of it. The real one is slackClient.post.
type poster func(to credential, payload []byte) outcome

// printer stands in for Slack in a dry run: it prints each post as one line of JSON. out must not block. If out has
// no room for a post, the post is tried again.
type printer struct{ out io.Writer }

func (p printer) post(_ credential, payload []byte) outcome {
	if _, err := fmt.Fprintf(p.out, "%s\n", payload); err != nil {
		return outcome{class: retry, reason: "standard output: " + err.Error()}
	}
	return outcome{class: delivered}
}

const (
	postTimeout = 30 * time.Second // not shorter: what Slack takes after the timeout is posted twice
	answerLimit = 8 << 20          // bytes of an answer: the message twice, up to 12 bytes for a character
	shownLimit  = 16 << 10         // bytes of an answer that is no JSON, or of a JSON value: explanations are shorter
	reasonLimit = 300              // characters of a reason
	lingerTime  = time.Second      // to read the rest of an understood answer, so that its connection is reused
	leastWait   = time.Second      // a shorter named wait becomes this
	longestWait = time.Hour        // a longer named wait becomes this
	quotaWait   = 15 * time.Minute // least wait if a workspace's quota is used up; also the longest unnamedPause
)

type slackClient struct{ client *http.Client }

// newSlackClient returns a client that keeps its connections open for up to posts simultaneous posts. It obeys
// HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR.
func newSlackClient(posts int) *slackClient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = posts, posts
	transport.DisableCompression = true // a body that does not match its Content-Encoding must not become an error
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return errors.New("the proxy refuses: " + statusText(resp.StatusCode))
	}
	return &slackClient{&http.Client{
		Transport:     transport,
		Timeout:       postTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))
}

// post makes one post to Slack. It takes no context: neither a client that hangs up nor SIGTERM may cut a post short,
// since Slack may have taken it already. It returns within postTimeout.
func (s *slackClient) post(to credential, payload []byte) outcome {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var begun, answered atomic.Bool
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:              func(string) { begun.Store(false) }, // called again if an idle connection was closed
		WroteHeaders:         func() { begun.Store(true) },
		GotFirstResponseByte: func() { answered.Store(true) },
	}), http.MethodPost, to.url.reveal(), bytes.NewReader(payload)) // there is no error: isURL has parsed the URL
	bot := to.token != (secret{})
	req.Header = http.Header{"Content-Type": {"application/json"}, "User-Agent": {"slackboard"}}
	if bot {
		req.Header.Set("Content-Type", "application/json; charset=utf-8") // without the charset, Slack warns
		req.Header.Set("Authorization", "Bearer "+to.token.reveal())
	}
	resp, err := s.client.Do(req)
	if err != nil {
		// url.Error prints the URL, which is a secret: only the error in it is used. What net/http quotes is cut off
		// too: the other side sent it, and it may repeat our request.
		reason, _, _ := strings.Cut(errors.Unwrap(err).Error(), `"`)
		if err.(*url.Error).Timeout() { // Do returns no other type of error
			reason = "no answer within " + postTimeout.String()
		}
		reason = to.redact(strings.TrimRight(reason, " :"))
		return outcome{class: retry, reason: reason, unsure: begun.Load(), unreached: !answered.Load()}
	}
	defer resp.Body.Close()
	if !bot && resp.StatusCode/100 == 2 { // delivered, unless the body says otherwise: do not wait long for the body
		defer time.AfterFunc(lingerTime, cancel).Stop()
	}
	a := readAnswer(resp.Body)
	defer time.AfterFunc(lingerTime, cancel).Stop()
	io.CopyN(io.Discard, resp.Body, answerLimit)
	return decide(to, resp.StatusCode, resp.Header, a)
}

// said is what the body of an answer says.
type said struct {
	fields map[string]any // the top-level fields of a JSON object, only those in saidFields
	json   bool           // it is a JSON object, whole or broken off after a key
	text   string         // the beginning of the body, unless that begins with {
	broken bool           // the body broke off, or its JSON has an error behind the first key
}

// saidFields are the fields that say what became of a post. From the fourth on, they explain an error; explained
// shows them in this order.
var saidFields = []string{
	"ok", "success", "retry_after", "error", "errors", "message", "msg", "needed", "provided", "response_metadata",
}

// readAnswer reads a JSON object until it ends or breaks off, and keeps nothing but the fields in saidFields. Of any
// other body it reads the first shownLimit bytes.
func readAnswer(body io.Reader) (a said) {
	body = io.LimitReader(body, answerLimit)
	head, err := io.ReadAll(io.LimitReader(body, shownLimit))
	a.text, a.broken = strings.TrimLeft(string(head), " \r\n\t\ufeff"), err != nil
	if !strings.HasPrefix(a.text, "{") {
		return a
	}
	d := json.NewDecoder(io.MultiReader(strings.NewReader(a.text), body))
	a.text, a.fields = "", map[string]any{}
	_, err = d.Token()
	for err == nil && d.More() {
		var value json.RawMessage
		key, _ := d.Token() // if there is an error, Decode returns one too
		a.json = a.json || key != nil
		err = d.Decode(&value)
		if name, _ := key.(string); len(value) <= shownLimit && slices.Contains(saidFields, name) {
			var v any
			json.Unmarshal(value, &v)
			a.fields[name] = v
		}
	}
	_, end := d.Token()
	err = cmp.Or(err, end)
	a.broken = err != nil && (a.json || !errors.As(err, new(*json.SyntaxError)))
	return a
}

// explained returns what an operator should read besides the code. It may contain a secret: see redact.
func (a said) explained(code string) (all string) {
	for _, key := range saidFields[3:] {
		text := ""
		eachText(a.fields[key], func(part string) string {
			text = join(text, ", ", strings.TrimPrefix(part, "[ERROR] "))
			return part
		})
		if text != "" && (key == "needed" || key == "provided") {
			text = key + " " + text
		}
		if text != code && !strings.Contains(all, text) {
			all = join(all, ", ", text)
		}
	}
	return all
}

// limitWords finds a rate limit in the text of an answer that has neither a known code nor status 429.
var limitWords = regexp.MustCompile(`(?i)rate[ _]*limit|too[ _]*many[ _]*requests`)

// decide returns what an answer means. It first finds out who answered, Slack or something in between, then what the
// answer says.
func decide(to credential, status int, header http.Header, a said) outcome {
	code, o, known := a.code()
	bot, success, ok, explained := to.token != (secret{}), status/100 == 2, a.fields["ok"], a.explained(code)
	sizeStatus := slices.Contains([]int{400, 413, 422}, status) // of a receiver that finds the post too large
	// ofSlack: Slack answered, or a receiver with the same API. Otherwise something in between answered.
	ofSlack := status != 407 && status != 511 && (ok == true || ok == false ||
		!bot && (success || a.json || code != "" || sizeStatus && !strings.HasPrefix(a.text, "<")))
	taken := ok == true || !bot && !known && ok != false && a.fields["success"] != false
	o.reason, o.wait = code, max(o.wait, namedWait(header.Get("Retry-After")))
	if code == "" || !ofSlack {
		o.reason = statusText(status)
	}
	switch {
	case ofSlack && taken && (bot || success):
		return outcome{class: delivered}
	case o.class == limited, status == 429, !known && limitWords.MatchString(explained+a.text):
		o.class = limited
		o.wait = max(o.wait, namedWait(header.Get("Retry-After"), fmt.Sprint(a.fields["retry_after"]),
			header.Get("X-RateLimit-Reset-After"), header.Get("X-RateLimit-Reset")))
	case ofSlack && known:
	case a.broken && bot && success && a.text == "":
		o.class, o.unsure, o.broken = retry, !ofSlack, !ofSlack
		o.reason += ", but the answer broke off"
	case status == 408, status >= 500 && status != 501 && status != 511:
		o.class = retry
	case !bot && (status/100 == 3 || status == 401 || status == 501):
		o.class = badCredential
	case !ofSlack && status != 413: // a 413 is about the size of the post, whoever answers
		o.class, o.tooMuch, o.unsure = inBetween, sizeStatus, success
		o.reason += ", not from Slack but from something in between: see the proxies, and the URL in the configuration"
	default:
		o.class, o.tooMuch = badDestination, sizeStatus
	}
	o.unsure = o.unsure || status == 502 || status == 504
	o.reason = to.redact(join(o.reason, ": ", explained))
	return o
}

// meanings has the codes that decide by themselves, whatever status Slack sends with them, except 429: a rate limit.
var meanings = map[outcome]string{
	{class: retry}: "service_unavailable request_timeout team_added_to_org org_login_required rollup_error",
	{class: badContent, tooMuch: true}: `msg_too_long msg_blocks_too_long attachment_payload_limit_exceeded
		too_many_attachments metadata_too_large`,
	{class: badContent}: `no_text missing_text_or_fallback_or_attachments invalid_payload invalid_attachments
		invalid_blocks invalid_blocks_format invalid_metadata_format markdown_text_conflict invalid_arguments
		invalid_arg_name invalid_array_arg invalid_charset invalid_form_data invalid_post_type missing_post_type
		invalid_json json_not_object cannot_reply_to_message user_not_found`,
	{class: badDestination}: `channel_not_found channel_is_archived is_archived not_in_channel no_permission
		action_prohibited posting_to_general_channel_denied messages_tab_disabled ekm_access_denied team_not_found`,
	{class: badCredential}: `not_authed invalid_auth invalid_token account_inactive token_revoked token_expired
		missing_scope not_allowed_token_type access_denied accesslimited app_access_restricted
		team_access_not_granted two_factor_setup_required enterprise_is_restricted method_deprecated
		deprecated_endpoint unknown_method no_service no_service_id no_team no_active_hooks team_disabled`,
	{class: retry, unsure: true}:      "internal_error fatal_error",
	{class: limited}:                  "ratelimited rate_limited",
	{class: limited, wait: quotaWait}: "message_limit_exceeded",
}

// code returns the error code in a and what it means. known reports whether the code decides by itself. An unknown
// text counts as a code if it looks like one of Slack's, with a _ in it; it means badDestination. A word such as "ok"
// is not a code.
func (a said) code() (code string, o outcome, known bool) {
	code, _ = a.fields["error"].(string)
	code = cmp.Or(code, strings.TrimSpace(a.text))
	for meaning, codes := range meanings {
		if slices.Contains(strings.Fields(codes), code) {
			return code, meaning, true
		}
	}
	if len(code) > 60 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" || !strings.Contains(code, "_") {
		code = ""
	}
	return code, outcome{class: badDestination}, strings.HasPrefix(code, "restricted_action")
}

// namedWait returns the wait that the first valid one of values names, from leastWait to longestWait, or 0 if none is
// valid. A value is a number of seconds, a date (RFC 9110, section 10.2.3), or a Unix time in seconds or
// milliseconds.
func namedWait(values ...string) time.Duration {
	for _, value := range values {
		seconds, err := strconv.ParseFloat(value, 64)
		if at, notDate := http.ParseTime(value); notDate == nil {
			seconds, err = float64(at.Unix()), nil
		}
		if seconds > 1e11 {
			seconds /= 1000
		}
		if seconds > 1e9 {
			seconds -= float64(time.Now().UnixMilli()) / 1000
		}
		if err == nil && seconds == seconds { // not NaN
			return time.Duration(min(max(seconds, leastWait.Seconds()), longestWait.Seconds()) * float64(time.Second))
		}
	}
	return 0
}

// unnamedPause returns how long to pause if the n-th attempt of a message met a rate limit that names no time.
func unnamedPause(n int) time.Duration { return min(30*time.Second<<min(n-1, 10), quotaWait) }

// redact returns text as one line of at most reasonLimit characters. It replaces each word that could be, or contain,
// a part of the webhook's URL or of a token.
func (to credential) redact(text string) string {
	u, _ := url.Parse(to.url.reveal()) // there is no error: a post was made to this URL
	u.Scheme, u.Host = "", ""
	public := strings.NewReplacer("webhooks/", "", "hooks/", "", "services/", "", "/slack", "", "chat.postmessage", "")
	own := public.Replace(strings.ToLower(to.token.reveal() + unescaped(u.String())))
	words := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) })
	for i, word := range words {
		if looksSecret(strings.ToLower(unescaped(word)), own) {
			words[i] = "[redacted]"
		}
	}
	return cleaned(strings.Join(words, " "), reasonLimit)
}

// secretSigns finds what is typical of a webhook's URL or of a token.
var secretSigns = regexp.MustCompile(`://|xox|xapp-|/(services|hooks|webhooks)/`)

// looksSecret reports whether word contains six bytes in a row of own, or looks like a URL or a token. own is the
// secret text of a credential. Both are in lower case.
func looksSecret(word, own string) bool {
	for i := range len(word) - 5 {
		if strings.Contains(own, word[i:i+6]) {
			return true
		}
	}
	mark := func(c rune) bool { return !unicode.In(c, unicode.L, unicode.N, unicode.Pc, unicode.Pd) }
	return secretSigns.MatchString(word) || slices.ContainsFunc(strings.FieldsFunc(word, mark), func(run string) bool {
		return len(run) >= 20 && strings.ContainsAny(run, "0123456789") && strings.ContainsFunc(run, unicode.IsLetter)
	})
}
