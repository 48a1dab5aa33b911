package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	cacheddiscovery "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	serviceaccountcontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// startControllers runs the controllers without which kubectl would notice: roles `view`, `edit`
// and `admin` would be empty, namespaces would never end, pods would lack a service account, and
// deployments would be no more than text. They are the real ones, from kube-controller-manager.
func startControllers(ctx context.Context, config *rest.Config, certs *certificates) (*sync.WaitGroup, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	metadataClient, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	discoveryClient, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cacheddiscovery.NewMemCacheClient(discoveryClient))
	go wait.Until(mapper.Reset, 10*time.Second, ctx.Done())

	const resync = 10 * time.Hour
	shared := informers.NewSharedInformerFactory(client, resync)
	metadataInformers := metadatainformer.NewSharedInformerFactory(metadataClient, resync)
	core, apps := shared.Core().V1(), shared.Apps().V1()
	informersStarted := make(chan struct{})
	logger := klog.FromContext(ctx)

	key, err := keyutil.ParsePrivateKeyPEM(certs.serviceAccountKey)
	if err != nil {
		return nil, err
	}
	tokenGenerator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, err
	}

	roles := clusterroleaggregation.NewClusterRoleAggregation(shared.Rbac().V1().ClusterRoles(), client.RbacV1())
	namespaces := namespace.NewNamespaceController(ctx, client, metadataClient,
		client.Discovery().ServerPreferredNamespacedResources, core.Namespaces(), 5*time.Minute, v1.FinalizerKubernetes)
	accounts, err := serviceaccountcontroller.NewServiceAccountsController(logger, core.ServiceAccounts(),
		core.Namespaces(), client, serviceaccountcontroller.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return nil, fmt.Errorf("service accounts: %w", err)
	}
	tokens, err := serviceaccountcontroller.NewTokensController(logger, core.ServiceAccounts(), core.Secrets(), client,
		serviceaccountcontroller.TokensControllerOptions{TokenGenerator: tokenGenerator, RootCA: certs.cluster.pem})
	if err != nil {
		return nil, fmt.Errorf("service account tokens: %w", err)
	}
	rootCA, err := rootcacertpublisher.NewPublisher(core.ConfigMaps(), core.Namespaces(), client, certs.cluster.pem)
	if err != nil {
		return nil, fmt.Errorf("root CA publisher: %w", err)
	}
	deployments, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), core.Pods(), client)
	if err != nil {
		return nil, fmt.Errorf("deployments: %w", err)
	}
	replicaSets := replicaset.NewReplicaSetController(ctx, apps.ReplicaSets(), core.Pods(), client, replicaset.BurstReplicas)
	jobs, err := job.NewController(ctx, client, core.Pods(), shared.Batch().V1().Jobs(), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	graph := garbagecollector.NewDependencyGraphBuilder(ctx, metadataClient, mapper,
		garbagecollector.DefaultIgnoredResources(), informerfactory.NewInformerFactory(shared, metadataInformers), informersStarted)
	garbage, err := garbagecollector.NewComposedGarbageCollector(ctx, client, metadataClient, mapper, graph)
	if err != nil {
		return nil, fmt.Errorf("garbage collector: %w", err)
	}

	running := &sync.WaitGroup{}
	for _, run := range []func(){
		func() { roles.Run(ctx, 1) },
		func() { namespaces.Run(ctx, 4) },
		func() { accounts.Run(ctx, 1) },
		func() { tokens.Run(ctx, 1) },
		func() { rootCA.Run(ctx, 1) },
		func() { deployments.Run(ctx, 2) },
		func() { replicaSets.Run(ctx, 2) },
		func() { jobs.Run(ctx, 2) },
		func() { garbage.Run(ctx, 4, 30*time.Second) },
		// New kinds (a CRD) join the graph at the next look at discovery.
		func() { garbage.Sync(ctx, discoveryClient, 10*time.Second) },
	} {
		running.Go(run)
	}
	shared.Start(ctx.Done())
	metadataInformers.Start(ctx.Done())
	close(informersStarted)
	return running, nil
}
