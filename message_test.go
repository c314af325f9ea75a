package main

import (
	"strings"
	"testing"
)

// cleaned removes control characters, turns white space into blanks, and cuts to a number of characters.
func TestCleaned(t *testing.T) {
	for given, want := range map[string]string{
		"": "", "web-01": "web-01", "a\r\nb\tc": "a  b c", "a\x00\x1b\x7f\u009fb": "ab",
		"a\u0085b\u2028c\u2029d": "a b c d",
		"ééééééé":                "ééééééé", "éééééééé": "ééééééé",
		"\x00ééééééé": "ééééééé",
		"日本語日本語日本":    "日本語日本語日",
	} {
		if got := cleaned(given, 7); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}

// A route that is written to the spool is read back as it was. Its written form has no blank and no newline.
func TestRoutes(t *testing.T) {
	for _, r := range []route{{tag: "a"}, {tag: "a/b c\n%", index: 7}, {channel: "#x y"}, {channel: ""},
		{channel: "tag:a/0"}, {tag: "ä“"}} {
		s := r.String()
		if got := parseRoute(s); got != r || strings.ContainsAny(s, " \n") {
			t.Errorf("%+v is %q, read as %+v", r, s, got)
		}
	}
}
