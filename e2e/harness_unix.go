//go:build unix

package e2e

import "syscall"

// AsNobody runs a process without privileges.
func AsNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}
