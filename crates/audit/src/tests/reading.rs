//! Reading the log back.

use super::*;
use crate::{Intents, Stored};

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
    let is_outcome = |stored: &Stored| matches!(stored.entry.record, Record::Outcome(_));
    let (newest, next) = reader.tail(3, is_outcome).unwrap();
    assert_eq!(
        commands(&newest),
        [
            "ann  get --raw /c  200",
            "-  get --raw /odd  400 refused  classify/ambiguous",
            "ann  get --raw /d  200",
        ]
    );
    assert_eq!(next, newest.last().unwrap().index + 1);
    assert_eq!(reader.tail(100, is_outcome).unwrap().0.len(), 5);
    assert!(reader.tail(100, |_| false).unwrap().0.is_empty());

    // Each is found again by where it stood, and nothing else is taken for it.
    for stored in reader.tail(100, |_| true).unwrap().0 {
        assert_eq!(reader.read(stored.index, stored.offset).unwrap().unwrap().raw, stored.raw);
        assert!(reader.read(stored.index + 1, stored.offset).unwrap().is_none());
        assert!(reader.read(stored.index, stored.offset + 1).unwrap().is_none());
    }

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
    let (newest, _) = AuditReader::new(gateway.dir.path()).tail(1, |_| true).unwrap();
    assert!(!newest[0].entry.line().contains(char::is_control));
}

#[tokio::test]
async fn an_outcome_finds_its_intent_however_many_others_are_remembered() {
    let gateway = Gateway::new();
    let service = gateway.answering("ok");
    for path in ["/a", "/b", "/c", "/d"] {
        text(send(&service, get(path)).await).await;
    }
    let reader = AuditReader::new(gateway.dir.path());
    let all: Vec<Stored> = reader.records(0).unwrap().map(Result::unwrap).collect();
    let is_intent = |stored: &&Stored| matches!(stored.entry.record, Record::Intent(_));
    let open = all.iter().find(is_intent).unwrap();
    let outcomes: Vec<_> = all
        .iter()
        .filter_map(|stored| match &stored.entry.record {
            Record::Outcome(outcome) => Some(outcome.as_ref()),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes.len(), 4);
    // As many as are remembered at most, but for a few, and then more than that.
    for others in [16 * 1024 - 2, 16 * 1024, 20_000] {
        let mut intents = Intents::default();
        for nth in 0..others {
            intents.see(&Stored { index: 1_000_000 + nth, ..open.clone() });
        }
        for outcome in &outcomes {
            let intent = intents.take(outcome, None, &reader).unwrap().expect("it is in the log");
            assert_eq!(intent.id, outcome.id);
        }
        assert!(intents.remembers(1_000_000 + others - 1), "those that are still open stay");
    }
}
