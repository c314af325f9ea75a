package main

// What systemd does: sockets that are open before the start, a place to report to. And its own opinion of the README's unit.

import (
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// A value begins no assignment of its own, whatever is in it, and a manager that does not read holds up nobody.
func TestTellsSystemdOneLine(t *testing.T) {
	manager := e2e.NewServiceManager(t)
	t.Setenv("NOTIFY_SOCKET", manager.Socket)
	tellSystemd("READY=1", "STATUS=#a\nMAINPID=1\r\x00\u2028\u202eb\xff ok ✓")
	manager.Next(`^READY=1\nSTATUS=#a MAINPID=1  \x{202e}b\x{fffd} ok ✓$`)
	tellSystemd("STATUS=" + strings.Repeat("ü", 5000))
	manager.Next(`^STATUS=ü{493}$`)

	start := time.Now()
	for range 1000 {
		if tellSystemd("STATUS=nobody reads this"); time.Since(start) > time.Second {
			break
		}
	}
	t.Logf("a full queue took %v", time.Since(start))
}
