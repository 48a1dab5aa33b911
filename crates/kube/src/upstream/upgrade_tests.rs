//! Upgrades over real connections: a client, a gateway, and an API server behind TLS.

use std::{net::SocketAddr, sync::Arc};

use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portcullis_core::{Channel, Ended, Liveness, StreamEnd, StreamPlan};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use super::*;
use crate::{
    testbed::{Server, start_gateway},
    upgrade::tests::{Factory, Log, mask, message},
};

const EXEC: &str = "/api/v1/namespaces/shop/pods/web/exec?command=env&stdout=true";
const KEY: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// An API server whose exec says `say`, then whatever it hears, until it hears the end.
async fn api_server(say: &'static [u8]) -> Server {
    Server::start(move |mut request| {
        Box::pin(async move {
            let mut response = Response::new(Body::empty());
            let headers = request.headers().clone();
            let Some(upgrade) = headers.get(UPGRADE) else { return Response::new(Body::from("plain")) };
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgraded.await.unwrap());
                io.write_all(say).await.unwrap();
                let mut heard = [0; 1024];
                while let Ok(1..) = io.read(&mut heard).await {}
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(UPGRADE, upgrade.clone());
            response.headers_mut().insert("sec-websocket-accept", HeaderValue::from_static("x"));
            for name in [SEC_WEBSOCKET_PROTOCOL, HeaderName::from_static("x-stream-protocol-version")] {
                if let Some(offered) = headers.get(&name) {
                    let first = offered.to_str().unwrap().split(',').next().unwrap();
                    response.headers_mut().insert(name, first.parse().unwrap());
                }
            }
            response
        })
    })
    .await
}

struct Fixture {
    server: Server,
    gateway: SocketAddr,
    log: Arc<Log>,
    cut: Arc<Notify>,
    streams: TaskTracker,
}

async fn start(say: &'static [u8]) -> Fixture {
    let server = api_server(say).await;
    let streams = TaskTracker::new();
    let options = UpstreamOptions::new().streams(streams.clone());
    let upstream = Upstream::new(server.config(), options).await.unwrap();
    let (log, cut) = (Arc::new(Log::default()), Arc::new(Notify::new()));
    let (stage, notify) = (Arc::new(Factory { log: log.clone(), change: Arc::new(mask) }), cut.clone());
    let gateway = start_gateway(upstream, move |extensions| {
        StreamPlan::add(extensions, stage.clone());
        let notify = notify.clone();
        let revoked = move || -> BoxFuture<'static, Ended> {
            let notify = notify.clone();
            Box::pin(async move {
                notify.notified().await;
                Ended::Revoked
            })
        };
        Liveness::new(revoked).add_to(extensions);
    })
    .await;
    Fixture { server, gateway, log, cut, streams }
}

fn handshake(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n{headers}\r\n\r\n").into_bytes()
}

fn websocket(target: &str) -> Vec<u8> {
    let headers = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-extensions: permessage-deflate\r\nauthorization: Bearer of-the-client\r\n\
                   sec-websocket-protocol: v9.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io";
    handshake(target, headers)
}

/// The response's head, and what came with it.
async fn head(tcp: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        assert_ne!(tcp.read_buf(&mut bytes).await.unwrap(), 0);
    }
}

async fn until(tcp: &mut TcpStream, mut bytes: Vec<u8>, expected: &[u8]) {
    while bytes.len() < expected.len() {
        assert_ne!(tcp.read_buf(&mut bytes).await.unwrap(), 0);
    }
    assert_eq!(bytes, expected);
}

#[tokio::test]
async fn an_exec_is_relayed_masked_and_recorded() {
    let Fixture { server, gateway, log, streams, .. } = start(b"\x82\x08\x01hunter2").await;
    let mut client = TcpStream::connect(gateway).await.unwrap();
    // The client does not wait for the 101 before it speaks.
    let request = [websocket(EXEC), message(b"\0env\n", KEY)].concat();
    client.write_all(&request).await.unwrap();
    let (head, rest) = head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n") && head.contains("audit-id: "),
        "{head}"
    );
    until(&mut client, rest, &message(b"\x01[masked]", None)).await;

    let seen = server.last();
    assert_eq!(seen.version, http::Version::HTTP_11);
    assert_eq!(seen.header("sec-websocket-protocol"), ["v5.channel.k8s.io, v4.channel.k8s.io"]);
    assert_eq!(seen.header("sec-websocket-extensions"), [""; 0]);
    assert_eq!(seen.header("authorization"), ["Bearer gateway-token"]);
    assert_eq!(seen.header("impersonate-user"), ["bot"]);

    drop(client);
    let end = log.end().await;
    assert!(matches!(end, StreamEnd::Closed | StreamEnd::Disconnected(_)), "{end:?}");
    assert_eq!((log.text(Channel::Stdin), log.text(Channel::Stdout)), ("env\n".into(), "hunter2".into()));
    streams.close();
    streams.wait().await;
}

#[tokio::test]
async fn spdy_is_relayed_too() {
    let Fixture { server, gateway, .. } = start(b"").await;
    let mut client = TcpStream::connect(gateway).await.unwrap();
    let headers = "upgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\nx-stream-protocol-version: v9.channel.k8s.io";
    client.write_all(&handshake(EXEC, headers)).await.unwrap();
    let (head, _) = head(&mut client).await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    assert_eq!(server.last().header("x-stream-protocol-version"), ["v4.channel.k8s.io"]);
}

#[tokio::test]
async fn a_revoked_grant_ends_the_stream() {
    let Fixture { gateway, log, cut, .. } = start(b"\x82\x03\x01hi").await;
    let mut client = TcpStream::connect(gateway).await.unwrap();
    client.write_all(&websocket(EXEC)).await.unwrap();
    let (_, rest) = head(&mut client).await;
    until(&mut client, rest, &message(b"\x01hi", None)).await;
    cut.notify_waiters();
    let mut goodbye = Vec::new();
    client.read_to_end(&mut goodbye).await.unwrap();
    assert!(String::from_utf8_lossy(&goodbye).contains("the grant was revoked"));
    assert_eq!(log.end().await, StreamEnd::Cut(Ended::Revoked));
}

#[tokio::test]
async fn what_is_refused_reaches_nobody() {
    let Fixture { server, gateway, .. } = start(b"").await;
    let check = async |request: Vec<u8>, status: &str, reason: &str| {
        let mut client = TcpStream::connect(gateway).await.unwrap();
        client.write_all(&request).await.unwrap();
        let (head, mut body) = head(&mut client).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        while !String::from_utf8_lossy(&body).contains(reason) {
            assert_ne!(client.read_buf(&mut body).await.unwrap(), 0, "{}", String::from_utf8_lossy(&body));
        }
    };
    check(websocket("/api/v1/pods"), "400", "upstream/upgrade").await;
    check(websocket("/api/v1/namespaces/shop/pods/web/log?follow=true"), "400", "upstream/upgrade").await;
    check(websocket("/api/v1/namespaces/shop/pods/web/proxy/"), "400", "upstream/upgrade").await;
    check(
        handshake(EXEC, "upgrade: websocket\r\nsec-websocket-protocol: soap"),
        "400",
        "upstream/subprotocol",
    )
    .await;
    let with_body = handshake(EXEC, "upgrade: websocket\r\ncontent-length: 5");
    check([with_body, b"hello".to_vec()].concat(), "400", "upstream/upgrade").await;
    assert_eq!(server.connections(), 0);

    // The API server agreed, but the stream cannot be recorded: the client never hears of the agreement.
    let refused = EXEC.replace("command=env", "command=refuse-me");
    check(websocket(&refused), "503", "upstream/stream-refused").await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn without_an_upgrade_an_exec_is_an_ordinary_request() {
    let Fixture { server, gateway, .. } = start(b"").await;
    let mut client = TcpStream::connect(gateway).await.unwrap();
    client.write_all(&handshake(EXEC, "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__")).await.unwrap();
    let (head, _) = head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let seen = server.last();
    assert_eq!(
        (seen.header("upgrade"), seen.header("connection"), seen.header("http2-settings")),
        (vec![], vec![], vec![])
    );
}

#[tokio::test]
async fn an_upgrade_that_is_declined_passes_as_an_ordinary_answer() {
    let server = Server::start(|_: Request<Incoming>| {
        Box::pin(async {
            let mut response = Response::new(Body::from("no such pod"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        })
    })
    .await;
    let upstream = Upstream::new(server.config(), UpstreamOptions::new()).await.unwrap();
    let gateway = start_gateway(upstream, |_| {}).await;
    let mut client = TcpStream::connect(gateway).await.unwrap();
    client.write_all(&websocket(EXEC)).await.unwrap();
    let (head, _) = head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}
