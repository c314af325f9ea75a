package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// merge returns the one post that messages become. The test fails if one of them does not merge with the others, or if
// rendering twice gives two results.
func merge(t *testing.T, now time.Time, tags *tag, messages ...*message) string {
	t.Helper()
	g := &merger{limit: 20}
	for _, m := range messages {
		if !g.add(m, tags) {
			t.Fatalf("%+v does not merge", m)
		}
	}
	post := string(g.render(tags, now))
	if again := string(g.render(tags, now)); again != post {
		t.Errorf("rendered twice: %s, then %s", post, again)
	}
	return post
}

// A mention in a plain text notifies people if the text is posted alone. In a merged post it notifies them as well: the
// text above the attachments repeats each mention once.
func TestMentionsInMergedPosts(t *testing.T) {
	ops := &tag{destination: destination{channel: "#ops"}, username: "u", parse: "full"}
	quiet := &message{Text: "quiet"}
	for text, want := range map[string]string{
		"@channel: copy failed":                          "@channel",
		"copy failed, @here.\n(@everyone!) @here":        "@here @everyone",
		"<!channel> and <!here|here>, <!everyone>":       "<!channel> <!here> <!everyone>",
		"<@U012AB>, <@W9|jo do>: <!subteam^S1|@ops all>": "<@U012AB> <@W9> <!subteam^S1>",
		"警告:@channelバックアップ":                              "@channel",
		"x<!here>y":                                      "<!here>",
		"me@channel.com @channels @heres <!date^1^{date}|x> List<@Unknown Type> <!DOCTYPE html> <!-- x --> @ops " +
			"a.@here <@here> <!channel": "",
		strings.Repeat("@ <@ <! ", 1000): "",
	} {
		var post struct {
			Text        string
			Attachments []struct{ Text string }
		}
		json.Unmarshal([]byte(merge(t, time.Now(), ops, quiet, &message{Text: text})), &post)
		if post.Text != want || len(post.Attachments) != 2 || post.Attachments[1].Text != text {
			t.Errorf("%.80q: got text %q, want %q; %d attachments", text, post.Text, want, len(post.Attachments))
		}
	}
	direct := func(payload string) *message { return &message{Payload: json.RawMessage(payload)} }
	got := merge(t, time.Now(), ops, quiet, &message{Text: "@here 1"}, &message{Text: "@here 1"},
		&message{Text: "@everyone", Level: "crit"},
		&message{Text: "@channel", Title: "T"}, &message{Text: "<@U1> 2 @here"})
	if !strings.Contains(got, `,"text":"@here <@U1>","attachments":`) {
		t.Errorf("got %s, want the mentions of plain text, each once", got)
	}
	got = merge(t, time.Now(), nil, direct(`{"text":"<!here> 1","attachments":[{"text":"@everyone"}]}`),
		direct(`{"text":"2"}`), direct(`{"attachments":[{"text":"@channel"}]}`))
	if !strings.Contains(got, `,"text":"<!here>","attachments":`) {
		t.Errorf("got %s, want the mention of the text, not those of the attachments", got)
	}
	if got := string(render(&message{Text: "@here 1"}, ops, time.Now())); strings.Count(got, "@here") != 1 {
		t.Errorf("alone: got %s", got)
	}
}

// A time of acceptance before 2024 or in the future is not shown: the clock was wrong then.
func TestTimesThatCannotBe(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 12, 30, 0, time.UTC)
	ops := &tag{destination: destination{channel: "#ops"}}
	at := func(at time.Time) *message { return &message{Text: "x", Host: "h", Accepted: at.UnixMilli()} }
	for _, wrong := range []time.Time{time.Unix(5, 0), time.Date(2023, 12, 31, 0, 0, 0, 0, time.UTC),
		now.Add(24 * time.Hour)} {
		if got := string(render(at(wrong), ops, now)); strings.Contains(got, "accepted") {
			t.Errorf("accepted %v: got %s", wrong, got)
		}
		for want, others := range map[string][]*message{
			"×2 from 1 host: h": {at(wrong)},
			"×3 from 1 host: h · 03:12:00 to 03:12:20 UTC": {
				at(now.Add(-10 * time.Second)), at(now.Add(-30 * time.Second)),
			},
			"×2 from 1 host: h · 03:09:30 to 03:09:30 UTC · accepted 03:09 UTC, delayed 3m": {
				at(now.Add(-3 * time.Minute)),
			},
		} {
			got := merge(t, now, ops, append([]*message{at(wrong)}, others...)...)
			if !strings.Contains(got, `"footer":"`+want+`","`) {
				t.Errorf("accepted %v: got %s, want %s", wrong, got, want)
			}
		}
	}
}

// If the attachment of a payload has a footer, it stands after ours.
func TestFooterOfPayload(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 12, 30, 0, time.UTC)
	late := func(payload string) *message {
		return &message{Payload: json.RawMessage(payload), Accepted: now.Add(-3 * time.Minute).UnixMilli()}
	}
	got := merge(t, now, nil, late(`{"attachments":[{"text":"1","footer":"own"}]}`), late(`{"text":"2"}`))
	if want := `{"footer":"accepted 03:09 UTC, delayed 3m · own","text":"1"}`; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Each level has its color, in upper and lower case. A message without a known level is posted as plain text.
func TestLevels(t *testing.T) {
	for level, want := range map[string]string{
		"info": "#00ff00", "ok": "#00ff00", "warn": "#ffdd00", "WARN": "#ffdd00", "Warning": "#ffdd00",
		"crit": "#ff0000", "CRITICAL": "#ff0000", "error": "#ff0000", "message": "", "panic": "", "": "",
	} {
		to := &tag{destination: destination{channel: "#c"}}
		got := string(render(&message{Text: "x", Level: level}, to, time.Now()))
		if strings.Contains(got, `"attachments"`) != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %q", level, got, want)
		}
	}
}

// A payload from a client of Slack is posted as it came, without the defaults of /notify-directly. If it is for a tag,
// it gets the tag's channel and, if it has none of its own, the tag's username and icon. Such payloads merge, too.
func TestPlainPayload(t *testing.T) {
	ops := &tag{destination: destination{channel: "#ops"}, username: "ops", icon: ":o:", parse: "full"}
	bare, nochannel := &tag{destination: destination{channel: "#ops"}}, &tag{}
	for _, test := range []struct {
		tag           *tag
		payload, want string
	}{
		{nil, `{"channel":"C1","text":"<x>","icon_emoji":"","blocks":null}`,
			`{"blocks":null,"channel":"C1","icon_emoji":"","text":"<x>"}`},
		{ops, `{"text":"x"}`, `{"channel":"#ops","icon_emoji":":o:","text":"x","username":"ops"}`},
		{ops, `{"text":"x","channel":"#other","username":"me","icon_emoji":":m:","parse":"none"}`,
			`{"channel":"#ops","icon_emoji":":m:","parse":"none","text":"x","username":"me"}`},
		{ops, `{"text":"x","channel":null,"username":"","icon_emoji":null}`,
			`{"channel":"#ops","icon_emoji":":o:","text":"x","username":"ops"}`},
		{ops, `{"text":"x","icon_url":"http://i"}`,
			`{"channel":"#ops","icon_url":"http://i","text":"x","username":"ops"}`},
		{ops, `{"text":"x","icon_url":""}`,
			`{"channel":"#ops","icon_emoji":":o:","icon_url":"","text":"x","username":"ops"}`},
		{nochannel, `{"text":"x"}`, `{"text":"x"}`},
		{bare, `{"text":"x","username":"","thread_ts":"1.2"}`, `{"channel":"#ops","text":"x","thread_ts":"1.2"}`},
	} {
		m := &message{Payload: json.RawMessage(test.payload), Plain: true}
		if got := string(render(m, test.tag, time.Now())); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.payload, got, test.want)
		}
		var stored message
		if json.Unmarshal(encode(m), &stored); !stored.Plain {
			t.Errorf("stored as %s", encode(m))
		}
	}
	plain := func(payload string) *message { return &message{Payload: json.RawMessage(payload), Plain: true} }
	got := merge(t, time.Now(), ops,
		plain(`{"username":"am","icon_url":"http://i","attachments":[{"text":"1","color":"danger"}],"blocks":null}`),
		plain(`{"channel":"#x","username":"am","icon_url":"http://i","text":"2"}`))
	want := `{"channel":"#ops","username":"am","icon_url":"http://i","attachments":[{"color":"danger","text":"1"},` +
		`{"fallback":"2","text":"2","mrkdwn_in":["text"]}]}`
	if got != want {
		t.Errorf("merged:\ngot  %s\nwant %s", got, want)
	}
	g := &merger{limit: 20}
	if g.add(plain(`{"text":"1","unfurl_links":false}`), ops); g.add(plain(`{"text":"2"}`), ops) {
		t.Error("a payload with more than text and one attachment has merged")
	}
	gone := &message{Payload: json.RawMessage(`{"text":"3"}`), Plain: true, route: route{tag: "gone"}}
	g = &merger{limit: 20}
	if g.add(gone, nil); g.add(gone, nil) {
		t.Error("two payloads for a tag that is gone have merged")
	}
}

// In a merged post, the text of a payload is formatted as it would be alone, and so is its attachment.
func TestPretextIsFormatted(t *testing.T) {
	for given, want := range map[string]string{
		`{"text":"a"}`:                       `{"mrkdwn_in":["text","fields","pretext"],"pretext":"*b*","text":"a"}`,
		`{"text":"a","mrkdwn_in":["text"]}`:  `{"mrkdwn_in":["text","pretext"],"pretext":"*b*","text":"a"}`,
		`{"text":"a","mrkdwn_in":[]}`:        `{"mrkdwn_in":["pretext"],"pretext":"*b*","text":"a"}`,
		`{"text":"a","mrkdwn_in":null}`:      `{"mrkdwn_in":["text","fields","pretext"],"pretext":"*b*","text":"a"}`,
		`{"text":"a","mrkdwn_in":"invalid"}`: `{"mrkdwn_in":["text","fields","pretext"],"pretext":"*b*","text":"a"}`,
	} {
		m := &message{Payload: json.RawMessage(`{"text":"*b*","attachments":[` + given + `]}`)}
		got := merge(t, time.Now(), nil, m, &message{Payload: json.RawMessage(`{"text":"c"}`)})
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
}

// A payload's own icon_url is not hidden by the default icon_emoji: Slack would show the emoji.
func TestIconURL(t *testing.T) {
	for payload, want := range map[string]string{
		`{"text":"x","icon_url":"http://i"}`:                    `"icon_url":"http://i","parse":"full","text":"x"`,
		`{"text":"x","icon_url":"http://i","icon_emoji":""}`:    `{"icon_url":"http://i","parse":"full","text":"x"`,
		`{"text":"x","icon_url":"http://i","icon_emoji":":e:"}`: `{"icon_emoji":":e:","icon_url":"http://i",`,
		`{"text":"x","icon_url":null}`:                          `{"icon_emoji":":clipboard:","icon_url":null,`,
	} {
		got := string(render(&message{Payload: json.RawMessage(payload)}, nil, time.Now()))
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", payload, got, want)
		}
	}
}

// A message that is delivered more than a minute late says when it was accepted: in the footer of its last attachment,
// else below its text. A payload that has neither is posted as it is.
func TestLateness(t *testing.T) {
	at := time.Date(2026, 11, 23, 3, 12, 30, 0, time.UTC)
	for delay, want := range map[time.Duration]string{
		time.Minute: "", 61 * time.Second: "accepted 03:12 UTC, delayed 1m",
		3*time.Hour + 2*time.Minute + time.Second: "accepted 03:12 UTC, delayed 3h2m",
		50 * time.Hour: "accepted Nov 23 03:12 UTC, delayed 50h0m",
	} {
		if got := lateness(at, at.Add(delay)); got != want {
			t.Errorf("after %v: %q, want %q", delay, got, want)
		}
	}
	const late, blocks = "accepted 03:12 UTC, delayed 1m", `"blocks":[{"type":"divider"}]`
	m := func(m message) *message { m.queued = at.UnixMilli(); return &m }
	plain := func(payload string) *message { return m(message{Payload: json.RawMessage(payload), Plain: true}) }
	for _, test := range []struct {
		m    *message
		want string
	}{
		{m(message{Text: "x"}), `"text":"x\n` + late + `"`},
		{m(message{Text: "x", Level: "crit", Host: "h"}), `"footer":"h · ` + late + `"`},
		{m(message{Payload: json.RawMessage(`{"text":"x"}`)}), `"text":"x\n` + late + `"`},
		{m(message{Payload: json.RawMessage(`{"attachments":[{"text":"x"},{"footer":"f","n":1.50}]}`)}),
			`{"text":"x"},{"footer":"` + late + ` · f","n":1.50}`},
		{m(message{Payload: json.RawMessage(`{"attachments":[{"a":1},"b"]}`)}),
			`"attachments":[{"a":1},"b",{"text":"` + late + `"}]`},
		{plain(`{"text":"x",` + blocks + `}`),
			`{"attachments":[{"text":"` + late + `"}],` + blocks + `,"text":"x"}`},
		{plain(`{` + blocks + `}`),
			`{"attachments":[{"text":"` + late + `"}],` + blocks + `}`},
		{m(message{Payload: json.RawMessage(`{"blocks":null,"text":"x"}`)}), `"text":"x\n` + late + `"`},
		{plain(`{"text":"x","attachments":[{` + blocks + `,"color":"#fff"}]}`),
			`{"attachments":[{` + blocks + `,"color":"#fff"},{"text":"` + late + `"}],"text":"x"}`},
		{plain(`{"attachments":[` + strings.Repeat(`{},`, 99) + `{` + blocks + `}],` + blocks + `}`),
			strings.Repeat(`{},`, 99) + `{` + blocks + `}],` + blocks + `}`}, // Slack takes 100 at most
		{plain(`{"markdown_text":"x"}`), `{"markdown_text":"x"}`},
	} {
		if got := string(render(test.m, &tag{}, at.Add(61*time.Second))); !strings.Contains(got, test.want) {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

// 1,000 different messages for one channel arrive in order, in 52 posts at most, at least a second apart. A message for
// another channel is posted at once meanwhile.
func TestStormOfDifferentMessages(t *testing.T) {
	t.Parallel()
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
			t.Errorf("%d posts at once, want 2: the first of each destination", n)
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
			t.Errorf("got %d texts, want the 1000 in order", len(got))
		}
		if n := len(slack.all()) - 1; n > 52 {
			t.Errorf("1000 messages took %d posts, want 52 at most", n)
		}
		t.Logf("1000 different messages took %d posts", len(slack.all())-1)
		slack.gaps(t)
		if st := p.stat(t); st.Delivered != 1001 || st.Posts != int64(len(slack.all())) {
			t.Errorf("want 1001 delivered, and as many posts as Slack got: %+v", st)
		}
	})
}

// Thousands of equal messages arrive as a few posts, each with one attachment that counts its messages and names hosts.
// Together the counts are the number of messages.
func TestStormOfIdenticalMessages(t *testing.T) {
	t.Parallel()
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		sent := e2e.Rounds(10_000, 2_000)
		for i := range sent {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"disk full","level":"crit","host":"web-%03d"}`, i%200))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		total := 0
		for _, post := range slack.all() {
			var n, hosts int
			if len(post.Attachments) != 1 || post.Attachments[0].Text != "disk full" ||
				post.Attachments[0].Color != "#ff0000" {
				t.Fatalf("got %s", post.body)
			}
			if _, err := fmt.Sscanf(post.Attachments[0].Footer, "×%d from %d hosts: ", &n, &hosts); err != nil {
				n = 1
			}
			total += n
		}
		if len(slack.all()) > sent/1000+5 || total != sent {
			t.Errorf("%d posts count %d messages, want %d at most, for %d", len(slack.all()), total, sent/1000+5, sent)
		}
		t.Logf("%d equal messages took %d posts", sent, len(slack.all()))
		slack.gaps(t)
		if st := p.stat(t); st.Delivered != int64(sent) {
			t.Errorf("not all messages are delivered: %+v", st)
		}
	})
}

// Which messages merge into one post, which do not, and that all keep their order.
func TestMerging(t *testing.T) {
	t.Parallel()
	type step struct{ path, body string }
	notify := func(body string) step { return step{"/notify", body} }
	direct := func(body string) step { return step{"/notify-directly", body} }
	for _, test := range []struct {
		name  string
		toml  string
		steps []step   // after a first message, which is posted alone
		want  []string // for each further post: its texts, joined
	}{
		{"two tags, one channel", "", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"b","text":"2"}`),
			notify(`{"tag":"a","text":"3"}`), notify(`{"tag":"b","text":"4"}`)}, []string{"1 2 3 4"}},
		{"tag or direct", "",
			[]step{notify(`{"tag":"a","text":"1"}`), direct(`{"payload":{"channel":"#ops","text":"2"}}`),
				direct(`{"payload":{"channel":"#ops","attachments":[{"text":"3"}]}}`)}, []string{"1 2 3"}},
		{"another name", "", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"other","text":"2"}`),
			notify(`{"tag":"other","text":"3"}`), notify(`{"tag":"a","text":"4"}`)}, []string{"1", "2 3", "4"}},
		{"blocks go alone, in their place", "",
			[]step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"2"}`),
				direct(`{"payload":{"channel":"#ops","text":"3","blocks":[{}]}}`), notify(`{"tag":"a","text":"4"}`),
				notify(`{"tag":"a","text":"5"}`)}, []string{"1 2", "3", "4 5"}},
		{"two attachments go alone", "",
			[]step{notify(`{"tag":"a","text":"1"}`),
				direct(`{"payload":{"channel":"#ops","attachments":[{"text":"2"},{"text":"3"}]}}`),
				notify(`{"tag":"a","text":"4"}`)}, []string{"1", "2 3", "4"}},
		{"an attachment with blocks goes alone", "",
			[]step{notify(`{"tag":"a","text":"1"}`),
				direct(`{"payload":{"channel":"#ops","attachments":[{"text":"2","blocks":[{"type":"divider"}]}]}}`),
				direct(`{"payload":{"channel":"#ops","attachments":[{"text":"3","blocks":null}]}}`),
				notify(`{"tag":"a","text":"4"}`)}, []string{"1", "2", "3 4"}},
		{"batch", "batch = 2", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"2"}`),
			notify(`{"tag":"a","text":"2"}`), notify(`{"tag":"a","text":"3"}`)}, []string{"1 2", "3"}},
		{"never", "batch = 1", []step{notify(`{"tag":"a","text":"1"}`), notify(`{"tag":"a","text":"1"}`)},
			[]string{"1", "1"}},
		{"12,000 characters", "", []step{notify(`{"tag":"a","text":"` + strings.Repeat("ä", 6000) + `"}`),
			notify(`{"tag":"a","text":"` + strings.Repeat("b", 6000) + `"}`), notify(`{"tag":"a","text":"c"}`)},
			[]string{strings.Repeat("ä", 6000) + " " + strings.Repeat("b", 6000), "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inStorm(t, strings.Replace(stormConfig, "[core]", "[core]\n"+test.toml, 1),
				func(t *testing.T, p *inProcess, slack *storm) {
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

// The whole JSON of a message that is posted alone, and of a merged post: equal messages with their number and hosts, a
// level, the attachment of a payload, and a plain text.
func TestMergedPostInFull(t *testing.T) {
	t.Parallel()
	inStorm(t, stormConfig, func(t *testing.T, p *inProcess, slack *storm) {
		p.send(t, `{"tag":"a","text":"alone","host":"web-01"}`)
		synctest.Wait()
		for i := range 37 {
			p.send(t, fmt.Sprintf(`{"tag":"a","text":"disk is full","level":"crit","title":"/var","host":"web-%02d"}`,
				i%12+1))
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		p.send(t, `{"tag":"b","text":"backup done","level":"info","host":"db-1"}`)
		w := p.do("POST", "/notify-directly", `{"payload":{"channel":"#ops","text":"see",`+
			`"attachments":[{"text":"graph","image_url":"http://x.invalid/1","n":1.50}]}}`)
		if w.Code != 200 {
			t.Fatal(w.Body)
		}
		p.send(t, `{"tag":"b","text":"plain","host":"db-2"}`)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(slack.all()) != 2 {
			t.Fatalf("%d posts, want 2", len(slack.all()))
		}
		want := `{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"alone"}`
		if slack.all()[0].body != want {
			t.Errorf("alone: got\n%s, want\n%s", slack.all()[0].body, want)
		}
		want = `{"channel":"#ops","username":"slackboard","icon_emoji":":clipboard:","parse":"full","attachments":[` +
			`{"fallback":"/var: disk is full","color":"#ff0000","title":"/var","text":"disk is full","footer":"×37 ` +
			`from 12 hosts: web-01, web-02, web-03 and 9 more","mrkdwn_in":["text"]},` +
			`{"fallback":"backup done","color":"#00ff00","text":"backup done","footer":"db-1","mrkdwn_in":["text"]},` +
			`{"image_url":"http://x.invalid/1","mrkdwn_in":["text","fields","pretext"],"n":1.50,"pretext":"see",` +
			`"text":"graph"},` +
			`{"fallback":"plain","text":"plain","footer":"db-2","mrkdwn_in":["text"]}]}`
		if got := slack.all()[1].body; got != want {
			t.Errorf("merged: got\n%s, want\n%s", got, want)
		}
	})
}
