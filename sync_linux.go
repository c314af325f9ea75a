package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// syncData returns nil only once the data of f would survive a power cut. Of the metadata, fdatasync(2) writes only
// what is needed to read the data, such as the size, and no times.
func syncData(f *os.File) error {
	err := error(syscall.EINTR)
	for err == syscall.EINTR {
		err = syscall.Fdatasync(int(f.Fd()))
	}
	return os.NewSyscallError("fdatasync", err)
}

// monotonicTime returns CLOCK_MONOTONIC of clock_gettime(2), which package time does not show. systemd asks for it:
// sd_notify(3), MONOTONIC_USEC.
func monotonicTime() time.Duration {
	const monotonic = 1
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}
