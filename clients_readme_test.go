package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"slackboard/e2e"
)

// The README's examples, as they stand there: only their paths lead into the test's folder.
func TestClientExamples(t *testing.T) {
	readme := e2e.ReadFile(t, "README.md")
	_, section, found := strings.Cut(readme, "\n## The clients\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```(sh|crontab)\n(.*?)```\n").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 3 {
		t.Fatalf("%d examples in the README", len(blocks))
	}
	dir := t.TempDir()
	s := e2e.NewScripted(t)
	real := strings.NewReplacer("file:/etc/slackboard_token", "T0KEN", "/srv/", dir+"/", "/mnt/", dir+"/", "/var/spool/", dir+"/", "/var/log/", dir+"/",
		"PATH=", "PATH="+dir+":"+e2e.Binaries()+":", "relay-1:29800", e2e.DeadAddress(t), "relay-2:29800", strings.TrimPrefix(s.URL, "http://"))
	run := func(script string, code int) string {
		t.Helper()
		before := len(s.Requests())
		cmd := exec.Command("/bin/sh", "-c", real.Replace(script))
		cmd.Env, cmd.Dir = []string{"PATH=" + e2e.Binaries() + ":/usr/bin:/bin", "SLACKBOARD_SERVER=" + s.URL}, "/"
		p := e2e.StartProcess(t, cmd)
		if got := p.Wait(); got != code {
			t.Errorf("exit %d, want %d: %s\n%s", got, code, script, p.Stderr.String())
		}
		return strings.Join(s.Texts()[before:], "\n")
	}

	cli, log := blocks[0][2], blocks[1][2]
	os.Mkdir(filepath.Join(dir, "backup"), 0o700)
	if told := run(cli, 0); !strings.Contains(told, dir+"/photos") {
		t.Errorf("the cli told %q", told)
	}
	if told := run(log, 1); !strings.Contains(told, dir+"/photos") || !strings.Contains(s.Requests()[1].Body, "photos are not copied") {
		t.Errorf("the log told %q", told)
	}
	os.Mkdir(filepath.Join(dir, "photos"), 0o700)
	e2e.WriteInto(t, filepath.Join(dir, "photos"), "one", "a photo")
	if told := run(cli, 0) + run(log, 0); told != "" || e2e.ReadFile(t, dir+"/backup/photos/one") != "a photo" {
		t.Errorf("success told %q", told)
	}

	// cron runs what follows the five fields, with the assignments above it.
	table := strings.Split(strings.TrimSpace(blocks[2][2]), "\n")
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
	e2e.WriteInto(t, dir, "backup.sh", "#!/bin/sh\necho \"backup $1\"; exit 5\n")
	os.Chmod(filepath.Join(dir, "backup.sh"), 0o700)
	os.RemoveAll(filepath.Join(dir, "backup"))
	os.Rename(filepath.Join(dir, "backup.sh"), filepath.Join(dir, "backup"))
	if told := run(script, 5); !strings.Contains(told, "\nbackup --full\n") || e2e.ReadFile(t, dir+"/backup.log") != "backup --full\n" {
		t.Errorf("told %q", told)
	}
}
