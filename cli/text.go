package cli

// A text that may be of any length and hold anything, on its way to people: kept in part, cleaned, cut, and shown as it is.

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// keptHalf is how much of a text is kept, of its beginning and of its end.
const keptHalf = MaxRequest / 2

// Text keeps the first and the last keptHalf bytes of what is written to it.
type Text struct {
	bytes []byte // and some of those in between
	Total int64  // of all bytes
}

func (t *Text) Write(p []byte) (int, error) {
	t.Total += int64(len(p))
	t.bytes = append(t.bytes, p...)
	if len(t.bytes) > 4*keptHalf { // seldom: it moves the end
		t.bytes = append(t.bytes[:keptHalf], t.bytes[len(t.bytes)-keptHalf:]...)
	}
	return len(p), nil
}

// halves returns what is kept, and how many bytes are lost in between. The end is empty if none are.
func (t *Text) halves() (head, tail string, lost int64) {
	if lost = t.Total - 2*keptHalf; lost <= 0 {
		return string(t.bytes), "", 0
	}
	return string(t.bytes[:keptHalf]), string(t.bytes[len(t.bytes)-keptHalf:]), lost
}

// String returns what is kept, with how much is lost.
func (t *Text) String() string {
	head, tail, lost := t.halves()
	if lost == 0 {
		return head
	}
	return head + leftOut(lost) + tail
}

func leftOut(bytes int64) string { return fmt.Sprintf("\n[… %d bytes left out …]\n", bytes) }

// Cut returns the text as clean makes it: its first and last lines if that has more than limit characters.
func (t *Text) Cut(limit int, clean func(string) string) string {
	head, tail, lost := t.halves()
	head, tail = clean(head), clean(tail)
	if lost == 0 {
		if utf8.RuneCountInString(head) <= limit {
			return head
		}
		middle := len(head) / 2
		for middle > 0 && !utf8.RuneStart(head[middle]) {
			middle--
		}
		head, tail = head[:middle], head[middle:]
	}
	all, half := lost+int64(len(head)+len(tail)), max(0, limit-utf8.RuneCountInString(leftOut(t.Total)))/2
	head, tail = first(head, half), last(tail, half)
	// whole lines, unless that takes much away
	if end := strings.LastIndexByte(head, '\n'); end > len(head)/2 {
		head = head[:end+1]
	}
	if end := strings.IndexByte(tail, '\n'); end < len(tail)/2 {
		tail = tail[end+1:]
	}
	return strings.TrimSuffix(head, "\n") + leftOut(all-int64(len(head)+len(tail))) + tail
}

// Cut is Text's, for a text at hand.
func Cut(s string, limit int, clean func(string) string) string {
	return (&Text{[]byte(s), int64(len(s))}).Cut(limit, clean)
}

// first returns the first n characters of s, or all.
func first(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}

// last is first, from the end.
func last(s string, n int) string {
	i := len(s)
	for ; i > 0 && n > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	return s[i:]
}

// Plain returns s without the control characters of ASCII, except newline and tab.
func Plain(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' {
			return -1
		}
		return c
	}, s)
}

// Shown returns s as a terminal shows it in the end: without escape sequences and control characters, each line as it
// was last written.
func Shown(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		text, isWhole := strings.CutSuffix(line, "\n")
		if strings.ContainsFunc(text, unicode.IsControl) {
			text = shownLine(text)
		}
		b.WriteString(text)
		if isWhole {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func shownLine(line string) string {
	var cells []rune
	for at := 0; line != ""; {
		if n := sequence(line); n > 0 {
			switch line[:n] {
			case "\x1b[K", "\x1b[0K":
				cells = cells[:at]
			case "\x1b[2K":
				cells, at = cells[:0], 0
			case "\x1b[G", "\x1b[1G":
				at = 0
			}
			line = line[n:]
			continue
		}
		c, n := utf8.DecodeRuneInString(line)
		line = line[n:]
		switch {
		case c == '\r':
			at = 0
		case c == '\b':
			at = max(0, at-1)
		case unicode.IsControl(c) && c != '\t':
		case at < len(cells):
			cells[at], at = c, at+1
		default:
			cells, at = append(cells, c), at+1
		}
	}
	return string(cells)
}

// sequence returns the length of the escape sequence that s begins with, 0 if there is none: ECMA-48, 5.4 and 5.6, and ECMA-35, 13.
func sequence(s string) int {
	if len(s) < 2 || s[0] != '\x1b' {
		return 0
	}
	if strings.IndexByte("]PX^_", s[1]) >= 0 { // a string, up to BEL or ESC \, which go by themselves
		if end := strings.IndexAny(s[2:], "\a\x1b"); end >= 0 {
			return 2 + end
		}
		return len(s)
	}
	i, final := 1, byte('0')
	if s[1] == '[' {
		i, final = 2, '@'
	}
	for i < len(s) && s[i] >= ' ' && s[i] < final {
		i++
	}
	if i < len(s) && s[i] >= final && s[i] <= '~' {
		i++
	}
	return i
}

// Escape returns text as Slack wants what is no markup: https://docs.slack.dev/messaging/formatting-message-text/#escaping
func Escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// Code returns s as a block of code, which s cannot end.
func Code(s string) string { return "```\n" + strings.TrimSuffix(Harmless(s), "\n") + "\n```\n" }

// Harmless returns s as valid UTF-8 that Slack shows as it is: escaped, and with a U+2060 (which shows nothing) where it
// would ping everyone or end a code block.
func Harmless(s string) string {
	const joiner = "\u2060"
	var b strings.Builder
	for i, c := range s {
		rest := s[i+1:] // of an @ or a `
		b.WriteRune(c)
		if c == '@' && pings(rest) || c == '`' && strings.HasPrefix(rest, "`") {
			b.WriteString(joiner)
		}
	}
	return Escape(b.String())
}

// pings tells whether s, after an @, is one of Slack's names for everyone.
func pings(s string) bool {
	for _, name := range []string{"channel", "here", "everyone"} {
		if len(s) >= len(name) && strings.EqualFold(s[:len(name)], name) {
			return true
		}
	}
	return false
}
