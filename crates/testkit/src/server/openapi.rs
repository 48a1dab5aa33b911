//! Just enough OpenAPI v3 for `kubectl` to see that this server validates fields and dry-runs by itself.
//!
//! There are no schemas in it: `kubectl explain` says that it found none, and `kubectl apply` computes its patches from the
//! types it was built with, which are the published ones. OpenAPI v2 is served in protobuf only in a real cluster, and here
//! not at all.

use serde_json::{Map, Value, json};

use super::{
    discovery::groups,
    kinds::{KINDS, Kind},
};

/// `/openapi/v3`: where the document of each group version is.
pub(crate) fn index() -> Value {
    let mut paths = Map::new();
    for group in groups() {
        let path = group_path(group);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")}));
    }
    json!({"paths": paths})
}

fn group_path(group: &str) -> String {
    if group.is_empty() { "api/v1".into() } else { format!("apis/{group}/v1") }
}

/// `/openapi/v3/<path>`, if there is such a group version.
pub(crate) fn document(path: &str) -> Option<Value> {
    let group = groups().into_iter().find(|group| group_path(group) == path)?;
    let mut paths = Map::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group) {
        let namespaced = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{path}{namespaced}/{}", kind.plural);
        paths.insert(format!("{collection}/{{name}}"), operations(kind, &["put", "patch"]));
        paths.insert(collection, operations(kind, &["post"]));
    }
    let info = json!({"title": "Kubernetes", "version": "v1.37.0+portcullis-testkit"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}))
}

fn operations(kind: &Kind, methods: &[&str]) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = json!({
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    methods.iter().map(|method| ((*method).to_owned(), operation.clone())).collect::<Map<_, _>>().into()
}
