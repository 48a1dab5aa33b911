//! The same answer in every encoding that a client may ask for: masked, and otherwise what the API server would have sent.

use std::io::Read as _;

use http::Request;
use portcullis_tests::{Answer, Cluster, Gateway};
use serde_json::{Value, json};

struct Stage {
    gateway: Gateway,
    token: String,
    /// `/api/v1/namespaces/…`
    base: String,
}

impl Stage {
    /// A gateway, and a namespace with so many Secrets of one size.
    async fn set(cluster: &Cluster, prefix: &str, count: usize, size: usize) -> Self {
        let gateway = Gateway::start(cluster).await;
        let namespace = cluster.namespace_of_agents(prefix).await;
        let items: Vec<_> = (0..count)
            .map(|n| {
                let settings: String = (0..size / 10).map(|line| format!("line {line:04}\n")).collect();
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
                    "name": format!("db-{n}"),
                    "annotations": {"settings": settings, "odd": "yes", "time": "12:30:00", "number": "0x1f"},
                }, "data": {"password": "aHVudGVyMg=="}})
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        cluster.admin().namespace(&namespace).run_with_input(&["create", "-f", "-"], list).await.ok();
        let token = gateway.token("agent-ci").await;
        Self { gateway, token, base: format!("/api/v1/namespaces/{namespace}") }
    }

    #[expect(clippy::expect_used, reason = "without it there is no test")]
    async fn get(&self, path: &str, accept: &str, encoding: &str) -> Answer {
        let request = Request::get(format!("{}{}/{path}", self.gateway.url, self.base))
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", accept)
            .header("accept-encoding", encoding);
        self.gateway.http().send(request.body("").expect("a request")).await
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn long_lists_leave_compressed_and_are_the_same() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "gzip", 40, 5000).await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    for accept in ["application/json", protobuf, "application/json;as=Table;v=v1;g=meta.k8s.io"] {
        let path = "secrets?includeObject=Object";
        let plain = stage.get(path, accept, "identity").await;
        assert_eq!(header(&plain, "content-encoding"), "", "{accept}");
        assert!(plain.body().len() > 200_000, "{accept}: {}", plain.body().len());
        let compressed = stage.get(path, accept, "gzip, deflate").await;
        assert_eq!(header(&compressed, "content-encoding"), "gzip", "{accept}");
        assert_eq!(header(&compressed, "vary"), "Accept-Encoding");
        assert_eq!(header(&compressed, "content-type"), header(&plain, "content-type"));
        assert!(compressed.body().len() < plain.body().len() / 4, "{accept}: {}", compressed.body().len());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&compressed.body()[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain.body()[..], "{accept}: it is not the same document");
        assert!(!unpacked.windows(7).any(|bytes| bytes == b"hunter2"));
    }
    for (path, encoding) in [("secrets/db-0", "gzip"), ("secrets", "gzip;q=0"), ("secrets", "identity")] {
        let plain = stage.get(path, "application/json", encoding).await;
        assert_eq!(header(&plain, "content-encoding"), "", "{path}, {encoding}");
        assert!(serde_json::from_slice::<Value>(plain.body()).is_ok());
    }
    // The events of a watch come one by one.
    let watch = stage.get("secrets?watch=true&timeoutSeconds=2", "application/json", "gzip").await;
    assert_eq!(header(&watch, "content-encoding"), "");
    assert!(watch.body().starts_with(b"{\"type\":\"ADDED\""));
    stage.gateway.agrees_with_the_server().await;
}
