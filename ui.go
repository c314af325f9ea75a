package main

// The page: built in, or the folder named by ui.root.

import (
	"embed"
	"io/fs"
	"net/http"
	"os"
	"strings"
)

//go:embed ui
var builtIn embed.FS

// pagePolicy lets the built-in page load and reach nothing but this server, and run no script but its own.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page serves the built-in page, or the folder that ui.root names.
func (s *server) page(w http.ResponseWriter, r *http.Request) {
	root := s.cfg().ui.root
	if info, err := os.Stat(root); err == nil && info.IsDir() {
		http.StripPrefix("/ui", http.FileServer(http.Dir(root))).ServeHTTP(w, r)
		return
	}
	if _, err := fs.Stat(builtIn, strings.Trim(r.URL.Path, "/")); err != nil {
		answer{status: http.StatusNotFound, Message: "there is nothing at " + r.URL.Path}.send(w)
		return
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-cache")
	http.FileServerFS(builtIn).ServeHTTP(w, r)
}
