// An ordinary controller's hand: reads Secrets, sets a label and perhaps a value, and writes each back as a whole.
//
//	update -kubeconfig FILE -namespace NS -label KEY=VALUE NAME...
//
// Prints one line of JSON for each Secret as it was read, and one as the server says it is now.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// line is what is printed.
type line struct {
	What string            `json:"what"`
	Name string            `json:"name"`
	Data map[string]string `json:"data"`
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "whom to ask, and as whom")
	namespace := flag.String("namespace", "default", "where")
	contentType := flag.String("content-type", "application/json", "how to speak")
	cached := flag.Bool("cached", false, "read from an informer's cache")
	label := flag.String("label", "", "what label to set")
	value := flag.String("value", "", "what value to set")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	config.ContentType = *contentType
	config.AcceptContentTypes = *contentType
	config.UserAgent = "update/test"
	client, err := kubernetes.NewForConfig(config)
	check(err)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	secrets := client.CoreV1().Secrets(*namespace)
	read := func(name string) (*corev1.Secret, error) {
		return secrets.Get(ctx, name, metav1.GetOptions{})
	}
	if *cached {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(*namespace))
		lister := factory.Core().V1().Secrets().Lister().Secrets(*namespace)
		factory.Start(ctx.Done())
		for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				check(fmt.Errorf("%v was never filled", kind))
			}
		}
		read = lister.Get
	}
	for _, name := range flag.Args() {
		secret, err := read(name)
		check(err)
		// What is in a cache is not ours to change.
		secret = secret.DeepCopy()
		show("read", secret)
		if key, set, found := strings.Cut(*label, "="); found {
			metav1.SetMetaDataLabel(&secret.ObjectMeta, key, set)
		}
		if key, set, found := strings.Cut(*value, "="); found {
			secret.Data[key] = []byte(set)
		}
		written, err := secrets.Update(ctx, secret, metav1.UpdateOptions{})
		check(err)
		show("written", written)
	}
}

func show(what string, secret *corev1.Secret) {
	l := line{What: what, Name: secret.Name, Data: map[string]string{}}
	for key, value := range secret.Data {
		l.Data[key] = string(value)
	}
	check(json.NewEncoder(os.Stdout).Encode(l))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
