package main

// The reader of the configuration's language: the subset of TOML 1.0 (https://toml.io/en/v1.0.0) that a
// configuration needs.
//
// Read: comments, tables, arrays of tables, bare, quoted and dotted keys, single-line basic and literal strings,
// decimal integers, booleans. Refused as "not supported", never misread: multi-line strings, arrays, inline tables,
// floats, dates and times, other number bases. What TOML calls invalid is refused.
//
// An error never quotes a value: it might be a secret that somebody forgot to put in quotes.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseTOML reads src. The values in doc are string, int64, bool, map[string]any for a table and []map[string]any
// for an array of tables. lines maps the path of every key and table ("core.port", "tags.0.channel", "tags.0") to its
// line. err, if any, is a tomlError: the first fault, with its line and column.
func parseTOML(src []byte) (doc map[string]any, lines map[string]int, err error) {
	root := newTOMLTable("")
	r := &tomlReader{root: root, table: root, lines: map[string]int{}}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case tomlError:
			doc, lines, err = nil, nil, p
		default:
			panic(p)
		}
	}()
	// A byte order mark is what some editors put in front of UTF-8.
	for line := range strings.Lines(strings.TrimPrefix(string(src), "\ufeff")) {
		r.read(line)
	}
	return root.values, r.lines, nil
}

type tomlError struct {
	line, col int // from 1; col counts characters
	msg       string
}

func (e tomlError) Error() string { return fmt.Sprintf("%d:%d: %s", e.line, e.col, e.msg) }

// tomlTable is a table while it is read: what the caller gets, and what may still be added to it.
type tomlTable struct {
	path   string
	values map[string]any
	tables map[string]*tomlTable // an array of tables stands here with its last element
	header bool                  // was opened by a [header] or a [[header]]
	array  bool                  // is an element of an array of tables
	dotted bool                  // was made by a dotted key
}

func newTOMLTable(path string) *tomlTable {
	return &tomlTable{path: path, values: map[string]any{}, tables: map[string]*tomlTable{}}
}

func (t *tomlTable) child(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

// tomlReader reads line after line: nothing in the subset goes beyond one. Its methods report a fault by panicking with
// a tomlError, which parseTOML returns.
type tomlReader struct {
	text  string // the line, without its end
	pos   int    // the next byte in it
	row   int    // the line's number
	at    int    // where its key begins
	root  *tomlTable
	table *tomlTable // the one that keys go into
	lines map[string]int
}

func (r *tomlReader) fail(at int, format string, args ...any) {
	panic(tomlError{r.row, utf8.RuneCountInString(r.text[:at]) + 1, fmt.Sprintf(format, args...)})
}

// peek returns the next byte, 0 at the end of the line.
func (r *tomlReader) peek() byte {
	if r.pos == len(r.text) {
		return 0
	}
	return r.text[r.pos]
}

func (r *tomlReader) skip(token string) bool {
	if !strings.HasPrefix(r.text[r.pos:], token) {
		return false
	}
	r.pos += len(token)
	return true
}

// word reads what is made of chars.
func (r *tomlReader) word(chars string) string {
	rest := r.text[r.pos:]
	word := rest[:len(rest)-len(strings.TrimLeft(rest, chars))]
	r.pos += len(word)
	return word
}

func (r *tomlReader) blanks() { r.word(" \t") }

// unexpected fails: something other than want stands here.
func (r *tomlReader) unexpected(want string) {
	c, size := utf8.DecodeRuneInString(r.text[r.pos:])
	switch {
	case size == 0:
		r.fail(r.pos, "expected %s, found the end of the line", want)
	case strings.ContainsRune("“”„‟«»", c):
		r.fail(r.pos, "%c is a typographic quote: use the straight one, \"", c)
	case strings.ContainsRune("‘’‚‛", c):
		r.fail(r.pos, "%c is a typographic quote: use the straight one, '", c)
	}
	r.fail(r.pos, "expected %s, found %q", want, c)
}

// read reads one line: a header, a key and its value, or nothing, and a comment.
func (r *tomlReader) read(line string) {
	text, found := strings.CutSuffix(line, "\r\n")
	if !found {
		text = strings.TrimSuffix(line, "\n")
	}
	r.text, r.pos, r.row = text, 0, r.row+1
	r.checkCharacters()
	r.blanks()
	after := ""
	switch c := r.peek(); {
	case c == 0 || c == '#':
		return
	case r.skip("[["):
		r.arrayHeader()
		after = "]]"
	case r.skip("["):
		r.header()
		after = "]"
	default:
		r.keyValue()
		after = "the value"
	}
	r.blanks()
	if c := r.peek(); c != 0 && c != '#' {
		r.unexpected("the end of the line after " + after)
	}
}

// checkCharacters fails on what TOML allows nowhere.
func (r *tomlReader) checkCharacters() {
	for at, c := range r.text {
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(r.text[at:], "\ufffd"):
			r.fail(at, "not valid UTF-8")
		case c == '\r':
			r.fail(at, "a carriage return without a line feed")
		case c < ' ' && c != '\t', c == 0x7f:
			r.fail(at, "control character U+%04X", c)
		}
	}
}

func (r *tomlReader) header() {
	in, key := r.headerTable("]")
	t := in.tables[key]
	switch {
	case t == nil:
		t = r.add(in, key)
	case t.array:
		r.fail(r.at, "[[%s]] on line %d is an array of tables: write it with two brackets", in.child(key), r.lines[t.path])
	case t.header, t.dotted:
		r.fail(r.at, "table [%s] is already defined on line %d", t.path, r.lines[t.path])
	}
	t.header = true
	r.table, r.lines[t.path] = t, r.row
}

func (r *tomlReader) arrayHeader() {
	in, key := r.headerTable("]]")
	elements, _ := in.values[key].([]map[string]any)
	if in.values[key] != nil && elements == nil {
		r.fail(r.at, "%s is already defined on line %d, and not as an array of tables", in.child(key), r.lines[in.child(key)])
	}
	t := newTOMLTable(fmt.Sprintf("%s.%d", in.child(key), len(elements)))
	t.header, t.array = true, true
	in.values[key], in.tables[key] = append(elements, t.values), t
	if len(elements) == 0 {
		r.lines[in.child(key)] = r.row
	}
	r.table, r.lines[t.path] = t, r.row
}

func (r *tomlReader) headerTable(bracket string) (in *tomlTable, last string) {
	keys := r.keys()
	if !r.skip(bracket) {
		r.unexpected(bracket)
	}
	return r.walk(r.root, keys, false)
}

func (r *tomlReader) keyValue() {
	keys := r.keys()
	if !r.skip("=") {
		r.unexpected("= after the key")
	}
	in, last := r.walk(r.table, keys, true)
	path := in.child(last)
	if _, ok := in.values[last]; ok {
		r.fail(r.at, "%s is already defined on line %d", path, r.lines[path])
	}
	r.blanks()
	in.values[last] = r.value()
	r.lines[path] = r.row
}

// walk goes from t to the table that holds the last of keys, and makes those on the way that are not there yet.
func (r *tomlReader) walk(t *tomlTable, keys []string, dotted bool) (in *tomlTable, last string) {
	for _, key := range keys[:len(keys)-1] {
		next := t.tables[key]
		switch {
		case next == nil:
			next = r.add(t, key)
		case next.header && dotted:
			r.fail(r.at, "%s is already defined on line %d: dotted keys cannot add to it", next.path, r.lines[next.path])
		}
		next.dotted = next.dotted || dotted
		t = next
	}
	return t, keys[len(keys)-1]
}

// add makes an empty table under key in t.
func (r *tomlReader) add(t *tomlTable, key string) *tomlTable {
	path := t.child(key)
	if _, ok := t.values[key]; ok {
		r.fail(r.at, "%s is already a value, on line %d", path, r.lines[path])
	}
	next := newTOMLTable(path)
	t.values[key], t.tables[key], r.lines[path] = next.values, next, r.row
	return next
}

// keys reads a key and its dots, and the blanks around it.
func (r *tomlReader) keys() (keys []string) {
	r.blanks()
	r.at = r.pos
	for {
		keys = append(keys, r.key())
		r.blanks()
		if !r.skip(".") {
			return keys
		}
		r.blanks()
	}
}

const (
	digits  = "0123456789"
	bareKey = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-" + digits
)

func (r *tomlReader) key() string {
	if c := r.peek(); c == '"' || c == '\'' {
		return r.quoted()
	}
	key := r.word(bareKey)
	if key == "" {
		r.unexpected("a key")
	}
	return key
}

// quoted reads a basic or a literal string.
func (r *tomlReader) quoted() string {
	start, quote := r.pos, r.text[r.pos:r.pos+1]
	if r.skip(quote + quote + quote) {
		r.fail(start, "multi-line strings are not supported")
	}
	r.skip(quote)
	var b strings.Builder
	for !r.skip(quote) {
		switch c := r.peek(); {
		case c == 0:
			r.fail(start, "this string has no closing %s on its line", quote)
		case c == '\\' && quote == `"`:
			b.WriteRune(r.escape())
		default:
			b.WriteByte(c)
			r.pos++
		}
	}
	return b.String()
}

// escape reads one escape sequence of a basic string (TOML 1.0, section String).
func (r *tomlReader) escape() rune {
	start := r.pos
	r.pos++ // the backslash
	c := r.peek()
	r.pos++
	if i := strings.IndexByte(`btnfr"\`, c); i >= 0 {
		return rune("\b\t\n\f\r\"\\"[i])
	}
	size := map[byte]int{'u': 4, 'U': 8}[c]
	if size == 0 {
		r.fail(start, `unknown escape: known are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX (in a path, write \\ or use '…')`)
	}
	hex := r.text[r.pos:min(r.pos+size, len(r.text))]
	code, err := strconv.ParseUint(hex, 16, 32)
	if err != nil || len(hex) < size || !utf8.ValidRune(rune(code)) {
		r.fail(start, `\%c wants the %d hexadecimal digits of a Unicode character`, c, size)
	}
	r.pos += size
	return rune(code)
}

func (r *tomlReader) value() any {
	const want = `a value: a "string", an integer, true or false`
	switch r.peek() {
	case '"', '\'':
		return r.quoted()
	case '[':
		r.fail(r.pos, "arrays are not supported")
	case '{':
		r.fail(r.pos, "inline tables are not supported")
	}
	start := r.pos
	word := r.word(bareKey + "+.:")
	unsigned := strings.TrimPrefix(strings.TrimPrefix(word, "+"), "-")
	n, err := strconv.ParseInt(word, 0, 64) // 0: with underscores, and with leading zeros, which TOML has not
	switch {
	case word == "":
		r.unexpected(want)
	case word == "true" || word == "false":
		return word == "true"
	case err == nil && (unsigned[0] != '0' || unsigned == "0"):
		return n
	case unsigned == "inf" || unsigned == "nan":
		r.fail(start, "floats are not supported")
	case unsigned == "" || !strings.Contains(digits, unsigned[:1]):
		r.fail(start, "expected %s: text needs quotes", want)
	case len(unsigned) > 1 && unsigned[0] == '0' && strings.IndexByte("xob", unsigned[1]) >= 0:
		r.fail(start, "number bases other than decimal are not supported")
	case strings.ContainsAny(unsigned, ":-") && !strings.ContainsAny(unsigned, "eE"):
		r.fail(start, "dates and times are not supported, and text needs quotes")
	case strings.ContainsAny(unsigned, ".eE"):
		r.fail(start, "floats are not supported, and text needs quotes")
	case errors.Is(err, strconv.ErrRange) && unsigned[0] != '0':
		r.fail(start, "this integer does not fit in 64 bits, and text needs quotes")
	}
	r.fail(start, "not an integer (digits, no leading zeros, single underscores between them), and text needs quotes")
	return nil
}

// tomlQuote returns s as a basic string that parseTOML reads back.
func tomlQuote(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			fmt.Fprintf(&b, `\u%04X`, c)
			continue
		}
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return `"` + b.String() + `"`
}
