//! Helm, the real one, as somebody who may not see what the Secrets of its charts hold. It keeps what it has installed in a Secret,
//! which it must be able to read; that exempted, an upgrade does what it would have done without a mask.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{Cluster, Finished, Gateway, Kubectl, Running, helm, source};
use serde_json::{Value, json};
use tokio::process::Command;

/// Helm may read its releases, and nothing else of what is masked.
fn without_releases(config: &mut Value) {
    config["mask"]["onWrite"] = "restore".into();
    config["mask"]["packExceptions"] = json!({"secrets": {"types": ["helm.sh/release.v1"]}});
}

#[tokio::test]
async fn an_upgrade_merged_by_helm_leaves_the_values_alone() {
    an_upgrade_leaves_the_values_alone("false").await;
}

#[tokio::test]
async fn an_upgrade_applied_by_the_server_leaves_the_values_alone() {
    an_upgrade_leaves_the_values_alone("true").await;
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn an_upgrade_leaves_the_values_alone(server_side: &str) {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, server_side, without_releases).await;
    let installed = stage.values().await;
    assert_eq!(installed["db"]["password"], STANDARD.encode(&stage.password));
    assert_eq!(installed["kept"]["password"], STANDARD.encode("first"));
    let seen = stage.agent.run(&["get", "secret", "kept", "-o", "jsonpath={.data.password}"]).await.ok();
    assert!(seen.starts_with("bWFza2Vk"), "{seen}");

    // One part of the chart asks the cluster for the value and is told a token; another has it from the release.
    stage.helm(&["upgrade", "shop", &stage.chart, "--reuse-values", "--set=tier=two"]).await.ok();
    assert_eq!(stage.tiers().await, ["two"; 4]);
    assert_eq!(stage.values().await, installed);
    let history = stage.helm(&["history", "shop", "--output=json"]).await.ok();
    let history: Value = serde_json::from_str(&history).unwrap();
    let states: Vec<&Value> = history.as_array().unwrap().iter().map(|release| &release["status"]).collect();
    assert_eq!(states, ["superseded", "deployed"], "{history}");

    // What has tokens in it can be gone back to, as long as they are those of the values.
    stage.helm(&["upgrade", "shop", &stage.chart, "--reuse-values", "--set=tier=three"]).await.ok();
    stage.helm(&["rollback", "shop", "2"]).await.ok();
    assert_eq!(stage.tiers().await, ["two"; 4]);
    assert_eq!(stage.values().await, installed);

    // A value that the chart changes is changed, and no other.
    stage.helm(&["upgrade", "shop", &stage.chart, "--reuse-values", "--set=password=another"]).await.ok();
    let mut expected = installed;
    expected["db"]["password"] = STANDARD.encode("another").into();
    expected["env"] = "another".into();
    assert_eq!(stage.values().await, expected);

    // The price of it: what was given to a chart stands in its release.
    let given = stage.helm(&["get", "values", "shop"]).await.ok();
    assert!(given.contains("password: another"), "{given}");
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn without_the_exception_helm_finds_no_release_and_changes_nothing() {
    let cluster = Cluster::from_env();
    let restore = |config: &mut Value| config["mask"]["onWrite"] = "restore".into();
    let stage = Stage::set(&cluster, "true", restore).await;
    let before = stage.everything().await;
    assert!(before.contains("sh.helm.release.v1.shop.v1"), "{before}");
    for words in [
        &["upgrade", "shop", &stage.chart, "--reuse-values", "--set=tier=two"][..],
        &["upgrade", "--install", "shop", &stage.chart, "--set=tier=two,password=x,first=x"],
        &["rollback", "shop", "1"],
        &["status", "shop"],
        &["get", "values", "shop"],
        &["get", "manifest", "shop"],
    ] {
        let said = stage.helm(words).await.fails();
        assert!(said.contains(r#"no revision for release "shop""#), "{words:?}: {said}");
    }
    let said = stage.helm(&["uninstall", "shop"]).await.fails();
    assert!(said.contains("no release provided"), "{said}");
    assert_eq!(stage.helm(&["list", "--short"]).await.ok().trim(), "");
    assert_eq!(stage.everything().await, before);
    stage.gateway.agrees_with_the_server().await;
}

/// A namespace where others have installed the chart, and one who upgrades it.
struct Stage {
    gateway: Gateway,
    agent: Kubectl,
    admin: Kubectl,
    kubeconfig: PathBuf,
    namespace: String,
    chart: String,
    password: String,
}

impl Stage {
    async fn set(cluster: &Cluster, server_side: &str, change: impl FnOnce(&mut Value)) -> Self {
        let gateway = Gateway::configured(cluster, change).await;
        let namespace = cluster.namespace_of_agents("helm").await;
        let stage = Self {
            agent: gateway.kubectl("agent-ci").await.namespace(&namespace),
            admin: cluster.admin().namespace(&namespace),
            kubeconfig: gateway.kubeconfig("agent-ci").await,
            namespace,
            chart: source("clients/helm/chart").to_string_lossy().into_owned(),
            password: format!("canary{}", uuid::Uuid::new_v4().simple()),
            gateway,
        };
        let values = format!("--set=tier=one,first=first,password={}", stage.password);
        // How it is installed is how it is upgraded, unless one says something else.
        let server_side = format!("--server-side={server_side}");
        let install = ["install", "shop", &stage.chart, &values, &server_side];
        stage.run_helm(&cluster.dir.join("admin.kubeconfig"), &install).await.ok();
        // Which is when nothing changes by itself any more.
        stage.admin.run(&["rollout", "status", "deployment/web", "--timeout=50s"]).await.ok();
        stage
    }

    /// Helm as the agent.
    async fn helm(&self, words: &[&str]) -> Finished {
        self.run_helm(&self.kubeconfig, words).await
    }

    async fn run_helm(&self, kubeconfig: &Path, words: &[&str]) -> Finished {
        let mut command = Command::new(helm().await);
        command.args(words).args(["--namespace", &self.namespace]).arg("--kubeconfig").arg(kubeconfig);
        for what in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{what}_HOME"), self.gateway.dir().join("helm"));
        }
        Running::start(command).finish().await
    }

    /// All that the chart's Secrets and its environment hold.
    async fn values(&self) -> Value {
        let (db, kept) = tokio::join!(self.live("secret", "db"), self.live("secret", "kept"));
        let deployment = self.live("deployment", "web").await;
        let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"];
        json!({"db": db["data"], "kept": kept["data"], "env": env})
    }

    /// What the chart says of each of its objects.
    async fn tiers(&self) -> Vec<String> {
        let path = "jsonpath={.items[*].metadata.labels.tier}";
        let list = ["get", "secrets,configmaps,deployments", "-l", "tier", "-o", path];
        self.admin.run(&list).await.ok().split(' ').map(str::to_owned).collect()
    }

    #[expect(clippy::expect_used, reason = "without it there is no test")]
    async fn live(&self, kind: &str, name: &str) -> Value {
        let said = self.admin.run(&["get", kind, name, "-o", "json"]).await.ok();
        serde_json::from_str(&said).expect("JSON")
    }

    async fn everything(&self) -> String {
        self.admin.run(&["get", "secrets,configmaps,deployments", "-o", "yaml"]).await.ok()
    }
}
