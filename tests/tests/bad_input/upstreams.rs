//! API servers that are down, slow, or none.

use portcullis_audit::{End, Outcome};
use portcullis_tests::{Cluster, Gateway, Impostor, Kubeconfig, RawAnswer, Step, TestCa, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Door;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

fn send(text: impl Into<String>) -> Step {
    Step::Send(text.into().into_bytes())
}

/// A gateway before the real cluster and these others.
struct World {
    door: Door,
    _dir: TempDir,
}

impl World {
    async fn new(kubeconfigs: impl FnOnce(&TempDir) -> Vec<(String, std::path::PathBuf)>) -> Self {
        let (cluster, dir) = (Cluster::from_env(), tempfile::tempdir().unwrap());
        let others = kubeconfigs(&dir);
        let gateway = Gateway::configured(&cluster, |config| {
            let clusters = config["clusters"].as_array_mut().unwrap();
            clusters.extend(
                others.iter().map(|(name, path)| json!({ "name": name, "kubeconfig": { "path": path } })),
            );
        })
        .await;
        Self { door: Door::open(cluster, gateway).await, _dir: dir }
    }

    async fn with(impostors: &[(&str, &Impostor)]) -> Self {
        Self::new(|dir| {
            let file = |name: &str| format!("{name}.kubeconfig");
            impostors
                .iter()
                .map(|(name, other)| (name.to_string(), other.kubeconfig(dir.path(), &file(name))))
                .collect()
        })
        .await
    }

    /// Asks a cluster for its pods.
    async fn ask(&self, cluster: &str) -> RawAnswer {
        self.door.exchange(self.door.head("GET", &format!("/clusters/{cluster}{PODS}"), &[])).await
    }

    /// What is on record of an answer.
    async fn outcome(&self, answer: &RawAnswer) -> Outcome {
        let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
        let find = |records: &portcullis_tests::Records| {
            records.outcomes().find(|outcome| outcome.id.to_string() == id).cloned()
        };
        self.door.gateway.wait_for_record("the outcome", find).await
    }

    /// That the gateway answers for a cluster that does not: with this status and reason, and on record.
    async fn answers_for(&self, cluster: &str, expected: (u16, &str)) -> Value {
        let answer = self.ask(cluster).await;
        let got = (answer.status, answer.refusal());
        assert_eq!((got.0, got.1.as_str()), expected, "{cluster}: {}", answer.text());
        let outcome = self.outcome(&answer).await;
        assert_eq!(outcome.status, Some(expected.0), "{cluster}: {outcome:?}");
        let refusal = outcome.refusal.clone().unwrap_or_else(|| panic!("{cluster}: {outcome:?}"));
        assert_eq!(refusal.code, expected.1, "{cluster}");
        // The cause is for the operator: on record, and not in the answer.
        assert!(refusal.detail.is_some_and(|detail| !detail.is_empty()), "{cluster}: no cause on record");
        let status = answer.json();
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{cluster}");
        status
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_502_that_says_so() {
    let answering = Impostor::start(vec![send(format!("{JSON}Content-Length: 2\r\n\r\n{{}}"))]).await;
    // Accepts, and never says a word of TLS.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_url = format!("https://{}", mute.local_addr().unwrap());
    let other_ca = TestCa::new();
    let world = World::new(|dir| {
        let at = |name: &str, url: String| {
            let path = dir.path().join(format!("{name}.kubeconfig"));
            (name.to_owned(), Kubeconfig::new(url, other_ca.pem()).token("t").write(path))
        };
        let mistrusted = answering.kubeconfig(dir.path(), "answering.kubeconfig");
        let text: Value = serde_json::from_slice(&std::fs::read(mistrusted).unwrap()).unwrap();
        let url = text["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
        vec![
            at("down", format!("https://127.0.0.1:{}", free_port())),
            at("stranger", url),
            at("mute", mute_url),
        ]
    })
    .await;
    let unreachable = (502, "upstream/unreachable");
    for cluster in ["down", "stranger"] {
        let status = world.answers_for(cluster, unreachable).await;
        assert!(status["message"].as_str().unwrap().contains("nothing was sent"), "{cluster}: {status}");
    }
    assert_eq!(answering.requests(), Vec::<String>::new());
    world.door.serves().await;
    let status = world.answers_for("mute", (504, "upstream/timeout")).await;
    assert!(status["message"].as_str().unwrap().contains("nothing was sent"), "{status}");
    world.door.serves().await;
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_a_502_that_warns() {
    let mut impostors = Vec::new();
    for (name, steps) in [
        ("hangs-up", vec![]),
        ("resets", vec![Step::Reset]),
        ("garbage", vec![send("\0\u{1}\u{2} not a word of HTTP\r\n\r\n")]),
        ("half-a-head", vec![send("HTTP/1.1 200 OK\r\nContent-Ty")]),
        ("no-length", vec![send("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")]),
        ("two-lengths", vec![send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")]),
        ("endless-head", vec![send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(8 << 20)))]),
        (
            "switches",
            vec![
                send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
                Step::Wait,
            ],
        ),
    ] {
        impostors.push((name, Impostor::start(steps).await));
    }
    let named: Vec<_> = impostors.iter().map(|(name, impostor)| (*name, impostor)).collect();
    let world = World::with(&named).await;
    for (name, impostor) in &impostors {
        let status = world.answers_for(name, (502, "upstream/unreachable")).await;
        // It had the request: who repeats a write blindly may do it twice.
        assert!(
            name == &"switches" || status["message"].as_str().unwrap().contains("may have been carried out"),
            "{name}: {status}"
        );
        assert_eq!(impostor.requests().len(), 1, "{name}: sent again by itself");
    }
    world.door.serves().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_gateway_is_not_the_clients_fault() {
    let refuses =
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let impostor = Impostor::start(vec![send(refuses)]).await;
    let world = World::with(&[("forgetful", &impostor)]).await;
    world.answers_for("forgetful", (502, "upstream/credential")).await;
    world.door.serves().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let list = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"a"}}"#;
    let mut impostors = Vec::new();
    for (name, head) in [
        ("by-length", "Content-Length: 1000\r\n\r\n".to_owned()),
        ("by-chunk", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", list.len())),
    ] {
        let end = if name == "by-chunk" { "\r\n" } else { "" };
        for (how, last) in [("closed", vec![]), ("reset", vec![Step::Reset])] {
            let steps = [vec![send(format!("{JSON}{head}{list}{end}"))], last].concat();
            impostors.push((format!("{name}-{how}"), Impostor::start(steps).await));
        }
    }
    let named: Vec<_> = impostors.iter().map(|(name, impostor)| (name.as_str(), impostor)).collect();
    let world = World::with(&named).await;
    for (name, _) in &impostors {
        let answer = world.ask(name).await;
        if answer.status == 200 {
            assert!(!answer.is_whole, "{name}: {}", answer.text());
        } else {
            assert_eq!(answer.status, 502, "{name}: {}", answer.text());
        }
        let outcome = world.outcome(&answer).await;
        assert!([End::Failed, End::Refused].contains(&outcome.end), "{name}: {outcome:?}");
        assert!(outcome.error.is_some() || outcome.refusal.is_some(), "{name}: {outcome:?}");
    }
    world.door.serves().await;
}

#[tokio::test]
async fn what_must_be_masked_and_cannot_be_read_is_not_sent() {
    let secret = "kept-from-everybody";
    let body = |content: &str| format!("Content-Length: {}\r\n\r\n{content}", content.len());
    let object =
        format!(r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"s"}},"data":{{"k":"{secret}"}}"#);
    let mut impostors = Vec::new();
    for (name, head, content) in [
        ("cut-short", JSON, object.clone()),
        ("no-json", JSON, format!("<html>{secret}</html>")),
        ("trailing", JSON, format!("{object}}} {secret}")),
        ("unknown-type", "HTTP/1.1 200 OK\r\nContent-Type: application/x-unknown\r\n", secret.to_owned()),
        ("no-type", "HTTP/1.1 200 OK\r\n", format!("{object}}}")),
        (
            "compressed",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: br\r\n",
            secret.to_owned(),
        ),
        (
            "no-gzip",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n",
            secret.to_owned(),
        ),
    ] {
        impostors.push((name, Impostor::start(vec![send(format!("{head}{}", body(&content)))]).await));
    }
    let named: Vec<_> = impostors.iter().map(|(name, impostor)| (*name, impostor)).collect();
    let world = World::with(&named).await;
    for (name, _) in &impostors {
        let path = format!("/clusters/{name}/api/v1/namespaces/shop/secrets/s");
        // On a connection that ends with it, since there may be no answer to what cannot be sent.
        let mut connection = world.door.connect().await;
        connection.send(world.door.head("GET", &path, &["Connection: close"])).await;
        let answer = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(!answer.contains(secret), "{name}: {answer}");
        let of_cluster = |records: &portcullis_tests::Records| {
            records.outcomes().find(|outcome| outcome.info.cluster == *name).cloned()
        };
        let outcome = world.door.gateway.wait_for_record(name, of_cluster).await;
        let is_refused = answer.starts_with("HTTP/1.1 50") || outcome.end == End::Failed;
        assert!(is_refused || *name == "no-type", "{name}: {answer} {outcome:?}");
    }
    world.door.serves().await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for_and_each_piece_passed_on() {
    let (first, second) = ("the first line\n", "the second line\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let drips = Impostor::start(vec![
        send(format!("{head}{}", chunk(first))),
        Step::Wait,
        send(chunk(second) + "0\r\n\r\n"),
    ])
    .await;
    let silent = Impostor::start(vec![Step::Wait]).await;
    let world = World::with(&[("drips", &drips), ("silent", &silent)]).await;
    let door = &world.door;

    let mut reader = door.connect().await;
    reader.send(door.head("GET", "/clusters/drips/api/v1/namespaces/shop/pods/p/log?follow=true", &[])).await;
    let head = reader.head().await;
    assert_eq!(head.status, 200);
    reader.wait_for(first.as_bytes()).await;
    // One that says nothing at all holds up nobody else, and is given up when its client gives up.
    let mut waiting = door.connect().await;
    waiting.send(door.head("GET", &format!("/clusters/silent{PODS}"), &[])).await;
    portcullis_tests::wait_until("the silent one to be asked", async || {
        (!silent.requests().is_empty()).then_some(())
    })
    .await;
    door.serves().await;
    drop(waiting);
    let given_up = |records: &portcullis_tests::Records| {
        let mut outcomes = records.outcomes().filter(|outcome| outcome.info.cluster == "silent");
        outcomes.next().map(|outcome| outcome.end)
    };
    assert_eq!(door.gateway.wait_for_record("the end of the one in vain", given_up).await, End::Aborted);

    drips.go_on();
    reader.wait_for(second.as_bytes()).await;
    assert_eq!(world.outcome(&head).await.end, End::Completed);
    door.serves().await;
}
