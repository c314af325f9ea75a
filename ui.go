package main

// The page: built in, or the folder named by ui.root.

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

// pagePolicy lets the built-in page load and reach nothing but this server, and run no script but its own.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pollHeader is in requests that the page makes by itself.
const pollHeader = "Slackboard-Poll"

// toPage leads from / and from /ui to the page. It stays below the path that a reverse proxy has in front of it.
func toPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "ui/")
	w.WriteHeader(http.StatusFound)
}

// page serves the files of the built-in page, or of the folder that ui.root names.
func (s *server) page(w http.ResponseWriter, r *http.Request) {
	files, name := os.DirFS(s.cfg().ui.root), r.PathValue("file")
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-cache")
	if _, err := fs.Stat(files, "."); err != nil { // there is no such folder, or none is named
		files, _ = fs.Sub(builtIn, "ui")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, s.stats.StartedAt.UnixNano())) // what is built in has no date
	}
	if _, err := fs.Stat(files, name); err != nil {
		answer{status: http.StatusNotFound, Message: "there is nothing at " + r.URL.Path}.send(w)
		return
	}
	http.ServeFileFS(w, r, files, name)
}
