//! Tickets: every [`TicketStore`] behaves alike, an approval is used once, and a restart forgets nothing.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use portcullis_core::{Approvers, AuditId, Body, Decision, HoldTerms, Identity, MemorySink, Verdict};
use portcullis_hold::{
    Claim, HoldLayer, MemoryTicketStore, TicketPreview, TicketQuery, TicketState, TicketStore, Tickets,
    conformance,
};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use super::{
    model::{at, ticket},
    open, scratch,
};
use crate::SqliteStore;

/// Many open a ticket for the same digest at once, and then many claim it, through any of `stores`.
async fn one_wins(stores: &[Arc<dyn TicketStore>]) {
    let opened = (0..32).map(|n| {
        let store = stores[n % stores.len()].clone();
        let mine = ticket(&format!("race-{n:02}"), "race", "bot", 100);
        tokio::spawn(async move { (mine.id.clone(), store.open(&mine).await.unwrap()) })
    });
    let opened: Vec<_> = join_all(opened).await.into_iter().map(Result::unwrap).collect();
    let kept: Vec<_> = opened.iter().filter(|(_, existing)| existing.is_none()).map(|(id, _)| id).collect();
    let [id] = kept[..] else { panic!("{kept:?}") };
    assert!(opened.iter().flat_map(|(_, existing)| existing).all(|existing| existing.id == *id));

    let mut approved = stores[0].find(id).await.unwrap().unwrap();
    approved.version += 1;
    approved.state = TicketState::Approved { at: at(1) };
    assert!(stores[0].replace(&approved).await.unwrap());
    let claims = (0..32).map(|n| {
        let (store, id) = (stores[n % stores.len()].clone(), id.clone());
        let claim = Claim { audit_id: AuditId::generate(), origin: n.to_string() };
        tokio::spawn(async move {
            let mut mine = store.find(&id).await.unwrap().unwrap();
            let TicketState::Approved { at } = mine.state else { return None };
            mine.version += 1;
            mine.state = TicketState::Claimed { claim: claim.clone(), approved_at: at };
            store.replace(&mine).await.unwrap().then_some(claim)
        })
    });
    let winners: Vec<_> = join_all(claims).await.into_iter().flat_map(Result::unwrap).collect();
    let [winner] = &winners[..] else { panic!("{winners:?}") };
    for store in stores {
        let state = store.find(id).await.unwrap().unwrap().state;
        assert_eq!(state, TicketState::Claimed { claim: winner.clone(), approved_at: at(1) });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_conform() {
    let (_directory, path) = scratch();
    let stores: [Arc<dyn TicketStore>; 3] = [
        Arc::new(MemoryTicketStore::new()),
        Arc::new(SqliteStore::in_memory().await.unwrap()),
        Arc::new(open(&path).await),
    ];
    for store in stores {
        conformance(&*store).await.unwrap();
        one_wins(&[store]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_rival_wins_among_processes() {
    let (_directory, path) = scratch();
    let stores: Vec<Arc<dyn TicketStore>> = vec![Arc::new(open(&path).await), Arc::new(open(&path).await)];
    one_wins(&stores).await;
}

/// A service whose refunds are held, as it starts up.
struct Shop {
    store: SqliteStore,
    tickets: Tickets,
    seen: Arc<AtomicUsize>,
}

impl Shop {
    async fn start(path: &Path) -> Self {
        let store = open(path).await;
        let tickets = Tickets::new(Arc::new(store.clone()), Arc::new(MemorySink::default()));
        Self { store, tickets, seen: Arc::default() }
    }

    /// Sends a refund that does not wait.
    async fn refund(&self) -> StatusCode {
        let seen = self.seen.clone();
        let service = HoldLayer::new(self.tickets.clone()).layer(service_fn(move |_: Request<Body>| {
            seen.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(Body::from("refunded"))) }
        }));
        let approvers = Approvers { users: vec!["ann".into()], groups: vec![] };
        let terms = HoldTerms { approvers, quorum: 1, hold_for: None, expires_after: None };
        let mut request =
            Request::post("/refunds").header("portcullis-hold", "no-wait").body(Body::from("{}")).unwrap();
        request.extensions_mut().insert(Verdict { decision: Decision::Hold(terms), ..Verdict::default() });
        request.extensions_mut().insert(person("bot"));
        request.extensions_mut().insert(AuditId::generate());
        service.oneshot(request).await.unwrap().status()
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

fn person(name: &str) -> Identity {
    Identity { issuer: "idp".into(), subject: name.into(), user: name.into(), ..Identity::default() }
}

#[tokio::test]
async fn a_request_a_decision_and_the_resend_may_each_see_another_process() {
    let (_directory, path) = scratch();
    let shop = Shop::start(&path).await;
    assert_ne!(shop.refund().await, StatusCode::OK);
    assert_eq!(shop.seen(), 0);
    drop(shop);

    let shop = Shop::start(&path).await;
    let waiting = shop.tickets.list(&person("ann"), &TicketQuery::pending()).await.unwrap();
    assert_eq!(waiting[0].request.command, "POST /refunds");
    shop.tickets.approve(&waiting[0].id, &person("ann"), None).await.unwrap();
    shop.store.close().await;

    let shop = Shop::start(&path).await;
    assert_eq!(shop.refund().await, StatusCode::OK);
    assert_eq!(shop.seen(), 1);
    drop(shop);

    let shop = Shop::start(&path).await;
    assert_ne!(shop.refund().await, StatusCode::OK, "an approval is good for one request");
    assert_eq!(shop.seen(), 0);
}

#[tokio::test]
async fn a_store_that_fails_lets_nothing_pass() {
    let (_directory, path) = scratch();
    let shop = Shop::start(&path).await;
    shop.store.close().await;
    assert_eq!(shop.refund().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(shop.seen(), 0);
}

#[tokio::test]
async fn what_could_not_be_read_back_is_not_kept() {
    let store = SqliteStore::in_memory().await.unwrap();
    let good = ticket("good", "good", "bot", 100);
    assert_eq!(TicketStore::open(&store, &good).await.unwrap(), None);
    // An agent chooses how deep its objects are.
    let deep: Value = (0..126).fold(json!("hunter2"), |inner, _| json!([inner]));
    let bad = |id: &str| {
        let preview = TicketPreview { after: Some(deep.clone()), ..TicketPreview::default() };
        portcullis_hold::Ticket { preview: Some(preview), ..ticket(id, id, "bot", 100) }
    };
    let error = TicketStore::open(&store, &bad("bad")).await.unwrap_err().to_string();
    assert!(error.contains("ticket bad") && !error.contains("hunter2"), "{error}");
    let next = portcullis_hold::Ticket { version: 2, digest: "good".into(), ..bad("good") };
    store.replace(&next).await.unwrap_err();
    assert_eq!(TicketStore::list(&store, &TicketQuery::default()).await.unwrap(), [good]);
}

#[tokio::test]
async fn an_id_is_not_used_twice() {
    let store = SqliteStore::in_memory().await.unwrap();
    assert_eq!(TicketStore::open(&store, &ticket("a", "one", "bot", 100)).await.unwrap(), None);
    TicketStore::open(&store, &ticket("a", "two", "bot", 100)).await.unwrap_err();
    assert_eq!(store.find("a").await.unwrap().unwrap().digest, "one");
}
