package main

// The operators' API: which messages wait, are dead letters or were delivered; send them again, drop them.

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	deliveredKept     = 1000    // messages
	deliveredTextKept = 1 << 10 // bytes of each
	listLimit         = 100
)

// messageView is a message as an operator sees it.
type messageView struct {
	ID            string     `json:"id"`
	State         string     `json:"state"` // waiting, dead or delivered
	Tag           string     `json:"tag"`   // "" for /notify-directly
	Channel       string     `json:"channel"`
	Host          string     `json:"host"`
	Level         string     `json:"level"`
	Title         string     `json:"title"`
	Text          string     `json:"text"` // or the payload
	AcceptedAt    time.Time  `json:"accepted_at"`
	Attempts      int        `json:"attempts"`
	NextAttemptAt *time.Time `json:"next_attempt_at"` // null: not known, it is not the first of its lane
	DeliveredAt   *time.Time `json:"delivered_at"`
	Error         string     `json:"error"`
}

// view returns m for an operator.
func (c *config) view(m *message, state string) messageView {
	v := messageView{
		ID: m.ID, State: state, Tag: m.route.tag, Channel: m.route.channel, Host: m.Host, Level: m.Level, Title: m.Title,
		Text: m.Text, AcceptedAt: m.acceptedAt().UTC(), Attempts: m.Attempts, Error: m.Error,
	}
	if to, t, err := c.lookup(m.route); err == nil && t != nil {
		v.Channel = to.channel
	}
	if m.Payload != nil {
		var p struct{ Text string }
		if json.Unmarshal(m.Payload, &p); p.Text == "" {
			p.Text = string(m.Payload)
		}
		v.Text = p.Text
	}
	return v
}

// deliveredList remembers the last messages that were delivered.
type deliveredList struct {
	mu   sync.Mutex
	last []deliveredMessage // the oldest first
}

type deliveredMessage struct {
	*message
	at time.Time
}

func (l *deliveredList) add(m *message, attempts int) {
	kept := *m
	kept.Attempts, kept.body = attempts, nil
	kept.Text, kept.Title, kept.Host, kept.Level = shortened(kept.Text), shortened(kept.Title), shortened(kept.Host), shortened(kept.Level)
	if len(kept.Payload) > deliveredTextKept {
		kept.Payload = encode(map[string]string{"text": shortened(string(kept.Payload))})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == deliveredKept {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, deliveredMessage{&kept, time.Now()})
}

// shortened returns the first deliveredTextKept bytes of s, in a string of their own: a part of s would keep all of it.
func shortened(s string) string {
	if len(s) <= deliveredTextKept {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:deliveredTextKept], ""))
}

// views returns them, newest first.
func (l *deliveredList) views(c *config) (views []messageView) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range slices.Backward(l.last) {
		v := c.view(d.message, "delivered")
		v.DeliveredAt = &d.at
		views = append(views, v)
	}
	return views
}

// stored is a message that was found in the spool.
type stored struct {
	ref  ref
	dead bool
	*message
}

// places returns where the records of the spool lie that match, the last accepted first, limit of them at most, and how
// many match.
func (s *server) places(dead bool, limit int, match func(record) bool) (places []seqRef, total int) {
	sortAndCut := func() {
		sortBySeq(places)
		slices.Reverse(places)
		places = places[:min(limit, len(places))]
	}
	s.spool.each(dead, func(at ref, r record) {
		if !match(r) {
			return
		}
		total++
		places = append(places, seqRef{r.seq, at})
		if len(places)/2-500 > limit { // a million may wait
			sortAndCut()
		}
	})
	sortAndCut()
	return places, total
}

// find reads the messages that places finds.
func (s *server) find(dead bool, limit int, match func(record) bool) (found []stored, total int) {
	places, total := s.places(dead, limit, match)
	for _, p := range places {
		if m, err := s.spool.read(p.ref); err == nil { // else it is done, or has moved, meanwhile
			found = append(found, stored{p.ref, dead, m})
		}
	}
	return found, total
}

// findID returns the message with an id that waits or is dead, errGone where there is none.
func (s *server) findID(id string) (stored, error) {
	for _, dead := range []bool{false, true} {
		if found, _ := s.find(dead, 1, func(r record) bool { return r.id() == id }); len(found) > 0 {
			return found[0], nil
		}
	}
	return stored{}, errGone
}

// findTag matches the messages of a tag, all where it is empty.
func findTag(tag string) func(record) bool {
	return func(r record) bool { return tag == "" || parseRoute(string(r.route)).tag == tag }
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
	tag, q := query.Get("tag"), strings.ToLower(query.Get("q"))
	says := func(v messageView) bool {
		text := strings.Join([]string{v.ID, v.Tag, v.Channel, v.Host, v.Title, v.Text, v.Error}, "\n")
		return strings.Contains(strings.ToLower(text), q)
	}
	messages, total := []messageView{}, 0
	switch state := query.Get("state"); state {
	case "delivered":
		for _, v := range s.deliver.recent.views(s.cfg()) {
			if (tag == "" || v.Tag == tag) && says(v) {
				messages = append(messages, v)
			}
		}
		total = len(messages)
		messages = messages[:min(limit, total)]
	case "waiting", "dead":
		ofTag := findTag(tag)
		var found []stored
		found, total = s.find(state == "dead", limit, func(r record) bool {
			if q == "" || !ofTag(r) {
				return ofTag(r)
			}
			m, err := r.message()
			return err == nil && says(s.cfg().view(m, state))
		})
		messages = append(messages, s.views(found...)...)
	default:
		badRequest("state=%s: it has to be waiting, dead or delivered", state).send(w)
		return
	}
	sendJSON(w, ordered{"messages", messages, "total", total})
}

// views returns what was found in the spool for an operator, with what the lanes know of it.
func (s *server) views(found ...stored) (views []messageView) {
	heads := s.deliver.heads()
	for _, f := range found {
		v := s.cfg().view(f.message, "waiting")
		if f.dead {
			v.State = "dead"
		} else if head, ok := heads[f.ref]; ok {
			v.Attempts, v.Error = head.attempts, head.err
			if !head.next.IsZero() {
				v.NextAttemptAt = &head.next
			}
		}
		views = append(views, v)
	}
	return views
}

func (s *server) showMessage(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if found, err := s.findID(id); err == nil {
		sendJSON(w, s.views(found)[0])
		return
	}
	for _, v := range s.deliver.recent.views(s.cfg()) {
		if v.ID == id {
			sendJSON(w, v)
			return
		}
	}
	noMessage(id).send(w)
}

func noMessage(id string) answer {
	return answer{status: http.StatusNotFound, Message: "no message " + id + ": it was delivered or dropped, or never was"}
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

// one does what an operator asks for one message.
func (s *server) one(w http.ResponseWriter, id string, do func(stored) error) {
	found, err := s.findID(id)
	if err == nil {
		err = do(found)
	}
	if errors.Is(err, errGone) {
		noMessage(id).send(w)
		return
	}
	counted(w, 1, err)
}

func (s *server) retryMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r.PathValue("id"), s.resend)
}

// resend puts a dead letter at the end of its lane, and makes what waits due now.
func (s *server) resend(m stored) error {
	if !m.dead {
		s.deliver.dueNow(m.route)
		return nil
	}
	return s.deliver.storeAs(&change{add: []*message{m.again()}, done: []ref{m.ref}})
}

func (s *server) dropMessage(w http.ResponseWriter, r *http.Request) {
	s.one(w, r.PathValue("id"), s.drop)
}

func (s *server) drop(m stored) error {
	if !m.dead {
		return s.deliver.drop(m.message, m.ref)
	}
	if err := s.spool.apply(&change{done: []ref{m.ref}}); err != nil {
		return err
	}
	s.stats.count(m.route, counts{Dead: -1, Dropped: 1})
	return nil
}

// allDead does what an operator asks for the dead letters that a tag has now, the first accepted first. One that becomes
// a dead letter again meanwhile is left alone.
func (s *server) allDead(w http.ResponseWriter, r *http.Request, do func(stored) error) {
	n := 0
	dead, _ := s.places(true, math.MaxInt, findTag(r.URL.Query().Get("tag")))
	for _, d := range slices.Backward(dead) {
		m, err := s.spool.read(d.ref)
		if err == nil {
			err = do(stored{d.ref, true, m})
		}
		switch {
		case err == nil:
			n++
		case !errors.Is(err, errGone):
			counted(w, n, err)
			return
		}
	}
	counted(w, n, nil)
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
	s.allDead(w, r, s.drop)
}
