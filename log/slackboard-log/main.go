// slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server.
// It exits as the command did: with its status, with 128+N when signal N killed it, with 127 when it was not found and
// 126 when it could not be executed. It exits 125 when it was called wrongly itself.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unicode/utf8"

	"slackboard/cli"
)

const usage = `slackboard-log runs a command and tells Slack when it fails, by way of a slackboard server.

  slackboard-log -s relay-host:29800 -t cron -- /usr/local/bin/backup --full
  slackboard-log -t cron -log /var/log/sync.log -- rsync -a /srv/ backup:/srv/
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var to cli.Flags
	flags := flag.NewFlagSet("slackboard-log", flag.ContinueOnError)
	to.Register(flags)
	notify := flags.Bool("notify", true, "tell Slack about a failure")
	logFile := flags.String("log", "", "append the command's output to `FILE`")
	if answered, err := to.Parse(flags, args, usage); err != nil {
		complain(err)
		return 125
	} else if answered {
		return 0
	}
	if flags.NArg() == 0 {
		complain(errors.New("no command: slackboard-log [flags] -- command args…"))
		return 125
	}
	if *notify {
		if err := to.Check(); err != nil {
			complain(err)
			return 125
		}
	}
	output, err := runCommand(flags.Args(), *logFile)
	if err == nil {
		if *notify {
			to.Flush(context.Background())
		}
		return 0
	}
	text := report(flags.Args(), output, err)
	fmt.Fprint(os.Stderr, text)
	if *notify {
		if err := to.Send(context.Background(), cli.Message{Text: text, Level: "crit"}); err != nil {
			complain(fmt.Errorf("not sent: %w", err))
		}
	}
	return exitStatus(err)
}

func complain(err error) { fmt.Fprintf(os.Stderr, "slackboard-log: %v\n", err) }

// runCommand runs args and returns what it printed. The command runs even if logFile cannot be written.
func runCommand(args []string, logFile string) (output []byte, err error) {
	var kept bytes.Buffer
	out := io.Writer(&kept)
	if logFile != "" {
		f, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			complain(fmt.Errorf("-log: %w", err))
		} else {
			defer f.Close()
			out = io.MultiWriter(&kept, &logWriter{f: f})
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, out
	err = cmd.Run()
	return kept.Bytes(), err
}

// logWriter appends to the -log file for as long as that works: the command does not notice when it stops to.
type logWriter struct {
	f      *os.File
	failed bool
}

func (w *logWriter) Write(p []byte) (int, error) {
	if !w.failed {
		if _, err := w.f.Write(p); err != nil {
			w.failed = true
			complain(fmt.Errorf("-log: %w", err))
		}
	}
	return len(p), nil
}

// report is what is printed and posted about a command that failed.
func report(args []string, output []byte, err error) string {
	host, _ := os.Hostname()
	return fmt.Sprintf("Host: %s\nCommand: %s\nOutput: %s\nError: %v\n", host, strings.Join(args, " "), shorten(string(output)), err)
}

// shorten keeps the beginning and the end of s: 3,000 bytes.
func shorten(s string) string {
	const half = 1500
	if len(s) <= 2*half {
		return s
	}
	head, tail := half, len(s)-half
	for !utf8.RuneStart(s[head]) {
		head--
	}
	for tail < len(s) && !utf8.RuneStart(s[tail]) {
		tail++
	}
	return fmt.Sprintf("%s\n[… %d bytes left out …]\n%s", s[:head], tail-head, s[tail:])
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 127
	}
	return 126
}
