package e2e

// Which files the server writes, as the kernel sees it.

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

// changingCalls are those that make, open, change or remove what has a name.
const changingCalls = "open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,rmdir,unlink,unlinkat," +
	"rename,renameat,renameat2,link,linkat,symlink,symlinkat," +
	"truncate,chmod,fchmodat,chown,lchown,fchownat,utimensat,setxattr,lsetxattr,bind,mount"

// Every file that the server makes, changes or removes lies in its spool, or is a log or a socket of its.
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
		"/dev/null":  true, // os/exec and the runtime: what stands in for a stream that is closed
	}
	calls := map[string]int{}
	for start := range 2 { // the second finds what the first left: files to retire, keys to keep
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
		says("error"+second, "read again")
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
			t.Errorf("no %s was seen: this shows nothing", name)
		}
	}
}

// useAll has the server do all that it does.
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
		t.Errorf("no dead letter: %+v", s)
	}
	p.Request("POST", "/messages/retry?tag=cron", "")
	drained(t, p)
}

// checkTrace counts the calls of a trace that change files, and wants all of these to be ours.
func checkTrace(t *testing.T, trace string, calls map[string]int, ours func(path string) bool) {
	t.Helper()
	call := regexp.MustCompile(`^\d+ +(\w+)\((.*)`) // not those that are resumed, nor signals
	writes := regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE`)
	path := regexp.MustCompile(`(?:<([^<>"]*)>, )?"([^"]*)"`) // with -y a directory's descriptor shows where it leads
	for line := range strings.Lines(trace) {
		m := call.FindStringSubmatch(line)
		if m == nil || strings.HasPrefix(m[1], "open") && !writes.MatchString(m[2]) {
			continue
		}
		calls[m[1]]++
		paths := path.FindAllStringSubmatch(m[2], -1)
		if paths == nil {
			t.Errorf("what does this change? %s", line)
		}
		for _, p := range paths {
			name := p[2]
			if !filepath.IsAbs(name) {
				name = filepath.Join(p[1], name)
			}
			if !ours(name) {
				t.Errorf("it changes %s: %s", name, line)
			}
		}
	}
}
