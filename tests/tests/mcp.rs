//! AI agents: a real MCP server between the model and the gateway. The model learns that a Secret is there and what its keys are,
//! and it can work on it; the value is in no byte that the server says.

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{Cluster, Gateway, Kubectl, McpServer};
use serde_json::{Value, json};

/// How a token begins, in base64.
const TOKEN: &str = "bWFza2Vk";

struct Stage {
    gateway: Gateway,
    namespace: String,
    admin: Kubectl,
    password: String,
}

impl Stage {
    async fn set(cluster: &Cluster, on_write: &str) -> Self {
        let gateway =
            Gateway::configured(cluster, |config| config["mask"]["onWrite"] = on_write.into()).await;
        let namespace = cluster.namespace_of_agents("mcp").await;
        let admin = cluster.admin().namespace(&namespace);
        let password = format!("canary{}", uuid::Uuid::new_v4().simple());
        let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
            "stringData": {"password": password, "user": format!("user-{password}")}});
        admin.run_with_input(&["apply", "-f", "-"], manifest.to_string()).await.ok();
        Self { gateway, namespace, admin, password }
    }

    async fn server(&self, options: &[&str]) -> McpServer {
        McpServer::start(&self.gateway.kubeconfig("agent-ci").await, options).await
    }

    fn secret(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "namespace": self.namespace, "name": "db"})
    }

    fn secrets(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "namespace": self.namespace})
    }

    /// The Secret as it is.
    #[expect(clippy::expect_used, reason = "without it there is no test")]
    async fn live(&self) -> Value {
        let said = self.admin.run(&["get", "secret", "db", "-o", "json"]).await.ok();
        serde_json::from_str(&said).expect("JSON")
    }

    /// All that a server has ever said has no value in it.
    async fn end(self, server: McpServer) {
        let said = server.finish().await;
        let all = String::from_utf8_lossy(&said.all()).into_owned();
        for hidden in [self.password.clone(), STANDARD.encode(&self.password)] {
            assert!(!all.contains(&hidden), "{all}");
        }
        // `user-` moves the rest by two bytes of three.
        assert!(!all.contains(&STANDARD.encode(format!("user-{}", self.password))), "{all}");
        self.gateway.agrees_with_the_server().await;
    }
}

#[tokio::test]
async fn a_model_sees_keys_and_tokens() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "refuse").await;
    let mut server = stage.server(&[]).await;
    let tools = server.tools().await;
    for tool in ["resources_get", "resources_list", "resources_create_or_update", "pods_log"] {
        assert!(tools.iter().any(|offered| offered == tool), "no {tool}: {tools:?}");
    }
    let table = server.text("resources_list", stage.secrets()).await;
    assert!(table.contains("NAMESPACE") && table.contains("db "), "{table}");
    let yaml = server.text("resources_get", stage.secret()).await;
    for wanted in ["kind: Secret", "name: db", &format!("password: {TOKEN}"), &format!("user: {TOKEN}")] {
        assert!(yaml.contains(wanted), "no {wanted}: {yaml}");
    }
    let whole = server.call("resources_get", stage.secret()).await;
    let data = &whole["structuredContent"]["data"];
    for key in ["password", "user"] {
        assert!(data[key].as_str().is_some_and(|value| value.starts_with(TOKEN)), "{whole}");
    }
    // Once more with lists in whole.
    let mut other = stage.server(&["--list-output=yaml"]).await;
    let list = other.text("resources_list", stage.secrets()).await;
    assert!(list.contains("name: db") && list.contains(&format!("password: {TOKEN}")), "{list}");
    assert!(!list.contains(&STANDARD.encode(&stage.password)), "{list}");
    other.finish().await.ok();
    stage.end(server).await;
}

/// What a model writes back has tokens in it. Unless told otherwise the gateway stores none of them, and says which field.
#[tokio::test]
async fn a_model_cannot_store_a_token() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "refuse").await;
    let before = stage.live().await;
    let mut server = stage.server(&[]).await;
    let read = server.call("resources_get", stage.secret()).await;
    let mut secret = read["structuredContent"].clone();
    secret["metadata"]["labels"] = json!({"tier": "back"});
    let said = server.call("resources_create_or_update", json!({"resource": secret.to_string()})).await;
    assert_eq!(said["isError"], true, "{said}");
    let said = said.to_string();
    assert!(said.contains("data.password") && said.contains("holds the mask of a value"), "{said}");
    assert_eq!(stage.live().await, before);
    stage.end(server).await;
}

#[tokio::test]
async fn a_model_can_change_a_secret_that_it_cannot_read() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "restore").await;
    let before = stage.live().await;
    let mut server = stage.server(&[]).await;
    let read = server.call("resources_get", stage.secret()).await;
    let mut secret = read["structuredContent"].clone();
    secret["metadata"]["labels"] = json!({"tier": "back"});
    let written = server.text("resources_create_or_update", json!({"resource": secret.to_string()})).await;
    assert!(written.contains(TOKEN), "{written}");
    let after = stage.live().await;
    assert_eq!(after["metadata"]["labels"], json!({"tier": "back"}));
    assert_eq!(after["data"], before["data"]);
    assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"]);
    stage.end(server).await;
}
