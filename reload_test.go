package main

// SIGHUP: the configuration is read again under load, and while messages wait.

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

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
		// ab's first entry leaves #a for #own.
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
			t.Errorf("got %v, want %v: at once, and in order", got, want)
		}
		if st := p.stat(t); st.Waiting != 0 || st.Delivered != 8 || st.State != "ok" {
			t.Errorf("%+v", st)
		}
		synctest.Wait()
		p.holdsNothing(t)
	})
}

// Two tags that become one destination keep the order in which their messages were accepted.
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
			t.Errorf("got %s", got)
		}
	})
}

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
				t.Errorf("%s: %+v", test.tag, posts)
			}
		})
	}
}

// Back-offs start anew: those of a destination, and those of an account that cannot be reached.
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
				for before := 0; before != len(slack.all()); time.Sleep(time.Second) { // the next try is in a while
					before = len(slack.all())
				}
				before := len(slack.all())
				p.reload(t, hookAndTags)
				synctest.Wait()
				if n := len(slack.all()); n != before+1 {
					t.Errorf("%s: tried %d times before the reload, %d in all right after it", failed.reason, before, n)
				}
			})
	}
}

// An account that cannot be reached is tried again after a reload, also if nothing waits for it.
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
		for before != len(slack.all()) { // until one is refused without a try
			before = len(slack.all())
			send()
		}
		p.reload(t, hookAndTags)
		if n := send(); n != before+1 {
			t.Errorf("tried %d times before the reload, %d in all after it", before, n)
		}
	})
}

// A pause of one channel stays its own after a reload: a channel with nothing waiting is not held up by it later.
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
				t.Errorf("%s pauses, and %s got %q", tag, other, got)
			}
		})
	}
}

// What is being posted ends first, under the old configuration; what is accepted meanwhile is delivered under the new
// one.
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

// Posts that overlap without an end do not hold the reload up: none begins until it is done.
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
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Hour)
		if n := len(slack.all()); n != 40 {
			t.Errorf("%d posts", n)
		}
	})
}

// A message that is being stored while the configuration changes takes its share of max_bytes along.
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
			t.Errorf("%+v", got)
		}
		synctest.Wait()
		p.holdsNothing(t)
	})
}

// A message that is being dropped while the configuration changes does not come back.
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
			t.Errorf("%d posts, then %d: %+v", posts, len(slack.all()), st)
		}
		p.holdsNothing(t)
	})
}
