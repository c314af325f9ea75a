package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

type tomlCase struct {
	name, src string
	want      map[string]any
}

func tomlValid() []tomlCase {
	type tab = map[string]any
	type arr = []map[string]any
	const one, two = int64(1), int64(2)
	return []tomlCase{
		{"empty file", "", tab{}},
		{"blanks and empty lines", " \t\n\n\t", tab{}},
		{"no final newline", "[a] # c", tab{"a": tab{}}},
		{"comments everywhere", "#\n\t# é\t[x] k = 1\n[a]# c\n[[b]] # [[x]]\nk = 1# c\nl = \"#\" # c\nm = '#'#", tab{"a": tab{}, "b": arr{{"k": one, "l": "#", "m": "#"}}}},
		{"CRLF", "k = 1\r\n\r\n# c\r\n[a] \r\nl = 'x'\t\r\n", tab{"k": one, "a": tab{"l": "x"}}},
		{"byte order mark", "\ufeffk = '\ufeff' # \ufeff", tab{"k": "\ufeff"}},

		{"bare keys", "Az-_09 = 1\n- = 1\n_ = 1\ntrue = 1\ninf = 1", tab{"Az-_09": one, "-": one, "_": one, "true": one, "inf": one}},
		{"keys like numbers and dates", "1 = 1\n01 = 1\n-2 = 1\n1979-05-27 = 1\n3.14 = 2", tab{"1": one, "01": one, "-2": one, "1979-05-27": one, "3": tab{"14": two}}},
		{"keys that differ in case", "k = 1\nK = 2", tab{"k": one, "K": two}},
		{"quoted keys", "\"a b\" = 1\n'c.d' = 1\n\"\\u00e9\\n\" = 1\n'\\e' = 1\n\"ʎ\" = 1", tab{"a b": one, "c.d": one, "é\n": one, `\e`: one, "ʎ": one}},
		{"empty key", "\"\" = 1\na.'' = 2", tab{"": one, "a": tab{"": two}}},
		{"dotted empty keys", "''.\"\".a = 1", tab{"": tab{"": tab{"a": one}}}},
		{"dotted keys", "a.b.c = 1\na . \"b\"\t.\t'd' = 2\na.e = 1", tab{"a": tab{"b": tab{"c": one, "d": two}, "e": one}}},
		{"dotted keys out of order", "a.x = 1\nb.x = 1\na.y = 2\nb.y = 2", tab{"a": tab{"x": one, "y": two}, "b": tab{"x": one, "y": two}}},
		{"blanks around keys", " \tk\t = \t1 \t\nl=2", tab{"k": one, "l": two}},
		{"blanks in headers", "[ a . \"b\" ]\n\t[\ta.c\t] \n[[ d . 'e' ]]", tab{"a": tab{"b": tab{}, "c": tab{}}, "d": tab{"e": arr{{}}}}},

		{"basic string", `k = "a 'b' # é 日本 😀 \\n"`, tab{"k": `a 'b' # é 日本 😀 \n`}},
		{"escapes", `k = "\b\t\n\f\r\"\\"`, tab{"k": "\b\t\n\f\r\"\\"}},
		{"unicode escapes", `k = "\u0000\u00e9\u00E9\uD7FF\uE000\uFFFF\U0001F600\U0010ffff0"`, tab{"k": "\x00éé\ud7ff\ue000\uffff😀\U0010ffff0"}},
		{"literal string", `k = 'C:\x "\u00e9" \'`, tab{"k": `C:\x "\u00e9" \`}},
		{"empty strings", "k = \"\"\nl = ''", tab{"k": "", "l": ""}},
		{"tabs in strings", "k = \"\t\"\nl = '\t'", tab{"k": "\t", "l": "\t"}},
		{"replacement character", "k = \"\ufffd\"", tab{"k": "\ufffd"}},
		{"booleans", "k = true\nl = false", tab{"k": true, "l": false}},
		{"integers", "a = 0\nb = -0\nc = +0\nd = +99\ne = -17\nf = 1_000\ng = 5_3_4", tab{"a": int64(0), "b": int64(0), "c": int64(0), "d": int64(99), "e": int64(-17), "f": int64(1000), "g": int64(534)}},
		{"integer limits", "a = 9223372036854775807\nb = -9_223_372_036_854_775_808", tab{"a": int64(9223372036854775807), "b": int64(-9223372036854775808)}},

		{"tables", "[a]\nk = 1\n[b]\n[c.d]\nk = 2", tab{"a": tab{"k": one}, "b": tab{}, "c": tab{"d": tab{"k": two}}}},
		{"super-table after its sub-table", "[a.b.c]\nk = 1\n[a]\nk = 2\n[a.b]\nl = 2", tab{"a": tab{"k": two, "b": tab{"l": two, "c": tab{"k": one}}}}},
		{"sub-tables apart", "[a]\n[b]\n[a.c]\n[b.c]\n[a.d]", tab{"a": tab{"c": tab{}, "d": tab{}}, "b": tab{"c": tab{}}}},
		{"array of tables", "[[a]]\nk = 1\n[[a]]\n[[a]]\nk = 2", tab{"a": arr{{"k": one}, {}, {"k": two}}}},
		{"sub-tables of elements", "[[a]]\n[a.b]\nk = 1\n[[a]]\n[a.b]\nk = 2\n[a.c.d]", tab{"a": arr{{"b": tab{"k": one}}, {"b": tab{"k": two}, "c": tab{"d": tab{}}}}}},
		{"nested arrays of tables", "[[a]]\n[[a.b]]\nk = 1\n[[a.b]]\n[a.b.c]\n[[a]]\n[[a.b]]\nk = 2", tab{"a": arr{{"b": arr{{"k": one}, {"c": tab{}}}}, {"b": arr{{"k": two}}}}}},
		{"array of tables in tables", "[a]\n[[a.b.c]]\n[a.b]\nk = 1\n[[a.b.c]]", tab{"a": tab{"b": tab{"k": one, "c": arr{{}, {}}}}}},
		{"super-table after an array of tables", "[[a.b]]\nk = 1\n[a]\nl = 2", tab{"a": tab{"b": arr{{"k": one}}, "l": two}}},
		{"dotted keys in tables", "[a]\nb.c = 1\nb.d = 2\n[[e]]\nb.c = 1\n[[e]]\nb.c = 2", tab{"a": tab{"b": tab{"c": one, "d": two}}, "e": arr{{"b": tab{"c": one}}, {"b": tab{"c": two}}}}},
		{"sub-tables of a table of dotted keys", "[a]\nb.c.k = 1\n[a.b.c.d]\nl = 2\n[[a.b.e]]", tab{"a": tab{"b": tab{"c": tab{"k": one, "d": tab{"l": two}}, "e": arr{{}}}}}},
		{"sub-table of a table of dotted keys at the top", "a.b = 1\n[a.c]\nk = 2", tab{"a": tab{"b": one, "c": tab{"k": two}}}},
	}
}

func TestTOMLValid(t *testing.T) {
	for _, c := range tomlValid() {
		lf := strings.ReplaceAll(strings.TrimPrefix(c.src, "\ufeff"), "\r\n", "\n")
		for _, v := range []struct{ name, src string }{{"", c.src}, {", with CRLF", strings.ReplaceAll(lf, "\n", "\r\n")}, {", with BOM", "\ufeff" + lf}} {
			t.Run(c.name+v.name, func(t *testing.T) {
				got, _, err := parseTOML([]byte(v.src))
				if err != nil || !reflect.DeepEqual(got, c.want) {
					t.Errorf("parseTOML(%q) = %#v, %v, want %#v", v.src, got, err, c.want)
				}
			})
		}
	}
}

func TestTOMLLines(t *testing.T) {
	type lines = map[string]int
	for _, c := range []struct {
		name, src string
		want      lines
	}{
		{"nothing", "# c\n", lines{}},
		{"keys and tables", "# c\nk = 1\n\n[core]\n# c\nport = 1\n\n\"max\" = 2", lines{"k": 2, "core": 4, "core.port": 6, "core.max": 8}},
		{"CRLF and byte order mark", "\ufeff[core]\r\n\r\nport = 1\r\n", lines{"core": 1, "core.port": 3}},
		{"arrays of tables", "[[tags]]\n\nchannel = 'a'\n[[tags]]\nchannel = 'b'\n[tags.x]\ny = 1", lines{"tags": 1, "tags.0": 1, "tags.0.channel": 3, "tags.1": 4, "tags.1.channel": 5, "tags.1.x": 6, "tags.1.x.y": 7}},
		{"nested arrays of tables", "[[a]]\n[[a.b]]\n[[a.b]]\nk = 1\n[[a]]\n[[a.b]]", lines{"a": 1, "a.0": 1, "a.0.b": 2, "a.0.b.0": 2, "a.0.b.1": 3, "a.0.b.1.k": 4, "a.1": 5, "a.1.b": 6, "a.1.b.0": 6}},
		{"dotted keys", "a.b.c = 1\n\na.b.d = 1\n[t]\nx . y = 1", lines{"a": 1, "a.b": 1, "a.b.c": 1, "a.b.d": 3, "t": 4, "t.x": 5, "t.x.y": 5}},
		{"super-table after its sub-table", "[a.b]\nk = 1\n[a]\nl = 1", lines{"a": 3, "a.b": 1, "a.b.k": 2, "a.l": 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got, err := parseTOML([]byte(c.src))
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("lines of %q = %v, %v, want %v", c.src, got, err, c.want)
			}
		})
	}
}

// tomlFault is a fault: sources, separated by |, that are refused at "LINE:COL" with a message that has words.
type tomlFault struct{ name, srcs, at, words string }

func testTOMLFaults(t *testing.T, faults []tomlFault) {
	for _, f := range faults {
		for src := range strings.SplitSeq(f.srcs, "|") {
			t.Run(fmt.Sprintf("%s: %q", f.name, src), func(t *testing.T) {
				doc, line, err := parseTOML([]byte(src))
				if err == nil {
					t.Fatalf("parseTOML(%q) = %#v, want an error at %s: …%s…", src, doc, f.at, f.words)
				}
				if got := err.Error(); !strings.HasPrefix(got, f.at+": ") || !strings.Contains(got, f.words) {
					t.Errorf("parseTOML(%q): %q, want %s: …%s…", src, got, f.at, f.words)
				}
				if _, ok := err.(tomlError); !ok || doc != nil || line != nil {
					t.Errorf("parseTOML(%q) = %v, %v, %T, want nil, nil, a tomlError", src, doc, line, err)
				}
			})
		}
	}
}

var tomlInvalid = []tomlFault{
	{"duplicate key", "k = 1\nk = 2|k = 1\n\"k\" = 1|k = 1\n'k' = 1|k = 1\n\"\\u006b\" = 1", "2:1", "k is already defined on line 1"},
	{"duplicate key in a table", "[a]\nk = 1\n k = 1", "3:2", "a.k is already defined on line 2"},
	{"duplicate key in an element", "[[a]]\n[[a]]\nk = 1\nk = 1", "4:1", "a.1.k is already defined on line 3"},
	{"duplicate dotted key", "a.b = 1\na.b = 2|a.b = 1\na . 'b' = 2|a.b.c = 1\na.b = 2", "2:1", "a.b is already defined on line 1"},
	{"key for a table", "[a.b]\n[a]\nb = 1|[[a.b]]\n[a]\nb = 1|[a.b.c]\n[a]\nb = 1", "3:1", "a.b is already defined on line 1"},
	{"dotted key into a value", "a = 1\na.b = 2|a = 1\na.b.c = 2|a = ''\na.b = 2", "2:1", "a is already a value, on line 1"},
	{"dotted key deep into a value", "a.b = 1\na.b.c.d = 2", "2:1", "a.b is already a value, on line 1"},
	{"dotted key into a table", "[a.b]\n[a]\nb.c = 1|[a.b]\n[a]\nb.c.d = 1|[[a.b]]\n[a]\nb.c = 1", "3:1", "already defined on line 1"},
	{"dotted key deep into a table", "[a.b.c]\n[a]\nb.c.t = 1|[a.b.c]\n[a]\nb.c.d.t = 1|[[a.b.c]]\n[a]\nb.c.t = 1", "3:1", "already defined on line 1"},
	{"dotted key past a super-table, then its header", "[a.b.c]\n[a]\nb.k = 1\n[a.b]", "4:2", "[a.b] is already defined"},

	{"table twice", "[a]\n[b]\n[a]|[a]\n[a.b]\n[\"a\"]", "3:2", "[a] is already defined on line 1"},
	{"super-table twice", "[a.b]\n[a]\n[a]|[[a.b]]\n[a]\n[a]", "3:2", "[a] is already defined on line 2"},
	{"sub-table of an element twice", "[[a]]\n[a.b]\n[a.b]", "3:2", "already defined on line 2"},
	{"table for a value", "a = 1\n[a]|a = 1\n[a.b]|a = 1\n[a.b.c]", "2:2", "a is already a value, on line 1"},
	{"table for a value of a table", "[a]\nb = 1\n[a.b]|[a]\nb = 1\n[a.b.c]", "3:2", "a.b is already a value, on line 2"},
	{"table for dotted keys", "a.b = 1\n[a]|a.b.c = 1\n[a]", "2:2", "[a] is already defined on line 1"},
	{"table for dotted keys in a table", "[a]\nb.k = 1\n[a.b]|[a]\nb.c.k = 1\n[a.b]", "3:2", "[a.b] is already defined on line 2"},
	{"table for an array of tables", "[[a]]\n[a]|[[a.b]]\n[a.b]", "2:2", "two brackets"},
	{"table for a nested array of tables", "[[a]]\n[[a.b]]\n[a.b]", "3:2", "two brackets"},
	{"array of tables for a table", "[a]\n[[a]]|[a.b]\n[[a]]|[[a.b]]\n[[a]]|a.b = 1\n[[a]]|a = 1\n[[a]]", "2:3", "a is already defined on line 1"},
	{"array of tables for a sub-table", "[[a]]\n[a.b]\n[[a.b]]", "3:3", "a.0.b is already defined on line 2"},
	{"array of tables in a value", "a = 1\n[[a.b]]", "2:3", "a is already a value, on line 1"},

	{"unknown escape", `k = "\x41"|k = "\e"|k = "\q"|k = "\'"|k = "\ "|k = "\N"|k = "\0"|k = "\/"|k = "\é"|k = "\|k = "\` + "\n\"", "1:6", "unknown escape"},
	{"unknown escape later", `k = "é\q"`, "1:7", "unknown escape"},
	{"unknown escape in a key", `"\q" = 1`, "1:2", "unknown escape"},
	{"bad u escape", `k = "\u12"|k = "\u12|k = "\u|k = "\u"|k = "\u00g0"|k = "\u+123"|k = "\u1_23"|k = "\u00é"`, "1:6", `\u wants the 4 hexadecimal digits`},
	{"bad U escape", `k = "\U0001F60"|k = "\U0001F60|k = "\Users\me"|k = "\U"`, "1:6", `\U wants the 8 hexadecimal digits`},
	{"surrogate", `k = "\uD800"|k = "\udfff"|k = "\uD83D\uDE00"|k = "\U0000D800"|k = "\U0000DFFF"`, "1:6", "of a Unicode character"},
	{"over 10FFFF", `k = "\U00110000"|k = "\UFFFFFFFF"|k = "\U80000041"`, "1:6", "of a Unicode character"},
	{"basic string not closed", `k = "a|k = "|k = "a\"|k = "a'|k = "a” # c` + "|k = \"a\nb\"|k = \"a\r\nb\"|k = \"a\n\"", "1:5", `no closing "`},
	{"literal string not closed", `k = 'a|k = '|k = 'a"|k = 'a’` + "|k = 'a\nb'|k = 'a\r\nb'|k = 'a\n'", "1:5", "no closing '"},
	{"literal string with its quote", `k = 'it's'|k = 'a\''`, "1:9", "end of the line"},
	{"quoted key not closed", "\"k = 1\nl = 2|\"k|\"a\nb\" = 1", "1:1", `no closing "`},
	{"multi-line key", `"""k""" = 1|'''k''' = 1`, "1:1", "multi-line"},

	{"NUL", "k = \"\x00\"|k = '\x00'|k = 1\x00|[ab]#\x00|# abc\x00|'abcd\x00' = 1|abcde\x00 = 1|[abcd\x00]", "1:6", "U+0000"},
	{"NUL alone", "k = 1\n\x00", "2:1", "U+0000"},
	{"NUL for a value", "k = \x00", "1:5", "U+0000"},
	{"0x1f", "k = \"\x1f\"|k = '\x1f'|k = 1\x1f|[ab]#\x1f|# éa \x1f|'abcd\x1f' = 1|abcde\x1f = 1|k = 1\x1f\n", "1:6", "U+001F"},
	{"DEL", "k = \"\x7f\"|k = '\x7f'|k = 1\x7f|[ab]#\x7f|# éa \x7f|'abcd\x7f' = 1|abcde\x7f = 1", "1:6", "U+007F"},
	{"control character after a backslash", "k = \"\\\x1f\"", "1:7", "U+001F"},
	{"control character for a blank", "k = 1\v|k = 1\f|[abc]\b|    k\x0e= 1", "1:6", "control character"},
	{"bare carriage return", "k = 1\rl = 2|k = 1\r|k = 1\r\r\n|k = \"\rb\"|k = '\rb'|# abc\rd|'abcd\r' = 1", "1:6", "carriage return"},
	{"bare carriage return alone", "k = 1\n\r", "2:1", "carriage return"},
	{"bad UTF-8", "k = \"\xff\"|k = '\xc3'|k = 1\xda|# éa \xc3(|'abcd\xe9' = 1|abcde\xe9 = 1|k = '\xc0\xaf'|k = '\xed\xa0\x80'", "1:6", "UTF-8"},
	{"UTF-16", "\xfe\xff\x00k|\xff\xfek\x00", "1:1", "UTF-8"},
	{"byte order mark not at the start", "k = 1\n\ufeffl = 2", "2:1", "expected a key"},
	{"byte order mark twice", "\ufeff\ufeffk = 1|\ufeff\ufeff", "1:1", "expected a key"},
	{"fault after a byte order mark", "\ufeffk = x", "1:5", "quotes"},
	{"fault after CRLF", "k = 1\r\nl = x", "2:5", "quotes"},

	{"text after a value", "k = 10 x|k = \"\" x|k = '' x|k = -1\tx|k = \"é\"x", "1:8", "end of the line after the value, found 'x'"},
	{"value after a value", `k = ""''|k = ''1|k = 10,20|k = 10=20|k = "",|k = 10'x'`, "1:7", "end of the line after the value"},
	{"two keys in one line", "k = true l = 2|k = 1234 l = 2|k = 'ab' [a]", "1:10", "end of the line after the value"},
	{"text after a header", "[a] x|[a] k = 1|[a] [b]|[a] ]|[a] 'x'", "1:5", "end of the line after ], found"},
	{"text next to a header", "[a]]|[a][b]|[a].b", "1:4", "end of the line after ], found"},
	{"text after an array header", "[[a]] x|[[a]] k = 1|[[a]] ]", "1:7", "end of the line after ]], found"},
	{"no value", "k = |k = \nl = 1|k = \r\n|k = # c|k = ,|k = =|k = ]", "1:5", "expected a value"},
	{"no value before the line's end", "k =\n1|k =\r\n", "1:4", "found the end of the line"},
	{"no value next to =", "k =|k == 1|k =\u00a01|k =/x", "1:4", "expected a value"},
	{"no key", "= 1|.a = 1|é = 1|+a = 1|, = 1|] = 1|{}", "1:1", "a key"},
	{"no key after a dot", "a. = 1|a. .b = 1|[a.]|[a..b]", "1:4", "a key"},
	{"no key next to a dot", "a..b = 1|a.=1|a.", "1:3", "a key"},
	{"no key in a header", "[]|[.a]|[é]|[=]|[#]|[|[\na]", "1:2", "a key"},
	{"no key after a bracket or blank", "[[]]|[[.a]]|[[[a]]]|[ ]|[ [a]]|[ .a]", "1:3", "a key"},
	{"no =", "k|k\n= 1|k: 1|k+l = 1|k#l = 1|ké = 1|k, = 1|k'l' = 1", "1:2", "expected = after the key, found"},
	{"no = after a blank or quotes", `k 1|k "v"|k l = 1|k # = 1|k : 1|''l = 1|''"l" = 1`, "1:3", "expected = after the key, found"},
	{"no ]", "[a|[a\n]|[a=1]|[a#b]|[a'b']|[a, b]|[a[b]]", "1:3", "expected ], found"},
	{"no ] after a blank", "[a b]|[a # ]|[a ", "1:4", "expected ], found"},
	{"no ]]", "[[a|[[a]|[[a] ]|[[a]\n]|[[a=1]]|[[a\n]]", "1:4", "expected ]], found"},

	{"leading zero", "k = 01|k = -01|k = +01|k = 00|k = -00|k = 0_1", "1:5", "leading zeros"},
	{"underscores", "k = 1__2|k = 1_|k = 1_000_|k = -1_", "1:5", "single underscores"},
	{"leading underscore", "k = _1|k = +_1|k = -_1|k = _", "1:5", "expected a value"},
	{"signs", "k = ++1|k = -+1|k = --1|k = -|k = + 1", "1:5", "expected a value"},
	{"not quite an integer", "k = +-1|k = 1+|k = 1+1|k = 30s|k = 1h|k = 2ab", "1:5", "not an integer"},
	{"over 64 bits", "k = 9223372036854775808|k = -9223372036854775809|k = 1_000_000_000_000_000_000_000", "1:5", "64 bits"},
	{"no quotes", "k = True|k = TRUE|k = FALSE|k = tru|k = truee|k = true1|k = Inf|k = NaN|k = nil|k = abc def|k = https://x|k = .5", "1:5", "text needs quotes"},
	{"no quotes at a sign", "k = #ops|k = /tmp|k = `x`|k = @x|k = $x|k = <x>|k = \\x", "1:5", "expected a value"},
	{"typographic double quote", "k = “x”|k = „x“|k = ”x”|k = «x»|k = »x«", "1:5", ` is a typographic quote: use the straight one, "`},
	{"typographic single quote", "k = ‘x’|k = ’x’|k = ‚x‘|k = ‛x’", "1:5", " is a typographic quote: use the straight one, '"},
	{"typographic quote of a key", "[‘a’]|a‘ = 1", "1:2", "‘ is a typographic quote: use the straight one, '"},
}

func TestTOMLInvalid(t *testing.T) { testTOMLFaults(t, tomlInvalid) }

// The name of each is what "not supported" is said of.
var tomlUnsupported = []tomlFault{
	{"multi-line strings", `k = """a"""|k = """"""|k = """"a"""|k = '''a'''|k = ''''''` + "|k = \"\"\"\na\n\"\"\"|k = '''\na'''", "1:5", ""},
	{"arrays", "k = []|k = [1]|k = [ 'a', 'b' ]|k = [\n1 ]|k = [[1], [2]]|k = [{}]", "1:5", ""},
	{"inline tables", "k = {}|k = { a = 1 }|k = {a.b = {}}", "1:5", ""},
	{"floats", "k = 1.5|k = +1.5|k = -0.0|k = 1e3|k = 1E+3|k = 0e0|k = 5e-3|k = 6.02e-23|k = 1_0.5|k = 1e1_0|k = inf|k = +inf|k = -inf|k = nan|k = +nan|k = -nan", "1:5", ""},
	{"dates and times", "k = 1979-05-27|k = 0001-01-01|k = 1979-05-27T07:32:00Z|k = 1979-05-27t07:32:00z|k = 1979-05-27 07:32:00", "1:5", ""},
	{"dates and times", "k = 1979-05-27T07:32:00.25|k = 1979-05-27 00:32:00.999-07:00|k = 1979-05-27T07:32:00+01:00|k = 07:32:00|k = 07:32:00.999|k = 00:00:00", "1:5", ""},
	{"number bases other than decimal", "k = 0xff|k = 0xDEAD_BEEF|k = 0xe|k = 0o7|k = 0o755|k = 0b1|k = 0b1_0", "1:5", ""},
}

func TestTOMLNotSupported(t *testing.T) {
	var faults []tomlFault
	for _, f := range tomlUnsupported {
		f.words = f.name + " are not supported"
		faults = append(faults, f)
		f.srcs, f.at = "# c\n[t]\n "+strings.ReplaceAll(f.srcs, "|", "|# c\n[t]\n "), "3:6"
		faults = append(faults, f)
	}
	testTOMLFaults(t, faults)
}

func TestTOMLErrorsHideValues(t *testing.T) {
	const url = "https://hooks.example.invalid/services/T000/B000/SECRETSECRET"
	for _, c := range []struct{ name, srcs string }{ // with URL for url
		{"no quotes", "k = URL|k = SECRETSECRET|k = Bearer SECRETSECRET|k = +SECRETSECRET|k = trueSECRETSECRET|k = #SECRETSECRET"},
		{"no quotes, like a number", "k = 12_SECRETSECRET|k = 1.5SECRETSECRET|k = 0xSECRETSECRET|k = 1979-05-27TSECRETSECRET"},
		{"a quote missing", `k = URL"|k = URL'|k = "URL|k = 'URL|k = "URL'` + "|k = \"URL\nl = \"x\""},
		{"typographic quotes", `k = “URL”|k = ‘URL’|k = «URL»|k = "URL”|k = “URL"|k = 'URL’`},
		{"bad escape", `k = "URL\q"|k = "\qURL"|k = "\SECRETSECRET"|k = "\uSECRETSECRET"|k = "\USECRETSECRET"|k = "URL\`},
		{"bad character", "k = \"URL\x00\"|k = \"URL\r\"|k = \"URL\xff\"|k = \xffURL|k = URL\x7f"},
		{"after something valid", `k = "" URL|k = "a" "URL"|k = 1 URL|k = trueURL|k = 1"URL"|[a] URL|[a] "URL"`},
		{"text after it", `k = "URL" x|k = 'URL'x|k = "URL""URL"`},
		{"not supported", `k = """URL"""|k = '''URL'''|k = ["URL"]|k = {url = "URL"}`},
		{"no =", `k "URL"|k URL|k: "URL"|k: URL|k == "URL"`},
		{"no key", `= "URL"|= URL|URL|"URL"|[URL]|["URL]` + "|k =\n\"URL\"|k =\nURL"},
		{"key twice", "k = \"URL\"\nk = \"URL\"|k = \"URL\"\nk.l = 1|k = \"URL\"\n[k]|k = \"URL\"\n[k.l]|k = \"URL\"\n[[k]]"},
	} {
		for src := range strings.SplitSeq(c.srcs, "|") {
			t.Run(fmt.Sprintf("%s: %q", c.name, src), func(t *testing.T) {
				_, _, err := parseTOML([]byte(strings.ReplaceAll(src, "URL", url)))
				if err == nil || strings.Contains(err.Error(), "SECR") || strings.Contains(err.Error(), "example") {
					t.Errorf("error: %v, want one without the value", err)
				}
			})
		}
	}
}

// checkTOMLValue fails unless v, at path, is made of what parseTOML says it returns and every path is in line.
func checkTOMLValue(t *testing.T, path string, v any, line map[string]int) {
	switch v := v.(type) {
	case int64, bool:
	case string:
		if !utf8.ValidString(v) {
			t.Errorf("%q is %q, want valid UTF-8", path, v)
		}
	case map[string]any:
		for key, value := range v {
			sub := key
			if path != "" {
				sub = path + "." + key
			}
			if _, ok := line[sub]; !ok || !utf8.ValidString(key) {
				t.Errorf("key %q: line known: %t, want true and valid UTF-8", sub, ok)
			}
			checkTOMLValue(t, sub, value, line)
		}
	case []map[string]any:
		for i, table := range v {
			sub := fmt.Sprintf("%s.%d", path, i)
			if _, ok := line[sub]; !ok {
				t.Errorf("no line for %q", sub)
			}
			checkTOMLValue(t, sub, table, line)
		}
	default:
		t.Errorf("%q is a %T", path, v)
	}
}

func FuzzTOML(f *testing.F) {
	for _, c := range tomlValid() {
		f.Add([]byte(c.src))
	}
	for _, fault := range slices.Concat(tomlInvalid, tomlUnsupported) {
		for src := range strings.SplitSeq(fault.srcs, "|") {
			f.Add([]byte(src))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		doc, line, err := parseTOML(src)
		rows := strings.Count(string(src), "\n") + 1
		if err != nil {
			if e, ok := err.(tomlError); !ok || e.line < 1 || e.line > rows || e.col < 1 || doc != nil || line != nil {
				t.Errorf("parseTOML(%q) = %v, %v, %#v, want a tomlError in lines 1 to %d", src, doc, line, err, rows)
			}
			return
		}
		checkTOMLValue(t, "", doc, line)
		for path, n := range line {
			if n < 1 || n > rows {
				t.Errorf("parseTOML(%q): %q is on line %d, want 1 to %d", src, path, n, rows)
			}
		}
	})
}

func FuzzTOMLQuote(f *testing.F) {
	for _, s := range []string{"", "a", `"\'`, `\u0041`, "\x00\b\t\n\f\r\x1f\x7f\u0080", "\ufeff\ufffd\uffff😀\U0010ffff", "a\nb = 1", "#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip("not valid UTF-8")
		}
		q := tomlQuote(s)
		got, _, err := parseTOML([]byte("k = " + q + "\n[t]\n" + q + " = " + q))
		if want := map[string]any{"k": s, "t": map[string]any{s: s}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("tomlQuote(%q) = %s is read back as %#v, %v", s, q, got, err)
		}
	})
}
