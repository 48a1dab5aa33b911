//! `pods/log`: what a small web shop might say, one line every few seconds of the pod's life.
//!
//! The lines are a function of the pod and the time, so reading twice reads the same; nothing is kept. The first ones leak a
//! database URL, as logs do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::Timestamp;
use portcullis_core::{Body, BoxError};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Core, environment,
    object::{items, meta, rfc3339, text},
    status::ApiError,
    target::Query,
};

/// A pod says something this often.
const EVERY: Duration = Duration::from_secs(2);
/// A log reaches back so many lines; what came before was rotated away.
const KEPT: i64 = 5_000;

struct Log {
    core: Arc<Core>,
    uid: String,
    started: Timestamp,
    opening: Vec<String>,
    timestamps: bool,
    follow: bool,
    next: i64,
    /// How many bytes may still be sent.
    left: u64,
}

/// Answers a request for a log.
pub(crate) fn serve(core: &Arc<Core>, pod: &Value, query: &Query) -> Result<Response<Body>, ApiError> {
    let container = container(pod, query.get("container"))?;
    if query.flag("previous") {
        let (name, of) = (text(&container["name"]), meta(pod, "name"));
        return Err(ApiError::bad_request(format!(
            "previous terminated container {name:?} in pod {of:?} not found"
        )));
    }
    let started = text(&pod["status"]["startTime"]).parse().unwrap_or_else(|_| core.store.now());
    let mut log = Log {
        core: core.clone(),
        uid: meta(pod, "uid").to_owned(),
        started,
        opening: opening(core, pod, container),
        timestamps: query.flag("timestamps"),
        follow: query.flag("follow"),
        next: 0,
        left: query.number("limitBytes")?.unwrap_or(u64::MAX),
    };
    let end = log.end();
    log.next = (end - KEPT).max(0);
    let since = match (query.number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => Some(core.store.now().as_second().saturating_sub_unsigned(seconds)),
        (None, Some(time)) => {
            let time: Timestamp =
                time.parse().map_err(|_| ApiError::bad_request("sinceTime is not an RFC 3339 time"))?;
            Some(time.as_second())
        }
        (None, None) => None,
    };
    while since.is_some_and(|since| log.next < end && log.time(log.next).as_second() < since) {
        log.next += 1;
    }
    if let Some(tail) = query.number("tailLines")? {
        log.next = log.next.max(end.saturating_sub_unsigned(tail));
    }
    let body = stream::unfold(log, async |mut log| {
        let bytes = log.read().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), log))
    });
    let mut response = Response::new(Body::new(StreamBody::new(Box::pin(body))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The container a request means: the named one, or the only one.
pub(crate) fn container<'a>(pod: &'a Value, name: Option<&str>) -> Result<&'a Value, ApiError> {
    let containers = items(&pod["spec"]["containers"]);
    let of = meta(pod, "name");
    match (name.filter(|name| !name.is_empty()), containers) {
        (Some(name), containers) => containers
            .iter()
            .find(|container| container["name"] == name)
            .ok_or_else(|| ApiError::bad_request(format!("container {name} is not valid for pod {of}"))),
        (None, [only]) => Ok(only),
        (None, containers) => {
            let names: Vec<_> = containers.iter().map(|container| text(&container["name"])).collect();
            let names = names.join(" ");
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {of}, choose one of: [{names}]"
            )))
        }
    }
}

/// What the program says when it starts: among it, its environment's database URL.
fn opening(core: &Core, pod: &Value, container: &Value) -> Vec<String> {
    let mut lines =
        vec![format!("{} starting, image {}", text(&container["name"]), text(&container["image"]))];
    let environment = environment::of(&core.store, pod, container);
    if let Some((_, url)) = environment.iter().find(|(name, _)| name == "DATABASE_URL") {
        lines.push(format!("connecting to {url}"));
    }
    lines.push("listening on :8080".into());
    lines
}

impl Log {
    /// How many lines there are by now.
    fn end(&self) -> i64 {
        let opening = self.opening.len() as i64;
        let alive = self.core.store.now().as_second() - self.started.as_second();
        opening + alive.max(0) / EVERY.as_secs() as i64
    }

    fn time(&self, line: i64) -> Timestamp {
        let after = (line + 1 - self.opening.len() as i64).max(0) * EVERY.as_secs() as i64;
        Timestamp::from_second(self.started.as_second() + after).unwrap_or(self.started)
    }

    fn line(&self, number: i64) -> String {
        const PATHS: [&str; 6] = ["/", "/cart", "/items/17", "/items/42", "/checkout", "/healthz"];
        let said = match usize::try_from(number).ok().and_then(|number| self.opening.get(number)) {
            Some(opening) => opening.clone(),
            None => {
                let dice = Sha256::digest(format!("{}/{number}", self.uid));
                let path = PATHS[usize::from(dice[0]) % PATHS.len()];
                let code = if dice[1] < 6 { 500 } else { 200 };
                format!("10.244.0.{} \"GET {path} HTTP/1.1\" {code} {}ms", dice[2], dice[3] % 90 + 1)
            }
        };
        let time = rfc3339(self.time(number));
        if self.timestamps { format!("{time} {said}\n") } else { format!("{said}\n") }
    }

    /// The next piece: lines that are there at once, in pieces of bounded size, then (following) each as it comes.
    async fn read(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        while self.next >= self.end() {
            if !self.follow {
                return None;
            }
            tokio::time::sleep(EVERY).await;
        }
        let mut piece = String::new();
        while self.next < self.end() && piece.len() < 4096 {
            piece.push_str(&self.line(self.next));
            self.next += 1;
        }
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX);
        piece.truncate(piece.floor_char_boundary(allowed));
        self.left -= piece.len() as u64;
        Some(Bytes::from(piece))
    }
}
