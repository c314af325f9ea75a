package main

// The counters for machines: GET /metrics (https://prometheus.io/docs/instrumenting/exposition_formats/), GET
// /debug/vars, GET /healthz and /readyz, and -health, which asks the latter.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"expvar"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// exposition writes metrics in the text format.
type exposition struct{ bytes.Buffer }

func (e *exposition) head(name, kind, help string) {
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// value writes a metric that has one value. A counter's name ends in _total.
func (e *exposition) value(name, help string, v any) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	e.head(name, kind, help)
	fmt.Fprintf(e, "%s %v\n", name, v)
}

func (e *exposition) histogram(name, help string, h histogram) {
	e.head(name, "histogram", help)
	total := int64(0)
	for i, n := range h.counts {
		total += n
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = strconv.FormatFloat(h.bounds[i], 'g', -1, 64)
		}
		fmt.Fprintf(e, "%s_bucket{le=%q} %d\n", name, bound, total)
	}
	fmt.Fprintf(e, "%s_sum %v\n%s_count %d\n", name, h.sum, name, total)
}

func label(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) }

func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	st := s.appStat()
	var e exposition
	s.messageMetrics(&e, st)
	e.value("slackboard_found_at_start_messages", "Waiting and dead messages that an earlier process left.", st.FoundAtStart)
	e.value("slackboard_oldest_waiting_seconds", "Age of the message that has waited longest.", st.OldestWaitingSeconds)
	e.value("slackboard_retries_total", "Posts to Slack after a message's first.", st.Retries)
	e.value("slackboard_unauthorized_total", "Requests without the token.", st.Unauthorized)
	e.value("slackboard_spool_bytes", "Size of the spool's files.", st.SpoolBytes)
	e.value("slackboard_spool_limit_bytes", "Waiting messages that the spool takes (max_bytes).", s.cfg().spool.maxBytes)
	e.value("slackboard_spool_damaged_lines_total", "Damaged lines found in the spool.", st.Damaged)
	number := map[bool]int{true: 1}
	e.value("slackboard_ready", "1 while messages can be accepted.", number[s.ready() == nil])
	e.value("slackboard_reload_refused", "1 while the last reload was refused: the old configuration runs.", number[st.ReloadRefused])
	runtimeMetrics(&e, st.StartedAt)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(e.Bytes())
}

// messageMetrics writes what is counted for each tag, and the posts.
func (s *server) messageMetrics(e *exposition, st *appStat) {
	byTag := map[string]counts{}
	for _, t := range st.Tags {
		c := byTag[t.Tag]
		c.add(t.counts)
		byTag[t.Tag] = c
	}
	tags := slices.Sorted(maps.Keys(byTag))
	for _, m := range []struct {
		name, kind, help string
		of               func(counts) int64
	}{
		{"slackboard_accepted_total", "counter", "Messages answered ok, by tag (empty for payloads).", func(c counts) int64 { return c.Accepted }},
		{"slackboard_delivered_total", "counter", "Messages that Slack took.", func(c counts) int64 { return c.Delivered }},
		{"slackboard_dropped_total", "counter", "Messages dropped by an operator, or lost with a damaged record.", func(c counts) int64 { return c.Dropped }},
		{"slackboard_waiting_messages", "gauge", "Messages that wait.", func(c counts) int64 { return c.Waiting }},
		{"slackboard_dead_messages", "gauge", "Dead letters.", func(c counts) int64 { return c.Dead }},
	} {
		e.head(m.name, m.kind, m.help)
		for _, tag := range tags {
			fmt.Fprintf(e, "%s{tag=\"%s\"} %d\n", m.name, label(tag), m.of(byTag[tag]))
		}
	}
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	e.head("slackboard_posts_total", "counter", "Posts to Slack, by outcome.")
	for _, outcome := range []string{delivered.String(), retry.String(), limited, badContent.String(), badDestination.String(), badCredential.String()} {
		fmt.Fprintf(e, "slackboard_posts_total{outcome=%q} %d\n", outcome, s.stats.posts[outcome])
	}
	e.histogram("slackboard_post_duration_seconds", "How long a post to Slack took.", s.stats.postTook)
	e.histogram("slackboard_delivery_delay_seconds", "From acceptance to delivery.", s.stats.delay)
}

func runtimeMetrics(e *exposition, started time.Time) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e.value("go_goroutines", "Goroutines.", runtime.NumGoroutine())
	e.value("go_memstats_heap_alloc_bytes", "Bytes of live and not yet collected objects.", mem.HeapAlloc)
	e.value("go_memstats_sys_bytes", "Bytes obtained from the system.", mem.Sys)
	e.value("go_gc_cycles_total", "Garbage collections.", mem.NumGC)
	e.value("process_start_time_seconds", "When the process started, Unix time.", float64(started.UnixMilli())/1000)
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil { // proc(5)
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			pages, _ := strconv.Atoi(fields[1])
			e.value("process_resident_memory_bytes", "Resident memory.", pages*os.Getpagesize())
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.value("process_open_fds", "Open file descriptors.", len(fds))
	}
	e.head("slackboard_build_info", "gauge", "The program.")
	fmt.Fprintf(e, "slackboard_build_info{version=%q,goversion=%q} 1\n", build(), runtime.Version())
}

// debugVars shows the counters and the memory's as expvar does, without the command line.
func (s *server) debugVars(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	app := expvar.Func(func() any { return s.appStat() })
	fmt.Fprintf(w, "{\n\"memstats\": %s,\n\"slackboard\": %s\n}\n", expvar.Get("memstats"), app)
}

// healthz says that the process serves.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer{status: http.StatusOK, Message: "ok"}.send(w)
}

// readyz says whether a message can be accepted.
func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.ready(); err != nil {
		answer{status: http.StatusServiceUnavailable, Message: err.Error()}.send(w)
		return
	}
	answer{status: http.StatusOK, Message: "ok"}.send(w)
}

// askReady asks the server that runs on cfg for its /readyz: for containers and monitors without curl.
func askReady(cfg *config) error {
	network, address, err := parsePort(cfg.core.port)
	if err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(address); network == "tcp" && err == nil && host == "" {
		address = net.JoinHostPort("localhost", port)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	target := "http://localhost/readyz"
	if cfg.tls != nil { // the name in the certificate is not known; nothing secret is sent
		target = "https://localhost/readyz"
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, Certificates: cfg.tls.Certificates}
	}
	resp, err := client.Get(target)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", cmp.Or(cfg.core.port, address), errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", bytes.TrimSpace(body))
	}
	return nil
}
