//! That an approval is used at most once, whatever happens to the request that uses it.

use proptest::prelude::*;

use super::*;
use crate::ticket::Claim;

#[tokio::test(start_paused = true)]
async fn an_approval_is_spent_when_the_intent_is_in_the_log() {
    let harness = Harness::committing(Inner::Commits);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    let ticket = harness.tickets.find(&ticket.id).await.unwrap();
    let crate::TicketState::Spent { receipt, outcome, claim, .. } = ticket.state else {
        panic!("{ticket:?}")
    };
    assert_eq!((receipt.map(|receipt| receipt.index), outcome), (Some(7), Some(200)));
    assert_eq!(claim.origin, "origin-1");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_committed_gives_its_approval_back() {
    let harness = Harness::committing(Inner::RefusesToCommit);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.check_refused(answer.await.unwrap(), 503, "audit/unavailable", 0).await;
    assert_eq!(harness.state(&ticket).await, "approved");
    assert!(harness.kinds().contains(&EventKind::Released));

    harness.now_inner(Inner::Commits);
    assert_eq!(harness.send(refund()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(harness.state(&ticket).await, "spent");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_the_intent_leaves_the_approval() {
    let harness = Harness::committing(Inner::HangsBeforeIntent);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.until(&ticket, "claimed").await;
    answer.abort();
    harness.until(&ticket, "approved").await;
    assert!(harness.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_after_the_intent_has_used_it_and_the_resend_is_told() {
    for inner in [Inner::HangsBeforeHooks, Inner::HangsAfterCommit] {
        let harness = Harness::committing(inner);
        let (answer, ticket) = harness.send_and_see(refund()).await;
        harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
        while harness.log.intents.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        answer.abort();
        harness.until(&ticket, "spent").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let seen = harness.seen().len();
        let resend = harness.send(refund()).await.unwrap();
        harness.check_refused(resend, 409, "hold/outcome-unknown", seen).await;
        // Told once. The next is a new request, and people are asked again.
        let (_, again) = harness.send_and_see(refund()).await;
        assert_ne!(again.id, ticket.id);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_upstream_never_gave_is_an_unknown_outcome() {
    let harness = Harness::committing(Inner::CommitsAndLosesTheAnswer);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.check_refused(answer.await.unwrap(), 502, "upstream/lost", 1).await;
    harness.check_refused(harness.send(refund()).await.unwrap(), 409, "hold/outcome-unknown", 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_identical_request_does_not_share_an_approval() {
    let harness = Harness::committing(Inner::HangsAfterCommit);
    let (first, ticket) = harness.send_and_see(refund()).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.until(&ticket, "spent").await;
    for _ in 0..2 {
        // However often it is asked: it is under way.
        harness.check_refused(harness.send(refund()).await.unwrap(), 409, "hold/under-way", 1).await;
    }
    assert!(!first.is_finished());
}

#[tokio::test(start_paused = true)]
async fn of_many_identical_requests_one_passes() {
    let harness = Harness::committing(Inner::Commits);
    let (first, ticket) = harness.send_and_see(refund()).await;
    let mut answers: Vec<_> = (0..9).map(|_| harness.send(refund())).collect();
    answers.push(first);
    tokio::time::sleep(Duration::from_millis(1)).await;
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    let mut statuses = Vec::new();
    for answer in answers {
        statuses.push(answer.await.unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(harness.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_only_the_log_tells_whether_a_claim_was_used() {
    let harness = Harness::new();
    let mut claimed = Vec::new();
    for (body, origin) in [("1", "origin-1"), ("2", "origin-1"), ("3", "origin-2")] {
        let (answer, ticket) = harness.send_and_see(held("/refunds", body, terms(1))).await;
        answer.abort();
        assert!(answer.await.is_err());
        harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
        let claim = Claim { audit_id: AuditId::generate(), origin: origin.into() };
        harness.tickets.claim(&ticket.id, &claim).await.unwrap();
        claimed.push((ticket, claim));
    }
    harness.log.intents.lock().unwrap().push(claimed[0].1.audit_id);

    // Another replica must not touch what it does not know; this one settles its own.
    assert_eq!(harness.tickets.recover("origin-1", harness.log.as_ref()).await.unwrap(), 2);
    assert_eq!(harness.state(&claimed[0].0).await, "spent");
    assert_eq!(harness.state(&claimed[1].0).await, "approved");
    assert_eq!(harness.state(&claimed[2].0).await, "claimed");

    // A claim that nobody settles is used up when its time is.
    tokio::time::advance(Duration::from_secs(3600)).await;
    harness.tickets.sweep().await.unwrap();
    assert_eq!(harness.state(&claimed[2].0).await, "spent");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_recorded_is_no_claim() {
    let harness = Harness::new();
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    assert!(answer.await.is_err());
    harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
    harness.log.failing.store(true, Ordering::SeqCst);
    harness.check_refused(harness.send(refund()).await.unwrap(), 503, "audit/unavailable", 0).await;
    harness.until(&ticket, "approved").await;
}

#[tokio::test(start_paused = true)]
async fn what_ended_long_ago_is_not_told_any_more_and_forgotten_in_time() {
    let harness = Harness::with(|tickets| tickets.kept_for(Duration::from_secs(7200)), |layer| layer);
    let (answer, ticket) = harness.send_and_see(refund()).await;
    answer.abort();
    harness.tickets.deny(&ticket.id, &ann(), None).await.unwrap();
    tokio::time::advance(Duration::from_secs(601)).await;
    let (answer, again) = harness.send_and_see(refund()).await;
    assert_ne!(again.id, ticket.id);
    answer.abort();

    tokio::time::advance(Duration::from_secs(7200)).await;
    harness.tickets.sweep().await.unwrap();
    assert!(harness.tickets.find(&ticket.id).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn of_any_number_of_concurrent_claims_exactly_one_wins(count in 2usize..40, workers in 1usize..4) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        let won = runtime.block_on(async {
            let harness = Harness::new();
            let (answer, ticket) = harness.send_and_see(refund()).await;
            answer.abort();
            let _ = answer.await;
            harness.tickets.approve(&ticket.id, &ann(), None).await.unwrap();
            let claims: Vec<_> = (0..count)
                .map(|_| {
                    let (tickets, id) = (harness.tickets.clone(), ticket.id.clone());
                    let claim = Claim { audit_id: AuditId::generate(), origin: "origin-1".into() };
                    tokio::spawn(async move { tickets.claim(&id, &claim).await.is_ok() })
                })
                .collect();
            let mut won = 0;
            for claim in claims {
                won += usize::from(claim.await.unwrap());
            }
            won
        });
        prop_assert_eq!(won, 1);
    }

    #[test]
    fn whatever_is_done_to_a_ticket_it_is_spent_at_most_once_and_never_without_approval(
        steps in prop::collection::vec((0u8..8, 0usize..3), 1..40),
    ) {
        let mut ticket = sample();
        let claims: Vec<_> =
            (0..3).map(|_| Claim { audit_id: AuditId::generate(), origin: "o".into() }).collect();
        let (mut approved, mut spent, mut now) = (false, 0, ticket.created_at);
        for (step, which) in steps {
            now += Duration::from_secs(1);
            let claim = &claims[which];
            match step {
                0 => approved |= ticket.approve(&ann(), None, &[], now, Duration::from_secs(10)).is_ok(),
                1 => drop(ticket.deny(&ann(), None, &[], now)),
                2 => drop(ticket.claim(claim.clone(), now)),
                3 => drop(ticket.release(claim, now)),
                4 => spent += usize::from(ticket.spend(claim, None, now).is_ok()),
                5 => drop(ticket.finish(claim, 200, now)),
                6 => drop(ticket.withdraw(None, "x", now)),
                _ => drop(ticket.expire(now)),
            }
            prop_assert!(spent <= 1);
            prop_assert!(spent == 0 || approved);
            prop_assert!(!ticket.answered || ticket.state.ended_at().is_some());
        }
    }
}

fn sample() -> Ticket {
    let json = serde_json::json!({
        "id": "t", "version": 1, "digest": "d", "identity": who("bot", &[]), "rule": "r", "terms": terms(1),
        "request": {}, "state": {"name": "pending"},
        "createdAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:00:20Z",
    });
    serde_json::from_value(json).unwrap()
}
