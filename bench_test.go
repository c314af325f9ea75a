package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"slackboard/e2e"
)

const bareVariable = "SLACKBOARD_TEST_BARE" // set: this program is only a handler that reads the body and answers

// Before TestMain, which builds the programs.
func init() {
	if os.Getenv(bareVariable) != "" {
		serveBare()
	}
}

// serveBare is the server to compare with, and a Slack that takes everything at once.
func serveBare() {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the test has ended, however it did
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "\"listening on %s\"\n", l.Addr())
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"message":"ok"}`)
	})))
}

func startBare(b *testing.B) *e2e.Process {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), bareVariable+"=1")
	if _, err := cmd.StdinPipe(); err != nil { // closed with this process
		b.Fatal(err)
	}
	return e2e.StartServerIn(b, cmd)
}

// BenchmarkAccept compares accepting onto disk with a bare net/http handler: two processes, loaded by turns from this
// one. An operation is half a second of each. The temporary folder has to be on a real disk for this to mean something.
//
//	go test -run '^$' -bench Accept -benchtime 3x
func BenchmarkAccept(b *testing.B) {
	for _, conns := range []int{1, 16, 64, 256} {
		for _, slack := range []string{"down", "delivering"} {
			b.Run(fmt.Sprintf("conns=%d/slack=%s", conns, slack), func(b *testing.B) {
				compareAccept(b, conns, slack == "delivering")
			})
		}
	}
}

func compareAccept(b *testing.B, conns int, delivering bool) {
	const slice = 500 * time.Millisecond
	webhook := "http://127.0.0.1:1/"
	if delivering {
		webhook = "http://" + startBare(b).Addr + "/"
	}
	tags := tagNames("tag", 16)
	s := e2e.StartServer(b, spoolConfig(b.TempDir())+tagConfig(webhook, tags...))
	bare := newLoad(b, startBare(b).Addr, conns, tags)
	ours := newLoad(b, s.Addr, conns, tags)
	bare.run(b, slice/4) // connections, heaps and the disk get warm
	ours.run(b, slice/4)
	bare.reset()
	ours.reset()
	before := s.Stat(b).Delivered
	last := before
	for b.Loop() {
		ours.run(b, slice)
		last = s.Stat(b).Delivered
		// What still goes to Slack must not slow the bare handler.
		s.Signal(syscall.SIGSTOP)
		bare.run(b, slice)
		s.Signal(syscall.SIGCONT)
	}
	b.ReportMetric(0, "ns/op") // that is only the slices
	b.ReportMetric(ours.rate(), "req/s")
	b.ReportMetric(bare.rate(), "bare-req/s")
	b.ReportMetric(ours.rate()/bare.rate(), "ratio")
	if delivering {
		b.ReportMetric(float64(last-before)/ours.took.Seconds(), "delivered/s")
		if last == before {
			b.Error("nothing was delivered meanwhile")
		}
	}
	s.Stat(b)
}

// load is requests to one server from many connections.
type load struct {
	callers  []*caller
	requests [][]byte // one for each caller
	answered atomic.Int64
	took     time.Duration
}

func newLoad(b *testing.B, addr string, conns int, tags []string) *load {
	b.Helper()
	l := &load{}
	for i := range conns {
		l.callers = append(l.callers, newCaller(b, addr))
		l.requests = append(l.requests, numbered(tags[i%len(tags)], i, strings.Repeat("bottles of beer ", 12)))
	}
	return l
}

// run keeps a request on each connection for so long.
func (l *load) run(b *testing.B, slice time.Duration) {
	b.Helper()
	var wg sync.WaitGroup
	start := time.Now()
	deadline := start.Add(slice)
	for i, c := range l.callers {
		wg.Go(func() {
			n := 0
			for ; time.Now().Before(deadline); n++ {
				if err := c.call(l.requests[i]); err != nil {
					b.Error(err)
					break
				}
			}
			l.answered.Add(int64(n))
		})
	}
	wg.Wait()
	l.took += time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
}

func (l *load) reset() {
	l.answered.Store(0)
	l.took = 0
}

func (l *load) rate() float64 { return float64(l.answered.Load()) / l.took.Seconds() }
