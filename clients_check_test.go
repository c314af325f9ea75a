package main

import (
	"strings"
	"testing"
)

// What a client may ask before it has anything to say.
func TestCheckAnswers(t *testing.T) {
	t.Parallel()
	const tags = "[[tags]]\ntag = 'ops & co'\nslack_url = 'http://127.0.0.1:1/'\n"
	for _, test := range []struct {
		name, core, path string
		maxBytes         int64 // the spool's, 0 for enough
		status           int
		want             string
	}{
		{"a tag", "", "/check?tag=ops+%26+co", 0, 200, `{"message":"ok"}`},
		{"no such tag", "", "/check?tag=nope", 0, 404, `{"message":"tag:nope is not found"}`},
		{"a channel", "slack_token = 'xoxb-1'", "/check?channel=%23ops", 0, 200, `{"message":"ok"}`},
		{"no channel", "slack_token = 'xoxb-1'", "/check", 0, 400, `{"message":"payload.channel is missing"}`},
		{"a channel without a credential", "", "/check?channel=%23ops", 0, 400, `{"message":"/notify-directly needs slack_url or slack_token in [core]"}`},
		{"no token", "auth_token = 'xyzzy'", "/check?tag=ops+%26+co", 0, 401, "the token is missing or wrong"},
		{"full", "", "/check?tag=ops+%26+co", 4000, 503, "the spool is full"},
	} {
		cfg := testConfig(t, "[core]\n"+test.core+"\n"+tags+"")
		if test.maxBytes != 0 {
			cfg.spool.maxBytes = test.maxBytes
		}
		p := newInProcess(t, cfg, nil)
		if w := p.do("GET", test.path, ""); w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s: %d %s, want %d %s", test.name, w.Code, w.Body, test.status, test.want)
		}
	}
}
