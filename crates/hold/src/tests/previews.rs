//! What people are shown, and that it is still so when the request goes on.

use portcullis_core::{LiveError, LiveObjects, Preview, ProposedRequest};
use serde_json::json;

use super::*;

/// A server that says what requests would do.
struct Server {
    preview: Result<Preview, LiveError>,
    version: Mutex<Result<Option<String>, LiveError>>,
}

impl LiveObjects for Server {
    fn dry_run<'a>(&'a self, _: &'a ProposedRequest) -> BoxFuture<'a, Result<Preview, LiveError>> {
        Box::pin(std::future::ready(self.preview.clone()))
    }

    fn resource_version<'a>(
        &'a self,
        _: &'a ProposedRequest,
    ) -> BoxFuture<'a, Result<Option<String>, LiveError>> {
        Box::pin(std::future::ready(self.version.lock().unwrap().clone()))
    }
}

fn with_server(preview: Result<Preview, LiveError>) -> (Harness, Arc<Server>) {
    let server = Arc::new(Server { preview, version: Mutex::new(Ok(Some("41".into()))) });
    (Harness::with(|tickets| tickets, |layer| layer.live_objects(server.clone())), server)
}

fn scaled_up() -> Preview {
    Preview {
        before: Some(json!({"spec": {"replicas": 1}})),
        after: Some(json!({"spec": {"replicas": 9}})),
        resource_version: Some("41".into()),
        unavailable: None,
    }
}

#[tokio::test(start_paused = true)]
async fn people_see_what_would_change() {
    let (harness, _) = with_server(Ok(scaled_up()));
    let (answer, ticket) = harness.send_and_see(refund()).await;
    let changes = ticket.preview.clone().unwrap().changes();
    assert_eq!((changes.len(), changes[0].path.as_str()), (1, "/spec/replicas"));
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_would_refuse_nobody_is_asked_about() {
    let body = Bytes::from_static(br#"{"kind":"Status","code":403}"#);
    let refused = LiveError::WouldRefuse { status: 403, message: "no".into(), body: body.clone() };
    let (harness, _) = with_server(Err(refused));
    let response = harness.send(refund()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
    assert!(harness.kinds().is_empty() && harness.seen().is_empty() && harness.pending().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_tell_stops_nobody_from_asking() {
    let (harness, _) = with_server(Err(LiveError::Unavailable("down".into())));
    let (_, ticket) = harness.send_and_see(refund()).await;
    let preview = ticket.preview.unwrap();
    assert!(preview.unavailable.clone().unwrap().contains("down") && preview.changes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_changed_since_must_be_looked_at_again() {
    for version in [Ok(Some("42".to_owned())), Ok(None)] {
        let (harness, server) = with_server(Ok(scaled_up()));
        let (answer, ticket) = harness.send_and_see(refund()).await;
        *server.version.lock().unwrap() = version;
        harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
        harness.check_refused(answer.await.unwrap(), 409, "hold/changed", 0).await;
        assert_eq!(harness.state(&ticket).await, "withdrawn");
        let (_, again) = harness.send_and_see(refund()).await;
        assert_ne!(again.id, ticket.id);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_looked_at_again_keeps_its_approval() {
    let (harness, server) = with_server(Ok(scaled_up()));
    let (answer, ticket) = harness.send_and_see(refund()).await;
    *server.version.lock().unwrap() = Err(LiveError::Unavailable("down".into()));
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.check_refused(answer.await.unwrap(), 503, "hold/unavailable", 0).await;
    assert_eq!(harness.state(&ticket).await, "approved");
    *server.version.lock().unwrap() = Ok(Some("41".into()));
    assert_eq!(harness.send(refund()).await.unwrap().status(), StatusCode::OK);
}
