package main

// The page: built in, or the folder named by ui.root.

import (
	"embed"
	"io/fs"
	"os"
)

//go:embed ui
var builtIn embed.FS

// uiFiles returns the folder root, the built-in page where there is none.
func uiFiles(root string) fs.FS {
	if info, err := os.Stat(root); err == nil && info.IsDir() {
		return os.DirFS(root)
	}
	page, err := fs.Sub(builtIn, "ui")
	if err != nil {
		panic(err) // the folder is there, or this would not have been built
	}
	return page
}
