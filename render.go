package main

// How a message becomes a post, and several messages become one post: each is an attachment, and messages that say
// the same share an attachment. Nothing here does I/O or reads the clock.

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

// payload is a post, as Slack takes it (https://docs.slack.dev/reference/methods/chat.postMessage/).
type payload struct {
	around
	Text        string            `json:"text,omitempty"`
	Attachments []json.RawMessage `json:"attachments,omitempty"` // each is an attachment, or what a client sent as one
}

// object is a JSON object from a client. Only some of its keys are read.
type object = map[string]json.RawMessage

// around is what a post has besides its messages. Messages can be merged into one post only if their arounds are
// equal.
type around struct {
	Channel   string `json:"channel,omitempty"`
	Username  string `json:"username,omitempty"`
	IconEmoji string `json:"icon_emoji,omitempty"`
	IconURL   string `json:"icon_url,omitempty"`
	Parse     string `json:"parse,omitempty"`
}

// attachment carries what plain text cannot: a color, a title, the host of the message.
type attachment struct {
	Fallback string    `json:"fallback"` // what notifications and old clients show
	Color    string    `json:"color,omitempty"`
	Title    string    `json:"title,omitempty"`
	Text     string    `json:"text,omitempty"`
	Footer   string    `json:"footer,omitempty"`
	MrkdwnIn [1]string `json:"mrkdwn_in"` // without it, *bold* and `code` in the text are not formatted

	own string // the attachment of a payload, as JSON: if not "", it is posted instead of the fields above
}

const (
	textLimit      = 40_000 // characters: Slack cuts or refuses a longer text
	fallbackLimit  = 1_000
	shortLimit     = 3_500  // characters of each text once a message is too long: some workspaces take only about 4,000
	mergedLimit    = 12_000 // characters of the attachments in a merged post
	mergedMessages = 1_000  // messages in a merged post
	hostsNamed     = 3      // hosts that the footer of a fold names
)

// colors has the color of each level, in all usual spellings of the level: green, yellow and red.
var colors = map[string]string{
	"info": "#00ff00", "ok": "#00ff00", "warn": "#ffdd00", "warning": "#ffdd00",
	"crit": "#ff0000", "critical": "#ff0000", "error": "#ff0000",
}

// render returns the post for m alone, with the settings of its tag t or as its own payload says.
func render(m *message, t *tag, now time.Time) []byte {
	g := &merger{}
	g.add(m, t)
	return g.render(t, now)
}

// sign puts footer in front of the footer that attachment already has, and returns attachment.
func sign(attachment object, footer string) object {
	var given string
	json.Unmarshal(attachment["footer"], &given)
	if footer != "" && attachment != nil {
		attachment["footer"] = encode(join(footer, " · ", given))
	}
	return attachment
}

// believed reports whether a message can have been accepted at this time: from 2024 on, and not after now. A clock
// that is not set yet shows a year such as 1970.
func believed(accepted, now time.Time) bool { return accepted.Year() >= 2024 && !accepted.After(now) }

// lateness returns "accepted 03:12 UTC, delayed 3h2m" for a message that is delivered more than a minute after it was
// accepted. It returns "" for any other message, and if the accepted time is not believed.
func lateness(accepted, now time.Time) string {
	delay := now.Sub(accepted)
	if delay <= time.Minute || !believed(accepted, now) {
		return ""
	}
	delayed := strings.TrimSuffix(delay.Truncate(time.Minute).String(), "0s")
	return "accepted " + stamp(accepted, "15:04", delay) + " UTC, delayed " + delayed
}

// stamp formats at, in UTC. takes is the length of the delay or period that the reader is told: if it is a day or
// longer, stamp adds the date.
func stamp(at time.Time, form string, takes time.Duration) string {
	if takes >= 24*time.Hour {
		form = "Jan 2 " + form
	}
	return at.UTC().Format(form)
}

// join returns a and b with sep in between, or without sep if one of them is "".
func join(a, sep, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + sep + b
}

// fields returns the fields of m's payload as they are posted. In a payload of /notify-directly, each of username,
// icon_emoji and parse gets its documented default if it is missing, and is left out if it is "". A plain payload
// with a tag t gets the channel of t, and the name and icon of t if it has none of its own. A plain payload without a
// tag stays as it is.
func (m *message) fields(t *tag) object {
	p, fill := asObject(m.Payload), map[string]string{} // p is an object: the payload was checked when it was accepted
	switch {
	case !m.Plain:
		fill = map[string]string{"username": "slackboard", "icon_emoji": ":clipboard:", "parse": "full"}
	case t != nil:
		p["channel"], fill["channel"] = encode(t.channel), "" // without one if the tag has none
		fill["username"], fill["icon_emoji"] = t.username, t.icon
	}
	if len(p["icon_url"]) > len("null") { // Slack would show the emoji instead
		fill["icon_emoji"] = ""
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

// renderDirect returns the post for the fields of a payload, with its text cut. late goes into the footer of the last
// attachment or, without attachments, below the text. If there are blocks, late gets an attachment of its own: Slack
// shows no text beside blocks, and refuses an attachment with both blocks and a footer
// (https://github.com/slackapi/node-slack-sdk/issues/1112). A payload of markdown_text alone goes without late.
func renderDirect(p object, text, late string) []byte {
	var all []json.RawMessage // attachments, which may be many: only the last one is looked at
	json.Unmarshal(p["attachments"], &all)
	switch n := len(all); {
	case late == "", n == 0 && text != "" && !hasBlocks(p):
		text = join(text, "\n", late)
	case n > 0 && asObject(all[n-1]) != nil && !hasBlocks(asObject(all[n-1])):
		p["attachments"] = encode(append(all[:n-1], encode(sign(asObject(all[n-1]), late))))
	case n < 100 && (n > 0 || hasBlocks(p)): // Slack takes 100 attachments at most
		p["attachments"] = encode(append(all, encode(object{"text": encode(late)})))
	}
	if text != "" {
		p["text"] = encode(text)
	}
	return encode(p)
}

// hasBlocks reports whether a post or an attachment has blocks: more than null or an empty array.
func hasBlocks(o object) bool { return len(o["blocks"]) > len("null") }

// shorter returns post with each string in it cut to shortLimit characters. ok is false if no string is longer.
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

// eachText replaces each string s in v by f(s), except keys, and returns v. v is a JSON document, decoded by
// encoding/json.
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

// cut returns s if it has at most limit characters. Otherwise it cuts s to this limit: it keeps the beginning and the
// end, and puts in between how many characters are left out.
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

// part is one attachment of a post: a message, or a fold: all messages that say the same.
type part struct {
	around
	attachment      // equal for all messages of a fold; render sets its footer
	merges     bool // false: it is posted alone
	messages   []*message
}

// newPart returns the part for m; t is its tag. A message is posted alone if its tag is gone, or if its payload has
// anything besides the fields of around, a text and one attachment. So is a payload whose attachment has blocks, or
// has a pretext while there is a text: its footer or pretext would be refused or lost.
func newPart(m *message, t *tag) *part {
	sent, err := payload{Text: m.Text}, errGone // errGone stays if the tag is gone
	switch {
	case m.Payload != nil:
		fields := m.fields(t)
		maps.DeleteFunc(fields, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
		d := json.NewDecoder(bytes.NewReader(encode(fields)))
		d.DisallowUnknownFields()
		err = d.Decode(&sent) // an unknown field is an error, but does not end the decoding: the text is there
	case t != nil:
		sent.around, err = around{Channel: t.channel, Username: t.username, IconEmoji: t.icon, Parse: t.parse}, nil
	}
	p := &part{around: sent.around, merges: err == nil && len(sent.Attachments) < 2 && (t != nil || m.route.tag == "")}
	p.attachment = attachment{Title: m.Title, Text: cut(sent.Text, textLimit), MrkdwnIn: [1]string{"text"}}
	p.Color = colors[strings.ToLower(m.Level)]
	p.Fallback = cut(join(p.Title, ": ", p.Text), fallbackLimit)
	if p.merges && len(sent.Attachments) > 0 {
		own := asObject(sent.Attachments[0])
		p.merges = own != nil && !hasBlocks(own) && (p.Text == "" || own["pretext"] == nil)
		if p.merges && p.Text != "" { // Slack shows a pretext above the attachment, like the text of a post
			formatted := []string{"text", "fields"} // and formats what mrkdwn_in names
			json.Unmarshal(bytes.TrimPrefix(own["mrkdwn_in"], []byte("null")), &formatted)
			own["pretext"], own["mrkdwn_in"] = encode(p.Text), encode(append(formatted, "pretext"))
		}
		p.own = string(encode(own))
	}
	return p
}

// plain reports whether p, if it is posted alone, is the text of a post. A mention notifies from there, and not from
// an attachment.
func (p *part) plain() bool { return p.Color == "" && p.Title == "" }

// mentions finds what notifies people if it is in the text of a post. Its groups, joined, are the mention without its
// label.
var mentions = regexp.MustCompile(`(<(?:@[A-Z0-9]+|!subteam\^[A-Z0-9]+|!channel|!here|!everyone))(?:\|[^<>]*)?(>)` +
	`|(?:^|[^\w<@.-])(@(?:channel|here|everyone))\b`)

// merger collects the messages of one post, beginning with the head of a lane.
type merger struct {
	limit    int // the largest number of parts
	messages []*message
	parts    []*part
	size     int // characters of the parts
}

// add adds m to the post. It returns false if m does not fit: then the post is complete without m.
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

// render returns the post; t is the tag of its first message. The post of a single message shows no sign of merging.
// A late message says so, except as described at renderDirect.
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

// footer returns the host of one message and its lateness. For a fold it returns "×37 from 12 hosts: web-01, web-02,
// web-03 and 9 more · 03:12:05 to 03:14:41 UTC" and the lateness of the earliest message. A time that is not believed
// is left out.
func (p *part) footer(now time.Time) string {
	if m := p.messages[0]; len(p.messages) == 1 {
		host := m.Host
		if p.own != "" { // the attachment of a payload is posted without a host
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
	named, plural := strings.Join(hosts[:min(len(hosts), hostsNamed)], ", "), "s"[:asInt(len(hosts) > 1)]
	if n := len(hosts) - hostsNamed; n > 0 {
		named += fmt.Sprintf(" and %d more", n)
	}
	footer := fmt.Sprintf("×%d from %d host%s: %s", len(p.messages), len(hosts), plural, named)
	if len(times) == 0 {
		return footer
	}
	first, last := slices.MinFunc(times, time.Time.Compare), latest(times...)
	exact := func(at time.Time) string { return stamp(at, "15:04:05", last.Sub(first)) }
	return join(footer+" · "+exact(first)+" to "+exact(last)+" UTC", " · ", lateness(first, now))
}

// encode returns v as JSON, in which <, > and & are not escaped.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // only if JSON cannot express v
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
