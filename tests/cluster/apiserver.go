package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

type apiServerOptions struct {
	dir, assets    string
	certs          *certificates
	port, etcdPort int
}

// flags are the same for the embedded server and for an executable from -assets.
func (o apiServerOptions) flags() []string {
	url := fmt.Sprintf("https://127.0.0.1:%d", o.port)
	pki := o.certs.file
	return []string{
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", o.port),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),

		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", o.etcdPort),
		"--etcd-cafile=" + pki("etcd-ca.crt"),
		"--etcd-certfile=" + pki("etcd-client.crt"),
		"--etcd-keyfile=" + pki("etcd-client.key"),

		"--client-ca-file=" + pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		// Nobody here would ever take the taint of a new node away.
		"--disable-admission-plugins=TaintNodesByCondition",
		// The issuer is a URL that really answers, so that the gateway can be tested with service
		// account tokens and their discovery document.
		"--service-account-issuer=" + url,
		"--service-account-jwks-uri=" + url + "/openid/v1/jwks",
		"--service-account-key-file=" + pki("sa.key"),
		"--service-account-signing-key-file=" + pki("sa.key"),
		"--api-audiences=" + url,

		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"),
		"--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",

		"--audit-policy-file=" + filepath.Join(o.dir, "pki", "audit-policy.yaml"),
		"--audit-log-path=" + filepath.Join(o.dir, "audit.log"),
		"--audit-log-mode=blocking",
		// Rotation would hide lines from whoever reads the file.
		"--audit-log-maxsize=2000",

		"--allow-privileged=true",
		"--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none",
		"--profiling=false",
		"--shutdown-delay-duration=0s",
	}
}

// startAPIServer returns once the server is starting; waitReady says when it answers.
func startAPIServer(o apiServerOptions) (*part, error) {
	if err := os.WriteFile(filepath.Join(o.dir, "pki", "audit-policy.yaml"), auditPolicy, 0o600); err != nil {
		return nil, err
	}
	if o.assets != "" {
		return startProcess(filepath.Join(o.assets, "kube-apiserver"), o.flags()...)
	}

	// What the kube-apiserver command does, without its own signal handlers: this process stops
	// its parts in order.
	server := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range server.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(o.flags()); err != nil {
		return nil, err
	}
	if err := server.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	ctx, cancel := context.WithCancel(context.Background())
	completed, err := server.Complete(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		cancel()
		return nil, utilerrors.NewAggregate(errs)
	}

	failed, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(failed)
		if err := app.Run(ctx, completed); err != nil {
			failed <- err
		}
	}()
	stop := func() {
		cancel()
		// Open watches of clients that will not go away must not keep the cluster up.
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
		}
	}
	return &part{stop: stop, failed: failed}, nil
}

// waitReady waits until /readyz is happy: post-start hooks (RBAC's default roles among them) ran.
func waitReady(ctx context.Context, config *rest.Config, failed <-chan error) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var last error
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		select {
		case err := <-failed:
			return false, err
		default:
		}
		_, last = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the API server is not ready: %w (last answer: %v)", err, last)
	}
	return nil
}
