//! A store that fails, and things that happen at the same moment.

use tokio::task::yield_now;

use super::*;

async fn issued(world: &World) -> (String, String, String) {
    let (status, issued) = world.exchange("ci", &[]).await;
    assert_eq!(status, StatusCode::OK, "{issued}");
    let field = |name| text(&issued, name).to_owned();
    (field("access_token"), field("renewal_token"), field("grant_id"))
}

/// Other tasks run until `done`, or for so long that they will not get there.
async fn until(done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        yield_now().await;
    }
    panic!("it did not happen");
}

fn lookups(world: &World) -> u64 {
    world.store.lookups.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_sweep_spares_what_was_issued_while_it_read() {
    let world = World::new();
    FlakyStore::close(&world.store.open_gate);
    let sweeping = tokio::spawn({
        let grants = world.grants.clone();
        async move { grants.sweep().await }
    });
    // It has read the store, and has not been answered.
    until(|| world.store.opened.load(Ordering::SeqCst) == 1).await;
    let (token, ..) = issued(&world).await;
    let (_, liveness) = world.call(&token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    world.store.open_gate.add_permits(1);
    sweeping.await.unwrap().unwrap();
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(!watching.is_finished(), "a stream was cut for being new");
    world.check(&token, "get", "shop", (200, None, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_renewed_in_time_is_not_lost() {
    let world = World::new();
    let (token, _, id) = issued(&world).await;
    let (_, liveness) = world.call(&token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    let before = world.now();
    tokio::time::advance(Duration::from_secs(30)).await;
    FlakyStore::close(&world.store.open_gate);
    let sweeping = tokio::spawn({
        let grants = world.grants.clone();
        async move { grants.sweep().await }
    });
    until(|| world.store.opened.load(Ordering::SeqCst) == 1).await;
    // Another replica, whose clock is a second behind, got a heartbeat in time. The sweep has read that there was none.
    let in_time = before + Duration::from_secs(29);
    assert!(world.store.renew(&id, in_time, in_time + Duration::from_secs(30)).await.unwrap());
    world.store.open_gate.add_permits(1);
    sweeping.await.unwrap().unwrap();
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(!watching.is_finished());
    world.check(&token, "get", "shop", (200, None, 1)).await;
    assert_eq!(world.events.kinds(), [EventKind::Granted]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_comes_late_changes_nothing() {
    let world = World::new();
    let (token, renewal, id) = issued(&world).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!world.store.renew(&id, world.now(), world.now() + Duration::from_secs(30)).await.unwrap());
    let (status, error) = world.form("/renew", &[("renewal_token", &renewal)]).await;
    assert_eq!((status, text(&error, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
}

#[tokio::test(start_paused = true)]
async fn without_news_from_the_store_nothing_is_believed_for_long() {
    let world = World::new();
    let (token, ..) = issued(&world).await;
    world.check(&token, "get", "shop", (200, None, 1)).await;
    world.store.fail(true);
    tokio::time::advance(Duration::from_secs(5)).await;
    world.grants.sweep().await.unwrap_err();
    world.check(&token, "get", "shop", (200, None, 1)).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    world.check(&token, "get", "shop", (503, Some("jit/unavailable"), 0)).await;
    world.store.fail(false);
    world.check(&token, "get", "shop", (200, None, 1)).await;

    // While sweeps bring news, no request asks for it.
    let before = lookups(&world);
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(2)).await;
        world.grants.sweep().await.unwrap();
        world.check(&token, "get", "shop", (200, None, 1)).await;
    }
    assert_eq!(lookups(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_elsewhere_is_noticed_without_sweeps() {
    let world = World::new();
    let (token, _, id) = issued(&world).await;
    let (_, liveness) = world.call(&token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    let how = Revocation { at: world.now(), by: "ann".into(), reason: "done".into() };
    assert!(world.store.revoke(&id, how).await.unwrap());
    tokio::time::advance(Duration::from_secs(6)).await;
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    assert_eq!(watching.await.unwrap(), Ended::Revoked);
}

/// However the store fails while a grant is given back, the grant has ended here, and the store hears of it.
async fn check_failed_revocation(fail: impl FnOnce(&World), by_renewal_token: bool) {
    let world = World::new();
    let (token, renewal, id) = issued(&world).await;
    let (other, ..) = issued(&world).await;
    let (_, liveness) = world.call(&token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    fail(&world);
    let given_back = if by_renewal_token { &renewal } else { &token };
    let (status, answer) = world.form("/revoke", &[("token", given_back)]).await;
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable");
    assert_eq!((status, text(&answer, "error")), unavailable);
    assert_eq!(watching.await.unwrap(), Ended::Revoked);
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;

    // The store could be asked again, and might still have it open: not believed here all the same.
    world.store.fail(false);
    world.store.answers_are_lost.store(false, Ordering::SeqCst);
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    assert_eq!(world.form("/renew", &[("renewal_token", &renewal)]).await.0, StatusCode::BAD_REQUEST);
    world.check(&other, "get", "shop", (200, None, 1)).await;

    for _ in 0..3 {
        world.grants.sweep().await.unwrap();
    }
    let revocation = world.store.get(&id).await.unwrap().unwrap().revocation.unwrap();
    assert_eq!(revocation.by, "holder");
    let kinds = [EventKind::Granted, EventKind::Granted, EventKind::Revoked];
    assert_eq!(world.events.kinds(), kinds, "recorded once");
    assert_eq!(world.events.events()[2].details["reason"], "the task has ended");
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_whose_revocation_failed_is_not_believed_again() {
    let only_changes = |world: &World| world.store.changes_fail.store(true, Ordering::SeqCst);
    let everything = |world: &World| world.store.fail(true);
    let answers = |world: &World| world.store.answers_are_lost.store(true, Ordering::SeqCst);
    check_failed_revocation(only_changes, false).await;
    check_failed_revocation(everything, false).await;
    check_failed_revocation(everything, true).await;
    check_failed_revocation(answers, false).await;
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_giving_a_grant_back_has_given_it_back() {
    let world = World::new();
    let (token, ..) = issued(&world).await;
    world.check(&token, "get", "shop", (200, None, 1)).await;
    FlakyStore::close(&world.store.revoke_gate);
    let fields = [("token", token.as_str())];
    tokio::select! {
        biased;
        _ = world.form("/revoke", &fields) => panic!("the store has not answered"),
        () = yield_now() => {}
    }
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    world.store.revoke_gate.add_permits(1);
    until(|| world.events.kinds() == [EventKind::Granted, EventKind::Revoked]).await;
    world.check(&token, "get", "shop", (401, Some("jit/ended"), 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_nobody_can_see_has_stopped() {
    let world = World::new();
    let (token, ..) = issued(&world).await;
    let (_, liveness) = world.call(&token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    world.store.fail(true);
    tokio::time::advance(Duration::from_secs(29)).await;
    world.grants.sweep().await.unwrap_err();
    yield_now().await;
    assert!(!watching.is_finished());
    tokio::time::advance(Duration::from_secs(1)).await;
    world.grants.sweep().await.unwrap_err();
    assert_eq!(watching.await.unwrap(), Ended::Revoked);
}
