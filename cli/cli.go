// Package cli is what slackboard-cli and slackboard-log share.
//
//	cli.go   the flags that say where a message goes and how hard to try, and the message that is made of them
//	text.go  a text of any length, made fit for people
//	send.go  the way to the servers, and the folder that keeps messages until one has them
//
// A request is sent until a server answers: 200, it is taken; a refusal is final, no other server is asked. Every try
// carries the same Idempotency-Key, in later runs as well, so that a server that was asked twice tells people once.
package cli

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Number is the version of all three programs.
const Number = "1.0.0"

const (
	maxRequest = 1 << 20 // what a server takes: bytes of a request's body
	titleLimit = 1000    // characters
)

// Version is what -v prints, on one line.
func Version(program string) string {
	return fmt.Sprintf("%s %s %s %s/%s", program, Number, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Flags say where a message goes and how hard to try: FlagSet says what each is.
type Flags struct {
	program, Servers, Auth, CACert, Cert, Key, Spool, Tag, Channel, Username, Icon, Markup, Title string

	Sync, Check                bool
	RetryMax                   uint
	RetryWaitMin, RetryWaitMax time.Duration

	servers []server // as Ready reads them
	token   string
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
	value := fs.Arg(0) // a word that flag takes for the end of the flags, after a flag that needs no value
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

// Message is what to tell people.
type Message struct {
	Text  func(limit int) string // the text, cut to a number of characters before it is escaped
	Level string                 // message, info, warn or crit
	Color string                 // with a channel: good, warning, danger or a code; goes before Level's
}

// request is a message on its way. This is also what the spool keeps of it: there is no token in it.
type request struct {
	Path string          `json:"path"`
	To   string          `json:"to,omitempty"` // the tag or the channel
	Key  string          `json:"key"`          // by which a server knows one that it has taken already
	Body json.RawMessage `json:"body"`         // nil: the request is a question
}

// request returns m as a request. It cuts as much of the text as a server would not take.
func (f *Flags) request(m Message) request {
	r := request{Path: "/notify", To: cmp.Or(f.Tag, channel(f.Channel)), Key: rand.Text()}
	if f.Tag == "" {
		r.Path = "/notify-directly"
	}
	for limit := maxRequest; ; limit = limit / 16 * 15 * maxRequest / len(r.Body) {
		if r.Body = encode(f.body(m, m.Text(limit))); len(r.Body) <= maxRequest || limit == 0 {
			return r
		}
	}
}

// body returns the message as the server knows it.
func (f *Flags) body(m Message, text string) map[string]any {
	host, _ := os.Hostname()
	title := Cut(f.Title, titleLimit, Plain)
	if f.Tag != "" {
		return map[string]any{
			"tag": f.Tag, "host": host, "text": text, "level": m.Level, "title": title, "sync": f.Sync,
		}
	}
	payload := map[string]any{
		"channel": channel(f.Channel), "username": f.Username, "icon_emoji": f.Icon, "parse": f.Markup,
	}
	color := cmp.Or(m.Color, map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[m.Level])
	if color == "" && title == "" {
		payload["text"] = text
	} else {
		payload["attachments"] = []map[string]any{{
			"color": color, "title": title, "text": text, "footer": host, "mrkdwn_in": []string{"text"},
			"fallback": strings.TrimPrefix(title+": "+text, ": "), // what notifications show
		}}
	}
	return map[string]any{"payload": payload, "host": host, "sync": f.Sync}
}

// channel puts # in front of a channel's name, except of #names, @names and ids of channels, direct messages, groups
// and users.
func channel(name string) string {
	if regexp.MustCompile(`^([#@].*|[CDGU][A-Z0-9]{8,}|)$`).MatchString(name) {
		return name
	}
	return "#" + name
}

// encode returns v as JSON. Bytes that are not UTF-8 become U+FFFD; & < > stay one byte each.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v) // of strings and booleans: no error
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
