// Package cli is what slackboard-cli and slackboard-log share: the flags that say where a message goes, and the
// message itself. send.go carries it to the server.
package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Number is the version of all three programs.
const Number = "1.0.0"

// Version is what -v prints, on one line.
func Version(program string) string {
	return fmt.Sprintf("%s %s %s %s/%s", program, Number, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Flags say where a message goes and how hard to try.
type Flags struct {
	Server   string // host:port, a URL, or unix:/path
	Tag      string
	Channel  string
	Username string // this one and the next two: with Channel
	Icon     string
	Parse    string
	Sync     bool // wait until Slack has the message

	RetryMax     int // tries after the first
	RetryWaitMin time.Duration
	RetryWaitMax time.Duration
}

// Register adds the shared flags to fs.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.StringVar(&f.Server, "s", os.Getenv("SLACKBOARD_SERVER"), "the `SERVER`: host:port, http://…, https://… or unix:/path (default $SLACKBOARD_SERVER)")
	fs.StringVar(&f.Tag, "t", "", "send to this `TAG`")
	fs.StringVar(&f.Channel, "c", "", "send to this `CHANNEL`")
	fs.StringVar(&f.Username, "u", "slackboard", "the `NAME` to post under, with -c")
	fs.StringVar(&f.Icon, "i", ":clipboard:", "the `EMOJI` to post with, with -c")
	fs.StringVar(&f.Parse, "p", "full", "Slack's parse `MODE`, full or none, with -c")
	fs.BoolVar(&f.Sync, "sync", false, "wait until Slack has the message")
	fs.IntVar(&f.RetryMax, "retry-max", 4, "`TRIES` after the first")
	fs.DurationVar(&f.RetryWaitMin, "retry-wait-min", time.Second, "`TIME` before the first retry; it doubles")
	fs.DurationVar(&f.RetryWaitMax, "retry-wait-max", 10*time.Second, "longest `TIME` before a retry")
}

// Check returns what is wrong with the flags, for the user.
func (f *Flags) Check() error {
	switch {
	case f.Server == "":
		return errors.New("no server: set -s or SLACKBOARD_SERVER")
	case f.Tag == "" && f.Channel == "":
		return errors.New("no destination: set a tag with -t, or a channel with -c")
	case f.Tag != "" && f.Channel != "":
		return errors.New("-t and -c together: choose one")
	case f.RetryMax < 0 || f.RetryWaitMin < 0 || f.RetryWaitMax < 0:
		return errors.New("-retry-max, -retry-wait-min and -retry-wait-max must not be negative")
	}
	_, err := parseServer(f.Server)
	return err
}

// Message is what to tell people.
type Message struct {
	Text  string
	Title string
	Level string // message, info, warn or crit
	Color string // with a channel: good, warning, danger or a code; goes before Level's
}

// request returns path and body of the HTTP request that sends m.
func (f *Flags) request(m Message) (path string, body []byte, err error) {
	host, _ := os.Hostname()
	if f.Tag != "" {
		body, err = json.Marshal(map[string]any{
			"tag": f.Tag, "host": host, "text": m.Text, "level": m.Level, "title": m.Title, "sync": f.Sync,
		})
		return "/notify", body, err
	}
	payload := map[string]any{
		"channel": channel(f.Channel), "username": f.Username, "icon_emoji": f.Icon, "parse": f.Parse,
	}
	color := cmp.Or(m.Color, map[string]string{"info": "#00ff00", "warn": "#ffdd00", "crit": "#ff0000"}[m.Level])
	if color != "" || m.Title != "" {
		fallback := m.Text // what notifications show
		if m.Title != "" {
			fallback = m.Title + ": " + m.Text
		}
		payload["attachments"] = []map[string]any{{
			"color": color, "title": m.Title, "text": m.Text, "fallback": fallback, "footer": host, "mrkdwn_in": []string{"text"},
		}}
	} else {
		payload["text"] = m.Text
	}
	body, err = json.Marshal(map[string]any{"payload": payload, "host": host, "sync": f.Sync})
	return "/notify-directly", body, err
}

// channel puts # in front of a channel's name. Ids of channels, direct messages, groups and users stay as they are,
// and so do @names.
func channel(name string) string {
	isID := len(name) >= 9 && strings.ContainsRune("CDGU", rune(name[0])) &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
	if isID || strings.HasPrefix(name, "#") || strings.HasPrefix(name, "@") {
		return name
	}
	return "#" + name
}
