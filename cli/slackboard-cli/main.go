// slackboard-cli sends its standard input to Slack by way of a slackboard server.
// It exits 0 when the message was sent, 1 when it was not, 2 when it was called wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"slackboard/cli"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var to cli.Flags
	var m cli.Message
	flags := flag.NewFlagSet("slackboard-cli", flag.ContinueOnError)
	to.Register(flags)
	flags.StringVar(&m.Level, "l", "message", "`LEVEL`: message, info, warn or crit")
	flags.StringVar(&m.Color, "C", "", "`COLOR`, with -c: good, warning, danger or a code like #00ff00")
	flags.StringVar(&m.Title, "title", "", "`TITLE` above the text")
	version := flags.Bool("v", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if *version {
		fmt.Println(cli.Version("slackboard-cli"))
		return 0
	}
	if flags.NArg() > 0 {
		return fail(2, fmt.Errorf("unexpected argument %q: the text comes from standard input", flags.Arg(0)))
	}
	if err := to.Check(); err != nil {
		return fail(2, err)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fail(1, fmt.Errorf("standard input: %w", err))
	}
	if len(text) == 0 {
		return fail(1, errors.New("standard input is empty: there is nothing to send"))
	}
	m.Text = string(text)
	if err := to.Send(context.Background(), m); err != nil {
		return fail(1, fmt.Errorf("not sent: %w", err))
	}
	return 0
}

func fail(code int, err error) int {
	fmt.Fprintf(os.Stderr, "slackboard-cli: %v\n", err)
	return code
}
