package main

// What the clients cost, compared with the least that a program could do. Run: go test -run '^$' -bench Client .

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// bareClient posts its standard input and does nothing else.
const bareClient = `package main

import (
	"net/http"
	"os"
)

func main() {
	resp, err := http.Post(os.Args[1]+"/notify", "application/json", os.Stdin)
	if err != nil || resp.StatusCode != 200 {
		os.Exit(1)
	}
}
`

// timed returns how long cmd took from start to exit.
func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return time.Since(start)
}

// One message, from the start of slackboard-cli to its exit, compared with bareClient.
func BenchmarkClientStartToExit(b *testing.B) {
	s := e2e.NewScripted(b)
	bare := filepath.Join(b.TempDir(), "bare")
	build := exec.Command("go", "build", "-o", bare, e2e.WriteFile(b, "bare.go", bareClient))
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	spool := b.TempDir()
	var least, ours time.Duration
	for b.Loop() {
		cmd := exec.Command(bare, s.URL)
		cmd.Stdin = strings.NewReader(`{"tag":"a","text":"hi"}`)
		least += timed(b, cmd)
		cmd = exec.Command(e2e.Program("slackboard-cli"), "-s", s.URL, "-t", "a", "-spool", spool)
		cmd.Stdin = strings.NewReader("hi")
		ours += timed(b, cmd)
	}
	b.ReportMetric(float64(ours.Microseconds())/1000/float64(b.N), "ms/message")
	b.ReportMetric(float64(least.Microseconds())/1000/float64(b.N), "ms/bare")
	b.ReportMetric(float64(ours)/float64(least), "ratio")
}

// The output of a command through slackboard-log, compared with the same output through cat.
func BenchmarkClientOutput(b *testing.B) {
	const size = 512 << 20
	command := fmt.Sprintf("head -c %d /dev/zero", size)
	var least, ours time.Duration
	for b.Loop() {
		least += timed(b, exec.Command("sh", "-c", command+" | cat >/dev/null"))
		ours += timed(b, exec.Command("sh", "-c", `exec "$0" -notify=false -- `+command, e2e.Program("slackboard-log")))
	}
	b.ReportMetric(size/1e6*float64(b.N)/ours.Seconds(), "MB/s")
	b.ReportMetric(size/1e6*float64(b.N)/least.Seconds(), "MB/s-cat")
	b.ReportMetric(float64(ours)/float64(least), "ratio")
}
