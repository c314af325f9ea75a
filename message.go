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

// message is what a client handed in: a text with level and title for a tag, or a payload for Slack. The spool keeps
// it as JSON. It holds neither a credential, which post looks up, nor the token that came with the request.
type message struct {
	ID       string          `json:"-"`
	Host     string          `json:"host,omitempty"`   // as the client says, else its address or our host name
	Sender   string          `json:"sender,omitempty"` // whose token came with it; "" for an operator's token or none
	Level    string          `json:"level,omitempty"`
	Title    string          `json:"title,omitempty"`
	Text     string          `json:"text,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Plain    bool            `json:"plain,omitempty"`    // the payload gets no general defaults: see fields
	Accepted int64           `json:"accepted,omitempty"` // Unix ms; 0: the same as queued

	route    route
	seq      uint64 // its number in the spool
	queued   int64  // Unix ms: when it was last put into the spool
	replaces uint64 // the number of the dead letter that it replaces; 0: none
	sync     bool   // it is posted once, at once; it is stored only after it was delivered
	body     []byte // its JSON, once it was encoded; shared by the messages for all destinations of a tag
}

// encoded returns m as the spool keeps it: as JSON.
func (m *message) encoded() []byte {
	if m.body == nil {
		m.body = encode(m)
	}
	return m.body
}

// size returns how many bytes of max_bytes m counts for.
func (m *message) size() int64 { return lineSize(len(m.route.String()), len(m.ID), len(m.encoded())) }

// acceptedAt returns when the server accepted m. For a dead letter that is sent again, that is the first time.
func (m *message) acceptedAt() time.Time { return time.UnixMilli(cmp.Or(m.Accepted, m.queued)) }

// isControl reports whether c is a control character or a Unicode line separator. Such a character could begin a new
// line, or do worse to a terminal or a line protocol.
func isControl(c rune) bool { return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' }

// cleaned removes control characters from s and cuts the result to limit characters. Control characters that are
// white space, such as a newline, and Unicode line separators become blanks.
func cleaned(s string, limit int) string {
	n := 0
	s = strings.Map(func(c rune) rune {
		switch {
		case n == limit, isControl(c) && !unicode.IsSpace(c):
			return -1
		case isControl(c):
			c = ' '
		}
		n++
		return c
	}, s)
	return strings.Clone(s) // the result of Map may hold as much memory as its argument
}

// newID returns a random id, which no other message has. The id is no secret.
func newID() string { return strconv.FormatUint(rand.Uint64(), 16) }

// route says where a message goes: to one of the configuration's entries for a tag, or to a channel. Each post looks
// up the credential and, for a tag, the channel.
type route struct {
	tag     string
	index   int // of the entry, among those of the tag
	channel string
}

// String returns the route as a line of the log has it: tag:NAME/0 or to:#channel. Names are percent-encoded, so the
// route has no blank and no newline.
func (r route) String() string {
	if r.tag != "" {
		return "tag:" + url.PathEscape(r.tag) + "/" + strconv.Itoa(r.index)
	}
	return "to:" + strings.ReplaceAll(url.PathEscape(r.channel), "%23", "#")
}

// parseRoute parses what String returns. If s is not a route, it is taken for the name of a channel, so that an
// operator sees it.
func parseRoute(s string) route {
	tag, number, _ := strings.Cut(strings.TrimPrefix(s, "tag:"), "/")
	index, err := strconv.Atoi(number)
	if err == nil && strings.HasPrefix(s, "tag:") && tag != "" && index >= 0 {
		return route{tag: unescaped(tag), index: index}
	}
	return route{channel: unescaped(strings.TrimPrefix(s, "to:"))}
}

// unescaped decodes escapes such as %41 in s. If one of them is malformed, it returns s.
func unescaped(s string) string {
	plain, _ := url.PathUnescape(s)
	return cmp.Or(plain, s)
}
