package main

// A message becomes what Slack gets: pure functions.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// payload is a post (https://docs.slack.dev/reference/methods/chat.postMessage/).
type payload struct {
	around
	Text        string `json:"text,omitempty"`
	Attachments []any  `json:"attachments,omitempty"` // attachment, or what a client sent as one
}

// around is what surrounds a message. Where it is equal, messages can be merged into one post.
type around struct {
	Channel   string `json:"channel,omitempty"`
	Username  string `json:"username,omitempty"`
	IconEmoji string `json:"icon_emoji,omitempty"`
	Parse     string `json:"parse,omitempty"`
}

// attachment carries what plain text cannot: a color, a title, the sender's host.
type attachment struct {
	Fallback string   `json:"fallback"` // what notifications and old clients show
	Color    string   `json:"color,omitempty"`
	Title    string   `json:"title,omitempty"`
	Text     string   `json:"text,omitempty"`
	Footer   string   `json:"footer,omitempty"`
	MrkdwnIn []string `json:"mrkdwn_in"` // without it, the text's *bold* and `code` are not formatted
}

const (
	textLimit     = 40_000 // characters; Slack cuts or refuses what is longer
	fallbackLimit = 1_000
	mergedLimit   = 12_000 // characters of text in a merged post
	mergedHeads   = 1_000  // messages in one
	hostsNamed    = 3      // of those that sent what is folded
)

// color returns that of a level, "" for a level that has none.
func color(level string) string {
	return map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[level]
}

// render returns the post for m: with t's settings, or as m's own payload says. One that comes late says so.
func render(m *message, t *tag, now time.Time) []byte {
	late := lateness(m.acceptedAt(), now)
	if m.Payload != nil {
		return renderDirect(m.Payload, late)
	}
	p := payload{around: t.around()}
	if color(m.Level) != "" || m.Title != "" {
		p.Attachments = []any{attach(m.Level, m.Title, m.Text, join(m.Host, " · ", late))}
	} else {
		p.Text = join(cut(m.Text, textLimit), "\n", late)
	}
	return encode(p)
}

func (t *tag) around() around { return around{t.channel, t.username, t.icon, t.parse} }

func attach(level, title, text, footer string) attachment {
	return attachment{
		Fallback: cut(join(title, ": ", text), fallbackLimit),
		Color:    color(level), Title: title, Text: cut(text, textLimit), Footer: footer, MrkdwnIn: []string{"text"},
	}
}

const lateAfter = time.Minute

// lateness returns "accepted 03:12 UTC, delayed 3h2m" for a message that is delivered late, else nothing.
func lateness(accepted, now time.Time) string {
	delay := now.Sub(accepted)
	if delay <= lateAfter {
		return ""
	}
	form := "15:04"
	if delay >= 24*time.Hour {
		form = "Jan 2 15:04"
	}
	return "accepted " + accepted.UTC().Format(form) + " UTC, delayed " + strings.TrimSuffix(delay.Truncate(time.Minute).String(), "0s")
}

// join puts sep between a and b, if both say something.
func join(a, sep, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + sep + b
}

// withDefaults returns the fields of a payload, with the documented defaults for those that are absent and without those
// that are "".
func withDefaults(raw json.RawMessage) (p map[string]json.RawMessage) {
	json.Unmarshal(raw, &p) // was checked when it was accepted
	for key, value := range map[string]string{"username": "slackboard", "icon_emoji": ":clipboard:", "parse": "full"} {
		switch string(p[key]) {
		case "", "null":
			p[key] = encode(value)
		case `""`:
			delete(p, key)
		}
	}
	return p
}

// renderDirect returns a payload of /notify-directly with its defaults filled in and everything else as it came. late
// goes into the footer of its last attachment, else below its text.
func renderDirect(raw json.RawMessage, late string) []byte {
	p := withDefaults(raw)
	var text string
	if json.Unmarshal(p["text"], &text) == nil && utf8.RuneCountInString(text) > textLimit {
		p["text"] = encode(cut(text, textLimit))
	}
	if late == "" {
		return encode(p)
	}
	var attachments []map[string]json.RawMessage
	if json.Unmarshal(p["attachments"], &attachments) == nil && len(attachments) > 0 {
		if last := attachments[len(attachments)-1]; last != nil {
			var footer string
			json.Unmarshal(last["footer"], &footer)
			last["footer"] = encode(join(footer, " · ", late))
		}
		p["attachments"] = encode(attachments)
	} else if text != "" {
		p["text"] = encode(join(cut(text, textLimit), "\n", late))
	}
	return encode(p)
}

// cut returns s in at most limit characters: its beginning and its end, with how much was left out in between.
func cut(s string, limit int) string {
	count := utf8.RuneCountInString(s)
	if count <= limit {
		return s
	}
	const mark = "\n[… %d characters left out …]\n"
	keep := limit - len(fmt.Sprintf(mark, count))
	head, tail := 0, len(s)
	for range keep / 2 {
		_, size := utf8.DecodeRuneInString(s[head:])
		head += size
	}
	for range keep - keep/2 {
		_, size := utf8.DecodeLastRuneInString(s[:tail])
		tail -= size
	}
	return s[:head] + fmt.Sprintf(mark, count-keep) + s[tail:]
}

// encode returns v as JSON, with < > & as they are.
func encode(v any) []byte { return bytes.TrimSuffix(encodeLine(v), []byte("\n")) }

// encodeLine is encode with a newline behind it.
func encodeLine(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // only for types that JSON does not have
	}
	return b.Bytes()
}
