package cli

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// However a text is written, its first and last bytes are kept, and the bytes that are left out are counted.
func TestText(t *testing.T) {
	all := make([]byte, 7*keptHalf)
	for i := range all {
		all[i] = byte('a' + i%23 + i/keptHalf)
	}
	for _, size := range []int{0, 1, keptHalf - 1, keptHalf, keptHalf + 1, 2*keptHalf - 1, 2 * keptHalf, 2*keptHalf + 1,
		3 * keptHalf, 4*keptHalf + 1, 7 * keptHalf} {
		for _, step := range []int{1000, 64 << 10, 7 * keptHalf} {
			var kept Text
			for rest := all[:size]; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				kept.Write(rest[:min(step, len(rest))])
			}
			want := string(all[:size])
			if size > 2*keptHalf {
				want = string(all[:keptHalf]) + fmt.Sprintf("\n[… %d bytes left out …]\n", size-2*keptHalf) +
					string(all[size-keptHalf:size])
			}
			if got := kept.Cut(math.MaxInt, strings.Clone); got != want || kept.Total != int64(size) {
				t.Errorf("%d bytes in steps of %d: %d kept of %d", size, step, len(got), kept.Total)
			}
		}
	}
}

// Shown returns what a terminal would finally show.
func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n\nmore":                                        "plain\ttext\n\nmore",
		"\x1b[1;31mred\x1b[0m and \x1b[38;5;9mmore\x1b[m":            "red and more",
		"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b": "alinkb",
		"\x1b(Bcharset\x1b)0\x1b%G":                                  "charset",
		"\x1b7save\x1b8\x1bM\x1b=":                                   "save",
		"\x1b[?25lhidden\x1b[?25h":                                   "hidden",
		"\x1bPq#0\x1b\\sixel":                                        "sixel",
		"10%\r50%\r100%\ndone\n":                                     "100%\ndone\n",
		"dos\r\nlines\r\n":                                           "dos\nlines\n",
		"a long line\rshort\n":                                       "shortg line\n",
		"a long line\r\x1b[Kshort\n":                                 "short\n",
		"a long line\x1b[2K\rshort":                                  "short",
		"a long line\x1b[2K\x1b[1Gs":                                 "s",
		"N\bNA\bA":                                                   "NA",
		"\b\bx":                                                      "x",
		"bell\a nul\x00 del\x7f\v\f":                                 "bell nul del",
		"c1\u0085\u009b":                                             "c1",
		"cut \x1b[":                                                  "cut ",
		"cut \x1b[31":                                                "cut ",
		"cut \x1b":                                                   "cut ",
		"cut \x1b]0;title\nnext":                                     "cut \nnext",
		"\x1b[31\x1b[32mx":                                           "x",
		"\x1b[日本":                                                    "日本",
		"\xff\xfe\r\xfd":                                             "\ufffd\ufffd",
	} {
		if got := Shown(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

// Cut keeps the beginning and the end, and says how many bytes are left out. Escape sequences do not count as
// characters, and the limit cuts none in two.
func TestCut(t *testing.T) {
	lines := strings.Repeat("line\n", 1000)
	var large Text
	large.Write([]byte(strings.Repeat("\x1b[7m", 1<<20)))
	for _, test := range []struct {
		name string
		text *Text
		want func(got string) bool
	}{
		{"short", &Text{[]byte("short"), 5}, func(got string) bool { return got == "short" }},
		{"lines", &Text{[]byte(lines), 5000}, func(got string) bool {
			return strings.HasPrefix(got, "line\nline\n") && strings.HasSuffix(got, "line\n") &&
				!strings.Contains(strings.ReplaceAll(got, "line\n", ""), "line") &&
				strings.Contains(got, "\n[… 4940 bytes left out …]\nline\n")
		}},
		{"a progress bar", &Text{[]byte(strings.Repeat("working\r", 1000) + "done   \n"), 8008},
			func(got string) bool { return got == "done   \n" }},
		{"control sequences alone", &large, func(got string) bool { return got == "\n[… 4194304 bytes left out …]\n" }},
	} {
		if got := test.text.Cut(100, Shown); !test.want(got) || utf8.RuneCountInString(got) > 100 {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

// A request is never too large for a server, whatever its text and its title are.
func TestRequestFits(t *testing.T) {
	for _, flags := range []Flags{{Tag: "a"}, {Channel: "a", Title: strings.Repeat("\"", 1<<17)}} {
		for name, unit := range map[string]string{"letters": "x", "quotes": "\"", "ampersands": "&", "noise": "\xff",
			"fences": "```", "separators": "\u2028", "both": strings.Repeat("x", 2000) + strings.Repeat("\xff", 2000)} {
			for _, show := range []func(string) string{Escape, Code} {
				var text Text
				text.Write([]byte("first\n" + strings.Repeat(unit, 3<<20/len(unit)) + "\nlast"))
				flags.Level, flags.Text = "crit", func(limit int) string { return show(text.Cut(limit, Plain)) }
				body := string(flags.request().Body)
				if len(body) > maxRequest || len(body) < maxRequest/2 || !strings.Contains(body, `first\n`) ||
					!strings.Contains(body, `\nlast`) || !strings.Contains(body, " bytes left out …]") {
					t.Errorf("%s: %d bytes: %.100q", name, len(body), body)
				}
			}
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\nb\n", "```", "@@channel`@here", "\xff<&>",
		strings.Repeat("line @everyone ``` <\n", 300), strings.Repeat("\xff", 9000), strings.Repeat("日本\n", 2000),
		"\x1b[31mred\x1b[0m\r\x1b[K\b", "\x1b]0;\x1b\\\x1b(B\x1b"} {
		f.Add(s)
	}
	const limit = 300
	f.Fuzz(func(t *testing.T, s string) {
		text := Cut(s, limit, Shown)
		if strings.ContainsFunc(text, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }) ||
			utf8.RuneCountInString(text) > limit {
			t.Errorf("%q is cut to %q", s, text)
		}
		got := Harmless(text)
		lower := strings.ToLower(got)
		for _, bad := range []string{"``", "<", ">", "@channel", "@here", "@everyone"} {
			if strings.Contains(lower, bad) {
				t.Errorf("%q is in %q", bad, got)
			}
		}
		if plain := strings.NewReplacer("\u2060", "", "&lt;", "<", "&gt;", ">", "&amp;",
			"&").Replace(got); !utf8.ValidString(got) ||
			plain != strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\u2060", "") && utf8.ValidString(s) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
