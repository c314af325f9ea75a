package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

// doorConfig has an operator's and a sender's token, a tag with a username and an icon of its own, a tag with two
// channels, and a tag with a slash in its name.
const doorConfig = `
[core]
channel_rate = 0
batch = 1
slack_url = "%s/services/core"
auth_token = "0PERATOR"
[[senders]]
name = "monitoring"
token = "S3NDER"
[[tags]]
tag = "ops"
channel = "#ops"
username = "relay"
icon_emoji = ":satellite:"
[[tags]]
tag = "two"
channel = "#one"
[[tags]]
tag = "two"
channel = "#other"
[[tags]]
tag = "with/slash"
channel = "#slash"
`

// replay sends the request that is written in raw (its head, an empty line, its body), with a Host and a
// Content-Length.
func (p *inProcess) replay(t *testing.T, raw string) *httptest.ResponseRecorder {
	t.Helper()
	head, body, _ := strings.Cut(raw, "\n\n")
	raw = fmt.Sprintf("%s\r\nHost: relay:29800\r\nContent-Length: %d\r\n\r\n%s", strings.ReplaceAll(head, "\n", "\r\n"),
		len(body), body)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	return newRecorderFor(p, r)
}

// Requests as real clients of Slack send them are answered as Slack answers, and their posts are what the clients
// wanted. No token gets into the spool, the logs, /metrics or /stat/app.
func TestDoor(t *testing.T) {
	t.Parallel()
	const usual = `"username":"slackboard","icon_emoji":":clipboard:","parse":"full"`
	const alert = `"username":"Alertmanager","attachments":[{"title":"[FIRING:1] disk ` +
		`full","title_link":"http://alerts:9093/#/alerts","text":"","fallback":"[FIRING:1] disk full | ` +
		`http://alerts:9093/","callback_id":"","footer":"","color":"danger","mrkdwn_in":["fallback","pretext","text"]}]`
	const blocks = `[{"type":"section","text":{"type":"mrkdwn","text":"*a* & b = 100%"}}]`
	const relay = `"channel":"#ops","username":"relay","icon_emoji":":satellite:"`
	gitlab := "payload=" + url.QueryEscape(`{"username":"GitLab","icon_url":"https://gitlab/i.png","text":"pushed to `+
		`<https://gitlab/x|main> & é","attachments":[{"color":"#345","text":"+1 -1"}]}`)
	slack := e2e.NewFakeSlack(t, nil)
	p := newInProcess(t, testConfig(t, fmt.Sprintf(doorConfig, slack.URL)), newSlackClient(maxPosts))
	const text, doc = "text/plain", "application/json"
	for _, test := range []struct {
		name, request     string
		contentType, body string
		posts             []string
	}{
		{"Alertmanager", "POST /services/ops/S3NDER HTTP/1.1\nUser-Agent: Alertmanager/0.27.0\nContent-Type: " +
			"application/json\n\n" + `{"channel":"#alerts",` + alert + "}\n",
			text, "ok", []string{`{"channel":"#ops","icon_emoji":":satellite:",` + alert + `}`}},
		{"Alertmanager with a token", "POST /api/chat.postMessage HTTP/1.1\nUser-Agent: Alertmanager/0.27.0\n" +
			"Authorization: Bearer S3NDER\nContent-Type: application/json\n\n" + `{"channel":"#alerts",` +
			alert + "}\n",
			doc, `{"ok":true,"channel":"#alerts"}`, []string{`{"channel":"#alerts",` + alert + `}`}},
		{"npm @slack/webhook", "POST /services/ops/S3NDER HTTP/1.1\nAccept: application/json, text/plain, */*\n" +
			"Content-Type: application/json\nUser-Agent: @slack:webhook/7.0.0 node/22 linux/6\n" +
			"sec-fetch-mode: cors\n\n" + `{"text":"hi"}`,
			text, "ok", []string{`{` + relay + `,"text":"hi"}`}},
		{"npm @slack/web-api", "POST /api/chat.postMessage HTTP/1.1\nContent-Type: " +
			"application/x-www-form-urlencoded\nAuthorization: Bearer S3NDER\nsec-fetch-mode: cors\n\n" +
			"channel=%23x&text=hi&blocks=" + url.QueryEscape(blocks) + "&unfurl_links=false&metadata=" +
			url.QueryEscape(`{"event_type":"x","event_payload":{}}`),
			doc, `{"ok":true,"channel":"#x"}`,
			[]string{`{"channel":"#x","text":"hi","blocks":` + blocks +
				`,"unfurl_links":false,"metadata":{"event_type":"x","event_payload":{}}}`}},
		{"npm @slack/web-api asks", "POST /api/auth.test HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n" +
			"Authorization: Bearer S3NDER\n\n",
			doc, `{"ok":true}`, nil},
		{"python slack_sdk, webhook", "POST /services/ops/S3NDER HTTP/1.1\nContent-Type: " +
			"application/json;charset=utf-8\nUser-Agent: Python/3.12 slackclient/3.33\n\n" +
			`{"text": "caf\u00e9", "blocks": ` + blocks + `}`,
			text, "ok", []string{`{` + relay + `,"text":"café","blocks":` + blocks + `}`}},
		{"python slack_sdk, Web API", "POST /api/chat.postMessage HTTP/1.1\nContent-Type: " +
			"application/json;charset=utf-8\nAuthorization: Bearer S3NDER\n\n" +
			`{"channel": "C0123456789", "text": "hi", "thread_ts": "1.2"}`,
			doc, `{"ok":true,"channel":"C0123456789"}`,
			[]string{`{"channel":"C0123456789","text":"hi","thread_ts":"1.2"}`}},
		{"python slack_sdk, with JSON as text", "POST /api/chat.postMessage HTTP/1.1\nContent-Type: " +
			"application/json;charset=utf-8\nAuthorization: Bearer S3NDER\n\n" +
			`{"channel":"#x","text":"hi","attachments":"","blocks":` + string(encode(blocks)) + `}`,
			doc, `{"ok":true,"channel":"#x"}`,
			[]string{`{"channel":"#x","text":"hi","attachments":null,"blocks":` + blocks + `}`}},
		{"a form with empty fields", "POST /api/chat.postMessage HTTP/1.1\nAuthorization: Bearer S3NDER\n\n" +
			"channel=%23x&text=hi&blocks=&attachments=",
			doc, `{"ok":true,"channel":"#x"}`,
			[]string{`{"channel":"#x","text":"hi","attachments":null,"blocks":null}`}},
		{"slack-go, webhook", "POST /services/ops/S3NDER HTTP/1.1\nContent-Type: application/json\n\n" +
			`{"text":"hi","blocks":null,"replace_original":false,"delete_original":false}`,
			text, "ok", []string{`{` + relay +
				`,"text":"hi","blocks":null,"replace_original":false,"delete_original":false}`}},
		{"slack-go, PostMessage",
			"POST /api/chat.postMessage HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\nattachments=" +
				url.QueryEscape(`[{"text":"a","blocks":null}]`) +
				"&channel=C0123456789&link_names=1&mrkdwn=false&text=true&token=S3NDER",
			doc, `{"ok":true,"channel":"C0123456789"}`,
			[]string{`{"channel":"C0123456789",` +
				`"attachments":[{"text":"a","blocks":null}],"link_names":true,"mrkdwn":false,"text":"true"}`}},
		{"slack-go asks",
			"POST /api/auth.test HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\ntoken=S3NDER", doc,
			`{"ok":true}`, nil},
		{"text as markdown",
			"POST /api/chat.postMessage HTTP/1.1\nAuthorization: Bearer S3NDER\n\nchannel=C1&markdown_text=**hi**", doc,
			`{"ok":true,"channel":"C1"}`, []string{`{"channel":"C1","markdown_text":"**hi**"}`}},
		{"a token in JSON", "POST /api/chat.postMessage HTTP/1.1\n\n" + `{"token":"S3NDER","channel":"#x","text":"hi"}`,
			doc, `{"ok":true,"channel":"#x"}`, []string{`{"channel":"#x","text":"hi"}`}},
		{"a token in JSON, in capitals", "POST /api/chat.postMessage HTTP/1.1\n\n" +
			`{"Token":"S3NDER","TOKEN":"S3NDER","channel":"#x","text":"hi"}`,
			doc, `{"ok":true,"channel":"#x"}`, []string{`{"channel":"#x","text":"hi"}`}},
		{"GitLab", "POST /services/ops/S3NDER HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\n" + gitlab,
			text, "ok",
			[]string{`{"channel":"#ops","username":"GitLab","icon_url":"https://gitlab/i.png","text":"pushed to ` +
				`<https://gitlab/x|main> & é","attachments":[{"color":"#345","text":"+1 -1"}]}`}},
		{"a script without a Content-Type", "POST /services/ops/S3NDER HTTP/1.1\n\n" +
			`{"channel":"","icon_emoji":"","text":"hi"}`, text, "ok", []string{`{` + relay + `,"text":"hi"}`}},
		{"a form without a Content-Type", "POST /services/ops/S3NDER HTTP/1.1\n\npayload=" +
			url.QueryEscape(`{"text":"hi"}`), text, "ok", []string{`{` + relay + `,"text":"hi"}`}},
		{"a form that is not encoded", "POST /services/ops/S3NDER HTTP/1.1\n\n" + `payload={"text":"100% full; a=b"}`,
			text, "ok", []string{`{` + relay + `,"text":"100% full; a=b"}`}},
		{"JSON as a form", "POST /services/ops/S3NDER HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\n" +
			`{"text":"a=b&c"}`, text, "ok", []string{`{` + relay + `,"text":"a=b&c"}`}},
		{"a byte order mark", "POST /services/ops/S3NDER HTTP/1.1\n\n\ufeff" + `{"text":"hi"}`, text, "ok",
			[]string{`{` + relay + `,"text":"hi"}`}},
		{"bytes that are no UTF-8", "POST /services/ops/S3NDER HTTP/1.1\n\npayload=%7B%22text%22%3A%22a%FFb%22%7D",
			text, "ok", []string{`{` + relay + `,"text":"a�b"}`}},
		{"Grafana", "POST /services/ops HTTP/1.1\nAuthorization: Bearer S3NDER\nContent-Type: application/json\n" +
			"User-Agent: Grafana\n\n" +
			`{"attachments":[{"color":"#D63232","fallback":"f","fields":[],"footer":"Grafana ` +
			`v11","text":"**Firing**","title":"t","ts":1}]}`,
			text, "ok", []string{`{` + relay +
				`,"attachments":[{"color":"#D63232","fallback":"f","fields":[],"footer":"Grafana ` +
				`v11","text":"**Firing**","title":"t","ts":1}]}`}},
		{"the operators' token", "POST /services/ops/0PERATOR HTTP/1.1\n\n" + `{"text":"hi"}`, text, "ok",
			[]string{`{` + relay + `,"text":"hi"}`}},
		{"a channel and a token that are not asked for", "POST /services/ops/S3NDER HTTP/1.1\n\n" +
			`{"text":"hi","channel":["x"],"token":"S3NDER"}`, text, "ok", []string{`{` + relay + `,"text":"hi"}`}},
		{"a slash at the end", "POST /services/ops/S3NDER/ HTTP/1.1\n\n" + `{"text":"hi"}`, text, "ok",
			[]string{`{` + relay + `,"text":"hi"}`}},
		{"a tag with a slash", "POST /services/with%2Fslash/S3NDER/ HTTP/1.1\n\n" +
			`{"text":"hi","username":"u","icon_url":"http://i/"}`, text, "ok",
			[]string{`{"channel":"#slash","text":"hi","username":"u","icon_url":"http://i/"}`}},
		{"two channels", "POST /services/two/S3NDER HTTP/1.1\n\n" + `{"text":"hi","username":"u","icon_emoji":":i:"}`,
			text, "ok",
			[]string{`{"channel":"#one","text":"hi","username":"u","icon_emoji":":i:"}`,
				`{"channel":"#other","text":"hi","username":"u","icon_emoji":":i:"}`}},
		{"any method of the API", "POST /api/chat.update HTTP/1.1\nAuthorization: Bearer S3NDER\n\nts=1.2", doc,
			`{"ok":false,"error":"unknown_method"}`, nil},
		{"none of the API", "POST /api/ HTTP/1.1\n\n{}", doc, `{"ok":false,"error":"unknown_method"}`, nil},
		{"by any method", "GET /api/conversations.list?limit=1 HTTP/1.1\n\n", doc,
			`{"ok":false,"error":"unknown_method"}`, nil},
		{"a form for a tag", "POST /notify HTTP/1.1\nAuthorization: Bearer S3NDER\nContent-Type: " +
			"application/x-www-form-urlencoded\n\n" +
			"tag=two&sync=true&text=Filesystem%20Use%25%0A%2Fdev%2Fsda1+90%25%00%0A&username=x", doc, "",
			[]string{`{"channel":"#one",` + usual + `,"text":"Filesystem Use%\n/dev/sda1 90%\n"}`,
				`{"channel":"#other",` + usual + `,"text":"Filesystem Use%\n/dev/sda1 90%\n"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(slack.Deliveries())
			w := p.replay(t, test.request)
			if w.Code != 200 || w.Header().Get("Content-Type") != test.contentType || test.body != "" &&
				w.Body.String() != test.body {
				t.Errorf("got %d %q as %s, want %q as %s", w.Code, w.Body, w.Header().Get("Content-Type"), test.body,
					test.contentType)
			}
			posted, want := map[string]bool{}, map[string]bool{}
			for _, d := range slack.WaitForPosts(t, before+len(test.posts))[before:] {
				posted[e2e.Normal(t, d.Body)] = utf8.ValidString(d.Body)
			}
			for _, post := range test.posts {
				want[e2e.Normal(t, post)] = true
			}
			if fmt.Sprint(posted) != fmt.Sprint(want) {
				t.Errorf("slack got\n%v, want\n%v", posted, want)
			}
		})
	}
	stored := ""
	files, _ := filepath.Glob(filepath.Join(p.cfg().spool.dir, "*"))
	for _, file := range files {
		stored += e2e.ReadFile(t, file)
	}
	if all := stored + p.out.String() + p.logs.String() + p.askAs("0PERATOR", "GET", "/metrics",
		"").Body.String() + p.askAs("0PERATOR", "GET", "/stat/app", "").Body.String(); strings.Contains(all,
		"S3NDER") || strings.Contains(all, "0PERATOR") {
		t.Errorf("a token shows: %s", all)
	}
	if log := p.out.String(); !strings.Contains(log, `"uri":"/services/ops/..."`) ||
		!strings.Contains(log, `"tag":"ops"`) || !strings.Contains(log, `"sender":"monitoring"`) {
		t.Errorf("the access log is %s", log)
	}
}

// What Slack would refuse is refused with Slack's own word for it: by a webhook with a status and a line of text, by
// the API with JSON. Nothing is posted, and no token is logged.
func TestDoorRefuses(t *testing.T) {
	t.Parallel()
	slack := &recorder{}
	p := newInProcess(t, testConfig(t, fmt.Sprintf(doorConfig, "http://127.0.0.1:1")), slack)
	webhook := func(head, body string) string { return "POST /services/" + head + "\n\n" + body }
	api := func(body string) string {
		return "POST /api/chat.postMessage HTTP/1.1\nAuthorization: Bearer S3NDER\n\n" + body
	}
	for _, test := range []struct {
		name, request string
		status        int
		body          string // with "…" at its end, the answer only begins with it
	}{
		{"no token", webhook("ops HTTP/1.1", `{"text":"x"}`), 403, "invalid_token"},
		{"a wrong token", webhook("ops/S3NDE HTTP/1.1", `{"text":"x"}`), 403, "invalid_token"},
		{"a wrong token, and a right one", webhook("ops/S3NDE HTTP/1.1\nAuthorization: Bearer S3NDER", `{"text":"x"}`),
			403, "invalid_token"},
		{"a wrong tag and token", webhook("nope/S3NDE HTTP/1.1", `{"text":"x"}`), 403, "invalid_token"},
		{"Slack's own path", webhook("T0/B0/SECRET HTTP/1.1", `{"text":"x"}`), 403, "invalid_token"},
		{"a wrong tag", webhook("nope/S3NDER HTTP/1.1", `{"text":"x"}`), 404, "no_service"},
		{"the token in the place of the tag", webhook("S3NDER/S3NDER HTTP/1.1", `{"text":"x"}`), 404, "no_service"},
		{"no body", webhook("ops/S3NDER HTTP/1.1", ""), 400, "invalid_payload"},
		{"no JSON", webhook("ops/S3NDER HTTP/1.1", "hello"), 400, "invalid_payload"},
		{"a list", webhook("ops/S3NDER HTTP/1.1", "[]"), 400, "invalid_payload"},
		{"null", webhook("ops/S3NDER HTTP/1.1", "null"), 400, "invalid_payload"},
		{"half of it", webhook("ops/S3NDER HTTP/1.1", `{"text":"x"`), 400, "invalid_payload"},
		{"a form without a payload", webhook("ops/S3NDER HTTP/1.1", "text=x"), 400, "invalid_payload"},
		{"a form with half of it", webhook("ops/S3NDER HTTP/1.1", "payload=%7B"), 400, "invalid_payload"},
		{"too deep for the spool", webhook("ops/S3NDER HTTP/1.1", `{"text":"x","attachments":`+
			strings.Repeat("[", 9999)+strings.Repeat("]", 9999)+`}`), 400, "invalid_payload"},
		{"text is no string", webhook("ops/S3NDER HTTP/1.1", `{"text":5}`), 400, "invalid_payload"},
		{"blocks are no list", webhook("ops/S3NDER HTTP/1.1", `{"text":"x","blocks":{}}`), 400, "invalid_blocks"},
		{"attachments are no list", webhook("ops/S3NDER HTTP/1.1", `{"text":"x","attachments":"x"}`), 400,
			"invalid_attachments"},
		{"nothing", webhook("ops/S3NDER HTTP/1.1", `{}`), 400, "no_text"},
		{"nothing to say", webhook("ops/S3NDER HTTP/1.1", `{"text":" ","blocks":[],"attachments":null}`), 400,
			"no_text"},
		{"compressed", webhook("ops/S3NDER HTTP/1.1\nContent-Encoding: gzip", "\x1f\x8b"), 415,
			"Request-body is compressed…"},
		{"too large", webhook("ops/S3NDER HTTP/1.1", `{"text":"`+strings.Repeat("x", bodyLimit)+`"}`), 413,
			"Request-body is larger than 1048576 bytes"},

		{"API: no token", "POST /api/chat.postMessage HTTP/1.1\n\n" + `{"channel":"#x","text":"x"}`, 200,
			`{"ok":false,"error":"invalid_auth"}`},
		{"API: no token and no JSON", "POST /api/chat.postMessage HTTP/1.1\n\nx", 200,
			`{"ok":false,"error":"invalid_auth"}`},
		{"API: a wrong token", "POST /api/chat.postMessage HTTP/1.1\nAuthorization: Bearer x\n\n" +
			`{"token":"S3NDER","channel":"#x","text":"x"}`, 200, `{"ok":false,"error":"invalid_auth"}`},
		{"API: a wrong token in the form", "POST /api/chat.postMessage HTTP/1.1\n\nchannel=%23x&text=x&token=x", 200,
			`{"ok":false,"error":"invalid_auth"}`},
		{"API: a wrong token asks", "POST /api/auth.test HTTP/1.1\n\ntoken=x", 200,
			`{"ok":false,"error":"invalid_auth"}`},
		{"API: no token asks", "POST /api/auth.test HTTP/1.1\n\n", 200, `{"ok":false,"error":"invalid_auth"}`},
		{"API: a token in the query", "POST /api/chat.postMessage?token=S3NDER HTTP/1.1\n\n" +
			`{"channel":"#x","text":"x"}`, 200, `{"ok":false,"error":"invalid_auth"}`},
		{"API: channel is no string", api(`{"channel":5,"text":"x"}`), 200, `{"ok":false,"error":"invalid_arguments"}`},
		{"API: a channel of two lines", api(`{"channel":"#x\ny","text":"x"}`), 200,
			`{"ok":false,"error":"channel_not_found"}`},
		{"API: no text", api(`{"channel":"#x"}`), 200, `{"ok":false,"error":"no_text"}`},
		{"API: blocks are no list", api("channel=%23x&blocks=%7B%7D"), 200, `{"ok":false,"error":"invalid_blocks"}`},
		{"API: blocks are no JSON", api("channel=%23x&blocks=%5B&text=x"), 200,
			`{"ok":false,"error":"invalid_blocks"}`},
		{"API: a form with too many fields", api("channel=%23x&text=x" + strings.Repeat("&a=b", formFields)), 200,
			`{"ok":false,"error":"invalid_arguments"}`},
		{"API: malformed", api(`{"channel":`), 200, `{"ok":false,"error":"invalid_arguments"}`},
		{"API: compressed",
			"POST /api/chat.postMessage HTTP/1.1\nAuthorization: Bearer S3NDER\nContent-Encoding: br\n\nx", 415,
			`{"ok":false,"error":"Request-body is compressed…`},
		{"a page of another site", webhook("ops/S3NDER HTTP/1.1\nOrigin: http://evil.invalid\nsec-fetch-mode: cors",
			`{"text":"x"}`), 403, `{"message":"a page of another site…`},
		{"another site's fetch", webhook("ops/S3NDER HTTP/1.1\nsec-fetch-site: cross-site\nsec-fetch-mode: cors",
			`{"text":"x"}`), 403, `{"message":"a page of another site…`},
	} {
		w := p.replay(t, test.request)
		got, want := w.Body.String(), test.body
		if start, more := strings.CutSuffix(want, "…"); more && strings.HasPrefix(got, start) {
			want = got
		}
		contentType := "text/plain"
		if strings.HasPrefix(want, "{") {
			contentType = "application/json"
		}
		if w.Code != test.status || got != want || w.Header().Get("Content-Type") != contentType {
			t.Errorf("%s: got %d %q as %s, want %d %q", test.name, w.Code, got, w.Header().Get("Content-Type"),
				test.status, test.body)
		}
	}
	if len(slack.all()) != 0 {
		t.Errorf("refused requests were posted: %+v", slack.all())
	}
	if all := p.out.String() + p.logs.String(); strings.Contains(all, "S3NDE") || strings.Contains(all, "SECRET") {
		t.Errorf("a token shows: %s", all)
	}
	for config, body := range map[string]string{
		"[[tags]]\ntag='a'\nslack_url='http://127.0.0.1:1/x'\n": `{"channel":"#x","text":"x"}`,
		"[core]\nslack_token='xoxb-1'\n":                        `{"text":"x"}`,
	} {
		p := newInProcess(t, testConfig(t, config), &recorder{})
		w := p.replay(t, "POST /api/chat.postMessage HTTP/1.1\n\n"+
			body)
		if w.Body.String() != `{"ok":false,"error":"channel_not_found"}` {
			t.Errorf("%s with %s: %s", body, config, w.Body)
		}
	}
}

// If messages cannot be accepted because too many wait, clients of Slack get a 503 with a Retry-After, after which all
// of them try again. They never get a 429, after which some drop the message.
func TestDoorIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newInProcess(t, testConfig(t, e2e.WithCore(hookAndTags, "qps = 1\nmax_delay_duration = 0")),
			&recorder{script: down})
		for _, request := range []string{"POST /services/a", "POST /api/chat.postMessage"} {
			var w *httptest.ResponseRecorder
			for range 3 {
				w = p.replay(t, request+" HTTP/1.1\n\n"+`{"channel":"#a","text":"x"}`)
			}
			if w.Code != 503 || w.Header().Get("Retry-After") == "" ||
				strings.HasPrefix(w.Body.String(), "{") != strings.Contains(request, "api") {
				t.Errorf("%s: got %d %v %s, want 503 with a Retry-After", request, w.Code, w.Header(), w.Body)
			}
		}
	})
}

// Large requests that show no token before their body is read get half of the room for large bodies. Beyond that they
// are answered 503. The other half is for large requests with a token in the header.
func TestStrangersLeaveRoom(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, fmt.Sprintf(doorConfig, "http://127.0.0.1:1")), &recorder{})
	for range maxLarge / 2 {
		p.bodies <- struct{}{}
	}
	body := "token=S3NDER&channel=%23x&text=" + strings.Repeat("x", 2*largeFrom)
	for _, test := range []struct {
		head   string
		status int
	}{{"", 503}, {"\nAuthorization: Bearer S3NDER", 200}} {
		if w := p.replay(t, "POST /api/chat.postMessage HTTP/1.1"+test.head+"\n\n"+body); w.Code != test.status ||
			(w.Header().Get("Retry-After") == "") != (w.Code == 200) {
			t.Errorf("with the header %q: got %d %s", test.head, w.Code, w.Body)
		}
	}
	if len(p.bodies) != maxLarge/2 {
		t.Errorf("%d large bodies count as in memory, want as many as before", len(p.bodies))
	}
}

// If the configuration has no tokens, as that of a dry run, clients of Slack may post with any token or none.
func TestDryRunHasADoor(t *testing.T) {
	t.Parallel()
	slack := &recorder{}
	p := newInProcess(t, dryRunConfig(), slack)
	for _, path := range []string{"/services/general", "/services/random/T0KEN", "/services/test/a/b",
		"/api/chat.postMessage", "/api/auth.test"} {
		if w := p.do("POST", path, `{"channel":"#x","text":"hello"}`); w.Code != 200 || w.Body.String() != "ok" &&
			!strings.HasPrefix(w.Body.String(), `{"ok":true`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	e2e.Poll(t, "four posts", func() bool { return len(slack.all()) == 4 })
}

// The access log and the answer do not show the parts of a path or query that may be a secret. A path that is not known
// may be that of another program's webhook.
func TestShownURI(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	for uri, want := range map[string]string{
		"/services/general":                      "/services/general",
		"/services/general/KEY":                  "/services/general/...",
		"/services/general/KEY/KEY?token=KEY":    "/services/general/...",
		"/services/general/?token=KEY":           "/services/general",
		"//services//general//KEY":               "/services/general/...",
		"/services/KEY":                          "/services/...",
		"/services/T0/B0/KEY":                    "/services/...",
		"/hooks/KEY":                             "/hooks/...",
		"/api/webhooks/1/KEY/slack":              "/api/...",
		"/api/KEY/chat.postMessage":              "/api/...",
		"/api%2FKEY":                             "/api/...",
		"/chat/hooks/KEY/slack":                  "/chat/...",
		"/x/../services/general/KEY":             "/x/...",
		"/metrics/%2e%2e/services/general/KEY":   "/metrics/...",
		"/./services/general/KEY":                "/./...",
		"/api/chat.postMessage?token=KEY":        "/api/chat.postMessage",
		"/messages/KEY/retry/now":                "/messages/...",
		"/notify?x=1":                            "/notify?x=1",
		"/nothing?token=KEY":                     "/nothing",
		"/messages/retry?tag=a%0Ab\u0085c\u2028": "/messages/retry?tag=a%0Ab c ",
	} {
		p.out.Reset()
		w := p.do("POST", uri, `{"text":"x"}`)
		var line response
		if err := json.Unmarshal([]byte(p.out.String()), &line); err != nil || line.URI != want ||
			strings.Contains(w.Body.String(), "KEY") {
			t.Errorf("%s: %v, shown as %s, want %s; answered %s", uri, err, line.URI, want, w.Body)
		}
	}
}

// Payloads that were posted to a webhook's path merge by the same rule as other messages.
func TestDoorMerges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		p := newInProcess(t, testConfig(t, strings.Replace(hookAndTags, "batch = 1", "batch = 20", 1)), slack)
		stop := make(chan bool)
		slack.script = func(n int, _ recorded) outcome {
			if n == 1 {
				<-stop
			}
			return outcome{class: delivered}
		}
		for i := range 10 {
			p.do("POST", "/services/a",
				fmt.Sprintf(`{"channel":"#x","username":"Alertmanager",`+
					`"attachments":[{"title":"%d","text":"","fallback":"f","color":"danger"}]}`, i))
			synctest.Wait()
		}
		close(stop)
		time.Sleep(time.Minute)
		if n := len(slack.all()); n != 2 {
			t.Errorf("%d posts of ten messages, want 2: the first, then the nine that waited", n)
		}
	})
}

// Everything that is taken for a form becomes a JSON object.
func FuzzForm(f *testing.F) {
	for _, body := range []string{"tag=a&text=b%20c", "payload=%7B%7D", `payload={"text":"100%"}`, "blocks=[&sync=1",
		"a=%FF&a=\x00", "=", "x", `{"a":"b=c"}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if isForm([]byte(body)) {
			if doc := asJSON([]byte(body)); !json.Valid(doc) || doc[0] != '{' {
				t.Errorf("%q became %s, want a JSON object", body, doc)
			}
		}
	})
}
