package main

// Delivery: one lane per destination, in order, until Slack has a message or will never take it.
//
// A lane sleeps in a timer, stands in its account's queue, or has its turn: a goroutine, turn, that reads the lane's
// head, posts it and has the spool record what became of it. Back-off, pace and a pause that Slack asked for are
// one thing: a longer sleep. What became of a message is on disk before the lane's next turn: a crash doubles at most
// one post of a destination. One mutex guards the lanes; who holds it does not wait for anything.
//
// Turns are shared out account by account, so that nobody waits for the lanes of another. What an account has not
// yet earned, or a lane has lost, it cannot take from the others: see room.

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPosts         = 96        // posts in flight, fewer if the process may open few files: see room
	largePost        = 128 << 10 // bytes; what is larger goes within
	largeBytes       = 8 << 20   // bytes in flight, one such share for turns of rank 0, one for all others
	urgentBytes      = 16 << 20  // bytes of sync posts that wait for their turn; a fourth of that for one account
	maxReaders       = 2         // turns that read at the same time
	firstBackOff     = time.Second
	longestBackOff   = 5 * time.Minute
	longestProbe     = 30 * time.Second // between two tries to reach an account that cannot be connected to
	destinationTries = 3                // posts before a destination's refusal is believed
	brokenTries      = 3                // posts whose answer broke off before a message counts as perhaps delivered
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
	route    route // of the last message for it: a damaged message is counted for this route
	account  *account
	waiting  []waiter // oldest first
	bytes    int64    // of these, and of what is being stored
	urgent   []*turn  // of sync posts, before those of waiting
	head     head
	until    time.Time // no post before: pace, or a pause of Slack's
	timer    *time.Timer
	awake    bool      // it stands in its account's queue, or has its turn
	posting  int       // so many of waiting, from the first on, are in the post in flight
	limited  bool      // the last post met a rate limit
	err      string    // why the head waits, "" after a success
	errSince time.Time // when that began
	most     int       // attachments that go into one post, since more were too much
	mostTill time.Time // until then
	reported time.Time // the last dead letter, to core.report_tag
}

// head is what is known of the first messages of a lane. After they have ended, that of the next ones is zero.
type head struct {
	attempts int
	group    int       // messages that were posted together last; they stay together until that is settled
	broken   int       // of the attempts: their answers broke off
	cut      bool      // it was too much for the receiver: it goes once more, cut
	first    time.Time // attempt of this process
	retryAt  time.Time // no attempt before; zero: none has failed, or an operator wants the next one now
}

// account is a credential with its lanes: what pauses or cannot be reached does so for all of them.
type account struct {
	due        [4][]*lane // by kind: those that are due, the one that is so longest first
	posting    [ranks]int // posts in flight of this rank or a worse one
	urgent     int64      // bytes of sync posts that wait
	lanesUntil time.Time  // during a reload: the latest until of its lanes, for those that are new
	until      time.Time  // no post before
	err        string     // why
	failures   int        // to connect, in a row
	errSince   time.Time  // when these began
	timer      *time.Timer
	limited    bool // until is that of a rate limit
	earned     bool // Slack has answered for it, and nothing has been without an answer since
	inRing     bool
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// failing reports whether the head has failed: its next post may not come back either.
func (l *lane) failing() bool { return !l.head.retryAt.IsZero() }

// next returns the turn that is next, nil if nothing waits, and when the lane has something to do.
func (l *lane) next() (t *turn, at time.Time) {
	switch {
	case len(l.urgent) > 0:
		return l.urgent[0], l.until
	case len(l.waiting) > 0:
		return &turn{lane: l, size: l.waiting[0].size()}, latest(l.until, l.head.retryAt)
	}
	return nil, l.until
}

// enqueue puts a message in its place by number, but not among those that are being posted, or were together.
func (l *lane) enqueue(w waiter) {
	fixed := max(l.posting, l.head.group)
	at, _ := slices.BinarySearch(l.waiting[fixed:], w)
	l.waiting = slices.Insert(l.waiting, fixed+at, w)
}

// hold counts n more bytes as those of l. They count for max_bytes.
func (d *deliverer) hold(l *lane, n int64) {
	l.bytes += n
	d.bytes += n
}

// remove takes n messages out of l, from the i-th on.
func (d *deliverer) remove(l *lane, i, n int) {
	for _, w := range l.waiting[i : i+n] {
		d.hold(l, -w.size())
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

	reads  chan struct{} // a token for each turn that reads
	config atomic.Pointer[config]

	guard
	changed   sync.Cond // of mu: a post or a store has ended, or a reload
	lanes     map[destination]*lane
	accounts  map[credential]*account
	ring      []*account // that have lanes in line and may post, the one whose turn is next first
	bytes     int64      // of all lanes: what counts for max_bytes
	urgent    int64      // bytes of sync posts that wait for their turn
	posting   [ranks]int // posts in flight of this rank or a worse one
	large     [2]int64   // bytes of large posts in flight; in the second those of a rank that is not the best
	stores    int        // so many changes are being written: a reload waits for them
	reloading bool       // no store begins
	resting   int        // no turn begins while somebody wants that: qps, a reload, the stop
	firstPost time.Time  // of all lanes: before a restart, the last post may have been a moment ago
}

// cfg returns the configuration as it is now: a reload may change it between two calls, but not while mu is held or a
// turn lasts.
func (d *deliverer) cfg() *config { return d.config.Load() }

// newDeliverer returns one that delivers what waits in sp, with so many posts in flight at most.
func newDeliverer(cfg *config, slack poster, posts int, sp *spool, st *stats, log *slog.Logger) (*deliverer, error) {
	d := &deliverer{
		slack: slack, posts: posts, spool: sp, stats: st, log: log,
		lanes: map[destination]*lane{}, accounts: map[credential]*account{}, reads: make(chan struct{}, maxReaders),
	}
	d.changed.L = &d.mu
	return d, d.reload(cfg, st.count)
}

// pace returns the least time between two posts to one destination.
func (c *config) pace() time.Duration {
	return time.Second / time.Duration(cmp.Or(c.core.channelRate, 1<<62)) // 0 stands for no pause
}

// delayLimit returns how long qps may delay a message that is sent with sync=true.
func (c *config) delayLimit() time.Duration {
	if c.core.maxDelay < 0 {
		return 10 * time.Second
	}
	return time.Duration(c.core.maxDelay) * time.Second
}

// guard is the mutex of what embeds it.
type guard struct{ mu sync.Mutex }

func (g *guard) locked(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// after has f called, with mu held, once wait is over.
func (d *deliverer) after(wait time.Duration, f func()) *time.Timer {
	return time.AfterFunc(wait, func() { d.locked(f) })
}

// stop ends delivery: it returns once all turns have ended, 30 s later at most where the disk works. What a disk that
// fails cannot record by then is posted once more after the next start. Senders that wait for a turn are answered.
func (d *deliverer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := false
	d.resting++
	d.after(postTimeout+time.Second, func() { late = true; d.changed.Broadcast() })
	d.wait(func() bool { return late || d.posting[0] == 0 })
	for _, l := range d.lanes {
		for len(l.urgent) > 0 {
			d.giveUp(l.urgent[0])
		}
	}
}

// wait returns once ok is true. The caller holds mu.
func (d *deliverer) wait(ok func() bool) {
	for !ok() {
		d.changed.Wait()
	}
}

// store returns nil only once messages would survive a power cut; the caller may then answer ok. Half of max_bytes is
// for one destination at most, so that one that fails leaves room for the others.
func (d *deliverer) store(messages []*message) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wait(func() bool { return !d.reloading })
	for _, m := range messages {
		l := d.lane(m.route)
		if d.hold(l, m.size()); l.bytes > d.cfg().spool.maxBytes/2 {
			err = fmt.Errorf("half of the spool waits for %s", l.to.name())
		}
	}
	if err = cmp.Or(d.full(0), err); err == nil {
		err = d.write(&change{add: messages})
	}
	for _, m := range messages {
		l := d.lane(m.route)          // the same lane: it holds bytes of m, and a reload waits
		if err != nil || m.seq == 0 { // 0: it was there before
			d.hold(l, -m.size())
		} else {
			resent := int64(asInt(m.replaces != 0)) // a dead letter that is sent again
			d.stats.count(m.route, counts{Waiting: 1, Accepted: 1 - resent, Dead: -resent})
			l.enqueue(newWaiter(m.seq, m.size()))
		}
		d.schedule(l)
	}
	return err
}

// write has the spool do c, and keeps a reload away until it has. The caller holds mu, though not meanwhile.
func (d *deliverer) write(c *change) error {
	d.stores++
	d.mu.Unlock()
	err := d.spool.do(c)
	d.mu.Lock()
	d.stores--
	d.changed.Broadcast()
	return err
}

// full returns an error when no message of more bytes fits. The caller holds mu.
func (d *deliverer) full(more int64) error {
	if d.bytes+more > d.cfg().spool.maxBytes {
		return fmt.Errorf("the spool is full: %d bytes wait for slack", d.bytes)
	}
	return nil
}

// postNow posts m once, in the next turn of its lane. It does not wait for that longer than limit: then the outcome
// is that of a rate limit, or of what keeps its account from posting, and nothing was posted.
func (d *deliverer) postNow(m *message, limit time.Duration) outcome {
	t := &turn{urgent: m, size: m.size(), head: head{attempts: 1}, done: make(chan outcome, 1)}
	d.locked(func() {
		d.addUrgent(t)
		tooMuch := d.urgent > urgentBytes || t.lane.account.urgent > max(t.size, urgentBytes/4)
		if tooMuch || t.lane.refusal().wait > limit {
			d.giveUp(t)
		}
		d.schedule(t.lane)
	})
	defer d.after(max(limit, time.Second), func() { d.giveUp(t) }).Stop() // a post in flight may be ahead
	return <-t.done
}

// giveUp answers the sender of an urgent turn, unless its message is being posted.
func (d *deliverer) giveUp(t *turn) {
	if i := slices.Index(t.lane.urgent, t); i >= 0 {
		d.takeUrgent(t.lane, i)
		t.done <- t.lane.refusal()
	}
}

// refusal is the outcome of a post that does not get its turn in l: why, and how long it would have to wait for it.
func (l *lane) refusal() outcome {
	a, wait := l.account, time.Until(latest(l.until, l.account.until))
	if a.failures > 0 {
		return outcome{class: retry, reason: a.err, wait: wait}
	}
	return outcome{class: limited, reason: "rate limited", wait: wait}
}

// addUrgent puts t into the lane where its message leads.
func (d *deliverer) addUrgent(t *turn) {
	t.lane = d.lane(t.urgent.route)
	t.lane.urgent = append(t.lane.urgent, t)
	t.lane.account.urgent += t.size
	d.urgent += t.size
}

// takeUrgent takes the i-th of the urgent turns of l, to post its message or because the sender has given up.
func (d *deliverer) takeUrgent(l *lane, i int) {
	size := l.urgent[i].size
	l.urgent = slices.Delete(l.urgent, i, i+1)
	l.account.urgent -= size
	d.urgent -= size
}

// ahead returns how many messages wait that may go before one to r, where qps is shared: those of its own lane and
// account, and of accounts that deliver, except in lanes that fail.
func (d *deliverer) ahead(r route) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg().lookup(r)
	for _, l := range d.lanes {
		if l.to == to || !l.failing() && (l.account.earned || l.to.credential == to.credential) {
			n += len(l.waiting)
		}
	}
	return n
}

// lane returns the lane of r, a new one where there is none.
func (d *deliverer) lane(r route) *lane {
	to, _, _ := d.cfg().lookup(r) // an unknown tag is not an error here: post makes it a dead letter
	a, l := d.accounts[to.credential], d.lanes[to]
	if a == nil {
		a = &account{}
		a.timer = d.after(time.Hour, func() { d.enterRing(a); d.begin() })
		d.accounts[to.credential] = a
	}
	if l == nil {
		l = &lane{to: to, account: a, until: latest(d.firstPost, a.lanesUntil)}
		l.timer = d.after(time.Hour, func() { d.schedule(l) })
		d.lanes[to] = l
	}
	l.route = r
	return l
}

// schedule has l sleep until its next turn, or stand in line. One that has nothing to do goes, once it may post again
// and what it remembers is over.
func (d *deliverer) schedule(l *lane) {
	if l.awake || d.lanes[l.to] != l {
		return
	}
	t, at := l.next()
	if t == nil {
		at = latest(at, l.mostTill, l.reported.Add(reportEvery))
	}
	switch wait := time.Until(at); {
	case wait > 0:
		// Timers that end at the same moment run at the same time: 100,000 of them would take 200 MB.
		l.timer.Reset(wait + rand.N(time.Duration(len(d.lanes)+1)*10*time.Microsecond))
	case t != nil:
		// Lanes that fail (1), large heads (2) and both (3) have lines of their own: no other lane waits behind them.
		queue := &l.account.due[asInt(l.failing())+2*asInt(t.size > largePost)]
		*queue, l.awake = append(*queue, l), true
		d.enterRing(l.account)
		d.begin()
	case l.bytes == 0: // else its first message is being stored
		l.timer.Stop()
		delete(d.lanes, l.to)
	}
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// enterRing puts a into the ring, if it has lanes that are due, once it may post.
func (d *deliverer) enterRing(a *account) {
	switch wait := time.Until(a.until); {
	case a.inRing, len(a.due[0])+len(a.due[1])+len(a.due[2])+len(a.due[3]) == 0:
	case wait > 0:
		a.timer.Reset(wait)
	default:
		d.ring, a.inRing = append(d.ring, a), true
	}
}

// begin gives turns to lanes that stand in line, account by account, while there is room.
func (d *deliverer) begin() {
	for misses := 0; misses < len(d.ring) && d.resting == 0; {
		a := d.ring[0]
		d.ring, a.inRing = d.ring[1:], false
		begun := time.Until(a.until) <= 0 && d.beginOf(a)
		if d.enterRing(a); begun {
			misses = 0
		} else {
			misses += asInt(a.inRing) // one that has left makes the ring shorter
		}
	}
}

// beginOf gives a turn to one of the lanes of a. It returns false if none of them may have it.
func (d *deliverer) beginOf(a *account) bool {
	for k := range a.due {
		for len(a.due[k]) > 0 {
			l := a.due[k][0]
			t, at := l.next()
			ready := t != nil && time.Until(at) <= 0 // nothing was dropped meanwhile
			if ready && !d.room(t) {
				break
			}
			a.due[k] = slices.Delete(a.due[k], 0, 1)
			if ready {
				d.start(t)
				return true
			}
			l.awake = false
			d.schedule(l)
		}
	}
	return false
}

// turn is one post of a lane, from its begin to its end. That of a message with sync=true begins when it is asked for:
// it is posted once, and not kept.
type turn struct {
	lane *lane
	rank int   // see room
	size int64 // of the first message

	urgent *message     // of a sync post, else nil
	done   chan outcome // where the sender of urgent waits

	heads  []waiter // waiting messages that may go together
	merged merger   // those that do
	head   head     // with this attempt
	long   bool     // it is one part, too much for the receiver, and can be cut
}

// ranks of turns: 0 is the best.
const ranks = 3

// room ranks t and tells whether it may begin. What must not take all the room are posts that do not come back. So
// turns of lanes that failed last time (rank 2) may have a third of all posts in flight. Together with those of
// accounts that Slack has not answered for, yet or any more (rank 1), they may have two thirds. One account may have a
// third of each of these shares, and the last quarter of each is for accounts that have no post in flight.
func (d *deliverer) room(t *turn) bool {
	a := t.lane.account
	t.rank = max(asInt(!a.earned), 2*asInt(t.lane.failing()))
	for rank := range t.rank + 1 {
		share := max(1, d.posts*(ranks-rank)/ranks)
		all, own := share, 1 // of an account that cannot be connected to, one lane finds out
		if a.posting[0] > 0 && a.failures == 0 {
			all, own = share-share/4, max(1, share/3)
		}
		if d.posting[rank] >= all || a.posting[rank] >= own {
			return false
		}
	}
	return t.size <= largePost || d.large[min(t.rank, 1)] < largeBytes
}

// occupy counts what t takes of the room, or gives back (by is -1).
func (d *deliverer) occupy(t *turn, by int) {
	for rank := range t.rank + 1 {
		d.posting[rank] += by
		t.lane.account.posting[rank] += by
	}
	if t.size > largePost {
		d.large[min(t.rank, 1)] += int64(by) * t.size
	}
}

func (d *deliverer) start(t *turn) {
	l, now := t.lane, time.Now()
	d.occupy(t, 1)
	if qps := d.cfg().core.qps; qps > 0 {
		d.resting++
		d.after(time.Second/time.Duration(qps), func() { d.resting--; d.begin() })
	}
	if t.urgent != nil {
		d.takeUrgent(l, 0)
	} else {
		l.head.attempts++
		l.head.first = cmp.Or(l.head.first, now)
		t.head, t.merged.limit = l.head, int(d.cfg().core.batch)
		if l.mostTill.After(now) {
			t.merged.limit = min(t.merged.limit, l.most)
		}
		l.posting = cmp.Or(l.head.group, min(mergedHeads, len(l.waiting)))
		if t.merged.limit == 1 { // not even equal ones go together
			l.posting = 1
		}
		t.heads = slices.Clone(l.waiting[:l.posting])
	}
	go d.turn(t)
}

// turn makes a post of t. When it returns, what became of that is on disk.
func (d *deliverer) turn(t *turn) {
	var ends []ending // of the first messages of the lane
	if t.urgent != nil {
		d.postUrgent(t)
	} else if err := d.gather(t); len(t.merged.messages) == 0 {
		d.locked(func() { ends = d.unreadable(t, err) })
	} else {
		out := d.post(t)
		d.locked(func() { ends = d.settle(t, out) })
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(ends) > 0 {
		d.record(ends, d.write) // an error of the disk is tried again there
	}
	d.remove(t.lane, 0, len(ends))
	t.lane.awake, t.lane.posting = false, 0
	d.occupy(t, -1)
	d.changed.Broadcast()
	d.schedule(t.lane)
	d.begin()
}

func (d *deliverer) postUrgent(t *turn) {
	_, tag, _ := d.cfg().lookup(t.urgent.route)
	t.merged.add(t.urgent, tag)
	out := d.post(t)
	d.locked(func() { d.learn(t, out) })
	if out.class == delivered {
		d.stats.count(t.urgent.route, counts{Accepted: 1, Delivered: 1})
		defer d.spool.do(&change{add: t.merged.messages}) // so that it is found as what was delivered
	}
	t.done <- out
}

// record has write put on disk how messages end, and counts those that had not ended before.
func (d *deliverer) record(ends []ending, write func(*change) error) (n int, err error) {
	err = write(&change{end: ends})
	for _, e := range ends {
		if err == nil && !e.gone {
			delivered, dead := int64(asInt(e.fate == fateDelivered)), int64(asInt(e.fate == fateDead))
			was := int64(asInt(e.wasDead))
			gone := counts{Waiting: was - 1, Delivered: delivered, Dead: dead - was, Dropped: 1 - delivered - dead}
			d.stats.count(e.route, gone)
			n++
		}
	}
	return n, err
}

// gather reads the messages of one post: the first of the lane, and those behind it that merge with it. If there is
// none, the error says why.
func (d *deliverer) gather(t *turn) error {
	size := int64(0)
	d.reads <- struct{}{}
	defer func() { <-d.reads }()
	for i, w := range t.heads {
		m, _, err := d.spool.read(found{seq: w.seq()})
		if size += w.size(); err != nil || i > 0 && size > bodyLimit {
			return err
		}
		if _, tag, _ := d.cfg().lookup(m.route); !t.merged.add(m, tag) {
			break
		}
	}
	return nil
}

// unreadable deals with a head that could not be read, and returns how it ends if it is lost.
func (d *deliverer) unreadable(t *turn, err error) []ending {
	if err != errDamaged && err != errGone {
		d.postpone(t.lane, outcome{class: inBetween, reason: "reading the spool: " + err.Error()})
		return nil
	}
	lost := ending{seq: t.heads[0].seq(), route: t.lane.route, fate: fateDamaged}
	d.log.Error("a line of the spool is damaged: the message is lost", "to", t.lane.to.name(), "number", lost.seq)
	t.lane.head = head{}
	return []ending{lost}
}

// post makes one attempt and counts it. Afterwards the messages are without their contents: they may be large.
func (d *deliverer) post(t *turn) outcome {
	messages := t.merged.messages
	to, tag, err := d.cfg().lookup(messages[0].route)
	if err != nil {
		return outcome{class: badContent, reason: err.Error()}
	}
	start := time.Now()
	payload := t.merged.render(tag, start)
	if t.head.cut {
		payload, _ = shorter(payload)
	}
	clear(t.merged.parts)
	for _, m := range messages {
		m.Text, m.Payload = "", nil
	}
	out := d.slack(to.credential, payload)
	if out.class == limited && out.wait == 0 {
		out.wait = unnamedPause(t.head.attempts)
	}
	d.stats.posted(messages, t.head.attempts, out, time.Since(start))
	if out.tooMuch && len(t.merged.parts) == 1 {
		_, t.long = shorter(payload)
	}
	return out
}

// learn takes from out what holds for the lane and its account, whichever message was posted.
func (d *deliverer) learn(t *turn, out outcome) {
	l, a, now := t.lane, t.lane.account, time.Now()
	l.until, l.limited = now.Add(max(d.cfg().pace(), out.wait)), out.class == limited
	switch {
	case out.nobody():
		if a.failures++; a.failures == 1 {
			a.errSince = now
			d.log.Error("slack cannot be reached: all that waits waits together", "to", l.to.name(), "err", out.reason)
		}
		if until := now.Add(min(backOff(a.failures), longestProbe)); until.After(a.until) { // else Slack's pause stays
			a.until, a.err, a.limited = until, out.reason, false
		}
		fallthrough
	case out.unreached:
		a.earned = false
	case out.class != inBetween:
		if a.failures > 0 {
			d.log.Error("slack can be reached again", "to", l.to.name(), "after", a.failures)
		}
		a.earned, a.failures = true, 0
	}
	if until := now.Add(out.wait); l.limited && l.to.credential.token != (secret{}) && until.After(a.until) {
		a.until, a.err, a.limited = until, "slack's rate limit, met by "+l.to.name(), true
	}
}

// nobody reports that no connection was made: that is no lane's fault, and its account waits.
func (o outcome) nobody() bool { return o.unreached && !o.unsure }

// What becomes of the messages of a post, if they have no fate yet.
const (
	later   = ""        // they are tried again
	smaller = "smaller" // they go in smaller posts, or the one message goes once more, cut
)

// judge returns what becomes of the messages of t, whose answer was out: a fate, later or smaller. Of dead messages it
// says why, and how many of them are, from the first on: all, or so many as are too old.
func (t *turn) judge(out outcome, tooOld int, now time.Time) (fate string, n int, reason string) {
	h, parts, all := t.head, len(t.merged.parts), len(t.merged.messages)
	switch {
	case out.class == delivered:
		return fateDelivered, all, ""
	case parts > 1 && (out.class == badContent || out.tooMuch), t.long && out.tooMuch && !h.cut:
		return smaller, all, ""
	case out.class == badContent, out.class == badDestination && h.attempts >= destinationTries:
		return fateDead, all, out.reason
	case out.broken && h.broken+1 >= brokenTries:
		return fateDead, all, "it may have been delivered: " + out.reason
	case tooOld > 0 && now.Sub(h.first) > ageAfter:
		return fateDead, tooOld, "older than max_age: " + out.reason
	}
	return later, all, ""
}

// settle does to the lane of t what is judged, and returns how messages of t end, from the first on.
func (d *deliverer) settle(t *turn, out outcome) (ends []ending) {
	d.learn(t, out)
	l, h, now, messages, tooOld := t.lane, t.head, time.Now(), t.merged.messages, 0
	oldest := now.Add(-time.Duration(d.cfg().spool.maxAge) * time.Second).UnixMilli()
	for tooOld < len(messages) && messages[tooOld].queued < oldest {
		tooOld++
	}
	fate, n, reason := t.judge(out, tooOld, now)
	switch {
	case fate == later:
		l.head.group = len(messages)
		l.head.broken += asInt(out.broken)
		if !out.nobody() {
			d.postpone(l, out)
		}
		return nil
	case fate == smaller:
		d.log.Warn("post refused: a smaller one is next", "to", l.to.name(), "messages", n, "err", out.reason)
		if parts := len(t.merged.parts); parts > 1 {
			l.head, l.most, l.mostTill = head{}, (parts+1)/2, now.Add(smallerFor)
		} else {
			l.head.cut, l.head.group, l.mostTill = true, n, time.Time{}
		}
		return nil
	case fate == fateDead:
		l.mostTill = time.Time{} // of the head that is next, nothing is known
		d.reportDead(l, messages[0], reason)
	case l.err != "":
		d.log.Info("delivery works again", "to", l.to.name(), "attempts", h.attempts)
	}
	l.err, l.errSince, l.head = "", time.Time{}, head{}
	for _, m := range messages[:n] {
		if fate == fateDead {
			d.log.Error("dead letter", "id", m.ID, "to", m.route.String(), "attempts", h.attempts, "err", reason)
		}
		ends = append(ends, ending{seq: m.seq, route: m.route, fate: fate, attempts: h.attempts, reason: reason})
	}
	return ends
}

// postpone has the head of l tried again later. A reason is logged when it is new: as an error if nobody but an
// operator can mend it.
func (d *deliverer) postpone(l *lane, out outcome) {
	wait, now, log := cmp.Or(out.wait, backOff(l.head.attempts)), time.Now(), d.log.Warn
	if out.class == badCredential || out.class == inBetween {
		log = d.log.Error
	}
	if l.err != out.reason {
		log("delivery deferred", "to", l.to.name(), "attempts", l.head.attempts, "retry_in", wait, "err", out.reason)
	}
	l.err, l.errSince, l.head.retryAt = out.reason, cmp.Or(l.errSince, now), now.Add(wait)
}

// reportDead tells core.report_tag about the first dead letter of a destination in an hour.
func (d *deliverer) reportDead(l *lane, m *message, reason string) {
	tag := d.cfg().core.reportTag
	if tag == "" || m.route.tag == tag || time.Since(l.reported) < reportEvery {
		return
	}
	l.reported = time.Now()
	text := fmt.Sprintf("A message for %s could not be delivered: %s. It is kept as dead letter %s: GET "+
		"/messages/%[3]s shows it, POST /messages/%[3]s/retry sends it again, and GET /messages?state=dead lists all.",
		cmp.Or(m.route.tag, m.route.channel), reason, m.ID)
	for i := range d.cfg().byTag[tag] {
		go d.store([]*message{{ID: newID(), Host: hostname(), Level: "warn", Text: text, route: route{tag, i, ""}}})
	}
}

// backOff returns the wait after the n-th failed attempt: it doubles, and up to a quarter more keeps lanes apart.
func backOff(n int) time.Duration {
	wait := min(firstBackOff<<min(n-1, 16), longestBackOff)
	return wait + rand.N(wait/4)
}
