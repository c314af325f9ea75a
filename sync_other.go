//go:build !linux

package main

import (
	"os"
	"time"
)

// syncData returns once the data of f would survive a power cut.
func syncData(f *os.File) error { return f.Sync() }

// monotonicTime is for systemd, which is on Linux only.
func monotonicTime() time.Duration { return 0 }
