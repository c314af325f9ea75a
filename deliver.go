package main

// Delivery: the waiting messages of each destination are posted in order, until Slack has taken them or they become
// dead letters. The words of this file:
//
//   - A lane is the queue of one destination (a channel of a credential). It makes one post at a time.
//   - The head of a lane is what it posts next: the first message that waits, and those behind it in the same post.
//   - An account is one credential (a webhook's URL, or a token) with all its lanes.
//   - A turn is one post of a lane. Its goroutine, the method turn, reads the messages from the spool, posts them, and
//     has the spool record which of them have ended, and how.
//   - An urgent turn posts a message that was sent with sync=true, before the lane's waiting messages. That message is
//     posted once. It is not in the spool, except as history after it was delivered.
//   - The ring is the line of the accounts that may post and have a lane that is due. The first account in the ring
//     gets one turn, then it goes to the end of the ring. So an account with many lanes does not delay other accounts.
//   - The rank of a turn says how likely its post is to hang: 0 is the best rank, 2 the worst. Turns of a worse rank
//     may have fewer posts in flight, so that posts that hang leave room for healthy accounts: see room.
//
// A lane is in one of three states: it sleeps until its timer fires; it is due, and stands in a queue of its account;
// or it has its turn. Pace (the least time between two posts), back-off (the wait after a failed attempt) and a pause
// that Slack asked for make it sleep longer. An account that pauses or cannot be connected to leaves the ring until its
// own timer fires: none of its lanes gets a turn.
//
// The end of a message is on disk before the next turn of its lane begins. So a crash doubles at most one post of each
// destination. One mutex, mu, guards all lanes and accounts. Code that holds mu must not block. The only exception is a
// reload, which reads the spool with mu held.

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
	maxPosts       = 96        // posts in flight, see room; fewer if the process may open few files
	largePost      = 128 << 10 // bytes; a turn whose first message is larger counts for largeBytes
	largeBytes     = 8 << 20   // bytes of large posts in flight: one limit for rank 0, one for ranks 1 and 2 together
	urgentBytes    = 16 << 20  // bytes of sync posts that wait for their turn; at most a quarter for one account
	maxReaders     = 2         // turns that read the spool at the same time
	firstBackOff   = time.Second
	longestBackOff = 5 * time.Minute
	longestProbe   = 30 * time.Second // longest back-off of an account that cannot be connected to
	maxDoubts      = 3                // refusals for the destination, or broken answers, that make a dead letter
	ageAfter       = 10 * time.Minute // of failing, before a lane uses max_age: the clock may have been wrong
	reportEvery    = time.Hour        // between two reports of dead letters of one destination
	smallerFor     = time.Hour        // how long a lane merges less after a merged post was refused
)

// waiter is a message that waits: its number in the upper 40 bits, its size in the lower 24 bits.
type waiter uint64

func newWaiter(seq uint64, size int64) waiter { return waiter(seq<<24 | uint64(min(size, 1<<24-1))) }
func (w waiter) seq() uint64                  { return uint64(w >> 24) }
func (w waiter) size() int64                  { return int64(w & (1<<24 - 1)) }

// lane is the queue of one destination. It makes one post at a time: of its first urgent turn or, if there is none, of
// its head.
type lane struct {
	to       destination
	route    route // of the last message for it; a damaged message is counted for this route
	account  *account
	waiting  []waiter // oldest first, see enqueue
	bytes    int64    // of waiting, and of messages that are being stored
	urgent   []*turn  // turns of sync posts: they go before waiting
	head     head
	until    time.Time // no post before this time: pace, or a pause that Slack asked for
	timer    *time.Timer
	awake    bool      // the lane stands in a queue of its account, or has its turn
	posting  int       // how many of waiting, from the first on, belong to the turn that has begun
	limited  bool      // the last post met a rate limit
	err      string    // why the head was deferred; "" once its messages were delivered or are dead letters
	errSince time.Time // when the lane began to fail; zero if it does not
	most     int       // until mostTill: attachments in one post, at most, since a post with more was refused
	mostTill time.Time
	reported time.Time // when core.report_tag was last told about a dead letter
}

// head is what a lane knows of its first messages. It becomes zero when they have ended, when their post is split into
// smaller ones, and at a reload.
type head struct {
	attempts int
	group    int       // how many messages were in the last post; they stay together until they have ended
	doubts   int       // attempts that were refused for their destination, or whose answer broke off
	cut      bool      // the next post is cut: the whole text was too much for the receiver
	retryAt  time.Time // no attempt before this time; zero if none was deferred, or if an operator wants one now
}

// account is a credential with its lanes. If the account pauses or cannot be connected to, all its lanes wait.
type account struct {
	due        [4][]*lane // four queues of lanes that are due (see schedule); the lane that is due longest is first
	posting    [ranks]int // posts in flight of this rank or a worse one
	urgentSize int64      // bytes of sync posts that wait for their turn
	lanesUntil time.Time  // during a reload: the latest until of its lanes; new lanes take it over
	until      time.Time  // no post before this time
	err        string     // the reason for until
	failures   int        // failures to connect since Slack's last answer
	errSince   time.Time  // when the first of these failures was
	timer      *time.Timer
	limited    bool // until comes from a rate limit
	answers    bool // Slack has answered for the account, and every post since then got an answer
	inRing     bool
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// deferred reports whether the head was deferred: its next post may hang.
func (l *lane) deferred() bool { return !l.head.retryAt.IsZero() }

// next returns the next turn of l, nil if nothing waits, and the time before which l must not post.
func (l *lane) next() (t *turn, at time.Time) {
	switch {
	case len(l.urgent) > 0:
		return l.urgent[0], l.until
	case len(l.waiting) > 0:
		return &turn{lane: l, size: l.waiting[0].size()}, latest(l.until, l.head.retryAt)
	}
	return nil, l.until
}

// nextTurn returns the earliest time at which l may post a waiting message: after pace, back-off and pauses.
func (l *lane) nextTurn() time.Time { return latest(l.until, l.head.retryAt, l.account.until) }

// enqueue inserts w by its number, but behind the messages that are being posted or were posted together.
func (l *lane) enqueue(w waiter) {
	fixed := max(l.posting, l.head.group)
	at, _ := slices.BinarySearch(l.waiting[fixed:], w)
	l.waiting = slices.Insert(l.waiting, fixed+at, w)
}

// addBytes adds n, which may be negative, to the bytes of l and of all lanes. These bytes count for max_bytes.
func (d *deliverer) addBytes(l *lane, n int64) {
	l.bytes += n
	d.bytes += n
}

// remove removes n messages from l, beginning at index i.
func (d *deliverer) remove(l *lane, i, n int) {
	for _, w := range l.waiting[i : i+n] {
		d.addBytes(l, -w.size())
	}
	l.waiting = slices.Delete(l.waiting, i, i+n)
}

// name returns the name of the destination for logs and errors.
func (to destination) name() string { return cmp.Or(to.channel, "the webhook's channel") }

type deliverer struct {
	slack poster
	posts int // most posts in flight
	spool *spool
	stats *stats
	log   *slog.Logger

	reads  chan struct{} // a slot for each turn that reads the spool
	config atomic.Pointer[config]

	guard
	changed    sync.Cond // on mu: a turn, a write to the spool or a reload has ended
	lanes      map[destination]*lane
	accounts   map[credential]*account
	ring       []*account // accounts that may post and have lanes that are due; the first one is next
	bytes      int64      // of all lanes: they count for max_bytes
	urgentSize int64      // bytes of sync posts that wait for their turn
	posting    [ranks]int // posts in flight of this rank or a worse one
	large      [2]int64   // bytes of large posts in flight: first of rank 0, then of ranks 1 and 2
	writing    int        // changes that the spool is writing: a reload waits for them
	reloading  bool       // no store may begin
	resting    int        // no turn begins unless this is 0: qps, a reload and the stop each add 1
	firstPost  time.Time  // no new lane posts before: the last process may have posted a moment ago
}

// cfg returns the current configuration. A reload may change it between two calls, but not while mu is held or a turn
// lasts.
func (d *deliverer) cfg() *config { return d.config.Load() }

// newDeliverer returns a deliverer for the messages that wait in sp. posts is how many posts may be in flight.
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
	return time.Second / time.Duration(cmp.Or(c.core.channelRate, 1<<62)) // 0: no pace
}

// delayLimit returns how long a message that is sent with sync=true may wait for its turn.
func (c *config) delayLimit() time.Duration {
	if c.core.maxDelay < 0 {
		return 10 * time.Second
	}
	return time.Duration(c.core.maxDelay) * time.Second
}

// guard is the mutex of the struct that embeds it.
type guard struct{ mu sync.Mutex }

func (g *guard) locked(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// after calls f in a goroutine of its own, with mu held, once wait is over.
func (d *deliverer) after(wait time.Duration, f func()) *time.Timer {
	return time.AfterFunc(wait, func() { d.locked(f) })
}

// stop ends delivery: no more turns begin. It returns when all turns have ended, after 31 s at the latest: a post takes
// 30 s at most, but a failing disk can keep a turn longer. A post whose messages have ended, but not yet on disk, is
// made again after the next start. Senders whose urgent turn has not begun are answered.
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

// wait blocks until ok returns true. The caller holds mu; mu is free while wait blocks.
func (d *deliverer) wait(ok func() bool) {
	for !ok() {
		d.changed.Wait()
	}
}

// store returns nil only once messages would survive a power cut; the caller may then answer ok. One destination may
// use half of max_bytes at most, so that a failing destination leaves room for the others.
func (d *deliverer) store(messages []*message) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wait(func() bool { return !d.reloading })
	for _, m := range messages {
		l := d.lane(m.route)
		if d.addBytes(l, m.size()); l.bytes > d.cfg().spool.maxBytes/2 {
			err = fmt.Errorf("half of the spool waits for %s", l.to.name())
		}
	}
	if err = cmp.Or(d.full(0), err); err == nil {
		err = d.write(&change{add: messages})
	}
	for _, m := range messages {
		l := d.lane(m.route)          // the lane from above: it has bytes, so it was not deleted, and a reload waits
		if err != nil || m.seq == 0 { // 0: its key is known, or the dead letter that it replaces is gone
			d.addBytes(l, -m.size())
		} else {
			resent := int64(asInt(m.replaces != 0)) // 1 for a dead letter that is sent again
			d.stats.count(m.route, counts{Waiting: 1, Accepted: 1 - resent, Dead: -resent})
			l.enqueue(newWaiter(m.seq, m.size()))
		}
		d.schedule(l)
	}
	return err
}

// write has the spool write c. A reload waits until that has ended. The caller holds mu; mu is free while the spool
// writes.
func (d *deliverer) write(c *change) error {
	d.writing++
	d.mu.Unlock()
	err := d.spool.do(c)
	d.mu.Lock()
	d.writing--
	d.changed.Broadcast()
	return err
}

// full returns an error if so many more bytes do not fit into max_bytes. The caller holds mu.
func (d *deliverer) full(more int64) error {
	if d.bytes+more > d.cfg().spool.maxBytes {
		return fmt.Errorf("the spool is full: %d bytes wait for slack", d.bytes)
	}
	return nil
}

// postNow posts m once, in an urgent turn of its lane, and returns the outcome. If the turn cannot begin within limit,
// or too many bytes of sync posts wait, nothing is posted. The outcome is then that of a rate limit or, if the account
// cannot be connected to, the reason for that.
func (d *deliverer) postNow(m *message, limit time.Duration) outcome {
	t := &turn{urgent: m, size: m.size(), head: head{attempts: 1}, done: make(chan outcome, 1)}
	d.locked(func() {
		d.addUrgent(t)
		tooMuch := d.urgentSize > urgentBytes || t.lane.account.urgentSize > max(t.size, urgentBytes/4)
		if tooMuch || t.lane.refusal().wait > limit {
			d.giveUp(t)
		}
		d.schedule(t.lane)
	})
	defer d.after(max(limit, time.Second), func() { d.giveUp(t) }).Stop() // at least 1 s: a post in flight may be ahead
	return <-t.done
}

// giveUp removes an urgent turn and answers its sender, unless the turn has begun.
func (d *deliverer) giveUp(t *turn) {
	if i := slices.Index(t.lane.urgent, t); i >= 0 {
		d.takeUrgent(t.lane, i)
		t.done <- t.lane.refusal()
	}
}

// refusal returns the outcome for an urgent turn that l cannot begin: the reason, and how long the turn would have to
// wait.
func (l *lane) refusal() outcome {
	a, wait := l.account, time.Until(latest(l.until, l.account.until))
	if a.failures > 0 {
		return outcome{class: retry, reason: a.err, wait: wait}
	}
	return outcome{class: limited, reason: "no turn in time: a rate limit, or a slow post before it", wait: wait}
}

// addUrgent puts t into the lane of its message's destination.
func (d *deliverer) addUrgent(t *turn) {
	t.lane = d.lane(t.urgent.route)
	t.lane.urgent = append(t.lane.urgent, t)
	t.lane.account.urgentSize += t.size
	d.urgentSize += t.size
}

// takeUrgent removes the urgent turn at index i from l: the turn begins, or postNow has given up.
func (d *deliverer) takeUrgent(l *lane, i int) {
	size := l.urgent[i].size
	l.urgent = slices.Delete(l.urgent, i, i+1)
	l.account.urgentSize -= size
	d.urgentSize -= size
}

// ahead returns how many waiting messages may be posted before a new message to r, if qps limits all posts: all of r's
// lane, and those of other lanes that do not fail and whose account is r's or one that Slack answers.
func (d *deliverer) ahead(r route) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg().lookup(r)
	for _, l := range d.lanes {
		if l.to == to || !l.deferred() && (l.account.answers || l.to.credential == to.credential) {
			n += len(l.waiting)
		}
	}
	return n
}

// lane returns the lane of r's destination. If there is none, it makes one.
func (d *deliverer) lane(r route) *lane {
	to, _, _ := d.cfg().lookup(r) // an unknown tag is not an error here: post turns it into a dead letter
	a, l := d.accounts[to.credential], d.lanes[to]
	if a == nil {
		a = &account{}
		d.accounts[to.credential], a.timer = a, d.after(time.Hour, func() { d.enterRing(a); d.begin() })
	}
	if l == nil {
		l = &lane{to: to, account: a}
		// After a start, lanes wake up one after the other: 100,000 timers that end together would take 200 MB.
		l.until = latest(d.firstPost.Add(d.cfg().pace()*time.Duration(len(d.lanes))/100_000), a.lanesUntil)
		d.lanes[to], l.timer = l, d.after(time.Hour, func() { d.schedule(l) })
	}
	l.route = r
	return l
}

// schedule makes l sleep until it may post or, if it may post now, puts l into a queue of its account. A lane that has
// nothing to post is deleted when until, mostTill and the hour after its last report have passed.
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
		l.timer.Reset(wait)
	case t != nil:
		// Lanes that fail stand in queue 1, lanes whose next message is large in queue 2, lanes with both in queue 3.
		// No other lane waits behind them.
		queue := &l.account.due[asInt(l.deferred())+2*asInt(t.size > largePost)]
		*queue, l.awake = append(*queue, l), true
		d.enterRing(l.account)
		d.begin()
	case l.bytes == 0: // else a message for it is being stored
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

// enterRing puts a into the ring if a has lanes that are due. If a may not post yet, its timer calls enterRing again.
func (d *deliverer) enterRing(a *account) {
	switch wait := time.Until(a.until); {
	case a.inRing, len(a.due[0])+len(a.due[1])+len(a.due[2])+len(a.due[3]) == 0:
	case wait > 0:
		a.timer.Reset(wait)
	default:
		d.ring, a.inRing = append(d.ring, a), true
	}
}

// begin gives turns to lanes that are due, one turn to each account in the ring after the other, while there is room.
func (d *deliverer) begin() {
	for misses := 0; misses < len(d.ring) && d.resting == 0; {
		a := d.ring[0]
		d.ring, a.inRing = d.ring[1:], false
		begun := time.Until(a.until) <= 0 && d.beginOf(a)
		d.enterRing(a)
		if misses += asInt(a.inRing); begun { // an account that has left makes the ring shorter
			misses = 0
		}
	}
}

// beginOf gives a turn to one lane of a. It returns false if no lane of a may have a turn.
func (d *deliverer) beginOf(a *account) bool {
	for k := range a.due {
		for len(a.due[k]) > 0 {
			l := a.due[k][0]
			t, at := l.next()
			ready := t != nil && time.Until(at) <= 0 // false if what was due was dropped or given up
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

// turn is one post of a lane, until its outcome is handled. The urgent turn of a message with sync=true is made when
// the request comes, and waits in the lane.
type turn struct {
	lane *lane
	rank int   // set by room
	size int64 // of the first message

	urgent *message     // of a sync post, else nil
	done   chan outcome // the sender of urgent waits for its outcome

	candidates []waiter // the first waiting messages: at most these go into the post
	merged     merger   // the messages that do
	head       head     // of the lane, this attempt included
	long       bool     // the post is one attachment or text, too large for the receiver, and can be cut
}

// ranks is how many ranks of turns there are. Rank 0 is the best.
const ranks = 3

// room sets the rank of t and reports whether t may begin. Posts that hang must not use up all posts that may be in
// flight. So each rank has a share of them, which the worse ranks use as well:
//
//	rank 2  a third: turns of lanes whose head was deferred
//	rank 1  two thirds: turns of accounts that Slack has not answered yet, or does not answer any more
//	rank 0  all: the other turns
//
// One account may use a third of each share. The last quarter of each share is for accounts that have no post in
// flight. A turn with a large message does not begin while largeBytes or more are in flight.
func (d *deliverer) room(t *turn) bool {
	a := t.lane.account
	t.rank = max(asInt(!a.answers), 2*asInt(t.lane.deferred()))
	for rank := range t.rank + 1 {
		share := max(1, d.posts*(ranks-rank)/ranks)
		all, own := share, 1 // an account that cannot be connected to may have one post, as a test
		if a.posting[0] > 0 && a.failures == 0 {
			all, own = share-share/4, max(1, share/3)
		}
		if d.posting[rank] >= all || a.posting[rank] >= own {
			return false
		}
	}
	return t.size <= largePost || d.large[min(t.rank, 1)] < largeBytes
}

// occupy counts the room that t takes (by is 1) or gives back (by is -1).
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
		t.head, t.merged.limit = l.head, int(d.cfg().core.batch)
		if l.mostTill.After(now) {
			t.merged.limit = min(t.merged.limit, l.most)
		}
		l.posting = cmp.Or(l.head.group, min(mergedMessages, len(l.waiting)))
		if t.merged.limit == 1 { // not even equal messages go together
			l.posting = 1
		}
		t.candidates = slices.Clone(l.waiting[:l.posting])
	}
	go d.turn(t)
}

// turn makes the post of t. When it returns, the end of each message that has ended is on disk. The exception is a sync
// post: if the disk fails, its line is not tried again.
func (d *deliverer) turn(t *turn) {
	var ends []ending // how the first messages of the lane end
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
		d.record(ends, d.write) // the spool tries again until the disk works or the spool is closed
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
		defer d.spool.do(&change{add: t.merged.messages}) // so that the message is found as delivered
	}
	t.done <- out
}

// record calls write to bring ends to disk, and counts the messages that had not ended before. n is their number.
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

// gather reads the messages of one post: the first of the lane, and the messages behind it that merge with it. If it
// read no message, the error says why.
func (d *deliverer) gather(t *turn) error {
	size := int64(0)
	d.reads <- struct{}{}
	defer func() { <-d.reads }()
	for i, w := range t.candidates {
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

// unreadable handles a head that could not be read. If its first message is lost, unreadable returns how it ends. Else
// the head is deferred.
func (d *deliverer) unreadable(t *turn, err error) []ending {
	if err != errDamaged && err != errGone {
		d.postpone(t.lane, outcome{class: inBetween, reason: "reading the spool: " + err.Error()})
		return nil
	}
	lost := ending{seq: t.candidates[0].seq(), route: t.lane.route, fate: fateDamaged}
	d.log.Error("a line of the spool is damaged: the message is lost", "to", t.lane.to.name(), "number", lost.seq)
	t.lane.head = head{}
	return []ending{lost}
}

// post posts the messages of t and counts the post. Then it clears the contents of the messages, which may be large. If
// their tag is not configured, nothing is posted: the outcome is badContent.
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

// learn notes what out says about the lane of t and its account, whichever message was posted.
func (d *deliverer) learn(t *turn, out outcome) {
	l, a, now := t.lane, t.lane.account, time.Now()
	l.until, l.limited = now.Add(max(d.cfg().pace(), out.wait)), out.class == limited
	switch {
	case out.notConnected():
		if a.failures++; a.failures == 1 {
			a.errSince = now
			d.log.Error("slack cannot be reached: the whole account waits", "to", l.to.name(), "err", out.reason)
		}
		if until := now.Add(min(backOff(a.failures), longestProbe)); until.After(a.until) { // a longer pause stays
			a.until, a.err, a.limited = until, out.reason, false
		}
		fallthrough
	case out.unreached:
		a.answers = false
	case out.class != inBetween:
		if a.failures > 0 {
			d.log.Error("slack can be reached again", "to", l.to.name(), "after", a.failures)
		}
		a.answers, a.failures = true, 0
	}
	if until := now.Add(out.wait); l.limited && l.to.credential.token != (secret{}) && until.After(a.until) {
		a.until, a.err, a.limited = until, "slack's rate limit, met by "+l.to.name(), true
	}
}

// notConnected reports that no connection was made. The lane is not the cause: the whole account waits.
func (o outcome) notConnected() bool { return o.unreached && !o.unsure }

// What becomes of the messages of a post that have not ended.
const (
	later   = ""        // they are tried again, in the same post
	smaller = "smaller" // they go in smaller posts; if they are one attachment or text, that goes once more, cut
)

// judge returns what becomes of the messages of t after the outcome out: a fate, later or smaller. The first tooOld
// messages are older than max_age, and the lane has been failing for so long. n is how many messages the result is
// about, from the first on: all, or tooOld if these become dead letters for their age. reason says why messages become
// dead letters.
func (t *turn) judge(out outcome, tooOld int, failing time.Duration) (fate string, n int, reason string) {
	h, parts, all := t.head, len(t.merged.parts), len(t.merged.messages)
	switch {
	case out.class == delivered:
		return fateDelivered, all, ""
	case parts > 1 && (out.class == badContent || out.tooMuch), t.long && out.tooMuch && !h.cut:
		return smaller, all, ""
	case out.class == badContent, out.class == badDestination && h.doubts+1 >= maxDoubts:
		return fateDead, all, out.reason
	case out.broken && h.doubts+1 >= maxDoubts:
		return fateDead, all, "it may have been delivered: " + out.reason
	case tooOld > 0 && failing > ageAfter:
		return fateDead, tooOld, "older than max_age: " + out.reason
	}
	return later, all, ""
}

// settle changes the lane of t as judge says. It returns how messages of t end, from the first on: none if all stay in
// the lane.
func (d *deliverer) settle(t *turn, out outcome) (ends []ending) {
	d.learn(t, out)
	l, h, now, messages, tooOld := t.lane, t.head, time.Now(), t.merged.messages, 0
	oldest := now.Add(-time.Duration(d.cfg().spool.maxAge) * time.Second).UnixMilli()
	for tooOld < len(messages) && messages[tooOld].queued < oldest {
		tooOld++
	}
	fate, n, reason := t.judge(out, tooOld, now.Sub(cmp.Or(l.errSince, now)))
	switch {
	case fate == later:
		l.head.group = len(messages)
		l.head.doubts += asInt(out.broken || out.class == badDestination)
		l.errSince = cmp.Or(l.errSince, now)
		if !out.notConnected() {
			d.postpone(l, out)
		}
		return nil
	case fate == smaller:
		d.log.Warn("post refused: it goes smaller or shorter", "to", l.to.name(), "messages", n, "err", out.reason)
		if parts := len(t.merged.parts); parts > 1 {
			l.head, l.most, l.mostTill = head{}, (parts+1)/2, now.Add(smallerFor)
		} else {
			l.head.cut, l.head.doubts, l.head.group, l.mostTill = true, h.doubts+1, n, time.Time{}
		}
		return nil
	case fate == fateDead:
		l.mostTill = time.Time{} // the next messages may merge in full again
		d.reportDead(l, messages[0], reason)
	case l.err != "":
		d.log.Info("delivery works again", "to", l.to.name(), "attempts", h.attempts)
	}
	l.head = head{attempts: h.attempts, retryAt: now} // if messages are only too old, their destination still fails
	if out.class == delivered || out.class == badContent || out.class == badDestination || n == len(l.waiting) {
		l.err, l.errSince, l.head = "", time.Time{}, head{}
	}
	for _, m := range messages[:n] {
		if fate == fateDead {
			d.log.Error("dead letter", "id", m.ID, "to", m.route.String(), "attempts", h.attempts, "err", reason)
		}
		ends = append(ends, ending{seq: m.seq, route: m.route, fate: fate, attempts: h.attempts, reason: reason})
	}
	return ends
}

// postpone defers the head of l to a later time. It logs a reason that is new: as an error if only an operator can mend
// it, else as a warning.
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

// reportDead tells core.report_tag about the first dead letter of a destination in an hour. It
// does not report messages for core.report_tag itself.
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

// backOff returns the wait after the n-th failed attempt: 1 s, then twice as long each time, up to 5 minutes. A random
// part of up to a quarter is added, so that lanes do not all post at the same moment.
func backOff(n int) time.Duration {
	wait := min(firstBackOff<<min(n-1, 16), longestBackOff)
	return wait + rand.N(wait/4)
}
