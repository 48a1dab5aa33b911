//! `pods/exec` over WebSocket: a pretend shell in a pretend pod. Nothing here touches the host.
//!
//! [`shell`] knows the commands, [`files`] what there is to read, [`terminal`] how a line is typed; [`session`] carries the
//! channels of the WebSocket.

mod files;
mod script;
mod session;
mod shell;
mod terminal;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use portcullis_core::Body;
use portcullis_wire::{OfferedSubprotocols, Subprotocol};
use serde_json::Value;

use self::{files::Files, session::Session, shell::Shell};
use super::{Core, environment, logs, object::meta, status::ApiError, target::Query, token::base64_standard};
use crate::listen::ConnectionEnd;

/// The subprotocols spoken here, of those the API server knows.
const SPOKEN: [Subprotocol; 2] = [Subprotocol::ChannelV5, Subprotocol::ChannelV4];

/// What an exec asks for.
struct ExecOptions {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Answers an exec: switches protocols, and runs the command on the upgraded connection.
pub(super) fn serve(
    core: &Arc<Core>,
    pod: &Value,
    parts: &mut Parts,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    let container = logs::container(pod, query.get("container"))?;
    let options = ExecOptions {
        command: query.all("command").map(str::to_owned).collect(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    };
    if options.command.is_empty() {
        return Err(ApiError::bad_request("you must specify a command"));
    }
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let (accept, subprotocol) = handshake(parts)?;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded"))?;
    let end = parts.extensions.get::<ConnectionEnd>().cloned();
    let shell = Shell::new(
        core.clone(),
        meta(pod, "name").to_owned(),
        environment::of(&core.store, pod, container),
        Files::of(core, pod, container),
    );
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => Session::new(options, subprotocol, shell).run(upgraded, end).await,
            Err(error) => tracing::debug!(%error, "the upgrade did not happen"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol.name()));
    Ok(response)
}

/// Checks the opening handshake (RFC 6455 §4.2.1) and chooses the subprotocol the client likes best.
fn handshake(parts: &Parts) -> Result<(HeaderValue, Subprotocol), ApiError> {
    let headers = &parts.headers;
    let upgrade = text(headers, "upgrade").to_ascii_lowercase();
    if upgrade.starts_with("spdy/") {
        let message = "SPDY is not supported by this in-memory API server: exec over WebSocket (kubectl 1.31 and newer does so by itself)";
        return Err(ApiError::bad_request(message));
    }
    let upgrades =
        text(headers, "connection").split(',').any(|item| item.trim().eq_ignore_ascii_case("upgrade"));
    if upgrade != "websocket" || !upgrades || parts.method != Method::GET {
        return Err(ApiError::bad_request(
            "exec needs an upgrade request: a GET with Connection: Upgrade, Upgrade: websocket",
        ));
    }
    let key = text(headers, "sec-websocket-key");
    if text(headers, "sec-websocket-version") != "13" || key.len() != 24 {
        return Err(ApiError::bad_request("not a WebSocket handshake of version 13"));
    }
    let values =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offer =
        OfferedSubprotocols::parse(values).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let chosen = offer.decodable().find(|offered| SPOKEN.contains(offered)).ok_or_else(|| {
        let spoken = SPOKEN.map(Subprotocol::name).join(", ");
        ApiError::bad_request(format!(
            "none of the subprotocols {:?} is spoken here: {spoken} are",
            offer.names()
        ))
    })?;
    let accept =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let accept = HeaderValue::from_str(&base64_standard(accept.as_ref()));
    Ok((accept.map_err(|error| ApiError::internal(error.to_string()))?, chosen))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
