//go:build unix

package main

import "syscall"

// asNobody runs a process without privileges.
func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}
