//! What is on record of a session is what its client sent and was sent, and what the program in the container read: byte
//! by byte, over both transports, however it was cut on the way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use portcullis_audit::{End, Outcome, StreamSummary};
use portcullis_tests::{Chance, Cluster, Gateway, Kubectl, Running, Transport, exec};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Keeps its input, says what it read, gives it back; all of it in a directory that goes with the pod.
const TELL: &str = "cat > $0; sha256sum < $0; cat $0; echo kept $0 >&2; rm $0; exit 3";

#[tokio::test]
async fn any_bytes_over_websocket_cut_anywhere() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let mut chance = Chance::new(3);
    for length in [0, 1, 125, 4096, 65_536, 5 << 20] {
        let sent = chance.bytes(length);
        let name = format!("ws-{length}");
        let path = exec_path(&["sh", "-c", TELL, &name], "stdin=true&stdout=true&stderr=true");
        let opened = exec(&gateway.url, &gateway.ca(), &path, &token, chance.split()).await;
        let (mut input, mut output) = opened.unwrap();
        let sending = async {
            input.stdin(&sent).await.unwrap();
            // The rest of the connection stays open, and what the program then says still arrives.
            input.close_stdin().await.unwrap();
        };
        let (end, ()) = tokio::join!(output.end(), sending);
        assert_eq!(end.status.as_ref().unwrap()["details"]["causes"][0]["message"], "3", "{length}");
        let came = |channel: u8| end.channels.get(&channel).cloned().unwrap_or_default();
        let id = &output.id;
        let outcome = outcome(&gateway, &|outcome| outcome.id.to_string() == *id).await;
        check(&gateway, &outcome, &sent, &came(1), &came(2)).await;
        assert_eq!(outcome.stream.unwrap().transport, "webSocket");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn any_bytes_of_kubectl_over_both_transports() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let mut chance = Chance::new(5);
    for (transport, short) in [(Transport::Spdy, "spdy"), (Transport::WebSocket, "ws")] {
        let kubectl = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        for length in [1, 300_000, 5 << 20] {
            let sent = chance.bytes(length);
            let name = format!("{short}-{length}");
            let mut running = kubectl.start(&["exec", "-i", "toolbox", "--", "sh", "-c", TELL, &name]);
            for piece in chance.cut(&sent, length / 5 + 1) {
                running.write(piece).await;
            }
            let said = running.finish().await;
            assert_eq!(said.code(), Some(3), "{name}");
            let outcome = outcome(&gateway, &|outcome| outcome.command.contains(&name)).await;
            // kubectl adds why it exits with that.
            let stderr = format!("kept {name}\n");
            assert!(said.err().starts_with(&stderr), "{name}: {}", said.err());
            check(&gateway, &outcome, &sent, &said.stdout, stderr.as_bytes()).await;
            assert!(outcome.stream.unwrap().transport.starts_with(if short == "ws" {
                "webS"
            } else {
                "spdy"
            }));
        }
    }
    gateway.agrees_with_the_server().await;
}

/// Text in several scripts, on both outputs by turns: the recording keeps each whole, whatever pieces it came in.
#[tokio::test]
async fn both_outputs_by_turns() {
    let script =
        "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo \"ä€🦀 out $n\"; echo \"Ж漢 err $n\" >&2; done";
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    for (transport, short) in [(Transport::Spdy, "spdy-turns"), (Transport::WebSocket, "ws-turns")] {
        let kubectl = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        let said = kubectl.run(&["exec", "toolbox", "--", "sh", "-c", script, short]).await;
        said.ok();
        assert_eq!((said.out().lines().count(), said.err().lines().count()), (300, 300));
        let outcome = outcome(&gateway, &|outcome| outcome.command.contains(short)).await;
        check(&gateway, &outcome, b"", &said.stdout, &said.stderr).await;
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_terminal_s_sizes() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let path = exec_path(&["sh"], "stdin=true&stdout=true&tty=true");
    let opened = exec(&gateway.url, &gateway.ca(), &path, &token, Chance::new(9)).await;
    let (mut input, mut output) = opened.unwrap();
    let mut shown = Vec::new();
    for (columns, rows) in [(101, 33), (20, 5), (200, 60)] {
        input.resize(columns, rows).await.unwrap();
        let wanted = format!("size {rows} {columns}");
        let ask = format!("until echo size $(stty size) | grep '{wanted}'; do :; done\n");
        input.stdin(ask.as_bytes()).await.unwrap();
        // What the terminal echoes has a quotation mark there. A prompt may stand in front: the terminal also echoes what
        // comes before the shell has begun.
        let seen = output.until(1, format!("{wanted}\r").as_bytes()).await;
        shown.extend(seen.channels.get(&1).cloned().unwrap_or_default());
    }
    input.stdin(b"exit\n").await.unwrap();
    shown.extend(output.end().await.channels.get(&1).cloned().unwrap_or_default());
    let id = output.id.clone();
    let outcome = outcome(&gateway, &|outcome| outcome.id.to_string() == id).await;
    let stream = outcome.stream.clone().unwrap();
    assert!(stream.tty);
    assert_channel(&stream, "stdout", &shown);
    let recording = Recording::exported(&gateway, &outcome).await;
    // Where the prompt comes before the first size, the recording begins with the usual one.
    let told = recording.sizes.strip_prefix(&["80x24".to_owned()]).unwrap_or(&recording.sizes);
    assert_eq!(told, ["101x33", "20x5", "200x60"]);
    assert_eq!(recording.stdout, String::from_utf8_lossy(&shown));
    gateway.agrees_with_the_server().await;
}

/// A client that goes away in the middle: what is on record is the beginning of what it sent and was sent.
#[tokio::test]
async fn a_client_that_goes_away() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let mut chance = Chance::new(11);
    let path = exec_path(&["cat"], "stdin=true&stdout=true&stderr=true");
    for _ in 0..8 {
        let length = 1000 + chance.index(200_000);
        let sent = chance.bytes(length);
        let opened = exec(&gateway.url, &gateway.ca(), &path, &token, chance.split()).await;
        let (mut input, mut output) = opened.unwrap();
        let awaited = &sent[..1 + chance.index(900)];
        let sending = async { input.stdin(&sent).await };
        // Gone as soon as this much has come back, whatever is still under way.
        tokio::select! {
            _ = output.until(1, awaited) => {}
            _ = async { let _ = sending.await; std::future::pending::<()>().await } => {}
        }
        let id = output.id.clone();
        drop((input, output));
        let outcome = outcome(&gateway, &|outcome| outcome.id.to_string() == id).await;
        assert_eq!(outcome.end, End::Aborted, "{outcome:?}");
        let stream = outcome.stream.unwrap();
        for channel in ["stdin", "stdout"] {
            let bytes = usize::try_from(stream.channels[channel].bytes).unwrap();
            assert!(bytes >= awaited.len() && bytes <= sent.len(), "{channel}: {bytes} of {length}");
            assert_channel(&stream, channel, &sent[..bytes]);
        }
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_tree_copied_both_ways() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let mut chance = Chance::new(13);
    for (name, length) in [("a", 0), ("deep/b.bin", 1), ("deep/er/c.bin", 700_000), ("d e", 5000)] {
        let file = tree.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, chance.bytes(length)).unwrap();
    }
    for (transport, short) in [(Transport::Spdy, "spdy"), (Transport::WebSocket, "webSocket")] {
        let kubectl = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        let there = format!("tree-{short}-{}", uuid::Uuid::new_v4().simple());
        let back = dir.path().join(short);
        copy(&kubectl, &tree.to_string_lossy(), &format!("toolbox:{there}")).await;
        copy(&kubectl, &format!("toolbox:{there}"), &back.to_string_lossy()).await;
        for name in ["a", "deep/b.bin", "deep/er/c.bin", "d e"] {
            let read = |tree: &std::path::Path| std::fs::read(tree.join(name)).unwrap();
            assert!(read(&tree) == read(&back), "{short}: {name} is not what it was");
        }
        // An archive is not a session: how much it was and its digest, and no recording.
        let into = outcome(&gateway, &|outcome| is_tar(outcome, "-xmf", short)).await;
        let from = outcome(&gateway, &|outcome| is_tar(outcome, "cf", short)).await;
        for (outcome, channel) in [(into, "stdin"), (from, "stdout")] {
            let stream = outcome.stream.unwrap();
            assert_eq!(stream.recording, None);
            assert!(stream.channels[channel].bytes > 705_000, "{stream:?}");
            assert!(stream.channels[channel].sha256.is_some(), "{stream:?}");
        }
        kubectl.run(&["exec", "toolbox", "--", "rm", "-r", &there]).await.ok();
    }
    gateway.agrees_with_the_server().await;
}

async fn copy(kubectl: &Kubectl, from: &str, to: &str) {
    kubectl.run(&["cp", from, to]).await.ok();
}

fn is_tar(outcome: &Outcome, how: &str, transport: &str) -> bool {
    let stream = outcome.stream.as_ref().is_some_and(|stream| stream.transport.starts_with(transport));
    outcome.command.contains(&format!("tar {how}")) && stream
}

/// The path of an exec in `shop/toolbox`.
fn exec_path(words: &[&str], options: &str) -> String {
    let encode = |word: &str| word.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let words: String = words.iter().map(|word| format!("command={}&", encode(word))).collect();
    format!("/api/v1/namespaces/shop/pods/toolbox/exec?{words}{options}")
}

/// The outcome of a stream, once it is on record.
async fn outcome(gateway: &Gateway, is_it: &dyn Fn(&Outcome) -> bool) -> Outcome {
    let find = |records: &portcullis_tests::Records| {
        records.outcomes().find(|outcome| outcome.stream.is_some() && is_it(outcome)).cloned()
    };
    gateway.wait_for_record("the stream's outcome", find).await
}

#[track_caller]
fn assert_channel(stream: &StreamSummary, name: &str, bytes: &[u8]) {
    let recorded = stream.channels.get(name).cloned().unwrap_or_default();
    assert_eq!(recorded.bytes, bytes.len() as u64, "{name}: {stream:?}");
    if !bytes.is_empty() {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(recorded.sha256.unwrap().to_string(), digest, "{name}: {stream:?}");
    }
}

/// The digests are of these bytes, the program has read what was sent, and the recording shows what came.
async fn check(gateway: &Gateway, outcome: &Outcome, stdin: &[u8], stdout: &[u8], stderr: &[u8]) {
    let stream = outcome.stream.as_ref().unwrap();
    assert_eq!(outcome.end, End::Completed, "{outcome:?}");
    assert_channel(stream, "stdin", stdin);
    assert_channel(stream, "stdout", stdout);
    assert_channel(stream, "stderr", stderr);
    if stream.exit == Some(3) {
        let digest: String = Sha256::digest(stdin).iter().map(|byte| format!("{byte:02x}")).collect();
        let (said, back) = stdout.split_at(digest.len() + "  -\n".len());
        assert_eq!(String::from_utf8_lossy(said), format!("{digest}  -\n"), "what the program read");
        assert!(back == stdin, "{} of {} bytes came back", back.len(), stdin.len());
    }
    let recording = Recording::exported(gateway, outcome).await;
    assert!(recording.stdout == String::from_utf8_lossy(stdout), "{}: its output", outcome.command);
    assert_eq!(recording.stderr, String::from_utf8_lossy(stderr), "{}", outcome.command);
    assert_eq!(recording.exit, stream.exit.unwrap().to_string());
}

/// A recording as `portcullis sessions export -o asciicast` gives it.
#[derive(Default)]
struct Recording {
    stdout: String,
    stderr: String,
    sizes: Vec<String>,
    exit: String,
}

impl Recording {
    async fn exported(gateway: &Gateway, outcome: &Outcome) -> Self {
        let ledger = gateway.state_dir().join("ledger");
        let (id, to) = (outcome.id.to_string(), gateway.dir().join(format!("{}.cast", outcome.id)));
        let export = ["sessions", "export", &id, "-o", "asciicast", "--out", to.to_str().unwrap()];
        let mut command = gateway.command(&export);
        command.arg("--ledger").arg(ledger);
        Running::start(command).finish().await.ok();
        let cast = std::fs::read_to_string(to).unwrap();
        let mut recording = Self::default();
        let mut on_stderr = false;
        let mut lines = cast.lines();
        // The size that came before anything else is in the head.
        let head: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        recording.sizes.push(format!("{}x{}", head["width"], head["height"]));
        for line in lines {
            let event: Value = serde_json::from_str(line).unwrap();
            let data = event[2].as_str().unwrap();
            match event[1].as_str().unwrap() {
                "o" if on_stderr => recording.stderr.push_str(data),
                "o" => recording.stdout.push_str(data),
                "s" => on_stderr = data == "stderr",
                "r" => recording.sizes.push(data.to_owned()),
                "x" => recording.exit = data.to_owned(),
                other => panic!("what is {other}?"),
            }
        }
        recording
    }
}
