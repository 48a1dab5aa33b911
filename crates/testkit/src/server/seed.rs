//! What is there from the start: the roles every cluster has, and the demonstration's little shop.

use serde_json::{Value, json};

use super::{ApiServer, controllers::NODE};
use crate::TestkitError;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The roles and bindings every cluster boots with, as far as they matter here, and the usual namespaces.
pub(super) fn bootstrap(server: &ApiServer) -> Result<(), TestkitError> {
    for namespace in ["default", "kube-system", "kube-public"] {
        server.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
    }
    let read = || json!(["get", "list", "watch"]);
    let write = || json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    let core = |resources: Value, verbs: Value| rule("", resources, verbs);
    let apps = |verbs: Value| {
        rule("apps", json!(["deployments", "deployments/scale", "replicasets", "replicasets/scale"]), verbs)
    };
    let plain = || json!(["configmaps", "pods", "services", "serviceaccounts"]);
    let view = || {
        vec![
            core(plain(), read()),
            core(json!(["events", "namespaces", "pods/log", "pods/status"]), read()),
            apps(read()),
        ]
    };
    let edit = || {
        let mut rules = view();
        rules.extend([
            core(plain(), write()),
            core(json!(["secrets"]), write()),
            core(json!(["pods/exec", "pods/attach", "pods/portforward"]), json!(["create", "get"])),
            core(json!(["serviceaccounts/token"]), json!(["create"])),
            core(json!(["serviceaccounts"]), json!(["impersonate"])),
            apps(write()),
        ]);
        rules
    };
    let mut admin = edit();
    admin.push(rule(RBAC, json!(["roles", "rolebindings"]), write()));
    let paths = |paths: &[&str]| vec![json!({"verbs": ["get"], "nonResourceURLs": paths})];
    let everything =
        vec![rule("*", json!(["*"]), json!(["*"])), json!({"verbs": ["*"], "nonResourceURLs": ["*"]})];
    let basic = vec![
        rule(
            "authorization.k8s.io",
            json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            json!(["create"]),
        ),
        rule("authentication.k8s.io", json!(["selfsubjectreviews"]), json!(["create"])),
    ];
    let gateway = vec![
        core(json!(["users", "groups", "serviceaccounts"]), json!(["impersonate"])),
        // `userextras/<key>`, whatever the key: RBAC knows no `userextras/*`, only `*`.
        rule("authentication.k8s.io", json!(["*"]), json!(["impersonate"])),
    ];
    let roles = [
        ("cluster-admin", everything),
        ("admin", admin),
        ("edit", edit()),
        ("view", view()),
        ("system:basic-user", basic),
        (
            "system:discovery",
            paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ]),
        ),
        ("system:public-info-viewer", paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])),
        (
            "system:service-account-issuer-discovery",
            paths(&["/.well-known/openid-configuration", "/openid/v1/jwks"]),
        ),
        ("portcullis-gateway", gateway),
    ];
    for (name, rules) in roles {
        server.create(cluster_role(name, rules))?;
    }
    let bindings: [(&str, &str, &[&str]); 6] = [
        ("cluster-admin", "cluster-admin", &["system:masters"]),
        ("system:basic-user", "system:basic-user", &["system:authenticated"]),
        ("system:discovery", "system:discovery", &["system:authenticated"]),
        (
            "system:public-info-viewer",
            "system:public-info-viewer",
            &["system:authenticated", "system:unauthenticated"],
        ),
        (
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            &["system:serviceaccounts"],
        ),
        ("portcullis-gateway", "portcullis-gateway", &["portcullis:gateways"]),
    ];
    for (name, role, groups) in bindings {
        server.create(cluster_role_binding(name, role, groups))?;
    }
    Ok(())
}

fn rule(group: &str, resources: Value, verbs: Value) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn cluster_role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn role_ref(role: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": role})
}

fn subjects(groups: &[&str]) -> Value {
    groups.iter().map(|group| json!({"apiGroup": RBAC, "kind": "Group", "name": group})).collect()
}

fn cluster_role_binding(name: &str, role: &str, groups: &[&str]) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
           "roleRef": role_ref(role), "subjects": subjects(groups)})
}

impl ApiServer {
    /// Adds the demonstration's objects.
    ///
    /// Namespace `shop`: Deployment and Service `web`, Secret `db-credentials`, ConfigMap `web-config`, ServiceAccount
    /// `web`. Group `agents` may see everything in the shop, its Secrets too, work on it, exec, and bind cluster roles (which
    /// is what a gateway should stop and ask about); `developers` may edit it, `approvers` may view it.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Seed`] if an object is there already.
    pub fn seed_demo(&self) -> Result<(), TestkitError> {
        for object in shop() {
            self.create(object)?;
        }
        Ok(())
    }
}

fn shop() -> Vec<Value> {
    let namespaced = |kind: &str, name: &str| json!({"name": name, "namespace": "shop", "labels": {"app": "web", "kind": kind.to_lowercase()}});
    let core = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": namespaced(kind, name)});
    let with = |mut object: Value, fields: Value| {
        for (field, value) in super::object::entries(&fields) {
            object[field] = value.clone();
        }
        object
    };
    let reference = |key: &str| json!({"secretKeyRef": {"name": "db-credentials", "key": key}});
    let container = json!({
        "name": "web", "image": "registry.example/shop/web:1.4.2", "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "LOG_LEVEL", "valueFrom": {"configMapKeyRef": {"name": "web-config", "key": "log-level"}}},
            {"name": "DATABASE_URL", "valueFrom": reference("url")},
            {"name": "DATABASE_PASSWORD", "valueFrom": reference("password")},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/web", "readOnly": true}, {"name": "db", "mountPath": "/etc/db", "readOnly": true}],
    });
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "serviceAccountName": "web", "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": "web-config"}}, {"name": "db", "secret": {"secretName": "db-credentials"}}],
        },
    });
    let agents = vec![
        rule(
            "",
            json!(["configmaps", "events", "pods", "pods/log", "secrets", "serviceaccounts", "services"]),
            json!(["get", "list", "watch"]),
        ),
        rule(
            "",
            json!(["configmaps", "pods", "secrets", "services"]),
            json!(["create", "delete", "patch", "update"]),
        ),
        rule("", json!(["pods/exec"]), json!(["create", "get"])),
        rule("", json!(["serviceaccounts/token"]), json!(["create"])),
        rule(
            "apps",
            json!(["deployments", "deployments/scale", "replicasets"]),
            json!(["create", "delete", "get", "list", "patch", "update", "watch"]),
        ),
    ];
    let platform = vec![
        rule("", json!(["namespaces", "nodes"]), json!(["get", "list", "watch"])),
        rule(RBAC, json!(["clusterrolebindings", "clusterroles"]), json!(["get", "list", "watch"])),
        rule(RBAC, json!(["clusterrolebindings"]), json!(["create", "delete"])),
        rule(RBAC, json!(["clusterroles"]), json!(["bind"])),
    ];
    let reader = vec![rule("", json!(["namespaces", "nodes"]), json!(["get", "list", "watch"]))];
    let bind = |name: &str, role: &str, groups: &[&str]| {
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": {"name": name, "namespace": "shop"},
               "roleRef": role_ref(role), "subjects": subjects(groups)})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        node(),
        core("ServiceAccount", "web"),
        with(
            core("ConfigMap", "web-config"),
            json!({"data": {"log-level": "info", "feature-flags": "checkout-v2=true\nrecommendations=false\n"}}),
        ),
        with(
            core("Secret", "db-credentials"),
            json!({"type": "Opaque", "stringData": {
            "username": "shop", "password": "correct-horse-battery-staple",
            "url": "postgres://shop:correct-horse-battery-staple@db.shop.svc:5432/shop"}}),
        ),
        with(
            core("Service", "web"),
            json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
        ),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": namespaced("Deployment", "web"),
               "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}}),
        cluster_role("shop-agent", agents),
        cluster_role("platform-agent", platform),
        cluster_role("cluster-reader", reader),
        bind("agents", "shop-agent", &["agents"]),
        bind("developers", "edit", &["developers"]),
        bind("approvers", "view", &["approvers"]),
        cluster_role_binding("agents", "platform-agent", &["agents"]),
        cluster_role_binding("people", "cluster-reader", &["developers", "approvers"]),
    ]
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}}})
}
