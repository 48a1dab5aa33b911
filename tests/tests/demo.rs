//! What the demo prints is what one can copy: its commands, run by a shell with real kubectl, in the order in which they stand
//! there, with nothing filled in.

use portcullis_audit::{AuditReader, Record, Recording};
use portcullis_tests::{HttpClient, Running, gateway_binary, tool};
use tokio::process::Command;

const PASSWORD: &str = "correct-horse-battery-staple";
const PASSWORD_BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";

#[tokio::test]
async fn what_it_prints_can_be_copied() {
    // Not a name that a shell reads as one word by itself.
    let dir = tempfile::Builder::new().prefix("it's a demo ").tempdir().expect("a temporary directory");
    let mut demo = Command::new(gateway_binary());
    demo.args(["demo", "--dir"]).arg(dir.path()).env_remove("RUST_LOG").env("NO_COLOR", "1");
    let mut demo = Running::start(demo);
    demo.wait_for_output(|said| said.contains("Ctrl-C ends the demo")).await;
    let invitation = demo.out();
    let commands: Vec<&str> = invitation.lines().filter(|line| line.starts_with("   ")).collect();
    for word in ["kubectl get secret", "approvals approve", "kubectl exec", "run --gateway", "audit verify"] {
        assert!(commands.iter().any(|line| line.contains(word)), "no `{word}`: {invitation}");
    }

    let login =
        invitation.split_whitespace().find(|word| word.contains("/authorize?")).expect("a login page");
    let page = HttpClient::new(&dir.path().join("ca.crt")).get(login, None).await;
    let page = String::from_utf8_lossy(page.body()).into_owned();
    assert!(page.contains("Who are you?") && page.contains("amir"), "{login}: {page}");

    // Aliases are for people: a script has to ask for them. It says what it runs, so that a failure can be found.
    let script =
        format!("shopt -s expand_aliases\nset -eo pipefail\nset -v\n{}\nwait\n", commands.join("\n"));
    let file = dir.path().join("invitation.sh");
    std::fs::write(&file, script).expect("the demo's directory is writable");
    let kubectl = tool("kubectl");
    let directories = kubectl.parent().into_iter().map(std::path::Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(directories.chain(std::env::split_paths(&path))).expect("a search path");
    let mut person = Command::new("bash");
    person.arg(&file).current_dir(dir.path()).env("PATH", path).env("HOME", dir.path()).env("NO_COLOR", "1");
    // What is typed into the pod's shell; nothing else reads it.
    let mut person = Running::start(person);
    person.write("echo spoken in the pod\nexit\n").await;
    person.close_stdin();
    let person = person.finish().await;
    let said = person.ok();

    for secret in [PASSWORD, PASSWORD_BASE64] {
        assert!(!(said.clone() + &person.err()).contains(secret), "{person}");
    }
    for (what, expected) in [
        ("the agent's Secret and the developer's", "bWFza2Vk"),
        ("the held command", "clusterrolebinding.rbac.authorization.k8s.io/oops created"),
        ("the list of tickets", "pending  "),
        ("the preview", "+ /metadata/name oops"),
        ("the approval", "approved  create clusterrolebinding"),
        ("the pod's shell", "spoken in the pod"),
        ("the log", "exec"),
        ("the grant's pods", "Running"),
        ("the list of grants", "revoked by holder"),
        ("the proof", "✔"),
    ] {
        assert!(said.contains(expected), "{what}: {person}");
    }
    assert_eq!(said.matches("bWFza2Vk").count() % 2, 0, "the developer sees what the agent sees: {said}");

    demo.terminate().await;
    demo.ended().await.ok();
    let reader = AuditReader::new(dir.path().join("state/ledger"));
    let (records, _) =
        reader.tail(1000, |stored| matches!(stored.entry.record, Record::Outcome(_))).expect("a log");
    let spoken = records.into_iter().any(|stored| {
        let Record::Outcome(outcome) = stored.entry.record else { return false };
        let recording = outcome.stream.and_then(|stream| stream.recording);
        recording.iter().flat_map(Recording::files).any(|part| {
            let stored = reader.open_recording(&part).expect("a recording").expect("it is kept");
            std::io::read_to_string(stored).is_ok_and(|cast| cast.contains("spoken in the pod"))
        })
    });
    assert!(spoken, "the session was not recorded");
}
