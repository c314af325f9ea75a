package main

// The operators' API: it shows messages (waiting, dead letters, delivered, dropped), sends them again and drops them.

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
	listedText = 1 << 10 // characters; a longer text is cut in lists
	atOnce     = 32      // dead letters that are sent again or dropped in one write to the spool

	beingPosted = "being posted at this moment"
)

// messageView is a message as an operator sees it.
type messageView struct {
	ID            string    `json:"id"`
	State         string    `json:"state"` // waiting, dead, delivered or dropped
	Tag           string    `json:"tag"`   // "" if it came for a channel, not for a tag
	Channel       string    `json:"channel"`
	Host          string    `json:"host"`
	Sender        string    `json:"sender"` // the sender whose token came with it; "" if it was the auth_token or none
	Level         string    `json:"level"`
	Title         string    `json:"title"`
	Text          string    `json:"text"` // or its payload's text, or its payload; cut to 1,024 characters in lists
	AcceptedAt    time.Time `json:"accepted_at"`
	Attempts      int       `json:"attempts"`
	Before        int       `json:"before"`          // messages for the same destination that go first
	NextAttemptAt moment    `json:"next_attempt_at"` // of its destination; null if being posted or not waiting
	DeliveredAt   moment    `json:"delivered_at"`
	DroppedAt     moment    `json:"dropped_at"`
	Trouble       string    `json:"trouble"` // why its destination takes nothing: failing, paused, unreachable, or ""
	Error         string    `json:"error"`   // the trouble in words or, of a dead letter, why it was not delivered

	// What Slack gets, or got, if the message is alone in its post: rendered with the current settings of the tag. It
	// is absent in lists, and if the tag is gone.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// view returns f as an operator sees it: with whole, the text is not cut and the payload is there. One request at a
// time reads a message: so all lists that are being written hold one message in memory, even if clients read slowly.
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
	at := moment{time.UnixMilli(int64(became.time))}
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
		v.Text = cut(v.Text, listedText)
	} else if gone == nil {
		v.Payload = render(m, t, cmp.Or(v.DeliveredAt.Time, time.Now()))
	}
	return v, nil
}

// waitingAction is an operation on a waiting message m, which is l.waiting[at]. It is called with mu held. did says
// what was done, in words for the operator.
type waitingAction func(m *message, l *lane, at int) (did string, err error)

// addWaiting adds to v what the lane knows about the message. It changes nothing else.
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

// inLane calls do for m and the lane in which m waits. It returns errGone if m does not wait.
func (d *deliverer) inLane(m *message, do waitingAction) (did string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, _, _ := d.cfg().lookup(m.route)
	l := cmp.Or(d.lanes[to], &lane{})
	at, _ := slices.BinarySearch(l.waiting, newWaiter(m.seq, 0))
	// Behind messages that are posted together, a smaller number can stand: then the binary search misses it.
	if at == len(l.waiting) || l.waiting[at].seq() != m.seq {
		at = slices.IndexFunc(l.waiting, func(w waiter) bool { return w.seq() == m.seq })
	}
	if at < 0 {
		return "", errGone
	}
	return do(m, l, at)
}

// search is what an operator looks for: messages in a state ("any": in all states), of a tag ("": of all tags), that
// contain q. With an id, it looks for the message with that id, and reads the log back from the newest segment only as
// far as the segment that has the message.
type search struct {
	id            string // or ""
	state, tag, q string // q in lower case
	order         string // of the list: newest or oldest first, by the messages' numbers
	offset, limit int    // of the list
}

var states = []string{"waiting", "dead", "delivered", "dropped", "any"}

// readSearch returns the search that the query of r asks for. An unknown parameter is an error.
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

// onlyKnown returns an error if the query has a parameter that is not in known: to ignore a misspelled filter would
// list, send or drop the wrong messages.
func onlyKnown(r *http.Request, known ...string) error {
	for name := range r.URL.Query() {
		if !slices.Contains(known, name) {
			return badRequest("unknown parameter %s: known are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// listMessages writes one message at a time, since all together may be large.
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
	some = slices.Clone(some[:min(q.limit, len(some))]) // the rest can be freed while these are written
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"messages": [`)
	separator := "\n"
	for _, f := range some {
		if v, err := s.view(f, false); err == nil { // else it is left out: it may have ended meanwhile
			fmt.Fprintf(w, "%s%s", separator, encode(v))
			separator = ",\n"
		}
	}
	fmt.Fprintf(w, "\n], \"total\": %d, \"totals\": %s}\n", totals[q.state], encode(totals))
}

// find returns all messages that q asks for, in the order of their numbers, and how many match in each state. It reads
// the log, for one request at a time. It keeps where messages lie, not what they say, since a million may wait.
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

// asOneText turns a JSON document into one JSON string, without its quotes. Decoded, this string is the document with
// all escapes decoded.
var asOneText = strings.NewReplacer(`\\`, `\\`, `\"`, `\u0022`, `"`, `\u0022`)

// matches reports whether q looks for the message with the W line w, which is in state. It does not compare state with
// q.state.
func (s *server) matches(q search, w line, state string) bool {
	if q.id != "" && q.id != w.id || q.tag != "" && q.tag != parseRoute(string(w.route)).tag {
		return false
	}
	if q.q == "" {
		return true
	}
	m, _ := w.message() // if the JSON is damaged, m has what could be read
	var x line
	if state == "dead" {
		_, x, _ = s.spool.read(found{seq: w.seq})
	}
	to, _, _ := s.cfg().lookup(m.route)
	var payload string // with its escapes decoded: the sender may have written é as \u00e9
	json.Unmarshal([]byte(`"`+asOneText.Replace(string(m.Payload))+`"`), &payload)
	text := strings.Join([]string{m.ID, m.route.tag, m.route.channel, to.channel, m.Host, m.Sender, m.Title, m.Text,
		string(m.Payload), payload, string(x.says)}, "\n")
	return strings.Contains(strings.ToLower(text), q.q)
}

// named finds the message whose id is in the path of r, the newest if there are several. It returns errGone if there is
// none.
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

// shows returns a handler that answers with what get returns, as indented JSON. An error of get is answered as answerTo
// says.
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

// deadAction is an operation on dead letters. Messages that are not dead letters any more are left out. did says what
// was done, in words for the operator, n to how many.
type deadAction func([]found) (did string, n int, err error)

// toOne returns the handler that does one operation to the message that the path names: waiting if the message waits,
// dead if it is a dead letter. If the message was delivered or dropped, the answer is 404.
func (s *server) toOne(waiting waitingAction, dead deadAction) http.HandlerFunc {
	return shows(func(r *http.Request) (ordered, error) {
		f, err := s.named(r)
		m, x, gone := s.spool.read(found{seq: f.seq}) // errGone if delivered or dropped, too
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

// toAll returns the handler that does dead to all dead letters that the tag in the query has now, in the order of their
// numbers. It stops early if the operator's connection ends or the server stops. A message that becomes a dead letter
// meanwhile is left alone. The query must have no parameters except the given ones.
func (s *server) toAll(dead deadAction, parameters ...string) http.HandlerFunc {
	return shows(func(r *http.Request) (ordered, error) {
		query, n, all, err := r.URL.Query(), 0, []found(nil), onlyKnown(r, parameters...)
		tag, state := query.Get("tag"), query.Get("state")
		if tag == "" || slices.Contains(parameters, "state") && state != "dead" {
			err = badRequest("name a tag: POST /messages/retry?tag=NAME, DELETE /messages?state=dead&tag=NAME")
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

// dueNow ends the back-off of a message's lane and of the lane's account. A pause that Slack asked for stays. did says
// what that means for the message.
func (d *deliverer) dueNow(_ *message, l *lane, at int) (did string, err error) {
	if l.head.retryAt = (time.Time{}); !l.account.limited {
		l.account.until = time.Time{}
	}
	next, reason := l.nextTurn(), l.err
	if l.account.until.After(time.Now()) {
		reason = l.account.err
	}
	l.timer.Reset(0) // both timers may be set for a later time
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

// drop takes a waiting message out of its lane, and records on disk that it was dropped. A message that is being posted
// cannot be dropped: the answer is 409.
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

// resend puts dead letters at the end of their lanes, with new numbers.
func (s *server) resend(dead []found) (did string, n int, err error) {
	// Not nil, even if all are gone: a change whose add is nil would be tried again until the disk works.
	resent := []*message{}
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
