package main

// The configuration: one table of all keys with defaults and limits, the checks, and the view with masked secrets.

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unique"
)

// secret is the URL of a webhook, or a token. It is printed and encoded as masked, and as nothing if it is empty. In
// the unexported field of another type, where fmt does not call Format, it shows as an address, since the text is
// behind a handle. Secrets with the same text are equal, so a secret can be part of a map's key.
type secret struct{ text unique.Handle[string] }

const masked = "..." // shown in the place of a secret, for example by /config/app

func newSecret(text string) (s secret) {
	if text != "" {
		s.text = unique.Make(text)
	}
	return s
}

// reveal returns the text, for requests to Slack and for comparisons. A person must never see the text.
func (s secret) reveal() string { return cmp.Or(s.text, unique.Make("")).Value() }

// Format implements fmt.Formatter: every verb of fmt prints masked.
func (s secret) Format(f fmt.State, _ rune) {
	if s != (secret{}) {
		fmt.Fprint(f, masked)
	}
}

// MarshalText does the same for JSON and for logs.
func (s secret) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

// credential says where and as whom a message is posted: a webhook's URL, or a token and the URL of chat.postMessage.
type credential struct{ url, token secret }

// destination is a channel of a credential. Each destination has one lane: its messages stay in order.
type destination struct {
	credential credential
	channel    string
}

type config struct {
	path string
	core struct {
		port, socketMode             string
		authToken                    secret // the operators' token
		tlsCert, tlsKey, tlsClientCA string // files
		slackURL, token              secret
		apiURL, reportTag            string
		qps                          int64 // posts per second to Slack, in all; 0: no limit
		maxDelay                     int64 // seconds that qps may delay a message; -1: no limit
		channelRate                  int64 // posts per second to one destination; 0: no limit
		batch                        int64 // most attachments in a merged post; 1: messages are not merged
	}
	tags    []*tag
	senders []*sender
	spool   struct {
		dir          string
		maxBytes     int64 // of waiting messages
		maxAge       int64 // seconds for which delivery is tried
		historyBytes int64 // size of the log up to which segments without live messages are kept
	}
	log struct{ access, errors, level string }
	ui  struct{ root string }

	credential credential        // of [core]; empty if [core] has none
	byTag      map[string][]*tag // the entries of each name: a message goes to all of them
	tls        *tls.Config       // nil: plain HTTP
	warnings   []string
}

type tag struct {
	name, username, icon, parse string
	slackURL, token             secret
	destination                 // its credential is the tag's own, or else that of [core]
}

// sender may post with its token, and do nothing else. While a token is replaced, two entries with the same name make
// both the old and the new token valid.
type sender struct {
	name  string
	token secret
}

// key is one key of a section.
type key struct {
	name   string
	to     any                // points to its value: a *string, *int64 or *secret
	preset string             // the default, or the constant required
	check  func(string) error // is not called for the default; nil: every value is valid
}

const required = "required" // as a preset: the key has no default and must be set

// section is a section such as [core], or one entry of a list such as [[tags]].
type section struct {
	header string
	id     any // loader.row has the line of its header under this id
	keys   []key
}

// sections returns the table of all keys. Each key points to its value in c.
func (c *config) sections() []section {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":") // systemd.exec(5): where the service keeps its state
	all := []section{
		{"[core]", &c.core, []key{
			{"port", &c.core.port, "29800", checkPort},
			{"socket_mode", &c.core.socketMode, "", isMode},
			{"auth_token", &c.core.authToken, "", isToken},
			{"tls_cert", &c.core.tlsCert, "", nil},
			{"tls_key", &c.core.tlsKey, "", nil},
			{"tls_client_ca", &c.core.tlsClientCA, "", nil},
			{"slack_url", &c.core.slackURL, "", isURL},
			{"slack_token", &c.core.token, "", isToken},
			{"slack_api_url", &c.core.apiURL, "https://slack.com/api/", isURL},
			{"qps", &c.core.qps, "0", between(0, 1_000_000)},
			{"max_delay_duration", &c.core.maxDelay, "-1", between(-1, 86_400)},
			{"channel_rate", &c.core.channelRate, "1", between(0, 1000)},
			{"batch", &c.core.batch, "20", between(1, 100)}, // Slack takes 100 attachments at most
			{"report_tag", &c.core.reportTag, "", nil},
		}},
		{"[spool]", &c.spool, []key{
			{"dir", &c.spool.dir, cmp.Or(state, "slackboard.spool"), notEmpty},
			{"max_bytes", &c.spool.maxBytes, "1073741824", between(1<<20, 1<<44)},   // 1 GiB
			{"max_age", &c.spool.maxAge, "259200", between(1, 366*86_400)},          // 72 h
			{"history_bytes", &c.spool.historyBytes, "67108864", between(0, 1<<40)}, // 64 MiB
		}},
		{"[log]", &c.log, []key{
			{"access_log", &c.log.access, "stdout", notEmpty},
			{"error_log", &c.log.errors, "stderr", notEmpty},
			{"level", &c.log.level, "error", isLevel},
		}},
		{"[ui]", &c.ui, []key{{"root", &c.ui.root, "", nil}}},
	}
	for _, t := range c.tags {
		all = append(all, section{"[[tags]]", t, []key{
			{"tag", &t.name, required, notEmpty},
			{"channel", &t.channel, "#random", nil},
			{"username", &t.username, "slackboard", nil},
			{"icon_emoji", &t.icon, ":clipboard:", nil},
			{"parse", &t.parse, "full", nil},
			{"slack_url", &t.slackURL, "", isURL},
			{"slack_token", &t.token, "", isToken},
		}})
	}
	for _, s := range c.senders {
		all = append(all, section{"[[senders]]", s, []key{
			{"name", &s.name, required, isName},
			{"token", &s.token, required, isToken},
		}})
	}
	return all
}

// dryRunTOML is the configuration of a dry run without a file.
const dryRunTOML = "[core]\nport = '127.0.0.1:29800'\n" +
	"[[tags]]\ntag = 'general'\nchannel = '#general'\n" +
	"[[tags]]\ntag = 'random'\nchannel = '#random'\n" +
	"[[tags]]\ntag = 'test'\nchannel = '#test'\n"

// credentialOf returns the credential for a token or, if the token is empty, for the URL of a webhook.
func (c *config) credentialOf(token, url secret) credential {
	if token == (secret{}) {
		return credential{url: url}
	}
	return credential{newSecret(strings.TrimRight(c.core.apiURL, "/") + "/chat.postMessage"), token}
}

// lookup returns the destination of a route in this configuration, and the route's tag. The tag is nil if the route
// names a channel and no tag. A tag, or an entry of a tag, that is not configured is an error.
func (c *config) lookup(r route) (destination, *tag, error) {
	if r.tag == "" {
		return destination{c.credential, r.channel}, nil, nil
	}
	if entries := c.byTag[r.tag]; r.index < len(entries) {
		return entries[r.index].destination, entries[r.index], nil
	}
	return destination{}, nil, fmt.Errorf("tag %s is not configured", r.tag)
}

// notFound returns the message for an unknown tag. It names the most similar tag, if there is one.
func (c *config) notFound(name string) string {
	return join("tag:"+name+" is not found", ": the nearest is ", nearest(name, slices.Sorted(maps.Keys(c.byTag))))
}

// loadConfig reads and checks the configuration file of o. A dry run needs neither slack_url nor slack_token in the
// file; without a file, it uses dryRunTOML.
//
// err joins all errors in the file, each as "FILE:LINE: …", and the configuration has everything that could be read.
// If the file cannot be read or parsed, the configuration is nil. parseTOML stops at its first error.
func loadConfig(o options) (*config, error) {
	src, err := []byte(dryRunTOML), error(nil)
	if o.file != "" {
		src, err = os.ReadFile(o.file)
	}
	if err != nil {
		return nil, fmt.Errorf("slackboard: -c: %w", err)
	}
	lines, err := parseTOML(string(src))
	if err != nil {
		return nil, fmt.Errorf("%s:%w", o.file, err)
	}
	l := &loader{config: &config{path: o.file}, row: map[any]int{}}
	l.read(lines)
	l.readTLS()
	if info, err := os.Stat(l.ui.root); l.ui.root != "" && (err != nil || !info.IsDir()) {
		l.warnings = append(l.warnings, "ui.root: "+l.ui.root+" is not a folder: the built-in page is served")
	}
	l.core.port = cmp.Or(o.port, l.core.port)
	if o.dryRun {
		l.core.slackURL = cmp.Or(l.core.slackURL, newSecret("http://127.0.0.1/")) // nothing is posted to it
	}
	l.destinations()
	return l.config, errors.Join(l.faults...)
}

// loader fills a config from the lines of a file and collects the errors in them.
type loader struct {
	*config
	row    map[any]int // line numbers: of a section by section.id, of a key by key.to
	faults []error
}

func (l *loader) fault(row int, format string, args ...any) {
	l.faults = append(l.faults, fmt.Errorf("%s:%d: "+format, append([]any{l.path, max(row, 1)}, args...)...))
}

func (l *loader) read(lines []tomlLine) {
	for _, line := range lines {
		switch line.header {
		case "[[tags]]":
			l.tags = append(l.tags, &tag{})
		case "[[senders]]":
			l.senders = append(l.senders, &sender{})
		}
	}
	all, known := l.sections(), map[string][]section{"[[tags]]": nil, "[[senders]]": nil}
	for _, s := range all {
		known[s.header] = append(known[s.header], s)
	}
	var in section
	for _, line := range lines {
		switch next, ok := known[line.header]; {
		case ok: // a header of a list begins the next entry of that list
			in, known[line.header] = next[0], append(next[1:], next[0])
			if first := l.row[in.id]; first > 0 {
				l.fault(line.row, "%s is on line %d already: bring the two together", in.header, first)
			}
			l.row[in.id] = line.row
		case line.header != "":
			in = section{header: line.header}
			headers := slices.Sorted(maps.Keys(known))
			l.fault(line.row, "unknown section %s: %s", in.header, whatToWrite(in.header, headers))
		case in.header == "":
			l.fault(line.row, "key %q is outside of a section: write its [section] above it", line.key)
		case in.keys != nil: // else the section is unknown
			l.key(in, line)
		}
	}
	for _, s := range all {
		for _, k := range s.keys {
			if _, isSet := l.row[k.to]; !isSet && k.preset == required {
				l.fault(l.row[s.id], "this %s has no %s", s.header, k.name)
			} else if !isSet {
				k.store(k.preset)
			}
		}
	}
}

// key stores the value of a line and checks it. No error shows the value of a secret. If "env:NAME" or "file:/path"
// cannot be read, these words themselves are stored as the secret: the error is enough, and the secret must not also
// be reported as missing.
func (l *loader) key(in section, line tomlLine) {
	i := slices.IndexFunc(in.keys, func(k key) bool { return k.name == line.key })
	if i < 0 {
		var known []string
		for _, k := range in.keys {
			known = append(known, k.name)
		}
		l.fault(line.row, "unknown key %q in %s: %s", line.key, in.header, whatToWrite(line.key, known))
		return
	}
	k := in.keys[i]
	if first := l.row[k.to]; first > 0 {
		l.fault(line.row, "%s in %s is on line %d already", k.name, in.header, first)
		return
	}
	l.row[k.to] = line.row
	text, err, isDefault := line.value, error(nil), line.value == k.preset && k.preset != required
	if _, isSecret := k.to.(*secret); isSecret && !isDefault {
		text, err = l.dereference(text)
	}
	if _, isNumber := k.to.(*int64); isNumber == line.quoted && k.name != "port" {
		err = errors.New("wants quotes around a text, and none around a number")
	}
	k.store(cmp.Or(text, line.value))
	if err == nil && k.check != nil && !isDefault {
		err = k.check(text)
	}
	if err != nil {
		l.fault(line.row, "%s in %s: %v", k.name, in.header, err)
	}
}

// whatToWrite returns the advice in the error about an unknown name: the known name that is probably meant, or else
// all known names.
func whatToWrite(name string, known []string) string {
	if found := nearest(name, known); found != "" {
		return "write " + found
	}
	return "known are " + strings.Join(known, ", ")
}

// nearest returns the entry of names that is most similar to name, or "" if none is similar. Two names are similar if
// they differ in one place, by at most two letters and at most half of name. Case and brackets do not count.
func nearest(name string, names []string) (found string) {
	plain := func(s string) string { return strings.ToLower(strings.Trim(s, "[]")) }
	name = plain(name)
	least := min(2, len(name)/2) + 1
	for _, other := range names {
		a, b := name, plain(other)
		for a != "" && b != "" && a[0] == b[0] {
			a, b = a[1:], b[1:]
		}
		for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
			a, b = a[:len(a)-1], b[:len(b)-1]
		}
		if apart := max(len(a), len(b)); apart < least {
			found, least = other, apart
		}
	}
	return found
}

// store writes text to the key's value.
func (k key) store(text string) {
	switch to := k.to.(type) {
	case *string:
		*to = text
	case *secret:
		*to = newSecret(text)
	case *int64:
		*to, _ = strconv.ParseInt(text, 0, 64) // if text is not a number, check reports it
	}
}

// dereference returns the secret: the environment variable if from is "env:NAME", the content of the file if from is
// "file:/path", or else from itself. An empty variable or file is an error. Newlines at the end of a variable or a
// file are not part of the secret: editors add one, and files for LoadCredential= have one, see systemd.exec(5).
func (l *loader) dereference(from string) (text string, err error) {
	var content []byte
	kind, name, _ := strings.Cut(from, ":")
	switch kind {
	case "env":
		content = []byte(os.Getenv(name))
	case "file":
		content, err = os.ReadFile(name)
		l.private(name)
	default:
		l.private(l.path)
		return from, nil
	}
	if text = strings.TrimRight(string(content), "\r\n"); text == "" && err == nil {
		err = errors.New("there is nothing in " + from)
	}
	return text, err
}

// private warns if everybody may read the file at path, which holds a secret. It warns once for each file.
func (l *loader) private(path string) {
	warning := path + " holds a secret and everybody may read it: chmod o-r"
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o004 != 0 && !slices.Contains(l.warnings, warning) {
		l.warnings = append(l.warnings, warning)
	}
}

// readTLS reads the files of the TLS keys into l.tls.
func (l *loader) readTLS() {
	cert, key, clientCA := l.core.tlsCert, l.core.tlsKey, l.core.tlsClientCA
	if cert+key+clientCA != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			l.fault(l.row[&l.core.tlsCert], "tls_cert and tls_key go together: %v", err)
		}
		l.private(key)
		l.tls = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	if clientCA != "" {
		authorities, err := os.ReadFile(clientCA)
		l.tls.ClientAuth, l.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !l.tls.ClientCAs.AppendCertsFromPEM(authorities) {
			err = cmp.Or(err, errors.New("there is no certificate in "+clientCA))
			l.fault(l.row[&l.core.tlsClientCA], "tls_client_ca in [core]: %v", err)
		}
	}
}

// destinations sets the destination of each tag. A webhook posts to one channel only, so a tag may have a webhook of
// its own. destinations reports a missing destination, a missing channel, a sender's token that somebody else has,
// and an unknown report_tag. It warns if everybody may post.
func (l *loader) destinations() {
	l.byTag = map[string][]*tag{}
	l.credential = l.credentialOf(l.core.token, l.core.slackURL)
	if len(l.tags) == 0 && l.credential == (credential{}) {
		l.fault(l.row[&l.core], "there is no destination: set slack_url or slack_token in [core]")
	}
	if l.hasNoTokens() && l.core.tlsClientCA == "" && !local.MatchString(l.core.port) {
		l.warnings = append(l.warnings, "anybody who reaches this server may post: "+
			"set auth_token or tls_client_ca in [core], or port to 127.0.0.1:PORT")
	}
	for _, t := range l.tags {
		t.credential = cmp.Or(l.credentialOf(t.token, t.slackURL), l.credential)
		l.byTag[t.name] = append(l.byTag[t.name], t)
		if t.credential == (credential{}) {
			l.fault(l.row[t], "tag %q has no destination: set slack_url or slack_token for it, or in [core]", t.name)
		}
		if t.credential.token != (secret{}) && t.channel == "" {
			l.fault(l.row[&t.channel], "tag %q has no channel: a slack_token needs one", t.name)
		}
	}
	for i, s := range l.senders {
		sameToken := func(other *sender) bool { return other.token == s.token && other.name != s.name }
		if s.token != (secret{}) && (s.token == l.core.authToken || slices.ContainsFunc(l.senders[:i], sameToken)) {
			l.fault(l.row[&s.token], "token of sender %s is the auth_token or another sender's: make a new one", s.name)
		}
	}
	if l.core.reportTag != "" && l.byTag[l.core.reportTag] == nil {
		l.fault(l.row[&l.core.reportTag], "report_tag: there is no tag %q", l.core.reportTag)
	}
}

const printable = "[!#-&(-~]" // ASCII without blanks and quotes

// The errors of these checks do not show the value: it may be a secret.
var (
	notEmpty = like(`(?s).+`, "a text that is not empty")
	isMode   = like(`0?[0-7]{3}`, `a mode like "0660"`)
	isLevel  = like(`panic|fatal|error|warn|info|debug`, "panic, fatal, error, warn, info or debug")
	isName   = like(printable+`{1,64}`, "1 to 64 characters of ASCII without blanks and quotes")
	isToken  = like(printable+`*\w`+printable+`*`, "a token: ASCII without blanks and quotes, and not \"...\"")
	local    = regexp.MustCompile(`^(unix|127\.[0-9.]+|localhost|\[::1\]):`) // a core.port that only this host reaches
	urlForm  = regexp.MustCompile(`^https?://` + printable + `+$`)

	// A URL copied from an example is refused, such as "https://hooks.slack.com/services/…": … is not ASCII.
	isURL = wants("a URL like https://HOST/PATH: ASCII without blanks and quotes", func(text string) bool {
		u, err := url.Parse(text)
		return err == nil && u.Hostname() != "" && urlForm.MatchString(text)
	})
)

// wants returns a check that accepts the values for which ok returns true. what describes these values.
func wants(what string, ok func(string) bool) func(string) error {
	return func(text string) error {
		if !ok(text) {
			return errors.New("wants " + what)
		}
		return nil
	}
}

// like returns a check that accepts the values that match form, a regular expression, from beginning to end.
func like(form, want string) func(string) error {
	return wants(want, regexp.MustCompile("^(?:"+form+")$").MatchString)
}

func between(least, most int64) func(string) error {
	return wants(fmt.Sprintf("an integer from %d to %d", least, most), func(text string) bool {
		n, err := strconv.ParseInt(text, 0, 64)
		return err == nil && least <= n && n <= most
	})
}

func checkPort(text string) error {
	_, _, err := parsePort(text)
	return err
}

// masked returns the configuration as TOML, defaults included, with each secret as "...".
func (c *config) masked() string {
	var b strings.Builder
	for _, s := range c.sections() {
		fmt.Fprintln(&b, s.header)
		for _, k := range s.keys {
			fmt.Fprintf(&b, "%s = %s\n", k.name, tomlQuote(k.to))
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}
