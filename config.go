package main

// The configuration: its keys with their defaults and limits in one table, the checks, and the masked view.

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
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

// MarshalText is what logs and JSON show.
func (s secret) MarshalText() ([]byte, error) {
	if s == (secret{}) {
		return nil, nil
	}
	return []byte("[redacted]"), nil
}

// Format keeps verbs that would print the fields from doing so.
func (s secret) Format(f fmt.State, _ rune) {
	text, _ := s.MarshalText()
	f.Write(text)
}

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
		port, socketMode string
		authToken        secret // what requests have to bring
		tlsCert, tlsKey  string // files
		tlsClientCA      string
		slackURL, token  secret
		apiURL           string
		qps              int64 // posts a second to all of Slack, 0 for no limit
		maxDelay         int64 // seconds a message may be delayed by qps, -1 for no limit
		channelRate      int64 // posts a second to one destination, 0 for no pacing
		batch            int64 // attachments that messages are merged into, 1: never
		reportTag        string
	}
	tags    []*tag
	senders []*sender
	spool   struct {
		dir          string
		maxBytes     int64 // of waiting messages
		maxAge       int64 // seconds
		historyBytes int64 // of the log, kept after all in it is done; 0 for none
	}
	log struct{ access, errors, level string }
	ui  struct{ root string }

	byTag    map[string][]*tag // what stands under a name: more than one entry means more than one destination
	tls      *tls.Config       // nil: plain HTTP
	warnings []string
}

type tag struct {
	name, channel, username, icon, parse string
	slackURL, token                      secret
	credential                           credential // its own, else that of [core]
	index                                int        // among those of its name
}

// sender may post with its token, and nothing else. Two of one name let its token change without a gap.
type sender struct {
	name  string
	token secret
}

// key is one key of a section.
type key struct {
	name   string
	to     any                   // where its value goes: a *string, *int64 or *secret
	preset any                   // its default, a string or an int64; nil if the key is required
	check  func(value any) error // of values other than the default; nil if every value of the type will do
}

// section is a section such as [core], or one entry of a list such as [[tags]].
type section struct {
	header string
	id     any // finds the line of its header in loader.row
	keys   []key
}

// sections returns the table of all keys, with where their values go in c.
func (c *config) sections() []section {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":") // systemd.exec(5): where the service keeps its state
	all := []section{
		{"[core]", &c.core, []key{
			{"port", &c.core.port, "29800", checkPort},
			{"socket_mode", &c.core.socketMode, "", checkMode},
			{"auth_token", &c.core.authToken, "", checkToken},
			{"tls_cert", &c.core.tlsCert, "", nil},
			{"tls_key", &c.core.tlsKey, "", nil},
			{"tls_client_ca", &c.core.tlsClientCA, "", nil},
			{"slack_url", &c.core.slackURL, "", checkURL},
			{"slack_token", &c.core.token, "", checkToken},
			{"slack_api_url", &c.core.apiURL, "https://slack.com/api/", checkURL},
			{"qps", &c.core.qps, int64(0), between(0, 1_000_000)},
			{"max_delay_duration", &c.core.maxDelay, int64(-1), between(-1, 86_400)},
			{"channel_rate", &c.core.channelRate, int64(1), between(0, 1000)},
			{"batch", &c.core.batch, int64(20), between(1, 100)}, // Slack takes 100 attachments at most
			{"report_tag", &c.core.reportTag, "", nil},
		}},
		{"[spool]", &c.spool, []key{
			{"dir", &c.spool.dir, cmp.Or(state, "slackboard.spool"), notEmpty},
			{"max_bytes", &c.spool.maxBytes, int64(1 << 30), between(1<<20, 1<<44)},
			{"max_age", &c.spool.maxAge, int64(72 * 60 * 60), between(1, 366*86_400)},
			{"history_bytes", &c.spool.historyBytes, int64(64 << 20), between(0, 1<<40)},
		}},
		{"[log]", &c.log, []key{
			{"access_log", &c.log.access, "stdout", notEmpty},
			{"error_log", &c.log.errors, "stderr", notEmpty},
			{"level", &c.log.level, "error", checkLevel},
		}},
		{"[ui]", &c.ui, []key{{"root", &c.ui.root, "", nil}}},
	}
	for _, t := range c.tags {
		all = append(all, t.section())
	}
	for _, s := range c.senders {
		all = append(all, s.section())
	}
	return all
}

func (t *tag) section() section {
	return section{"[[tags]]", t, []key{
		{"tag", &t.name, nil, notEmpty},
		{"channel", &t.channel, "#random", nil},
		{"username", &t.username, "slackboard", nil},
		{"icon_emoji", &t.icon, ":clipboard:", nil},
		{"parse", &t.parse, "full", nil},
		{"slack_url", &t.slackURL, "", checkURL},
		{"slack_token", &t.token, "", checkToken},
	}}
}

func (s *sender) section() section {
	return section{"[[senders]]", s, []key{
		{"name", &s.name, nil, checkName},
		{"token", &s.token, nil, checkToken},
	}}
}

// addTag adds an entry that has the defaults.
func (c *config) addTag() *tag {
	t := &tag{}
	t.section().preset()
	c.tags = append(c.tags, t)
	return t
}

// preset stores the defaults.
func (s section) preset() {
	for _, k := range s.keys {
		k.store(k.preset)
	}
}

func (s section) names() (names []string) {
	for _, k := range s.keys {
		names = append(names, k.name)
	}
	return names
}

func defaultConfig() *config {
	c := &config{}
	for _, s := range c.sections() {
		s.preset()
	}
	return c
}

// dryRunConfig is what -dry-run runs on without a file.
func dryRunConfig() *config {
	c := defaultConfig()
	c.core.port, c.core.slackURL = "127.0.0.1:29800", standIn()
	for _, name := range []string{"general", "random", "test"} {
		t := c.addTag()
		t.name, t.channel = name, "#"+name
	}
	c.resolve()
	return c
}

// standIn is a webhook that is never called, so that -dry-run needs none.
func standIn() secret { return newSecret("http://127.0.0.1/") }

// credential returns that of [core], the zero one if it has none.
func (c *config) credential() credential { return c.credentialOf(c.core.token, c.core.slackURL) }

// credentialOf returns that of a token or, without one, of a webhook's URL.
func (c *config) credentialOf(token, url secret) credential {
	if token == (secret{}) {
		return credential{url: url}
	}
	return credential{newSecret(strings.TrimRight(c.core.apiURL, "/") + "/chat.postMessage"), token}
}

// resolve finds each tag's credential: a webhook posts to one channel only, so a tag may bring its own.
func (c *config) resolve() {
	c.byTag = map[string][]*tag{}
	shared := c.credential()
	for _, t := range c.tags {
		t.credential = cmp.Or(c.credentialOf(t.token, t.slackURL), shared)
		t.index = len(c.byTag[t.name])
		c.byTag[t.name] = append(c.byTag[t.name], t)
	}
}

// lookup finds where a route leads now, and the settings of its tag; for a payload of one's own the tag is nil.
func (c *config) lookup(r route) (destination, *tag, error) {
	if r.tag == "" {
		return destination{c.credential(), r.channel}, nil, nil
	}
	if entries := c.byTag[r.tag]; r.index < len(entries) {
		t := entries[r.index]
		return destination{t.credential, t.channel}, t, nil
	}
	return destination{}, nil, fmt.Errorf("tag %s is not configured", r.tag)
}

// routeTo returns a route that leads to to.
func (c *config) routeTo(to destination) route {
	for name, entries := range c.byTag {
		for i, t := range entries {
			if to == (destination{t.credential, t.channel}) {
				return route{tag: name, index: i}
			}
		}
	}
	return route{channel: to.channel}
}

// purpose is what a configuration is loaded for. One that is only checked may have its secrets masked, as /config/app
// shows them; a dry run may lack them as well.
type purpose struct{ check, dryRun bool }

// loadConfig reads and checks a file. err joins all that is wrong with it, one "FILE:LINE: …" each; the configuration
// has what could be read. Of faults in the language err has the first alone, as "FILE:LINE:COLUMN: …", and there is no
// configuration.
func loadConfig(path string, use purpose) (*config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("slackboard: -c: %w", err)
	}
	lines, err := parseTOML(string(src))
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	c := defaultConfig()
	c.path = path
	l := &loader{config: c, use: use, row: map[any]int{}, faults: map[int][]error{}}
	l.known = append(c.sections(), (&tag{}).section(), (&sender{}).section())
	l.read(lines)
	l.readTLS()
	if use.dryRun {
		c.core.slackURL = cmp.Or(c.core.slackURL, standIn())
	}
	c.resolve()
	l.destinations()
	l.tokens()
	return c, l.err()
}

// loader carries the lines of a file into a config and collects what is wrong with them.
type loader struct {
	*config
	use     purpose
	known   []section       // the sections, and an entry of each list
	row     map[any]int     // lines: of a section by its id, of a key by where its value goes
	faults  map[int][]error // by line
	literal bool            // a secret stands in the file itself
}

func (l *loader) at(row int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: "+format, append([]any{l.path, max(row, 1)}, args...)...)
}

func (l *loader) fault(row int, format string, args ...any) {
	l.faults[row] = append(l.faults[row], l.at(row, format, args...))
}

func (l *loader) warn(row int, format string, args ...any) {
	l.warnings = append(l.warnings, l.at(row, format, args...).Error())
}

// err joins the faults in the order of their lines.
func (l *loader) err() error {
	var all []error
	for _, row := range slices.Sorted(maps.Keys(l.faults)) {
		all = append(all, l.faults[row]...)
	}
	return errors.Join(all...)
}

func (l *loader) read(lines []tomlLine) {
	var in section
	for _, line := range lines {
		if line.header != "" {
			in = l.open(line)
		} else if in.header == "" || in.keys != nil {
			l.key(in, line)
		}
	}
	for _, s := range l.sections() {
		for _, k := range s.keys {
			if k.preset == nil && l.row[k.to] == 0 {
				l.fault(l.row[s.id], "this %s has no %s: add %s = %q", s.header, k.name, k.name, strings.ToUpper(k.name))
			}
		}
	}
	if info, err := os.Stat(l.ui.root); l.ui.root != "" && (err != nil || !info.IsDir()) {
		l.warn(l.row[&l.ui.root], "ui.root: %s is not a folder: the built-in page serves", l.ui.root)
	}
}

// open returns the section that a header begins. A misspelt header is one fault: the keys below it go to the section
// that is meant. If that cannot be told, they are skipped.
func (l *loader) open(line tomlLine) section {
	var headers, names []string
	for _, s := range l.known {
		headers, names = append(headers, s.header), append(names, strings.Trim(s.header, "[]"))
	}
	i := slices.Index(names, nearest(strings.Trim(line.header, "[]"), slices.Values(names)))
	if i < 0 {
		l.fault(line.row, "unknown section %s: known are %s", line.header, strings.Join(headers, ", "))
		return section{header: line.header}
	}
	s := l.known[i]
	if s.header != line.header {
		l.fault(line.row, "unknown section %s: write %s", line.header, s.header)
	}
	switch s.header {
	case "[[tags]]":
		s = l.addTag().section()
	case "[[senders]]":
		l.senders = append(l.senders, &sender{})
		s = l.senders[len(l.senders)-1].section()
	}
	if first := l.row[s.id]; first > 0 {
		l.fault(line.row, "%s is on line %d already: bring the two together", s.header, first)
	}
	l.row[s.id] = line.row
	return s
}

// key stores the value of a line. A misspelt key is one fault: its value is checked as that of the key that is meant.
func (l *loader) key(in section, line tomlLine) {
	i := slices.Index(in.names(), nearest(line.key, slices.Values(in.names())))
	if i < 0 {
		l.unknown(in, line)
		return
	}
	k := in.keys[i]
	if k.name != line.key {
		l.fault(line.row, "unknown key %q in %s: write %s", line.key, in.header, k.name)
	}
	if first := l.row[k.to]; first > 0 {
		l.fault(line.row, "%s in %s is on line %d already", k.name, in.header, first)
		return
	}
	l.row[k.to] = line.row
	if err := l.set(k, line.value); err != nil {
		l.fault(line.row, "%s in %s: %v", k.name, in.header, err)
	}
}

// unknown reports a key that is close to none of its section's.
func (l *loader) unknown(in section, line tomlLine) {
	place, hint := "in "+in.header, "known are "+strings.Join(in.names(), ", ")
	if in.header == "" {
		place, hint = "outside of a section", "write the [section] that it belongs to above it"
	}
	i := slices.IndexFunc(l.known, func(s section) bool { return slices.Contains(s.names(), line.key) })
	if i >= 0 {
		hint = "it belongs below " + l.known[i].header
	}
	l.fault(line.row, "unknown key %q %s: %s", line.key, place, hint)
}

// nearest returns the one of names that is closest to name: equal if case does not count, or one edit away, or two in a
// name of five bytes or more. Of several that are equally close it is the first, and "" if none is close.
func nearest(name string, names iter.Seq[string]) (found string) {
	name, edits := strings.ToLower(name), min(2, (len(name)+1)/3)
	for other := range names {
		for edits >= 0 && within(edits, name, strings.ToLower(other)) {
			found, edits = other, edits-1
		}
	}
	return found
}

// within tells whether at most that many edits turn a into b: a byte more, less or another, or two swapped neighbours.
func within(edits int, a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	switch {
	case a == "" || b == "":
		return len(a)+len(b) <= edits
	case edits == 0:
		return false
	case len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] && within(edits-1, a[2:], b[2:]):
		return true
	}
	return within(edits-1, a[1:], b[1:]) || within(edits-1, a[1:], b) || within(edits-1, a, b[1:])
}

// store puts value where the key's goes, if it is of the key's type.
func (k key) store(value any) error {
	n, isInt := value.(int64)
	text, isText := value.(string)
	switch to := k.to.(type) {
	case *int64:
		if *to = n; !isInt {
			return errors.New("wants an integer, without quotes")
		}
		return nil
	case *string:
		*to = text
	case *secret:
		*to = newSecret(text)
	}
	if !isText {
		return errors.New("wants a string")
	}
	return nil
}

// set stores value, if it is of the key's type, and checks it. No error shows the value of a secret. A secret that
// cannot be read is stored as it is named: so it is not reported as missing, too.
func (l *loader) set(k key, value any) (err error) {
	if n, ok := value.(int64); ok && k.name == "port" {
		value = fmt.Sprint(n)
	}
	if err := k.store(value); err != nil || value == k.preset {
		return err
	}
	if to, ok := k.to.(*secret); ok {
		if value, err = l.dereference(to); err != nil {
			return err
		}
		if k.store(value); value == masked && l.use == (purpose{}) {
			return errors.New(`is masked: put the real one in place of "..."`)
		}
	}
	if k.check == nil {
		return nil
	}
	return k.check(value)
}

// dereference returns the secret that s names, "env:NAME" or "file:/path", or is. A newline at the end of what is named
// is no part of it: editors leave one, and so do files for LoadCredential=, systemd.exec(5).
func (l *loader) dereference(s *secret) (text string, err error) {
	from := s.reveal()
	switch kind, name, _ := strings.Cut(from, ":"); kind {
	case "env":
		text = os.Getenv(name)
	case "file":
		var content []byte
		content, err = os.ReadFile(name)
		text = string(content)
		l.private(s, name)
	default:
		if !l.literal && from != "" && from != masked {
			l.literal = true
			l.private(s, l.path)
		}
		return from, nil
	}
	if text = strings.TrimRight(text, "\r\n"); text == "" && err == nil {
		err = errors.New("there is nothing in " + from)
	}
	return text, err
}

// private warns of a file with a secret that others may read.
func (l *loader) private(at any, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
		l.warn(l.row[at], "%s holds a secret and everybody may read it: chmod o-r", path)
	}
}

// readTLS reads the certificates.
func (l *loader) readTLS() {
	cert, key, clientCA := l.core.tlsCert, l.core.tlsKey, l.core.tlsClientCA
	switch {
	case cert+key+clientCA == "":
		return
	case cert == "" || key == "":
		l.fault(l.row[&l.core], "tls_cert and tls_key go together, and tls_client_ca needs them: set both")
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		l.fault(l.row[&l.core.tlsCert], "tls_cert and tls_key in [core]: %v", err)
	}
	l.private(&l.core.tlsKey, key)
	l.tls = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clientCA == "" {
		return
	}
	authorities, err := os.ReadFile(clientCA)
	l.tls.ClientAuth, l.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if err == nil && !l.tls.ClientCAs.AppendCertsFromPEM(authorities) {
		err = errors.New("there is no certificate in " + clientCA)
	}
	if err != nil {
		l.fault(l.row[&l.core.tlsClientCA], "tls_client_ca in [core]: %v", err)
	}
}

// destinations reports what could not be delivered.
func (l *loader) destinations() {
	if len(l.tags) == 0 && l.credential() == (credential{}) {
		l.fault(l.row[&l.core], "there is no destination: set slack_url or slack_token in [core]")
	}
	if l.core.reportTag != "" && l.byTag[l.core.reportTag] == nil {
		l.fault(l.row[&l.core.reportTag], "report_tag: there is no tag %q", l.core.reportTag)
	}
	for _, t := range l.tags {
		if t.credential == (credential{}) {
			l.fault(l.row[t], "tag %q has no destination: set slack_url or slack_token for it, or in [core]", t.name)
		}
		if t.credential.token != (secret{}) && t.channel == "" {
			l.fault(l.row[&t.channel], "tag %q has no channel: a slack_token needs one", t.name)
		}
	}
}

// tokens reports a token that two senders share, or a sender and the operators: the server could not tell them apart.
func (l *loader) tokens() {
	rows := map[secret]int{l.core.authToken: l.row[&l.core.authToken]}
	for _, s := range l.senders {
		row, text := l.row[&s.token], s.token.reveal()
		if first := rows[s.token]; first > 0 && text != "" && text != masked {
			l.fault(row, "token in [[senders]]: it is the same as on line %d: each sender needs its own", first)
		}
		rows[s.token] = row
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

// checkMode wants chmod's octal digits.
func checkMode(value any) error {
	if _, err := strconv.ParseUint(value.(string), 8, 9); err != nil {
		return fmt.Errorf("%q is not a mode like \"0660\"", value)
	}
	return nil
}

// checkURL refuses what is not a URL, and an example's "https://hooks.slack.com/services/…".
func checkURL(value any) error {
	u, err := url.Parse(value.(string))
	ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		strings.IndexFunc(u.RawPath, notASCII) < 0
	return pasted(value.(string), ok || value == masked, "wants a URL like https://HOST/PATH")
}

// checkToken refuses what is not a token, such as an example's "xoxb-…".
func checkToken(value any) error {
	text := value.(string)
	ok := text != "" && !strings.Contains(text, "://") && strings.IndexFunc(text, notASCII) < 0
	return pasted(text, ok, "wants a token: printable ASCII without blanks, not a URL")
}

func checkName(value any) error {
	name := value.(string)
	ok := name != "" && len(name) <= 64 && strings.IndexFunc(name, notASCII) < 0
	return pasted(name, ok, "wants a name: 1 to 64 characters of printable ASCII without blanks")
}

func notASCII(c rune) bool { return c <= ' ' || c > '~' }

// pasted reports blanks and quotes that were pasted with text and, if it is not ok for another reason, what is wanted.
// Errors do not quote text: it may be a secret.
func pasted(text string, ok bool, want string) error {
	blank := func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }
	switch {
	case strings.TrimRightFunc(text, blank) != text:
		return errors.New("has a blank or a newline at its end")
	case strings.ContainsFunc(text, blank):
		return errors.New("has a blank or a newline in it")
	case strings.Trim(text, "\"'`“”„‘’«»") != text:
		return errors.New("has quotes within its quotes")
	case !ok:
		return errors.New(want)
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
	for _, s := range c.sections() {
		fmt.Fprintln(&b, s.header)
		for _, k := range s.keys {
			fmt.Fprintf(&b, "%s = %s\n", k.name, k.shown())
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// shown returns the key's value as TOML.
func (k key) shown() string {
	switch to := k.to.(type) {
	case *int64:
		return fmt.Sprint(*to)
	case *secret:
		if *to == (secret{}) {
			return tomlQuote("")
		}
		return tomlQuote(masked)
	}
	return tomlQuote(*k.to.(*string))
}
