package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

//go:embed seed.yaml
var seedYAML []byte

// seed creates what seed.yaml says and waits until it runs and the default roles have their rules.
// It returns the server's version.
func seed(ctx context.Context, config *rest.Config, failed <-chan error) (string, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return "", err
	}
	groups, err := restmapper.GetAPIGroupResources(client.Discovery())
	if err != nil {
		return "", err
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(seedYAML), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		kind := object.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return "", err
		}
		resource := objects.Resource(mapping.Resource).Namespace(object.GetNamespace())
		err = until(ctx, failed, func() error {
			// A pod is refused until its namespace has a default service account.
			_, err := resource.Create(ctx, object, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", kind.Kind, object.GetName(), err)
		}
	}

	err = until(ctx, failed, func() error {
		for _, name := range []string{"view", "edit", "admin"} {
			role, err := client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(role.Rules) == 0 {
				return fmt.Errorf("ClusterRole %s has no rules yet", name)
			}
		}
		pods, err := client.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		const expected = 3
		if ready := countReady(pods.Items); ready < expected {
			return fmt.Errorf("%d of %d pods are ready", ready, expected)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return "", err
	}
	return version.GitVersion, nil
}

func countReady(pods []v1.Pod) int {
	ready := 0
	for _, pod := range pods {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == v1.PodReady && condition.Status == v1.ConditionTrue {
				ready++
			}
		}
	}
	return ready
}

// until tries until it works, the time is up, or a part of the cluster failed; the last error says
// what it waited for.
func until(ctx context.Context, failed <-chan error, try func() error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		select {
		case err := <-failed:
			return false, err
		default:
		}
		last = try()
		return last == nil, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}
