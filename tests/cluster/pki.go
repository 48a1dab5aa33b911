package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// user is a client certificate's subject: the name and groups that the API server sees.
type user struct {
	name   string
	groups []string
}

var (
	adminUser = user{"portcullis-test-admin", []string{"system:masters"}}
	// gatewayUser has only what seed.yaml gives it: the right to impersonate.
	gatewayUser = user{"portcullis-gateway", nil}
	// The real controller manager gives each controller a service account of its own; here one
	// identity does, named so that the audit policy can leave its noise out.
	controllerUser = user{"system:kube-controller-manager", []string{"system:masters"}}
	schedulerUser  = user{"system:kube-scheduler", nil}
	nodeUser       = user{"system:node:" + nodeName, []string{"system:nodes"}}
	// kubeletClientUser is how the API server shows itself to the kubelet.
	kubeletClientUser = user{"kube-apiserver-kubelet-client", nil}
)

// authority is a certificate authority whose key exists in memory only.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// pair is a certificate with its key, both as PEM.
type pair struct{ cert, key []byte }

// certificates are all of one cluster's. etcd has an authority of its own, so that no client
// certificate of the cluster (the gateway's, say) can read the store behind the API server.
type certificates struct {
	dir     string
	cluster *authority
	etcd    *authority
	// serviceAccountKey signs service account tokens.
	serviceAccountKey []byte
	clients           map[string]pair
}

func newCertificates(dir, url string) (*certificates, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &certificates{dir: dir, clients: map[string]pair{}}
	var err error
	if c.cluster, err = newAuthority("portcullis-test-cluster"); err != nil {
		return nil, err
	}
	if c.etcd, err = newAuthority("portcullis-test-etcd"); err != nil {
		return nil, err
	}
	for _, u := range []user{adminUser, gatewayUser, controllerUser, schedulerUser, nodeUser, kubeletClientUser} {
		if c.clients[u.name], err = c.cluster.issue(u); err != nil {
			return nil, err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if c.serviceAccountKey, err = keyPEM(key); err != nil {
		return nil, err
	}

	// What the servers read from files, because they take flags.
	apiServer, err := c.cluster.issue(user{name: "kube-apiserver"})
	if err != nil {
		return nil, err
	}
	etcdServer, err := c.etcd.issue(user{name: "etcd"})
	if err != nil {
		return nil, err
	}
	etcdClient, err := c.etcd.issue(user{name: "kube-apiserver"})
	if err != nil {
		return nil, err
	}
	kubeletClient := c.clients[kubeletClientUser.name]
	for name, content := range map[string][]byte{
		"ca.crt":             c.cluster.pem,
		"etcd-ca.crt":        c.etcd.pem,
		"apiserver.crt":      apiServer.cert,
		"apiserver.key":      apiServer.key,
		"etcd.crt":           etcdServer.cert,
		"etcd.key":           etcdServer.key,
		"etcd-client.crt":    etcdClient.cert,
		"etcd-client.key":    etcdClient.key,
		"kubelet-client.crt": kubeletClient.cert,
		"kubelet-client.key": kubeletClient.key,
		"sa.key":             c.serviceAccountKey,
	} {
		if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *certificates) file(name string) string { return filepath.Join(c.dir, name) }

// restConfig is how a part of this process reaches the API server.
func (c *certificates) restConfig(url string, u user) *rest.Config {
	client := c.clients[u.name]
	return &rest.Config{
		Host:            url,
		UserAgent:       "portcullis-test-cluster/" + u.name,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.cluster.pem, CertData: client.cert, KeyData: client.key},
		// One node and a few dozen objects: waiting for a rate limiter would only slow tests down.
		QPS:   -1,
		Burst: -1,
	}
}

// writeKubeconfigs writes the two that people use, and the certificate authority beside them.
func (c *certificates) writeKubeconfigs(dir, url string) error {
	for file, u := range map[string]user{"admin.kubeconfig": adminUser, "gateway.kubeconfig": gatewayUser} {
		client := c.clients[u.name]
		config := clientcmdapi.NewConfig()
		config.Clusters["test"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: c.cluster.pem}
		config.AuthInfos[u.name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.cert, ClientKeyData: client.key}
		config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: u.name, Namespace: "default"}
		config.CurrentContext = "test"
		if err := clientcmd.WriteToFile(*config, filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "ca.crt"), c.cluster.pem, 0o644)
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: certPEM(der)}, nil
}

// issue makes a certificate that may be either end of a connection on loopback.
func (a *authority) issue(u user) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: u.name, Organization: u.groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(0, 1, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP("10.0.0.1")},
		DNSNames:     []string{"localhost", "kubernetes.default.svc", nodeName},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, err
	}
	private, err := keyPEM(key)
	return pair{cert: certPEM(der), key: private}, err
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
