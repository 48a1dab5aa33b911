//! What one identity, one address and everybody together may have at once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

use portcullis_tests::{Cluster, Gateway, RawConnection, Transport, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An exec that goes on until its input ends.
const EXEC: [&str; 6] = ["exec", "-i", "toolbox", "--", "sh", "-c"];

#[tokio::test]
async fn an_identity_has_so_many_streams_and_no_more() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["limits"] = serde_json::json!({ "streamsPerIdentity": 1 });
    })
    .await;
    for transport in Transport::BOTH {
        let agent = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        let other = gateway.kubectl("agent-two").await.namespace("shop").transport(transport);
        let until_closed = [&EXEC[..], &["echo up; cat"]].concat();
        let once = [&EXEC[..], &["echo done"]].concat();

        let mut first = agent.start(&until_closed);
        first.wait_for_output(|said| said.contains("up")).await;
        let refused = agent.run(&once).await.fails();
        assert!(refused.contains("too many requests open at once"), "{transport:?}: {refused}");
        // Neither others nor short requests are in its way.
        assert!(other.run(&once).await.ok().contains("done"), "{transport:?}");
        assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"), "{transport:?}");

        assert!(first.finish().await.ok().contains("up"), "{transport:?}");
        wait_until("the stream's place to be free", || async {
            agent.run(&once).await.status.success().then_some(())
        })
        .await;
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_stream_keeps_the_place_of_its_connection() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["limits"] = serde_json::json!({ "connections": 1 });
    })
    .await;
    let token = gateway.token("agent-ci").await;
    let mut exec = RawConnection::open(&gateway.url, &gateway.ca()).await;
    let path = "/api/v1/namespaces/shop/pods/toolbox/exec?command=cat&stdin=true&stdout=true";
    exec.send(format!(
        "GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    ))
    .await;
    assert_eq!(exec.head().await.status, 101);
    // The HTTP connection ends with the upgrade, sooner or later; what came of it does not.
    for _ in 0..20 {
        assert!(is_refused(&gateway).await);
    }
    assert_eq!(refused_connections(&gateway, "limit").await, 20);
    drop(exec);
    wait_until("the connection's place to be free", || async { (!is_refused(&gateway).await).then_some(()) })
        .await;
}

#[tokio::test]
async fn an_address_has_a_burst_of_connections_and_no_more() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["limits"] = serde_json::json!({ "connectionsPerSecond": 1, "connectionBurst": 2 });
    })
    .await;
    assert_eq!(refused_connections(&gateway, "rate").await, 0);
    assert!(!is_refused(&gateway).await && !is_refused(&gateway).await);
    // The third one. A machine so slow that a second has passed meanwhile gets one more.
    wait_until("the end of the burst", || async { is_refused(&gateway).await.then_some(()) }).await;
    assert_eq!(refused_connections(&gateway, "rate").await, 1);
    // What has been held back long enough is taken again.
    wait_until("another connection", || async { (!is_refused(&gateway).await).then_some(()) }).await;
}

/// Whether a new connection is closed without a word. One that is taken answers what is no TLS with an alert.
async fn is_refused(gateway: &Gateway) -> bool {
    let authority = gateway.url.strip_prefix("https://").unwrap();
    let mut stream = TcpStream::connect(authority).await.expect("somebody listens");
    // It may be closed already, which the read finds out.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let mut byte = [0];
    !matches!(stream.read(&mut byte).await, Ok(1))
}

/// How many connections `/metrics` says were refused, for this reason.
async fn refused_connections(gateway: &Gateway, reason: &str) -> u64 {
    let answer = gateway.http().get(&format!("{}/metrics", gateway.operations), None).await;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let name = format!("portcullis_connections_refused_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}
