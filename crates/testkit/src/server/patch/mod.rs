//! The three ways to patch that this server knows. The fourth, server-side apply, it refuses: tracking who owns which field
//! cannot be had by halves.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use super::{kinds::Kind, status::ApiError};

/// A patch, by its content type.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Vec<json::Operation>),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists merge by key.
    Strategic(Value),
}

impl Patch {
    pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let read = || -> Result<Value, ApiError> {
            let value: Value = serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("the patch is not JSON: {error}")))?;
            match value.is_object() {
                true => Ok(value),
                false => Err(ApiError::bad_request("a merge patch must be a JSON object")),
            }
        };
        match content_type {
            "application/json-patch+json" => Ok(Self::Json(json::parse(body)?)),
            "application/merge-patch+json" => Ok(Self::Merge(read()?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(read()?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(ApiError::unsupported_media_type(
                    "server-side apply is not supported by this in-memory API server: use client-side apply, a merge patch or a JSON patch",
                ))
            }
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format ({other}) - accepted media types include: application/json-patch+json, \
                 application/merge-patch+json, application/strategic-merge-patch+json"
            ))),
        }
    }
}

/// The object after the patch.
pub(crate) fn apply(patch: &Patch, kind: &Kind, current: &Value) -> Result<Value, ApiError> {
    let mut object = current.clone();
    match patch {
        Patch::Json(operations) => json::apply(operations, &mut object)?,
        Patch::Merge(patch) => merge::apply(patch, &mut object),
        Patch::Strategic(patch) => strategic::apply(patch, kind, &mut object)?,
    }
    Ok(object)
}
