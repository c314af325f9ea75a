package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// withFiles returns a command that runs a program with at most so many file descriptors.
func withFiles(files int, program string, args ...string) *exec.Cmd {
	script := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)
	return exec.Command("sh", append([]string{"-c", script, program}, args...)...)
}

// With 30 file descriptors, all messages of 40 destinations are accepted while Slack answers none, and delivered when
// it does. Then most descriptors are free.
func TestFewFileDescriptors(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	slack := NewFakeSlack(t, func(Delivery) Reply { <-answer; return Reply{} })
	tags := tagNames("t", 40)
	config := spoolConfig(filepath.Join(t.TempDir(), "spool")) + tagConfig(slack.URL+"/services/x", tags...)
	s := StartServerIn(t, withFiles(30, Program("slackboard"), "-c", WriteFile(t, "s.toml", config)))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	var all sync.WaitGroup
	for _, tag := range tags {
		all.Go(func() {
			resp, err := client.Post("http://"+s.Addr+"/notify", "", strings.NewReader(NotifyBody(tag, 1, false)))
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %v %v", tag, resp, err)
			}
		})
	}
	all.Wait()
	close(answer)
	drained(t, s)
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid)); err == nil && len(files) > 25 {
		t.Errorf("%d of 30 file descriptors are in use by an idle server", len(files))
	}
	if strings.Contains(s.Stderr.String(), "too many open files") {
		t.Errorf("the log says %s", s.Stderr.String())
	}
}

// If two servers start at once on a socket that a dead server has left, one of them serves, and the other says why it
// does not.
func TestTwoStartsAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, first, second, want string }{
		{"one spool", "spool", "spool", "spool is in use by another process"},
		{"two spools", "spool", "other", "address already in use"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range Rounds(50, 5) {
				dir := t.TempDir()
				socket := filepath.Join(dir, "s")
				StaleSocket(t, socket)
				var two []*Process
				for _, spool := range []string{test.first, test.second} {
					config := fmt.Sprintf("[core]\nport='unix:%s'\nslack_url='http://127.0.0.1:1/'\n"+
						"[spool]\ndir='%s'\n", socket, filepath.Join(dir, spool))
					cmd := exec.Command(Program("slackboard"), "-c", WriteFile(t, "s.toml", config))
					two = append(two, StartProcess(t, cmd))
				}
				server, other := two[0], two[1]
				select {
				case <-server.Ended:
					server, other = other, server
				case <-other.Ended:
				case <-time.After(Patience):
					t.Fatalf("both servers run: %s, %s", server.Stderr.String(), other.Stderr.String())
				}
				if code := other.Wait(); code != 1 || !strings.Contains(other.Stderr.String(), test.want) {
					t.Errorf("the other server: exit %d, want 1 and why: %s", code, other.Stderr.String())
				}
				server.Addr = socket
				server.IsAlive()
				server.Signal(syscall.SIGTERM)
				if code := server.Wait(); code != 0 {
					t.Errorf("exit %d: %s", code, server.Stderr.String())
				}
			}
		})
	}
}
