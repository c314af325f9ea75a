package main

// Where the server listens: the forms of core.port, unix sockets that a dead server left, sockets from systemd, TLS,
// and the limit on connections. Also -health, which asks the running server.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// parsePort turns core.port ("29800", "HOST:PORT", "unix:/path") into the arguments of net.Listen.
func parsePort(port string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(port, "unix:"); ok && path != "" {
		return "unix", path, nil
	}
	host, number, _ := net.SplitHostPort(port)
	number = cmp.Or(number, port) // port is PORT alone
	if _, err := strconv.ParseUint(number, 10, 16); err != nil {
		return "", "", fmt.Errorf("%q is not PORT, HOST:PORT or unix:/path, with a PORT from 0 to 65535", port)
	}
	return "tcp", net.JoinHostPort(host, number), nil
}

// listen listens on core.port. If systemd has opened sockets for this process, listen takes these instead: they are
// the file descriptors from 3 on, see sd_listen_fds(3).
func listen(cfg *config) (listeners []net.Listener, err error) {
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) { // there are none, or not for this process
		network, address, _ := parsePort(cfg.core.port) // no error: core.port was checked
		l, err := listenAt(network, address, cfg.core.socketMode)
		return []net.Listener{l}, err
	}
	for fd := 3; fd < 3+n; fd++ {
		f := os.NewFile(uintptr(fd), "socket")
		l, err := net.FileListener(f) // l has a duplicate of f
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("file descriptor %d, from systemd, is not a listening socket: %w", fd, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// listenAt is net.Listen, but it replaces a unix socket that a dead server left. The socket of a running server is an
// error. Servers that start at the same time take turns, with a lock on the folder, so that none removes the socket
// of another.
func listenAt(network, path, socketMode string) (net.Listener, error) {
	if network != "unix" {
		return net.Listen(network, path)
	}
	dir, _ := os.Open(filepath.Dir(path)) // nil if the folder cannot be read: then there is no lock
	defer dir.Close()                     // unlocks the folder
	syscall.Flock(int(dir.Fd()), syscall.LOCK_EX)
	conn, err := net.Dial("unix", path)
	info, missing := os.Lstat(path) // Dial is also refused if path is a file of another kind
	if err == nil {
		conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) && missing == nil && info.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
	if mode, err := strconv.ParseUint(socketMode, 8, 9); err == nil {
		defer syscall.Umask(syscall.Umask(0o777 &^ int(mode))) // a chmod after Listen would be too late
	}
	return net.Listen(network, path)
}

// listener accepts the server's connections. A new connection gets the certificate that the configuration has at that
// moment, if any. If no connection can be accepted, Accept logs the first error and tries again every 100 ms.
type listener struct {
	net.Listener
	cfg func() *config
	log *slog.Logger
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	for failed := 0; err != nil && !errors.Is(err, net.ErrClosed); failed++ {
		if failed == 0 {
			l.log.Error("no connection can be accepted", "err", err)
		}
		time.Sleep(100 * time.Millisecond)
		conn, err = l.Listener.Accept()
	}
	if config := l.cfg().tls; err == nil && config != nil {
		conn = tls.Server(conn, config)
	}
	return conn, err
}

const (
	maxConnections = 4096
	otherFiles     = 16 // file descriptors for the runtime, the logs, the spool, the listeners and a reload
)

// limits divides the file descriptors of the process between connections and posts. Go's runtime has raised the soft
// limit to the hard limit.
func limits() (connections, posts int) {
	files := syscall.Rlimit{Cur: 4 * maxConnections}
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	return shareFiles(int(min(uint64(files.Cur), 4*maxConnections)))
}

// shareFiles gives posts their file descriptors first, because messages must be delivered. It counts two for each
// post in flight: its connection to Slack, and an idle one. Connections get the rest, but at most half of all
// descriptors.
func shareFiles(files int) (connections, posts int) {
	posts = max(4, min((files-otherFiles)/8, maxPosts))
	return max(4, min(files-otherFiles-2*posts, files/2, maxConnections)), posts
}

// newWebServer returns an HTTP server. The parameter most limits its open connections: if all are in use, the server
// closes idle ones to make room for the next one. The context of every request ends at stop.
func newWebServer(s *server, most int, stop context.Context) *http.Server {
	web := &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return stop },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // from the end of the request's header; longer for sync=true
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10, // as thousands of short headers, they take 15 times as much memory
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	connections := make(chan struct{}, most)
	web.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // the next connection is accepted after this function returns
			if len(connections) == most {
				web.SetKeepAlivesEnabled(false) // closes idle connections
				defer web.SetKeepAlivesEnabled(true)
			}
			select {
			case connections <- struct{}{}:
			case <-stop.Done(): // Shutdown waits for this function
			}
		case http.StateClosed:
			<-connections
		}
	}
	return web
}

// tellSystemd sends assignments such as READY=1 to the service manager, if there is one: see sd_notify(3). Each
// becomes one line of at most 500 characters, whatever is in its value. tellSystemd gives up after 1 s if the manager
// does not read.
func tellSystemd(assignments ...string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return
	}
	defer conn.Close()
	for i, a := range assignments {
		assignments[i] = cleaned(a, 500)
	}
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	io.WriteString(conn, strings.Join(assignments, "\n"))
}

// askReady asks the server that runs with cfg for /readyz, and returns nil if the server accepts messages. It is for
// containers and monitors without curl.
func askReady(cfg *config) error {
	network, address, err := parsePort(cfg.core.port)
	if err != nil {
		return err
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial(network, address) }
	transport, scheme := &http.Transport{DialContext: dial}, "http"
	if cfg.tls != nil { // not verified: the certificate's name is not known, and nothing secret is sent
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, Certificates: cfg.tls.Certificates}
		scheme = "https"
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
	resp, err := client.Get(scheme + "://localhost/readyz")
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", cfg.core.port, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(body)))
	}
	return nil
}
