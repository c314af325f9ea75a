package cli

// A text of any length and content, made fit for people: its beginning and end are kept, cleaned, cut and escaped.

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// keptHalf is how much of a text is kept, of its beginning and of its end.
const keptHalf = maxRequest / 2

// Text keeps the first and the last keptHalf bytes of what is written to it.
type Text struct {
	bytes []byte // and some of those in between
	Total int64  // of all bytes
}

func (t *Text) Write(p []byte) {
	t.Total += int64(len(p))
	t.bytes = append(t.bytes, p...)
	if len(t.bytes) > 4*keptHalf { // seldom: it moves the end
		t.bytes = append(t.bytes[:keptHalf], t.bytes[len(t.bytes)-keptHalf:]...)
	}
}

// Cut returns the text as clean makes it: its first and last lines, with how much is left out in between, if that has
// more than limit characters or not all is kept.
func (t *Text) Cut(limit int, clean func(string) string) string {
	isWhole := t.Total <= 2*keptHalf
	head, tail := string(t.bytes), string(t.bytes)
	if !isWhole {
		head, tail = head[:keptHalf], tail[len(tail)-keptHalf:]
	}
	if head, tail = clean(head), clean(tail); isWhole && utf8.RuneCountInString(head) <= limit {
		return head
	}
	const marker = "\n[… %d bytes left out …]\n"
	half := max(0, limit-len(fmt.Sprintf(marker, t.Total))) / 2
	if runes := []rune(head); len(runes) > half {
		head = string(runes[:half])
	}
	if runes := []rune(tail); len(runes) > half {
		tail = string(runes[len(runes)-half:])
	}
	// whole lines, unless that takes much away
	if end := strings.LastIndexByte(head, '\n'); end > len(head)/2 {
		head = head[:end+1]
	}
	if end := strings.IndexByte(tail, '\n'); end < len(tail)/2 {
		tail = tail[end+1:]
	}
	return strings.TrimSuffix(head, "\n") + fmt.Sprintf(marker, max(0, t.Total-int64(len(head)+len(tail)))) + tail
}

// Cut is Text.Cut for a string.
func Cut(s string, limit int, clean func(string) string) string {
	return (&Text{[]byte(s), int64(len(s))}).Cut(limit, clean)
}

// Plain returns s without the control characters of ASCII, except newline and tab.
func Plain(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' }), "")
}

// Shown returns s as a terminal shows it in the end: without escape sequences (ECMA-48, 5.4 and 5.6, and ECMA-35, 13.2)
// and control characters, each line as it was last written.
func Shown(s string) string {
	// A control string goes up to BEL or ESC \, which are taken out by themselves.
	sequence := regexp.MustCompile(`\x1b(\[[ -?]*[@-~]?|[]PX^_][^\n\a\x1b]*|[ -/]*[0-~]?)`)
	const erase = "\u0094" // a control character, here for: take out the rest of the line
	means := map[string]string{
		"\x1b[G": "\r", "\x1b[1G": "\r", "\x1b[K": erase, "\x1b[0K": erase, "\x1b[2K": "\r" + erase,
	}
	var b strings.Builder
	var line []rune
	at := 0
	for _, c := range sequence.ReplaceAllStringFunc(s, func(s string) string { return means[s] }) {
		switch {
		case string(c) == erase:
			line = line[:at]
		case c == '\r':
			at = 0
		case c == '\b':
			at = max(0, at-1)
		case c == '\n':
			b.WriteString(string(line) + "\n")
			line, at = line[:0], 0
		case unicode.IsControl(c) && c != '\t':
		case at < len(line):
			line[at], at = c, at+1
		default:
			line, at = append(line, c), at+1
		}
	}
	return b.String() + string(line)
}

// Escape returns text so that Slack shows it without markup:
// https://docs.slack.dev/messaging/formatting-message-text/#escaping
func Escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// Code returns s as a block of code, which s cannot end.
func Code(s string) string { return "```\n" + strings.TrimSuffix(Harmless(s), "\n") + "\n```\n" }

// Harmless returns s so that Slack shows it and does nothing else: escaped, and with a U+2060, which is invisible,
// where s would notify everybody or end a code block.
func Harmless(s string) string {
	s = regexp.MustCompile("(?i)@(channel|here|everyone)").ReplaceAllString(s, "@\u2060$1")
	for range 2 { // the first round leaves two of three together
		s = strings.ReplaceAll(s, "``", "`\u2060`")
	}
	return Escape(s)
}
