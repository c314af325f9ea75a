package main

// The operators' API: which messages wait, are dead letters, were delivered or dropped; send them again, drop them.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	listLimit  = 100
	listedText = 1 << 10 // bytes of a text in a list
	atOnce     = 100     // dead letters that are sent again or dropped in one write of the spool
)

// messageView is a message as an operator sees it.
type messageView struct {
	ID            string     `json:"id"`
	State         string     `json:"state"` // waiting, dead, delivered or dropped
	Tag           string     `json:"tag"`   // "" for /notify-directly
	Channel       string     `json:"channel"`
	Host          string     `json:"host"`
	Level         string     `json:"level"`
	Title         string     `json:"title"`
	Text          string     `json:"text"` // or the payload
	AcceptedAt    time.Time  `json:"accepted_at"`
	Attempts      int        `json:"attempts"`
	Before        int        `json:"before"`          // messages of its destination that wait in front of it
	NextAttemptAt *time.Time `json:"next_attempt_at"` // at its destination; null: it is being posted, or does not wait
	DeliveredAt   *time.Time `json:"delivered_at"`
	DroppedAt     *time.Time `json:"dropped_at"`
	Error         string     `json:"error"` // why it is a dead letter, or has to wait
}

// view returns a message for an operator: the one of w, and what became says became of it (a zero line: it waits).
func (s *server) view(w, became line) (v messageView, err error) {
	m, err := w.message()
	if err != nil {
		return v, err
	}
	v = messageView{
		ID: m.ID, State: "waiting", Tag: m.route.tag, Channel: m.route.channel, Host: m.Host, Level: m.Level, Title: m.Title,
		Text: m.Text, AcceptedAt: m.acceptedAt().UTC(), Attempts: became.attempts, Error: became.reason,
	}
	if to, t, err := s.cfg().lookup(m.route); err == nil && t != nil {
		v.Channel = to.channel
	}
	if m.Payload != nil {
		var p struct{ Text string }
		if json.Unmarshal(m.Payload, &p); p.Text == "" {
			p.Text = string(m.Payload)
		}
		v.Text = p.Text
	}
	at := time.UnixMilli(became.at).UTC()
	switch {
	case became.kind == 'X':
		v.State = "dead"
	case became.reason == fateDelivered:
		v.State, v.Error, v.DeliveredAt = "delivered", "", &at
	case became.kind == 'D':
		v.State, v.Error, v.DroppedAt = "dropped", "", &at
	default:
		s.deliver.addWaiting(&v, m.route, w.seq)
	}
	return v, nil
}

// addWaiting adds to v what the lane knows of a message that waits in it.
func (d *deliverer) addWaiting(v *messageView, r route, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, at := d.find(r, seq)
	if l == nil {
		return
	}
	v.Before = at
	if v.Error = l.err; l.account.until.After(time.Now()) {
		v.Error = l.account.err
	}
	if at < max(1, l.head.group) {
		v.Attempts = l.head.attempts
	}
	if next := d.nextTurn(l); at >= l.posting && !next.IsZero() {
		next = next.UTC()
		v.NextAttemptAt = &next
	}
}

// find returns the lane of r, and where in it a message waits; nil if it does not.
func (d *deliverer) find(r route, seq uint64) (l *lane, at int) {
	to, _, _ := d.cfg.lookup(r)
	if l = d.lanes[to]; l == nil {
		return nil, 0
	}
	if at = slices.IndexFunc(l.waiting, func(w waiter) bool { return w.seq() == seq }); at < 0 {
		return nil, 0
	}
	return l, at
}

// nextTurn returns when l may have its next turn.
func (d *deliverer) nextTurn(l *lane) time.Time {
	return slices.MaxFunc([]time.Time{l.next(), l.account.until, time.Now()}, time.Time.Compare)
}

// shortened returns the first bytes of s.
func shortened(s string) string {
	if len(s) <= listedText {
		return s
	}
	return strings.ToValidUTF8(s[:listedText], "") + "…"
}

// says tells whether q, in lower case, is somewhere in what an operator sees of the message.
func (v *messageView) says(q string) bool {
	text := strings.Join([]string{v.ID, v.Tag, v.Channel, v.Host, v.Title, v.Text, v.Error}, "\n")
	return strings.Contains(strings.ToLower(text), q)
}

// alone lets one look-up read the log at a time: it takes memory. It returns false if the client went away meanwhile.
func (s *server) alone(ctx context.Context) bool {
	select {
	case s.looking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) listMessages(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit := listLimit
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 100_000 {
			badRequest("limit=%s is not a number from 1 to 100000", text).send(w)
			return
		}
		limit = n
	}
	if !s.alone(r.Context()) {
		return
	}
	defer func() { <-s.looking }()
	match := matcher{tag: query.Get("tag"), q: strings.ToLower(query.Get("q")), server: s}
	list := &listing{w: w}
	var err error
	switch state := query.Get("state"); state {
	case "delivered", "dropped":
		err = s.spool.past(func(w, d line) bool {
			if v, ok := match.view(w, d); ok && v.State == state {
				list.total++
				list.add(v)
			}
			return list.total < limit && r.Context().Err() == nil
		})
	case "waiting", "dead":
		var found []uint64
		if found, list.total, err = s.newest(match, state == "dead", limit); err == nil {
			for _, seq := range found {
				if w, x, err := s.spool.read(seq); err == nil { // else it has ended meanwhile
					if v, err := s.view(w, x); err == nil {
						list.add(v)
					}
				}
			}
		}
	default:
		badRequest("state=%s: it has to be waiting, dead, delivered or dropped", state).send(w)
		return
	}
	if err != nil && !list.begun {
		counted(w, 0, err)
		return
	}
	list.end()
}

// matcher says which messages an operator asks for.
type matcher struct {
	tag, q string
	*server
}

// view returns the message of w for the operator, if it matches.
func (m matcher) view(w, became line) (v messageView, ok bool) {
	if m.tag != "" && parseRoute(string(w.route)).tag != m.tag {
		return v, false
	}
	v, err := m.server.view(w, became)
	return v, err == nil && v.says(m.q)
}

// newest returns the numbers of what waits or is dead and matches, the last accepted first, limit at most, and how many
// match. It keeps nothing but numbers: a million may wait.
func (s *server) newest(match matcher, dead bool, limit int) (found []uint64, total int, err error) {
	cut := func() {
		slices.Sort(found)
		slices.Reverse(found)
		found = found[:min(limit, len(found))]
	}
	err = s.spool.each(func(w line, isDead bool) {
		ok := isDead == dead && (match.tag == "" || parseRoute(string(w.route)).tag == match.tag)
		if ok && match.q != "" {
			var x line
			if dead {
				_, x, _ = s.spool.read(w.seq)
			}
			_, ok = match.view(w, x)
		}
		if !ok {
			return
		}
		total++
		if found = append(found, w.seq); len(found)/2-500 > limit {
			cut()
		}
	})
	cut()
	return found, total, err
}

// listing writes {"messages":[…],"total":n} as it goes.
type listing struct {
	w     http.ResponseWriter
	begun bool
	total int
}

func (l *listing) add(v messageView) {
	separator := ",\n"
	if !l.begun {
		separator = l.begin()
	}
	v.Text = shortened(v.Text)
	io.WriteString(l.w, separator)
	l.w.Write(encode(v))
}

func (l *listing) begin() string {
	l.begun = true
	l.w.Header().Set("Content-Type", "application/json")
	return "{\"messages\": [\n"
}

func (l *listing) end() {
	if !l.begun {
		io.WriteString(l.w, l.begin())
	}
	fmt.Fprintf(l.w, "\n], \"total\": %d}\n", l.total)
}

func (s *server) showMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, func(w http.ResponseWriter, m, became line) {
		v, err := s.view(m, became)
		if err != nil {
			counted(w, 0, err)
			return
		}
		sendJSON(w, v)
	})
}

// one finds the message that the path names, and calls do with it.
func (s *server) one(w http.ResponseWriter, r *http.Request, do func(w http.ResponseWriter, m, became line)) {
	id := r.PathValue("id")
	if !s.alone(r.Context()) {
		return
	}
	m, became, err := s.spool.find(id)
	<-s.looking
	if err != nil {
		failed(w, id, err)
		return
	}
	do(w, m, became)
}

func failed(w http.ResponseWriter, id string, err error) {
	if errors.Is(err, errGone) {
		answer{status: http.StatusNotFound, Message: "no message " + id + " waits, is a dead letter, or stands in the log any more"}.send(w)
		return
	}
	counted(w, 0, err)
}

// counted answers how many messages something was done to.
func counted(w http.ResponseWriter, n int, err error) {
	switch {
	case errors.Is(err, errBusy):
		answer{status: http.StatusConflict, retryAfter: time.Second, Message: err.Error()}.send(w)
	case err != nil:
		answer{status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, Message: "after " + strconv.Itoa(n) + ": " + err.Error()}.send(w)
	default:
		sendJSON(w, ordered{"message", "ok", "count", n})
	}
}

// retryMessage puts a dead letter at the end of its lane, and makes what waits due now.
func (s *server) retryMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, func(w http.ResponseWriter, m, became line) {
		n, err := 1, errGone
		switch became.kind {
		case 0:
			s.deliver.dueNow(parseRoute(string(m.route)))
			err = nil
		case 'X':
			if n, err = s.resend([]uint64{m.seq}); n == 0 && err == nil {
				err = errGone
			}
		}
		if err != nil {
			failed(w, m.id, err)
			return
		}
		counted(w, n, nil)
	})
}

// dueNow ends the back-off of the lane of r. A pause that Slack asked for stays.
func (d *deliverer) dueNow(r route) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg.lookup(r)
	l := d.lanes[to]
	if l == nil {
		return
	}
	if l.head.retryAt = (time.Time{}); !l.account.limited {
		l.account.until = time.Time{}
	}
	l.failing = false
	d.schedule(l)
	d.join(l.account)
	d.begin()
}

func (s *server) dropMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, func(w http.ResponseWriter, m, became line) {
		n, err := 0, errGone
		switch became.kind {
		case 0:
			n, err = 1, s.deliver.drop(parseRoute(string(m.route)), m.seq)
		case 'X':
			if n, err = s.dropDead([]uint64{m.seq}); n == 0 && err == nil {
				err = errGone
			}
		}
		if err != nil {
			failed(w, m.id, err)
			return
		}
		counted(w, n, nil)
	})
}

var errBusy = errors.New("it is being posted at this moment")

// drop takes a waiting message out of its lane and off the disk.
func (d *deliverer) drop(r route, seq uint64) error {
	d.mu.Lock()
	l, at := d.find(r, seq)
	switch {
	case l == nil:
		d.mu.Unlock()
		return errGone
	case at < l.posting:
		d.mu.Unlock()
		return errBusy
	case at < max(l.head.group, 1):
		l.head = head{}
	}
	d.remove(l, at, 1)
	d.schedule(l)
	d.stores++ // a reload waits, else it finds the message again
	d.mu.Unlock()
	end := ending{seq: seq, fate: fateDropped}
	err := d.spool.do(&change{end: []ending{end}})
	d.locked(func() { d.stores--; d.changed.Broadcast() })
	if err != nil {
		return err
	}
	d.stats.count(r, end.counts())
	return nil
}

// resend puts dead letters at the end of their lanes, and returns how many; those that are none any more are left out.
func (s *server) resend(dead []uint64) (n int, err error) {
	var again []*message
	for _, seq := range dead {
		m, err := s.spool.message(seq)
		if errors.Is(err, errGone) || errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return 0, err
		}
		again = append(again, m.again())
	}
	err = s.deliver.store(again)
	for _, m := range again {
		if m.seq != 0 {
			n++
		}
	}
	return n, err
}

// dropDead drops dead letters, and returns how many; those that are none any more are left out.
func (s *server) dropDead(dead []uint64) (n int, err error) {
	c := &change{}
	var routes []route
	for _, seq := range dead {
		w, x, err := s.spool.read(seq)
		if err != nil || x.kind == 0 {
			continue
		}
		c.end = append(c.end, ending{seq: seq, fate: fateDropped})
		routes = append(routes, parseRoute(string(w.route)))
	}
	if err := s.spool.do(c); err != nil {
		return 0, err
	}
	for i, e := range c.end {
		if !e.gone {
			s.stats.count(routes[i], counts{Dead: -1, Dropped: 1})
			n++
		}
	}
	return n, nil
}

// allDead does what an operator asks for the dead letters that a tag has now, the first accepted first, until the
// operator goes away or the server stops. One that becomes a dead letter again meanwhile is left alone.
func (s *server) allDead(w http.ResponseWriter, r *http.Request, do func([]uint64) (int, error)) {
	if !s.alone(r.Context()) {
		return
	}
	dead, _, err := s.newest(matcher{tag: r.URL.Query().Get("tag"), server: s}, true, 1<<62)
	<-s.looking
	slices.Reverse(dead)
	n := 0
	for some := range slices.Chunk(dead, atOnce) {
		if err == nil {
			err = r.Context().Err()
		}
		if err != nil {
			break
		}
		done := 0
		done, err = do(some)
		n += done
	}
	counted(w, n, err)
}

func (s *server) retryMessages(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("tag") == "" {
		badRequest("tag is missing: POST /messages/retry?tag=NAME").send(w)
		return
	}
	s.allDead(w, r, s.resend)
}

func (s *server) dropMessages(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("state") != "dead" || query.Get("tag") == "" {
		badRequest("only dead letters of a tag are dropped together: DELETE /messages?state=dead&tag=NAME").send(w)
		return
	}
	s.allDead(w, r, s.dropDead)
}
