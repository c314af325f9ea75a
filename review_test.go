package main

// Cases that went wrong once: posts, pauses, moves and crashes that met in an unhappy moment.

import (
	"syscall"
	"testing"

	"slackboard/e2e"
)

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
