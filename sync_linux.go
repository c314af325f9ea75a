package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// syncData returns once the data of f would survive a power cut: fdatasync(2) writes no times, only what reading needs.
func syncData(f *os.File) error {
	err := error(syscall.EINTR)
	for err == syscall.EINTR {
		err = syscall.Fdatasync(int(f.Fd()))
	}
	return os.NewSyscallError("fdatasync", err)
}

// monotonicTime returns CLOCK_MONOTONIC of clock_gettime(2), which the time package does not show.
func monotonicTime() time.Duration {
	const monotonic = 1
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}
