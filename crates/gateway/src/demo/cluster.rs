//! The cluster the demonstration plays on: the embedded one, or one that is there already.

use std::path::{Path, PathBuf};

use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use portcullis_testkit::{ApiServer, Credential};
use serde_json::{Value, json};

use crate::kubeconfig::write_private;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Where the play puts what it needs on a cluster that is not ours, and what it calls its people there.
const NAMESPACE: &str = "portcullis-demo";
const PREFIX: &str = "portcullis-demo:";
/// The label of what the play itself makes outside its namespace.
pub(super) const MADE_BY_PLAY: &str = "portcullis.dev/demo";

/// A cluster with a shop in it.
pub(crate) enum Backdrop {
    Embedded(Embedded),
    Existing(Existing),
}

/// The in-memory API server.
pub(crate) struct Embedded {
    _server: ApiServer,
    kubeconfig: PathBuf,
}

/// A cluster somebody has, and the right to change it.
pub(crate) struct Existing {
    kubeconfig: PathBuf,
    admin: Client,
}

impl Backdrop {
    /// The namespace of the shop.
    pub(crate) fn namespace(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "shop",
            Self::Existing(_) => NAMESPACE,
        }
    }

    /// What stands before the names of people and groups, so that they are nobody a cluster knows.
    pub(crate) fn prefix(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "",
            Self::Existing(_) => PREFIX,
        }
    }

    /// The gateway's own credential.
    pub(crate) fn gateway_kubeconfig(&self) -> &Path {
        match self {
            Self::Embedded(embedded) => &embedded.kubeconfig,
            Self::Existing(existing) => &existing.kubeconfig,
        }
    }

    /// What to say of it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Embedded(_) => "an embedded, in-memory API server".into(),
            Self::Existing(existing) => format!("the cluster of {}", existing.kubeconfig.display()),
        }
    }

    /// Takes away what was put there.
    pub(crate) async fn clear(self) -> Result<(), AnyError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Existing(existing) => existing.clear().await,
        }
    }
}

impl Embedded {
    pub(crate) fn new(server: ApiServer, dir: &Path) -> Result<Self, AnyError> {
        let kubeconfig = dir.join("gateway.kubeconfig");
        let credential = Credential::Certificate(server.gateway_certificate()?);
        write_private(&kubeconfig, server.kubeconfig("demo", &credential, "shop").as_bytes())?;
        Ok(Self { _server: server, kubeconfig })
    }
}

impl Existing {
    /// Puts the shop into a namespace of its own, and gives the play's people rights in it.
    pub(crate) async fn prepare(kubeconfig: &Path) -> Result<Self, AnyError> {
        let kubeconfig = std::path::absolute(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig)?, &options).await?;
        let this = Self { kubeconfig, admin: Client::try_from(config)? };
        for (path, object) in objects() {
            match this.call(Method::POST, path, Some(&object)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => other.map(drop)?,
            }
        }
        this.pod_runs().await?;
        Ok(this)
    }

    async fn pod_runs(&self) -> Result<(), AnyError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/web");
        for _ in 0..240 {
            let pod: Value = serde_json::from_str(&self.call(Method::GET, &path, None).await?)?;
            if pod["status"]["phase"] == "Running" {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        Err(format!("the pod `web` in namespace {NAMESPACE} does not start").into())
    }

    async fn clear(self) -> Result<(), AnyError> {
        let made =
            format!("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings?labelSelector={MADE_BY_PLAY}");
        self.call(Method::DELETE, &made, None).await?;
        for (path, object) in objects().into_iter().rev() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            // The namespace takes along what is in it.
            if !path.contains("/namespaces/") {
                match self.call(Method::DELETE, &format!("{path}/{name}"), None).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => other.map(drop)?,
                }
            }
        }
        Ok(())
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        self.admin.request_text(request).await
    }
}

/// What the play needs, and where it goes. The same story as on the embedded server, under names of its own.
fn objects() -> Vec<(&'static str, Value)> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let group =
        |name: &str| json!([{ "apiGroup": RBAC, "kind": "Group", "name": format!("{PREFIX}{name}") }]);
    let read = ["get", "list", "watch"];
    let role_ref = |kind: &str, name: &str| json!({ "apiGroup": RBAC, "kind": kind, "name": name });
    let rbac = format!("{RBAC}/v1");
    vec![
        ("/api/v1/namespaces", json!({ "metadata": { "name": NAMESPACE } })),
        ("/api/v1/namespaces/portcullis-demo/serviceaccounts", json!({ "metadata": { "name": "web" } })),
        (
            "/api/v1/namespaces/portcullis-demo/secrets",
            json!({ "metadata": { "name": "db-credentials" }, "stringData": {
                "username": "shop", "password": "correct-horse-battery-staple",
                "url": "postgres://shop:correct-horse-battery-staple@db.shop.svc:5432/shop" } }),
        ),
        (
            "/api/v1/namespaces/portcullis-demo/pods",
            json!({ "metadata": { "name": "web", "labels": { "app": "web" } }, "spec": { "containers": [{
                "name": "web", "image": "busybox:stable", "command": ["sh", "-c", "while :; do echo tick; sleep 5; done"] }] } }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({ "apiVersion": rbac, "kind": "ClusterRole", "metadata": { "name": "portcullis-demo-agent" }, "rules": [
                rule("", &["pods", "pods/log", "secrets", "configmaps", "serviceaccounts"], &read),
                rule("", &["secrets"], &["create", "update", "patch", "delete"]),
                rule("", &["pods/exec", "serviceaccounts/token"], &["create", "get"]),
                rule("apps", &["deployments"], &read) ] }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({ "apiVersion": rbac, "kind": "ClusterRole", "metadata": { "name": "portcullis-demo-platform" }, "rules": [
                rule(RBAC, &["clusterrolebindings"], &["get", "list", "watch", "create", "delete"]),
                rule(RBAC, &["clusterroles"], &["get", "list", "watch", "bind"]) ] }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/portcullis-demo/rolebindings",
            json!({ "apiVersion": rbac, "kind": "RoleBinding", "metadata": { "name": "agents" },
                "roleRef": role_ref("ClusterRole", "portcullis-demo-agent"), "subjects": group("agents") }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({ "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": { "name": "portcullis-demo-agents" },
                "roleRef": role_ref("ClusterRole", "portcullis-demo-platform"), "subjects": group("agents") }),
        ),
    ]
}
