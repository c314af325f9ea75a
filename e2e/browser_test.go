package e2e

// The page in a real browser: headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/).

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
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

// browser is a session of Chromium.
type browser struct {
	t       testing.TB
	session string // its URL, for WebDriver
}

// newBrowser starts Chromium, which ends with the test.
func newBrowser(t testing.TB) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Skip("skipped: there is no chromedriver here (Debian: chromium-driver)")
	}
	address := DeadAddress(t) // with port 0, chromedriver takes one for IPv6 and ends if it is in use on IPv4
	p := StartProcess(t, exec.Command(driver, "--port="+strings.TrimPrefix(address, "127.0.0.1:")))
	p.Await("chromedriver starts", func() bool { return strings.Contains(p.Stdout.String(), "started successfully") })
	b := &browser{t: t, session: "http://" + address + "/session"}
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
		"--window-size=1300,900", "--user-data-dir=" + t.TempDir()}
	var created struct{ SessionID string }
	b.call("POST", "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"args": args},
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
	}}}, &created)
	b.session += "/" + created.SessionID
	t.Cleanup(func() { b.call("DELETE", "", nil, nil) })
	return b
}

// call sends a command of WebDriver with a body, and decodes the value of the answer into value.
func (b *browser) call(method, path string, body, value any) {
	b.t.Helper()
	if body == nil {
		body = struct{}{}
	}
	req, err := http.NewRequest(method, b.session+path, strings.NewReader(Encode(body)))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text := ReadAll(resp.Body)
	if resp.StatusCode != 200 {
		b.t.Fatalf("%s %s: %s", method, path, text)
	}
	answer := struct{ Value any }{value}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		b.t.Fatal(err)
	}
}

// js runs a script in the page and returns what it returns.
func (b *browser) js(script string, args ...any) (value any) {
	b.t.Helper()
	if args == nil {
		args = []any{}
	}
	b.call("POST", "/execute/sync", map[string]any{"script": script, "args": args}, &value)
	return value
}

func (b *browser) open(url string) { b.call("POST", "/url", map[string]string{"url": url}, nil) }

// element returns the path of the first element that css selects.
func (b *browser) element(css string) string {
	b.t.Helper()
	var found map[string]string
	b.call("POST", "/element", map[string]string{"using": "css selector", "value": css}, &found)
	for _, id := range found {
		return "/element/" + id
	}
	return ""
}

// click clicks on an element. Like write, it fails if a person could not see the element.
func (b *browser) click(css string) {
	b.t.Helper()
	b.call("POST", b.element(css)+"/click", nil, nil)
}

// write replaces the text of a field.
func (b *browser) write(css, text string) {
	b.t.Helper()
	// The old text is selected and deleted, as a person does it: the page does not notice WebDriver's own clear.
	const selectAll, remove = "\ue009a\ue009", "\ue017"
	b.call("POST", b.element(css)+"/value", map[string]string{"text": selectAll + remove + text}, nil)
}

// wait returns once an element that css selects shows text.
func (b *browser) wait(css, text string) {
	b.t.Helper()
	var shown any
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s shows %.500q", css, shown)
		}
	}()
	Poll(b.t, fmt.Sprintf("%s shows %q", css, text), func() bool {
		shown = b.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", css)
		return strings.Contains(fmt.Sprint(shown), text)
	})
}

// devtools sends a command of the Chrome DevTools Protocol.
func (b *browser) devtools(cmd string, params any) {
	b.t.Helper()
	b.call("POST", "/goog/cdp/execute", map[string]any{"cmd": cmd, "params": params}, nil)
}

// widths are those of the windows that the page has to fit into, in pixels: a desktop's, a tablet's, a phone's.
var widths = []int{1300, 800, 390}

// look checks what the browser shows, in light and dark mode and at all widths: nothing is wider than the window, no
// button is outside of it, and texts, borders and bars have enough contrast. If SLACKBOARD_PICTURES names a folder, it
// saves a picture of each there.
func (b *browser) look(name string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		media := []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}
		b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": media})
		back := fmt.Sprint(b.js("return getComputedStyle(document.body).backgroundColor"))
		if want := map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]; back != want {
			b.t.Errorf("in %s mode the background has the wrong color %s", scheme, back)
		}
		for _, width := range widths {
			b.devtools("Emulation.setDeviceMetricsOverride",
				map[string]any{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500})
			for _, fault := range b.js(lookScript, width).([]any) {
				b.t.Errorf("%s, %s, %d pixels: %v", name, scheme, width, fault)
			}
			if dir := os.Getenv("SLACKBOARD_PICTURES"); dir != "" {
				var data string
				b.call("GET", "/screenshot", nil, &data)
				png, err := base64.StdEncoding.DecodeString(data)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", name, scheme, width)), png, 0o644)
				}
				if err != nil {
					b.t.Error(err)
				}
			}
		}
	}
	b.devtools("Emulation.clearDeviceMetricsOverride", struct{}{})
}

// lookScript returns the faults of what is shown, eight at most, for a window of a width. The least contrast is that of
// WCAG 2.2, 1.4.3 (text, 4.5) and 1.4.11 (borders and bars, 3).
const lookScript = `
const width = arguments[0], faults = [];
const say = (what, e) => { if (faults.length < 8) 
  faults.push(what + ": " + e.tagName + "#" + e.id + "." + e.className + " " + (e.textContent || "").slice(0, 40)) };
const rgb = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const lum = c => {
  const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b };
const ratio = (a, b) => {
  const [x, y] = [lum(rgb(a).slice(0, 3)), lum(rgb(b).slice(0, 3))].sort((a, b) => b - a);
  return (x + .05) / (y + .05) };
const clear = c => rgb(c)[3] === 0;
const behind = e => {
  for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!clear(c)) return c }
  return "rgb(255, 255, 255)" };
const all = document.documentElement.scrollWidth;
if (all > width) say("the page is " + all + " wide", document.body);
for (const e of document.querySelectorAll("body *")) {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (!box.width || !box.height || style.visibility === "hidden") continue;
  if (e.closest(".unseen, dialog:not([open]), option, datalist")) continue;
  if (box.right > width + 1 && !e.closest(".line, pre, td")) say("it ends at " + box.right, e);
  if (e.matches("button, a, input, select, textarea") && (box.right > width || box.left < 0)) say("out of sight", e);
  const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (text && ratio(style.color, behind(e)) < 4.5) say("text " + ratio(style.color, behind(e)).toFixed(2), e);
  for (const side of ["Top", "Right", "Bottom", "Left"]) {
    const color = style["border" + side + "Color"], wide = parseFloat(style["border" + side + "Width"]);
    const back = behind(e.matches(".level, li, #sentence") ? e : e.parentElement);
    const drawn = wide && style["border" + side + "Style"] !== "none" && !clear(color);
    if (drawn && ratio(color, back) < 3) say("border " + ratio(color, back).toFixed(2), e);
  }
  const bar = e.matches("path") ? ratio(style.fill, behind(e.parentElement)) : 3;
  if (bar < 3) say("bar " + bar.toFixed(2), e);
}
for (const row of document.querySelectorAll("#message-rows .head")) {
  const lines = row.getBoundingClientRect().height / parseFloat(getComputedStyle(row).lineHeight);
  if (lines > 2.6 || lines < 1.5) say("a row has " + lines + " lines", row);
}
return faults`

// pageServer is a server, a browser that shows its page, and what stands between them.
type pageServer struct {
	*Process
	*browser
	t       testing.TB
	between *switched // passes requests on to the server, until a test puts another handler in its place
	web     *httptest.Server
	url     string
}

// switched is a handler that can be replaced.
type switched struct{ atomic.Value }

func (s *switched) Store(h http.Handler) { s.Value.Store(&h) }

func (s *switched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.Load().(*http.Handler)).ServeHTTP(w, r)
}

// newPageServer starts a server and a browser. In config, SLACK stands for the URL of a fake Slack that answers by
// script.
func newPageServer(t testing.TB, config string, script *answers) *pageServer {
	t.Helper()
	slack := NewFakeSlack(t, script.to)
	s := StartServer(t, strings.ReplaceAll(config, "SLACK", slack.URL))
	p := &pageServer{Process: s, browser: newBrowser(t), t: t, between: &switched{}}
	p.between.Store(p.through(func(http.Header) {}))
	p.web = httptest.NewServer(p.between)
	t.Cleanup(p.web.Close)
	p.url = p.web.URL + "/ui/"
	return p
}

// through returns a handler that passes requests on to the server, with their headers changed.
func (p *pageServer) through(change func(http.Header)) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", p.Addr
			change(r.Out.Header)
		},
		ErrorLog: log.New(io.Discard, "", 0), // it would tell of a browser that has gone
	}
}

// send posts a message for a tag and returns its id.
func (p *pageServer) send(tag, level, title, text, host string) string {
	body := Encode(map[string]string{"tag": tag, "level": level, "title": title, "text": text, "host": host})
	status, answer := p.Request("POST", "/notify", body)
	var accepted struct{ IDs []string }
	if json.Unmarshal([]byte(answer), &accepted); status != 200 || len(accepted.IDs) == 0 {
		p.t.Fatalf("/notify: got %d %s, want 200 and an id", status, answer)
	}
	return accepted.IDs[0]
}

// answers are Slack's replies to posts, by channel. Posts to all other channels are answered ok.
type answers struct {
	sync.Mutex
	replies map[string]Reply
}

func (a *answers) to(d Delivery) Reply {
	a.Lock()
	defer a.Unlock()
	return a.replies[d.Field("channel")]
}

func (a *answers) set(channel string, reply Reply) {
	a.Lock()
	defer a.Unlock()
	a.replies[channel] = reply
}

// injection runs a script if a page takes it for markup.
const injection = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">"'&`

// nightly returns a configuration like real ones, with names that are very long, right to left, or look like markup.
func nightly() string {
	var b strings.Builder
	b.WriteString("[core]\nport = '127.0.0.1:0'\nchannel_rate = 0\nbatch = 1\n" +
		"slack_url = 'SLACK/services/T0/B0/core'\nslack_api_url = 'SLACK/api/'\n")
	tag := func(name, channel, more string) {
		fmt.Fprintf(&b, "[[tags]]\ntag = %s\nchannel = %s\n%s\n", Encode(name), Encode(channel), more)
	}
	for _, name := range []string{"ops", "oncall", "nightly", "billing", "deploys", "certificates", "db", "search"} {
		tag(name, "#"+name, "")
	}
	tag("cdn", "#cdn", "slack_token = 'xoxb-1'\nusername = 'cdn watch'\nicon_emoji = ':satellite:'")
	tag("edge", "#edge", "slack_token = 'xoxb-1'")
	tag("צוות-תשתיות", "#תשתיות", "")
	tag("émile-🚒-"+strings.Repeat("very-long-", 24), "#"+strings.Repeat("l", 79), "")
	tag(injection, injection, "username = "+Encode(injection))
	return b.String()
}

// With content like that of a real night, every view looks right: see look. Rows have two lines, and each level has a
// color.
func TestPageLooks(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	slack := &answers{replies: map[string]Reply{
		"#billing": {Status: 404, Body: "channel_not_found"},
		"#db":      {Status: 503},
		"#deploys": {Status: 403, Body: "invalid_auth"},
		injection:  {Status: 400, Body: "invalid_blocks"},
		"#cdn":     {Status: 429, RetryAfter: "840"},
	}}
	p := newPageServer(t, nightly(), slack)
	for i := range 40 {
		text := fmt.Sprintf("/var is at 9%d %%\nsecond line", i%10)
		p.send("ops", []string{"info", "warn", "crit", ""}[i%4], fmt.Sprint("disk of web-", i), text, "web-01.example")
	}
	p.send("cdn", "warn", "cache", "hit rate is 61 %", "edge-1.example")
	Poll(t, "the token pauses", func() bool { return p.Stat(t).State == "paused" })
	p.send("edge", "crit", "", "On call: TLS handshake fails in fra1", "edge-2.example")
	p.send("billing", "info", "invoices", "2,310 invoices are out", "billing.example")
	for i := range 300 {
		text := fmt.Sprintf("db-%d is %d s behind", i%7, i)
		p.send("db", []string{"WARNING", "critical"}[i%2], "replica lag", text, "db-primary.example")
	}
	p.send("deploys", "", "", "v2.41.0 is live", "ci.example")
	p.send("צוות-תשתיות", "crit",
		"השרת לא עונה", "בדיקת תקינות נכשלה שלוש פעמים ברציפות", "שרת-1")
	long := p.send("émile-🚒-"+strings.Repeat("very-long-", 24), "warn",
		strings.Repeat("W", 1000), strings.Repeat("🚒longword", 4000), strings.Repeat("h", 255))
	p.send(injection, "crit", injection, injection, injection)
	direct := map[string]string{"channel": "#" + strings.Repeat("d", 79), "text": "direct " + injection}
	p.Request("POST", "/notify-directly", Encode(map[string]any{"payload": direct}))
	Poll(t, "dead letters", func() bool { return p.Stat(t).Dead == 2 })
	p.open(p.url)
	p.wait("#trouble", "channel_not_found")
	p.look("overview")
	p.js("scrollTo(0, 500)")
	p.look("tags")
	p.open(p.url + "#messages")
	p.wait("#message-rows", "direct")
	plain := p.js("return [...document.querySelectorAll('.level')].filter(e => e.textContent && " +
		"!e.matches('.info, .warn, .crit')).map(e => e.textContent).join()")
	if plain != "" {
		t.Errorf("levels without a color: %v", plain)
	}
	p.look("messages")
	p.open(p.url + "#messages?state=waiting&id=" + long)
	p.wait(".detail", "What Slack gets")
	p.look("message")
	p.open(p.url + "#messages?state=waiting&tag=cdn")
	p.wait("#tag-detail", "this token pauses until")
	p.click("#message-rows [type=checkbox]")
	p.look("tag")
	p.click("#test-open")
	p.look("test")
	p.open(p.url + "#config?utc=1")
	p.wait("#config-text", "[core]")
	p.look("config")
	p.checkClean()
}

// What an operator does in one night: a test message arrives, a dead letter is found with its reason, read, sent again,
// and gone; waiting messages are dropped. Names and texts that look like markup are shown as text.
func TestPage(t *testing.T) {
	t.Parallel()
	slack := &answers{replies: map[string]Reply{
		"#billing": {Status: 400, Body: "invalid_blocks"},
		"#db":      {Status: 503},
	}}
	p := newPageServer(t, nightly(), slack)
	p.open(strings.TrimSuffix(p.url, "ui/"))
	p.wait("#sentence", "nothing waits")
	p.wait("#trouble", "no destination fails")

	p.click("#test-open")
	p.write("[name=tag]", "ops")
	p.write("[name=title]", injection)
	p.write("[name=text]", injection+" hello")
	p.click("#test-form button")
	p.wait("#answer", "Slack has it: ")
	p.click("#test-close")
	p.wait("#sentence", "everything is delivered")
	p.click("nav a[href='#messages']")
	p.wait("#message-rows", injection+" hello")

	for _, tag := range []string{"billing", "billing", "db", "db", injection} {
		p.send(tag, "crit", injection, injection+"\nsecond line", injection)
	}
	p.Request("POST", "/notify-directly", Encode(map[string]any{"payload": map[string]any{
		"channel": injection, "username": injection, "attachments": []any{map[string]string{"text": injection}}}}))
	Poll(t, "dead letters", func() bool { return p.Stat(t).Dead == 2 })
	p.wait("#news", "2 dead")
	p.wait("#news", "#db fails")
	p.click("#noted")
	p.wait("#message-changes", "show 6 new")
	p.click("#message-changes")
	p.wait("#message-rows", `"attachments":[{"text"`)
	p.click("#states a:nth-child(2)")
	p.wait("#count", "2 of 2 messages")
	p.wait("#message-rows", "1 before it")
	p.wait("#message-rows", "status 503 Service Unavailable")
	p.wait("#sentence", "#db fails since")

	// A click on a row shows the whole message, and its id is in the URL.
	p.click("#states a:nth-child(3)")
	p.wait("#count", "2 of 2 messages")
	p.click("#message-rows li:last-child .head")
	p.wait(".detail", "invalid_blocks")
	p.wait(".detail", "Slack refuses the content of the message")
	p.wait(".detail pre", "second line")
	p.wait(".detail pre:last-child", `"color": "#ff0000"`)
	id := fmt.Sprint(p.js("return document.querySelector('[aria-expanded=true]').parentNode.id"))
	if url := fmt.Sprint(p.js("return location.href")); !strings.Contains(url, "id="+strings.TrimPrefix(id, "m-")) {
		t.Errorf("the URL has no id of message %s, which is shown: %s", id, url)
	}
	p.click(".detail .tools button[aria-label^='Send again: message']")
	p.wait("#ask-text", "Send 1 message again?")
	p.click("#ask [value=no]")
	if st := p.Stat(t); st.Dead != 2 {
		t.Errorf("after the question was answered with no, want 2 dead letters: %+v", st)
	}
	slack.set("#billing", Reply{})
	p.click(".detail .tools button[aria-label^='Send again: message']")
	p.click("#ask-yes")
	p.wait("#note", "1 message: put at the end of its queue")
	Poll(t, "one dead letter is delivered", func() bool { return p.Stat(t).Dead == 1 })
	p.call("POST", "/back", nil, nil)
	Poll(t, "Back closes the message", func() bool { return p.js("return !document.querySelector('.detail')") == true })

	// For many messages at once, the question and the answer say how many they are.
	p.open(p.url + "#messages?tag=billing&state=dead")
	p.wait("#tag-detail", "Send all 1 dead letter again")
	p.click("#tag-detail button:nth-child(2)")
	p.wait("#ask-text", "Send all 1 dead letter of billing again?")
	p.click("#ask-yes")
	p.wait("#note", "1 message: put at the end of its queue")
	p.wait("#count", "No dead message for tag billing; there are 2 delivered")
	p.open(p.url + "#messages?state=waiting")
	p.wait("#count", "2 of 2 messages")
	p.click("#message-rows [type=checkbox]")
	p.wait("#picked", "Drop 1 message")
	p.click("#picked button:nth-of-type(3)")
	p.click("#picked .danger")
	p.wait("#ask-text", "Drop 2 messages? What is dropped will not be delivered.")
	p.click("#ask-yes")
	p.wait("#note", "2 messages: dropped")
	p.wait("#count", "No waiting message ; there are")

	p.click("nav a[href='#config']")
	p.wait("#config-text", `slack_url = "..."`)
	p.wait("#about", "Version 1.")
	p.checkClean()
}

// checkClean fails the test if the page took a message for markup, or if the browser logged an error.
func (p *pageServer) checkClean() {
	p.t.Helper()
	if hacked := p.js("return [window.hacked, document.scripts.length]"); fmt.Sprint(hacked) != "[<nil> 1]" {
		p.t.Errorf("a message was taken for markup: %v", hacked)
	}
	var logged []struct{ Message string }
	p.call("POST", "/se/log", map[string]string{"type": "browser"}, &logged)
	for _, line := range logged {
		gone, token := strings.Contains(line.Message, "/messages"), strings.Contains(line.Message, "401")
		its := strings.HasPrefix(line.Message, "chrome://") // a page of Chromium's own, which wants a network
		if !gone && !token && !its {
			p.t.Errorf("the browser has logged an error: %s", line.Message)
		}
	}
}

// The pause of a token is shown with each of the token's channels, tags and messages. Sending a message again says that
// the message still waits for the end of the pause.
func TestPageShowsPause(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	limit := Reply{Status: 429, RetryAfter: "840"}
	slack := &answers{replies: map[string]Reply{"#cdn": limit}}
	p := newPageServer(t, nightly(), slack)
	p.send("cdn", "", "", "cache", "")
	Poll(t, "the token pauses", func() bool { return p.Stat(t).State == "paused" })
	p.open(p.url + "#overview?q=edge")
	const pause = `this token pauses until `
	p.wait("#tag-rows", "in 14 min: slack's rate limit, met by #cdn") // no message waits for this tag yet
	p.send("edge", "crit", "", "on call", "")
	p.wait("#sentence", "a pause for")
	p.wait("#news", pause)
	p.open(p.url + "#messages?tag=edge")
	p.wait("#tag-detail", pause)
	p.wait("#message-rows", pause)
	if bad := p.js("return document.querySelectorAll('#message-rows .bad').length"); fmt.Sprint(bad) != "0" {
		t.Error("a pause is shown as a failure")
	}
	if title := p.js("return document.title"); title != "(pause) Slackboard" {
		t.Errorf("the title during a pause is %v", title)
	}
	p.click("#message-rows .head")
	p.wait(".detail", "none yet")
	p.wait(".detail", pause)
	p.click(".detail .tools button[aria-label^='Send again']")
	p.click("#ask-yes")
	p.wait("#note", "1 message: waits for a pause until")
}

// What begins to fail while somebody reads is shown above everything else, and what is read does not move. A tab that
// is hidden asks the server every 30 s. Its title and icon say what is wrong, even if there is no answer.
func TestPageTellsByItself(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	slack := &answers{replies: map[string]Reply{
		"#billing": {Status: 400, Body: "invalid_blocks"},
		"#db":      {Status: 503},
	}}
	p := newPageServer(t, nightly(), slack)
	for range 3 {
		p.send("ops", "", "", "hello", "")
	}
	p.open(p.url + "#messages")
	p.wait("#message-rows", "hello")
	const top = "const row = document.querySelector('#message-rows li'); return row.id + " +
		"row.getBoundingClientRect().top"
	before := p.js(top)
	p.send("db", "", "", "x", "")
	p.wait("#news", "#db fails: 1 wait · status 503")
	p.wait("#message-changes", "show 1 new")
	if after := p.js(top); after != before {
		t.Errorf("the row that is read was at %v and has moved to %v", before, after)
	}
	p.look("news")
	p.click("#noted")
	Poll(t, "the news is hidden", func() bool { return p.js("return document.getElementById('news').hidden") == true })
	icon := p.js("return document.getElementById('icon').href")

	p.js(`window.setTimeout = (real => (f, ms) => { window.waits = ms; return real(f, ms / 100) })(window.setTimeout);
		Object.defineProperty(document, "hidden", {get: () => true});
		document.dispatchEvent(new Event("visibilitychange"))`)
	for range 3 {
		p.send("billing", "", "", "x", "")
	}
	Poll(t, "the title of a hidden tab", func() bool {
		return p.js("return document.title") == "(1 failing, 3 dead) Slackboard"
	})
	if waits := p.js("return window.waits"); fmt.Sprint(waits) != "30000" {
		t.Errorf("a hidden tab asks every %v ms, want 30000", waits)
	}
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		w.Write([]byte("<html><h1>502 Bad Gateway</h1>"))
	})
	p.between.Store(broken)
	p.wait("#offline", "not the server: status 502. What is shown is from 20")
	if title := p.js("return document.title"); title != "(no answer) Slackboard" {
		t.Errorf("the title without an answer is %v", title)
	}
	p.look("offline")
	if now := p.js("return document.getElementById('icon').href"); now == icon {
		t.Error("the icon does not say that there is no answer")
	}
	if grey := p.js("return getComputedStyle(document.getElementById('sentence')).filter"); grey != "grayscale(1)" {
		t.Errorf("what is shown from the last answer is not grey: %v", grey)
	}
	login := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"login":"please"}`)) })
	p.between.Store(login)
	p.wait("#offline", "not the server. What is shown is from 20")
	p.between.Store(p.through(func(http.Header) {}))
	Poll(t, "it answers again", func() bool { return p.js("return document.getElementById('offline').hidden") == true })
	p.web.CloseClientConnections()
	p.web.Close()
	p.wait("#offline", "The server does not answer: there is no connection.")
}

// The keyboard reaches everything, in order, and the focus can be seen. Everything that can be used has a name for a
// screen reader, which also hears how things are.
func TestPageByKeyboard(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	p := newPageServer(t, nightly(), &answers{})
	p.send("ops", "", "", "hello", "")
	p.open(p.url + "#messages")
	p.wait("#message-rows", "hello")
	keys := func(text string) {
		var actions []map[string]string
		for _, c := range text {
			for _, what := range []string{"keyDown", "keyUp"} {
				actions = append(actions, map[string]string{"type": what, "value": string(c)})
			}
		}
		keyboard := map[string]any{"type": "key", "id": "k", "actions": actions}
		p.call("POST", "/actions", map[string]any{"actions": []any{keyboard}}, nil)
	}
	const tab, enter, escape = "\ue004", "\ue007", "\ue00c"
	keys(tab + tab + tab + tab + "hel" + enter) // past the three views to the search
	p.wait("#count", "1 of 1 message with “hel”")
	keys(tab + tab + strings.Repeat(tab, 5) + tab + tab + enter) // past two buttons, the states, the order to the row
	p.wait(".detail", "What Slack gets")
	focus := p.js("const e = document.activeElement; return getComputedStyle(e).outlineWidth + e.className")
	if focus != "3pxhead" {
		t.Errorf("the focus cannot be seen, or is not on the row: %v", focus)
	}
	p.click("#test-open")
	keys("ops" + tab + tab + tab + tab + tab + enter)
	p.wait("#answer", "Slack has it")
	keys(escape)
	names := p.js(`const named = e => e.ariaLabel || e.textContent.trim() || e.labels?.length;
		const all = document.querySelectorAll("button, input, select, textarea, [role=region], section, svg");
		return [...all].filter(e => e.offsetParent && !named(e)).map(e => e.outerHTML.slice(0, 80)).join("\n")`)
	if names != "" {
		t.Errorf("without a name for a screen reader: %v", names)
	}
	live := fmt.Sprint(p.js("const e = document.getElementById('spoken'); return e.role + ': ' + e.textContent"))
	if !strings.HasPrefix(live, "status: everything is delivered") {
		t.Errorf("a screen reader is told %v, want a status that everything is delivered", live)
	}
}

// With 5,000 tags and 1,000 messages, what is searched for is found, and what is in trouble comes first.
func TestPageWithMuch(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	var config strings.Builder
	config.WriteString("[core]\nport = '127.0.0.1:0'\nslack_url = 'SLACK/'\n")
	slack := &answers{replies: map[string]Reply{}}
	for i := range 5000 {
		fmt.Fprintf(&config, "[[tags]]\ntag = 'tag-%04d'\nchannel = '#c%[1]d'\n", i)
		if i >= 4000 && i < 4010 {
			slack.set(fmt.Sprint("#c", i), Reply{Status: 503})
		}
	}
	p := newPageServer(t, config.String(), slack)
	for i := range 1000 {
		p.send(fmt.Sprintf("tag-%04d", 4000+i%10), "warn", "", fmt.Sprint("message ", i), fmt.Sprint("web-", i%50))
	}
	start := time.Now()
	p.open(p.url)
	p.wait("#tag-rows tr:first-child", "tag-400")
	t.Logf("5,000 tags: usable %v after it was asked for", time.Since(start).Round(time.Millisecond))
	p.wait("#tag-count", "100 of 5,000, those in trouble first")
	p.write("#search", "tag-1234")
	p.wait("#tag-count", "1 of 1 with “tag-1234”, of 5,000")
	p.wait("#tag-rows", "#c1234")
	p.write("#search", "")
	p.wait("#tag-count", "100 of 5,000")
	p.click("th.tag button")
	p.wait("#tag-rows tr:first-child", "tag-0000")
	p.click("th.tag button")
	p.wait("#tag-rows tr:first-child", "tag-4999")
	p.click("#more-tags")
	p.wait("#tag-count", "200 of 5,000")
	took := p.js(`const began = performance.now();
		for (let i = 0; i < 20; i++) drawTags(view());
		return (performance.now() - began) / 20`)
	update := p.js("const began = performance.now(); return refresh().then(() => performance.now() - began)")
	t.Logf("an update with 200 of them takes %.1f ms, %.1f ms of it for drawing", update, took)

	p.open(p.url + "#messages?state=waiting")
	p.wait("#count", "100 of 1,000 messages")
	p.wait("#message-rows li:first-child", "message 0")
	p.click("#more")
	p.wait("#count", "200 of 1,000 messages")
	p.js("scrollTo(0, 0)")
	p.click("#order")
	p.wait("#message-rows li:first-child", "message 999")
	p.write("#search", "SSAGE 777")
	p.wait("#count", "1 of 1 message with")
	p.wait("#message-rows", "tag-4007")
	suggested := p.js("return document.getElementById('suggestions').children.length")
	if fmt.Sprint(suggested) != "0" {
		t.Errorf("%v tags are suggested for a search that is no tag, want none", suggested)
	}
	p.write("#search", "no such thing")
	p.wait("#count", "No waiting message with “no such thing”; there are 1000 waiting, 0 dead in all")
	p.write("#search", "")
	p.wait("#count", "100 of 1,000")
	p.call("POST", "/back", nil, nil)
	p.wait("#message-rows li:first-child", "message 0") // the order from before it was reversed
}

// The page works below a path of a reverse proxy, with a token that the browser asks for once. If the server refuses to
// show anything, as to a sender, the page says why.
func TestPageBelowPath(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	p := newPageServer(t, "[core]\nport = '127.0.0.1:0'\nauth_token = 'T0KEN'\nslack_url = 'SLACK/'\n"+
		"[[tags]]\ntag = 'ops'\nchannel = '#ops'\n[log]\nlevel = 'debug'\naccess_log = 'stdout'\n", &answers{})
	var asked sync.Map
	below := http.NewServeMux()
	behind := p.through(func(h http.Header) { h.Set("X-Forwarded-For", "192.0.2.1") })
	below.Handle("/slackboard/", http.StripPrefix("/slackboard", behind))
	below.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.Path, true)
		http.NotFound(w, r)
	})
	proxy := httptest.NewServer(below)
	defer proxy.Close()
	for _, path := range []string{"/slackboard/", "/slackboard/ui", "/slackboard/ui/"} {
		p.open(strings.Replace(proxy.URL, "://", "://anybody:T0KEN@", 1) + path)
		p.wait("#sentence", "nothing w")
	}
	p.click("nav a[href='#messages']")
	p.wait("#count", "No message")
	p.click("#test-open")
	p.write("[name=tag]", "ops")
	p.click("#test-form button")
	p.wait("#answer", "Slack has it")
	p.click("#test-close")
	p.wait("#message-rows", "A test from the page.")
	refused := func() int64 {
		_, body := p.Ask(t, "GET", "/stat/app", "", "Authorization: Bearer T0KEN")
		return ReadStat(t, []byte(body)).Unauthorized
	}
	before, polls := refused(), strings.Count(p.Stdout.String(), "/stat/app")
	Poll(t, "the page asks again", func() bool { return strings.Count(p.Stdout.String(), "/stat/app") > polls+2 })
	if n := refused() - before; n != 0 {
		t.Errorf("the browser has the token, but made %d requests without it", n)
	}
	asked.Range(func(path, _ any) bool {
		if path != "/favicon.ico" {
			t.Errorf("the page asked for %v, which is not below its path", path)
		}
		return true
	})
	p.checkClean()

	p.between.Store(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/ui/") {
			p.through(func(h http.Header) { h.Set("Authorization", "Bearer T0KEN") }).ServeHTTP(w, r)
			return
		}
		http.Error(w, `{"message":"the token of sender ci may post, and nothing else"}`, http.StatusForbidden)
	}))
	p.open(p.url)
	p.wait("#offline", "The server refuses: the token of sender ci may post, and nothing else.")
	p.wait("#sentence", "loading")
}

// To a browser on another host, the page shows the counters, and says how to see the messages.
func TestPageFromElsewhere(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	p := newPageServer(t, nightly(), &answers{})
	p.between.Store(p.through(func(h http.Header) { h.Set("X-Forwarded-For", "192.0.2.1") }))
	p.open(p.url + "#messages")
	p.wait("#sentence", "nothing waits")
	p.wait("#note", "messages are shown to the server's own host only")
	p.wait("#note", "ssh -L")
}

// If ui.root names a folder, its files are served in place of the built-in page, without lists of folders. If there is
// no such folder, the server warns and serves the built-in page.
func TestPageOfOnesOwn(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(WriteFile(t, "index.html", "<h1>mine</h1>"))
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	WriteInto(t, dir, "folder/file.txt", "its content")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	WriteInto(t, dir, "sub/index.html", "another page")
	s := StartServer(t, ServerConfig("http://127.0.0.1:1")+"[ui]\nroot='"+dir+"'\n")
	for path, want := range map[string]string{"/ui/": "<h1>mine</h1>", "/ui": "<h1>mine</h1>", "/": "<h1>mine</h1>"} {
		if status, body := s.Request("GET", path, ""); status != 200 || body != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for path, want := range map[string]int{"/ui/folder/file.txt": 200, "/ui/folder": 404, "/ui/folder/": 404,
		"/ui/sub/": 200, "/ui/sub": 200, "/ui/sub/index.html": 200} {
		if status, body := s.Request("GET", path, ""); status != want || strings.Contains(body, "file.txt") {
			t.Errorf("%s: %d %s", path, status, body) // no list of the folder
		}
	}
	s = StartServer(t, ServerConfig("http://127.0.0.1:1")+"[ui]\nroot='/nowhere'\n")
	if status, body := s.Request("GET", "/ui/", ""); status != 200 || !strings.Contains(body, "<h1>Slackboard</h1>") {
		t.Errorf("the built-in page: %d %s", status, s.Stderr.String())
	}
	Poll(t, "the server warns", func() bool {
		return strings.Contains(s.Stderr.String(), "ui.root: /nowhere is not a folder: the built-in page is served")
	})
	if status, body := s.Request("GET", "/ui/nothing", ""); status != 404 || !strings.Contains(body, `"message"`) {
		t.Errorf("/ui/nothing: %d %s", status, body)
	}
}

// If the server hangs, the page says that it does not answer, until it answers again.
func TestPageOfAServerThatHangs(t *testing.T) {
	t.Parallel()
	NeedsLong(t)
	b := newBrowser(t)
	s := StartServer(t, ServerConfig("http://127.0.0.1:1"))
	b.open("http://" + s.Addr + "/ui/")
	b.wait("#sentence", "nothing waits")
	s.Signal(syscall.SIGSTOP)
	b.wait("#offline", "The server does not answer")
	s.Signal(syscall.SIGCONT)
	Poll(t, "it answers again", func() bool { return b.js("return document.getElementById('offline').hidden") == true })
}
