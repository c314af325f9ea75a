package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// merge returns the post that messages become, which all fit.
func merge(t *testing.T, now time.Time, tags *tag, messages ...*message) string {
	t.Helper()
	g := &merger{limit: 20}
	for _, m := range messages {
		if !g.add(m, tags) {
			t.Fatalf("%+v does not merge", m)
		}
	}
	post := string(g.render(now))
	if again := string(g.render(now)); again != post {
		t.Errorf("rendered twice: %s, then %s", post, again)
	}
	return post
}

// A mention in plain text, which notifies where it is posted alone, does in a merged post as well.
func TestMentionsInMergedPosts(t *testing.T) {
	ops := &tag{channel: "#ops", username: "u", parse: "full"}
	quiet := &message{Text: "quiet"}
	for text, want := range map[string]string{
		"@channel: copy failed":                          "@channel",
		"copy failed, @here.\n(@everyone!) @here":        "@here @everyone",
		"<!channel> and <!here|here>, <!everyone>":       "<!channel> <!here> <!everyone>",
		"<@U012AB>, <@W9|jo do>: <!subteam^S1|@ops all>": "<@U012AB> <@W9> <!subteam^S1>",
		"警告:@channelバックアップ":                              "@channel",
		"x<!here>y":                                      "<!here>",
		"me@channel.com @channels @heres <!date^1^{date}|x> List<@Unknown Type> <!DOCTYPE html> <!-- x --> @ops a.@here <@here> <!channel": "",
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
	got := merge(t, time.Now(), ops, quiet, &message{Text: "@here 1"}, &message{Text: "@here 1"}, &message{Text: "@everyone", Level: "crit"},
		&message{Text: "@channel", Title: "T"}, &message{Text: "<@U1> 2 @here"})
	if !strings.Contains(got, `,"text":"@here <@U1>","attachments":`) {
		t.Errorf("got %s, want the mentions of plain text, each once", got)
	}
	got = merge(t, time.Now(), nil, direct(`{"text":"<!here> 1","attachments":[{"text":"@everyone"}]}`), direct(`{"text":"2"}`), direct(`{"attachments":[{"text":"@channel"}]}`))
	if !strings.Contains(got, `,"text":"<!here>","attachments":`) {
		t.Errorf("got %s, want the mentions of what was above attachments", got)
	}
	if got := string(render(&message{Text: "@here 1"}, ops, time.Now())); strings.Count(got, "@here") != 1 {
		t.Errorf("alone: got %s", got)
	}
}

// A time that cannot be true is not shown: a clock may have been wrong when a message was accepted.
func TestTimesThatCannotBe(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 12, 30, 0, time.UTC)
	ops := &tag{channel: "#ops"}
	at := func(at time.Time) *message { return &message{Text: "x", Host: "h", Accepted: at.UnixMilli()} }
	for _, wrong := range []time.Time{time.Unix(5, 0), time.Date(2023, 12, 31, 0, 0, 0, 0, time.UTC), now.Add(24 * time.Hour)} {
		if got := string(render(at(wrong), ops, now)); strings.Contains(got, "accepted") {
			t.Errorf("accepted %v: got %s", wrong, got)
		}
		for want, others := range map[string][]*message{
			`"footer":"×2 from 1 host: h","`:                                                             {at(wrong)},
			`"footer":"×3 from 1 host: h · 03:12:00 to 03:12:20 UTC","`:                                  {at(now.Add(-10 * time.Second)), at(now.Add(-30 * time.Second))},
			`"footer":"×2 from 1 host: h · 03:09:30 to 03:09:30 UTC · accepted 03:09 UTC, delayed 3m","`: {at(now.Add(-3 * time.Minute))},
		} {
			if got := merge(t, now, ops, append([]*message{at(wrong)}, others...)...); !strings.Contains(got, want) {
				t.Errorf("accepted %v: got %s, want %s", wrong, got, want)
			}
		}
	}
}

// A payload's own footer stands behind ours.
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

func TestLevels(t *testing.T) {
	for level, want := range map[string]string{
		"info": "#00ff00", "ok": "#00ff00", "warn": "#ffdd00", "WARN": "#ffdd00", "Warning": "#ffdd00",
		"crit": "#ff0000", "CRITICAL": "#ff0000", "error": "#ff0000", "message": "", "panic": "", "": "",
	} {
		got := string(render(&message{Text: "x", Level: level}, &tag{channel: "#c"}, time.Now()))
		if strings.Contains(got, `"attachments"`) != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %q", level, got, want)
		}
	}
}

func TestShortened(t *testing.T) {
	long, edge := "begin"+strings.Repeat("ä", 5000)+"end", strings.Repeat("ä", shortLimit)
	payload := func(v any) *message { return &message{ID: "i", Payload: encode(v)} }
	type object = map[string]any
	for _, test := range []struct {
		name string
		m    *message
		ok   bool
	}{
		{"short text", &message{Text: edge}, false},
		{"long text", &message{ID: "i", Host: "h", Text: long}, true},
		{"payload", payload(object{"channel": "#c", "text": long, "n": json.Number("1.50")}), true},
		{"short payload", payload(object{"text": edge, "attachments": []object{{"text": edge}}}), false},
		{"attachments", payload(object{"attachments": []object{{"text": edge, "n": json.Number("1.50")}, {"text": long, "fallback": long}}}), true},
		{"no objects", payload(object{"attachments": []any{1, object{"text": long}}}), false},
		{"null", payload(object{"text": long, "attachments": []any{nil}}), true},
		{"blocks", payload(object{"blocks": []any{object{"text": long}}}), false},
	} {
		before := string(encode(test.m))
		short, ok := test.m.shortened()
		if ok != test.ok || string(encode(test.m)) != before {
			t.Errorf("%s: got %v, want %v and the message as it was", test.name, ok, test.ok)
		}
		if !ok {
			continue
		}
		got, mark := string(encode(short)), fmt.Sprintf("[… %d characters left out …]", 5008-shortLimit+len("\n[… 5008 characters left out …]\n"))
		if short.ID != "i" || strings.Contains(before, `"n":1.50`) != strings.Contains(got, `"n":1.50`) {
			t.Errorf("%s: got %s", test.name, got)
		}
		for _, text := range strings.Split(got, `"`) {
			if n := utf8.RuneCountInString(text); n > shortLimit+len(`\n\n`) || n > 3000 && text != edge && (!strings.HasPrefix(text, "begin") || !strings.HasSuffix(text, "end") || !strings.Contains(text, mark)) {
				t.Errorf("%s: %d characters, %.60s…, want %s in it", test.name, n, text, mark)
			}
		}
	}
}

// A payload that is posted as it came: nothing is added to it, but what its tag says.
func TestPlainPayload(t *testing.T) {
	ops := &tag{channel: "#ops", username: "ops", icon: ":o:", parse: "full"}
	bare := &tag{channel: "#ops"}
	for _, test := range []struct {
		tag           *tag
		payload, want string
	}{
		{nil, `{"channel":"C1","text":"<x>","icon_emoji":"","blocks":null}`, `{"blocks":null,"channel":"C1","icon_emoji":"","text":"<x>"}`},
		{ops, `{"text":"x"}`, `{"channel":"#ops","icon_emoji":":o:","text":"x","username":"ops"}`},
		{ops, `{"text":"x","channel":"#other","username":"me","icon_emoji":":m:","parse":"none"}`, `{"channel":"#ops","icon_emoji":":m:","parse":"none","text":"x","username":"me"}`},
		{ops, `{"text":"x","channel":null,"username":"","icon_emoji":null}`, `{"channel":"#ops","icon_emoji":":o:","text":"x","username":"ops"}`},
		{ops, `{"text":"x","icon_url":"http://i"}`, `{"channel":"#ops","icon_url":"http://i","text":"x","username":"ops"}`},
		{ops, `{"text":"x","icon_url":""}`, `{"channel":"#ops","icon_emoji":":o:","icon_url":"","text":"x","username":"ops"}`},
		{bare, `{"text":"x","username":"","thread_ts":"1.2"}`, `{"channel":"#ops","text":"x","thread_ts":"1.2"}`},
	} {
		m := &message{Payload: json.RawMessage(test.payload), Plain: true}
		if got := string(render(m, test.tag, time.Now())); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.payload, got, test.want)
		}
		var stored message
		if json.Unmarshal(encode(m), &stored); !stored.Plain || !stored.again().Plain {
			t.Errorf("stored as %s", encode(m))
		}
	}
	plain := func(payload string) *message { return &message{Payload: json.RawMessage(payload), Plain: true} }
	got := merge(t, time.Now(), ops,
		plain(`{"username":"am","icon_url":"http://i","attachments":[{"text":"1","color":"danger"}],"blocks":null}`),
		plain(`{"channel":"#x","username":"am","icon_url":"http://i","text":"2"}`))
	if want := `{"channel":"#ops","username":"am","icon_url":"http://i","attachments":[{"color":"danger","text":"1"},{"fallback":"2","text":"2","mrkdwn_in":["text"]}]}`; got != want {
		t.Errorf("merged:\ngot  %s\nwant %s", got, want)
	}
	g := &merger{limit: 20}
	if g.add(plain(`{"text":"1","unfurl_links":false}`), ops); g.add(plain(`{"text":"2"}`), ops) {
		t.Error("a payload with more than text and one attachment has merged")
	}
}
