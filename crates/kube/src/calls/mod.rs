//! The gateway's own calls: live objects and dry runs, with the rights of whoever asked.

mod dry_run;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::future::join;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::{BodyExt, Limited};
use portcullis_core::{
    AuditId, Body, BoxError, BoxFuture, Classifier, ErrorFormat, LiveError, LiveObjects, Preview,
    ProposedRequest, Refusal, Trail, UnmaskedCopy, UnmaskedObjects,
};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_service::Service;

use crate::KubeClassifier;
use dry_run::DryRun;

/// An answer longer than this is not shown to anybody.
const LIMIT: usize = 3 * 1024 * 1024;

/// What a call is for, as its trail notes it (`purpose`).
const DRY_RUN: &str = "dryRun";
const BEFORE: &str = "before";
const RESTORE: &str = "restore";

/// [`LiveObjects`] over the innermost part of the stack: audit, commit, mask, upstream.
///
/// Every call is sent with the [`AuditId`] of the request it is about in its extensions, which is how an audit layer around
/// the service knows a request of the gateway's own: it is on record under an id of its own that names its parent. It is made
/// with the identity of that request, and what comes back is masked.
pub struct GatewayCalls<S> {
    // Behind a mutex, only to be cloned: services need not be `Sync`.
    service: Mutex<S>,
    classifier: KubeClassifier,
}

/// An answer of the API server's.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl<S> GatewayCalls<S> {
    /// Calls through `service`.
    pub fn new(service: S) -> Self {
        Self { service: Mutex::new(service), classifier: KubeClassifier::new() }
    }

    /// How targets are read; must be the classifier of the requests that are asked about.
    #[must_use]
    pub fn classifier(mut self, classifier: KubeClassifier) -> Self {
        self.classifier = classifier;
        self
    }
}

impl<S> GatewayCalls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    async fn preview(&self, proposed: &ProposedRequest) -> Result<Preview, LiveError> {
        let dry_run = match DryRun::of(proposed) {
            Ok(dry_run) => dry_run,
            Err(unavailable) => {
                let before = self.before(proposed).await?;
                let resource_version = before.as_ref().and_then(version_of);
                return Ok(Preview { before, after: None, resource_version, unavailable: Some(unavailable) });
            }
        };
        let deletes = dry_run.deletes;
        let (before, answer) = join(self.before(proposed), self.send_dry_run(proposed, dry_run)).await;
        let answer = answer?;
        if !answer.status.is_success() {
            return answer.into_refused();
        }
        let before = before?;
        let resource_version = before.as_ref().and_then(version_of);
        let after = if deletes { None } else { Some(answer.json()?) };
        Ok(Preview { before, after, resource_version, unavailable: None })
    }

    async fn send_dry_run(&self, proposed: &ProposedRequest, dry_run: DryRun) -> Result<Answer, LiveError> {
        let mut request = Request::new(Body::from(dry_run.body));
        *request.method_mut() = proposed.method.clone();
        *request.uri_mut() = dry_run.uri;
        if let Some(content_type) = dry_run.content_type {
            let value = HeaderValue::try_from(content_type)
                .map_err(|error| LiveError::Unavailable(error.to_string()))?;
            request.headers_mut().insert(CONTENT_TYPE, value);
        }
        self.send(proposed, request, DRY_RUN).await
    }

    /// The object as it is; `None` if there is none yet, or it may not be read. A deleted collection is shown as the list that
    /// its selectors choose.
    async fn before(&self, proposed: &ProposedRequest) -> Result<Option<Value>, LiveError> {
        let info = &proposed.info;
        if !dry_run::has_before(info) {
            return Ok(None);
        }
        let target = match info.verb == "deletecollection" {
            true => selectors_only(&proposed.uri),
            false => proposed.uri.path().to_owned(),
        };
        let answer = self.send(proposed, get(&target)?, BEFORE).await?;
        match answer.status {
            StatusCode::OK => answer.json().map(Some),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            _ => Err(answer.into_unavailable()),
        }
    }

    async fn send(
        &self,
        proposed: &ProposedRequest,
        mut request: Request<Body>,
        purpose: &'static str,
    ) -> Result<Answer, LiveError> {
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        let (mut parts, body) = request.into_parts();
        let mut info =
            self.classifier.classify(&parts).map_err(|refusal| LiveError::Unavailable(refusal.message()))?;
        info.dry_run = purpose == DRY_RUN; // For a delete, the target does not tell.
        let trail = Trail::default();
        {
            let mut note = trail.note();
            note.identity = Some(proposed.identity.clone());
            note.notes.insert("purpose", json!(purpose));
        }
        parts.extensions.insert(info);
        parts.extensions.insert(trail);
        parts.extensions.insert(proposed.audit_id.unwrap_or_else(AuditId::generate));
        parts.extensions.insert(ErrorFormat::Status);
        parts.extensions.insert(proposed.identity.clone());

        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unavailable = |error: BoxError| LiveError::Unavailable(error.to_string());
        let response = service
            .oneshot(Request::from_parts(parts, body))
            .await
            .map_err(|error| unavailable(error.into()))?;
        // A layer of our own said no: that is not the API server's word on the request.
        if let Some(refusal) = response.extensions().get::<Refusal>() {
            return Err(LiveError::Unavailable(refusal.message()));
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), LIMIT).collect().await.map_err(unavailable)?.to_bytes();
        Ok(Answer { status, body })
    }
}

impl Answer {
    fn json(&self) -> Result<Value, LiveError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| LiveError::Unavailable("the API server's answer is not JSON".into()))
    }

    fn message(&self) -> String {
        let status = serde_json::from_slice::<Value>(&self.body).ok();
        let message = status.as_ref().and_then(|status| status["message"].as_str());
        message.map_or_else(|| format!("the API server answered {}", self.status), str::to_owned)
    }

    fn into_unavailable(self) -> LiveError {
        LiveError::Unavailable(self.message())
    }

    /// What a failed dry run means: that the request would fail, that it could not be tried, or nothing at all.
    fn into_refused(self) -> Result<Preview, LiveError> {
        let message = self.message();
        // `NewDryRunUnsupportedErr` in k8s.io/apiserver: a webhook with side effects stands in the way.
        if self.status == StatusCode::BAD_REQUEST && message.contains("does not support dry run") {
            return Ok(Preview { unavailable: Some(message), ..Preview::default() });
        }
        match self.status.is_client_error() && self.status != StatusCode::TOO_MANY_REQUESTS {
            true => Err(LiveError::WouldRefuse { status: self.status.as_u16(), message, body: self.body }),
            false => Err(LiveError::Unavailable(message)),
        }
    }
}

impl<S> UnmaskedObjects for GatewayCalls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn read_unmasked<'a>(
        &'a self,
        request: &'a ProposedRequest,
    ) -> BoxFuture<'a, Result<Option<Bytes>, LiveError>> {
        Box::pin(async move {
            let copy = UnmaskedCopy::default();
            let mut read = get(request.uri.path())?;
            read.extensions_mut().insert(copy.clone());
            let answer = self.send(request, read, RESTORE).await?;
            match answer.status {
                StatusCode::OK => {
                    let unavailable = || LiveError::Unavailable("the object was not read as it is".into());
                    copy.take().map(Some).ok_or_else(unavailable)
                }
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
                _ => Err(answer.into_unavailable()),
            }
        })
    }
}

impl<S> LiveObjects for GatewayCalls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn dry_run<'a>(&'a self, request: &'a ProposedRequest) -> BoxFuture<'a, Result<Preview, LiveError>> {
        Box::pin(self.preview(request))
    }

    fn resource_version<'a>(
        &'a self,
        request: &'a ProposedRequest,
    ) -> BoxFuture<'a, Result<Option<String>, LiveError>> {
        Box::pin(async move { Ok(self.before(request).await?.as_ref().and_then(version_of)) })
    }
}

impl<S> fmt::Debug for GatewayCalls<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayCalls").finish_non_exhaustive()
    }
}

/// An object's version. A list's says nothing of its items: it moves with the whole cluster.
fn version_of(object: &Value) -> Option<String> {
    if object.get("items").is_some_and(Value::is_array) {
        return None;
    }
    object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

fn get(target: &str) -> Result<Request<Body>, LiveError> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() =
        target.parse().map_err(|_| LiveError::Unavailable("the object's path cannot be asked for".into()))?;
    Ok(request)
}

fn selectors_only(uri: &Uri) -> String {
    let kept: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| pair.starts_with("labelSelector=") || pair.starts_with("fieldSelector="))
        .collect();
    match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    }
}

#[cfg(test)]
mod tests;
