//! What stays open, through the gateway and directly: exec, attach, cp and port-forward over
//! WebSocket and SPDY, followed logs, and watches.

use portcullis_tests::{Cluster, Finished, Gateway, Running, Transport, Twin, Twins, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts a pod on both sides, and waits until it runs.
async fn pods(twins: &Twins, name: &str, script: &str) {
    let script = format!("trap exit TERM; {script}");
    let run = ["run", name, "--image=none", "--restart=Never", "--command", "--", "sh", "-c", &script];
    twins.run(&run).await.same().ok();
    let ready = format!("pod/{name}");
    twins.run(&["wait", "--for=condition=Ready", &ready, "--timeout=50s"]).await.same().ok();
}

const IDLE: &str = "while :; do sleep 1; done";

#[tokio::test]
async fn exec_keeps_streams_and_exit_codes() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "exec").await;
    pods(&twins, "box", IDLE).await;
    for transport in Transport::BOTH {
        let exec = async |words: &[&str]| {
            twins.run_over(transport, &[&["exec", "box", "--"], words].concat()).await.same()
        };
        let said = exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        assert_eq!((said.out().as_str(), said.code()), ("out\n", Some(3)), "{transport:?}: {said}");
        assert!(said.err().starts_with("err\n"), "{transport:?}: {said}");
        // Words that a query could tear apart.
        let said = exec(&["printf", "%s|", "a b", "c&d=e", "100%", "ä", "--", "x+y", ""]).await;
        assert_eq!(said.ok(), "a b|c&d=e|100%|ä|--|x+y||", "{transport:?}");
        assert!(!exec(&["no-such-command"]).await.fails().is_empty());

        let wrong = ["exec", "box", "-c", "nothing", "--", "true"];
        assert!(twins.run_over(transport, &wrong).await.same().fails().contains("nothing"));
        let gone = ["exec", "nobody", "--", "true"];
        assert!(twins.run_over(transport, &gone).await.same().fails().contains("not found"));

        // Half-close: cat ends when our end of its input does. A megabyte does not fit any buffer.
        let megabyte: Vec<u8> = (0..1_u32 << 18).flat_map(|n| (n ^ (n >> 7)).to_le_bytes()).collect();
        for twin in twins.both() {
            let kubectl = twin.kubectl.clone().transport(transport);
            let echoed = kubectl.run_with_input(&["exec", "-i", "box", "--", "cat"], &megabyte).await;
            echoed.ok();
            assert!(echoed.stdout == megabyte, "{transport:?}: {} bytes came back", echoed.stdout.len());
        }
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "tty").await;
    pods(&twins, "box", IDLE).await;
    for transport in Transport::BOTH {
        for twin in twins.both() {
            let kubectl = twin.kubectl.clone().transport(transport);
            let mut shell = kubectl.start_on_terminal(&["exec", "-it", "box", "--", "sh"], 33, 101);
            // A shell asks before the first size has come; so ask until it is there.
            shell.write("until stty size | grep '33 101'; do :; done; tty; exit 5\n").await;
            let said = shell.ended().await;
            assert!(said.out().contains("33 101") && said.out().contains("/dev/"), "{transport:?}: {said}");
            assert_eq!(said.code(), Some(5), "{transport:?}: {said}");
        }
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn what_runs_is_attached_to() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "attach").await;
    pods(&twins, "ticks", "n=0; while :; do n=$((n+1)); echo tick $n; sleep 1; done").await;
    for (transport, name) in Transport::BOTH.into_iter().zip(["reader-ws", "reader-spdy"]) {
        for twin in twins.both() {
            let kubectl = twin.kubectl.clone().transport(transport);
            let mut attached = kubectl.start(&["attach", "ticks"]);
            attached.wait_for_output(|text| text.matches("tick").count() >= 2).await;

            // `run -i` attaches to what it starts, and its input is the container's.
            let run = ["run", "-i", "--rm", "--quiet", name, "--image=none", "--restart=Never"];
            // What it says before anybody is attached, nobody hears; so it says it again.
            let script =
                "while :; do echo ready; sleep 0.1; done & read line; kill $!; echo read $line; exit 4";
            let read = ["--command", "--", "sh", "-c", script];
            let mut running = kubectl.start(&[&run[..], &read].concat());
            running.wait_for_output(|text| text.contains("ready")).await;
            running.write("words\n").await;
            let said = running.finish().await;
            assert!(said.out().contains("read words"), "{transport:?}: {said}");
            assert_eq!(said.code(), Some(4), "{transport:?}: {said}");
        }
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn files_arrive_whole() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "cp").await;
    pods(&twins, "box", IDLE).await;
    let dir = twins.gateway.dir().join("files");
    std::fs::create_dir_all(dir.join("tree/deep")).unwrap();
    let content: Vec<u8> = (0..1_500_000_u32).flat_map(|n| (n ^ (n >> 7)).to_le_bytes()).collect();
    std::fs::write(dir.join("tree/deep/large"), &content).unwrap();
    std::fs::write(dir.join("tree/small"), "small").unwrap();
    for (transport, way) in Transport::BOTH.into_iter().zip(["ws", "spdy"]) {
        for (twin, side) in twins.both().into_iter().zip(["through", "direct"]) {
            let kubectl = twin.kubectl.clone().transport(transport);
            let copy = async |from: &str, to: &str| {
                let mut command = kubectl.command(&["cp", from, to]);
                command.current_dir(&dir);
                Running::start(command).finish().await
            };
            copy("tree", &format!("box:tree-{way}")).await.ok();
            let back = format!("back-{side}-{way}");
            copy(&format!("box:tree-{way}"), &back).await.ok();
            let read = |name: &str| std::fs::read(dir.join(&back).join(name)).unwrap();
            assert!(read("deep/large") == content, "{side} {transport:?}");
            assert!(read("small") == b"small", "{side} {transport:?}");
        }
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn ports_are_forwarded() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "ports").await;
    pods(&twins, "box", IDLE).await;
    let behind = echo().await;
    for transport in Transport::BOTH {
        for twin in twins.both() {
            let front = free_port();
            let closed = free_port();
            let (good, bad) = (format!("{front}:{behind}"), format!("{closed}:{}", free_port()));
            let kubectl = twin.kubectl.clone().transport(transport);
            let mut forward = kubectl.start(&["port-forward", "pod/box", &good, &bad]);
            forward.wait_for_output(|text| text.matches("Forwarding from 127.0.0.1").count() == 2).await;

            // Connections side by side, each with more than fits any buffer, each half-closed.
            let content = vec![b'x'; 3 << 20];
            let talk = async || {
                let stream = TcpStream::connect(("127.0.0.1", front)).await.unwrap();
                let (mut reader, mut writer) = stream.into_split();
                let mut back = Vec::new();
                let write = async {
                    writer.write_all(&content).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let (_, read) = tokio::join!(write, reader.read_to_end(&mut back));
                read.unwrap();
                back.len()
            };
            let (one, two, three) = tokio::join!(talk(), talk(), talk());
            assert_eq!([one, two, three], [3 << 20; 3], "{transport:?}");

            // Nobody listens behind the other port: that connection ends, and kubectl says why.
            let mut stream = TcpStream::connect(("127.0.0.1", closed)).await.unwrap();
            let _ = stream.write_all(b"hello").await;
            let _ = stream.read(&mut [0; 8]).await;
            forward.wait_for_error(|text| text.contains("refused")).await;
        }
    }
    twins.agree_with_the_server().await;
}

/// A server on loopback that says what it is told; returns its port.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                // Fails when the client has gone.
                if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                    let _ = writer.shutdown().await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn logs_are_followed_to_their_end() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "logs").await;
    // It goes on when told to, so that following has something to wait for.
    let script = "for n in 1 2 3 4 5; do echo line $n; done; until test -e go; do sleep 0.1; done; echo last";
    pods(&twins, "talker", script).await;
    for twin in twins.both() {
        let mut logs = twin.kubectl.start(&["logs", "-f", "talker"]);
        logs.wait_for_output(|text| text.contains("line 5")).await;
    }
    for command in [
        "logs talker --tail=2",
        "logs talker --limit-bytes=10",
        "logs talker --timestamps --since=1h",
        "logs talker --prefix --all-containers",
        "logs -l run=talker --prefix",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        twins.run(&words).await.same().ok();
    }
    twins.run(&["logs", "talker", "--previous"]).await.same().fails();

    let follow = async |twin: &Twin| -> Finished {
        let mut logs = twin.kubectl.start(&["logs", "-f", "talker"]);
        logs.wait_for_output(|text| text.contains("line 5")).await;
        assert!(!logs.out().contains("last"));
        twin.kubectl.run(&["exec", "talker", "--", "touch", "go"]).await.ok();
        logs.finish().await
    };
    let (through, direct) = tokio::join!(follow(&twins.through), follow(&twins.direct));
    let said = twins.pair(through, direct).same().ok();
    assert!(said.ends_with("last\n"), "{said}");
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn watches_tell_the_same_events() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "watch").await;
    let watch = async |twin: &Twin, format: &str| -> Finished {
        let mut watching = twin.kubectl.start(&[
            "get",
            "configmaps",
            "--watch",
            "--output-watch-events",
            "--selector=app=web",
            format,
        ]);
        twin.kubectl.run(&["create", "configmap", "one", "--from-literal=a=b"]).await.ok();
        twin.kubectl.run(&["label", "configmap", "one", "app=web"]).await.ok();
        // Each change waits to be seen, so that none can be merged with the next.
        watching.wait_for_output(|text| text.contains("ADDED")).await;
        twin.kubectl.run(&["patch", "configmap", "one", "-p", r#"{"data":{"a":"c"}}"#]).await.ok();
        watching.wait_for_output(|text| text.contains("MODIFIED")).await;
        twin.kubectl.run(&["delete", "configmap", "one"]).await.ok();
        watching.wait_for_output(|text| text.contains("DELETED")).await;
        watching.kill().await
    };
    for format in ["--output=wide", "--output=json", "--output=yaml"] {
        let (through, direct) = tokio::join!(watch(&twins.through, format), watch(&twins.direct, format));
        let said = twins.pair(through, direct).same().out();
        let seen = ["ADDED", "MODIFIED", "DELETED"].map(|event| said.matches(event).count());
        assert_eq!(seen, [1, 1, 1], "{format}: {said}");
    }
    twins.agree_with_the_server().await;
}

/// What is in an archive cannot be masked, so it passes only where the configuration says so; the client hears that.
#[tokio::test]
async fn archives_are_refused_unless_they_are_let_pass() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| config["mask"]["archives"] = "refuse".into()).await;
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("hosts");
    for transport in Transport::BOTH {
        let agent = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        let copy = agent.run(&["cp", "toolbox:/etc/hosts", &to.to_string_lossy()]).await;
        let said = copy.err();
        assert!(
            said.contains("mask/archive") && said.contains("mask.archives: pass"),
            "{transport:?}: {copy}"
        );
        let written = std::fs::read(&to).unwrap_or_default();
        assert!(written.is_empty(), "{transport:?}: something of the file arrived");
        // Everything else goes on as it was.
        assert_eq!(agent.run(&["exec", "toolbox", "--", "echo", "here"]).await.ok(), "here\n");
    }
    gateway.agrees_with_the_server().await;
}
