package cli

// The message, as a request for the server.

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// MaxRequest is what a server takes: bytes of a request's body.
const MaxRequest = 1 << 20

// Message is what to tell people.
type Message struct {
	Text  string
	Level string // message, info, warn or crit
	Color string // with a channel: good, warning, danger or a code; goes before Level's
}

// request is a message on its way. This is also what the spool keeps of it: there is no token in it.
type request struct {
	Path string          `json:"path"`
	Key  string          `json:"key"` // by which a server knows one that it has taken already
	Body json.RawMessage `json:"body"`
}

// request returns m as a request, an error if no server would take it.
func (f *Flags) request(m Message) (request, error) {
	host, _ := os.Hostname()
	r := request{Path: "/notify", Key: rand.Text()}
	body := map[string]any{"tag": f.Tag, "host": host, "text": m.Text, "level": m.Level, "title": f.Title, "sync": f.Sync}
	if f.Tag == "" {
		r.Path = "/notify-directly"
		body = map[string]any{"payload": f.payload(m, host), "host": host, "sync": f.Sync}
	}
	r.Body = encode(body)
	if len(r.Body) > MaxRequest {
		return r, fmt.Errorf("the request would have %d bytes, and a server takes %d: send less text", len(r.Body), MaxRequest)
	}
	return r, nil
}

// payload returns m as Slack knows it.
func (f *Flags) payload(m Message, host string) map[string]any {
	payload := map[string]any{"channel": channel(f.Channel), "username": f.Username, "icon_emoji": f.Icon, "parse": f.Markup}
	color := cmp.Or(m.Color, map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[m.Level])
	if color == "" && f.Title == "" {
		payload["text"] = m.Text
		return payload
	}
	fallback := m.Text // what notifications show
	if f.Title != "" {
		fallback = f.Title + ": " + m.Text
	}
	payload["attachments"] = []map[string]any{{
		"color": color, "title": f.Title, "text": m.Text, "fallback": fallback, "footer": host, "mrkdwn_in": []string{"text"},
	}}
	return payload
}

// channel puts # in front of a channel's name. Ids of channels, direct messages, groups and users stay as they are,
// and so do @names.
func channel(name string) string {
	isID := len(name) >= 9 && strings.ContainsRune("CDGU", rune(name[0])) &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
	if isID || strings.HasPrefix(name, "#") || strings.HasPrefix(name, "@") {
		return name
	}
	return "#" + name
}

// Escape returns text as Slack wants what is no markup: https://docs.slack.dev/messaging/formatting-message-text/#escaping
func Escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// encode returns v as JSON. Bytes that are not UTF-8 become U+FFFD; & < > stay one byte each.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // of strings and booleans: never
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
