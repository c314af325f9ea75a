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
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseTOML reads src. The values in doc are string, int64, bool, map[string]any for a table and []map[string]any
// for an array of tables. line maps the path of every key and table ("core.port", "tags.0.channel", "tags.0") to its
// line. err, if any, is a tomlError: the first fault, with its line and column.
func parseTOML(src []byte) (doc map[string]any, line map[string]int, err error) {
	root := newTOMLTable("")
	// A byte order mark is what some editors put in front of UTF-8.
	r := &tomlReader{src: strings.TrimPrefix(string(src), "\ufeff"), row: 1, root: root, table: root, line: map[string]int{}}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case tomlError:
			doc, line, err = nil, nil, p
		default:
			panic(p)
		}
	}()
	for r.pos < len(r.src) {
		r.expression()
	}
	return root.values, r.line, nil
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

// tomlReader goes through src once. Its methods report a fault by panicking with a tomlError, which parseTOML returns.
type tomlReader struct {
	src      string
	pos, bol int // the next byte, and the first one of its line
	row      int
	root     *tomlTable
	table    *tomlTable // the one that keys go into
	line     map[string]int
}

func (r *tomlReader) fail(at int, format string, args ...any) {
	panic(tomlError{r.row, utf8.RuneCountInString(r.src[r.bol:at]) + 1, fmt.Sprintf(format, args...)})
}

// peek returns the next character, 0 at the end. It fails on what TOML allows nowhere but as part of a line's end.
func (r *tomlReader) peek() rune {
	c, size := utf8.DecodeRuneInString(r.src[r.pos:])
	switch {
	case size == 0:
		return 0
	case c == utf8.RuneError && size == 1:
		r.fail(r.pos, "not valid UTF-8")
	case c == '\r' && !strings.HasPrefix(r.src[r.pos:], "\r\n"):
		r.fail(r.pos, "a carriage return without a line feed")
	case c < ' ' && c != '\t' && c != '\n' && c != '\r', c == 0x7f:
		r.fail(r.pos, "control character U+%04X", c)
	}
	return c
}

func (r *tomlReader) skip(token string) bool {
	if !strings.HasPrefix(r.src[r.pos:], token) {
		return false
	}
	r.pos += len(token)
	return true
}

func (r *tomlReader) blanks() {
	for r.skip(" ") || r.skip("\t") {
	}
}

// unexpected fails: something other than want stands here.
func (r *tomlReader) unexpected(want string) {
	switch c := r.peek(); c {
	case 0:
		r.fail(r.pos, "expected %s, found the end of the file", want)
	case '\n', '\r':
		r.fail(r.pos, "expected %s, found the end of the line", want)
	case '“', '”', '„', '‟', '«', '»':
		r.fail(r.pos, "%c is a typographic quote: use the straight one, \"", c)
	case '‘', '’', '‚', '‛':
		r.fail(r.pos, "%c is a typographic quote: use the straight one, '", c)
	default:
		r.fail(r.pos, "expected %s, found %q", want, c)
	}
}

// expression reads one line: a header, a key and its value, or nothing, and a comment.
func (r *tomlReader) expression() {
	r.blanks()
	end := "a key, a [table] or a comment"
	switch c := r.peek(); {
	case r.skip("[["):
		r.arrayHeader()
		end = "the end of the line after ]]"
	case r.skip("["):
		r.header()
		end = "the end of the line after ]"
	case c != 0 && c != '#' && c != '\n' && c != '\r':
		r.keyValue()
		end = "the end of the line after the value"
	}
	r.blanks()
	if r.skip("#") {
		for c := r.peek(); c != 0 && c != '\n' && c != '\r'; c = r.peek() {
			r.pos += utf8.RuneLen(c)
		}
	}
	if r.peek() != 0 && !r.skip("\r\n") && !r.skip("\n") {
		r.unexpected(end)
	}
	r.row, r.bol = r.row+1, r.pos
}

// headerTable reads the keys of a header and walks to the table that holds the last of them, making on the way the
// tables that are not there yet.
func (r *tomlReader) headerTable(bracket string) (t *tomlTable, last string, at int) {
	r.blanks()
	at = r.pos
	keys := r.keys()
	if !r.skip(bracket) {
		r.unexpected(bracket)
	}
	t = r.root
	for _, key := range keys[:len(keys)-1] {
		next := t.tables[key]
		if next == nil {
			next = r.add(t, key, at)
		}
		t = next
	}
	return t, keys[len(keys)-1], at
}

func (r *tomlReader) header() {
	in, key, at := r.headerTable("]")
	t := in.tables[key]
	switch {
	case t == nil:
		t = r.add(in, key, at)
	case t.array:
		r.fail(at, "[[%s]] on line %d is an array of tables: write it with two brackets", in.child(key), r.line[t.path])
	case t.header, t.dotted:
		r.fail(at, "table [%s] is already defined on line %d", t.path, r.line[t.path])
	}
	t.header = true
	r.table, r.line[t.path] = t, r.row
}

func (r *tomlReader) arrayHeader() {
	in, key, at := r.headerTable("]]")
	elements, _ := in.values[key].([]map[string]any)
	if in.values[key] != nil && elements == nil {
		r.fail(at, "%s is already defined on line %d, and not as an array of tables", in.child(key), r.line[in.child(key)])
	}
	t := newTOMLTable(fmt.Sprintf("%s.%d", in.child(key), len(elements)))
	t.header, t.array = true, true
	in.values[key], in.tables[key] = append(elements, t.values), t
	if len(elements) == 0 {
		r.line[in.child(key)] = r.row
	}
	r.table, r.line[t.path] = t, r.row
}

// add makes an empty table under key in t.
func (r *tomlReader) add(t *tomlTable, key string, at int) *tomlTable {
	path := t.child(key)
	if _, ok := t.values[key]; ok {
		r.fail(at, "%s is already a value, on line %d", path, r.line[path])
	}
	next := newTOMLTable(path)
	t.values[key], t.tables[key], r.line[path] = next.values, next, r.row
	return next
}

func (r *tomlReader) keyValue() {
	at := r.pos
	keys := r.keys()
	if !r.skip("=") {
		r.unexpected("= after the key")
	}
	t := r.table
	for _, key := range keys[:len(keys)-1] {
		next := t.tables[key]
		switch {
		case next == nil:
			next = r.add(t, key, at)
		case next.header:
			r.fail(at, "%s is already defined on line %d: dotted keys cannot add to it", next.path, r.line[next.path])
		}
		next.dotted = true
		t = next
	}
	last := keys[len(keys)-1]
	path := t.child(last)
	if _, ok := t.values[last]; ok {
		r.fail(at, "%s is already defined on line %d", path, r.line[path])
	}
	r.blanks()
	t.values[last] = r.value()
	r.line[path] = r.row
}

// keys reads a key and its dots, and the blanks around it.
func (r *tomlReader) keys() (keys []string) {
	for {
		r.blanks()
		keys = append(keys, r.key())
		r.blanks()
		if !r.skip(".") {
			return keys
		}
	}
}

func (r *tomlReader) key() string {
	if c := r.peek(); c == '"' || c == '\'' {
		return r.quoted()
	}
	start := r.pos
	for r.pos < len(r.src) && isBareKey(r.src[r.pos]) {
		r.pos++
	}
	if r.pos == start {
		r.unexpected("a key")
	}
	return r.src[start:r.pos]
}

func isBareKey(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_' || c == '-'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// quoted reads a basic or a literal string.
func (r *tomlReader) quoted() string {
	start, quote := r.pos, r.src[r.pos:r.pos+1]
	if r.skip(quote + quote + quote) {
		r.fail(start, "multi-line strings are not supported")
	}
	r.skip(quote)
	var b strings.Builder
	for !r.skip(quote) {
		switch c := r.peek(); {
		case c == 0 || c == '\n' || c == '\r':
			r.fail(start, "this string has no closing %s on its line", quote)
		case c == '\\' && quote == `"`:
			b.WriteRune(r.escape())
		default:
			b.WriteRune(c)
			r.pos += utf8.RuneLen(c)
		}
	}
	return b.String()
}

// escape reads one escape sequence of a basic string (TOML 1.0, section String).
func (r *tomlReader) escape() rune {
	start := r.pos
	r.pos++ // the backslash
	c := r.peek()
	if i := strings.IndexRune(`btnfr"\`, c); i >= 0 {
		r.pos++
		return rune("\b\t\n\f\r\"\\"[i])
	}
	digits := map[rune]int{'u': 4, 'U': 8}[c]
	if digits == 0 {
		r.fail(start, `unknown escape: known are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX (in a path, write \\ or use '…')`)
	}
	hex := r.src[r.pos+1 : min(r.pos+1+digits, len(r.src))]
	code, err := strconv.ParseUint(hex, 16, 32)
	if err != nil || len(hex) < digits || !utf8.ValidRune(rune(code)) {
		r.fail(start, `\%c wants the %d hexadecimal digits of a Unicode character`, c, digits)
	}
	r.pos += 1 + digits
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
	for r.pos < len(r.src) && (isBareKey(r.src[r.pos]) || strings.IndexByte("+.:", r.src[r.pos]) >= 0) {
		r.pos++
	}
	word := r.src[start:r.pos]
	unsigned := strings.TrimPrefix(strings.TrimPrefix(word, "+"), "-")
	switch {
	case word == "":
		r.unexpected(want)
	case word == "true" || word == "false":
		return word == "true"
	case isInteger(unsigned) && len(word)-len(unsigned) <= 1:
		n, err := strconv.ParseInt(strings.ReplaceAll(word, "_", ""), 10, 64)
		if err != nil {
			r.fail(start, "this integer does not fit in 64 bits")
		}
		return n
	case unsigned == "inf" || unsigned == "nan":
		r.fail(start, "floats are not supported")
	case unsigned == "" || !isDigit(unsigned[0]):
		r.fail(start, "expected %s: text needs quotes", want)
	case len(unsigned) > 1 && unsigned[0] == '0' && strings.IndexByte("xob", unsigned[1]) >= 0:
		r.fail(start, "number bases other than decimal are not supported")
	case strings.ContainsAny(unsigned, ":-") && !strings.ContainsAny(unsigned, "eE"):
		r.fail(start, "dates and times are not supported, and text needs quotes")
	case strings.ContainsAny(unsigned, ".eE"):
		r.fail(start, "floats are not supported, and text needs quotes")
	}
	r.fail(start, "not an integer (digits, no leading zeros, single underscores between them), and text needs quotes")
	return nil
}

// isInteger says whether s is a decimal integer of TOML 1.0 without its sign.
func isInteger(s string) bool {
	for i := range len(s) {
		between := i > 0 && i < len(s)-1 && s[i-1] != '_'
		if !isDigit(s[i]) && !(s[i] == '_' && between) {
			return false
		}
	}
	return s != "" && (s[0] != '0' || s == "0")
}

// tomlQuote returns s as a basic string that parseTOML reads back.
func tomlQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteRune('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
