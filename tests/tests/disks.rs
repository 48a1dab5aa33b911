//! Disks that fill up, fail, or become read-only below a gateway at work: what cannot be recorded does not happen, the
//! gateway says why, goes on by itself when it can, and has lost nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::io::Write as _;
use std::path::PathBuf;

use portcullis_tests::{
    Chance, Cluster, Disk, Evidence, Gateway, Load, RawConnection, exec, refusal_code, wait_until,
};

#[tokio::test]
async fn a_disk_that_fills() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster, Disk::Small { bytes: 12 << 20 }).await;
    let ballast = gateway.state_dir().join("ballast");
    let full = |gateway: &Gateway| fill(gateway.state_dir().join("ballast"));
    let free = |_: &Gateway| std::fs::remove_file(&ballast).unwrap();
    fails_and_recovers(&cluster, gateway, full, free, "No space left on device").await;
}

#[tokio::test]
async fn a_disk_that_returns_errors() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster, Disk::Faulty).await;
    let broken = |gateway: &Gateway| gateway.break_disk("EIO");
    fails_and_recovers(&cluster, gateway, broken, Gateway::repair_disk, "Input/output error").await;
}

#[tokio::test]
async fn a_disk_that_becomes_read_only() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster, Disk::Faulty).await;
    let broken = |gateway: &Gateway| gateway.break_disk("EROFS");
    fails_and_recovers(&cluster, gateway, broken, Gateway::repair_disk, "Read-only file system").await;
}

async fn gateway(cluster: &Cluster, disk: Disk) -> Gateway {
    Gateway::on_disk(cluster, disk, |config| {
        config["audit"]["checkpointFile"] = "checkpoints".into();
    })
    .await
}

/// Takes all the space there is, but for what the log itself still finds in its last page.
fn fill(ballast: PathBuf) {
    let mut file = std::fs::File::create(ballast).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        let bytes = vec![0; size];
        while file.write_all(&bytes).is_ok() {}
    }
}

async fn fails_and_recovers(
    cluster: &Cluster,
    mut gateway: Gateway,
    fail: impl Fn(&Gateway),
    repair: impl Fn(&Gateway),
    why: &str,
) {
    let namespace = cluster.namespace_of_agents("disk").await;
    let mut evidence = Evidence::new(cluster.audit_log().mark());
    let token = gateway.token("agent-ci").await;
    let all = format!("/api/v1/namespaces/{namespace}/configmaps");
    let create = async || {
        let request = gateway.request("POST", &all, &token).header("content-type", "application/json");
        let body = r#"{"metadata":{"generateName":"more-"}}"#;
        gateway.http().try_send(request.body(body).unwrap()).await
    };
    assert_eq!(create().await.unwrap().status(), 201);

    // Streams that would stay open.
    let mut watch = RawConnection::open(&gateway.url, &gateway.ca()).await;
    watch
        .send(format!(
            "GET {all}?watch=true HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n"
        ))
        .await;
    assert_eq!(watch.head().await.status, 200);
    let path = "/api/v1/namespaces/shop/pods/toolbox/exec?command=cat&stdin=true&stdout=true&stderr=true";
    let opened = exec(&gateway.url, &gateway.ca(), path, &token, Chance::new(1)).await;
    let (mut input, mut output) = opened.unwrap();
    input.stdin(b"before\n").await.unwrap();
    output.until(1, b"before\n").await;

    let load = Load::start(&gateway, &namespace, Chance::new(7)).await;
    load.answers(100).await;
    evidence.gather_checkpoints(&gateway);
    fail(&gateway);

    // Whose intent still found a place gets no answer; new requests are refused, and it says that it is not ready, and why.
    wait_until("a refusal", || async {
        let refused = create().await.ok().filter(|answer| answer.status() == 503)?;
        match refusal_code(refused.body()).as_str() {
            "audit/unavailable" => Some(()),
            "audit/outcome-unrecorded" => None,
            _ => panic!("{refused:?}"),
        }
    })
    .await;
    wait_until("the gateway to be not ready", || async {
        let (status, said) = readiness(&gateway).await;
        (status == 503 && said.contains("[-]ledger failed") && said.contains(why)).then_some(())
    })
    .await;
    let read = gateway.get(&all, Some(&token)).await;
    assert_eq!((read.status().as_u16(), refusal_code(read.body()).as_str()), (503, "audit/unavailable"));
    // What was open ends: also a session in which nothing passes.
    watch.rest().await;
    let end = output.end().await;
    assert_eq!(end.channels.get(&1), None, "it passed this on unrecorded: {end:?}");
    let mut refused = Vec::new();
    for _ in 0..20 {
        let answer = create().await.unwrap();
        assert_eq!(answer.status(), 503, "{answer:?}");
        refused.push(answer.headers()["audit-id"].to_str().unwrap().to_owned());
    }
    evidence.read(&gateway);
    evidence.has_all_the_server_saw(cluster, &gateway).await;
    assert!(refused.iter().all(|id| !evidence.seen.contains(id)), "something refused has arrived");

    repair(&gateway);
    wait_until("the gateway to be ready", || async { (readiness(&gateway).await.0 == 200).then_some(()) })
        .await;
    wait_until("a request to pass", || async { create().await.ok().filter(|answer| answer.status() == 201) })
        .await;
    load.answers(50).await;
    let (told, opened) = (load.told(), load.opened());
    drop(load);

    wait_until("what is open to be ended", || {
        let open = evidence.read(&gateway);
        async move { open.is_empty().then_some(()) }
    })
    .await;
    evidence.gather_checkpoints(&gateway);
    evidence.verify(&gateway).await;
    // A refusal for want of a place on record has none.
    let told: Vec<_> = told.into_iter().filter(|told| told.status != 503).collect();
    assert!(told.len() > 100, "{} answers", told.len());
    evidence.says_what_clients_were_told(&told);
    for id in opened {
        evidence.has_the_stream(&gateway, &id);
    }
    evidence.nothing_was_done_twice(cluster, &gateway).await;
    assert!(!evidence.seen.is_empty());
    let failures: Vec<_> =
        evidence.recovered.iter().filter(|recovered| recovered.cause == "writeFailure").collect();
    let told_why = |error: &Option<String>| error.as_deref().is_some_and(|error| error.contains(why));
    assert!(failures.iter().any(|failure| told_why(&failure.error)), "{failures:?}");
    let log = gateway.log();
    assert!(log.contains(why), "{log}");
    gateway.stop().await;
}

/// What `/readyz` says.
async fn readiness(gateway: &Gateway) -> (u16, String) {
    let answer = gateway.http().get(&format!("{}/readyz", gateway.operations), None).await;
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}
