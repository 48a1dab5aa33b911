//! Connections that become something else, and clients that do not read.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_audit::End;
use portcullis_tests::{Cluster, Gateway, Impostor, RawConnection, Step, wait_until};
use serde_json::json;

use super::Door;

const EXEC: &str = "/api/v1/namespaces/shop/pods/toolbox/exec?command=cat&stdin=true&stdout=true";
const HANDSHAKE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];
const CHANNELS: &str = "Sec-WebSocket-Protocol: v5.channel.k8s.io";

async fn door() -> Door {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    Door::open(cluster, gateway).await
}

/// A WebSocket handshake with one more header.
fn handshake(door: &Door, path: &str, more: &str) -> String {
    door.head("GET", path, &[&HANDSHAKE[..], &[more]].concat())
}

/// A client's WebSocket message: binary, final, masked (RFC 6455 §5.2).
fn message(payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let length = u8::try_from(payload.len()).unwrap();
    [0x82, 0x80 | length].into_iter().chain(mask).chain(masked).collect()
}

#[tokio::test]
async fn a_credential_may_come_as_a_subprotocol_and_goes_no_further() {
    let door = door().await;
    // `base64url.bearer.authorization.k8s.io.<token>`, for browsers, which cannot set Authorization.
    let carried = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(&door.token));
    let without = |head: String| {
        let start = head.find("Authorization:").unwrap();
        let end = start + head[start..].find('\n').unwrap() + 1;
        format!("{}{}", &head[..start], &head[end..])
    };
    let offer = |protocols: &str| handshake(&door, EXEC, &format!("Sec-WebSocket-Protocol: {protocols}"));

    let mut connection = door.connect().await;
    connection.send(without(offer(&format!("v5.channel.k8s.io, {carried}")))).await;
    let head = connection.head().await;
    assert_eq!(
        (head.status, head.headers["sec-websocket-protocol"].as_bytes()),
        (101, &b"v5.channel.k8s.io"[..])
    );
    connection.send(message(b"\0hello")).await;
    connection.wait_for(b"\x01hello").await;
    drop(connection);
    let seen = door.cluster.events_since(door.mark).await;
    let exec = seen.iter().find(|event| event.request_uri.contains(&door.probe)).expect("the exec");
    assert_eq!(exec.effective_user().username, "agent-ci");

    for (what, bytes, code) in [
        ("two credentials", offer(&format!("v5.channel.k8s.io, {carried}")), "credential/ambiguous"),
        (
            "somebody else's",
            without(offer("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.eA")),
            "oidc/malformed",
        ),
        ("none at all", without(offer("v5.channel.k8s.io")), "oidc/missing"),
    ] {
        door.refuses(what, bytes, (401, code)).await;
    }
    door.refuses(
        "a credential and nothing to speak",
        without(offer(&carried)),
        (400, "upstream/subprotocol"),
    )
    .await;
    let twice = without(offer(&format!("v5.channel.k8s.io, {carried}, {carried}")));
    door.refuses("the same credential twice", twice, (400, "upstream/subprotocol")).await;
    let garbled = without(offer("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.!!"));
    door.refuses("no base64url", garbled, (400, "upstream/subprotocol")).await;
    assert_eq!(door.seen_by_server().await, 1);
    door.serves().await;
}

#[tokio::test]
async fn a_bearer_subprotocol_is_never_forwarded() {
    let cluster = Cluster::from_env();
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let impostor = Impostor::start(vec![Step::Send(answer.into())]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = impostor.kubeconfig(dir.path(), "impostor.kubeconfig");
    let gateway = Gateway::configured(&cluster, |config| {
        let impostor = json!({ "name": "impostor", "kubeconfig": { "path": path } });
        config["clusters"].as_array_mut().unwrap().push(impostor);
    })
    .await;
    let door = Door::open(cluster, gateway).await;
    let carried = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(&door.token));
    let offer = format!("Sec-WebSocket-Protocol: v5.channel.k8s.io, {carried}");
    let head = handshake(&door, &format!("/clusters/impostor{EXEC}"), &offer);
    let head: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with("Authorization")).collect();
    assert_eq!(door.exchange(head.join("\r\n")).await.status, 403);
    let seen = impostor.requests();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let lower = seen[0].to_lowercase();
    assert!(lower.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n"), "{lower}");
    assert!(lower.contains("authorization: bearer impostors-own\r\n"), "{lower}");
    assert!(!lower.contains("base64url") && !seen[0].contains(&door.token), "{lower}");
    assert!(lower.contains("impersonate-user: agent-ci\r\n"), "{lower}");
}

#[tokio::test]
async fn only_streams_that_can_be_recorded_are_opened() {
    let door = door().await;
    let spdy = |path: &str, version: &str| {
        let headers = ["Connection: Upgrade", "Upgrade: SPDY/3.1", version];
        door.head("POST", path, &headers)
    };
    let unknown = (400, "upstream/subprotocol");
    door.refuses("an unknown subprotocol", handshake(&door, EXEC, "Sec-WebSocket-Protocol: v9.x"), unknown)
        .await;
    door.refuses("an unknown stream protocol", spdy(EXEC, "X-Stream-Protocol-Version: v9.x"), unknown).await;
    let pods = "/api/v1/namespaces/shop/pods";
    for path in [pods, "/version", "/api/v1/namespaces/shop/configmaps/settings"] {
        let answer = door.exchange(handshake(&door, path, CHANNELS)).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.refusal().starts_with("upstream/"), "{path}: {}", answer.text());
    }
    let body = handshake(&door, EXEC, &format!("{CHANNELS}\r\nContent-Length: 5")) + "hello";
    let answer = door.exchange(body).await;
    assert_eq!((answer.status, answer.refusal().as_str()), (400, "upstream/upgrade"), "{}", answer.text());
    door.holds().await;
}

#[tokio::test]
async fn what_comes_with_a_handshake_belongs_to_the_stream() {
    let door = door().await;
    let mut connection = door.connect().await;
    // In one write, before the server has agreed to anything.
    connection.send([handshake(&door, EXEC, CHANNELS).as_bytes(), &message(b"\0hello")].concat()).await;
    assert_eq!(connection.head().await.status, 101);
    connection.wait_for(b"\x01hello").await;
    connection.send(message(b"\0world")).await;
    connection.wait_for(b"\x01world").await;
    drop(connection);
    assert_eq!(door.seen_by_server().await, 1);
    door.serves().await;
}

#[tokio::test]
async fn a_request_behind_an_upgrade_is_no_request() {
    let door = door().await;
    let smuggled = door.head("GET", "/api/v1/namespaces/shop/secrets?smuggled=1", &[]);

    // The server refuses the upgrade: what follows is a request like any other, by the same rules.
    let missing = EXEC.replace("toolbox", "no-such-pod");
    let mut connection = door.connect().await;
    connection.send(handshake(&door, &missing, CHANNELS) + "\0\x01 what a stream would carry\r\n\r\n").await;
    assert_eq!(connection.head().await.status, 404);
    let rest = String::from_utf8_lossy(&connection.rest().await).into_owned();
    assert!(!rest.contains(" 101 ") && !rest.contains(" 200 "), "{rest}");

    // It is a stream: what is no frame of it ends it, and reaches neither the pod nor the server.
    let mut connection = door.connect().await;
    connection.send(handshake(&door, EXEC, CHANNELS)).await;
    assert_eq!(connection.head().await.status, 101);
    connection.send(&smuggled).await;
    let rest = String::from_utf8_lossy(&connection.rest().await).into_owned();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    let ended = door.gateway.wait_for_record("the stream's end", |records| {
        records.outcomes().find_map(|outcome| outcome.stream.clone())
    });
    let ended = ended.await;
    assert!(ended.channels.get("stdin").is_none_or(|channel| channel.bytes == 0), "{ended:?}");
    let seen = door.cluster.events_since(door.mark).await;
    assert!(!seen.iter().any(|event| event.request_uri.contains("smuggled")));
    door.serves().await;
}

#[tokio::test]
async fn a_client_that_never_reads_costs_no_memory() {
    const LENGTH: usize = 200 << 20;
    let cluster = Cluster::from_env();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {LENGTH}\r\n\r\n");
    let impostor = Impostor::start(vec![Step::Send(head.into()), Step::Flood(LENGTH)]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = impostor.kubeconfig(dir.path(), "flood.kubeconfig");
    let gateway = Gateway::configured(&cluster, |config| {
        let flood = json!({ "name": "flood", "kubeconfig": { "path": path } });
        config["clusters"].as_array_mut().unwrap().push(flood);
    })
    .await;
    let door = Door::open(cluster, gateway).await;
    door.serves().await;
    let before = door.gateway.memory();

    let mut connection: RawConnection = door.connect().await;
    let log = "/clusters/flood/api/v1/namespaces/shop/pods/toolbox/log?follow=true";
    connection.send(door.head("GET", log, &[])).await;
    assert_eq!(connection.head().await.status, 200);
    // Until nothing moves any more: the same amount, fifty times in a row.
    let mut last = (0, 0);
    wait_until("the stream to stand still", || {
        let now = impostor.flooded();
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        std::future::ready((now > 0 && last.1 >= 50).then_some(()))
    })
    .await;
    let (taken, grown) = (impostor.flooded(), door.gateway.memory().saturating_sub(before));
    assert!(taken < LENGTH / 2, "the gateway takes what nobody reads: {taken} bytes");
    assert!(grown < 64 << 20, "{grown} bytes more memory for {taken} bytes");
    door.serves().await;

    // The client goes, and so does the stream behind it.
    drop(connection);
    let ended = door.gateway.wait_for_record("the end of the stream", |records| {
        let mut logs = records.outcomes().filter(|outcome| outcome.info.subresource == "log");
        logs.next().map(|outcome| outcome.end)
    });
    assert_eq!(ended.await, End::Aborted);
    door.serves().await;
}
