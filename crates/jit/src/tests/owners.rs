//! Grants of somebody who is disabled.

use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::*;

/// A list of one, as the gateway's off-boarding keeps it.
#[derive(Clone)]
struct Disabled(watch::Sender<bool>);

impl Disabled {
    fn nobody() -> Self {
        Self(watch::Sender::new(false))
    }

    fn world(&self) -> World {
        let (first, second) = (self.clone(), self.clone());
        World::with(|grants| {
            grants.disabled(
                move |identity| identity.subject == "ci" && *first.0.borrow(),
                move |identity| {
                    assert_eq!(identity.issuer, "https://idp");
                    let (all, subject) = (second.0.clone(), identity.subject.clone());
                    Liveness::new(move || -> BoxFuture<'static, Ended> {
                        let (mut changes, subject) = (all.subscribe(), subject.clone());
                        Box::pin(async move {
                            let _ = changes.wait_for(|disabled| *disabled && subject == "ci").await;
                            Ended::Disabled
                        })
                    })
                },
            )
        })
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_disabled_has_no_grants() {
    let disabled = Disabled::nobody();
    let world = disabled.world();
    let (_, one) = world.exchange("ci", &[]).await;
    let (_, other) = world.exchange("cd", &[]).await;
    let (token, renewal) = (text(&one, "access_token"), text(&one, "renewal_token"));
    let (_, liveness) = world.call(token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());

    disabled.0.send_replace(true);
    assert_eq!(watching.await.unwrap(), Ended::Disabled, "before any sweep");
    world.check(token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    assert_eq!(world.form("/renew", &[("renewal_token", renewal)]).await.0, StatusCode::BAD_REQUEST);
    let (status, refused) = world.exchange("ci", &[]).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_request"));
    world.check(text(&other, "access_token"), "get", "shop", (200, None, 1)).await;

    world.grants.sweep().await.unwrap();
    assert_eq!(world.events.kinds(), [EventKind::Granted, EventKind::Granted, EventKind::Revoked]);
    assert_eq!(world.events.events()[2].details["reason"], "the identity was disabled");
    // What has ended stays ended.
    disabled.0.send_replace(false);
    world.check(token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    assert_eq!(world.exchange("ci", &[]).await.0, StatusCode::OK);
}

/// Somebody is disabled at the very moment that their grant is recorded.
struct DisablesMeanwhile(Arc<MemorySink>, Arc<AtomicBool>);

impl EventSink for DisablesMeanwhile {
    fn record(&self, event: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        self.1.store(true, Ordering::SeqCst);
        self.0.record(event)
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_disabled_while_a_grant_is_issued_does_not_get_it() {
    let (events, disabled) = (Arc::new(MemorySink::default()), Arc::new(AtomicBool::default()));
    let sink = DisablesMeanwhile(events.clone(), disabled.clone());
    let world = World::with_sink(events, Arc::new(sink), |grants| {
        grants.disabled(move |_| disabled.load(Ordering::SeqCst), |_| Liveness::forever())
    });
    let (status, answer) = world.exchange("ci", &[]).await;
    assert_eq!((status, text(&answer, "error")), (StatusCode::BAD_REQUEST, "invalid_request"));
    assert_eq!(world.events.kinds(), [EventKind::Granted, EventKind::Revoked]);
    let kept = world.grants.list(10).await.unwrap();
    assert!(kept.iter().all(|record| record.revocation.is_some()), "{kept:?}");
}
