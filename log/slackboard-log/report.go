package main

// What people are told about a command.

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"slackboard/cli"
)

const excerptLength = 3000 // characters of the command, and of its output, in a message

// printed is for standard error: all that was kept of the output, as it was.
func (r result) printed(o options) string {
	if o.tee {
		return r.report(o, "", strings.Clone)
	}
	text := r.output
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return r.report(o, "Output:\n"+text, strings.Clone)
}

// posted is for Slack: an excerpt of the output, in a code block that it cannot break out of.
func (r result) posted(o options) string {
	show := func(s string) string { return excerpt(s, int64(len(s)), excerptLength) }
	text := ""
	if r.output != "" {
		text = "```\n" + strings.TrimSuffix(excerpt(r.output, r.total, excerptLength), "\n") + "\n```\n"
	}
	return r.report(o, "Output:\n"+text, show)
}

// report returns the lines, in the original's order. show makes text from outside fit to be shown.
func (r result) report(o options, output string, show func(string) string) string {
	host, _ := os.Hostname()
	command := strings.Join(r.args, " ")
	if o.noArgs {
		command = r.args[0]
	}
	text := fmt.Sprintf("Host: %s\nCommand: %s\nStarted: %s\nTook: %v\n%sExit status: %d\n",
		show(host), show(command), r.started.Format("2006-01-02 15:04:05 MST"), r.took.Round(time.Millisecond), output, r.status)
	if r.err != nil {
		text += "Error: " + show(r.err.Error()) + "\n"
	}
	return text
}

func leftOut(bytes int64) string { return fmt.Sprintf("\n[… %d bytes left out …]\n", bytes) }

// excerpt returns s harmless and within limit characters: its first and last lines if it is longer. total counts the
// bytes that its middle lacks, too.
func excerpt(s string, total int64, limit int) string {
	if head := first(s, limit); len(head) == len(s) {
		return harmless(s)
	}
	half := (limit - utf8.RuneCountInString(leftOut(total))) / 2
	head, tail := first(s, half), last(s, half)
	// whole lines, unless that takes much away
	if end := strings.LastIndexByte(head, '\n'); end > len(head)/2 {
		head = head[:end+1]
	}
	if end := strings.IndexByte(tail, '\n'); end < len(tail)/2 {
		tail = tail[end+1:]
	}
	return strings.TrimSuffix(harmless(head), "\n") + leftOut(total-int64(len(head)+len(tail))) + harmless(tail)
}

// first returns as much of the beginning of s as harmless makes limit characters of.
func first(s string, limit int) string {
	for i, c := range s {
		if limit -= width(c); limit < 0 {
			return s[:i]
		}
	}
	return s
}

// last is first, from the end.
func last(s string, limit int) string {
	for i := len(s); i > 0; {
		c, n := utf8.DecodeLastRuneInString(s[:i])
		if limit -= width(c); limit < 0 {
			return s[i:]
		}
		i -= n
	}
	return s
}

// width is how many characters harmless makes of c at most.
func width(c rune) int {
	if c == '@' || c == '`' {
		return 2
	}
	return utf8.RuneCountInString(cli.Escape(string(c)))
}

// harmless returns s as valid UTF-8 that Slack shows as it is: escaped, and with a U+2060 (which shows nothing) where it
// would ping everyone or end a code block.
func harmless(s string) string {
	const joiner = "\u2060"
	var b strings.Builder
	for i, c := range s {
		rest := s[i+1:] // of an @ or a `
		b.WriteRune(c)
		if c == '@' && pings(rest) || c == '`' && strings.HasPrefix(rest, "`") {
			b.WriteString(joiner)
		}
	}
	return cli.Escape(b.String())
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
