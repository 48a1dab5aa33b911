//! The `scale` subresource: a Deployment or ReplicaSet seen as nothing but its number of replicas.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    crud::Call,
    kinds::labels_text,
    object::{is_of_type, meta},
    patch::{self, Patch},
    status::ApiError,
};

/// The object's `Scale` (`autoscaling/v1`).
pub(crate) fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = object["metadata"][field].clone();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
            "selector": labels_text(&object["spec"]["selector"]["matchLabels"]),
        },
    })
}

/// Sets the number of replicas a whole `Scale` asks for.
pub(crate) fn replace(call: &mut Call<'_>, mut scale: Value) -> Result<Arc<Value>, ApiError> {
    if !is_of_type(&mut scale, "autoscaling/v1", "Scale") {
        return Err(ApiError::bad_request("the object provided is no autoscaling/v1 Scale"));
    }
    set(call, &scale)
}

/// Patches the object's `Scale`.
pub(crate) fn patch(call: &mut Call<'_>, patch: &Patch) -> Result<Arc<Value>, ApiError> {
    let before = of(&*call.get()?);
    let after = patch::apply(patch, call.kind, &before)?;
    set(call, &after)
}

fn set(call: &mut Call<'_>, scale: &Value) -> Result<Arc<Value>, ApiError> {
    let Some(replicas) = scale["spec"]["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok())
    else {
        return Err(ApiError::bad_request("spec.replicas must be a 32-bit integer"));
    };
    let mut change = json!({"spec": {"replicas": replicas}});
    // Whoever read the scale and writes it back expects nobody to have written in between.
    let version = meta(scale, "resourceVersion");
    if !version.is_empty() {
        change["metadata"] = json!({"resourceVersion": version});
    }
    call.patch(&Patch::Merge(change))
}
