//go:build !linux

package e2e

import "testing"

func adoptOrphans() {}

func endLeftovers() []string { return nil }

// SmallDisk is for Linux only.
func SmallDisk(t *testing.T) string {
	t.Skip("skipped: a small disk can be mounted on Linux only")
	return ""
}
