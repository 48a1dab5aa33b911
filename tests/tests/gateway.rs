//! The harness of the gateway, and the gateway as a process: it starts, stops and starts again.

use portcullis_audit::End;
use portcullis_tests::{Cluster, Gateway, Impostor, RawConnection, RawHttp2, Running, Transport, wait_until};
use serde_json::json;

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

/// Over HTTP/2 each request has a task of its own, which its connection does not wait for.
#[tokio::test]
async fn what_its_client_leaves_while_the_gateway_stops_is_written_down() {
    const WATCHES: usize = 60;
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let authorization = format!("Bearer {}", gateway.token("agent-ci").await);
    let mut client = RawHttp2::open(&gateway.url, &gateway.ca()).await;
    for _ in 0..WATCHES {
        let headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "gateway"),
            (":path", "/api/v1/namespaces/shop/pods?watch=true"),
            ("authorization", &authorization),
        ];
        assert_eq!(client.open_stream(&headers).await, 200);
    }
    // What is open is all that it waits for.
    gateway.terminate().await;
    drop(client);
    gateway.ended().await;
    let records = gateway.records().await;
    let outcomes = records.outcomes().filter(|outcome| outcome.info.verb == "watch").count();
    assert_eq!((records.intents().count(), outcomes), (WATCHES, WATCHES));
}

#[tokio::test]
async fn what_is_open_is_cut_at_the_end_of_the_drain_and_written_down() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::configured(&cluster, |config| config["listen"]["drain"] = "2s".into()).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    let mut watch = agent.start(&["get", "pods", "--watch"]);
    watch.wait_for_output(|said| said.contains("toolbox")).await;
    let mut execs = Vec::new();
    for transport in Transport::BOTH {
        let endless = "while :; do echo tick; sleep 0.1; done";
        let agent = gateway.kubectl("agent-two").await.namespace("shop").transport(transport);
        let mut exec = agent.start(&["exec", "toolbox", "--", "sh", "-c", endless]);
        exec.wait_for_output(|said| said.contains("tick")).await;
        execs.push(exec);
    }

    gateway.terminate().await;
    let readyz = format!("{}/readyz", gateway.operations);
    wait_until("a gateway that drains", || async {
        (gateway.http().get(&readyz, None).await.status() == 503).then_some(())
    })
    .await;
    // What is open goes on, for now.
    assert!(watch.is_running() && execs.iter_mut().all(Running::is_running));

    let said = gateway.ended().await.err();
    assert!(said.contains("cutting what is still open"), "{said}");
    assert!(!said.contains("unknown"), "{said}");
    for exec in execs {
        let said = exec.ended().await.fails();
        assert!(said.contains("the gateway is shutting down"), "{said}");
    }
    watch.ended().await;

    // Each has its outcome, and each exec its recording; none is made up at the next start.
    gateway.start_again().await;
    let records = gateway.records().await;
    assert_eq!(records.outcomes().filter(|outcome| outcome.end == End::Unknown).count(), 0);
    let watched =
        records.outcomes().find(|outcome| outcome.info.verb == "watch").expect("the watch's outcome");
    assert_eq!(watched.notes["cut"], "draining", "{watched:?}");
    let streams: Vec<_> = records.outcomes().filter_map(|outcome| outcome.stream.as_ref()).collect();
    assert_eq!(streams.len(), 2);
    for stream in streams {
        assert!(stream.ended.contains("shutting down"), "{stream:?}");
        assert!(stream.recording.is_some(), "{stream:?}");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let shown = async || RawConnection::open(&gateway.url, &gateway.ca()).await.certificate().to_vec();
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    let mut watch = agent.start(&["get", "pods", "--watch"]);
    watch.wait_for_output(|said| said.contains("toolbox")).await;

    let first = shown().await;
    let second = gateway.renew_certificate();
    assert_ne!(first, second);
    wait_until("the new certificate", || async { (shown().await == second).then_some(()) }).await;
    // What is open is not disturbed.
    assert!(watch.is_running());
    watch.kill().await;
    assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
    assert!(gateway.log().contains("certificate replaced"));
}

/// What the server would speak is not the question: it is up to who runs the gateway.
#[tokio::test]
async fn it_speaks_to_each_cluster_as_it_is_told() {
    let cluster = Cluster::from_env();
    let (one, two) = tokio::join!(
        Impostor::offering(&["h2", "http/1.1"], Vec::new()),
        Impostor::offering(&["h2", "http/1.1"], Vec::new())
    );
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::configured(&cluster, |config| {
        config["clusters"][0]["protocol"] = "http2".into();
        let clusters = config["clusters"].as_array_mut().unwrap();
        let other = |name: &str, impostor: &Impostor| {
            let path = impostor.kubeconfig(directory.path(), &format!("{name}.kubeconfig"));
            json!({ "name": name, "kubeconfig": { "path": path } })
        };
        clusters.push(other("one", &one));
        clusters.push(other("two", &two));
        clusters[2]["protocol"] = "http2".into();
    })
    .await;
    let token = gateway.token("agent-ci").await;
    for (name, impostor, expected) in
        [("one", &one, "GET /version HTTP/1.1"), ("two", &two, "PRI * HTTP/2.0")]
    {
        // It says nothing back, which is another test's business.
        let answer = gateway.get(&format!("/clusters/{name}/version"), Some(&token)).await;
        assert_eq!(answer.status(), 502, "{name}: {answer:?}");
        let requests = impostor.requests();
        assert!(requests.first().is_some_and(|head| head.starts_with(expected)), "{name}: {requests:?}");
    }
    // And the real one answers over HTTP/2 what it would otherwise.
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
    agent.run(&["get", "pods", "toolbox", "-o", "yaml"]).await.ok();
    assert_eq!(agent.run(&["exec", "toolbox", "--", "echo", "here"]).await.ok(), "here\n");
    gateway.agrees_with_the_server().await;
}
