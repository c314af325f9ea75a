package cli

import (
	"testing"
	"time"
)

// An answer may take 60 s: a sync one waits for Slack.
func TestAnswerMayTakeAMinute(t *testing.T) {
	w, err := (&Flags{Servers: "h:1,unix:/s"}).way()
	if err != nil || len(w.servers) != 2 {
		t.Fatal(w, err)
	}
	for _, s := range w.servers {
		if s.client.Timeout < 60*time.Second {
			t.Errorf("%s: %v", s.base, s.client.Timeout)
		}
	}
}
