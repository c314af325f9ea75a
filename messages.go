package main

// The operators' API: which messages wait, are dead letters, were delivered or dropped; send them again, drop them.

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	listedText = 1 << 10 // bytes of a text in a list
	atOnce     = 32      // dead letters that are sent again or dropped in one write of the spool

	beingPosted = "being posted at this moment"
)

// messageView is a message as an operator sees it.
type messageView struct {
	ID            string    `json:"id"`
	State         string    `json:"state"` // waiting, dead, delivered or dropped
	Tag           string    `json:"tag"`   // "" for /notify-directly
	Channel       string    `json:"channel"`
	Host          string    `json:"host"`
	Sender        string    `json:"sender"` // whose token it came with, "" for an operator's or none
	Level         string    `json:"level"`
	Title         string    `json:"title"`
	Text          string    `json:"text"` // or the payload; in a list its first 1,024 bytes
	AcceptedAt    time.Time `json:"accepted_at"`
	Attempts      int       `json:"attempts"`
	Before        int       `json:"before"`          // messages of its destination that wait in front of it
	NextAttemptAt moment    `json:"next_attempt_at"` // at its destination; null: it is being posted, or does not wait
	DeliveredAt   moment    `json:"delivered_at"`
	DroppedAt     moment    `json:"dropped_at"`
	Trouble       string    `json:"trouble"` // why it waits longer than for its turn: failing, paused or unreachable
	Error         string    `json:"error"`   // that in words, or why it is a dead letter

	// As Slack gets it, or got it, alone in a post; null if its tag is gone. Not in lists.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// view reads a message for an operator. The view of a whole one has the payload. However many lists are written, and
// however slowly, one message is in memory.
func (s *server) view(f found, whole bool) (v messageView, err error) {
	s.searching.Lock()
	defer s.searching.Unlock()
	m, became, err := s.spool.read(f)
	if err != nil {
		return v, err
	}
	to, t, gone := s.cfg().lookup(m.route)
	v = messageView{
		ID: m.ID, State: became.state(), Tag: m.route.tag, Channel: to.channel, Host: m.Host, Sender: m.Sender,
		Level: m.Level, Title: m.Title, Text: m.Text, AcceptedAt: m.acceptedAt().UTC(), Attempts: int(became.attempts),
	}
	json.Unmarshal(asObject(m.Payload)["text"], &v.Text)
	v.Text = cmp.Or(v.Text, string(m.Payload))
	at := moment{time.UnixMilli(int64(became.at))}
	switch v.State {
	case "dead":
		v.Error = string(became.says)
	case "delivered":
		v.DeliveredAt = at
	case "dropped":
		v.DroppedAt = at
	default:
		s.inLane(m, v.addWaiting)
	}
	if !whole {
		v.Text = shortened(v.Text)
	} else if gone == nil {
		v.Payload = render(m, t, cmp.Or(v.DeliveredAt.Time, time.Now()))
	}
	return v, nil
}

// toWaiting is what can be done to a message that waits, the at-th of l, while mu is held. It says what it did.
type toWaiting func(m *message, l *lane, at int) (did string, err error)

// addWaiting adds to v what the lane knows of the message. It does nothing to that.
func (v *messageView) addWaiting(_ *message, l *lane, at int) (did string, err error) {
	t := l.trouble(time.Now())
	v.Before, v.Trouble, v.Error = at, t.Kind, t.Reason
	if at < max(1, l.head.group) {
		v.Attempts = l.head.attempts
	}
	if at >= l.posting {
		v.NextAttemptAt = moment{latest(l.nextTurn(), time.Now())}
	}
	return "", nil
}

// inLane does it to m in the lane where that waits.
func (d *deliverer) inLane(m *message, do toWaiting) (did string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg().lookup(m.route)
	l := cmp.Or(d.lanes[to], &lane{})
	at, _ := slices.BinarySearch(l.waiting, newWaiter(m.seq, 0))
	// they are not quite in order behind messages that were posted together
	if at == len(l.waiting) || l.waiting[at].seq() != m.seq {
		at = slices.IndexFunc(l.waiting, func(w waiter) bool { return w.seq() == m.seq })
	}
	if at < 0 {
		return "", errGone
	}
	return do(m, l, at)
}

// nextTurn returns when l may next post what waits.
func (l *lane) nextTurn() time.Time { return latest(l.until, l.head.retryAt, l.account.until) }

// shortened returns the first bytes of s.
func shortened(s string) string {
	if len(s) <= listedText {
		return s
	}
	return strings.ToValidUTF8(s[:listedText], "") + "…"
}

// search is what an operator looks for: messages of a state ("any": of all), of a tag ("": of all), that say q.
type search struct {
	id            string // "", or the id: the log is read no further back than to the segment that has it
	state, tag, q string // q in lower case
	order         string // of the list: newest or oldest, by when it was accepted, comes first
	offset, limit int    // of the list
}

// states are all that a message can be in, and what they are together.
var states = []string{"waiting", "dead", "delivered", "dropped", "any"}

// readSearch reads the query of r.
func readSearch(r *http.Request) (q search, err error) {
	query := r.URL.Query()
	number := func(name string, preset, least, most int) int {
		text := cmp.Or(query.Get(name), strconv.Itoa(preset))
		n, wrong := strconv.Atoi(text)
		if wrong != nil || n < least || n > most {
			err = badRequest("%s=%s is not a number from %d to %d", name, text, least, most)
		}
		return n
	}
	q = search{
		state: query.Get("state"), tag: query.Get("tag"), q: strings.ToLower(query.Get("q")),
		order:  cmp.Or(query.Get("order"), "newest"),
		offset: number("offset", 0, 0, 1<<30), limit: number("limit", 100, 1, 100_000),
	}
	if !slices.Contains(states, q.state) {
		err = badRequest("state=%s: it has to be one of %s", q.state, strings.Join(states, ", "))
	}
	if q.order != "newest" && q.order != "oldest" {
		err = badRequest("order=%s: it has to be oldest or newest", q.order)
	}
	return q, cmp.Or(onlyKnown(r, "state", "tag", "q", "order", "offset", "limit"), err)
}

// onlyKnown returns an error if the query has a parameter besides known: what it asks for would be missing.
func onlyKnown(r *http.Request, known ...string) error {
	for name := range r.URL.Query() {
		if !slices.Contains(known, name) {
			return badRequest("%s is not known here, but: %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// listMessages writes message by message: together they may be large.
func (s *server) listMessages(w http.ResponseWriter, r *http.Request) {
	q, err := readSearch(r)
	some, totals := []found(nil), map[string]int(nil)
	if err == nil {
		some, totals, err = s.find(r.Context(), q)
	}
	if err != nil {
		answerTo(err, 5*time.Second).send(w)
		return
	}
	if q.order == "newest" {
		slices.Reverse(some)
	}
	some = some[min(q.offset, len(some)):]
	some = slices.Clone(some[:min(q.limit, len(some))]) // the others need not stay while it is written
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"messages": [`)
	separator := "\n"
	for _, f := range some {
		if v, err := s.view(f, false); err == nil { // else it has ended or moved meanwhile
			fmt.Fprintf(w, "%s%s", separator, encode(v))
			separator = ",\n"
		}
	}
	fmt.Fprintf(w, "\n], \"total\": %d, \"totals\": %s}\n", totals[q.state], encode(totals))
}

// find returns all messages that q asks for, the first accepted first, and how many there are in each state. It reads
// the log, for one request at a time, and keeps nothing but numbers: a million may wait.
func (s *server) find(ctx context.Context, q search) (all []found, totals map[string]int, err error) {
	s.searching.Lock()
	defer s.searching.Unlock()
	totals = map[string]int{"waiting": 0, "dead": 0, "delivered": 0, "dropped": 0, "any": 0}
	enough := func() bool { return ctx.Err() != nil || q.id != "" && all != nil }
	err = s.spool.all(true, enough, func(m found, w line, state string) {
		if !s.matches(q, w, state) {
			return
		}
		for _, of := range []string{state, "any"} {
			if totals[of]++; q.state == of {
				all = append(all, m)
			}
		}
	})
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.seq, b.seq) })
	return all, totals, cmp.Or(err, ctx.Err())
}

// asOneText makes what stands between the quotes of a JSON string out of a JSON document: that is the document without
// its escapes.
var asOneText = strings.NewReplacer(`\\`, `\\`, `\"`, `\u0022`, `"`, `\u0022`)

// matches tells whether q looks for a message, whatever its state.
func (s *server) matches(q search, w line, state string) bool {
	if q.id != "" && q.id != w.id || q.tag != "" && q.tag != parseRoute(string(w.route)).tag {
		return false
	}
	if q.q == "" {
		return true
	}
	m, _ := w.message() // a damaged one is found by what could be read
	var x line
	if state == "dead" {
		_, x, _ = s.spool.read(found{seq: w.seq})
	}
	to, _, _ := s.cfg().lookup(m.route)
	var payload string // as people read it: its sender may have written é as \u00e9
	json.Unmarshal([]byte(`"`+asOneText.Replace(string(m.Payload))+`"`), &payload)
	text := strings.Join([]string{m.ID, m.route.tag, m.route.channel, to.channel, m.Host, m.Sender, m.Title, m.Text,
		string(m.Payload), payload, string(x.says)}, "\n")
	return strings.Contains(strings.ToLower(text), q.q)
}

// named finds the message that the path names.
func (s *server) named(r *http.Request) (f found, err error) {
	all, _, err := s.find(r.Context(), search{id: r.PathValue("id"), state: "any"})
	if len(all) == 0 {
		return f, cmp.Or(err, errGone)
	}
	return all[len(all)-1], nil
}

func (s *server) showMessage(r *http.Request) (messageView, error) {
	f, err := s.named(r)
	v, gone := s.view(f, true)
	return v, cmp.Or(err, gone)
}

// shows returns the handler that answers with what get returns, for programs and people, or after an error with the
// reason.
func shows[V any](get func(*http.Request) (V, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := get(r)
		if err != nil {
			answerTo(err, 5*time.Second).send(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		e.Encode(v)
	}
}

// toDead is what can be done to dead letters. It says what it did, and to how many: those that are none any more are
// left out.
type toDead func([]found) (did string, n int, err error)

// toOne does it to the message that the path names.
func (s *server) toOne(waiting toWaiting, dead toDead) http.HandlerFunc {
	return shows(func(r *http.Request) (ordered, error) {
		f, err := s.named(r)
		m, x, gone := s.spool.read(found{seq: f.seq}) // gone: also of what was delivered or dropped
		did, n := "", 1
		switch err = cmp.Or(err, gone); {
		case err != nil:
		case x.kind == 0:
			did, err = s.inLane(m, waiting)
		default:
			if did, n, err = dead([]found{f}); n == 0 {
				err = cmp.Or(err, errGone)
			}
		}
		return ordered{"message", "ok", "count", n, "did", did}, err
	})
}

// toAll does it to all dead letters that the tag of the query has now, the first accepted first, until the operator
// goes away or the server stops. One that becomes a dead letter again meanwhile is left alone. The query has nothing
// but the parameters.
func (s *server) toAll(dead toDead, parameters ...string) http.HandlerFunc {
	return shows(func(r *http.Request) (ordered, error) {
		query, n, all, err := r.URL.Query(), 0, []found(nil), onlyKnown(r, parameters...)
		tag, state := query.Get("tag"), query.Get("state")
		if tag == "" || slices.Contains(parameters, "state") && state != "dead" {
			err = badRequest("it takes a tag: POST /messages/retry?tag=NAME, DELETE /messages?state=dead&tag=NAME")
		}
		if err == nil {
			all, _, err = s.find(r.Context(), search{state: "dead", tag: tag})
		}
		for some := range slices.Chunk(all, atOnce) {
			if err = cmp.Or(err, r.Context().Err()); err == nil {
				_, done, failed := dead(some)
				n, err = n+done, failed
			}
		}
		if n > 0 && err != nil {
			err = fmt.Errorf("after %d: %w", n, err)
		}
		return ordered{"message", "ok", "count", n}, err
	})
}

// dueNow ends the back-off of a message's lane, and says what that means for the message. A pause that Slack asked for
// stays.
func (d *deliverer) dueNow(_ *message, l *lane, at int) (did string, err error) {
	if l.head.retryAt = (time.Time{}); !l.account.limited {
		l.account.until = time.Time{}
	}
	next, reason := l.nextTurn(), l.err
	if l.account.until.After(time.Now()) {
		reason = l.account.err
	}
	l.timer.Reset(0) // both may have slept
	l.account.timer.Reset(0)
	switch {
	case at < l.posting:
		return "is " + beingPosted, nil
	case time.Until(next) > d.cfg().pace():
		return fmt.Sprintf("waits for a pause until %s: %s", clock(next), reason), nil
	case at > 0:
		return fmt.Sprintf("due now, behind the %d before it", at), nil
	}
	return "due now", nil
}

// drop takes a waiting message out of its lane and off the disk.
func (d *deliverer) drop(m *message, l *lane, at int) (did string, err error) {
	gone := ending{seq: m.seq, route: m.route, fate: fateDropped}
	switch {
	case at < l.posting:
		return "", answer{status: http.StatusConflict, retryAfter: time.Second, Message: "it is " + beingPosted}
	case at < max(l.head.group, 1):
		gone.attempts, l.head = l.head.attempts, head{}
	}
	d.remove(l, at, 1)
	d.schedule(l)
	_, err = d.record([]ending{gone}, d.write)
	return "dropped", err
}

// resend puts dead letters at the end of their lanes.
func (s *server) resend(dead []found) (did string, n int, err error) {
	resent := []*message{} // not nil: the spool must not take nothing for something to write until it can
	for _, f := range dead {
		switch m, _, err := s.spool.read(f); {
		case err == nil:
			m.Accepted, m.replaces, m.seq = m.acceptedAt().UnixMilli(), m.seq, 0
			resent = append(resent, m)
		case err != errGone && err != errDamaged:
			return "", 0, err
		}
	}
	err = s.store(resent)
	for _, m := range resent {
		n += asInt(err == nil && m.seq != 0)
	}
	return "put at the end of its queue", n, err
}

func (s *server) dropDead(dead []found) (did string, n int, err error) {
	var ends []ending
	for _, f := range dead {
		switch m, x, err := s.spool.read(f); {
		case err == nil && x.kind != 0:
			ends = append(ends, ending{seq: f.seq, route: m.route, fate: fateDropped, attempts: int(x.attempts)})
		case err != nil && err != errGone && err != errDamaged:
			return "", 0, err
		}
	}
	n, err = s.record(ends, s.spool.do)
	return "dropped", n, err
}
