package cli

// A text of any length and content, prepared for people to read: its beginning and its end are kept, cleaned, cut and
// escaped.

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// keptHalf is how many bytes of a text are kept at its beginning, and how many at its end.
const keptHalf = maxRequest / 2

// Text keeps the first and the last keptHalf bytes of what is written to it.
type Text struct {
	bytes []byte // the kept bytes, and bytes of the middle until Write removes them
	Total int64  // the number of bytes written
}

func (t *Text) Write(p []byte) {
	t.Total += int64(len(p))
	t.bytes = append(t.bytes, p...)
	if len(t.bytes) > 4*keptHalf { // seldom: copying the end takes time
		t.bytes = append(t.bytes[:keptHalf], t.bytes[len(t.bytes)-keptHalf:]...)
	}
}

// Cut returns the text as clean returns it. If that has more than limit characters, or if the middle of the text was
// not kept, Cut returns the first and the last lines, and between them a line that says how many bytes are left out.
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
	// Keep only whole lines, unless that would remove half of the head or of the tail.
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

// Plain returns s without the control characters below U+0020, except newline and tab.
func Plain(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' }), "")
}

// Shown returns s as a terminal would finally show it, without escape sequences (ECMA-48, 5.4 and 5.6, and ECMA-35,
// 13.2) and without control characters except newline and tab. Text that was overwritten or erased within its line is
// left out. Other movements of the cursor have no effect.
func Shown(s string) string {
	// A control string is matched up to the BEL or ESC \ that ends it, or up to the end of the line. BEL is removed as
	// a control character, ESC \ as a sequence.
	sequence := regexp.MustCompile(`\x1b(\[[ -?]*[@-~]?|[]PX^_][^\n\a\x1b]*|[ -/]*[0-~]?)`)
	const erase = "\u0094" // a control character that here means: erase the rest of the line
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

// Escape returns text with &, < and > escaped, so that Slack does not read them as markup:
// https://docs.slack.dev/messaging/formatting-message-text/#escaping
func Escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// Code returns s as a block of code. Nothing in s can end the block.
func Code(s string) string { return "```\n" + strings.TrimSuffix(Harmless(s), "\n") + "\n```\n" }

// Harmless returns s escaped, with a U+2060, which is invisible, wherever s would notify everybody (@channel, @here,
// @everyone) or end a block of code.
func Harmless(s string) string {
	s = regexp.MustCompile("(?i)@(channel|here|everyone)").ReplaceAllString(s, "@\u2060$1")
	for range 2 { // the first round leaves two of three backquotes together
		s = strings.ReplaceAll(s, "``", "`\u2060`")
	}
	return Escape(s)
}
