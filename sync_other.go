//go:build !linux

package main

import "os"

// syncData returns once the data of f would survive a power cut.
func syncData(f *os.File) error { return f.Sync() }
