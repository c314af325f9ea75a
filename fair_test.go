package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

// What becomes of a post, by its answer, its head's history and what it held.
func TestJudge(t *testing.T) {
	now := time.Now()
	tried := func(n int) head { return head{attempts: n, first: now.Add(-time.Hour)} }
	poisoned := head{attempts: 9, first: now.Add(-2 * time.Hour), since: now.Add(-poisonAfter - time.Second)}
	one, many := posted{parts: 1}, posted{parts: 8}
	for _, test := range []struct {
		name   string
		out    outcome
		head   head
		posted posted
		worked time.Time
		want   verdict
		n      int
		reason string
	}{
		{"delivered", outcome{class: delivered}, tried(1), many, now, done, 0, ""},
		{"delivered, though old", outcome{class: delivered}, tried(1), posted{parts: 1, tooOld: 1}, now, done, 0, ""},
		{"trouble", outcome{class: retry, status: 503}, tried(50), one, now, later, 0, ""},
		{"trouble, old", outcome{class: retry, status: 503}, tried(50), posted{parts: 2, tooOld: 1}, now, dead, 1, ""},
		{"old, but tried for a moment only", outcome{class: retry}, head{attempts: 3, first: now.Add(-ageAfter)}, posted{parts: 1, tooOld: 1}, now, later, 0, ""},
		{"content", outcome{class: badContent, reason: "no_text"}, tried(1), one, now, dead, 0, "no_text"},
		{"content, merged", outcome{class: badContent}, tried(1), many, now, halve, 0, ""},
		{"destination, first", outcome{class: badDestination}, tried(destinationTries - 1), many, now, later, 0, ""},
		{"destination, third", outcome{class: badDestination, reason: "is_archived"}, tried(destinationTries), many, now, dead, 0, "is_archived"},
		{"credential", outcome{class: badCredential}, tried(99), one, now, later, 0, ""},
		{"in between", outcome{class: inBetween}, tried(99), one, now, later, 0, ""},
		{"in between, old", outcome{class: inBetween}, tried(99), posted{parts: 1, tooOld: 1}, now, dead, 1, ""},
		{"too much, merged", outcome{class: badDestination, tooMuch: true}, tried(1), many, now, halve, 0, ""},
		{"too much, in between, merged", outcome{class: inBetween, tooMuch: true}, tried(1), many, now, halve, 0, ""},
		{"too much, long", outcome{class: badContent, tooMuch: true}, tried(1), posted{parts: 1, long: true}, now, shorten, 0, ""},
		{"too much, cut", outcome{class: badContent, tooMuch: true, reason: "msg_too_long"}, head{attempts: 2, cut: true}, posted{parts: 1, long: true}, now, dead, 0, "msg_too_long"},
		{"too much, short, code", outcome{class: badContent, tooMuch: true, reason: "msg_too_long"}, tried(1), one, now, dead, 0, "msg_too_long"},
		{"too much, short, no code", outcome{class: badDestination, tooMuch: true}, tried(1), one, now, later, 0, ""},
		{"broken twice", outcome{class: retry, broken: true}, head{attempts: 2, broken: brokenTries - 2}, one, now, later, 0, ""},
		{"broken three times", outcome{class: retry, broken: true, reason: "cut off"}, head{attempts: 3, broken: brokenTries - 1}, one, now, dead, 0, "it may have been delivered: cut off"},
		{"poison", outcome{class: retry, status: 500, reason: "status 500"}, poisoned, one, now, dead, 0,
			"nothing but errors of slack's for 1h0m0s, while other messages pass: status 500"},
		{"poison, merged", outcome{class: retry, status: 500}, poisoned, many, now, halve, 0, ""},
		{"nothing passes", outcome{class: retry, status: 500}, poisoned, one, time.Time{}, later, 0, ""},
	} {
		got, n, reason := judge(test.out, test.head, test.posted, test.worked, now)
		if got != test.want || n != test.n || reason != test.reason {
			t.Errorf("%s: got %v, %d, %q, want %v, %d, %q", test.name, got, n, reason, test.want, test.n, test.reason)
		}
	}
}

// receiver is a Slack that finds some posts too much, and remembers the numbers of what it took.
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

// seen returns how many posts were refused, and how often a number was taken.
func (r *receiver) seen(number string) (refused, took int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused, r.took[number]
}

// Receivers that take less than Slack does get all of a storm, in posts that they take; one message that is too long for them is cut.
// The lane remembers what was too much. Dead letters that are sent again are merged under the same limit.
func TestTooMuchForTheReceiver(t *testing.T) {
	refuse := func(class class, reason string, when bool) outcome {
		if when {
			return outcome{class: class, tooMuch: true, status: 422, reason: reason}
		}
		return outcome{class: delivered}
	}
	for name, tooMuch := range map[string]func([]byte, []string) outcome{
		"8 attachments": func(_ []byte, texts []string) outcome { return refuse(badDestination, "status 422", len(texts) > 8) },
		"3000 bytes":    func(body []byte, _ []string) outcome { return refuse(badDestination, "status 400", len(body) > 3000) },
		"4000 characters": func(_ []byte, texts []string) outcome {
			return refuse(badContent, "msg_too_long", utf8.RuneCountInString(strings.Join(texts, "")) > 4000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, strings.NewReplacer("batch = 1\n", "batch = 20\n", "channel_rate = 0", "channel_rate = 1").Replace(hookAndTags))
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
					t.Errorf("refused %d times in the first burst, %d in the second", first, both-first)
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
				// Dead letters: the receiver takes nothing for a while.
				r.mu.Lock()
				r.tooMuch = func([]byte, []string) outcome { return outcome{class: badDestination, reason: "channel_not_found"} }
				r.mu.Unlock()
				burst()
				time.Sleep(time.Hour)
				r.mu.Lock()
				r.tooMuch = tooMuch
				r.mu.Unlock()
				if w := p.operator("POST", "/messages/retry?tag=a"); !strings.Contains(w.Body.String(), `"count": 45`) {
					t.Errorf("send again: %s", w.Body)
				}
				time.Sleep(time.Minute)
				if st := p.stat(t); st.Delivered != int64(n) || st.Dead != 0 {
					t.Errorf("counters: %+v", st)
				}
			})
		})
	}
}

// A clock that was wrong when a message was accepted does not make it a dead letter: Slack's first trouble after the start is not
// the end of it. Nor does a long stop.
func TestOldButNotTried(t *testing.T) {
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		synctest.Wait()
		p.stop()
		time.Sleep(10 * 24 * time.Hour)
		slack = &recorder{script: func(n int, _ recorded) outcome {
			if n == 1 {
				return outcome{class: retry, status: 503, reason: "status 503"}
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

func tagsOf(webhook string, n int) string {
	var toml strings.Builder
	for i := range n {
		fmt.Fprintf(&toml, "[[tags]]\ntag = '%s%d'\nchannel = '#%[1]s%d'\nslack_url = 'http://hook.invalid/%[1]s'\n", webhook, i, i)
	}
	return toml.String()
}

// Whoever is sick, a healthy destination is served at once: nobody waits for the posts of another.
func TestFairWhoeverIsSick(t *testing.T) {
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
		later      []string // sent when the sick ones have failed
	}{
		{"900 new channels of one webhook", pace + tagsOf("sick", 900), 1, numberedTags("sick%d", 900), nil},
		{"40 webhooks with large messages", pace + hooks(40), 200_000, numberedTags("sick%d-0", 40), nil},
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
				served := func(tag string) {
					t.Helper()
					before, start := p.stat(t).Delivered, time.Now()
					notify(tag)
					for p.stat(t).Delivered == before && time.Since(start) < time.Hour {
						time.Sleep(100 * time.Millisecond)
					}
					if took := time.Since(start); took > 2*time.Second {
						t.Errorf("%s was served after %v", tag, took)
					}
				}
				for _, tag := range test.send {
					notify(tag)
				}
				served("well0") // it has not delivered anything yet, as they have not
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

func numberedTags(form string, n int) (tags []string) {
	for i := range n {
		tags = append(tags, fmt.Sprintf(form, i))
	}
	return tags
}

// With qps, what waits for a dead webhook is nothing that others have to wait for.
func TestFairUnderQPS(t *testing.T) {
	toml := "[core]\nchannel_rate = 0\nqps = 1\nmax_delay_duration = 10\n" + tagsOf("sick", 1) + tagsOf("well", 1)
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		p := newInProcess(t, cfg, posterFunc(func(to credential, _ []byte) outcome {
			if strings.Contains(to.url.reveal(), "sick") {
				return outcome{class: badCredential, status: 404, reason: "no_service"}
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
				t.Errorf("message %d took %v", i, took)
			}
			time.Sleep(time.Second)
		}
	})
}

// A webhook's host that refuses connections is one trouble: all that waits for it waits together, with a try now and then, and two lines
// in the log. Another webhook notices nothing.
func TestDeadNetworkIsOneTrouble(t *testing.T) {
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
			t.Errorf("%d tries in an hour", n)
		}
		start := time.Now()
		if p.do("POST", "/notify", e2e.NotifyBody("well0", 1, true)); time.Since(start) > 0 {
			t.Errorf("another webhook waited %v", time.Since(start))
		}
		if w := p.do("POST", "/notify", e2e.NotifyBody("sick0", 1, true)); w.Code != 502 || !strings.Contains(w.Body.String(), "connection refused") {
			t.Errorf("sync: %d %s", w.Code, w.Body)
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != lanes+1 {
			t.Errorf("a minute after it is mended: %+v", st)
		}
		logged := strings.Count(p.logs.String(), "level=WARN") + strings.Count(p.logs.String(), "level=ERROR")
		if logged != 1 || strings.Count(p.logs.String(), "slack can be reached again") != 1 {
			t.Errorf("%d warnings: %s", logged, p.logs)
		}
	})
}

// What sync requests wait with is bounded, and let go when they give up.
func TestSyncThatGivesUp(t *testing.T) {
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
			t.Errorf("%d gave up, want all but the one that is being posted", n)
		}
		p.deliver.mu.Lock()
		for _, l := range p.deliver.lanes {
			if len(l.urgent) > 0 || p.deliver.urgent != 0 || l.account.urgent != 0 {
				t.Errorf("%d posts and %d bytes are kept", len(l.urgent), p.deliver.urgent)
			}
		}
		p.deliver.mu.Unlock()
		asked.Wait()
	})
}
