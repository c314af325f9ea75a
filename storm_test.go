package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const stormConfig = `
[core]
slack_url = "http://hook.invalid/core"
[[tags]]
tag = "a"
channel = "#ops"
[[tags]]
tag = "b"
channel = "#ops"
[[tags]]
tag = "other"
channel = "#ops"
username = "other"
[[tags]]
tag = "quiet"
channel = "#quiet"
`

// storm is a Slack in process that keeps posts whole.
type storm struct {
	mu     sync.Mutex
	posts  []stormPost
	reject func(stormPost) bool // for its content
}

type stormPost struct {
	at          time.Time
	body        string
	Channel     string
	Username    string
	Text        string
	Attachments []struct{ Color, Title, Text, Footer, Fallback, Pretext string }
}

func (s *storm) post(_ context.Context, _ credential, body []byte) outcome {
	p := stormPost{at: time.Now(), body: string(body)}
	if err := json.Unmarshal(body, &p); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts = append(s.posts, p)
	if s.reject != nil && s.reject(p) {
		return outcome{class: badContent, reason: "invalid_attachments"}
	}
	return outcome{class: delivered}
}

func (s *storm) all() []stormPost {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posts)
}

// texts returns what p shows, in order.
func (p stormPost) texts() (texts []string) {
	if p.Text != "" {
		texts = append(texts, p.Text)
	}
	for _, a := range p.Attachments {
		texts = append(texts, a.Text)
	}
	return texts
}

// inStorm runs test in simulated time, past the first second of the server.
func inStorm(t *testing.T, toml string, test func(*testing.T, *inProcess, *storm)) {
	t.Helper()
	cfg := testConfig(t, toml)
	synctest.Test(t, func(t *testing.T) {
		slack := &storm{}
		p := newInProcess(t, cfg, slack)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		test(t, p, slack)
	})
}

func (p *inProcess) send(t *testing.T, body string) {
	t.Helper()
	if w := p.do("POST", "/notify", body); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
}

// gaps fails for two posts of a channel within less than a second.
func (s *storm) gaps(t *testing.T) {
	t.Helper()
	last := map[string]time.Time{}
	for i, p := range s.all() {
		if gap := p.at.Sub(last[p.Channel]); gap < time.Second {
			t.Errorf("post %d to %s came %v after the one before", i, p.Channel, gap)
		}
		last[p.Channel] = p.at
	}
}

func TestStormOfDifferentMessages(t *testing.T) {
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		var want []string
		for i := range 1000 {
			text := fmt.Sprintf("message %d", i)
			want = append(want, text)
			p.send(t, fmt.Sprintf(`{"tag":"a","text":%q,"level":"warn","host":"web-%d"}`, text, i%7))
		}
		p.send(t, `{"tag":"quiet","text":"unhurt"}`)
		synctest.Wait()
		if n := len(slack.all()); n != 2 || slack.all()[1].Channel != "#quiet" {
			t.Errorf("at once went %d posts, want the first of each destination", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		var got []string
		for _, post := range slack.all() {
			if post.Channel == "#ops" {
				got = append(got, post.texts()...)
			}
		}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("got %d texts, not the 1000 in order", len(got))
		}
		if n := len(slack.all()) - 1; n > 52 {
			t.Errorf("1000 messages took %d posts, want 52 at most", n)
		}
		t.Logf("1000 different messages took %d posts", len(slack.all())-1)
		slack.gaps(t)
		if st := p.stat(t); st.Delivered != 1001 || st.Posts != int64(len(slack.all())) {
			t.Errorf("counters: %+v", st)
		}
	})
}

func TestStormOfIdenticalMessages(t *testing.T) {
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		for i := range 10_000 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"disk full","level":"crit","host":"web-%03d"}`, i%200))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		total := 0
		for _, post := range slack.all() {
			var n, hosts int
			if len(post.Attachments) != 1 || post.Attachments[0].Text != "disk full" || post.Attachments[0].Color != "#ff0000" {
				t.Fatalf("got %s", post.body)
			}
			if _, err := fmt.Sscanf(post.Attachments[0].Footer, "×%d from %d hosts: ", &n, &hosts); err != nil {
				n = 1
			}
			total += n
		}
		if len(slack.all()) > 15 || total != 10_000 {
			t.Errorf("%d posts tell of %d messages, want 15 at most, 10000", len(slack.all()), total)
		}
		t.Logf("10000 equal messages took %d posts", len(slack.all()))
		slack.gaps(t)
		if st := p.stat(t); st.Delivered != 10_000 {
			t.Errorf("counters: %+v", st)
		}
	})
}

// What merges, what does not, and what it looks like.
func TestMerging(t *testing.T) {
	type step struct{ path, body string }
	notify := func(body string) step { return step{"/notify", body} }
	direct := func(body string) step { return step{"/notify-directly", body} }
	for _, test := range []struct {
		name  string
		toml  string
		steps []step   // behind one that opens the lane
		want  []string // a post each: its texts, joined
	}{
		{"two tags, one channel", "", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"b","text":"2"}`), notify(`{"tag":"a","text":"3"}`), notify(`{"tag":"b","text":"4"}`)}, []string{"1 2 3 4"}},
		{"tag or direct", "", []step{notify(`{"tag":"a","text":"1"}`), direct(`{"payload":{"channel":"#ops","text":"2"}}`), direct(`{"payload":{"channel":"#ops","attachments":[{"text":"3"}]}}`)}, []string{"1 2 3"}},
		{"another name", "", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"other","text":"2"}`), notify(`{"tag":"other","text":"3"}`), notify(`{"tag":"a","text":"4"}`)}, []string{"1", "2 3", "4"}},
		{"blocks go alone, in their place", "", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"2"}`), direct(`{"payload":{"channel":"#ops","text":"3","blocks":[{}]}}`), notify(`{"tag":"a","text":"4"}`), notify(`{"tag":"a","text":"5"}`)}, []string{"1 2", "3", "4 5"}},
		{"two attachments go alone", "", []step{notify(`{"tag":"a","text":"1"}`), direct(`{"payload":{"channel":"#ops","attachments":[{"text":"2"},{"text":"3"}]}}`), notify(`{"tag":"a","text":"4"}`)}, []string{"1", "2 3", "4"}},
		{"batch", "batch = 2", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"2"}`), notify(`{"tag":"a","text":"2"}`), notify(`{"tag":"a","text":"3"}`)}, []string{"1 2", "3"}},
		{"never", "batch = 1", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"1"}`)}, []string{"1", "1"}},
		{"12,000 characters", "", []step{notify(`{"tag":"a","text":"` + strings.Repeat("ä", 6000) + `"}`), notify(`{"tag":"a","text":"` + strings.Repeat("b", 6000) + `"}`), notify(`{"tag":"a","text":"c"}`)},
			[]string{strings.Repeat("ä", 6000) + " " + strings.Repeat("b", 6000), "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inStorm(t, strings.Replace(stormConfig, "[core]", "[core]\n"+test.toml, 1), func(t *testing.T, p *inProcess, slack *storm) {
				p.send(t, `{"tag":"a","text":"first"}`)
				synctest.Wait()
				for _, s := range test.steps {
					if w := p.do("POST", s.path, s.body); w.Code != 200 {
						t.Fatalf("got %d %s", w.Code, w.Body)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				var got []string
				for _, post := range slack.all()[1:] {
					got = append(got, strings.Join(post.texts(), " "))
				}
				if strings.Join(got, "|") != strings.Join(test.want, "|") {
					t.Errorf("got %q, want %q", got, test.want)
				}
				slack.gaps(t)
				p.stat(t)
			})
		})
	}
}

func TestMergedPostInFull(t *testing.T) {
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		p.send(t, `{"tag":"a","text":"alone","host":"web-01"}`)
		synctest.Wait()
		for i := range 37 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"disk is full","level":"crit","title":"/var","host":"web-%02d"}`, i%12+1))
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		p.send(t, `{"tag":"b","text":"backup done","level":"info","host":"db-1"}`)
		if w := p.do("POST", "/notify-directly", `{"payload":{"channel":"#ops","text":"see","attachments":[{"text":"graph","image_url":"http://x.invalid/1","n":1.50}]}}`); w.Code != 200 {
			t.Fatal(w.Body)
		}
		p.send(t, `{"tag":"b","text":"plain","host":"db-2"}`)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(slack.all()) != 2 {
			t.Fatalf("%d posts", len(slack.all()))
		}
		if want := `{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"alone"}`; slack.all()[0].body != want {
			t.Errorf("alone: got\n%s, want\n%s", slack.all()[0].body, want)
		}
		want := `{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","attachments":[` +
			`{"fallback":"/var: disk is full","color":"#ff0000","title":"/var","text":"disk is full","footer":"×37 from 12 hosts: web-01, web-02, web-03 and 9 more","mrkdwn_in":["text"]},` +
			`{"fallback":"backup done","color":"#00ff00","text":"backup done","footer":"db-1","mrkdwn_in":["text"]},` +
			`{"image_url":"http://x.invalid/1","n":1.50,"pretext":"see","text":"graph"},` +
			`{"fallback":"plain","text":"plain","footer":"db-2","mrkdwn_in":["text"]}]}`
		if got := slack.all()[1].body; got != want {
			t.Errorf("merged: got\n%s, want\n%s", got, want)
		}
	})
}

// One bad message among forty costs one dead letter, wherever it stands; a fold stands or falls as one.
func TestBadMessageAmongMerged(t *testing.T) {
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
				t.Errorf("bad one at %d: %+v", bad, st)
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
			t.Errorf("folded bad ones: %+v", st)
		}
	})
}

// A merged post that fails is tried again as it was, and its marks are one change: a crash cannot tear it.
func TestMergedPostStaysTogether(t *testing.T) {
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
			return slack.post(t.Context(), to, body)
		}))
		for i := range 5 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"%d"}`, i))
		}
		time.Sleep(1500 * time.Millisecond) // the first turn is over
		synctest.Wait()
		for i := range 5 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"more %d"}`, i))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := fmt.Sprint(sizes); got != "[5 5 5 5 5]" {
			t.Errorf("posts of %s messages", got)
		}
		p.stat(t)
	})
}

type posterFunc func(to credential, body []byte) outcome

func (f posterFunc) post(_ context.Context, to credential, body []byte) outcome { return f(to, body) }

// After a start a lane's first turn waits one pace: the last post may have been a moment ago.
func TestFirstTurnWaits(t *testing.T) {
	cfg := testConfig(t, stormConfig)
	synctest.Test(t, func(t *testing.T) {
		slack := &storm{}
		p := newInProcess(t, cfg, slack)
		start := time.Now()
		p.send(t, `{"tag":"a","text":"1"}`)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(slack.all()) != 1 || slack.all()[0].at.Sub(start) < time.Second {
			t.Errorf("posted after %v", slack.all()[0].at.Sub(start))
		}
	})
}
