// slackboard-cli sends its standard input to Slack by way of a slackboard server. It exits 0 if the message was sent
// or kept for a later run, 1 if it was not, and 2 if slackboard-cli was called wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"slackboard/cli"
)

const usage = `slackboard-cli sends its standard input to Slack by way of a slackboard server.

  df -h | slackboard-cli -s relay-host -t ops -title "disk of $(hostname)" -code
  tail -n 20 /var/log/app.log | slackboard-cli -s https://relay-1,https://relay-2 -c '#ops' -l warn -escape
`

// quiet is how long standard input may bring no byte before a line says that the client waits for its end.
const quiet = 5 * time.Second

// levels has the arguments of -l and the level that each stands for.
var levels = map[string]string{
	"message": "message", "info": "info", "warn": "warn", "warning": "warn", "crit": "crit", "error": "crit",
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var to cli.Flags
	to.Level = "message"
	flags := to.FlagSet("slackboard-cli")
	flags.Func("l", "`LEVEL`: message (the default), info, warn or warning, crit or error", func(s string) error {
		if to.Level = levels[s]; to.Level == "" {
			return errors.New("want message, info, warn, warning, crit or error")
		}
		return nil
	})
	flags.StringVar(&to.Color, "C", "", "with -c: `COLOR` of the bar: good, warning, danger or a code like #00ff00")
	escape := flags.Bool("escape", false, "show the text as it is: & < > are no markup; leave out colors")
	code := flags.Bool("code", false, "show the text as it is, in a block of code: tables stay tables")
	err := to.Parse(flags, args, usage)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: the text comes from standard input, as in: "+
			"echo hello | slackboard-cli -t ops", flags.Arg(0))
	} else if err == nil {
		err = to.Wrong()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		to.Complain(err)
		return 2
	case to.Check:
		return to.Report()
	}
	var text cli.Text
	if err := read(&text, to.Complain); err != nil {
		to.Complain(err)
		return 1
	}
	clean, show := cli.Plain, strings.Clone
	switch {
	case *code:
		clean, show = cli.Shown, cli.Code
	case *escape:
		clean, show = cli.Shown, cli.Escape
	}
	to.Text = func(limit int) string { return show(text.Cut(limit, clean)) }
	return to.Send(context.Background())
}

// read reads standard input into text, until it ends. It is an error if standard input is empty.
func read(text *cli.Text, complain func(error)) error {
	waits := time.AfterFunc(quiet, func() {
		complain(errors.New("waiting for the end of standard input (at a terminal: Ctrl-D)"))
	})
	defer waits.Stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := os.Stdin.Read(buf)
		text.Write(buf[:n])
		switch {
		case err == io.EOF && text.Total == 0:
			return errors.New("standard input is empty: there is nothing to send")
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("standard input: %w", err)
		case waits.Stop(): // false once the line was printed
			waits.Reset(quiet)
		}
	}
}
