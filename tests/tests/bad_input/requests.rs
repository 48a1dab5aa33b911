//! Requests that two readers could understand differently, that nobody can understand, or that claim what is not theirs.

use http::StatusCode;
use portcullis_audit::{End, Outcome};
use portcullis_tests::{Cluster, Gateway, Http2Answer, RawHttp2};

use super::Door;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const CONFIGMAPS: &str = "/api/v1/namespaces/shop/configmaps";

/// What it is, and its headers as they are sent, pseudo-headers among them.
type Headers<'a> = (&'a str, &'a [(&'a str, &'a str)]);

async fn door() -> Door {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    Door::open(cluster, gateway).await
}

#[tokio::test]
async fn malformed_heads_are_refused_by_the_parser_and_on_record() {
    let door = door().await;
    let get = |header: &str| door.head("GET", PODS, &[header]);
    for (what, bytes, status) in [
        ("no HTTP", "\x16\x03\x01 hello\r\n\r\n".to_owned(), 400),
        ("a header without a colon", get("X-Broken"), 400),
        ("a space before the colon", get("X-Broken : 1"), 400),
        ("a space in a header's name", get("X Broken: 1"), 400),
        ("a NUL in a header's value", get("X-Broken: a\0b"), 400),
        ("an unknown version", door.head("GET", PODS, &[]).replace("HTTP/1.1", "HTTP/1.7"), 400),
        ("a folded header", get("X-Broken: a\r\n b"), 400),
        ("a header of 100 KiB", get(&format!("X-Long: {}", "x".repeat(100 << 10))), 431),
        ("a thousand headers", get("X-Many: 1\r\n".repeat(1000).trim_end()), 431),
        ("a target of 100 KiB", door.head("GET", &format!("{PODS}?x={}", "x".repeat(100 << 10)), &[]), 431),
    ] {
        door.refuses(what, bytes, (status, "")).await;
    }
    door.holds().await;
}

#[tokio::test]
async fn oversized_heads_are_refused_over_http2_too() {
    let door = door().await;
    let long = door.gateway.request("GET", PODS, &door.token).header("x-long", "x".repeat(100 << 10));
    let answer = door.gateway.http().send(long.body("").unwrap()).await;
    assert_eq!(
        (answer.version(), answer.status()),
        (http::Version::HTTP_2, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    );
    door.holds().await;
}

#[tokio::test]
async fn duplicate_headers_are_two_answers_to_one_question() {
    let door = door().await;
    let ambiguous = (400, "kube/ambiguous-headers");
    for header in [
        "Authorization: Bearer other",
        "Host: elsewhere",
        "Content-Type: application/json\r\nContent-Type: application/yaml",
        "Impersonate-User: a\r\nImpersonate-User: b",
        "Expect: 100-continue\r\nExpect: 100-continue",
    ] {
        door.refuses(header, door.head("GET", PODS, &[header]), ambiguous).await;
    }
    let elsewhere = door.head("GET", &format!("https://elsewhere{PODS}"), &[]);
    door.refuses("a target that is for another host", elsewhere, ambiguous).await;
    let nowhere = door.head("GET", PODS, &[]).replace("Host: gateway\r\n", "");
    door.refuses("no host at all (RFC 9112 §3.2)", nowhere, (400, "")).await;
    let bytes = b"Authorization: Bearer \xff\xfe";
    let mut binary = door.head("GET", PODS, &["X-Here: 1"]).into_bytes();
    let at = binary.windows(14).position(|window| window == b"Authorization:").unwrap();
    let end = at + binary[at..].iter().position(|byte| *byte == b'\r').unwrap();
    binary.splice(at..end, bytes.iter().copied());
    door.refuses("a credential that is no text", binary, ambiguous).await;
    door.holds().await;
}

#[tokio::test]
async fn nobody_becomes_somebody_else() {
    let door = door().await;
    let refused = (403, "policy/impersonation");
    for header in [
        "Impersonate-User: admin",
        "Impersonate-Group: system:masters",
        "Impersonate-Uid: 0",
        "Impersonate-Extra-Scopes: all",
        "impersonate-anything: x",
        "Connection: Impersonate-User\r\nImpersonate-User: admin",
        "Connection: close, impersonate-group\r\nImpersonate-Group: system:masters",
    ] {
        door.refuses(header, door.head("GET", PODS, &[header]), refused).await;
    }
    assert_eq!(door.seen_by_server().await, 0);
    let agent = door.gateway.kubectl("agent-ci").await.namespace("shop");
    // With what there is on a first visit: of an error while it looks around, kubectl does not say why.
    agent.run(&["get", "pods"]).await.ok();
    let said = agent.run(&["get", "pods", "--as=admin", "--as-group=system:masters"]).await.fails();
    assert!(said.contains("send the request as yourself"), "{said}");

    // What other servers might take for an identity does not pass; nor does a header that `Connection` names.
    let claims = [
        "Connection: Impersonate-User, X-Named",
        "X-Named: 1",
        "impersonate_user: admin",
        "X-Remote-User: admin",
        "X-Remote-Group: system:masters",
        "X-Forwarded-User: admin",
        "X-Forwarded-For: 10.9.8.7",
        "Audit-ID: mine",
    ];
    let answer = door.exchange(door.head("GET", PODS, &claims)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = door.cluster.events_since(door.mark).await;
    let event = seen.iter().find(|event| event.request_uri.contains(&door.probe)).expect("it arrived");
    assert_eq!(event.effective_user().username, "agent-ci");
    assert_eq!(event.effective_user().groups, ["agents", "system:authenticated"]);
    assert_eq!(event.source_ips, ["127.0.0.1"]);
    assert_eq!(answer.headers["audit-id"], *event.audit_id, "the id is ours");
    assert_ne!(event.audit_id, "mine");
    door.serves().await;
}

#[tokio::test]
async fn ambiguous_paths_are_refused_and_odd_names_are_not() {
    let door = door().await;
    let ambiguous = (400, "kube/ambiguous-path");
    for path in [
        "/api/v1//namespaces/shop/pods",
        "//api/v1/namespaces/shop/pods",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/shop/../kube-system/secrets",
        "/api/v1/namespaces/shop/./pods",
        "/api/v1/namespaces/shop/%2e%2e/kube-system/secrets",
        "/api/v1/namespaces/shop%2Fpods",
        "/api/v1/namespaces/shop/pods%2ftoolbox",
        "/api/v1/namespaces/shop/pods/..%2f..%2fkube-system%2fsecrets",
        "/api/v1/namespaces/shop/secrets%00",
        "/api/v1/namespaces/shop/secrets%0a",
        "/api/v1/namespaces/shop/pods/%252e%252e",
        "/api/v1/namespaces/shop/pods/a%25b",
        "/api/v1/namespaces/shop/pods/a%5cb",
        "/api/v1/namespaces/shop/pods/a%zz",
        "/api/v1/namespaces/shop/pods/%ff",
        "/clusters//api/v1/pods",
        "/clusters/..%2f/api",
        "/%63lusters/test/api/v1/pods",
        "/%70ortcullis/api/v1/whoami",
        "/portcullis/../api/v1/pods",
        "/portcullis//api/v1/whoami",
    ] {
        door.refuses(path, door.head("GET", path, &[]), ambiguous).await;
    }
    for query in ["watch=1&watch=0", "fieldSelector=a;watch=1", "labelSelector=%zz", "dryRun=All&dryRun=None"]
    {
        let bytes = door.head("GET", &format!("{PODS}?{query}"), &[]);
        let answer = door.exchange(bytes).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(answer.refusal().starts_with("kube/ambiguous"), "{query}: {}", answer.text());
    }
    let unknown = (404, "upstream/unknown-cluster");
    let answer = door.exchange(door.head("GET", "/clusters/nowhere/api/v1/pods", &[])).await;
    assert_eq!((answer.status, answer.refusal().as_str()), unknown, "{}", answer.text());
    door.holds().await;

    // Python's client sends this; kubectl sends it decoded. It is one and the same object.
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system";
    for colon in [":", "%3A", "%3a"] {
        let answer = door.exchange(door.head("GET", &format!("{path}{colon}node"), &[])).await;
        assert_eq!(
            (answer.status, &answer.json()["metadata"]["name"]),
            (200, &"system:node".into()),
            "{colon}"
        );
    }
    assert_eq!(door.seen_by_server().await, 3);
}

#[tokio::test]
async fn bodies_that_cannot_be_judged_are_refused() {
    let door = door().await;
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"never"}}"#;
    let post = |headers: &[&str], body: &str| {
        let length = format!("Content-Length: {}", body.len());
        let headers = [&["Content-Type: application/json", &length], headers].concat();
        door.head("POST", CONFIGMAPS, &headers) + body
    };
    for encoding in ["gzip", "deflate", "br", "identity, gzip", "x-unknown"] {
        let bytes = post(&[&format!("Content-Encoding: {encoding}")], body);
        door.refuses(encoding, bytes, (415, "policy/content-encoding")).await;
    }
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(4 << 20));
    door.refuses("four megabytes", post(&[], &large), (413, "policy/too-large")).await;
    let chunk = "10000\r\n".to_owned() + &"x".repeat(1 << 16) + "\r\n";
    let chunked =
        door.head("POST", CONFIGMAPS, &["Content-Type: application/json", "Transfer-Encoding: chunked"]);
    door.refuses("four megabytes in chunks", chunked + &chunk.repeat(64), (413, "policy/too-large")).await;

    for (what, chunks) in [
        ("a chunk's size that is no number", "zz\r\nx\r\n0\r\n\r\n"),
        ("a chunk's size beyond all bounds", "fffffffffffffffff\r\nx\r\n0\r\n\r\n"),
        ("a negative chunk", "-1\r\nx\r\n0\r\n\r\n"),
        ("a chunk longer than it says", "1\r\nxyz\r\n0\r\n\r\n"),
    ] {
        let head =
            door.head("POST", CONFIGMAPS, &["Content-Type: application/json", "Transfer-Encoding: chunked"]);
        door.refuses(what, head + chunks, (400, "policy/body-incomplete")).await;
    }
    // A client that says it sends more than it does, and goes: there is nobody to answer.
    let mut connection = door.connect().await;
    let head = door.head("POST", CONFIGMAPS, &["Content-Type: application/json", "Content-Length: 1000"]);
    connection.send(head + body).await;
    connection.close_write().await;
    connection.rest().await;
    let incomplete = door.gateway.wait_for_record("a body that broke off", |records| {
        let gone = |outcome: &&Outcome| outcome.request_bytes == body.len() as u64;
        records.outcomes().find(gone).map(|outcome| (outcome.end, outcome.intent))
    });
    let (end, intent) = incomplete.await;
    assert!(end != End::Completed && intent.is_none(), "{end:?} {intent:?}");
    door.holds().await;
}

#[tokio::test]
async fn nothing_is_smuggled_past_the_framing() {
    let door = door().await;
    let smuggled = door.head("GET", "/api/v1/namespaces/shop/secrets?smuggled=1", &[]);
    let chunked = format!("0\r\n\r\n{smuggled}");
    let post = |headers: &[&str], body: &str| {
        let headers = [&["Content-Type: application/json"], headers].concat();
        door.head("POST", CONFIGMAPS, &headers) + body
    };
    let length = format!("Content-Length: {}", chunked.len());
    let unreadable = [
        ("two lengths", post(&["Content-Length: 5", "Content-Length: 6"], "123456")),
        ("a list of lengths", post(&["Content-Length: 6, 6"], "123456")),
        ("a length with a sign", post(&["Content-Length: +6"], "123456")),
        ("a length that is no number", post(&["Content-Length: 6x"], "123456")),
        ("a coding that is not chunked", post(&["Transfer-Encoding: identity"], &chunked)),
        ("a coding that looks like chunked", post(&["Transfer-Encoding: xchunked"], &chunked)),
        ("chunked, and something on top", post(&["Transfer-Encoding: chunked, gzip"], &chunked)),
        ("a folded coding", post(&["Transfer-Encoding:\r\n chunked", &length], &chunked)),
        ("a coding behind a tab", post(&["Transfer-Encoding\t: chunked", &length], &chunked)),
        (
            "chunked in HTTP/1.0",
            post(&["Transfer-Encoding: chunked"], &chunked).replace("HTTP/1.1", "HTTP/1.0"),
        ),
    ];
    for (what, bytes) in unreadable {
        door.refuses(what, &bytes, (400, "")).await;
        // Whatever came behind it is not taken for a request.
        let mut connection = door.connect().await;
        connection.send(&bytes).await;
        connection.answer().await;
        let rest = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(!rest.contains("HTTP/1.1"), "{what}: {rest}");
    }
    assert_eq!(door.seen_by_server().await, 0);

    // Here the RFC says how to read it (RFC 9112 §6.3): chunked wins, and the connection ends with the answer. On the way to
    // the server there is one framing only, ours: it sees one request, which is not what it looks like to whoever counts.
    for (what, bytes) in [
        ("Content-Length and chunked", post(&[&length, "Transfer-Encoding: chunked"], &chunked)),
        ("chunked and Content-Length", post(&["Transfer-Encoding: chunked", &length], &chunked)),
    ] {
        let mut connection = door.connect().await;
        connection.send(&bytes).await;
        let answer = connection.answer().await;
        assert_eq!(
            (answer.status, &answer.headers["connection"]),
            (400, &"close".parse().unwrap()),
            "{what}"
        );
        assert_eq!(connection.rest().await, b"", "{what}");
    }
    let twice = door.exchange(post(&["Content-Length: 6", "Content-Length: 6"], "123456")).await;
    assert_eq!(twice.status, 400, "{}", twice.text());
    assert_eq!(door.seen_by_server().await, 3);
    let seen = door.cluster.events_since(door.mark).await;
    assert!(!seen.iter().any(|event| event.request_uri.contains("smuggled")));
    door.serves().await;
}

/// What comes over HTTP/2 leaves over HTTP/1.1, where lengths, codings and line ends are what separates requests.
#[tokio::test]
async fn nothing_is_smuggled_from_http2_into_http1() {
    let door = door().await;
    let authorization = format!("Bearer {}", door.token);
    let probe = &door.probe;
    let (pods, configmaps) = (format!("{PODS}?probe={probe}"), format!("{CONFIGMAPS}?probe={probe}"));
    let smuggled =
        format!("{{}}GET /api/v1/namespaces/shop/secrets?smuggled={probe} HTTP/1.1\r\nHost: g\r\n\r\n");
    let base = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", &*configmaps),
        (":authority", "gateway"),
        ("authorization", &*authorization),
        ("content-type", "application/json"),
    ];
    let length = smuggled.len().to_string();
    let reset: &[Headers<'_>] = &[
        ("a length below what comes", &[("content-length", "2")]),
        ("a length beyond what comes", &[("content-length", "5000")]),
        ("no length at all", &[("content-length", "")]),
        ("a length with a sign", &[("content-length", "+2")]),
        ("a list of lengths", &[("content-length", "2, 2")]),
        ("two lengths, the first one true", &[("content-length", &length), ("content-length", "2")]),
        ("chunked", &[("transfer-encoding", "chunked")]),
        ("chunked, and a length", &[("transfer-encoding", "chunked"), ("content-length", &length)]),
        ("a name in capitals", &[("Transfer-Encoding", "chunked")]),
        ("a name with a colon", &[("x: 1\r\ntransfer-encoding", "chunked")]),
        ("a value of two lines", &[("x-here", "1\r\ntransfer-encoding: chunked")]),
        ("a header for the connection", &[("connection", "close, authorization")]),
        ("keep-alive", &[("keep-alive", "timeout=5")]),
        ("an upgrade", &[("upgrade", "websocket")]),
        ("te that is not trailers", &[("te", "chunked")]),
        ("a second path behind the headers", &[(":path", &pods)]),
    ];
    let ambiguous: &[Headers<'_>] = &[
        ("another host", &[("host", "elsewhere")]),
        ("two hosts", &[("host", "gateway"), ("host", "elsewhere")]),
    ];
    let refusal = Some((400, "kube/ambiguous-headers".to_owned()));
    let cases = reset.iter().map(|case| (case, &None)).chain(ambiguous.iter().map(|case| (case, &refusal)));
    for ((what, headers), expected) in cases {
        let mut connection = RawHttp2::open(&door.gateway.url, &door.gateway.ca()).await;
        let answer = connection.exchange(&[&base, *headers].concat(), Some(smuggled.as_bytes())).await;
        assert_eq!(answer.refusal(), *expected, "{what}: {answer:?}");
        // A stream that is reset leaves the connection to others.
        if matches!(answer, Http2Answer::Answer(..) | Http2Answer::Reset(_)) {
            let get =
                [(":method", "GET"), (":scheme", "https"), (":path", "/version"), (":authority", "gateway")];
            let next = connection.exchange(&[&get[..], &[base[4]]].concat(), None).await;
            assert!(matches!(next, Http2Answer::Answer(200, _)), "{what}: then {next:?}");
        }
    }
    let odd: &[Headers<'_>] = &[
        ("a path of two lines", &[base[0], base[1], (":path", "/x HTTP/1.1\r\nx: y"), base[3]]),
        ("a path with a space", &[base[0], base[1], (":path", "/version HTTP/1.1"), base[3]]),
        ("a path that is none", &[base[0], base[1], (":path", "*"), base[3]]),
        (
            "a method of two lines",
            &[(":method", "GET /x HTTP/1.1\r\nx: y\r\n\r\nGET"), base[1], base[2], base[3]],
        ),
        ("an authority of two lines", &[base[0], base[1], base[2], (":authority", "gateway\r\nx: y")]),
    ];
    for (what, pseudo) in odd {
        let mut connection = RawHttp2::open(&door.gateway.url, &door.gateway.ca()).await;
        let answer = connection.exchange(&[pseudo, &base[4..]].concat(), Some(b"{}")).await;
        let refused = answer.refusal().is_none_or(|(status, _)| (400..500).contains(&status));
        assert!(refused, "{what}: {answer:?}");
    }
    door.holds().await;

    // This one is what it says, and for the server to judge: one request, with a body that is no object.
    let mut connection = RawHttp2::open(&door.gateway.url, &door.gateway.ca()).await;
    let whole = [&base[..], &[("content-length", &*length), ("host", "gateway")]].concat();
    let answer = connection.exchange(&whole, Some(smuggled.as_bytes())).await;
    assert_eq!(answer.refusal(), Some((400, String::new())), "{answer:?}");
    assert_eq!(door.seen_by_server().await, 1);
    let seen = door.cluster.events_since(door.mark).await;
    assert!(!seen.iter().any(|event| event.request_uri.contains("smuggled")), "{seen:?}");
    door.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn requests_in_one_write_are_judged_one_by_one() {
    let door = door().await;
    let allowed = door.head("GET", PODS, &[]);
    let refused = door.head("GET", "/api/v1/namespaces/shop%2Fpods", &[]);
    let anonymous = format!("GET {PODS}?probe={} HTTP/1.1\r\nHost: gateway\r\n\r\n", door.probe);
    let mut connection = door.connect().await;
    connection.send([&*allowed, &refused, &anonymous, &allowed].concat()).await;
    for status in [200, 400, 401, 200] {
        assert_eq!(connection.answer().await.status, status);
    }
    assert_eq!(door.seen_by_server().await, 2);
    door.serves().await;
}

#[tokio::test]
async fn methods_that_nobody_serves_are_refused() {
    let door = door().await;
    let authorization = format!("Authorization: Bearer {}", door.token);
    let connect = format!("CONNECT gateway:443 HTTP/1.1\r\nHost: gateway:443\r\n{authorization}\r\n\r\n");
    door.refuses("CONNECT", connect, (400, "kube/ambiguous-path")).await;
    door.holds().await;
    for method in ["TRACE", "FOO"] {
        let answer = door.exchange(door.head(method, PODS, &[])).await;
        assert!((400..500).contains(&answer.status), "{method}: {} {}", answer.status, answer.text());
    }
    door.serves().await;
}
