package main

// Delivery: one lane per destination, in order, until Slack has a message or will never take it.
//
// A lane sleeps in a timer, stands in line, or has its turn: a goroutine, turn, that reads its head, posts it and has the spool
// record what became of it. Back-off, a pause that Slack asked for and pace are one thing: a longer sleep. One mutex
// guards the lanes; nobody who holds it waits for anything. What became of a message is on disk before the lane's next turn: a
// crash doubles one post of a destination at most.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPosts         = 64 // posts in flight
	maxFailingPosts  = 32 // of these by lanes whose last post failed
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
	busy     bool // it has its turn
	inLine   bool
	timer    *time.Timer // while it sleeps
	attempts int         // of the head, which is group messages
	group    int         // posted together in the last attempt; they stay together until that is settled
	posting  int         // of these at most are in the post in flight
	suspects int         // messages from the head on that Slack rejected together
	halves   int         // attachments that these were
	noRoom   int         // messages put to the end one after the other, because the disk had no room for dead letters
	turn     time.Time   // no post before: a pause of Slack's
	retryAt  time.Time   // no attempt at the head before: its back-off
	since    time.Time   // the head has had nothing but 5xx, since then; zero: it has not
	failing  bool        // the last post failed
	large    bool        // the head is more than largePost
	err      string      // why, "" after a success
	errSince time.Time   // when that began
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

// kind says in which line l stands: so that those that fail, or have much to post, leave room for the others.
type kind int

const (
	healthy kind = iota
	failing
	large
	kinds
)

func (l *lane) kind() kind {
	switch {
	case l.large && len(l.urgent) == 0:
		return large
	case l.failing:
		return failing
	}
	return healthy
}

type deliverer struct {
	cfg    atomic.Pointer[config]
	slack  poster
	spool  *spool
	stats  *stats
	quota  *quota
	recent *deliveredList
	log    *slog.Logger
	reads  chan struct{} // holds a token for each turn that reads
	turns  sync.WaitGroup
	ended  chan struct{}

	mu        sync.Mutex
	lanes     map[destination]*lane
	line      [kinds][]*lane // that are due, the one that is so longest first
	posting   [kinds]int
	resting   bool                     // no turn begins
	paused    map[secret]time.Time     // tokens: Slack's pause holds for all their channels
	worked    map[credential]time.Time // the last delivery
	reported  map[destination]time.Time
	nextPost  time.Time // by qps
	qpsTimer  *time.Timer
	firstTurn time.Time // of all lanes: before a restart, the last post may have been a moment ago
}

// newDeliverer returns one for sp, whose callbacks it sets. It has not yet begun: see restore and run.
func newDeliverer(cfg *config, slack poster, sp *spool, st *stats, log *slog.Logger) *deliverer {
	d := &deliverer{
		slack: slack, spool: sp, stats: st, log: log,
		quota: newQuota(cfg.spool.maxBytes), recent: &deliveredList{}, reads: make(chan struct{}, maxReaders), ended: make(chan struct{}), resting: true,
		firstTurn: time.Now().Add(cfg.pace()), qpsTimer: time.NewTimer(0),
		lanes: map[destination]*lane{}, paused: map[secret]time.Time{}, worked: map[credential]time.Time{}, reported: map[destination]time.Time{},
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
	for _, l := range d.lanes {
		d.schedule(l)
	}
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
	}
}

// run delivers until ctx ends and all turns have: 30 s later at most where the disk works.
func (d *deliverer) run(ctx context.Context) {
	d.rest(false)
	<-ctx.Done()
	ended := make(chan struct{})
	go func() { d.rest(true); d.turns.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(postTimeout + time.Second): // what a disk that fails cannot record by then is posted once more after the next start
	}
	close(d.ended)
}

// rest keeps turns from beginning, or lets them begin again.
func (d *deliverer) rest(rest bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting = rest
	d.begin()
}

// locked does f while nothing else touches the lanes.
func (d *deliverer) locked(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
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
	d.locked(func() {
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
	d.locked(func() {
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
	d.locked(func() { d.addUrgent(u, limit) })
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
		l = &lane{to: to, turn: d.firstTurn}
		d.lanes[to] = l
	}
	return l
}

// schedule has l sleep until its next turn. One that has nothing to do goes, once it may post again.
func (d *deliverer) schedule(l *lane) {
	if l.busy || l.inLine || d.lanes[l.to] != l {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	at := l.next()
	if pause := d.paused[l.to.credential.token]; pause.After(at) {
		at = pause
	}
	if wait := time.Until(at); wait > 0 {
		l.timer = time.AfterFunc(wait, func() { d.locked(func() { d.schedule(l) }) })
		return
	}
	if l.idle() {
		delete(d.lanes, l.to)
		return
	}
	l.inLine = true
	d.line[l.kind()] = append(d.line[l.kind()], l)
	d.begin()
}

// begin gives turns to lanes that stand in line, while there is room.
func (d *deliverer) begin() {
	most, all := [kinds]int{maxPosts, maxFailingPosts, maxLargePosts}, 0
	for _, n := range d.posting {
		all += n
	}
	for k := range kinds {
		for ; len(d.line[k]) > 0 && d.posting[k] < most[k] && all < maxPosts && !d.resting; all++ {
			if qps := d.cfg.Load().core.qps; qps > 0 {
				if wait := time.Until(d.nextPost); wait > 0 {
					d.qpsTimer.Stop()
					d.qpsTimer = time.AfterFunc(wait, func() { d.locked(d.begin) })
					return
				}
				d.nextPost = time.Now().Add(time.Second / time.Duration(qps))
			}
			l := d.line[k][0]
			d.line[k] = d.line[k][1:]
			l.inLine, l.busy = false, true
			d.posting[k]++
			d.turns.Add(1)
			go d.turn(l, k)
		}
	}
}

// turn posts the head of l: what is urgent, else what has waited longest. When it returns, what became of that is on disk.
func (d *deliverer) turn(l *lane, k kind) {
	defer d.turns.Done()
	if u := d.takeUrgent(l); u != nil {
		d.postUrgent(l, u)
	} else {
		d.postHead(l)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l.busy = false
	d.posting[k]--
	d.schedule(l)
	d.begin()
}

// takeUrgent returns the next urgent post of l whose sender has not given up.
func (d *deliverer) takeUrgent(l *lane) *urgentPost {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(l.urgent) > 0 {
		u := l.urgent[0]
		if l.urgent = l.urgent[1:]; u.claim() {
			return u
		}
	}
	return nil
}

func (d *deliverer) postUrgent(l *lane, u *urgentPost) {
	_, t, _ := d.lookup(u.m.route)
	g := &merger{limit: 1}
	g.add(u.m, t)
	out := d.post(g, 1)
	if out.class == delivered {
		d.stats.count(u.m.route, counts{Accepted: 1, Delivered: 1})
		d.recent.add(u.m, 1)
	}
	d.locked(func() { d.learn(l, out) })
	u.done <- out
}

func (d *deliverer) postHead(l *lane) {
	heads, attempt, limit := d.takeHeads(l)
	if len(heads) == 0 {
		return
	}
	g, size, err := d.gather(heads, limit)
	switch {
	case err != nil:
		d.unreadable(l, heads[0], err)
		return
	case size > largePost && !l.large: // its turn comes when few enough are posted
		d.locked(func() { l.attempts, l.large, l.posting = l.attempts-1, true, 0 })
		return
	}
	out := d.post(g, attempt)
	d.mu.Lock()
	d.learn(l, out)
	c, each := d.settle(l, g, out)
	d.mu.Unlock()
	if c != nil {
		d.record(l, g.messages[:len(c.done)], c, each)
	}
}

// takeHeads returns what is tried next, and in how many attachments at most.
func (d *deliverer) takeHeads(l *lane) (heads []ref, attempt, limit int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.posting = 0
	if len(l.waiting) == 0 || l.retryAt.After(time.Now()) {
		return nil, 0, 0
	}
	l.attempts++
	limit = int(d.cfg.Load().core.batch)
	heads = l.waiting[:min(len(l.waiting), mergedHeads)]
	switch {
	case l.group > 0:
		heads = l.waiting[:l.group]
	case l.suspects > 0:
		heads, limit = l.waiting[:min(l.suspects, len(heads))], (l.halves+1)/2
	case limit == 1:
		heads = l.waiting[:1]
	}
	l.posting = len(heads)
	return slices.Clone(heads), l.attempts, limit
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

// post makes one attempt and counts it.
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

// settle decides what becomes of the messages of g, the head of l, after an attempt: what the spool is to record, nil where they wait on.
func (d *deliverer) settle(l *lane, g *merger, out outcome) (c *change, each counts) {
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
		return d.gone(l, len(g.messages)), counts{Waiting: -1, Delivered: 1}
	case (out.class == badContent || poisonous) && len(g.parts) > 1:
		d.log.Warn("merged post rejected: its halves go next", "messages", len(g.messages), "to", first.route.String(), "err", out.reason)
		l.suspects, l.halves = len(g.messages), len(g.parts)
		since := l.since
		l.again()
		l.since = since
	case out.class == badContent, out.class == badDestination && l.attempts >= destinationTries:
		return d.bury(l, g.messages, out.reason)
	case poisonous:
		return d.bury(l, g.messages, fmt.Sprintf("nothing but errors of slack's for %v, while other messages pass: %s", poisonAfter, out.reason))
	case tooOld > 0:
		return d.bury(l, g.messages[:tooOld], fmt.Sprintf("not delivered within %v: %s", maxAge, out.reason))
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
	}
	return nil, counts{}
}

// gone is the change that ends the first n messages of l.
func (d *deliverer) gone(l *lane, n int) *change { return &change{done: slices.Clone(l.waiting[:n])} }

// again makes the head of l new: no attempt was made at it.
func (l *lane) again() {
	l.attempts, l.group, l.retryAt, l.since, l.large = 0, 0, time.Time{}, time.Time{}, false
}

// record has the spool do c, which ends messages, the first of l, and returns when that is on disk.
func (d *deliverer) record(l *lane, messages []*message, c *change, each counts) {
	err := d.spool.apply(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(messages)
	heads := l.waiting[:n]
	l.again()
	l.waiting = l.waiting[n:]
	if err != nil && !errors.Is(err, errGone) { // there is no room for the dead letters: others go first
		d.log.Error("dead letter not stored", "id", messages[0].ID, "to", messages[0].route.String(), "err", err)
		l.waiting = append(l.waiting, heads...)
		if l.noRoom += n; l.noRoom >= len(l.waiting) { // there are no others
			l.noRoom, l.retryAt = 0, time.Now().Add(noRoomWait)
		}
		return
	}
	l.noRoom = 0
	for _, m := range messages {
		d.stats.count(m.route, each)
		d.quota.give(l.to, m.size())
	}
}

// bury makes messages, the first of l, dead letters.
func (d *deliverer) bury(l *lane, messages []*message, reason string) (*change, counts) {
	c := d.gone(l, len(messages))
	for _, m := range messages {
		d.log.Error("dead letter", "id", m.ID, "to", m.route.String(), "attempts", l.attempts, "err", reason)
		c.bury = append(c.bury, m.buried(l.attempts, reason))
	}
	l.err = "" // of the head that is next, nothing is known
	l.suspects, l.halves = 0, 0
	d.report(l, c.bury[0])
	return c, counts{Waiting: -1, Dead: 1}
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
	d.mu.Lock()
	c := d.gone(l, 1)
	if c.done[0] != head { // it has just moved
		l.attempts--
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	d.log.Error("a record of the spool is damaged: the message is lost", "to", l.to.channel, "err", err)
	d.spool.spoil(head)
	d.record(l, []*message{{route: d.cfg.Load().routeTo(l.to)}}, c, counts{Waiting: -1, Dropped: 1})
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
	d.locked(func() {
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
	d.locked(func() {
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
	d.locked(func() {
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
	d.locked(func() {
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
