//! Whatever one does to tickets, SQLite answers as the store in memory does.

use portcullis_core::{Approvers, AuditId, HoldTerms, Identity, Timestamp};
use portcullis_hold::{Claim, HeldRequest, MemoryTicketStore, Ticket, TicketQuery, TicketState, TicketStore};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::SqliteStore;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn ticket(id: &str, digest: &str, subject: &str, expires_at: i64) -> Ticket {
    let approvers = Approvers { users: vec!["ann".into()], groups: vec![] };
    Ticket {
        id: id.into(),
        version: 1,
        digest: digest.into(),
        identity: Identity {
            issuer: "idp".into(),
            subject: subject.into(),
            user: subject.into(),
            ..Identity::default()
        },
        grant: None,
        rule: "big-refunds".into(),
        message: None,
        terms: HoldTerms { approvers, quorum: 1, hold_for: None, expires_after: None },
        request: HeldRequest { command: "POST /refunds".into(), ..HeldRequest::default() },
        preview: None,
        state: TicketState::Pending,
        approvals: Vec::new(),
        created_at: at(expires_at - 5),
        expires_at: at(expires_at),
        answered: false,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        digest: u8,
        subject: u8,
        expires_at: i64,
    },
    /// The ticket with this number gets this state; `skip` versions are left out.
    Replace {
        number: usize,
        state: TicketState,
        answered: bool,
        skip: u64,
    },
    Find(usize),
    FindOpen(u8),
    List(TicketQuery),
    Forget(i64),
}

fn any_state() -> impl Strategy<Value = TicketState> {
    let claim = || Claim { audit_id: AuditId::generate(), origin: "here".into() };
    prop_oneof![
        Just(TicketState::Pending),
        Just(TicketState::Approved { at: at(3) }),
        Just(TicketState::Expired { at: at(3) }),
        Just(TicketState::Withdrawn { at: at(3), reason: "it's over".into() }),
        Just(TicketState::Denied { by: Box::default(), at: at(3), reason: None }),
        Just(()).prop_map(move |()| TicketState::Claimed { claim: claim(), approved_at: at(3) }),
        Just(()).prop_map(move |()| TicketState::Spent {
            claim: claim(),
            at: at(3),
            receipt: None,
            outcome: Some(201)
        }),
    ]
}

fn any_query() -> impl Strategy<Value = TicketQuery> {
    let states = vec(select(vec!["pending", "approved", "claimed", "spent", "denied", "no such", "'"]), 0..3);
    (states, any::<bool>(), option::of(0..3_u8), option::of(0..20_i64), option::of(0..12_usize), 0..4_u32)
        .prop_map(|(states, open, subject, overdue_at, older_than, limit)| TicketQuery {
            states: states.into_iter().map(str::to_owned).collect(),
            open,
            requester: subject.map(|subject| ("idp".into(), subject_name(subject))),
            overdue_at: overdue_at.map(at),
            older_than: older_than.map(id),
            limit,
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u8, 0..3_u8, 0..20_i64)
            .prop_map(|(digest, subject, expires_at)| Step::Open { digest, subject, expires_at }),
        4 => (0..12_usize, any_state(), any::<bool>(), select(vec![0, 0, 0, 1]))
            .prop_map(|(number, state, answered, skip)| Step::Replace { number, state, answered, skip }),
        1 => (0..12_usize).prop_map(Step::Find),
        1 => (0..4_u8).prop_map(Step::FindOpen),
        4 => any_query().prop_map(Step::List),
        1 => (0..20_i64).prop_map(Step::Forget),
    ]
}

fn id(number: usize) -> String {
    format!("{number:04}")
}

fn subject_name(subject: u8) -> String {
    ["bot", "other", "o'brien"][usize::from(subject)].into()
}

/// What the store answers, step by step.
async fn run(store: &dyn TicketStore, steps: &[Step]) -> Vec<String> {
    let mut answers = Vec::new();
    let mut opened = 0;
    for step in steps {
        answers.push(match step {
            Step::Open { digest, subject, expires_at } => {
                let new = ticket(&id(opened), &digest.to_string(), &subject_name(*subject), *expires_at);
                opened += 1;
                format!("{:?}", store.open(&new).await.unwrap())
            }
            Step::Replace { number, state, answered, skip } => {
                match store.find(&id(*number)).await.unwrap() {
                    None => continue,
                    Some(mut ticket) => {
                        ticket.version += 1 + skip;
                        ticket.state = state.clone();
                        ticket.answered |= answered;
                        format!("{:?}", store.replace(&ticket).await.unwrap())
                    }
                }
            }
            Step::Find(number) => format!("{:?}", store.find(&id(*number)).await.unwrap()),
            Step::FindOpen(digest) => format!("{:?}", store.find_open(&digest.to_string()).await.unwrap()),
            Step::List(query) => format!("{:?}", store.list(query).await.unwrap()),
            Step::Forget(before) => format!("{:?}", store.forget(at(*before)).await.unwrap()),
        });
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn sqlite_answers_as_memory_does(steps in vec(any_step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sqlite = SqliteStore::in_memory().await.unwrap();
            let (memory, sqlite) = (run(&MemoryTicketStore::new(), &steps).await, run(&sqlite, &steps).await);
            for ((step, expected), found) in steps.iter().zip(memory).zip(sqlite) {
                assert_eq!(found, expected, "{step:?}");
            }
        });
    }
}
