package main

// The clients over https. The tests make certificates with an authority of their own, which no system trusts.

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"slackboard/e2e"
)

func TestClientTLS(t *testing.T) {
	t.Parallel()
	ours, other := e2e.NewAuthority(t), e2e.NewAuthority(t)
	cert, key := ours.Files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.Cert)
	requests := 0
	listen := func(clients tls.ClientAuthType) string {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			io.WriteString(w, `{"message":"ok"}`)
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: clients}
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.URL
	}
	open, closed := listen(tls.NoClientCert), listen(tls.RequireAndVerifyClientCert)
	forClients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	clientCert, clientKey := ours.Files(&x509.Certificate{ExtKeyUsage: forClients})
	strangerCert, strangerKey := other.Files(&x509.Certificate{ExtKeyUsage: forClients})
	empty := e2e.WriteFile(t, "empty.pem", "")
	for _, test := range []struct {
		name, flags, env string
		code             int
		stderr           string
	}{
		{"-cacert", "-s " + open + " -cacert " + ours.File, "", 0, ""},
		{"SSL_CERT_FILE", "-s " + open, "SSL_CERT_FILE=" + ours.File, 0, ""},
		{"nobody we know", "-s " + open, "", 1, "signed by unknown authority"},
		{"the wrong authority", "-s " + open + " -cacert " + other.File, "", 1, "signed by unknown authority"},
		{"-cert", "-s " + closed + " -cacert " + ours.File + " -cert " + clientCert + " -key " + clientKey, "", 0, ""},
		{"no certificate", "-s " + closed + " -cacert " + ours.File, "", 1, "tls: certificate required"},
		{"a stranger's", "-s " + closed + " -cacert " + ours.File + " -cert " + strangerCert + " -key " + strangerKey,
			"", 1, "tls: "},
		{"no file", "-s " + open + " -cacert /no/such/file", "", 1,
			"slackboard-cli: not sent: -cacert: open /no/such/file: no such file or directory\n"},
		{"an empty file", "-s " + open + " -cacert " + empty, "", 1,
			"slackboard-cli: not sent: -cacert: there is no certificate in " + empty + "\n"},
		{"another's key", "-s " + open + " -cert " + clientCert + " -key " + strangerKey, "", 1,
			"slackboard-cli: not sent: -cert and -key: "},
	} {
		if runtime.GOOS == "darwin" && test.env != "" {
			t.Log("skipped: SSL_CERT_FILE is not for darwin")
			continue
		}
		before := requests
		code, _, stderr := e2e.RunProgram(t, "hi", []string{test.env}, "slackboard-cli",
			append(strings.Fields(test.flags), "-t", "a", "-retry-max", "0")...)
		if code != test.code || !strings.Contains(stderr, test.stderr) || strings.Count(stderr, "\n") != code ||
			(requests > before) != (code == 0) {
			t.Errorf("%s: exit %d, %q", test.name, code, stderr)
		}
	}
}
