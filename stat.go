package main

// What an operator can measure: the counters, and GET /stat/app and /stat/go that show them.

import (
	"cmp"
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
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
	posts        int64 // to Slack, all attempts
	retries      int64 // of these after the first
	rateLimited  int64 // 429 of Slack's
	routes       map[route]*routeStats
}

type routeStats struct {
	counts
	LastAt    *time.Time `json:"last_at"`    // of the last delivery or failure
	LastError string     `json:"last_error"` // "" after a delivery
}

// maxRoutes bounds what clients can make the server remember by naming channels: further ones are counted as one.
const maxRoutes = 200_000

func newStats() *stats { return &stats{started: time.Now(), routes: map[route]*routeStats{}} }

func (s *stats) of(r route) *routeStats {
	st := s.routes[r]
	if st == nil {
		if len(s.routes) >= maxRoutes {
			r = route{channel: "(others)"}
		}
		if st = s.routes[r]; st == nil {
			st = &routeStats{}
			s.routes[r] = st
		}
	}
	return st
}

// count adds d to the totals and to those of r.
func (s *stats) count(r route, d counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.add(d)
	s.of(r).add(d)
}

// found counts what an earlier process left.
func (s *stats) found(r route, waiting, dead int) {
	s.count(r, counts{Waiting: int64(waiting), Dead: int64(dead)})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.foundAtStart += int64(waiting + dead)
}

// posted counts one post of messages and notes what became of it.
func (s *stats) posted(messages []*message, attempt int, out outcome) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts++
	if attempt > 1 {
		s.retries++
	}
	if out.limited {
		s.rateLimited++
	}
	for _, m := range messages {
		st := s.of(m.route)
		st.LastAt, st.LastError = &now, out.reason
	}
}

func (s *stats) waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total.Waiting
}

// appStat is the answer of /stat/app.
type appStat struct {
	counts
	FoundAtStart         int64     `json:"found_at_start"`
	OldestWaitingSeconds float64   `json:"oldest_waiting_seconds"`
	Posts                int64     `json:"posts"`
	Retries              int64     `json:"retries"`
	RateLimited          int64     `json:"rate_limited"`
	Damaged              int64     `json:"damaged"` // lines of the spool
	SpoolBytes           int64     `json:"spool_bytes"`
	StartedAt            time.Time `json:"started_at"`
	Tags                 []tagStat `json:"tags"`
}

type tagStat struct {
	Tag     string `json:"tag"` // "" for /notify-directly
	Channel string `json:"channel"`
	routeStats
}

func (s *server) statApp(w http.ResponseWriter, _ *http.Request) {
	oldest := s.deliver.oldest()
	st := appStat{Damaged: s.spool.damaged.Load(), SpoolBytes: s.spool.bytes.Load()}
	if !oldest.IsZero() {
		st.OldestWaitingSeconds = time.Since(oldest).Seconds()
	}
	s.stats.show(s.cfg, &st)
	sendJSON(w, st)
}

// show fills in the counters: the configured tags in their order, then what else was counted.
func (s *stats) show(cfg *config, st *appStat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.counts, st.FoundAtStart, st.StartedAt = s.total, s.foundAtStart, s.started
	st.Posts, st.Retries, st.RateLimited = s.posts, s.retries, s.rateLimited
	st.Tags = []tagStat{}
	shown := map[route]bool{}
	for _, t := range cfg.tags {
		r := route{tag: t.name}
		for shown[r] {
			r.index++
		}
		shown[r] = true
		row := tagStat{Tag: t.name, Channel: t.channel}
		if counted := s.routes[r]; counted != nil {
			row.routeStats = *counted
		}
		st.Tags = append(st.Tags, row)
	}
	var others []tagStat
	for r, counted := range s.routes {
		if !shown[r] {
			others = append(others, tagStat{r.tag, r.channel, *counted})
		}
	}
	slices.SortFunc(others, func(a, b tagStat) int { return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Channel, b.Channel)) })
	st.Tags = append(st.Tags, others...)
}

// sendJSON answers with a document for programs and people.
func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v)
}

// goStat has the original's keys, in its order.
type goStat struct {
	Time             int64     `json:"time"` // Unix, ns
	GoVersion        string    `json:"go_version"`
	GoOS             string    `json:"go_os"`
	GoArch           string    `json:"go_arch"`
	CPUNum           int       `json:"cpu_num"`
	GoroutineNum     int       `json:"goroutine_num"`
	Gomaxprocs       int       `json:"gomaxprocs"`
	CgoCallNum       int64     `json:"cgo_call_num"`
	MemoryAlloc      uint64    `json:"memory_alloc"`
	MemoryTotalAlloc uint64    `json:"memory_total_alloc"`
	MemorySys        uint64    `json:"memory_sys"`
	MemoryLookups    uint64    `json:"memory_lookups"`
	MemoryMallocs    uint64    `json:"memory_mallocs"`
	MemoryFrees      uint64    `json:"memory_frees"`
	MemoryStack      uint64    `json:"memory_stack"`
	HeapAlloc        uint64    `json:"heap_alloc"`
	HeapSys          uint64    `json:"heap_sys"`
	HeapIdle         uint64    `json:"heap_idle"`
	HeapInuse        uint64    `json:"heap_inuse"`
	HeapReleased     uint64    `json:"heap_released"`
	HeapObjects      uint64    `json:"heap_objects"`
	GCNext           uint64    `json:"gc_next"`
	GCLast           uint64    `json:"gc_last"` // Unix, ns
	GCNum            uint32    `json:"gc_num"`
	GCPerSecond      float64   `json:"gc_per_second"`
	GCPausePerSecond float64   `json:"gc_pause_per_second"` // ms
	GCPause          []float64 `json:"gc_pause"`            // ms, newest first, since the previous call
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

func (s *gcSample) stat() goStat {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	now := time.Now()
	st := goStat{
		Time: now.UnixNano(), GoVersion: runtime.Version(), GoOS: runtime.GOOS, GoArch: runtime.GOARCH,
		CPUNum: runtime.NumCPU(), GoroutineNum: runtime.NumGoroutine(), Gomaxprocs: runtime.GOMAXPROCS(0),
		CgoCallNum: runtime.NumCgoCall(), MemoryAlloc: mem.Alloc, MemoryTotalAlloc: mem.TotalAlloc, MemorySys: mem.Sys,
		MemoryLookups: mem.Lookups, MemoryMallocs: mem.Mallocs, MemoryFrees: mem.Frees, MemoryStack: mem.StackInuse,
		HeapAlloc: mem.HeapAlloc, HeapSys: mem.HeapSys, HeapIdle: mem.HeapIdle, HeapInuse: mem.HeapInuse,
		HeapReleased: mem.HeapReleased, HeapObjects: mem.HeapObjects, GCNext: mem.NextGC, GCLast: mem.LastGC,
		GCNum: mem.NumGC, GCPause: []float64{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The runtime remembers the last 256 pauses, in a ring.
	for n := mem.NumGC; n > s.num && mem.NumGC-n < uint32(len(mem.PauseNs)); n-- {
		st.GCPause = append(st.GCPause, float64(mem.PauseNs[(n-1)%uint32(len(mem.PauseNs))])/1e6)
	}
	if seconds := now.Sub(s.at).Seconds(); !s.at.IsZero() && seconds > 0 {
		st.GCPerSecond = float64(mem.NumGC-s.num) / seconds
		st.GCPausePerSecond = float64(mem.PauseTotalNs-s.pause) / 1e6 / seconds
	}
	s.at, s.num, s.pause = now, mem.NumGC, mem.PauseTotalNs
	return st
}
