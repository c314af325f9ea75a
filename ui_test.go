package main

// The page in a real browser: headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/).

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
			b.t.Logf("%s shows %q", css, shown)
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

// picture saves what is seen, in light and dark, wide and on a phone, where SLACKBOARD_PICTURES names a folder. It fails
// for a page that is wider than the phone.
func (b *browser) picture(name string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
		back := fmt.Sprint(b.js("return getComputedStyle(document.body).backgroundColor"))
		if want := map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]; back != want {
			b.t.Errorf("in %s mode the background is %s", scheme, back)
		}
		for _, width := range []int{1300, 390} {
			b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500})
			if wide := b.js("return document.documentElement.scrollWidth").(float64); int(wide) > width {
				b.t.Errorf("%s at %d pixels is %v wide", name, width, wide)
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

const injection = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">"'&`

// An operator's night: a test message arrives, a dead letter is seen with its reason, sent again, and gone.
func TestPage(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	slack := newFakeSlack(t, func(d delivery) reply {
		switch {
		case strings.Contains(d.body, "#broken"):
			return reply{status: 400, body: "invalid_blocks"}
		case strings.Contains(d.body, "#down"):
			return reply{status: 503}
		}
		return reply{}
	})
	config := server1(slack.URL) + fmt.Sprintf("[[tags]]\ntag='broken'\nchannel='#broken'\n[[tags]]\ntag='down'\nchannel='#down'\n[[tags]]\ntag=%s\nchannel=%[1]s\nusername=%[1]s\nicon_emoji=%[1]s\n",
		tomlQuote(injection))
	s := startServer(t, config)
	s.addr = "127.0.0.1:" + s.addr[strings.LastIndex(s.addr, ":")+1:]
	b.open("http://" + s.addr + "/")
	b.wait("#sentence", "nothing waits")

	b.click("nav a[href='#send']")
	b.write("[name=to]", "general")
	b.write("[name=title]", injection)
	b.write("[name=text]", injection+" hello")
	b.click("#send-form button")
	b.wait("#answer", `200 {"message":"ok"`)
	b.wait("#sentence", "everything is delivered")
	b.picture("send")
	b.click("nav a[href='#messages']")
	b.click("[data-state=delivered]")
	b.wait("#message-rows", injection+" hello")

	for _, tag := range []string{"broken", "down", injection} {
		body, _ := json.Marshal(map[string]string{"tag": tag, "text": injection, "title": injection, "level": "crit", "host": injection})
		if status, answer := s.request("POST", "/notify", string(body)); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	b.click("[data-state=waiting]")
	b.wait("#message-rows", "status 503 Service Unavailable")
	b.wait("#sentence", "#down fails since")
	b.picture("waiting")
	b.click("[data-state=dead]")
	b.wait("#message-rows", "invalid_blocks")
	b.wait("#message-rows .text", injection)
	b.picture("dead")
	slack.setScript(nil)
	b.click("#message-rows .do button")
	b.wait("#ask-text", "again?")
	b.click("#ask [value=no]")
	if st := s.stat(t); st.Dead != 1 {
		t.Errorf("after cancel: %+v", st)
	}
	b.click("#message-rows .do button")
	b.click("#ask-yes")
	b.wait("#message-count", "0 dead")
	poll(t, "the dead letter is delivered", func() bool { return s.stat(t).Dead == 0 })
	b.click("[data-state=delivered]")
	b.wait("#message-rows", "broken")
	b.click("nav a[href='#tags']")
	b.wait("#tag-rows", injection)
	b.click("nav a[href='#config']")
	b.wait("#config-text", `slack_url = "..."`)
	b.wait("#about", "version 1.")
	if hacked := b.js("return [window.hacked, document.scripts.length]"); fmt.Sprint(hacked) != "[<nil> 1]" {
		t.Errorf("a message was taken for markup: %v", hacked)
	}
	var logged []struct{ Message string }
	b.call("POST", "/se/log", map[string]string{"type": "browser"}, &logged)
	for _, line := range logged { // the browser's own new-tab page complains as well, where there is no network
		ours := strings.HasPrefix(line.Message, "http://"+s.addr)
		if ours && !strings.Contains(line.Message, "/messages") { // what is not there any more is 404
			t.Errorf("the browser complains: %s", line.Message)
		}
	}
	s.kill()
	b.wait("#offline", "The server does not answer")
}

// Without a picture of a mouse: the keyboard reaches everything, in order.
func TestPageByKeyboard(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := startServer(t, server1("http://127.0.0.1:1"))
	b.open("http://127.0.0.1:" + s.addr[strings.LastIndex(s.addr, ":")+1:] + "/ui/#send")
	b.wait("#sentence", "nothing waits")
	keys := func(text string) {
		var actions []map[string]string
		for _, c := range text {
			actions = append(actions, map[string]string{"type": "keyDown", "value": string(c)}, map[string]string{"type": "keyUp", "value": string(c)})
		}
		b.call("POST", "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "k", "actions": actions}}}, nil)
	}
	const tab, enter, space = "\ue004", "\ue007", " "
	keys(tab + tab + "general" + tab + tab + tab + tab + space + tab + enter)
	b.wait("#answer", `200 {"message":"ok"`)
	if focus := b.js("return getComputedStyle(document.activeElement).outlineWidth"); focus != "3px" {
		t.Errorf("the focus is not seen: outline %v", focus)
	}
}

// 5,000 tags and 1,000 messages: what is looked for is found, and what is in trouble stands first.
func TestPageWithMuch(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	var config strings.Builder
	config.WriteString("[core]\nport = '127.0.0.1:0'\nslack_url = 'http://127.0.0.1:1/'\n")
	for i := range 5000 {
		fmt.Fprintf(&config, "[[tags]]\ntag = 'tag-%04d'\nchannel = '#c%d'\n", i, i)
	}
	s := startServer(t, config.String())
	for i := range 1000 {
		s.request("POST", "/notify", fmt.Sprintf(`{"tag":"tag-%04d","text":"message %d","level":"warn","host":"web-%d"}`, 4000+i%10, i, i%50))
	}
	b.open("http://" + s.addr + "/ui/")
	b.wait("#tag-rows tr:first-child", "tag-400")
	b.wait("#tag-count", "200 of 5,000, trouble first")
	b.write("#tag-filter", "tag-1234")
	b.wait("#tag-count", "1 of 5,000")
	b.wait("#tag-rows", "#c1234")
	b.write("#tag-filter", "")
	b.picture("tags")
	b.click("nav a[href='#messages']")
	b.click("[data-state=waiting]")
	b.wait("#message-count", "the newest 100 of 1,000")
	b.write("#message-search", "message 777")
	b.wait("#message-count", "1 waiting")
	b.wait("#message-rows", "tag-4007")

	// What one reads does not move: rows that come wait behind a button, rows that go stay, dimmed.
	b.write("#message-search", "")
	b.wait("#message-count", "the newest 100 of 1,000")
	first := b.js("return document.querySelector('#message-rows tr').dataset.key")
	s.request("POST", "/notify", `{"tag":"tag-0001","text":"the newest"}`)
	b.wait("#message-changes", "show 1 new")
	if now := b.js("return document.querySelector('#message-rows tr').dataset.key"); now != first {
		t.Errorf("the first row was %v, is %v", first, now)
	}
	b.click("#message-changes")
	b.wait("#message-rows tr:first-child", "the newest")
	b.picture("messages")
	took := b.js(`const start = performance.now(); for (let i = 0; i < 20; i++) drawTags(); return (performance.now() - start) / 20`)
	t.Logf("drawing the tags again takes %.1f ms", took)
}

// Seen from elsewhere, the page shows the numbers, and says how to get the rest.
func TestPageFromElsewhere(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	slack := newFakeSlack(t, nil)
	s := startServer(t, server1(slack.URL))
	s.request("POST", "/notify", notifyBody("general", 1, true))
	behind, err := url.Parse("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(httputil.NewSingleHostReverseProxy(behind)) // adds X-Forwarded-For
	defer proxy.Close()
	b.open(proxy.URL + "/ui/#messages")
	b.wait("#delivered", "1")
	b.wait("#message-note", "messages are shown to the server's own host only")
	b.wait("#message-note", "ssh -L")
}

// [ui] root serves a folder instead.
func TestPageOfOnesOwn(t *testing.T) {
	dir := filepath.Dir(writeFile(t, "index.html", "<h1>mine</h1>"))
	s := startServer(t, server1("http://127.0.0.1:1")+"[ui]\nroot='"+dir+"'\n")
	for path, want := range map[string]string{"/ui/": "<h1>mine</h1>", "/ui": "<h1>mine</h1>", "/": "<h1>mine</h1>"} {
		if status, body := s.request("GET", path, ""); status != 200 || body != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	s = startServer(t, server1("http://127.0.0.1:1")+"[ui]\nroot='/nowhere'\n")
	if status, body := s.request("GET", "/ui/", ""); status != 200 || !strings.Contains(body, "<h1>Slackboard</h1>") || !strings.Contains(s.stderr.String(), "/nowhere is not a folder") {
		t.Errorf("the built-in page: %d %s", status, s.stderr.String())
	}
	if status, body := s.request("GET", "/ui/nothing", ""); status != 404 || !strings.Contains(body, `"message"`) {
		t.Errorf("/ui/nothing: %d %s", status, body)
	}
}
