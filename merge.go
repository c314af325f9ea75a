package main

// Several messages become one post: an attachment each, and one for those that say the same. Pure functions.

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// piece is a message as a part of a post.
type piece struct {
	around             around
	level, title, text string
	own                map[string]json.RawMessage // the attachment of a payload, instead of these
	same               string                     // equal for those that are folded
	size               int                        // characters of text
}

// pieceOf returns false for a message that goes alone: its tag is gone, or it is a payload with more than text and one
// attachment.
func pieceOf(m *message, t *tag) (p piece, ok bool) {
	switch {
	case m.Payload != nil:
		ok = p.fromPayload(m.fields(t))
	case t != nil:
		p, ok = piece{around: t.around(), level: m.Level, title: m.Title, text: m.Text}, true
	}
	p.same = strings.Join([]string{color(p.level), p.title, p.text}, "\x00")
	p.size = utf8.RuneCountInString(p.title + p.text)
	if p.own != nil {
		p.same = string(encode(p.own))
		p.size = utf8.RuneCountInString(p.same)
	}
	return p, ok
}

func (p *piece) fromPayload(fields map[string]json.RawMessage) bool {
	maps.DeleteFunc(fields, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	var attachments []map[string]json.RawMessage
	for key, into := range map[string]any{
		"channel": &p.around.Channel, "username": &p.around.Username, "icon_emoji": &p.around.IconEmoji,
		"icon_url": &p.around.IconURL, "parse": &p.around.Parse, "text": &p.text, "attachments": &attachments,
	} {
		if value := fields[key]; value != nil && json.Unmarshal(value, into) != nil {
			return false
		}
		delete(fields, key)
	}
	if len(fields) > 0 || len(attachments) > 1 {
		return false
	}
	if len(attachments) == 1 {
		p.own = attachments[0]
		if p.own == nil || p.text != "" && p.own["pretext"] != nil {
			return false
		}
		if p.text != "" {
			p.own["pretext"] = encode(p.text) // Slack shows it above the attachment, as it does a post's text
		}
	}
	return true
}

// mentions returns what notifies people if it stands in the text of a post, without labels.
func mentions(text string) (found []string) {
	text = strings.NewReplacer("<", " <", ">", "> ").Replace(text)
	words := strings.FieldsFunc(text, func(c rune) bool {
		return c >= utf8.RuneSelf || !strings.ContainsRune("@<>!^|_.-", c) && !unicode.In(c, unicode.L, unicode.N)
	})
	for _, word := range words {
		name, _, labeled := strings.Cut(strings.TrimRight(word, ".!-"), "|")
		if labeled {
			name += ">"
		}
		switch id := strings.TrimPrefix(strings.TrimPrefix(name, "<@"), "<!subteam^"); {
		case slices.Contains([]string{"@channel", "@here", "@everyone", "<!channel>", "<!here>", "<!everyone>"}, name),
			id != name && strings.HasSuffix(id, ">") && id == strings.ToUpper(id):
			found = append(found, name)
		}
	}
	return found
}

// part is one attachment: a message, or the fold of all that say the same.
type part struct {
	piece
	messages []*message
}

// merger collects the messages of one post, from the head of a lane on.
type merger struct {
	limit    int // parts
	bytes    int // of the post; 0: as many as it takes
	messages []*message
	parts    []*part
	alone    bool // its one message does not merge
	tag      *tag // of the first message
	size     int
}

// add returns false for a message that does not fit: the post is complete without it.
func (g *merger) add(m *message, t *tag) bool {
	if g.alone || len(g.messages) >= mergedHeads {
		return false
	}
	p, ok := pieceOf(m, t)
	n, parts := len(g.messages), len(g.parts)
	first := n == 0
	if first {
		g.alone, g.tag = !ok, t
	} else if !ok || p.around != g.parts[0].around {
		return false
	}
	i := slices.IndexFunc(g.parts, func(q *part) bool { return q.same == p.same })
	if i < 0 {
		if !first && (parts >= g.limit || g.size+p.size > mergedLimit) {
			return false
		}
		i = parts
		g.parts = append(g.parts, &part{piece: p})
		g.size += p.size
	}
	g.parts[i].messages = append(g.parts[i].messages, m)
	g.messages = append(g.messages, m)
	if !first && i == parts && g.bytes > 0 && len(g.render(time.Now())) > g.bytes {
		g.parts, g.messages = g.parts[:parts], g.messages[:n]
		return false
	}
	return true
}

// render returns the post. A message that goes alone looks as if nothing was ever merged.
func (g *merger) render(now time.Time) []byte {
	if len(g.messages) == 1 {
		return render(g.messages[0], g.tag, now)
	}
	post := payload{around: g.parts[0].around}
	var called []string
	for _, p := range g.parts {
		post.Attachments = append(post.Attachments, p.attachment(now))
		if color(p.level) == "" && p.title == "" { // alone, its text would be the post's: there alone a mention notifies
			for _, mention := range mentions(p.text) {
				if len(called) < mentionsKept && !slices.Contains(called, mention) {
					called = append(called, mention)
				}
			}
		}
	}
	post.Text = strings.Join(called, " ")
	return encode(post)
}

func (p *part) attachment(now time.Time) any {
	first := p.messages[0]
	footer := lateness(first.acceptedAt(), now)
	switch {
	case len(p.messages) > 1:
		footer = p.footer(now)
	case p.own == nil: // the host is not a part of a payload
		footer = join(first.Host, " · ", footer)
	}
	if p.own == nil {
		return attach(p.level, p.title, p.text, footer)
	}
	own := maps.Clone(p.own)
	var given string
	json.Unmarshal(own["footer"], &given)
	if joined := join(footer, " · ", given); joined != "" {
		own["footer"] = encode(joined)
	}
	return own
}

// footer returns "×37 from 12 hosts: web-01, web-02, web-03 and 9 more · 03:12:05 to 03:14:41 UTC".
func (p *part) footer(now time.Time) string {
	var hosts []string
	var times []time.Time
	for _, m := range p.messages {
		if at := m.acceptedAt(); believed(at, now) {
			times = append(times, at)
		}
		if !slices.Contains(hosts, m.Host) {
			hosts = append(hosts, m.Host)
		}
	}
	count, noun := len(hosts), "hosts"
	if count == 1 {
		noun = "host"
	}
	named := strings.Join(hosts[:min(count, hostsNamed)], ", ")
	footer := fmt.Sprintf("×%d from %d %s: %s", len(p.messages), count, noun, named)
	if count > hostsNamed {
		footer += fmt.Sprintf(" and %d more", count-hostsNamed)
	}
	if len(times) == 0 {
		return footer
	}
	first, last := slices.MinFunc(times, time.Time.Compare), slices.MaxFunc(times, time.Time.Compare)
	form := "15:04:05"
	if last.Sub(first) >= 24*time.Hour {
		form = "Jan 2 15:04:05"
	}
	footer += " · " + first.UTC().Format(form) + " to " + last.UTC().Format(form) + " UTC"
	return join(footer, " · ", lateness(first, now))
}
