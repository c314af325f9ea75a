// slackboard-cli sends its standard input to Slack by way of a slackboard server.
// It exits 0 when the message was sent or kept for a later run, 1 when it was not, 2 when it was called wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"slackboard/cli"
)

const usage = `slackboard-cli sends its standard input to Slack by way of a slackboard server.

  df -h | slackboard-cli -s relay-host -t ops -title "disk of $(hostname)" -code
  tail -n 20 /var/log/app.log | slackboard-cli -s https://relay-1,https://relay-2 -c '#ops' -l warn -escape
`

// quiet is how long standard input may bring nothing before we say that we wait for its end.
const quiet = 5 * time.Second

// levels are the arguments of -l and what they mean.
var levels = map[string]string{
	"message": "message", "info": "info", "warn": "warn", "warning": "warn", "crit": "crit", "error": "crit",
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var to cli.Flags
	m := cli.Message{Level: "message"}
	flags := to.FlagSet("slackboard-cli")
	flags.Func("l", "`LEVEL`: message (the default), info, warn or warning, crit or error", func(s string) error {
		if m.Level = levels[s]; m.Level == "" {
			return errors.New("want message, info, warn, warning, crit or error")
		}
		return nil
	})
	flags.StringVar(&m.Color, "C", "", "with -c: `COLOR` of the bar: good, warning, danger or a code like #00ff00")
	escape := flags.Bool("escape", false, "show the text as it is: & < > are no markup; leave out colors")
	code := flags.Bool("code", false, "show the text as it is, in a block of code: tables stay tables")
	fail := func(status int, err error) int {
		to.Complain(err)
		return status
	}

	err := to.Parse(flags, args, usage)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: the text comes from standard input, as in: "+
			"echo hello | slackboard-cli -t ops", flags.Arg(0))
	} else if err == nil {
		err = to.Wrong()
	}
	if err != nil {
		return fail(2, err)
	}
	if to.Check {
		return to.Report(context.Background())
	}
	var text cli.Text
	if err := read(&text, to.Complain); err != nil {
		return fail(1, err)
	}
	m.Text = func(limit int) string {
		switch {
		case *code:
			return cli.Code(text.Cut(limit, cli.Shown))
		case *escape:
			return cli.Escape(text.Cut(limit, cli.Shown))
		}
		return text.Cut(limit, cli.Plain)
	}
	if err := to.Send(context.Background(), m); err != nil {
		return fail(1, fmt.Errorf("not sent: %w", err))
	}
	return 0
}

// read reads standard input into text.
func read(text *cli.Text, complain func(error)) error {
	say := errors.New("waiting for the end of standard input (at a terminal: Ctrl-D)")
	waits := time.AfterFunc(quiet, func() { complain(say) })
	defer waits.Stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := os.Stdin.Read(buf)
		text.Write(buf[:n])
		if waits.Stop() { // else it has been said
			waits.Reset(quiet)
		}
		switch {
		case err == io.EOF && text.Total == 0:
			return errors.New("standard input is empty: there is nothing to send")
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("standard input: %w", err)
		}
	}
}
