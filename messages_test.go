package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slackboard/e2e"
)

// searched is what a search answers.
type searched struct {
	Messages []messageView
	Total    int
	Totals   map[string]int
}

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

// One search finds messages of all states, from either end, page by page, and says how many there are of each state.
func TestSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slack := &answers{to: map[string]outcome{
			"#a": {class: retry, status: 503, reason: "status 503"},
			"#b": {class: badContent, status: 400, reason: "invalid_blocks"},
		}}
		p := newInProcess(t, testConfig(t, hookAndTags), slack)
		for i := range 4 {
			p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":"w%d","host":"Web-%d","title":"one"}`, i, i))
			p.do("POST", "/notify", fmt.Sprintf(`{"tag":"b","text":"d%d"}`, i))
			p.do("POST", "/notify-directly",
				fmt.Sprintf(`{"payload":{"channel":"#free","text":"p%d","attachments":[{"text":"Inner %d"}]}}`, i, i))
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
			"state=any&q=INVALID_BLOCKS&limit=1":          "d3 ",
			"state=any&tag=a&order=oldest":                "w0 w1 w2 w3 ",
			"state=any&q=" + waiting.Messages[1].ID[2:12]: "w1 ",
		} {
			if _, got := p.search(t, query); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		found, _ := p.search(t, "state=dead&q=p1")
		if found.Total != 0 || found.Totals["delivered"] != 1 {
			t.Errorf("nothing is dead, but one is delivered: %+v", found)
		}
		found, _ = p.search(t, "state=any&limit=1")
		if fmt.Sprint(found.Total, found.Totals) != "12 map[dead:4 delivered:4 dropped:1 waiting:3]" {
			t.Errorf("totals: %d %v", found.Total, found.Totals)
		}
		for i, m := range waiting.Messages[:3] {
			if m.Before != i || m.NextAttemptAt == nil || m.Error != "status 503" || m.Trouble != failing {
				t.Errorf("what waits knows its lane: %+v", m)
			}
		}
		for request, want := range map[string]string{
			"GET /messages?state=any&limits=5":       "limits is not known here, but: state, tag, q, order, offset, limit",
			"GET /messages?state=any&order=up":       "oldest or newest",
			"GET /messages?state=any&offset=-1":      "offset=-1 is not a number",
			"GET /messages?state=all":                "waiting, dead, delivered, dropped, any",
			"DELETE /messages?state=dead&tag=b&q=d1": "q is not known here, but: state, tag",
			"POST /messages/retry?tag=b&host=web-1":  "host is not known here, but: tag",
		} {
			method, path, _ := strings.Cut(request, " ")
			if w := p.operator(method, path); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d %s", request, w.Code, w.Body)
			}
		}
	})
}

// A message alone is whole: its text, and what Slack gets, or got when it was delivered.
func TestWholeMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var posts sync.Map
		p := newInProcess(t, testConfig(t, hookAndTags), posterFunc(func(_ credential, body []byte) outcome {
			posts.Store(bytes.Contains(body, []byte("direct")), body)
			return outcome{class: delivered}
		}))
		long := strings.Repeat("long ", 1000)
		p.do("POST", "/notify", fmt.Sprintf(`{"tag":"a","text":%q,"level":"crit","title":"T","host":"h"}`, long))
		p.do("POST", "/notify-directly", `{"payload":{"channel":"#free","text":"direct","blocks":[{"type":"divider"}]}}`)
		synctest.Wait()
		time.Sleep(time.Hour) // what Slack got does not say that it is late
		list, _ := p.search(t, "state=any&order=oldest")
		if n := len(list.Messages[0].Text); n > listedText+3 {
			t.Errorf("a list has %d bytes of a text", n)
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
				t.Errorf("the text has %d bytes", len(whole.Text))
			}
		}
	})
}

// Send again says what it did.
func TestSendAgainSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slack := &answers{to: map[string]outcome{
			"#a":   {class: retry, status: 503, reason: "status 503"},
			"#b":   {class: badContent, status: 400, reason: "invalid_blocks"},
			"#cdn": {class: retry, limited: true, wait: 15 * time.Minute, reason: "ratelimited"},
		}}
		p := newInProcess(t, testConfig(t, hookAndTags+"[[tags]]\ntag='cdn'\nchannel='#cdn'\nslack_token='xoxb-1'\n"+
			"[[tags]]\ntag='edge'\nchannel='#edge'\nslack_token='xoxb-1'\n"), slack)
		for _, tag := range []string{"a", "a", "a", "b", "cdn", "edge"} {
			p.do("POST", "/notify", e2e.NotifyBody(tag, 1, false))
			synctest.Wait()
		}
		list, _ := p.search(t, "state=any&order=oldest")
		pause := "waits for a pause until " + clock(time.Now().Add(15*time.Minute)) + ": slack's rate limit, met by #cdn"
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
