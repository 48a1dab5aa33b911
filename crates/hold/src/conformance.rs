//! What every [`TicketStore`] must do, as a function that tries it.

use portcullis_core::{Approvers, AuditId, HoldTerms, Identity, Timestamp};

use crate::{
    error::StoreError,
    store::{TicketQuery, TicketStore},
    ticket::{HeldRequest, Ticket, TicketState},
};

/// Tries an empty store. For the tests of implementations.
///
/// # Errors
///
/// What it does wrong.
pub async fn conformance(store: &dyn TicketStore) -> Result<(), String> {
    let failed = |error: StoreError| error.to_string();
    let one = ticket("digest-1", "bot", 100);
    let two = ticket("digest-2", "bot", 200);
    let three = ticket("digest-3", "other", 300);

    for ticket in [&one, &two, &three] {
        same("open returns nothing for a new digest", store.open(ticket).await.map_err(failed)?, None)?;
    }
    let again = ticket("digest-1", "bot", 100);
    same("open returns the open one", store.open(&again).await.map_err(failed)?, Some(one.clone()))?;
    same("and keeps nothing", store.find(&again.id).await.map_err(failed)?, None)?;
    same("find finds", store.find(&two.id).await.map_err(failed)?, Some(two.clone()))?;
    same("find_open finds", store.find_open("digest-2").await.map_err(failed)?, Some(two.clone()))?;
    same("find_open finds nothing else", store.find_open("digest-9").await.map_err(failed)?, None)?;

    let ids = |tickets: Vec<Ticket>| tickets.into_iter().map(|ticket| ticket.id).collect::<Vec<_>>();
    let all = [three.id.clone(), two.id.clone(), one.id.clone()];
    let queries = [
        ("list lists the newest first", TicketQuery::default(), &all[..]),
        ("by state", TicketQuery::in_states(["pending", "approved"]), &all[..]),
        ("by another state", TicketQuery::in_states(["spent"]), &[]),
        ("in pages", TicketQuery { limit: 1, ..TicketQuery::default() }, &all[..1]),
        (
            "the next page",
            TicketQuery { older_than: Some(three.id.clone()), ..TicketQuery::default() },
            &all[1..],
        ),
        (
            "by requester",
            TicketQuery { requester: Some(("idp".into(), "bot".into())), ..TicketQuery::default() },
            &all[1..],
        ),
        ("whose time is up", TicketQuery { overdue_at: Some(at(200)), ..TicketQuery::default() }, &all[1..]),
    ];
    for (what, query, expected) in queries {
        same(what, &ids(store.list(&query).await.map_err(failed)?)[..], expected)?;
    }

    let mut next = one.clone();
    next.version += 1;
    next.state = TicketState::Expired { at: at(100) };
    same("replace takes the next version", store.replace(&next).await.map_err(failed)?, true)?;
    same("and keeps it", store.find(&one.id).await.map_err(failed)?, Some(next.clone()))?;
    let mut late = one.clone();
    late.version += 1;
    same("replace does not take a version twice", store.replace(&late).await.map_err(failed)?, false)?;
    late.version += 7;
    same("nor one from the future", store.replace(&late).await.map_err(failed)?, false)?;
    same("and leaves what is there", store.find(&one.id).await.map_err(failed)?, Some(next.clone()))?;
    same(
        "nor a ticket it does not have",
        store.replace(&ticket("d", "bot", 1)).await.map_err(failed)?,
        false,
    )?;
    let overdue = TicketQuery { overdue_at: Some(at(150)), ..TicketQuery::default() };
    same("what has ended is not overdue", ids(store.list(&overdue).await.map_err(failed)?), vec![])?;

    same("forget leaves open ones", store.forget(at(10_000)).await.map_err(failed)?, 0)?;
    same(
        "an ended ticket nobody was told of is open",
        store.open(&again).await.map_err(failed)?,
        Some(next.clone()),
    )?;
    next.version += 1;
    next.answered = true;
    same("replace closes", store.replace(&next).await.map_err(failed)?, true)?;
    let open = TicketQuery { open: true, ..TicketQuery::default() };
    same(
        "a closed one is not listed as open",
        &ids(store.list(&open).await.map_err(failed)?)[..],
        &all[..2],
    )?;
    same("a closed one makes room", store.open(&again).await.map_err(failed)?, None)?;
    same("forget leaves young ones", store.forget(at(-1)).await.map_err(failed)?, 0)?;
    same("forget forgets", store.forget(at(10_000)).await.map_err(failed)?, 1)?;
    same("what is forgotten is gone", store.find(&one.id).await.map_err(failed)?, None)?;
    same("and nothing else", store.find(&again.id).await.map_err(failed)?, Some(again))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: found {found:?}, not {expected:?}")),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

fn ticket(digest: &str, subject: &str, expires_at: i64) -> Ticket {
    let approvers = Approvers { users: vec!["ann".into()], groups: vec![] };
    Ticket {
        id: AuditId::generate().to_string(),
        version: 1,
        digest: digest.into(),
        identity: Identity {
            issuer: "idp".into(),
            subject: subject.into(),
            user: subject.into(),
            ..Identity::default()
        },
        grant: None,
        rule: "a-rule".into(),
        message: None,
        terms: HoldTerms { approvers, quorum: 1, hold_for: None, expires_after: None },
        request: HeldRequest { command: "POST /refunds".into(), ..HeldRequest::default() },
        preview: None,
        state: TicketState::Pending,
        approvals: Vec::new(),
        created_at: at(0),
        expires_at: at(expires_at),
        answered: false,
    }
}
