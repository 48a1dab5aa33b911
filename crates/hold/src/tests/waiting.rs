//! How a request waits, and what its client is told meanwhile.

use portcullis_core::{Ended, Liveness};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_no_rule_holds_passes_untouched() {
    let harness = Harness::new();
    let response = harness.send({
        let mut request = refund();
        request.extensions_mut().insert(Verdict::default());
        request
    });
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    assert!(harness.kinds().is_empty() && harness.seen()[0].approval.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_approved_request_goes_on_once_with_its_body_and_the_approval() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    assert!(harness.seen().is_empty());
    harness.tickets.approve(&ticket.id, &ann(), Some("ok".into())).await.unwrap();
    let response = answer.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);

    let seen = harness.seen();
    assert_eq!((seen.len(), &seen[0].body[..]), (1, &br#"{"amount":200}"#[..]));
    let approval = seen[0].approval.clone().unwrap();
    assert_eq!((approval.ticket, approval.rule.as_str()), (ticket.id.clone(), "big-refunds"));
    assert_eq!((approval.approvers, approval.digest), (vec!["ann".to_owned()], ticket.digest.clone()));
    assert_eq!(harness.state(&ticket).await, "spent");
    assert_eq!(harness.kinds(), [EventKind::Held, EventKind::Approved, EventKind::Claimed, EventKind::Spent]);

    // The same again is a new request.
    let (_, again) = harness.send_and_see(refund()).await;
    assert_ne!(again.id, ticket.id);
}

#[tokio::test(start_paused = true)]
async fn a_denied_request_is_refused_by_name_and_for_a_reason() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.deny(&ticket.id, &ann(), Some("not today".into())).await.unwrap();
    let response = answer.await.unwrap();
    assert_eq!(response.headers()["portcullis-ticket"], *ticket.id);
    let refusal = harness.check_refused(response, 403, "hold/denied", 0).await;
    assert_eq!(refusal.message(), "ann denied this request: not today");
    let (_, again) = harness.send_and_see(refund()).await;
    assert_ne!(again.id, ticket.id);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_told_to_come_back_lands_on_the_same_ticket() {
    let harness = Harness::new();
    let started = Instant::now();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    let response = answer.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 50);
    assert_eq!(response.headers()["retry-after"], "1");
    let refusal = harness.check_refused(response, 429, "hold/pending", 0).await;
    assert!(
        refusal.message().contains(&ticket.id) && refusal.message().contains("group sre"),
        "{}",
        refusal.message()
    );

    let resend = harness.send(refund());
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!(resend.await.unwrap().status(), StatusCode::OK);
    assert_eq!(harness.kinds().iter().filter(|kind| **kind == EventKind::Held).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_while_no_client_waits_is_told_to_the_next() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.check_refused(answer.await.unwrap(), 429, "hold/pending", 0).await;
    harness.tickets.deny(&ticket.id, &ann(), None).await.unwrap();
    harness.check_refused(harness.send(refund()).await.unwrap(), 403, "hold/denied", 0).await;

    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.check_refused(answer.await.unwrap(), 429, "hold/pending", 0).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!(harness.send(refund()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn nobody_deciding_is_a_no() {
    let harness = Harness::with(|tickets| tickets, |layer| layer.expires_after(Duration::from_secs(30)));
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.check_refused(answer.await.unwrap(), 403, "hold/expired", 0).await;
    assert_eq!(harness.kinds(), [EventKind::Held, EventKind::Expired]);
    assert!(harness.tickets.approve(&ticket.id, &ann(), None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_nobody_comes_for_runs_out() {
    let harness = Harness::with(|tickets| tickets.usable_for(Duration::from_secs(60)), |layer| layer);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(harness.tickets.sweep().await.unwrap(), 1);
    harness.check_refused(harness.send(refund()).await.unwrap(), 403, "hold/expired", 0).await;
}

#[tokio::test(start_paused = true)]
async fn rules_and_headers_say_how_long_to_wait() {
    let harness = Harness::new();
    let started = Instant::now();
    let short = HoldTerms { hold_for: Some(Duration::from_secs(5)), ..terms(1) };
    let response = harness.send(held("/refunds", "{}", short)).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 5);
    harness.check_refused(response, 429, "hold/pending", 0).await;

    let mut request = refund();
    request.headers_mut().insert("portcullis-hold", "no-wait".parse().unwrap());
    let started = Instant::now();
    let response = harness.send(request).await.unwrap();
    assert!(
        response.headers().contains_key("portcullis-ticket")
            && !response.headers().contains_key("retry-after")
    );
    harness.check_refused(response, 429, "hold/pending", 0).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(harness.pending().await.len(), 2);
}

fn exec(method: &str) -> Request<Body> {
    let mut request = refund();
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = "/api/v1/namespaces/shop/pods/web/exec?command=ls&stdout=true".parse().unwrap();
    request.extensions_mut().insert(RequestInfo {
        is_resource_request: true,
        verb: "create".into(),
        namespace: "shop".into(),
        resource: "pods".into(),
        subresource: "exec".into(),
        name: "web".into(),
        ..RequestInfo::default()
    });
    request
}

#[tokio::test(start_paused = true)]
async fn an_exec_is_held_until_it_is_decided_over_websocket_and_spdy_alike() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(exec("GET")).await;
    assert!(ticket.request.command.starts_with("exec web -n shop"));
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(!answer.is_finished());
    answer.abort();
    let fallback = harness.send(exec("POST"));
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!(fallback.await.unwrap().status(), StatusCode::OK);
    assert_eq!(harness.kinds().iter().filter(|kind| **kind == EventKind::Held).count(), 1);

    let started = Instant::now();
    harness.check_refused(harness.send(exec("GET")).await.unwrap(), 403, "hold/expired", 1).await;
    assert_eq!(started.elapsed().as_secs(), 3600);
}

#[tokio::test(start_paused = true)]
async fn a_denied_exec_that_falls_back_to_spdy_hears_the_same_and_nobody_is_asked_again() {
    let harness = Harness::new();
    let (websocket, ticket) = harness.send_and_see(exec("GET")).await;
    harness.tickets.deny(&ticket.id, &ann(), Some("no".into())).await.unwrap();
    harness.check_refused(websocket.await.unwrap(), 403, "hold/denied", 0).await;
    harness.check_refused(harness.send(exec("POST")).await.unwrap(), 403, "hold/denied", 0).await;
    assert_eq!(harness.kinds(), [EventKind::Held, EventKind::Denied]);

    // Who sends it again after that asks again; so does who has no SPDY to fall back to, a little later.
    let (websocket, ticket) = harness.send_and_see(exec("GET")).await;
    harness.tickets.deny(&ticket.id, &ann(), None).await.unwrap();
    harness.check_refused(websocket.await.unwrap(), 403, "hold/denied", 0).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    harness.send_and_see(exec("GET")).await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_outlives_its_client_unless_told_not_to() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(harness.state(&ticket).await, "pending");

    let harness = Harness::with(|tickets| tickets, HoldLayer::withdraw_on_disconnect);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    harness.until(&ticket, "withdrawn").await;
    assert_eq!(harness.kinds(), [EventKind::Held, EventKind::Withdrawn]);
    assert!(harness.tickets.approve(&ticket.id, &ann(), None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_disabled_while_waiting_waits_no_more() {
    let harness = Harness::new();
    let mut request = refund();
    let end = || -> BoxFuture<'static, Ended> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ended::Disabled
        })
    };
    Liveness::new(end).add_to(request.extensions_mut());
    harness.check_refused(harness.send(request).await.unwrap(), 401, "hold/identity-ended", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_outlives_the_gateway_that_goes() {
    let harness = Harness::with(|tickets| tickets, HoldLayer::withdraw_on_disconnect);
    let mut request = refund();
    let end = || -> BoxFuture<'static, Ended> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ended::Draining
        })
    };
    Liveness::new(end).add_to(request.extensions_mut());
    harness.check_refused(harness.send(request).await.unwrap(), 429, "hold/pending", 0).await;
    assert_eq!(harness.kinds(), [EventKind::Held]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_that_cannot_be_recorded() {
    struct Told(AtomicBool);
    impl Notifier for Told {
        fn notify<'a>(&'a self, _: &'a Notice) -> BoxFuture<'a, ()> {
            self.0.store(true, Ordering::SeqCst);
            Box::pin(std::future::ready(()))
        }
    }
    let told = Arc::new(Told(AtomicBool::new(false)));
    let harness = Harness::with(|tickets| tickets.notifier(told.clone()), |layer| layer);
    harness.log.failing.store(true, Ordering::SeqCst);
    harness.check_refused(harness.send(refund()).await.unwrap(), 503, "audit/unavailable", 0).await;
    assert!(harness.pending().await.is_empty());
    tokio::task::yield_now().await;
    assert!(!told.0.load(Ordering::SeqCst));

    harness.log.failing.store(false, Ordering::SeqCst);
    harness.send_and_see(refund()).await;
    tokio::task::yield_now().await;
    assert!(told.0.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_held_is_refused() {
    let harness = Harness::with(|tickets| tickets, |layer| layer.max_open(1).max_body(8));
    let mut nobody = refund();
    nobody.extensions_mut().remove::<Identity>();
    harness.check_refused(harness.send(nobody).await.unwrap(), 401, "hold/no-identity", 0).await;
    harness.check_refused(harness.send(refund()).await.unwrap(), 413, "hold/too-large", 0).await;
    harness.send_and_see(held("/refunds", "1", terms(1))).await;
    let second = harness.send(held("/refunds", "2", terms(1))).await.unwrap();
    harness.check_refused(second, 429, "hold/too-many", 0).await;
}

#[tokio::test(start_paused = true)]
async fn other_replicas_decisions_are_found_by_looking() {
    let harness = Harness::new();
    let other = Tickets::builder(harness.store.clone(), harness.log.clone()).clock(clock()).build();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    other.approve(&ticket.id, &ann(), None).await.unwrap();
    let started = Instant::now();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    assert!(started.elapsed() <= Duration::from_secs(3));
}
