package main

// The reader of the configuration's language: the lines of TOML 1.0 (https://toml.io/en/v1.0.0) that a configuration
// needs.
//
// Read: comments, [headers], [[headers]], bare and quoted keys, strings on one line, decimal integers, booleans.
// Refused as "not supported", never misread: dotted keys, nested tables, multi-line strings, arrays, inline tables,
// floats, dates and times, other number bases. What TOML calls invalid is refused, too; names that are defined twice
// are left to the caller.
//
// An error never quotes a value: it might be a secret that somebody forgot to put in quotes.

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tomlLine is a header with its brackets, or a key and its value: a string, an int64 or a bool.
type tomlLine struct {
	row         int // from 1
	header, key string
	value       any
}

// parseTOML returns what the lines of src say, without empty lines and comments. err, if any, is a tomlError: the first
// fault.
func parseTOML(src string) (lines []tomlLine, err error) {
	defer func() {
		p := recover()
		if fault, ok := p.(tomlError); ok {
			lines, err = nil, fault
		} else if p != nil {
			panic(p)
		}
	}()
	// A byte order mark is what some editors put in front of UTF-8.
	for i, text := range strings.Split(strings.TrimPrefix(src, "\ufeff"), "\n") {
		text = strings.TrimSuffix(text, "\r")
		r := tomlReader{row: i + 1, text: text, rest: text}
		if line := r.line(); line != (tomlLine{}) {
			line.row = r.row
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// tomlError is "ROW:COLUMN: …", both from 1. The column counts characters.
type tomlError string

func (e tomlError) Error() string { return string(e) }

// tomlReader reads one line after the other. Its methods report a fault by panicking with a tomlError, which parseTOML
// returns.
type tomlReader struct {
	row        int
	text, rest string // the line without its end, and what of it is still to be read
}

// fail reports a fault that begins where the rest of the line was at.
func (r *tomlReader) fail(at, format string, args ...any) {
	col := utf8.RuneCountInString(r.text[:len(r.text)-len(at)]) + 1
	panic(tomlError(fmt.Sprintf("%d:%d: %s", r.row, col, fmt.Sprintf(format, args...))))
}

// unexpected fails: something other than want comes next.
func (r *tomlReader) unexpected(want string) {
	c, size := utf8.DecodeRuneInString(r.rest)
	switch {
	case size == 0:
		r.fail(r.rest, "expected %s, found the end of the line", want)
	case strings.ContainsRune("“”„‟«»‘’‚‛", c):
		r.fail(r.rest, "%c is a typographic quote: use a straight one, \" or '", c)
	}
	r.fail(r.rest, "expected %s, found %q", want, c)
}

// next tells whether one of chars comes next.
func (r *tomlReader) next(chars string) bool {
	return r.rest != "" && strings.IndexByte(chars, r.rest[0]) >= 0
}

func (r *tomlReader) skip(token string) (found bool) {
	r.rest, found = strings.CutPrefix(r.rest, token)
	return found
}

// word reads as many of chars as there are.
func (r *tomlReader) word(chars string) string {
	rest := strings.TrimLeft(r.rest, chars)
	word := r.rest[:len(r.rest)-len(rest)]
	r.rest = rest
	return word
}

func (r *tomlReader) blanks() { r.word(" \t") }

func (r *tomlReader) atEnd() bool { return r.rest == "" || r.next("#") }

// line reads one line.
func (r *tomlReader) line() (line tomlLine) {
	r.checkCharacters()
	r.blanks()
	switch {
	case r.atEnd():
		return line
	case r.skip("[["):
		line.header = "[[" + r.key("]]") + "]]"
	case r.skip("["):
		line.header = "[" + r.key("]") + "]"
	default:
		line.key = r.key("=")
		r.blanks()
		line.value = r.value()
	}
	if r.blanks(); !r.atEnd() {
		r.unexpected("the end of the line")
	}
	return line
}

// checkCharacters fails on what TOML allows nowhere.
func (r *tomlReader) checkCharacters() {
	for at, c := range r.text {
		switch rest := r.text[at:]; {
		case c == utf8.RuneError && !strings.HasPrefix(rest, "\ufffd"):
			r.fail(rest, "not valid UTF-8")
		case c == '\r':
			r.fail(rest, "a carriage return without a line feed")
		case c < ' ' && c != '\t', c == 0x7f:
			r.fail(rest, "control character U+%04X", c)
		}
	}
}

const bareKey = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-0123456789"

// key reads a name, the blanks around it and the end that follows it.
func (r *tomlReader) key(end string) (key string) {
	r.blanks()
	if r.next(`"'`) {
		key = r.quoted()
	} else if key = r.word(bareKey); key == "" {
		r.unexpected("a name")
	}
	r.blanks()
	switch {
	case r.skip(end):
		return key
	case r.next("."):
		r.fail(r.rest, "dotted keys and nested tables are not supported: write the [section] on a line of its own")
	}
	r.unexpected(end + " after the name")
	return ""
}

// quoted reads a basic or a literal string. Go has all escapes of basic strings, and others, which are refused.
func (r *tomlReader) quoted() string {
	start, quote, end := r.rest, r.rest[:1], 1
	if strings.HasPrefix(start, quote+quote+quote) {
		r.fail(start, "multi-line strings are not supported")
	}
	for ; end < len(start) && start[end] != quote[0]; end++ {
		if start[end] == '\\' && quote == `"` {
			if end++; end == len(start) || strings.IndexByte(`btnfr"\uU`, start[end]) < 0 {
				r.fail(start[end-1:], `unknown escape: known are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX `+
					`(in a path, write \\ or use '…')`)
			}
		}
	}
	if end == len(start) {
		r.fail(start, "this string has no closing %s on its line", quote)
	}
	r.rest = start[end+1:]
	if quote == "'" {
		return start[1:end]
	}
	text, err := strconv.Unquote(start[:end+1])
	if err != nil {
		r.fail(start, `\u wants the 4 and \U the 8 hexadecimal digits of a Unicode character`)
	}
	return text
}

func (r *tomlReader) value() any {
	switch {
	case r.next(`"'`):
		return r.quoted()
	case r.next("["):
		r.fail(r.rest, "arrays are not supported")
	case r.next("{"):
		r.fail(r.rest, "inline tables are not supported")
	}
	start := r.rest
	word := r.word(bareKey + "+.:")
	unsigned := strings.TrimLeft(word, "+-")
	n, err := strconv.ParseInt(word, 0, 64) // 0: with underscores, and with other bases and leading zeros, to be refused
	switch {
	case word == "":
		r.unexpected(`a value: a "string", an integer, true or false`)
	case word == "true" || word == "false":
		return word == "true"
	case err != nil || unsigned[0] == '0' && unsigned != "0":
		r.fail(start, "not a decimal integer of 64 bits, true or false: text needs quotes, "+
			"and floats, dates, times and other number bases are not supported")
	}
	return n
}

// tomlQuote returns s as a basic string that parseTOML reads back: as JSON, which has the same escapes.
func tomlQuote(s string) string { return strings.ReplaceAll(string(encode(s)), "\x7f", `\u007F`) }
