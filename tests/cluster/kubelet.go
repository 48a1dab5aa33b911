package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/version"
)

const (
	nodeName = "local"
	// hostIP is where everything lives: the node, and every pod, as with hostNetwork.
	hostIP = "127.0.0.1"
	// leaseSeconds is how long the node counts as alive after its last sign of life.
	leaseSeconds = 40

	scratchPrefix = "portcullis-test-pods-"
	scratchLink   = "scratch"
)

// kubelet is the one node. It runs the commands of containers, and those of kubectl exec, as
// processes of this machine; images are names. What isolates them is no more than a scratch
// directory per pod and, where this process is root, the user nobody: good enough for tests that
// bring their own commands, and for nothing else.
type kubelet struct {
	client kubernetes.Interface
	// scratch is where pods' working directories are, logs where their output is.
	scratch, logs string
	// runAs is nil where this process may not change its user anyway.
	runAs  *syscall.Credential
	server *http.Server

	mu   sync.Mutex
	pods map[types.UID]*pod
}

// startKubelet registers the node, serves the API server's streams and follows the node's pods.
func startKubelet(ctx context.Context, config *rest.Config, certs *certificates, port int, dir string) (*kubelet, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	k := &kubelet{client: client, logs: filepath.Join(dir, "pods"), pods: map[types.UID]*pod{}}
	if err := k.prepareScratch(dir); err != nil {
		return nil, err
	}
	if k.server, err = k.serve(certs, port); err != nil {
		return nil, err
	}
	if err := k.register(ctx, port); err != nil {
		return nil, fmt.Errorf("register the node: %w", err)
	}
	go wait.UntilWithContext(ctx, k.heartbeat, leaseSeconds*time.Second/4)

	// The node authorizer lets a node see its own pods only, so the selector is not an option.
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(
		func(options *metav1.ListOptions) { options.FieldSelector = "spec.nodeName=" + nodeName }))
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { k.observe(object.(*v1.Pod)) },
		UpdateFunc: func(_, object any) { k.observe(object.(*v1.Pod)) },
		DeleteFunc: func(object any) {
			if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = tombstone.Obj
			}
			if gone, ok := object.(*v1.Pod); ok {
				k.forget(gone)
			}
		},
	})
	factory.Start(ctx.Done())
	return k, err
}

// stop ends every process that was started here and removes their directories.
func (k *kubelet) stop() {
	_ = k.server.Close()
	k.mu.Lock()
	pods := k.pods
	k.pods = map[types.UID]*pod{}
	k.mu.Unlock()
	var ending sync.WaitGroup
	for _, p := range pods {
		ending.Go(func() { p.kill(0) })
	}
	ending.Wait()
	_ = os.RemoveAll(k.scratch)
}

// prepareScratch makes the directory below which processes of pods may write. Another user cannot
// enter a home directory like root's, so then it stands in the system's temporary directory.
func (k *kubelet) prepareScratch(dir string) error {
	if err := os.MkdirAll(k.logs, 0o755); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		k.scratch = filepath.Join(dir, "pods", "scratch")
		return os.MkdirAll(k.scratch, 0o755)
	}
	const nobody = 65534
	k.runAs = &syscall.Credential{Uid: nobody, Gid: nobody}
	var err error
	if k.scratch, err = os.MkdirTemp("", scratchPrefix); err != nil {
		return err
	}
	// A run that was killed could not remove it; the next one finds it by this link.
	if err := os.Symlink(k.scratch, filepath.Join(dir, scratchLink)); err != nil {
		return err
	}
	return os.Chmod(k.scratch, 0o711)
}

// observe starts a pod seen for the first time, and tells a known one what changed.
func (k *kubelet) observe(object *v1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p, ok := k.pods[object.UID]; ok {
		p.observe(object)
		return
	}
	p := newPod(k, object)
	k.pods[object.UID] = p
	go p.run()
}

// forget ends a pod whose object is gone, which is usual after its deletion and abrupt after
// kubectl delete --force.
func (k *kubelet) forget(object *v1.Pod) {
	k.mu.Lock()
	p, ok := k.pods[object.UID]
	delete(k.pods, object.UID)
	k.mu.Unlock()
	if ok {
		go p.kill(0)
	}
}

// container finds what a stream asks for; an empty uid means whichever pod has the name now.
func (k *kubelet) container(namespace, name, uid, container string) (*pod, *container, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		if p.namespace != namespace || p.name != name || (uid != "" && string(p.uid) != uid) {
			continue
		}
		if container == "" {
			return p, nil, nil
		}
		if c := p.container(container); c != nil {
			return p, c, nil
		}
		return nil, nil, fmt.Errorf("container %q not found in pod %q", container, name)
	}
	return nil, nil, fmt.Errorf("pod %q does not exist", name)
}

// register creates the Node, which tells the API server our port.
func (k *kubelet) register(ctx context.Context, port int) error {
	node, err := k.client.CoreV1().Nodes().Create(ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: nodeName,
		Labels: map[string]string{
			v1.LabelHostname:   nodeName,
			v1.LabelOSStable:   "linux",
			v1.LabelArchStable: runtime.GOARCH,
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	now := metav1.Now()
	resources := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory: resource.MustParse("4Gi"),
		v1.ResourcePods:   resource.MustParse("110"),
	}
	node.Status = v1.NodeStatus{
		Capacity:        resources,
		Allocatable:     resources,
		Addresses:       []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: hostIP}, {Type: v1.NodeHostName, Address: nodeName}},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: int32(port)}},
		NodeInfo: v1.NodeSystemInfo{
			KubeletVersion:          version.Get().GitVersion,
			ContainerRuntimeVersion: "process://1",
			OperatingSystem:         "linux",
			OSImage:                 "local processes",
			Architecture:            runtime.GOARCH,
		},
		Conditions: []v1.NodeCondition{{
			Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady",
			Message: "runs commands as local processes", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}
	_, err = k.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// heartbeat renews the node's lease.
func (k *kubelet) heartbeat(ctx context.Context) {
	leases := k.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	name, seconds, now := nodeName, int32(leaseSeconds), metav1.NowMicro()
	spec := coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}
	lease, err := leases.Get(ctx, nodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: spec}, metav1.CreateOptions{})
	case err == nil:
		lease.Spec = spec
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	logUnlessDone(ctx, err, "Cannot renew the node's lease")
}
