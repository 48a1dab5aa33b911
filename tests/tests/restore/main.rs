//! Whoever may not see a Secret's values can still work on it: with `onWrite: restore` each way that clients have of writing back
//! what they read does what it would have done without a mask, and nothing else gets at the values.

mod controllers;
mod kubectl;
mod workloads;

use portcullis_tests::{Cluster, Gateway, Kubectl};
use serde_json::{Value, json};

const PASSWORD: &str = "aHVudGVyMg==";
const APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

struct Stage {
    gateway: Gateway,
    namespace: String,
    agent: Kubectl,
    admin: Kubectl,
}

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let restores = |config: &mut Value| config["mask"]["onWrite"] = "restore".into();
        Self::with(cluster, Gateway::configured(cluster, restores).await).await
    }

    async fn with(cluster: &Cluster, gateway: Gateway) -> Self {
        let namespace = cluster.namespace_of_agents("restore").await;
        let agent = gateway.kubectl("agent-ci").await.namespace(&namespace);
        let admin = cluster.admin().namespace(&namespace);
        Self { gateway, namespace, agent, admin }
    }

    /// A Secret that was applied, so that a copy of it stands in its annotation.
    async fn secret(&self, name: &str) -> Value {
        let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"password": PASSWORD, "user": "YWRh"}});
        self.admin.run_with_input(&["apply", "-f", "-"], manifest.to_string()).await.ok();
        self.live(name).await
    }

    /// The Secret as it is.
    #[expect(clippy::expect_used, reason = "without it there is no test")]
    async fn live(&self, name: &str) -> Value {
        let said = self.admin.run(&["get", "secret", name, "-o", "json"]).await.ok();
        serde_json::from_str(&said).expect("JSON")
    }

    /// The Secret as the agent sees it.
    async fn seen(&self, name: &str, format: &str) -> String {
        let seen = self.agent.run(&["get", "secret", name, "-o", format]).await.ok();
        assert!(!seen.contains(PASSWORD) && seen.contains("bWFza2Vk"), "{seen}");
        seen
    }
}

/// What differs besides what must: times, versions, who owns which field.
fn essence(mut secret: Value) -> Value {
    let metadata = &mut secret["metadata"];
    for chance in ["resourceVersion", "managedFields", "creationTimestamp", "uid", "generation"] {
        metadata[chance] = Value::Null;
    }
    secret
}
