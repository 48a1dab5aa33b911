//! What `kubectl get` prints of custom resources: printer columns that show what a rule masks in the object.

use portcullis_tests::{Cluster, Gateway, Kubectl, wait_until};
use serde_json::{Value, json};

/// What nobody is to see.
const PASSWORD: &str = "hunter2-4711";
const PIN: u32 = 471_147;
const NOTE: &str = "under the mat 4711";

/// A custom resource of this test's own: CRDs are the whole cluster's.
struct Resource {
    plural: String,
    group: String,
}

impl Resource {
    /// Makes it, with printer columns, and lets agents read and write it.
    async fn create(cluster: &Cluster, namespace: &str) -> Self {
        let group = format!("{namespace}.example.com");
        let plural = "doors".to_owned();
        let column =
            |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": plural, "singular": "door", "kind": "Door", "listKind": "DoorList"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open}}},
                    "additionalPrinterColumns": [
                        column("Colour", "string", ".spec.colour"),
                        column("Password", "string", ".spec.password"),
                        column("Pin", "integer", ".spec.pin"),
                        column("Hint", "string", ".spec.note"),
                        column("Locks", "string", ".spec.locks"),
                    ],
                }],
            },
        });
        let admin = cluster.admin();
        admin.run_with_input(&["create", "-f", "-"], definition.to_string()).await.ok();
        let resource = Self { plural, group };
        let established = ["wait", "--for=condition=Established", "crd", &resource.name(), "--timeout=30s"];
        admin.run(&established).await.ok();
        let inside = admin.namespace(namespace);
        let role = ["create", "role", "doors", "--verb=*", &format!("--resource={}", resource.name())];
        inside.run(&role).await.ok();
        inside.run(&["create", "rolebinding", "doors", "--role=doors", "--group=agents"]).await.ok();
        wait_until("the custom resource to be served", || async {
            inside.run(&["get", &resource.name()]).await.status.success().then_some(())
        })
        .await;
        let door = |name: &str| resource.door(name).to_string();
        inside.run_with_input(&["create", "-f", "-"], door("front")).await.ok();
        inside.run_with_input(&["create", "-f", "-"], door("back")).await.ok();
        let direct = inside.run(&["get", &resource.name()]).await.ok();
        assert!([PASSWORD, &PIN.to_string(), NOTE].iter().all(|secret| direct.contains(secret)), "{direct}");
        resource
    }

    fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    fn door(&self, name: &str) -> Value {
        json!({
            "apiVersion": format!("{}/v1", self.group), "kind": "Door", "metadata": {"name": name},
            "spec": {"colour": "red", "password": PASSWORD, "pin": PIN, "note": NOTE, "locks": [{"code": PASSWORD}]},
        })
    }
}

async fn gateway(cluster: &Cluster, resource: &Resource) -> Gateway {
    let rule = json!({
        "name": "doors", "resources": [resource.name()],
        "paths": ["spec.password", "spec.pin", "spec.note", "spec.locks[*].code"], "columns": ["hint", "locks"],
    });
    let configured = |config: &mut Value| {
        config["listen"]["drain"] = "1s".into();
        config["mask"]["rules"] = json!([rule]);
    };
    Gateway::configured(cluster, configured).await
}

fn assert_masked(what: &str, printed: &str) {
    let rows: Vec<&str> =
        printed.lines().filter(|line| line.contains("front") || line.contains("back")).collect();
    assert!(!rows.is_empty(), "{what}: {printed}");
    for row in rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [name, "red", "masked:doors:redacted", "0", "masked:doors:redacted", "masked:doors:redacted"] =
            words[..]
        else {
            panic!("{what}: {printed}")
        };
        assert!(["front", "back"].contains(&name), "{what}: {printed}");
    }
    assert!(!printed.contains("4711"), "{what}: {printed}");
}

#[tokio::test]
async fn printer_columns_do_not_show_what_is_masked() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace_of_agents("tables").await;
    let resource = Resource::create(&cluster, &namespace).await;
    let gateway = gateway(&cluster, &resource).await;
    let agent: Kubectl = gateway.kubectl("agent-ci").await.namespace(&namespace);
    let name = resource.name();

    for arguments in [&["get", &name][..], &["get", &name, "front"], &["get", &name, "--chunk-size=1"]] {
        assert_masked(&arguments.join(" "), &agent.run(arguments).await.ok());
    }
    // Every event is a Table, and only the first one names its columns.
    let mut watch = agent.start(&["get", &name, "--watch"]);
    watch.wait_for_output(|printed| printed.lines().count() >= 3).await;
    let admin = cluster.admin().namespace(&namespace);
    for number in 0..3 {
        admin.run(&["label", &name, "front", "--overwrite", &format!("round={number}")]).await.ok();
    }
    let printed = watch.wait_for_output(|printed| printed.lines().count() >= 6).await;
    assert_masked("get --watch", &printed);
    watch.kill().await;

    // The columns of what the API server serves itself are as they were.
    let of = |kubectl: &Kubectl| kubectl.run(&["get", "configmaps,serviceaccounts", "--no-headers"]);
    let without_age = |printed: String| {
        let rows = printed.lines().map(|line| line.rsplit_once(' ').map_or(line, |(row, _)| row.trim()));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_age(of(&agent).await.ok()), without_age(of(&admin).await.ok()));
}
