package main

// Who may ask: those with the token, no page of another site, and for messages an operator.

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
)

// guarded lets requests through to h that may pass. All may see /healthz and /readyz.
func (s *server) guarded(h http.Handler) http.Handler {
	var crossOrigin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
		switch err := crossOrigin.Check(r); {
		case err != nil:
			answer{status: http.StatusForbidden, Message: "a page of another site must not do this: " + err.Error()}.send(w)
		case !open && !s.cfg().admits(r):
			s.stats.refuse()
			w.Header().Set("WWW-Authenticate", `Basic realm="slackboard", charset="UTF-8"`)
			answer{status: http.StatusUnauthorized, Message: "the token is missing or wrong: send it as Authorization: Bearer TOKEN, or as the password"}.send(w)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// admits tells whether r brings the token, if there has to be one. It takes as long for a wrong one, however wrong.
func (c *config) admits(r *http.Request) bool {
	if c.core.authToken == (secret{}) {
		return true
	}
	_, token, ok := r.BasicAuth()
	if !ok {
		scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		token, ok = strings.TrimSpace(bearer), strings.EqualFold(scheme, "Bearer")
	}
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(c.core.authToken.reveal()))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok
}

// operator lets requests through that bring the token or, where there is none, come from this machine itself.
func (s *server) operator(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.cfg().core.authToken == (secret{}) && !fromHere(r) {
			answer{status: http.StatusForbidden, Message: "messages are shown to the server's own host only: ask from there, as http://localhost:PORT/ or over the unix socket; or set auth_token"}.send(w)
			return
		}
		h(w, r)
	}
}

// fromHere tells whether r comes from this machine, and not through a proxy or from a page that a name of someone else's
// has led here (DNS rebinding).
func fromHere(r *http.Request) bool {
	for name := range r.Header { // an empty one may stand before the proxy's own
		name = strings.ToLower(name)
		if name == "via" || strings.Contains(name, "forwarded") || strings.HasSuffix(name, "-ip") || strings.HasSuffix(name, "-external-address") {
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
