//! A gateway that is killed at any moment, under load, again and again: what it leaves behind is whole, and says at
//! least what happened.
//!
//! `cargo xtask crash` runs it for longer; `PORTCULLIS_CRASH_ROUNDS` and `PORTCULLIS_CRASH_SEED` are what it sets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use portcullis_tests::{Chance, Cluster, Evidence, Gateway, Load, Told};
use serde_json::{Value, json};

/// Kills, where nobody says how many.
const ROUNDS: u64 = 20;
/// After so many kills another gateway begins with nothing: each round reads the log whole.
const ROUNDS_OF_ONE: u64 = 50;

#[tokio::test]
async fn nothing_is_lost_whenever_it_dies() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let rounds = number("PORTCULLIS_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("PORTCULLIS_CRASH_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().1);
    eprintln!("seed {seed}, {rounds} rounds");
    let mut chance = Chance::new(seed);
    let cluster = Cluster::from_env();
    let mut figures = Figures::default();
    while figures.kills < rounds {
        let of_this_one = ROUNDS_OF_ONE.min(rounds - figures.kills);
        crash(&cluster, of_this_one, &mut chance, &mut figures).await;
    }
    eprintln!("seed {seed}: {figures:?}");
    assert!(figures.unknown > 0 || rounds < ROUNDS, "nothing was ever under way when it died");
}

/// What was looked at, so that nobody takes nothing for something.
#[derive(Debug, Default)]
struct Figures {
    kills: u64,
    killed_while_starting: u64,
    records: u64,
    told: u64,
    streams: u64,
    seen_by_the_server: u64,
    unknown: u64,
    torn: u64,
    checkpoints: u64,
    searched: u64,
    grants_revoked: u64,
}

async fn crash(cluster: &Cluster, rounds: u64, chance: &mut Chance, figures: &mut Figures) {
    let namespace = cluster.namespace_of_agents("crash").await;
    let mark = cluster.audit_log().mark();
    let mut gateway = Gateway::configured(cluster, |config| {
        config["auditors"] = json!({ "users": ["dev-dana"] });
        config["audit"]["checkpointFile"] = "checkpoints".into();
    })
    .await;
    let load = Load::start(&gateway, &namespace, chance.split()).await;
    let auditor = gateway.idp.token("dev-dana").lifetime(3 * 3600).mint().await;
    let mut evidence = Evidence::new(mark);
    for _ in 0..rounds {
        let most = if chance.below(5) == 0 { 400 } else { 60 };
        load.answers(chance.below(most)).await;
        // Not always just after an answer.
        for _ in 0..chance.below(400) {
            tokio::task::yield_now().await;
        }
        load.pause();
        gateway.kill().await;
        figures.kills += 1;

        evidence.gather_checkpoints(&gateway);
        evidence.verify(&gateway).await;
        let open = evidence.read(&gateway);
        let told = load.told();
        if chance.below(4) == 0 {
            gateway.die_while_starting(1 + chance.index(6)).await;
            figures.killed_while_starting += 1;
        }
        gateway.start_again().await;
        evidence.read(&gateway);
        evidence.closed_what_was_open(&open);
        evidence.gather_checkpoints(&gateway);
        evidence.verify(&gateway).await;
        evidence.says_what_clients_were_told(&told);
        for id in load.opened() {
            evidence.has_the_stream(&gateway, &id);
            figures.streams += 1;
        }
        evidence.has_all_the_server_saw(cluster, &gateway).await;
        figures.searched += found_again(&gateway, &auditor, &told, chance).await;
        let revoked = load.revoked();
        if let Some(token) = revoked.last() {
            let answer = gateway.get("/api/v1/namespaces/shop/pods", Some(token)).await;
            assert_eq!(answer.status(), 401, "a grant that had ended is back: {answer:?}");
        }
        figures.told += told.len() as u64;
        figures.grants_revoked += revoked.len() as u64;
        if figures.kills.is_multiple_of(10) {
            eprintln!("{} kills, {} records of this gateway", figures.kills, evidence.next);
        }
        load.resume();
    }
    drop(load);
    gateway.stop().await;
    evidence.read(&gateway);
    evidence.verify(&gateway).await;
    evidence.nothing_was_done_twice(cluster, &gateway).await;
    figures.records += evidence.next;
    figures.unknown += evidence.unknown;
    figures.torn += evidence.recovered.len() as u64;
    figures.seen_by_the_server += evidence.seen.len() as u64;
    figures.checkpoints += evidence.checkpoints();
}

/// Asks the gateway, as an auditor, for some of what clients were told before it died; how many were asked for.
async fn found_again(gateway: &Gateway, auditor: &str, told: &[Told], chance: &mut Chance) -> u64 {
    let mut asked = 0;
    for _ in 0..3.min(told.len()) {
        let told = &told[chance.index(told.len())];
        let path = format!("/portcullis/api/v1/audit/search?q=id:{}", told.id);
        let answer = gateway.get(&path, Some(auditor)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let found: Value = serde_json::from_slice(answer.body()).unwrap();
        // At once: where the index is behind, the log itself is looked into. Beside its end, what came of it on the way.
        let items = found["items"].as_array().into_iter().flatten().map(|item| &item["record"]);
        let ends: Vec<&Value> = items.filter(|record| record["type"] == "outcome").collect();
        let [end] = ends[..] else { panic!("{told:?}: {found}") };
        assert_eq!((&end["id"], &end["status"]), (&json!(told.id), &json!(told.status)), "{told:?}");
        asked += 1;
    }
    asked
}
