//! Who may decide.

use portcullis_core::Actor;

use super::*;
use crate::TicketError;

async fn check_may_not(harness: &Harness, ticket: &Ticket, by: Identity, expected: &str) {
    for result in [
        harness.tickets.approve(&ticket.id, &by, None).await,
        harness.tickets.deny(&ticket.id, &by, None).await,
    ] {
        let refusal = result.unwrap_err().into_refusal();
        assert_eq!(refusal.code(), expected, "{by:?}");
    }
    assert_eq!(harness.state(ticket).await, "pending");
}

#[tokio::test(start_paused = true)]
async fn approvers_decide_and_nobody_else() {
    let harness = Harness::with(
        |tickets| tickets.owners(|bot| if bot.user == "bot" { vec!["owner".into()] } else { vec![] }),
        |layer| layer,
    );
    let mut request = refund();
    let mut bot = who("bot", &["sre"]);
    bot.delegation = vec![Actor { issuer: "https://idp".into(), subject: "sub-sponsor".into() }];
    request.extensions_mut().insert(bot.clone());
    let (_answer, ticket) = harness.send_and_see(request).await;

    // A stranger is not even told that there is something.
    check_may_not(&harness, &ticket, who("eve", &["dev"]), "hold/no-ticket").await;
    check_may_not(&harness, &ticket, bot, "hold/own-request").await;
    check_may_not(&harness, &ticket, who("sponsor", &["sre"]), "hold/own-request").await;
    check_may_not(&harness, &ticket, who("owner", &["sre"]), "hold/own-request").await;
    check_may_not(
        &harness,
        &ticket,
        Identity { subject: "x".into(), ..who("bot", &["sre"]) },
        "hold/own-request",
    )
    .await;
    let mut other_bot = who("other-bot", &["sre"]);
    other_bot.delegation = vec![Actor { issuer: "https://idp".into(), subject: "sub-sponsor".into() }];
    check_may_not(&harness, &ticket, other_bot, "hold/own-request").await;
    assert!(harness.tickets.approve("nonsense", &ann(), None).await.is_err());

    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_asks_may_look_and_withdraw_but_not_decide() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    let bot = who("bot", &[]);
    check_may_not(&harness, &ticket, bot.clone(), "hold/not-an-approver").await;
    assert_eq!(harness.tickets.list(&bot, &TicketQuery::pending()).await.unwrap().len(), 1);
    assert!(harness.tickets.list(&who("eve", &[]), &TicketQuery::pending()).await.unwrap().is_empty());
    assert!(harness.tickets.withdraw(&ticket.id, &ann()).await.is_err());
    harness.tickets.withdraw(&ticket.id, &bot).await.unwrap();
    harness.check_refused(answer.await.unwrap(), 403, "hold/withdrawn", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_of_different_people() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(held("/refunds", "{}", terms(2))).await;
    let ticket = harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!((ticket.state.name(), ticket.missing_approvals()), ("pending", 1));
    let twice = harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap_err();
    assert!(matches!(twice, TicketError::AlreadyApproved), "{twice}");
    let mut anns_bot = who("anns-bot", &["sre"]);
    anns_bot.delegation = vec![Actor { issuer: "https://idp".into(), subject: "sub-ann".into() }];
    assert!(harness.tickets.approve(&ticket.id, &anns_bot, None).await.is_err());
    assert!(harness.seen().is_empty());
    harness.tickets.approve(&ticket.id, &who("bob", &["sre"]), None).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    assert_eq!(harness.seen()[0].approval.clone().unwrap().approvers, ["ann", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn one_no_is_enough_until_the_approval_is_taken_up() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.tickets.deny(&ticket.id, &who("bob", &["sre"]), None).await.unwrap();
    harness.check_refused(harness.send(refund()).await.unwrap(), 403, "hold/denied", 0).await;
    assert!(harness.tickets.approve(&ticket.id, &ann(), None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_cannot_be_recorded_is_none() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.log.failing.store(true, Ordering::SeqCst);
    let error = harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap_err();
    assert_eq!(error.into_refusal().code(), "audit/unavailable");
    assert_eq!(harness.state(&ticket).await, "pending");
    harness.check_refused(answer.await.unwrap(), 429, "hold/pending", 0).await;
}

#[tokio::test(start_paused = true)]
async fn pages_hold_only_what_one_may_see() {
    let harness = Harness::with(|tickets| tickets, |layer| layer.expires_after(Duration::from_secs(9)));
    let strangers =
        HoldTerms { approvers: Approvers { users: vec!["zoe".into()], groups: vec![] }, ..terms(1) };
    for (index, terms) in [terms(1), strangers.clone(), strangers, terms(1)].into_iter().enumerate() {
        let body = ["0", "1", "2", "3"][index];
        harness.send_and_see(held("/refunds", body, terms)).await.0.abort();
    }
    let query = TicketQuery { limit: 1, ..TicketQuery::pending() };
    let first = harness.tickets.list(&ann(), &query).await.unwrap();
    let next = TicketQuery { older_than: Some(first[0].id.clone()), ..query };
    let second = harness.tickets.list(&ann(), &next).await.unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    let last = TicketQuery { older_than: Some(second[0].id.clone()), ..next };
    assert!(harness.tickets.list(&ann(), &last).await.unwrap().is_empty());
    assert_eq!(harness.pending().await.len(), 2);
}
