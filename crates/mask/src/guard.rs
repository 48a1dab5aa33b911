//! The write guard: nobody stores a mask in the place of what it masks.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portcullis_core::{
    Body, BoxError, BufferedBody, Identity, ProposedRequest, Reason, Refusal, RequestInfo, UnmaskedObjects,
    refuse,
};
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Caller, OnWrite, Rules, Scope,
    oracle::would_confirm,
    restore::{RestoreLayer, ToRestore, values::lost},
    seek::{essence, seek},
};

/// Refuses writes that carry a mask token, before anybody is asked: 422 `mask/would-store-mask`. With
/// [`OnWrite::Restore`](crate::OnWrite::Restore), writes to objects that are there are left to the layer that
/// [restores](Self::restored_by) them.
///
/// It reads the [`BufferedBody`] that an outer layer left in the request's extensions, or else reads the body itself, up to
/// [`Limits::write_bytes`](crate::Limits), and leaves one. Connections into the cluster (exec, proxy) store nothing: their
/// bodies are looked at only if somebody has read them already.
///
/// | status | code | why |
/// |---|---|---|
/// | 422 | `mask/would-store-mask` | the body holds a mask token: plain, in base64, in a string that holds JSON |
/// | 422 | `mask/would-lose` | the whole object is replaced, and a field that was shown without a token (dropped, a number) would be lost |
/// | 422 | `mask/would-reveal` | a JSON Patch copies, moves or tests what may be masked, or a dry run of server-side apply sets it: it would show, or confirm, the value |
/// | 415 | `mask/encoded-write` | the body is compressed |
/// | 413 | `mask/too-large` | the body is longer than the limit |
/// | 400 | `mask/unreadable-write` | the body broke off |
#[derive(Clone)]
pub struct WriteGuardLayer {
    rules: Rules,
    objects: Option<Arc<dyn UnmaskedObjects>>,
    restored: bool,
}

impl WriteGuardLayer {
    /// Guards what these rules mask.
    pub fn new(rules: &Rules) -> Self {
        Self { rules: rules.clone(), objects: None, restored: false }
    }

    /// Leaves writes with tokens to this layer, which stands further in, where the rules say [`OnWrite::Restore`]. Without it
    /// they are refused, whatever the rules say: nobody would put the values back.
    #[must_use]
    pub fn restored_by(mut self, _: &RestoreLayer) -> Self {
        self.restored = true;
        self
    }

    /// Where the objects are read that are to be replaced, so that a field that was shown without a token (dropped, a number) is
    /// not lost. Without it, no object that such a rule covers can be replaced as a whole.
    #[must_use]
    pub fn objects(mut self, objects: Arc<dyn UnmaskedObjects>) -> Self {
        self.objects = Some(objects);
        self
    }
}

impl fmt::Debug for WriteGuardLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteGuardLayer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for WriteGuardLayer {
    type Service = WriteGuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WriteGuardService { inner, layer: self.clone() }
    }
}

/// What [`WriteGuardLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct WriteGuardService<S> {
    inner: S,
    layer: WriteGuardLayer,
}

/// The future of a [`WriteGuardService`]. Dropping it drops the inner call.
pub type WriteGuardFuture<E> = BoxFuture<'static, Result<Response<Body>, E>>;

impl<S, B, R> Service<Request<B>> for WriteGuardService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = WriteGuardFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        let request = request.map(Body::new);
        Box::pin(async move {
            match examine(request, &layer).await {
                Ok(request) => Ok(inner.call(request).await?.map(Body::new)),
                Err(response) => Ok(*response),
            }
        })
    }
}

/// The request as it may go on, or the answer that it may not.
async fn examine(
    request: Request<Body>,
    layer: &WriteGuardLayer,
) -> Result<Request<Body>, Box<Response<Body>>> {
    let rules = &layer.rules;
    let info = RequestInfo::of(&request);
    let read = request.extensions().get::<BufferedBody>().map(|body| body.0.clone());
    if !info.is_mutating() || (read.is_none() && (info.is_connect() || request.body().is_end_stream())) {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let judged = match is_compressed(&parts.headers) {
        true => Err(Refusal::new(
            Reason::UnsupportedMediaType,
            "mask/encoded-write",
            "a compressed body cannot be searched for masked values",
        )
        .advice("send it without Content-Encoding")),
        false => match read {
            Some(read) => Ok((read, body)),
            None => buffer(body, rules.limits().write_bytes).await.map(|read| {
                parts.extensions.insert(BufferedBody(read.clone()));
                (read.clone(), Body::from(read))
            }),
        },
    };
    let judged = judged.and_then(|(read, body)| {
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let extensions = &parts.extensions;
        let scope = || rules.scope(&info, Caller::of(extensions));
        if !info.is_connect() {
            let scope = scope();
            would_confirm(&info, parts.uri.query(), content_type, &read, &scope)?;
            if content_type.map(essence).as_deref() == Some("application/json-patch+json") {
                reveals(&read, &scope)?;
            }
        }
        match seek(content_type, &read) {
            // Whether each is a mask of what is there is known only once the object has been read.
            Some(_) if layer.may_leave(&info) => Ok((body, true)),
            Some(found) => Err(would_store_mask(found.field)),
            None => Ok((body, false)),
        }
    });
    let judged = match judged {
        Ok((body, restore)) => layer.loses_nothing(&parts, &info).await.map(|()| (body, restore)),
        Err(refusal) => Err(refusal),
    };
    match judged {
        Ok((body, restore)) => {
            if restore {
                parts.extensions.insert(ToRestore);
            }
            Ok(Request::from_parts(parts, body))
        }
        Err(refusal) => Err(Box::new(refuse(&parts.extensions, refusal))),
    }
}

impl WriteGuardLayer {
    /// Whether tokens in a write may be left to be restored.
    fn may_leave(&self, info: &RequestInfo) -> bool {
        self.restored && self.rules.on_write() == OnWrite::Restore && may_restore(info)
    }

    /// Refuses to replace an object whose fields were shown without tokens, if what replaces it has what was shown.
    async fn loses_nothing(&self, parts: &Parts, info: &RequestInfo) -> Result<(), Refusal> {
        if info.verb != "update" || !may_restore(info) {
            return Ok(());
        }
        let scope = self.rules.scope(info, Caller::of(&parts.extensions));
        if !scope.may_leave_no_token() {
            return Ok(());
        }
        let (Some(objects), Some(identity)) = (&self.objects, parts.extensions.get::<Identity>()) else {
            return Err(would_lose(None));
        };
        let body = parts.extensions.get::<BufferedBody>().map(|body| body.0.clone()).unwrap_or_default();
        let proposed = ProposedRequest::new(parts, identity.clone(), body);
        let live = objects.read_unmasked(&proposed).await.map_err(|error| {
            Refusal::unavailable(
                "mask/cannot-compare",
                "some fields of the object were shown without a token, and it cannot be read now to see whether they would be lost",
            )
            .detail(error.to_string())
        })?;
        let Some(live) = live else { return Ok(()) };
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        lost(content_type, &proposed.body, &live, &scope).map_err(|wrong| would_lose(wrong.field))
    }
}

fn would_lose(field: Option<String>) -> Refusal {
    let shown = field.as_deref().unwrap_or("a field");
    let message = format!("{shown} is masked without a token, and replacing the object would lose its value");
    Refusal::new(Reason::Invalid, "mask/would-lose", message.clone())
        .advice("change the object with a patch that leaves the field out")
        .cause("FieldValueInvalid", message, field)
}

/// Whether a write is one to an object that is there.
fn may_restore(info: &RequestInfo) -> bool {
    info.is_resource_request
        && ["update", "patch"].contains(&info.verb.as_str())
        && !info.name.is_empty()
        && !info.is_connect()
}

/// Refuses a JSON Patch (RFC 6902) that reads what may be masked: `copy` and `move` put a value where no rule masks it,
/// `test` confirms a guess of it. Which values are masked may depend on the object, which is not here; so of resources that
/// rules name, only what is never masked may be read.
fn reveals(patch: &Bytes, scope: &Scope) -> Result<(), Refusal> {
    if !scope.is_structural() {
        return Ok(());
    }
    let operations: Vec<Value> = serde_json::from_slice(patch).unwrap_or_default();
    for (index, operation) in operations.iter().enumerate() {
        let read = match operation["op"].as_str() {
            Some("copy" | "move") => "from",
            Some("test") => "path",
            _ => continue,
        };
        let pointer = operation[read].as_str().unwrap_or_default();
        let harmless = match scope.masks_resource() {
            true => is_never_masked(pointer),
            false => !is_masked_anywhere(pointer) && !holds_what_is_masked_anywhere(&operation["value"]),
        };
        if !harmless {
            return Err(would_reveal(format!("[{index}].{read}"), pointer));
        }
    }
    Ok(())
}

/// Whether a pointer leads to what is masked in objects of every kind, or so near above it that a copy could hold it.
fn is_masked_anywhere(pointer: &str) -> bool {
    ["", "/metadata", "/metadata/annotations"].contains(&pointer)
        || pointer
            .split('/')
            .any(|segment| segment == "env" || segment.contains("last-applied-configuration"))
}

/// Whether a value that is tested for could confirm what is masked in objects of every kind.
fn holds_what_is_masked_anywhere(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(holds_what_is_masked_anywhere),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            name == "env"
                || name.contains("last-applied-configuration")
                || holds_what_is_masked_anywhere(value)
        }),
        _ => false,
    }
}

/// Whether a JSON Pointer (RFC 6901) leads to what no rule ever masks, and to nothing above it.
fn is_never_masked(pointer: &str) -> bool {
    let scalars =
        ["/apiVersion", "/kind", "/type", "/immutable", "/spec/replicas", "/spec/paused", "/spec/suspend"];
    let metadata = pointer.strip_prefix("/metadata/").is_some_and(|rest| {
        let first = rest.split('/').next().unwrap_or_default();
        !first.is_empty() && first != "annotations" && !first.contains('~')
    });
    metadata || scalars.contains(&pointer)
}

fn would_reveal(field: String, pointer: &str) -> Refusal {
    let message = format!("a patch may not copy, move or test {pointer:?}, which may be masked");
    Refusal::new(Reason::Invalid, "mask/would-reveal", message.clone())
        .advice("write the value itself with `add` or `replace`, or use a merge patch")
        .cause("FieldValueForbidden", message, Some(field))
}

fn is_compressed(headers: &http::HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

async fn buffer(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, limit).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
            Reason::RequestEntityTooLarge,
            "mask/too-large",
            format!("the body is longer than the {limit} bytes that can be searched for masked values"),
        )),
        Err(_) => Err(Refusal::bad_request("mask/unreadable-write", "the body broke off")),
    }
}

pub(crate) fn would_store_mask(field: Option<String>) -> Refusal {
    let place = field.as_deref().filter(|field| !field.is_empty());
    let message = match place {
        Some(field) => format!("{field} holds the mask of a value, not the value: it would be lost"),
        None => "the body holds the mask of a value, not the value: it would be lost".to_owned(),
    };
    let field = place.map(str::to_owned);
    Refusal::new(Reason::Invalid, "mask/would-store-mask", message)
        .advice("leave the field out, for example with a patch, or give its new value")
        // kubectl prints nothing but the causes of an `Invalid`.
        .cause(
            "FieldValueInvalid",
            "holds a mask, not the value: leave the field out, or give its new value",
            field,
        )
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http::StatusCode;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{MaskConfig, MaskKey};

    async fn send(request: Request<Body>) -> (Response<Body>, Option<Bytes>, usize) {
        let config: MaskConfig =
            serde_yaml::from_str("{onWrite: restore, limits: {writeBytes: 200}}").unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let buffered = Arc::new(std::sync::Mutex::new(None));
        let (seen, counted) = (buffered.clone(), calls.clone());
        let service = WriteGuardLayer::new(&rules).layer(service_fn(move |request: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let seen = seen.clone();
            async move {
                let left = request.extensions().get::<BufferedBody>().map(|body| body.0.clone());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert!(left.is_none_or(|left| left == body));
                *seen.lock().unwrap() = Some(body);
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        }));
        let response = service.oneshot(request).await.unwrap();
        let body = buffered.lock().unwrap().take();
        (response, body, calls.load(Ordering::SeqCst))
    }

    async fn check(request: Request<Body>, expected: Result<&str, &str>) -> Response<Body> {
        let (response, body, calls) = send(request).await;
        match expected {
            Ok(passed) => {
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(body.unwrap(), passed.as_bytes());
            }
            Err(code) => {
                assert_eq!(response.extensions().get::<Refusal>().map(Refusal::code), Some(code));
                assert_eq!(calls, 0, "the service saw something");
            }
        }
        response
    }

    fn put(body: &'static str) -> Request<Body> {
        Request::put("/x").header(CONTENT_TYPE, "application/json").body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn a_mask_is_refused_and_its_field_named() {
        let response =
            check(put(r#"{"data":{"p":"masked:secrets:0123456789abcdef"}}"#), Err("mask/would-store-mask"))
                .await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let refusal = response.extensions().get::<Refusal>().unwrap();
        assert_eq!(refusal.causes()[0].field.as_deref(), Some("data.p"));
    }

    #[tokio::test]
    async fn nothing_is_left_to_a_layer_that_is_not_there() {
        let mut request = put(r#"{"data":{"p":"masked:secrets:0123456789abcdef"}}"#);
        request.extensions_mut().insert(RequestInfo {
            is_resource_request: true,
            verb: "update".into(),
            api_version: "v1".into(),
            resource: "secrets".into(),
            name: "db".into(),
            ..RequestInfo::default()
        });
        check(request, Err("mask/would-store-mask")).await;
    }

    #[tokio::test]
    async fn other_writes_pass_unchanged() {
        check(put(r#"{"data":{"p":"aHVudGVyMg=="}}"#), Ok(r#"{"data":{"p":"aHVudGVyMg=="}}"#)).await;
        check(put(""), Ok("")).await;
    }

    #[tokio::test]
    async fn a_body_that_was_read_is_not_read_again() {
        let mut request = put("streamed");
        request.extensions_mut().insert(BufferedBody(Bytes::from_static(b"masked:a:redacted")));
        check(request, Err("mask/would-store-mask")).await;
    }

    #[tokio::test]
    async fn what_cannot_be_searched_is_refused() {
        let mut request = put("x");
        request.headers_mut().insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        check(request, Err("mask/encoded-write")).await;
        let long: &'static str = Box::leak("x".repeat(201).into_boxed_str());
        check(put(long), Err("mask/too-large")).await;
    }

    #[tokio::test]
    async fn reads_and_connections_are_not_held_up() {
        let token = "masked:secrets:0123456789abcdef";
        check(Request::get("/x").body(token.into()).unwrap(), Ok(token)).await;
        let mut exec = Request::post("/x").body(Body::from(token)).unwrap();
        exec.extensions_mut().insert(RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            subresource: "proxy".into(),
            ..RequestInfo::default()
        });
        check(exec, Ok(token)).await;
    }

    #[test]
    fn a_patch_shows_and_confirms_nothing() {
        let rules = Rules::new(&crate::MaskConfig::default(), crate::MaskKey::generate().unwrap()).unwrap();
        let check = |resource: &str, op: &str, pointer: &str, passes: bool| {
            let info = RequestInfo {
                is_resource_request: true,
                verb: "patch".into(),
                api_version: "v1".into(),
                resource: resource.into(),
                ..RequestInfo::default()
            };
            let key = if op == "test" { "path" } else { "from" };
            let patch = serde_json::json!([{ "op": op, key: pointer, "value": "guess" }]).to_string();
            let judged = reveals(&Bytes::from(patch), &rules.scope(&info, Caller::default()));
            assert_eq!(judged.is_ok(), passes, "{op} {pointer} of {resource}");
        };
        for op in ["copy", "move", "test"] {
            for pointer in
                ["/data/password", "/data", "", "/metadata/annotations/x", "/metadata", "/stringData/a"]
            {
                check("secrets", op, pointer, false);
            }
            check("secrets", op, "/metadata/resourceVersion", true);
            check("pods", op, "/spec/containers/0/env/0/value", false);
            check("pods", op, "/spec/containers/0/image", true);
            check("configmaps", op, "/data/colour", true);
            check("configmaps", op, "/metadata/annotations", false);
        }
        for op in ["add", "replace", "remove"] {
            check("secrets", op, "/data/password", true);
        }
    }
}
