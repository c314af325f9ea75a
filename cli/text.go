package cli

// A text that may be of any length and hold anything, on its way to people: kept in part, cleaned, cut, and shown as
// it is.

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
	head, tail := string(t.bytes), ""
	isWhole := t.Total <= 2*keptHalf
	if !isWhole {
		head, tail = head[:keptHalf], head[len(head)-keptHalf:]
	}
	head, tail = clean(head), clean(tail)
	if isWhole && utf8.RuneCountInString(head) <= limit {
		return head
	} else if isWhole {
		tail = head
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

// Cut is Text's, for a text at hand.
func Cut(s string, limit int, clean func(string) string) string {
	return (&Text{[]byte(s), int64(len(s))}).Cut(limit, clean)
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
	var line []rune
	for at := 0; s != ""; {
		n := sequence(s)
		c, _ := utf8.DecodeRuneInString(s)
		switch part := s[:n]; {
		case part == "\x1b[K" || part == "\x1b[0K":
			line = line[:at]
		case part == "\x1b[2K":
			line, at = line[:0], 0
		case part == "\r" || part == "\x1b[G" || part == "\x1b[1G":
			at = 0
		case part == "\b":
			at = max(0, at-1)
		case part == "\n":
			b.WriteString(string(line) + "\n")
			line, at = line[:0], 0
		case unicode.IsControl(c) && c != '\t':
		case at < len(line):
			line[at], at = c, at+1
		default:
			line, at = append(line, c), at+1
		}
		s = s[n:]
	}
	return b.String() + string(line)
}

// sequence returns the length of the escape sequence that s begins with, or of its first character: ECMA-48, 5.4 and
// 5.6, and ECMA-35, 13.2.
func sequence(s string) int {
	end, final := 1, byte('0')
	switch {
	case s[0] != '\x1b' || len(s) == 1:
		_, n := utf8.DecodeRuneInString(s)
		return n
	case strings.IndexByte("]PX^_", s[1]) >= 0: // a string, up to BEL or ESC \, which go by themselves
		return 2 + strings.IndexAny(s[2:]+"\n", "\n\a\x1b")
	case s[1] == '[':
		end, final = 2, '@'
	}
	for end < len(s) && s[end] >= ' ' && s[end] < final {
		end++
	}
	if end < len(s) && s[end] >= final && s[end] <= '~' {
		end++
	}
	return end
}

// Escape returns text as Slack wants what is no markup:
// https://docs.slack.dev/messaging/formatting-message-text/#escaping
func Escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// Code returns s as a block of code, which s cannot end.
func Code(s string) string { return "```\n" + strings.TrimSuffix(Harmless(s), "\n") + "\n```\n" }

// Harmless returns s as valid UTF-8 that Slack shows as it is: escaped, and with a U+2060 (which shows nothing) where
// it would ping everyone or end a code block.
func Harmless(s string) string {
	var b strings.Builder
	for i, c := range s {
		b.WriteRune(c)
		pings := func(name string) bool {
			return c == '@' && len(s)-i > len(name) && strings.EqualFold(s[i+1:i+1+len(name)], name)
		}
		if c == '`' && s[i+1:] != "" && s[i+1] == '`' || pings("channel") || pings("here") || pings("everyone") {
			b.WriteRune('\u2060')
		}
	}
	return Escape(b.String())
}
