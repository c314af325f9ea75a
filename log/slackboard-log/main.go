// slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server. The command does not notice.
//
//	main.go     the flags, and what happens in which order
//	command.go  the command: its process group, signals, -timeout, and the status it leaves
//	output.go   what it prints: kept in part, in -log FILE, passed through by -tee
//	report.go   what people are told about it
//
// It exits as the command did: with its status, with 128+N when signal N killed it, with 127 when it was not found and
// 126 when it could not be executed, with 124 when -timeout ended it. It exits 125 when it was called wrongly itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"slackboard/cli"
)

const usage = `slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server.

  slackboard-log -s relay-host -t cron -- /usr/local/bin/backup --full
  slackboard-log -t cron -timeout 2h -log /var/log/sync.log -title "nightly sync" -- rsync -a /srv/ backup:/srv/
`

// notifyTime is how long the end of slackboard-log may wait for a server, and for those after it.
const notifyTime = 2 * time.Minute

type options struct {
	cli.Flags
	notify, always, noArgs, tee bool
	logFile                     string
	timeout, killAfter          time.Duration
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	o, command, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		o.Complain(fmt.Errorf("%w; the command was not run", err))
		return 125
	}
	if o.Check {
		return o.Report(context.Background())
	}
	if o.notify {
		o.CheckFiles()
	}
	signals := catchSignals()
	out := openOutput(o.logFile, o.tee, o.Complain)
	r := runCommand(command, out, signals, o.timeout, o.killAfter)
	r.output = out.close()
	if r.err != nil {
		fmt.Fprint(os.Stderr, r.printed(o))
	}
	if o.notify {
		ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
		go cancelAtSignal(cancel, signals)
		notify(ctx, r, o)
	}
	return r.status
}

// parse returns what the arguments say. They are wrong only where no run could be right: a file that is missing at
// night must not keep the command from running.
func parse(args []string) (o options, command []string, err error) {
	flags := o.FlagSet("slackboard-log")
	o.killAfter = 10 * time.Second
	flags.BoolVar(&o.notify, "notify", true, "tell Slack")
	flags.BoolVar(&o.always, "always", false, "tell Slack about success too")
	flags.BoolVar(&o.noArgs, "no-args", false, "show the command's name only: its arguments are secret")
	flags.StringVar(&o.logFile, "log", "", "append the command's output to `FILE`")
	flags.BoolVar(&o.tee, "tee", false, "pass the command's output through as it comes")
	cli.TimeVar(flags, &o.timeout, "timeout", "end the command with TERM after this `TIME`")
	cli.TimeVar(flags, &o.killAfter, "kill-after", "end the command with KILL this `TIME` after the TERM of -timeout (default 10s)")
	err = o.Parse(flags, args, usage)
	switch {
	case err != nil:
	case flags.NArg() == 0 && !o.Check:
		err = errors.New("no command: slackboard-log [flags] -- command args…")
	case o.notify || o.Check:
		err = o.Wrong()
	}
	return o, flags.Args(), err
}

// notify tells Slack what r is worth telling, and sends what earlier runs have kept.
func notify(ctx context.Context, r result, o options) {
	level := "crit"
	if r.err == nil {
		if !o.always {
			o.Flush(ctx)
			return
		}
		level = "info"
	}
	if err := o.Send(ctx, cli.Message{Text: func(int) string { return r.posted(o) }, Level: level}); err != nil {
		o.Complain(fmt.Errorf("not sent: %w", err))
	}
}
