package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMetrics(t *testing.T) {
	slack := newFakeSlack(t, func(d delivery) reply {
		if strings.Contains(d.body, "#cron") {
			return reply{status: 400, body: "no_text"}
		}
		return reply{}
	})
	s := startServer(t, server1(slack.URL)+"[[tags]]\ntag=\"quo\\\"te \\\\ new\\nline\"\n")
	s.request("POST", "/notify", notifyBody("general", 1, true))
	s.request("POST", "/notify", notifyBody("cron", 1, false))
	s.request("POST", "/notify-directly", `{"payload":{"channel":"#c","text":"x"},"sync":true}`)
	poll(t, "one dead letter", func() bool { return s.stat(t).Dead == 1 })
	_, text := s.request("GET", "/metrics", "")
	for _, want := range []string{
		`slackboard_accepted_total{tag="general"} 1`, `slackboard_accepted_total{tag=""} 1`, `slackboard_delivered_total{tag="general"} 1`,
		`slackboard_dead_messages{tag="cron"} 1`, `slackboard_dropped_total{tag="cron"} 0`, `slackboard_waiting_messages{tag="quo\"te \\ new\nline"} 0`,
		`slackboard_posts_total{outcome="delivered"} 2`, `slackboard_posts_total{outcome="content"} 1`,
		`slackboard_post_duration_seconds_count 3`, `slackboard_delivery_delay_seconds_bucket{le="60"} 2`,
		`slackboard_spool_limit_bytes 1073741824`, "slackboard_oldest_waiting_seconds 0", "slackboard_ready 1", "go_goroutines ", `slackboard_build_info{version="1.`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	var vars map[string]json.RawMessage
	_, body := s.request("GET", "/debug/vars", "")
	if err := json.Unmarshal([]byte(body), &vars); err != nil || vars["memstats"] == nil || vars["cmdline"] != nil || !strings.Contains(string(vars["slackboard"]), `"accepted":3`) {
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
		_, rules, _ := strings.Cut(readFile(t, "README.md"), "```yaml\ngroups:")
		rules, _, found := strings.Cut(rules, "```")
		if out, err := exec.Command(promtool, "check", "rules", writeFile(t, "rules.yml", "groups:"+rules)).CombinedOutput(); err != nil || !found {
			t.Errorf("the README's alert rules: %v %s", err, out)
		}
	})
}

func TestHistogram(t *testing.T) {
	h := newHistogram(1, 5)
	for _, d := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, time.Minute} {
		h.observe(d)
	}
	var e exposition
	e.histogram("x", "y", h)
	if want := "# HELP x y\n# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_bucket{le=\"5\"} 3\nx_bucket{le=\"+Inf\"} 4\nx_sum 68\nx_count 4\n"; e.String() != want {
		t.Errorf("got %s, want %s", e.String(), want)
	}
}

// /readyz says why nothing can be accepted, and -health asks it.
func TestReadiness(t *testing.T) {
	config := strings.Replace(server1("http://127.0.0.1:1"), "127.0.0.1:0", "unix:"+filepath.Join(t.TempDir(), "s"), 1) + "[spool]\nmax_bytes = 1048576\n"
	path := writeFile(t, "s.toml", config)
	health := func() (int, string) {
		code, _, stderr := runProgram(t, "", nil, "slackboard", "-c", path, "-health")
		return code, stderr
	}
	if code, stderr := health(); code != 1 || !strings.Contains(stderr, "does not answer") {
		t.Errorf("without a server: exit %d, %s", code, stderr)
	}
	s := startServer(t, config)
	if code, stderr := health(); code != 0 || stderr != "" {
		t.Errorf("with one: exit %d, %s", code, stderr)
	}
	for _, tag := range []string{"general", "cron"} {
		for status := 200; status == 200; {
			status, _ = s.request("POST", "/notify", `{"tag":"`+tag+`","text":"`+strings.Repeat("x", 2000)+`"}`)
		}
	}
	if status, body := s.request("GET", "/readyz", ""); status != 503 || !strings.Contains(body, "the spool is full") {
		t.Errorf("full: %d %s", status, body)
	}
	if status, _ := s.request("GET", "/healthz", ""); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	if code, stderr := health(); code != 1 || !strings.Contains(stderr, "not ready: ") {
		t.Errorf("full: exit %d, %s", code, stderr)
	}
	if st := s.stat(t); st.State != "full" || !strings.Contains(st.Sentence, "the spool is full") {
		t.Errorf("the sentence: %s %s", st.State, st.Sentence)
	}
}
