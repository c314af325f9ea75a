package main

// SIGHUP: the configuration is read again while messages wait, and while they are posted, stored and dropped.

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// After a reload, the waiting messages go at once, in order, to where the new configuration leads.
func TestReloadMovesWhatWaits(t *testing.T) {
	t.Parallel()
	revoked := func(n int, r recorded) outcome {
		if strings.HasSuffix(r.to, "/core") {
			return outcome{class: badCredential, reason: "token_revoked"}
		}
		return outcome{class: delivered}
	}
	inBubble(t, hookAndTags, revoked, func(t *testing.T, p *inProcess, slack *recorder) {
		for i, tag := range []string{"a", "ab", "b", "a", "own", "ab"} {
			p.do("POST", "/notify", e2e.NotifyBody(tag, i+1, false))
		}
		time.Sleep(time.Hour)
		before := len(slack.all())
		// The first entry of ab moves from #a to #new.
		mended := strings.Replace(strings.ReplaceAll(hookAndTags, "/core", "/new"), "tag = \"ab\"\nchannel = \"#a\"",
			"tag = \"ab\"\nchannel = \"#new\"", 1)
		p.reload(t, mended)
		synctest.Wait()
		got := map[string]string{}
		for _, r := range slack.all()[before:] {
			got[r.to+r.channel] += r.text
		}
		want := map[string]string{"http://hook.invalid/new#a": "14", "http://hook.invalid/new#new": "26",
			"http://hook.invalid/new#b": "236"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("right after the reload Slack got %v, want %v", got, want)
		}
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != 8 || st.State != "ok" {
			t.Errorf("want 8 delivered, none waiting, state ok: %+v", st)
		}
		synctest.Wait()
		p.holdsNothing(t)
	})
}

// If a reload makes one destination of several, their messages are delivered in the order in which they were accepted.
func TestReloadJoinsLanes(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	down.Store(true)
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		if down.Load() {
			return outcome{class: retry, reason: "connection refused"}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 9 {
			p.do("POST", "/notify", e2e.NotifyBody([]string{"b", "a", "own"}[i%3], i+1, false))
		}
		time.Sleep(time.Minute)
		down.Store(false)
		before := len(slack.all())
		p.reload(t, strings.NewReplacer("#b", "#a", "#own", "#a", "/own", "/core").Replace(hookAndTags))
		synctest.Wait()
		var got string
		for _, r := range slack.all()[before:] {
			got += r.text
		}
		if got != "123456789" {
			t.Errorf("got %s, want 123456789", got)
		}
	})
}

// A pause that Slack asked for does not end with a reload, even if the tag gets another channel.
func TestReloadKeepsPauses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ tag, toml string }{
		{"a", hookAndTags},
		{"a", strings.ReplaceAll(hookAndTags, "#a", "#moved")}, // another lane of the same webhook
		{"bot", hookAndTags},
		{"bot", strings.ReplaceAll(hookAndTags, "#bot", "#moved")},
	} {
		inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
			if n == 1 {
				return outcome{class: limited, wait: time.Minute}
			}
			return outcome{class: delivered}
		}, func(t *testing.T, p *inProcess, slack *recorder) {
			start := time.Now()
			slack.script = func(int, recorded) outcome {
				if time.Since(start) < time.Minute {
					return outcome{class: limited, wait: time.Minute}
				}
				return outcome{class: delivered}
			}
			p.do("POST", "/notify", e2e.NotifyBody(test.tag, 1, false))
			time.Sleep(10 * time.Second)
			p.reload(t, test.toml)
			time.Sleep(time.Hour)
			posts := slack.all()
			if len(posts) != 2 || posts[1].at.Sub(posts[0].at) < time.Minute {
				t.Errorf("%s: want two posts, at least a minute apart: %+v", test.tag, posts)
			}
		})
	}
}

// A reload ends back-offs: that of a destination, and that of an account that cannot be reached. What waits is tried
// at once.
func TestReloadEndsBackOffs(t *testing.T) {
	t.Parallel()
	for _, failed := range []outcome{
		{class: retry, reason: "status 503"},
		{class: retry, reason: "connection refused", unreached: true},
	} {
		inBubble(t, hookAndTags, func(int, recorded) outcome { return failed },
			func(t *testing.T, p *inProcess, slack *recorder) {
				p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
				time.Sleep(5 * time.Minute)
				for before := 0; before != len(slack.all()); time.Sleep(time.Second) { // until a second without a try
					before = len(slack.all())
				}
				before := len(slack.all())
				p.reload(t, hookAndTags)
				synctest.Wait()
				if n := len(slack.all()); n != before+1 {
					t.Errorf("%s: %d tries before the reload, %d after it, want one more", failed.reason, before, n)
				}
			})
	}
}

// After a reload, an account that could not be reached is tried for the next sync message, even if no message waits
// for it.
func TestReloadEndsBackOffsOfSyncPosts(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		return outcome{class: retry, reason: "connection refused", unreached: true}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		send := func() int {
			p.do("POST", "/notify", e2e.NotifyBody("own", 1, true))
			return len(slack.all())
		}
		for range 8 {
			send()
			time.Sleep(20 * time.Second)
		}
		before := -1
		for before != len(slack.all()) { // until a sync message is refused without a try
			before = len(slack.all())
			send()
		}
		p.reload(t, hookAndTags)
		if n := send(); n != before+1 {
			t.Errorf("%d tries before the reload, %d after it, want one more", before, n)
		}
	})
}

// If one channel has to wait, a reload does not make another channel of the same webhook or token wait as well. No
// message waits for the other channel during the reload.
func TestReloadHoldsUpNoOthers(t *testing.T) {
	t.Parallel()
	for tag, other := range map[string]string{"a": "b", "bot": "bot2"} {
		inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
			if n == 1 {
				return outcome{class: retry, wait: time.Hour}
			}
			return outcome{class: delivered}
		}, func(t *testing.T, p *inProcess, slack *recorder) {
			p.do("POST", "/notify", e2e.NotifyBody(tag, 1, false))
			time.Sleep(10 * time.Second)
			p.reload(t, hookAndTags)
			time.Sleep(10 * time.Second)
			p.do("POST", "/notify", e2e.NotifyBody(other, 2, false))
			time.Sleep(time.Second)
			if got := slack.texts("#" + other); got != "2" {
				t.Errorf("%s has to wait; %s does not, but got %q, want 2", tag, other, got)
			}
		})
	}
}

// A reload waits for posts in flight: they end under the old configuration. Messages that are accepted meanwhile are
// delivered under the new one.
func TestReloadWaitsForPosts(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
		time.Sleep(20 * time.Second)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		synctest.Wait()
		answered := make(chan int)
		go func() { answered <- p.do("POST", "/notify", e2e.NotifyBody("a", 3, true)).Code }()
		go func() {
			time.Sleep(5 * time.Second)
			p.do("POST", "/notify", e2e.NotifyBody("a", 2, false))
		}()
		p.reload(t, strings.ReplaceAll(strings.Replace(hookAndTags, "[core]", "[core]\nmax_delay_duration = 100", 1),
			"/core", "/new"))
		time.Sleep(time.Hour)
		var got []string
		for _, r := range slack.all() {
			got = append(got, r.text+strings.TrimPrefix(r.to, "http://hook.invalid"))
		}
		if want := "[1/core 3/new 2/new]"; fmt.Sprint(got) != want && fmt.Sprint(got) != "[1/core 2/new]" {
			t.Errorf("got %v, want %s", got, want)
		}
		<-answered
		synctest.Wait()
		p.holdsNothing(t)
	})
}

// Even if there is always a post in flight, a reload has to wait for the longest of them only: no post begins until
// the reload is done.
func TestReloadIsNotHeldUp(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		time.Sleep(10 * time.Second)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i, tag := range []string{"a", "b"} {
			for n := range 20 {
				p.do("POST", "/notify", e2e.NotifyBody(tag, n, false))
			}
			time.Sleep(time.Duration(5-5*i) * time.Second)
		}
		start := time.Now()
		p.reload(t, hookAndTags)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the reload took %v, want 10 s at most", took)
		}
		time.Sleep(time.Hour)
		if n := len(slack.all()); n != 40 {
			t.Errorf("%d posts, want 40", n)
		}
	})
}

// A message that is being stored when a reload begins is delivered under the new configuration. After that, none of its
// bytes count for max_bytes.
func TestReloadWhileStoring(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		slow := func() error { time.Sleep(10 * time.Second); return nil }
		p.disk.Store(&slow)
		go p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		time.Sleep(time.Second)
		p.reload(t, strings.ReplaceAll(hookAndTags, "/core", "/new"))
		time.Sleep(time.Hour)
		if got := slack.all(); len(got) != 1 || !strings.HasSuffix(got[0].to, "/new") {
			t.Errorf("want one post, to the new webhook: %+v", got)
		}
		synctest.Wait()
		p.holdsNothing(t)
	})
}

// A message that is being dropped when a reload begins does not come back.
func TestReloadWhileDropping(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
		p.send(t, e2e.NotifyBody("a", 1, false))
		time.Sleep(time.Minute)
		id := p.list(t, "/messages?state=waiting").Messages[0].ID
		slow := func() error { time.Sleep(10 * time.Second); return nil }
		p.disk.Store(&slow)
		go func() {
			if w := p.operator("DELETE", "/messages/"+id); w.Code != 200 {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		}()
		synctest.Wait()
		slack.mu.Lock()
		posts := len(slack.posts)
		slack.script = nil
		slack.mu.Unlock()
		p.reload(t, hookAndTags)
		time.Sleep(time.Hour)
		if st := p.stat(t); st.Dropped != 1 || st.Delivered != 0 || len(slack.all()) != posts {
			t.Errorf("want no post after the first %d, got %d, and want 1 dropped: %+v", posts, len(slack.all()), st)
		}
		p.holdsNothing(t)
	})
}
