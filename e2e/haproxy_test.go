package e2e

// Two servers behind HAProxy, with deploy/haproxy.cfg. One server at a time is killed, and no message that was answered
// 200 is lost.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// behindProxy is two servers, each with its own spool, and the proxy in front of them.
type behindProxy struct {
	t       *testing.T
	slack   *sink
	proxy   string // its address
	address [2]string
	spool   [2]string
	servers [2]*Process // those that run now
}

// newBehindProxy starts the two servers and the proxy, and returns when the proxy serves.
func newBehindProxy(t *testing.T) *behindProxy {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("skipped: there is no haproxy here (Debian: haproxy)")
	}
	p := &behindProxy{t: t, proxy: DeadAddress(t)}
	p.slack = newSink(t, func(sinkPost) Reply { return Reply{} })
	for i := range p.servers {
		p.address[i], p.spool[i] = DeadAddress(t), t.TempDir()
		p.start(i)
	}
	config := WriteFile(t, "haproxy.cfg",
		strings.NewReplacer("bind :29800", "bind "+p.proxy, "relay-1:29800", p.address[0], "relay-2:29800",
			p.address[1]).Replace(ReadFile(t, "../deploy/haproxy.cfg")))
	if out, err := exec.Command(haproxy, "-c", "-f", config).CombinedOutput(); err != nil ||
		regexp.MustCompile("WARNING|ALERT").Match(out) {
		t.Fatalf("deploy/haproxy.cfg: %v %s", err, out)
	}
	proxy := StartProcess(t, exec.Command(haproxy, "-db", "-f", config))
	proxy.Await("the proxy serves", func() bool {
		resp, err := http.Get("http://" + p.proxy + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// start starts server i on its spool.
func (p *behindProxy) start(i int) {
	p.t.Helper()
	config := strings.Replace(spoolConfig(p.spool[i]), "127.0.0.1:0", p.address[i], 1) + tagConfig(p.slack.URL+
		"/services/x", "general")
	p.servers[i] = StartServerIn(p.t,
		exec.Command(Program("slackboard"), "-c", WriteFile(p.t, "slackboard.toml", config)))
}

// proxyClient sends messages through the proxy. If keyed, it does what slackboard-cli does: it sends the same message,
// with its Idempotency-Key, until it is answered 200. Otherwise it does what curl does: it sends each message once.
type proxyClient struct {
	http    http.Client
	keyed   bool
	taken   []int          // the numbers of the messages that were answered 200
	answers map[string]int // by status
	slowest time.Duration  // the longest time until a message was answered 200
}

// send sends message number to the proxy.
func (c *proxyClient) send(t *testing.T, proxy string, number int) {
	start := time.Now()
	for tries := 0; tries == 0 || c.keyed && time.Since(start) < Patience; tries++ {
		req, err := http.NewRequest("POST", "http://"+proxy+"/notify",
			strings.NewReader(fmt.Sprintf(`{"tag":"general","text":"%d bottles"}`, number)))
		if err != nil {
			t.Error(err)
			return
		}
		if c.keyed {
			req.Header.Set("Idempotency-Key", fmt.Sprint("message-", number))
		}
		resp, err := c.http.Do(req)
		if err != nil {
			c.answers["none"]++
		} else {
			answer := ReadAll(resp.Body)
			resp.Body.Close()
			c.answers[fmt.Sprint(resp.StatusCode)]++
			switch {
			case resp.StatusCode == 200:
				c.slowest, c.taken = max(c.slowest, time.Since(start)), append(c.taken, number)
				return
			case resp.StatusCode == 503 || !json.Valid([]byte(answer)): // no JSON: a 502 of HAProxy's own
			default: // at any other status, the clients give up
				t.Errorf("message %d: %d %v %s", number, resp.StatusCode, resp.Header, answer)
				return
			}
		}
		<-time.After(20 * time.Millisecond) // the real clients wait a second
	}
	if c.keyed {
		t.Errorf("message %d was not answered 200 within %v", number, Patience)
	}
}

// Through the proxy, messages are accepted while one of the servers is dead. None of those answered 200 is lost, and no
// more are doubled than a kill explains.
func TestBehindHAProxy(t *testing.T) {
	t.Parallel()
	p := newBehindProxy(t)
	// A request through the proxy does not count as one from the server's own host, even if the proxy runs there.
	if resp, err := http.Get("http://" + p.proxy + "/messages"); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("/messages through the proxy: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}

	if resp, err := http.Get("http://" + p.proxy + "/slackboard/ui/app.js"); err != nil ||
		resp.StatusCode != http.StatusOK {
		t.Errorf("the page below a path: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}

	const clients, some, kills = 8, 300, 2 // so many clients with a key, and as many without
	var taken atomic.Int64
	all := make([]*proxyClient, 2*clients)
	stop := make(chan struct{})
	stopAll := sync.OnceFunc(func() { close(stop) })
	var sending sync.WaitGroup
	t.Cleanup(func() { stopAll(); sending.Wait() })
	for i := range all {
		c := &proxyClient{keyed: i < clients, answers: map[string]int{}}
		// Every other client opens a connection for each message, as a program does that sends one. The others keep
		// theirs open, as a daemon does. If a server dies, HAProxy answers 502 on a new connection. It closes one that
		// has served before without an answer, and net/http sends a request with a key again: c.answers has none of
		// these.
		c.http.Transport, c.http.Timeout = &http.Transport{DisableKeepAlives: i%2 == 0}, Patience
		all[i] = c
		sending.Go(func() {
			defer c.http.CloseIdleConnections()
			for number := i; ; number += len(all) {
				select {
				case <-stop:
					return
				default:
				}
				c.send(t, p.proxy, number)
				taken.Add(1)
			}
		})
	}
	more := func(what string) {
		t.Helper()
		start, target := time.Now(), taken.Load()+some
		Poll(t, fmt.Sprintf("%s: %d more are sent", what, some), func() bool { return taken.Load() >= target })
		t.Logf("%s: %d more after %.1f s", what, some, time.Since(start).Seconds())
	}
	more("both up")
	p.servers[0].Kill()
	more("the first is killed")
	if st := p.servers[1].Stat(t); st.Accepted == 0 {
		t.Error("the second server accepted nothing")
	}
	p.start(0)
	p.servers[1].Kill() // while all messages still go to it
	more("the first is back, the second is killed")
	p.start(1)
	more("both up again")
	stopAll()
	sending.Wait()
	for _, s := range p.servers {
		drained(t, s)
	}

	times, lost, total := map[int]int{}, 0, 0
	var doubled [2]int // messages with a key, and without
	for _, number := range p.slack.taken("#general") {
		if times[number]++; times[number] > 1 {
			doubled[number%len(all)/clients]++
		}
	}
	answers, slowest := map[string]int{}, time.Duration(0)
	for _, c := range all {
		for _, number := range c.taken {
			if total++; times[number] == 0 {
				lost++
			}
		}
		for answer, n := range c.answers {
			answers[answer] += n
		}
		slowest = max(slowest, c.slowest)
	}
	t.Logf("%d messages taken, %d lost, doubled %d with a key and %d without, the slowest after %.1f s; answers: %v",
		total, lost, doubled[0], doubled[1], slowest.Seconds(), answers)
	if lost > 0 {
		t.Errorf("%d messages are lost", lost)
	}
	// A kill may double the post in flight, one for the channel. The server that is killed may also have stored the
	// message that a client is sending at that moment, without an answer. Clients with a key send it again, and the
	// other server does not know the key.
	if most := kills * (clients + 1); doubled[0] > most {
		t.Errorf("%d messages with a key are doubled, want %d at most", doubled[0], most)
	}
	if doubled[1] > kills {
		t.Errorf("%d messages that were sent once are doubled, want %d at most", doubled[1], kills)
	}
}
