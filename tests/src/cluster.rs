//! The real control plane that `cargo xtask cluster up` starts.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit_log::{AuditEvent, AuditLog, Mark};
use crate::kubeconfig::Kubeconfig;
use crate::kubectl::Kubectl;
use crate::process::wait_until;

/// A running control plane.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where its state is.
    pub dir: PathBuf,
    /// The API server.
    pub url: String,
    /// Its version, as in `v1.37.2`.
    pub version: String,
}

#[derive(Deserialize)]
struct Ready {
    url: String,
    version: String,
}

impl Cluster {
    /// The cluster that `PORTCULLIS_TEST_CLUSTER` names. Without one the test fails: an end-to-end
    /// test that passes where nothing ran is worse than none.
    #[track_caller]
    pub fn from_env() -> Self {
        let dir = PathBuf::from(required(
            "PORTCULLIS_TEST_CLUSTER",
            "THIS SUITE NEEDS A REAL API SERVER: RUN `cargo xtask test --only e2e`",
        ));
        let ready = std::fs::read(dir.join("ready")).unwrap_or_else(|error| {
            panic!("THE CLUSTER IN {} IS NOT UP ({error}): RUN `cargo xtask cluster up`", dir.display())
        });
        let Ready { url, version } = serde_json::from_slice(&ready).expect("the cluster's ready file");
        Self { dir, url, version }
    }

    /// kubectl straight to the API server, with every right.
    pub fn admin(&self) -> Kubectl {
        Kubectl::new(self.dir.join("admin.kubeconfig"))
    }

    /// The gateway's kubeconfig: it may impersonate, and nothing else.
    pub fn gateway_kubeconfig(&self) -> PathBuf {
        self.dir.join("gateway.kubeconfig")
    }

    /// The kubeconfig of a service account that may do what agents may in this namespace, straight to
    /// the API server: for clients that cannot impersonate.
    pub async fn robot(&self, dir: &Path, namespace: &str) -> PathBuf {
        let admin = self.admin().namespace(namespace);
        admin.run(&["create", "serviceaccount", "robot"]).await.ok();
        let subject = format!("--serviceaccount={namespace}:robot");
        admin.run(&["create", "rolebinding", "robot", "--clusterrole=edit", &subject]).await.ok();
        let everywhere = format!("{namespace}-robot");
        admin
            .run(&["create", "clusterrolebinding", &everywhere, "--clusterrole=agents-cluster", &subject])
            .await
            .ok();
        let token = admin.run(&["create", "token", "robot", "--duration=1h"]).await.ok();
        Kubeconfig::new(&self.url, self.ca()).token(token.trim()).write(dir.join("robot.kubeconfig"))
    }

    /// Another user with the gateway's rights, and its kubeconfig in this directory: what the API
    /// server saw of this one gateway can then be told from all else. Returns the user's name.
    pub async fn another_gateway(&self, path: &Path) -> String {
        let name = format!("gateway-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let objects = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": name, "namespace": "default" },
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": { "name": name },
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "portcullis-gateway",
                },
                "subjects": [{ "kind": "ServiceAccount", "namespace": "default", "name": name }],
            },
        ] });
        let admin = self.admin().namespace("default");
        admin.run_with_input(&["create", "-f", "-"], objects.to_string()).await.ok();
        let token = admin.run(&["create", "token", &name, "--duration=3h"]).await.ok();
        let user = format!("system:serviceaccount:default:{name}");
        let asked = ["auth", "can-i", "impersonate", "users", "--as", &user];
        wait_until("the gateway's rights", || async {
            admin.run(&asked).await.status.success().then_some(())
        })
        .await;
        Kubeconfig::new(&self.url, self.ca()).token(token.trim()).write(path);
        user
    }

    /// The certificate authority of the API server.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// What the API server saw.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::new(self.dir.join("audit.log"))
    }

    /// Everything the API server has seen since a mark. A request of our own goes last: when it is
    /// in the log, so is all that was answered before it.
    pub async fn events_since(&self, mark: Mark) -> Vec<AuditEvent> {
        let barrier = format!("/version?barrier={}", uuid::Uuid::new_v4());
        self.admin().run(&["get", "--raw", &barrier]).await.ok();
        wait_until("the API server's audit log", || async {
            let mut events = self.audit_log().since(mark);
            let end = events.iter().position(|event| event.request_uri == barrier)?;
            events.truncate(end);
            Some(events)
        })
        .await
    }

    /// A namespace that no other test uses. It stays until the cluster is thrown away.
    pub async fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        self.admin().run(&["create", "namespace", &name]).await.ok();
        // Pods are refused until the controller has made it.
        wait_until("the namespace's service account", || async {
            let account = self.admin().namespace(&name).run(&["get", "serviceaccount", "default"]).await;
            account.status.success().then_some(())
        })
        .await;
        name
    }

    /// A [`namespace`](Self::namespace) that the group `agents` may edit, as they may `shop`.
    pub async fn namespace_of_agents(&self, prefix: &str) -> String {
        let name = self.namespace(prefix).await;
        let binding = ["create", "rolebinding", "agents-edit", "--clusterrole=edit", "--group=agents"];
        self.admin().namespace(&name).run(&binding).await.ok();
        name
    }

    /// kubectl straight to the API server, as somebody else: the administrator impersonates them.
    /// Its kubeconfig is written into this directory.
    pub async fn kubectl_as(&self, dir: &Path, user: &str, groups: &[&str]) -> Kubectl {
        let view = self.admin().run(&["config", "view", "--raw", "--output=json"]).await.ok();
        let mut config: serde_json::Value = serde_json::from_str(&view).expect("a kubeconfig in JSON");
        let credential = &mut config["users"][0]["user"];
        credential["as"] = user.into();
        credential["as-groups"] = groups.into();
        let path = dir.join(format!("direct-{user}.kubeconfig"));
        std::fs::write(&path, config.to_string()).expect("the test's directory is writable");
        Kubectl::new(path)
    }
}

/// An executable that `cargo xtask setup` installed: `kubectl`.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join("bin").join(name);
    assert!(path.exists(), "{} IS NOT INSTALLED: RUN `cargo xtask setup`", path.display());
    path
}

/// Python with the clients' packages.
#[track_caller]
pub fn python() -> PathBuf {
    // By its own path, from which it knows its environment.
    let path = tools().join("python/bin/python");
    assert!(path.exists(), "{} IS NOT INSTALLED: RUN `cargo xtask setup`", path.display());
    path
}

/// Where `cargo xtask setup` installs.
pub(crate) fn tools() -> PathBuf {
    match std::env::var_os("PORTCULLIS_TEST_TOOLS") {
        Some(dir) => dir.into(),
        None => root().join("target/tools"),
    }
}

/// A file of this package, such as a client's program.
pub fn source(path: &str) -> PathBuf {
    root().join("tests").join(path)
}

/// A Go program below `tests/clients/`, as in `informer` or `informer/update`, built if it must be.
pub async fn go_program(name: &str) -> PathBuf {
    go_build(&format!("clients/{name}"), name, ".").await
}

/// Helm, of the version in `tests/clients/helm/go.mod`, built if it must be.
pub async fn helm() -> PathBuf {
    go_build("clients/helm", "helm", "helm.sh/helm/v4/cmd/helm").await
}

/// What reads a ledger with somebody else's code: `tests/foreign`, built if it must be.
pub async fn foreign_verifier() -> PathBuf {
    go_build("foreign", "foreign", ".").await
}

async fn go_build(sources: &str, name: &str, package: &str) -> PathBuf {
    // Tests run at once, and a program that has just been started cannot be written.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _guard = ONE_AT_A_TIME.lock().await;
    let program = root().join("target/clients").join(name.replace('/', "-"));
    let mut go = tokio::process::Command::new("go");
    go.current_dir(source(sources)).args(["build", "-trimpath", "-buildvcs=false", "-o"]);
    // No deadline: the first time, all of client-go is compiled.
    let built = go.arg(&program).arg(package).output().await.expect("THERE IS NO `go`");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the workspace is above").to_path_buf()
}

/// The gateway's executable, as this run built it.
#[track_caller]
pub fn gateway_binary() -> PathBuf {
    required("PORTCULLIS_TEST_GATEWAY", "WHICH GATEWAY SHALL BE TESTED? RUN `cargo xtask test --only e2e`")
        .into()
}

#[track_caller]
fn required(variable: &str, otherwise: &str) -> std::ffi::OsString {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} IS NOT SET. {otherwise}"))
}
