// An ordinary controller's eyes: shared informers of client-go, as every controller has them.
//
//	informer -kubeconfig FILE -namespace NS
//
// Prints one line of JSON for each event that its informers deliver, and {"type":"SYNCED"} when their caches are
// filled. When its standard input ends, it prints what is in the caches and ends.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// line is what is printed. Whatever differs between two equal objects by chance is left out.
type line struct {
	Type   string            `json:"type"`
	Kind   string            `json:"kind,omitempty"`
	Name   string            `json:"name,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Data   map[string]string `json:"data,omitempty"`
	Wanted *int32            `json:"wanted,omitempty"`
}

type printer struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (p *printer) print(l line) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err := p.encoder.Encode(l); err != nil {
		fail(err)
	}
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "whom to ask, and as whom")
	namespace := flag.String("namespace", "default", "what to watch")
	contentType := flag.String("content-type", "application/json", "how to speak")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fail(err)
	}
	config.ContentType = *contentType
	config.AcceptContentTypes = *contentType
	config.UserAgent = "informer/test"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &printer{encoder: json.NewEncoder(os.Stdout)}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(*namespace))
	watched := map[string]cache.SharedIndexInformer{
		"ConfigMap":  factory.Core().V1().ConfigMaps().Informer(),
		"Secret":     factory.Core().V1().Secrets().Informer(),
		"Deployment": factory.Apps().V1().Deployments().Informer(),
	}
	for kind, informer := range watched {
		handler := cache.ResourceEventHandlerDetailedFuncs{
			AddFunc:    func(object any, _ bool) { out.print(describe("ADDED", kind, object)) },
			UpdateFunc: func(_, object any) { out.print(describe("MODIFIED", kind, object)) },
			DeleteFunc: func(object any) { out.print(describe("DELETED", kind, object)) },
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			fail(err)
		}
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			fail(fmt.Errorf("%v was never filled", kind))
		}
	}
	out.print(line{Type: "SYNCED"})

	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		fail(err)
	}
	var kinds []string
	for kind := range watched {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	for _, kind := range kinds {
		store := watched[kind].GetStore()
		keys := store.ListKeys()
		sort.Strings(keys)
		for _, key := range keys {
			object, _, err := store.GetByKey(key)
			if err != nil {
				fail(err)
			}
			out.print(describe("CACHED", kind, object))
		}
	}
}

func describe(event, kind string, object any) line {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	meta, ok := object.(metav1.Object)
	if !ok {
		fail(fmt.Errorf("%T is no object", object))
	}
	l := line{Type: event, Kind: kind, Name: meta.GetName(), Labels: meta.GetLabels()}
	switch object := object.(type) {
	case *corev1.ConfigMap:
		if object.Name != "kube-root-ca.crt" {
			l.Data = object.Data
		}
	case *corev1.Secret:
		l.Data = map[string]string{}
		for key, value := range object.Data {
			l.Data[key] = string(value)
		}
	case *appsv1.Deployment:
		l.Wanted = object.Spec.Replicas
	}
	return l
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
