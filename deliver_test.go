package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// recorder is a Slack in Process: it answers by script, at once where there is none.
type recorder struct {
	mu     sync.Mutex
	posts  []recorded
	script func(n int, r recorded) outcome // n counts the posts of r's destination, from 1
	count  map[string]int
}

type recorded struct {
	at      time.Time
	to      string // the webhook or token
	channel string
	text    string
}

func (s *recorder) post(_ context.Context, to credential, body []byte) outcome {
	var p struct{ Channel, Text string }
	if json.Unmarshal(body, &p); !json.Valid(body) { // a text may be no string: it goes through as it came
		panic(fmt.Sprintf("posted %q", body))
	}
	text, _, _ := strings.Cut(p.Text, "\n") // without "accepted …, delayed …"
	r := recorded{time.Now(), cmp.Or(to.token.reveal(), to.url.reveal()), p.Channel, text}
	s.mu.Lock()
	s.posts = append(s.posts, r)
	if s.count == nil {
		s.count = map[string]int{}
	}
	s.count[r.to+r.channel]++
	n, script := s.count[r.to+r.channel], s.script
	s.mu.Unlock()
	if script == nil {
		return outcome{class: delivered}
	}
	return script(n, r)
}

func (s *recorder) all() []recorded {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]recorded(nil), s.posts...)
}

// texts returns what a channel was given, in order.
func (s *recorder) texts(channel string) string {
	var texts []string
	for _, r := range s.all() {
		if r.channel == channel {
			texts = append(texts, r.text)
		}
	}
	return strings.Join(texts, " ")
}

func newRecorderFor(p *inProcess, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, r)
	return w
}

// inBubble runs test in simulated time with a server whose Slack is script.
func inBubble(t *testing.T, toml string, script func(int, recorded) outcome, test func(*testing.T, *inProcess, *recorder)) {
	t.Helper()
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		slack := &recorder{script: script}
		test(t, newInProcess(t, cfg, slack), slack)
	})
}

const hookAndTags = `
[core]
channel_rate = 0
batch = 1
slack_url = "http://hook.invalid/core"
[[tags]]
tag = "a"
channel = "#a"
[[tags]]
tag = "b"
channel = "#b"
[[tags]]
tag = "ab"
channel = "#a"
[[tags]]
tag = "ab"
channel = "#b"
[[tags]]
tag = "own"
channel = "#own"
slack_url = "http://hook.invalid/own"
[[tags]]
tag = "bot"
channel = "#bot"
slack_token = "xoxb-0"
[[tags]]
tag = "bot2"
channel = "#bot2"
slack_token = "xoxb-0"
`

func TestOutcomesInTime(t *testing.T) {
	refused := outcome{class: retry, reason: "connection refused"}
	for _, test := range []struct {
		name   string
		script func(n int, r recorded) outcome
		send   []string // tags, one message each, numbered from 1
		want   map[string]string
		gaps   []time.Duration // least time between the posts to the first channel named
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
				return outcome{class: retry, limited: true, wait: 7 * time.Second}
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
				time.Sleep(24 * time.Hour)
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

// A token's 429 holds for the workspace: all its channels pause, others do not.
func TestTokenPause(t *testing.T) {
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		if r.channel == "#bot" && n == 1 {
			return outcome{class: retry, limited: true, wait: 20 * time.Second}
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
				t.Errorf("%s was posted after %v", r.channel, wait)
			}
		}
		if n := len(slack.all()); n != 4 {
			t.Errorf("got %d posts, want 4", n)
		}
	})
}

func TestQPS(t *testing.T) {
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
			t.Errorf("accepted %d messages, want what 2 a second post in 5 s", accepted)
		}
		time.Sleep(time.Minute)
		posts := slack.all()
		if len(posts) != accepted {
			t.Errorf("%d posts of %d accepted", len(posts), accepted)
		}
		for i := 1; i < len(posts); i++ {
			if gap := posts[i].at.Sub(posts[i-1].at); gap < 500*time.Millisecond {
				t.Errorf("post %d came %v after the one before", i, gap)
			}
		}
	})
}

func TestSyncTellsTheTruth(t *testing.T) {
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
		{"refused for its content", "a", say(outcome{class: badContent, reason: "invalid_blocks"}), 502, "", "failed to post message to slack: invalid_blocks"},
		{"destination", "a", say(outcome{class: badDestination, reason: "channel_not_found"}), 502, "", "failed to post message to slack: channel_not_found"},
		{"unreachable", "a", say(outcome{class: retry, reason: "connection refused"}), 502, "1", "failed to post message to slack: connection refused"},
		{"perhaps posted", "a", say(outcome{class: retry, reason: "no answer within 30s", unsure: true}), 502, "", "failed to post message to slack: no answer within 30s"},
		{"limited", "a", say(outcome{class: retry, reason: "ratelimited", limited: true, wait: 2500 * time.Millisecond}), 429, "3", "failed to post message to slack: ratelimited"},
		{"one of two took it", "ab", func(_ int, r recorded) outcome {
			if r.channel == "#a" {
				return outcome{class: delivered}
			}
			return outcome{class: retry, reason: "connection refused"}
		}, 502, "", "failed to post message to slack: connection refused"},
		{"neither of two took it", "ab", say(outcome{class: retry, reason: "connection refused"}), 502, "1", "failed to post message to slack: connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, hookAndTags, test.script, func(t *testing.T, p *inProcess, slack *recorder) {
				w := p.do("POST", "/notify", e2e.NotifyBody(test.tag, 1, true))
				var got answer
				json.Unmarshal(w.Body.Bytes(), &got)
				if w.Code != test.status || got.Message != test.message || w.Header().Get("Retry-After") != test.retryAfter {
					t.Errorf("got %d %q, Retry-After %q; want %d %q, %q", w.Code, got.Message, w.Header().Get("Retry-After"), test.status, test.message, test.retryAfter)
				}
				time.Sleep(time.Hour)
				if want := len(p.cfg().byTag[test.tag]); len(slack.all()) != want {
					t.Errorf("posted %d times, want %d", len(slack.all()), want)
				}
			})
		})
	}
}

// A sync message waits for a pause of Slack's as long as max_delay_duration allows, not for an asynchronous back-off.
func TestSyncAndPauses(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  outcome
		status int
		waits  time.Duration
	}{
		{"short pause", outcome{class: retry, limited: true, wait: 9 * time.Second}, 200, 9 * time.Second},
		{"long pause", outcome{class: retry, limited: true, wait: 11 * time.Second}, 429, 0},
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
					t.Errorf("got %d %s after %v, want %d after %v", w.Code, w.Body, time.Since(start), test.status, test.waits)
				}
				if test.status == 429 && w.Header().Get("Retry-After") != "11" {
					t.Errorf("got Retry-After %q, want 11", w.Header().Get("Retry-After"))
				}
			})
		})
	}
}

// The post goes on when its sender hangs up, and a lane that is busy too long is given up without a post.
func TestSyncBehindASlowPost(t *testing.T) {
	inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
		time.Sleep(25 * time.Second)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		ctx, hangUp := context.WithCancel(t.Context())
		go func() {
			r := httptest.NewRequest("POST", "/notify", strings.NewReader(e2e.NotifyBody("a", 1, true))).WithContext(ctx)
			p.http.ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		hangUp()
		w := p.do("POST", "/notify", e2e.NotifyBody("a", 2, true))
		if w.Code != 429 || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d %s, want 429 with Retry-After", w.Code, w.Body)
		}
		time.Sleep(time.Hour)
		if got := slack.texts("#a"); got != "1" {
			t.Errorf("posted %q, want 1 alone", got)
		}
	})
}

// 64 destinations that hang leave no room for more posts, unless they have failed before: then half of it is free.
func TestHangingDestinations(t *testing.T) {
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

func TestBackOff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute} {
		if got := backOff(n); got < want || got > want+want/4 {
			t.Errorf("after attempt %d: %v, want %v to a quarter more", n, got, want)
		}
	}
}
