// Package cli is what slackboard-cli and slackboard-log share.
//
//	cli.go      the flags that say where a message goes and how hard to try, and what both print about themselves
//	message.go  the message, as a request for the server
//	send.go     its way: one server after the other, round after round
//	spool.go    the folder that keeps what no server took
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
	"runtime"
	"strings"
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
	program  string
	Servers  string // comma separated: host:port, a URL, or unix:/path
	Auth     string // the token, or file:PATH
	CACert   string
	Cert     string
	Key      string
	Spool    string // the folder for what no server took, "" for none
	Tag      string
	Channel  string
	Username string // this one and the next two: with Channel
	Icon     string
	Markup   string // Slack's parse mode
	Title    string // above the text
	Sync     bool   // wait until Slack has the message

	RetryMax     int // rounds after the first
	RetryWaitMin time.Duration
	RetryWaitMax time.Duration
}

// FlagSet returns the flags of a program, which adds its own to them. No default comes from the environment: the usage shows
// defaults, and one is secret.
func (f *Flags) FlagSet(program string) *flag.FlagSet {
	f.program = program
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.StringVar(&f.Servers, "s", "", "the `SERVERS`, comma separated, tried in turn: host:port, http://…, https://… or unix:/path (default $SLACKBOARD_SERVER)")
	fs.StringVar(&f.Auth, "auth", "", "the `TOKEN` to send, or file:PATH to read it from (default $SLACKBOARD_AUTH_TOKEN)")
	fs.StringVar(&f.CACert, "cacert", "", "trust the authorities in this `FILE` instead of the system's")
	fs.StringVar(&f.Cert, "cert", "", "`FILE` with the certificate to show to the server")
	fs.StringVar(&f.Key, "key", "", "`FILE` with its key")
	fs.StringVar(&f.Spool, "spool", "", "`DIR` that keeps what no server took, for a later run (default $SLACKBOARD_SPOOL)")
	fs.StringVar(&f.Tag, "t", "", "send to this `TAG`")
	fs.StringVar(&f.Channel, "c", "", "send to this `CHANNEL`")
	fs.StringVar(&f.Username, "u", "slackboard", "the `NAME` to post under, with -c")
	fs.StringVar(&f.Icon, "i", ":clipboard:", "the `EMOJI` to post with, with -c")
	fs.StringVar(&f.Markup, "p", "full", "Slack's parse `MODE`, full or none, with -c")
	fs.StringVar(&f.Title, "title", "", "`TITLE` above the text")
	fs.BoolVar(&f.Sync, "sync", false, "wait until Slack has the message; nothing is kept in -spool")
	fs.IntVar(&f.RetryMax, "retry-max", 4, "`ROUNDS` over the servers after the first")
	fs.DurationVar(&f.RetryWaitMin, "retry-wait-min", time.Second, "`TIME` before the second round; it doubles")
	fs.DurationVar(&f.RetryWaitMax, "retry-wait-max", 10*time.Second, "longest `TIME` before a round")
	return fs
}

// Parse reads args into fs and f, and then the environment for what they leave out. It answers -h and -v itself, and
// returns flag.ErrHelp then.
func (f *Flags) Parse(fs *flag.FlagSet, args []string, usage string) error {
	showVersion := fs.Bool("v", false, "print the version and exit")
	fs.SetOutput(io.Discard) // its errors are told in one line, by the caller
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage, "\nFlags:\n")
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return flag.ErrHelp
	case err != nil:
		return fmt.Errorf("%w: see %s -h", err, f.program)
	case *showVersion:
		fmt.Println(Version(f.program))
		return flag.ErrHelp
	}
	f.Servers = cmp.Or(f.Servers, os.Getenv("SLACKBOARD_SERVER"))
	f.Auth = cmp.Or(f.Auth, os.Getenv("SLACKBOARD_AUTH_TOKEN"))
	f.Spool = cmp.Or(f.Spool, os.Getenv("SLACKBOARD_SPOOL"))
	return nil
}

// Check returns what is wrong with the flags, for the user. It reads no file: whether one is there at night is a matter
// of sending.
func (f *Flags) Check() error {
	switch {
	case f.Servers == "":
		return errors.New("no server: set -s or SLACKBOARD_SERVER")
	case f.Tag == "" && f.Channel == "":
		return errors.New("no destination: set a tag with -t, or a channel with -c")
	case f.Tag != "" && f.Channel != "":
		return errors.New("-t and -c together: choose one")
	case (f.Cert == "") != (f.Key == ""):
		return errors.New("-cert and -key go together: set both")
	case f.RetryMax < 0 || f.RetryWaitMin < 0 || f.RetryWaitMax < 0:
		return errors.New("-retry-max, -retry-wait-min and -retry-wait-max must not be negative")
	}
	_, err := parseServers(f.Servers, nil)
	return err
}

// Complain tells the user about err in one line.
func (f *Flags) Complain(err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", f.program, strings.ReplaceAll(err.Error(), "\n", "; "))
}
