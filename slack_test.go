package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"slackboard/e2e"
)

// What each answer of Slack, of another receiver, or of something in between means. The answers come over a real
// connection. The first list answers posts to a webhook, the second one posts with a token.
func TestAnswers(t *testing.T) {
	const page = "<html><title>Forbidden</title></html>"
	const between = ", not from Slack but from something in between: see the proxies, and the URL in the configuration"
	long, later := strings.Repeat("\\u3042", 12_000), func(d time.Duration) string {
		return fmt.Sprint(time.Now().Add(d).UnixMilli())
	}
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	content, destination, cred := outcome{class: badContent}, outcome{class: badDestination},
		outcome{class: badCredential}
	again, something, size := outcome{class: retry}, outcome{class: inBetween},
		outcome{class: badContent, tooMuch: true}
	mayBeSize := outcome{class: badDestination, tooMuch: true}
	limit := func(wait time.Duration) outcome { return outcome{class: limited, wait: wait} }
	waits := func(wait time.Duration) outcome { return outcome{class: retry, wait: wait} }
	unsure := func(o outcome) outcome { o.unsure = true; return o }
	broken := outcome{class: retry, unsure: true, broken: true}
	ok := outcome{class: delivered}
	type row struct {
		status int
		header string // "Key: value"
		body   string // with "…" at its end, the rest never comes; with "✂", it breaks off
		want   outcome
		reason string
	}
	webhook, token := []row{
		// Receivers that took the post, whatever their body says, and even if it breaks off or does not end.
		{200, "", "ok", ok, ""},
		{200, "", `{"ok":true,"ts":"1.2"}`, ok, ""},
		{200, "", `{"success":true}`, ok, ""},
		{200, "", page, ok, ""},
		{204, "", "", ok, ""},
		{200, "", `[1]`, ok, ""},
		{200, "", "a_word", ok, ""},
		{200, "", `{"text":"rate limit"}`, ok, ""},
		{200, "Content-Length: 10", "ok", ok, ""},
		{200, "Content-Encoding: gzip", "ok", ok, ""},
		{200, "", "ok…", ok, ""},
		{200, "", `{"text":"…`, ok, ""},
		{200, "", "ok✂", ok, ""},
		{200, "", `{"ok":✂`, ok, ""},
		{200, "", strings.Repeat("[", 1<<20), ok, ""},
		{200, "", strings.Repeat(`{"x":`, 1<<20), ok, ""},
		// Receivers that answer 200, but say in the body that they did not take the post.
		{200, "", "channel_not_found", destination, "channel_not_found"},
		{200, "", "no_service", cred, "no_service"},
		{200, "", "invalid_payload\n", content, "invalid_payload"},
		{200, "", `{"error":"invalid_token"}`, cred, "invalid_token"},
		{200, "", "ratelimited", limit(0), "ratelimited"},
		{200, "", `{"ok":false}`, destination, "status 200 OK"},
		{200, "", `{"success":false,"error":"Invalid channel"}`, destination, "status 200 OK: Invalid channel"},
		// Slack's webhooks.
		{400, "", "invalid_payload", content, "invalid_payload"},
		{400, "", "no_text\n", content, "no_text"},
		{400, "", "user_not_found", content, "user_not_found"},
		{400, "", "too_many_attachments", size, "too_many_attachments"},
		{403, "", "action_prohibited", destination, "action_prohibited"},
		{403, "", "invalid_token", cred, "invalid_token"},
		{404, "", "channel_not_found", destination, "channel_not_found"},
		{404, "", "no_service", cred, "no_service"},
		{404, "", "a_code_of_tomorrow", destination, "a_code_of_tomorrow"},
		{410, "", "channel_is_archived", destination, "channel_is_archived"},
		{500, "", "rollup_error", again, "rollup_error"},
		{500, "", "no_service", cred, "no_service"},
		// Other receivers.
		{301, "", "", cred, "status 301 Moved Permanently"},
		{401, "", "", cred, "status 401 Unauthorized"},
		{501, "", `{"message":"Incoming webhooks have been disabled"}`, cred,
			"status 501 Not Implemented: Incoming webhooks have been disabled"},
		{400, "", `{"id":"web.incoming_webhook","message":"Unable to parse incoming data","status_code":400}`,
			mayBeSize,
			"status 400 Bad Request: Unable to parse incoming data"},
		{400, "", "something else", mayBeSize, "status 400 Bad Request"},
		{400, "", `{"message":"no","text":"the rate limit of another"}`, mayBeSize, "status 400 Bad Request: no"},
		{400, "", `{"errors":{"b":[{"x":"two"}],"a":"one"}}`, mayBeSize, "status 400 Bad Request: one, two"},
		{422, "", `{"embeds":["Must be 10 or fewer in length."]}`, mayBeSize, "status 422 Unprocessable Entity"},
		{413, "", "", mayBeSize, "status 413 Request Entity Too Large"},
		{413, "", page, mayBeSize, "status 413 Request Entity Too Large"},
		{403, "", `{"message":"Invalid webhook"}`, destination, "status 403 Forbidden: Invalid webhook"},
		{404, "", `{"result":"error","msg":"Stream does not exist","code":"X"}`, destination,
			"status 404 Not Found: Stream does not exist"},
		{404, "", `{"message":"one\r\n\u2028line\u0007","x":1}`, destination, "status 404 Not Found: one line"},
		{404, "", "\ufeff {\"message\":\"marked\"}", destination, "status 404 Not Found: marked"},
		// Trouble.
		{503, "", page, again, "status 503 Service Unavailable"},
		{503, "", "ok", again, "status 503 Service Unavailable"},
		{503, "Retry-After: 20", page, waits(20 * time.Second), "status 503 Service Unavailable"},
		{503, "Retry-After: 0", "", waits(leastWait), "status 503 Service Unavailable"},
		{500, "X-RateLimit-Reset-After: 1", "", again, "status 500 Internal Server Error"},
		{500, "", "too long ✂", again, "status 500 Internal Server Error"},
		{502, "", "", unsure(again), "status 502 Bad Gateway"},
		{504, "", "", unsure(again), "status 504 Gateway Timeout"},
		{408, "", "", again, "status 408 Request Timeout"},
		// Something in between.
		{403, "", page, something, "status 403 Forbidden" + between},
		{404, "", "", something, "status 404 Not Found" + between},
		{404, "", "404 page not found", something, "status 404 Not Found" + between},
		{407, "", `{"message":"who are you?"}`, something, "status 407 Proxy Authentication Required" + between +
			": who are you?"},
		{407, "", "", something, "status 407 Proxy Authentication Required" + between},
		{511, "", page, something, "status 511 Network Authentication Required" + between},
		{418, "", "", something, "status 418 I'm a teapot" + between},
		{400, "", page, outcome{class: inBetween, tooMuch: true}, "status 400 Bad Request" + between},
		// Limits.
		{429, "Retry-After: 7", "", limit(7 * time.Second), "status 429 Too Many Requests"},
		{429, "Retry-After: 1.5", "", limit(1500 * time.Millisecond), "status 429 Too Many Requests"},
		{429, "Retry-After: " + date(time.Minute), "", limit(time.Minute), "status 429 Too Many Requests"},
		{429, "Retry-After: " + date(-time.Minute), "", limit(leastWait), "status 429 Too Many Requests"},
		{429, "Retry-After: 0", "rate_limited", limit(leastWait), "rate_limited"},
		{429, "Retry-After: -3", "", limit(leastWait), "status 429 Too Many Requests"},
		{429, "Retry-After: NaN", `{"retry_after":9}`, limit(9 * time.Second), "status 429 Too Many Requests"},
		{429, "Retry-After: soon", "", limit(0), "status 429 Too Many Requests"},
		{429, "Retry-After: 99999999", "", limit(time.Hour), "status 429 Too Many Requests"},
		{429, "Retry-After: 1e999", "", limit(0), "status 429 Too Many Requests"},
		{429, "X-RateLimit-Reset-After: 5", `{"retry_after":2.5,"message":"You are being rate limited."}`,
			limit(2500 * time.Millisecond),
			"status 429 Too Many Requests: You are being rate limited."},
		{429, "X-RateLimit-Reset-After: 5", "", limit(5 * time.Second), "status 429 Too Many Requests"},
		{429, "X-RateLimit-Reset: " + later(42*time.Second), "", limit(42 * time.Second),
			"status 429 Too Many Requests"},
		{429, "X-RateLimit-Reset: " + later(42 * time.Second)[:10], page, limit(42 * time.Second),
			"status 429 Too Many Requests"},
		{429, "", page, limit(0), "status 429 Too Many Requests"},
		{403, "Retry-After: 4", `{"message":"API rate limit exceeded"}`, limit(4 * time.Second),
			"status 403 Forbidden: API rate limit exceeded"},
		{503, "", "Too many requests", limit(0), "status 503 Service Unavailable"},
	}, []row{
		{200, "", `{"ok":true}`, ok, ""},
		{200, "", `{"ok":true,"message":{"text":"` + long + `"}}`, ok, ""},
		{200, "", `{"message":{"text":"` + long + `"},"ok":true}`, ok, ""},
		// 3 MB
		{200, "", `{"message":{"blocks":[` + strings.Repeat(`{"ok":false,"text":"`+long+`"},`, 42) + `{}]},"ok":true}`,
			ok, ""},
		{200, "Content-Encoding: gzip", `{"ok":true}`, ok, ""},
		{200, "", `{"ok":true,"message":✂`, ok, ""},
		{200, "", `{"message":{"text":"hi"✂`, broken, "status 200 OK, but the answer broke off"},
		{200, "", `{"ok✂`, broken, "status 200 OK, but the answer broke off"},
		{200, "", "<html>✂", unsure(something), "status 200 OK" + between},
		{200, "", `{"ok":null}`, unsure(something), "status 200 OK" + between},
		{200, "", `{"ts":"1.2",?`, broken, "status 200 OK, but the answer broke off"},
		{200, "Content-Length: 10", "", broken, "status 200 OK, but the answer broke off"},
		{200, "", `{"message":` + strings.Repeat("[", answerLimit), broken, "status 200 OK, but the answer broke off"},
		{200, "", `{"ok":false,✂`, again, "status 200 OK, but the answer broke off"},
		{200, "", `{"ok":false,"error":"msg_too_long"}`, size, "msg_too_long"},
		{200, "", `{"error":"msg_too_long","ok":false}`, size, "msg_too_long"},
		{200, "", `{"ok":false,"error":"not_in_channel"}`, destination, "not_in_channel"},
		{200, "", `{"ok":false,"error":"restricted_action_read_only_channel"}`, destination,
			"restricted_action_read_only_channel"},
		{200, "", `{"ok":false,"error":"token_revoked"}`, cred, "token_revoked"},
		{404, "", `{"ok":false,"error":"token_revoked"}`, cred, "token_revoked"},
		{200, "", `{"ok":false,"error":"service_unavailable"}`, again, "service_unavailable"},
		{200, "", `{"ok":false,"error":"fatal_error"}`, unsure(again), "fatal_error"},
		{500, "", `{"ok":false,"error":"internal_error"}`, unsure(again), "internal_error"},
		{200, "", `{"ok":false,"error":"a_code_of_tomorrow"}`, destination, "a_code_of_tomorrow"},
		{200, "", `{"ok":false,"error":{"of":"another type"}}`, destination, "status 200 OK: another type"},
		{429, "Retry-After: 3", `{"ok":false,"error":"ratelimited"}`, limit(3 * time.Second), "ratelimited"},
		{200, "Retry-After: 3", `{"ok":false,"error":"ratelimited"}`, limit(3 * time.Second), "ratelimited"},
		{200, "", `{"ok":false,"error":"message_limit_exceeded"}`, limit(quotaWait), "message_limit_exceeded"},
		{429, "Retry-After: 3", page, limit(3 * time.Second), "status 429 Too Many Requests"},
		{200, "", `{"ok":false,"error":"invalid_blocks","errors":["no more than 50 items allowed ` +
			`[json-pointer:/blocks]"],` +
			`"response_metadata":{"messages":["[ERROR] no more than 50 items allowed [json-pointer:/blocks]"]}}`,
			content,
			"invalid_blocks: no more than 50 items allowed [json-pointer:/blocks]"},
		{200, "", `{"ok":false,"error":"missing_scope","needed":"chat:write.customize","provided":"chat:write"}`, cred,
			"missing_scope: needed chat:write.customize, provided chat:write"},
		// Something in between.
		{404, "", "", something, "status 404 Not Found" + between},
		{403, "", page, something, "status 403 Forbidden" + between},
		{302, "", "", something, "status 302 Found" + between},
		{401, "", `{"error":"invalid_auth"}`, something, "status 401 Unauthorized" + between},
		{200, "", page, unsure(something), "status 200 OK" + between},
		{200, "", "", unsure(something), "status 200 OK" + between},
		{200, "", `{"message":{"ok":true},"success":true}`, unsure(something), "status 200 OK" + between},
		{200, "", `{ok}`, unsure(something), "status 200 OK" + between},
		{413, "", page, mayBeSize, "status 413 Request Entity Too Large"},
		{502, "", page, unsure(again), "status 502 Bad Gateway"},
	}
	end := make(chan struct{})
	slack := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		rows := webhook
		if r.Header.Get("Authorization") != "" {
			rows = token
		}
		i, _ := strconv.Atoi(r.URL.Path[1:])
		row := rows[i]
		if key, value, found := strings.Cut(row.header, ": "); found {
			w.Header().Set(key, value)
		}
		w.WriteHeader(row.status)
		body, endless := strings.CutSuffix(row.body, "…")
		body, cut := strings.CutSuffix(body, "✂")
		io.WriteString(w, body)
		http.NewResponseController(w).Flush()
		if endless {
			select {
			case <-r.Context().Done():
			case <-end:
			}
		}
		if cut {
			panic(http.ErrAbortHandler)
		}
	}))
	slack.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer slack.Close()
	defer close(end)
	client := newSlackClient(maxPosts)
	var posts sync.WaitGroup
	for token, rows := range map[secret][]row{{}: webhook, newSecret("xoxb-1"): token} {
		for i, row := range rows {
			posts.Go(func() {
				got := client.post(credential{newSecret(fmt.Sprintf("%s/%d", slack.URL, i)), token},
					[]byte("{}"))
				want := row.want
				want.reason = row.reason
				if want.wait > 30*time.Second && got.wait <= want.wait && got.wait > want.wait-20*time.Second {
					want.wait = got.wait // the clock went on
				}
				if got != want {
					t.Errorf("token %v: %d %s %.60q:\ngot  %+v\nwant %+v", token != secret{}, row.status, row.header,
						row.body, got, want)
				}
			})
		}
	}
	posts.Wait()
}

// A rate limit that names no time lasts 30 s, then twice as long after each further one in a row, 15 min at most.
func TestUnnamedPause(t *testing.T) {
	var got []time.Duration
	for n := range 7 {
		got = append(got, unnamedPause(n+1))
	}
	if want := "[30s 1m0s 2m0s 4m0s 8m0s 15m0s 15m0s]"; fmt.Sprint(got) != want || unnamedPause(1000) != quotaWait {
		t.Errorf("got %v, want %s", got, want)
	}
}

// Whatever an answer says, the wait is 0 or within its limits, and the reason is one printable line of bounded length,
// without a part of the webhook's URL or of the token.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "ok", "", true)
	f.Add(429, `{"retry_after":-1e308}`, "NaN", false)
	f.Add(429, `{"ok":false,"error":"https://hooks.invalid/services/T/B/x"}`, "Wed, 21 Oct 2026 07:28:00 GMT", true)
	f.Add(400, `{"message":"/SERVICES/tsecret1 %54SECRET1","errors":[["a\u0000b"]]}`, "1e12", false)
	f.Fuzz(func(t *testing.T, status int, body, header string, bot bool) {
		to := credential{url: newSecret("https://hooks.invalid/services/TSECRET1/BSECRET2")}
		if bot {
			to.token = newSecret("xoxb-TSECRET1")
		}
		a := readAnswer(strings.NewReader(body))
		o := decide(to, status, http.Header{"Retry-After": {header}, "X-Ratelimit-Reset": {header}}, a)
		if o.wait != 0 && o.wait < leastWait || o.wait > longestWait {
			t.Errorf("the wait is %v, want 0, or 1 s to 1 h", o.wait)
		}
		if strings.ContainsFunc(o.reason, func(c rune) bool { return !unicode.IsPrint(c) }) ||
			utf8.RuneCountInString(o.reason) > reasonLimit ||
			strings.Contains(strings.ToLower(o.reason), "tsecret") {
			t.Errorf("the reason is too long, not printable or has a secret in it: %q", o.reason)
		}
	})
}

// redact leaves out the words that could be or hold a part of a webhook's URL or of a token. It returns one line.
func TestRedact(t *testing.T) {
	to := credential{url: newSecret("https://me:passWORD@hooks.slack.com/services/T0AB12/B0CD34/xYz123AbC456" +
		"?key=k%20v%21secret")}
	bot := credential{newSecret("https://slack.com/api/chat.postMessage"), newSecret("xoxb-123-abcDEF")}
	for _, test := range []struct {
		to         credential
		text, want string
	}{
		{to, "no more than 50 items allowed [json-pointer:/blocks/0/text]",
			"no more than 50 items allowed [json-pointer:/blocks/0/text]"},
		{to, "the service hooks.slack.com:443 was not found", "the service hooks.slack.com:443 was not found"},
		{to, "POST /services/T0AB12/B0CD34/xYz123AbC456: no", "POST [redacted] no"},
		{to, "key xYz123AbC… is cut", "key [redacted] is cut"},
		{to, "and XYZ123ABC456 in capitals", "and [redacted] in capitals"},
		{to, "%78Yz123AbC456 %2Fservices%2Fother", "[redacted] [redacted]"},
		{to, "team T0AB12 of me:passWORD", "team [redacted] of [redacted]"},
		{to, "with k%20v%21secret and v!secret", "with [redacted] and [redacted]"},
		{to, "see https://example.com/x?y", "see [redacted]"},
		{to, "of another: xoxp-9 /hooks/abc", "of another: [redacted] [redacted]"},
		{to, "Basic bWU6cGFzc1dPUkQ0NDQ0NDQ0NA==", "Basic [redacted]"},
		{to, "web.incoming_webhook_of_a_long_name.text is 10000000000000000000000",
			"web.incoming_webhook_of_a_long_name.text is 10000000000000000000000"},
		{to, "100% of\ta\r\nline\x00\u202e", "100% of a line"},
		{to, strings.Repeat("ä ", 300), strings.Repeat("ä ", 150)},
		{bot, "Bearer abcDEF and xoxb-123-abcDEF; needed chat:write, a message of a channel",
			"Bearer [redacted] and [redacted] needed chat:write, a message of a channel"},
	} {
		if got := test.to.redact(test.text); got != test.want {
			t.Errorf("%q:\ngot  %q\nwant %q", test.text, got, test.want)
		}
	}
	cutInASecret := strings.Repeat("a ", 149) + strings.Repeat("%78%59%7a%31%32%33", 10)
	if got := to.redact(cutInASecret); strings.Contains(got, "%") {
		t.Errorf("got %q, want no part of the last word", got)
	}
}

// A post goes to the path of its tag's webhook or to that of the Web API, with the right Content-Type and, to the API
// only, with the token.
func TestPostRequests(t *testing.T) {
	t.Parallel()
	slack := e2e.NewFakeSlack(t, nil)
	p := newInProcess(t, testConfig(t, fmt.Sprintf(`
[core]
channel_rate = 0
slack_url = "%[1]s/services/core"
slack_api_url = "%[1]s/api"
[[tags]]
tag = "hook"
[[tags]]
tag = "ownhook"
slack_url = "%[1]s/services/own"
[[tags]]
tag = "bot"
slack_token = "xoxb-1"
`, slack.URL)), newSlackClient(maxPosts))
	for i, test := range []struct{ tag, path, authorization, contentType string }{
		{"hook", "/services/core", "", "application/json"},
		{"ownhook", "/services/own", "", "application/json"},
		{"bot", "/api/chat.postMessage", "Bearer xoxb-1", "application/json; charset=utf-8"},
	} {
		if w := p.do("POST", "/notify", e2e.NotifyBody(test.tag, 1, true)); w.Code != 200 {
			t.Errorf("%s: %d %s", test.tag, w.Code, w.Body)
		}
		d := slack.WaitForPosts(t, i+1)[i]
		if d.Path != test.path || d.Authorization != test.authorization || d.ContentType != test.contentType {
			t.Errorf("%s: posted to %s with the token %q as %s", test.tag, d.Path, d.Authorization, d.ContentType)
		}
	}
}

// One post after the other uses the same connection, whatever Slack answers.
func TestConnectionIsReused(t *testing.T) {
	n := 0
	slack := e2e.NewFakeSlack(t, func(e2e.Delivery) e2e.Reply {
		n++
		return []e2e.Reply{{}, {Status: 500, Body: strings.Repeat("<html>", 20_000)},
			{Status: 404, Body: "no_service"}}[n%3]
	})
	client := newSlackClient(maxPosts)
	for range 9 {
		client.post(credential{url: newSecret(slack.URL)}, []byte("{}"))
	}
	for _, d := range slack.Deliveries() {
		if d.Remote != slack.Deliveries()[0].Remote {
			t.Fatalf("a second connection was opened")
		}
	}
}

// If there is no answer, the outcome says whether the post may have arrived: it is unsure if a connection broke after
// the request was begun, and sure if no connection was made.
func TestUnsure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := make(chan string, 1)
	go func() {
		for how := range broken {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, 64))
			io.WriteString(conn, how)
			conn.Close()
		}
	}()
	plain := e2e.NewFakeSlack(t, nil)
	plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	client := newSlackClient(maxPosts)
	to := credential{url: newSecret("http://" + l.Addr().String() + "/services/SECRETPATH")}
	for _, how := range []string{"", "HTTP/1.1 200", "POST /services/SECRETPATH HTTP/1.1\r\n\r\n"} {
		broken <- how
		out := client.post(to, []byte("{}"))
		if out.class != retry || !out.unsure || out.unreached != (how == "") || strings.Contains(out.reason, "SECRET") {
			t.Errorf("after %q: got %+v, want an unsure retry", how, out)
		}
	}
	close(broken)
	l.Close()
	for what, to := range map[string]credential{
		"refused": to, "no such host": {url: newSecret("http://no-such-host.invalid/x")},
		"no TLS": {url: newSecret(strings.Replace(plain.URL, "http:", "https:", 1))},
	} {
		if out := client.post(to, []byte("{}")); out.class != retry || out.unsure || !out.unreached ||
			strings.Contains(out.reason, "SECRET") {
			t.Errorf("%s: got %+v, want a sure retry that reached nobody", what, out)
		}
	}
}

// If a proxy refuses to connect to Slack, the reason says that the proxy refuses, and why.
func TestProxyRefuses(t *testing.T) {
	for status, want := range map[int]outcome{
		407: {class: retry, reason: "the proxy refuses: status 407 Proxy Authentication Required", unreached: true},
		403: {class: retry, reason: "the proxy refuses: status 403 Forbidden", unreached: true},
		503: {class: retry, reason: "the proxy refuses: status 503 Service Unavailable", unreached: true},
	} {
		proxy := e2e.NewFakeSlack(t, func(e2e.Delivery) e2e.Reply { return e2e.Reply{Status: status, Body: "no"} })
		client := newSlackClient(maxPosts)
		client.client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) {
			return url.Parse(proxy.URL)
		}
		got := client.post(credential{url: newSecret("https://hooks.invalid/x")},
			[]byte("{}"))
		if got != want {
			t.Errorf("%d: got %+v, want %+v", status, got, want)
		}
	}
}

// A redirect is not followed: the message is not posted elsewhere, and an operator has to mend the URL.
func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := e2e.NewFakeSlack(t, nil)
	slack := e2e.NewFakeSlack(t, nil)
	slack.Config.Handler = http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect)
	out := newSlackClient(maxPosts).post(credential{url: newSecret(slack.URL)}, []byte("{}"))
	if out.class != badCredential || len(elsewhere.Deliveries()) != 0 {
		t.Errorf("got %+v and %d posts elsewhere, want none", out, len(elsewhere.Deliveries()))
	}
}

// No part of a webhook's URL and no token gets into an answer, a log, a formatted value or a panic, even if Slack
// repeats them in its answers.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const hook, token = "/services/TSECRET1/BSECRET2/SECRET3", "xoxb-SECRET4"
	explain := func(d e2e.Delivery) string { // the secrets as a whole, in parts, and encoded
		text := "the URL " + d.Path + " with " + d.Authorization + ", " + url.QueryEscape(d.Path+d.Authorization) +
			" or " + strings.ToLower(d.Path)
		for _, c := range d.Path + d.Authorization {
			text += fmt.Sprintf("%%%02X", c)
		}
		return text + " and the end " + d.Path[len(d.Path)/2:] + " " +
			strings.TrimPrefix(d.Authorization, "Bearer xoxb")
	}
	echo := e2e.NewFakeSlack(t, func(d e2e.Delivery) e2e.Reply { return e2e.Reply{Status: 404, Body: explain(d)} })
	told := e2e.NewFakeSlack(t, func(d e2e.Delivery) e2e.Reply {
		return e2e.Reply{Status: 404,
			Body: string(encode(map[string]any{"message": explain(d),
				"errors": map[string]any{d.Path: []string{explain(d)}}}))}
	})
	denied := e2e.NewFakeSlack(t, func(d e2e.Delivery) e2e.Reply {
		return e2e.Reply{Status: 200,
			Body: string(encode(map[string]any{"ok": false, "error": d.Path + d.Authorization,
				"needed":            d.Authorization,
				"response_metadata": map[string]any{"messages": []string{explain(d), strings.Repeat(explain(d), 9)}}}))}
	})
	cfg := testConfig(t, fmt.Sprintf(`
[core]
channel_rate = 0
slack_url = "%[1]s%[3]s"
slack_api_url = "%[2]s"
[[tags]]
tag = "echo"
[[tags]]
tag = "down"
slack_url = "http://127.0.0.1:1%[3]s"
[[tags]]
tag = "nohost"
slack_url = "http://no-such-host.invalid%[3]s"
[[tags]]
tag = "bot"
slack_token = "%[4]s"
[[tags]]
tag = "told"
slack_url = "%[5]s%[3]s"
`, echo.URL, denied.URL, hook, token, told.URL))
	p := newInProcess(t, cfg, newSlackClient(maxPosts))
	var seen strings.Builder
	for _, tag := range []string{"echo", "down", "nohost", "bot", "told"} {
		for _, sync := range []bool{false, true} {
			seen.WriteString(p.do("POST", "/notify", e2e.NotifyBody(tag, 1, sync)).Body.String())
		}
	}
	e2e.Poll(t, "five attempts that fail", func() bool {
		return strings.Count(p.logs.String(), "msg=\"delivery deferred\"")+strings.Count(p.logs.String(),
			"slack cannot be reached") >= 5
	})
	for _, path := range []string{"/config/app", "/app/config", "/stat/go", "/ui/"} {
		seen.WriteString(p.do("GET", path, "").Body.String())
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&seen, verb, cfg)
		fmt.Fprintf(&seen, verb, cfg.core.slackURL)
		fmt.Fprintf(&seen, verb, cfg.tags[3].credential)
	}
	shown, _ := json.Marshal(map[string]any{"secret": cfg.core.slackURL})
	seen.Write(shown)
	p.log.Error("a secret", "secret", cfg.core.slackURL, "tag", cfg.tags[3], "config", cfg)
	seen.WriteString(panicText(func() { panic(cfg.core.slackURL) }))
	for i, secret := range []string{"SECRET", "tsecret1", "bsecret2", "secret3", "secret4", "%53%45%43%52",
		fmt.Sprintf("%x", "SECRET")} {
		for name, text := range map[string]string{"answers": seen.String(), "log": p.logs.String(),
			"access log": p.out.String()} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("secret %d is in the %s: …%q", i, name, text[max(0, at-80):min(len(text), at+40)])
			}
		}
	}
}

// panicText returns what f panics with, as text.
func panicText(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}

// A dry run prints a post as one line of JSON, and counts it as delivered.
func TestPrinter(t *testing.T) {
	var out strings.Builder
	o := (&printer{out: &out}).post(credential{},
		[]byte(`{"text":"x"}`))
	if o.class != delivered || out.String() != "{\"text\":\"x\"}\n" {
		t.Errorf("got %+v, %q", o, out.String())
	}
}
