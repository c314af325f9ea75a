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

// tomlLine is a header with its brackets, or a key and its value: a text, or the digits of an integer, true or false.
type tomlLine struct {
	row                int // from 1
	header, key, value string
	quoted             bool // the value is a text
}

const (
	tomlString = `"(?:[^"\\]|\\[btnfr"\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*"|'[^']*'`
	tomlName   = `[ \t]*([A-Za-z0-9_-]+|` + tomlString + `)[ \t]*`
	tomlValue  = `[ \t]*([+-]?(?:0|[1-9](?:_?[0-9])*)|true|false)|[ \t]*(` + tomlString + `)`
)

var (
	// tomlForm matches a line. Its groups are a header's [, name and ], then a key, its value that has no quotes, and
	// the one that has: "" for what is none.
	tomlForm = regexp.MustCompile(`^(?:[ \t]*(\[\[?)` + tomlName + `(\]\]?)|` + tomlName + `=(?:` +
		tomlValue + `|.*))?[ \t]*(?:#.*)?$`)

	errTOMLValue = errors.New(`wants a value, and nothing behind it: a "string" or 'string' (in straight quotes, ` +
		`with no escapes but \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX), a decimal integer, true or false; ` +
		"arrays, inline tables, multi-line strings, floats, dates, times and other number bases are not supported")
)

// parseTOML returns what the lines of src say, without empty lines and comments. err, if any, is the first fault, as
// "ROW: …".
func parseTOML(src string) (lines []tomlLine, err error) {
	isControl := func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
	// A byte order mark is what some editors put in front of UTF-8.
	for i, text := range strings.Split(strings.TrimPrefix(src, "\ufeff"), "\n") {
		text = strings.TrimSuffix(text, "\r")
		groups := tomlForm.FindStringSubmatch(text)
		switch {
		case !utf8.ValidString(text) || strings.ContainsFunc(text, isControl):
			err = errors.New("a control character, or not UTF-8")
		case groups == nil || len(groups[1]) != len(groups[3]):
			err = errors.New("wants [NAME], [[NAME]] or NAME = VALUE, and nothing behind it: " +
				"dotted keys, nested tables and multi-line strings are not supported")
		case groups[1]+groups[4] == "":
			continue
		case groups[1]+groups[5]+groups[6] == "":
			err = errTOMLValue
		}
		for n := 1; n < len(groups) && err == nil; n++ {
			switch token := groups[n]; {
			case strings.HasPrefix(token, "'"):
				groups[n] = strings.Trim(token, "'")
			case strings.HasPrefix(token, `"`): // Go has all escapes of TOML
				if groups[n], err = strconv.Unquote(token); err != nil {
					err = errTOMLValue // \u or \U with what is no character
				}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%d: %w", i+1, err)
		}
		line := tomlLine{i + 1, strings.Join(groups[1:4], ""), groups[4], groups[5] + groups[6], groups[5] == ""}
		lines = append(lines, line)
	}
	return lines, nil
}

// tomlQuote returns v, a string or a pointer to a key's value, as parseTOML reads it back: as JSON, which has the same
// escapes.
func tomlQuote(v any) string { return strings.ReplaceAll(string(encode(v)), "\x7f", `\u007F`) }
