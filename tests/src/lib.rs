//! The harness of the end-to-end tests: a real API server, a real identity provider and real
//! clients, each behind a few calls. `cargo xtask test --only e2e` starts what must be there first.
//!
//! ```no_run
//! use portcullis_tests::{Cluster, Gateway};
//!
//! # async fn test() {
//! let cluster = Cluster::from_env();
//! let mark = cluster.audit_log().mark();
//!
//! let kubectl = cluster.admin().namespace("shop");
//! assert!(kubectl.run(&["get", "pods"]).await.ok().contains("toolbox"));
//!
//! let seen = cluster.events_since(mark).await;
//! assert!(seen.iter().any(|event| event.verb == "list"));
//!
//! let gateway = Gateway::start(&cluster).await;
//! let agent = gateway.kubectl("agent-ci").await.namespace("shop");
//! assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
//! assert!(gateway.records().await.intents().any(|intent| intent.request.info.resource == "pods"));
//! # }
//! ```
//!
//! The harness panics where a test should fail: at a missing tool, a deadline, an unexpected exit
//! status. Nothing here waits without a deadline.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails its test by panicking")]

mod audit_log;
mod ca;
mod chance;
mod cluster;
mod collector;
mod disk;
mod evidence;
mod exec;
mod gateway;
mod http_client;
mod idp;
mod impostor;
mod kubeconfig;
mod kubectl;
mod load;
mod mcp;
mod oracle;
mod process;
mod raw;
mod raw_http2;
mod twins;
mod webhook;

pub use audit_log::{AuditEvent, AuditLog, Mark, ObjectRef, ResponseStatus, User};
pub use ca::{Issued, TestCa};
pub use chance::Chance;
pub use cluster::{Cluster, foreign_verifier, gateway_binary, go_program, helm, python, source, tool};
pub use collector::Collector;
pub use disk::Disk;
pub use evidence::Evidence;
pub use exec::{ExecEnd, ExecInput, ExecOutput, exec};
pub use gateway::{Gateway, Records, configuration, content, files_below};
pub use http_client::{Answer, HttpClient};
pub use idp::{Idp, TokenRequest};
pub use impostor::{Impostor, Step};
pub use kubeconfig::Kubeconfig;
pub use kubectl::{Kubectl, Transport};
pub use load::{Load, Told};
pub use mcp::McpServer;
pub use oracle::Comparison;
pub use process::{Finished, Running, free_port, wait_until};
pub use raw::{RawAnswer, RawConnection, refusal_code};
pub use raw_http2::{Http2Answer, RawHttp2};
pub use twins::{Both, Twin, Twins, without_chance};
pub use webhook::Webhook;
