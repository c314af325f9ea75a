//go:build !linux

package main

import (
	"os"
	"time"
)

// syncData returns nil only once the data of f would survive a power cut.
func syncData(f *os.File) error { return f.Sync() }

// monotonicTime returns 0. Only systemd asks for the time, and systemd runs only on Linux.
func monotonicTime() time.Duration { return 0 }
