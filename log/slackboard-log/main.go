// slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server. The command does not
// notice.
//
//	main.go     the flags, what happens in which order, and what people are told
//	command.go  the command: its process group, signals, -timeout, its output, and the status it leaves
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

func main() { os.Exit(run(os.Args[1:])) }

// run takes flags as wrong only where no run could be right: a file that is missing at night must not keep the command
// from running.
func run(args []string) int {
	c := command{killAfter: 10 * time.Second}
	flags := c.FlagSet("slackboard-log")
	notify := flags.Bool("notify", true, "tell Slack; -notify=false tells nobody")
	always := flags.Bool("always", false, "tell Slack about success too")
	flags.BoolVar(&c.noArgs, "no-args", false, "show the command's name only: its arguments are secret")
	flags.StringVar(&c.logPath, "log", "", "append the command's output to `FILE`")
	flags.BoolVar(&c.tee, "tee", false, "pass the command's output through as it comes")
	cli.TimeVar(flags, &c.timeout, "timeout", "end the command with TERM after this `TIME`")
	cli.TimeVar(flags, &c.killAfter, "kill-after", "end it with KILL this `TIME` after -timeout's TERM (default 10s)")
	err := c.Parse(flags, args, usage)
	if err == nil && flags.NArg() == 0 && !c.Check {
		err = errors.New("no command: slackboard-log [flags] -- command args…")
	} else if err == nil && (*notify || c.Check) {
		err = c.Wrong()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		c.Complain(fmt.Errorf("%w; the command was not run", err))
		return 125
	case c.Check:
		return c.Report()
	}
	if err := c.Ready(); err != nil && *notify {
		c.Complain(err)
	}
	c.run(flags.Args())
	if c.err != nil {
		fmt.Fprint(os.Stderr, c.report(false))
	}
	if *notify {
		c.notify(*always)
	}
	return c.status
}

// notify tells Slack how the command ended if that is worth telling, and sends what earlier runs have kept. A signal
// ends it.
func (c *command) notify(always bool) {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
	go func() { <-c.signals; cancel() }()
	if c.err == nil && !always {
		c.Flush(ctx)
		return
	}
	c.Text = func(int) string { return c.report(true) }
	c.Level = map[bool]string{true: "info", false: "crit"}[c.err == nil]
	c.Send(ctx)
}

// report says what happened, in the original's order. For Slack it has excerpts, as a terminal shows them, in which
// nothing is markup; else all of the output that was kept, as it was, unless people have seen it.
func (c *command) report(forSlack bool) string {
	show := strings.Clone
	output := "Output:\n" + c.kept.Cut(math.MaxInt, show)
	switch {
	case forSlack:
		show = func(s string) string { return cli.Harmless(cli.Cut(s, excerptLength, cli.Shown)) }
		output = "Output:\n" + strings.TrimPrefix(cli.Code(c.kept.Cut(excerptLength, cli.Shown)), cli.Code(""))
	case c.tee:
		output = ""
	case !strings.HasSuffix(output, "\n"):
		output += "\n"
	}
	host, _ := os.Hostname()
	args := c.cmd.Args
	if c.noArgs {
		args = args[:1]
	}
	text := fmt.Sprintf("Host: %s\nCommand: %s\nStarted: %s\nTook: %v\n%sExit status: %d\n",
		show(host), show(strings.Join(args, " ")), c.started.Format("2006-01-02 15:04:05 MST"),
		c.took.Round(time.Millisecond), output, c.status)
	if c.err != nil {
		text += "Error: " + show(c.err.Error()) + "\n"
	}
	return text
}
