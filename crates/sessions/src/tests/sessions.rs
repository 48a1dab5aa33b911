//! Sessions put together from a real log.

use std::time::Duration;

use super::{Log, With, ann, exit, grant, pass};
use crate::{Item, Scope, State, Step, StreamKind, Timeline, TimelineDocument, export, fold_discovery};
use portcullis_core::{Channel, Event, EventKind};

#[tokio::test]
async fn what_clients_ask_to_learn_what_there_is_is_one_line_for_people() {
    let log = Log::new();
    log.request("/pods/web", With::default()).await;
    let Item::Request(read) = log.items(&log.list()[0].id).remove(0) else { panic!("a request") };
    let asked = |path: &str, failed: bool| {
        let command = format!("get --raw {path}");
        Item::Request(Box::new(Step { command, failed, resource: String::new(), ..read.as_ref().clone() }))
    };
    let other = || Item::Request(read.clone());
    let items = [
        asked("/api", false),
        asked("/apis?timeout=32s", false),
        asked("/apis/apps/v1", false),
        other(),
        asked("/openapi/v3", false),
        other(),
        asked("/version", false),
        asked("/api", false),
        asked("/apis", true),
        asked("/metrics", false),
    ];
    let told: Vec<String> = fold_discovery(items.into_iter().map(Ok::<_, ()>))
        .map(|item| match item.unwrap() {
            Item::Discovery(discovery) => format!("{} times", discovery.count),
            Item::Request(step) => step.command,
            Item::Event(event) => event.word().to_owned(),
        })
        .collect();
    let want = [
        "3 times",
        "get pods web -n shop",
        "get --raw /openapi/v3",
        "get pods web -n shop",
        "2 times",
        "get --raw /apis",
        "get --raw /metrics",
    ];
    assert_eq!(told, want);
}

#[tokio::test]
async fn a_grant_s_session_tells_who_why_and_what_came_of_it() {
    let log = Log::new();
    let grant = grant(&log);
    let granted = Event::new(EventKind::Granted).by(&ann()).grant("g-1").with("profile", "deploy");
    let expires = grant.expires_at.to_string();
    log.event(granted.with("task", "roll out").with("expiresAt", expires)).await;
    let with = || With { grant: Some(grant.clone()), ..With::default() };
    log.advance(Duration::from_secs(1));
    log.request("/pods/web", with()).await;
    log.request("/pods/db", With { status: 404, ..with() }).await;
    log.request("/pods/secret", With { refused: true, ..with() }).await;
    let (id, mut stage) = log
        .stream("/pods/web/exec?command=make&tty=false", With { command: vec!["make".into()], ..with() })
        .await;
    pass(&mut *stage, Channel::Stdin, "all\n");
    pass(&mut *stage, Channel::Stderr, "make: no\n");
    log.advance(Duration::from_secs(3));
    exit(stage, 2).await;
    log.request("/pods/other", With::default()).await;

    let [other, session] = &log.list()[..] else { panic!("{:?}", log.list()) };
    assert_eq!((other.counts.requests, &other.grant), (1, &None));
    assert_eq!((session.id.as_str(), session.active, session.is_of("ann")), ("g-1", true, true));
    let counts = session.counts;
    assert_eq!((counts.requests, counts.refused, counts.failed, counts.recordings), (4, 1, 2, 1));
    let view = session.grant.as_ref().unwrap();
    assert_eq!((view.profile.as_deref(), &view.approvers), (Some("deploy"), &vec!["amir".to_owned()]));

    log.event(Event::new(EventKind::Revoked).grant("g-1").with("by", "amir").with("reason", "done")).await;
    let items = log.items("g-1");
    let words: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Request(step) => format!("{} {:?} {}", step.command, step.status, step.failed),
            Item::Event(event) => format!("{} {:?}", event.word(), event.words),
            Item::Discovery(_) => panic!("nobody folded it"),
        })
        .collect();
    assert_eq!(
        words,
        [
            "granted Some(\"roll out\")",
            "get pods web -n shop Some(200) false",
            "get pods db -n shop Some(404) true",
            "get pods secret -n shop Some(403) true",
            "exec web -n shop -- make Some(101) true",
            "revoked Some(\"done\")",
        ]
    );
    let step = log.step(id);
    let stream = step.stream.unwrap();
    assert_eq!((stream.kind, stream.exit, stream.channels["stdin"].bytes), (StreamKind::Exec, Some(2), 4));
    assert_eq!(step.duration_ms, Some(3000));
    assert!(!log.scope("g-1").summary().active);
}

#[tokio::test]
async fn decisions_on_a_session_s_requests_are_part_of_it_and_others_are_not() {
    let log = Log::new();
    // Held before it is forwarded: nothing but the request's id tells whose the ticket is.
    let id = log.request("/pods/first", With::default()).await;
    let held = |ticket: &str, request| {
        Event::new(EventKind::Held).ticket(ticket).request(Some(request)).with("command", "delete pods web")
    };
    let decided =
        |ticket: &str| Event::new(EventKind::Denied).by(&ann()).ticket(ticket).with("words", "not today");
    let session = log.list()[0].id.clone();
    assert_eq!(log.items(&session).len(), 1);
    let (open, stage) = log.stream("/pods/web/attach", With { tty: true, ..With::default() }).await;
    log.event(held("t-1", open)).await;
    log.event(held("t-2", "01a2230f-0ad0-7124-ade2-a9affc29424a".parse().unwrap())).await;
    log.event(decided("t-1")).await;
    log.event(decided("t-2")).await;
    exit(stage, 0).await;
    let items = log.items(&session);
    let tickets: Vec<_> = items
        .iter()
        .filter_map(|item| if let Item::Event(event) = item { event.ticket.as_deref() } else { None })
        .collect();
    assert_eq!(tickets, ["t-1", "t-1"]);
    assert!(items.iter().filter(|item| item.is_failure()).count() == 1);
    assert_eq!(crate::session_of(id, log.reader().records(0).unwrap()).unwrap(), Some(session));
}

#[tokio::test]
async fn what_is_open_is_running_and_what_a_crash_ended_is_unknown() {
    let log = Log::new();
    let (id, mut stage) = log
        .stream("/pods/web/exec?command=top&tty=true&stdin=true", With { tty: true, ..With::default() })
        .await;
    pass(&mut *stage, Channel::Stdout, "working");
    let step = log.step(id);
    assert_eq!((step.state, step.stream.is_none()), (State::Running, true));
    assert_eq!(log.list()[0].counts.open, 1);
    let recording = crate::Recording::of(&step, &log.reader()).unwrap();
    assert!(recording.is_tty());
    let mut player = crate::Player::new(recording);
    while player.step().is_some() {}
    assert_eq!(player.screen().lines()[0].text(), "working");
    // It goes on, and so does the player.
    pass(&mut *stage, Channel::Stdout, " hard");
    assert!(player.step().is_some() && player.problems().is_empty());
    assert_eq!(player.screen().lines()[0].text(), "working hard");
}

#[tokio::test]
async fn a_timeline_is_told_in_order_and_one_that_takes_long_does_not_hold_up_the_others() {
    let log = Log::new();
    let (long, stage) = log.stream("/pods/web/exec?command=sleep", With::default()).await;
    for _ in 0..1500 {
        log.request("/pods/web", With::default()).await;
    }
    exit(stage, 0).await;
    log.request("/pods/last", With::default()).await;
    let session = &log.list()[0];
    let items = log.items(&session.id);
    assert_eq!(items.len(), 1502);
    let at = items.iter().position(|item| matches!(item, Item::Request(step) if step.id == long)).unwrap();
    assert_eq!(at, 1500, "it was told when it ended");
    assert!(matches!(items.last(), Some(Item::Request(step)) if step.name == "last"));
}

#[tokio::test]
async fn the_json_is_a_timeline_document() {
    let log = Log::new();
    log.request("/pods/web%1B%5B2J", With::default()).await;
    let session = log.list()[0].id.clone();
    let scope = log.scope(&session);
    let summary = scope.summary().clone();
    let mut out = Vec::new();
    let items = Timeline::new(scope, log.reader().records(0).unwrap());
    export::json(&mut out, &summary, items).unwrap();
    let document: TimelineDocument = serde_json::from_slice(&out).unwrap();
    assert_eq!((document.v, document.session, document.items), (1, summary, log.items(&session)));
    let none: Result<Option<Scope>, std::convert::Infallible> =
        Scope::find("nobody", Vec::new(), log.now(), portcullis_audit::SESSION_IDLE);
    assert!(none.unwrap().is_none());
}

#[tokio::test]
async fn a_held_request_stands_before_what_was_decided_on_it() {
    let log = Log::new();
    // Held before its intent is written, as the hold layer does: the id is known before the request is on record.
    let found = log.held("/pods/web", "t-1").await;
    let session = log.list()[0].id.clone();
    let words: Vec<String> = log
        .items(&session)
        .iter()
        .map(|item| match item {
            Item::Request(step) => step.id.to_string(),
            Item::Event(event) => event.word(),
            Item::Discovery(_) => panic!("nobody folded it"),
        })
        .collect();
    assert_eq!(words, [found.to_string(), "held".into(), "approved".into()]);
}
