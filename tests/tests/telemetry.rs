//! What a collector gets: our spans and metrics under the names that are documented, and nothing else.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{Cluster, Collector, Gateway};

/// The value of a Secret that is written and read.
const CANARY: &str = "canary-3b1fe5c2-7d0a";

#[tokio::test]
async fn a_collector_gets_our_spans_and_metrics_and_no_secret() {
    let cluster = Cluster::from_env();
    let collector = Collector::start().await;
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["telemetry"]["otlpEndpoint"] = collector.endpoint.as_str().into();
    })
    .await;
    let token = gateway.token("agent-ci").await;
    let answer = gateway.get("/api/v1/namespaces/shop/pods", Some(&token)).await;
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["audit-id"].to_str().expect("ASCII").to_owned();
    let name = format!("canary-{}", uuid::Uuid::new_v4().simple());
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    let literal = format!("--from-literal=password={CANARY}");
    agent.run(&["create", "secret", "generic", &name, &literal]).await.ok();
    agent.run(&["get", "secret", &name, "-o", "yaml"]).await.ok();
    agent.run(&["delete", "secret", &name]).await.ok();
    assert_eq!(gateway.get("/version", Some("not.a.token")).await.status(), 401);
    // It sends what it still has when it stops.
    let said = gateway.stop().await.err();
    assert!(!said.contains("not exported"), "{said}");

    let spans = collector.spans();
    let of_request = spans.iter().find(|span| span.name == "request" && text(span, "audit_id") == Some(&id));
    let span = of_request.unwrap_or_else(|| panic!("no span of {id}: {spans:?}"));
    for (field, value) in [
        ("verb", "list"),
        ("resource", "pods"),
        ("namespace", "shop"),
        ("user", "agent-ci"),
        ("end", "completed"),
    ] {
        assert_eq!(text(span, field), Some(value), "{field}: {span:?}");
    }
    assert!(span.attributes.iter().any(|field| field.key == "http.response.status_code"), "{span:?}");

    // Spans of libraries are theirs, and those of the exporter's own connection would never end.
    let modules: BTreeSet<_> =
        spans.iter().map(|span| text(span, "code.module.name").unwrap_or(&span.name)).collect();
    assert!(modules.iter().all(|module| module.starts_with("portcullis")), "{modules:?}");

    let metrics: BTreeSet<_> = collector.metrics().into_iter().map(|metric| metric.name).collect();
    assert!(metrics.contains("portcullis_requests_total"), "{metrics:?}");

    let bytes = collector.bytes();
    for secret in [&token, CANARY, &STANDARD.encode(CANARY), "not.a.token"] {
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
            "{secret} was exported"
        );
    }
}

/// A field of a span, if it is text.
fn text<'s>(span: &'s opentelemetry_proto::tonic::trace::v1::Span, name: &str) -> Option<&'s str> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let field = span.attributes.iter().find(|field| field.key == name)?;
    match field.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}
