package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"slackboard/e2e"
)

// searched is the answer to a search.
type searched struct {
	Messages []messageView
	Total    int
	Totals   map[string]int
}

// search returns the answer of GET /messages with a query, and the texts of its messages, with a blank after each.
func (p *inProcess) search(t *testing.T, query string) (found searched, texts string) {
	t.Helper()
	w := p.operator("GET", "/messages?"+query)
	if err := json.Unmarshal(w.Body.Bytes(), &found); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	for _, m := range found.Messages {
		texts += m.Text + " "
	}
	return found, texts
}

// One search finds messages of any state, the newest or the oldest first, page by page, and says how many there are in
// each state. A parameter that is unknown or wrong is answered 400.
func TestSearch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &answers{to: map[string]outcome{
			"#a": {class: retry, reason: "status 503"},
			"#b": {class: badContent, reason: "invalid_blocks"},
		}}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		for i := range 4 {
			p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":"w%d","host":"Web-%d","title":"one"}`, i, i))
			p.do("POST", "/notify", fmt.Sprintf(`{"tag":"b","text":"d%d"}`, i))
			p.do("POST", "/notify-directly",
				fmt.Sprintf(`{"payload":{"channel":"#free","text":"p%d","attachments":[{"text":"Inner %d"},`+
					`{"text":"caf\u00e9 \/var \"x\" \\\" %[1]d"}],"metadata":{"n":1234567890123456%[1]d}}}`, i, i))
			synctest.Wait()
		}
		waiting, _ := p.search(t, "state=waiting&order=oldest")
		p.operator("DELETE", "/messages/"+waiting.Messages[3].ID)
		for query, want := range map[string]string{
			"state=any":                                   "p3 d3 w3 p2 d2 w2 p1 d1 w1 p0 d0 w0 ",
			"state=any&order=oldest&limit=4":              "w0 d0 p0 w1 ",
			"state=any&offset=2&limit=3":                  "w3 p2 d2 ",
			"state=any&offset=100":                        "",
			"state=waiting&order=oldest":                  "w0 w1 w2 ",
			"state=waiting&order=oldest&offset=1":         "w1 w2 ",
			"state=dead&order=newest":                     "d3 d2 d1 d0 ",
			"state=delivered&limit=1":                     "p3 ",
			"state=dropped":                               "w3 ",
			"state=any&q=web-2":                           "w2 ",
			"state=any&q=inner+3":                         "p3 ",
			"state=any&q=CAF%C3%89+/var+%22x%22+%5C%22+2": "p2 ", // as people read it, without escapes
			"state=any&q=INVALID_BLOCKS&limit=1":          "d3 ",
			"state=any&tag=a&order=oldest":                "w0 w1 w2 w3 ",
			"state=any&q=" + waiting.Messages[1].ID[2:12]: "w1 ",
		} {
			if _, got := p.search(t, query); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		for query, want := range map[string]int{"null": 0, `caf\u00e9`: 4, "12345678901234562": 1, `"x" \" 3`: 1} {
			if found, _ := p.search(t, "state=any&q="+url.QueryEscape(query)); found.Total != want {
				t.Errorf("%s: %d messages, want %d", query, found.Total, want)
			}
		}
		found, _ := p.search(t, "state=dead&q=p1")
		if found.Total != 0 || found.Totals["delivered"] != 1 {
			t.Errorf("want no dead letter, and one delivered in the totals: %+v", found)
		}
		found, _ = p.search(t, "state=any&limit=1")
		if fmt.Sprint(found.Total, found.Totals) != "12 map[any:12 dead:4 delivered:4 dropped:1 waiting:3]" {
			t.Errorf("totals: %d %v", found.Total, found.Totals)
		}
		for i, m := range waiting.Messages[:3] {
			if m.Before != i || m.NextAttemptAt.IsZero() || m.Error != "status 503" || m.Trouble != failing {
				t.Errorf("want how many wait before it, its next attempt, its error and why it waits: %+v", m)
			}
		}
		for request, want := range map[string]string{
			"GET /messages?state=any&limits=5": "unknown parameter limits: known are state, tag, q, order, offset, " +
				"limit",
			"GET /messages?state=any&order=up":       "oldest or newest",
			"GET /messages?state=any&offset=-1":      "offset=-1 is not a number",
			"GET /messages?state=all":                "waiting, dead, delivered, dropped, any",
			"DELETE /messages?state=dead&tag=b&q=d1": "unknown parameter q: known are state, tag",
			"POST /messages/retry?tag=b&host=web-1":  "unknown parameter host: known are tag",
		} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d %s", request, w.Code, w.Body)
			}
		}
	})
}

// GET /messages/ID shows all of a message: its whole text, and the payload as Slack gets it, or got it when the message
// was delivered. A list shows the beginning of the text, and no payload.
func TestWholeMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var posts sync.Map
		p := newInProcess(t, testConfig(t, hookAndTags), posterFunc(func(_ credential, body []byte) outcome {
			posts.Store(bytes.Contains(body, []byte("direct")), body)
			return outcome{class: delivered}
		}))
		long := strings.Repeat("long ", 1000)
		p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":%q,"level":"crit","title":"T","host":"h"}`, long))
		p.do("POST", "/notify-directly",
			`{"payload":{"channel":"#free","text":"direct","blocks":[{"type":"divider"}]}}`)
		synctest.Wait()
		time.Sleep(time.Hour) // the payload must not say that the message is late: it was delivered in time
		list, _ := p.search(t, "state=any&order=oldest")
		if n := len(list.Messages[0].Text); n > listedText+3 {
			t.Errorf("a list has %d bytes of a text, want 1,024 and an ellipsis at most", n)
		}
		for i, m := range list.Messages {
			var whole messageView
			json.Unmarshal(p.operator("GET", "/messages/"+m.ID).Body.Bytes(), &whole)
			var got, want any
			json.Unmarshal(whole.Payload, &got)
			body, _ := posts.Load(i == 1)
			json.Unmarshal(body.([]byte), &want)
			if fmt.Sprint(got) != fmt.Sprint(want) || m.Payload != nil {
				t.Errorf("payload of %s: %s, Slack got %s", m.ID, whole.Payload, body)
			}
			if i == 0 && whole.Text != long {
				t.Errorf("%d bytes of the text are shown, want all 5,000", len(whole.Text))
			}
		}
	})
}

// The answer to sending a message again says what that means for it: it is due now, it waits behind others or for a
// pause, or, if it is a dead letter, it was put at the end of its queue.
func TestSendAgainSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &answers{to: map[string]outcome{
			"#a":   {class: retry, reason: "status 503"},
			"#b":   {class: badContent, reason: "invalid_blocks"},
			"#cdn": {class: limited, wait: 15 * time.Minute, reason: "ratelimited"},
		}}
		p := newInProcess(t, testConfig(t, hookAndTags+"[[tags]]\ntag='cdn'\nchannel='#cdn'\nslack_token='xoxb-1'\n"+
			"[[tags]]\ntag='edge'\nchannel='#edge'\nslack_token='xoxb-1'\n"), slack)
		for _, tag := range []string{"a", "a", "a", "b", "cdn", "edge"} {
			p.do("POST", "/notify", e2e.NotifyBody(tag, 1, false))
			synctest.Wait()
		}
		list, _ := p.search(t, "state=any&order=oldest")
		pause := "waits for a pause until " + clock(time.Now().Add(15*time.Minute)) +
			": slack's rate limit, met by #cdn"
		for i, want := range []string{"due now", "due now, behind the 1 before it", "due now, behind the 2 before it",
			"put at the end of its queue", pause, pause} {
			var said struct {
				Message, Did string
				Count        int
			}
			w := p.operator("POST", "/messages/"+list.Messages[i].ID+"/retry")
			if json.Unmarshal(w.Body.Bytes(), &said); said.Did != want || said.Message != "ok" || said.Count != 1 {
				t.Errorf("%s: %s, want %s", list.Messages[i].Tag, w.Body, want)
			}
		}
	})
}

// shorter cuts each text of a post that has more than shortLimit characters: it keeps the beginning and the end, and
// says how much is left out. Everything else stays as it is. It returns false if no text is that long.
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
		{"attachments",
			payload(object{"attachments": []object{{"text": edge, "n": json.Number("1.50")},
				{"text": long, "fallback": long}}}), true},
		{"no objects", payload(object{"attachments": []any{1, object{"text": long}}}), true},
		{"null", payload(object{"text": long, "attachments": []any{nil}}), true},
		{"blocks", payload(object{"blocks": []any{object{"text": long}}}), true},
	} {
		before := string(encode(test.m))
		short, ok := shorter(encode(test.m))
		if ok != test.ok || string(encode(test.m)) != before {
			t.Errorf("%s: got %v, want %v and the message as it was", test.name, ok, test.ok)
		}
		if !ok {
			continue
		}
		got, mark := string(short),
			fmt.Sprintf("[… %d characters left out …]", 5008-shortLimit+len("\n[… 5008 characters left out …]\n"))
		if strings.Contains(before, `"host":"h"`) != strings.Contains(got, `"host":"h"`) ||
			strings.Contains(before, `"n":1.50`) != strings.Contains(got, `"n":1.50`) {
			t.Errorf("%s: got %s", test.name, got)
		}
		for _, text := range strings.Split(got, `"`) {
			if n := utf8.RuneCountInString(text); n > shortLimit+len(`\n\n`) || n > 3000 && text != edge &&
				(!strings.HasPrefix(text, "begin") || !strings.HasSuffix(text, "end") ||
					!strings.Contains(text, mark)) {
				t.Errorf("%s: %d characters, %.60s…, want %s in it", test.name, n, text, mark)
			}
		}
	}
}

// A waiting message can be dropped while a sync message of its lane is being posted. A message that is being posted
// itself cannot be dropped: the answer is 409.
func TestDropDuringPosts(t *testing.T) {
	t.Parallel()
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
			t.Errorf("posted %q, want 0 2 4", got)
		}
		if st := p.stat(t); st.Dropped != 2 || st.Delivered != 3 {
			t.Errorf("want 2 dropped and 3 delivered: %+v", st)
		}
		p.holdsNothing(t)
	})
}

// If all dead letters of a tag are sent again, each is sent once, even if it becomes a dead letter again at once.
func TestRetryAllOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(int, recorded) outcome {
		return outcome{class: badContent, reason: "no_text"}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		for i := range 5 {
			p.do("POST", "/notify", e2e.NotifyBody("a", i, false))
		}
		time.Sleep(time.Minute)
		if w := p.operator("POST", "/messages/retry?tag=a"); !strings.Contains(w.Body.String(), `"count": 5`) {
			t.Errorf("got %s, want a count of 5", w.Body)
		}
		time.Sleep(time.Minute)
		if n := len(slack.all()); n != 10 {
			t.Errorf("%d posts, want 10", n)
		}
	})
}

// If a dead letter is dropped twice while the disk fails, it is dropped once: one request gets a 200, the other a 404.
func TestDropTwiceWhileTheDiskFails(t *testing.T) {
	t.Parallel()
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
			t.Errorf("want 2 dead letters and 1 dropped: %+v", st)
		}
	})
}

// If two operators send a dead letter again at the same time, it is sent once: one of them gets a 200, the other a 404.
func TestResendTwiceAtOnce(t *testing.T) {
	inBubble(t, hookAndTags, func(n int, _ recorded) outcome {
		if n == 1 {
			return outcome{class: badContent, reason: "no_text"}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		id := p.notifyWith(t, "", "a", 1)[0]
		time.Sleep(time.Minute)
		slow := func() error { time.Sleep(time.Second); return nil }
		p.disk.Store(&slow)
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- p.operator("POST", "/messages/"+id+"/retry").Code }()
		}
		time.Sleep(time.Minute)
		if a, b := <-codes, <-codes; a+b != 200+404 {
			t.Errorf("got %d and %d, want 200 and 404", a, b)
		}
		if st := p.stat(t); st.Delivered != 1 || st.Waiting != 0 || st.Dead != 0 || st.Damaged != 0 {
			t.Errorf("want 1 delivered, and none that waits, is dead or damaged: %+v", st)
		}
		p.holdsNothing(t)
	})
}

// The operators' API as a whole: lists by state, tag and text, single messages, sending again, dropping, what is
// answered to wrong requests, and the counters at the end.
func TestOperatorsAPI(t *testing.T) {
	t.Parallel()
	inBubble(t, hookAndTags, func(n int, r recorded) outcome {
		switch r.channel {
		case "#a":
			return down(n, r)
		case "#b":
			return outcome{class: badContent, reason: "invalid_blocks"}
		}
		return outcome{class: delivered}
	}, func(t *testing.T, p *inProcess, slack *recorder) {
		start := time.Now().UTC()
		p.do("POST", "/notify", `{"tag":"a","text":"needle one","host":"web-01","level":"crit","title":"T"}`)
		p.do("POST", "/notify", e2e.NotifyBody("a", 2, false))
		p.do("POST", "/notify", e2e.NotifyBody("b", 3, false))
		p.do("POST", "/notify", e2e.NotifyBody("b", 4, false))
		p.do("POST", "/notify-directly", `{"payload":{"channel":"#c","blocks":[{"type":"divider"}]}}`)
		synctest.Wait()
		p.do("POST", "/notify", e2e.NotifyBody("own", 5, true))
		time.Sleep(10 * time.Second)
		get := func(path string) list { t.Helper(); return p.list(t, path) }
		count := func(method, path string, want int) {
			t.Helper()
			var got struct{ Count int }
			w := p.operator(method, path)
			if json.Unmarshal(w.Body.Bytes(), &got); w.Code != 200 || got.Count != want {
				t.Errorf("%s %s: %d %s, want count %d", method, path, w.Code, w.Body, want)
			}
		}
		waiting, dead, delivered := get("/messages?state=waiting"), get("/messages?state=dead"),
			get("/messages?state=delivered")
		if waiting.Total != 2 || dead.Total != 2 || delivered.Total != 2 {
			t.Fatalf("waiting %+v, dead %+v, delivered %+v", waiting, dead, delivered)
		}
		head := waiting.Messages[1]
		if head.State != "waiting" || head.Tag != "a" || head.Channel != "#a" || head.Host != "web-01" ||
			head.Level != "crit" || head.Title != "T" ||
			head.Text != "needle one" || !head.AcceptedAt.Equal(start) || head.Attempts < 3 ||
			head.NextAttemptAt.IsZero() || head.Error != "connection refused" {
			t.Errorf("head of the lane: %+v", head)
		}
		if m := dead.Messages[0]; m.State != "dead" || m.Text != "4" || m.Attempts != 1 || m.Error != "invalid_blocks" {
			t.Errorf("dead letter: %+v", m)
		}
		if m := delivered.Messages[0]; m.State != "delivered" || m.Text != "5" || m.DeliveredAt.IsZero() {
			t.Errorf("delivered: %+v", m)
		}
		if m := delivered.Messages[1]; m.Channel != "#c" || !strings.Contains(m.Text, "divider") {
			t.Errorf("delivered: %+v", m)
		}
		for path, want := range map[string]int{
			"/messages?state=waiting&tag=a": 2, "/messages?state=waiting&tag=b": 0,
			"/messages?state=waiting&q=NEEDLE": 1,
			"/messages?state=dead&q=invalid_":  2, "/messages?state=dead&q=x": 0,
			"/messages?state=delivered&tag=own": 1,
		} {
			if got := get(path); got.Total != want || len(got.Messages) != want {
				t.Errorf("%s: %d, want %d", path, got.Total, want)
			}
		}
		if l := get("/messages?state=dead&limit=1"); len(l.Messages) != 1 || l.Total != 2 {
			t.Errorf("with limit=1, want one message and a total of 2: %+v", l)
		}
		for path, want := range map[string]int{
			"/messages": 400, "/messages?state=x": 400, "/messages?state=dead&limit=0": 400, "/messages/nope": 404,
			"/messages/" + head.ID: 200, "/messages/" + dead.Messages[0].ID: 200,
			"/messages/" + delivered.Messages[0].ID: 200,
		} {
			if w := p.operator("GET", path); w.Code != want {
				t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
			}
		}
		for _, request := range []string{"POST /messages/nope/retry", "DELETE /messages/nope",
			"POST /messages/" + delivered.Messages[0].ID + "/retry"} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 404 {
				t.Errorf("%s: %d, want 404", request, w.Code)
			}
		}
		for _, request := range []string{"POST /messages/retry", "DELETE /messages?state=dead",
			"DELETE /messages?state=waiting&tag=a"} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 400 {
				t.Errorf("%s: %d, want 400", request, w.Code)
			}
		}

		posts := len(slack.all())
		count("POST", "/messages/"+head.ID+"/retry", 1)
		synctest.Wait()
		if n := len(slack.all()); n != posts+1 {
			t.Errorf("sending a waiting message again does not post it now: %d posts before, %d after", posts, n)
		}
		count("DELETE", "/messages/"+head.ID, 1)
		count("POST", "/messages/"+dead.Messages[1].ID+"/retry", 1)
		synctest.Wait()
		if l := get("/messages?state=dead"); l.Total != 2 || l.Messages[0].Text != "3" ||
			!l.Messages[0].AcceptedAt.Equal(dead.Messages[1].AcceptedAt) {
			t.Errorf("dead letters after one was sent again and refused again: %+v", l)
		}
		count("DELETE", "/messages/"+dead.Messages[0].ID, 1)
		count("DELETE", "/messages?state=dead&tag=a", 0)
		count("DELETE", "/messages?state=dead&tag=b", 1)
		if st := p.stat(t); st.Accepted != 6 || st.Delivered != 2 || st.Dropped != 3 || st.Waiting != 1 ||
			st.Dead != 0 || st.OldestWaitingSeconds < 9 {
			t.Errorf("counters: %+v", st)
		}
		st := p.stat(t)
		if row := st.Tags[0]; row.Tag != "a" || row.Channel != "#a" || row.Accepted != 2 || row.Waiting != 1 ||
			row.LastError != "connection refused" || row.LastAt.IsZero() {
			t.Errorf("the row of tag a: %+v", row)
		}
		ofPayload := func(row *tagStat) bool { return row.Tag == "" && row.Channel == "#c" }
		if n := len(st.Tags); n != 8 || !slices.ContainsFunc(st.Tags, ofPayload) {
			t.Errorf("%d rows, want 8, with one for channel #c: %+v", n, st.Tags)
		}
	})
}

// answers is a fake Slack: a post to a channel in the map has that outcome, all other posts are delivered.
type answers struct {
	sync.Mutex
	to map[string]outcome
}

func (a *answers) post(_ credential, body []byte) outcome {
	a.Lock()
	defer a.Unlock()
	var p payload
	json.Unmarshal(body, &p)
	if out, ok := a.to[p.Channel]; ok {
		return out
	}
	return outcome{class: delivered}
}

// Dead letters that cannot be read at the moment are neither dropped nor sent again, and the operator gets the error.
func TestUnreadableDeadLetters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slack := &answers{to: map[string]outcome{"#a": {class: badContent, reason: "invalid_blocks"}}}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		p.do("POST", "/notify", e2e.NotifyBody("a", 1, false))
		synctest.Wait()
		dead, _, err := p.find(t.Context(), search{state: "dead"})
		if err != nil || len(dead) != 1 {
			t.Fatal(dead, err)
		}
		segment := filepath.Join(p.cfg().spool.dir, "00000001.log")
		os.Rename(segment, segment+"-away")
		os.Mkdir(segment, 0o700) // a folder can be opened, but not be read as a file
		for name, do := range map[string]deadAction{"resend": p.resend, "drop": p.dropDead} {
			if _, n, err := do(dead); n != 0 || !errors.Is(err, syscall.EISDIR) {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		os.Remove(segment)
		os.Rename(segment+"-away", segment)
		if _, n, err := p.dropDead(dead); n != 1 || err != nil {
			t.Errorf("drop: %d, %v", n, err)
		}
		if s, _ := p.search(t, "state=dropped"); len(s.Messages) != 1 || s.Messages[0].Attempts != 1 {
			t.Errorf("dropped: %+v", s)
		}
	})
}
