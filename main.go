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
//	stat.go     the counters, and what shows them to people; metrics.go, to machines
//	ui.go       the page, with ui/
//	cli/        what both clients share, and slackboard-cli; log/ has slackboard-log
package main

import (
	"cmp"
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
	"syscall"
	"time"

	"slackboard/cli"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	opts, code, ok := parseFlags(args, stdout, stderr)
	if !ok {
		return code
	}
	cfg, err := opts.load()
	switch {
	case opts.health && cfg != nil: // what is wrong does not matter: who asks need not be able to read the secrets
		err = askReady(cfg)
	case err != nil:
		fmt.Fprintln(stderr, err) // a line for each fault
		return 1
	case opts.check:
		for _, warning := range cfg.warnings {
			fmt.Fprintln(stderr, warning)
		}
		fmt.Fprintf(stdout, "%s: ok\n", cfg.path)
	default:
		logs := newLogs(stdout, stderr, opts.dryRun)
		defer logs.close()
		err, stderr = serve(opts, cfg, logs), logs.stderr
	}
	if err != nil {
		fmt.Fprintf(stderr, "slackboard: %v\n", err)
		return 1
	}
	return 0
}

// serve is the server's life, from its logs to its stop. An error is why it could not start.
func serve(opts options, cfg *config, logs *logs) error {
	if err := logs.change(cfg); err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // standard output and error may lose their reader
	connections, posts := limits()

	debug.SetGCPercent(25)                            // of a long spool the index alone is to stay
	sp, cleanUp, err := opts.openSpool(cfg, logs.log) // first: its lock ends a second start that would touch our socket
	if err != nil {
		return err
	}
	defer cleanUp()
	listeners, err := opts.listen(cfg)
	if err != nil {
		return err
	}
	d, stopDelivery, err := startDelivery(cfg, sp, opts.slack(logs.stdout, posts), posts, logs.log)
	if err != nil {
		return err
	}

	s := &server{
		deliver: d, spool: sp, stats: d.stats, log: logs.log, access: &logs.access,
		hostname: hostname(), large: make(chan struct{}, maxLarge), looking: make(chan struct{}, 1),
	}
	s.config.Store(cfg)
	web, served := newWebServer(s, connections, stop), make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- web.Serve(&door{Listener: l, cfg: s.cfg, log: s.log}) }()
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
	stopDelivery()
	logs.notice("stopped", "waiting", d.stats.waiting())
	return nil
}

// startDelivery delivers what an earlier process left in sp, and what is accepted from now on. stop returns when the
// posts in flight have ended and what became of them is on disk.
func startDelivery(
	cfg *config, sp *spool, slack poster, posts int, log *slog.Logger,
) (d *deliverer, stop func(), err error) {
	if d, err = newDeliverer(cfg, slack, posts, sp, newStats(), log); err != nil {
		return nil, nil, fmt.Errorf("spool.dir: %w", err)
	}
	debug.FreeOSMemory() // what reading a long spool took
	delivering, cancel := context.WithCancel(context.Background())
	go sp.run()
	go d.run(delivering)
	return d, func() {
		cancel()
		<-d.ended
		sp.close()
	}, nil
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
				tellSystemd("STATUS=" + s.status())
			}
		}
	}
}

// status is what the service manager shows of the server.
func (s *server) status() string {
	st := s.appStat()
	if st.ReloadRefused {
		return reloadRefused + "; " + st.Sentence
	}
	return st.Sentence
}

// limitMemory lets the heap grow by 16 MiB between two collections: it is small, and collecting it less often costs some
// MB and is a fifth of the work. What waits takes some 40 bytes a message. If requests grow the heap it is collected more
// often, though not without end: a connection is one or two goroutines and 20 KB.
func (s *server) limitMemory() {
	waiting := s.stats.waiting()
	debug.SetGCPercent(int(100 * 16 << 20 / (4<<20 + 40*waiting)))
	debug.SetMemoryLimit(80<<20 + 40*waiting + 16<<10*int64(runtime.NumGoroutine()))
}

// options are what the command line says.
type options struct {
	file, port string
	health     bool
	purpose
}

const usage = `slackboard is a proxy server for Slack: programs send it a tag and a text, and it delivers.

  slackboard -dry-run                      the server without Slack: it prints what it would post
  slackboard -t -c /etc/slackboard.toml    check the configuration
  slackboard -c /etc/slackboard.toml       the server

Flags:
`

// parseFlags returns ok false where the command ends here, with code.
func parseFlags(args []string, stdout, stderr io.Writer) (o options, code int, ok bool) {
	flags := flag.NewFlagSet("slackboard", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its errors are told in one line
	flags.StringVar(&o.file, "c", "", "the configuration `FILE`")
	flags.StringVar(&o.port, "port", "",
		"listen on this `PORT` instead of the configuration's: 29800, 127.0.0.1:29800 or unix:/path")
	flags.BoolVar(&o.check, "t", false, "check the configuration and exit")
	flags.BoolVar(&o.dryRun, "dry-run", false,
		"print posts on standard output instead of sending them to Slack; needs no configuration")
	flags.BoolVar(&o.health, "health", false,
		"ask the server that runs on this configuration whether it takes messages; exit 0 or 1")
	version := flags.Bool("v", false, "print the version and exit")
	flags.BoolVar(version, "version", false, "the same")
	wrong := func(format string, args ...any) (options, int, bool) {
		fmt.Fprintf(stderr, "slackboard: "+format+"\n", args...)
		return o, 2, false
	}
	err := flags.Parse(args)
	switch _, _, badPort := parsePort(cmp.Or(o.port, "0")); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return o, 0, false
	case err != nil:
		return wrong("%v: see slackboard -h", err)
	case *version:
		fmt.Fprintln(stdout, cli.Version("slackboard"))
		return o, 0, false
	case flags.NArg() > 0:
		return wrong("unexpected argument %q: the configuration is given as -c FILE", flags.Arg(0))
	case o.file == "" && (o.check || o.health || !o.dryRun):
		return wrong("no configuration: give one with -c FILE, or try it without Slack: slackboard -dry-run")
	case badPort != nil:
		return wrong("-port: %v", badPort)
	}
	return o, 0, true
}

// load returns the configuration and what is wrong with it. If it cannot be read at all, there is only the latter.
func (o options) load() (cfg *config, err error) {
	if o.file == "" {
		cfg = dryRunConfig()
	} else {
		cfg, err = loadConfig(o.file, o.purpose)
	}
	if cfg != nil && o.port != "" {
		cfg.core.port = o.port
	}
	return cfg, err
}

// newWebServer returns a server with at most this many open connections, until stop. When all are in use, idle ones are
// closed for the next one.
func newWebServer(s *server, most int, stop context.Context) *http.Server {
	web := &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return stop },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // from the header on; more for sync=true
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10, // thousands of short ones take 15 times as much memory
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	connections := make(chan struct{}, most)
	web.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // the next one is accepted when this returns
			if len(connections) == most {
				web.SetKeepAlivesEnabled(false) // closes those that are idle
				defer web.SetKeepAlivesEnabled(true)
			}
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
	}
	return web
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
		return nil, nil, fmt.Errorf("spool.dir: %w: "+
			"set dir in [spool] to a folder that only this server uses and may write", err)
	}
	sp.history.Store(cfg.spool.historyBytes)
	return sp, cleanUp, nil
}

// listen opens the port of the configuration.
func (o options) listen(cfg *config) ([]net.Listener, error) {
	listeners, err := listen(cfg)
	if o.dryRun && errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w: choose another one, as with -port 127.0.0.1:0 for any that is free", err)
	}
	return listeners, err
}

// slack returns who takes the posts, so many at once.
func (o options) slack(stdout io.Writer, posts int) poster {
	if o.dryRun {
		return printer{stdout}
	}
	return newSlackClient(posts)
}

// printer is a Slack for dry runs: it prints every post, one JSON line each. Its output must not block. If that has no
// room for a post, the post is tried again.
type printer struct{ out io.Writer }

func (p printer) post(_ context.Context, _ credential, payload []byte) outcome {
	if _, err := fmt.Fprintf(p.out, "%s\n", payload); err != nil {
		return outcome{class: retry, reason: "standard output: " + err.Error()}
	}
	return outcome{class: delivered}
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return strings.TrimSpace(name)
}
