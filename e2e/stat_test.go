package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// /metrics has the counters, in a format that promtool accepts. promtool also accepts the rules in deploy/alerts.yml.
// /debug/vars has the counters, and no command line.
func TestMetrics(t *testing.T) {
	t.Parallel()
	slack := NewFakeSlack(t, func(d Delivery) Reply {
		if strings.Contains(d.Body, "#cron") {
			return Reply{Status: 400, Body: "no_text"}
		}
		return Reply{}
	})
	s := StartServer(t, ServerConfig(slack.URL)+"[[tags]]\ntag=\"quo\\\"te \\\\ new\\nline\"\n")
	s.Request("POST", "/notify", NotifyBody("general", 1, true))
	s.Request("POST", "/notify", NotifyBody("cron", 1, false))
	s.Request("POST", "/notify-directly", `{"payload":{"channel":"#c","text":"x"},"sync":true}`)
	Poll(t, "one dead letter", func() bool { return s.Stat(t).Dead == 1 })
	_, text := s.Request("GET", "/metrics", "")
	for _, want := range []string{
		`slackboard_accepted_total{tag="general"} 1`, `slackboard_accepted_total{tag=""} 1`,
		`slackboard_delivered_total{tag="general"} 1`,
		`slackboard_dead_messages{tag="cron"} 1`, `slackboard_dropped_total{tag="cron"} 0`,
		`slackboard_waiting_messages{tag="quo\"te \\ new\nline"} 0`,
		`slackboard_posts_total{outcome="delivered"} 2`, `slackboard_posts_total{outcome="content"} 1`,
		`slackboard_http_requests_total{route="POST /notify",status="200"} 2`, `slackboard_log_lines_dropped_total 0`,
		`slackboard_post_duration_seconds_count 3`, `slackboard_delivery_delay_seconds_bucket{le="60"} 2`,
		`slackboard_spool_limit_bytes 1073741824`, "slackboard_oldest_waiting_seconds 0", "slackboard_ready 1",
		"go_goroutines ", `slackboard_build_info{version="1.`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	var vars map[string]json.RawMessage
	_, body := s.Request("GET", "/debug/vars", "")
	if err := json.Unmarshal([]byte(body), &vars); err != nil || vars["memstats"] == nil || vars["cmdline"] != nil ||
		!strings.Contains(string(vars["slackboard"]), `"accepted": 3`) {
		t.Errorf("/debug/vars: %v %.300s", err, body)
	}
	t.Run("promtool", func(t *testing.T) {
		promtool, err := exec.LookPath("promtool")
		if err != nil {
			t.Skip("skipped: there is no promtool here (Debian: prometheus)")
		}
		check := exec.Command(promtool, "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v %s", err, out)
		}
		out, err := exec.Command(promtool, "check", "rules", "../deploy/alerts.yml").CombinedOutput()
		if err != nil {
			t.Errorf("deploy/alerts.yml: %v %s", err, out)
		}
	})
}

// /readyz says why no message can be accepted. -health asks /readyz. /healthz answers 200 all the same.
func TestReadiness(t *testing.T) {
	t.Parallel()
	config := strings.Replace(ServerConfig("http://127.0.0.1:1"), "127.0.0.1:0",
		"unix:"+filepath.Join(t.TempDir(), "s"), 1) + "[spool]\nmax_bytes = 1048576\n"
	path := WriteFile(t, "s.toml", config)
	health := func() (int, string) {
		code, _, stderr := RunProgram(t, "", nil, "slackboard", "-c", path, "-health")
		return code, stderr
	}
	if code, stderr := health(); code != 1 || !strings.Contains(stderr, "does not answer") {
		t.Errorf("without a server: exit %d, %s", code, stderr)
	}
	s := StartServer(t, config)
	if code, stderr := health(); code != 0 || stderr != "" {
		t.Errorf("with a server: exit %d, %s", code, stderr)
	}
	for _, tag := range []string{"general", "cron"} {
		for status := 200; status == 200; {
			status, _ = s.Request("POST", "/notify", `{"tag":"`+tag+`","text":"`+strings.Repeat("x", 2000)+`"}`)
		}
	}
	if status, body := s.Request("GET", "/readyz", ""); status != 503 || !strings.Contains(body, "the spool is full") {
		t.Errorf("/readyz with a full spool: got %d %s, want 503", status, body)
	}
	if status, _ := s.Request("GET", "/healthz", ""); status != 200 {
		t.Errorf("/healthz with a full spool: got %d, want 200", status)
	}
	if code, stderr := health(); code != 1 || !strings.Contains(stderr, "not ready: ") {
		t.Errorf("-health with a full spool: exit %d, %s", code, stderr)
	}
	if st := s.Stat(t); st.State != "full" || !strings.Contains(st.Sentence, "the spool is full") {
		t.Errorf("the state with a full spool: %s, %s", st.State, st.Sentence)
	}
}
