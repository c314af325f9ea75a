package main

// A message and the route it takes, from the request to Slack.

import (
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const nameLimit = 255 // characters of a host, a level or a tag; bytes of a channel
const titleLimit = 1000

// message is what a client handed in: for a tag the text with its level and title, else a payload for Slack. It lies in
// the spool as JSON; no secret is in it.
type message struct {
	ID       string          `json:"-"`
	Host     string          `json:"host,omitempty"`   // the sender's, as it says, else its address
	Sender   string          `json:"sender,omitempty"` // whose token it came with, "" for an operator's or none
	Level    string          `json:"level,omitempty"`
	Title    string          `json:"title,omitempty"`
	Text     string          `json:"text,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Plain    bool            `json:"plain,omitempty"`    // the payload is posted as it came, without defaults
	Accepted int64           `json:"accepted,omitempty"` // Unix ms; 0: when it was queued

	route    route
	seq      uint64 // its number in the spool
	queued   int64  // Unix ms: when it was put into the spool, the last time
	replaces uint64 // the number of the dead letter that it was
	sync     bool   // it is posted once, now: in the spool it is one that was delivered
	body     []byte // its JSON, once it was encoded: shared by all destinations of a tag
}

// encoded returns m as it lies in the spool.
func (m *message) encoded() []byte {
	if m.body == nil {
		m.body = encode(m)
	}
	return m.body
}

// size is what m takes of max_bytes.
func (m *message) size() int64 { return lineSize(len(m.route.String()), len(m.ID), len(m.encoded())) }

// acceptedAt returns when a client was told ok.
func (m *message) acceptedAt() time.Time { return time.UnixMilli(cmp.Or(m.Accepted, m.queued)) }

// endsLine tells whether c could begin a new line, or do worse to a terminal or a line protocol.
func endsLine(c rune) bool { return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' }

// cleaned returns s without control characters, cut to limit characters. White space becomes blanks.
func cleaned(s string, limit int) string {
	n := 0
	s = strings.Map(func(c rune) rune {
		switch {
		case n == limit, endsLine(c) && !unicode.IsSpace(c):
			return -1
		case endsLine(c):
			c = ' '
		}
		n++
		return c
	}, s)
	return strings.Clone(s) // what Map returns may hold as much memory as it was given
}

// newID returns an id that no other message has. It is no secret.
func newID() string { return strconv.FormatUint(rand.Uint64(), 16) }

// route says where a message goes: to the index-th entry of a tag's name, or to a channel. Channel and credential are
// looked up when it is delivered.
type route struct {
	tag     string
	index   int
	channel string
}

// String returns the route as it stands in a record, "tag:NAME/0" or "to:#channel": it holds no blank and no newline.
func (r route) String() string {
	if r.tag != "" {
		return "tag:" + url.PathEscape(r.tag) + "/" + strconv.Itoa(r.index)
	}
	return "to:" + strings.ReplaceAll(url.PathEscape(r.channel), "%23", "#")
}

// parseRoute reads what String returns. What is no route is one to a channel of that name: it is shown as it is.
func parseRoute(s string) route {
	tag, number, _ := strings.Cut(strings.TrimPrefix(s, "tag:"), "/")
	index, err := strconv.Atoi(number)
	if err == nil && strings.HasPrefix(s, "tag:") && tag != "" && index >= 0 {
		return route{tag: unescaped(tag), index: index}
	}
	return route{channel: unescaped(strings.TrimPrefix(s, "to:"))}
}

// unescaped decodes the %41 in s, if it is well formed.
func unescaped(s string) string {
	plain, _ := url.PathUnescape(s)
	return cmp.Or(plain, s)
}
