package main

// Delivery: one lane per destination, in order, until Slack has a message or will never take it.
//
// A lane sleeps in a timer, stands in its account's line, or has its turn: a goroutine, turn, that reads the lane's
// head, posts it and has the spool record what became of it. Back-off, pace and a pause that Slack asked for are
// one thing: a longer sleep. What became of a message is on disk before the lane's next turn: a crash doubles at most
// one post of a destination. One mutex guards the lanes; who holds it does not wait for anything.
//
// Turns are shared out account by account, so that nobody waits for the lanes of another. What an account has not
// yet earned, or a lane has lost, it cannot take from the others: see room.

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	maxPosts         = 96        // posts in flight, fewer if the process may open few files: then in proportion
	maxDoubtful      = 64        // of these by lanes or accounts that have not delivered yet, or fail
	firstOfAccount   = 16        // more, if it is the only one of its account
	maxFailing       = 32        // of these by lanes that failed last time
	maxOfAccount     = 32        // posts in flight of one account, and of its failing lanes half of that
	largePost        = 128 << 10 // bytes; what is larger goes within
	largeBytes       = 9 << 20   // bytes in flight, one such share for those that deliver, one for all others
	urgentBytes      = 16 << 20  // bytes of sync posts that wait for their turn; a fourth of that for one account
	maxReaders       = 2         // turns that read and render at the same time
	firstBackOff     = time.Second
	longestBackOff   = 5 * time.Minute
	longestProbe     = 30 * time.Second // between two tries to reach an account that cannot be connected to
	destinationTries = 3                // posts before a destination's refusal is believed
	brokenTries      = 3                // posts whose answer broke off before a message counts as perhaps delivered
	poisonAfter      = time.Hour        // of nothing but 5xx, while its account delivers others: the message is to blame
	ageAfter         = 10 * time.Minute // of trying, before a message can be too old: the clock may have been wrong
	reportEvery      = time.Hour        // at most one report of dead letters for each destination
	smallerFor       = time.Hour        // so long a lane remembers what was too much for the receiver
)

// waiter is a message that waits: its number, and in the lowest 24 bits its size.
type waiter uint64

func newWaiter(seq uint64, size int64) waiter { return waiter(seq<<24 | uint64(min(size, 1<<24-1))) }
func (w waiter) seq() uint64                  { return uint64(w >> 24) }
func (w waiter) size() int64                  { return int64(w & (1<<24 - 1)) }

// lane is the queue of one destination. Its head alone is tried, one post at a time.
type lane struct {
	to       destination
	account  *account
	waiting  []waiter // oldest first
	bytes    int64    // of these, and of what is being stored
	urgent   []*urgentPost
	head     head
	turn     time.Time // no post before: pace, or a pause of Slack's
	timer    *time.Timer
	inLine   bool
	busy     bool      // it has its turn
	posting  int       // so many of waiting, from the first on, are in the post in flight
	failing  bool      // the last post failed
	limited  bool      // because of a rate limit
	err      string    // why, "" after a success
	errSince time.Time // when that began
	most     int       // attachments that go into one post, since more were too much; 0: as the configuration says
	mostTill time.Time // until then
}

// head is what is known of the first messages of a lane. After they have ended, that of the next ones is zero.
type head struct {
	attempts int
	group    int       // messages that were posted together last; they stay together until that is settled
	broken   int       // of the attempts: their answers broke off
	cut      bool      // it was too much for the receiver: it goes once more, cut
	first    time.Time // attempt of this process
	retryAt  time.Time // no attempt before
	since    time.Time // it has had nothing but 5xx since then; zero: it has not
}

// account is a credential with its lanes: what pauses or cannot be reached does so for all of them.
type account struct {
	credential credential
	line       [4][]*lane // by kind: those that are due, the one that is so longest first
	posting    int
	failing    int       // of these, posts of lanes that failed last time
	urgent     int64     // bytes of sync posts that wait
	earned     bool      // Slack has answered for it, and nothing has been without an answer since
	worked     time.Time // the last delivery
	until      time.Time // no post before
	err        string    // why
	limited    bool      // it is a rate limit
	failures   int       // to connect, in a row
	errSince   time.Time // when these began
	timer      *time.Timer
	inRing     bool
}

// urgentPost is a message with sync=true: it is posted once, in the lane's next turn, and not kept.
type urgentPost struct {
	m    *message
	lane *lane // it waits in; nil once it is being posted
	done chan outcome
}

// next returns when the lane has something to do.
func (l *lane) next() time.Time {
	if len(l.urgent) == 0 && len(l.waiting) > 0 && l.head.retryAt.After(l.turn) {
		return l.head.retryAt
	}
	return l.turn
}

func (l *lane) idle() bool {
	return len(l.urgent) == 0 && len(l.waiting) == 0 && l.bytes == 0 && !l.busy
}

// insert puts a message in its place by number, but not among those that are being posted, or were together.
func (l *lane) insert(w waiter) {
	at := len(l.waiting)
	for at > max(l.posting, l.head.group) && l.waiting[at-1] > w {
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, w)
}

// remove takes n messages out of l, from the i-th on.
func (d *deliverer) remove(l *lane, i, n int) {
	for _, w := range l.waiting[i : i+n] {
		l.bytes -= w.size()
		d.bytes -= w.size()
	}
	l.waiting = slices.Delete(l.waiting, i, i+n)
}

// name is how a person knows the destination.
func (to destination) name() string { return cmp.Or(to.channel, "the webhook's channel") }

type deliverer struct {
	slack poster
	posts int // in flight at most
	spool *spool
	stats *stats
	log   *slog.Logger
	reads chan struct{} // holds a token for each turn that reads
	ended chan struct{}

	mu        sync.Mutex
	changed   sync.Cond // of mu: a post or a store has ended, or a reload
	cfg       *config
	lanes     map[destination]*lane
	accounts  map[credential]*account
	ring      []*account // that have lanes in line and may post, the one whose turn is next first
	bytes     int64      // of all lanes: what counts for max_bytes
	urgent    int64      // bytes of sync posts that wait for their turn
	posting   int        // posts in flight
	doubtful  int        // of these, see room
	failing   int        // likewise
	large     [2]int64   // bytes of large posts in flight; in the second those of doubtful ones
	stores    int        // messages are being stored for so many callers
	reloading bool       // no store begins
	resting   int        // no turn begins while somebody wants that
	reported  map[destination]time.Time
	nextPost  time.Time // by qps
	qpsTimer  *time.Timer
	firstTurn time.Time // of all lanes: before a restart, the last post may have been a moment ago
}

// newDeliverer returns one for what waits in sp, with so many posts in flight at most. It delivers from run on.
func newDeliverer(cfg *config, slack poster, posts int, sp *spool, st *stats, log *slog.Logger) (*deliverer, error) {
	d := &deliverer{
		slack: slack, posts: posts, spool: sp, stats: st, log: log, resting: 1, accounts: map[credential]*account{},
		reads: make(chan struct{}, maxReaders), ended: make(chan struct{}),
		reported: map[destination]time.Time{}, qpsTimer: time.NewTimer(0),
	}
	d.changed.L = &d.mu
	d.mu.Lock()
	defer d.mu.Unlock()
	return d, d.rebuild(cfg, st.found)
}

// run delivers until ctx ends and all turns have: 30 s later at most where the disk works. What a disk that fails
// cannot record by then is posted once more after the next start.
func (d *deliverer) run(ctx context.Context) {
	defer close(d.ended)
	d.rest(-1)
	<-ctx.Done()
	ended := make(chan struct{})
	go func() {
		d.rest(1)
		d.locked(func() { d.wait(func() bool { return d.posting == 0 }) })
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(postTimeout + time.Second):
	}
}

// rest keeps turns from beginning, or (by is -1) lets them begin again.
func (d *deliverer) rest(by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting += by
	d.begin()
}

// wait returns once ok is true. The caller holds mu.
func (d *deliverer) wait(ok func() bool) {
	for !ok() {
		d.changed.Wait()
	}
}

// store returns nil only once messages would survive a power cut; the caller may then answer ok.
func (d *deliverer) store(messages []*message) error {
	lanes, err := d.reserve(messages)
	if err != nil {
		return err
	}
	err = d.spool.do(&change{add: messages})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stores--
	d.changed.Broadcast()
	for i, m := range messages {
		if err != nil || m.seq == 0 { // 0: it was there before
			d.giveBack(lanes[i], m)
			continue
		}
		d.stats.stored(m)
		lanes[i].insert(newWaiter(m.seq, m.size()))
		d.schedule(lanes[i])
	}
	return err
}

func (d *deliverer) giveBack(l *lane, m *message) {
	l.bytes -= m.size()
	d.bytes -= m.size()
	d.schedule(l)
}

// reserve makes room for messages and returns their lanes. Half of max_bytes is for one destination at most, so that
// one that fails leaves room for the others.
func (d *deliverer) reserve(messages []*message) (lanes []*lane, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wait(func() bool { return !d.reloading })
	for _, m := range messages {
		to, _, _ := d.cfg.lookup(m.route) // an unknown tag is not an error here: post makes it a dead letter
		l, n := d.lane(to), m.size()
		l.bytes += n
		d.bytes += n
		lanes = append(lanes, l)
		if l.bytes > d.cfg.spool.maxBytes/2 {
			err = fmt.Errorf("half of the spool waits for %s", to.name())
		}
	}
	if err = cmp.Or(d.fullBy(0), err); err != nil {
		for i, l := range lanes {
			d.giveBack(l, messages[i])
		}
		return nil, err
	}
	d.stores++
	return lanes, nil
}

// full returns an error when not even a message of ordinary size fits.
func (d *deliverer) full() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fullBy(4096)
}

func (d *deliverer) fullBy(more int64) error {
	if d.bytes+more > d.cfg.spool.maxBytes {
		return fmt.Errorf("the spool is full: %d bytes wait for slack", d.bytes)
	}
	return nil
}

// postNow posts m once, in the next turn of its lane. It does not wait for that longer than limit: then the outcome
// is that of a rate limit, or of what keeps its account from posting, and nothing was posted.
func (d *deliverer) postNow(m *message, limit time.Duration) outcome {
	u := &urgentPost{m: m, done: make(chan outcome, 1)}
	if out, ok := d.addUrgent(u, limit); !ok {
		return out
	}
	timer := time.NewTimer(max(limit, time.Second)) // a post in flight may be ahead
	defer timer.Stop()
	select {
	case out := <-u.done:
		return out
	case <-timer.C:
	case <-d.ended:
	}
	if out, ok := d.giveUp(u); ok {
		return out
	}
	return <-u.done
}

// giveUp takes u out of its lane. ok is false where it is being posted.
func (d *deliverer) giveUp(u *urgentPost) (out outcome, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := u.lane
	if l == nil {
		return out, false
	}
	d.takeUrgent(l, slices.Index(l.urgent, u))
	if l.account.failures > 0 {
		return outcome{class: retry, wait: time.Until(l.account.until), reason: l.account.err}, true
	}
	return tooLong(max(time.Until(l.turn), time.Second)), true
}

func tooLong(wait time.Duration) outcome {
	return outcome{class: retry, limited: true, wait: wait, reason: "rate limited"}
}

// addUrgent puts u into its lane. ok is false where it would have to wait too long, or too much waits.
func (d *deliverer) addUrgent(u *urgentPost, limit time.Duration) (out outcome, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg.lookup(u.m.route)
	l := d.lane(to)
	defer d.schedule(l)
	a, size := l.account, u.m.size()
	if wait := time.Until(a.until); wait > limit && !a.limited {
		return outcome{class: retry, wait: wait, reason: a.err}, false
	}
	turn := slices.MaxFunc([]time.Time{l.turn, a.until, d.nextPost}, time.Time.Compare)
	if wait := time.Until(turn); wait > limit {
		return tooLong(wait), false
	}
	if d.urgent+size > urgentBytes || a.urgent > 0 && a.urgent+size > urgentBytes/4 {
		return tooLong(time.Second), false
	}
	d.addUrgentTo(l, u)
	return out, true
}

func (d *deliverer) addUrgentTo(l *lane, u *urgentPost) {
	u.lane = l
	l.urgent = append(l.urgent, u)
	l.account.urgent += u.m.size()
	d.urgent += u.m.size()
}

// takeUrgent takes the i-th of the urgent posts of l, to post it or because its sender has given up.
func (d *deliverer) takeUrgent(l *lane, i int) *urgentPost {
	u := l.urgent[i]
	l.urgent = slices.Delete(l.urgent, i, i+1)
	u.lane = nil
	l.account.urgent -= u.m.size()
	d.urgent -= u.m.size()
	return u
}

// ahead returns how many messages wait that may go before one to r, where qps is shared: those of its own lane and
// account, and of accounts that deliver, except in lanes that fail.
func (d *deliverer) ahead(r route) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg.lookup(r)
	for _, l := range d.lanes {
		if l.to == to || !l.failing && (l.account.earned || l.to.credential == to.credential) {
			n += len(l.waiting)
		}
	}
	return n
}

// lane returns the lane of to, a new one where there is none.
func (d *deliverer) lane(to destination) *lane {
	l := d.lanes[to]
	if l == nil {
		a := d.accounts[to.credential]
		if a == nil {
			a = &account{credential: to.credential}
			d.accounts[to.credential] = a
		}
		l = &lane{to: to, account: a, turn: d.firstTurn}
		d.lanes[to] = l
	}
	return l
}

// schedule has l sleep until its next turn, or stand in line. One that has nothing to do goes, once it may post again.
func (d *deliverer) schedule(l *lane) {
	if l.busy || l.inLine || d.lanes[l.to] != l {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	at := l.next()
	if l.idle() && l.mostTill.After(at) {
		at = l.mostTill
	}
	if wait := time.Until(at); wait > 0 {
		l.timer = time.AfterFunc(wait, func() { d.locked(func() { d.schedule(l) }) })
		return
	}
	if l.idle() {
		delete(d.lanes, l.to)
		return
	}
	if len(l.waiting) == 0 && len(l.urgent) == 0 { // its first message is being stored
		return
	}
	line := &l.account.line[l.kind()]
	*line, l.inLine = append(*line, l), true
	d.join(l.account)
	d.begin()
}

// kind tells apart lanes that must not stand behind each other: 1 is added for one that fails, 2 for a large head.
func (l *lane) kind() int {
	return number(l.failing) + 2*number(len(l.urgent) == 0 && l.waiting[0].size() > largePost)
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (d *deliverer) locked(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// join puts a into the ring, if it has lanes in line, once it may post.
func (d *deliverer) join(a *account) {
	if a.inRing || len(a.line[0])+len(a.line[1])+len(a.line[2])+len(a.line[3]) == 0 {
		return
	}
	if wait := time.Until(a.until); wait > 0 {
		if a.timer != nil {
			a.timer.Stop()
		}
		a.timer = time.AfterFunc(wait, func() { d.locked(func() { d.join(a); d.begin() }) })
		return
	}
	a.inRing = true
	d.ring = append(d.ring, a)
}

// begin gives turns to lanes that stand in line, account by account, while there is room.
func (d *deliverer) begin() {
	for misses := 0; misses < len(d.ring) && d.resting == 0; misses++ {
		if qps := d.cfg.core.qps; qps > 0 {
			if wait := time.Until(d.nextPost); wait > 0 {
				d.qpsTimer.Stop()
				d.qpsTimer = time.AfterFunc(wait, func() { d.locked(d.begin) })
				return
			}
		}
		a := d.ring[0]
		d.ring, a.inRing = d.ring[1:], false
		if d.beginOf(a) {
			misses = -1
		}
		d.join(a)
	}
}

// beginOf gives a turn to one of the lanes of a. It returns false if none of them may have it.
func (d *deliverer) beginOf(a *account) bool {
	for k := range a.line {
		for len(a.line[k]) > 0 && time.Until(a.until) <= 0 {
			l := a.line[k][0]
			due := len(l.urgent) > 0 || len(l.waiting) > 0 && time.Until(l.next()) <= 0 // nothing was dropped meanwhile
			t := d.turnOf(l)
			if due && !d.room(t) {
				break
			}
			a.line[k] = slices.Delete(a.line[k], 0, 1)
			l.inLine = false
			if due {
				d.start(t)
				return true
			}
			d.schedule(l)
		}
	}
	return false
}

// turn is one post of a lane, from its begin to its end.
type turn struct {
	lane     *lane
	cfg      *config
	began    time.Time
	urgent   *urgentPost // or
	heads    []waiter    // of which as many are posted as go together, in
	parts    int         // attachments at most
	head     head        // with this attempt
	long     bool        // the first message could be cut
	size     int64       // of the first message
	doubtful bool
	failing  bool
}

// turnOf returns the next turn of l.
func (d *deliverer) turnOf(l *lane) *turn {
	t := &turn{lane: l, cfg: d.cfg, failing: l.failing, doubtful: l.failing || !l.account.earned}
	switch {
	case len(l.urgent) > 0:
		t.size = l.urgent[0].m.size()
	case len(l.waiting) > 0:
		t.size = l.waiting[0].size()
	}
	return t
}

// room tells whether t may begin. What must not take all the room are posts that do not come back: those of lanes that
// failed last time, and of accounts that Slack has not answered for yet. The first post of an account needs less of it.
func (d *deliverer) room(t *turn) bool {
	a, share := t.lane.account, func(n int) int { return max(1, n*d.posts/maxPosts) }
	if a.posting > 0 && (a.failures > 0 || a.posting >= share(maxOfAccount)) {
		return false // of an account that cannot be connected to, one lane finds out
	}
	doubtful := maxDoubtful
	if a.posting == 0 {
		doubtful += firstOfAccount
	}
	return d.posting < d.posts && (!t.doubtful || d.doubtful < share(doubtful)) &&
		(!t.failing || d.failing < share(maxFailing) && a.failing < share(maxOfAccount/2)) &&
		(t.size <= largePost || d.large[number(t.doubtful)] == 0 || d.large[number(t.doubtful)]+t.size <= largeBytes)
}

// occupy counts what t takes of the room, or gives back (by is -1).
func (d *deliverer) occupy(t *turn, by int) {
	d.posting += by
	t.lane.account.posting += by
	t.lane.account.failing += by * number(t.failing)
	d.doubtful += by * number(t.doubtful)
	d.failing += by * number(t.failing)
	if t.size > largePost {
		d.large[number(t.doubtful)] += int64(by) * t.size
	}
}

func (d *deliverer) start(t *turn) {
	l := t.lane
	t.began = time.Now()
	l.busy = true
	d.occupy(t, 1)
	if qps := d.cfg.core.qps; qps > 0 {
		d.nextPost = t.began.Add(time.Second / time.Duration(qps))
	}
	if len(l.urgent) > 0 {
		t.urgent = d.takeUrgent(l, 0)
	} else {
		l.head.attempts++
		if l.head.first.IsZero() {
			l.head.first = t.began
		}
		t.head = l.head
		l.posting, t.parts = l.together(t)
		t.heads = slices.Clone(l.waiting[:l.posting])
	}
	go d.turn(t)
}

// together returns how many messages from the head on the post may hold, and in how many attachments.
func (l *lane) together(t *turn) (messages, parts int) {
	messages, parts = min(mergedHeads, len(l.waiting)), int(t.cfg.core.batch)
	if l.most > 0 && l.mostTill.After(t.began) {
		parts = min(parts, l.most)
	}
	if l.head.group > 0 {
		messages = l.head.group
	} else if parts == 1 {
		messages = 1
	}
	return messages, parts
}

// turn makes a post of t. When it returns, what became of that is on disk.
func (d *deliverer) turn(t *turn) {
	if t.urgent != nil {
		d.postUrgent(t)
	} else {
		d.postHead(t)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t.lane.busy, t.lane.posting = false, 0
	d.occupy(t, -1)
	d.changed.Broadcast()
	d.schedule(t.lane)
	d.begin()
}

func (d *deliverer) postUrgent(t *turn) {
	m := t.urgent.m
	_, tag, _ := t.cfg.lookup(m.route)
	g := &merger{limit: 1}
	g.add(m, tag)
	out := d.post(t, g, 1)
	if out.class == delivered {
		d.stats.count(m.route, counts{Accepted: 1, Delivered: 1})
	}
	t.urgent.done <- out
	if out.class == delivered {
		d.spool.do(&change{add: []*message{m}, over: true}) // so that it is found as what was delivered
	}
	d.locked(func() { d.learn(t, out) })
}

func (d *deliverer) postHead(t *turn) {
	g, err := d.gather(t)
	if err != nil {
		d.unreadable(t, err)
		return
	}
	out := d.post(t, g, t.head.attempts)
	d.mu.Lock()
	d.learn(t, out)
	ends := d.settle(t, g, out)
	d.mu.Unlock()
	if len(ends) == 0 {
		return
	}
	d.spool.do(&change{end: ends}) // an error of the disk is tried again there
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(t.lane, 0, len(ends))
	for i, m := range g.messages[:len(ends)] {
		d.stats.count(m.route, ends[i].counts())
	}
}

// counts is what an ending changes in the counters.
func (e ending) counts() counts {
	switch e.fate {
	case fateDelivered:
		return counts{Waiting: -1, Delivered: 1}
	case fateDead:
		return counts{Waiting: -1, Dead: 1}
	}
	return counts{Waiting: -1, Dropped: 1}
}

// gather reads the messages of one post: the first of the lane, and those behind it that merge with it.
func (d *deliverer) gather(t *turn) (*merger, error) {
	d.reads <- struct{}{}
	defer func() { <-d.reads }()
	g, size := &merger{limit: t.parts}, int64(0)
	for i, w := range t.heads {
		m, err := d.spool.message(w.seq())
		if err != nil && i == 0 {
			return nil, err
		}
		if size += w.size(); err != nil || i > 0 && size > bodyLimit {
			break
		}
		if i == 0 && (t.head.cut || w.size() > shortLimit) {
			short, long := m.shortened()
			if t.long = long; t.head.cut {
				m = short
			}
		}
		_, tag, err := t.cfg.lookup(m.route)
		if i > 0 && err != nil || !g.add(m, tag) {
			break
		}
	}
	return g, nil
}

// unreadable deals with a head that could not be read.
func (d *deliverer) unreadable(t *turn, err error) {
	l, first := t.lane, t.heads[0]
	if err == errDamaged {
		d.log.Error("a line of the spool is damaged: the message is lost", "to", l.to.name(), "number", first.seq())
		d.spool.do(&change{end: []ending{{seq: first.seq(), fate: fateDamaged}}})
		d.stats.count(t.cfg.routeTo(l.to), counts{Waiting: -1, Dropped: 1})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == errDamaged || err == errGone {
		l.head = head{}
		d.remove(l, 0, 1)
		return
	}
	l.deferHead(backOff(l.head.attempts), "reading the spool: "+err.Error(), d.log, slog.LevelError)
}

// post makes one attempt and counts it. Afterwards the messages are without their contents: they may be large.
func (d *deliverer) post(t *turn, g *merger, attempt int) outcome {
	to, _, err := t.cfg.lookup(g.messages[0].route)
	if err != nil {
		return outcome{class: badContent, reason: err.Error()}
	}
	start := time.Now()
	payload := g.render(start)
	clear(g.parts)
	for _, m := range g.messages {
		m.Text, m.Payload = "", nil
	}
	// Not bound to a request or to SIGTERM: a post that is cut short may have been taken. It ends by postTimeout.
	out := d.slack.post(context.Background(), to.credential, payload)
	d.stats.posted(g.messages, attempt, out, time.Since(start))
	return out
}

// learn takes from out what holds for the lane and its account, whichever message was posted.
func (d *deliverer) learn(t *turn, out outcome) {
	l, a, now := t.lane, t.lane.account, time.Now()
	l.turn = now.Add(d.cfg.pace())
	if out.unreached && !out.unsure { // nobody can be reached: that is no lane's fault
		if a.failures++; a.failures == 1 {
			a.errSince = now
			d.log.Log(context.Background(), out.level(), "slack cannot be reached: what waits for it waits together",
				"to", l.to.name(), "err", out.reason)
		}
		a.earned, a.err, a.limited = false, out.reason, false
		a.until = now.Add(min(backOff(a.failures), longestProbe))
		return
	}
	l.failing, l.limited = out.class != delivered && out.class != badContent, out.limited
	switch {
	case out.unreached:
		a.earned = a.earned && a.worked.After(t.began) // it may be this lane alone
	case out.class != inBetween:
		if a.failures > 0 {
			d.log.Info("slack can be reached again", "to", l.to.name(), "after", a.failures)
		}
		a.earned, a.failures = true, 0
	}
	if out.class == delivered {
		a.worked = now
	}
	until := now.Add(out.pause(t.head.attempts))
	if out.limited && a.credential.token != (secret{}) {
		if until.After(a.until) {
			a.until, a.limited, a.err = until, true, "slack's rate limit, met by "+l.to.name()
		}
	} else if until.After(l.turn) {
		l.turn = until
	}
}

// pause returns how long the answer to the n-th attempt asks to wait, 0 if it does not.
func (o outcome) pause(n int) time.Duration {
	if o.limited && o.wait == 0 {
		return unnamedPause(max(n, 1)) // a sync post counts none
	}
	return o.wait
}

// verdict is what becomes of the messages of a post.
type verdict int

const (
	later   verdict = iota // they are tried again
	done                   // Slack has them
	dead                   // they are dead letters
	halve                  // they go in smaller posts
	shorten                // the one message goes once more, cut
)

// posted describes a post to judge.
type posted struct {
	parts  int  // attachments
	long   bool // it is one message, and can be cut
	tooOld int  // messages, from the first on
}

// judge says what becomes of a post whose answer was out and whose messages have the history h. worked is the last
// delivery of their account. Of dead messages it says why, and how many of them are, 0 for all.
func judge(out outcome, h head, p posted, worked, now time.Time) (v verdict, n int, reason string) {
	poisonous := !h.since.IsZero() && now.Sub(h.since) > poisonAfter && worked.After(h.since)
	switch {
	case out.class == delivered:
		return done, 0, ""
	case (out.class == badContent || out.tooMuch || poisonous) && p.parts > 1:
		return halve, 0, ""
	case out.tooMuch && p.long && !h.cut:
		return shorten, 0, ""
	case out.class == badContent, out.class == badDestination && h.attempts >= destinationTries:
		return dead, 0, out.reason
	case poisonous:
		return dead, 0, fmt.Sprintf("nothing but errors of slack's for %v, while other messages pass: %s", poisonAfter, out.reason)
	case out.broken && h.broken+1 >= brokenTries:
		return dead, 0, "it may have been delivered: " + out.reason
	case p.tooOld > 0 && now.Sub(h.first) > ageAfter:
		return dead, p.tooOld, ""
	}
	return later, 0, ""
}

// settle does to the lane of t what is judged, and returns how messages of g end, from the first on.
func (d *deliverer) settle(t *turn, g *merger, out outcome) (ends []ending) {
	l, now, maxAge := t.lane, time.Now(), time.Duration(d.cfg.spool.maxAge)*time.Second
	if out.status < 500 {
		l.head.since = time.Time{}
	} else if l.head.since.IsZero() {
		l.head.since = now
	}
	p := posted{parts: len(g.parts), long: len(g.messages) == 1 && t.long}
	for p.tooOld < len(g.messages) && now.Sub(time.UnixMilli(g.messages[p.tooOld].queued)) > maxAge {
		p.tooOld++
	}
	verdict, n, reason := judge(out, l.head, p, l.account.worked, now)
	if verdict == dead && n > 0 {
		reason = fmt.Sprintf("not delivered within %v: %s", maxAge, out.reason)
	}
	first, h := g.messages[0], l.head
	if n == 0 {
		n = len(g.messages)
	}
	switch verdict {
	case done:
		if l.err != "" {
			d.log.Info("delivery works again", "id", first.ID, "to", first.route.String(), "attempts", h.attempts)
		}
		l.err, l.head = "", head{}
		return endings(g.messages, fateDelivered, h.attempts, "")
	case halve:
		d.log.Warn("merged post rejected: its halves go next", "messages", n, "to", first.route.String(), "err", out.reason)
		l.head = head{since: l.head.since}
		l.most, l.mostTill = (p.parts+1)/2, now.Add(smallerFor)
	case shorten:
		d.log.Warn("too long for the receiver: it goes once more, cut", "id", first.ID, "to", first.route.String(), "err", out.reason)
		l.head.cut, l.most = true, 0
	case dead:
		l.err, l.head, l.most = "", head{}, 0 // of the head that is next, nothing is known
		for _, m := range g.messages[:n] {
			d.log.Error("dead letter", "id", m.ID, "to", m.route.String(), "attempts", h.attempts, "err", reason)
		}
		d.reportDead(l, first, reason)
		return endings(g.messages[:n], fateDead, h.attempts, reason)
	default:
		d.postpone(l, g, out)
	}
	return nil
}

func endings(messages []*message, fate string, attempts int, reason string) (ends []ending) {
	for _, m := range messages {
		ends = append(ends, ending{seq: m.seq, fate: fate, attempts: attempts, reason: reason})
	}
	return ends
}

// postpone has the messages of g, the head of l, tried again later and together.
func (d *deliverer) postpone(l *lane, g *merger, out outcome) {
	h := &l.head
	h.group = len(g.messages)
	if out.unreached && !out.unsure {
		return // its account waits
	}
	wait := backOff(h.attempts)
	h.broken += number(out.broken)
	if pause := out.pause(h.attempts); pause > 0 {
		wait = pause
	}
	l.deferHead(wait, out.reason, d.log, out.level())
}

// level is that of a post that failed: an error if nobody but an operator can mend it.
func (o outcome) level() slog.Level {
	if o.class == badCredential || o.class == inBetween {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// deferHead has the head of l tried again after wait. A reason is logged when it is new.
func (l *lane) deferHead(wait time.Duration, reason string, log *slog.Logger, level slog.Level) {
	if l.err == "" {
		l.errSince = time.Now()
	}
	if l.err != reason {
		log.Log(context.Background(), level, "delivery deferred",
			"to", l.to.name(), "attempts", l.head.attempts, "retry_in", wait, "err", reason)
	}
	l.err = reason
	l.head.retryAt = time.Now().Add(wait)
}

// reportDead tells core.report_tag about the first dead letter of a destination in an hour.
func (d *deliverer) reportDead(l *lane, m *message, reason string) {
	tag := d.cfg.core.reportTag
	if tag == "" || m.route.tag == tag || time.Since(d.reported[l.to]) < reportEvery {
		return
	}
	maps.DeleteFunc(d.reported, func(_ destination, at time.Time) bool { return time.Since(at) >= reportEvery })
	d.reported[l.to] = time.Now()
	name := "tag " + m.route.tag
	if m.route.tag == "" {
		name = "channel " + m.route.channel
	}
	text := fmt.Sprintf("A message for %s could not be delivered: %s. It is kept as dead letter %s: GET /messages/%[3]s shows it, "+
		"POST /messages/%[3]s/retry sends it again, and GET /messages?state=dead lists all.", name, reason, m.ID)
	for _, to := range d.cfg.routes(tag) {
		report := &message{ID: newID(), Host: hostname(), Level: "warn", Text: text, route: to}
		go d.store([]*message{report})
	}
}

// backOff returns the wait after the n-th failed attempt: it doubles, and up to a quarter more keeps lanes apart.
func backOff(n int) time.Duration {
	wait := longestBackOff
	if n < 16 {
		wait = min(firstBackOff<<(n-1), longestBackOff)
	}
	return wait + rand.N(wait/4)
}
