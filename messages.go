package main

// The operators' API: which messages wait, are dead letters, were delivered or dropped; send them again, drop them.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
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
	Sender        string     `json:"sender"` // whose token it came with, "" for an operator's or none
	Level         string     `json:"level"`
	Title         string     `json:"title"`
	Text          string     `json:"text"` // or the payload; in a list its first 1,024 bytes
	AcceptedAt    time.Time  `json:"accepted_at"`
	Attempts      int        `json:"attempts"`
	Before        int        `json:"before"`          // messages of its destination that wait in front of it
	NextAttemptAt *time.Time `json:"next_attempt_at"` // at its destination; null: it is being posted, or does not wait
	DeliveredAt   *time.Time `json:"delivered_at"`
	DroppedAt     *time.Time `json:"dropped_at"`
	Trouble       string     `json:"trouble"` // why it has to wait longer than for its turn: failing, paused or unreachable
	Error         string     `json:"error"`   // that in words, or why it is a dead letter

	// As Slack gets it, or got it, alone in a post; null if its tag is gone. Not in lists.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// view returns a message for an operator: the one of w, and what became says became of it (a zero line: it waits).
func (s *server) view(w, became line) (v messageView, err error) {
	m, err := w.message()
	if err != nil {
		return v, err
	}
	v = messageView{
		ID: m.ID, State: became.state(), Tag: m.route.tag, Channel: m.route.channel, Host: m.Host, Sender: m.Sender,
		Level: m.Level, Title: m.Title, Text: m.Text, AcceptedAt: m.acceptedAt().UTC(), Attempts: became.attempts,
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
	switch at := time.UnixMilli(became.at).UTC(); v.State {
	case "dead":
		v.Error = became.reason
	case "delivered":
		v.DeliveredAt = &at
	case "dropped":
		v.DroppedAt = &at
	default:
		s.deliver.addWaiting(&v, m.route, w.seq)
	}
	return v, nil
}

// state says what became of the message whose last line is l, a zero one if it has but its W line.
func (l line) state() string {
	switch {
	case l.kind == 0:
		return "waiting"
	case l.kind == 'X':
		return "dead"
	case l.reason == fateDelivered:
		return "delivered"
	}
	return "dropped"
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
	v.Trouble, _ = l.trouble(time.Now())
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
	at, ok := slices.BinarySearchFunc(l.waiting, seq, func(w waiter, seq uint64) int { return cmp.Compare(w.seq(), seq) })
	if !ok { // they are not quite in order behind messages that were posted together
		at = slices.IndexFunc(l.waiting, func(w waiter) bool { return w.seq() == seq })
	}
	if at < 0 {
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

// alone lets one look-up read the log at a time: it takes memory. It returns false if the client went away meanwhile.
func (s *server) alone(ctx context.Context) bool {
	select {
	case s.looking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// search is what an operator looks for: messages of a state ("any": of all), of a tag ("": of all), that say q.
type search struct {
	state, tag, q string // q in lower case
	newest        bool   // the last accepted first, else the first
	offset, limit int
}

// states are all that a message can be in, and what they are together.
var states = []string{"waiting", "dead", "delivered", "dropped", "any"}

// readSearch reads the query of r.
func readSearch(r *http.Request) (q search, err error) {
	query := r.URL.Query()
	q = search{state: query.Get("state"), tag: query.Get("tag"), newest: true, limit: listLimit}
	q.q = strings.ToLower(query.Get("q"))
	if !slices.Contains(states, q.state) {
		return q, fmt.Errorf("state=%s: it has to be one of %s", q.state, strings.Join(states, ", "))
	}
	switch order := query.Get("order"); order {
	case "", "newest":
	case "oldest":
		q.newest = false
	default:
		return q, fmt.Errorf("order=%s: it has to be oldest or newest", order)
	}
	number := func(name string, to *int, least, most int) {
		if text := query.Get(name); text != "" && err == nil {
			if *to, err = strconv.Atoi(text); err != nil || *to < least || *to > most {
				err = fmt.Errorf("%s=%s is not a number from %d to %d", name, text, least, most)
			}
		}
	}
	number("limit", &q.limit, 1, 100_000)
	number("offset", &q.offset, 0, 1<<31-1)
	return q, err
}

// onlyKnown answers 400 and returns false if the query has a parameter besides known: what it asks for would be missing.
func onlyKnown(w http.ResponseWriter, r *http.Request, known ...string) bool {
	for name := range r.URL.Query() {
		if !slices.Contains(known, name) {
			badRequest("%s is not known here, but: %s", name, strings.Join(known, ", ")).send(w)
			return false
		}
	}
	return true
}

func (s *server) listMessages(w http.ResponseWriter, r *http.Request) {
	if !onlyKnown(w, r, "state", "tag", "q", "order", "offset", "limit") {
		return
	}
	q, err := readSearch(r)
	if err != nil {
		badRequest("%v", err).send(w)
		return
	}
	if !s.alone(r.Context()) {
		return
	}
	defer func() { <-s.looking }()
	found, totals, err := s.find(r.Context(), q)
	if err != nil {
		counted(w, 0, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"messages": [`)
	separator := "\n"
	for _, f := range found[min(q.offset, len(found)):] {
		m, became, err := f.read(s.spool)
		if err != nil { // it has ended or moved meanwhile
			continue
		}
		if v, err := s.view(m, became); err == nil {
			v.Text = shortened(v.Text)
			io.WriteString(w, separator)
			w.Write(encode(v))
			separator = ",\n"
		}
	}
	all, total := ordered{}, 0
	for _, state := range states[:4] {
		all = append(all, state, totals[state])
		if q.state == state || q.state == "any" {
			total += totals[state]
		}
	}
	fmt.Fprintf(w, "\n], \"total\": %d, \"totals\": %s}\n", total, encode(all))
}

// found is a message: its number, where its W line lies, and where its D line does (0: it has none).
type found struct {
	seq         uint64
	lies, ended place
}

func (f found) read(s *spool) (w, became line, err error) {
	if f.ended == 0 {
		return s.read(f.seq)
	}
	if w, err = s.readLine(f.lies); err == nil {
		became, err = s.readLine(f.ended)
	}
	return w, became, err
}

// find returns the first offset+limit messages of what q looks for, and how many there are of each state. It keeps
// nothing but numbers: a million may wait.
func (s *server) find(ctx context.Context, q search) (list []found, totals map[string]int, err error) {
	totals = map[string]int{}
	most := q.offset + q.limit
	cut := func() {
		slices.SortFunc(list, func(a, b found) int {
			if q.newest {
				a, b = b, a
			}
			return cmp.Compare(a.seq, b.seq)
		})
		list = list[:min(most, len(list))]
	}
	err = s.spool.all(ctx, func(w, became line) {
		if !s.matches(q, w, became) {
			return
		}
		state := became.state()
		totals[state]++
		if q.state != state && q.state != "any" {
			return
		}
		if list = append(list, found{w.seq, w.lies, became.lies}); len(list)/2-500 > most {
			cut()
		}
	})
	cut()
	return list, totals, err
}

// matches tells whether q looks for a message, whatever its state.
func (s *server) matches(q search, w, became line) bool {
	if q.tag != "" && parseRoute(string(w.route)).tag != q.tag {
		return false
	}
	if q.q == "" {
		return true
	}
	m, err := w.message()
	if err != nil {
		return false
	}
	reason := ""
	if became.kind == 'X' {
		_, x, _ := s.spool.read(w.seq)
		reason = x.reason
	}
	to, _, _ := s.cfg().lookup(m.route)
	text := strings.Join([]string{m.ID, m.route.tag, m.route.channel, to.channel, m.Host, m.Sender, m.Title, m.Text,
		string(m.Payload), reason}, "\n")
	return strings.Contains(strings.ToLower(text), q.q)
}

func (s *server) showMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, func(w http.ResponseWriter, m, became line) {
		v, err := s.view(m, became)
		if err != nil {
			counted(w, 0, err)
			return
		}
		if m, err := m.message(); err == nil {
			v.Payload = s.payloadOf(m, v.DeliveredAt)
		}
		sendJSON(w, v)
	})
}

// payloadOf returns what Slack gets of m, or got at a time, if it goes alone; nil if its tag is gone.
func (s *server) payloadOf(m *message, at *time.Time) json.RawMessage {
	_, t, err := s.cfg().lookup(m.route)
	if err != nil {
		return nil
	}
	return render(m, t, cmp.Or(timeOf(at), time.Now()))
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

// retryMessage puts a dead letter at the end of its lane, and makes what waits due now. did says which.
func (s *server) retryMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, func(w http.ResponseWriter, m, became line) {
		did, err := "", errGone
		switch became.kind {
		case 0:
			did, err = s.deliver.dueNow(parseRoute(string(m.route)), m.seq)
		case 'X':
			var n int
			if n, err = s.resend([]uint64{m.seq}); n == 0 && err == nil {
				err = errGone
			}
			did = "put at the end of its queue"
		}
		if err != nil {
			failed(w, m.id, err)
			return
		}
		sendJSON(w, ordered{"message", "ok", "count", 1, "did", did})
	})
}

// dueNow ends the back-off of the lane in which a message waits, and says what that means for the message. A pause that
// Slack asked for stays.
func (d *deliverer) dueNow(r route, seq uint64) (did string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, at := d.find(r, seq)
	if l == nil {
		return "", errGone
	}
	posting := at < l.posting
	if l.head.retryAt = (time.Time{}); !l.account.limited {
		l.account.until = time.Time{}
	}
	next, reason := d.nextTurn(l), l.err
	if l.account.until.After(time.Now()) {
		reason = l.account.err
	}
	d.schedule(l)
	d.join(l.account)
	d.begin()
	switch {
	case posting:
		return "is being posted at this moment", nil
	case time.Until(next) > d.cfg.pace():
		return fmt.Sprintf("waits for a pause until %s: %s", clock(next), reason), nil
	case at > 0:
		return fmt.Sprintf("due now, behind the %d before it", at), nil
	}
	return "due now", nil
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
	end := ending{seq: seq, route: r, fate: fateDropped}
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
	for _, seq := range dead {
		w, x, err := s.spool.read(seq)
		if err != nil || x.kind == 0 {
			continue
		}
		c.end = append(c.end, ending{seq: seq, route: parseRoute(string(w.route)), fate: fateDropped})
	}
	if err := s.spool.do(c); err != nil {
		return 0, err
	}
	for _, e := range c.end {
		if !e.gone {
			s.stats.count(e.route, counts{Dead: -1, Dropped: 1})
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
	list, _, err := s.find(r.Context(), search{state: "dead", tag: r.URL.Query().Get("tag"), limit: math.MaxInt32})
	<-s.looking
	var dead []uint64
	for _, f := range list {
		dead = append(dead, f.seq)
	}
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
	if !onlyKnown(w, r, "tag") {
		return
	}
	if r.URL.Query().Get("tag") == "" {
		badRequest("tag is missing: POST /messages/retry?tag=NAME").send(w)
		return
	}
	s.allDead(w, r, s.resend)
}

func (s *server) dropMessages(w http.ResponseWriter, r *http.Request) {
	if !onlyKnown(w, r, "state", "tag") {
		return
	}
	query := r.URL.Query()
	if query.Get("state") != "dead" || query.Get("tag") == "" {
		badRequest("only dead letters of a tag are dropped together: DELETE /messages?state=dead&tag=NAME").send(w)
		return
	}
	s.allDead(w, r, s.dropDead)
}
