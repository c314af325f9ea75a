// Slackboard is a proxy server for Slack: programs send it a tag and a text, it holds the secrets and delivers.
//
// The path of a message: POST → accept → spool (on disk) → answer → lane → Slack → done | later | dead letter.
// No file calls back up it:
//
//	main.go     this map; the flags and, in serve, the server's life from start to stop
//	log.go      the log files
//	config.go   the configuration: keys, defaults, checks, the masked view
//	toml.go     the reader of the TOML subset that it is written in
//	listen.go   where the server listens: ports, sockets, TLS, systemd
//	notify.go   HTTP in: the route table; decode, check, accept
//	auth.go     who may ask
//	message.go  a message, and its route
//	spool.go    the queue on disk: one writer, group commit (sync_*.go: fdatasync)
//	load.go     what an earlier process left in it; carry.go, records move to new files
//	record.go   its lines; recent.go, the idempotency keys; quota.go, how much may wait
//	deliver.go  lanes: one post at a time for each destination, in order; pauses and back-off
//	reload.go   the configuration is read again, and what waits moves to where it leads then
//	render.go   a message becomes what Slack gets; merge.go, several become one post
//	slack.go    one post to Slack and what became of it
//	messages.go the operators' API: list, send again, drop
//	stat.go     one table of counters, and everything that shows them; health
//	ui.go       the page, with ui/
//	cli/        what both clients share, and slackboard-cli; log/ has slackboard-log
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"slackboard/cli"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "slackboard: %v\n", err)
		return 1
	}
	opts, code, ok := parseFlags(args, stdout, stderr)
	if !ok {
		return code
	}
	cfg, err := opts.load()
	if opts.check {
		return reportCheck(cfg, err, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, err) // a line for each fault
		return 1
	}
	if opts.health {
		if err := askReady(cfg); err != nil {
			return fail(err)
		}
		return 0
	}
	if err := serve(opts, cfg, stdout, stderr); err != nil {
		return fail(err)
	}
	return 0
}

// serve is the server's life, from its logs to its stop. An error is why it could not start.
func serve(opts options, cfg *config, stdout, stderr io.Writer) error {
	logs, err := openLogs(cfg, opts.dryRun, stdout, stderr)
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	listeners, err := listen(cfg)
	if err != nil {
		return err
	}

	debug.SetGCPercent(25) // of a long spool the index alone is to stay
	sp, cleanUp, err := opts.openSpool(cfg, logs.log)
	if err != nil {
		return err
	}
	defer cleanUp()
	d, err := newDeliverer(cfg, opts.slack(stdout), sp, newStats(), logs.log)
	if err != nil {
		return fmt.Errorf("spool.dir: %w", err)
	}
	debug.FreeOSMemory()    // what reading a long spool took
	debug.SetGCPercent(400) // the heap is small: collecting it less often costs some MB and is a fifth of the work
	delivering, stopDelivering := context.WithCancel(context.Background())
	defer stopDelivering()
	go sp.run()
	go d.run(delivering)

	s := &server{deliver: d, spool: sp, stats: d.stats, log: logs.log, access: &logs.access, hostname: hostname(), large: make(chan struct{}, maxLarge), looking: make(chan struct{}, 1), lost: logs.dropped}
	s.config.Store(cfg)
	web, served := newWebServer(s, stop), make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- web.Serve(secured{l, s.cfg}) }()
		logs.notice("listening on " + l.Addr().String())
	}
	logs.warn(cfg, listeners)
	tellSystemd("READY=1")
	go opts.reloadAt(hangUp, s, logs, listeners)
	if err := s.attend(stop, served); err != nil {
		return err
	}
	cancel() // from here on a second signal ends the process

	tellSystemd("STOPPING=1")
	logs.notice("stopping")
	answerRequestsInHand(web)
	stopDelivering()
	<-d.ended
	sp.close()
	logs.notice("stopped", "waiting", d.stats.waiting())
	return nil
}

// attend sees to what comes from outside of HTTP, until stop.
func (s *server) attend(stop context.Context, served <-chan error) error {
	status := time.NewTicker(10 * time.Second)
	defer status.Stop()
	for {
		s.limitMemory()
		select {
		case err := <-served:
			return err
		case <-stop.Done():
			return nil
		case <-status.C:
			if os.Getenv("NOTIFY_SOCKET") != "" {
				tellSystemd("STATUS=" + s.appStat().Sentence)
			}
		}
	}
}

// limitMemory has the collector run more often where requests would grow the heap. What may take more, so that it does not run
// without end: messages that wait, 8 to 24 bytes each, and connections, of one or two goroutines and 20 KB.
func (s *server) limitMemory() {
	debug.SetMemoryLimit(80<<20 + 32*s.stats.waiting() + 16<<10*int64(runtime.NumGoroutine()))
}

// options are what the command line says.
type options struct {
	file                  string
	check, dryRun, health bool
}

// parseFlags returns ok false where the command ends here, with code.
func parseFlags(args []string, stdout, stderr io.Writer) (o options, code int, ok bool) {
	flags := flag.NewFlagSet("slackboard", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.file, "c", "", "the configuration `FILE`")
	flags.BoolVar(&o.check, "t", false, "check the configuration and exit")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print posts on standard output instead of sending them to Slack; needs no configuration")
	flags.BoolVar(&o.health, "health", false, "ask the server that runs on this configuration whether it takes messages; exit 0 or 1")
	version := flags.Bool("v", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, 0, false
	case err != nil:
		return o, 2, false
	case *version:
		fmt.Fprintln(stdout, cli.Version("slackboard"))
		return o, 0, false
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "slackboard: unexpected argument %q: the configuration is given as -c FILE\n", flags.Arg(0))
		return o, 2, false
	case o.file == "" && (o.check || o.health || !o.dryRun):
		fmt.Fprintln(stderr, "slackboard: no configuration: give one with -c FILE, or try it without Slack: slackboard -dry-run")
		return o, 2, false
	}
	return o, 0, true
}

func (o options) load() (*config, error) {
	switch {
	case o.file == "":
		return dryRunConfig(), nil
	case o.check:
		return loadConfig(o.file, forCheck)
	case o.health:
		return loadConfig(o.file, forHealth)
	case o.dryRun:
		return loadConfig(o.file, forDryRun)
	}
	return loadConfig(o.file, forPosting)
}

func reportCheck(cfg *config, err error, stdout, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	for _, warning := range cfg.warnings {
		fmt.Fprintln(stderr, warning)
	}
	fmt.Fprintf(stdout, "%s: ok\n", cfg.path)
	return 0
}

func newWebServer(s *server, stop context.Context) *http.Server {
	connections := make(chan struct{}, maxConnections())
	return &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return stop },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // from the header on; more for sync=true
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10, // thousands of short ones take 15 times as much memory
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // the next one is accepted when this returns
				select {
				case connections <- struct{}{}:
				case <-stop.Done():
				}
			case http.StateClosed:
				select {
				case <-connections:
				default: // it came at the stop
				}
			}
		},
	}
}

// answerRequestsInHand takes no new ones and returns when the others are answered, or took too long.
func answerRequestsInHand(web *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), postTimeout)
	defer cancel()
	web.Shutdown(ctx)
}

// openSpool opens that of the configuration. A dry run has one of its own, which cleanUp removes.
func (o options) openSpool(cfg *config, log *slog.Logger) (sp *spool, cleanUp func(), err error) {
	cleanUp = func() {}
	if o.dryRun {
		if cfg.spool.dir, err = os.MkdirTemp("", "slackboard-dry-run"); err != nil {
			return nil, nil, err
		}
		cleanUp = func() { os.RemoveAll(cfg.spool.dir) }
	}
	if sp, err = openSpool(cfg.spool.dir, log); err != nil {
		cleanUp()
		return nil, nil, fmt.Errorf("spool.dir: %w: set dir in [spool] to a folder that only this server uses and may write", err)
	}
	sp.history.Store(cfg.spool.historyBytes)
	return sp, cleanUp, nil
}

// slack returns who takes the posts.
func (o options) slack(stdout io.Writer) poster {
	if o.dryRun {
		return &printer{out: stdout}
	}
	return newSlackClient(maxPosts)
}

// printer is a Slack for dry runs: it takes every post and prints it, one JSON line each.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) post(_ context.Context, _ credential, payload []byte) outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s\n", payload)
	return outcome{class: delivered}
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return strings.TrimSpace(name)
}
