//! Kubernetes for Portcullis: RequestInfo, metav1.Status and the upstream service
