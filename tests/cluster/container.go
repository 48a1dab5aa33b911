package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// container runs the command of one container, again and again as its restart policy says. A
// container without command and arguments idles: what its image would run is not known here.
type container struct {
	pod    *pod
	spec   v1.Container
	policy v1.RestartPolicy
	// stopping is closed by stop; done when nothing will run any more.
	stopping, done chan struct{}
	stopOnce       sync.Once
	// ready is closed when the next init container may start.
	ready     chan struct{}
	readyOnce sync.Once

	mu          sync.Mutex
	started     bool
	state, last v1.ContainerState
	restarts    int32
	process     *process
	output      *output
	previous    *output
}

func newContainer(p *pod, spec v1.Container, policy v1.RestartPolicy) *container {
	return &container{
		pod: p, spec: spec, policy: policy,
		stopping: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}),
		state: waiting("ContainerCreating", ""),
	}
}

func waiting(reason, message string) v1.ContainerState {
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// run returns when the container will not run again.
func (c *container) run() {
	c.mu.Lock()
	if c.isStopping() {
		c.mu.Unlock()
		return
	}
	c.started = true
	c.mu.Unlock()
	defer c.pod.notify()
	defer c.markReady()
	defer close(c.done)

	pause := time.Second
	for {
		began := time.Now()
		terminated := c.once()
		c.set(v1.ContainerState{Terminated: terminated})
		again := c.policy == v1.RestartPolicyAlways ||
			(c.policy == v1.RestartPolicyOnFailure && terminated.ExitCode != 0)
		if !again || c.isStopping() {
			return
		}
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		c.mu.Lock()
		c.last, c.restarts = c.state, c.restarts+1
		c.mu.Unlock()
		c.set(waiting("CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container %s", pause, c.spec.Name)))
		if !c.pause(pause) {
			c.set(v1.ContainerState{Terminated: terminated})
			return
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// once runs the command one time and says how it ended.
func (c *container) once() *v1.ContainerStateTerminated {
	began := metav1.Now()
	end := func(code int32, reason, message string) *v1.ContainerStateTerminated {
		return &v1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, Message: message, StartedAt: began, FinishedAt: metav1.Now(), ContainerID: c.id(),
		}
	}

	env, err := c.environment()
	for ; err != nil; env, err = c.environment() {
		// As with a Secret that does not exist yet: the kubelet waits for it.
		c.set(waiting("CreateContainerConfigError", err.Error()))
		if !c.pause(time.Second) {
			return end(137, "ContainerStatusUnknown", "stopped before it started")
		}
	}
	output, err := newOutput(c.logPath())
	if err != nil {
		return end(128, "StartError", err.Error())
	}
	defer output.end()

	argv := append(append([]string{}, c.spec.Command...), c.spec.Args...)
	if len(argv) == 0 {
		fmt.Fprintf(output.stdout(), "no command given, and image %s is not pulled here: the container idles\n", c.spec.Image)
		c.running(nil, output, began)
		<-c.stopping
		return end(0, "Completed", "")
	}
	process, err := c.pod.kubelet.start(c.pod, command{
		argv: argv, env: env, tty: c.spec.TTY, stdin: c.spec.Stdin, stdout: output.stdout(), stderr: output.stderr(),
	})
	if err != nil {
		fmt.Fprintln(output.stderr(), err)
		return end(128, "StartError", err.Error())
	}
	if !c.running(process, output, began) {
		process.kill()
	}
	code := process.wait()
	if code != 0 {
		return end(code, "Error", "")
	}
	return end(0, "Completed", "")
}

// running publishes the process to stop, exec and attach; false when it is to end at once.
func (c *container) running(process *process, output *output, began metav1.Time) bool {
	c.mu.Lock()
	c.process, c.previous, c.output = process, c.output, output
	stopping := c.isStopping()
	c.mu.Unlock()
	c.set(v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: began}})
	if c.policy == v1.RestartPolicyAlways {
		c.markReady()
	}
	return !stopping
}

// stop asks the processes to end, and after grace insists.
func (c *container) stop(grace time.Duration) {
	c.mu.Lock()
	c.stopOnce.Do(func() { close(c.stopping) })
	started, process := c.started, c.process
	c.mu.Unlock()
	if !started {
		return
	}
	if process != nil && grace > 0 {
		process.terminate()
		select {
		case <-c.done:
			return
		case <-time.After(grace):
		}
	}
	if process != nil {
		process.kill()
	}
	<-c.done
}

func (c *container) isStopping() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// pause waits unless the container is stopped meanwhile.
func (c *container) pause(d time.Duration) bool {
	select {
	case <-c.stopping:
		return false
	case <-time.After(d):
		return true
	}
}

func (c *container) markReady() { c.readyOnce.Do(func() { close(c.ready) }) }

// initialized is closed when an init container is through, or, if it is a sidecar, runs.
func (c *container) initialized() <-chan struct{} { return c.ready }

// over says that the container has run and will not again.
func (c *container) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// failed says that it is over and did not succeed.
func (c *container) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over() && (c.state.Terminated == nil || c.state.Terminated.ExitCode != 0)
}

func (c *container) set(state v1.ContainerState) {
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
	c.pod.notify()
}

func (c *container) status() v1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.state.Running != nil
	status := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: "local-process:" + c.spec.Image,
		State: c.state, LastTerminationState: c.last, RestartCount: c.restarts, Ready: started, Started: &started,
	}
	// An init container that did its work counts as ready.
	if ended := c.state.Terminated; ended != nil && c.policy != v1.RestartPolicyAlways {
		status.Ready = ended.ExitCode == 0 && c.isInit()
	}
	if c.state.Waiting == nil || c.restarts > 0 {
		status.ContainerID = c.id()
	}
	return status
}

func (c *container) isInit() bool {
	for _, init := range c.pod.inits {
		if init == c {
			return true
		}
	}
	return false
}

func (c *container) id() string { return fmt.Sprintf("process://%s/%s", c.pod.uid, c.spec.Name) }

func (c *container) logPath() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return filepath.Join(c.pod.kubelet.logs, fmt.Sprintf("%s_%s_%s", c.pod.namespace, c.pod.name, c.pod.uid),
		c.spec.Name, fmt.Sprintf("%d.log", c.restarts))
}

// attachment is what a stream needs of the instance that runs now.
func (c *container) attachment() (*process, *output, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Running == nil {
		return nil, nil, fmt.Errorf("container %q is not running", c.spec.Name)
	}
	return c.process, c.output, nil
}

// logs is the output of the instance that runs or ran last, or of the one before it.
func (c *container) logs(previous bool) (*output, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case previous && c.previous == nil:
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", c.spec.Name, c.pod.name)
	case previous:
		return c.previous, nil
	case c.output == nil:
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", c.spec.Name, c.pod.name, c.state.Waiting)
	}
	return c.output, nil
}

// environment resolves env and envFrom with the node's own rights, as a kubelet does.
func (c *container) environment() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	core, namespace := c.pod.kubelet.client.CoreV1(), c.pod.namespace
	secret := func(name string) (map[string]string, error) {
		object, err := core.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data := map[string]string{}
		for key, value := range object.Data {
			data[key] = string(value)
		}
		return data, nil
	}
	settings := func(name string) (map[string]string, error) {
		object, err := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return object.Data, nil
	}

	var env []string
	add := func(name, value string) { env = append(env, name+"="+value) }
	for _, source := range c.spec.EnvFrom {
		var data map[string]string
		var err error
		var optional *bool
		switch {
		case source.SecretRef != nil:
			optional = source.SecretRef.Optional
			data, err = secret(source.SecretRef.Name)
		case source.ConfigMapRef != nil:
			optional = source.ConfigMapRef.Optional
			data, err = settings(source.ConfigMapRef.Name)
		}
		if err != nil && (optional == nil || !*optional) {
			return nil, err
		}
		for key, value := range data {
			add(source.Prefix+key, value)
		}
	}
	for _, variable := range c.spec.Env {
		from := variable.ValueFrom
		if from == nil {
			add(variable.Name, variable.Value)
			continue
		}
		value, err := "", error(nil)
		switch {
		case from.SecretKeyRef != nil:
			value, err = pick(secret, from.SecretKeyRef.Name, from.SecretKeyRef.Key, from.SecretKeyRef.Optional)
		case from.ConfigMapKeyRef != nil:
			value, err = pick(settings, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional)
		case from.FieldRef != nil:
			value, err = c.field(from.FieldRef.FieldPath)
		default:
			err = fmt.Errorf("env %s: this kind of source is not known here", variable.Name)
		}
		if err != nil {
			return nil, err
		}
		add(variable.Name, value)
	}
	return env, nil
}

func pick(read func(string) (map[string]string, error), name, key string, optional *bool) (string, error) {
	data, err := read(name)
	value, found := data[key]
	if err == nil && !found {
		err = fmt.Errorf("couldn't find key %s in %s", key, name)
	}
	if err != nil && optional != nil && *optional {
		return "", nil
	}
	return value, err
}

// field is the downward API, as far as it makes sense for a process.
func (c *container) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return c.pod.name, nil
	case "metadata.namespace":
		return c.pod.namespace, nil
	case "metadata.uid":
		return string(c.pod.uid), nil
	case "spec.nodeName":
		return nodeName, nil
	case "status.podIP", "status.hostIP":
		return hostIP, nil
	}
	return "", fmt.Errorf("field %s is not known here", path)
}

func makeParent(path string) error { return os.MkdirAll(filepath.Dir(path), 0o755) }
