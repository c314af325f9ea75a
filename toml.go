package main

// The parser of the configuration file: the subset of TOML 1.0 (https://toml.io/en/v1.0.0) that a configuration
// needs.
//
// Supported: comments, [headers], [[headers]], bare and quoted keys, strings on one line, decimal integers, booleans.
// Refused as "not supported", never misread: dotted keys, nested tables, multi-line strings, arrays, inline tables,
// floats, dates and times, other number bases. Everything that is invalid in TOML is refused as well, except names
// that are defined twice: the caller must check for these.
//
// An error never quotes a value: the value may be a secret that somebody forgot to put in quotes.

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tomlLine is one line: a header with its brackets, or a key and its value. The value is the content of a string, or
// an integer, true or false as the file has it.
type tomlLine struct {
	row                int // from 1
	header, key, value string
	quoted             bool // the value is a string
}

const (
	tomlString = `"(?:[^"\\]|\\[btnfr"\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*"|'[^']*'`
	tomlName   = `[ \t]*([A-Za-z0-9_-]+|` + tomlString + `)[ \t]*`
	tomlValue  = `[ \t]*([+-]?(?:0|[1-9](?:_?[0-9])*)|true|false)|[ \t]*(` + tomlString + `)`
)

var (
	// tomlForm matches a line. Groups 1 to 3 are the [ or [[, the name and the ] or ]] of a header. Group 4 is a key;
	// its value is group 5 if it has no quotes, and group 6 if it has. A group is "" if the line has no such part.
	tomlForm = regexp.MustCompile(`^(?:[ \t]*(\[\[?)` + tomlName + `(\]\]?)|` + tomlName + `=(?:` +
		tomlValue + `|.*))?[ \t]*(?:#.*)?$`)

	errTOMLValue = errors.New(`wants a value, and nothing behind it: a "string" or 'string' (in straight quotes, ` +
		`with no escapes but \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX), a decimal integer, true or false; ` +
		"arrays, inline tables, multi-line strings, floats, dates, times and other number bases are not supported")
)

// parseTOML returns the lines of src, without empty lines and comments. It stops at the first error and returns only
// that, as "ROW: …".
func parseTOML(src string) (lines []tomlLine, err error) {
	isControl := func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
	// Some editors put a byte order mark in front of UTF-8.
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
			case strings.HasPrefix(token, `"`): // Go has every escape that TOML has
				if groups[n], err = strconv.Unquote(token); err != nil {
					err = errTOMLValue // \u or \U, and a number that is not a character
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

// tomlQuote returns v in a form that parseTOML reads back; v is a string or points to a key's value. The form is
// JSON: its escapes are valid in TOML, and only U+007F has to be escaped in addition.
func tomlQuote(v any) string { return strings.ReplaceAll(string(encode(v)), "\x7f", `\u007F`) }
