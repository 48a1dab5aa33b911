//! A container's environment, as the kubelet would resolve it: plain values, Secrets, ConfigMaps, the pod's own fields.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    kinds,
    object::{entries, items, meta, text},
    store::Store,
};

/// The variables, in the order in which they were set.
pub(crate) fn of(store: &Store, pod: &Value, container: &Value) -> Vec<(String, String)> {
    let namespace = meta(pod, "namespace");
    let mut variables: Vec<(String, String)> = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOSTNAME".into(), meta(pod, "name").into()),
        ("KUBERNETES_SERVICE_HOST".into(), "10.96.0.1".into()),
        ("KUBERNETES_SERVICE_PORT".into(), "443".into()),
        ("HOME".into(), "/root".into()),
    ];
    for source in items(&container["envFrom"]) {
        let prefix = text(&source["prefix"]);
        for (reference, plural) in
            [(&source["secretRef"], "secrets"), (&source["configMapRef"], "configmaps")]
        {
            if let Some(object) =
                kinds::find("", plural).and_then(|kind| store.get(kind, namespace, text(&reference["name"])))
            {
                for (key, _) in entries(&object["data"]) {
                    let value = data(&object, plural, key).unwrap_or_default();
                    variables.push((format!("{prefix}{key}"), value));
                }
            }
        }
    }
    for variable in items(&container["env"]) {
        let from = &variable["valueFrom"];
        let referenced = |reference: &Value, plural: &str| {
            let object = store.get(kinds::find("", plural)?, namespace, text(&reference["name"]))?;
            data(&object, plural, text(&reference["key"]))
        };
        let value = variable["value"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| referenced(&from["secretKeyRef"], "secrets"))
            .or_else(|| referenced(&from["configMapKeyRef"], "configmaps"))
            .or_else(|| field(pod, text(&from["fieldRef"]["fieldPath"])));
        variables.push((text(&variable["name"]).to_owned(), value.unwrap_or_default()));
    }
    variables
}

/// One value of a Secret or ConfigMap, as text.
pub(crate) fn data(object: &Value, plural: &str, key: &str) -> Option<String> {
    let value = object["data"][key].as_str()?;
    match plural {
        "secrets" => Some(String::from_utf8_lossy(&BASE64_STANDARD.decode(value).ok()?).into_owned()),
        _ => Some(value.to_owned()),
    }
}

fn field(pod: &Value, path: &str) -> Option<String> {
    let value = path.split('.').try_fold(pod, |value, key| value.get(key))?;
    value.as_str().map(str::to_owned)
}
