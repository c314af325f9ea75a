package main

// The configuration: its keys with their defaults and limits in one table, the checks, and the masked view.

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unique"
)

// secret is a webhook URL or a token. However it is printed, it shows as [redacted] (a zero one as nothing).
// Secrets of the same text are equal, so one can be part of a map's key.
type secret struct{ text unique.Handle[string] }

const masked = "..." // stands for a secret in what /config/app shows

func newSecret(text string) (s secret) {
	if text != "" {
		s.text = unique.Make(text)
	}
	return s
}

// reveal returns the text: for the request to Slack, and for nothing that a person may see.
func (s secret) reveal() string {
	if s == (secret{}) {
		return ""
	}
	return s.text.Value()
}

func (s secret) String() string {
	if s == (secret{}) {
		return ""
	}
	return "[redacted]"
}

// Format keeps verbs that would print the fields from doing so.
func (s secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, s.String()) }
func (s secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// credential says where, and as whom, a message is posted: to a webhook, or with a token to the Web API.
type credential struct{ url, token secret }

// destination is what has one lane: messages to it stay in order.
type destination struct {
	credential credential
	channel    string
}

type config struct {
	path string
	core struct {
		port            string
		socketMode      string
		authToken       secret // what requests have to bring
		tlsCert, tlsKey string // files
		tlsClientCA     string
		slackURL, token secret
		apiURL          string
		qps             int64 // posts a second to all of Slack, 0 for no limit
		maxDelay        int64 // seconds a message may be delayed by qps, -1 for no limit
		channelRate     int64 // posts a second to one destination, 0 for no pacing
		batch           int64 // attachments that messages are merged into, 1: never
		reportTag       string
	}
	senders []*sender
	tags    []tag
	spool   struct {
		dir      string
		maxBytes int64 // of waiting messages
		maxAge   int64 // seconds
	}
	log struct{ access, errors, level string }
	ui  struct{ root string }

	byTag    map[string][]*tag // what stands under a name: more than one entry means more than one destination
	tls      *tls.Config       // nil: plain HTTP
	warnings []string
}

// sender is somebody who may post, and do nothing else. Two entries with one name: a token is changed without a gap.
type sender struct {
	name  string
	token secret
}

type tag struct {
	name, channel, username, icon, parse string
	slackURL, token                      secret
	credential                           credential // its own, else that of [core]
}

// field is one key of a section. to is where its value goes (a *string, *int64 or *secret) and, before anything is
// read, where its default stands.
type field struct {
	key   string
	to    any
	check func(value any) error // nil where every value of the type will do
}

type section struct {
	name   string
	fields []field
}

// sections lists all that a configuration file can hold, but for [[tags]].
func (c *config) sections() []section {
	return []section{
		{"core", []field{
			{"port", &c.core.port, checkPort},
			{"socket_mode", &c.core.socketMode, checkMode},
			{"auth_token", &c.core.authToken, checkToken},
			{"tls_cert", &c.core.tlsCert, nil},
			{"tls_key", &c.core.tlsKey, nil},
			{"tls_client_ca", &c.core.tlsClientCA, nil},
			{"slack_url", &c.core.slackURL, checkURL},
			{"slack_token", &c.core.token, checkToken},
			{"slack_api_url", &c.core.apiURL, checkURL},
			{"qps", &c.core.qps, between(0, 1_000_000)},
			{"max_delay_duration", &c.core.maxDelay, between(-1, 86_400)},
			{"channel_rate", &c.core.channelRate, between(0, 1000)},
			{"batch", &c.core.batch, between(1, 100)}, // Slack takes 100 attachments at most
			{"report_tag", &c.core.reportTag, nil},
		}},
		{"spool", []field{
			{"dir", &c.spool.dir, notEmpty},
			{"max_bytes", &c.spool.maxBytes, between(1<<20, 1<<44)},
			{"max_age", &c.spool.maxAge, between(1, 366*86_400)},
		}},
		{"log", []field{
			{"access_log", &c.log.access, notEmpty},
			{"error_log", &c.log.errors, notEmpty},
			{"level", &c.log.level, checkLevel},
		}},
		{"ui", []field{{"root", &c.ui.root, nil}}},
	}
}

func (t *tag) fields() []field {
	return []field{
		{"tag", &t.name, notEmpty},
		{"channel", &t.channel, nil},
		{"username", &t.username, nil},
		{"icon_emoji", &t.icon, nil},
		{"parse", &t.parse, nil},
		{"slack_url", &t.slackURL, checkURL},
		{"slack_token", &t.token, checkToken},
	}
}

func defaultConfig() *config {
	c := &config{}
	c.core.port, c.core.apiURL, c.core.maxDelay = "29800", "https://slack.com/api/", -1
	c.core.channelRate, c.core.batch = 1, 20
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":") // systemd.exec(5): where the service keeps its state
	c.spool.dir, c.spool.maxBytes, c.spool.maxAge = cmp.Or(state, "slackboard.spool"), 1<<30, 72*60*60
	c.log.access, c.log.errors, c.log.level = "stdout", "stderr", "error"
	return c
}

func defaultTag() tag {
	return tag{channel: "#random", username: "slackboard", icon: ":clipboard:", parse: "full"}
}

// dryRunConfig is what -dry-run runs on without a file.
func dryRunConfig() *config {
	c := defaultConfig()
	c.core.port = "127.0.0.1:29800"
	for _, name := range []string{"general", "random", "test"} {
		t := defaultTag()
		t.name, t.channel = name, "#"+name
		c.tags = append(c.tags, t)
	}
	c.standIn()
	c.resolve()
	return c
}

// standIn gives [core] a webhook that is never called, so that -dry-run needs none.
func (c *config) standIn() {
	if c.core.slackURL == (secret{}) && c.core.token == (secret{}) {
		c.core.slackURL = newSecret("http://127.0.0.1/")
	}
}

// credential returns that of [core], the zero one if it has none.
func (c *config) credential() credential {
	if c.core.token != (secret{}) {
		return c.withToken(c.core.token)
	}
	return credential{url: c.core.slackURL}
}

func (c *config) withToken(token secret) credential {
	return credential{newSecret(strings.TrimRight(c.core.apiURL, "/") + "/chat.postMessage"), token}
}

// resolve finds each tag's credential: a webhook posts to one channel only, so a tag may bring its own.
func (c *config) resolve() {
	c.byTag = map[string][]*tag{}
	for i := range c.tags {
		t := &c.tags[i]
		switch {
		case t.token != (secret{}):
			t.credential = c.withToken(t.token)
		case t.slackURL != (secret{}):
			t.credential = credential{url: t.slackURL}
		default:
			t.credential = c.credential()
		}
		c.byTag[t.name] = append(c.byTag[t.name], t)
	}
}

// lookup finds where a route leads now, and the settings of its tag; for a payload of one's own the tag is nil.
func (c *config) lookup(r route) (destination, *tag, error) {
	if r.tag == "" {
		return destination{c.credential(), r.channel}, nil, nil
	}
	entries := c.byTag[r.tag]
	if r.index >= len(entries) {
		return destination{}, nil, fmt.Errorf("tag %s is not configured", r.tag)
	}
	t := entries[r.index]
	return destination{t.credential, t.channel}, t, nil
}

// routeTo returns a route that leads to to.
func (c *config) routeTo(to destination) route {
	for name, entries := range c.byTag {
		for i, t := range entries {
			if t.credential == to.credential && t.channel == to.channel {
				return route{tag: name, index: i}
			}
		}
	}
	return route{channel: to.channel}
}

// purpose is what a configuration is loaded for. One that is only checked may have its secrets masked, as /config/app
// shows them; a dry run may lack them as well; who asks for the health need not be able to read them.
type purpose int

const (
	forPosting purpose = iota
	forCheck
	forDryRun
	forHealth
)

// loadConfig reads and checks a file. err joins all that is wrong with it, one "FILE:LINE: …" each.
func loadConfig(path string, use purpose) (*config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("slackboard: -c: %w", err)
	}
	doc, line, err := parseTOML(src)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	c := defaultConfig()
	c.path = path
	l := &loader{path: path, line: line, use: use}
	l.config(c, doc)
	l.tls(c)
	switch use {
	case forPosting:
		l.unmasked(c)
	case forDryRun:
		c.standIn()
	}
	c.resolve()
	if use != forHealth {
		l.destinations(c)
	}
	c.warnings = l.warnings
	return c, l.err()
}

// loader carries a parsed file into a config and collects what is wrong with it.
type loader struct {
	path     string
	use      purpose
	line     map[string]int
	faults   []fault
	warnings []string
}

type fault struct {
	line int
	text string
}

func (l *loader) fault(at, format string, args ...any) {
	l.faults = append(l.faults, fault{max(l.line[at], 1), fmt.Sprintf(format, args...)})
}

func (l *loader) warn(at, format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf("%s:%d: %s", l.path, max(l.line[at], 1), fmt.Sprintf(format, args...)))
}

func (l *loader) err() error {
	sort.SliceStable(l.faults, func(i, j int) bool { return l.faults[i].line < l.faults[j].line })
	var errs []error
	for _, f := range l.faults {
		errs = append(errs, fmt.Errorf("%s:%d: %s", l.path, f.line, f.text))
	}
	return errors.Join(errs...)
}

func (l *loader) config(c *config, doc map[string]any) {
	sections := c.sections()
	for _, s := range sections {
		switch table := doc[s.name].(type) {
		case nil:
		case map[string]any:
			l.section("["+s.name+"]", s.name, table, s.fields)
		default:
			l.fault(s.name, "%s is a section: write [%s]", s.name, s.name)
		}
		delete(doc, s.name)
	}
	switch tables := doc["tags"].(type) {
	case nil:
	case []map[string]any:
		for i, table := range tables {
			t, at := defaultTag(), fmt.Sprintf("tags.%d", i)
			if table["tag"] == nil {
				l.fault(at, "this [[tags]] has no tag: add tag = \"NAME\"")
			}
			l.section("[[tags]]", at, table, t.fields())
			c.tags = append(c.tags, t)
		}
	default:
		l.fault("tags", "tags is a list: write [[tags]], with two brackets, above each tag")
	}
	delete(doc, "tags")
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if _, ok := doc[name].(map[string]any); ok {
			l.fault(name, "unknown section [%s]: known are [core], [[tags]], [spool], [log], [ui]", name)
			continue
		}
		l.fault(name, "unknown key %q outside of a section: known are the sections [core], [[tags]], [spool], [log], [ui]", name)
	}
	if info, err := os.Stat(c.ui.root); c.ui.root != "" && (err != nil || !info.IsDir()) {
		l.warn("ui.root", "ui.root: %s is not a folder: the built-in page serves", c.ui.root)
	}
}

func (l *loader) section(name, at string, table map[string]any, fields []field) {
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
		_, isSecret := f.to.(*secret)
		if value, ok := table[f.key]; ok && !(isSecret && l.use == forHealth) {
			err := f.set(value)
			if err != nil {
				l.fault(at+"."+f.key, "%s in %s: %v", f.key, name, err)
			}
			if path, isFile := strings.CutPrefix(fmt.Sprint(value), "file:"); isFile && err == nil {
				l.private(at+"."+f.key, path)
			}
		}
	}
	for key := range table {
		if !slices.Contains(known, key) {
			l.fault(at+"."+key, "unknown key %q in %s: known are %s", key, name, strings.Join(known, ", "))
		}
	}
}

// set stores value, if it is of the field's type and passes its check. No error shows the value of a secret.
func (f field) set(value any) error {
	if n, ok := value.(int64); ok && f.key == "port" {
		value = fmt.Sprint(n)
	}
	switch to := f.to.(type) {
	case *string:
		s, ok := value.(string)
		if !ok {
			return errors.New("wants a string")
		}
		*to = s
	case *secret:
		s, ok := value.(string)
		if !ok {
			return errors.New("wants a string")
		}
		*to = newSecret(s) // even where this fails: a secret that cannot be read is not one that is missing
		s, err := dereference(s)
		if err != nil {
			return err
		}
		*to = newSecret(s)
		if s == "" || s == masked {
			return nil
		}
		value = s
	case *int64:
		n, ok := value.(int64)
		if !ok {
			return errors.New("wants an integer, without quotes")
		}
		*to = n
	}
	if f.check == nil {
		return nil
	}
	return f.check(value)
}

// dereference returns the secret that value names, "env:NAME" or "file:/path", or is. The newline at a file's end is
// no part of it: that is how systemd.exec(5), LoadCredential=, and an editor leave one.
func dereference(value string) (string, error) {
	if name, ok := strings.CutPrefix(value, "env:"); ok {
		if os.Getenv(name) == "" {
			return "", fmt.Errorf("the environment variable %q is not set", name)
		}
		return os.Getenv(name), nil
	}
	path, ok := strings.CutPrefix(value, "file:")
	if !ok {
		return value, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(content), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

// private warns of a file with a secret that others may read.
func (l *loader) private(at, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
		l.warn(at, "%s holds a secret and everybody may read it: chmod o-r", path)
	}
}

// tls reads the certificates.
func (l *loader) tls(c *config) {
	cert, key, clientCA := c.core.tlsCert, c.core.tlsKey, c.core.tlsClientCA
	if cert == "" && key == "" && clientCA == "" {
		return
	}
	if cert == "" || key == "" {
		l.fault("core", "tls_cert and tls_key go together, and tls_client_ca needs them: set both")
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	c.tls = &tls.Config{Certificates: []tls.Certificate{pair}}
	if l.use == forHealth {
		return
	}
	if err != nil {
		l.fault("core.tls_cert", "tls_cert and tls_key in [core]: %v", err)
	}
	l.private("core.tls_key", key)
	if clientCA == "" {
		return
	}
	authorities, err := os.ReadFile(clientCA)
	c.tls.ClientAuth, c.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if err == nil && !c.tls.ClientCAs.AppendCertsFromPEM(authorities) {
		err = fmt.Errorf("there is no certificate in %s", clientCA)
	}
	if err != nil {
		l.fault("core.tls_client_ca", "tls_client_ca in [core]: %v", err)
	}
}

// destinations reports what could not be delivered.
func (l *loader) destinations(c *config) {
	if len(c.tags) == 0 && c.credential() == (credential{}) {
		l.fault("core", "there is no destination: set slack_url or slack_token in [core]")
	}
	if c.core.reportTag != "" && c.byTag[c.core.reportTag] == nil {
		l.fault("core.report_tag", "report_tag: there is no tag %q", c.core.reportTag)
	}
	for i, t := range c.tags {
		at := fmt.Sprintf("tags.%d", i)
		if t.credential == (credential{}) {
			l.fault(at, "tag %q has no destination: set slack_url or slack_token for it, or in [core]", t.name)
		}
		if t.credential.token != (secret{}) && t.channel == "" {
			l.fault(at+".channel", "tag %q has no channel: a slack_token needs one", t.name)
		}
	}
}

// unmasked reports secrets that were pasted from /config/app.
func (l *loader) unmasked(c *config) {
	report := func(at string, fields []field) {
		for _, f := range fields {
			if s, ok := f.to.(*secret); ok && s.reveal() == masked {
				l.fault(at+"."+f.key, "%s is masked: put the real one in place of \"...\"", f.key)
			}
		}
	}
	for _, s := range c.sections() {
		report(s.name, s.fields)
	}
	for i := range c.tags {
		report(fmt.Sprintf("tags.%d", i), c.tags[i].fields())
	}
}

func notEmpty(value any) error {
	if value == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func between(least, most int64) func(any) error {
	return func(value any) error {
		if n := value.(int64); n < least || n > most {
			return fmt.Errorf("%d is out of range: %d to %d", n, least, most)
		}
		return nil
	}
}

func checkPort(value any) error {
	_, _, err := parsePort(value.(string))
	return err
}

// parseMode reads socket_mode, chmod's octal digits; ok is false where there are none.
func parseMode(mode string) (bits int, ok bool) {
	n, err := strconv.ParseUint(mode, 8, 9)
	return int(n), err == nil
}

func checkMode(value any) error {
	if _, ok := parseMode(value.(string)); !ok && value != "" {
		return fmt.Errorf("%q is not a mode like \"0660\"", value)
	}
	return nil
}

// checkURL does not say what it was given: a webhook's URL is a secret.
func checkURL(value any) error {
	u, err := url.Parse(value.(string))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("wants a URL like https://HOST/PATH")
	}
	return nil
}

// checkToken refuses what no token is, such as an example's "xoxb-…". It does not say what it was given.
func checkToken(value any) error {
	if strings.ContainsFunc(value.(string), func(c rune) bool { return c <= ' ' || c > '~' }) {
		return errors.New("wants a token: printable ASCII without blanks")
	}
	return nil
}

// levels maps the original's names of log levels. Nothing is logged at panic and fatal alone.
func levels() map[string]slog.Level {
	return map[string]slog.Level{
		"panic": levelNotice, "fatal": levelNotice, "error": slog.LevelError,
		"warn": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug,
	}
}

func checkLevel(value any) error {
	if _, ok := levels()[value.(string)]; !ok {
		return fmt.Errorf("%q is not a level: panic, fatal, error, warn, info or debug", value)
	}
	return nil
}

// pace returns the least time between two posts to one destination.
func (c *config) pace() time.Duration {
	if c.core.channelRate == 0 {
		return 0
	}
	return time.Second / time.Duration(c.core.channelRate)
}

// delayLimit returns how long qps may delay a message that is sent with sync=true.
func (c *config) delayLimit() time.Duration {
	if c.core.maxDelay < 0 {
		return 10 * time.Second
	}
	return time.Duration(c.core.maxDelay) * time.Second
}

// masked returns the configuration as TOML, defaults included, with each secret as "...".
func (c *config) masked() string {
	var b strings.Builder
	write := func(header string, fields []field) {
		fmt.Fprintln(&b, header)
		for _, f := range fields {
			switch to := f.to.(type) {
			case *string:
				fmt.Fprintf(&b, "%s = %s\n", f.key, tomlQuote(*to))
			case *int64:
				fmt.Fprintf(&b, "%s = %d\n", f.key, *to)
			case *secret:
				value := ""
				if *to != (secret{}) {
					value = masked
				}
				fmt.Fprintf(&b, "%s = %q\n", f.key, value)
			}
		}
		fmt.Fprintln(&b)
	}
	for _, s := range c.sections() {
		write("["+s.name+"]", s.fields)
	}
	for i := range c.tags {
		write("[[tags]]", c.tags[i].fields())
	}
	return b.String()
}
