//! `/portcullis/log`: the audit log as a tiled transparency log ([C2SP tlog-tiles](https://c2sp.org/tlog-tiles)).
//!
//! The checkpoint and the hashes say nothing of what is in the log, and are for everybody who is known; the entries are the evidence
//! itself, and are for auditors. Nothing is answered that the newest checkpoint does not cover.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use portcullis_core::{Approvers, Reason, Refusal};
use portcullis_ledger::{ReadError, Reader, Tile, TileKind};

use super::{Caller, Problem, Route, routes};
use crate::causes::causes;

#[derive(Clone)]
pub(super) struct Log {
    reader: Reader,
    auditors: Arc<Approvers>,
}

pub(super) const ROUTES: &[Route<Log>] = &[
    (MethodFilter::GET, "/checkpoint", |method| on(method, checkpoint)),
    (MethodFilter::GET, "/tile/{*path}", |method| on(method, tile)),
];

/// The routes, for the log that `reader` reads.
pub(crate) fn router(reader: Reader, auditors: Approvers) -> Router {
    routes(ROUTES, Log { reader, auditors: Arc::new(auditors) })
}

async fn checkpoint(State(log): State<Log>, _: Caller) -> Result<Response, Problem> {
    let (_, note) = off_the_thread(move || log.reader.checkpoint()).await?;
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    Ok((headers, note).into_response())
}

async fn tile(State(log): State<Log>, caller: Caller, Path(path): Path<String>) -> Result<Response, Problem> {
    let Ok(tile) = format!("tile/{path}").parse::<Tile>() else { return Err(no_such_tile()) };
    if tile.kind == TileKind::Entries && !log.auditors.include(&caller.0) {
        let refusal =
            Refusal::forbidden("log/not-an-auditor", "only auditors of the gateway read the log's entries");
        return Err(Problem(refusal.advice("ask somebody whom the configuration names under `auditors`")));
    }
    let read = move || {
        let (checkpoint, _) = log.reader.checkpoint()?;
        log.reader.tile(tile, checkpoint.size)
    };
    let bytes = off_the_thread(read).await?.ok_or_else(no_such_tile)?;
    // What a tile holds never changes, not even a partial one's. Caches that others share are not asked who may read it.
    let headers =
        [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "private, max-age=31536000, immutable")];
    Ok((headers, bytes).into_response())
}

async fn off_the_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Problem> {
    let unavailable = |detail: String| {
        // The detail may name files and records: it is for the operator.
        let refusal =
            Refusal::unavailable("log/unavailable", "the log cannot be read now, or is not what it was");
        Problem(refusal.advice("tell the operator").detail(detail))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(error.to_string()))?;
    read.map_err(|error| unavailable(causes(&error)))
}

fn no_such_tile() -> Problem {
    let what = "there is no such tile, or the newest checkpoint does not cover it yet";
    Problem(Refusal::new(Reason::NotFound, "log/no-such-tile", what))
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use portcullis_core::{Clock as _, Grant, Identity, SystemClock};
    use portcullis_ledger::{Durability, Hash, Ledger, Options, bundle_records};
    use tower::ServiceExt as _;

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        router: Router,
    }

    struct Answer {
        status: StatusCode,
        content_type: String,
        cache: String,
        body: Vec<u8>,
    }

    fn record(i: u64) -> Vec<u8> {
        format!("record {i}").into_bytes()
    }

    impl World {
        fn new(options: Options) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
            for i in 0..600 {
                ledger.writer().append_blocking(record(i), Durability::Write).unwrap();
            }
            ledger.close();
            let auditors = Approvers { users: vec!["auditor".into()], groups: Vec::new() };
            let router = Router::new().nest("/log", router(Reader::new(dir.path()), auditors));
            Self { dir, router }
        }

        async fn get(&self, user: Option<&str>, path: &str) -> Answer {
            let mut request = Request::get(format!("/log/{path}")).body(axum::body::Body::empty()).unwrap();
            if let Some(user) = user {
                request.extensions_mut().insert(Identity { user: user.into(), ..Identity::default() });
            }
            self.send(request).await
        }

        async fn send(&self, request: Request<axum::body::Body>) -> Answer {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let header = |name| {
                let value = response.headers().get(name);
                value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
            };
            let (status, content_type, cache) =
                (response.status(), header(CONTENT_TYPE), header(CACHE_CONTROL));
            let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
            Answer { status, content_type, cache, body }
        }
    }

    fn options() -> Options {
        Options::new("test.example/audit").segment_size(4_000)
    }

    #[tokio::test]
    async fn the_checkpoint_is_never_cached_and_the_tiles_for_ever() {
        let world = World::new(options());
        let answer = world.get(Some("agent"), "checkpoint").await;
        assert_eq!((answer.status, answer.cache.as_str()), (StatusCode::OK, "no-cache"));
        assert_eq!(answer.content_type, "text/plain; charset=utf-8");
        assert_eq!(answer.body, std::fs::read(world.dir.path().join("checkpoint")).unwrap());
        for path in ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2"] {
            let answer = world.get(Some("agent"), path).await;
            assert_eq!(
                (answer.status, answer.content_type.as_str()),
                (StatusCode::OK, "application/octet-stream")
            );
            assert!(answer.cache.contains("immutable"), "{}", answer.cache);
            assert_eq!(answer.body, std::fs::read(world.dir.path().join(path)).unwrap());
        }
    }

    #[tokio::test]
    async fn any_width_is_cut_and_nothing_is_beyond_the_checkpoint() {
        let world = World::new(options());
        let hashes: Vec<u8> = (512..520).flat_map(|i| *Hash::leaf(&record(i)).as_bytes()).collect();
        assert_eq!(world.get(Some("agent"), "tile/0/002.p/8").await.body, hashes);
        assert_eq!(world.get(Some("agent"), "tile/0/000.p/1").await.body, *Hash::leaf(&record(0)).as_bytes());
        for path in [
            "tile/0/002.p/89",
            "tile/0/002",
            "tile/0/003",
            "tile/1/000",
            "tile/1/000.p/3",
            "tile/2/000.p/1",
            "tile/8/000",
            "tile/0/0",
            "tile/entries/002",
            "tile/0/../../key.pem",
            "tile/0/%2e%2e/%2e%2e/key.pem",
            "tile/entries/000.tmp",
            "key.pem",
            "tile/",
            "",
        ] {
            let answer = world.get(Some("auditor"), path).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("PRIVATE"));
        }
    }

    #[tokio::test]
    async fn entries_are_for_auditors_and_come_from_the_segments_where_no_bundle_is() {
        for options in [options(), options().entry_bundles(false)] {
            let world = World::new(options);
            for (path, range) in [("000", 0..256), ("002.p/88", 512..600), ("001.p/3", 256..259)] {
                let path = format!("tile/entries/{path}");
                let answer = world.get(Some("auditor"), &path).await;
                assert_eq!(answer.status, StatusCode::OK, "{path}");
                let expected: Vec<_> = range.map(record).collect();
                assert_eq!(bundle_records(&answer.body).unwrap(), expected);
                let refused = world.get(Some("agent"), &path).await;
                assert_eq!(refused.status, StatusCode::FORBIDDEN);
                assert!(!String::from_utf8_lossy(&refused.body).contains("record "));
            }
        }
    }

    #[tokio::test]
    async fn nobody_and_no_task_reads_it() {
        let world = World::new(options());
        for path in ["checkpoint", "tile/0/000", "tile/entries/000"] {
            assert_eq!(world.get(None, path).await.status, StatusCode::UNAUTHORIZED);
            let mut request = Request::get(format!("/log/{path}")).body(axum::body::Body::empty()).unwrap();
            request.extensions_mut().insert(Identity { user: "auditor".into(), ..Identity::default() });
            request.extensions_mut().insert(grant());
            assert_eq!(world.send(request).await.status, StatusCode::FORBIDDEN);
        }
    }

    #[tokio::test]
    async fn a_log_that_is_not_what_it_was_is_not_served() {
        let world = World::new(options());
        std::fs::remove_file(world.dir.path().join("tile/0/001")).unwrap();
        assert_eq!(world.get(Some("agent"), "tile/0/001").await.status, StatusCode::SERVICE_UNAVAILABLE);
        std::fs::write(world.dir.path().join("checkpoint"), "anything").unwrap();
        let answer = world.get(Some("agent"), "tile/0/000").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!String::from_utf8_lossy(&answer.body).contains(world.dir.path().to_str().unwrap()));
    }

    #[tokio::test]
    async fn the_operator_hears_why_it_cannot_be_read() {
        let source = std::io::Error::other("the disk is on fire");
        let read = move || Err::<(), _>(ReadError::Io { path: "log".into(), source });
        let refusal = off_the_thread(read).await.unwrap_err().0;
        assert_eq!(refusal.operator_detail(), Some("cannot read log: the disk is on fire"));
        assert!(!refusal.message().contains("fire"));
    }

    fn grant() -> Grant {
        let now = SystemClock.now();
        Grant {
            id: "grant".into(),
            profile: "task".into(),
            task: None,
            rules: Vec::new(),
            issued_at: now,
            expires_at: now,
            approvers: Vec::new(),
        }
    }
}
