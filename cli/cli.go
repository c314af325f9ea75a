// Package cli is the code that slackboard-cli and slackboard-log share.
//
//	cli.go   the flags of both programs
//	text.go  a text of any length and content, cut and cleaned for people to read
//	send.go  a message as a request, how it is sent, and the spool that keeps it until a server has it
//
// A client offers a request to one server after the other. A 200 means that the server has taken the message. A
// refusal is final: no other server is asked. If a server gives no answer or cannot take the message now, the next
// server is asked. If no server takes the message, all are asked again: at most -retry-max times or, with a spool, by a
// later run. Each try has the same Idempotency-Key, in later runs too: a server that gets the request twice takes the
// message once.
package cli

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// version is the release of all three programs: the same as in the server's main.go and in CHANGELOG.md.
const version = "1.0.0"

// build returns the version and the source's revision, in the server's format: 1.0.0+4bf7d1c09a2e.modified.
func build() string {
	text := version
	info, _ := debug.ReadBuildInfo()
	if revision := regexp.MustCompile(`vcs\.revision=(.{12})`).FindStringSubmatch(fmt.Sprint(info)); revision != nil {
		text += "+" + revision[1]
	}
	if strings.Contains(fmt.Sprint(info), "vcs.modified=true") {
		text += ".modified"
	}
	return text
}

// Flags are the flags of both programs: what the message is, where it goes, how often to try. See FlagSet.
type Flags struct {
	program                                     string
	Servers, Auth, CACert, Cert, Key, Spool     string
	Tag, Channel, Username, Icon, Markup, Title string

	Level, Color string                 // message, info, warn or crit; with Channel, Color replaces Level's color
	Text         func(limit int) string // the text, cut to limit characters before it is escaped

	Sync, Check                bool
	RetryMax                   uint
	RetryWaitMin, RetryWaitMax time.Duration

	servers []server // set by Ready, like token
	token   string
}

// FlagSet returns the flags that both programs have. The caller adds the flags of its own program. No default comes
// from the environment: the usage prints the defaults, and the token in the environment is secret.
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

// TimeVar defines a flag for a duration that is not negative.
func TimeVar(fs *flag.FlagSet, t *time.Duration, name string, usage string) {
	fs.Func(name, usage, func(s string) (err error) {
		if *t, err = time.ParseDuration(s); err != nil || *t < 0 {
			err = errors.New("want a TIME like 30s or 2h")
		}
		return err
	})
}

// Parse reads args into fs and f. The servers, the token and the spool come from the environment if args leave them
// out. Parse answers -h and -v itself and then returns flag.ErrHelp. Flags that would not do what the user means are
// errors too: a flag such as -u without -c, and "-tee true" instead of -tee=true.
func (f *Flags) Parse(fs *flag.FlagSet, args []string, usage string) error {
	if !signal.Ignored(syscall.SIGPIPE) { // the program must not die if nobody reads its output
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	debug.SetMemoryLimit(16 << 20) // more than the kept part of a text needs
	showVersion := fs.Bool("v", false, "print the version and exit")
	fs.BoolVar(showVersion, "version", false, "print the version and exit, like -v")
	fs.SetOutput(io.Discard) // the caller prints the error, in one line
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage, "\nFlags (a TIME is a number with a unit: 500ms, 30s, 2h):\n")
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return flag.ErrHelp
	case err != nil:
		return fmt.Errorf("%w: see %s -h", err, f.program)
	case *showVersion:
		fmt.Printf("%s %s %s %s/%s\n", f.program, build(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return flag.ErrHelp
	}
	f.Servers = cmp.Or(f.Servers, os.Getenv("SLACKBOARD_SERVER"))
	f.Auth = cmp.Or(f.Auth, os.Getenv("SLACKBOARD_AUTH_TOKEN"))
	f.Spool = cmp.Or(f.Spool, os.Getenv("SLACKBOARD_SPOOL"))
	value := fs.Arg(0) // "true" in "-tee true -- job": package flag stops before it
	isStray := slices.Contains([]string{"true", "false", "1", "0"}, value) && strings.HasPrefix(fs.Arg(1), "-")
	fs.Visit(func(given *flag.Flag) {
		last := args[len(args)-fs.NArg()-1]
		if f.Channel == "" && strings.Contains("u i p C", given.Name) {
			err = fmt.Errorf("-%s goes with -c: for a tag, the server's configuration says it", given.Name)
		} else if isStray && strings.TrimLeft(last, "-") == given.Name {
			err = fmt.Errorf("%s %s: write %[1]s=%[2]s", last, value)
		}
	})
	return err
}

// Wrong returns an error for the user if the flags can never work. It reads no file: a file that is missing at night
// must not keep a command from running.
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

// Complain prints err on standard error, in one line.
func (f *Flags) Complain(err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", f.program, strings.ReplaceAll(err.Error(), "\n", "; "))
}
