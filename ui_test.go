package main

// The page in a real browser: headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/).

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a session of Chromium.
type browser struct {
	t       testing.TB
	session string // URL
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Skip("skipped: there is no chromedriver here (Debian: chromium-driver)")
	}
	p := startProcess(t, exec.Command(driver, "--port=0"))
	var port string
	poll(t, "chromedriver starts", func() bool {
		_, rest, found := strings.Cut(p.stdout.String(), "started successfully on port ")
		port, _, found = strings.Cut(rest, ".")
		return found
	})
	b := &browser{t: t, session: "http://127.0.0.1:" + port + "/session"}
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-quic", "--window-size=1300,900", "--user-data-dir=" + t.TempDir()}
	var created struct{ SessionID string }
	b.call("POST", "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"args": args},
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
	}}}, &created)
	b.session += "/" + created.SessionID
	t.Cleanup(func() { b.call("DELETE", "", nil, nil) })
	return b
}

func (b *browser) call(method, path string, body, value any) {
	b.t.Helper()
	if body == nil {
		body = struct{}{}
	}
	req, err := http.NewRequest(method, b.session+path, bytes.NewReader(encode(body)))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text := readAll(resp.Body)
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

func (b *browser) element(css string) string {
	b.t.Helper()
	var found map[string]string
	b.call("POST", "/element", map[string]string{"using": "css selector", "value": css}, &found)
	for _, id := range found {
		return "/element/" + id
	}
	return ""
}

// click and write do as a person would: they fail on what cannot be seen.
func (b *browser) click(css string) {
	b.t.Helper()
	b.call("POST", b.element(css)+"/click", nil, nil)
}

func (b *browser) write(css, text string) {
	b.t.Helper()
	const selectAll, remove = "\ue009a\ue009", "\ue017" // as a person does: WebDriver's own clear tells the page nothing
	b.call("POST", b.element(css)+"/value", map[string]string{"text": selectAll + remove + text}, nil)
}

// wait returns once the page shows text in css.
func (b *browser) wait(css, text string) {
	b.t.Helper()
	var shown any
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s shows %.500q", css, shown)
		}
	}()
	poll(b.t, fmt.Sprintf("%s shows %q", css, text), func() bool {
		shown = b.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", css)
		return strings.Contains(fmt.Sprint(shown), text)
	})
}

func (b *browser) devtools(cmd string, params any) {
	b.t.Helper()
	b.call("POST", "/goog/cdp/execute", map[string]any{"cmd": cmd, "params": params}, nil)
}

// widths are those that nothing may be wider than: a desktop's, a tablet's, a phone's window.
var widths = []int{1300, 800, 390}

// look checks what is seen in light and dark at all widths, and saves it as a picture where SLACKBOARD_PICTURES names a
// folder: nothing is wider than the window, buttons are in it, and what is written or drawn stands out from what is behind.
func (b *browser) look(name string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		media := []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}
		b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": media})
		back := fmt.Sprint(b.js("return getComputedStyle(document.body).backgroundColor"))
		if want := map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]; back != want {
			b.t.Errorf("in %s mode the background is %s", scheme, back)
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

// lookScript returns what is wrong with what is seen, for a window of a width. Contrast is that of WCAG 2.2, 1.4.3 (text,
// 4.5) and 1.4.11 (borders and marks, 3).
const lookScript = `
const width = arguments[0], faults = [];
const say = (what, e) => { if (faults.length < 8) faults.push(what + ": " + e.tagName + "#" + e.id + "." + e.className + " " + (e.textContent || "").slice(0, 40)) };
const rgb = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
const ratio = (a, b) => { const [x, y] = [lum(rgb(a).slice(0, 3)), lum(rgb(b).slice(0, 3))].sort((a, b) => b - a); return (x + .05) / (y + .05) };
const clear = c => rgb(c)[3] === 0;
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!clear(c)) return c } return "rgb(255, 255, 255)" };
if (document.documentElement.scrollWidth > width) say("the page is " + document.documentElement.scrollWidth + " wide", document.body);
for (const e of document.querySelectorAll("body *")) {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (!box.width || !box.height || style.visibility === "hidden" || e.closest(".unseen, dialog:not([open]), option, datalist")) continue;
  if (box.right > width + 1 && !e.closest(".line, pre, td")) say("it ends at " + box.right, e);
  if (e.matches("button, a, input, select, textarea") && (box.right > width || box.left < 0)) say("out of sight", e);
  const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (text && ratio(style.color, behind(e)) < 4.5) say("text " + ratio(style.color, behind(e)).toFixed(2), e);
  for (const side of ["Top", "Right", "Bottom", "Left"]) {
    const color = style["border" + side + "Color"], wide = parseFloat(style["border" + side + "Width"]);
    const back = behind(e.matches(".level, li, #sentence") ? e : e.parentElement);
    if (wide && style["border" + side + "Style"] !== "none" && !clear(color) && ratio(color, back) < 3) say("border " + ratio(color, back).toFixed(2), e);
  }
  if (e.matches("path") && ratio(style.fill, behind(e.parentElement)) < 3) say("bar " + ratio(style.fill, behind(e.parentElement)).toFixed(2), e);
}
for (const row of document.querySelectorAll("#message-rows .head")) {
  const lines = row.getBoundingClientRect().height / parseFloat(getComputedStyle(row).lineHeight);
  if (lines > 2.6 || lines < 1.5) say("a row has " + lines + " lines", row);
}
return faults`

// pageServer is a server in this process that a browser can open.
type pageServer struct {
	*inProcess
	*browser
	url string
}

func newPageServer(t testing.TB, cfg *config, slack poster) *pageServer {
	t.Helper()
	p := newInProcess(t, cfg, slack)
	web := httptest.NewServer(p.http)
	t.Cleanup(web.Close)
	return &pageServer{inProcess: p, browser: newBrowser(t), url: web.URL + "/ui/"}
}

// send hands in a message for a tag and returns its id.
func (p *pageServer) send(tag, level, title, text, host string) string {
	body := encode(map[string]string{"tag": tag, "level": level, "title": title, "text": text, "host": host})
	w := p.inProcess.do("POST", "/notify", string(body))
	var a answer
	if json.Unmarshal(w.Body.Bytes(), &a); w.Code != 200 || len(a.IDs) == 0 {
		p.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return a.IDs[0]
}

// answers is a Slack that says what the map says to posts to a channel, and ok to all others.
type answers struct {
	sync.Mutex
	to map[string]outcome
}

func (a *answers) post(_ context.Context, _ credential, body []byte) outcome {
	a.Lock()
	defer a.Unlock()
	var p payload
	json.Unmarshal(body, &p)
	if out, ok := a.to[p.Channel]; ok {
		return out
	}
	return outcome{class: delivered}
}

func (a *answers) set(channel string, out outcome) {
	a.Lock()
	defer a.Unlock()
	a.to[channel] = out
}

const injection = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">"'&`

// nightly is a configuration as they are, with what names can be.
func nightly(t testing.TB) *config {
	var b strings.Builder
	b.WriteString("[core]\nchannel_rate = 0\nbatch = 1\nslack_url = 'http://hook.invalid/services/T0/B0/core'\n")
	tag := func(name, channel, more string) {
		fmt.Fprintf(&b, "[[tags]]\ntag = %s\nchannel = %s\n%s\n", tomlQuote(name), tomlQuote(channel), more)
	}
	for _, name := range []string{"ops", "oncall", "nightly", "billing", "deploys", "certificates", "db", "search"} {
		tag(name, "#"+name, "")
	}
	tag("cdn", "#cdn", "slack_token = 'xoxb-1'\nusername = 'cdn watch'\nicon_emoji = ':satellite:'")
	tag("edge", "#edge", "slack_token = 'xoxb-1'")
	tag("צוות-תשתיות", "#תשתיות", "")
	tag("émile-🚒-"+strings.Repeat("very-long-", 24), "#"+strings.Repeat("l", 79), "")
	tag(injection, injection, "username = "+tomlQuote(injection))
	return testConfig(t, b.String())
}

// Real-looking content, in every view: nothing is wider than the window, rows have two lines, colors can be told apart.
func TestPageLooks(t *testing.T) {
	t.Parallel()
	slack := &answers{to: map[string]outcome{
		"#billing": {class: badDestination, status: 404, reason: "channel_not_found"},
		"#db":      {class: retry, status: 503, reason: "status 503 Service Unavailable"},
		"#deploys": {class: badCredential, status: 403, reason: "invalid_auth"},
		injection:  {class: badContent, status: 400, reason: "invalid_blocks"},
		"#cdn":     {class: retry, status: 429, limited: true, wait: 14 * time.Minute, reason: "ratelimited"},
	}}
	p := newPageServer(t, nightly(t), slack)
	for i := range 40 {
		p.send("ops", []string{"info", "warn", "crit", ""}[i%4], "disk of web-0"+fmt.Sprint(i), "/var is at 9"+fmt.Sprint(i%10)+" %\nsecond line", "web-01.example")
	}
	p.send("cdn", "warn", "cache", "hit rate is 61 %", "edge-1.example")
	poll(t, "the token pauses", func() bool { return len(p.inProcess.stat(t).Paused) > 0 })
	p.send("edge", "crit", "", "On call: TLS handshake fails in fra1", "edge-2.example")
	p.send("billing", "info", "invoices", "2,310 invoices are out", "billing.example")
	for i := range 300 {
		p.send("db", []string{"warn", "crit"}[i%2], "replica lag", fmt.Sprintf("db-%d is %d s behind", i%7, i), "db-primary.example")
	}
	p.send("deploys", "", "", "v2.41.0 is live", "ci.example")
	p.send("צוות-תשתיות", "crit", "השרת לא עונה", "בדיקת תקינות נכשלה שלוש פעמים ברציפות", "שרת-1")
	long := p.send("émile-🚒-"+strings.Repeat("very-long-", 24), "warn", strings.Repeat("W", 1000), strings.Repeat("🚒longword", 4000), strings.Repeat("h", 255))
	p.send(injection, "crit", injection, injection, injection)
	p.inProcess.do("POST", "/notify-directly", string(encode(map[string]any{"payload": map[string]any{"channel": "#" + strings.Repeat("d", 79), "text": "direct " + injection}})))
	poll(t, "dead letters", func() bool { return p.inProcess.stat(t).Dead == 2 })
	p.open(p.url)
	p.wait("#trouble", "channel_not_found")
	p.look("overview")
	p.js("scrollTo(0, 500)")
	p.look("tags")
	p.open(p.url + "#messages")
	p.wait("#message-rows", "direct")
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
}
