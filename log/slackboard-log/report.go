package main

// What people are told about a command.

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"slackboard/cli"
)

const excerptLength = 3000 // characters of the command, and of its output, in a message

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
		show(host), show(command), r.started.Format("2006-01-02 15:04:05 MST"), r.took.Round(time.Millisecond), output, r.status)
	if r.err != nil {
		text += "Error: " + show(r.err.Error()) + "\n"
	}
	return text
}
