//! Watches: what happened since a version, and then what happens, as newline-delimited JSON.
//!
//! A watch holds a version, not a queue: it reads the store's history when its client has room, so a slow client costs
//! nothing, and one that is slower than the history is long is told 410.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::StreamBody;
use portcullis_core::{Body, BoxError};
use serde_json::Value;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, Interval, MissedTickBehavior},
};

use super::{
    Core,
    crud::Call,
    kinds::Kind,
    object::meta,
    render::Form,
    selector::Selection,
    status::ApiError,
    store::{Change, ChangeType},
    wire,
};

/// How often a client that asked for bookmarks gets one when nothing happens.
const BOOKMARK: Duration = Duration::from_secs(60);
/// How long a watch lasts if the client does not say.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

struct Watch {
    core: Arc<Core>,
    changed: Receiver<u64>,
    kind: &'static Kind,
    namespace: String,
    selection: Selection,
    form: Form,
    /// Everything up to here was looked at.
    version: u64,
    ready: VecDeque<Bytes>,
    described: bool,
    bookmarks: Option<Interval>,
    until: Instant,
    over: bool,
}

/// Answers a watch.
pub(crate) fn serve(core: &Arc<Core>, call: &Call<'_>, form: Form) -> Result<Response<Body>, ApiError> {
    let query = call.query;
    let selection = Selection::of(query, call.kind)?;
    let asked = query.number("resourceVersion")?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = match query.get("sendInitialEvents") {
        None => None,
        Some(_) if query.get("resourceVersionMatch") != Some("NotOlderThan") => {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(ApiError::bad_request(message));
        }
        Some(_) => Some(query.flag("sendInitialEvents")),
    };
    let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK, BOOKMARK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let namespace = if call.kind.namespaced { call.target.namespace.clone() } else { String::new() };
    let mut watch = Watch {
        core: core.clone(),
        changed: core.store.subscribe(),
        kind: call.kind,
        namespace,
        selection,
        form,
        version: asked.unwrap_or(0),
        ready: VecDeque::new(),
        described: false,
        bookmarks: bookmarks.then_some(interval),
        until: Instant::now() + timeout.unwrap_or(TIMEOUT),
        over: false,
    };
    let current = core.store.version();
    if watch.version > current {
        return Err(ApiError::version_too_large(watch.version, current));
    }
    // Without a version to start from, what is there now comes first.
    if initial.unwrap_or(watch.version == 0) {
        watch.begin(initial.is_some() && bookmarks);
    } else if initial == Some(false) && watch.version == 0 {
        watch.version = current;
    }
    let body = stream::unfold(watch, async |mut watch| {
        let bytes = watch.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), watch))
    });
    let mut response = Response::new(Body::new(StreamBody::new(Box::pin(body))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    /// Queues the objects that are there, and the mark that these were all.
    fn begin(&mut self, mark: bool) {
        let (list, version) = self.core.store.list(self.kind, &self.namespace);
        self.version = version;
        for object in list {
            if self.selection.admits(&object) {
                self.event("ADDED", &object);
            }
        }
        if mark {
            let bookmark = self.form.bookmark(self.kind, version, true);
            self.line("BOOKMARK", bookmark);
        }
    }

    /// The next piece of the body; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            self.catch_up();
            if !self.ready.is_empty() {
                continue;
            }
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => drop(interval.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changed.changed() => self.over |= changed.is_err(),
                () = bookmark => {
                    let bookmark = self.form.bookmark(self.kind, self.version, false);
                    self.line("BOOKMARK", bookmark);
                }
                () = tokio::time::sleep_until(self.until) => self.over = true,
            }
        }
    }

    /// Queues what happened since the last look.
    fn catch_up(&mut self) {
        let (changes, version) = match self.core.store.since(self.version) {
            Ok(newer) => newer,
            Err(compacted) => {
                let message = format!("too old resource version: {} ({})", self.version, compacted.oldest);
                let status = ApiError::expired(message).to_status();
                self.line("ERROR", status);
                self.over = true;
                return;
            }
        };
        self.version = version;
        for change in changes {
            self.change(&change);
        }
    }

    fn change(&mut self, change: &Change) {
        let of = meta(&change.object, "namespace");
        let same_kind = change.kind.plural == self.kind.plural && change.kind.group == self.kind.group;
        if !same_kind || (!self.namespace.is_empty() && of != self.namespace) {
            return;
        }
        let was = change.previous.as_ref().is_some_and(|previous| self.selection.admits(previous));
        let is = change.change != ChangeType::Deleted && self.selection.admits(&change.object);
        match (was, is) {
            (false, true) => self.event("ADDED", &change.object),
            (true, true) => self.event("MODIFIED", &change.object),
            (true, false) => self.event("DELETED", &change.object),
            (false, false) => {}
        }
    }

    fn event(&mut self, event: &str, object: &Value) {
        let shown = self.form.object(self.kind, object, self.core.store.now(), !self.described);
        self.described = true;
        self.line(event, shown);
    }

    fn line(&mut self, event: &str, object: Value) {
        self.ready.push_back(Bytes::from(wire::event(event, &object)));
    }
}
