package main

import (
	"encoding/json"
	"expvar"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

// originalConfig is a configuration of the original Slackboard, with the same keys.
const originalConfig = `
[core]
port = "29800"
slack_url = "%s/services/T0/B0/core"
qps = 0
max_delay_duration = 5

[[tags]]
tag = "general"
channel = "#general"
username = "slackboard"
icon_emoji = ":clipboard:"
parse = "full"

[[tags]]
tag = "defaults"

[[tags]]
tag = "two"
channel = "#first"

[[tags]]
tag = "two"
channel = "#second"

[log]
access_log = "stdout"
error_log  = "stderr"
level      = "error"

[ui]
root = ""
`

// Requests of the original Slackboard get the original's answers, and Slack gets the original's payloads, with the
// differences that docs/migration.md lists.
func TestOriginal(t *testing.T) {
	t.Parallel()
	slack := e2e.NewFakeSlack(t, nil)
	p := newInProcess(t,
		testConfig(t, strings.Replace(fmt.Sprintf(originalConfig, slack.URL), "[core]", "[core]\nchannel_rate = 0", 1)),
		newSlackClient(maxPosts))
	text := strings.Repeat("ä", 30_000) + strings.Repeat("ö", 20_000)
	cutText := cut(text, textLimit)
	if n := utf8.RuneCountInString(cutText); n > textLimit || n < textLimit-10 || !utf8.ValidString(cutText) {
		t.Errorf("a text of 50000 characters is cut to %d", n)
	}
	const blocks = `"blocks":[{"n":12345678901234567890.12345678901234567890,"t":"<&>é"}],"unfurl_links":false`
	attached := func(color, title, text string) string {
		return fmt.Sprintf(`{"channel":"#general",`+
			`"username":"slackboard",`+
			`"icon_emoji":":clipboard:",`+
			`"parse":"full","attachments":[{"fallback":%q,"color":%q,"title":%q,"text":%q,`+
			`"footer":"web-01","mrkdwn_in":["text"]}]}`,
			join(title, ": ", text), color, title, text)
	}
	for _, test := range []struct {
		name, path, body string
		status           int
		message          string
		posts            []string // with empty strings left out of attachments
	}{
		{"plain", "/notify", `{"tag":"general","host":"web-01","text":"hi <a> & b"}`, 200, "ok",
			[]string{`{"channel":"#general","username":"slackboard","icon_emoji":":clipboard:","text":"hi <a> & ` +
				`b","parse":"full"}`}},
		{"defaults of a tag", "/notify", `{"tag":"defaults","text":"hi"}`, 200, "ok",
			[]string{`{"channel":"#random",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"sync", "/notify", `{"tag":"defaults","text":"hi","sync":true}`, 200, "ok",
			[]string{`{"channel":"#random",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"level message", "/notify", `{"tag":"general","text":"hi","level":"message"}`, 200, "ok",
			[]string{`{"channel":"#general",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"unknown level", "/notify", `{"tag":"general","text":"hi","level":"panic"}`, 200, "ok",
			[]string{`{"channel":"#general",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"info", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"info"}`, 200, "ok",
			[]string{attached("#00ff00", "", "hi")}},
		{"warn", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"warn"}`, 200, "ok",
			[]string{attached("#ffdd00", "", "hi")}},
		{"crit and title", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"crit","title":"T"}`, 200,
			"ok", []string{attached("#ff0000", "T", "hi")}},
		{"title", "/notify", `{"tag":"general","host":"web-01","text":"hi","title":"T"}`, 200, "ok",
			[]string{attached("", "T", "hi")}},
		{"words for levels", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"WARNING"}`, 200, "ok",
			[]string{attached("#ffdd00", "", "hi")}},
		{"error", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"error"}`, 200, "ok",
			[]string{attached("#ff0000", "", "hi")}},
		{"ok", "/notify", `{"tag":"general","host":"web-01","text":"hi","level":"ok"}`, 200, "ok",
			[]string{attached("#00ff00", "", "hi")}},
		{"control characters", "/notify", `{"tag":"gen\u0000eral",` +
			`"host":"we\u0007b-01\u0085","text":"hi","level":"cr\u001bit","title":"T\nU\u0085V"}`, 200, "ok",
			[]string{strings.Replace(attached("#ff0000", "T U V", "hi"), "web-01", "web-01 ", 1)}},
		{"a long host", "/notify", `{"tag":"general","host":"` + strings.Repeat("é", 300) +
			`","text":"hi","title":"T"}`, 200, "ok",
			[]string{strings.Replace(attached("", "T", "hi"), "web-01", strings.Repeat("é", 255), 1)}},
		{"title alone", "/notify", `{"tag":"general","host":"web-01","title":"T"}`, 200, "ok",
			[]string{attached("", "T", "")}},
		{"no host: the address", "/notify", `{"tag":"general","text":"hi","title":"T"}`, 200, "ok",
			[]string{strings.Replace(attached("", "T", "hi"), "web-01", "192.0.2.1", 1)}},
		{"unknown fields", "/notify", `{"tag":"defaults","text":"hi","color":"red","x":{"y":[1]}}`, 200, "ok",
			[]string{`{"channel":"#random",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"one tag, two channels", "/notify", `{"tag":"two","text":"hi","sync":true}`, 200, "ok", []string{
			`{"channel":"#first","username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`,
			`{"channel":"#second","username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"long text", "/notify", `{"tag":"defaults","text":"` + text + `"}`, 200, "ok",
			[]string{`{"channel":"#random","username":"slackboard","icon_emoji":":clipboard:","text":"` +
				strings.ReplaceAll(cutText, "\n", `\n`) + `","parse":"full"}`}},
		{"a byte order mark", "/notify", "\ufeff" + `{"tag":"defaults","text":"hi"}`, 200, "ok",
			[]string{`{"channel":"#random",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"bad UTF-8", "/notify", "{\"tag\":\"defaults\",\"text\":\"a\xffb\"}", 200, "ok",
			[]string{`{"channel":"#random",` +
				`"username":"slackboard","icon_emoji":":clipboard:","text":"a�b","parse":"full"}`}},

		{"direct", "/notify-directly",
			`{"payload":{"channel":"#c","username":"u","icon_emoji":":i:","text":"hi","parse":"none"},"sync":false}`,
			200, "ok",
			[]string{`{"channel":"#c","username":"u","icon_emoji":":i:","text":"hi","parse":"none"}`}},
		{"direct: defaults", "/notify-directly", `{"payload":{"channel":"#c","text":"hi"}}`, 200, "ok",
			[]string{`{"channel":"#c","username":"slackboard","icon_emoji":":clipboard:","text":"hi","parse":"full"}`}},
		{"direct: empty keys are left out", "/notify-directly",
			`{"payload":{"channel":"#c","text":"hi","username":"","icon_emoji":"","parse":""}}`, 200, "ok",
			[]string{`{"channel":"#c","text":"hi"}`}},
		{"direct: the webhook's channel", "/notify-directly",
			`{"payload":{"text":"hi","username":"","icon_emoji":"","parse":""}}`, 200, "ok", []string{`{"text":"hi"}`}},
		{"direct: all else passes unchanged", "/notify-directly", `{"payload":{"channel":"#c",` +
			`"username":"","icon_emoji":"","parse":"","thread_ts":"1.2",` + blocks + `}}`, 200, "ok",
			[]string{`{"channel":"#c","thread_ts":"1.2",` + blocks + `}`}},
		{"direct: long text", "/notify-directly", `{"payload":{"username":"","icon_emoji":"","parse":"","text":"` +
			text + `"}}`, 200, "ok",
			[]string{`{"text":"` + strings.ReplaceAll(cutText, "\n", `\n`) + `"}`}},
		{"direct: attachments alone", "/notify-directly",
			`{"payload":{"username":"","icon_emoji":"","parse":"","attachments":[{"text":"x"}]}}`, 200, "ok",
			[]string{`{"attachments":[{"text":"x"}]}`}},

		{"unknown tag", "/notify", `{"tag":"nope","text":"hi"}`, 400, "tag:nope is not found", nil},
		{"misspelt tag", "/notify", `{"tag":"Default","text":"hi"}`, 400,
			"tag:Default is not found: the nearest is defaults", nil},
		{"unknown tag, sync", "/notify", `{"tag":"nope","text":"hi","sync":true}`, 400, "tag:nope is not found", nil},
		{"no tag", "/notify", `{"text":"hi"}`, 400, "tag is missing", nil},
		{"no text", "/notify", `{"tag":"general","text":" \n"}`, 400, "text is missing", nil},
		{"malformed", "/notify", `{"tag":"general","text":"hi"`, 400, "Request-body is malformed", nil},
		{"not an object", "/notify", `[]`, 400, "Request-body is malformed", nil},
		{"empty", "/notify", ``, 400, "Request-body is malformed", nil},
		{"wrong type", "/notify", `{"tag":"general","text":5}`, 400, "Request-body is malformed", nil},
		{"more behind it", "/notify", `{"tag":"general","text":"hi"} x`, 400, "Request-body is malformed", nil},
		{"two documents", "/notify", `{"tag":"general","text":"hi"}{}`, 400, "Request-body is malformed", nil},
		{"direct: malformed", "/notify-directly", `{"payload":`, 400, "Request-body is malformed", nil},
		{"direct: no payload", "/notify-directly", `{}`, 400,
			"payload is missing, or not a JSON object, or too deep", nil},
		{"direct: null", "/notify-directly", `{"payload":null}`, 400,
			"payload is missing, or not a JSON object, or too deep", nil},
		{"direct: a list", "/notify-directly", `{"payload":[]}`, 400,
			"payload is missing, or not a JSON object, or too deep", nil},
		{"direct: nothing to say", "/notify-directly",
			`{"payload":{"channel":"#c","text":"","blocks":[],"attachments":null}}`, 400,
			"payload has neither text nor blocks nor attachments", nil},
		{"direct: text of a wrong type", "/notify-directly", `{"payload":{"channel":"#c","text":5}}`, 400,
			"payload.text is not a string", nil},
		{"direct: blocks of a wrong type", "/notify-directly",
			`{"payload":{"channel":"#c","text":"x","blocks":{"type":"section"}}}`, 400,
			"payload.blocks is not an array", nil},
		{"direct: attachments of a wrong type", "/notify-directly", `{"payload":{"channel":"#c","attachments":"x"}}`,
			400, "payload.attachments is not an array", nil},
		{"direct: empty lists", "/notify-directly", `{"payload":{"channel":"#c","blocks":[ ],"attachments":[]}}`, 400,
			"payload has neither text nor blocks nor attachments", nil},
		{"direct: a channel of two lines", "/notify-directly", `{"payload":{"channel":"#c\nMAINPID=1","text":"x"}}`,
			400, "payload.channel is longer than 255 bytes or has a control character in it", nil},
		{"direct: a long channel", "/notify-directly", `{"payload":{"channel":"` + strings.Repeat("é", 128) +
			`","text":"x"}}`, 400, "payload.channel is longer than 255 bytes or has a control character in it", nil},
		{"direct: channel of a wrong type", "/notify-directly", `{"payload":{"channel":5,"text":"x"}}`, 400,
			"payload.channel is not a string", nil},
		{"too large", "/notify", `{"tag":"general","text":"` + strings.Repeat("x", bodyLimit) + `"}`, 413,
			"Request-body is larger than 1048576 bytes", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(slack.Deliveries())
			w := p.do("POST", test.path, test.body)
			var got answer
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("answer %q: %v", w.Body, err)
			}
			if w.Code != test.status || got.Message != test.message ||
				w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("got %d %q as %s, want %d %q", w.Code, got.Message, w.Header().Get("Content-Type"),
					test.status, test.message)
			}
			if len(got.IDs) != len(test.posts) {
				t.Errorf("got ids %v for %d posts", got.IDs, len(test.posts))
			}
			posts := map[string]bool{}
			for _, d := range slack.WaitForPosts(t, before+len(test.posts))[before:] {
				posts[e2e.Normal(t, d.Body)] = true
				if d.Path != "/services/T0/B0/core" || d.ContentType != "application/json" {
					t.Errorf("posted to %s as %s", d.Path, d.ContentType)
				}
			}
			want := map[string]bool{}
			for _, post := range test.posts {
				want[e2e.Normal(t, post)] = true
			}
			if !reflect.DeepEqual(posts, want) {
				t.Errorf("slack got\n%v, want\n%v", posts, want)
			}
		})
	}
}

// A wrong method is answered 405, with the right ones in Allow, and an unknown path 404, each with a message. In the
// path of a POST, doubled slashes and a slash at the end do not matter.
func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/notify", 405, "POST"},
		{"PUT", "/notify-directly", 405, "POST"},
		{"POST", "/stat/go", 405, "GET"},
		{"DELETE", "/config/app", 405, "GET"},
		{"GET", "/nothing", 404, ""},
		{"POST", "/nothing/at/all", 404, ""},
		{"POST", "/", 405, "GET"},
		{"GET", "/stat/go", 200, ""},
		{"GET", "/config/app", 200, ""},
		{"GET", "/app/config", 200, ""},
		{"GET", "/ui/", 200, ""},
		{"POST", "//notify", 400, ""}, // the original's clients, given a server with a trailing slash
		{"POST", "/notify/", 400, ""},
		{"POST", "/notify-directly//", 400, ""},
		{"GET", "/notify/", 404, ""},
	} {
		w := p.do(test.method, test.path, "")
		if w.Code != test.status || w.Header().Get("Allow") != test.allow {
			t.Errorf("%s %s: got %d, Allow %q, want %d, %q", test.method, test.path, w.Code, w.Header().Get("Allow"),
				test.status, test.allow)
		}
		var a answer
		if test.status >= 400 && (json.Unmarshal(w.Body.Bytes(), &a) != nil || a.Message == "") {
			t.Errorf("%s %s: answer %q has no message", test.method, test.path, w.Body)
		}
	}
}

// A body whose Content-Length is too large is refused before any of it is read.
func TestHugeBodyIsNotRead(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	r, _ := http.NewRequest("POST", "/notify", unreadable{t})
	r.ContentLength = 3 << 30
	w := newRecorderFor(p, r)
	if w.Code != 413 || w.Header().Get("Connection") != "close" {
		t.Errorf("got %d, Connection %q, want 413, close", w.Code, w.Header().Get("Connection"))
	}
}

// A compressed body is refused without being read. The message says that it is compressed, and how.
func TestCompressedBody(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	for coding, want := range map[string]int{"gzip": 415, "br": 415, "gzip, identity": 415, "identity": 200,
		"Identity": 200} {
		r := httptest.NewRequest("POST", "/notify", strings.NewReader(e2e.NotifyBody("general", 1, false)))
		r.Header.Set("Content-Encoding", coding)
		w := newRecorderFor(p, r)
		if w.Code != want ||
			want == 415 && (!strings.Contains(w.Body.String(), "compressed (Content-Encoding: "+coding+")") ||
				w.Header().Get("Accept-Encoding") != "identity") {
			t.Errorf("%s: %d %v %s", coding, w.Code, w.Header(), w.Body)
		}
	}
}

// Requests are counted by the pattern of their route and by status. Paths that match no route are counted together, as
// the route /.
func TestRequestCounts(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, e2e.WithCore(hookAndTags, "auth_token = 'x'")), &recorder{})
	for range 3 {
		p.do("GET", "/healthz", "")
	}
	p.do("POST", "//notify", "")
	p.do("GET", "/messages/0123", "")
	p.do("GET", "/no/such/path", "")
	var got []string
	p.stats.requests.Do(func(count expvar.KeyValue) { got = append(got, fmt.Sprint(count.Key, " ", count.Value)) })
	want := []string{`route="/",status="401" 1`, `route="GET /healthz",status="200" 3`,
		`route="GET /messages/{id}",status="401" 1`, `route="POST /notify",status="401" 1`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A large message with sync=true gives back its room for large bodies before it is posted: other large requests need
// not wait.
func TestLargeSyncHoldsNoRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newInProcess(t, testConfig(t, hookAndTags), &recorder{script: func(int, recorded) outcome {
			time.Sleep(20 * time.Second)
			return outcome{class: delivered}
		}})
		body := `{"tag":"a","text":"` + strings.Repeat("x", 2*largeFrom) + `","sync":`
		var posting sync.WaitGroup
		for range maxLarge {
			posting.Go(func() { p.do("POST", "/notify", body+"true}") })
		}
		synctest.Wait()
		start := time.Now()
		if w := p.do("POST", "/notify", body+"false}"); w.Code != 200 || time.Since(start) > time.Second {
			t.Errorf("another large request: got %d after %v, want 200 at once: %s", w.Code, time.Since(start), w.Body)
		}
		posting.Wait()
		if len(p.bodies) != 0 {
			t.Errorf("%d large bodies still count as in memory, want none", len(p.bodies))
		}
	})
}

// A request with sync and an Idempotency-Key that comes again is answered as the first time, and posts nothing. It
// posts only if the first request posted nothing and its answer invited to try again.
func TestKeyWithSync(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		first   outcome
		status  int
		detail  string
		posts   int  // of the two requests together
		second  int  // the status of the second answer
		delayed bool // the post takes long: the second request comes meanwhile
	}{
		{"delivered", outcome{class: delivered}, 200, "", 1, 200, false},
		{"delivered in a moment", outcome{class: delivered}, 200, "", 1, 200, true},
		{"refused", outcome{class: badContent, reason: "invalid_blocks"}, 502, "", 1, 502, false},
		{"perhaps posted", outcome{class: retry, reason: "no answer", unsure: true}, 502,
			"the message may have been posted nevertheless", 1, 502, false},
		{"perhaps posted in a moment", outcome{class: retry, reason: "no answer", unsure: true}, 502,
			"the message may have been posted nevertheless", 1, 502, true},
		{"not posted", outcome{class: retry, reason: "connection refused"}, 502, "", 2, 200, false},
		{"limited", outcome{class: limited, wait: time.Second}, 429, "", 2, 200, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				posts := 0
				p := newInProcess(t, testConfig(t, hookAndTags), &recorder{script: func(n int, _ recorded) outcome {
					if posts = n; n > 1 {
						return outcome{class: delivered}
					}
					if test.delayed {
						time.Sleep(5 * time.Second)
					}
					return test.first
				}})
				ask := func(key string, sync bool) (int, answer) {
					r := httptest.NewRequest("POST", "/notify", strings.NewReader(e2e.NotifyBody("a", 1, sync)))
					r.Header.Set("Idempotency-Key", key)
					w := newRecorderFor(p, r)
					var a answer
					json.Unmarshal(w.Body.Bytes(), &a)
					return w.Code, a
				}
				var first, second answer
				var status, again int
				var asking sync.WaitGroup
				asking.Go(func() { status, first = ask("key", true) })
				if !test.delayed {
					asking.Wait()
					time.Sleep(2 * time.Second)
				}
				synctest.Wait()
				again, second = ask("key", true)
				asking.Wait()
				if status != test.status || first.Detail != test.detail || posts != test.posts || again != test.second {
					t.Errorf("got %d %+v, then %d %+v, with %d posts", status, first, again, second, posts)
				}
				if status == again && !reflect.DeepEqual(first, second) {
					t.Errorf("got %+v, then %+v", first, second)
				}
				if status, a := ask("key", false); status != again || !reflect.DeepEqual(a, second) ||
					posts != test.posts {
					t.Errorf("without sync: %d %+v, %d posts", status, a, posts)
				}
				if status, a := ask("other", true); status != 200 || posts != test.posts+1 ||
					fmt.Sprint(a.IDs) == fmt.Sprint(second.IDs) {
					t.Errorf("another key: %d %+v, %d posts", status, a, posts)
				}
			})
		})
	}
}

// The answers to the last keysKept requests with sync and a key are remembered. Older ones are forgotten.
func TestKeysAreForgotten(t *testing.T) {
	var k keyedAnswers
	done := 0
	do := func() answer { done++; return answer{status: 200} }
	for i := range 5 * keysKept / 2 {
		k.once(fmt.Sprint(i), true, do)
	}
	for i := range keysKept {
		k.once(fmt.Sprint(5*keysKept/2-1-i), true, do)
	}
	if done != 5*keysKept/2 {
		t.Errorf("%d of the last keysKept keys are forgotten", done-5*keysKept/2)
	}
	k.once("0", true, do)
	kept := 0
	k.byID.Range(func(_, _ any) bool { kept++; return true })
	if done != 5*keysKept/2+1 || kept > keysKept {
		t.Errorf("the oldest key is not forgotten, or %d keys are too many", kept)
	}
}

// unreadable is a body that fails the test if anything reads it.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, http.ErrBodyReadAfterClose
}

// /notify-directly is answered 400 if [core] has no credential, or if it has a token and the payload names no channel.
func TestDirectNeedsACredential(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, testConfig(t, "[[tags]]\ntag='a'\nslack_url='http://127.0.0.1:1/x'\n"), &recorder{})
	if w := p.do("POST", "/notify-directly", `{"payload":{"channel":"#c","text":"x"}}`); w.Code != 400 ||
		!strings.Contains(w.Body.String(), "[core]") {
		t.Errorf("without a credential under [core]: got %d %s", w.Code, w.Body)
	}
	p = newInProcess(t, testConfig(t, "[core]\nslack_token='xoxb-1'\n"), &recorder{})
	if w := p.do("POST", "/notify-directly", `{"payload":{"text":"x"}}`); w.Code != 400 ||
		!strings.Contains(w.Body.String(), "payload.channel is missing") {
		t.Errorf("with a token and no channel: got %d %s", w.Code, w.Body)
	}
}

// Each request has one line of JSON in the access log, with the original's keys, the ids of its messages and how long
// it took. No text of a message is in the logs.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	p.do("POST", "/notify?x=1", `{"tag":"general","host":"web-01","text":"PRIVATE"}`)
	p.do("POST", "/notify-directly", `{"payload":{"channel":"#c","text":"PRIVATE"}}`)
	lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	if len(lines) != 2 || strings.Contains(p.out.String()+p.logs.String(), "PRIVATE") {
		t.Fatalf("got %q, want two lines without the text", lines)
	}
	for i, want := range []map[string]any{
		{"type": "accepted-request", "uri": "/notify?x=1", "method": "POST", "proto": "HTTP/1.1",
			"content_length": 50.0, "tag": "general", "host": "web-01", "status": 200.0,
			"remote_addr": "192.0.2.1:1234"},
		{"type": "accepted-request", "uri": "/notify-directly", "tag": "#c", "host": "192.0.2.1", "status": 200.0},
	} {
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got[key] != value {
				t.Errorf("line %d: %s is %v, want %v", i, key, got[key], value)
			}
		}
		if ids, _ := got["ids"].([]any); len(ids) != 1 || got["duration_ms"] == nil || got["time"] == nil {
			t.Errorf("line %d: ids, duration_ms or time is missing in %v", i, got)
		}
	}
}

// However long or strange the names in a request are, it has one short line in the access log.
func TestAccessLogLine(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	long := strings.Repeat("x", 100_000)
	p.do("POST", "/notify", `{"tag":"no\nsuch\u0085`+long+`","host":"a\nb\u2028c`+long+`","text":"x"}`)
	p.do("POST", "/notify-directly", `{"payload":{"channel":"#c\nd`+long+`","text":"x"}}`)
	log := p.out.String()
	if len(log) > 4000 || strings.Count(log, "\n") != 2 || strings.ContainsAny(log, "\u0085\u2028\x00") ||
		!strings.Contains(log, `"tag":"no such x`) {
		t.Errorf("want two lines of 4,000 bytes in all, got %d bytes: %.5000q", len(log), log)
	}
}

// The messages for the entries of one tag differ only in id and route. They share one copy of their JSON.
func TestSharedBody(t *testing.T) {
	shared := message{Host: "h", Text: "text"}
	shared.encoded()
	for i := range 3 {
		m := shared
		m.ID, m.route = newID(), route{tag: "a", index: i}
		if got, want := string(m.encoded()), string(encode(m)); got != want || &m.body[0] != &shared.body[0] {
			t.Errorf("got %s, want %s in the shared memory", got, want)
		}
	}
}

// /stat/go is indented JSON with the original's keys, in the original's order.
func TestStatGo(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, dryRunConfig(), &recorder{})
	var got map[string]any
	body := p.do("GET", "/stat/go", "").Body.String()
	if err := json.Unmarshal([]byte(body), &got); err != nil || !strings.Contains(body, "\n  \"") {
		t.Fatalf("not pretty-printed JSON: %v %s", err, body)
	}
	inOrder := body
	for key := range strings.SplitSeq("time go_version go_os go_arch cpu_num goroutine_num gomaxprocs cgo_call_num "+
		"memory_alloc memory_total_alloc memory_sys memory_lookups memory_mallocs memory_frees memory_stack "+
		"heap_alloc heap_sys heap_idle heap_inuse heap_released heap_objects gc_next gc_last gc_num gc_per_second "+
		"gc_pause_per_second gc_pause", " ") {
		_, rest, ok := strings.Cut(inOrder, `"`+key+`": `)
		if !ok {
			t.Errorf("%s is missing, or not in the original's order", key)
			continue
		}
		inOrder = rest
	}
	if _, ok := got["gc_pause"].([]any); !ok {
		t.Errorf("gc_pause is %v, want a list", got["gc_pause"])
	}
}

// Whatever the body of a request is, the answer is JSON with the status 200, 400 or 413.
func FuzzRequestBody(f *testing.F) {
	f.Add(`{"tag":"general","text":"hi"}`, false)
	f.Add(`{"payload":{"channel":"#c","text":"hi","blocks":[1e999]}}`, true)
	f.Add(`{"payload":{"text":null,"blocks":{}}}`, true)
	f.Add(`{"payload":{"channel":"#c","text":5}}`, true)
	slack := &recorder{}
	p := newInProcess(f, dryRunConfig(), slack)
	f.Fuzz(func(t *testing.T, body string, direct bool) {
		path := "/notify"
		if direct {
			path = "/notify-directly"
		}
		w := p.do("POST", path, body)
		if w.Code != 200 && w.Code != 400 && w.Code != 413 {
			t.Errorf("%s: got %d %s", body, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: answered %s", body, w.Body)
		}
	})
}

// BenchmarkStore measures what it costs to accept a message, without the network: time and allocations, with few tags
// and with many.
func BenchmarkStore(b *testing.B) {
	for _, tags := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("tags=%d", tags), func(b *testing.B) {
			p := newInProcess(b, testConfig(b, tagsConfig(tags)), posterFunc(func(credential, []byte) outcome {
				return down(0, recorded{})
			}))
			text := strings.Repeat("x", 200)
			b.ReportAllocs()
			b.ResetTimer()
			each(b.N, 64, func(i int) {
				r := httptest.NewRequest("POST", "/notify",
					strings.NewReader(fmt.Sprintf(`{"tag":"t%d","text":"%s"}`, i%10, text)))
				w := httptest.NewRecorder()
				p.http.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Error(w.Code, w.Body)
				}
			})
			b.StopTimer()
			p.stop()
		})
	}
}

// A request with a known key is answered as the first time, even if the spool is full.
func TestKnownKeyWhenFull(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags+"[spool]\nmax_bytes = 1048576\n", down, func(t *testing.T, p *inProcess, slack *recorder) {
		first := p.notifyWith(t, "k", "a", 1)
		for p.do("POST", "/notify", `{"tag":"a","text":"`+strings.Repeat("x", 5000)+`"}`).Code == 200 {
		}
		if again := p.notifyWith(t, "k", "a", 1); fmt.Sprint(again) != fmt.Sprint(first) {
			t.Errorf("got the ids %v, the first time %v", again, first)
		}
	})
}

// A request with a known key is answered as the first time, and stores nothing: while the message waits, after it is
// delivered, and after restarts.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		first := p.notifyWith(t, "key", "ab", 1)
		if again := p.notifyWith(t, "key", "ab", 1); fmt.Sprint(again) != fmt.Sprint(first) || len(first) != 2 ||
			first[0] == first[1] {
			t.Errorf("got the ids %v, the first time %v, want two that differ", again, first)
		}
		for range 3 { // after a restart, the key is known from the log
			p = p.restart(t, hookAndTags, slack)
			if again := p.notifyWith(t, "key", "ab", 1); fmt.Sprint(again) != fmt.Sprint(first) {
				t.Errorf("after a restart: got the ids %v, the first time %v", again, first)
			}
		}
		if other := p.notifyWith(t, "other", "a", 2); other[0] == first[0] {
			t.Errorf("another key has the same id")
		}
		time.Sleep(time.Minute)
		if a, b := slack.texts("#a"), slack.texts("#b"); a != "1 2" || b != "1" {
			t.Errorf("#a got %q, want 1 2; #b got %q, want 1", a, b)
		}
		if st := p.stat(t); st.Accepted != 1 {
			t.Errorf("accepted %d, want 1", st.Accepted)
		}
		p.holdsNothing(t)
	})
}

// Requests with the same key at the same time store one message.
func TestSameKeyAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		slow := func() error { time.Sleep(time.Second); return nil }
		p.disk.Store(&slow)
		ids := make([]string, 10)
		var asked sync.WaitGroup
		for i := range ids { // the first is in a write of its own, the others are in one write after it
			asked.Go(func() {
				ids[i] = fmt.Sprint(p.notifyWith(t, "key", "ab", 1), p.notifyWith(t, fmt.Sprint("key", i/4), "a", 2))
			})
			if i == 0 {
				synctest.Wait()
			}
		}
		asked.Wait()
		time.Sleep(time.Hour)
		if a, b := slack.texts("#a"), slack.texts("#b"); a != "1 2 2 2" || b != "1" {
			t.Errorf("#a got %q, want 1 2 2 2; #b got %q, want 1", a, b)
		}
		if st := p.stat(t); st.Accepted != 5 {
			t.Errorf("want 5 accepted: %+v", st)
		}
		if ids[8] != ids[9] || ids[0] == "" {
			t.Errorf("want the same ids for the last two requests, which have equal keys: %v", ids)
		}
		p.holdsNothing(t)
	})
}

// GET /check tells a client whether a message for a tag or a channel would be accepted now and, if not, why.
func TestCheckAnswers(t *testing.T) {
	t.Parallel()
	const tags = "[[tags]]\ntag = 'ops & co'\nslack_url = 'http://127.0.0.1:1/'\n"
	for _, test := range []struct {
		name, core, path string
		maxBytes         int64 // the spool's, 0 for enough
		status           int
		want             string
	}{
		{"a tag", "", "/check?tag=ops+%26+co", 0, 200, `{"message":"ok"}`},
		{"no such tag", "", "/check?tag=nope", 0, 404, `{"message":"tag:nope is not found"}`},
		{"a channel", "slack_token = 'xoxb-1'", "/check?channel=%23ops", 0, 200, `{"message":"ok"}`},
		{"no channel", "slack_token = 'xoxb-1'", "/check", 0, 400, `{"message":"payload.channel is missing"}`},
		{"a channel without a credential", "", "/check?channel=%23ops", 0, 400,
			`{"message":"a message for a channel needs slack_url or slack_token in [core]"}`},
		{"no token", "auth_token = 'xyzzy'", "/check?tag=ops+%26+co", 0, 401, "the token is missing or wrong"},
		{"full", "", "/check?tag=ops+%26+co", 4000, 503, "the spool is full"},
	} {
		cfg := testConfig(t, "[core]\n"+test.core+"\n"+tags+"")
		if test.maxBytes != 0 {
			cfg.spool.maxBytes = test.maxBytes
		}
		p := newInProcess(t, cfg, &recorder{})
		if w := p.do("GET", test.path, ""); w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s: %d %s, want %d %s", test.name, w.Code, w.Body, test.status, test.want)
		}
	}
}

// docs/http.md lists the routes of the route table, and no others.
func TestDocumentedRoutes(t *testing.T) {
	names := strings.NewReplacer("{tag}", "TAG", "{token...}", "TOKEN", "{id}", "ID", "{$}", "", "{file...}", "")
	got, want := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`handle\(\w+, "(\w+ /[^"]+)"`).FindAllStringSubmatch(
		e2e.ReadFile(t, "notify.go"), -1) {
		want[names.Replace(m[1])] = true
	}
	for _, m := range regexp.MustCompile("`((?:GET|POST|DELETE) /[^`?]*)").FindAllStringSubmatch(
		e2e.ReadFile(t, "docs/http.md"), -1) {
		got[m[1]] = true
	}
	delete(want, "GET /") // this and /ui only lead to the page
	delete(want, "GET /ui")
	if !maps.Equal(got, want) {
		t.Errorf("documented are %q, there are %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}
