package e2e

// Real clients of Slack post through Slackboard, configured as the README says.

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// startDoor starts a server that listens at address, with the tag ops, a sender, and its spool in dir.
func startDoor(t *testing.T, slack *FakeSlack, address, dir string) *Process {
	t.Helper()
	config := strings.NewReplacer("port = '127.0.0.1:0'", "port = '"+address+"'",
		"tag = 'general'\nchannel = '#general'", "tag = 'ops'\nchannel = '#ops'").Replace(ServerConfig(slack.URL))
	return StartServer(t, config+"[[senders]]\nname = 'x'\ntoken = 'S3NDER'\n[spool]\ndir = '"+dir+"'\n")
}

// While Slack is down, Alertmanager posts an alert twice: to a webhook, and with a token to the API. The server accepts
// both and is killed. The next server delivers them.
func TestAlertmanager(t *testing.T) {
	t.Parallel()
	alertmanager, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		t.Skip("skipped: there is no prometheus-alertmanager here (Debian: prometheus-alertmanager)")
	}
	slack := NewFakeSlack(t, func(Delivery) Reply { return Reply{Status: 503} })
	address, dir, own := DeadAddress(t), t.TempDir(), DeadAddress(t)
	s := startDoor(t, slack, address, dir)
	receivers := strings.NewReplacer("relay-host:29800", address, "/ops/TOKEN", "/ops/S3NDER",
		"/etc/alertmanager/slackboard_token", WriteFile(t, "token", "S3NDER\n")).
		Replace(example(t, "README.md", "yaml", "slack_configs:"))
	config := WriteFile(t, "alertmanager.yml", "route: {receiver: ops, group_wait: 0s}\n"+receivers)
	am := StartProcess(t, exec.Command(alertmanager, "--config.file="+config, "--storage.path="+t.TempDir(),
		"--web.listen-address="+own, "--cluster.listen-address="))
	am.Await("Alertmanager takes the alert", func() bool {
		resp, err := http.Post("http://"+own+"/api/v2/alerts", "application/json",
			strings.NewReader(`[{"labels":{"alertname":"DiskFull","host":"web-01"},"annotations":{"summary":"/var is `+
				`full"}}]`))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	Poll(t, "both messages are accepted", func() bool {
		_, metrics := s.Request("GET", "/metrics", "")
		return strings.Contains(metrics, `slackboard_accepted_total{tag="ops"} 1`) &&
			strings.Contains(metrics, `slackboard_accepted_total{tag=""} 1`)
	})
	s.Kill()
	slack.SetScript(nil)
	before := len(slack.Deliveries())
	s = startDoor(t, slack, address, dir)
	for _, d := range slack.WaitForPosts(t, before+2)[before:] {
		if !strings.Contains(d.Body, "DiskFull") || d.Field("channel") != "#ops" && d.Field("channel") != "#incidents" {
			t.Errorf("posted %s", d.Body)
		}
	}
	if log := am.Stderr.String(); strings.Contains(log, "Notify") || strings.Contains(log, "level=error") {
		t.Errorf("Alertmanager has logged an error: %s", log)
	}
}

// The npm packages @slack/webhook and @slack/web-api can post, test a token, and understand how they are refused.
func TestNPMClients(t *testing.T) {
	t.Parallel()
	modules := os.Getenv("SLACKBOARD_NPM")
	node, err := exec.LookPath("node")
	if modules == "" || err != nil {
		t.Skip("skipped: SLACKBOARD_NPM names no folder in which npm has installed @slack/webhook and " +
			"@slack/web-api, or there is no node")
	}
	slack := NewFakeSlack(t, nil)
	s := startDoor(t, slack, "127.0.0.1:0", t.TempDir())
	examples := strings.NewReplacer("http://relay-host:29800", "http://"+s.Addr, "TOKEN",
		"S3NDER").Replace(example(t, "README.md", "js", "new IncomingWebhook("))
	calls := strings.Split(strings.TrimSpace(strings.ReplaceAll(examples, "\n  .", ".")), "\n")
	script := `
const {IncomingWebhook} = require("@slack/webhook")
const {WebClient} = require("@slack/web-api")
const say = promise => promise.then(JSON.stringify, e => e.data ? e.data.error : e.message).then(console.log)
const blocks = [{type: "section", text: {type: "mrkdwn", text: "*a* & b = 100%"}}]
const client = token => new WebClient(token, {slackApiUrl: "http://` + s.Addr + `/api/"})
;(async () => {
	await say(` + calls[0] + `)
	await say(` + calls[1] + `)
	await say(client("S3NDER").auth.test())
	await say(client("S3NDER").chat.postMessage({channel: "#x", text: "both", blocks, unfurl_links: false,
		metadata: {event_type: "x", event_payload: {n: 1}}}))
	await say(client("other").auth.test())
	await say(client("S3NDER").chat.postMessage({channel: "#x"}))
	await say(client("S3NDER").chat.update({channel: "#x", ts: "1.2", text: "x"}))
	await say(new IncomingWebhook("http://` + s.Addr + `/services/ops/other").send({text: "x"}))
	await say(new IncomingWebhook("http://` + s.Addr + `/services/nope/S3NDER").send({text: "x"}))
})()
`
	cmd := exec.Command(node, "-")
	cmd.Stdin, cmd.Env = strings.NewReader(script), append(os.Environ(), "NODE_PATH="+modules+"/node_modules")
	p := StartProcess(t, cmd)
	if code := p.Wait(); code != 0 {
		t.Fatalf("node: %d %s", code, p.Stderr.String())
	}
	answers := strings.Split(strings.TrimSpace(p.Stdout.String()), "\n")
	for i, want := range []string{`"text":"ok"`, `"channel":"#ops"`, `"ok":true`, `"ok":true`, "invalid_auth",
		"no_text", "unknown_method", "403", "404"} {
		if i >= len(answers) || !strings.Contains(answers[i], want) {
			t.Errorf("answer %d has no %s: %q %s", i+1, want, answers, p.Stderr.String())
		}
	}
	posts := map[string]string{}
	for _, d := range slack.WaitForPosts(t, 3) {
		var fields map[string]any
		json.Unmarshal([]byte(d.Body), &fields)
		posts[d.Field("channel")+" "+d.Field("text")+" "+d.Field("username")] = Encode(fields["blocks"])
	}
	if len(posts) != 3 || posts["#ops hello slackboard"] != "null" || posts["#ops hello "] != "null" ||
		posts["#x both "] != `[{"text":{"text":"*a* & b = 100%","type":"mrkdwn"},"type":"section"}]` {
		t.Errorf("posted %v", posts)
	}
}
