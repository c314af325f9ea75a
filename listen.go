package main

// Where the server listens: the forms of core.port, and sockets left behind.

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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

// listen opens core.port. A unix socket that a dead server left is replaced, a live one is an error.
func listen(port string) (net.Listener, error) {
	network, address, err := parsePort(port)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	return net.Listen(network, address)
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
