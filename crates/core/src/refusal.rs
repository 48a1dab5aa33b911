//! How a layer says no: what, why, and what to do, in the client's own format.

use std::time::Duration;

use http::{
    Extensions, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{AuditId, Body, RequestInfo, Trail};

/// Why a request was refused, in the terms of `metav1.StatusReason`
/// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409
    Conflict,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 431
    HeaderFieldsTooLarge,
    /// 500
    InternalError,
    /// 502
    BadGateway,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
}

impl Reason {
    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict => StatusCode::CONFLICT,
            Self::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::HeaderFieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `reason` of a `metav1.Status`. Where Kubernetes has no word for it, the one it uses itself for such codes.
    fn as_status_reason(self) -> &'static str {
        match self {
            Self::BadRequest | Self::HeaderFieldsTooLarge => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::Conflict => "Conflict",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError | Self::BadGateway => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
        }
    }
}

/// One cause among several (`details.causes` of a `Status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A machine-readable word, in CamelCase.
    pub reason: String,
    /// What is wrong, for people.
    pub message: String,
    /// The field of the object it is about, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
}

/// In which format a refusal is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// A `metav1.Status`, as JSON.
    Status,
}

/// A request that was not let through: what, why, and what to do.
///
/// Built by the layer that refuses, written by [`refuse`], and left in the response's extensions (as `Refusal`), so
/// that outer layers, metrics and tests need not parse bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<Parts>);

// Behind a box, so that `Result<_, Refusal>` stays small.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    reason: Reason,
    code: &'static str,
    message: String,
    advice: Option<String>,
    detail: Option<String>,
    causes: Vec<Cause>,
    retry_after: Option<Duration>,
    challenge: Option<String>,
}

impl Refusal {
    /// A refusal. `code` is its stable name, `layer/what`, listed in the documentation; `message` is a sentence for the
    /// caller, without a secret in it.
    pub fn new(reason: Reason, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            reason,
            code,
            message: message.into(),
            advice: None,
            detail: None,
            causes: Vec::new(),
            retry_after: None,
            challenge: None,
        }))
    }

    /// 400: two readers could understand the request differently, or nobody can.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, code, message)
    }

    /// 401 with a `WWW-Authenticate: Bearer` challenge (RFC 6750 §3).
    pub fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let quoted: String = message
            .chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_control() && !"\"\\".contains(*c))
            .collect();
        let challenge =
            format!(r#"Bearer realm="portcullis", error="invalid_token", error_description="{quoted}""#);
        let mut refusal = Self::new(Reason::Unauthorized, code, message);
        refusal.0.challenge = Some(challenge);
        refusal
    }

    /// 403.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Reason::Forbidden, code, message)
    }

    /// 503: it cannot be done safely now, so it is not done.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, code, message)
    }

    /// What the caller can do about it; added to the message.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// What the operator should know, and the caller should not: logged, never sent.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// One more cause.
    #[must_use]
    pub fn cause(
        mut self,
        reason: impl Into<String>,
        message: impl Into<String>,
        field: Option<String>,
    ) -> Self {
        self.0.causes.push(Cause { reason: reason.into(), message: message.into(), field });
        self
    }

    /// When to come back (`Retry-After`, in whole seconds, at least 1). client-go resends by itself on 429 and 5xx with it.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.reason.status()
    }

    /// The stable name, `layer/what`.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The whole message for the caller, advice included.
    pub fn message(&self) -> String {
        match &self.0.advice {
            Some(advice) => format!("{}: {advice}", self.0.message),
            None => self.0.message.clone(),
        }
    }

    /// What only the operator may read.
    pub fn operator_detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The causes.
    pub fn causes(&self) -> &[Cause] {
        &self.0.causes
    }

    /// The response, in `format`. Prefer [`refuse`], which also notes the refusal on the request's trail.
    pub fn to_response(&self, format: ErrorFormat, info: Option<&RequestInfo>) -> Response<Body> {
        let (content_type, body) = match format {
            ErrorFormat::Status => ("application/json", self.as_status(info)),
            ErrorFormat::Problem => ("application/problem+json", self.as_problem()),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
        if let Some(after) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_seconds(after)));
        }
        if let Some(challenge) = self.0.challenge.as_deref().and_then(|text| HeaderValue::from_str(text).ok())
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self.clone());
        response
    }

    fn as_status(&self, info: Option<&RequestInfo>) -> Value {
        let mut details = json!({});
        if let Some(info) = info.filter(|info| info.is_resource_request) {
            for (field, value) in [("name", &info.name), ("group", &info.api_group), ("kind", &info.resource)]
            {
                if !value.is_empty() {
                    details[field] = json!(value);
                }
            }
        }
        let mut causes = vec![json!({ "reason": "Portcullis", "message": self.0.code })];
        causes.extend(self.0.causes.iter().map(|cause| json!(cause)));
        details["causes"] = Value::Array(causes);
        if let Some(after) = self.0.retry_after {
            details["retryAfterSeconds"] = json!(retry_seconds(after));
        }
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message(),
            "reason": self.0.reason.as_status_reason(),
            "details": details,
            "code": self.status().as_u16(),
        })
    }

    fn as_problem(&self) -> Value {
        let mut problem = json!({
            "type": format!("urn:portcullis:problem:{}", self.0.code),
            "title": self.status().canonical_reason().unwrap_or("Error"),
            "status": self.status().as_u16(),
            "detail": self.message(),
        });
        if !self.0.causes.is_empty() {
            problem["errors"] = json!(self.0.causes);
        }
        problem
    }
}

fn retry_seconds(after: Duration) -> u64 {
    after.as_secs().max(1)
}

/// Answers a request with a refusal: in the format its classifier chose, noted on its [`Trail`], with its `Audit-ID`.
pub fn refuse(request: &Extensions, refusal: Refusal) -> Response<Body> {
    Trail::of(request).note().refusal = Some(refusal.clone());
    let format = request.get::<ErrorFormat>().copied().unwrap_or_default();
    let mut response = refusal.to_response(format, request.get::<RequestInfo>());
    if let Some(id) = request.get::<AuditId>()
        && let Ok(value) = HeaderValue::from_str(&id.to_string())
    {
        response.headers_mut().insert("audit-id", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(response: Response<Body>) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn kubernetes_clients_get_a_status() {
        let mut extensions = Extensions::new();
        extensions.insert(ErrorFormat::Status);
        extensions.insert(RequestInfo {
            is_resource_request: true,
            resource: "secrets".into(),
            name: "db".into(),
            ..RequestInfo::default()
        });
        let refusal = Refusal::new(Reason::TooManyRequests, "hold/pending", "waiting for approval")
            .advice("it will be retried")
            .retry_after(Duration::from_millis(10));
        let response = refuse(&extensions, refusal.clone());
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.extensions().get::<Refusal>(), Some(&refusal));
        let status = body(response).await;
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"], "TooManyRequests");
        assert_eq!(status["message"], "waiting for approval: it will be retried");
        assert_eq!(status["details"]["name"], "db");
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(status["details"]["causes"][0]["message"], "hold/pending");
    }

    #[tokio::test]
    async fn others_get_a_problem_and_never_the_operators_detail() {
        let trail = Trail::default();
        let mut extensions = Extensions::new();
        extensions.insert(trail.clone());
        let response =
            refuse(&extensions, Refusal::unavailable("audit/unavailable", "no").detail("/var is full"));
        assert_eq!(trail.snapshot().refusal.unwrap().operator_detail(), Some("/var is full"));
        let problem = body(response).await.to_string();
        assert!(problem.contains("urn:portcullis:problem:audit/unavailable"));
        assert!(!problem.contains("/var"));
    }

    #[test]
    fn a_challenge_cannot_be_broken_out_of() {
        let refusal = Refusal::unauthorized("oidc/bad", "no \"such\\ key\r\nX: y");
        let response = refusal.to_response(ErrorFormat::Problem, None);
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.ends_with(r#"error_description="no such keyX: y""#), "{challenge}");
    }
}
