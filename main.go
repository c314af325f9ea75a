// Slackboard is a proxy server for Slack. Programs send it a tag and a text. The server holds the secrets and delivers
// the message.
//
// The path of a message:
//
//	POST → accept → spool (on disk) → answer → lane → Slack → delivered | deferred | dead letter
//
// Calls follow this path. The HTTP handlers (notify.go, door.go, messages.go, stat.go) call deliver.go and spool.go;
// deliver.go calls spool.go, render.go and slack.go. No call goes the other way, except to small helper functions. The
// methods of the deliverer that only one file needs are there: in reload.go, messages.go and stat.go.
//
// The files:
//
//	main.go     this map; the flags; run, which starts the server and stops it
//	config.go   the configuration: keys, defaults, checks, and the view with masked secrets
//	toml.go     the parser of the configuration file: a subset of TOML
//	listen.go   where the server listens: ports, sockets, TLS, systemd; the limit on connections; -health
//	notify.go   HTTP requests: the route table; a message is decoded, checked and accepted
//	door.go     the ways in for programs that know only Slack: incoming webhooks and chat.postMessage
//	auth.go     who may do what: senders and operators
//	message.go  a message and its route
//	spool.go    the spool: the queue on disk (sync_linux.go, sync_other.go: system calls)
//	deliver.go  the lanes: one post at a time for each destination, in order; pauses and back-off
//	reload.go   SIGHUP: reads the configuration again and moves waiting messages to their new destinations
//	render.go   makes one post from a message, or from several
//	slack.go    makes one post to Slack and says what the answer means
//	messages.go the operators' API: list messages, send them again, drop them
//	stat.go     the table of counters, and everything that shows it; what is in trouble; whether messages are accepted
//	log.go      the log files
//	ui.go       the operators' web page; its files are in ui/
//	cli/        the code that both clients share; the clients are cli/slackboard-cli and log/slackboard-log
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
	case opts.health && cfg != nil: // err does not matter: the user of -health may not be able to read the secrets
		err = askReady(cfg)
	case err != nil:
		fmt.Fprintln(os.Stderr, err) // one line for each error
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

// run runs the server until SIGTERM or SIGINT, and returns when the server has stopped. An error says why the server
// could not start, or why it stopped without a signal.
func run(opts options, cfg *config, logs *logs) error {
	defer logs.close()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // the reader of standard output or error may go away
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

	debug.SetGCPercent(25) // collect often while the spool is read: only its index has to stay in memory
	sp, err := openSpool(cfg.spool.dir, syncData, logs.log)
	if err != nil {
		return fmt.Errorf("spool.dir: %w: set dir in [spool] to a folder that only this server uses and may write", err)
	}
	// openSpool has locked the spool: a second server with this spool stops there, before it touches our unix socket.
	listeners, err := listen(cfg)
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
	debug.FreeOSMemory() // give back the memory that reading a long spool needed
	s := &server{deliverer: d, access: &logs.access, bodies: make(chan struct{}, maxLarge), lost: logs.lost}
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

// drain stops the server. First it takes no new requests and waits until the open ones are answered. Then it waits
// until the posts in flight have ended and their outcomes are on disk. Each wait takes at most 30 s if the disk
// works. If the disk fails, an outcome may be missing: its post is made again after the next start.
func (s *server) drain(shutdown func(context.Context) error, logs *logs) {
	tellSystemd("STOPPING=1")
	logs.notice("stopping")
	enough, done := context.WithTimeout(context.Background(), postTimeout)
	defer done()
	shutdown(enough)
	s.stop()
	s.spool.close()
	logs.notice("stopped", "waiting", s.fill(&appStat{}).Waiting)
}

// attend reports the server's status to the service manager and sets the memory limits, every 10 s until stop.
//
// The heap may grow by 16 MiB between two garbage collections. The live heap is small: collecting it so rarely costs
// some MB and saves four fifths of the work. Waiting messages take about 40 bytes each, and each destination with a
// lane about 1 KB.
//
// If requests grow the heap beyond the memory limit, the heap is collected more often. The limit counts goroutines,
// so that many connections alone do not cause collections without end: a connection takes one or two goroutines and
// about 20 KB.
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

// options holds the flags of the command line.
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

// parseFlags parses the command line. If text is not empty, it is the help or the version: the program prints it and
// does nothing else.
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
	showVersion := flags.Bool("v", false, "print the version and exit")
	flags.BoolVar(showVersion, "version", false, "the same")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, usage + help.String(), nil
	case err != nil:
		err = fmt.Errorf("%w: see slackboard -h", err)
	case *showVersion:
		text = fmt.Sprintf("slackboard %s %s %s/%s\n", build(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: the configuration is given as -c FILE", flags.Arg(0))
	case o.file == "" && (o.check || o.health || !o.dryRun):
		err = errors.New("no configuration: give one with -c FILE, or try it without Slack: slackboard -dry-run")
	}
	return o, text, err
}

// version is the number of this release, as in CHANGELOG.md.
const version = "1.0.0"

// build returns the version. If the build recorded them, the first 12 characters of the revision follow, and whether
// files were modified after that revision: 1.0.0+4bf7d1c09a2e.modified.
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
