use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http::{HeaderMap, HeaderName, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

use super::*;
use crate::testbed::{
    Authority as Ca, Server, answer_with, code, config, plain_config, ready, start_raw, text,
};

async fn upstream(config: Config) -> Upstream {
    Upstream::new(config, UpstreamOptions::new()).await.unwrap()
}

async fn ask(upstream: &Upstream, request: Request<Body>) -> Response<Body> {
    upstream.clone().oneshot(request).await.unwrap()
}

/// An endless body of `first` and then nothing.
fn open_ended(first: &'static str) -> Body {
    let frames =
        stream::once(async move { Ok::<_, BoxError>(Frame::data(Bytes::from_static(first.as_bytes()))) });
    Body::new(StreamBody::new(frames.chain(stream::pending())))
}

#[tokio::test]
async fn the_api_server_sees_the_caller_and_nothing_the_client_claims() {
    let server = Server::start(answer_with("ok")).await;
    let mut request = ready("GET", "/api/v1/namespaces/shop/pods/web");
    let id = request.extensions().get::<AuditId>().unwrap().to_string();
    for (name, value) in [
        ("authorization", "Bearer of-the-client"),
        ("impersonate-user", "admin"),
        ("impersonate-extra-scopes", "all"),
        ("x-remote-user", "admin"),
        ("audit-id", "of-the-client"),
        ("cookie", "session=1"),
        ("connection", "authorization, impersonate-group, audit-id"),
        ("accept", "application/json"),
    ] {
        request.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
    }
    let response = ask(&upstream(server.config()).await, request).await;
    assert_eq!(
        (response.status(), response.headers()[AUDIT_ID].to_str().unwrap()),
        (StatusCode::OK, id.as_str())
    );
    assert_eq!(text(response).await, "ok");

    let seen = server.last();
    assert_eq!(seen.header("authorization"), ["Bearer gateway-token"]);
    assert_eq!(seen.header("impersonate-user"), ["bot"]);
    assert_eq!(seen.header("impersonate-group"), ["agents"]);
    assert_eq!(seen.header("audit-id"), [id]);
    assert_eq!(seen.header("accept"), ["application/json"]);
    assert_eq!(seen.header("host"), [server.address.to_string()]);
    let mut names: Vec<_> = seen.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "audit-id", "authorization", "host", "impersonate-group", "impersonate-user"]
    );
}

#[tokio::test]
async fn nothing_is_sent_without_a_record_and_an_identity() {
    let server = Server::start(answer_with("ok")).await;
    let upstream = upstream(server.config()).await;
    let check = async |spoil: fn(&mut http::Extensions), status: u16, expected: &str| {
        let mut request = ready("POST", "/api/v1/namespaces");
        spoil(request.extensions_mut());
        let response = ask(&upstream, request).await;
        assert_eq!((response.status().as_u16(), code(&response)), (status, expected));
    };
    check(|extensions| drop(extensions.remove::<Committed>()), 500, "upstream/uncommitted").await;
    check(|extensions| drop(extensions.remove::<Identity>()), 401, "upstream/no-identity").await;
    let nameless = |extensions: &mut http::Extensions| drop(extensions.insert(Identity::default()));
    check(nameless, 403, "upstream/unsendable-identity").await;
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn paths_are_forwarded_byte_for_byte_below_the_servers_own() {
    let server = Server::start(answer_with("ok")).await;
    let mut config = server.config();
    config.cluster_url = format!("https://{}/k8s/c1/", server.address).parse().unwrap();
    let set = UpstreamSet::new([
        (String::new(), upstream(server.config()).await),
        ("eu".to_owned(), upstream(config).await),
    ]);
    let check = async |target: &str, expected: Option<&str>| {
        let response = set.clone().oneshot(ready("GET", target)).await.unwrap();
        match expected {
            Some(expected) => assert_eq!(server.last().uri, expected),
            None => {
                assert_eq!((response.status().as_u16(), code(&response)), (404, "upstream/unknown-cluster"))
            }
        }
    };
    check("/api/v1/nodes/system%3anode?a=%3D+b&c", Some("/api/v1/nodes/system%3anode?a=%3D+b&c")).await;
    check("/clusters/eu/api/v1/nodes/system%3Anode?x", Some("/k8s/c1/api/v1/nodes/system%3Anode?x")).await;
    check("/clusters/eu", Some("/k8s/c1/")).await;
    check("/clusters/us/api", None).await;
    set.replace([]);
    check("/api", None).await;
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn an_upstream_that_is_down_or_talks_nonsense_is_a_502() {
    let check = async |config: Config, secret: &str| {
        let request = ready("GET", "/version");
        let trail = Trail::of(request.extensions());
        let response = ask(&upstream(config).await, request).await;
        assert_eq!((response.status().as_u16(), code(&response)), (502, "upstream/unreachable"));
        let refusal = trail.snapshot().refusal.unwrap();
        assert!(refusal.operator_detail().unwrap().contains(secret), "{refusal:?}");
        assert!(!text(response).await.contains(secret));
    };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    check(plain_config(closed), "refused").await;

    let garbage = start_raw(|mut tcp| {
        Box::pin(async move {
            let _ = tcp.read(&mut [0; 1024]).await;
            let _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        })
    })
    .await;
    check(plain_config(garbage), "invalid HTTP version").await;

    let silent = start_raw(|mut tcp| Box::pin(async move { drop(tcp.read(&mut [0; 1024]).await) })).await;
    check(plain_config(silent), "before message completed").await;

    let switching = start_raw(|mut tcp| {
        Box::pin(async move {
            let _ = tcp.read(&mut [0; 1024]).await;
            let _ = tcp
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
                .await;
        })
    })
    .await;
    check(plain_config(switching), "101").await;

    let stranger = Server::start(answer_with("ok")).await;
    check(config(stranger.address, &Ca::new()), "certificate").await;
    assert!(stranger.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_answer_the_handshake_is_a_504() {
    let mute = start_raw(|tcp| {
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(tcp);
        })
    })
    .await;
    let options = UpstreamOptions::new().connect_timeout(Duration::from_secs(5));
    let upstream = Upstream::new(config(mute, &Ca::new()), options).await.unwrap();
    let response = ask(&upstream, ready("GET", "/version")).await;
    assert_eq!((response.status().as_u16(), code(&response)), (504, "upstream/timeout"));
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_body_is_an_error_of_the_body() {
    let address = start_raw(|mut tcp| {
        Box::pin(async move {
            let _ = tcp.read(&mut [0; 1024]).await;
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        })
    })
    .await;
    let response = ask(&upstream(plain_config(address)).await, ready("GET", "/version")).await;
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_the_clients_fault() {
    let server = Server::start(|request| {
        Box::pin(async move {
            let _ = request.into_body().collect().await;
            Response::new(Body::empty())
        })
    })
    .await;
    let broken =
        stream::iter([Ok(Frame::data(Bytes::from_static(b"{"))), Err(BoxError::from("client went away"))]);
    let request = ready("POST", "/api/v1/namespaces").map(|_| Body::new(StreamBody::new(broken)));
    let response = ask(&upstream(server.config()).await, request).await;
    assert_eq!((response.status().as_u16(), code(&response)), (400, "upstream/request-body"));
}

#[tokio::test]
async fn a_gateway_that_is_not_known_says_so_itself() {
    let server = Server::start(|_| {
        Box::pin(async {
            let mut response = Response::new(Body::from("who are you?"));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        })
    })
    .await;
    let upstream = upstream(server.config()).await;
    let response = ask(&upstream, ready("GET", "/api/v1/pods")).await;
    assert_eq!((response.status().as_u16(), code(&response)), (502, "upstream/credential"));
    let proxied = ask(&upstream, ready("GET", "/api/v1/namespaces/shop/services/web/proxy/")).await;
    assert_eq!(proxied.status(), 401);
}

/// The API server allows 100 streams per HTTP/2 connection; nothing short may queue behind what is long.
#[tokio::test]
async fn long_answers_never_stall_short_ones() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let server = Server::start(|request| {
            Box::pin(async move {
                let watch = request.uri().query().is_some_and(|query| query.contains("watch"));
                Response::new(if watch { open_ended("event\n") } else { Body::from("short") })
            })
        })
        .await;
        let upstream =
            Upstream::new(server.config(), UpstreamOptions::new().protocol(protocol)).await.unwrap();
        let watches = join_all((0..250).map(|_| ask(&upstream, ready("GET", "/api/v1/pods?watch=1")))).await;
        assert!(watches.iter().all(|watch| watch.status() == 200));
        assert_eq!(server.connections(), 250);

        let response = ask(&upstream, ready("GET", "/api/v1/pods")).await;
        assert_eq!(text(response).await, "short");
        let expected = if protocol == Protocol::Http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        assert_eq!(server.last().version, expected);
        assert!(server.seen()[..250].iter().all(|seen| seen.version == Version::HTTP_11));

        for mut watch in watches {
            let first = watch.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "event\n");
        }
    }
}

#[tokio::test]
async fn idle_connections_are_used_again() {
    let server = Server::start(answer_with("ok")).await;
    let upstream = upstream(server.config()).await;
    for _ in 0..5 {
        assert_eq!(text(ask(&upstream, ready("GET", "/version")).await).await, "ok");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_length_and_trailers() {
    let echo = |request: Request<hyper::body::Incoming>| -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Response::new(Body::new(request.into_body())) })
    };
    let server = Server::start(echo).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream =
            Upstream::new(server.config(), UpstreamOptions::new().protocol(protocol)).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("42"));
        let frames = [
            Frame::data(Bytes::from_static(b"a")),
            Frame::data(Bytes::from_static(b"b")),
            Frame::trailers(trailers),
        ];
        let body = Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, BoxError>))));
        let response = ask(&upstream, ready("POST", "/api/v1/namespaces").map(|_| body)).await;
        let collected = response.into_body().collect().await.unwrap();
        let got = collected.trailers().and_then(|trailers| trailers.get("x-checksum")).cloned();
        assert_eq!(collected.to_bytes(), "ab");
        assert_eq!(got.is_some(), protocol == Protocol::Http2, "HTTP/1.1 drops undeclared trailers");

        let request = ready("POST", "/api/v1/namespaces").map(|_| Body::from("four"));
        let response = ask(&upstream, request).await;
        assert_eq!(server.last().header("content-length"), ["4"]);
        assert_eq!(text(response).await, "four");
    }
    // An open-ended request is answered before it ends.
    let request = ready("POST", "/api/v1/namespaces").map(|_| open_ended("first"));
    let mut response = ask(&upstream(server.config()).await, request).await;
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "first");
}

#[tokio::test]
async fn the_answer_is_noted_and_cleaned() {
    let server = Server::start(|_| {
        Box::pin(async {
            let mut response = Response::new(Body::from("ok"));
            for (name, value) in [(header::SET_COOKIE, "a=b"), (header::WARNING, "299 - \"old\"")] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        })
    })
    .await;
    let request = ready("GET", "/version");
    let trail = Trail::of(request.extensions());
    let response = ask(&upstream(server.config()).await, request).await;
    assert!(!response.headers().contains_key(header::SET_COOKIE));
    assert!(response.headers().contains_key(header::WARNING));
    assert!(trail.snapshot().upstream_at.is_some());
}

#[tokio::test]
async fn the_gateway_can_prove_itself_by_certificate_or_by_a_plugins_token() {
    let server = Server::start_mutual(answer_with("ok")).await;
    let mut config = server.config();
    config.auth_info.token = None;
    let refused = ask(&upstream(config.clone()).await, ready("GET", "/version")).await;
    assert_eq!((refused.status().as_u16(), server.seen().len()), (502, 0));

    let (certificate, key) = server.authority.issue("gateway");
    let encode = |pem: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    config.auth_info.client_certificate_data = Some(encode(certificate));
    config.auth_info.client_key_data = Some(encode(key).into());
    assert_eq!(ask(&upstream(config).await, ready("GET", "/version")).await.status(), 200);
    assert_eq!(server.last().header("authorization"), [""; 0]);

    let server = Server::start(answer_with("ok")).await;
    let mut config = server.config();
    config.auth_info.token = None;
    let status = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"from-plugin"}}"#;
    config.auth_info.exec = serde_json::from_value(serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [status], "interactiveMode": "Never",
    }))
    .unwrap();
    assert_eq!(ask(&upstream(config).await, ready("GET", "/version")).await.status(), 200);
    assert_eq!(server.last().header("authorization"), ["Bearer from-plugin"]);
}

#[tokio::test]
async fn a_client_certificate_in_files_is_read_again_when_it_rotates() {
    let server = Server::start_mutual(answer_with("ok")).await;
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let write = |(certificate_pem, key_pem): (String, String)| {
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
    };
    write(Ca::new().issue("gateway"));
    let authority = directory.path().join("ca.crt");
    std::fs::write(&authority, server.authority.pem()).unwrap();
    let source = ClusterSource::Explicit(Box::new(ExplicitCluster {
        certificate_authority: Some(authority),
        client_certificate: Some((certificate.clone(), key.clone())),
        ..ExplicitCluster::new(format!("https://{}", server.address).parse().unwrap())
    }));
    let upstream = Upstream::from_source(&source, UpstreamOptions::new()).await.unwrap();
    let check =
        async |status: u16| assert_eq!(ask(&upstream, ready("GET", "/version")).await.status(), status);
    check(502).await;
    write(server.authority.issue("gateway"));
    check(502).await;
    // Only for the jump: connections need a clock that does not run ahead of them.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    check(200).await;
}

#[tokio::test]
async fn a_pod_uses_its_service_account_and_follows_its_rotation() {
    let server = Server::start(answer_with("ok")).await;
    let mounted = tempfile::tempdir().unwrap();
    let token = |text: &str| std::fs::write(mounted.path().join("token"), text).unwrap();
    token("first");
    std::fs::write(mounted.path().join("ca.crt"), server.authority.pem()).unwrap();
    let address = server.address;
    let config = cluster::in_cluster(mounted.path(), |name| match name {
        "KUBERNETES_SERVICE_HOST" => Some(address.ip().to_string()),
        "KUBERNETES_SERVICE_PORT" => Some(address.port().to_string()),
        _ => None,
    });
    let upstream = upstream(config.unwrap()).await;
    let check = async |expected: &str| {
        assert_eq!(ask(&upstream, ready("GET", "/version")).await.status(), 200);
        assert_eq!(server.last().header("authorization"), [expected]);
    };
    check("Bearer first").await;
    token("second");
    check("Bearer first").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    check("Bearer second").await;
}

#[tokio::test]
async fn debug_shows_no_credential() {
    let server = Server::start(answer_with("ok")).await;
    let upstream = upstream(server.config()).await;
    assert!(!format!("{upstream:?} {:?}", UpstreamOptions::new()).contains("gateway-token"));
}
