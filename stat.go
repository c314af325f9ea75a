package main

// What an operator can measure: the counters, and GET /stat/app and /stat/go that show them.

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// counts are of messages. accepted + found at start = delivered + dropped + waiting + dead; the last two go up and down.
type counts struct {
	Accepted  int64 `json:"accepted"`
	Delivered int64 `json:"delivered"`
	Dropped   int64 `json:"dropped"` // by an operator, or because the record was damaged
	Waiting   int64 `json:"waiting"`
	Dead      int64 `json:"dead"`
}

func (c *counts) add(d counts) {
	c.Accepted += d.Accepted
	c.Delivered += d.Delivered
	c.Dropped += d.Dropped
	c.Waiting += d.Waiting
	c.Dead += d.Dead
}

// stats are the server's counters.
type stats struct {
	mu           sync.Mutex
	started      time.Time
	total        counts
	foundAtStart int64
	posts        map[string]int64 // to Slack, all attempts, by outcome
	retries      int64            // of these after a message's first
	routes       map[route]*routeStats
	postTook     histogram // of a post
	delay        histogram // from acceptance to delivery
	unauthorized int64     // requests
	refused      bool      // the last reload
	delivered    time.Time // the last one
	minutes      [60]minute
}

// minute is what happened in one minute of the last hour.
type minute struct {
	unix                int64 // the minute, to tell it from that an hour ago
	accepted, delivered int64
}

const limited = "limited" // the outcome of a post that Slack answered with a rate limit; others are named by their class

// histogram counts durations by upper bounds, in seconds.
type histogram struct {
	bounds []float64
	counts []int64 // one more than bounds
	sum    float64
}

func newHistogram(bounds ...float64) histogram {
	return histogram{bounds: bounds, counts: make([]int64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(h.bounds, d.Seconds())
	h.counts[i]++
	h.sum += d.Seconds()
}

type routeStats struct {
	counts
	LastAt    *time.Time `json:"last_at"`    // of the last delivery or failure
	LastError string     `json:"last_error"` // "" after a delivery
}

// maxRoutes bounds what clients can make the server remember by naming channels: further ones are counted as one.
const maxRoutes = 200_000

func newStats() *stats {
	return &stats{
		started: time.Now(), routes: map[route]*routeStats{}, posts: map[string]int64{},
		postTook: newHistogram(.05, .1, .25, .5, 1, 2.5, 5, 10, 30), delay: newHistogram(.1, .5, 1, 5, 15, 60, 300, 1800, 7200, 86400),
	}
}

func (s *stats) of(r route) *routeStats {
	if s.routes[r] == nil && len(s.routes) >= maxRoutes {
		r = route{channel: "(others)"}
	}
	if s.routes[r] == nil {
		s.routes[r] = &routeStats{}
	}
	return s.routes[r]
}

// count adds d to the totals and to those of r.
func (s *stats) count(r route, d counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.add(d)
	s.of(r).add(d)
	now := time.Now().Unix() / 60
	m := &s.minutes[now%60]
	if m.unix != now {
		*m = minute{unix: now}
	}
	m.accepted += d.Accepted
	m.delivered += d.Delivered
}

// found counts a message that an earlier process left.
func (s *stats) found(r route, dead bool) {
	if dead {
		s.count(r, counts{Dead: 1})
	} else {
		s.count(r, counts{Waiting: 1})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.foundAtStart++
}

// stored counts a message that is on disk now: a new one, or a dead letter that is sent again.
func (s *stats) stored(m *message) {
	if m.replaces != 0 {
		s.count(m.route, counts{Waiting: 1, Dead: -1})
	} else {
		s.count(m.route, counts{Waiting: 1, Accepted: 1})
	}
}

// posted counts one post of messages, which took so long, and notes what became of it.
func (s *stats) posted(messages []*message, attempt int, out outcome, took time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := out.class.String()
	if out.limited {
		kind = limited
	}
	s.posts[kind]++
	s.postTook.observe(took)
	if attempt > 1 {
		s.retries++
	}
	for _, m := range messages {
		st := s.of(m.route)
		st.LastAt, st.LastError = &now, out.reason
		if out.class == delivered {
			s.delivered = now
			s.delay.observe(now.Sub(m.acceptedAt()))
		}
	}
}

// reloaded notes whether the last reload was taken.
func (s *stats) reloaded(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = !taken
}

// refuse counts a request without the token.
func (s *stats) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unauthorized++
}

func (s *stats) waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total.Waiting
}

// appStat is the answer of /stat/app.
type appStat struct {
	counts
	FoundAtStart         int64      `json:"found_at_start"`
	OldestWaitingSeconds float64    `json:"oldest_waiting_seconds"`
	Posts                int64      `json:"posts"`
	Retries              int64      `json:"retries"`
	RateLimited          int64      `json:"rate_limited"`
	Unauthorized         int64      `json:"unauthorized"`   // requests
	ReloadRefused        bool       `json:"reload_refused"` // the last one: the configuration had an error
	Damaged              int64      `json:"damaged"`        // lines of the spool
	SpoolBytes           int64      `json:"spool_bytes"`
	StartedAt            time.Time  `json:"started_at"`
	State                string     `json:"state"` // ok, waiting, dead, failing or full
	Sentence             string     `json:"sentence"`
	LastHour             [][2]int64 `json:"last_hour"` // accepted and delivered of each minute, the oldest first
	Tags                 []tagStat  `json:"tags"`
	TagsFound            int        `json:"tags_found"` // by q=, with those that tags= left out
	TagsTotal            int        `json:"tags_total"`
	Version              string     `json:"version"`
}

type tagStat struct {
	Tag      string `json:"tag"` // "" for /notify-directly
	Channel  string `json:"channel"`
	Username string `json:"username"`
	Icon     string `json:"icon_emoji"`
	Parse    string `json:"parse"`
	routeStats
}

// statApp shows the counters. tags=N shows N tags, those in trouble first, of those that q= names.
func (s *server) statApp(w http.ResponseWriter, r *http.Request) {
	st := s.appStat()
	if q := strings.ToLower(r.URL.Query().Get("q")); q != "" {
		st.Tags = slices.DeleteFunc(st.Tags, func(t tagStat) bool {
			return !strings.Contains(strings.ToLower(t.Tag+"\n"+t.Channel+"\n"+t.LastError), q)
		})
	}
	st.TagsFound = len(st.Tags)
	if n, err := strconv.Atoi(r.URL.Query().Get("tags")); err == nil && n >= 0 {
		sort.SliceStable(st.Tags, func(i, j int) bool { return st.Tags[i].trouble() > st.Tags[j].trouble() })
		st.Tags = st.Tags[:min(n, len(st.Tags))]
	}
	sendJSON(w, st)
}

// trouble ranks a tag for those who look for what is wrong.
func (t tagStat) trouble() int {
	switch {
	case t.Waiting > 0 && t.LastError != "":
		return 3
	case t.Dead > 0:
		return 2
	case t.Waiting > 0 || t.LastError != "":
		return 1
	}
	return 0
}

func (s *server) appStat() *appStat {
	st := &appStat{Version: build(), Damaged: s.spool.damaged.Load(), SpoolBytes: s.spool.bytes.Load()}
	lanes := s.deliver.look()
	s.stats.show(s.cfg(), st)
	if !lanes.oldest.IsZero() {
		st.OldestWaitingSeconds = time.Since(lanes.oldest).Seconds()
	}
	st.State, st.Sentence = s.sentence(st, lanes)
	return st
}

// laneSummary is what the lanes tell an operator.
type laneSummary struct {
	oldest  time.Time // when the message was accepted that has waited longest, zero where none waits
	failing int       // lanes. The one that began to first:
	name    string
	since   time.Time
	err     string
}

// look returns the state of all lanes. It reads one message from disk.
func (d *deliverer) look() (sum laneSummary) {
	first := waiter(math.MaxUint64)
	d.locked(func() {
		for _, l := range d.lanes {
			if len(l.waiting) == 0 {
				continue
			}
			first = min(first, l.waiting[0])
			err, since := l.err, l.errSince
			if a := l.account; a.failures > 0 {
				err, since = a.err, a.errSince
			}
			if err == "" {
				continue
			}
			if sum.failing++; sum.failing == 1 || since.Before(sum.since) {
				sum.name, sum.since, sum.err = l.to.name(), since, err
			}
		}
	})
	if m, err := d.spool.message(first.seq()); err == nil {
		sum.oldest = m.acceptedAt()
	}
	return sum
}

// sentence says in one how things are: it is the first that an operator reads.
func (s *server) sentence(st *appStat, lanes laneSummary) (state, sentence string) {
	clock := func(at time.Time) string { return at.UTC().Format("Jan 2 15:04 UTC") }
	waits := ""
	if st.Waiting > 0 && !lanes.oldest.IsZero() {
		waits = fmt.Sprintf("%d wait, the oldest since %s", st.Waiting, clock(lanes.oldest))
	}
	if err := s.ready(); err != nil {
		return "full", fmt.Sprintf("nothing can be accepted: %v", err)
	}
	if lanes.failing > 0 {
		more := ""
		if n := lanes.failing - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more fail)", n)
		}
		return "failing", join(fmt.Sprintf("%s fails since %s: %s%s", lanes.name, clock(lanes.since), lanes.err, more), "; ", waits)
	}
	if st.Dead > 0 {
		return "dead", fmt.Sprintf("%d could not be delivered and are dead letters; %s", st.Dead, cmp.Or(waits, "everything else is delivered"))
	}
	if waits != "" {
		return "waiting", waits
	}
	s.stats.mu.Lock()
	last := s.stats.delivered
	s.stats.mu.Unlock()
	if last.IsZero() {
		return "ok", "nothing waits; nothing was delivered since the start"
	}
	return "ok", fmt.Sprintf("everything is delivered, the last one %v ago", time.Since(last).Round(time.Second))
}

// ready returns why no message can be accepted at this moment, nil while it can.
func (s *server) ready() error {
	if err := s.spool.health(); err != nil {
		return err
	}
	return s.deliver.full()
}

// show fills in the counters: the configured tags in their order, then what else was counted.
func (s *stats) show(cfg *config, st *appStat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.counts, st.FoundAtStart, st.StartedAt = s.total, s.foundAtStart, s.started
	st.Retries, st.RateLimited, st.Unauthorized = s.retries, s.posts[limited], s.unauthorized
	st.ReloadRefused = s.refused
	for _, n := range s.posts {
		st.Posts += n
	}
	now := time.Now().Unix() / 60
	for at := now - 59; at <= now; at++ {
		row := [2]int64{}
		if m := s.minutes[at%60]; m.unix == at {
			row = [2]int64{m.accepted, m.delivered}
		}
		st.LastHour = append(st.LastHour, row)
	}
	st.Tags = []tagStat{}
	shown := map[route]bool{}
	for _, t := range cfg.tags {
		r := route{tag: t.name}
		for shown[r] {
			r.index++
		}
		shown[r] = true
		row := tagStat{Tag: t.name, Channel: t.channel, Username: t.username, Icon: t.icon, Parse: t.parse}
		if counted := s.routes[r]; counted != nil {
			row.routeStats = *counted
		}
		st.Tags = append(st.Tags, row)
	}
	var others []tagStat
	for r, counted := range s.routes {
		if !shown[r] {
			others = append(others, tagStat{Tag: r.tag, Channel: r.channel, routeStats: *counted})
		}
	}
	sort.Slice(others, func(i, j int) bool {
		a, b := others[i], others[j]
		return a.Tag < b.Tag || a.Tag == b.Tag && a.Channel < b.Channel
	})
	st.Tags = append(st.Tags, others...)
	st.TagsFound, st.TagsTotal = len(st.Tags), len(st.Tags)
}

// sendJSON answers with a document for programs and people.
func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v)
}

// ordered is a JSON object: keys and values by turns, which keep their order.
type ordered []any

func (o ordered) MarshalJSON() ([]byte, error) {
	b := []byte("{")
	for i, v := range o {
		b = append(b, encode(v)...)
		b = append(b, ":,"[i%2])
	}
	b[len(b)-1] = '}'
	return b, nil
}

// gcSample is what the previous call of /stat/go saw.
type gcSample struct {
	mu    sync.Mutex
	at    time.Time
	num   uint32
	pause uint64 // ns in all
}

func (s *server) statGo(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, s.gc.stat())
}

// stat has the original's keys, in its order.
func (s *gcSample) stat() ordered {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	pauses := []float64{}
	// The runtime remembers the last 256 pauses, in a ring.
	for n := mem.NumGC; n > s.num && mem.NumGC-n < uint32(len(mem.PauseNs)); n-- {
		pauses = append(pauses, float64(mem.PauseNs[(n-1)%uint32(len(mem.PauseNs))])/1e6)
	}
	var perSecond, pausePerSecond float64
	if seconds := now.Sub(s.at).Seconds(); !s.at.IsZero() && seconds > 0 {
		perSecond = float64(mem.NumGC-s.num) / seconds
		pausePerSecond = float64(mem.PauseTotalNs-s.pause) / 1e6 / seconds
	}
	s.at, s.num, s.pause = now, mem.NumGC, mem.PauseTotalNs
	return ordered{
		"time", now.UnixNano(),
		"go_version", runtime.Version(), "go_os", runtime.GOOS, "go_arch", runtime.GOARCH,
		"cpu_num", runtime.NumCPU(), "goroutine_num", runtime.NumGoroutine(), "gomaxprocs", runtime.GOMAXPROCS(0),
		"cgo_call_num", runtime.NumCgoCall(),
		"memory_alloc", mem.Alloc, "memory_total_alloc", mem.TotalAlloc, "memory_sys", mem.Sys, "memory_lookups", mem.Lookups,
		"memory_mallocs", mem.Mallocs, "memory_frees", mem.Frees, "memory_stack", mem.StackInuse,
		"heap_alloc", mem.HeapAlloc, "heap_sys", mem.HeapSys, "heap_idle", mem.HeapIdle, "heap_inuse", mem.HeapInuse,
		"heap_released", mem.HeapReleased, "heap_objects", mem.HeapObjects,
		"gc_next", mem.NextGC,
		"gc_last", mem.LastGC, // Unix, ns
		"gc_num", mem.NumGC, "gc_per_second", perSecond,
		"gc_pause_per_second", pausePerSecond, // ms
		"gc_pause", pauses, // ms, newest first, since the previous call
	}
}
