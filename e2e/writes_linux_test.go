package e2e

// Which files the server writes, as its system calls show.

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// changingCalls are the system calls that make, open, change or remove a file by its name.
const changingCalls = "open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,rmdir,unlink,unlinkat," +
	"rename,renameat,renameat2,link,linkat,symlink,symlinkat," +
	"truncate,chmod,fchmodat,chown,lchown,fchownat,utimensat,setxattr,lsetxattr,bind,mount"

// Every file that the server makes, changes or removes is in its spool, or is one of its logs or its socket.
func TestWritesNowhereElse(t *testing.T) {
	t.Parallel()
	needsStrace(t)
	slack := NewFakeSlack(t, func(d Delivery) Reply {
		if strings.Contains(d.Body, "#cron") {
			return Reply{Status: 400, Body: "no_text"}
		}
		return Reply{}
	})
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	ours := map[string]bool{
		at("spool"):  true,
		at("socket"): true,
		"/dev/null":  true, // os/exec and the runtime open it in place of a stream that is closed
	}
	calls := map[string]int{}
	for start := range 2 { // the second start finds the files and keys that the first one has left
		configure := func(n string) {
			access, errors := at("access"+n), at("error"+n)
			ours[access], ours[errors] = true, true
			WriteInto(t, dir, "slackboard.toml",
				strings.Replace(ServerConfig(slack.URL), "127.0.0.1:0", "unix:"+at("socket"), 1)+
					fmt.Sprintf("[spool]\ndir='%s'\n[log]\nlevel='debug'\naccess_log='%s'\nerror_log='%s'\n",
						at("spool"), access, errors))
		}
		first, second := fmt.Sprint(start, ".1"), fmt.Sprint(start, ".2")
		configure(first)
		trace := WriteFile(t, "trace", "")
		p := StartProcess(t, exec.Command("strace", "-D", "-f", "--seccomp-bpf", "-q", "-y", "-s", "4096", "-o", trace,
			"-e", "trace="+changingCalls,
			Program("slackboard"), "-c", at("slackboard.toml")))
		p.Addr = at("socket")
		says := func(log, what string) {
			t.Helper()
			Poll(t, log+" says "+what, func() bool {
				b, _ := os.ReadFile(at(log))
				return strings.Contains(string(b), what)
			})
		}
		says("error"+first, "listening on")
		useAll(t, p, first)
		configure(second)
		p.Signal(syscall.SIGHUP)
		says("error"+second, "configuration reloaded")
		useAll(t, p, second)
		p.Signal(syscall.SIGTERM)
		if code := p.Wait(); code != 0 {
			t.Errorf("exit %d: %s", code, p.Stderr.String())
		}
		Poll(t, "strace has ended", func() bool {
			return strings.Contains(ReadFile(t, trace), "+++ exited with 0 +++\n")
		})
		checkTrace(t, ReadFile(t, trace), calls, func(path string) bool {
			return ours[path] || filepath.Dir(path) == at("spool")
		})
	}
	t.Logf("calls that change files: %v", calls)
	for _, name := range []string{"openat", "mkdirat", "unlinkat", "renameat", "bind"} {
		if calls[name] == 0 {
			t.Errorf("no call of %s was seen: the test shows nothing", name)
		}
	}
}

// useAll has the server do everything that it can do.
func useAll(t *testing.T, p *Process, key string) {
	t.Helper()
	client, base := p.Client()
	defer client.CloseIdleConnections()
	for _, tag := range []string{"general", "cron"} {
		req, err := http.NewRequest("POST", base+"/notify", strings.NewReader(NotifyBody(tag, 1, false)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", key)
		resp, err := client.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v %v", tag, resp, err)
		}
		resp.Body.Close()
	}
	if status, body := p.Request("POST", "/notify", NotifyBody("general", 1, true)); status != 200 {
		t.Errorf("sync: %d %s", status, body)
	}
	for _, path := range []string{"/ui/", "/metrics", "/stat/app", "/stat/go", "/debug/vars", "/config/app", "/healthz",
		"/readyz", "/messages?state=dead"} {
		if status, body := p.Request("GET", path, ""); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if s := drained(t, p); s.Dead == 0 {
		t.Errorf("want a dead letter: %+v", s)
	}
	p.Request("POST", "/messages/retry?tag=cron", "")
	drained(t, p)
}

// checkTrace counts the calls of a trace that change files, and checks that ours returns true for each of these files.
func checkTrace(t *testing.T, trace string, calls map[string]int, ours func(path string) bool) {
	t.Helper()
	call := regexp.MustCompile(`^\d+ +(\w+)\((.*)`) // not the second line of a call that was interrupted, nor a signal
	writes := regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE`)
	path := regexp.MustCompile(`(?:<([^<>"]*)>, )?"([^"]*)"`) // with -y, strace shows the path of a descriptor
	for line := range strings.Lines(trace) {
		m := call.FindStringSubmatch(line)
		if m == nil || strings.HasPrefix(m[1], "open") && !writes.MatchString(m[2]) {
			continue
		}
		calls[m[1]]++
		paths := path.FindAllStringSubmatch(m[2], -1)
		if paths == nil {
			t.Errorf("this call changes a file, but has no path: %s", line)
		}
		for _, p := range paths {
			name := p[2]
			if !filepath.IsAbs(name) {
				name = filepath.Join(p[1], name)
			}
			if !ours(name) {
				t.Errorf("the server changes %s: %s", name, line)
			}
		}
	}
}
