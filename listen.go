package main

// Where the server listens: the forms of core.port, sockets left behind or handed over by systemd, TLS.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
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

// listen opens core.port, or takes over the sockets that systemd has opened: sd_listen_fds(3).
func listen(cfg *config) ([]net.Listener, error) {
	forUs := os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid())
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && n > 0 && forUs {
		return inherited(n)
	}
	network, address, err := parsePort(cfg.core.port)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if network == "unix" {
		l, err = listenUnix(address, cfg.core.socketMode)
	} else {
		l, err = net.Listen(network, address)
	}
	return []net.Listener{l}, err
}

// listenUnix replaces a socket that a dead server left; one of a running server is an error. Two servers that start at
// the same time take turns, by a lock on the folder: neither removes the socket of the other.
func listenUnix(path, socketMode string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen unix %s: %w", path, err)
	}
	defer dir.Close() // this unlocks it
	err = syscall.EWOULDBLOCK
	for tries := 0; errors.Is(err, syscall.EWOULDBLOCK) && tries < 500; tries++ {
		if err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen unix %s: lock its folder: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	if mode, err := strconv.ParseUint(socketMode, 8, 9); err == nil {
		defer syscall.Umask(syscall.Umask(0o777 &^ int(mode))) // a chmod would come a moment late
	}
	return net.Listen("unix", path)
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

// door is a listener of the server. A new connection is served with the certificate that the configuration has then, if
// any. While none can be accepted, Accept tries again; it logs that once.
type door struct {
	net.Listener
	cfg     func() *config
	log     *slog.Logger
	failing bool
}

func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		switch {
		case err == nil && d.failing:
			d.failing = false
			d.log.Log(context.Background(), levelNotice, "connections are accepted again")
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			if !d.failing {
				d.log.Error("no connection can be accepted", "err", err)
			}
			d.failing = true
			time.Sleep(acceptWait)
			continue
		}
		if config := d.cfg().tls; config != nil {
			conn = tls.Server(conn, config)
		}
		return conn, nil
	}
}

const (
	maxConnections = 4096
	acceptWait     = 100 * time.Millisecond
	otherFiles     = 16 // descriptors of the runtime, the logs, the spool, the listeners and a reload
)

// limits shares out the file descriptors that the process may open: Go has raised that to the hard limit.
func limits() (connections, posts int) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || uint64(files.Cur) > 4*maxConnections {
		return share(4 * maxConnections)
	}
	return share(int(files.Cur))
}

// share gives what has to work first: posts, each in flight with an idle connection to Slack beside it. The rest is for
// connections, half of all at most.
func share(files int) (connections, posts int) {
	posts = max(4, min((files-otherFiles)/8, maxPosts))
	return max(4, min(files-otherFiles-2*posts, files/2, maxConnections)), posts
}

// tellSystemd sends assignments such as READY=1 to the service manager, if there is one: sd_notify(3). Each becomes one
// line of at most 1,000 bytes, whatever its value is. If the manager does not read, tellSystemd gives up after 1 s.
func tellSystemd(assignments ...string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	for i, a := range assignments {
		a = strings.ToValidUTF8(a[:min(len(a), 1000)], "")
		assignments[i] = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return ' '
		}, a)
	}
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	io.WriteString(conn, strings.Join(assignments, "\n"))
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
