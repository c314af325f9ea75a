package main

// Delivery: one lane per destination, in order, until Slack has a message or will never take it.
//
// One goroutine, run, owns the lanes, their timers and pauses; the others ask it through todo. An attempt owns
// nothing: it posts and reports. Back-off, a pause that Slack asked for and qps are one thing: a later turn.

import (
	"container/heap"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	maxPosts         = 64 // posts in flight
	maxFailingPosts  = 32 // of these by lanes whose last post failed
	firstBackOff     = time.Second
	longestBackOff   = 5 * time.Minute
	destinationTries = 3 // posts before a destination's refusal is believed
)

// lane is the queue of one destination. Its head alone is tried, one post at a time.
type lane struct {
	to       destination
	waiting  []ref // oldest first
	urgent   []*urgentPost
	busy     bool      // a post is in flight, or what became of it is not yet recorded
	attempts int       // of the head
	turn     time.Time // no post before: a pause of Slack's
	retryAt  time.Time // no attempt at the head before: its back-off
	failing  bool      // the last post failed
	err      string    // why, "" after a success
	index    int       // in the heap of due lanes, -1 while not in it
	held     bool      // due, but too many failing lanes post already
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
	cfg   *config
	slack poster
	queue *queue
	log   *slog.Logger
	todo  chan func() // what run does next, in order

	// Owned by run:
	lanes    map[destination]*lane
	due      dueLanes
	held     []*lane
	paused   map[secret]time.Time // tokens: Slack's pause holds for all their channels
	nextPost time.Time            // by qps
	inFlight int
	failing  int // of these
	draining bool
}

func newDeliverer(cfg *config, slack poster, q *queue, log *slog.Logger) *deliverer {
	return &deliverer{
		cfg: cfg, slack: slack, queue: q, log: log, todo: make(chan func(), 256),
		lanes: map[destination]*lane{}, paused: map[secret]time.Time{},
	}
}

// run delivers until drain was called and nothing waits, or until ctx ends and no post is in flight.
func (d *deliverer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !d.draining || len(d.lanes) > 0 {
		timer.Reset(time.Until(d.turns()))
		select {
		case f := <-d.todo:
			f()
		case <-timer.C:
		case <-ctx.Done():
			for d.inFlight > 0 {
				(<-d.todo)()
			}
			return
		}
	}
}

func (d *deliverer) drain() { d.todo <- func() { d.draining = true } }

// add puts messages that were accepted at the end of their lanes.
func (d *deliverer) add(messages []queued) {
	d.todo <- func() {
		for _, m := range messages {
			to, _, _ := d.cfg.lookup(m.route) // where it leads nowhere, the attempt finds out
			l := d.lane(to)
			l.waiting = append(l.waiting, m.ref)
			d.schedule(l)
		}
	}
}

// postNow posts m once, in the next turn of its lane. It does not wait for that longer than limit: then the outcome
// is that of a rate limit, and nothing was posted.
func (d *deliverer) postNow(m *message, limit time.Duration) outcome {
	u := &urgentPost{m: m, claimed: make(chan struct{}, 1), done: make(chan outcome, 1)}
	u.claimed <- struct{}{}
	d.todo <- func() { d.addUrgent(u, limit) }
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case out := <-u.done:
		return out
	case <-timer.C:
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
	to, _, _ := d.cfg.lookup(u.m.route)
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
		l = &lane{to: to, index: -1}
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
	for len(d.due) > 0 && d.inFlight < maxPosts {
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
		case l.failing && d.failing >= maxFailingPosts:
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
			d.begin(l, now)
			failing := l.failing
			go func() {
				out := d.post(u.m)
				u.done <- out
				d.todo <- func() {
					d.end(l, failing)
					d.learn(l, out)
					d.schedule(l)
				}
			}()
			return
		}
	}
	if len(l.waiting) == 0 || l.retryAt.After(now) {
		d.schedule(l)
		return
	}
	d.begin(l, now)
	failing, head := l.failing, l.waiting[0]
	go func() {
		m := d.queue.read(head)
		out := d.post(m)
		d.todo <- func() {
			d.end(l, failing)
			d.learn(l, out)
			d.settle(l, m, out)
		}
	}()
}

func (d *deliverer) begin(l *lane, now time.Time) {
	l.busy = true
	d.inFlight++
	if l.failing {
		d.failing++
	}
	if d.cfg.core.qps > 0 {
		d.nextPost = now.Add(time.Second / time.Duration(d.cfg.core.qps))
	}
}

func (d *deliverer) end(l *lane, wasFailing bool) {
	l.busy = false
	d.inFlight--
	if wasFailing {
		d.failing--
		for _, l := range d.held {
			l.held = false
			heap.Push(&d.due, l)
		}
		d.held = nil
	}
}

// post makes one attempt. It runs beside run and touches nothing of it.
func (d *deliverer) post(m *message) outcome {
	to, t, err := d.cfg.lookup(m.route)
	if err != nil {
		return outcome{class: badContent, reason: err.Error()}
	}
	// Not bound to a request or to SIGTERM: a post that is cut short may have been taken. It ends by postTimeout.
	return d.slack.post(context.Background(), to.credential, render(m, t))
}

// learn takes from out what holds for the lane, whichever message was posted.
func (d *deliverer) learn(l *lane, out outcome) {
	l.failing = out.class != delivered && out.class != badContent
	if !out.limited {
		return
	}
	until := time.Now().Add(out.wait)
	if token := l.to.credential.token; token != (secret{}) {
		d.paused[token] = until
	} else {
		l.turn = until
	}
}

// settle decides what becomes of the head of l after an attempt.
func (d *deliverer) settle(l *lane, m *message, out outcome) {
	l.attempts++
	switch {
	case out.class == delivered:
		if l.err != "" {
			d.log.Info("delivery works again", "id", m.ID, "to", m.route.String(), "attempts", l.attempts)
		}
		l.err = ""
		d.remove(l)
	case out.class == badContent, out.class == badDestination && l.attempts >= destinationTries:
		d.log.Error("message not delivered", "id", m.ID, "to", m.route.String(), "attempts", l.attempts, "err", out.reason)
		l.err = out.reason
		d.remove(l)
	default:
		wait := backOff(l.attempts)
		if out.limited {
			wait = out.wait
		}
		if l.err != out.reason {
			d.log.Warn("delivery deferred", "id", m.ID, "to", m.route.String(), "attempts", l.attempts, "retry_in", wait, "err", out.reason)
		}
		l.err = out.reason
		l.retryAt = time.Now().Add(wait)
	}
	d.schedule(l)
}

func (d *deliverer) remove(l *lane) {
	d.queue.remove(l.waiting[0])
	l.waiting = l.waiting[1:]
	l.attempts, l.retryAt = 0, time.Time{}
}

// backOff returns the wait after the n-th failed attempt: it doubles, and up to a quarter more keeps lanes apart.
func backOff(n int) time.Duration {
	wait := longestBackOff
	if n < 16 {
		wait = min(firstBackOff<<(n-1), longestBackOff)
	}
	return wait + rand.N(wait/4)
}
