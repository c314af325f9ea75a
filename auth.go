package main

// Who may ask: senders, who may post; operators, who may do everything; nobody from a page of another site.

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
)

// identity is who asks, by the token that the request brings.
type identity struct {
	sender   string // the name of one that may only post
	posts    bool
	operator bool
}

// open tells whether there is no token to bring.
func (c *config) open() bool { return c.core.authToken == (secret{}) && len(c.senders) == 0 }

// identify returns whose token it is. All tokens are compared, whichever is the right one, in a time that does not
// depend on what is in them.
func (c *config) identify(token string) identity {
	who := identity{posts: c.open(), operator: c.core.authToken == (secret{})}
	if who.posts {
		return who
	}
	got := sha256.Sum256([]byte(token))
	is := func(s secret) bool {
		want := sha256.Sum256([]byte(s.reveal()))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && s != (secret{})
	}
	for _, s := range c.senders {
		if is(s.token) {
			who = identity{sender: s.name, posts: true}
		}
	}
	if is(c.core.authToken) {
		who = identity{posts: true, operator: true}
	}
	return who
}

// tokenOf returns the token in the path or the header of r, "" if there is none.
func tokenOf(r *http.Request) string {
	_, token, ok := r.BasicAuth()
	if scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " "); !ok && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(bearer)
	}
	return cmp.Or(r.PathValue("token"), token)
}

// guarded lets requests through to h that may pass. All may see /healthz and /readyz. What brings messages passes:
// takes asks who may post, since the token may be in the path or the body.
func (s *server) guarded(h http.Handler) http.Handler {
	var crossOrigin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		open := path == "/healthz" || path == "/readyz" || path == "/notify" || path == "/notify-directly" ||
			strings.HasPrefix(path, "/services/") || strings.HasPrefix(path, "/api/")
		if err := crossOrigin.Check(r); err != nil {
			refusal := "a page of another site must not do this: " + err.Error()
			answer{status: http.StatusForbidden, Message: refusal}.send(w)
			return
		}
		var who identity
		if !open {
			who = s.cfg().identify(tokenOf(r))
			w.(*response).sender = who.sender
		}
		switch {
		case open, path == "/check" && who.posts, path != "/check" && who.operator:
			h.ServeHTTP(w, r)
		case who.sender != "":
			refusal := "the token of sender " + who.sender + " may post, and nothing else: this needs the auth_token"
			answer{status: http.StatusForbidden, Message: refusal}.send(w)
		default:
			s.unauthorized(w).send(w)
		}
	})
}

// unauthorized counts a request without a token that will do, and returns what it is answered.
func (s *server) unauthorized(w http.ResponseWriter) answer {
	s.stats.refuse()
	w.Header().Set("WWW-Authenticate", `Basic realm="slackboard", charset="UTF-8"`)
	how := "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or as the password"
	return answer{status: http.StatusUnauthorized, code: "invalid_auth", Message: how}
}

// operator lets requests through that bring the token or, where there is none, come from this machine itself.
func (s *server) operator(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.cfg().core.authToken == (secret{}) && !fromHere(r) {
			refusal := "messages are shown to the server's own host only: " +
				"ask from there, as http://localhost:PORT/ or over the unix socket; or set auth_token"
			answer{status: http.StatusForbidden, Message: refusal}.send(w)
			return
		}
		h(w, r)
	}
}

// fromHere tells whether r comes from this machine, and not through a proxy or from a page that a name of someone
// else's has led here (DNS rebinding).
func fromHere(r *http.Request) bool {
	for name := range r.Header { // an empty one may stand before the proxy's own
		name = strings.ToLower(name)
		if name == "via" || strings.Contains(name, "forwarded") ||
			strings.HasSuffix(name, "-ip") || strings.HasSuffix(name, "-external-address") {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return true // the other end of a unix socket
	}
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		name = r.Host
	}
	named := strings.Trim(name, "[]")
	return net.ParseIP(host).IsLoopback() && (strings.EqualFold(named, "localhost") || net.ParseIP(named) != nil)
}
