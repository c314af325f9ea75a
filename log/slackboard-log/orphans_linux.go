package main

import "syscall"

// adoptOrphans makes us the parent of processes that the command leaves behind: PR_SET_CHILD_SUBREAPER of prctl(2).
func adoptOrphans() {
	const prSetChildSubreaper = 36
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
}
