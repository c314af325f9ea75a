package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// tomlCase is a source text and what its lines say, as showLines returns it.
type tomlCase struct{ name, src, want string }

// showLines returns lines as text: each has its number, then its header, or its key and its value as a string of Go.
func showLines(lines []tomlLine) string {
	var shown []string
	for _, l := range lines {
		if l.header != "" {
			shown = append(shown, fmt.Sprintf("%d %s", l.row, l.header))
		} else {
			shown = append(shown, fmt.Sprintf("%d %s=%q", l.row, l.key, l.value))
		}
	}
	return strings.Join(shown, "; ")
}

// tomlValid returns what parseTOML has to read.
func tomlValid() []tomlCase {
	return []tomlCase{
		{"empty file", "", ``},
		{"blanks and empty lines", " \t\n\n\t", ``},
		{"no final newline", "[a] # c", `1 [a]`},
		{"comments everywhere", "#\n\t# é\t[x] k = 1\n[a]# c\n[[b]] # [[x]]\nk = 1# c\nl = \"#\" # c\nm = '#'#",
			`3 [a]; 4 [[b]]; 5 k="1"; 6 l="#"; 7 m="#"`},
		{"CRLF", "k = 1\r\n\r\n# c\r\n[a] \r\nl = 'x'\t\r\n", `1 k="1"; 4 [a]; 5 l="x"`},
		{"byte order mark", "\ufeffk = 'é\ufffd' # \ufeff", "1 k=\"é\ufffd\""},

		{"bare keys", "Az-_09 = 1\n- = 1\n_ = 1\ntrue = 1\ninf = 1\n1979-05-27 = 1",
			`1 Az-_09="1"; 2 -="1"; 3 _="1"; 4 true="1"; 5 inf="1"; 6 1979-05-27="1"`},
		{"quoted keys", "\"a b\" = 1\n'c.d' = 1\n\"\\u00e9\\n\" = 1\n'\\e' = 1\n\"ʎ\" = 1\n'' = 1",
			"1 a b=\"1\"; 2 c.d=\"1\"; 3 é\n=\"1\"; 4 \\e=\"1\"; 5 ʎ=\"1\"; 6 =\"1\""},
		{"a name twice", "[a]\nk = 1\nk = 2\n[a]", `1 [a]; 2 k="1"; 3 k="2"; 4 [a]`},
		{"blanks around names", " \tk\t = \t1 \t\nl=2\n\t[ a ]\n[[\t'b' ]] ", `1 k="1"; 2 l="2"; 3 [a]; 4 [[b]]`},

		{"basic string", `k = "a 'b' # é 日本 😀 \\n"`, `1 k="a 'b' # é 日本 😀 \\n"`},
		{"escapes", `k = "\b\t\n\f\r\"\\"`, `1 k="\b\t\n\f\r\"\\"`},
		{"unicode escapes", `k = "\u0000\u00e9\u00E9\uE000\U0001F600\U0010ffff0"`, `1 k="\x00éé\ue000😀\U0010ffff0"`},
		{"literal string", `k = 'C:\x "\u00e9" \'`, `1 k="C:\\x \"\\u00e9\" \\"`},
		{"empty strings", "k = \"\"\nl = ''", `1 k=""; 2 l=""`},
		{"tabs in strings", "k = \"\t\"\nl = '\t'", `1 k="\t"; 2 l="\t"`},
		{"booleans", "k = true\nl = false", `1 k="true"; 2 l="false"`},
		{"integers", "a = 0\nb = -0\nc = +0\nd = +99\ne = -17\nf = 1_000\ng = 5_3_4",
			`1 a="0"; 2 b="-0"; 3 c="+0"; 4 d="+99"; 5 e="-17"; 6 f="1_000"; 7 g="5_3_4"`},
		{"integer limits", "a = 9223372036854775807\nb = -9_223_372_036_854_775_808",
			`1 a="9223372036854775807"; 2 b="-9_223_372_036_854_775_808"`},
	}
}

// Valid TOML is read as it is meant, whether lines end with LF or CRLF, and with a byte order mark or without.
func TestTOMLValid(t *testing.T) {
	for _, c := range tomlValid() {
		lf := strings.ReplaceAll(strings.TrimPrefix(c.src, "\ufeff"), "\r\n", "\n")
		for _, src := range []string{c.src, strings.ReplaceAll(lf, "\n", "\r\n"), "\ufeff" + lf} {
			got, err := parseTOML(src)
			if err != nil || showLines(got) != c.want {
				t.Errorf("%s: %q is read as %s, %v, want %s", c.name, src, showLines(got), err, c.want)
			}
		}
	}
}

// tomlFault is a kind of fault: sources, separated by |, each of which is refused. The error names the line row and
// contains words.
type tomlFault struct {
	name, srcs string
	row        int
	words      string
}

// testTOMLFaults checks that each source of faults is refused with the right error, and that nothing of it is returned.
func testTOMLFaults(t *testing.T, faults []tomlFault) {
	for _, f := range faults {
		for src := range strings.SplitSeq(f.srcs, "|") {
			lines, err := parseTOML(src)
			if err == nil || lines != nil {
				t.Errorf("%s: %q is read as %s, %v, want an error: %d: …%s…", f.name, src, showLines(lines), err, f.row,
					f.words)
			} else if got := err.Error(); !strings.HasPrefix(got, fmt.Sprint(f.row, ": ")) ||
				!strings.Contains(got, f.words) {
				t.Errorf("%s: %q: %q, want %d: …%s…", f.name, src, got, f.row, f.words)
			}
		}
	}
}

// tomlInvalid is what TOML 1.0 calls invalid.
var tomlInvalid = []tomlFault{
	{"unknown escape", `k = "\x41"|k = "\e"|k = "\q"|k = "\'"|k = "\ "|k = "\N"|k = "\0"|k = "\/"|k = "\é"|k = ` +
		`"\|k = "\` + "\n\"", 1, "wants a value"},
	{"unknown escape later", `k = "é\q"`, 1, "wants a value"},
	{"unknown escape in a key", `"\q" = 1`, 1, "wants [NAME]"},
	{"bad u escape", `k = "\u12"|k = "\u"|k = "\u00g0"|k = "\u+123"|k = "\u1_23"|k = "\u00é"`, 1, "wants a value"},
	{"bad U escape", `k = "\U0001F60"|k = "\Users\\me"|k = "\U"`, 1, "wants a value"},
	{"surrogate", `k = "\uD800"|k = "\udfff"|k = "\uD83D\uDE00"|k = "\U0000D800"|k = "\U0000DFFF"`, 1, "wants a value"},
	{"over 10FFFF", `k = "\U00110000"|k = "\UFFFFFFFF"|k = "\U80000041"`, 1, "wants a value"},
	{"basic string not closed", `k = "a|k = "|k = "a\"|k = "a'|k = "a” # c` + "|k = \"a\nb\"|k = \"a\r\nb\"|" +
		"k = \"a\n\"", 1, "wants a value"},
	{"literal string not closed", `k = 'a|k = '|k = 'a"|k = 'a’` + "|k = 'a\nb'|k = 'a\r\nb'|k = 'a\n'", 1,
		"wants a value"},
	{"literal string with its quote", `k = 'it's'|k = 'a\''`, 1, "wants a value"},
	{"quoted key not closed", "\"k = 1\nl = 2|\"k|\"a\nb\" = 1", 1, "wants [NAME]"},
	{"multi-line key", `"""k""" = 1|'''k''' = 1`, 1, "wants [NAME]"},

	{"NUL", "k = \"\x00\"|k = '\x00'|k = 1\x00|[ab]#\x00|# abc\x00|'abcd\x00' = 1|abcde\x00 = 1|[abcd\x00]", 1,
		"a control character, or not UTF-8"},
	{"NUL alone", "k = 1\n\x00", 2, "a control character, or not UTF-8"},
	{"NUL for a value", "k = \x00", 1, "a control character, or not UTF-8"},
	{"0x1f", "k = \"\x1f\"|k = '\x1f'|k = 1\x1f|[ab]#\x1f|# éa \x1f|'abcd\x1f' = 1|abcde\x1f = 1|k = 1\x1f\n", 1,
		"a control character, or not UTF-8"},
	{"DEL", "k = \"\x7f\"|k = '\x7f'|k = 1\x7f|[ab]#\x7f|# éa \x7f|'abcd\x7f' = 1|abcde\x7f = 1", 1,
		"a control character, or not UTF-8"},
	{"control character after a backslash", "k = \"\\\x1f\"", 1, "a control character, or not UTF-8"},
	{"control character for a blank", "k = 1\v|k = 1\f|[abc]\b|    k\x0e= 1", 1, "a control character, or not UTF-8"},
	{"bare carriage return", "k = 1\rl = 2|k = 1\r\r\n|k = \"\rb\"|k = '\rb'|# abc\rd|'abcd\r' = 1", 1,
		"a control character, or not UTF-8"},
	{"bare carriage return alone", "k = 1\n\r\r", 2, "a control character, or not UTF-8"},
	{"bad UTF-8", "k = \"\xff\"|k = '\xc3'|k = 1\xda|# éa \xc3(|'abcd\xe9' = 1|abcde\xe9 = 1|k = '\xc0\xaf'|" +
		"k = '\xed\xa0\x80'", 1, "a control character, or not UTF-8"},
	{"UTF-16", "\xfe\xff\x00k|\xff\xfek\x00", 1, "a control character, or not UTF-8"},
	{"byte order mark not at the start", "k = 1\n\ufeffl = 2", 2, "wants [NAME]"},
	{"byte order mark twice", "\ufeff\ufeffk = 1|\ufeff\ufeff", 1, "wants [NAME]"},
	{"fault after a byte order mark", "\ufeffk = x", 1, "wants a value"},
	{"fault after CRLF", "k = 1\r\nl = x", 2, "wants a value"},

	{"text after a value", "k = 10 x|k = \"\" x|k = '' x|k = -1\tx|k = \"é\"x", 1, "wants a value"},
	{"value after a value", `k = ""''|k = ''1|k = 10,20|k = 10=20|k = "",|k = 10'x'`, 1, "wants a value"},
	{"two keys in one line", "k = true l = 2|k = 1234 l = 2|k = 'ab' [a]", 1, "wants a value"},
	{"text after a header", "[a] x|[a] k = 1|[a] [b]|[a] ]|[a] 'x'", 1, "wants [NAME]"},
	{"text next to a header", "[a]]|[a][b]|[a].b", 1, "wants [NAME]"},
	{"text after an array header", "[[a]] x|[[a]] k = 1|[[a]] ]", 1, "wants [NAME]"},
	{"no value", "k = |k = \nl = 1|k = \r\n|k = # c|k = ,|k = =|k = ]", 1, "wants a value"},
	{"no value before the line's end", "k =\n1|k =\r\n", 1, "wants a value"},
	{"no value next to =", "k =|k == 1|k =\u00a01|k =/x", 1, "wants a value"},
	{"no key", "= 1|.a = 1|é = 1|+a = 1|, = 1|] = 1|{}", 1, "wants [NAME]"},
	{"no key in a header", "[]|[.a]|[é]|[=]|[#]|[|[\na]", 1, "wants [NAME]"},
	{"no key after a bracket or blank", "[[]]|[[.a]]|[[[a]]]|[ ]|[ [a]]|[ .a]", 1, "wants [NAME]"},
	{"no =", "k|k\n= 1|k: 1|k+l = 1|k#l = 1|ké = 1|k, = 1|k'l' = 1", 1, "wants [NAME]"},
	{"no = after a blank or quotes", `k 1|k "v"|k l = 1|k # = 1|k : 1|''l = 1|''"l" = 1`, 1, "wants [NAME]"},
	{"no ]", "[a|[a\n]|[a=1]|[a#b]|[a'b']|[a, b]|[a[b]]", 1, "wants [NAME]"},
	{"no ] after a blank", "[a b]|[a # ]|[a ", 1, "wants [NAME]"},
	{"no ]]", "[[a|[[a]|[[a] ]|[[a]\n]|[[a=1]]|[[a\n]]", 1, "wants [NAME]"},

	{"leading zero", "k = 01|k = -01|k = +01|k = 00|k = -00|k = 0_1", 1, "wants a value"},
	{"underscores", "k = 1__2|k = 1_|k = 1_000_|k = -1_", 1, "wants a value"},
	{"leading underscore", "k = _1|k = +_1|k = -_1|k = _", 1, "wants a value"},
	{"signs", "k = ++1|k = -+1|k = --1|k = -|k = + 1", 1, "wants a value"},
	{"not quite an integer", "k = +-1|k = 1+|k = 1+1|k = 30s|k = 1h|k = 2ab", 1, "wants a value"},
	{"no quotes", "k = True|k = TRUE|k = FALSE|k = tru|k = truee|k = true1|k = Inf|k = NaN|k = nil|k = abc def|" +
		"k = https://x|k = .5", 1, "wants a value"},
	{"no quotes at a sign", "k = #ops|k = /tmp|k = `x`|k = @x|k = $x|k = <x>|k = \\x", 1, "wants a value"},
	{"typographic double quote", "k = “x”|k = „x“|k = ”x”|k = «x»|k = »x«", 1, "wants a value"},
	{"typographic single quote", "k = ‘x’|k = ’x’|k = ‚x‘|k = ‛x’", 1, "wants a value"},
	{"typographic quote of a key", "[‘a’]|a‘ = 1", 1, "wants [NAME]"},
}

// What TOML calls invalid is refused, with the number of its line.
func TestTOMLInvalid(t *testing.T) { testTOMLFaults(t, tomlInvalid) }

// tomlUnsupported is valid TOML that parseTOML does not support. The error contains the name of the fault and "not
// supported".
var tomlUnsupported = []tomlFault{
	{"dotted keys", "'a'.b = 1|abc.'d'.e = 1|abc.= 1|a  .b = 1", 1, ""},
	{"nested tables", "[ a.b]|[a .b]|[[a.b]]|[ab.]", 1, ""},
	{"multi-line strings", `k = """a"""|k = """"""|k = """"a"""|k = '''a'''|k = ''''''` + "|k = \"\"\"\na\n\"\"\"|" +
		"k = '''\na'''", 1, ""},
	{"arrays", "k = []|k = [1]|k = [ 'a', 'b' ]|k = [\n1 ]|k = [[1], [2]]|k = [{}]", 1, ""},
	{"inline tables", "k = {}|k = { a = 1 }|k = {a.b = {}}", 1, ""},
	{"floats", "k = 1.5|k = +1.5|k = -0.0|k = 1e3|k = 1E+3|k = 0e0|k = 5e-3|k = 6.02e-23|k = 1_0.5|k = 1e1_0|k = " +
		"inf|k = +inf|k = -inf|k = nan|k = +nan|k = -nan", 1, ""},
	{"dates, times", "k = 1979-05-27|k = 0001-01-01|k = 1979-05-27T07:32:00Z|k = 1979-05-27t07:32:00z|k = " +
		"1979-05-27 07:32:00", 1, ""},
	{"dates, times", "k = 1979-05-27T07:32:00.25|k = 1979-05-27 00:32:00.999-07:00|k = 1979-05-27T07:32:00+01:00|k " +
		"= 07:32:00|k = 07:32:00.999|k = 00:00:00", 1, ""},
	{"other number bases", "k = 0xff|k = 0xDEAD_BEEF|k = 0xe|k = 0o7|k = 0o755|k = 0b1|k = 0b1_0", 1, ""},
}

// TOML that is not supported is refused, never misread, and the error says what is not supported.
func TestTOMLNotSupported(t *testing.T) {
	var faults []tomlFault
	for _, f := range tomlUnsupported {
		for _, words := range []string{f.name, "not supported"} {
			faults = append(faults, tomlFault{f.name, f.srcs, f.row, words})
		}
	}
	testTOMLFaults(t, faults)
}

// No error shows a value of the file: it may be a secret that somebody forgot to put in quotes.
func TestTOMLErrorsHideValues(t *testing.T) {
	const url = "https://hooks.example.invalid/services/T000/B000/SECRETSECRET"
	for _, c := range []struct{ name, srcs string }{ // in srcs, URL stands for url
		{"no quotes", "k = URL|k = SECRETSECRET|k = Bearer SECRETSECRET|k = +SECRETSECRET|k = trueSECRETSECRET|k = " +
			"#SECRETSECRET"},
		{"no quotes, like a number",
			"k = 12_SECRETSECRET|k = 1.5SECRETSECRET|k = 0xSECRETSECRET|k = 1979-05-27TSECRETSECRET"},
		{"a quote missing", `k = URL"|k = URL'|k = "URL|k = 'URL|k = "URL'` + "|k = \"URL\nl = \"x\""},
		{"typographic quotes", `k = “URL”|k = ‘URL’|k = «URL»|k = "URL”|k = “URL"|k = 'URL’`},
		{"bad escape", `k = "URL\q"|k = "\qURL"|k = "\SECRETSECRET"|k = "\uSECRETSECRET"|k = "\USECRETSECRET"|` +
			`k = "URL\`},
		{"bad character", "k = \"URL\x00\"|k = \"URL\r\"|k = \"URL\xff\"|k = \xffURL|k = URL\x7f"},
		{"after something valid", `k = "" URL|k = "a" "URL"|k = 1 URL|k = trueURL|k = 1"URL"|[a] URL|[a] "URL"`},
		{"text after it", `k = "URL" x|k = 'URL'x|k = "URL""URL"`},
		{"not supported", `k = """URL"""|k = '''URL'''|k = ["URL"]|k = {url = "URL"}`},
		{"no =", `k "URL"|k URL|k: "URL"|k: URL|k == "URL"`},
		{"no key", `= "URL"|= URL|URL|"URL"|[URL]|["URL]` + "|k =\n\"URL\"|k =\nURL"},
	} {
		for src := range strings.SplitSeq(c.srcs, "|") {
			t.Run(fmt.Sprintf("%s: %q", c.name, src), func(t *testing.T) {
				_, err := parseTOML(strings.ReplaceAll(src, "URL", url))
				if err == nil || strings.Contains(err.Error(), "SECR") || strings.Contains(err.Error(), "example") {
					t.Errorf("error: %v, want one without the value", err)
				}
			})
		}
	}
}

// Whatever the source is, an error names one of its lines, and what is read is UTF-8 with its lines in order.
func FuzzTOML(f *testing.F) {
	for _, c := range tomlValid() {
		f.Add(c.src)
	}
	for _, fault := range slices.Concat(tomlInvalid, tomlUnsupported) {
		for src := range strings.SplitSeq(fault.srcs, "|") {
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src string) {
		lines, err := parseTOML(src)
		rows := strings.Count(src, "\n") + 1
		if err != nil {
			row := 0
			fmt.Sscanf(err.Error(), "%d: ", &row)
			if row < 1 || row > rows || lines != nil {
				t.Errorf("%q is read as %s, %v, want an error in lines 1 to %d", src, showLines(lines), err, rows)
			}
			return
		}
		last := 0
		for _, l := range lines {
			if l.row <= last || l.row > rows || l.header != "" && l.key+l.value != "" {
				t.Errorf("%q has the line %#v after %d", src, l, last)
			}
			if !utf8.ValidString(l.header + l.key + l.value) {
				t.Errorf("%q has a line that is not UTF-8: %#v", src, l)
			}
			last = l.row
		}
	})
}

// parseTOML reads each text that tomlQuote has quoted as the same text, as a key and as a value.
func FuzzTOMLQuote(f *testing.F) {
	for _, s := range []string{"", "a", `"\'`, `\u0041`, "\x00\b\t\n\f\r\x1f\x7f\u0080",
		"\ufeff\ufffd\uffff😀\U0010ffff\u2028", "a\nb = 1", "#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip("not valid UTF-8")
		}
		q := tomlQuote(s)
		got, err := parseTOML(q + " = " + q)
		if want := []tomlLine{{row: 1, key: s, value: s, quoted: true}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("tomlQuote(%q) = %s is read back as %#v, %v", s, q, got, err)
		}
	})
}
