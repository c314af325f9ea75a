package cli

// The message, as a request for the server.

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
)

const (
	MaxRequest = 1 << 20 // what a server takes: bytes of a request's body
	titleLimit = 1000    // characters
)

// Message is what to tell people.
type Message struct {
	Text  func(limit int) string // the text, cut to a number of characters before it is escaped
	Level string                 // message, info, warn or crit
	Color string                 // with a channel: good, warning, danger or a code; goes before Level's
}

// request is a message on its way. This is also what the spool keeps of it: there is no token in it.
type request struct {
	Path string          `json:"path"`
	To   string          `json:"to,omitempty"` // the tag or the channel
	Key  string          `json:"key"`          // by which a server knows one that it has taken already
	Body json.RawMessage `json:"body"`         // nil: the request is a question
}

// request returns m as a request. It cuts as much of the text as a server would not take.
func (f *Flags) request(m Message) request {
	r := request{Path: "/notify", To: cmp.Or(f.Tag, channel(f.Channel)), Key: rand.Text()}
	if f.Tag == "" {
		r.Path = "/notify-directly"
	}
	for limit := MaxRequest; ; limit = limit / 16 * 15 * MaxRequest / len(r.Body) {
		if r.Body = encode(f.body(m, m.Text(limit))); len(r.Body) <= MaxRequest || limit == 0 {
			return r
		}
	}
}

// body returns the message as the server knows it.
func (f *Flags) body(m Message, text string) map[string]any {
	host, _ := os.Hostname()
	title := Cut(f.Title, titleLimit, Plain)
	if f.Tag != "" {
		return map[string]any{
			"tag": f.Tag, "host": host, "text": text, "level": m.Level, "title": title, "sync": f.Sync,
		}
	}
	payload := map[string]any{
		"channel": channel(f.Channel), "username": f.Username, "icon_emoji": f.Icon, "parse": f.Markup,
	}
	color := cmp.Or(m.Color, map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[m.Level])
	if color == "" && title == "" {
		payload["text"] = text
	} else {
		fallback := text // what notifications show
		if title != "" {
			fallback = title + ": " + text
		}
		payload["attachments"] = []map[string]any{{
			"color": color, "title": title, "text": text, "fallback": fallback,
			"footer": host, "mrkdwn_in": []string{"text"},
		}}
	}
	return map[string]any{"payload": payload, "host": host, "sync": f.Sync}
}

// channel puts # in front of a channel's name. Ids of channels, direct messages, groups and users stay as they are,
// and so do @names.
func channel(name string) string {
	isName := name != "" && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, "@")
	isID := len(name) >= 9 && strings.ContainsRune("CDGU", rune(name[0])) &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
	if isName && !isID {
		return "#" + name
	}
	return name
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
