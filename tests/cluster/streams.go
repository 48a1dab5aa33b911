package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	utilexec "k8s.io/utils/exec"
)

const streamIdleTimeout = 4 * time.Hour

// serve answers what the API server asks a kubelet for. The wire protocols, SPDY and WebSocket,
// are the published streaming server's; only what happens at their end is ours.
func (k *kubelet) serve(certs *certificates, port int) (*http.Server, error) {
	server, err := certs.cluster.issue(user{name: nodeName})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(server.cert, server.key)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AddCert(certs.cluster.cert)

	mux := http.NewServeMux()
	for path, handler := range map[string]http.HandlerFunc{
		"/exec/{namespace}/{pod}/{container}":              k.serveExec,
		"/exec/{namespace}/{pod}/{uid}/{container}":        k.serveExec,
		"/attach/{namespace}/{pod}/{container}":            k.serveAttach,
		"/attach/{namespace}/{pod}/{uid}/{container}":      k.serveAttach,
		"/portForward/{namespace}/{pod}":                   k.servePortForward,
		"/portForward/{namespace}/{pod}/{uid}":             k.servePortForward,
		"GET /containerLogs/{namespace}/{pod}/{container}": k.serveLogs,
	} {
		mux.HandleFunc(path, handler)
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(hostIP, strconv.Itoa(port)), &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		// Upgrades need HTTP/1.1.
		NextProtos: []string{"http/1.1"},
		MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		return nil, err
	}
	result := &http.Server{Handler: onlyAPIServer(mux), ReadHeaderTimeout: 30 * time.Second}
	go func() {
		if err := result.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "The kubelet's server ended")
		}
	}()
	return result, nil
}

// onlyAPIServer keeps out every other certificate of the cluster: who comes in here runs commands.
func onlyAPIServer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != kubeletClientUser.name {
			http.Error(w, fmt.Sprintf("%s may not speak to the kubelet", name), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// target finds the pod and container of a request's path, or answers 404.
func (k *kubelet) target(w http.ResponseWriter, r *http.Request) (target, bool) {
	p, c, err := k.container(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
	return target{k, p, c}, err == nil
}

// target is one pod, or one container of it, as the streaming server wants to see it.
type target struct {
	kubelet   *kubelet
	pod       *pod
	container *container
}

func (k *kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	t, ok := k.target(w, r)
	if !ok {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, t, t.pod.name, string(t.pod.uid), t.container.spec.Name, r.URL.Query()["command"], options,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	t, ok := k.target(w, r)
	if !ok {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, r, t, t.pod.name, string(t.pod.uid), t.container.spec.Name, options,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	t, ok := k.target(w, r)
	if !ok {
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, t, t.pod.name, string(t.pod.uid), options,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

func (k *kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	t, ok := k.target(w, r)
	if !ok {
		return
	}
	options := &v1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), v1.SchemeGroupVersion, options); err != nil {
		http.Error(w, "cannot decode the query: "+err.Error(), http.StatusBadRequest)
		return
	}
	output, err := t.container.logs(options.Previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	flushing := flushwriter.Wrap(w)
	_, _ = flushing.Write(nil)
	if err := output.copyLogs(r.Context().Done(), flushing, options); err != nil && r.Context().Err() == nil {
		klog.V(2).InfoS("Logs ended early", "pod", t.pod.name, "err", err)
	}
}

// ExecInContainer runs a command beside the container, in the same directory and environment.
func (t target) ExecInContainer(_ context.Context, _, _, _ string, argv []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if _, _, err := t.container.attachment(); err != nil {
		return err
	}
	env, err := t.container.environment()
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		return errors.New("no command given")
	}
	started, err := t.kubelet.start(t.pod, command{
		argv: argv, env: env, tty: tty, stdin: in != nil, stdout: orDiscard(out), stderr: orDiscard(errOut),
	})
	if err != nil {
		return err
	}
	if !t.pod.track(started) {
		started.kill()
	}
	defer t.pod.untrack(started)
	go follow(started, resize)
	if in != nil {
		go func() {
			_, _ = io.Copy(started.stdin, in)
			_ = started.stdin.Close()
		}()
	}
	if code := started.wait(); code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// AttachContainer joins what the container's own command reads and writes, until either ends.
func (t target) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	running, output, err := t.container.attachment()
	if err != nil {
		return err
	}
	client := output.attach()
	defer output.detach(client)
	if running != nil {
		go follow(running, resize)
	}
	if in != nil && running != nil && running.stdin != nil {
		go func() {
			_, _ = io.Copy(running.stdin, in)
			if t.container.spec.StdinOnce {
				_ = running.stdin.Close()
			}
		}()
	}
	for chunk := range client.chunks {
		to := orDiscard(out)
		if chunk.stream == "stderr" {
			to = orDiscard(errOut)
		}
		if _, err := to.Write(chunk.data); err != nil {
			return nil
		}
	}
	return nil
}

// PortForward joins a stream with a port of this machine, which is every pod's network here.
func (t target) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(hostIP, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		// The client's end of input is passed on as such; when its connection broke, so does this.
		if _, err := io.Copy(conn, stream); err != nil {
			_ = conn.Close()
			return
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}

// follow keeps a terminal as large as the client's window; the channel is nil without a terminal.
func follow(p *process, resize <-chan remotecommand.TerminalSize) {
	if resize == nil {
		return
	}
	for size := range resize {
		p.resize(size.Width, size.Height)
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
