package main

// What an operator can measure: one table of counters, and everything that shows them: /stat/app, /metrics
// (https://prometheus.io/docs/instrumenting/exposition_formats/), /debug/vars and /stat/go; /healthz and /readyz, and
// -health, which asks the latter.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// numbers is the table of counters: each is named here and nowhere else. json is its name in /stat/app, metric that in
// /metrics (behind slackboard_), which the name of something that only grows ends with _total.
type numbers struct {
	counts
	FoundAtStart int64 `json:"found_at_start" metric:"found_at_start_messages" sum:"1" help:"Left by an earlier process."`

	OldestWaitingSeconds float64 `json:"oldest_waiting_seconds" metric:"oldest_waiting_seconds" help:"Age of the oldest."`

	Posts         int64 `json:"posts"` // in /metrics by outcome
	Retries       int64 `json:"retries" metric:"retries_total" help:"Posts to Slack after a message's first."`
	RateLimited   int64 `json:"rate_limited"` // posts
	Unauthorized  int64 `json:"unauthorized" metric:"unauthorized_total" help:"Requests without the token."`
	ReloadRefused bool  `json:"reload_refused" metric:"reload_refused" help:"1: the old configuration runs."`
	Ready         bool  `json:"ready" metric:"ready" help:"1 while messages can be accepted."`

	Damaged    int64 `json:"damaged" metric:"spool_damaged_lines_total" help:"Damaged lines found in the spool."`
	SpoolBytes int64 `json:"spool_bytes" metric:"spool_bytes" help:"Size of the spool's files."`
	SpoolLimit int64 `json:"spool_limit_bytes" metric:"spool_limit_bytes" help:"Waiting messages that it takes."`
	Bytes      int64 `json:"waiting_bytes" metric:"waiting_bytes" help:"Waiting messages, of that."`

	LogLinesDropped int64 `json:"log_lines_dropped" metric:"log_lines_dropped_total" help:"Lines no log took."`

	StartedAt time.Time `json:"started_at"`
}

// counts are of messages, in all and by tag. What has a sum adds up to 0.
type counts struct {
	Accepted  int64 `json:"accepted" metric:"accepted_total" sum:"1" help:"Messages answered ok (payloads have no tag)."`
	Delivered int64 `json:"delivered" metric:"delivered_total" sum:"-1" help:"Messages that Slack took."`
	Dropped   int64 `json:"dropped" metric:"dropped_total" sum:"-1" help:"By an operator, or lost with a damaged record."`
	Waiting   int64 `json:"waiting" metric:"waiting_messages" sum:"-1" help:"Messages that wait."`
	Dead      int64 `json:"dead" metric:"dead_messages" sum:"-1" help:"Dead letters."`
}

func (c *counts) add(d counts) {
	to, from := reflect.ValueOf(c).Elem(), reflect.ValueOf(&d).Elem()
	for i := range to.NumField() {
		to.Field(i).SetInt(to.Field(i).Int() + from.Field(i).Int())
	}
}

// stats are the server's counters.
type stats struct {
	mu sync.Mutex
	numbers
	posts     map[string]int64 // to Slack, all attempts, by outcome
	routes    map[route]*routeStats
	bytes     int       // of the names and errors in routes
	postTook  histogram // of a post
	delay     histogram // from acceptance to delivery
	delivered time.Time // the last one
	minutes   [60]minute
}

// minute is what happened in one minute of the last hour.
type minute struct {
	unix                int64 // the minute, to tell it from that an hour ago
	accepted, delivered int64
}

// limited is the outcome of a post that met a rate limit. Other outcomes are named by their class.
const limited = "limited"

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

func (h histogram) clone() histogram {
	h.counts = slices.Clone(h.counts)
	return h
}

type routeStats struct {
	counts
	LastAt      *time.Time `json:"last_at"`    // of the last delivery or failure
	LastError   string     `json:"last_error"` // "" after a delivery
	DeliveredAt *time.Time `json:"delivered_at"`
	hour        hour
}

// hour counts what was accepted within the last hour, in steps of five minutes.
type hour struct {
	step  int64 // the newest
	steps [12]int32
}

func (h *hour) add(n int64) {
	step := time.Now().Unix() / 300
	for h.step = max(h.step, step-12); h.step < step; {
		h.step++
		h.steps[h.step%12] = 0
	}
	h.steps[step%12] += int32(n)
}

func (h *hour) sum() (n int64) {
	h.add(0)
	for _, accepted := range h.steps {
		n += int64(accepted)
	}
	return n
}

// What clients can make the server remember by naming channels is bounded. Further routes are counted as one.
const (
	maxRoutes     = 200_000
	maxRouteBytes = 16 << 20 // of their names and errors
)

func newStats() *stats {
	return &stats{
		numbers: numbers{StartedAt: time.Now()}, routes: map[route]*routeStats{}, posts: map[string]int64{},
		postTook: newHistogram(.05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		delay:    newHistogram(.1, .5, 1, 5, 15, 60, 300, 1800, 7200, 86400),
	}
}

// of returns what is counted for r. The caller holds mu.
func (s *stats) of(r route) *routeStats {
	if s.routes[r] == nil && (len(s.routes) >= maxRoutes || s.bytes+len(r.tag)+len(r.channel) > maxRouteBytes) {
		r = route{channel: "(others)"}
	}
	if s.routes[r] == nil {
		s.bytes += len(r.tag) + len(r.channel)
		s.routes[r] = &routeStats{}
	}
	return s.routes[r]
}

// note notes what became of the last post for st: an error that finds no room is named by its kind alone.
func (s *stats) note(st *routeStats, at *time.Time, reason, kind string) {
	reason = shortened(reason)
	if s.bytes += len(reason) - len(st.LastError); s.bytes > maxRouteBytes {
		s.bytes += len(kind) - len(reason)
		reason = kind
	}
	st.LastAt, st.LastError = at, reason
}

// count adds d to the totals and to those of r.
func (s *stats) count(r route, d counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(d)
	st := s.of(r)
	st.add(d)
	st.hour.add(d.Accepted)
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
	s.FoundAtStart++
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
	s.Posts++
	s.posts[kind]++
	s.RateLimited += int64(number(out.limited))
	s.Retries += int64(number(attempt > 1))
	s.postTook.observe(took)
	for _, m := range messages {
		st := s.of(m.route)
		s.note(st, &now, out.reason, kind)
		if out.class == delivered {
			s.delivered, st.DeliveredAt = now, &now
			s.delay.observe(now.Sub(m.acceptedAt()))
		}
	}
}

// reloaded notes whether the last reload was taken.
func (s *stats) reloaded(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ReloadRefused = !taken
}

// refuse counts a request without the token.
func (s *stats) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Unauthorized++
}

func (s *stats) waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Waiting
}

// appStat is the answer of /stat/app.
type appStat struct {
	numbers
	State        string     `json:"state"` // ok, waiting, paused, dead, failing or full
	Sentence     string     `json:"sentence"`
	Trouble      []trouble  `json:"trouble"` // the worst 100, most at stake first
	TroubleTotal int        `json:"trouble_total"`
	Paused       []trouble  `json:"paused"`    // the tokens that pause, also those for which nothing waits
	LastHour     [][2]int64 `json:"last_hour"` // accepted and delivered of each minute, the oldest first
	Version      string     `json:"version"`
	tagList
}

// tagList is the end of the answer: it is written tag by tag, since there may be many.
type tagList struct {
	Tags  []tagStat `json:"tags,omitempty"`
	Found int       `json:"tags_found,omitempty"` // by q=, with those that tags= left out
	Total int       `json:"tags_total,omitempty"`
}

type tagStat struct {
	Tag      string `json:"tag"` // "" for /notify-directly
	Channel  string `json:"channel"`
	Username string `json:"username"`
	Icon     string `json:"icon_emoji"`
	Parse    string `json:"parse"`
	routeStats
	LastHour int64 `json:"last_hour"` // accepted

	// What keeps all that is sent to it waiting: see trouble.
	Trouble       string     `json:"trouble"`
	Reason        string     `json:"reason"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`

	to destination
}

// tagQuery says which tags to show: n of those that q and tag name, ordered by compare; all are in their own order.
type tagQuery struct {
	q, tag  string
	n       int
	compare func(a, b *tagStat) int
}

// tagOrders are the values of sort=; with - in front, the other way round.
var tagOrders = map[string]func(a, b *tagStat) int{
	"trouble":      (*tagStat).compare,
	"tag":          func(a, b *tagStat) int { return cmp.Compare(a.Tag, b.Tag) },
	"channel":      func(a, b *tagStat) int { return cmp.Compare(a.Channel, b.Channel) },
	"waiting":      func(a, b *tagStat) int { return cmp.Compare(a.Waiting, b.Waiting) },
	"dead":         func(a, b *tagStat) int { return cmp.Compare(a.Dead, b.Dead) },
	"last_hour":    func(a, b *tagStat) int { return cmp.Compare(a.LastHour, b.LastHour) },
	"last_error":   func(a, b *tagStat) int { return cmp.Compare(a.LastError, b.LastError) },
	"delivered_at": func(a, b *tagStat) int { return timeOf(a.DeliveredAt).Compare(timeOf(b.DeliveredAt)) },
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// statApp shows the counters. tags=N shows N tags, sort= says which come first (those in trouble), q= and tag= narrow
// them.
func (s *server) statApp(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	q := tagQuery{q: strings.ToLower(query.Get("q")), tag: query.Get("tag"), n: math.MaxInt}
	if n, err := strconv.Atoi(query.Get("tags")); err == nil && n >= 0 {
		q.n = n
	}
	by, reversed := strings.CutPrefix(cmp.Or(query.Get("sort"), "trouble"), "-")
	compare := tagOrders[by]
	if compare == nil {
		badRequest("sort=%s: it has to be one of %s", by, strings.Join(slices.Sorted(maps.Keys(tagOrders)), ", ")).send(w)
		return
	}
	q.compare = func(a, b *tagStat) int {
		if reversed {
			return cmp.Or(compare(b, a), a.compare(b))
		}
		return cmp.Or(compare(a, b), a.compare(b))
	}
	w.Header().Set("Content-Type", "application/json")
	s.writeApp(w, q)
}

// writeApp writes the answer of /stat/app.
func (s *server) writeApp(to io.Writer, q tagQuery) {
	w := bufio.NewWriter(to)
	defer w.Flush()
	var about bytes.Buffer
	e := json.NewEncoder(&about)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	st := s.appStat()
	s.cfg().nameTags(st.Trouble, st.Paused)
	e.Encode(st)
	w.Write(bytes.TrimSuffix(about.Bytes(), []byte("\n}\n")))
	w.WriteString(",\n  \"tags\": [")
	between := "\n    "
	write := func(t *tagStat) {
		s.deliver.addTrouble(t)
		w.WriteString(between)
		w.Write(encode(t))
		between = ",\n    "
	}
	found, total := 0, 0
	worst := worstOf[tagStat]{n: q.n, compare: q.compare}
	for t := range s.stats.tags(s.cfg(), q.n == math.MaxInt) {
		total++
		text := strings.ToLower(t.Tag + "\n" + t.Channel + "\n" + t.LastError)
		if q.tag != "" && t.Tag != q.tag || q.q != "" && !strings.Contains(text, q.q) {
			continue
		}
		if found++; q.n == math.MaxInt {
			write(t)
		} else if q.n > 0 {
			worst.add(t)
		}
	}
	for _, t := range worst.all() {
		write(&t)
	}
	fmt.Fprintf(w, "\n  ],\n  \"tags_found\": %d,\n  \"tags_total\": %d\n}\n", found, total)
}

// compare orders tags for those who look for what is wrong.
func (t *tagStat) compare(o *tagStat) int {
	return cmp.Or(cmp.Compare(o.rank(), t.rank()), cmp.Compare(o.Waiting, t.Waiting),
		cmp.Compare(t.Tag, o.Tag), cmp.Compare(t.Channel, o.Channel))
}

// rank ranks a tag for those who look for what is wrong.
func (t *tagStat) rank() int {
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

// appStat returns the answer of /stat/app without the tags.
func (s *server) appStat() *appStat {
	lanes := s.deliver.look()
	st := s.stats.show()
	st.Damaged, st.SpoolBytes, st.SpoolLimit = s.spool.damaged.Load(), s.spool.bytes.Load(), s.cfg().spool.maxBytes
	st.Bytes, st.Ready, st.LogLinesDropped = lanes.bytes, s.ready() == nil, s.lost()
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
	oldest       time.Time // when the message was accepted that has waited longest, zero if none waits
	destinations [2]int    // that fail or cannot be reached, and that pause
	bytes        int64     // that wait
	trouble      []trouble // most at stake first
	paused       []trouble // the tokens that pause, also those for which nothing waits
	total        int       // of trouble, with what is not listed
}

// worstOf keeps the first n of what is added, in the order of compare.
type worstOf[T any] struct {
	n       int
	compare func(a, b *T) int
	items   []T
	full    bool // the first n of items are in order
}

func (f *worstOf[T]) add(v *T) {
	if f.full && f.compare(v, &f.items[f.n-1]) >= 0 {
		return
	}
	if f.items = append(f.items, *v); len(f.items)-f.n >= f.n {
		f.all()
	}
}

func (f *worstOf[T]) all() []T {
	slices.SortStableFunc(f.items, func(a, b T) int { return f.compare(&a, &b) })
	f.items = f.items[:min(f.n, len(f.items))]
	f.full = len(f.items) == f.n
	return f.items
}

// look returns the state of all lanes. It reads one message from disk.
func (d *deliverer) look() laneSummary {
	oldest := waiter(math.MaxUint64)
	sum := laneSummary{trouble: []trouble{}, paused: []trouble{}}
	worst := worstOf[*lane]{n: maxTrouble, compare: func(a, b **lane) int {
		return cmp.Or(cmp.Compare(len((*b).waiting), len((*a).waiting)), (*a).errSince.Compare((*b).errSince))
	}}
	d.locked(func() {
		now, whole := time.Now(), map[*account]*trouble{}
		sum.bytes = d.bytes
		for _, a := range d.accounts {
			if a.limited && a.until.After(now) {
				whole[a] = &trouble{Kind: paused}
			}
		}
		var l *lane
		for _, l = range d.lanes {
			if len(l.waiting) == 0 {
				continue
			}
			kind, ofAccount := l.trouble(now)
			oldest = min(oldest, l.waiting[0])
			switch {
			case kind == "":
				continue
			case !ofAccount:
				sum.total++
				worst.add(&l)
			default:
				if whole[l.account] == nil {
					whole[l.account] = &trouble{Kind: kind}
				}
				whole[l.account].include(l)
			}
			sum.destinations[number(kind == paused)]++
		}
		for _, l := range worst.all() {
			sum.trouble = append(sum.trouble, *l.explain(now))
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
	sum.trouble, sum.paused = byStake(sum.trouble), byStake(sum.paused)
	if m, err := d.spool.message(oldest.seq()); err == nil {
		sum.oldest = m.acceptedAt()
	}
	return sum
}

// byStake returns the first of list to show.
func byStake(list []trouble) []trouble {
	slices.SortFunc(list, func(a, b trouble) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Reason, b.Reason))
	})
	return list[:min(maxTrouble, len(list))]
}

// trouble returns of what kind the trouble of l is, "" for none, and whether its whole account has it.
func (l *lane) trouble(now time.Time) (kind string, ofAccount bool) {
	switch a := l.account; {
	case a.failures > 0:
		return unreachable, true
	case l.err != "" && !l.limited:
		return failing, false
	case a.limited && a.until.After(now):
		return paused, true
	case l.err != "":
		return paused, false
	}
	return "", false
}

// addTrouble adds to t what keeps its destination's messages waiting, or would.
func (d *deliverer) addTrouble(t *tagStat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, l, now := d.accounts[t.to.credential], d.lanes[t.to], time.Now()
	if a == nil {
		return
	}
	if l == nil {
		l = &lane{account: a}
	}
	kind, ofAccount := l.trouble(now)
	if t.Trouble = kind; kind == "" {
		return
	}
	next := a.until
	if t.Reason = a.err; !ofAccount {
		t.Reason, next = l.err, d.nextTurn(l)
	}
	if next = next.UTC(); next.After(now) {
		t.NextAttemptAt = &next
	}
}

// include adds what waits in l.
func (t *trouble) include(l *lane) {
	t.Destinations++
	t.Waiting += len(l.waiting)
	if t.worst == nil || len(l.waiting) > len(t.worst.waiting) {
		t.worst, t.Channel = l, shortened(l.to.channel)
	}
}

// explain returns the trouble of l alone, nil for none.
func (l *lane) explain(now time.Time) *trouble {
	t := &trouble{}
	kind, ofAccount := l.trouble(now)
	if t.include(l); kind == "" {
		return nil
	} else if t.Kind = kind; ofAccount {
		t.explain(l.account, now)
		return t
	}
	t.say(l.err, l.errSince, slices.MaxFunc([]time.Time{l.next(), l.account.until}, time.Time.Compare), now)
	return t
}

// explain fills in what is known of an account's trouble.
func (t *trouble) explain(a *account, now time.Time) {
	since := a.errSince
	if t.Kind == paused {
		since = time.Time{}
	}
	t.say(a.err, since, a.until, now)
}

func (t *trouble) say(reason string, since, next, now time.Time) {
	t.Reason, t.Tags = shortened(reason), []string{}
	if since = since.UTC(); !since.IsZero() {
		t.Since = &since
	}
	if next = next.UTC(); next.After(now) {
		t.NextAttemptAt = &next
	}
}

// nameTags adds to each of lists the tags that lead there.
func (c *config) nameTags(lists ...[]trouble) {
	type key struct {
		to    destination
		whole bool // all of the credential
	}
	at := map[key][]*trouble{}
	for _, list := range lists {
		for i := range list {
			if t := &list[i]; t.Destinations == 1 {
				at[key{to: t.worst.to}] = append(at[key{to: t.worst.to}], t)
			} else if t.worst != nil {
				k := key{destination{credential: t.worst.to.credential}, true}
				at[k] = append(at[k], t)
			}
		}
	}
	for _, t := range c.tags {
		if len(at) == 0 {
			return
		}
		one, all := at[key{to: destination{t.credential, t.channel}}], at[key{destination{credential: t.credential}, true}]
		for _, found := range slices.Concat(one, all) {
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
	text, others := "a pause for "+who, "pause"
	switch {
	case t.Kind == unreachable:
		text, others = who+" cannot be reached", "fail"
	case t.Kind == failing:
		text, others = who+" fails", "fail"
	case t.NextAttemptAt != nil:
		text += " until " + clock(*t.NextAttemptAt)
	}
	if t.Kind != paused && t.Since != nil {
		text += " since " + clock(*t.Since)
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
	fail, pause := lanes.destinations[0], lanes.destinations[1]
	for _, t := range lanes.trouble {
		if n := &lanes.destinations[number(t.Kind == paused)]; *n > 0 {
			sentence = join(sentence, "; ", t.says(*n-1))
			*n = 0
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
		dead := fmt.Sprintf("%d could not be delivered and are dead letters", st.Dead)
		return "dead", dead + "; " + cmp.Or(all, "everything else is delivered")
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
	s.deliver.mu.Lock()
	defer s.deliver.mu.Unlock()
	return s.deliver.full(4096) // a message of ordinary size
}

// show returns the counters, and what happened in the last hour.
func (s *stats) show() *appStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &appStat{numbers: s.numbers, Version: build()}
	now := time.Now().Unix() / 60
	for at := now - 59; at <= now; at++ {
		row := [2]int64{}
		if m := s.minutes[at%60]; m.unix == at {
			row = [2]int64{m.accepted, m.delivered}
		}
		st.LastHour = append(st.LastHour, row)
	}
	return st
}

// tags returns what is counted for each tag: the configured ones in their order, then what else was counted, sorted
// only if inOrder is true. A row holds until the next one.
func (s *stats) tags(cfg *config, inOrder bool) iter.Seq[*tagStat] {
	return func(yield func(*tagStat) bool) {
		var row tagStat
		known := 0
		for _, t := range cfg.tags {
			row = tagStat{Tag: t.name, Channel: t.channel, Username: t.username, Icon: t.icon, Parse: t.parse}
			row.to = destination{t.credential, t.channel}
			if s.counted(&row, route{tag: t.name, index: t.index}) {
				known++
			}
			if !yield(&row) {
				return
			}
		}
		for _, r := range s.others(cfg, known, inOrder) {
			row = tagStat{Tag: r.tag, Channel: r.channel}
			row.to, _, _ = cfg.lookup(r)
			if s.counted(&row, r); !yield(&row) {
				return
			}
		}
	}
}

// counted fills in what is counted for r, if something is.
func (s *stats) counted(row *tagStat, r route) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.routes[r]
	if st != nil {
		row.routeStats, row.LastHour = *st, st.hour.sum()
	}
	return st != nil
}

// others returns the routes that are counted and not among the known configured ones.
func (s *stats) others(cfg *config, known int, inOrder bool) (others []route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.routes) <= known {
		return nil
	}
	for r := range s.routes {
		if r.tag == "" || r.index >= len(cfg.byTag[r.tag]) {
			others = append(others, r)
		}
	}
	if inOrder {
		slices.SortFunc(others, func(a, b route) int {
			return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.channel, b.channel), cmp.Compare(a.index, b.index))
		})
	}
	return others
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

// exposition writes metrics in the text format.
type exposition struct{ *bufio.Writer }

func (e exposition) head(name, help string) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// value writes a metric that has one value.
func (e exposition) value(name, help string, v any) {
	if b, ok := v.(bool); ok {
		v = number(b)
	}
	e.head(name, help)
	fmt.Fprintf(e, "%s %v\n", name, v)
}

// table calls f for each counter of v that has a metric.
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

var labels = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	e, st := exposition{bufio.NewWriter(w)}, s.appStat()
	defer e.Flush()
	values := reflect.ValueOf(st.numbers)
	table(st.numbers, func(i int, name, help string) { e.value(name, help, values.Field(i).Interface()) })
	s.stats.mu.Lock()
	posts, took, delay := maps.Clone(s.stats.posts), s.stats.postTook.clone(), s.stats.delay.clone()
	s.stats.mu.Unlock()
	e.head("slackboard_posts_total", "Posts to Slack, by outcome.")
	for c := delivered; c <= inBetween; c++ {
		fmt.Fprintf(e, "slackboard_posts_total{outcome=%q} %d\n", c, posts[c.String()])
	}
	fmt.Fprintf(e, "slackboard_posts_total{outcome=%q} %d\n", limited, posts[limited])
	e.head("slackboard_http_requests_total", "Requests, by route and status.")
	s.requests.Do(func(count expvar.KeyValue) {
		fmt.Fprintf(e, "slackboard_http_requests_total{%s} %v\n", count.Key, count.Value)
	})
	e.histogram("slackboard_post_duration_seconds", "How long a post to Slack took.", took)
	e.histogram("slackboard_delivery_delay_seconds", "From acceptance to delivery.", delay)
	e.runtime(st.StartedAt)
	s.tagMetrics(e)
}

// tagMetrics writes what is counted for each tag.
func (s *server) tagMetrics(e exposition) {
	cfg := s.cfg()
	byTag, index := make([]tagCounts, 0, len(cfg.byTag)+1), make(map[string]int, len(cfg.byTag)+1)
	for t := range s.stats.tags(cfg, false) {
		i, ok := index[t.Tag]
		if !ok {
			i = len(byTag)
			index[t.Tag] = i
			byTag = append(byTag, tagCounts{label: labels.Replace(t.Tag)})
		}
		byTag[i].add(t.counts)
	}
	table(counts{}, func(field int, name, help string) {
		e.head(name, help)
		var line []byte
		for i := range byTag {
			n := reflect.ValueOf(&byTag[i].counts).Elem().Field(field).Int()
			line = append(append(append(append(line[:0], name...), `{tag="`...), byTag[i].label...), `"} `...)
			e.Write(append(strconv.AppendInt(line, n, 10), '\n'))
		}
	})
}

type tagCounts struct {
	counts
	label string
}

func (e exposition) runtime(started time.Time) {
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
	e.head("slackboard_build_info", "The program.")
	fmt.Fprintf(e, "slackboard_build_info{version=%q,goversion=%q} 1\n", build(), runtime.Version())
}

// debugVars shows the counters and the memory's as expvar does, without the command line.
func (s *server) debugVars(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	fmt.Fprintf(w, "{\n\"memstats\": %s,\n\"slackboard\": ", expvar.Get("memstats"))
	s.writeApp(w, tagQuery{n: math.MaxInt})
	io.WriteString(w, "}\n")
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
		trust := &tls.Config{InsecureSkipVerify: true, Certificates: cfg.tls.Certificates}
		client.Transport.(*http.Transport).TLSClientConfig = trust
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
