// slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server. The command does not
// notice.
//
//	main.go     the flags, what happens in which order, and what people are told
//	command.go  the command: its process group, signals, -timeout, and the status it leaves
//	output.go   what it prints: kept in part, in -log FILE, passed through by -tee
//
// It exits as the command did: with its status, with 128+N when signal N killed it, with 127 when it was not found and
// 126 when it could not be executed, with 124 when -timeout ended it. It exits 125 when it was called wrongly itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"slackboard/cli"
)

const usage = `slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server.

  slackboard-log -s relay-host -t cron -- /usr/local/bin/backup --full
  slackboard-log -t cron -timeout 2h -log /var/log/sync.log -title "nightly sync" -- rsync -a /srv/ backup:/srv/
`

const excerptLength = 3000 // characters of the command, and of its output, in a message

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
		notify(r, o, signals)
	}
	return r.status
}

// parse returns what the arguments say. They are wrong only where no run could be right: a file that is missing at
// night must not keep the command from running.
func parse(args []string) (o options, command []string, err error) {
	flags := o.FlagSet("slackboard-log")
	o.killAfter = 10 * time.Second
	flags.BoolVar(&o.notify, "notify", true, "tell Slack; -notify=false tells nobody")
	flags.BoolVar(&o.always, "always", false, "tell Slack about success too")
	flags.BoolVar(&o.noArgs, "no-args", false, "show the command's name only: its arguments are secret")
	flags.StringVar(&o.logFile, "log", "", "append the command's output to `FILE`")
	flags.BoolVar(&o.tee, "tee", false, "pass the command's output through as it comes")
	cli.TimeVar(flags, &o.timeout, "timeout", "end the command with TERM after this `TIME`")
	cli.TimeVar(flags, &o.killAfter, "kill-after", "end it with KILL this `TIME` after -timeout's TERM (default 10s)")
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

// notify tells Slack what r is worth telling, and sends what earlier runs have kept. A signal ends it.
func notify(r result, o options, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
	go func() {
		for s := range signals {
			if ends(s) {
				cancel()
			}
		}
	}()
	if r.err == nil && !o.always {
		o.Flush(ctx)
		return
	}
	level := map[bool]string{true: "info", false: "crit"}[r.err == nil]
	if err := o.Send(ctx, cli.Message{Text: func(int) string { return r.posted(o) }, Level: level}); err != nil {
		o.Complain(fmt.Errorf("not sent: %w", err))
	}
}

// printed is for standard error: all that was kept of the output, as it was.
func (r result) printed(o options) string {
	if o.tee {
		return r.report(o, "", strings.Clone)
	}
	text := r.output.Cut(math.MaxInt, strings.Clone)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return r.report(o, "Output:\n"+text, strings.Clone)
}

// posted is for Slack: an excerpt of the output, in a code block that it cannot break out of.
func (r result) posted(o options) string {
	show := func(s string) string { return cli.Harmless(cli.Cut(s, excerptLength, cli.Shown)) }
	text := ""
	if r.output.Total > 0 {
		text = cli.Code(r.output.Cut(excerptLength, cli.Shown))
	}
	return r.report(o, "Output:\n"+text, show)
}

// report returns the lines, in the original's order. show makes text from outside fit to be shown.
func (r result) report(o options, output string, show func(string) string) string {
	host, _ := os.Hostname()
	command := strings.Join(r.args, " ")
	if o.noArgs {
		command = r.args[0]
	}
	text := fmt.Sprintf("Host: %s\nCommand: %s\nStarted: %s\nTook: %v\n%sExit status: %d\n",
		show(host), show(command), r.started.Format("2006-01-02 15:04:05 MST"), r.took.Round(time.Millisecond),
		output, r.status)
	if r.err != nil {
		text += "Error: " + show(r.err.Error()) + "\n"
	}
	return text
}
