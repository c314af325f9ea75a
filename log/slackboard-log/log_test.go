package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever is written, the first and the last bytes are kept, and the rest is counted.
func TestKept(t *testing.T) {
	all := make([]byte, 7*keptHalf)
	for i := range all {
		all[i] = byte('a' + i%23 + i/keptHalf)
	}
	for _, size := range []int{0, 1, keptHalf - 1, keptHalf, keptHalf + 1, 2*keptHalf - 1, 2 * keptHalf, 2*keptHalf + 1, 3 * keptHalf, 4*keptHalf + 1, 7 * keptHalf} {
		for _, step := range []int{1000, 64 << 10, 7 * keptHalf} {
			var k kept
			for rest := all[:size]; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				k.write(rest[:min(step, len(rest))])
			}
			want := string(all[:size])
			if size > 2*keptHalf {
				want = string(all[:keptHalf]) + leftOut(int64(size-2*keptHalf)) + string(all[size-keptHalf:size])
			}
			if got := k.text(); got != want || k.total != int64(size) {
				t.Errorf("%d bytes in steps of %d: %d kept of %d", size, step, len(got), k.total)
			}
		}
	}
}

func FuzzExcerpt(f *testing.F) {
	for _, s := range []string{"", "a\nb\n", "```", "@@channel`@here", "\xff<&>", strings.Repeat("line @everyone ``` <\n", 300), strings.Repeat("\xff", 9000), strings.Repeat("日本\n", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := excerpt(s, int64(len(s)), excerptLength)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > excerptLength {
			t.Errorf("%d characters of %q", utf8.RuneCountInString(got), got)
		}
		lower := strings.ToLower(got)
		for _, bad := range []string{"``", "<", ">", "@channel", "@here", "@everyone"} {
			if strings.Contains(lower, bad) {
				t.Errorf("%q is in %q", bad, got)
			}
		}
		if !strings.Contains(got, "bytes left out") && utf8.ValidString(s) {
			if plain := strings.NewReplacer("\u2060", "", "&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(got); plain != strings.ReplaceAll(s, "\u2060", "") {
				t.Errorf("%q became %q", s, got)
			}
		}
	})
}
