// Slackboard is a proxy server for Slack: programs send it a tag and a text, it holds the secrets and delivers.
//
// The path of a message, which no file calls back up:
//
//	POST → accept → spool (on disk) → answer → lane → Slack → done | later | dead letter
//
// The files:
//
//	main.go     this map; the flags and, in run, the server's life from start to stop
//	config.go   the configuration: keys, defaults, checks, the masked view
//	toml.go     the reader of the TOML subset that it is written in
//	listen.go   where the server listens: ports, sockets, TLS, systemd; how many connections it takes; -health
//	notify.go   HTTP in: the route table; decode, check, accept
//	door.go     the ways in for programs that know Slack only
//	auth.go     who may ask
//	message.go  a message, and its route
//	spool.go    the queue on disk (sync_linux.go, sync_other.go: fdatasync)
//	deliver.go  lanes: one post at a time for each destination, in order; pauses and back-off
//	reload.go   the configuration is read again, and what waits moves to where it leads then
//	render.go   a message becomes what Slack gets, and several become one post
//	slack.go    one post to Slack, and what its answer means
//	messages.go the operators' API: list, send again, drop
//	stat.go     one table of counters, and everything that shows them; health
//	log.go      the log files
//	ui.go       the page, with ui/
//	cli/        what both clients share; cli/slackboard-cli and log/slackboard-log are the clients
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

func main() {
	opts, text, err := parseFlags(os.Args[1:])
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "slackboard: %v\n", err)
		os.Exit(2)
	case text != "":
		fmt.Print(text)
		return
	}
	cfg, err := loadConfig(opts)
	switch {
	case opts.health && cfg != nil: // what is wrong does not matter: who asks need not be able to read the secrets
		err = askReady(cfg)
	case err != nil:
		fmt.Fprintln(os.Stderr, err) // a line for each fault
		os.Exit(1)
	case opts.check:
		for _, warning := range cfg.warnings {
			fmt.Fprintln(os.Stderr, warning)
		}
		fmt.Printf("%s: ok\n", cfg.path)
	default:
		err = run(opts, cfg, newLogs(os.Stdout, os.Stderr))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "slackboard: %v\n", err)
		os.Exit(1)
	}
}

// run is the server's life, from its logs to its stop. An error is why it could not start or go on.
func run(opts options, cfg *config, logs *logs) error {
	defer logs.close()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // standard output and error may lose their reader
	connections, posts := limits()
	slack := newSlackClient(posts).post
	if opts.dryRun {
		dir, err := os.MkdirTemp("", "slackboard-dry-run")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		cfg.spool.dir, slack = dir, printer{&logs.posts}.post
		logs.standard["stdout"] = logs.standard["stderr"] // standard output is for the posts
	}
	if err := logs.switchTo(cfg); err != nil {
		return err
	}

	debug.SetGCPercent(25) // of a long spool the index alone is to stay
	sp, err := openSpool(cfg.spool.dir, syncData, logs.log)
	if err != nil {
		return fmt.Errorf("spool.dir: %w: set dir in [spool] to a folder that only this server uses and may write", err)
	}
	listeners, err := listen(cfg) // the spool's lock keeps out a second start, which would touch our socket
	if opts.dryRun && errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w: choose another one, as with -port 127.0.0.1:0 for any that is free", err)
	}
	if err != nil {
		return err
	}
	d, err := newDeliverer(cfg, slack, posts, sp, newStats(), logs.log)
	if err != nil {
		return fmt.Errorf("spool.dir: %w", err)
	}
	debug.FreeOSMemory() // what reading a long spool took
	s := &server{deliverer: d, access: &logs.access, bodies: make(chan struct{}, maxLarge), lost: logs.dropped}
	go sp.run()
	web, served := newWebServer(s, connections, stop), make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- web.Serve(&listener{l, s.cfg, s.log}) }()
		logs.notice("listening on " + l.Addr().String())
	}
	logs.warn(cfg)
	tellSystemd("READY=1")
	go opts.reloadAt(hangUp, s, logs)
	go s.attend(stop)
	select {
	case err = <-served:
	case <-stop.Done():
	}
	cancel() // from here on a second signal ends the process
	s.drain(web.Shutdown, logs)
	return err
}

// drain ends the server: requests in hand are answered and posts in flight end, each within 30 s where the disk works,
// and what became of them is on disk.
func (s *server) drain(shutdown func(context.Context) error, logs *logs) {
	tellSystemd("STOPPING=1")
	logs.notice("stopping")
	enough, done := context.WithTimeout(context.Background(), postTimeout)
	defer done()
	shutdown(enough) // takes no new requests
	s.stop()
	s.spool.close()
	logs.notice("stopped", "waiting", s.fill(&appStat{}).Waiting)
}

// attend tells the service manager how things are, and bounds the memory, until stop.
//
// The heap may grow by 16 MiB between two collections: it is small, and collecting it less often costs some MB and is a
// fifth of the work. What waits takes some 40 bytes a message and 1 KB a destination. If requests grow the heap it is
// collected more often, though not without end: a connection is one or two goroutines and 20 KB.
func (s *server) attend(stop context.Context) {
	for ; stop.Err() == nil; time.Sleep(10 * time.Second) {
		st := s.fill(&appStat{})
		debug.SetGCPercent(int(100 * 16 << 20 / (4<<20 + 40*st.Waiting)))
		debug.SetMemoryLimit(80<<20 + 40*st.Waiting + 1<<10*int64(st.lanes) + 16<<10*int64(runtime.NumGoroutine()))
		if st.ReloadRefused {
			st.Sentence = reloadRefused + "; " + st.Sentence
		}
		tellSystemd("STATUS=" + st.Sentence)
	}
}

// options are what the command line says.
type options struct {
	file, port string

	check, dryRun, health bool
}

const usage = `slackboard is a proxy server for Slack: programs send it a tag and a text, and it delivers.

  slackboard -dry-run      the server without Slack: it prints what it would post
  slackboard -t -c FILE    check the configuration
  slackboard -c FILE       the server

Flags:
`

// parseFlags reads the command line. text is what it asks to be told, and nothing else.
func parseFlags(args []string) (o options, text string, err error) {
	var help strings.Builder
	flags := flag.NewFlagSet("slackboard", flag.ContinueOnError)
	flags.SetOutput(&help)
	flags.Usage = flags.PrintDefaults
	flags.StringVar(&o.file, "c", "", "the configuration `FILE`")
	flags.Func("port", "listen on this `PORT` instead of the configuration's: 29800, 127.0.0.1:29800 or unix:/path",
		func(port string) error {
			o.port = port
			return checkPort(port)
		})
	flags.BoolVar(&o.check, "t", false, "check the configuration and exit")
	flags.BoolVar(&o.dryRun, "dry-run", false,
		"print posts on standard output instead of sending them to Slack; needs no configuration")
	flags.BoolVar(&o.health, "health", false,
		"ask the server that runs on this configuration whether it takes messages; exit 0 or 1")
	version := flags.Bool("v", false, "print the version and exit")
	flags.BoolVar(version, "version", false, "the same")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, usage + help.String(), nil
	case err != nil:
		err = fmt.Errorf("%w: see slackboard -h", err)
	case *version:
		text = fmt.Sprintf("slackboard %s %s %s/%s\n", build(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: the configuration is given as -c FILE", flags.Arg(0))
	case o.file == "" && (o.check || o.health || !o.dryRun):
		err = errors.New("no configuration: give one with -c FILE, or try it without Slack: slackboard -dry-run")
	}
	return o, text, err
}

// version is the release, as CHANGELOG.md has it.
const version = "1.0.0"

// build names what this program was built from: the version and, if the build knows them, the revision and whether
// files had been modified since, as in 1.0.0+4bf7d1c09a2e.modified.
func build() string {
	text := version
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				text += "+" + s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.modified" && s.Value == "true":
				text += ".modified"
			}
		}
	}
	return text
}
