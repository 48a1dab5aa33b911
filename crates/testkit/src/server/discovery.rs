//! What this server serves, in both ways clients ask: aggregated (v2, one document) and legacy (one per group version).

use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    kinds::{KINDS, Kind, REVIEWS, VERBS},
    render::accepted,
};

/// `/api` or `/apis`, as the client prefers it; and the content type that says so.
pub(crate) fn root(core: bool, headers: &HeaderMap, address: &str) -> (Value, &'static str) {
    let aggregated = accepted(headers).into_iter().find(|accepted| accepted.is_json()).and_then(|accepted| {
        let as_list = accepted.parameter("as") == Some("APIGroupDiscoveryList");
        (as_list && accepted.parameter("g") == Some("apidiscovery.k8s.io"))
            .then(|| accepted.parameter("v").unwrap_or_default().to_owned())
    });
    match (aggregated.as_deref(), core) {
        (Some("v2"), core) => {
            (aggregate(core), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        }
        (_, true) => {
            let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
            let versions =
                json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses});
            (versions, "application/json")
        }
        (_, false) => {
            let groups: Value = groups().into_iter().filter(|group| !group.is_empty()).map(group).collect();
            (json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}), "application/json")
        }
    }
}

/// Every API group, the core group (`""`) first. Each has the one version `v1`.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    for group in KINDS.iter().map(|kind| kind.group).chain(REVIEWS.iter().map(|(group, ..)| *group)) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// `/apis/<group>`.
pub(crate) fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
}

/// `/api/v1`, `/apis/<group>/v1`.
pub(crate) fn resources(group: &str) -> Value {
    let mut list = Vec::new();
    for kind in kinds_of(group) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs(kind),
        });
        if !kind.short.is_empty() {
            resource["shortNames"] = json!(kind.short);
        }
        if kind.in_all {
            resource["categories"] = json!(["all"]);
        }
        list.push(resource);
        for sub in kind.subresources {
            let (of, version, speaks) = sub.speaks;
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
                "kind": speaks, "verbs": sub.verbs,
            });
            if of != kind.group {
                resource["group"] = json!(of);
                resource["version"] = json!(version);
            }
            list.push(resource);
        }
    }
    for (_, kind, plural) in REVIEWS.iter().filter(|(of, ..)| *of == group) {
        let singular = kind.to_ascii_lowercase();
        list.push(json!({"name": plural, "singularName": singular, "namespaced": false, "kind": kind, "verbs": ["create"]}));
    }
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list})
}

fn kinds_of(group: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| kind.group == group)
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    let single = ["namespaces", "services"].contains(&kind.plural);
    VERBS.iter().copied().filter(|verb| *verb != "deletecollection" || !single).collect()
}

fn aggregate(core: bool) -> Value {
    let of = groups().into_iter().filter(|group| group.is_empty() == core);
    let items: Value = of
        .map(|group| {
            let version =
                json!({"version": "v1", "freshness": "Current", "resources": aggregated_resources(group)});
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": [version]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resources(group: &str) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let of =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut list: Vec<_> = kinds_of(group)
        .map(|kind| {
            let subresources: Vec<_> = kind
                .subresources
                .iter()
                .map(|sub| {
                    let (group, version, speaks) = sub.speaks;
                    json!({"subresource": sub.name, "responseKind": of(group, version, speaks), "verbs": sub.verbs})
                })
                .collect();
            let mut resource = json!({
                "resource": kind.plural, "responseKind": of(kind.group, kind.version, kind.kind),
                "scope": scope(kind.namespaced), "singularResource": kind.singular, "verbs": verbs(kind),
            });
            for (field, value) in [("shortNames", json!(kind.short)), ("subresources", json!(subresources))] {
                if value != json!([]) {
                    resource[field] = value;
                }
            }
            if kind.in_all {
                resource["categories"] = json!(["all"]);
            }
            resource
        })
        .collect();
    for (group, kind, plural) in REVIEWS.iter().filter(|(name, ..)| *name == group) {
        list.push(json!({
            "resource": plural, "responseKind": of(group, "v1", kind), "scope": "Cluster",
            "singularResource": kind.to_ascii_lowercase(), "verbs": ["create"],
        }));
    }
    list
}

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": "v1.37.0+portcullis-testkit", "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
