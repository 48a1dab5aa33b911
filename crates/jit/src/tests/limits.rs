//! How much anybody may ask for, and how long it is kept.

use super::*;

#[tokio::test(start_paused = true)]
async fn nobody_has_more_open_grants_than_one_may() {
    let world = World::with(|grants| grants.max_open_per_identity(2));
    let (_, first) = world.exchange("ci", &[]).await;
    assert_eq!(world.exchange("ci", &[]).await.0, StatusCode::OK);
    let (status, refused) = world.exchange("ci", &[]).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_request"));
    assert!(text(&refused, "error_description").contains("2 open grants"), "{refused}");
    // Not recorded as granted, and nobody else's business.
    assert_eq!(world.events.kinds(), [EventKind::Granted, EventKind::Granted]);
    assert_eq!(world.exchange("cd", &[]).await.0, StatusCode::OK);

    world.form("/revoke", &[("token", text(&first, "access_token"))]).await;
    assert_eq!(world.exchange("ci", &[]).await.0, StatusCode::OK);
    assert_eq!(world.exchange("ci", &[]).await.0, StatusCode::BAD_REQUEST);
    tokio::time::advance(Duration::from_secs(900)).await;
    assert_eq!(world.exchange("ci", &[]).await.0, StatusCode::OK, "they have expired");
}

#[tokio::test(start_paused = true)]
async fn what_would_take_long_to_compare_is_refused() {
    let world = World::new();
    let many = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let check = async |rules: Value, words: &str| {
        let details = json!([{ "type": "portcullis.dev/kubernetes", "rules": rules }]).to_string();
        let (status, answer) = world.exchange("ci", &[("authorization_details", &details)]).await;
        assert_eq!(
            (status, text(&answer, "error")),
            (StatusCode::BAD_REQUEST, "invalid_authorization_details")
        );
        assert!(text(&answer, "error_description").contains(words), "{answer}");
    };
    let verbs = many("v", 120);
    let wide = json!({ "verbs": verbs, "apiGroups": many("g", 120), "resources": many("r", 120),
        "namespaces": many("n", 120), "resourceNames": many("m", 120) });
    check(json!([wide]), "more than 10000 combinations").await;
    check(json!([{ "verbs": many("v", 129) }]), "at most 128 entries").await;
    check(json!(vec![json!({ "verbs": ["get"] }); 65]), "at most 64 rules").await;
    // Whoever wants a part of one rule may want much of it.
    let narrow = json!([{ "type": "portcullis.dev/kubernetes", "rules": [{ "verbs": ["get", "watch"], "apiGroups": [""],
        "resources": ["pods"], "namespaces": ["shop"], "resourceNames": many("m", 128) }] }]);
    let (status, answer) = world.exchange("ci", &[("authorization_details", &narrow.to_string())]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(world.events.kinds(), [EventKind::Granted]);
}

#[tokio::test(start_paused = true)]
async fn old_grants_are_forgotten_every_hour() {
    let world = World::new();
    let (_, old) = world.exchange("ci", &[]).await;
    let forgotten = || world.store.forgotten.lock().unwrap().len();
    let day = Duration::from_secs(24 * 3600);
    world.grants.sweep().await.unwrap();
    world.grants.sweep().await.unwrap();
    assert_eq!(forgotten(), 1);
    assert_eq!(world.store.forgotten.lock().unwrap()[0], world.now() - 30 * day);
    tokio::time::advance(Duration::from_secs(3599)).await;
    world.grants.sweep().await.unwrap();
    assert_eq!(forgotten(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    world.grants.sweep().await.unwrap();
    assert_eq!(forgotten(), 2);

    let id = text(&old, "grant_id");
    for (wait, remembered) in [(29 * day, true), (day, false)] {
        tokio::time::advance(wait).await;
        world.grants.sweep().await.unwrap();
        assert_eq!(world.grants.find(id).await.unwrap().is_some(), remembered);
    }
}
