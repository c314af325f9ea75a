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
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tomlLine is a header with its brackets, or a key and its value. An integer or a boolean is the text of it: a key that
// wants a number takes one in quotes, too.
type tomlLine struct {
	row                int // from 1
	header, key, value string
}

const (
	tomlString = `"(?:[^"\\]|\\[btnfr"\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*"|'[^']*'`
	tomlName   = `([A-Za-z0-9_-]+|` + tomlString + `)[ \t]*`
	tomlEnd    = `[ \t]*(?:#.*)?$`
)

var (
	tomlHeader = regexp.MustCompile(`^(\[\[?)[ \t]*` + tomlName + `(\]\]?)` + tomlEnd)
	tomlKey    = regexp.MustCompile(`^` + tomlName + `=[ \t]*`)
	tomlValue  = regexp.MustCompile(`^([+-]?(?:0|[1-9](?:_?[0-9])*)|true|false|` + tomlString + `)` + tomlEnd)
)

var (
	errTOMLCharacter = errors.New("a control character, or not UTF-8")
	errTOMLName      = errors.New("wants [NAME], [[NAME]] or NAME = VALUE, and nothing behind it: " +
		"dotted keys, nested tables and multi-line strings are not supported")
	errTOMLValue = errors.New(`wants a value, and nothing behind it: a "string" or 'string' (in straight quotes, ` +
		`with no escapes but \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX), a decimal integer, true or false; ` +
		"arrays, inline tables, multi-line strings, floats, dates, times and other number bases are not supported")
)

// parseTOML returns what the lines of src say, without empty lines and comments. err, if any, is the first fault, as
// "ROW: …".
func parseTOML(src string) (lines []tomlLine, err error) {
	// A byte order mark is what some editors put in front of UTF-8.
	for i, text := range strings.Split(strings.TrimPrefix(src, "\ufeff"), "\n") {
		text = strings.Trim(strings.TrimSuffix(text, "\r"), " \t")
		line, err := parseTOMLLine(text)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", i+1, err)
		}
		if text != "" && text[0] != '#' {
			line.row = i + 1
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func parseTOMLLine(text string) (line tomlLine, err error) {
	header, key := tomlHeader.FindStringSubmatch(text), tomlKey.FindStringSubmatch(text)
	isControl := func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
	switch {
	case !utf8.ValidString(text) || strings.ContainsFunc(text, isControl):
		return line, errTOMLCharacter
	case text == "" || text[0] == '#':
		return line, nil
	case header != nil && len(header[1]) == len(header[3]):
		name, err := tomlUnquote(header[2])
		return tomlLine{header: header[1] + name + header[3]}, err
	case key == nil:
		return line, errTOMLName
	}
	value := tomlValue.FindStringSubmatch(text[len(key[0]):])
	if value == nil {
		return line, errTOMLValue
	}
	if line.key, err = tomlUnquote(key[1]); err == nil {
		line.value, err = tomlUnquote(value[1])
	}
	return line, err
}

// tomlUnquote returns what token, a name or a value, says. Go has all escapes of TOML.
func tomlUnquote(token string) (string, error) {
	switch token[0] {
	case '\'':
		return strings.Trim(token, "'"), nil
	case '"':
		text, err := strconv.Unquote(token)
		if err != nil {
			err = errTOMLValue // \u or \U with what is no character
		}
		return text, err
	}
	return token, nil
}

// tomlQuote returns s as a basic string that parseTOML reads back: as JSON, which has the same escapes.
func tomlQuote(s string) string { return strings.ReplaceAll(string(encode(s)), "\x7f", `\u007F`) }
