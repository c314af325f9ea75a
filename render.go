package main

// A message becomes what Slack gets, and several become one post: an attachment each, and one for those that say the
// same. Pure functions.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// payload is a post (https://docs.slack.dev/reference/methods/chat.postMessage/).
type payload struct {
	around
	Text        string            `json:"text,omitempty"`
	Attachments []json.RawMessage `json:"attachments,omitempty"` // attachment, or what a client sent as one
}

// object is JSON of a client, of which only some keys are looked at.
type object = map[string]json.RawMessage

// around is what surrounds a message. Where it is equal, messages can be merged into one post.
type around struct {
	Channel   string `json:"channel,omitempty"`
	Username  string `json:"username,omitempty"`
	IconEmoji string `json:"icon_emoji,omitempty"`
	IconURL   string `json:"icon_url,omitempty"`
	Parse     string `json:"parse,omitempty"`
}

// attachment carries what plain text cannot: a color, a title, the sender's host.
type attachment struct {
	Fallback string    `json:"fallback"` // what notifications and old clients show
	Color    string    `json:"color,omitempty"`
	Title    string    `json:"title,omitempty"`
	Text     string    `json:"text,omitempty"`
	Footer   string    `json:"footer,omitempty"`
	MrkdwnIn [1]string `json:"mrkdwn_in"` // without it, the text's *bold* and `code` are not formatted

	own string // JSON: the attachment of a payload, which is posted instead
}

const (
	textLimit     = 40_000 // characters; Slack cuts or refuses what is longer
	fallbackLimit = 1_000
	shortLimit    = 3_500  // characters of a message that was too long: receivers take 4,000 or more
	mergedLimit   = 12_000 // characters of text in a merged post
	mergedHeads   = 1_000  // messages in one
	hostsNamed    = 3      // of those that sent what is folded
)

// colors are those of the levels, written in any of the usual ways: green, yellow and red.
var colors = map[string]string{
	"info": "#00ff00", "ok": "#00ff00", "warn": "#ffdd00", "warning": "#ffdd00",
	"crit": "#ff0000", "critical": "#ff0000", "error": "#ff0000",
}

// render returns the post for m alone: with t's settings, or as m's own payload says.
func render(m *message, t *tag, now time.Time) []byte {
	g := &merger{}
	g.add(m, t)
	return g.render(t, now)
}

// sign puts footer in front of the one that attachment has, and returns attachment.
func sign(attachment object, footer string) object {
	var given string
	json.Unmarshal(attachment["footer"], &given)
	if footer != "" && attachment != nil {
		attachment["footer"] = encode(join(footer, " · ", given))
	}
	return attachment
}

// believed reports whether a message can have been accepted then. A clock that is not set yet says 1970 or the like.
func believed(accepted, now time.Time) bool { return accepted.Year() >= 2024 && !accepted.After(now) }

// lateness returns "accepted 03:12 UTC, delayed 3h2m" for a message that is delivered more than a minute late,
// else nothing.
func lateness(accepted, now time.Time) string {
	delay := now.Sub(accepted)
	if delay <= time.Minute || !believed(accepted, now) {
		return ""
	}
	delayed := strings.TrimSuffix(delay.Truncate(time.Minute).String(), "0s")
	return "accepted " + stamp(accepted, "15:04", delay) + " UTC, delayed " + delayed
}

// stamp writes a time, with its date if what it stands for takes a day or longer.
func stamp(at time.Time, form string, takes time.Duration) string {
	if takes >= 24*time.Hour {
		form = "Jan 2 " + form
	}
	return at.UTC().Format(form)
}

// join puts sep between a and b, if both say something.
func join(a, sep, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + sep + b
}

// fields returns the fields of m's payload as they are posted: with the documented defaults for those that are absent,
// and without those that are "". A payload that is posted as it came gets the channel of its tag t, if it has one, and
// t's name and icon if it has none of its own.
func (m *message) fields(t *tag) object {
	p, fill := asObject(m.Payload), map[string]string{} // the payload was checked when it was accepted
	switch {
	case !m.Plain:
		fill = map[string]string{"username": "slackboard", "icon_emoji": ":clipboard:", "parse": "full"}
	case t != nil:
		p["channel"], fill["username"] = encode(t.channel), t.username
		if len(p["icon_url"]) <= len("null") { // or "", or absent
			fill["icon_emoji"] = t.icon
		}
	}
	for key, value := range fill {
		if given := string(p[key]); given == "" || given == "null" || given == `""` && m.Plain {
			p[key] = encode(value)
		}
		if string(p[key]) == `""` {
			delete(p, key)
		}
	}
	return p
}

// renderDirect returns the post for the fields of a payload, with its text cut. late goes into the footer of its last
// attachment, else below its text.
func renderDirect(p object, text, late string) []byte {
	var attachments []object
	if late != "" && json.Unmarshal(p["attachments"], &attachments) == nil && len(attachments) > 0 {
		sign(attachments[len(attachments)-1], late)
		p["attachments"], late = encode(attachments), ""
	}
	if text != "" {
		p["text"] = encode(join(text, "\n", late))
	}
	return encode(p)
}

// shorter returns a post with each of its texts cut to shortLimit characters; false if none has more.
func shorter(post []byte) (short []byte, ok bool) {
	d := json.NewDecoder(bytes.NewReader(post))
	d.UseNumber()
	var whole any
	d.Decode(&whole)
	whole = eachText(whole, func(text string) string {
		ok = ok || utf8.RuneCountInString(text) > shortLimit
		return cut(text, shortLimit)
	})
	return encode(whole), ok
}

// eachText puts f of it in the place of each text in v, which is what json made of a document, and returns v.
func eachText(v any, f func(string) string) any {
	switch v := v.(type) {
	case string:
		return f(v)
	case []any:
		for i := range v {
			v[i] = eachText(v[i], f)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			v[key] = eachText(v[key], f)
		}
	}
	return v
}

// cut returns s in at most limit characters: its beginning and its end, with how much was left out in between.
func cut(s string, limit int) string {
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	const mark = "\n[… %d characters left out …]\n"
	all := []rune(s)
	out := len(all) - limit + len(fmt.Sprintf(mark, len(all)))
	head := (len(all) - out) / 2
	return string(all[:head]) + fmt.Sprintf(mark, out) + string(all[head+out:])
}

// part is one attachment of a post: a message, or the fold of all that say the same.
type part struct {
	around
	attachment      // equal for messages that are folded; render sets its footer
	merges     bool // false: it goes alone
	messages   []*message
}

// newPart returns the part for m. A message goes alone if its tag is gone, or if it is a payload with more than text
// and one attachment.
func newPart(m *message, t *tag) *part {
	given, err := payload{Text: m.Text}, errGone // if the tag is
	switch {
	case m.Payload != nil:
		fields := m.fields(t)
		maps.DeleteFunc(fields, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
		d := json.NewDecoder(bytes.NewReader(encode(fields)))
		d.DisallowUnknownFields()
		err = d.Decode(&given) // it reads on behind an unknown field: the text is there
	case t != nil:
		given.around, err = around{Channel: t.channel, Username: t.username, IconEmoji: t.icon, Parse: t.parse}, nil
	}
	p := &part{around: given.around, merges: err == nil && len(given.Attachments) < 2}
	p.attachment = attachment{Title: m.Title, Text: cut(given.Text, textLimit), MrkdwnIn: [1]string{"text"}}
	p.Color = colors[strings.ToLower(m.Level)]
	p.Fallback = cut(join(p.Title, ": ", p.Text), fallbackLimit)
	if p.merges && len(given.Attachments) > 0 {
		own := asObject(given.Attachments[0])
		p.merges = own != nil && (p.Text == "" || own["pretext"] == nil)
		if p.merges && p.Text != "" {
			own["pretext"] = encode(p.Text) // Slack shows it above the attachment, as it does a post's text
		}
		p.own = string(encode(own))
	}
	return p
}

// plain reports that p, alone, is the text of a post: there a mention notifies.
func (p *part) plain() bool { return p.Color == "" && p.Title == "" }

// mentions finds what notifies people if it stands in the text of a post. Its groups are the mention without a label.
var mentions = regexp.MustCompile(`(<(?:@[A-Z0-9]+|!subteam\^[A-Z0-9]+|!channel|!here|!everyone))(?:\|[^<>]*)?(>)` +
	`|(?:^|[^\w<@.-])(@(?:channel|here|everyone))\b`)

// merger collects the messages of one post, from the head of a lane on.
type merger struct {
	limit    int // parts
	messages []*message
	parts    []*part
	size     int // characters of text
}

// add returns false for a message that does not fit: the post is complete without it.
func (g *merger) add(m *message, t *tag) bool {
	p, n := newPart(m, t), len(g.parts)
	if n > 0 && !(g.parts[0].merges && p.merges && p.around == g.parts[0].around) {
		return false
	}
	size := g.size + utf8.RuneCountInString(p.Title+p.Text+p.own)
	switch i := slices.IndexFunc(g.parts, func(q *part) bool { return q.attachment == p.attachment }); {
	case i >= 0:
		p = g.parts[i]
	case n > 0 && (n >= g.limit || size > mergedLimit):
		return false
	default:
		g.parts, g.size = append(g.parts, p), size
	}
	p.messages = append(p.messages, m)
	g.messages = append(g.messages, m)
	return true
}

// render returns the post; t is the tag of its first message. A message that goes alone looks as if nothing was ever
// merged, and says if it comes late.
func (g *merger) render(t *tag, now time.Time) []byte {
	m, first := g.messages[0], g.parts[0]
	post, late := payload{around: first.around}, lateness(m.acceptedAt(), now)
	switch alone := len(g.messages) == 1; {
	case alone && m.Payload != nil:
		return renderDirect(m.fields(t), first.Text, late)
	case alone && first.plain():
		post.Text = join(first.Text, "\n", late)
		return encode(post)
	}
	for _, p := range g.parts {
		p.Footer = p.footer(now)
		signed := encode(p.attachment)
		if p.own != "" {
			signed = encode(sign(asObject([]byte(p.own)), p.Footer))
		}
		post.Attachments = append(post.Attachments, signed)
		for _, groups := range mentions.FindAllStringSubmatch(p.Text, -1) {
			if mention := strings.Join(groups[1:], ""); p.plain() && !strings.Contains(post.Text, mention) {
				post.Text = join(post.Text, " ", mention)
			}
		}
	}
	return encode(post)
}

// footer returns the host of one message, or "×37 from 12 hosts: web-01, web-02, web-03 and 9 more · 03:12:05 to
// 03:14:41 UTC" for a fold. A time that is not believed is left out.
func (p *part) footer(now time.Time) string {
	if m := p.messages[0]; len(p.messages) == 1 {
		host := m.Host
		if p.own != "" { // it is not a part of a payload
			host = ""
		}
		return join(host, " · ", lateness(m.acceptedAt(), now))
	}
	from, times := map[string]bool{}, []time.Time(nil)
	for _, m := range p.messages {
		if at := m.acceptedAt(); believed(at, now) {
			times = append(times, at)
		}
		from[m.Host] = true
	}
	hosts := slices.Sorted(maps.Keys(from))
	noun, named := "hosts", strings.Join(hosts[:min(len(hosts), hostsNamed)], ", ")
	if len(hosts) == 1 {
		noun = "host"
	}
	if n := len(hosts) - hostsNamed; n > 0 {
		named += fmt.Sprintf(" and %d more", n)
	}
	footer := fmt.Sprintf("×%d from %d %s: %s", len(p.messages), len(hosts), noun, named)
	if len(times) == 0 {
		return footer
	}
	first, last := slices.MinFunc(times, time.Time.Compare), latest(times...)
	const form = "15:04:05"
	footer += " · " + stamp(first, form, last.Sub(first)) + " to " + stamp(last, form, last.Sub(first)) + " UTC"
	return join(footer, " · ", lateness(first, now))
}

// encode returns v as JSON, with < > & as they are.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // only for types that JSON does not have
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
