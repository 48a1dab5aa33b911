package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// part is something that runs until it is stopped. failed yields once if it ends by itself, and
// is closed when the part has ended.
type part struct {
	stop   func()
	failed <-chan error
}

type etcdOptions struct {
	dir, assets    string
	certs          *certificates
	port, peerPort int
}

func (o etcdOptions) client() string { return fmt.Sprintf("https://127.0.0.1:%d", o.port) }
func (o etcdOptions) peer() string   { return fmt.Sprintf("http://127.0.0.1:%d", o.peerPort) }
func (o etcdOptions) data() string   { return filepath.Join(o.dir, "etcd") }

// startEtcd starts a single member. It does not sync to disk: the data is thrown away anyway, and
// the tests should measure the gateway, not this machine's disk.
func startEtcd(o etcdOptions) (*part, error) {
	if o.assets != "" {
		return startProcess(filepath.Join(o.assets, "etcd"),
			"--name=default", "--data-dir="+o.data(), "--unsafe-no-fsync", "--log-level=error",
			"--listen-client-urls="+o.client(), "--advertise-client-urls="+o.client(),
			"--listen-peer-urls="+o.peer(), "--initial-advertise-peer-urls="+o.peer(),
			"--initial-cluster=default="+o.peer(), "--client-cert-auth",
			"--cert-file="+o.certs.file("etcd.crt"), "--key-file="+o.certs.file("etcd.key"),
			"--trusted-ca-file="+o.certs.file("etcd-ca.crt"))
	}

	client, err := url.Parse(o.client())
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(o.peer())
	if err != nil {
		return nil, err
	}
	config := embed.NewConfig()
	config.Dir = o.data()
	config.UnsafeNoFsync = true
	config.LogLevel = "error"
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.ClientTLSInfo = transport.TLSInfo{
		CertFile:       o.certs.file("etcd.crt"),
		KeyFile:        o.certs.file("etcd.key"),
		TrustedCAFile:  o.certs.file("etcd-ca.crt"),
		ClientCertAuth: true,
	}

	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return &part{stop: server.Close, failed: server.Err()}, nil
	case err := <-server.Err():
		server.Close()
		return nil, err
	case <-time.After(time.Minute):
		server.Close()
		return nil, errors.New("not ready after a minute")
	}
}

// startProcess runs one of the executables of -assets. It dies with us, however we die.
func startProcess(path string, args ...string) (*part, error) {
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, err
	}

	failed, ended := make(chan error, 1), make(chan struct{})
	var stopping sync.Once
	go func() {
		err := command.Wait()
		stopping.Do(func() { failed <- fmt.Errorf("%s: %w", filepath.Base(path), cmpErr(err)) })
		close(failed)
		close(ended)
	}()
	stop := func() {
		stopping.Do(func() {})
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = command.Process.Kill()
			<-ended
		}
	}
	return &part{stop: stop, failed: failed}, nil
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}
