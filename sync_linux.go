package main

import (
	"os"
	"syscall"
)

// syncData returns once the data of f would survive a power cut: fdatasync(2) writes no times, only what reading needs.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
