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

	"slackboard/cli"
)

const usage = `slackboard-cli sends its standard input to Slack by way of a slackboard server.

  df -h | slackboard-cli -s relay-host:29800 -t ops -title "disk of $(hostname)"
  tail -n 20 /var/log/app.log | slackboard-cli -s https://relay-1,https://relay-2 -c '#ops' -l warn -escape
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var to cli.Flags
	var m cli.Message
	flags := to.FlagSet("slackboard-cli")
	flags.StringVar(&m.Level, "l", "message", "`LEVEL`: message, info, warn or crit")
	flags.StringVar(&m.Color, "C", "", "`COLOR`, with -c: good, warning, danger or a code like #00ff00")
	escape := flags.Bool("escape", false, "send the text as it is: escape what Slack takes for markup, & < >")
	fail := func(status int, err error) int {
		to.Complain(err)
		return status
	}

	if err := to.Parse(flags, args, usage); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return fail(2, err)
	}
	if flags.NArg() > 0 {
		return fail(2, fmt.Errorf("unexpected argument %q: the text comes from standard input", flags.Arg(0)))
	}
	if err := to.Check(); err != nil {
		return fail(2, err)
	}
	text, err := readText(os.Stdin)
	if err != nil {
		return fail(1, err)
	}
	if m.Text = text; *escape {
		m.Text = cli.Escape(text)
	}
	if err := to.Send(context.Background(), m); err != nil {
		return fail(1, fmt.Errorf("not sent: %w", err))
	}
	return 0
}

// readText returns what r has to say. It reads no more than a server would take.
func readText(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, cli.MaxRequest+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("standard input: %w", err)
	case len(text) == 0:
		return "", errors.New("standard input is empty: there is nothing to send")
	case len(text) > cli.MaxRequest:
		return "", fmt.Errorf("standard input has more than %d bytes, which is all that a server takes: send less text", cli.MaxRequest)
	}
	return string(text), nil
}
