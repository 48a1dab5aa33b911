//! Failures, as `metav1.Status`: each in the words the API server itself uses.

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use portcullis_core::Body;
use serde_json::{Value, json};

use super::{kinds::Kind, target::ResourceTarget, wire};

/// A failure, on its way to becoming an answer. Boxed, so that results stay small.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Failure { code, reason, message: message.into(), details: Value::Null }))
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.0.details = json!({ "name": name, "kind": kind.plural });
        if !kind.group.is_empty() {
            self.0.details["group"] = json!(kind.group);
        }
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub(crate) fn forbidden_object(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.qualified());
        Self::forbidden(message).about(kind, name)
    }

    pub(crate) fn path_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// 422; each cause is a field and what is wrong with it.
    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[(String, String)]) -> Self {
        let list = causes.iter().map(|(field, why)| format!("{field}: {why}")).collect::<Vec<_>>();
        let list = match list.len() {
            1 => list.concat(),
            _ => format!("[{}]", list.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", kind.qualified_kind());
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind, name);
        error.0.details["kind"] = json!(kind.kind);
        error.0.details["causes"] = causes
            .iter()
            .map(|(field, why)| json!({"reason": "FieldValueInvalid", "message": why, "field": field}))
            .collect();
        error
    }

    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(crate) fn method_not_allowed(target: &ResourceTarget) -> Self {
        let message =
            format!("the server does not allow this method on the requested resource ({})", target.path());
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json (also as Table, PartialObjectMetadata \
                       and PartialObjectMetadataList); this in-memory API server writes neither protobuf, CBOR nor YAML";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        error.0.details = json!({
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        });
        error
    }

    pub(crate) fn entity_too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn to_status(&self) -> Value {
        let Failure { code, reason, message, details } = &*self.0;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        if !details.is_null() {
            status["details"] = details.clone();
        }
        status
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.0.code, &self.to_status());
        if self.0.code == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        if self.0.code == StatusCode::GATEWAY_TIMEOUT {
            response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
        }
        response
    }
}

/// An answer in JSON.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(wire::json(value)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
