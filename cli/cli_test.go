package cli

import (
	"errors"
	"os"
	"path/filepath"
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

// Whatever lies in the spool, what is read from it can be sent.
func FuzzReadKept(f *testing.F) {
	r, err := (&Flags{Tag: "a"}).request(Message{Text: "<hi>"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(r))
	f.Add([]byte(`{"path":"/notify","key":"K","body":{}}`))
	f.Add([]byte(`{"path":"/notify","key":"K","body":null} x`))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readKept(path)
		if err != nil {
			if no := (refusal{}); !errors.As(err, &no) || !no.bad {
				t.Error(err)
			}
			return
		}
		if again := encode(r); r.Path != "/notify" && r.Path != "/notify-directly" || !isWord(r.Key) || len(again) == 0 {
			t.Errorf("%+v", r)
		}
	})
}
