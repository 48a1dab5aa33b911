//! The same answer in every encoding that a client may ask for: masked, and otherwise what the API server would have sent.

use std::io::Read as _;

use http::Request;
use portcullis_tests::{Answer, Cluster, Gateway, Running, python, refusal_code};
use serde_json::{Value, json};
use tokio::process::Command;

/// Strings that some reader of YAML takes for something else where they stand without quotation marks.
const ODD: [&str; 26] = [
    "yes",
    "on",
    "N",
    "null",
    "~",
    "",
    "0x1f",
    "017",
    "1e3",
    "1_000",
    "12:30:00",
    "2026-11-28",
    "2026-11-28T08:31:07Z",
    ".inf",
    "=",
    "<<",
    " x",
    "x ",
    "- x",
    "x: y",
    "x #y",
    "*x",
    "\u{85}",
    "a\tb",
    "x \ny\n\n",
    "\"x\"",
];

fn annotations(settings: String) -> Value {
    let mut annotations = json!({ "settings": settings });
    for (n, text) in ODD.iter().enumerate() {
        annotations[format!("odd-{n}")] = (*text).into();
    }
    annotations
}

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
                    "annotations": annotations(settings),
                }, "data": {"password": "aHVudGVyMg=="}})
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        cluster.admin().namespace(&namespace).run_with_input(&["create", "-f", "-"], list).await.ok();
        let token = gateway.token("agent-ci").await;
        Self { gateway, token, base: format!("/api/v1/namespaces/{namespace}") }
    }

    /// The list of all Secrets, at one moment: its version is the cluster's, which goes on.
    #[expect(clippy::expect_used, reason = "without it there is no test")]
    async fn list(&self) -> String {
        let list = self.get("secrets?limit=1", "application/json", "identity").await;
        let list: Value = serde_json::from_slice(list.body()).expect("JSON");
        let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
        format!("secrets?resourceVersion={version}&resourceVersionMatch=Exact")
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
    let path = stage.list().await;
    // (A Table says how old things are, and would differ.)
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    for accept in ["application/json", protobuf, metadata] {
        let plain = stage.get(&path, accept, "identity").await;
        assert_eq!(header(&plain, "content-encoding"), "", "{accept}");
        assert!(plain.body().len() > 200_000, "{accept}: {}", plain.body().len());
        let compressed = stage.get(&path, accept, "gzip, deflate").await;
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

/// YAML as Python reads it, which is YAML 1.1.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn as_python_reads(yaml: &[u8]) -> Value {
    let mut python = Command::new(python());
    python.args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin.buffer), sys.stdout)"]);
    let mut reader = Running::start(python);
    reader.write(yaml).await;
    reader.close_stdin();
    serde_json::from_str(&reader.finish().await.ok()).unwrap()
}

#[tokio::test]
async fn yaml_is_what_json_would_have_been() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "yaml", 3, 300).await;
    let plain = "identity";
    let metadata = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    for (path, variant) in [
        ("secrets/db-0", ""),
        (&stage.list().await, ""),
        (&stage.list().await, metadata),
        ("secrets/none", ""),
        ("secrets?limit=many", ""),
    ] {
        let yaml = stage.get(path, &format!("application/yaml{variant}"), plain).await;
        let json = stage.get(path, &format!("application/json{variant}"), plain).await;
        assert_eq!(header(&yaml, "content-type"), "application/yaml", "{path}");
        assert_eq!(yaml.status(), json.status(), "{path}");
        let meant: Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!(as_python_reads(yaml.body()).await, meant, "{path}");
        let has_data = variant.is_empty() && meant["kind"] != "Status";
        assert_eq!(yaml.body().windows(8).any(|bytes| bytes == b"bWFza2Vk"), has_data, "{path}");
    }

    // And as Go reads it.
    let yaml = stage.get("secrets/db-0", "application/yaml", plain).await;
    let label = ["label", "--local", "-f", "-", "seen=yes", "-o", "json"];
    let read = cluster.admin().run_with_input(&label, yaml.body()).await.ok();
    let read: Value = serde_json::from_str(&read).unwrap();
    let json = stage.get("secrets/db-0", "application/json", plain).await;
    let meant: Value = serde_json::from_slice(json.body()).unwrap();
    for part in ["/data", "/metadata/annotations", "/metadata/creationTimestamp", "/metadata/uid"] {
        assert_eq!(read.pointer(part), meant.pointer(part), "{part}");
    }

    // The server itself has no events in YAML: it answers 406, too.
    let watch = stage.get("secrets?watch=true&timeoutSeconds=1", "application/yaml", plain).await;
    assert_eq!((watch.status().as_u16(), refusal_code(watch.body()).as_str()), (406, "mask/not-acceptable"));
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn what_is_too_long_for_yaml_is_refused() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster, "long", 16, 240_000).await;
    let yaml = stage.get("secrets", "application/yaml", "identity").await;
    assert_eq!((yaml.status().as_u16(), refusal_code(yaml.body()).as_str()), (502, "mask/unreadable"));
    let said = String::from_utf8_lossy(yaml.body());
    assert!(said.contains("mask.limits.heldBytes") && said.contains("application/json"), "{said}");
    let one = stage.get("secrets/db-3", "application/yaml", "gzip").await;
    assert_eq!((one.status().as_u16(), header(&one, "content-encoding")), (200, "gzip"));
    stage.gateway.agrees_with_the_server().await;
}
