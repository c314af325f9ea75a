package main

// Where the server listens: the forms of core.port, sockets left behind or handed over by systemd, TLS.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// parsePort turns core.port ("29800", "HOST:PORT", "unix:/path") into what net.Listen takes.
func parsePort(port string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(port, "unix:"); ok {
		if path == "" {
			return "", "", errors.New(`"unix:" wants a path: unix:/path`)
		}
		return "unix", path, nil
	}
	host, number := "", port
	if strings.Contains(port, ":") {
		if host, number, err = net.SplitHostPort(port); err != nil {
			return "", "", fmt.Errorf("%q is not PORT, HOST:PORT or unix:/path", port)
		}
	}
	if _, err := strconv.ParseUint(number, 10, 16); err != nil {
		return "", "", fmt.Errorf("%q is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535", port)
	}
	return "tcp", net.JoinHostPort(host, number), nil
}

// listen opens core.port, or takes over the sockets that systemd has opened: sd_listen_fds(3). A unix socket that a dead
// server left is replaced, a live one is an error.
func listen(cfg *config) ([]net.Listener, error) {
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && n > 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		return inherited(n)
	}
	network, address, err := parsePort(cfg.core.port)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
		if mode, ok := parseMode(cfg.core.socketMode); ok {
			defer syscall.Umask(syscall.Umask(0o777 &^ mode)) // a chmod would come a moment late
		}
	}
	l, err := net.Listen(network, address)
	return []net.Listener{l}, err
}

const firstInherited = 3 // file descriptor: SD_LISTEN_FDS_START

func inherited(n int) (listeners []net.Listener, err error) {
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("file descriptor %d, from systemd, is no listening socket: %w", fd, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// exposed tells whether anybody on the network may post.
func exposed(cfg *config, listeners []net.Listener) bool {
	open := cfg.open() && cfg.core.tlsClientCA == ""
	return open && slices.ContainsFunc(listeners, func(l net.Listener) bool {
		at, ok := l.Addr().(*net.TCPAddr)
		return ok && !at.IP.IsLoopback()
	})
}

// secured serves new connections with the certificate of the configuration as it is then, if there is one.
type secured struct {
	net.Listener
	cfg func() *config
}

func (s secured) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if config := s.cfg().tls; err == nil && config != nil {
		conn = tls.Server(conn, config)
	}
	return conn, err
}

// maxConnections is 4,096, less where the process may not open twice as many files: the spool needs some.
func maxConnections() int {
	most, files := 4096, syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && uint64(files.Cur) < uint64(2*most) {
		most = int(files.Cur / 2)
	}
	return most
}

// tellSystemd sends a state to the service manager, where there is one: sd_notify(3).
func tellSystemd(state string) {
	if conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET")); err == nil {
		io.WriteString(conn, state)
		conn.Close()
	}
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen unix %s: there is a file of that name, and it is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen unix %s: a running server listens there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
