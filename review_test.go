package main

// Cases that went wrong once: posts, pauses, moves and crashes that met in an unhappy moment.

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// A waiting message may be dropped while a sync post of its lane is in flight; one that is in flight itself may not.
func TestDropDuringPosts(t *testing.T) {
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		time.Sleep(5 * time.Second)
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		var sync sync.WaitGroup
		sync.Go(func() { p.do("POST", "/notify", e2e.NotifyBody("a", 0, true)) })
		synctest.Wait()
		var ids []string
		for i := range 4 {
			ids = append(ids, p.notifyWith(t, "", "a", i+1)...)
		}
		if w := p.operator("DELETE", "/messages/"+ids[0]); w.Code != 200 {
			t.Errorf("drop during a sync post: %d %s", w.Code, w.Body)
		}
		time.Sleep(6 * time.Second)
		if w := p.operator("DELETE", "/messages/"+ids[1]); w.Code != 409 {
			t.Errorf("drop of what is being posted: %d %s", w.Code, w.Body)
		}
		if w := p.operator("DELETE", "/messages/"+ids[2]); w.Code != 200 {
			t.Errorf("drop of the one behind it: %d %s", w.Code, w.Body)
		}
		sync.Wait()
		time.Sleep(time.Minute)
		if got := slack.texts("#a"); got != "0 2 4" {
			t.Errorf("posted %q", got)
		}
		if st := p.stat(t); st.Dropped != 2 || st.Delivered != 3 {
			t.Errorf("counters: %+v", st)
		}
		p.holdsNothing(t)
	})
}

// Sending all dead letters again does each once, also when they come back at once.
func TestRetryAllOnce(t *testing.T) {
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		return outcome{class: badContent, reason: "no_text"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 5 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		time.Sleep(time.Minute)
		if w := p.operator("POST", "/messages/retry?tag=a"); !strings.Contains(w.Body.String(), `"count": 5`) {
			t.Errorf("got %s", w.Body)
		}
		time.Sleep(time.Minute)
		if n := len(slack.all()); n != 10 {
			t.Errorf("%d posts, want 10", n)
		}
	})
}

// A later, shorter pause of a token does not end an earlier one.
func TestPauseIsNotShortened(t *testing.T) {
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		switch {
		case n > 1:
			return outcome{class: delivered}
		case r.channel == "#bot":
			return outcome{class: retry, limited: true, wait: time.Minute}
		}
		time.Sleep(time.Second)
		return outcome{class: retry, limited: true, wait: time.Second}
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

// With max_delay_duration = 0 an idle lane still posts at once.
func TestSyncWithoutDelay(t *testing.T) {
	toml := strings.Replace(hookAndTags, "[core]", "[core]\nmax_delay_duration = 0", 1)
	inBubble(t, toml, nil, func(t *testing.T, p *inProcess, slack *recorder) {
		if w := p.do("POST", "/notify", e2e.NotifyBody("a", 1, true)); w.Code != 200 {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

// A known key is answered as the first time, also when nothing more can be stored.
func TestKnownKeyWhenFull(t *testing.T) {
	inBubble(t, hookAndTags+"[spool]\nmax_bytes = 1048576\n", down, func(t *testing.T, p *inProcess, slack *recorder) {
		first := p.notifyWith(t, "k", "a", 1)
		for p.do("POST", "/notify", `{"tag":"a","text":"`+strings.Repeat("x", 5000)+`"}`).Code == 200 {
		}
		if again := p.notifyWith(t, "k", "a", 1); fmt.Sprint(again) != fmt.Sprint(first) {
			t.Errorf("got %v, first %v", again, first)
		}
	})
}

// The page says so when the server hangs.
func TestPageOfAServerThatHangs(t *testing.T) {
	if !e2e.Long() {
		t.Skip("skipped: takes long, runs with CI=true")
	}
	b := newBrowser(t)
	s := e2e.StartServer(t, e2e.ServerConfig("http://127.0.0.1:1"))
	b.open("http://" + s.Addr + "/ui/")
	b.wait("#sentence", "nothing waits")
	s.Signal(syscall.SIGSTOP)
	b.wait("#offline", "The server does not answer")
	s.Signal(syscall.SIGCONT)
	e2e.Poll(t, "it is back", func() bool { return b.js("return document.getElementById('offline').hidden") == true })
}

// While the disk fails, nothing is taken, and no lane goes on before what became of its head is on disk. Then all goes on.
func TestDiskFails(t *testing.T) {
	inBubble(t, hookAndTags, down, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 3 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		synctest.Wait()
		tries := 0
		fails := func() error { tries++; return syscall.EIO }
		p.disk.Store(&fails)
		slack.mu.Lock()
		slack.script = nil
		slack.mu.Unlock()
		time.Sleep(time.Minute)
		if w := p.do("POST", "/notify", e2e.NotifyBody("b", 3, false)); w.Code != 503 || w.Header().Get("Retry-After") == "" || p.spool.health() == nil {
			t.Errorf("got %d %s, health %v", w.Code, w.Body, p.spool.health())
		}
		if tries < 50 || tries > 70 {
			t.Errorf("tried %d times in a minute, want once a second", tries)
		}
		before := tries
		for range 50 { // in no time
			p.do("POST", "/notify", e2e.NotifyBody("b", 3, false))
		}
		if tries > before {
			t.Errorf("tried %d times more for 50 requests", tries-before)
		}
		if got := slack.texts("#a"); got != "0 0" {
			t.Errorf("posted %q, want 0 twice", got)
		}
		if n := strings.Count(p.logs.String(), "level=ERROR"); n > 3 {
			t.Errorf("%d errors are logged: %s", n, p.logs)
		}
		p.disk.Store(nil)
		time.Sleep(time.Minute)
		if err := p.spool.health(); err != nil {
			t.Errorf("still not healthy: %v", err)
		}
		p = p.restart(t, hookAndTags, slack)
		if got := slack.texts("#a"); got != "0 0 1 2" {
			t.Errorf("posted %q, want 0 0 1 2", got)
		}
		if st := p.stat(t); st.FoundAtStart != 0 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// A dead letter that is dropped twice while the disk fails is dropped once.
func TestDropTwiceWhileTheDiskFails(t *testing.T) {
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		return outcome{class: badContent, reason: "no_text"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		var ids []string
		for i := range 3 {
			ids = append(ids, p.notifyWith(t, "", "a", i)...)
		}
		time.Sleep(time.Minute)
		fails := func() error { return syscall.EIO }
		p.disk.Store(&fails)
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- p.operator("DELETE", "/messages/"+ids[0]).Code }()
			synctest.Wait()
		}
		p.disk.Store(nil)
		time.Sleep(time.Minute)
		if a, b := <-codes, <-codes; a+b != 200+404 {
			t.Errorf("got %d and %d, want 200 and 404", a, b)
		}
		if st := p.stat(t); st.Dead != 2 || st.Dropped != 1 {
			t.Errorf("counters: %+v", st)
		}
	})
}
