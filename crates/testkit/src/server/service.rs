//! One request: note it, see who sent it, whether they may, and answer it.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portcullis_core::Body;
use portcullis_wire::ProtobufObject;
use serde_json::{Value, json};

use super::{
    Core,
    authn::{self, UserInfo},
    crud::{Call, DeleteOptions},
    discovery, exec, kinds, logs,
    object::meta,
    openapi,
    patch::Patch,
    rbac::{self, Attributes},
    render::Form,
    reviews, scale,
    status::{ApiError, json_response},
    target::{self, Query, ResourceTarget, Target},
    watch,
};

/// The API server's own limit for request bodies.
const MOST_BYTES: usize = 3 * 1024 * 1024;

/// Answers a request. Never fails: what goes wrong is a `Status`.
pub(crate) async fn handle(core: Arc<Core>, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let audit_id = match parts.headers.get("audit-id") {
        Some(id) => id.clone(),
        None => HeaderValue::from_str(&uuid::Uuid::new_v4().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("none")),
    };
    let seen = core.seen.arrived(&parts);
    let mut warnings = Vec::new();
    let answered = answer(&core, seen, &mut parts, body, &mut warnings).await;
    let mut response = answered.unwrap_or_else(ApiError::into_response);
    core.seen.answered(seen, response.status());
    let headers = response.headers_mut();
    headers.insert("audit-id", audit_id);
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append("warning", value);
        }
    }
    response
}

async fn answer(
    core: &Arc<Core>,
    seen: u64,
    parts: &mut Parts,
    body: Body,
    warnings: &mut Vec<String>,
) -> Result<Response<Body>, ApiError> {
    let authenticated =
        core.credentials.authenticate(parts, |token| core.tokens.authenticate(&core.store, token))?;
    let user = match authn::impersonation(&parts.headers)? {
        None => {
            core.seen.identified(seen, &authenticated, None);
            authenticated
        }
        Some(impersonation) => {
            core.seen.identified(seen, &authenticated, Some(&impersonation.user));
            for need in &impersonation.needs {
                authorize(core, &authenticated, need)?;
            }
            impersonation.user
        }
    };
    let target = target::parse(&parts.method, &parts.uri)?;
    authorize(core, &user, &Attributes::of(&target, &parts.method))?;
    match target {
        Target::Path(path) => path_answer(core, parts, &path),
        Target::Resource(target) => resource(core, &user, parts, &target, body, warnings).await,
    }
}

fn authorize(core: &Core, user: &UserInfo, wanted: &Attributes) -> Result<(), ApiError> {
    match rbac::authorize(&core.store, user, wanted) {
        true => Ok(()),
        false => Err(ApiError::forbidden(wanted.refusal(user))),
    }
}

/// Health, discovery, OpenAPI: whatever is no resource.
fn path_answer(core: &Core, parts: &Parts, path: &str) -> Result<Response<Body>, ApiError> {
    if ![Method::GET, Method::HEAD].contains(&parts.method) {
        return Err(ApiError::path_not_found());
    }
    let json = |value: &Value| Ok(json_response(StatusCode::OK, value));
    match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/readyz" => Ok(Response::new(Body::from("ok"))),
        "/version" => json(&discovery::version()),
        "/api" | "/apis" => {
            let address = core.url.trim_start_matches("https://");
            let (document, content_type) = discovery::root(
                path.starts_with("/api") && !path.starts_with("/apis"),
                &parts.headers,
                address,
            );
            let mut response = json_response(StatusCode::OK, &document);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            response.headers_mut().insert("vary", HeaderValue::from_static("Accept"));
            Ok(response)
        }
        "/api/v1" => json(&discovery::resources("")),
        "/openapi/v3" => json(&openapi::index()),
        "/.well-known/openid-configuration" => json(&core.tokens.discovery()),
        "/openid/v1/jwks" => json(&core.tokens.jwks()),
        "" => {
            let groups = discovery::groups().into_iter().filter(|group| !group.is_empty());
            let groups = groups.flat_map(|group| [format!("/apis/{group}"), format!("/apis/{group}/v1")]);
            let others = ["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(String::from);
            let paths: Vec<_> = ["/api", "/api/v1", "/apis"]
                .map(String::from)
                .into_iter()
                .chain(groups)
                .chain(others)
                .collect();
            json(&json!({"paths": paths}))
        }
        path => {
            let known = |group: &str| !group.is_empty() && discovery::groups().contains(&group);
            if let Some(document) = path.strip_prefix("/openapi/v3/").and_then(openapi::document) {
                return json(&document);
            }
            match path.strip_prefix("/apis/").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
                Some((group, "")) if known(group) => json(&discovery::group(group)),
                Some((group, "v1")) if known(group) => json(&discovery::resources(group)),
                _ => Err(ApiError::path_not_found()),
            }
        }
    }
}

async fn resource(
    core: &Arc<Core>,
    user: &UserInfo,
    parts: &mut Parts,
    target: &ResourceTarget,
    body: Body,
    warnings: &mut Vec<String>,
) -> Result<Response<Body>, ApiError> {
    let query = Query::of(&parts.uri);
    if let Some((_, kind, _)) = kinds::REVIEWS.iter().find(|(group, _, plural)| {
        *group == target.group
            && *plural == target.resource
            && target.version == "v1"
            && target.subresource.is_empty()
    }) {
        if target.verb != "create" {
            return Err(ApiError::method_not_allowed(target));
        }
        let review = object_body(&parts.headers, &read(body).await?)?;
        return Ok(json_response(StatusCode::CREATED, &reviews::answer(core, kind, user, review)?));
    }
    let kind = target.kind()?;
    let known =
        target.subresource.is_empty() || kind.subresources.iter().any(|sub| sub.name == target.subresource);
    if !known {
        return Err(unknown_subresource(target));
    }
    let mut call = Call { core, kind, target, query: &query, user, warnings: Vec::new() };
    let answered = match target.subresource.as_str() {
        "" | "status" => objects(core, &mut call, parts, body).await,
        "scale" => scaling(&mut call, parts, body).await,
        "log" => {
            let pod = call.get()?;
            logs::serve(core, &pod, &query)
        }
        "exec" => {
            // A WebSocket comes as a GET; opening a connection is `create` all the same.
            authorize(core, user, &Attributes::of_resource("create", target))?;
            let pod = call.get()?;
            exec::serve(core, &pod, parts, &query)
        }
        "token" if target.verb == "create" => {
            let request = object_body(&parts.headers, &read(body).await?)?;
            let answer = core.tokens.request(&core.store, &target.namespace, &target.name, request)?;
            Ok(json_response(StatusCode::CREATED, &answer))
        }
        _ => Err(ApiError::method_not_allowed(target)),
    };
    warnings.append(&mut call.warnings);
    answered
}

/// Subresources a real API server has and this one has not: said so, rather than "not found".
fn unknown_subresource(target: &ResourceTarget) -> ApiError {
    match target.subresource.as_str() {
        "attach" | "portforward" | "proxy" | "eviction" | "ephemeralcontainers" | "binding" | "resize" => {
            let path = target.path();
            ApiError::bad_request(format!(
                "{path} is not supported by this in-memory API server: its pods are pretend"
            ))
        }
        _ => ApiError::path_not_found(),
    }
}

async fn objects(
    core: &Arc<Core>,
    call: &mut Call<'_>,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let form = Form::negotiate(&parts.headers, call.query)?;
    let (kind, now) = (call.kind, core.store.now());
    let respond = |code, object: &Value| Ok(form.respond(code, kind, object, now));
    let of_status = call.target.subresource == "status";
    match call.target.verb {
        "get" => respond(StatusCode::OK, &*call.get()?),
        "list" => {
            let (list, version) = call.list()?;
            Ok(json_response(StatusCode::OK, &form.list(kind, &list, version, now)))
        }
        "watch" => watch::serve(core, call, form),
        "create" if call.target.name.is_empty() => {
            let object = object_body(&parts.headers, &read(body).await?)?;
            respond(StatusCode::CREATED, &*call.create(object)?)
        }
        "update" if !call.target.name.is_empty() => {
            let object = object_body(&parts.headers, &read(body).await?)?;
            respond(StatusCode::OK, &*call.update(object)?)
        }
        "patch" if !call.target.name.is_empty() => {
            let patch = Patch::parse(content_type(&parts.headers), &read(body).await?)?;
            respond(StatusCode::OK, &*call.patch(&patch)?)
        }
        "delete" if !of_status => {
            let options = delete_options(parts, call.query, body).await?;
            let (object, held) = call.delete(&options)?;
            if held || kind.is("pods") || kind.is("services") {
                return respond(StatusCode::OK, &object);
            }
            let details = json!({"name": call.target.name, "group": kind.group, "kind": kind.plural, "uid": meta(&object, "uid")});
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(json_response(StatusCode::OK, &status))
        }
        "deletecollection" => {
            let options = delete_options(parts, call.query, body).await?;
            let list = call.delete_collection(&options)?;
            Ok(json_response(StatusCode::OK, &form.list(kind, &list, core.store.version(), now)))
        }
        _ => Err(ApiError::method_not_allowed(call.target)),
    }
}

async fn delete_options(parts: &Parts, query: &Query, body: Body) -> Result<DeleteOptions, ApiError> {
    let body = read(body).await?;
    let body = if body.is_empty() { None } else { Some(object_body(&parts.headers, &body)?) };
    DeleteOptions::of(query, body.as_ref())
}

async fn scaling(call: &mut Call<'_>, parts: &Parts, body: Body) -> Result<Response<Body>, ApiError> {
    let scaled = match call.target.verb {
        "get" => call.get()?,
        "update" => {
            let scale = object_body(&parts.headers, &read(body).await?)?;
            scale::replace(call, scale)?
        }
        "patch" => {
            let patch = Patch::parse(content_type(&parts.headers), &read(body).await?)?;
            scale::patch(call, &patch)?
        }
        _ => return Err(ApiError::method_not_allowed(call.target)),
    };
    Ok(json_response(StatusCode::OK, &scale::of(&scaled)))
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MOST_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::entity_too_large(format!("the request body is larger than {MOST_BYTES} bytes")))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request body broke off: {error}"))),
    }
}

/// The media type of the request's body, without parameters.
fn content_type(headers: &HeaderMap) -> &str {
    let header =
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    header.split(';').next().unwrap_or_default().trim()
}

/// The object in a request's body: JSON, or Kubernetes' protobuf.
fn object_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    if let Some(encoding) = headers.get("content-encoding") {
        return Err(ApiError::unsupported_media_type(format!(
            "content encoding {encoding:?} is not supported"
        )));
    }
    match content_type(headers) {
        "application/json" => {}
        "application/vnd.kubernetes.protobuf" => {
            // What it does not know is passed over, as the API server does.
            let read = ProtobufObject::read(body);
            return read
                .map(|read| read.value)
                .map_err(|error| ApiError::bad_request(format!("the request body: {error}")));
        }
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format ({other}) - accepted media types include: application/json, \
                 application/vnd.kubernetes.protobuf; this in-memory API server reads neither CBOR nor YAML"
            )));
        }
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the request body is not JSON: {error}")))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(ApiError::bad_request("the request body is not a JSON object")),
    }
}
