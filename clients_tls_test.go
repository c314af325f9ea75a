package main

// The clients over https: certificates are made here, by an authority that no system knows.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"slackboard/e2e"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	var der []byte
	der, a.key = a.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, _ = x509.ParseCertificate(der)
	a.file = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

// make returns a certificate signed by a, or by itself when a is new.
func (a *authority) make(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) write(name, kind string, der []byte) string {
	return e2e.WriteFile(a.t, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// files returns those of a certificate and its key.
func (a *authority) files(template *x509.Certificate) (cert, key string) {
	der, k := a.make(template)
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write("cert.pem", "CERTIFICATE", der), a.write("key.pem", "EC PRIVATE KEY", private)
}

func TestClientTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	cert, key := ours.files(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
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
	clientCert, clientKey := ours.files(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	strangerCert, strangerKey := other.files(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	empty := e2e.WriteFile(t, "empty.pem", "")
	for _, test := range []struct {
		name, flags, env string
		code             int
		stderr           string
	}{
		{"-cacert", "-s " + open + " -cacert " + ours.file, "", 0, ""},
		{"SSL_CERT_FILE", "-s " + open, "SSL_CERT_FILE=" + ours.file, 0, ""},
		{"nobody we know", "-s " + open, "", 1, "signed by unknown authority"},
		{"the wrong authority", "-s " + open + " -cacert " + other.file, "", 1, "signed by unknown authority"},
		{"-cert", "-s " + closed + " -cacert " + ours.file + " -cert " + clientCert + " -key " + clientKey, "", 0, ""},
		{"no certificate", "-s " + closed + " -cacert " + ours.file, "", 1, "tls: certificate required"},
		{"a stranger's", "-s " + closed + " -cacert " + ours.file + " -cert " + strangerCert + " -key " + strangerKey, "", 1, "tls: "},
		{"no file", "-s " + open + " -cacert /no/such/file", "", 1, "slackboard-cli: not sent: -cacert: open /no/such/file: no such file or directory\n"},
		{"an empty file", "-s " + open + " -cacert " + empty, "", 1, "slackboard-cli: not sent: -cacert: there is no certificate in " + empty + "\n"},
		{"another's key", "-s " + open + " -cert " + clientCert + " -key " + strangerKey, "", 1, "slackboard-cli: not sent: -cert and -key: "},
	} {
		if runtime.GOOS == "darwin" && test.env != "" {
			t.Log("skipped: SSL_CERT_FILE is not for darwin")
			continue
		}
		before := requests
		code, _, stderr := e2e.RunProgram(t, "hi", []string{test.env}, "slackboard-cli", append(strings.Fields(test.flags), "-t", "a", "-retry-max", "0")...)
		if code != test.code || !strings.Contains(stderr, test.stderr) || strings.Count(stderr, "\n") != code || (requests > before) != (code == 0) {
			t.Errorf("%s: exit %d, %q", test.name, code, stderr)
		}
	}
}
