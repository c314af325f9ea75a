package main

// The operators' web page: the built-in one, or the folder that ui.root names.

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
)

//go:embed ui
var builtIn embed.FS

// pagePolicy is the Content-Security-Policy of the built-in page: the page may load from this server only, connect to
// this server only, and run no scripts except its own.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pollHeader is in the requests with which the page refreshes what it shows, every few seconds.
const pollHeader = "Slackboard-Poll"

// toPage redirects / and /ui to the page. The target is a relative path: it works below the path of a reverse proxy
// as well.
func toPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "ui/")
	w.WriteHeader(http.StatusFound)
}

// page serves the files of the folder that ui.root names, or else of the built-in page.
func (s *server) page(w http.ResponseWriter, r *http.Request) {
	files, name := os.DirFS(s.cfg().ui.root), r.PathValue("file")
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-cache")
	if _, err := fs.Stat(files, "."); err != nil { // ui.root is not set, or there is no such folder
		files, _ = fs.Sub(builtIn, "ui")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, s.stats.StartedAt.UnixNano())) // embedded files have no date
	}
	if _, err := fs.Stat(files, name); err != nil {
		answer{status: http.StatusNotFound, Message: "there is nothing at " + r.URL.Path}.send(w)
		return
	}
	http.ServeFileFS(w, r, files, name)
}
