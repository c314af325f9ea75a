package main

// Delivery: one lane per destination, in order, until Slack has a message or will never take it.
//
// One goroutine, run, owns the lanes, their timers and pauses; the others ask it. It never waits for the spool, which
// may wait for it. An attempt owns nothing: it reads, posts and reports. Back-off, a pause that Slack asked for and qps are one
// thing: a later turn. What became of a message is on disk before the next one of its lane is posted: a crash
// doubles one post of a destination at most.

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

const (
	maxPosts         = 64 // posts in flight, fewer where the process may open few files
	maxFailingPosts  = 32 // of these by lanes whose last post failed, half of them at most
	maxLargePosts    = 4  // of these with more than largePost of messages
	largePost        = 128 << 10
	maxReaders       = 2 // attempts that read their messages at the same time
	firstBackOff     = time.Second
	longestBackOff   = 5 * time.Minute
	destinationTries = 3           // posts before a destination's refusal is believed
	poisonAfter      = time.Hour   // of nothing but 5xx, while its credential delivers others: the message is to blame
	reportEvery      = time.Hour   // at most one report of dead letters for each destination
	noRoomWait       = time.Minute // before a dead letter is tried again for which the disk had no room
)

// lane is the queue of one destination. Its head alone is tried, one post at a time.
type lane struct {
	to       destination
	waiting  []ref // oldest first
	urgent   []*urgentPost
	busy     bool      // a post is in flight, or what became of it is not on disk yet
	attempts int       // of the head, which is group messages
	group    int       // posted together in the last attempt; they stay together until that is settled
	posting  int       // of these at most are in the post in flight
	suspects int       // messages from the head on that Slack rejected together
	halves   int       // attachments that these were
	noRoom   int       // messages put to the end one after the other, because the disk had no room for dead letters
	turn     time.Time // no post before: a pause of Slack's
	retryAt  time.Time // no attempt at the head before: its back-off
	since    time.Time // the head has had nothing but 5xx, since then; zero: it has not
	failing  bool      // the last post failed
	large    bool      // the head is more than largePost
	err      string    // why, "" after a success
	errSince time.Time // when that began
	index    int       // in the heap of due lanes, -1 while not in it
	held     bool      // due, but too many failing or large ones post already
}

// urgentPost is a message with sync=true: it is posted once, in the lane's next turn, and not kept.
type urgentPost struct {
	m       *message
	claimed chan struct{} // holds a token until the post starts, or its sender has given up
	done    chan outcome
}

// claim returns true to the first who asks: the lane, to post, or the sender, to give up.
func (u *urgentPost) claim() bool {
	select {
	case <-u.claimed:
		return true
	default:
		return false
	}
}

// next returns when the lane has something to do.
func (l *lane) next() time.Time {
	if len(l.urgent) == 0 && len(l.waiting) > 0 && l.retryAt.After(l.turn) {
		return l.retryAt
	}
	return l.turn
}

func (l *lane) idle() bool { return len(l.urgent) == 0 && len(l.waiting) == 0 && !l.busy }

// dueLanes is a heap (container/heap): the lane that is due first comes first.
type dueLanes []*lane

func (h dueLanes) Len() int           { return len(h) }
func (h dueLanes) Less(i, j int) bool { return h[i].next().Before(h[j].next()) }
func (h dueLanes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueLanes) Push(l any) {
	l.(*lane).index = len(*h)
	*h = append(*h, l.(*lane))
}
func (h *dueLanes) Pop() any {
	l := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	l.index = -1
	return l
}

type deliverer struct {
	cfg    atomic.Pointer[config]
	slack  poster
	posts  int // in flight at most
	spool  *spool
	stats  *stats
	quota  *quota
	recent *deliveredList
	log    *slog.Logger
	todo   chan func()   // what run does next, in order
	reads  chan struct{} // holds a token for each attempt that reads
	ended  chan struct{}

	// Owned by run:
	reloads   func() // waits until no post is in flight, see reload; nil: none does
	lanes     map[destination]*lane
	due       dueLanes
	held      []*lane
	paused    map[secret]time.Time     // tokens: Slack's pause holds for all their channels
	worked    map[credential]time.Time // the last delivery
	reported  map[destination]time.Time
	nextPost  time.Time // by qps
	firstTurn time.Time // of all lanes: before a restart, the last post may have been a moment ago
	inFlight  int
	failing   int // of these
	large     int // likewise
	recording int // changes that the spool has not answered yet
}

// newDeliverer returns one for sp, whose callbacks it sets. It has not yet begun: see restore and run.
func newDeliverer(cfg *config, slack poster, sp *spool, st *stats, log *slog.Logger) *deliverer {
	d := &deliverer{
		slack: slack, posts: maxPosts, spool: sp, stats: st, log: log,
		quota: newQuota(cfg.spool.maxBytes), recent: &deliveredList{}, todo: make(chan func(), 256), reads: make(chan struct{}, maxReaders), ended: make(chan struct{}),
		firstTurn: time.Now().Add(cfg.pace()),
		lanes:     map[destination]*lane{}, paused: map[secret]time.Time{}, worked: map[credential]time.Time{}, reported: map[destination]time.Time{},
	}
	d.cfg.Store(cfg)
	sp.stored, sp.moved = d.add, d.moved
	return d
}

// lookup finds where a route leads now.
func (d *deliverer) lookup(r route) (destination, *tag, error) { return d.cfg.Load().lookup(r) }

// restore takes over what an earlier process left. It is called before run.
func (d *deliverer) restore(found map[route]*group) {
	lanes := map[destination][]seqRef{}
	for r, g := range found {
		to, _, _ := d.lookup(r)
		lanes[to] = append(lanes[to], g.waiting...)
		d.quota.give(to, -g.bytes)
		d.stats.found(r, len(g.waiting), g.dead)
	}
	d.fill(lanes)
}

// fill makes lanes of what waits for each destination.
func (d *deliverer) fill(lanes map[destination][]seqRef) {
	for to, found := range lanes {
		sortBySeq(found)
		l := d.lane(to)
		l.waiting = make([]ref, len(found))
		for i, w := range found {
			l.waiting[i] = w.ref
		}
		d.schedule(l)
	}
}

// run delivers until ctx ends, no post is in flight, and what became of all posts is on disk.
func (d *deliverer) run(ctx context.Context) {
	defer close(d.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if d.reloads != nil && d.inFlight == 0 && d.recording == 0 {
			d.reloads()
			d.reloads = nil
		}
		timer.Reset(time.Until(d.turns()))
		select {
		case f := <-d.todo:
			f()
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	// What a disk that fails cannot record by then is posted once more after the next start.
	for enough := time.After(postTimeout + time.Second); d.inFlight > 0 || d.recording > 0; {
		select {
		case f := <-d.todo:
			f()
		case <-enough:
			return
		}
	}
}

// ask has run do f, unless it has ended.
func (d *deliverer) ask(f func()) {
	select {
	case d.todo <- f:
	case <-d.ended:
	}
}

// askAndWait is ask for those who need f done. It returns false if run has ended.
func (d *deliverer) askAndWait(f func()) bool {
	finished := make(chan struct{})
	d.ask(func() { f(); close(finished) })
	select {
	case <-finished:
		return true
	case <-d.ended:
		return false
	}
}

// store returns nil only once messages would survive a power cut; the caller may then answer ok.
func (d *deliverer) store(messages []*message) error {
	return d.storeAs(&change{add: messages})
}

// storeAs applies c, within the quota for what it adds.
func (d *deliverer) storeAs(c *change) error {
	for i, m := range c.add {
		m.charged, _, _ = d.lookup(m.route)
		if err := d.quota.take(m.charged, m.size()); err != nil {
			d.giveBack(c.add[:i])
			return err
		}
	}
	err := d.spool.apply(c)
	if err != nil {
		d.giveBack(c.add)
		return err
	}
	for _, m := range c.add {
		if m.seq == 0 { // seen before: not stored again
			d.giveBack([]*message{m})
		}
	}
	return nil
}

func (d *deliverer) giveBack(messages []*message) {
	for _, m := range messages {
		d.quota.give(m.charged, m.size())
	}
}

// add puts messages that are on disk at the end of their lanes.
func (d *deliverer) add(added []entry) {
	for _, e := range added {
		if e.m.resent {
			d.stats.count(e.m.route, counts{Waiting: 1, Dead: -1})
		} else {
			d.stats.count(e.m.route, counts{Waiting: 1, Accepted: 1})
		}
	}
	d.ask(func() {
		for _, e := range added {
			to, _, _ := d.lookup(e.m.route) // where it leads nowhere, the attempt finds out
			d.quota.move(e.m.charged, to, e.m.size())
			l := d.lane(to)
			l.waiting = append(l.waiting, e.ref)
			d.schedule(l)
		}
	})
}

// moved corrects the places of records that the spool has written again.
func (d *deliverer) moved(places map[ref]ref) {
	d.askAndWait(func() {
		for _, l := range d.lanes {
			for i, r := range l.waiting {
				if to, ok := places[r]; ok {
					l.waiting[i] = to
				}
			}
		}
	})
}

// postNow posts m once, in the next turn of its lane. It does not wait for that longer than limit: then the outcome
// is that of a rate limit, and nothing was posted.
func (d *deliverer) postNow(m *message, limit time.Duration) outcome {
	u := &urgentPost{m: m, claimed: make(chan struct{}, 1), done: make(chan outcome, 1)}
	u.claimed <- struct{}{}
	d.ask(func() { d.addUrgent(u, limit) })
	timer := time.NewTimer(max(limit, time.Second)) // a post in flight may be ahead
	defer timer.Stop()
	select {
	case out := <-u.done:
		return out
	case <-timer.C:
	case <-d.ended:
	}
	if u.claim() {
		return tooLong(max(limit, time.Second))
	}
	return <-u.done
}

func tooLong(wait time.Duration) outcome {
	return outcome{class: retry, limited: true, wait: wait, reason: "rate limited"}
}

func (d *deliverer) addUrgent(u *urgentPost, limit time.Duration) {
	to, _, _ := d.lookup(u.m.route)
	l := d.lane(to)
	turn := slices.MaxFunc([]time.Time{l.turn, d.paused[to.credential.token], d.nextPost}, time.Time.Compare)
	if wait := time.Until(turn); wait > limit && u.claim() {
		u.done <- tooLong(wait)
	} else {
		l.urgent = append(l.urgent, u)
	}
	d.schedule(l)
}

// lane returns the lane of to, a new one where there is none.
func (d *deliverer) lane(to destination) *lane {
	l := d.lanes[to]
	if l == nil {
		l = &lane{to: to, index: -1, turn: d.firstTurn}
		d.lanes[to] = l
	}
	return l
}

// schedule brings l to its place among the due lanes.
func (d *deliverer) schedule(l *lane) {
	switch {
	case l.busy || l.held:
	case l.index >= 0:
		heap.Fix(&d.due, l.index)
	default:
		heap.Push(&d.due, l)
	}
}

// turns starts the posts that are due and returns when to look again.
func (d *deliverer) turns() time.Time {
	now := time.Now()
	for len(d.due) > 0 && d.inFlight < d.posts && d.reloads == nil {
		l := d.due[0]
		if next := l.next(); next.After(now) {
			return next
		}
		if !l.idle() && d.nextPost.After(now) {
			return d.nextPost
		}
		heap.Pop(&d.due)
		switch pause := d.paused[l.to.credential.token]; {
		case l.idle():
			delete(d.lanes, l.to)
		case pause.After(now):
			l.turn = pause
			heap.Push(&d.due, l)
		case l.failing && d.failing >= min(maxFailingPosts, d.posts/2), l.large && len(l.urgent) == 0 && d.large >= maxLargePosts:
			l.held = true
			d.held = append(d.held, l)
		default:
			d.start(l, now)
		}
	}
	return now.Add(time.Hour) // something will come through todo before
}

// start posts the head of l: what is urgent, else what has waited longest.
func (d *deliverer) start(l *lane, now time.Time) {
	for len(l.urgent) > 0 {
		u := l.urgent[0]
		l.urgent = l.urgent[1:]
		if u.claim() {
			l.posting = 0 // none of those that wait
			d.begin(l, now, func() func() {
				_, t, _ := d.lookup(u.m.route)
				g := &merger{limit: 1}
				g.add(u.m, t)
				out := d.post(g, 1)
				if out.class == delivered {
					d.stats.count(u.m.route, counts{Accepted: 1, Delivered: 1})
					d.recent.add(u.m, 1)
				}
				u.done <- out
				return func() {
					l.busy = false
					d.learn(l, out)
				}
			})
			return
		}
	}
	if len(l.waiting) == 0 || l.retryAt.After(now) {
		d.schedule(l)
		return
	}
	l.attempts++
	attempt, limit := l.attempts, int(d.cfg.Load().core.batch)
	heads := l.waiting[:min(len(l.waiting), mergedHeads)]
	switch {
	case l.group > 0:
		heads = l.waiting[:l.group]
	case l.suspects > 0:
		heads, limit = l.waiting[:min(l.suspects, len(heads))], (l.halves+1)/2
	case limit == 1:
		heads = l.waiting[:1]
	}
	heads, l.posting = slices.Clone(heads), len(heads)
	large := l.large
	d.begin(l, now, func() func() {
		g, size, err := d.gather(heads, limit)
		switch {
		case err != nil:
			return func() { d.unreadable(l, heads[0], err) }
		case size > largePost && !large: // its turn comes when few enough are posted
			return func() { l.attempts, l.large, l.busy = l.attempts-1, true, false }
		}
		out := d.post(g, attempt)
		return func() {
			d.learn(l, out)
			d.settle(l, g, out)
		}
	})
}

// gather reads the messages of one post, which have size bytes: the first of heads, and those behind it that merge with it.
func (d *deliverer) gather(heads []ref, limit int) (g *merger, size int64, err error) {
	d.reads <- struct{}{}
	defer func() { <-d.reads }()
	g = &merger{limit: limit}
	for i, r := range heads {
		m, err := d.spool.read(r)
		if err != nil && i == 0 {
			return nil, 0, err
		}
		if err != nil {
			break
		}
		_, t, err := d.lookup(m.route)
		if i > 0 && (err != nil || size+m.size() > bodyLimit) || !g.add(m, t) {
			break
		}
		size += m.size()
	}
	return g, size, nil
}

// begin runs an attempt beside run. What the attempt returns is done by run, then l may have its next turn.
func (d *deliverer) begin(l *lane, now time.Time, attempt func() func()) {
	failing, large := l.failing, l.large
	l.busy = true
	d.inFlight++
	if failing {
		d.failing++
	}
	if large {
		d.large++
	}
	if d.cfg.Load().core.qps > 0 {
		d.nextPost = now.Add(time.Second / time.Duration(d.cfg.Load().core.qps))
	}
	go func() {
		end := attempt()
		d.ask(func() {
			d.inFlight--
			if failing {
				d.failing--
			}
			if large {
				d.large--
			}
			if failing || large {
				for _, l := range d.held {
					l.held = false
					heap.Push(&d.due, l)
				}
				d.held = nil
			}
			end()
			d.schedule(l)
		})
	}()
}

// post makes one attempt and counts it. It runs beside run and touches nothing of it.
func (d *deliverer) post(g *merger, attempt int) outcome {
	to, _, err := d.lookup(g.messages[0].route)
	if err != nil {
		return outcome{class: badContent, reason: err.Error()}
	}
	start := time.Now()
	// Not bound to a request or to SIGTERM: a post that is cut short may have been taken. It ends by postTimeout.
	payload := g.render(start)
	for _, p := range g.parts {
		p.piece = piece{} // may be large, and a post may take long
	}
	out := d.slack.post(context.Background(), to.credential, payload)
	d.stats.posted(g.messages, attempt, out, time.Since(start))
	return out
}

// learn takes from out what holds for the lane, whichever message was posted.
func (d *deliverer) learn(l *lane, out outcome) {
	now := time.Now()
	l.turn = now.Add(d.cfg.Load().pace())
	l.failing = out.class != delivered && out.class != badContent
	if out.class == delivered {
		d.worked[l.to.credential] = now
	}
	if !out.limited {
		return
	}
	if token := l.to.credential.token; token != (secret{}) {
		if until := now.Add(out.wait); until.After(d.paused[token]) {
			d.paused[token] = until
		}
	} else {
		l.turn = now.Add(max(out.wait, d.cfg.Load().pace()))
	}
}

// settle decides what becomes of the messages of g, the head of l, after an attempt.
func (d *deliverer) settle(l *lane, g *merger, out outcome) {
	first, maxAge := g.messages[0], time.Duration(d.cfg.Load().spool.maxAge)*time.Second
	tooOld := 0
	for tooOld < len(g.messages) && time.Since(time.UnixMilli(g.messages[tooOld].queued)) > maxAge {
		tooOld++
	}
	if out.status < 500 {
		l.since = time.Time{}
	} else if l.since.IsZero() {
		l.since = time.Now()
	}
	poisonous := !l.since.IsZero() && time.Since(l.since) > poisonAfter && d.worked[l.to.credential].After(l.since)
	switch {
	case out.class == delivered:
		if l.err != "" {
			d.log.Info("delivery works again", "id", first.ID, "to", first.route.String(), "attempts", l.attempts)
			l.err = ""
		}
		for _, m := range g.messages {
			d.recent.add(m, l.attempts)
		}
		l.suspects, l.halves = max(0, l.suspects-len(g.messages)), max(0, l.halves-len(g.parts))
		d.record(l, g.messages, &change{}, counts{Waiting: -1, Delivered: 1})
	case (out.class == badContent || poisonous) && len(g.parts) > 1:
		d.log.Warn("merged post rejected: its halves go next", "messages", len(g.messages), "to", first.route.String(), "err", out.reason)
		l.suspects, l.halves = len(g.messages), len(g.parts)
		since := l.since
		l.again()
		l.since, l.busy = since, false
	case out.class == badContent, out.class == badDestination && l.attempts >= destinationTries:
		d.bury(l, g.messages, out.reason)
	case poisonous:
		d.bury(l, g.messages, fmt.Sprintf("nothing but errors of slack's for %v, while other messages pass: %s", poisonAfter, out.reason))
	case tooOld > 0:
		d.bury(l, g.messages[:tooOld], fmt.Sprintf("not delivered within %v: %s", maxAge, out.reason))
	default:
		wait := backOff(l.attempts)
		if out.limited {
			wait = out.wait
		}
		if l.err == "" {
			l.errSince = time.Now()
		}
		if l.err != out.reason {
			level := slog.LevelWarn
			if out.class == badCredential { // nobody but an operator can mend that
				level = slog.LevelError
			}
			d.log.Log(context.Background(), level, "delivery deferred", "id", first.ID, "to", first.route.String(), "attempts", l.attempts, "retry_in", wait, "err", out.reason)
		}
		l.err = out.reason
		l.group = len(g.messages)
		l.retryAt = time.Now().Add(wait)
		l.busy = false
	}
}

// again makes the head of l new: no attempt was made at it.
func (l *lane) again() {
	l.attempts, l.group, l.retryAt, l.since, l.large = 0, 0, time.Time{}, time.Time{}, false
}

// record has the spool mark messages, the first of l, done, with c. Until that is on disk, the lane is busy.
func (d *deliverer) record(l *lane, messages []*message, c *change, each counts) {
	n := len(messages)
	c.done = slices.Clone(l.waiting[:n])
	d.recording++
	c.then = func(err error) {
		d.ask(func() {
			d.recording--
			l.again()
			l.busy = false
			heads := slices.Clone(l.waiting[:n]) // they may have moved
			l.waiting = l.waiting[n:]
			if err != nil && !errors.Is(err, errGone) { // there is no room for the dead letters: others go first
				d.log.Error("dead letter not stored", "id", messages[0].ID, "to", messages[0].route.String(), "err", err)
				l.waiting = append(l.waiting, heads...)
				if l.noRoom += n; l.noRoom >= len(l.waiting) { // there are no others
					l.noRoom, l.retryAt = 0, time.Now().Add(noRoomWait)
				}
			} else {
				l.noRoom = 0
				for _, m := range messages {
					d.stats.count(m.route, each)
					d.quota.give(l.to, m.size())
				}
			}
			d.schedule(l)
		})
	}
	d.spool.submit(c)
}

// bury makes messages, the first of l, dead letters.
func (d *deliverer) bury(l *lane, messages []*message, reason string) {
	c := &change{}
	for _, m := range messages {
		d.log.Error("dead letter", "id", m.ID, "to", m.route.String(), "attempts", l.attempts, "err", reason)
		c.bury = append(c.bury, m.buried(l.attempts, reason))
	}
	l.err = "" // of the head that is next, nothing is known
	l.suspects, l.halves = 0, 0
	d.record(l, messages, c, counts{Waiting: -1, Dead: 1})
	d.report(l, c.bury[0])
}

// report tells core.report_tag about the first dead letter of a destination in an hour.
func (d *deliverer) report(l *lane, dead *message) {
	tag := d.cfg.Load().core.reportTag
	if tag == "" || dead.route.tag == tag || time.Since(d.reported[l.to]) < reportEvery {
		return
	}
	d.reported[l.to] = time.Now()
	name := "tag " + dead.route.tag
	if dead.route.tag == "" {
		name = "channel " + dead.route.channel
	}
	text := fmt.Sprintf("A message for %s could not be delivered: %s. It is kept as dead letter %s: GET /messages/%[3]s shows it, POST /messages/%[3]s/retry sends it again, and GET /messages?state=dead lists all.",
		name, dead.Error, dead.ID)
	for i := range d.cfg.Load().byTag[tag] {
		m := &message{ID: newID(), Host: hostname(), Level: "warn", Text: text, route: route{tag: tag, index: i}}
		go d.store([]*message{m})
	}
}

// unreadable deals with a head that could not be read.
func (d *deliverer) unreadable(l *lane, head ref, err error) {
	if errors.Is(err, errGone) && l.waiting[0] != head { // it has just moved
		l.attempts--
		l.busy = false
		return
	}
	d.log.Error("a record of the spool is damaged: the message is lost", "to", l.to.channel, "err", err)
	d.spool.spoil(l.waiting[0])
	d.record(l, []*message{{route: d.cfg.Load().routeTo(l.to)}}, &change{}, counts{Waiting: -1, Dropped: 1})
}

// backOff returns the wait after the n-th failed attempt: it doubles, and up to a quarter more keeps lanes apart.
func backOff(n int) time.Duration {
	wait := longestBackOff
	if n < 16 {
		wait = min(firstBackOff<<(n-1), longestBackOff)
	}
	return wait + rand.N(wait/4)
}

// headState is what a lane knows of its head.
type headState struct {
	attempts int
	next     time.Time // zero while it is being posted
	err      string
}

// heads returns the state of every head that has been tried, or is.
func (d *deliverer) heads() map[ref]headState {
	heads := map[ref]headState{}
	d.askAndWait(func() {
		for _, l := range d.lanes {
			if len(l.waiting) > 0 && l.attempts > 0 {
				st := headState{l.attempts, l.retryAt, l.err}
				if l.busy {
					st.next = time.Time{}
				}
				for _, r := range l.waiting[:max(l.group, 1)] {
					heads[r] = st
				}
			}
		}
	})
	return heads
}

// dueNow ends the back-off of the lane of r. A pause that Slack asked for stays.
func (d *deliverer) dueNow(r route) {
	d.askAndWait(func() {
		to, _, _ := d.lookup(r)
		if l := d.lanes[to]; l != nil {
			l.retryAt, l.failing = time.Time{}, false
			d.schedule(l)
		}
	})
}

var errBusy = errors.New("it is being posted at this moment")

// drop takes the waiting message m at r out of its lane and off the disk.
func (d *deliverer) drop(m *message, r ref) error {
	var to destination
	answer := make(chan error, 1)
	asked := d.askAndWait(func() {
		to, _, _ = d.lookup(m.route)
		l, i := d.lanes[to], -1
		if l != nil {
			i = slices.Index(l.waiting, r)
		}
		switch {
		case i < 0:
			answer <- errGone
			return
		case i < l.posting && l.busy:
			answer <- errBusy
			return
		case i < max(l.group, 1):
			l.again()
		}
		l.waiting = slices.Delete(l.waiting, i, i+1)
		d.schedule(l)
		d.spool.submit(&change{done: []ref{r}, then: func(err error) { answer <- err }})
	})
	if !asked {
		return errGone
	}
	if err := <-answer; err != nil {
		return err
	}
	d.stats.count(m.route, counts{Waiting: -1, Dropped: 1})
	d.quota.give(to, m.size())
	return nil
}

// laneSummary is what the lanes tell an operator.
type laneSummary struct {
	oldest  time.Time // when the message was accepted that has waited longest, zero where none waits
	failing []failingLane
}

type failingLane struct {
	channel string
	since   time.Time
	err     string
}

// look returns the state of all lanes, those that fail in the order in which they began to.
func (d *deliverer) look() (sum laneSummary) {
	var heads []ref
	d.askAndWait(func() {
		for _, l := range d.lanes {
			if len(l.waiting) == 0 {
				continue
			}
			heads = append(heads, l.waiting[0])
			if l.err != "" {
				sum.failing = append(sum.failing, failingLane{cmp.Or(l.to.channel, "the webhook's channel"), l.errSince, l.err})
			}
		}
	})
	sort.Slice(sum.failing, func(i, j int) bool { return sum.failing[i].since.Before(sum.failing[j].since) })
	for _, r := range heads {
		if m, err := d.spool.read(r); err == nil && (sum.oldest.IsZero() || m.acceptedAt().Before(sum.oldest)) {
			sum.oldest = m.acceptedAt()
		}
	}
	return sum
}
