package main

// What the tests of this folder share: servers in process.

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"slackboard/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// testConfig returns the configuration file written as toml, checked.
func testConfig(t testing.TB, toml string) *config {
	t.Helper()
	c, err := loadConfig(e2e.WriteFile(t, "slackboard.toml", toml), purpose{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// inProcess is a server in this process.
type inProcess struct {
	*server
	http http.Handler
	logs *e2e.Buffer                  // at debug level
	out  *e2e.Buffer                  // the access log
	disk atomic.Pointer[func() error] // what a sync of the spool does and returns before it does anything
	stop func()
}

func newInProcess(t testing.TB, cfg *config, slack poster) *inProcess {
	t.Helper()
	p := &inProcess{logs: &e2e.Buffer{}, out: &e2e.Buffer{}}
	log := slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.spool.dir == "slackboard.spool" {
		cfg.spool.dir = filepath.Join(t.TempDir(), "spool")
	}
	sp, err := openSpool(cfg.spool.dir, log)
	if err != nil {
		t.Fatal(err)
	}
	sp.sync = func(f *os.File) error {
		if disk := p.disk.Load(); disk != nil {
			if err := (*disk)(); err != nil {
				return err
			}
		}
		return syncData(f)
	}
	sp.history.Store(cfg.spool.historyBytes)
	st := newStats()
	d, err := newDeliverer(cfg, slack, maxPosts, sp, st, log)
	if err != nil {
		t.Fatal(err)
	}
	p.server = &server{spool: sp, stats: st, deliver: d, log: log, access: p.out, hostname: "here", large: make(chan struct{}, maxLarge), looking: make(chan struct{}, 1), lost: func() int64 { return 3 }}
	p.server.config.Store(cfg)
	p.http = p.handler()
	ctx, cancel := context.WithCancel(context.Background())
	go sp.run()
	go d.run(ctx)
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-d.ended
		sp.close()
	})
	t.Cleanup(p.stop)
	return p
}

// stat returns the counters, after it has checked that they add up.
func (p *inProcess) stat(t testing.TB) (st appStat) {
	t.Helper()
	body := p.do("GET", "/stat/app", "").Body.Bytes()
	e2e.ReadStat(t, body)
	if err := json.Unmarshal(body, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// do makes a request of the server in process.
func (p *inProcess) do(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.http.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}
