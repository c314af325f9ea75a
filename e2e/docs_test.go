package e2e

// The documents: their examples run, and what they name exists.

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// examples returns the code blocks of a kind, such as sh, in a document.
func examples(t *testing.T, document, kind string) (blocks []string) {
	t.Helper()
	for _, block := range strings.Split(ReadFile(t, "../"+document), "```"+kind+"\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// example returns the first of the code blocks of a kind in a document that contains text.
func example(t *testing.T, document, kind, text string) string {
	t.Helper()
	for _, block := range examples(t, document, kind) {
		if strings.Contains(block, text) {
			return block
		}
	}
	t.Fatalf("%s has no block of %s with %q", document, kind, text)
	return ""
}

// The examples for the clients work as the documents have them. Only their paths are changed, so that they lead into
// the test's folder, and the server's address.
func TestClientExamples(t *testing.T) {
	t.Parallel()
	cli := example(t, "docs/clients.md", "sh", "slackboard-cli -t")
	log := example(t, "docs/clients.md", "sh", "slackboard-log -t")
	crontab := example(t, "README.md", "crontab", "backup --full")
	dir := t.TempDir()
	s := NewScripted(t)
	real := strings.NewReplacer("file:/etc/slackboard_token", "T0KEN", "/srv/", dir+"/", "/mnt/", dir+"/",
		"/var/spool/", dir+"/", "/var/log/", dir+"/",
		"PATH=", "PATH="+dir+":"+Binaries()+":", "=relay-host",
		"="+DeadAddress(t)+","+strings.TrimPrefix(s.URL, "http://"))
	run := func(script string, code int) string {
		t.Helper()
		before := len(s.Requests())
		cmd := exec.Command("/bin/sh", "-c", real.Replace(script))
		cmd.Env, cmd.Dir = []string{"PATH=" + Binaries() + ":/usr/bin:/bin", "SLACKBOARD_SERVER=" + s.URL}, "/"
		p := StartProcess(t, cmd)
		if got := p.Wait(); got != code {
			t.Errorf("exit %d, want %d: %s\n%s", got, code, script, p.Stderr.String())
		}
		return strings.Join(s.Texts()[before:], "\n")
	}

	os.Mkdir(filepath.Join(dir, "backup"), 0o700)
	if told := run(cli, 0); !strings.Contains(told, dir+"/photos") {
		t.Errorf("slackboard-cli sent %q, want a text with the path of the photos", told)
	}
	if told := run(log, 1); !strings.Contains(told, dir+"/photos") ||
		!strings.Contains(s.Requests()[1].Body, "photos are not copied") {
		t.Errorf("slackboard-log sent %q, want a report that the photos are not copied", told)
	}
	os.Mkdir(filepath.Join(dir, "photos"), 0o700)
	WriteInto(t, filepath.Join(dir, "photos"), "one", "a photo")
	if told := run(cli, 0) + run(log, 0); told != "" || ReadFile(t, dir+"/backup/photos/one") != "a photo" {
		t.Errorf("after a success, %q was sent, want nothing and a copy of the photo", told)
	}

	// cron runs what follows the five fields, with the assignments above it.
	table := strings.Split(strings.TrimSpace(crontab), "\n")
	job, isNightly := strings.CutPrefix(table[len(table)-1], "30 3 * * * ")
	if !isNightly || strings.Contains(job, "%") {
		t.Fatalf("the crontab's last line is %q", table[len(table)-1])
	}
	before := "set -a\n" + strings.Join(table[:len(table)-3], "\n") + "\n"
	check, isDaily := strings.CutPrefix(table[len(table)-3], "0 9 * * * ")
	flush, isOften := strings.CutPrefix(table[len(table)-2], "*/10 * * * * ")
	// The check has to fail: one of the two servers in SLACKBOARD_SERVER is dead.
	if run(before+check, 1); !isDaily || !strings.HasPrefix(check, "slackboard-log -check ") {
		t.Errorf("the crontab does not begin with a check, but with %q", check)
	}
	if told := run(before+flush, 0); !isOften || told != "" {
		t.Errorf("%s sent %q, although nothing was kept to be sent", flush, told)
	}
	script := before + job
	if told := run(script, 127); !strings.Contains(told, "Command: backup --full\n") {
		t.Errorf("without the program backup, %q was sent, want a report", told)
	}
	WriteInto(t, dir, "backup.sh", "#!/bin/sh\necho \"backup $1\"; exit 5\n")
	os.Chmod(filepath.Join(dir, "backup.sh"), 0o700)
	os.RemoveAll(filepath.Join(dir, "backup"))
	os.Rename(filepath.Join(dir, "backup.sh"), filepath.Join(dir, "backup"))
	if told := run(script, 5); !strings.Contains(told, "\nbackup --full\n") ||
		ReadFile(t, dir+"/backup.log") != "backup --full\n" {
		t.Errorf("a backup that fails: %q was sent, want its output, which has to be in the log as well", told)
	}
}

// documents returns the texts of all documents, by their names.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	paths, _ := filepath.Glob("../docs/*.md")
	for _, path := range append(paths, "../README.md", "../CHANGELOG.md") {
		texts[strings.TrimPrefix(path, "../")] = ReadFile(t, path)
	}
	return texts
}

// The lines of documents have at most 120 columns. README.md has at most 12 KiB. Links lead to files that exist. Each
// entry of a numbered list begins a line.
func TestDocumentsAreWellFormed(t *testing.T) {
	t.Parallel()
	link, entry := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`), regexp.MustCompile(`\. [2-9]\. [A-Z`+"`"+`]`)
	for name, text := range documents(t) {
		for n, line := range strings.Split(text, "\n") {
			if utf8.RuneCountInString(line) > 120 {
				t.Errorf("%s:%d has more than 120 columns", name, n+1)
			}
			if entry.MatchString(line) {
				t.Errorf("%s:%d has two entries of a list", name, n+1)
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("..", filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if size := len(ReadFile(t, "../README.md")); size > 12<<10 {
		t.Errorf("README.md has %d bytes, want 12 KiB at most", size)
	}
}

// The lines of code have at most 120 columns as well. A tab counts as four.
func TestLinesOfCodeFit(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		paths, _ := filepath.Glob("../" + pattern + ".go")
		for _, path := range paths {
			for n, line := range strings.Split(ReadFile(t, path), "\n") {
				if utf8.RuneCountInString(line)+3*strings.Count(line, "\t") > 120 {
					t.Errorf("%s:%d has more than 120 columns", path, n+1)
				}
			}
		}
	}
}

// The tests that docs/design.md names for its promises exist.
func TestPromisesHaveTests(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, pattern := range []string{"../*_test.go", "*_test.go", "../*/*/*_test.go"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			source.WriteString(ReadFile(t, path))
		}
	}
	names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(ReadFile(t, "../docs/design.md"), -1)
	for _, m := range names {
		if !strings.Contains(source.String(), "func "+m[1]+"(t *testing.T)") {
			t.Errorf("docs/design.md names %s, which does not exist", m[1])
		}
	}
	if len(names) < 20 {
		t.Errorf("docs/design.md names %d tests, want 20 at least", len(names))
	}
}

// The benchmarks that docs/operations.md runs exist in the folders that it names.
func TestDocumentedBenchmarks(t *testing.T) {
	t.Parallel()
	commands := regexp.MustCompile(`go test -run '\^\$' -bench (\w+) .*?(\.\S*) `)
	found := commands.FindAllStringSubmatch(ReadFile(t, "../docs/operations.md"), -1)
	for _, m := range found {
		paths, _ := filepath.Glob(filepath.Join("..", m[2], "*_test.go"))
		if !slices.ContainsFunc(paths, func(path string) bool {
			return strings.Contains(ReadFile(t, path), "\nfunc Benchmark"+m[1])
		}) {
			t.Errorf("%s has no benchmark %s", m[2], m[1])
		}
	}
	if len(found) < 5 {
		t.Errorf("docs/operations.md names %d benchmarks, want 5 at least", len(found))
	}
}

// The flags that the documents list are those of -h.
func TestDocumentedFlags(t *testing.T) {
	t.Parallel()
	flags := func(pattern, text string) (names []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	section := func(document, from, to string) string {
		_, text, found := strings.Cut(ReadFile(t, "../docs/"+document), "\n## "+from+"\n")
		if text, _, _ = strings.Cut(text, "\n## "+to+"\n"); !found {
			t.Errorf("%s has no section %s", document, from)
		}
		return text
	}
	const inTable = "(?m)(?:^\\| |, )`(-[a-z-]+)\\b"
	both := section("clients.md", "Flags of both", "slackboard-cli")
	for program, documented := range map[string][]string{
		"slackboard":     flags("(?m)(?:^- |, )`(-[a-z-]+)\\b", section("configuration.md", "Flags", "")),
		"slackboard-cli": flags(inTable, both+section("clients.md", "slackboard-cli", "slackboard-log")),
		"slackboard-log": flags(inTable, both+section("clients.md", "slackboard-log", "Check")),
	} {
		_, help, _ := RunProgram(t, "", nil, program, "-h")
		got := flags(`(?m)^  (-[a-zA-Z-]+)\b`, help)
		documented = slices.DeleteFunc(documented, func(s string) bool { return s == "-h" || s == "-help" })
		got = slices.DeleteFunc(got, func(s string) bool {
			return s == "-C" ||
				s == "-dry-run" && program != "slackboard"
		})
		if !slices.Equal(got, documented) {
			t.Errorf("%s -h shows %q, documented are %q", program, got, documented)
		}
	}
}

// The counters that docs/http.md lists are those of /stat/app, and every metric that is named somewhere exists.
func TestDocumentedCounters(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerConfig("http://127.0.0.1:1"))
	_, body := s.Request("GET", "/stat/app", "")
	var fields map[string]any
	if err := json.Unmarshal([]byte(body), &fields); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(ReadFile(t, "../docs/http.md"), "\n| key of `/stat/app` | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]any{}
	for row := range strings.Lines(table) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
			documented[m[1]] = nil
		}
	}
	got, want := slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(fields))
	if !slices.Equal(got, want) {
		t.Errorf("documented are %q, /stat/app has %q", got, want)
	}
	_, metrics := s.Request("GET", "/metrics", "")
	for _, text := range append(slices.Collect(maps.Values(documents(t))), ReadFile(t, "../deploy/alerts.yml")) {
		for _, name := range regexp.MustCompile(`\bslackboard_[a-z_]*[a-z]\b`).FindAllString(text, -1) {
			if name != "slackboard_token" && !strings.Contains(metrics, "# TYPE "+name+" ") {
				t.Errorf("there is no metric %s", name)
			}
		}
	}
}

// The configurations in README.md and deploy/ are without faults and warnings, once the files of their secrets exist.
func TestDocumentedConfigurations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"slack_token", "auth_token", "hosts_token"} {
		WriteInto(t, dir, name, "x"+name+"\n")
	}
	for _, toml := range append(examples(t, "README.md", "toml"), ReadFile(t, "../deploy/slackboard.toml")) {
		path := WriteFile(t, "slackboard.toml", strings.ReplaceAll(toml, "file:/etc/slackboard/", "file:"+dir+"/"))
		if code, stdout, stderr := RunProgram(t, "", nil, "slackboard", "-t", "-c", path); code != 0 || stderr != "" {
			t.Errorf("-t: exit %d, %q %q, want 0 and no warnings", code, stdout, stderr)
		}
	}
}

// The commands with curl in the documents work.
func TestCurlExamples(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("skipped: there is no curl here")
	}
	s := StartServer(t, "[core]\nport='127.0.0.1:0'\nslack_url='http://127.0.0.1:1/'\n[[tags]]\ntag='general'\n"+
		"[[tags]]\ntag='ops'\n")
	real := strings.NewReplacer("http://127.0.0.1:29800", "http://"+s.Addr, "http://relay-host:29800", "http://"+s.Addr,
		"localhost:29800", s.Addr, "curl ", "curl -sS -w '%{http_code}' -o /dev/null ")
	ran := 0
	for name, text := range documents(t) {
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "    ") || !strings.Contains(line, "curl ") ||
				strings.Contains(line, "GITLAB") {
				continue
			}
			want := "200"
			if strings.Contains(line, "9f86d081884c7d65") {
				want = "404"
			}
			out, err := exec.Command("sh", "-c", real.Replace(line)).CombinedOutput()
			if ran++; string(out) != want {
				t.Errorf("%s: this command is not answered as it should be: %s%s %v", name, line, out, err)
			}
		}
	}
	if ran < 8 {
		t.Errorf("the documents have %d commands with curl, want 8 at least", ran)
	}
}

// The steps of deploy/Containerfile, made by hand: the binary, alone in a root of its own and without privileges,
// serves and is healthy.
func TestContainerByHand(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, for chroot")
	}
	root, port := t.TempDir(), strings.TrimPrefix(DeadAddress(t), "127.0.0.1:")
	os.Chmod(root, 0o755)
	for _, folder := range []string{"etc", "etc/slackboard", "var", "var/lib", "var/lib/slackboard"} {
		os.Mkdir(filepath.Join(root, folder), 0o755)
	}
	os.Chown(filepath.Join(root, "var/lib/slackboard"), 65534, 65534)
	binary, err := os.ReadFile(Program("slackboard"))
	if err != nil {
		t.Fatal(err)
	}
	WriteInto(t, root, "slackboard", string(binary))
	os.Chmod(filepath.Join(root, "slackboard"), 0o755)
	etc := filepath.Join(root, "etc/slackboard")
	for _, name := range []string{"slack_token", "auth_token", "hosts_token"} {
		WriteInto(t, etc, name, "x"+name+"\n")
		os.Chown(filepath.Join(etc, name), 0, 65534)
		os.Chmod(filepath.Join(etc, name), 0o640)
	}
	WriteInto(t, etc, "slackboard.toml",
		strings.Replace(ReadFile(t, "../deploy/slackboard.toml"), `"29800"`, `"`+port+`"`, 1))
	os.Chmod(filepath.Join(etc, "slackboard.toml"), 0o644)
	containerfile := ReadFile(t, "../deploy/Containerfile")
	inContainer := func(instruction string) *exec.Cmd {
		var args []string
		_, list, _ := strings.Cut(containerfile, instruction+" [")
		list, _, _ = strings.Cut(list, "]")
		if err := json.Unmarshal([]byte("["+list+"]"), &args); err != nil {
			t.Fatalf("deploy/Containerfile: %s: %v", instruction, err)
		}
		args = append([]string{"/slackboard"}, slices.DeleteFunc(args,
			func(s string) bool { return s == "/slackboard" })...)
		return &exec.Cmd{Path: "/slackboard", Args: args, Dir: "/", Env: []string{},
			SysProcAttr: &syscall.SysProcAttr{Chroot: root, Credential: AsNobody().Credential}}
	}
	s := StartServerIn(t, inContainer("\nCMD"))
	health := StartProcess(t, inContainer("5s CMD"))
	if code := health.Wait(); code != 0 {
		t.Errorf("-health: exit %d, %s; the server says %s", code, health.Stderr.String(), s.Stderr.String())
	}
}
