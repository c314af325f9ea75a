// slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server. The command should not
// notice slackboard-log.
//
//	main.go     the flags, the order of the steps, and the report
//	command.go  the command: its process group, signals, -timeout, its output, and its exit status
//	orphans_*   what the command leaves behind is reaped, on Linux
//
// It exits with the status of the command. If signal N killed the command, it exits with 128+N. It exits with 127 if
// the command was not found, with 126 if it could not be executed, with 124 if -timeout ended it, and with 125 if
// slackboard-log itself was called wrongly.
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

const excerptLength = 3000 // characters: the limit of each field in a message, such as the output

// notifyTime is how long slackboard-log may take to send messages, after the command has ended.
const notifyTime = 2 * time.Minute

func main() { os.Exit(run(os.Args[1:])) }

// run refuses flags only if they can never work. A file that is missing at night must not keep the command from
// running.
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

// notify sends a report of the command if it failed or if always is true, and sends the messages that earlier runs
// have kept. A signal ends the sending.
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

// report returns what happened, in the order of the original Slackboard's report. For Slack, each field is an excerpt,
// as cli.Shown and cli.Harmless return it. For standard error, the output is all that was kept of it, unchanged; with
// -tee it is left out, because people have seen it.
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
