// Package cli is what slackboard-cli and slackboard-log share.
//
//	cli.go      the flags that say where a message goes and how hard to try, and what both print about themselves
//	text.go     a text of any length, made fit for people
//	message.go  the message, as a request for the server
//	send.go     its way: one server after the other, round after round
//	spool.go    the folder that keeps messages until a server has them
//
// A request is sent until a server answers: 200, it is taken; a refusal is final, no other server is asked. Every try
// carries the same Idempotency-Key, in later runs as well, so that a server that was asked twice tells people once.
package cli

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Number is the version of all three programs.
const Number = "1.0.0"

// Version is what -v prints, on one line.
func Version(program string) string {
	return fmt.Sprintf("%s %s %s %s/%s", program, Number, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Flags say where a message goes and how hard to try.
type Flags struct {
	program                    string
	Servers                    string // comma separated: host, host:port, a URL, or unix:/path
	Auth                       string // the token, or file:PATH
	CACert, Cert, Key          string // files
	Spool                      string // the folder that keeps messages until a server has them, "" for none
	Tag, Channel               string // one of them
	Username, Icon, Markup     string // with Channel; Markup is Slack's parse mode
	Title                      string // above the text
	Sync                       bool   // wait until Slack has the message
	Check                      bool   // ask the servers, and send nothing
	RetryMax                   uint   // rounds after the first
	RetryWaitMin, RetryWaitMax time.Duration
}

// FlagSet returns the flags of a program, which adds its own to them. No default comes from the environment: the
// usage shows defaults, and one is secret.
func (f *Flags) FlagSet(program string) *flag.FlagSet {
	f.program, f.RetryWaitMin, f.RetryWaitMax = program, time.Second, 10*time.Second
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.StringVar(&f.Servers, "s", "", "the `SERVERS`, comma separated, tried in turn: "+
		"host (port 29800), host:port, http://…, https://… or unix:/path (default $SLACKBOARD_SERVER)")
	fs.StringVar(&f.Auth, "auth", "", "the `TOKEN`, or file:PATH to read it from (default $SLACKBOARD_AUTH_TOKEN)")
	fs.StringVar(&f.CACert, "cacert", "", "for https: trust the authorities in this `FILE` instead of the system's")
	fs.StringVar(&f.Cert, "cert", "", "for https: `FILE` with the certificate to show to the server, with -key")
	fs.StringVar(&f.Key, "key", "", "for https: `FILE` with the key of -cert")
	fs.StringVar(&f.Spool, "spool", "", "`DIR` to keep a message in until a server has it (default $SLACKBOARD_SPOOL)")
	fs.StringVar(&f.Tag, "t", "", "send to this `TAG`")
	fs.StringVar(&f.Channel, "c", "", "send to this `CHANNEL`, without a tag")
	fs.StringVar(&f.Username, "u", "slackboard", "with -c: the `NAME` to post under")
	fs.StringVar(&f.Icon, "i", ":clipboard:", "with -c: the `EMOJI` to post with")
	fs.StringVar(&f.Markup, "p", "full", "with -c: Slack's parse `MODE`, full or none")
	fs.StringVar(&f.Title, "title", "", "`TITLE` above the text")
	fs.BoolVar(&f.Sync, "sync", false, "wait until Slack has the message; -spool does not keep it")
	fs.BoolVar(&f.Check, "check", false, "send and run nothing: say whether the servers would take a message")
	fs.UintVar(&f.RetryMax, "retry-max", 4, "try the servers again this `NUMBER` of times")
	TimeVar(fs, &f.RetryWaitMin, "retry-wait-min", "`TIME` before the second try; it doubles each time (default 1s)")
	TimeVar(fs, &f.RetryWaitMax, "retry-wait-max", "the longest `TIME` between two tries (default 10s)")
	return fs
}

// TimeVar is a flag for a time that is not negative.
func TimeVar(fs *flag.FlagSet, t *time.Duration, name string, usage string) {
	fs.Func(name, usage, func(s string) (err error) {
		if *t, err = time.ParseDuration(s); err != nil || *t < 0 {
			err = errors.New("want a TIME like 30s or 2h")
		}
		return err
	})
}

// Parse reads args into fs and f, and then the environment for what they leave out. It answers -h and -v itself, and
// returns flag.ErrHelp then.
func (f *Flags) Parse(fs *flag.FlagSet, args []string, usage string) error {
	if !signal.Ignored(syscall.SIGPIPE) { // nobody reads what we print: no reason to die
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	var showVersion bool
	fs.BoolVar(&showVersion, "v", false, "print the version and exit")
	fs.BoolVar(&showVersion, "version", false, "print the version and exit, like -v")
	fs.SetOutput(io.Discard) // its errors are told in one line, by the caller
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage, "\nFlags (a TIME is a number with a unit: 500ms, 30s, 2h):\n")
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return flag.ErrHelp
	case err != nil:
		return fmt.Errorf("%w: see %s -h", err, f.program)
	case showVersion:
		fmt.Println(Version(f.program))
		return flag.ErrHelp
	}
	f.Servers = cmp.Or(f.Servers, os.Getenv("SLACKBOARD_SERVER"))
	f.Auth = cmp.Or(f.Auth, os.Getenv("SLACKBOARD_AUTH_TOKEN"))
	f.Spool = cmp.Or(f.Spool, os.Getenv("SLACKBOARD_SPOOL"))
	return f.misread(fs, args)
}

// misread returns what flag takes for something else than the user means.
func (f *Flags) misread(fs *flag.FlagSet, args []string) (err error) {
	fs.Visit(func(given *flag.Flag) {
		if f.Channel == "" && strings.Contains("u i p C", given.Name) {
			err = fmt.Errorf("-%s goes with -c: for a tag, the server's configuration says it", given.Name)
		}
	})
	if rest := fs.Args(); len(rest) > 1 && strings.HasPrefix(rest[1], "-") && len(rest) < len(args) {
		isBool := map[string]bool{"true": true, "false": true, "1": true, "0": true}
		before := args[len(args)-len(rest)-1]
		of := fs.Lookup(strings.TrimLeft(before, "-"))
		if of != nil && before[0] == '-' && isBool[of.DefValue] && isBool[rest[0]] {
			err = fmt.Errorf("%s %s: write %[1]s=%[2]s", before, rest[0])
		}
	}
	return err
}

// Wrong returns what is wrong with the flags, for the user. It reads no file: a file that is missing at night must not
// keep a command from running.
func (f *Flags) Wrong() error {
	switch {
	case f.Servers == "":
		return errors.New("no server: add -s HOST, or set SLACKBOARD_SERVER=HOST in the environment")
	case f.Tag == "" && f.Channel == "":
		return errors.New("no destination: set a tag with -t, or a channel with -c")
	case f.Tag != "" && f.Channel != "":
		return errors.New("-t and -c together: choose one")
	case (f.Cert == "") != (f.Key == ""):
		return errors.New("-cert and -key go together: set both")
	}
	_, err := parseServers(f.Servers, nil)
	return err
}

// Complain tells the user about err in one line.
func (f *Flags) Complain(err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", f.program, strings.ReplaceAll(err.Error(), "\n", "; "))
}
