package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		status     int
		body       string
		retryAfter string
		class      class
		reason     string
		wait       time.Duration
		unsure     bool
	}{
		// Receivers that took it.
		{200, "ok", "", delivered, "", 0, false},
		{200, `{"ok":true,"ts":"1.2"}`, "", delivered, "", 0, false},
		{200, `{"success":true}`, "", delivered, "", 0, false},
		{200, "<html>fine</html>", "", delivered, "", 0, false},
		{204, "", "", delivered, "", 0, false},
		{200, `[1]`, "", delivered, "", 0, false},
		// Webhooks.
		{400, "invalid_payload", "", badContent, "invalid_payload", 0, false},
		{400, "no_text\n", "", badContent, "no_text", 0, false},
		{400, "user_not_found", "", badContent, "user_not_found", 0, false},
		{400, "something else", "", badDestination, "status 400 Bad Request", 0, false},
		{403, "action_prohibited", "", badDestination, "action_prohibited", 0, false},
		{403, "invalid_token", "", badCredential, "invalid_token", 0, false},
		{404, "channel_not_found", "", badDestination, "channel_not_found", 0, false},
		{404, "no_service", "", badCredential, "no_service", 0, false},
		{410, "channel_is_archived", "", badDestination, "channel_is_archived", 0, false},
		{301, "", "", badCredential, "status 301 Moved Permanently", 0, false},
		{401, "", "", badCredential, "status 401 Unauthorized", 0, false},
		{501, "", "", badCredential, "status 501 Not Implemented", 0, false},
		{500, "rollup_error", "", retry, "rollup_error", 0, false},
		{503, "<html>busy</html>", "", retry, "status 503 Service Unavailable", 0, false},
		{504, "", "", retry, "status 504 Gateway Timeout", 0, true},
		{408, "", "", retry, "status 408 Request Timeout", 0, false},
		{418, "", "", badDestination, "status 418 I'm a teapot", 0, false},
		// Limits.
		{429, "", "7", retry, "status 429 Too Many Requests", 7 * time.Second, false},
		{429, `{"retry_after":0.25}`, "", retry, "status 429 Too Many Requests", 250 * time.Millisecond, false},
		{429, "rate_limited", "0", retry, "rate_limited", 0, false},
		{429, "", "99999999", retry, "status 429 Too Many Requests", time.Hour, false},
		{429, "", "", retry, "status 429 Too Many Requests", quotaWait, false},
		{200, `{"ok":false,"error":"ratelimited"}`, "3", retry, "ratelimited", 3 * time.Second, false},
		{200, `{"ok":false,"error":"message_limit_exceeded"}`, "", retry, "message_limit_exceeded", quotaWait, false},
		// The Web API.
		{200, `{"ok":false,"error":"msg_too_long"}`, "", badContent, "msg_too_long", 0, false},
		{200, `{"ok":false,"error":"not_in_channel"}`, "", badDestination, "not_in_channel", 0, false},
		{200, `{"ok":false,"error":"token_revoked"}`, "", badCredential, "token_revoked", 0, false},
		{200, `{"ok":false,"error":"service_unavailable"}`, "", retry, "service_unavailable", 0, false},
		{200, `{"ok":false,"error":"fatal_error"}`, "", retry, "fatal_error", 0, true},
		{500, `{"ok":false,"error":"internal_error"}`, "", retry, "internal_error", 0, true},
		{200, `{"ok":false,"error":"a_code_of_tomorrow"}`, "", badDestination, "a_code_of_tomorrow", 0, false},
		{200, `{"ok":false,"error":{"of":"another type"}}`, "", badDestination, "status 200 OK", 0, false},
		{200, `{"success":false,"error":"Invalid channel"}`, "", badDestination, "status 200 OK", 0, false},
	} {
		header := http.Header{}
		if test.retryAfter != "" {
			header.Set("Retry-After", test.retryAfter)
		}
		got := classify(test.status, header, []byte(test.body))
		if got.class != test.class || got.reason != test.reason || got.wait != test.wait || got.unsure != test.unsure || got.limited != (test.wait > 0 || test.retryAfter == "0") {
			t.Errorf("%d %s: got %+v, want %v %q %v unsure %v", test.status, test.body, got, test.class, test.reason, test.wait, test.unsure)
		}
	}
}

func TestRetryAfterDate(t *testing.T) {
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	if wait, told := retryAfter(in(time.Minute), 0); !told || wait < 58*time.Second || wait > time.Minute {
		t.Errorf("a date in a minute: %v %v", wait, told)
	}
	if wait, told := retryAfter(in(-time.Minute), 0); !told || wait > time.Millisecond {
		t.Errorf("a date gone by: %v %v", wait, told)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(200, "ok", "")
	f.Add(429, `{"retry_after":-1e308}`, "NaN")
	f.Add(429, `{"ok":false,"error":"https://hooks.invalid/services/T/B/x"}`, "Wed, 21 Oct 2026 07:28:00 GMT")
	f.Fuzz(func(t *testing.T, status int, body, header string) {
		o := classify(status, http.Header{"Retry-After": {header}}, []byte(body))
		if o.wait < 0 || o.wait > longestWait {
			t.Errorf("wait %v", o.wait)
		}
		if strings.ContainsAny(o.reason, "/:\n") {
			t.Errorf("reason %q", o.reason)
		}
	})
}

// A proxy's page is no answer of the Web API: the message was not delivered. A webhook's answer may be anything.
func TestAnswerOfAnother(t *testing.T) {
	slack := newFakeSlack(t, func(delivery) reply { return reply{status: 200, body: "<html>login</html>"} })
	client := newSlackClient(maxPosts)
	for to, want := range map[credential]class{
		{newSecret(slack.URL), newSecret("xoxb-1")}: retry, {newSecret(slack.URL), secret{}}: delivered,
	} {
		if out := client.post(t.Context(), to, []byte("{}")); out.class != want || want == retry && !strings.Contains(out.reason, "not Slack's") {
			t.Errorf("got %+v, want %v", out, want)
		}
	}
}

// What goes over the wire to a webhook and to the Web API.
func TestPostRequests(t *testing.T) {
	slack := newFakeSlack(t, nil)
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
		if w := p.do("POST", "/notify", notifyBody(test.tag, 1, true)); w.Code != 200 {
			t.Errorf("%s: %d %s", test.tag, w.Code, w.Body)
		}
		d := slack.waitForPosts(t, i+1)[i]
		if d.path != test.path || d.authorization != test.authorization || d.contentType != test.contentType {
			t.Errorf("%s: got %s, %q, %s", test.tag, d.path, d.authorization, d.contentType)
		}
	}
}

// One connection serves one message after the other, whatever Slack answers.
func TestConnectionIsReused(t *testing.T) {
	n := 0
	slack := newFakeSlack(t, func(delivery) reply {
		n++
		return []reply{{}, {status: 500, body: strings.Repeat("<html>", 20_000)}, {status: 404, body: "no_service"}}[n%3]
	})
	client := newSlackClient(maxPosts)
	for range 9 {
		client.post(t.Context(), credential{url: newSecret(slack.URL)}, []byte("{}"))
	}
	for _, d := range slack.deliveries() {
		if d.remote != slack.deliveries()[0].remote {
			t.Fatalf("a second connection was opened")
		}
	}
}

// unsure tells a post that was not sent from one that may have arrived.
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
	client := newSlackClient(maxPosts)
	to := credential{url: newSecret("http://" + l.Addr().String() + "/services/SECRETPATH")}
	for _, how := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "POST /services/SECRETPATH HTTP/1.1\r\n\r\n"} {
		broken <- how
		if out := client.post(t.Context(), to, []byte("{}")); out.class != retry || !out.unsure || strings.Contains(out.reason, "SECRET") {
			t.Errorf("after %q: got %+v, want an unsure retry", how, out)
		}
	}
	close(broken)
	l.Close()
	if out := client.post(t.Context(), to, []byte("{}")); out.class != retry || out.unsure || strings.Contains(out.reason, "SECRET") {
		t.Errorf("refused: got %+v, want a sure retry", out)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := newFakeSlack(t, nil)
	slack := newFakeSlack(t, nil)
	slack.Config.Handler = http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect)
	out := newSlackClient(maxPosts).post(t.Context(), credential{url: newSecret(slack.URL)}, []byte("{}"))
	if out.class != badCredential || len(elsewhere.deliveries()) != 0 {
		t.Errorf("got %+v and %d posts elsewhere", out, len(elsewhere.deliveries()))
	}
}

// No webhook's URL or path, and no token, comes out anywhere, whatever goes wrong.
func TestSecretsStayInside(t *testing.T) {
	const hook, token = "/services/TSECRET1/BSECRET2/SECRET3", "xoxb-SECRET4"
	echo := newFakeSlack(t, func(d delivery) reply {
		return reply{status: 404, body: "the URL " + d.path + " with " + d.authorization + " is unknown"}
	})
	denied := newFakeSlack(t, func(d delivery) reply {
		return reply{status: 200, body: `{"ok":false,"error":"` + d.path + d.authorization + `"}`}
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
`, echo.URL, denied.URL, hook, token))
	p := newInProcess(t, cfg, newSlackClient(maxPosts))
	var seen strings.Builder
	for _, tag := range []string{"echo", "down", "nohost", "bot"} {
		for _, sync := range []bool{false, true} {
			seen.WriteString(p.do("POST", "/notify", notifyBody(tag, 1, sync)).Body.String())
		}
	}
	poll(t, "four attempts that fail", func() bool { return strings.Count(p.logs.String(), "msg=\"delivery deferred\"") >= 4 })
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
	for i, secret := range []string{"SECRET", fmt.Sprintf("%x", "SECRET")} {
		for name, text := range map[string]string{"answers": seen.String(), "log": p.logs.String(), "access log": p.out.String()} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("secret %d is in the %s: …%q", i, name, text[max(0, at-80):min(len(text), at+40)])
			}
		}
	}
}

func panicText(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}

func TestPrinter(t *testing.T) {
	var out strings.Builder
	if o := (&printer{out: &out}).post(context.Background(), credential{}, []byte(`{"text":"x"}`)); o.class != delivered || out.String() != "{\"text\":\"x\"}\n" {
		t.Errorf("got %+v, %q", o, out.String())
	}
}
