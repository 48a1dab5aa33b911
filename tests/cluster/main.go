// Command cluster is a whole Kubernetes control plane in one process, for tests: etcd,
// kube-apiserver, the handful of controllers without which kubectl would notice, a scheduler
// that knows one node, and a kubelet that runs containers' commands as local processes.
//
// Nothing is installed and nothing is pulled. Every listener is on 127.0.0.1, on a free port, and
// asks for a client certificate of this cluster, because the kubelet runs what it is told. All
// state is below -dir; a start begins from nothing.
//
//	cluster -dir DIR [-ready-file FILE] [-assets DIR]
//
// DIR then holds admin.kubeconfig, gateway.kubeconfig, ca.crt and audit.log; FILE (default
// DIR/ready) appears when everything in seed.yaml runs, and goes away on shutdown.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// memoryLimit makes the garbage collector work harder above it; a quiet cluster needs half.
const memoryLimit = 900 << 20

func main() {
	dir := flag.String("dir", "", "where all state, certificates, kubeconfigs and logs go (required)")
	readyFile := flag.String("ready-file", "", "written when the cluster is ready (default DIR/ready)")
	assets := flag.String("assets", os.Getenv("KUBEBUILDER_ASSETS"),
		"directory with etcd and kube-apiserver executables to start instead of the embedded ones; "+
			"controllers, scheduler and kubelet stay ours (default $KUBEBUILDER_ASSETS)")
	flag.Parse()
	if *dir == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *readyFile, *assets); err != nil && !errors.Is(err, context.Canceled) {
		klog.ErrorS(err, "The cluster stopped")
		os.Exit(1)
	}
}

// run starts the parts in the order in which they need each other, waits for a signal or for the
// first part that fails, and stops them in the opposite order.
func run(ctx context.Context, dir, readyFile, assets string) error {
	started := time.Now()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if readyFile == "" {
		readyFile = filepath.Join(dir, "ready")
	}
	if err := clean(dir, readyFile); err != nil {
		return err
	}
	defer os.Remove(readyFile)

	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	etcdPort, peerPort, apiPort, kubeletPort := ports[0], ports[1], ports[2], ports[3]
	url := fmt.Sprintf("https://127.0.0.1:%d", apiPort)

	certs, err := newCertificates(filepath.Join(dir, "pki"), url)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := certs.writeKubeconfigs(dir, url); err != nil {
		return err
	}

	failed := make(chan error, 8)

	etcd, err := startEtcd(etcdOptions{dir: dir, assets: assets, certs: certs, port: etcdPort, peerPort: peerPort})
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer etcd.stop()
	forward(failed, "etcd", etcd.failed)

	api, err := startAPIServer(apiServerOptions{dir: dir, assets: assets, certs: certs, port: apiPort, etcdPort: etcdPort})
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	defer api.stop()
	forward(failed, "kube-apiserver", api.failed)

	if err := waitReady(ctx, certs.restConfig(url, adminUser), failed); err != nil {
		return err
	}

	// Controllers, scheduler and kubelet speak to the API server, so they end before it does.
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	controllers, err := startControllers(inner, certs.restConfig(url, controllerUser), certs)
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	defer func() { cancel(); controllers.Wait() }()
	if err := startScheduler(inner, certs.restConfig(url, schedulerUser)); err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	kubelet, err := startKubelet(inner, certs.restConfig(url, nodeUser), certs, kubeletPort, dir)
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	defer kubelet.stop()

	version, err := seed(ctx, certs.restConfig(url, adminUser), failed)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	klog.InfoS("Ready", "url", url, "version", version, "took", time.Since(started).Round(time.Millisecond))
	if err := writeReady(readyFile, url, version); err != nil {
		return err
	}

	select {
	case <-ctx.Done():
		klog.InfoS("Stopping")
		return nil
	case err := <-failed:
		return err
	}
}

// clean removes what an earlier run left in dir, and only that: dir may hold other people's files.
func clean(dir, readyFile string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if scratch, err := os.Readlink(filepath.Join(dir, scratchLink)); err == nil {
		if strings.HasPrefix(filepath.Base(scratch), scratchPrefix) {
			if err := os.RemoveAll(scratch); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{
		"etcd", "pki", "pods", scratchLink, "audit.log", "admin.kubeconfig", "gateway.kubeconfig", "ca.crt",
	} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(readyFile); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// writeReady renames, so that who polls for the file never reads half of it.
func writeReady(path, url, version string) error {
	content, err := json.MarshalIndent(map[string]any{
		"url":     url,
		"pid":     os.Getpid(),
		"version": version,
		"node":    nodeName,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// freePorts holds all listeners until it knows every port, so that the ports differ. Another
// process could take one before we listen on it again; then the start fails and says so.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// forward reports the end of one part, which is never expected while the cluster should run.
func forward(to chan<- error, part string, from <-chan error) {
	go func() {
		if err, ok := <-from; ok {
			to <- fmt.Errorf("%s ended: %w", part, err)
		}
	}()
}
