//! The test cluster itself, reached directly: if one of these fails, no end-to-end test of the
//! gateway means anything.

use portcullis_tests::{Cluster, HttpClient, Idp, Transport, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn kubectl_reads_writes_and_waits() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace("direct").await;
    let kubectl = cluster.admin().namespace(&namespace);

    assert!(kubectl.run(&["get", "namespaces"]).await.ok().contains("shop"));
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours}\ndata: {sky: blue}\n";
    kubectl.run_with_input(&["apply", "-f", "-"], manifest).await.ok();
    kubectl.run_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest).await.ok();
    let sky = kubectl.run(&["get", "configmap", "colours", "-o", "jsonpath={.data.sky}"]).await.ok();
    assert_eq!(sky, "blue");

    kubectl.run(&["create", "deployment", "d", "--image=none", "--", "sh", "-c", "sleep 1000"]).await.ok();
    kubectl.run(&["rollout", "status", "deployment/d", "--timeout=50s"]).await.ok();
    kubectl.run(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=50s"]).await.ok();
    assert_eq!(kubectl.run(&["get", "pods", "-o", "name"]).await.ok(), "");
}

#[tokio::test]
async fn a_pod_runs_its_command_and_says_how_it_ended() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace("run").await;
    let kubectl = cluster.admin().namespace(&namespace);
    let run =
        ["run", "p", "--image=none", "--restart=Never", "--command", "--", "sh", "-c", "echo out; exit 4"];
    kubectl.run(&run).await.ok();
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/p", "--timeout=50s"]).await.ok();
    assert_eq!(kubectl.run(&["logs", "p"]).await.ok(), "out\n");
    let code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(kubectl.run(&["get", "pod", "p", "-o", code]).await.ok(), "4");
}

#[tokio::test]
async fn a_deleted_namespace_goes_away() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace("gone").await;
    cluster.admin().run(&["delete", "namespace", &namespace, "--timeout=50s"]).await.ok();
    assert!(cluster.admin().run(&["get", "namespace", &namespace]).await.fails().contains("NotFound"));
}

#[tokio::test]
async fn exec_keeps_streams_and_exit_code_apart() {
    let cluster = Cluster::from_env();
    for transport in Transport::BOTH {
        let kubectl = cluster.admin().namespace("shop").transport(transport);
        let exec =
            kubectl.run(&["exec", "toolbox", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        assert_eq!((exec.out().as_str(), exec.code()), ("out\n", Some(3)), "{transport:?}: {exec}");
        assert!(exec.err().starts_with("err\n"), "{transport:?}: {exec}");

        // Half-close: cat ends when our end of its input does.
        let echoed =
            kubectl.run_with_input(&["exec", "-i", "toolbox", "--", "cat"], vec![b'x'; 1 << 20]).await;
        assert_eq!(echoed.ok().len(), 1 << 20, "{transport:?}");
    }
}

#[tokio::test]
async fn exec_gives_a_terminal_of_the_clients_size() {
    let cluster = Cluster::from_env();
    for transport in Transport::BOTH {
        let kubectl = cluster.admin().namespace("shop").transport(transport);
        let mut shell = kubectl.start_on_terminal(&["exec", "-it", "toolbox", "--", "sh"], 33, 101);
        // A shell asks before the first size has come; so ask until it is there.
        shell.write("until stty size | grep '33 101'; do :; done; exit 5\n").await;
        let said = shell.ended().await;
        assert!(said.out().contains("33 101"), "{transport:?}: {said}");
        assert_eq!(said.code(), Some(5), "{transport:?}: {said}");
    }
}

#[tokio::test]
async fn logs_are_followed_and_attached_to() {
    let cluster = Cluster::from_env();
    for transport in Transport::BOTH {
        let kubectl = cluster.admin().namespace("shop").transport(transport);
        let mut logs = kubectl.start(&["logs", "-f", "toolbox", "--tail=1"]);
        logs.wait_for_output(|text| text.matches("toolbox tick").count() >= 3).await;
        let mut attached = kubectl.start(&["attach", "toolbox"]);
        attached.wait_for_output(|text| text.contains("toolbox tick")).await;
    }
    let last =
        cluster.admin().namespace("shop").run(&["logs", "toolbox", "--tail=2", "--timestamps"]).await.ok();
    assert_eq!(last.lines().count(), 2, "{last}");
}

#[tokio::test]
async fn files_are_copied_there_and_back() {
    let cluster = Cluster::from_env();
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n ^ (n >> 7)).to_le_bytes()).collect();
    std::fs::write(&there, &content).unwrap();
    for (transport, name) in Transport::BOTH.into_iter().zip(["cp-ws", "cp-spdy"]) {
        let kubectl = cluster.admin().namespace("shop").transport(transport);
        kubectl.run(&["cp", &there.to_string_lossy(), &format!("toolbox:{name}")]).await.ok();
        kubectl.run(&["cp", &format!("toolbox:{name}"), &back.to_string_lossy()]).await.ok();
        assert!(std::fs::read(&back).unwrap() == content, "{transport:?}");
    }
}

#[tokio::test]
async fn ports_are_forwarded() {
    let cluster = Cluster::from_env();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut reader, mut writer) = stream.split();
            // Fails when the client has gone, which is how the test ends.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    for transport in Transport::BOTH {
        let front = free_port();
        let ports = format!("{front}:{behind}");
        let kubectl = cluster.admin().namespace("shop").transport(transport);
        let mut forward = kubectl.start(&["port-forward", "pod/toolbox", &ports]);
        forward.wait_for_output(|text| text.contains("Forwarding from 127.0.0.1")).await;
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", front)).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hello", "{transport:?}");
    }
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what() {
    let cluster = Cluster::from_env();
    let mark = cluster.audit_log().mark();
    let kubectl = cluster.admin().namespace("shop");
    kubectl
        .run(&["get", "secret", "db", "--as=ada", "--as-group=agents", "--as-user-extra=task=t1"])
        .await
        .ok();
    let events = cluster.events_since(mark).await;
    let get = events.iter().find(|event| event.effective_user().username == "ada" && event.verb == "get");
    let get = get.expect("the request is in the log");
    let object = get.object_ref.as_ref().expect("a Secret");
    assert_eq!((object.resource.as_str(), object.name.as_str()), ("secrets", "db"));
    assert_eq!(get.effective_user().extra["task"], ["t1"]);
    assert_eq!(get.code(), Some(200));
}

#[tokio::test]
async fn the_gateways_own_user_may_impersonate_and_nothing_else() {
    let cluster = Cluster::from_env();
    let kubectl = portcullis_tests::Kubectl::new(cluster.gateway_kubeconfig()).namespace("shop");
    kubectl.run(&["get", "pods"]).await.fails();
    let agent = ["--as=ada", "--as-group=agents", "--as-uid=7", "--as-user-extra=portcullis.dev/task=t"];
    let asked = |what: &[&str]| kubectl.run(&[what, &agent].concat());
    asked(&["get", "pods"]).await.ok();
    assert!(asked(&["delete", "node", "local"]).await.fails().contains("Forbidden"));
}

#[tokio::test]
async fn the_identity_provider_signs_what_it_publishes() {
    let idp = Idp::start().await;
    let http = HttpClient::new(&idp.ca());
    let discovery = http.get(&format!("{}/.well-known/openid-configuration", idp.issuer), None).await;
    let discovery: serde_json::Value = serde_json::from_slice(discovery.body()).unwrap();
    assert_eq!(discovery["issuer"], idp.issuer.as_str());

    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        idp.token("agent-ci").algorithm(algorithm).mint().await;
        idp.token("dev-dana").id().algorithm(algorithm).mint().await;
    }
    let before = http.get(&format!("{}/jwks", idp.issuer), None).await;
    idp.rotate_keys().await;
    assert_ne!(before.body(), http.get(&format!("{}/jwks", idp.issuer), None).await.body());
    idp.outage(true).await;
    assert_eq!(http.get(&format!("{}/jwks", idp.issuer), None).await.status(), 503);
}
