//! What the control plane does on its own: a pretend kubelet, ReplicaSets, Deployments, namespaces, garbage collection.
//!
//! All of it happens at once, inside the transaction of the write that caused it: a rollout is complete when the `PATCH`
//! returns. Nothing takes time, nothing fails, no image is pulled.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    admission,
    kinds::{self, Kind},
    object::{child, controller_of, entries, items, meta, meta_mut, rfc3339, text},
    store::Transaction,
};

/// The node every pretend pod runs on.
pub(crate) const NODE: &str = "node-1";

/// Brings a namespace to rest after a write in it.
pub(crate) fn settle(tx: &mut Transaction<'_>, namespace: &str) {
    collect_garbage(tx);
    for node in list(tx, "", "nodes", "") {
        register(tx, &node);
    }
    if !namespace.is_empty() {
        furnish(tx, namespace);
        for deployment in list(tx, "apps", "deployments", namespace) {
            roll_out(tx, &deployment);
        }
        for set in list(tx, "apps", "replicasets", namespace) {
            replicate(tx, &set);
        }
        for pod in list(tx, "", "pods", namespace) {
            start(tx, &pod);
        }
        for set in list(tx, "apps", "replicasets", namespace) {
            report_set(tx, &set);
        }
        for deployment in list(tx, "apps", "deployments", namespace) {
            report_deployment(tx, &deployment);
        }
    }
    end_namespaces(tx);
}

fn kind(group: &str, plural: &str) -> Option<&'static Kind> {
    kinds::find(group, plural)
}

fn list(tx: &Transaction<'_>, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
    kind(group, plural).map(|kind| tx.list(kind, namespace)).unwrap_or_default()
}

/// Stores `new` if it differs from `old`.
fn update(tx: &mut Transaction<'_>, old: &Value, mut new: Value) {
    admission::prune_nulls(&mut new);
    if let Some(kind) = kinds::of_object(&new).filter(|_| *old != new) {
        tx.put(kind, new);
    }
}

/// Stores a new object as the control plane would: defaults, uid, times.
pub(crate) fn make(tx: &mut Transaction<'_>, mut object: Value) -> Option<Arc<Value>> {
    let kind = kinds::of_object(&object)?;
    admission::default(kind, &mut object);
    stamp(tx, kind, &mut object);
    Some(tx.put(kind, object))
}

/// Gives a new object what only the server can give it.
pub(crate) fn stamp(tx: &Transaction<'_>, kind: &Kind, object: &mut Value) {
    let created = rfc3339(tx.now);
    let meta = meta_mut(object);
    meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    meta.insert("creationTimestamp".into(), json!(created));
    if has_generation(kind) {
        meta.insert("generation".into(), json!(1));
    }
    admission::prune_nulls(object);
}

/// Whether the kind counts changes of its `spec`.
pub(crate) fn has_generation(kind: &Kind) -> bool {
    ["pods", "deployments", "replicasets"].contains(&kind.plural)
}

/// Five or more characters that spell nothing, as Kubernetes makes them.
pub(crate) fn random_suffix(length: usize) -> String {
    spell(uuid::Uuid::new_v4().as_bytes(), length)
}

fn spell(bytes: &[u8], length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    bytes.iter().take(length).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Each namespace has a service account `default`, and a ConfigMap with the cluster's CA where one was given.
fn furnish(tx: &mut Transaction<'_>, namespace: &str) {
    let (Some(namespaces), Some(accounts)) = (kind("", "namespaces"), kind("", "serviceaccounts")) else {
        return;
    };
    let alive = tx
        .get(namespaces, "", namespace)
        .is_some_and(|found| found["metadata"]["deletionTimestamp"].is_null());
    if alive && tx.get(accounts, namespace, "default").is_none() {
        make(
            tx,
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}),
        );
    }
}

fn owner(object: &Value) -> Value {
    json!([{
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": meta(object, "name"),
        "uid": meta(object, "uid"), "controller": true, "blockOwnerDeletion": true,
    }])
}

fn owned(tx: &Transaction<'_>, group: &str, plural: &str, owner: &Value) -> Vec<Arc<Value>> {
    let mut list = list(tx, group, plural, meta(owner, "namespace"));
    list.retain(|object| controller_of(object) == Some(meta(owner, "uid")));
    list
}

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

fn revision(object: &Value) -> u64 {
    text(&object["metadata"]["annotations"][REVISION]).parse().unwrap_or(0)
}

/// The Deployment's template has a ReplicaSet, and only that one has replicas.
fn roll_out(tx: &mut Transaction<'_>, deployment: &Value) {
    let template = &deployment["spec"]["template"];
    let hash = spell(&Sha256::digest(template.to_string()), 10);
    let sets = owned(tx, "apps", "replicasets", deployment);
    let newest = sets.iter().map(|set| revision(set)).max().unwrap_or(0);
    let current = sets.iter().find(|set| set["metadata"]["labels"][HASH] == hash.as_str());
    let paused = deployment["spec"]["paused"] == true;
    let current_revision = match current {
        Some(current) if revision(current) == newest => newest,
        _ if paused => return,
        _ => newest + 1,
    };
    let mut set = match current {
        Some(current) => Value::clone(current),
        None => new_set(deployment, &hash),
    };
    set["spec"]["replicas"] = deployment["spec"]["replicas"].clone();
    set["metadata"]["annotations"][REVISION] = json!(current_revision.to_string());
    match current {
        Some(current) => update(tx, current, bumped(current, set)),
        None => drop(make(tx, set)),
    }
    let mut old: Vec<_> =
        sets.iter().filter(|set| set["metadata"]["labels"][HASH] != hash.as_str()).collect();
    old.sort_by_key(|set| std::cmp::Reverse(revision(set)));
    let limit = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
    for (index, set) in old.into_iter().enumerate() {
        let mut retired = Value::clone(set);
        retired["spec"]["replicas"] = json!(0);
        update(tx, set, bumped(set, retired));
        if index as u64 >= limit
            && let Some(kind) = kinds::of_object(set)
        {
            tx.remove(kind, meta(set, "namespace"), meta(set, "name"));
        }
    }
    let mut reported = Value::clone(deployment);
    child(&mut reported, "metadata").entry("annotations").or_insert_with(|| json!({}))[REVISION] =
        json!(current_revision.to_string());
    update(tx, deployment, reported);
}

fn new_set(deployment: &Value, hash: &str) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    let mut annotations = deployment["metadata"]["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", meta(deployment, "name")), "namespace": meta(deployment, "namespace"),
            "labels": template["metadata"]["labels"], "annotations": annotations, "ownerReferences": owner(deployment),
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    })
}

/// Counts a change of the spec.
fn bumped(old: &Value, mut new: Value) -> Value {
    if old["spec"] != new["spec"] {
        new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
    }
    new
}

/// A ReplicaSet has as many pods as it wants; the youngest go first.
fn replicate(tx: &mut Transaction<'_>, set: &Value) {
    let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    let mut pods = owned(tx, "", "pods", set);
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    for _ in pods.len()..wanted {
        let mut pod = set["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        let generate = format!("{}-", meta(set, "name"));
        let meta_of_pod = meta_mut(&mut pod);
        meta_of_pod.insert("name".into(), json!(format!("{generate}{}", random_suffix(5))));
        meta_of_pod.insert("generateName".into(), json!(generate));
        meta_of_pod.insert("namespace".into(), json!(meta(set, "namespace")));
        meta_of_pod.insert("ownerReferences".into(), owner(set));
        make(tx, pod);
    }
    pods.sort_by(|a, b| meta(b, "creationTimestamp").cmp(meta(a, "creationTimestamp")));
    for pod in pods.iter().take(pods.len().saturating_sub(wanted)) {
        if let Some(kind) = kinds::of_object(pod) {
            tx.remove(kind, meta(pod, "namespace"), meta(pod, "name"));
        }
    }
}

/// The pretend kubelet: a pod without a node gets one, and runs.
fn start(tx: &mut Transaction<'_>, pod: &Value) {
    let unchanged = |status: &Value, container: &Value| {
        items(status)
            .iter()
            .any(|status| status["name"] == container["name"] && status["image"] == container["image"])
    };
    let containers = items(&pod["spec"]["containers"]);
    let statuses = &pod["status"]["containerStatuses"];
    if !text(&pod["spec"]["nodeName"]).is_empty() && containers.iter().all(|one| unchanged(statuses, one)) {
        return;
    }
    let now = rfc3339(tx.now);
    let mut running = pod.clone();
    set_default(&mut running["spec"], "nodeName", json!(NODE));
    set_default(&mut running["spec"], "serviceAccountName", json!("default"));
    let bytes = Sha256::digest(meta(pod, "uid"));
    let address = format!("10.244.{}.{}", bytes[0] % 16, bytes[1].max(2));
    let condition = |name: &str| json!({"type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(condition);
    let started = match &pod["status"]["startTime"] {
        Value::Null => json!(now),
        time => time.clone(),
    };
    let containers: Vec<_> = containers
        .iter()
        .map(|container| {
            let image = Sha256::digest(text(&container["image"]));
            let digest: String = image.iter().map(|byte| format!("{byte:02x}")).collect();
            let id = Sha256::digest(format!("{}/{}", meta(pod, "uid"), container["name"]));
            let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({
                "name": container["name"], "image": container["image"],
                "imageID": format!("pretend.invalid/image@sha256:{digest}"), "containerID": format!("pretend://{id}"),
                "ready": true, "started": true, "restartCount": 0, "lastState": {}, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    running["status"] = json!({
        "phase": "Running", "qosClass": "BestEffort", "hostIP": "10.0.0.11", "hostIPs": [{"ip": "10.0.0.11"}],
        "podIP": address, "podIPs": [{"ip": address}], "startTime": started, "containerStatuses": containers,
        "conditions": conditions,
    });
    update(tx, pod, running);
}

/// A node without a status is registered by its pretend kubelet, and ready.
fn register(tx: &mut Transaction<'_>, node: &Value) {
    if !node["status"].is_null() {
        return;
    }
    let now = rfc3339(tx.now);
    let mut ready = node.clone();
    ready["status"] = json!({
        "addresses": [{"type": "InternalIP", "address": "10.0.0.11"}, {"type": "Hostname", "address": meta(node, "name")}],
        "capacity": {"cpu": "4", "memory": "8Gi", "pods": "500"}, "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "500"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "pretend kubelet is ready",
                        "lastHeartbeatTime": now, "lastTransitionTime": now}],
        "nodeInfo": {"kubeletVersion": "v1.37.0+portcullis-testkit", "osImage": "Pretend Linux", "operatingSystem": "linux",
                     "architecture": "amd64", "containerRuntimeVersion": "pretend://1.0", "kernelVersion": "0.0.0",
                     "kubeProxyVersion": "", "machineID": "", "systemUUID": "", "bootID": ""},
    });
    update(tx, node, ready);
}

fn set_default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

fn report_set(tx: &mut Transaction<'_>, set: &Value) {
    let pods = owned(tx, "", "pods", set).len();
    let mut reported = set.clone();
    reported["status"] = json!({"replicas": pods, "observedGeneration": set["metadata"]["generation"]});
    if pods > 0 {
        for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            reported["status"][field] = json!(pods);
        }
    }
    update(tx, set, reported);
}

fn report_deployment(tx: &mut Transaction<'_>, deployment: &Value) {
    let sets = owned(tx, "apps", "replicasets", deployment);
    let count = |set: &Value| set["status"]["replicas"].as_u64().unwrap_or(0);
    let total: u64 = sets.iter().map(|set| count(set)).sum();
    let current = sets.iter().max_by_key(|set| revision(set));
    let updated = current.map(|set| count(set)).unwrap_or(0);
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let name = current.map(|set| meta(set, "name")).unwrap_or_default();
    let now = rfc3339(tx.now);
    let condition = |kind: &str, ok: bool, reason: &str, message: String| {
        let status = if ok { "True" } else { "False" };
        let before = items(&deployment["status"]["conditions"]).iter().find(|one| one["type"] == kind);
        match before.filter(|before| before["status"] == status && before["message"] == message.as_str()) {
            Some(before) => before.clone(),
            None => json!({"type": kind, "status": status, "reason": reason, "message": message,
                           "lastUpdateTime": now, "lastTransitionTime": now}),
        }
    };
    let mut reported = deployment.clone();
    reported["status"] = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "conditions": [
            condition("Available", updated >= wanted, "MinimumReplicasAvailable", "Deployment has minimum availability.".into()),
            condition("Progressing", true, "NewReplicaSetAvailable", format!("ReplicaSet {name:?} has successfully progressed.")),
        ],
    });
    for (field, value) in [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", total),
        ("availableReplicas", total),
    ] {
        if value > 0 {
            reported["status"][field] = json!(value);
        }
    }
    update(tx, deployment, reported);
}

/// Objects whose owners are all gone go too.
fn collect_garbage(tx: &mut Transaction<'_>) {
    loop {
        let alive: HashSet<&str> = tx.all().map(|(_, _, object)| meta(object, "uid")).collect();
        let orphans: Vec<_> = tx
            .all()
            .filter(|(_, _, object)| {
                let owners = items(&object["metadata"]["ownerReferences"]);
                !owners.is_empty() && !owners.iter().any(|owner| alive.contains(text(&owner["uid"])))
            })
            .map(|(_, _, object)| object.clone())
            .filter(|object| items(&object["metadata"]["finalizers"]).is_empty())
            .collect();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            if let Some(kind) = kinds::of_object(&orphan) {
                tx.remove(kind, meta(&orphan, "namespace"), meta(&orphan, "name"));
            }
        }
    }
}

/// A namespace on its way out takes what is in it along, and goes when it is empty.
fn end_namespaces(tx: &mut Transaction<'_>) {
    let Some(namespaces) = kind("", "namespaces") else { return };
    for namespace in tx.list(namespaces, "") {
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let name = meta(&namespace, "name");
        let inside: Vec<_> = tx
            .all()
            .map(|(_, _, object)| object.clone())
            .filter(|object| meta(object, "namespace") == name)
            .collect();
        let mut kept = false;
        for object in inside {
            let Some(kind) = kinds::of_object(&object) else { continue };
            if items(&object["metadata"]["finalizers"]).is_empty() {
                tx.remove(kind, name, meta(&object, "name"));
                continue;
            }
            kept = true;
            if object["metadata"]["deletionTimestamp"].is_null() {
                let mut ending = Value::clone(&object);
                meta_mut(&mut ending).insert("deletionTimestamp".into(), json!(rfc3339(tx.now)));
                tx.put(kind, ending);
            }
        }
        if !kept {
            tx.remove(namespaces, "", name);
        }
    }
}

/// Cuts the objects an owner is about to leave behind loose from it (`propagationPolicy: Orphan`).
pub(crate) fn orphan(tx: &mut Transaction<'_>, owner: &Value) {
    let uid = meta(owner, "uid");
    let owns =
        |object: &Value| items(&object["metadata"]["ownerReferences"]).iter().any(|one| one["uid"] == uid);
    let dependents: Vec<_> =
        tx.all().map(|(_, _, object)| object.clone()).filter(|object| owns(object)).collect();
    for dependent in dependents {
        let mut loose = Value::clone(&dependent);
        if let Some(owners) = loose["metadata"]["ownerReferences"].as_array_mut() {
            owners.retain(|one| one["uid"] != uid);
        }
        if entries(&loose["metadata"]).any(|(key, value)| key == "ownerReferences" && items(value).is_empty())
        {
            meta_mut(&mut loose).remove("ownerReferences");
        }
        update(tx, &dependent, loose);
    }
}
