//! What a gateway in the data path is sent by accident and on purpose. Each piece of it gets a clear answer, the right
//! code and a record; the API server does not see it; and the gateway goes on serving.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod config;
mod requests;
mod streams;
mod tokens;
mod upstreams;

use std::collections::BTreeSet;

use portcullis_core::EventKind;
use portcullis_tests::{Cluster, Gateway, Mark, RawAnswer, RawConnection};

/// A gateway, an agent's token, and the place in the API server's audit log where the test began.
struct Door {
    cluster: Cluster,
    gateway: Gateway,
    token: String,
    mark: Mark,
    /// Part of every query that the server must not see.
    probe: String,
}

impl Door {
    async fn open(cluster: Cluster, gateway: Gateway) -> Self {
        let token = gateway.token("agent-ci").await;
        let (mark, probe) = (cluster.audit_log().mark(), uuid::Uuid::new_v4().simple().to_string());
        Self { cluster, gateway, token, mark, probe }
    }

    async fn connect(&self) -> RawConnection {
        RawConnection::open(&self.gateway.url, &self.gateway.ca()).await
    }

    /// Sends these bytes on a connection of their own, and reads one answer.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> RawAnswer {
        self.connect().await.exchange(bytes).await
    }

    /// The head of an agent's request, with more headers.
    fn head(&self, method: &str, path: &str, headers: &[&str]) -> String {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut head = format!(
            "{method} {path}{joint}probe={} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n",
            self.probe, self.token
        );
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head + "\r\n"
    }

    /// That these bytes are refused with this status, for this reason, and that both are on record. What the HTTP parser
    /// itself refuses has no reason of ours (`""`); then the connection's end is on record.
    async fn refuses(&self, what: &str, bytes: impl AsRef<[u8]>, expected: (u16, &str)) -> RawAnswer {
        let before = self.refused_connections().await;
        let answer = self.exchange(bytes).await;
        let got = (answer.status, answer.refusal());
        assert_eq!((got.0, got.1.as_str()), expected, "{what}: {:?} {}", answer.headers, answer.text());
        if expected.1.is_empty() {
            let more = async || (self.refused_connections().await > before).then_some(());
            portcullis_tests::wait_until("a refused connection on record", more).await;
            return answer;
        }
        let id = answer.headers.get("audit-id").unwrap_or_else(|| panic!("{what}: no id: {answer:?}"));
        let id = id.to_str().expect("an id").to_owned();
        let outcome = self.gateway.wait_for_record(what, |records| {
            records.outcomes().find(|outcome| outcome.id.to_string() == id).cloned()
        });
        let outcome = outcome.await;
        assert_eq!((outcome.status, outcome.intent), (Some(expected.0), None), "{what}: {outcome:?}");
        let code = outcome.refusal.as_ref().map(|refusal| refusal.code.as_str());
        assert_eq!(code, Some(expected.1), "{what}: {outcome:?}");
        answer
    }

    async fn refused_connections(&self) -> usize {
        let records = self.gateway.records().await;
        records.events().filter(|event| event.kind == EventKind::ConnectionRefused).count()
    }

    /// How many requests with our probe the API server has seen.
    async fn seen_by_server(&self) -> usize {
        let seen = self.cluster.events_since(self.mark).await;
        let ours = seen.iter().filter(|event| event.request_uri.contains(&self.probe));
        // A stream has a line for its start and one for its end.
        ours.map(|event| event.audit_id.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// That the API server has seen none of it, and that the gateway is there for the next client.
    async fn holds(&self) {
        assert_eq!(self.seen_by_server().await, 0);
        self.serves().await;
    }

    /// That the gateway serves.
    async fn serves(&self) {
        let request = format!(
            "GET /api/v1/namespaces/shop/pods/toolbox HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\r\n",
            self.token
        );
        let answer = self.exchange(request).await;
        assert_eq!((answer.status, answer.json()["metadata"]["name"].as_str()), (200, Some("toolbox")));
    }
}
