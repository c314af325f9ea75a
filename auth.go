package main

// Who may do what: a sender may post and ask /check, an operator may do everything. A browser's request from the page
// of another site is refused, except for GET, HEAD and OPTIONS, which change nothing.

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

// identity says who makes a request. The token of the request decides.
type identity struct {
	Sender   string `json:"sender,omitempty"` // the name of a sender, who may post and do nothing else
	mayPost  bool
	operator bool
}

// hasNoTokens reports whether the configuration has neither an auth_token nor senders.
func (c *config) hasNoTokens() bool { return c.core.authToken == (secret{}) && len(c.senders) == 0 }

// identify returns whose token it is. It compares token with all tokens of the configuration, so that the time it
// takes does not show which of them matches. If none matches, everybody may post if the configuration has no tokens,
// and everybody is an operator if it has no auth_token.
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

// is reports whether token equals s and s is not empty. The time it takes does not depend on the bytes of the two.
func (s secret) is(token string) bool {
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.reveal()))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && s != (secret{})
}

// tokenOf returns the token in the path of r or, if there is none, in its Authorization header: a Bearer token, or
// the password of Basic. It returns "" if r has no token.
func tokenOf(r *http.Request) string {
	_, token, _ := r.BasicAuth()
	if scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(bearer)
	}
	return cmp.Or(r.PathValue("token"), token)
}

// access says who may make a request to a route.
type access int

const (
	anybody       access = iota // for messages, take checks the token: it may be in the body
	senders                     // senders and operators
	operators                   // who has the auth_token; if none is configured, everybody who sends no sender's token
	operatorsHere               // the same; if no auth_token is configured, only from this machine
)

// guarded returns a handler that calls h for requests with the access that the route needs, and refuses all other
// requests. It notes the identity in the response, for h and for the access log.
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

// unauthorized counts a request whose token is missing or wrong, and returns the answer to that request.
func (s *server) unauthorized(w http.ResponseWriter) answer {
	s.stats.locked(func() { s.stats.Unauthorized++ })
	w.Header().Set("WWW-Authenticate", `Basic realm="slackboard", charset="UTF-8"`)
	how := "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or as the password"
	return answer{status: http.StatusUnauthorized, code: "invalid_auth", Message: how}
}

// proxied matches the names of headers that proxies add to a request.
var proxied = regexp.MustCompile(`(?i)^via$|forwarded|-(ip|external-address)$`)

// fromHere reports whether r comes from this machine. It returns false for a request through a proxy, and for a
// request from a page whose host name somebody has pointed at this machine (DNS rebinding).
func fromHere(r *http.Request) bool {
	for name := range r.Header { // by name only: a client may send the header with an empty value
		if proxied.MatchString(name) {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return true // a unix socket: its clients have no HOST:PORT
	}
	named := (&url.URL{Host: r.Host}).Hostname()
	return net.ParseIP(host).IsLoopback() && (strings.EqualFold(named, "localhost") || net.ParseIP(named) != nil)
}
