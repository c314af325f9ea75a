package e2e

// Abuse: the memory that it costs the server is bounded, and an honest client is served meanwhile.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const mostMemory = 128 // MB resident, whatever clients do

// besieged is a server under abuse, and its honest client.
type besieged struct {
	*Process
	t       *testing.T
	slack   *sink
	tls     bool
	client  http.Client   // opens a connection for each request
	served  int           // messages of the honest client
	slowest time.Duration // until one of them was answered
}

// besiege starts a server. core is added to its [core]. If before is given, such as a shell that sets a limit, that
// runs the server.
func besiege(t *testing.T, core string, before ...string) *besieged {
	t.Helper()
	b := &besieged{t: t, tls: strings.Contains(core, "tls_cert")}
	b.slack = newSink(t, func(sinkPost) Reply { return Reply{} })
	webhook := b.slack.URL + "/services/x"
	core = "[core]\nslack_url='" + webhook + "'\n" + core
	config := strings.NewReplacer("[core]\n", core, "batch=1\n",
		"").Replace(spoolConfig(t.TempDir())) + tagConfig(webhook, "honest", "other")
	args := append(before, Program("slackboard"), "-c", WriteFile(t, "slackboard.toml", config))
	b.Process = StartServerIn(t, exec.Command(args[0], args[1:]...))
	b.client.Timeout = Patience
	b.client.Transport = &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	return b
}

// post returns the answer to a POST of the honest client: status, headers and body. The status is 0 if no answer came.
func (b *besieged) post(path, body string) (int, http.Header, string) {
	scheme := "http://"
	if b.tls {
		scheme = "https://"
	}
	resp, err := b.client.Post(scheme+b.Addr+path, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, nil, err.Error()
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header, ReadAll(resp.Body)
}

// serves checks that n messages of the honest client are accepted and delivered, one after the other.
func (b *besieged) serves(n int) {
	b.t.Helper()
	for range n {
		start := time.Now()
		status, _, answer := b.post("/notify",
			fmt.Sprintf(`{"tag":"honest","text":"%d bottles"}`, b.served))
		if status != 200 {
			b.t.Fatalf("message %d of the honest client: got %d %s, want 200", b.served, status, answer)
		}
		b.served, b.slowest = b.served+1, max(b.slowest, time.Since(start))
		b.slack.waitForAll(b.t, []string{"honest"}, b.served)
	}
}

// survives checks that the server still serves the honest client, that Slack got all its messages in order, and that
// the server never took mostMemory.
func (b *besieged) survives() {
	b.t.Helper()
	b.serves(5)
	b.slack.checkOrder(b.t, "honest", b.served)
	now, most := memoryOf(b.Process)
	b.t.Logf("resident %d MB, at most %d MB; the slowest of %d honest messages was answered in %v", now, most, b.served,
		b.slowest.Round(time.Millisecond))
	if most >= mostMemory {
		b.t.Errorf("the server took %d MB of memory, want less than %d", most, mostMemory)
	}
}

// dial opens a connection to the server.
func (b *besieged) dial() *net.TCPConn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * Patience))
	return conn.(*net.TCPConn)
}

// read returns how many bytes the server has read since it started, from connections and files, as Linux says. On other
// systems it is 0.
func (b *besieged) read() (n int64) {
	counters, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", b.Cmd.Process.Pid))
	fmt.Sscanf(string(counters), "rchar: %d", &n)
	return n
}

// post begins a request.
const post = "POST /notify HTTP/1.1\r\nHost: x\r\n"

// answered returns the status of the answer that comes on conn, 0 if there is none, and whether the server closes the
// connection then.
func answered(conn net.Conn) (status int, closed bool) {
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, !errors.Is(err, os.ErrDeadlineExceeded)
	}
	io.Copy(io.Discard, resp.Body)
	_, err = r.ReadByte()
	return resp.StatusCode, err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// manyHeaders returns 10 KB of short header lines.
func manyHeaders() string {
	var b strings.Builder
	for i := range 10_000 / 8 {
		fmt.Fprintf(&b, "a%04d:\r\n", i)
	}
	return b.String()
}

// A thousand connections stop in the middle of a request, and half of them go on, a byte at a time. The honest client
// is served, and in the end the server closes these connections.
func TestSlowConnections(t *testing.T) {
	t.Parallel() // it waits
	large := `{"tag":"other","text":"` + strings.Repeat("x", 900_000)
	kinds := []struct{ name, sent, more string }{
		{"in the header", "POST /notify HTTP/1.1\r\nHo", "s"},
		{"in the body", post + "Content-Length: 1000\r\n\r\n{", " "},
		{"in a body that just is small", post + "Content-Length: 16383\r\n\r\n{", " "},
		{"in a large body", post + "Content-Length: 1048576\r\n\r\n" + large, "x"},
		{"in a chunk", post + "Transfer-Encoding: chunked\r\n\r\n10\r\n{", " "},
		{"in a large chunk", post + "Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + large, "x"},
		{"noise", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\xff"},
		{"in a large header", post + manyHeaders(), "a"},
	}
	for _, name := range []string{"http", "https"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, connect := "", func(conn net.Conn) net.Conn { return conn }
			if name == "https" {
				cert, key := NewAuthority(t).Files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
				core = "tls_cert='" + cert + "'\ntls_key='" + key + "'\n"
				connect = func(conn net.Conn) net.Conn {
					return tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
			}
			b := besiege(t, core)
			const count = 1000
			var conns [count]net.Conn
			var sending sync.WaitGroup
			for i := range conns {
				kind := kinds[i%len(kinds)]
				conns[i] = b.dial()
				if kind.name != "noise" {
					conns[i] = connect(conns[i])
				}
				sending.Go(func() { io.WriteString(conns[i], kind.sent) })
			}
			b.serves(5)
			sending.Wait()
			for range 5 {
				for i := 0; i < count; i += 2 {
					sending.Go(func() { io.WriteString(conns[i], kinds[i%len(kinds)].more) })
				}
				b.serves(5)
				sending.Wait()
			}
			if Long() { // it takes long until the server closes the connections
				for i, conn := range conns {
					switch status, closed := answered(conn); {
					case !closed:
						t.Errorf("%s: answered %d, and the connection is still open", kinds[i%len(kinds)].name, status)
					case status != 0 && status != 400 && status != 408 && status != 503:
						t.Errorf("%s: answered %d, want 400, 408, 503 or nothing", kinds[i%len(kinds)].name, status)
					}
				}
			}
			b.survives()
		})
	}
}

// repeat writes what to conn again and again, until the connection is cut off.
func repeat(conn net.Conn, what string) {
	for {
		if _, err := io.WriteString(conn, what); err != nil {
			return
		}
	}
}

// A request without an end is refused and cut off: the server reads little more of it than it would accept.
func TestEndlessRequests(t *testing.T) {
	t.Parallel()
	text, line := strings.Repeat("bottles of beer ", 4096), strings.Repeat("x", 1000)
	for _, test := range []struct {
		name, sent, endless string
		read                int64 // KB at most
		status              int
	}{
		{"body", post + "Transfer-Encoding: chunked\r\n\r\n", "10000\r\n" + text + "\r\n", 1400, 413},
		{"text", post + "Transfer-Encoding: chunked\r\n\r\n17\r\n{\"tag\":\"other\",\"text\":\"\r\n",
			"10000\r\n" + text + "\r\n", 1400, 413},
		{"body of 3 GB", post + "Content-Length: 3000000000\r\n\r\n", text, 100, 413},
		{"body of 3 GB that does not come", post + "Content-Length: 3000000000\r\n\r\n", "", 100, 413},
		{"small chunks", post + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n{\r\n", 10_000), 8000, 413},
		{"lines of chunks", post + "Transfer-Encoding: chunked\r\n\r\n", "1;" + line + "\r\n{\r\n", 100, 400},
		{"trailer", post + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", "a: " + line + "\r\n", 100, 400},
		{"headers", post, "a: " + line + "\r\n", 100, 431},
		{"short headers", post, strings.Repeat("a:\r\n", 10_000), 100, 431},
		{"header", post + "a: ", line, 100, 431},
		{"first line", "POST /", line, 100, 431},
		{"100,000 headers", post + strings.Repeat("name: value\r\n", 100_000) + "Content-Length: 0\r\n\r\n", "",
			100, 431},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := besiege(t, "")
			before := b.read()
			const count = 8
			var sending sync.WaitGroup
			for range count {
				conn := b.dial()
				sending.Go(func() {
					if _, err := io.WriteString(conn, test.sent); err == nil && test.endless != "" {
						repeat(conn, test.endless)
					}
				})
				sending.Go(func() {
					if status, closed := answered(conn); status != test.status || !closed {
						t.Errorf("answered %d, closed %v; want %d and closed", status, closed, test.status)
					}
				})
			}
			b.serves(5)
			sending.Wait()
			read := (b.read() - before) >> 10 / count
			t.Logf("%d KB read of each", read)
			if read > test.read {
				t.Errorf("the server read %d KB of each, want %d at most", read, test.read)
			}
			b.survives()
		})
	}
}

// Deeply nested JSON is refused, or it is accepted and delivered. It costs the server little memory.
func TestDeepJSON(t *testing.T) {
	t.Parallel()
	const deep = 100_000
	arrays := strings.Repeat("[", deep) + strings.Repeat("]", deep)
	objects := strings.Repeat(`{"a":`, deep) + "1" + strings.Repeat("}", deep)
	b := besiege(t, "")
	for _, value := range []string{arrays, objects, arrays[:deep], objects[:5*deep], strings.Repeat(`[{"a":`, deep)} {
		for path, body := range map[string]string{
			"/notify":                      value,
			"/notify?text":                 `{"tag":"other","text":` + value + `}`,
			"/notify?unknown":              `{"tag":"other","text":"x","y":` + value + `}`,
			"/notify-directly":             `{"payload":` + value + `}`,
			"/notify-directly?blocks":      `{"payload":{"text":"x","blocks":` + value + `}}`,
			"/notify-directly?attachments": `{"payload":{"text":"x","attachments":[` + value + `]}}`,
		} {
			if status, _, answer := b.post(path, body); status != 400 ||
				!strings.Contains(answer, "Request-body is malformed") {
				t.Errorf("%s, %.20s: %d %s", path, value, status, answer)
			}
		}
		b.serves(1)
	}
	// What is accepted has to be delivered, however deep it is.
	accepted := 0
	for _, depth := range []int{100, 9_990, 9_995, 9_996, 9_997, 9_998, 9_999, 10_000} {
		for _, key := range []string{"blocks", "attachments"} {
			value := strings.Repeat("[", depth) + strings.Repeat("]", depth)
			switch status, _, answer := b.post("/notify-directly", `{"payload":{"channel":"#other","text":"x","`+key+
				`":`+value+`}}`); status {
			case 200:
				accepted++
			case 400:
			default:
				t.Errorf("%s, %d deep: %d %s", key, depth, status, answer)
			}
		}
	}
	if accepted < 2 {
		t.Errorf("%d messages were accepted, want 2 at least", accepted)
	}
	checkDelivered(t, b.Process, b.served+accepted)
	b.survives()
}

// Connections that a client resets, or closes in one direction, leave no goroutines behind. A message that came whole
// is delivered.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	body := `{"tag":"other","text":"1 bottle"}`
	whole := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", post, len(body), body)
	half, large := whole[:len(whole)-5], post+"Content-Length: 1000000\r\n\r\n"+strings.Repeat("x", 100_000)
	reset := func(conn *net.TCPConn) { conn.SetLinger(0); conn.Close() }
	b := besiege(t, "")
	goroutines := func() int {
		var n int
		_, text := b.Request("GET", "/metrics", "")
		_, text, _ = strings.Cut(text, "\ngo_goroutines ")
		fmt.Sscan(text, &n)
		return n
	}
	before := goroutines()
	const count, workers = 500, 20
	for _, test := range []struct {
		name, sent string
		then       func(conn *net.TCPConn)
	}{
		{"reset at once", "", reset},
		{"reset in the header", whole[:40], reset},
		{"reset in the body", half, reset},
		{"reset in a large body", large, reset},
		{"reset instead of reading", whole, reset},
		{"half closed", whole, func(conn *net.TCPConn) {
			conn.CloseWrite()
			if status, _ := answered(conn); status != 200 {
				t.Errorf("half closed: %d, want 200", status)
			}
		}},
		{"half closed in the body", half, func(conn *net.TCPConn) {
			conn.CloseWrite()
			if status, closed := answered(conn); status != 400 && status != 0 || !closed {
				t.Errorf("half closed in the body: %d, closed %v", status, closed)
			}
		}},
		{"half closed in a large body", large, func(conn *net.TCPConn) {
			conn.CloseWrite()
			if status, closed := answered(conn); status != 400 && status != 0 || !closed {
				t.Errorf("half closed in a large body: %d, closed %v", status, closed)
			}
		}},
	} {
		var breaking sync.WaitGroup
		for range workers {
			breaking.Go(func() {
				for range count / workers {
					conn, err := net.Dial("tcp", b.Addr)
					if err != nil {
						t.Error(err)
						return
					}
					conn.SetDeadline(time.Now().Add(Patience))
					io.WriteString(conn, test.sent)
					test.then(conn.(*net.TCPConn))
					conn.Close()
				}
			})
		}
		b.serves(5)
		breaking.Wait()
	}
	// There were 4,000 connections. Those to Slack stay.
	Poll(t, "the goroutines of the connections have ended", func() bool { return goroutines() <= before+50 })
	st := drained(t, b.Process)
	if n := st.Delivered - int64(b.served); n < count || n > 2*count { // a message may be accepted before the reset
		t.Errorf("%d messages were delivered, want %d to %d", n, count, 2*count)
	}
	t.Logf("%d of %d messages whose client did not wait for the answer were accepted",
		st.Delivered-int64(b.served)-count, count)
	b.survives()
}

// Many clients send the largest messages at once, while Slack hangs. Messages are accepted or refused with a 503, and
// the number of large posts in flight is bounded.
func TestManyLargeMessages(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	for _, test := range []struct {
		name, path, body string
		posts            int64 // at the same time
	}{
		{"to one channel", "/notify", `{"tag":"other","host":"%d","text":"%s"}`, 1},
		{"texts", "/notify-directly", `{"payload":{"channel":"#c%d","text":"%s"}}`, 8},
		{"blocks", "/notify-directly", `{"payload":{"channel":"#c%d",` +
			`"text":"x","blocks":[{"type":"section","text":{"type":"plain_text","text":"%s"}}]}}`, 8},
		{"attachments", "/notify-directly", `{"payload":{"channel":"#c%d","attachments":[{"text":"%s"}]}}`, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := besiege(t, "")
			clients, posts := 64, 2
			if test.posts == 1 { // all messages that wait are folded into the second post
				posts = 2
			}
			var hanging, taken, refused atomic.Int64
			release := make(chan struct{})
			b.slack.script = func(p sinkPost) Reply {
				if p.channel != "#honest" {
					hanging.Add(1)
					<-release
				}
				return Reply{}
			}
			letGo := sync.OnceFunc(func() { close(release) })
			t.Cleanup(letGo)
			var sending sync.WaitGroup
			for i := range clients {
				sending.Go(func() {
					room := 1<<20 - len(fmt.Sprintf(test.body, 10+i, "")) // numbers of two digits: all texts are equal
					body := fmt.Sprintf(test.body, 10+i, strings.Repeat("x", room))
					for range posts {
						status, header, answer := b.post(test.path, body)
						switch {
						case status == 200:
							taken.Add(1)
						case status == 503 && header.Get("Retry-After") != "":
							refused.Add(1)
						default:
							t.Errorf("client %d: %d %s", i, status, answer)
						}
					}
				})
			}
			Poll(t, "posts hang", func() bool { return hanging.Load() >= test.posts })
			b.serves(5)
			sending.Wait()
			b.serves(5)
			most := test.posts
			if most > 1 { // as many again, for accounts that deliver: the honest client's message was delivered
				most *= 2
			}
			if n := hanging.Load(); n > most {
				t.Errorf("%d large posts at the same time, want %d at most", n, most)
			}
			letGo()
			b.serves(5)
			drained(t, b.Process)
			t.Logf("%d taken, %d refused", taken.Load(), refused.Load())
			if taken.Load() < int64(clients) {
				t.Errorf("%d messages were accepted, want one of each client at least", taken.Load())
			}
			b.survives()
		})
	}
}

// The number of connections is limited: while all are in use, the next one waits until one of them is closed. One that
// is idle is closed for a new one.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	b := besiege(t, "batch=1\n", "sh", "-c", `ulimit -n 256 && exec "$@"`, "sh")
	const most = 256 / 2
	var callers []*caller
	for range most {
		c := newCaller(t, b.Addr)
		request := bytes.Replace(numbered("other", 0, "bottles"), []byte("Content-"),
			[]byte("Expect: 100-continue\r\nContent-"), 1)
		c.conn.Write(request[:len(request)-1])
		if line, err := c.r.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
			t.Fatalf("connection %d: %q %v", len(callers), line, err)
		}
		c.r.ReadString('\n')
		callers = append(callers, c)
	}
	next, answer := newCaller(t, b.Addr), make(chan error, 1)
	go func() { answer <- next.call(numbered("other", 2, "bottles")) }()
	select {
	case err := <-answer:
		t.Fatalf("connection %d was answered while all others were in use: %v", most+1, err)
	case <-time.After(50 * time.Millisecond):
	}
	for i, c := range callers {
		if err := c.call([]byte("}")); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i == 0 {
			if err := <-answer; err != nil { // the first connection was closed after its answer, for the next one
				t.Error(err)
			}
		}
	}
	b.slack.waitForAll(t, []string{"other"}, most+1)
	for range 2 * most { // no connection is in use now
		if err := newCaller(t, b.Addr).call(numbered("other", 3, "bottles")); err != nil {
			t.Fatal(err)
		}
	}
	b.slack.waitForAll(t, []string{"other"}, 3*most+1)
	b.survives()
}

// besiegeFull is besiege with 100,000 messages that wait for a webhook at whose address nobody listens.
func besiegeFull(t *testing.T) *besieged {
	t.Helper()
	spool := t.TempDir()
	writeSpool(t, spool, []string{"stuck"}, 100_000)
	b := &besieged{t: t, slack: newSink(t, func(sinkPost) Reply { return Reply{} })}
	toml := spoolConfig(spool) + tagConfig("http://127.0.0.1:1/services/x", "stuck") + tagConfig(b.slack.URL+
		"/services/x", "honest", "other")
	for range 100 {
		toml += tagConfig("http://127.0.0.1:1/services/many", "many")
	}
	b.Process = StartServer(t,
		strings.Replace(toml, "[core]\n", "[core]\nslack_url='http://127.0.0.1:1/services/y'\n", 1))
	b.client.Timeout = 2 * Patience
	return b
}

// Four listings of large messages at the same time take little memory: a list shows only the beginning of each text.
// The whole text is in GET /messages/ID.
func TestListingOfLargeMessages(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	b := besiegeFull(t)
	text, n := strings.Repeat("bottles ", 125_000), 300
	for i := range n {
		if status, _, answer := b.post("/notify",
			fmt.Sprintf(`{"tag":"stuck","text":"%d %s"}`, i, text)); status != 200 {
			t.Fatalf("message %d: %d %s", i, status, answer)
		}
	}
	var asked sync.WaitGroup
	for range 4 {
		asked.Go(func() {
			status, body := b.Request("GET", fmt.Sprintf("/messages?state=waiting&tag=stuck&limit=%d", n), "")
			var list struct {
				Messages []struct{ ID, Text string }
				Total    int
			}
			if err := json.Unmarshal([]byte(body), &list); status != 200 || err != nil || len(list.Messages) != n ||
				list.Total != 100_000+n {
				t.Errorf("%d, %d of %d messages, %v", status, len(list.Messages), list.Total, err)
				return
			}
			if got := len(list.Messages[0].Text); got > 1100 {
				t.Errorf("a text of %d bytes in the list, want 1100 at most", got)
			}
			status, body = b.Request("GET", "/messages/"+list.Messages[0].ID, "")
			if status != 200 || !strings.Contains(body, text) {
				t.Errorf("the message alone: got %d and %d bytes, want 200 and the whole text", status, len(body))
			}
		})
	}
	asked.Wait()
	b.survives()
}

// An operator who does not read a long listing to its end does not keep other operators waiting.
func TestListingThatNobodyReads(t *testing.T) {
	t.Parallel()
	b := besiegeFull(t)
	slow := newCaller(t, b.Addr)
	fmt.Fprintf(slow.conn, "GET /messages?state=waiting&limit=30000 HTTP/1.0\r\nHost: localhost\r\n\r\n")
	if line, err := slow.r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q %v", line, err)
	}
	if status, body := b.Request("GET", "/messages?state=waiting&limit=1", ""); status != 200 {
		t.Errorf("another listing: got %d %s, want 200", status, body)
	}
	rest, err := io.ReadAll(slow.r)
	if err != nil || !strings.Contains(string(rest[max(0, len(rest)-200):]), `"total": 100000`) {
		t.Errorf("the long listing does not end with the right total: %d bytes, %v", len(rest), err)
	}
}

// A large message for a tag with a hundred entries takes the memory of one copy.
func TestFanOutOfLargeMessages(t *testing.T) {
	t.Parallel()
	b := besiegeFull(t)
	text := strings.Repeat("bottles ", 125_000)
	var sending sync.WaitGroup
	for i := range 8 {
		sending.Go(func() {
			status, _, answer := b.post("/notify",
				fmt.Sprintf(`{"tag":"many","text":"%d %s"}`, i, text))
			if status != 200 && status != 503 {
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	sending.Wait()
	b.survives()
}

// Thousands of sync requests that are given up leave nothing in memory.
func TestManySyncRequestsGiveUp(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	b := besiegeFull(t)
	hang := NewFakeSlack(t, func(Delivery) Reply { return Reply{Hang: true} })
	toml := strings.Replace(ReadFile(t, b.Cmd.Args[len(b.Cmd.Args)-1]), "127.0.0.1:1/services/y",
		strings.TrimPrefix(hang.URL, "http://")+"/services/y", 1)
	r := &reloadable{Process: b.Process, t: t, path: b.Cmd.Args[len(b.Cmd.Args)-1]}
	r.reload(strings.Replace(toml, "[core]\n", "[core]\nmax_delay_duration = 0\n", 1))
	text := strings.Repeat("x", 15_000)
	var asked sync.WaitGroup
	for range 400 {
		asked.Go(func() {
			for range 28 {
				status, _, answer := b.post("/notify-directly", `{"sync":true,"payload":{"channel":"#x","text":"`+
					text+`"}}`)
				if status == 502 { // it was posted, and hung
					return
				}
				if status != 429 {
					t.Errorf("%d %s", status, answer)
				}
			}
		})
	}
	asked.Wait()
	b.survives()
}

// Large sync requests to destinations that hang leave room for other large requests.
func TestLargeSyncRequestsToSickDestinations(t *testing.T) {
	t.Parallel()
	b := besiege(t, "")
	release := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	var hanging atomic.Int64
	b.slack.script = func(p sinkPost) Reply {
		if p.channel != "#honest" {
			hanging.Add(1)
			<-release
		}
		return Reply{}
	}
	large := strings.Repeat("x", 200_000)
	var asked sync.WaitGroup
	for i := range 12 {
		asked.Go(func() {
			b.post("/notify-directly", fmt.Sprintf(`{"sync":true,"payload":{"channel":"#c%d","text":"%s"}}`, i, large))
		})
	}
	Poll(t, "eight posts hang", func() bool { return hanging.Load() >= 8 })
	for range 5 {
		start := time.Now()
		if status, _, answer := b.post("/notify", `{"tag":"other","text":"`+large+`"}`); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
		b.slowest = max(b.slowest, time.Since(start))
	}
	b.serves(1)
	t.Logf("the slowest large message was answered in %v", b.slowest)
	letGo()
	asked.Wait()
}

// Sending all dead letters of a tag again ends when the operator goes away, and does not delay a stop.
func TestSendingAgainEnds(t *testing.T) {
	t.Parallel()
	const dead = 30_000
	spool := t.TempDir()
	var log strings.Builder
	for i := range dead {
		log.WriteString(SpoolLine(`W %d 0 5 0 tag:dead/0 %016x {"text":"%[1]d"}`, i+1, i+1))
		log.WriteString(SpoolLine(`X %d 0 5 3 - - channel_not_found`, i+1))
	}
	if err := os.WriteFile(filepath.Join(spool, "00000001.log"), []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s := StartServer(t, spoolConfig(spool)+tagConfig("http://127.0.0.1:1/services/x", "dead"))
	again := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.Addr+"/messages/retry?tag=dead", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go again(ctx)
	Poll(t, "some are sent again", func() bool { return s.Stat(t).Dead < dead })
	cancel()
	var left int64
	Poll(t, "sending again ends", func() bool {
		before := left
		left = s.Stat(t).Dead
		return left == before
	})
	if left == 0 {
		t.Error("all were sent again before the operator could go away: the test shows nothing")
	}
	go again(context.Background())
	Poll(t, "more are sent again", func() bool { return s.Stat(t).Dead < left })
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit %d: %s", code, s.Stderr.String())
	}
	s = StartServer(t, spoolConfig(spool)+tagConfig("http://127.0.0.1:1/services/x", "dead"))
	if st := s.Stat(t); st.Dead == 0 || st.Dead+st.Waiting != dead {
		t.Errorf("after a stop: %d dead, %d wait, want some dead and %d in all", st.Dead, st.Waiting, dead)
	}
}
