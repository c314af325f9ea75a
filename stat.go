package main

// The counters, in one table, and the handlers that show them: /stat/app, /debug/vars and /metrics
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Also /stat/go, and what /readyz answers.

import (
	"bufio"
	"cmp"
	"expvar"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// counters is the table of counters: each counter is declared here, or in counts, and nowhere else. In the struct tags,
// json is its name in /stat/app, and metric its name in /metrics, without the prefix slackboard_. The metric's name
// ends with _total if the counter only grows.
type counters struct {
	counts
	OldestWaitingSeconds float64 `json:"oldest_waiting_seconds" metric:"oldest_waiting_seconds" help:"Longest wait."`

	Posts         int64 `json:"posts"` // in /metrics by outcome
	Retries       int64 `json:"retries" metric:"retries_total" help:"Posts that repeat an earlier one."`
	RateLimited   int64 `json:"rate_limited"` // posts that met a rate limit
	Unauthorized  int64 `json:"unauthorized" metric:"unauthorized_total" help:"Requests without a valid token."`
	ReloadRefused bool  `json:"reload_refused" metric:"reload_refused" help:"1 if the last reload was refused."`
	Ready         bool  `json:"ready" metric:"ready" help:"1 while messages can be accepted."`

	Damaged    int64 `json:"damaged" metric:"spool_damaged_lines_total" help:"Damaged lines found in the spool."`
	SpoolBytes int64 `json:"spool_bytes" metric:"spool_bytes" help:"Size of the spool's files."`
	SpoolLimit int64 `json:"spool_limit_bytes" metric:"spool_limit_bytes" help:"Limit of waiting_bytes: max_bytes."`
	Bytes      int64 `json:"waiting_bytes" metric:"waiting_bytes" help:"Size of the waiting messages."`

	LogLinesDropped int64 `json:"log_lines_dropped" metric:"log_lines_dropped_total" help:"Log lines not written."`

	StartedAt   time.Time `json:"started_at"`
	DeliveredAt moment    `json:"delivered_at"` // the last delivery

	outcomes [limited + 1]int64 // posts to Slack, by class
	postTook histogram          // how long a post took
	delay    histogram          // from acceptance to delivery
}

// counts are numbers of messages: those of the whole server, of a route or of a tag. For the whole server,
// Accepted + FoundAtStart is always equal to Delivered + Dropped + Waiting + Dead.
type counts struct {
	Accepted     int64 `json:"accepted" metric:"accepted_total" help:"Messages answered ok; no tag: for a channel."`
	FoundAtStart int64 `json:"found_at_start" metric:"found_at_start_messages" help:"Messages found at the start."`
	Delivered    int64 `json:"delivered" metric:"delivered_total" help:"Messages that Slack took."`
	Dropped      int64 `json:"dropped" metric:"dropped_total" help:"Messages dropped by an operator, or lost."`
	Waiting      int64 `json:"waiting" metric:"waiting_messages" help:"Messages that wait."`
	Dead         int64 `json:"dead" metric:"dead_messages" help:"Dead letters."`
}

func (c *counts) add(d counts) {
	sums, more := reflect.ValueOf(c).Elem(), reflect.ValueOf(d)
	for i := range sums.NumField() {
		sums.Field(i).SetInt(sums.Field(i).Int() + more.Field(i).Int())
	}
}

// moment is a time that is null in JSON if it is zero.
type moment struct{ time.Time }

func (m moment) MarshalJSON() ([]byte, error) {
	if m.IsZero() {
		return []byte("null"), nil
	}
	return m.UTC().MarshalJSON()
}

// stats are the server's counters.
type stats struct {
	guard
	counters
	routes              map[route]*routeStats
	inOrder             []*routeStats
	channels            int // routes that lead to a channel, not to a tag
	accepted, delivered hour

	requests expvar.Map // HTTP requests, by route and status; locks itself
}

// histogram counts durations in buckets. Each bucket has an upper bound, in seconds.
type histogram struct {
	bounds []float64
	counts [11]int64 // one for each bound, then one for longer durations
	sum    float64
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(h.bounds, d.Seconds())
	h.counts[i]++
	h.sum += d.Seconds()
}

type routeStats struct {
	route route
	counts
	LastAt      moment `json:"last_at"`    // of the last post
	LastError   string `json:"last_error"` // "" after a delivery
	DeliveredAt moment `json:"delivered_at"`
	accepted    hour
}

// hour counts events of the last hour, in steps of equal length. A copy shares the steps of its original: it may only
// be read, and only under the lock of the original.
type hour struct {
	newest int64   // number of the newest step, counted from 1970
	steps  []int32 // events of each step, the oldest step first
}

func (h *hour) add(n int64) {
	size := int64(len(h.steps))
	step := time.Now().Unix() / (3600 / size)
	if over := min(step-h.newest, size); over > 0 {
		h.newest, h.steps = step, slices.Concat(h.steps[over:], make([]int32, over))
	}
	h.steps[size-1] += int32(n)
}

// all returns the counts of all steps, up to now.
func (h *hour) all() []int32 {
	h.add(0)
	return slices.Clone(h.steps)
}

// maxChannels is how many channels have counters of their own. It bounds the memory, since clients can name any
// channel. Further channels are counted together.
const maxChannels = 20_000

func newStats() *stats {
	s := &stats{routes: map[route]*routeStats{}}
	s.accepted.steps, s.delivered.steps = make([]int32, 60), make([]int32, 60)
	s.StartedAt = time.Now()
	s.postTook.bounds = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	s.delay.bounds = []float64{.1, .5, 1, 5, 15, 60, 300, 1800, 7200, 86400}
	return s
}

// of returns the counters of r, and makes them if there are none. The caller holds mu.
func (s *stats) of(r route) *routeStats {
	if s.routes[r] == nil && r.tag == "" && s.channels >= maxChannels {
		r = route{channel: "(others)"}
	}
	if s.routes[r] == nil {
		s.channels += asInt(r.tag == "")
		s.routes[r] = &routeStats{route: r, accepted: hour{steps: make([]int32, 12)}}
		s.inOrder = append(s.inOrder, s.routes[r])
	}
	return s.routes[r]
}

// count adds d to the counters of the server and to those of r.
func (s *stats) count(r route, d counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(r)
	s.add(d)
	st.add(d)
	s.accepted.add(d.Accepted)
	st.accepted.add(d.Accepted)
	s.delivered.add(d.Delivered)
}

// posted counts one post and how long it took, and notes its outcome for the routes of its messages.
func (s *stats) posted(messages []*message, attempt int, out outcome, took time.Duration) {
	now := moment{time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Posts++
	s.outcomes[out.class]++
	s.Retries += int64(asInt(attempt > 1))
	s.postTook.observe(took)
	for _, m := range messages {
		st := s.of(m.route)
		st.LastAt, st.LastError = now, out.reason
		if out.class == delivered {
			s.DeliveredAt, st.DeliveredAt = now, now
			s.delay.observe(now.Sub(m.acceptedAt()))
		}
	}
}

// tags calls f for each entry of a tag, and for each channel, with its counters. mu is held during the calls. f must
// not keep row: the next call gets the same row, with other values.
func (s *stats) tags(cfg *config, f func(row *tagStat)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var row tagStat
	for _, st := range s.inOrder {
		to, t, err := cfg.lookup(st.route)
		if err != nil && st.counts == (counts{}) {
			continue // it is not configured any more, and nothing was counted
		}
		t = cmp.Or(t, &tag{}) // a channel, or a tag that is gone, has no settings
		row = tagStat{Tag: st.route.tag, Channel: to.channel, Username: t.username, Icon: t.icon, Parse: t.parse,
			routeStats: *st}
		f(&row)
	}
}

// appStat is the answer of /stat/app.
type appStat struct {
	counters
	State        string     `json:"state"` // ok, waiting, paused, dead, failing or full
	Sentence     string     `json:"sentence"`
	Trouble      []*trouble `json:"trouble"` // the 100 with the most waiting messages, these first
	TroubleTotal int        `json:"trouble_total"`
	LastHour     [2][]int32 `json:"last_hour"` // accepted and delivered of each minute, the oldest first
	Version      string     `json:"version"`
	Tags         []*tagStat `json:"tags"`
	TagsFound    int        `json:"tags_found"` // by q= and tag=, including those that tags= left out
	TagsTotal    int        `json:"tags_total"`

	oldest time.Time // when the oldest waiting message was accepted; zero if none waits, or it cannot be read
	lanes  int
	ill    [2]int // how many destinations fail or are unreachable; how many pause
}

type tagStat struct {
	Tag      string `json:"tag"` // "" for a channel
	Channel  string `json:"channel"`
	Username string `json:"username"`
	Icon     string `json:"icon_emoji"`
	Parse    string `json:"parse"`
	routeStats
	LastHour int64 `json:"last_hour"` // messages accepted

	// The trouble of its destination, even if no message waits there: see trouble.
	Trouble       string `json:"trouble"`
	Reason        string `json:"reason"`
	NextAttemptAt moment `json:"next_attempt_at"`
}

// tagOrders are the values of sort=. With - in front of the value, the order is reversed.
var tagOrders = map[string]func(a, b *tagStat) int{
	"trouble":      func(a, b *tagStat) int { return cmp.Or(b.alarm()-a.alarm(), cmp.Compare(b.Waiting, a.Waiting)) },
	"tag":          func(a, b *tagStat) int { return cmp.Compare(a.Tag, b.Tag) },
	"channel":      func(a, b *tagStat) int { return cmp.Compare(a.Channel, b.Channel) },
	"waiting":      func(a, b *tagStat) int { return cmp.Compare(a.Waiting, b.Waiting) },
	"dead":         func(a, b *tagStat) int { return cmp.Compare(a.Dead, b.Dead) },
	"last_hour":    func(a, b *tagStat) int { return cmp.Compare(a.LastHour, b.LastHour) },
	"last_error":   func(a, b *tagStat) int { return cmp.Compare(a.LastError, b.LastError) },
	"delivered_at": func(a, b *tagStat) int { return a.DeliveredAt.Compare(b.DeliveredAt.Time) },
}

// alarm is higher if more is wrong: messages that wait behind an error count most, then dead letters, then waiting
// messages or an error alone.
func (t *tagStat) alarm() int {
	return 4*asInt(t.Waiting > 0 && t.LastError != "") + 2*asInt(t.Dead > 0) + asInt(t.Waiting > 0 || t.LastError != "")
}

// insert puts a copy of v into list, which is sorted, behind its equals. It returns the first n elements.
func insert[T any](list []*T, n int, v *T, compare func(a, b *T) int) []*T {
	at, _ := slices.BinarySearchFunc(list, v, func(a, b *T) int { return cmp.Or(compare(a, b), -1) })
	if at < n {
		kept := *v
		list = slices.Insert(list, at, &kept)
	}
	return list[:min(n, len(list))]
}

const maxTags = 10_000 // in one answer of /stat/app

// debugVars shows the counters and Go's memory statistics, in the format of expvar. Unlike expvar, it does not show the
// command line.
func (s *server) debugVars(r *http.Request) (ordered, error) {
	st, err := s.statApp(r)
	return ordered{"memstats", expvar.Get("memstats").(expvar.Func).Value(), "slackboard", st}, err
}

// statApp shows the counters, and the tags that match q= and tag=: at most tags=N of them, in the order of sort= (by
// default, those in trouble first).
func (s *server) statApp(r *http.Request) (*appStat, error) {
	query := r.URL.Query()
	n, q, tag := maxTags, strings.ToLower(query.Get("q")), query.Get("tag")
	if asked, err := strconv.Atoi(query.Get("tags")); err == nil && asked >= 0 {
		n = min(n, asked)
	}
	by, reversed := strings.CutPrefix(cmp.Or(query.Get("sort"), "trouble"), "-")
	sign := map[bool]int{false: 1, true: -1}[reversed]
	compare, worseFirst := tagOrders[by], tagOrders["trouble"]
	if compare == nil {
		orders := slices.Sorted(maps.Keys(tagOrders))
		return nil, badRequest("sort=%s: it has to be one of %s", by, strings.Join(orders, ", "))
	}
	st := &appStat{Trouble: []*trouble{}, Tags: []*tagStat{}}
	s.stats.tags(s.cfg(), func(t *tagStat) {
		st.TagsTotal++
		if tag != "" && t.Tag != tag ||
			q != "" && !strings.Contains(strings.ToLower(t.Tag+"\n"+t.Channel+"\n"+t.LastError), q) {
			return
		}
		st.TagsFound++
		for _, n := range t.accepted.all() {
			t.LastHour += int64(n)
		}
		st.Tags = insert(st.Tags, n, t, func(a, b *tagStat) int { return cmp.Or(sign*compare(a, b), worseFirst(a, b)) })
	})
	return s.fill(st), nil
}

// fill fills in everything in st except its tags. To the tags that st already has, it adds the trouble of their
// destinations.
func (s *server) fill(st *appStat) *appStat {
	s.stats.locked(func() {
		st.counters, st.RateLimited = s.stats.counters, s.stats.outcomes[limited]
		st.LastHour = [2][]int32{s.stats.accepted.all(), s.stats.delivered.all()}
	})
	s.lookAtLanes(st)
	st.Damaged, st.SpoolBytes, st.SpoolLimit = s.spool.damaged.Load(), s.spool.bytes.Load(), s.cfg().spool.maxBytes
	st.State, st.Sentence = st.sentence(s.ready())
	st.Ready, st.LogLinesDropped, st.Version = st.State != "full", s.lost(), build()
	return st
}

// The kinds of trouble: why the messages for a destination have to wait longer than for their turn.
const (
	failing     = "failing"     // its posts fail
	paused      = "paused"      // Slack asked for a pause: this is no failure
	unreachable = "unreachable" // no connection can be made for its token or webhook
)

const maxTrouble = 100 // entries that are listed

// trouble is a destination whose messages have to wait, or all such destinations of one token or webhook, and why.
type trouble struct {
	Kind          string `json:"kind"`
	Channel       string `json:"channel"` // of several: of the destination with the most waiting messages
	Destinations  int    `json:"destinations"`
	Waiting       int    `json:"waiting"`
	Reason        string `json:"reason"`
	Since         moment `json:"since"`           // when it began; null for a token's pause
	NextAttemptAt moment `json:"next_attempt_at"` // null if the next post is due, or in flight
}

// trouble returns the trouble of l. Its Kind is "" if there is none.
func (l *lane) trouble(now time.Time) trouble {
	a, next := l.account, l.account.until
	t := trouble{Channel: l.to.channel, Destinations: 1, Waiting: len(l.waiting), Reason: a.err}
	switch {
	case a.failures > 0:
		t.Kind, t.Since = unreachable, moment{a.errSince}
	case a.limited && a.until.After(now) && (l.err == "" || l.limited):
		t.Kind = paused
	case l.err != "":
		t.Kind, t.Reason, t.Since, next = failing, l.err, moment{l.errSince}, l.nextTurn()
		if l.limited {
			t.Kind = paused
		}
	default:
		return trouble{}
	}
	if next.After(now) {
		t.NextAttemptAt = moment{next}
	}
	return t
}

// lookAtLanes fills in what waits in the lanes, the trouble of the lanes in which messages wait, and the trouble of
// each tag in st, even if no message waits for its destination. It reads one message from disk.
func (d *deliverer) lookAtLanes(st *appStat) {
	oldest, accounts, now := waiter(math.MaxUint64), map[*account][]*lane{}, time.Now()
	var t trouble // declared here because its address is taken: in the loop, it would be allocated for each lane
	list := func(t *trouble) {
		st.TroubleTotal++
		st.ill[asInt(t.Kind == paused)] += t.Destinations
		st.Trouble = insert(st.Trouble, maxTrouble, t, func(a, b *trouble) int {
			return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), a.Since.Compare(b.Since.Time))
		})
	}
	d.locked(func() {
		st.Bytes, st.lanes = d.bytes, len(d.lanes)
		for _, l := range d.lanes {
			if len(l.waiting) == 0 {
				continue
			}
			oldest = min(oldest, l.waiting[0])
			switch t = l.trouble(now); {
			case t.Kind == unreachable, t.Kind == paused && t.Since.IsZero(): // the account's trouble: listed below
				accounts[l.account] = append(accounts[l.account], l)
			case t.Kind != "":
				list(&t)
			}
		}
		for _, lanes := range accounts {
			t = slices.MaxFunc(lanes, func(a, b *lane) int { return len(a.waiting) - len(b.waiting) }).trouble(now)
			t.Destinations, t.Waiting = len(lanes), 0
			for _, l := range lanes {
				t.Waiting += len(l.waiting)
			}
			list(&t)
		}
		for _, row := range st.Tags {
			to, _, _ := d.cfg().lookup(row.route)
			idle := &lane{account: cmp.Or(d.accounts[to.credential], &account{})}
			t = cmp.Or(d.lanes[to], idle).trouble(now)
			row.Trouble, row.Reason, row.NextAttemptAt = t.Kind, t.Reason, t.NextAttemptAt
		}
	})
	if m, _, err := d.spool.read(found{seq: oldest.seq()}); err == nil {
		st.oldest = m.acceptedAt()
		st.OldestWaitingSeconds = time.Since(st.oldest).Seconds()
	}
}

func clock(at time.Time) string { return at.UTC().Format("Jan 2 15:04 UTC") }

// inWords says, for each kind of trouble, who is in trouble, and since or until when.
var inWords = map[string]string{
	failing: "%s fails since %s", unreachable: "%s cannot be reached since %s", paused: "a pause for %s until %s",
}

// says returns the trouble in words. others is how many more destinations pause or, if t is no pause, fail or are
// unreachable.
func (t *trouble) says(others int) string {
	who, at, end := cmp.Or(t.Channel, "the webhook's channel"), t.Since.Time, "fail"
	if t.Kind == paused {
		at, end = cmp.Or(t.NextAttemptAt.Time, time.Now()), "pause"
	}
	if t.Destinations > 1 {
		who = fmt.Sprintf("%s and %d more", who, t.Destinations-1)
	}
	text := fmt.Sprintf(inWords[t.Kind], who, clock(at)) + ": " + t.Reason
	if others > 0 {
		text += fmt.Sprintf(" (and %d more %s)", others, end)
	}
	return text
}

// sentence returns the state of the server and describes it in one sentence, the first that an operator reads. Of the
// destinations that fail, and of those that pause, the sentence names the one with the most waiting messages. full says
// why no message can be accepted, nil if messages can be accepted.
func (st *appStat) sentence(full error) (state, sentence string) {
	unnamed := st.ill
	for _, t := range st.Trouble {
		if n := &unnamed[asInt(t.Kind == paused)]; *n > 0 {
			sentence = join(sentence, "; ", t.says(*n-t.Destinations))
			*n = 0
		}
	}
	if st.Waiting > 0 && !st.oldest.IsZero() {
		sentence = join(sentence, "; ", fmt.Sprintf("%d wait, the oldest since %s", st.Waiting, clock(st.oldest)))
	}
	switch {
	case full != nil:
		return "full", fmt.Sprintf("nothing can be accepted: %v", full)
	case st.ill[0] > 0:
		return failing, sentence
	case st.Dead > 0:
		dead := fmt.Sprintf("%d could not be delivered and are dead letters", st.Dead)
		return "dead", dead + "; " + cmp.Or(sentence, "everything else is delivered")
	case st.ill[1] > 0:
		return paused, sentence
	case sentence != "":
		return "waiting", sentence
	case st.DeliveredAt.IsZero():
		return "ok", "nothing waits; nothing was delivered since the start"
	}
	ago := time.Since(st.DeliveredAt.Time).Round(time.Second)
	return "ok", fmt.Sprintf("everything is delivered, the last one %v ago", ago)
}

// ready returns why no message can be accepted at this moment, nil if messages can be accepted.
func (s *server) ready() (err error) {
	s.locked(func() { err = cmp.Or(s.spool.health(), s.full(4096)) }) // room for a message of ordinary size
	return err
}

// ordered is a JSON object whose keys keep their order: a key, its value, the next key, its value, and so on.
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

// gcSample is what the previous request for /stat/go saw.
type gcSample struct {
	guard
	at     time.Time
	before runtime.MemStats
}

// statGo answers with the keys of the original slackboard, in the same order.
func (s *server) statGo(*http.Request) (ordered, error) {
	var mem runtime.MemStats
	s.gc.mu.Lock()
	defer s.gc.mu.Unlock()
	runtime.ReadMemStats(&mem)
	now, pauses, since := time.Now(), []float64{}, mem.NumGC-s.gc.before.NumGC
	for i := range min(since, 256) { // PauseNs is a ring of 256 pauses
		pauses = append(pauses, float64(mem.PauseNs[(mem.NumGC+255-i)%256])/1e6)
	}
	var perSecond, pausePerSecond float64
	if seconds := now.Sub(s.gc.at).Seconds(); !s.gc.at.IsZero() && seconds > 0 {
		perSecond = float64(since) / seconds
		pausePerSecond = float64(mem.PauseTotalNs-s.gc.before.PauseTotalNs) / 1e6 / seconds
	}
	s.gc.at, s.gc.before = now, mem
	return ordered{
		"time", now.UnixNano(),
		"go_version", runtime.Version(), "go_os", runtime.GOOS, "go_arch", runtime.GOARCH,
		"cpu_num", runtime.NumCPU(), "goroutine_num", runtime.NumGoroutine(), "gomaxprocs", runtime.GOMAXPROCS(0),
		"cgo_call_num", runtime.NumCgoCall(),
		"memory_alloc", mem.Alloc, "memory_total_alloc", mem.TotalAlloc, "memory_sys", mem.Sys,
		"memory_lookups", mem.Lookups, "memory_mallocs", mem.Mallocs, "memory_frees", mem.Frees,
		"memory_stack", mem.StackInuse,
		"heap_alloc", mem.HeapAlloc, "heap_sys", mem.HeapSys, "heap_idle", mem.HeapIdle, "heap_inuse", mem.HeapInuse,
		"heap_released", mem.HeapReleased, "heap_objects", mem.HeapObjects,
		"gc_next", mem.NextGC,
		"gc_last", mem.LastGC, // Unix, ns
		"gc_num", mem.NumGC, "gc_per_second", perSecond,
		"gc_pause_per_second", pausePerSecond, // ms
		"gc_pause", pauses, // ms, newest first, since the previous call
	}, nil
}

// exposition writes metrics in Prometheus's text format.
type exposition struct{ *bufio.Writer }

func (e exposition) header(name, help string) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// value writes a metric that has one value.
func (e exposition) value(name, help string, v any) {
	if b, ok := v.(bool); ok {
		v = asInt(b)
	}
	e.header(name, help)
	fmt.Fprintf(e, "%s %v\n", name, v)
}

// table calls f for each field of v that has a metric in its struct tag, with the field's index.
func table(v any, f func(i int, name, help string)) {
	for t, i := reflect.TypeOf(v), 0; i < t.NumField(); i++ {
		if name, ok := t.Field(i).Tag.Lookup("metric"); ok {
			f(i, "slackboard_"+name, t.Field(i).Tag.Get("help"))
		}
	}
}

func (e exposition) histogram(name, help string, h histogram) {
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name)
	total := int64(0)
	for i, bound := range append(slices.Clone(h.bounds), math.Inf(1)) {
		total += h.counts[i]
		fmt.Fprintf(e, "%s_bucket{le=\"%v\"} %d\n", name, bound, total)
	}
	fmt.Fprintf(e, "%s_sum %v\n%s_count %d\n", name, h.sum, name, total)
}

func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	e, st := exposition{bufio.NewWriter(w)}, s.fill(&appStat{})
	defer e.Flush()
	values := reflect.ValueOf(st.counters)
	table(st.counters, func(i int, name, help string) { e.value(name, help, values.Field(i).Interface()) })
	e.header("slackboard_posts_total", "Posts to Slack, by outcome.")
	for c, n := range st.outcomes {
		fmt.Fprintf(e, "slackboard_posts_total{outcome=%q} %d\n", class(c), n)
	}
	e.header("slackboard_http_requests_total", "Requests, by route and status.")
	s.stats.requests.Do(func(count expvar.KeyValue) {
		fmt.Fprintf(e, "slackboard_http_requests_total{%s} %v\n", count.Key, count.Value)
	})
	e.histogram("slackboard_post_duration_seconds", "How long a post to Slack took.", st.postTook)
	e.histogram("slackboard_delivery_delay_seconds", "From acceptance to delivery.", st.delay)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e.value("go_goroutines", "Goroutines.", runtime.NumGoroutine())
	e.value("go_memstats_heap_alloc_bytes", "Bytes of live and not yet collected objects.", mem.HeapAlloc)
	e.value("go_memstats_sys_bytes", "Bytes obtained from the system.", mem.Sys)
	e.value("process_start_time_seconds", "Start of the process, Unix time.", float64(st.StartedAt.UnixMilli())/1000)
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil { // proc(5)
		pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
		e.value("process_resident_memory_bytes", "Resident memory.", pages*os.Getpagesize())
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.value("process_open_fds", "Open file descriptors.", len(files))
	}
	e.header("slackboard_build_info", "Versions of slackboard and Go.")
	fmt.Fprintf(e, "slackboard_build_info{version=%q,goversion=%q} 1\n", build(), runtime.Version())
	s.tagMetrics(e)
}

var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// tagMetrics writes the counters of each tag: the sums over its entries, if it has several.
func (s *server) tagMetrics(e exposition) {
	labels, sums, index := []string(nil), []counts(nil), map[string]int{}
	s.stats.tags(s.cfg(), func(t *tagStat) {
		i, ok := index[t.Tag]
		if !ok {
			i = len(sums)
			index[t.Tag], sums = i, append(sums, counts{})
			labels = append(labels, `{tag="`+escaped.Replace(t.Tag)+`"} `)
		}
		sums[i].add(t.counts)
	})
	table(counts{}, func(field int, name, help string) {
		e.header(name, help)
		for i, label := range labels {
			n := reflect.ValueOf(&sums[i]).Elem().Field(field).Int()
			line := append(append(e.AvailableBuffer(), name...), label...)
			e.Write(append(strconv.AppendInt(line, n, 10), '\n'))
		}
	})
}
