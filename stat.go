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

	"slackboard/cli"
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
	State                string     `json:"state"` // ok, waiting, paused, dead, failing or full
	Sentence             string     `json:"sentence"`
	Trouble              []trouble  `json:"trouble"` // the worst 100, most at stake first
	TroubleTotal         int        `json:"trouble_total"`
	Paused               []trouble  `json:"paused"`    // the tokens that pause, also those for which nothing waits
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
	st := &appStat{Version: cli.Number, Damaged: s.spool.damaged.Load(), SpoolBytes: s.spool.bytes.Load()}
	lanes := s.deliver.look(s.cfg())
	s.stats.show(s.cfg(), st)
	if !lanes.oldest.IsZero() {
		st.OldestWaitingSeconds = time.Since(lanes.oldest).Seconds()
	}
	st.Trouble, st.TroubleTotal, st.Paused = lanes.trouble, lanes.total, lanes.paused
	st.State, st.Sentence = s.sentence(st, lanes)
	return st
}

// Why messages of a destination have to wait longer than for their turn.
const (
	failing     = "failing"     // its posts fail
	paused      = "paused"      // Slack asked for that: it is no failure
	unreachable = "unreachable" // its token or webhook cannot be connected to
)

const (
	maxTrouble    = 100 // that are listed
	tagsOfTrouble = 20  // that are listed with each
)

// trouble is a destination, or are all those of one token or webhook, whose messages have to wait, and why.
type trouble struct {
	Kind          string     `json:"kind"`
	Channel       string     `json:"channel"` // of several destinations, that of the one where most waits
	Destinations  int        `json:"destinations"`
	Tags          []string   `json:"tags"` // that lead there
	Waiting       int        `json:"waiting"`
	Reason        string     `json:"reason"`
	Since         *time.Time `json:"since"`           // null for a token's pause
	NextAttemptAt *time.Time `json:"next_attempt_at"` // null if it is due, or being posted

	worst *lane
}

// laneSummary is what the lanes tell an operator.
type laneSummary struct {
	oldest       time.Time      // when the message was accepted that has waited longest, zero if none waits
	destinations map[string]int // that wait, by kind of trouble
	trouble      []trouble      // most at stake first
	paused       []trouble      // the tokens that pause, also those for which nothing waits
	total        int            // of trouble, with what is not listed
}

// worstOf keeps the first n of what is added, in the order of compare.
type worstOf[T any] struct {
	n       int
	compare func(a, b T) int
	items   []T
	full    bool // the first n of items are in order
}

func (f *worstOf[T]) add(v T) {
	if f.full && f.compare(v, f.items[f.n-1]) >= 0 {
		return
	}
	if f.items = append(f.items, v); len(f.items) >= 2*f.n {
		f.all()
	}
}

func (f *worstOf[T]) all() []T {
	slices.SortStableFunc(f.items, f.compare)
	f.items = f.items[:min(f.n, len(f.items))]
	f.full = len(f.items) == f.n
	return f.items
}

// look returns the state of all lanes, with the tags of cfg. It reads one message from disk.
func (d *deliverer) look(cfg *config) laneSummary {
	oldest, sum := waiter(math.MaxUint64), laneSummary{destinations: map[string]int{}, trouble: []trouble{}, paused: []trouble{}}
	worst := worstOf[*lane]{n: maxTrouble, compare: func(a, b *lane) int {
		return cmp.Or(cmp.Compare(len(b.waiting), len(a.waiting)), a.errSince.Compare(b.errSince))
	}}
	d.locked(func() {
		now, whole := time.Now(), map[*account]*trouble{}
		for _, a := range d.accounts {
			if a.limited && a.until.After(now) {
				whole[a] = &trouble{Kind: paused}
			}
		}
		for _, l := range d.lanes {
			kind, ofAccount := l.trouble(now)
			if len(l.waiting) == 0 {
				continue
			}
			oldest = min(oldest, l.waiting[0])
			switch {
			case kind == "":
				continue
			case !ofAccount:
				sum.total++
				worst.add(l)
			default:
				if whole[l.account] == nil {
					whole[l.account] = &trouble{Kind: kind}
				}
				whole[l.account].include(l)
			}
			sum.destinations[kind]++
		}
		for _, l := range worst.all() {
			t := trouble{}
			t.include(l)
			t.explain(l.account, now)
			sum.trouble = append(sum.trouble, t)
		}
		for a, t := range whole {
			if t.explain(a, now); t.Kind == paused {
				sum.paused = append(sum.paused, *t)
			}
			if t.Waiting > 0 {
				sum.total++
				sum.trouble = append(sum.trouble, *t)
			}
		}
	})
	byStake := func(a, b trouble) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Reason, b.Reason))
	}
	slices.SortFunc(sum.trouble, byStake)
	slices.SortFunc(sum.paused, byStake)
	sum.trouble = sum.trouble[:min(maxTrouble, len(sum.trouble))]
	sum.paused = sum.paused[:min(maxTrouble, len(sum.paused))]
	cfg.nameTags(sum.trouble, sum.paused)
	if m, err := d.spool.message(oldest.seq()); err == nil {
		sum.oldest = m.acceptedAt()
	}
	return sum
}

// trouble returns of what kind the trouble of l is, "" for none, and whether its whole account has it.
func (l *lane) trouble(now time.Time) (kind string, ofAccount bool) {
	switch a := l.account; {
	case a.failures > 0:
		return unreachable, true
	case l.err != "" && l.head.limits == 0:
		return failing, false
	case a.limited && a.until.After(now):
		return paused, true
	case l.err != "":
		return paused, false
	}
	return "", false
}

// include adds what waits in l.
func (t *trouble) include(l *lane) {
	t.Destinations++
	t.Waiting += len(l.waiting)
	if t.worst == nil || len(l.waiting) > len(t.worst.waiting) {
		t.worst = l
	}
}

// explain fills in the reason and the times: those of a, or those of the one lane of t.
func (t *trouble) explain(a *account, now time.Time) {
	l, reason, since, next := t.worst, a.err, a.errSince, a.until
	t.Tags = []string{}
	if l != nil {
		t.Channel = shortened(l.to.channel)
	}
	if t.Kind == "" {
		t.Kind, _ = l.trouble(now)
		reason, since, next = l.err, l.errSince, slices.MaxFunc([]time.Time{l.next(), a.until}, time.Time.Compare)
	} else if t.Kind == paused {
		since = time.Time{}
	}
	t.Reason = shortened(reason)
	if since = since.UTC(); !since.IsZero() {
		t.Since = &since
	}
	if next = next.UTC(); next.After(now) {
		t.NextAttemptAt = &next
	}
}

// nameTags adds to each of lists the tags that lead there.
func (c *config) nameTags(lists ...[]trouble) {
	at := map[destination][]*trouble{}
	for _, list := range lists {
		for i := range list {
			if l := list[i].worst; l != nil && list[i].Destinations == 1 {
				at[l.to] = append(at[l.to], &list[i])
			} else if l != nil {
				at[destination{credential: l.to.credential}] = append(at[destination{credential: l.to.credential}], &list[i])
			}
		}
	}
	if len(at) == 0 {
		return
	}
	for _, t := range c.tags {
		one, several := at[destination{t.credential, t.channel}], at[destination{credential: t.credential}]
		for _, found := range slices.Concat(one, several) {
			if len(found.Tags) < tagsOfTrouble && !slices.Contains(found.Tags, t.name) {
				found.Tags = append(found.Tags, t.name)
			}
		}
	}
}

func clock(at time.Time) string { return at.UTC().Format("Jan 2 15:04 UTC") }

// says is the trouble in words, with how many more destinations of its kind there are.
func (t *trouble) says(more int) string {
	who := cmp.Or(t.Channel, "the webhook's channel")
	if n := t.Destinations - 1; n > 0 {
		who, more = fmt.Sprintf("%s and %d more", who, n), more-n
	}
	text, others := "", "fail"
	switch {
	case t.Kind == paused && t.NextAttemptAt != nil:
		text, others = fmt.Sprintf("a pause for %s until %s", who, clock(*t.NextAttemptAt)), "pause"
	case t.Kind == paused:
		text, others = fmt.Sprintf("a pause for %s has ended", who), "pause"
	case t.Kind == unreachable:
		text = fmt.Sprintf("%s cannot be reached since %s", who, clock(*t.Since))
	default:
		text = fmt.Sprintf("%s fails since %s", who, clock(*t.Since))
	}
	if text += ": " + t.Reason; more > 0 {
		text += fmt.Sprintf(" (and %d more %s)", more, others)
	}
	return text
}

// sentence says in one how things are: it is the first that an operator reads. The destination with the most at stake
// comes first.
func (s *server) sentence(st *appStat, lanes laneSummary) (state, sentence string) {
	if err := s.ready(); err != nil {
		return "full", fmt.Sprintf("nothing can be accepted: %v", err)
	}
	fail, pause := lanes.destinations[failing]+lanes.destinations[unreachable], lanes.destinations[paused]
	saidFail, saidPause := fail == 0, pause == 0
	for i := range lanes.trouble {
		t := &lanes.trouble[i]
		if said, more := &saidFail, fail-1; t.Kind != paused && !*said {
			*said, sentence = true, join(sentence, "; ", t.says(more))
		}
		if said, more := &saidPause, pause-1; t.Kind == paused && !*said {
			*said, sentence = true, join(sentence, "; ", t.says(more))
		}
	}
	waits := ""
	if st.Waiting > 0 && !lanes.oldest.IsZero() {
		waits = fmt.Sprintf("%d wait, the oldest since %s", st.Waiting, clock(lanes.oldest))
	}
	s.stats.mu.Lock()
	last := s.stats.delivered
	s.stats.mu.Unlock()
	switch all := join(sentence, "; ", waits); {
	case fail > 0:
		return failing, all
	case st.Dead > 0:
		return "dead", fmt.Sprintf("%d could not be delivered and are dead letters; %s", st.Dead, cmp.Or(all, "everything else is delivered"))
	case pause > 0:
		return paused, all
	case waits != "":
		return "waiting", waits
	case last.IsZero():
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
