package main

// A message becomes what Slack gets: pure functions.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// payload is the post for a tag's message (https://docs.slack.dev/reference/methods/chat.postMessage/).
type payload struct {
	Channel     string       `json:"channel,omitempty"`
	Username    string       `json:"username,omitempty"`
	IconEmoji   string       `json:"icon_emoji,omitempty"`
	Text        string       `json:"text,omitempty"`
	Parse       string       `json:"parse,omitempty"`
	Attachments []attachment `json:"attachments,omitempty"`
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
)

// color returns that of a level, "" for a level that has none.
func color(level string) string {
	return map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[level]
}

// render returns the post for m: with t's settings, or as m's own payload says.
func render(m *message, t *tag) []byte {
	if m.Payload != nil {
		return renderDirect(m.Payload)
	}
	p := payload{Channel: t.channel, Username: t.username, IconEmoji: t.icon, Parse: t.parse}
	text := cut(m.Text, textLimit)
	if c := color(m.Level); c != "" || m.Title != "" {
		p.Attachments = []attachment{{
			Fallback: cut(fallback(m.Title, m.Text), fallbackLimit),
			Color:    c, Title: m.Title, Text: text, Footer: m.Host, MrkdwnIn: []string{"text"},
		}}
	} else {
		p.Text = text
	}
	return encode(p)
}

func fallback(title, text string) string {
	if title == "" || text == "" {
		return title + text
	}
	return title + ": " + text
}

// renderDirect returns a payload of /notify-directly with its defaults filled in and everything else as it came.
func renderDirect(raw json.RawMessage) []byte {
	var p map[string]json.RawMessage
	json.Unmarshal(raw, &p) // was checked when it was accepted
	for key, value := range map[string]string{"username": "slackboard", "icon_emoji": ":clipboard:", "parse": "full"} {
		switch string(p[key]) {
		case "", "null":
			p[key] = encode(value)
		case `""`:
			delete(p, key)
		}
	}
	var text string
	if json.Unmarshal(p["text"], &text) == nil && utf8.RuneCountInString(text) > textLimit {
		p["text"] = encode(cut(text, textLimit))
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
	runes := []rune(s)
	return string(runes[:keep/2]) + fmt.Sprintf(mark, count-keep) + string(runes[count-(keep-keep/2):])
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
