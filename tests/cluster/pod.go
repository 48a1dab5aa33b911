package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// pod runs one pod's containers and tells the API server how they are.
type pod struct {
	kubelet         *kubelet
	namespace, name string
	uid             types.UID
	// dir is the working directory of all its processes, and their $HOME.
	dir string
	// ctx ends when the pod must not start anything more.
	ctx    context.Context
	cancel context.CancelFunc
	// changed has room for one: many changes are reported at once.
	changed chan struct{}
	ended   chan struct{}

	mu          sync.Mutex
	object      *v1.Pod
	initialized bool
	initFailed  bool
	startTime   metav1.Time
	inits       []*container
	containers  []*container
	ephemeral   []*container
	// execs are the processes of kubectl exec, which end with the pod.
	execs map[*process]struct{}
}

func newPod(k *kubelet, object *v1.Pod) *pod {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pod{
		kubelet: k, namespace: object.Namespace, name: object.Name, uid: object.UID, object: object,
		dir: filepath.Join(k.scratch, fmt.Sprintf("%s_%s_%s", object.Namespace, object.Name, object.UID)),
		ctx: ctx, cancel: cancel, changed: make(chan struct{}, 1), ended: make(chan struct{}),
		startTime: metav1.Now(), execs: map[*process]struct{}{},
	}
	for _, spec := range object.Spec.InitContainers {
		// An init container that always restarts is a sidecar; the others run until they succeed.
		policy := v1.RestartPolicyOnFailure
		switch {
		case spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways:
			policy = v1.RestartPolicyAlways
		case object.Spec.RestartPolicy == v1.RestartPolicyNever:
			policy = v1.RestartPolicyNever
		}
		p.inits = append(p.inits, newContainer(p, spec, policy))
	}
	for _, spec := range object.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, spec, object.Spec.RestartPolicy))
	}
	return p
}

// run reports until the pod is deleted; beside it, lifecycle starts one container after another.
func (p *pod) run() {
	defer close(p.ended)
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		klog.ErrorS(err, "Cannot make a pod's directory", "pod", p.name)
		return
	}
	if user := p.kubelet.runAs; user != nil {
		if err := os.Chown(p.dir, int(user.Uid), int(user.Gid)); err != nil {
			klog.ErrorS(err, "Cannot give a pod its directory", "pod", p.name)
			return
		}
	}
	go p.lifecycle()
	p.notify()
	var last []byte
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.changed:
		}
		p.startEphemeral()
		if seconds, deleted := p.deletion(); deleted {
			p.stopContainers(time.Duration(seconds) * time.Second)
			p.report(&last)
			p.remove()
			return
		}
		if !p.report(&last) {
			// Try again: a status that is never told would make a test wait for ever.
			time.AfterFunc(time.Second, p.notify)
		}
	}
}

// lifecycle runs the init containers in order, then the others at once.
func (p *pod) lifecycle() {
	for _, c := range p.inits {
		go c.run()
		select {
		case <-p.ctx.Done():
			return
		case <-c.initialized():
		}
		if c.failed() {
			p.mu.Lock()
			p.initFailed = true
			p.mu.Unlock()
			p.notify()
			return
		}
	}
	p.mu.Lock()
	p.initialized = true
	p.mu.Unlock()
	for _, c := range p.containers {
		go c.run()
	}
	p.notify()
}

// startEphemeral starts what kubectl debug added to a running pod.
func (p *pod) startEphemeral() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, spec := range p.object.Spec.EphemeralContainers[len(p.ephemeral):] {
		c := newContainer(p, v1.Container(spec.EphemeralContainerCommon), v1.RestartPolicyNever)
		p.ephemeral = append(p.ephemeral, c)
		go c.run()
	}
}

func (p *pod) observe(object *v1.Pod) {
	p.mu.Lock()
	p.object = object
	p.mu.Unlock()
	p.notify()
}

func (p *pod) notify() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// deletion says whether the pod shall end, and how long its processes have for that.
func (p *pod) deletion() (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.object.DeletionTimestamp == nil {
		return 0, false
	}
	if p.object.DeletionGracePeriodSeconds == nil {
		return 0, true
	}
	return *p.object.DeletionGracePeriodSeconds, true
}

// kill ends everything without telling anybody.
func (p *pod) kill(grace time.Duration) {
	p.cancel()
	p.stopContainers(grace)
	<-p.ended
	_ = os.RemoveAll(p.dir)
}

func (p *pod) stopContainers(grace time.Duration) {
	p.mu.Lock()
	all := p.all()
	execs := p.execs
	p.execs = nil
	p.mu.Unlock()
	for process := range execs {
		process.kill()
	}
	var ending sync.WaitGroup
	for _, c := range all {
		ending.Go(func() { c.stop(grace) })
	}
	ending.Wait()
}

// all is to be called with the lock held.
func (p *pod) all() []*container {
	all := append([]*container{}, p.inits...)
	return append(append(all, p.containers...), p.ephemeral...)
}

func (p *pod) container(name string) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.all() {
		if c.spec.Name == name {
			return c
		}
	}
	return nil
}

// track remembers a process of kubectl exec; false when the pod has ended meanwhile.
func (p *pod) track(process *process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.execs == nil {
		return false
	}
	p.execs[process] = struct{}{}
	return true
}

func (p *pod) untrack(process *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.execs, process)
}

// remove completes the deletion that a client began, as the kubelet must.
func (p *pod) remove() {
	now := int64(0)
	err := p.kubelet.client.CoreV1().Pods(p.namespace).Delete(context.Background(), p.name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      &metav1.Preconditions{UID: &p.uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		logUnlessDone(p.ctx, err, "Cannot complete a pod's deletion")
	}
}

// report patches the status if it differs from the last one told; false means try again.
func (p *pod) report(last *[]byte) bool {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.uid},
		"status":   p.status(),
	})
	if err != nil {
		klog.ErrorS(err, "Cannot encode a status")
		return true
	}
	if bytes.Equal(patch, *last) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = p.kubelet.client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		*last = patch
		return true
	default:
		logUnlessDone(p.ctx, err, "Cannot report a pod's status")
		return false
	}
}

func (p *pod) status() v1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := v1.PodStatus{
		HostIP: hostIP, HostIPs: []v1.HostIP{{IP: hostIP}}, PodIP: hostIP, PodIPs: []v1.PodIP{{IP: hostIP}},
		StartTime: &p.startTime, QOSClass: p.object.Status.QOSClass, ObservedGeneration: p.object.Generation,
	}
	for _, c := range p.inits {
		status.InitContainerStatuses = append(status.InitContainerStatuses, c.status())
	}
	for _, c := range p.ephemeral {
		status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, c.status())
	}

	ready, ended, succeeded, started := true, true, true, false
	for _, c := range p.containers {
		one := c.status()
		status.ContainerStatuses = append(status.ContainerStatuses, one)
		ready = ready && one.Ready
		started = started || one.State.Waiting == nil || one.RestartCount > 0
		if !c.over() {
			ended = false
		} else if one.State.Terminated == nil || one.State.Terminated.ExitCode != 0 {
			succeeded = false
		}
	}
	switch {
	case p.initFailed || (ended && !succeeded):
		status.Phase = v1.PodFailed
	case ended:
		status.Phase = v1.PodSucceeded
	case started:
		status.Phase = v1.PodRunning
	default:
		status.Phase = v1.PodPending
	}

	for _, condition := range []struct {
		kind v1.PodConditionType
		is   bool
	}{
		{v1.PodScheduled, true}, {v1.PodReadyToStartContainers, !ended}, {v1.PodInitialized, p.initialized},
		{v1.ContainersReady, ready && !ended}, {v1.PodReady, ready && !ended},
	} {
		status.Conditions = append(status.Conditions, p.condition(condition.kind, condition.is))
	}
	return status
}

// condition keeps the time of the last transition while nothing changes.
func (p *pod) condition(kind v1.PodConditionType, is bool) v1.PodCondition {
	want := v1.PodCondition{Type: kind, Status: v1.ConditionFalse, LastTransitionTime: metav1.NewTime(metav1.Now().Truncate(time.Second))}
	if is {
		want.Status = v1.ConditionTrue
	}
	for _, had := range p.object.Status.Conditions {
		if had.Type == kind && had.Status == want.Status {
			want.LastTransitionTime = had.LastTransitionTime
		}
	}
	want.ObservedGeneration = p.object.Generation
	return want
}

func logUnlessDone(ctx context.Context, err error, message string) {
	if err != nil && ctx.Err() == nil {
		klog.ErrorS(err, message)
	}
}
