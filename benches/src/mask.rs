//! `bench mask`: how fast JSON is masked, beside readers and rewriters that do less, in one run on one core.
//!
//! What counts is processor time of the one thread that does it. The documents are lists as an API server writes them: Secrets, Pods, ConfigMaps, 16 MB each, in chunks as they come off a
//! connection. 1 GB is the same items again and again, so that it need not be kept.

use std::{collections::HashSet, convert::Infallible, hint::black_box, path::Path, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use jiter::{Jiter, NumberInt, Peek};
use portcullis_core::{Body, RequestInfo};
use portcullis_mask::{Caller, MaskConfig, MaskKey, MaskLayer, Masker, Piece, Rules, Scope};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::AnyError;

/// What a connection hands over at a time: a TLS record.
const CHUNK: usize = 16 * 1024;
const DOCUMENT: usize = 16_000_000;
const LARGE: usize = 1_000_000_000;

#[derive(Args)]
pub(crate) struct MaskArgs {
    /// Print one JSON object of figures last on standard output
    #[arg(long)]
    json: bool,
    /// How many rounds; each figure is its best round's
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Args)]
pub(crate) struct MaskStreamArgs {
    /// The resource whose list is masked
    resource: String,
    /// Look for everything in every string
    #[arg(long)]
    detectors: bool,
    /// How many bytes
    #[arg(long, default_value_t = LARGE)]
    bytes: usize,
}

/// A list of objects of one resource.
struct Document {
    resource: &'static str,
    head: String,
    items: String,
    scope: Scope,
    detecting: Scope,
}

const TAIL: &[u8] = b"]}";

pub(crate) async fn run(args: MaskArgs) -> Result<(), AnyError> {
    let documents = documents()?;
    let mut table = Table::default();
    for round in 1..=args.rounds {
        eprintln!("round {round}/{}", args.rounds);
        for document in &documents {
            table.round(document)?;
        }
    }
    let mut peak: f64 = 0.0;
    let mut large = Duration::ZERO;
    for document in &documents {
        let child = tokio::process::Command::new(std::env::current_exe()?)
            .args(["mask-stream", document.resource])
            .output()
            .await?;
        let said: Value = serde_json::from_slice(&child.stdout)?;
        peak = peak.max(said["mib"].as_f64().unwrap_or(f64::NAN));
        large += Duration::from_secs_f64(said["seconds"].as_f64().unwrap_or(f64::NAN));
    }
    let small = small_body().await?;
    let figures = table.report(&documents, peak, large, small);
    if args.json {
        println!("{figures}");
    }
    Ok(())
}

/// Masks a list of 1 GB and prints what that took: memory over idle, and time.
pub(crate) fn stream(args: &MaskStreamArgs) -> Result<(), AnyError> {
    let documents = documents()?;
    let document = documents.iter().find(|known| known.resource == args.resource).ok_or("no such list")?;
    let items = Bytes::from(document.items.clone());
    let comma = Bytes::from_static(b",");
    let scope = if args.detectors { &document.detecting } else { &document.scope };
    let mut masker = Masker::new(scope.clone());
    let mut pieces = Vec::with_capacity(4096);
    let idle = status("VmRSS:")?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    let began = cpu_time();
    masker.push(Bytes::from(document.head.clone()), &mut pieces)?;
    let mut passed = 0;
    while passed < args.bytes {
        for chunk in chunks(&items) {
            passed += chunk.len();
            masker.push(chunk, &mut pieces)?;
            black_box(&pieces).iter().map(length).sum::<usize>();
            pieces.clear();
        }
        masker.push(if passed < args.bytes { comma.clone() } else { Bytes::new() }, &mut pieces)?;
    }
    masker.push(Bytes::from_static(TAIL), &mut pieces)?;
    masker.finish(&mut pieces)?;
    let seconds = (cpu_time() - began).as_secs_f64();
    let mib = (status("VmHWM:")? - idle) / 1024.0;
    println!("{}", json!({ "mib": mib.max(0.0), "seconds": seconds }));
    Ok(())
}

fn documents() -> Result<Vec<Document>, AnyError> {
    let key = MaskKey::from_bytes(&[7; 32])?;
    let paths = Rules::new(&serde_yaml::from_str("packs: [kubernetes-secrets]")?, key.clone())?;
    // Every detector there is, in every string of what applications and people write.
    let everything: MaskConfig = serde_yaml::from_str(
        "{packs: [kubernetes-secrets], rules: [{name: everything, resources: ['*'], paths: ['**.*', '**[*]'],
          detectors: [private-key, jwt, bearer, aws, github, gitlab, slack, stripe, google, npm, pypi, azure, url-password,
                      authorization, high-entropy, email, iban, card]}]}",
    )?;
    let detectors = Rules::new(&everything, key)?;
    let list = |resource: &'static str, kind: &str, item: &dyn Fn(usize) -> String| {
        let mut items = String::with_capacity(DOCUMENT + 4096);
        for index in 0.. {
            if items.len() >= DOCUMENT {
                break;
            }
            if index > 0 {
                items.push(',');
            }
            items.push_str(&item(index));
        }
        let info = RequestInfo {
            is_resource_request: true,
            verb: "list".into(),
            api_version: "v1".into(),
            resource: resource.into(),
            ..RequestInfo::default()
        };
        Document {
            resource,
            head: format!(
                r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{"resourceVersion":"4711"}},"items":["#
            ),
            items,
            scope: paths.scope(&info, Caller::default()),
            detecting: detectors.scope(&info, Caller::default()),
        }
    };
    Ok(vec![
        list("secrets", "Secret", &secret),
        list("pods", "Pod", &pod),
        list("configmaps", "ConfigMap", &config_map),
    ])
}

fn metadata(kind: &str, index: usize) -> Value {
    json!({
        "name": format!("{kind}-{index:06}"),
        "namespace": format!("team-{}", index % 40),
        "uid": format!("8a1f6c1e-0d54-4f6f-9a52-{index:012x}"),
        "resourceVersion": (100_000 + index).to_string(),
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "labels": { "app.kubernetes.io/name": kind, "app.kubernetes.io/managed-by": "Helm", "tier": "backend" },
        "annotations": { "meta.helm.sh/release-name": kind, "meta.helm.sh/release-namespace": "shop" },
        "managedFields": [{
            "manager": "helm", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
            "fieldsV1": { "f:data": { ".": {}, "f:username": {}, "f:password": {} }, "f:metadata": { "f:labels": { ".": {}, "f:tier": {} } } },
        }],
    })
}

/// An item, its members in the order in which an API server writes them.
fn item(metadata: &Value, members: &[(&str, Value)]) -> String {
    let mut item = format!("{{\"metadata\":{metadata}");
    for (name, value) in members {
        item.push_str(&format!(",\"{name}\":{value}"));
    }
    item + "}"
}

/// In turn a login of 1 kB, and a certificate with its key of 7 kB.
fn secret(index: usize) -> String {
    if index.is_multiple_of(2) {
        let data = json!({ "username": "YWRtaW4=", "password": format!("aHVudGVyMi0{index:05}") });
        return item(&metadata("secret", index), &[("data", data), ("type", "Opaque".into())]);
    }
    let pem = |length: usize| {
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUM".repeat(length / 43 + 4)[..length / 4 * 4].to_owned()
    };
    let data = json!({ "ca.crt": pem(1500), "tls.crt": pem(2100), "tls.key": pem(2300) });
    item(&metadata("secret", index), &[("data", data), ("type", "kubernetes.io/tls".into())])
}

/// About 4 kB.
fn pod(index: usize) -> String {
    let env = |name: &str, value: &str| json!({ "name": name, "value": value });
    let spec = json!({
            "volumes": [{ "name": "kube-api-access-x7k2p", "projected": { "defaultMode": 420, "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            ] } }],
            "containers": [{
                "name": "app", "image": format!("registry.example.com/shop/app:1.{index}"),
                "args": ["--listen=:8080", "--log-level=info", "--feature-gates=Everything=true"],
                "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
                "env": [env("LOG_LEVEL", "info"), env("DATABASE_PASSWORD", "hunter2"), env("REGION", "eu-central-1"),
                        { "name": "NODE", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "spec.nodeName" } } }],
                "resources": { "limits": { "cpu": "500m", "memory": "512Mi" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
                "volumeMounts": [{ "name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
                "livenessProbe": { "httpGet": { "path": "/healthz", "port": "http", "scheme": "HTTP" }, "timeoutSeconds": 1, "periodSeconds": 10 },
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "nodeName": format!("node-{}", index % 100), "schedulerName": "default-scheduler",
            "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }],
    });
    let status = json!({
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.244.1.7", "qosClass": "Burstable", "startTime": "2026-01-02T03:04:06Z",
            "conditions": (["Initialized", "Ready", "ContainersReady", "PodScheduled"].iter().map(|kind| json!({
                "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:08Z" })).collect::<Vec<_>>()),
            "containerStatuses": [{ "name": "app", "state": { "running": { "startedAt": "2026-01-02T03:04:08Z" } }, "lastState": {}, "ready": true,
                "restartCount": 0, "image": "registry.example.com/shop/app:1", "started": true,
                "imageID": "registry.example.com/shop/app@sha256:0b1c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f5061728394a5b6c7d8e9fa",
                "containerID": format!("containerd://{index:064x}") }],
    });
    item(&metadata("pod", index), &[("spec", spec), ("status", status)])
}

/// About 3 kB, most of it one text with line breaks and quotes.
fn config_map(index: usize) -> String {
    let line = "server { listen 8080; location / { proxy_pass \"http://backend\"; proxy_set_header Host $host; } }\n";
    let data = json!({ "nginx.conf": line.repeat(18), "level": "info", "replicas": (index % 7).to_string() });
    item(&metadata("config", index), &[("data", data)])
}

impl Document {
    fn whole(&self) -> Vec<u8> {
        [self.head.as_bytes(), self.items.as_bytes(), TAIL].concat()
    }
}

fn chunks(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    (0..bytes.len()).step_by(CHUNK).map(|at| bytes.slice(at..bytes.len().min(at + CHUNK)))
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Verbatim(bytes) | Piece::Replacement(bytes) => bytes.len(),
    }
}

/// Masks a document in chunks; yields how many bytes came out, and how many of them are no slices of what went in.
fn mask(scope: &Scope, whole: &Bytes) -> Result<(usize, usize), AnyError> {
    let mut masker = Masker::new(scope.clone());
    let mut pieces = Vec::with_capacity(4096);
    let (mut out, mut copied) = (0, 0);
    let input = whole.as_ptr_range();
    let mut count = |pieces: &mut Vec<Piece>| {
        for piece in pieces.drain(..) {
            out += length(&piece);
            copied += match &piece {
                Piece::Verbatim(bytes) if input.contains(&bytes.as_ptr()) => 0,
                Piece::Verbatim(bytes) | Piece::Replacement(bytes) => bytes.len(),
            };
        }
    };
    for chunk in chunks(whole) {
        masker.push(chunk, &mut pieces)?;
        count(&mut pieces);
    }
    masker.finish(&mut pieces)?;
    count(&mut pieces);
    Ok((out, copied))
}

/// What somebody would write in an afternoon: parse, replace what a Secret holds, write.
fn with_serde_json(whole: &[u8]) -> Result<usize, AnyError> {
    let mut list: Value = serde_json::from_slice(whole)?;
    let secrets = list["kind"] == "SecretList";
    for item in list["items"].as_array_mut().into_iter().flatten() {
        for value in
            item["data"].as_object_mut().filter(|_| secrets).into_iter().flat_map(|data| data.values_mut())
        {
            *value = Value::String("bWFza2VkOnNlY3JldHM6MDEyMzQ1Njc4OWFiY2RlZg==".into());
        }
    }
    Ok(serde_json::to_vec(&list)?.len())
}

fn with_sonic_rs(whole: &[u8]) -> Result<usize, AnyError> {
    use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait};
    let mut list: sonic_rs::Value = sonic_rs::from_slice(whole)?;
    let secrets = list.get("kind").and_then(|kind| kind.as_str()) == Some("SecretList");
    if let Some(items) = list.get_mut("items").and_then(|items| items.as_array_mut()) {
        for item in items.iter_mut().filter(|_| secrets) {
            let Some(data) = item.get_mut("data").and_then(|data| data.as_object_mut()) else { continue };
            let names: Vec<String> = data.iter().map(|(name, _)| name.to_owned()).collect();
            for name in names {
                data.insert(&name, "bWFza2VkOnNlY3JldHM6MDEyMzQ1Njc4OWFiY2RlZg==");
            }
        }
    }
    debug_assert!(list.as_object().is_some());
    Ok(sonic_rs::to_vec(&list)?.len())
}

/// Reads every key and value, keeps nothing.
fn with_jiter(whole: &[u8]) -> Result<usize, AnyError> {
    fn value(jiter: &mut Jiter<'_>, peek: Peek) -> Result<usize, jiter::JiterError> {
        Ok(match peek {
            Peek::Object => {
                let mut size = jiter.known_object()?.map_or(0, str::len);
                if size > 0 {
                    let next = jiter.peek()?;
                    size += value(jiter, next)?;
                    while let Some(key) = jiter.next_key()? {
                        size += key.len();
                        let next = jiter.peek()?;
                        size += value(jiter, next)?;
                    }
                }
                size
            }
            Peek::Array => {
                let mut size = 0;
                let mut next = jiter.known_array()?;
                while let Some(peek) = next {
                    size += value(jiter, peek)?;
                    next = jiter.array_step()?;
                }
                size
            }
            Peek::String => jiter.known_str()?.len(),
            Peek::True | Peek::False => usize::from(jiter.known_bool(peek)?),
            Peek::Null => {
                jiter.known_null()?;
                1
            }
            number => match jiter.known_int(number)? {
                NumberInt::Int(number) => usize::from(number != 0),
                NumberInt::BigInt(_) => 1,
            },
        })
    }
    let mut jiter = Jiter::new(whole);
    let peek = jiter.peek()?;
    let size = value(&mut jiter, peek)?;
    jiter.finish()?;
    Ok(size)
}

/// Bytes a second of each way, best round of each document.
#[derive(Default)]
struct Table {
    best: Vec<(&'static str, &'static str, f64)>,
    passed: usize,
    copied: usize,
}

const MASK: &str = "portcullis-mask";
const DETECTORS: &str = "with all detectors";

impl Table {
    fn round(&mut self, document: &Document) -> Result<(), AnyError> {
        let whole = Bytes::from(document.whole());
        let mut into = whole.to_vec();
        self.time(document, "memcpy", &whole, |whole| {
            into.copy_from_slice(black_box(whole));
            black_box(&mut into);
            Ok(())
        })?;
        self.time(document, "serde_json", &whole, |whole| {
            with_serde_json(whole).map(|size| _ = black_box(size))
        })?;
        self.time(document, "sonic-rs", &whole, |whole| {
            with_sonic_rs(whole).map(|size| _ = black_box(size))
        })?;
        self.time(document, "jiter, reading", &whole, |whole| {
            with_jiter(whole).map(|size| _ = black_box(size))
        })?;
        let mut counted = (0, 0);
        self.time(document, MASK, &whole, |whole| {
            counted = mask(&document.scope, whole)?;
            Ok(())
        })?;
        self.passed += counted.0;
        self.copied += counted.1;
        self.time(document, DETECTORS, &whole, |whole| mask(&document.detecting, whole).map(drop))
    }

    fn time(
        &mut self,
        document: &Document,
        way: &'static str,
        whole: &Bytes,
        mut run: impl FnMut(&Bytes) -> Result<(), AnyError>,
    ) -> Result<(), AnyError> {
        let began = cpu_time();
        run(whole)?;
        let speed = whole.len() as f64 / (cpu_time() - began).as_secs_f64();
        match self.best.iter_mut().find(|(known, list, _)| (*known, *list) == (way, document.resource)) {
            Some((.., best)) => *best = best.max(speed),
            None => self.best.push((way, document.resource, speed)),
        }
        Ok(())
    }

    /// All lists together: the harmonic mean, since they are equally long.
    fn together(&self, way: &str) -> f64 {
        let speeds: Vec<f64> =
            self.best.iter().filter(|(known, ..)| *known == way).map(|(.., speed)| *speed).collect();
        speeds.len() as f64 / speeds.iter().map(|speed| 1.0 / speed).sum::<f64>()
    }

    fn report(&self, documents: &[Document], peak: f64, large: Duration, small: Duration) -> Value {
        eprintln!();
        eprint!("{:20}", "GB/s");
        documents.iter().for_each(|document| eprint!("{:>12}", document.resource));
        eprintln!("{:>12}", "together");
        let mut seen = HashSet::new();
        for (way, ..) in self.best.iter().filter(|(way, ..)| seen.insert(*way)) {
            eprint!("{way:20}");
            for (.., speed) in self.best.iter().filter(|(known, ..)| known == way) {
                eprint!("{:12.3}", speed / 1e9);
            }
            eprintln!("{:12.3}", self.together(way) / 1e9);
        }
        let gb_per_s = self.together(MASK) / 1e9;
        let against = |way: &str| self.together(MASK) / self.together(way);
        let large = documents.len() as f64 * LARGE as f64 / large.as_secs_f64() / 1e9;
        eprintln!("1 GB lists: {large:.3} GB/s, {peak:.1} MiB over idle at most");
        eprintln!("a body of 2 kB through MaskLayer: {:.2} µs more than without", small.as_secs_f64() * 1e6);
        json!({
            "gb_per_s": gb_per_s,
            "vs_serde_json": against("serde_json"),
            "vs_sonic_rs": against("sonic-rs"),
            "vs_jiter_read": against("jiter, reading"),
            "vs_memcpy": against("memcpy"),
            "detectors_vs_paths": self.together(DETECTORS) / self.together(MASK),
            "bytes_copied_ratio": self.copied as f64 / self.passed as f64,
            "peak_mib_1gb": peak,
            "small_body_us": small.as_secs_f64() * 1e6,
        })
    }
}

/// What [`MaskLayer`] adds to an answer of 2 kB: a Secret, headers, body and all.
async fn small_body() -> Result<Duration, AnyError> {
    const TIMES: u32 = 20_000;
    let note = "x".repeat(1100);
    let head = format!(r#"{{"kind":"Secret","apiVersion":"v1","note":"{note}","#);
    let body = Bytes::from(head + &secret(8)[1..]);
    let info = RequestInfo {
        is_resource_request: true,
        verb: "get".into(),
        api_version: "v1".into(),
        resource: "secrets".into(),
        name: "secret-7".into(),
        ..RequestInfo::default()
    };
    let service = service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Body::from(body.clone()));
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let rules = Rules::new(&MaskConfig::default(), MaskKey::from_bytes(&[7; 32])?)?;
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        best[0] = best[0].min(call(service.clone(), &info, TIMES).await?);
        best[1] =
            best[1].min(call(MaskLayer::new(rules.clone()).layer(service.clone()), &info, TIMES).await?);
    }
    Ok(best[1].saturating_sub(best[0]) / TIMES)
}

async fn call<S>(mut service: S, info: &RequestInfo, times: u32) -> Result<Duration, AnyError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let began = cpu_time();
    for _ in 0..times {
        let mut request = Request::get("/api/v1/namespaces/shop/secrets/secret-7").body(Body::empty())?;
        request.extensions_mut().insert(info.clone());
        let response = service.ready().await?.call(request).await?;
        black_box(response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes());
    }
    Ok(cpu_time() - began)
}

/// A line of `/proc/self/status`, in KiB.
fn status(name: &str) -> Result<f64, AnyError> {
    let text = std::fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// How long this thread has had a processor to itself: on a machine that has other things to do, too, an hour on the wall says
/// nothing.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
