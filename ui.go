package main

// The page: built in, or the folder named by ui.root.

import (
	"cmp"
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

// page serves the folder root under /ui/, the built-in page where there is none.
func page(root string) http.Handler {
	if info, err := os.Stat(root); err == nil && info.IsDir() {
		return http.StripPrefix("/ui", http.FileServer(http.Dir(root)))
	}
	files, err := fs.Sub(builtIn, "ui")
	if err != nil {
		panic(err) // the folder is there, or this would not have been built
	}
	serve := http.StripPrefix("/ui", http.FileServerFS(files))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/ui/")
		if _, err := fs.Stat(files, cmp.Or(name, "index.html")); err != nil {
			answer{status: http.StatusNotFound, Message: "there is nothing at " + r.URL.Path}.send(w)
			return
		}
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-cache")
		serve.ServeHTTP(w, r)
	})
}
