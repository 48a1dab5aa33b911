//! Reading the log back.

use super::*;
use crate::{Filter, Stored};

fn commands(stored: &[Stored]) -> Vec<String> {
    let line = |stored: &Stored| stored.entry.line().split_once("  ").unwrap().1.to_owned();
    stored.iter().map(line).collect()
}

#[tokio::test]
async fn the_newest_records_that_match_in_one_line_each() {
    // Several segments.
    let gateway = Gateway::with(|options| options.ledger(|ledger| ledger.segment_size(2000)));
    let service = gateway.answering("ok");
    for path in ["/a", "/b", "/c", "/odd", "/d"] {
        text(send(&service, get(path)).await).await;
    }
    let reader = AuditReader::new(gateway.dir.path());
    let (newest, next) = reader.tail(3, &Filter::default()).unwrap();
    assert_eq!(
        commands(&newest),
        [
            "ann  get --raw /c  200",
            "-  get --raw /odd  400 refused  classify/ambiguous",
            "ann  get --raw /d  200",
        ]
    );
    assert_eq!(next, newest.last().unwrap().index + 1);
    let check =
        |filter: Filter, count| assert_eq!(reader.tail(100, &filter).unwrap().0.len(), count, "{filter:?}");
    check(Filter { user: Some("ann".into()), ..Filter::default() }, 4);
    check(Filter { status: Some(4), ..Filter::default() }, 1);
    check(Filter { status: Some(200), text: Some("/b".into()), ..Filter::default() }, 1);
    check(Filter { verb: Some("get".into()), intents: true, ..Filter::default() }, 9);
    check(Filter { id: Some(gateway.intents()[0].id), intents: true, ..Filter::default() }, 2);
    check(Filter { session: gateway.intents()[0].session.clone(), ..Filter::default() }, 4);
    check(Filter { until: Some(Timestamp::UNIX_EPOCH), ..Filter::default() }, 0);

    let mut following = reader.records(next).unwrap();
    assert!(following.next().is_none());
    text(send(&service, get("/e")).await).await;
    assert!(matches!(following.next().unwrap().unwrap().entry.record, Record::Intent(_)));
    assert_eq!(commands(&[following.next().unwrap().unwrap()]), ["ann  get --raw /e  200"]);
}

#[tokio::test]
async fn a_line_cannot_move_a_terminal_s_cursor() {
    let gateway = Gateway::new();
    let service = gateway.around(
        |parts| {
            let mut evil = ann();
            evil.user = "ann\u{1b}[2J\r\nbob".into();
            Trail::of(&parts.extensions).note().identity = Some(evil);
        },
        |_| async { Response::new(Body::empty()) },
    );
    text(send(&service, get("/a")).await).await;
    let (newest, _) = AuditReader::new(gateway.dir.path()).tail(1, &Filter::default()).unwrap();
    assert!(!newest[0].entry.line().contains(char::is_control));
}
