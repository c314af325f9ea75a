package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

// What follows from each outcome of a post within four hours: the posts that each channel gets, their order, and the
// time between them. In the end no message waits.
func TestOutcomesInTime(t *testing.T) {
	t.Parallel()
	refused := outcome{class: retry, reason: "connection refused"}
	for _, test := range []struct {
		name   string
		script func(n int, r recorded) outcome
		send   []string // tags, one message each, numbered from 1
		want   map[string]string
		gaps   []time.Duration // the least time between the posts to #a
	}{
		{"in order", nil, []string{"a", "a", "b", "a"}, map[string]string{"#a": "1 2 4", "#b": "3"}, nil},
		{"retried with back-off, in order", func(n int, r recorded) outcome {
			if r.channel == "#a" && n <= 5 {
				return refused
			}
			return outcome{class: delivered}
		}, []string{"a", "a", "b"}, map[string]string{"#a": "1 1 1 1 1 1 2", "#b": "3"},
			[]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}},
		{"content is given up at once", func(n int, r recorded) outcome {
			if r.text == "1" {
				return outcome{class: badContent, reason: "invalid_blocks"}
			}
			return outcome{class: delivered}
		}, []string{"a", "a"}, map[string]string{"#a": "1 2"}, nil},
		{"a destination after three tries", func(n int, r recorded) outcome {
			if r.text == "1" {
				return outcome{class: badDestination, reason: "channel_not_found"}
			}
			return outcome{class: delivered}
		}, []string{"a", "a"}, map[string]string{"#a": "1 1 1 2"}, nil},
		{"a credential is not given up", func(n int, r recorded) outcome {
			if n <= 30 {
				return outcome{class: badCredential, reason: "token_revoked"}
			}
			return outcome{class: delivered}
		}, []string{"a"}, map[string]string{"#a": strings.TrimSpace(strings.Repeat("1 ", 31))}, nil},
		{"a webhook's pause holds for its lane", func(n int, r recorded) outcome {
			if r.channel == "#a" && n == 1 {
				return outcome{class: limited, wait: 7 * time.Second}
			}
			return outcome{class: delivered}
		}, []string{"a", "b"}, map[string]string{"#a": "1 1", "#b": "2"}, []time.Duration{7 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, hookAndTags, test.script, func(t *testing.T, p *inProcess, slack *recorder) {
				for i, tag := range test.send {
					if w := p.do("POST", "/notify", e2e.NotifyBody(tag, i+1, false)); w.Code != 200 {
						t.Fatalf("got %d %s", w.Code, w.Body)
					}
				}
				time.Sleep(4 * time.Hour)
				for channel, want := range test.want {
					if got := slack.texts(channel); got != want {
						t.Errorf("%s got %q, want %q", channel, got, want)
					}
				}
				var last time.Time
				gaps := test.gaps
				for _, r := range slack.all() {
					if r.channel == "#a" {
						if gap := r.at.Sub(last); !last.IsZero() && len(gaps) > 0 {
							if gap < gaps[0] {
								t.Errorf("posted again after %v, want at least %v", gap, gaps[0])
							}
							gaps = gaps[1:]
						}
						last = r.at
					}
				}
				if n := p.stat(t).Waiting; n != 0 {
					t.Errorf("%d messages still wait", n)
				}
			})
		})
	}
}

// A rate limit that a post with a token meets holds for the whole token: all channels of the token pause. Channels of
// other credentials do not.
func TestTokenPause(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		if r.channel == "#bot" && n == 1 {
			return outcome{class: limited, wait: 20 * time.Second}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		start := time.Now()
		p.do("POST", "/notify", e2e.NotifyBody("bot", 1, false))
		synctest.Wait()
		p.do("POST", "/notify", e2e.NotifyBody("bot2", 2, false))
		p.do("POST", "/notify", e2e.NotifyBody("a", 3, false))
		time.Sleep(time.Minute)
		for _, r := range slack.all()[1:] {
			if wait := r.at.Sub(start); (r.channel == "#a") != (wait < 20*time.Second) {
				t.Errorf("%s was posted after %v; the token pauses for 20 s, the webhook does not", r.channel, wait)
			}
		}
		if n := len(slack.all()); n != 4 {
			t.Errorf("got %d posts, want 4", n)
		}
	})
}

// With qps = 2, two posts are at least 500 ms apart, even in different lanes. A message that would wait for more than
// max_delay_duration is answered 429 with a Retry-After. All accepted messages are posted.
func TestQPS(t *testing.T) {
	t.Parallel()
	toml := strings.Replace(hookAndTags, "[core]", "[core]\nqps = 2\nmax_delay_duration = 5", 1)
	inBubble(t, toml, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		accepted := 0
		for i := range 40 {
			w := p.do("POST", "/notify", e2e.NotifyBody([]string{"a", "b"}[i%2], i, false))
			switch {
			case w.Code == 200:
				accepted++
			case w.Code != 429 || w.Header().Get("Retry-After") == "":
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
		if accepted < 10 || accepted > 12 {
			t.Errorf("accepted %d messages, want 10 to 12: those that are posted within 5 s", accepted)
		}
		time.Sleep(time.Minute)
		posts := slack.all()
		if len(posts) != accepted {
			t.Errorf("%d posts, want one for each of the %d accepted messages", len(posts), accepted)
		}
		for i := 1; i < len(posts); i++ {
			if gap := posts[i].at.Sub(posts[i-1].at); gap < 500*time.Millisecond {
				t.Errorf("post %d came %v after the one before, want at least 500 ms", i, gap)
			}
		}
	})
}

// The answer to a message with sync=true says what became of its post. It has a Retry-After only if trying again can
// help and cannot double the message. The message is posted once to each destination, and never again.
func TestSyncTellsTheTruth(t *testing.T) {
	t.Parallel()
	say := func(o outcome) func(int, recorded) outcome { return func(int, recorded) outcome { return o } }
	for _, test := range []struct {
		name       string
		tag        string
		script     func(int, recorded) outcome
		status     int
		retryAfter string
		message    string
	}{
		{"delivered", "a", nil, 200, "", "ok"},
		{"refused for its content", "a", say(outcome{class: badContent, reason: "invalid_blocks"}), 502, "",
			"failed to post message to slack: invalid_blocks"},
		{"destination", "a", say(outcome{class: badDestination, reason: "channel_not_found"}), 502, "",
			"failed to post message to slack: channel_not_found"},
		{"unreachable", "a", say(outcome{class: retry, reason: "connection refused"}), 502, "1",
			"failed to post message to slack: connection refused"},
		{"perhaps posted", "a", say(outcome{class: retry, reason: "no answer within 30s", unsure: true}), 502, "",
			"failed to post message to slack: no answer within 30s"},
		{"limited", "a",
			say(outcome{class: limited, reason: "ratelimited", wait: 2500 * time.Millisecond}), 429, "3",
			"failed to post message to slack: ratelimited"},
		{"one of two took it", "ab", func(_ int, r recorded) outcome {
			if r.channel == "#a" {
				return outcome{class: delivered}
			}
			return outcome{class: retry, reason: "connection refused"}
		}, 502, "", "failed to post message to slack: connection refused"},
		{"neither of two took it", "ab", say(outcome{class: retry, reason: "connection refused"}), 502, "1",
			"failed to post message to slack: connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, hookAndTags, test.script, func(t *testing.T, p *inProcess, slack *recorder) {
				w := p.do("POST", "/notify", e2e.NotifyBody(test.tag, 1, true))
				var got answer
				json.Unmarshal(w.Body.Bytes(), &got)
				if w.Code != test.status || got.Message != test.message ||
					w.Header().Get("Retry-After") != test.retryAfter {
					t.Errorf("got %d %q, Retry-After %q; want %d %q, %q", w.Code, got.Message,
						w.Header().Get("Retry-After"), test.status, test.message, test.retryAfter)
				}
				time.Sleep(time.Hour)
				if want := len(p.cfg().byTag[test.tag]); len(slack.all()) != want {
					t.Errorf("posted %d times, want %d", len(slack.all()), want)
				}
			})
		})
	}
}

// A sync message waits for the end of a pause that Slack asked for. If that takes longer than delayLimit (10 s), the
// message is answered 429 at once, with the rest of the pause as Retry-After. A sync message does not wait for the
// back-off of the messages in its lane.
func TestSyncAndPauses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		first  outcome
		status int
		waits  time.Duration
	}{
		{"short pause", outcome{class: limited, wait: 9 * time.Second}, 200, 9 * time.Second},
		{"long pause", outcome{class: limited, wait: 11 * time.Second}, 429, 0},
		{"back-off of another", outcome{class: retry, reason: "status 500"}, 200, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
				if n == 1 {
					return test.first
				}
				return outcome{class: delivered}
			}, func(t *testing.T, p *inProcess, slack *recorder) {
				p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
				synctest.Wait()
				start := time.Now()
				w := p.do("POST", "/notify", e2e.NotifyBody("a", 2, true))
				if w.Code != test.status || time.Since(start) < test.waits || test.waits == 0 && time.Since(start) > 0 {
					t.Errorf("got %d %s after %v, want %d after %v", w.Code, w.Body, time.Since(start), test.status,
						test.waits)
				}
				if test.status == 429 && w.Header().Get("Retry-After") != "11" {
					t.Errorf("got Retry-After %q, want 11", w.Header().Get("Retry-After"))
				}
			})
		})
	}
}

// A post goes on when its sender hangs up. A sync message behind a post that takes too long is answered 429 with a
// Retry-After, and is not posted later.
func TestSyncBehindASlowPost(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
		time.Sleep(25 * time.Second)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		ctx, hangUp := context.WithCancel(t.Context())
		go func() {
			r := httptest.NewRequest("POST", "/notify",
				strings.NewReader(e2e.NotifyBody("a", 1, true))).WithContext(ctx)
			p.http.ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		hangUp()
		w := p.do("POST", "/notify", e2e.NotifyBody("a", 2, true))
		if w.Code != 429 || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d %s, want 429 with Retry-After", w.Code, w.Body)
		}
		if !strings.Contains(w.Body.String(), "a slow post before it") {
			t.Errorf("the answer does not say why: %s", w.Body)
		}
		time.Sleep(time.Hour)
		if got := slack.texts("#a"); got != "1" {
			t.Errorf("posted %q, want 1 alone", got)
		}
	})
}

// If 99 of the 100 channels of a webhook hang, and have failed before, a message for the last channel is still posted
// at once.
func TestHangingDestinations(t *testing.T) {
	t.Parallel()
	var toml strings.Builder
	toml.WriteString("[core]\nchannel_rate = 0\nslack_url = 'http://hook.invalid/'\n")
	for i := range 100 {
		fmt.Fprintf(&toml, "[[tags]]\ntag = 't%d'\nchannel = '#%d'\n", i, i)
	}
	inBubble(t, toml.String(), func(n int, r recorded) outcome {
		if r.channel == "#99" {
			return outcome{class: delivered}
		}
		time.Sleep(postTimeout)
		return outcome{class: retry, reason: "no answer"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 99 {
			p.do("POST", "/notify", e2e.NotifyBody(fmt.Sprintf("t%d", i), 0, false))
		}
		time.Sleep(2 * time.Minute)
		for i := range 50 {
			before := time.Now()
			p.do("POST", "/notify", e2e.NotifyBody("t99", i, true))
			if took := time.Since(before); took > 0 {
				t.Fatalf("the healthy destination waited %v", took)
			}
			time.Sleep(time.Second)
		}
	})
}

// The back-off starts at 1 s, doubles with each attempt up to 5 min, and is lengthened by up to a quarter.
func TestBackOff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second,
		10: 5 * time.Minute, 1000: 5 * time.Minute} {
		if got := backOff(n); got < want || got > want+want/4 {
			t.Errorf("back-off after attempt %d: %v, want %v or up to a quarter more", n, got, want)
		}
	}
}

// What becomes of the messages of a post depends on the outcome, on what is known of the head, and on what was in the
// post.
func TestJudge(t *testing.T) {
	tried := func(n int) head { return head{attempts: n} }
	type posted struct {
		parts   int
		long    bool
		tooOld  int
		failing time.Duration // 0: an hour
	}
	one, many := posted{parts: 1}, posted{parts: 8}
	for _, test := range []struct {
		name   string
		out    outcome
		head   head
		posted posted
		want   string
		n      int
		reason string
	}{
		{"delivered", outcome{class: delivered}, tried(1), many, fateDelivered, 0, ""},
		{"delivered, though old", outcome{class: delivered}, tried(1), posted{parts: 1, tooOld: 1},
			fateDelivered, 0, ""},
		{"trouble", outcome{class: retry}, tried(50), one, later, 0, ""},
		{"trouble, old", outcome{class: retry}, tried(50), posted{parts: 2, tooOld: 1},
			fateDead, 1, "older than max_age: "},
		{"old, but failing for a moment only", outcome{class: retry}, tried(3),
			posted{parts: 1, tooOld: 1, failing: ageAfter}, later, 0, ""},
		{"content", outcome{class: badContent, reason: "no_text"}, tried(1), one, fateDead, 0, "no_text"},
		{"content, merged", outcome{class: badContent}, tried(1), many, smaller, 0, ""},
		{"destination, after an outage", outcome{class: badDestination}, tried(50), many, later, 0, ""},
		{"destination, third time", outcome{class: badDestination, reason: "is_archived"},
			head{attempts: 50, doubts: maxDoubts - 1}, many, fateDead, 0, "is_archived"},
		{"credential", outcome{class: badCredential}, tried(99), one, later, 0, ""},
		{"in between", outcome{class: inBetween}, tried(99), one, later, 0, ""},
		{"in between, old", outcome{class: inBetween}, tried(99), posted{parts: 1, tooOld: 1},
			fateDead, 1, "older than max_age: "},
		{"too much, merged", outcome{class: badDestination, tooMuch: true}, tried(1), many, smaller, 0, ""},
		{"too much, in between, merged", outcome{class: inBetween, tooMuch: true}, tried(1), many, smaller, 0, ""},
		{"too much, long", outcome{class: badContent, tooMuch: true}, tried(1), posted{parts: 1, long: true},
			smaller, 0, ""},
		{"too much, cut", outcome{class: badContent, tooMuch: true, reason: "msg_too_long"},
			head{attempts: 2, cut: true}, posted{parts: 1, long: true}, fateDead, 0, "msg_too_long"},
		{"too much, short, code", outcome{class: badContent, tooMuch: true, reason: "msg_too_long"}, tried(1), one,
			fateDead, 0, "msg_too_long"},
		{"too much, short, no code", outcome{class: badDestination, tooMuch: true}, tried(1), one, later, 0, ""},
		{"broken twice", outcome{class: retry, broken: true}, head{attempts: 2, doubts: maxDoubts - 2}, one,
			later, 0, ""},
		{"broken three times", outcome{class: retry, broken: true, reason: "cut off"},
			head{attempts: 3, doubts: maxDoubts - 1}, one, fateDead, 0, "it may have been delivered: cut off"},
	} {
		turn := turn{head: test.head, long: test.posted.long}
		turn.merged.parts = make([]*part, test.posted.parts)
		got, n, reason := turn.judge(test.out, test.posted.tooOld, cmp.Or(test.posted.failing, time.Hour))
		if got != test.want || n != test.n || reason != test.reason {
			t.Errorf("%s: got %v, %d, %q, want %v, %d, %q", test.name, got, n, reason, test.want, test.n, test.reason)
		}
	}
}

// receiver is a fake Slack that refuses a post if tooMuch says so. A message is known by its number, the first word of
// its text: took counts how often it was taken.
type receiver struct {
	mu      sync.Mutex
	tooMuch func(body []byte, texts []string) outcome
	took    map[string]int
	refused int
}

func (r *receiver) post(body []byte) outcome {
	var p struct {
		Text        string
		Attachments []struct{ Text string }
	}
	json.Unmarshal(body, &p)
	texts := []string{}
	for _, a := range p.Attachments {
		texts = append(texts, a.Text)
	}
	if len(texts) == 0 {
		texts = append(texts, p.Text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if out := r.tooMuch(body, texts); out.class != delivered {
		r.refused++
		return out
	}
	for _, text := range texts {
		number, _, _ := strings.Cut(text, " ")
		r.took[number]++
	}
	return outcome{class: delivered}
}

// seen returns how many posts were refused, and how often the message with this number was taken.
func (r *receiver) seen(number string) (refused, took int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused, r.took[number]
}

// A receiver that takes smaller posts than Slack gets all messages of a storm, each once, in posts that it takes. The
// lane remembers what was too large: a second storm meets at most one refusal more. A single message that is too long
// is cut, and so are several that say the same. Dead letters that are sent again are delivered within the same limits.
func TestTooMuchForTheReceiver(t *testing.T) {
	t.Parallel()
	refuse := func(class class, reason string, when bool) outcome {
		if when {
			return outcome{class: class, tooMuch: true, reason: reason}
		}
		return outcome{class: delivered}
	}
	for name, tooMuch := range map[string]func([]byte, []string) outcome{
		"8 attachments": func(_ []byte, texts []string) outcome {
			return refuse(badDestination, "status 422", len(texts) > 8)
		},
		"3000 bytes": func(body []byte, _ []string) outcome {
			return refuse(badDestination, "status 400", len(body) > 3000)
		},
		"4000 characters": func(_ []byte, texts []string) outcome {
			return refuse(badContent, "msg_too_long", utf8.RuneCountInString(strings.Join(texts, "")) > 4000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t,
				strings.NewReplacer("batch = 1\n", "batch = 20\n", "channel_rate = 0",
					"channel_rate = 1").Replace(hookAndTags))
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{tooMuch: tooMuch, took: map[string]int{}}
				p := newInProcess(t, cfg, posterFunc(func(_ credential, body []byte) outcome { return r.post(body) }))
				n := 0
				burst := func() {
					for range 45 {
						p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":"%d %s"}`, n, strings.Repeat("é", 200)))
						n++
					}
					time.Sleep(time.Minute)
				}
				burst()
				first, _ := r.seen("")
				burst()
				if both, _ := r.seen(""); both-first > 1 || first == 0 {
					t.Errorf("refused %d times in the first burst (want some), %d in the second (want at most 1)",
						first, both-first)
				}
				if name == "4000 characters" {
					p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":"%d %s"}`, n, strings.Repeat("é", 9000)))
					n++
					time.Sleep(time.Hour)
				}
				for i := range n {
					if _, took := r.seen(fmt.Sprint(i)); took != 1 {
						t.Errorf("message %d was taken %d times", i, took)
					}
				}
				if name == "4000 characters" { // messages that say the same: they are one attachment
					for range 4 {
						p.do("POST", "/notify", `{"tag":"a","text":"same `+strings.Repeat("é", 9000)+`"}`)
					}
					time.Sleep(time.Hour)
					if _, took := r.seen("same"); took != 2 {
						t.Errorf("four equal messages were taken in %d posts, want 2: one, then the others", took)
					}
					n += 4
				}
				// The receiver takes nothing for a while: the messages become dead letters.
				r.mu.Lock()
				r.tooMuch = func([]byte, []string) outcome {
					return outcome{class: badDestination, reason: "channel_not_found"}
				}
				r.mu.Unlock()
				burst()
				time.Sleep(time.Hour)
				r.mu.Lock()
				r.tooMuch = tooMuch
				r.mu.Unlock()
				if w := p.operator("POST", "/messages/retry?tag=a"); !strings.Contains(w.Body.String(), `"count": 45`) {
					t.Errorf("sending dead letters again: got %s, want a count of 45", w.Body)
				}
				time.Sleep(time.Minute)
				if st := p.stat(t); st.Delivered != int64(n) || st.Dead != 0 {
					t.Errorf("counters: %+v", st)
				}
			})
		})
	}
}

// A message that is older than max_age at a start, because the server was stopped for long or its clock had been wrong,
// does not become a dead letter at the first attempt that fails.
func TestOldButNotTried(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, _ *recorder) {
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		synctest.Wait()
		p.stop()
		time.Sleep(10 * 24 * time.Hour)
		slack := &recorder{script: func(n int, _ recorded) outcome {
			if n == 1 {
				return outcome{class: retry, reason: "status 503"}
			}
			return outcome{class: delivered}
		}}
		p = p.restart(t, hookAndTags, slack)
		time.Sleep(time.Minute)
		if st := p.stat(t); st.Delivered != 1 || st.Dead != 0 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// tagsOf returns n [[tags]], each with a channel of its own, that all post to one webhook. The name of the webhook is a
// part of the URL and begins the names of the tags and channels.
func tagsOf(webhook string, n int) string {
	var toml strings.Builder
	for i := range n {
		fmt.Fprintf(&toml, "[[tags]]\ntag = '%s%d'\nchannel = '#%[1]s%d'\nslack_url = 'http://hook.invalid/%[1]s'\n",
			webhook, i, i)
	}
	return toml.String()
}

// However many destinations hang, a message for a healthy destination is delivered within 2 s.
func TestFairWhoeverIsSick(t *testing.T) {
	t.Parallel()
	const pace = "[core]\nchannel_rate = 0\nslack_url = 'http://hook.invalid/core'\n"
	hooks := func(n int) (toml string) {
		for i := range n {
			toml += tagsOf(fmt.Sprintf("sick%d-", i), 1)
		}
		return toml
	}
	for _, test := range []struct {
		name, toml string
		text       int // bytes
		send       []string
		later      []string // sent after the first message for a healthy destination
	}{
		{"900 new channels of one webhook", pace + tagsOf("sick", 900), 1, numberedTags("sick%d", 900), nil},
		{"40 webhooks with large messages", pace + hooks(40), largePost + 1, numberedTags("sick%d-0", 40), nil},
		{"300 webhooks", pace + hooks(300), 1, numberedTags("sick%d-0", 60), numberedTags("sick%d-0", 300)},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig(t, test.toml+tagsOf("well", 3))
			synctest.Test(t, func(t *testing.T) {
				p := newInProcess(t, cfg, posterFunc(func(to credential, _ []byte) outcome {
					if strings.Contains(to.url.reveal(), "sick") {
						time.Sleep(postTimeout)
						return outcome{class: retry, reason: "no answer within 30s", unsure: true, unreached: true}
					}
					return outcome{class: delivered}
				}))
				notify := func(tag string) {
					p.do("POST", "/notify", fmt.Sprintf(`{"tag":%q,"text":"%s"}`, tag, strings.Repeat("x", test.text)))
				}
				delivered := func() (n int64) {
					p.stats.locked(func() { n = p.stats.Delivered })
					return n
				}
				served := func(tag string) {
					t.Helper()
					before, start := delivered(), time.Now()
					notify(tag)
					for delivered() == before && time.Since(start) < time.Hour {
						time.Sleep(100 * time.Millisecond)
					}
					if took := time.Since(start); took > 2*time.Second {
						t.Errorf("%s was served after %v, want at most 2 s", tag, took)
					}
				}
				for _, tag := range test.send {
					notify(tag)
				}
				served("well0") // its webhook, like the sick ones, has delivered nothing yet
				for _, tag := range test.later {
					notify(tag)
				}
				for range 20 {
					time.Sleep(17 * time.Second)
					served("well1")
				}
			})
		})
	}
}

// numberedTags returns n tags: form with the numbers from 0 on.
func numberedTags(form string, n int) (tags []string) {
	for i := range n {
		tags = append(tags, fmt.Sprintf(form, i))
	}
	return tags
}

// With qps, the messages that wait for a dead webhook do not delay those for another webhook.
func TestFairUnderQPS(t *testing.T) {
	t.Parallel()
	toml := "[core]\nchannel_rate = 0\nqps = 1\nmax_delay_duration = 10\n" + tagsOf("sick", 1) + tagsOf("well", 1)
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		p := newInProcess(t, cfg, posterFunc(func(to credential, _ []byte) outcome {
			if strings.Contains(to.url.reveal(), "sick") {
				return outcome{class: badCredential, reason: "no_service"}
			}
			return outcome{class: delivered}
		}))
		for i := range 11 {
			p.do("POST", "/notify", e2e.NotifyBody("sick0", i, false))
		}
		for i := range 100 {
			start := time.Now()
			if w := p.do("POST", "/notify", e2e.NotifyBody("well0", i, true)); w.Code != 200 {
				t.Fatalf("message %d: %d %s", i, w.Code, w.Body)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("message %d took %v, want at most 2 s", i, took)
			}
			time.Sleep(time.Second)
		}
	})
}

// An account that pauses does not keep other accounts from their turns, even if it stands first in the ring.
func TestPauseWhileOthersStandInLine(t *testing.T) {
	t.Parallel()
	inBubble(t, e2e.WithCore(hookAndTags, "qps = 1"), func(_ int, r recorded) outcome {
		if strings.HasPrefix(r.to, "xoxb") {
			time.Sleep(500 * time.Millisecond)
			return outcome{class: limited, wait: time.Minute}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		time.Sleep(5 * time.Second)
		p.do("POST", "/notify", e2e.NotifyBody("bot", 1, false))
		synctest.Wait() // message 1 is being posted, and the next turn is a second later
		p.do("POST", "/notify", e2e.NotifyBody("bot2", 2, false))
		p.do("POST", "/notify", e2e.NotifyBody("own", 3, false))
		time.Sleep(2 * time.Second)
		if got := slack.texts("#own"); got != "3" {
			t.Errorf("while another account pauses, #own got %q, want 3", got)
		}
	})
}

// If a webhook's host refuses connections, all lanes of the webhook wait together: they share the tries, at most 200 in
// an hour, and the log has one line when the trouble begins and one when it ends. A sync message is told the reason.
// Another webhook is not delayed. Once the host takes connections again, all that waits is delivered within a minute.
func TestDeadNetworkIsOneTrouble(t *testing.T) {
	t.Parallel()
	const lanes = 2000
	cfg := testConfig(t, "[core]\nchannel_rate = 0\n"+tagsOf("sick", lanes)+tagsOf("well", 1))
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		var mended atomic.Bool
		p := newInProcess(t, cfg, posterFunc(func(to credential, _ []byte) outcome {
			if strings.Contains(to.url.reveal(), "sick") && !mended.Load() {
				tries.Add(1)
				return outcome{class: retry, reason: "connection refused", unreached: true}
			}
			return outcome{class: delivered}
		}))
		for i := range lanes {
			p.do("POST", "/notify", e2e.NotifyBody(fmt.Sprintf("sick%d", i), 1, false))
		}
		time.Sleep(time.Hour)
		if n := tries.Load(); n < 100 || n > 200 {
			t.Errorf("%d tries in an hour, want 100 to 200", n)
		}
		start := time.Now()
		if p.do("POST", "/notify", e2e.NotifyBody("well0", 1, true)); time.Since(start) > 0 {
			t.Errorf("another webhook waited %v", time.Since(start))
		}
		if w := p.do("POST", "/notify", e2e.NotifyBody("sick0", 1, true)); w.Code != 502 ||
			!strings.Contains(w.Body.String(), "connection refused") {
			t.Errorf("a sync message for the dead webhook: got %d %s, want 502 and the reason", w.Code, w.Body)
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != lanes+1 {
			t.Errorf("a minute after the host works again, not all is delivered: %+v", st)
		}
		logged := strings.Count(p.logs.String(), "level=WARN") + strings.Count(p.logs.String(), "level=ERROR")
		if logged != 2 || strings.Count(p.logs.String(), `level=ERROR msg="slack can be reached again"`) != 1 {
			t.Errorf("want a line when the trouble begins and one when it ends, got %d: %s", logged, p.logs)
		}
	})
}

// Sync messages that wait too long for their turn are answered 429. Nothing of them is kept then.
func TestSyncThatGivesUp(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		time.Sleep(time.Hour)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		var asked sync.WaitGroup
		var given atomic.Int64
		for i := range 100 {
			asked.Go(func() {
				body := fmt.Sprintf(`{"tag":"a","sync":true,"text":"%d %s"}`, i, strings.Repeat("x", 10_000))
				if w := p.do("POST", "/notify", body); w.Code == 429 {
					given.Add(1)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := given.Load(); n != 99 {
			t.Errorf("%d were answered 429, want 99: all but the one that is being posted", n)
		}
		p.deliverer.mu.Lock()
		for _, l := range p.deliverer.lanes {
			if len(l.urgent) > 0 || p.deliverer.urgentSize != 0 || l.account.urgentSize != 0 {
				t.Errorf("%d sync messages, %d bytes are still kept", len(l.urgent), p.deliverer.urgentSize)
			}
		}
		p.deliverer.mu.Unlock()
		asked.Wait()
	})
}

// BenchmarkDeliver compares delivery from the spool, one message a post, with a bare net/http client that makes as many
// posts over as many connections. The receiver answers at once. The ratio is our rate divided by the bare client's.
//
//	go test -run '^$' -bench Deliver -benchtime 5x
func BenchmarkDeliver(b *testing.B) {
	const messages = 5000
	receiver := "http://" + e2e.StartBare(b).Addr + "/"
	payload := []byte(`{"channel":"#c","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"` +
		strings.Repeat("x", 200) + `"}`)
	bareClient := newSlackClient(maxPosts).client
	var bare, ours time.Duration
	for b.Loop() {
		start := time.Now()
		each(messages, maxPosts, func(int) {
			resp, err := bareClient.Post(receiver, "application/json", bytes.NewReader(payload))
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
		bare += time.Since(start)

		open := make(chan struct{})
		client := newSlackClient(maxPosts)
		p := newInProcess(b, testConfig(b, tagsConfig(maxPosts)), posterFunc(func(_ credential, body []byte) outcome {
			<-open
			return client.post(credential{url: newSecret(receiver)}, body)
		}))
		each(messages, maxPosts, func(i int) {
			m := &message{ID: newID(), Text: strings.Repeat("x", 200),
				route: route{tag: fmt.Sprintf("t%d", i%maxPosts)}}
			if err := p.deliverer.store([]*message{m}); err != nil {
				b.Error(err)
			}
		})
		start = time.Now()
		close(open)
		e2e.Poll(b, "all is delivered", func() bool { return p.fill(&appStat{}).Waiting == 0 })
		ours += time.Since(start)
		p.stop()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(messages*b.N)/ours.Seconds(), "posts/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
}

// A later, shorter pause of a token does not end an earlier one.
func TestPauseIsNotShortened(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		switch {
		case n > 1:
			return outcome{class: delivered}
		case r.channel == "#bot":
			return outcome{class: limited, wait: time.Minute}
		}
		time.Sleep(time.Second)
		return outcome{class: limited, wait: time.Second}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		start := time.Now()
		p.do("POST", "/notify", e2e.NotifyBody("bot2", 1, false))
		p.do("POST", "/notify", e2e.NotifyBody("bot", 2, false))
		time.Sleep(time.Hour)
		for _, r := range slack.all()[2:] {
			if wait := r.at.Sub(start); wait < time.Minute {
				t.Errorf("%s was posted after %v", r.channel, wait)
			}
		}
	})
}

// With max_delay_duration = 0, an idle lane still posts a sync message at once.
func TestSyncWithoutDelay(t *testing.T) {
	t.Parallel()
	toml := strings.Replace(hookAndTags, "[core]", "[core]\nmax_delay_duration = 0", 1)
	inBubble(t, toml, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		if w := p.do("POST", "/notify", e2e.NotifyBody("a", 1, true)); w.Code != 200 {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

// A message that fails until it is older than max_age becomes a dead letter, not earlier. The reason of the dead letter
// has the last error.
func TestDeadByAge(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags+"[spool]\nmax_age = 7200\n", func(n int, r recorded) outcome {
		return outcome{class: badCredential, reason: "token_revoked"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		time.Sleep(119 * time.Minute)
		if st := p.stat(t); st.Dead != 0 {
			t.Errorf("a dead letter before max_age: %+v", st)
		}
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 1 {
			t.Errorf("no dead letter after max_age: %+v", st)
		}
		body := p.operator("GET", "/messages?state=dead").Body.String()
		if want := "older than max_age: token_revoked"; !strings.Contains(body, want) {
			t.Errorf("%q is not in %s", want, body)
		}
		for i := range 100 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		time.Sleep(130 * time.Minute) // at most 5 min back-off, then all of them at once
		if st := p.stat(t); st.Dead != 101 || len(st.Trouble) != 0 {
			t.Errorf("not all are dead letters after max_age: %+v", st)
		}
		if n := strings.Count(p.logs.String(), "delivery deferred"); n != 2 { // for each of the two lanes
			t.Errorf("the same error was logged %d times", n)
		}
	})
}

// A message for a destination that nobody can connect to becomes a dead letter after max_age, too.
func TestDeadByAgeUnreached(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags+"[spool]\nmax_age = 3600\n", func(int, recorded) outcome {
		return outcome{class: retry, unreached: true, reason: "connection refused"}
	}, func(t *testing.T, p *inProcess, _ *recorder) {
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		time.Sleep(59 * time.Minute)
		if st := p.stat(t); st.Waiting != 1 {
			t.Errorf("before max_age: %+v", st)
		}
		time.Sleep(10 * time.Minute)
		if st := p.stat(t); st.Dead != 1 {
			t.Errorf("after max_age: %+v", st)
		}
	})
}

// A long text that a receiver refuses with a 400 and no code is posted three times, as a short one is: once whole, then
// cut.
func TestLongAndRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		return outcome{class: badDestination, tooMuch: true, reason: "status 400 Bad Request"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		p.do("POST", "/notify", `{"tag":"a","text":"`+strings.Repeat("x", 5000)+`"}`)
		time.Sleep(time.Hour)
		if posts, st := slack.all(), p.stat(t); len(posts) != 3 || len(posts[1].text) > shortLimit || st.Dead != 1 {
			t.Errorf("%d posts, want 3, the second one cut: %+v", len(posts), st)
		}
	})
}

// Messages that become too old one after the other do not bring a failing destination more posts: the back-off stays at
// 5 minutes. An idle lane, whose last message has become too old, is not in trouble any more.
func TestBackOffOutlastsOldMessages(t *testing.T) {
	t.Parallel()
	inBubble(t, strings.Replace(hookAndTags, "batch = 1", "report_tag = 'b'", 1)+"[spool]\nmax_age = 3600\n",
		func(_ int, r recorded) outcome {
			if r.channel == "#b" {
				return outcome{class: delivered}
			}
			return outcome{class: retry, reason: "status 503"}
		},
		func(t *testing.T, p *inProcess, slack *recorder) {
			before := 0
			for i := range 5 * 120 { // five hours
				p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
				if time.Sleep(30 * time.Second); i == 4*120 {
					before = len(slack.all())
				}
			}
			posts, st := len(slack.all())-before, p.stat(t)
			if posts > 50 || st.Dead < 400 || st.OldestWaitingSeconds > 3600+600 {
				t.Errorf("%d posts in an hour; %d dead letters, the oldest message waits for %v s", posts, st.Dead,
					st.OldestWaitingSeconds)
			}
			time.Sleep(70 * time.Minute) // the lane remembers its last report for an hour
			if st := p.stat(t); st.Waiting != 0 || len(st.Trouble) != 0 || st.Tags[0].Trouble != "" {
				t.Errorf("nothing waits, want no trouble: %+v", st)
			}
		})
}

// Of the dead letters of a destination, one an hour at most is reported to core.report_tag. A dead letter of the report
// tag itself is not reported. A report_tag that is not configured is an error of the configuration.
func TestReportTag(t *testing.T) {
	t.Parallel()
	toml := strings.Replace(hookAndTags, "[core]", "[core]\nreport_tag = \"own\"", 1)
	inBubble(t, toml, func(_ int, r recorded) outcome {
		if r.channel == "#own" && r.text == "" {
			return outcome{class: delivered}
		}
		return outcome{class: badContent, reason: "invalid_blocks"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 3 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		p.do("POST", "/notify", e2e.NotifyBody("own", 9, false)) // it becomes a dead letter of the report tag
		time.Sleep(59 * time.Minute)
		reports := func() (n int) {
			for _, m := range p.list(t, "/messages?state=delivered").Messages {
				if m.Tag == "own" {
					n++
					if !strings.HasPrefix(m.Text,
						"A message for a could not be delivered: invalid_blocks. It is kept as dead letter ") {
						t.Errorf("the report says: %s", m.Text)
					}
				}
			}
			return n
		}
		if n := reports(); n != 1 {
			t.Errorf("%d reports within an hour, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		p.do("POST", "/notify", e2e.NotifyBody("a", 4, false))
		time.Sleep(time.Minute)
		if n := reports(); n != 2 {
			t.Errorf("%d reports after an hour, want 2", n)
		}
		if st := p.stat(t); st.Dead != 5 {
			t.Errorf("want 5 dead letters: %+v", st)
		}
	})
	path := e2e.WriteFile(t, "x.toml", "[core]\nslack_url='http://h.invalid/'\nreport_tag='x'\n")
	_, err := loadConfig(options{file: path})
	if err == nil || !strings.Contains(err.Error(), `:3: report_tag: there is no tag "x"`) {
		t.Errorf("an unknown report_tag: %v", err)
	}
}

// If Slack refuses the content of one among 40 messages, this message alone becomes a dead letter, wherever it stands.
// The others are delivered, in order. Messages that say the same become dead letters together.
func TestBadMessageAmongMerged(t *testing.T) {
	t.Parallel()
	for _, bad := range []int{0, 1, 17, 38, 39} {
		inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
			slack.reject = func(p stormPost) bool { return strings.Contains(p.body, "POISON") }
			for i := range 40 {
				text := fmt.Sprintf("message %d", i)
				if i == bad {
					text = "POISON"
				}
				p.send(t, fmt.Sprintf(`{"tag":"a","text":%q}`, text))
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if st := p.stat(t); st.Dead != 1 || st.Delivered != 39 || st.Posts > 16 {
				t.Errorf("bad message at %d: want 1 dead letter, 39 delivered, 16 posts at most: %+v", bad, st)
			}
			var last int
			for _, post := range slack.all() {
				for _, text := range post.texts() {
					var n int
					if fmt.Sscanf(text, "message %d", &n); !slack.reject(post) && text != "POISON" {
						if n < last {
							t.Errorf("%d came after %d", n, last)
						}
						last = n
					}
				}
			}
			slack.gaps(t)
		})
	}
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		slack.reject = func(p stormPost) bool { return strings.Contains(p.body, "POISON") }
		for i := range 30 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"fine %d"}`, i))
			p.send(t, `{"tag":"a","text":"POISON"}`)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := p.stat(t); st.Dead != 30 || st.Delivered != 30 {
			t.Errorf("30 bad messages that say the same: want 30 dead letters and 30 delivered: %+v", st)
		}
	})
}

// A merged post that fails is tried again with the same messages. Those that come meanwhile go into the next post.
func TestMergedPostStaysTogether(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, stormConfig)
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{}
		var sizes []int
		slack.script = func(n int, r recorded) outcome {
			if n < 4 {
				return down(n, r)
			}
			return outcome{class: delivered}
		}
		p := newInProcess(t, cfg, posterFunc(func(to credential, body []byte) outcome {
			var post stormPost
			json.Unmarshal(body, &post)
			sizes = append(sizes, len(post.texts()))
			return slack.post(to, body)
		}))
		for i := range 5 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"%d"}`, i))
		}
		time.Sleep(1500 * time.Millisecond) // the first post has failed
		synctest.Wait()
		for i := range 5 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"more %d"}`, i))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := fmt.Sprint(sizes); got != "[5 5 5 5 5]" {
			t.Errorf("the posts had %s messages, want [5 5 5 5 5]", got)
		}
		p.stat(t)
	})
}

// After a start, the first post of a lane comes no earlier than one pace (1 s) later: the last post of the process
// before may have been a moment ago.
func TestFirstTurnWaits(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, stormConfig)
	synctest.Test(t, func(t *testing.T) {
		slack := &storm{}
		p := newInProcess(t, cfg, slack)
		start := time.Now()
		p.send(t, `{"tag":"a","text":"1"}`)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(slack.all()) != 1 || slack.all()[0].at.Sub(start) < time.Second {
			t.Errorf("posted after %v, want one post after at least 1 s", slack.all()[0].at.Sub(start))
		}
	})
}

// The first turns of many lanes after a start do not begin at the same moment: each would take memory at that moment.
func TestFirstTurnsAreSpread(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, stormConfig)
	synctest.Test(t, func(t *testing.T) {
		slack := &storm{}
		p := newInProcess(t, cfg, slack)
		for i := range 1000 {
			p.do("POST", "/notify-directly", fmt.Sprintf(`{"payload":{"channel":"#%d","text":"hello"}}`, i))
		}
		time.Sleep(10 * time.Second)
		moments := map[time.Time]int{}
		for _, post := range slack.all() {
			moments[post.at]++
		}
		if posts := len(slack.all()); posts != 1000 || len(moments) < posts/2 {
			t.Errorf("%d posts at %d different moments", posts, len(moments))
		}
	})
}

// If a connection is refused while a token pauses, as Slack asked for, the pause does not end earlier.
func TestPauseOutlastsARefusedConnection(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		switch {
		case n > 1: // the second post to a channel
			return outcome{class: delivered}
		case r.channel == "#bot":
			return outcome{class: limited, wait: time.Minute}
		}
		time.Sleep(time.Second)
		return outcome{class: retry, unreached: true, reason: "connection refused"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i, tag := range []string{"bot2", "bot"} {
			p.do("POST", "/notify", e2e.NotifyBody(tag, i+1, false))
		}
		time.Sleep(time.Hour)
		posts := slack.all()
		if len(posts) != 4 {
			t.Fatalf("%d posts, want 4", len(posts))
		}
		if gap := posts[2].at.Sub(posts[0].at); gap < time.Minute {
			t.Errorf("posted again after %v, in the middle of a pause of a minute", gap)
		}
	})
}
