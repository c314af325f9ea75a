package e2e

// The documents: their examples run, and what they name exists.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// examples returns the blocks of a kind in a document, as they stand there.
func examples(t *testing.T, document, kind string) (blocks []string) {
	t.Helper()
	for _, block := range strings.Split(ReadFile(t, "../"+document), "```"+kind+"\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// example returns the first of these blocks that contains text.
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

// The clients' examples, as they stand there: only their paths lead into the test's folder.
func TestClientExamples(t *testing.T) {
	cli := example(t, "docs/clients.md", "sh", "slackboard-cli -t")
	log := example(t, "docs/clients.md", "sh", "slackboard-log -t")
	crontab := example(t, "README.md", "crontab", "backup --full")
	dir := t.TempDir()
	s := NewScripted(t)
	real := strings.NewReplacer("file:/etc/slackboard_token", "T0KEN", "/srv/", dir+"/", "/mnt/", dir+"/", "/var/spool/", dir+"/", "/var/log/", dir+"/",
		"PATH=", "PATH="+dir+":"+Binaries()+":", "=relay-host", "="+DeadAddress(t)+","+strings.TrimPrefix(s.URL, "http://"))
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
		t.Errorf("the cli told %q", told)
	}
	if told := run(log, 1); !strings.Contains(told, dir+"/photos") || !strings.Contains(s.Requests()[1].Body, "photos are not copied") {
		t.Errorf("the log told %q", told)
	}
	os.Mkdir(filepath.Join(dir, "photos"), 0o700)
	WriteInto(t, filepath.Join(dir, "photos"), "one", "a photo")
	if told := run(cli, 0) + run(log, 0); told != "" || ReadFile(t, dir+"/backup/photos/one") != "a photo" {
		t.Errorf("success told %q", told)
	}

	// cron runs what follows the five fields, with the assignments above it.
	table := strings.Split(strings.TrimSpace(crontab), "\n")
	job, isNightly := strings.CutPrefix(table[len(table)-1], "30 3 * * * ")
	if !isNightly || strings.Contains(job, "%") {
		t.Fatalf("the crontab's last line is %q", table[len(table)-1])
	}
	before := "set -a\n" + strings.Join(table[:len(table)-2], "\n") + "\n"
	check, isDaily := strings.CutPrefix(table[len(table)-2], "0 9 * * * ")
	if run(before+check, 1); !isDaily || !strings.HasPrefix(check, "slackboard-log -check ") { // one of the two servers is dead
		t.Errorf("the crontab does not begin with a check, but with %q", check)
	}
	script := before + job
	if told := run(script, 127); !strings.Contains(told, "Command: backup --full\n") {
		t.Errorf("without a backup: told %q", told)
	}
	WriteInto(t, dir, "backup.sh", "#!/bin/sh\necho \"backup $1\"; exit 5\n")
	os.Chmod(filepath.Join(dir, "backup.sh"), 0o700)
	os.RemoveAll(filepath.Join(dir, "backup"))
	os.Rename(filepath.Join(dir, "backup.sh"), filepath.Join(dir, "backup"))
	if told := run(script, 5); !strings.Contains(told, "\nbackup --full\n") || ReadFile(t, dir+"/backup.log") != "backup --full\n" {
		t.Errorf("told %q", told)
	}
}
