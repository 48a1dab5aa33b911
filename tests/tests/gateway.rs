//! The harness of the gateway, and the gateway as a process: it starts, stops and starts again.

use portcullis_tests::{Cluster, Gateway};

#[tokio::test]
async fn it_serves_stops_in_good_order_and_goes_on_where_it_was() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
    gateway.stop().await;
    assert!(agent.run(&["get", "pods"]).await.fails().contains("refused"));

    gateway.start_again().await;
    assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
    gateway.kill().await;

    gateway.start_again().await;
    let lists = |records: &portcullis_tests::Records| {
        records.outcomes().filter(|outcome| outcome.info.resource == "pods").count()
    };
    assert_eq!(lists(&gateway.records().await), 2);
    let config = gateway.config_file();
    let verify = ["audit", "verify", "--config", config.to_str().unwrap()];
    assert!(gateway.cli("approver-amir", &verify).await.ok().contains('✔'));
}
