//! `bench proxy`: what the whole gateway costs, beside two proxies that only carry bytes.
//!
//! Everything speaks TLS on both sides and answers the same small ConfigMap. Writes, of which the gateway has the intent on the
//! disk before it sends them on, are measured beside direct ones. Candidates take turns, round by round, so that
//! whatever else the machine does hits all of them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use portcullis_testkit::IdentityProvider;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::{
    AnyError,
    load::{Ask, Seen, Target},
    process::{Measured, find, free_port, listening, written},
};

const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/settings";
const OBJECTS: &str = "/api/v1/namespaces/shop/configmaps";
const NEW_OBJECT: &[u8] =
    br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"note-"},"data":{"text":"short"}}"#;
const WATCH: &str = "/api/v1/namespaces/shop/configmaps?watch=true";
const CONNECTIONS: usize = 32;

#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// Print one JSON object of figures last on standard output
    #[arg(long)]
    json: bool,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per candidate, round and load
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The gateway's binary
    #[arg(long, default_value = "target/release/portcullis")]
    gateway: PathBuf,
    /// Open watches to measure memory with
    #[arg(long, default_value_t = 1000)]
    watches: usize,
}

/// A candidate: a target, and the process that serves it.
struct Candidate {
    target: Target,
    process: Measured,
    reads: Load,
    /// Where they cost more than carrying bytes: the gateway, and what it is compared with.
    writes: Option<Load>,
}

/// One kind of load on a candidate, over all rounds.
#[derive(Default)]
struct Load {
    alone: Option<Seen>,
    crowded: Option<Seen>,
    cpu_seconds: f64,
}

impl Load {
    /// One round more: over one connection, then over many.
    async fn round(
        &mut self,
        target: &Target,
        process: &Measured,
        ask: &Ask,
        during: Duration,
    ) -> Result<String, AnyError> {
        let alone = target.load(ask, 1, during).await?;
        let before = process.cpu_seconds();
        let crowded = target.load(ask, CONNECTIONS, during).await?;
        self.cpu_seconds += process.cpu_seconds() - before;
        let said = format!(
            "1 connection: p50 {:.3} ms   {CONNECTIONS} connections: {:.0}/s",
            alone.quantile(0.5),
            crowded.per_second()
        );
        let merge = |so_far: &mut Option<Seen>, new: Seen| {
            *so_far = Some(match so_far.take() {
                Some(seen) => seen.merge(new),
                None => new,
            });
        };
        merge(&mut self.alone, alone);
        merge(&mut self.crowded, crowded);
        Ok(said)
    }

    fn quantile(&self, part: f64) -> Option<f64> {
        self.alone.as_ref().map(|seen| seen.quantile(part))
    }

    fn rate(&self) -> Option<f64> {
        self.crowded.as_ref().map(Seen::per_second)
    }
}

pub(crate) async fn run(args: ProxyArgs) -> Result<(), AnyError> {
    let dir = tempfile::tempdir()?;
    let bench = Bench::prepare(dir.path(), &args).await?;
    let mut candidates = bench.start(&args).await?;
    let during = Duration::from_secs(args.seconds);
    let (read, write) = (Ask::Read(OBJECT), Ask::Write(OBJECTS, Bytes::from_static(NEW_OBJECT)));
    for round in 1..=args.rounds {
        for Candidate { target, process, reads, writes } in &mut candidates {
            let (name, of) = (target.name, args.rounds);
            let said = reads.round(target, process, &read, during).await?;
            eprintln!("round {round}/{of}  {name:8}  read   {said}");
            if let Some(writes) = writes {
                let said = writes.round(target, process, &write, during).await?;
                eprintln!("round {round}/{of}  {name:8}  write  {said}");
            }
        }
    }
    let watch_kib = match candidates.iter().find(|candidate| candidate.target.name == "gateway") {
        Some(gateway) => memory_per_watch(gateway, args.watches).await?,
        None => f64::NAN,
    };
    let figures = report(&candidates, watch_kib);
    for candidate in candidates {
        candidate.process.stop().await;
    }
    bench.stub.stop().await;
    if args.json {
        println!("{figures}");
    }
    Ok(())
}

/// Opens `watches` watches, waits for the first event of each, and looks at what the process takes more than before.
async fn memory_per_watch(gateway: &Candidate, watches: usize) -> Result<f64, AnyError> {
    eprintln!("opening {watches} watches");
    let before = gateway.process.resident_kib();
    let mut open = Vec::with_capacity(watches);
    // In batches, so that it is memory that is measured and not the listener's backlog.
    for _ in 0..watches.div_ceil(50) {
        let batch = (0..50).map(|_| async {
            let mut sender = gateway.target.connect().await?;
            let mut body = sender.send_request(gateway.target.request(&Ask::Read(WATCH))?).await?.into_body();
            body.frame().await.ok_or("a watch without an event")??;
            Ok::<_, AnyError>((sender, body))
        });
        for watch in join_all(batch).await {
            open.push(watch?);
        }
    }
    Ok((gateway.process.resident_kib() - before) / open.len() as f64)
}

fn report(candidates: &[Candidate], watch_kib: f64) -> Value {
    let of = |name: &str| candidates.iter().find(|candidate| candidate.target.name == name);
    let reads = |name: &str| of(name).map(|candidate| &candidate.reads);
    let writes = |name: &str| of(name).and_then(|candidate| candidate.writes.as_ref());
    eprintln!();
    eprintln!(
        "                  p50 ms   p99 ms   added p50   added p99   requests/s   × direct   CPU µs/request"
    );
    for candidate in candidates {
        let name = candidate.target.name;
        print_row(name, "read", Some(&candidate.reads), reads("direct"));
        print_row(name, "write", candidate.writes.as_ref(), writes("direct"));
    }
    eprintln!(
        "memory of the gateway per open watch: {watch_kib:.1} KiB (TLS buffers on both sides included)"
    );
    json!({
        "direct_rps": reads("direct").and_then(Load::rate),
        "nginx_rps": reads("nginx").and_then(Load::rate),
        "envoy_rps": reads("envoy").and_then(Load::rate),
        "gateway_rps": reads("gateway").and_then(Load::rate),
        "nginx_added_p50_ms": added(reads("nginx"), reads("direct"), 0.5),
        "envoy_added_p50_ms": added(reads("envoy"), reads("direct"), 0.5),
        "gateway_added_p50_ms": added(reads("gateway"), reads("direct"), 0.5),
        "gateway_added_p99_ms": added(reads("gateway"), reads("direct"), 0.99),
        "direct_write_rps": writes("direct").and_then(Load::rate),
        "gateway_write_rps": writes("gateway").and_then(Load::rate),
        "gateway_write_added_p50_ms": added(writes("gateway"), writes("direct"), 0.5),
        "watch_kib_each": watch_kib,
    })
}

fn print_row(name: &str, kind: &str, load: Option<&Load>, direct: Option<&Load>) {
    let Some(load @ Load { alone: Some(alone), crowded: Some(crowded), cpu_seconds }) = load else { return };
    eprintln!(
        "{name:10} {kind:5} {:8.3} {:8.3} {:11.3} {:11.3} {:12.0} {:10.2} {:16.0}",
        alone.quantile(0.5),
        alone.quantile(0.99),
        added(Some(load), direct, 0.5).unwrap_or(f64::NAN),
        added(Some(load), direct, 0.99).unwrap_or(f64::NAN),
        crowded.per_second(),
        crowded.per_second() / direct.and_then(Load::rate).unwrap_or(f64::NAN),
        cpu_seconds * 1e6 / crowded.requests as f64,
    );
}

/// How much later this part of the answers comes than directly, in milliseconds.
fn added(load: Option<&Load>, direct: Option<&Load>, part: f64) -> Option<f64> {
    Some(load?.quantile(part)? - direct?.quantile(part)?)
}

/// What all candidates share: certificates, the stub, the identity provider.
struct Bench {
    dir: PathBuf,
    authority: CertificateDer<'static>,
    stub: Measured,
    stub_port: u16,
    identity: IdentityProvider,
}

impl Bench {
    async fn prepare(dir: &Path, args: &ProxyArgs) -> Result<Self, AnyError> {
        if !args.gateway.is_file() {
            let command = "cargo build --release --package=portcullis";
            return Err(format!("{} is not built: {command}", args.gateway.display()).into());
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        std::fs::write(dir.join("tls.crt"), made.cert.pem())?;
        std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem())?;
        let (cert, key, port_file) = (dir.join("tls.crt"), dir.join("tls.key"), dir.join("stub.port"));
        let stub = Measured::start(
            &std::env::current_exe()?,
            &["stub", "--cert", text(&cert)?, "--key", text(&key)?, "--port-file", text(&port_file)?],
            &dir.join("stub.log"),
        )?;
        let stub_port = written(&port_file).await?.trim().parse()?;
        let identity = IdentityProvider::builder().start().await?;
        Ok(Self { dir: dir.to_owned(), authority: made.cert.der().clone(), stub, stub_port, identity })
    }

    async fn start(&self, args: &ProxyArgs) -> Result<Vec<Candidate>, AnyError> {
        // The stub itself is measured through a process of its own too, so that no candidate shares its CPU account.
        let direct = Measured::start(Path::new("sleep"), &["86400"], &self.dir.join("direct.log"))?;
        let mut found = vec![self.candidate("direct", self.stub_port, None, direct)?];
        match find("nginx", "NGINX") {
            Some(program) => found.push(self.nginx(&program).await?),
            None => {
                eprintln!("NGINX IS NOT MEASURED: it is not installed (Debian: nginx-light; or set NGINX)")
            }
        }
        match find("envoy", "ENVOY") {
            Some(program) => found.push(self.envoy(&program).await?),
            None => {
                eprintln!(
                    "ENVOY IS NOT MEASURED: it is not installed (`cargo xtask bench proxy` does; or set ENVOY)"
                )
            }
        }
        found.push(self.gateway(&args.gateway).await?);
        Ok(found)
    }

    fn candidate(
        &self,
        name: &'static str,
        port: u16,
        token: Option<String>,
        process: Measured,
    ) -> Result<Candidate, AnyError> {
        let target = Target::new(name, port, &self.authority, token)?;
        let writes = matches!(name, "direct" | "gateway").then(Load::default);
        Ok(Candidate { target, process, reads: Load::default(), writes })
    }

    async fn nginx(&self, program: &Path) -> Result<Candidate, AnyError> {
        let (port, dir) = (free_port()?, text(&self.dir)?);
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream stub {{ server 127.0.0.1:{stub}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {dir}/tls.crt; ssl_certificate_key {dir}/tls.key;
    location / {{ proxy_pass https://stub; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }}
  }}
}}",
            stub = self.stub_port
        );
        let file = self.dir.join("nginx.conf");
        std::fs::write(&file, config)?;
        let process =
            Measured::start(program, &["-p", dir, "-c", text(&file)?], &self.dir.join("nginx.log"))?;
        listening(port).await?;
        self.candidate("nginx", port, None, process)
    }

    async fn envoy(&self, program: &Path) -> Result<Candidate, AnyError> {
        let (port, dir) = (free_port()?, text(&self.dir)?);
        let tls = json!({ "filename": format!("{dir}/tls.crt") });
        let key = json!({ "filename": format!("{dir}/tls.key") });
        let stub = json!({ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": self.stub_port } } } });
        let router = json!([{ "name": "envoy.filters.http.router", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }]);
        let config = json!({ "static_resources": {
            "listeners": [{
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
                "filter_chains": [{
                    "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "common_tls_context": { "tls_certificates": [{ "certificate_chain": tls, "private_key": key }] } } },
                    "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "in", "http_filters": router, "stream_idle_timeout": "0s",
                        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "stub", "timeout": "0s" } }] }] } } }] }] }],
            "clusters": [{ "name": "stub", "type": "STATIC", "connect_timeout": "5s",
                "load_assignment": { "cluster_name": "stub", "endpoints": [{ "lb_endpoints": [stub] }] },
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" } } }] } });
        let file = self.dir.join("envoy.json");
        std::fs::write(&file, config.to_string())?;
        let args = ["-c", text(&file)?, "--concurrency", "2", "--use-dynamic-base-id", "-l", "error"];
        let process = Measured::start(program, &args, &self.dir.join("envoy.log"))?;
        listening(port).await?;
        self.candidate("envoy", port, None, process)
    }

    /// The gateway with every layer on, as `portcullis serve` runs it.
    async fn gateway(&self, program: &Path) -> Result<Candidate, AnyError> {
        let (port, operations, dir) = (free_port()?, free_port()?, text(&self.dir)?);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "stub",
            "clusters": [{ "name": "stub", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.stub_port), "certificate-authority": format!("{dir}/tls.crt") } }],
            "users": [{ "name": "stub", "user": { "token": "stub" } }],
            "contexts": [{ "name": "stub", "context": { "cluster": "stub", "user": "stub" } }],
        });
        std::fs::write(self.dir.join("stub.kubeconfig"), kubeconfig.to_string())?;
        let config = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "Gateway",
            "listen": { "address": format!("127.0.0.1:{port}"), "tls": { "certFile": "tls.crt", "keyFile": "tls.key" } },
            "operations": { "address": format!("127.0.0.1:{operations}") },
            "stateDir": "state",
            "clusters": [{ "name": "stub", "kubeconfig": { "path": "stub.kubeconfig" } }],
            "authentication": { "jwt": [{
                "issuer": { "url": self.identity.issuer(), "audiences": ["portcullis"], "certificateAuthority": self.identity.authority().certificate_pem() },
                "claimMappings": { "username": { "claim": "sub", "prefix": "" }, "groups": { "claim": "groups", "prefix": "" } } }] },
            "limits": { "requestsPerIdentity": 100000, "streamsPerIdentity": 100000, "connectionsPerSecond": 100000, "connectionBurst": 100000 },
            "telemetry": { "log": "warn" },
        });
        let file = self.dir.join("portcullis.yaml");
        std::fs::write(&file, config.to_string())?;
        let process =
            Measured::start(program, &["serve", "--config", text(&file)?], &self.dir.join("gateway.log"))?;
        if let Err(error) = listening(port).await {
            eprintln!("{}", std::fs::read_to_string(self.dir.join("gateway.log")).unwrap_or_default());
            return Err(error);
        }
        let token = self.identity.mint("ci-agent", "portcullis", Duration::from_secs(6 * 3600))?;
        self.candidate("gateway", port, Some(token), process)
    }
}

fn text(path: &Path) -> Result<&str, AnyError> {
    path.to_str().ok_or_else(|| "a path that is not UTF-8".into())
}
