//! Watches over WebSocket, as browsers watch: the events are those of a watch over plain HTTP, masked by the same rules.

use base64::Engine as _;
use bytes::BytesMut;
use portcullis_audit::End;
use portcullis_tests::{Cluster, Gateway, Kubectl, RawAnswer, RawConnection};
use portcullis_wire::{Opcode, encode_frame};
use serde_json::{Value, json};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;
/// Base64 of what nobody is to see.
const VALUE: &str = "aHVudGVyMg==";

struct Stage {
    gateway: Gateway,
    admin: Kubectl,
    token: String,
    /// `/api/v1/namespaces/…`
    base: String,
}

impl Stage {
    /// A gateway, and a namespace with the Secret `db`.
    async fn set(cluster: &Cluster) -> Self {
        // A stream that nobody ends is waited for that long when the gateway stops.
        let gateway = Gateway::configured(cluster, |config| config["listen"]["drain"] = "1s".into()).await;
        let namespace = cluster.namespace_of_agents("watches").await;
        let admin = cluster.admin().namespace(&namespace);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": VALUE}});
        admin.run_with_input(&["create", "-f", "-"], secret.to_string()).await.ok();
        let token = gateway.token("agent-ci").await;
        Self { gateway, admin, token, base: format!("/api/v1/namespaces/{namespace}") }
    }

    /// Opens a WebSocket with a token in the usual header.
    async fn open(&self, path: &str, headers: &str) -> (RawConnection, RawAnswer) {
        self.open_with(path, &format!("Authorization: Bearer {}\r\n{headers}", self.token)).await
    }

    async fn open_with(&self, path: &str, headers: &str) -> (RawConnection, RawAnswer) {
        let mut connection = RawConnection::open(&self.gateway.url, &self.gateway.ca()).await;
        let request = format!(
            "GET {}/{path} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            self.base
        );
        connection.send(request).await;
        let head = connection.head().await;
        (connection, head)
    }
}

/// What a browser says where it comes from. The API server does not open a watch without.
const ORIGIN: &str = "Origin: https://console.example.com\r\n";

fn from_client(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_frame(true, opcode, payload, Some([1, 2, 3, 4]), &mut out);
    out.to_vec()
}

async fn event(connection: &mut RawConnection) -> (String, Value) {
    let (kind, payload) = connection.frame().await;
    let text = String::from_utf8_lossy(&payload).into_owned();
    assert_eq!(kind, TEXT, "{text}");
    assert!(!text.contains(VALUE), "{text}");
    let event = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (text, event)
}

#[tokio::test]
async fn events_over_websocket_are_those_of_plain_http() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let path = "secrets?watch=true&fieldSelector=metadata.name%3Ddb";
    let plain = format!("{}/{path}&timeoutSeconds=1", stage.base);
    let plain = stage.gateway.get(&plain, Some(&stage.token)).await;
    let plain = String::from_utf8_lossy(plain.body()).into_owned();
    assert!(plain.contains("bWFza2Vk") && plain.ends_with('\n') && plain.lines().count() == 1, "{plain}");

    // With a token in a header, and as a browser has to bring it.
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&stage.token);
    let browser = format!(
        "{ORIGIN}Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{encoded}, base64.binary.k8s.io, binary.k8s.io\r\n"
    );
    let (mut in_header, head) = stage.open(path, ORIGIN).await;
    assert_eq!((head.status, head.headers.get("sec-websocket-protocol")), (101, None));
    let id = head.headers["audit-id"].to_str().unwrap().to_owned();
    let (mut in_list, head) = stage.open_with(path, &browser).await;
    assert_eq!(
        (head.status, &head.headers["sec-websocket-protocol"]),
        (101, &"base64.binary.k8s.io".parse().unwrap())
    );
    for connection in [&mut in_header, &mut in_list] {
        assert_eq!(event(connection).await.0, plain);
    }

    // What the client says is heard by nobody, but pings are answered.
    in_header.send(from_client(Opcode::Text, b"hello")).await;
    in_header.send(from_client(Opcode::Ping, b"there")).await;
    assert_eq!(in_header.frame().await, (PONG, b"there".to_vec()));

    // Values that come later, and ones too long for a single frame of the relay.
    let long = base64::engine::general_purpose::STANDARD.encode("hunter2 ".repeat(50_000));
    let longer = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "db", "annotations": {"note": "x".repeat(150_000)}}, "data": {"password": VALUE, "long": long}});
    stage.admin.run_with_input(&["replace", "-f", "-"], longer.to_string()).await.ok();
    for connection in [&mut in_header, &mut in_list] {
        let (text, event) = event(connection).await;
        assert_eq!(event["type"], "MODIFIED");
        assert!(
            text.len() > 150_000 && text.len() < 200_000 && !text.contains(&long[..100]),
            "{}",
            text.len()
        );
    }
    stage.admin.run(&["delete", "secret", "db"]).await.ok();
    assert_eq!(event(&mut in_header).await.1["type"], "DELETED");

    // One is closed by its client, the other one by the gateway, which says why.
    in_header.send(from_client(Opcode::Close, &1000_u16.to_be_bytes())).await;
    assert_eq!(in_header.frame().await.0, CLOSE);
    // The server closes the connection first (RFC 6455, section 7.1.1); whoever hangs up before that breaks off.
    assert!(in_header.rest().await.is_empty());
    drop(in_header);
    let outcome = stage
        .gateway
        .wait_for_record("the end of a watch", |records| {
            records.outcomes().find(|outcome| outcome.id.to_string() == id).cloned()
        })
        .await;
    assert_eq!(
        (outcome.end, outcome.status, outcome.info.verb.as_str()),
        (End::Completed, Some(101), "watch")
    );
    assert_eq!(outcome.masked["secrets"], 5, "one value, two, and two");
    let stream = outcome.stream.unwrap();
    assert_eq!((stream.transport.as_str(), stream.recording.is_none()), ("webSocket", true));
    assert!(stream.channels["events"].bytes > 300_000);

    assert_eq!(event(&mut in_list).await.1["type"], "DELETED");
    stage.gateway.agrees_with_the_server().await;
    let (_, last) = event(&mut in_list).await;
    assert_eq!((&last["type"], &last["object"]["code"]), (&"ERROR".into(), &503.into()));
    assert_eq!(in_list.frame().await.0, CLOSE);
}

#[tokio::test]
async fn what_is_not_json_is_not_passed_and_what_is_no_watch_is_not_opened() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let watch = "secrets?watch=true";
    let protobuf = format!("{ORIGIN}Accept: application/vnd.kubernetes.protobuf\r\n");
    let (mut connection, head) = stage.open(watch, &protobuf).await;
    assert_eq!(head.status, 101);
    let (text, said) = event(&mut connection).await;
    assert!(
        said["type"] == "ERROR" && text.contains("mask/unreadable") && text.contains("application/json"),
        "{text}"
    );
    let (kind, reason) = connection.frame().await;
    assert!(kind == CLOSE && String::from_utf8_lossy(&reason).contains("mask/unreadable"));

    for (path, headers, status, code) in [
        ("secrets?watch=true", format!("{ORIGIN}Accept: application/yaml\r\n"), 406, "mask/not-acceptable"),
        ("secrets", ORIGIN.to_owned(), 400, "upstream/upgrade"),
        ("pods/web/log?follow=true", ORIGIN.to_owned(), 400, "upstream/upgrade"),
        (
            watch,
            format!("{ORIGIN}Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"),
            400,
            "upstream/subprotocol",
        ),
        (watch, String::new(), 400, "upstream/upgrade"),
        ("secrets?watch=true&labelSelector=!!", ORIGIN.to_owned(), 400, ""),
    ] {
        let (mut connection, head) = stage.open(path, &headers).await;
        assert_eq!(head.status, status, "{path} {headers}");
        if !code.is_empty() {
            connection.wait_for(code.as_bytes()).await;
        }
    }
    stage.gateway.agrees_with_the_server().await;
}
