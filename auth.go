package main

// Who may ask: a sender may post, an operator may do everything. A page of another site may do nothing.

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// identity is who asks, by the token of the request.
type identity struct {
	Sender   string `json:"sender,omitempty"` // the name of a sender, which may post and do nothing else
	mayPost  bool
	operator bool
}

// hasNoTokens tells whether the configuration has no tokens at all.
func (c *config) hasNoTokens() bool { return c.core.authToken == (secret{}) && len(c.senders) == 0 }

// identify returns whose token it is. It compares all tokens, so that its time does not tell which is the right one.
func (c *config) identify(token string) identity {
	who := identity{mayPost: c.hasNoTokens(), operator: c.core.authToken == (secret{})}
	for _, s := range c.senders {
		if s.token.is(token) {
			who = identity{Sender: s.name, mayPost: true}
		}
	}
	if c.core.authToken.is(token) {
		who = identity{mayPost: true, operator: true}
	}
	return who
}

// is tells whether token is s, and s is not empty. Its time does not depend on what is in them.
func (s secret) is(token string) bool {
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.reveal()))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && s != (secret{})
}

// tokenOf returns the token in the path or the header of r, "" if there is none.
func tokenOf(r *http.Request) string {
	_, token, _ := r.BasicAuth()
	if scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(bearer)
	}
	return cmp.Or(r.PathValue("token"), token)
}

// access says who may make a request.
type access int

const (
	anybody       access = iota // take checks who brings a message: the token may be in the body
	senders                     // and operators
	operators                   // who have the auth_token. Without an auth_token in the configuration: everybody
	operatorsHere               // the same. Without an auth_token in the configuration: everybody on this machine
)

// guarded passes a request on to h if who makes it may.
func (s *server) guarded(needs access, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, refusal := s.cfg().identify(tokenOf(r)), answer{status: http.StatusForbidden}
		w.(*response).identity = who
		here := needs != operatorsHere || s.cfg().core.authToken != (secret{}) || fromHere(r)
		switch err := new(http.CrossOriginProtection).Check(r); {
		case err != nil:
			refusal.Message = "a page of another site must not do this: " + err.Error()
		case needs == anybody, needs == senders && who.mayPost, needs >= operators && who.operator && here:
			h(w, r)
			return
		case who.Sender != "":
			refusal.Message = "the token of sender " + who.Sender + " may only post: this needs the auth_token"
		case !here:
			refusal.Message = "messages are shown to the server's own host only: " +
				"ask from there, as http://localhost:PORT/ or over the unix socket; or set auth_token"
		default:
			refusal = s.unauthorized(w)
		}
		refusal.send(w)
	}
}

// unauthorized counts a request whose token is missing or wrong, and returns its answer.
func (s *server) unauthorized(w http.ResponseWriter) answer {
	s.stats.locked(func() { s.stats.Unauthorized++ })
	w.Header().Set("WWW-Authenticate", `Basic realm="slackboard", charset="UTF-8"`)
	how := "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or as the password"
	return answer{status: http.StatusUnauthorized, code: "invalid_auth", Message: how}
}

// proxied matches the headers in which a proxy names its client.
var proxied = regexp.MustCompile(`(?i)^via$|forwarded|-(ip|external-address)$`)

// fromHere tells whether r comes from this machine: not through a proxy, and not from a page whose host name somebody
// else has pointed at this machine (DNS rebinding).
func fromHere(r *http.Request) bool {
	for name := range r.Header { // whatever the value: a client may send an empty one first
		if proxied.MatchString(name) {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return true // the other end of a unix socket
	}
	named := (&url.URL{Host: r.Host}).Hostname()
	return net.ParseIP(host).IsLoopback() && (strings.EqualFold(named, "localhost") || net.ParseIP(named) != nil)
}
