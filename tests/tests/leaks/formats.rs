//! Credentials of known formats, in what commands say and are told, and in logs, whole and cut off. They are put together
//! here, so that none stands in this file.

use std::collections::BTreeMap;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use portcullis_tests::{Cluster, Gateway, Kubectl, Transport, wait_until};

use crate::search::Canaries;

/// A pod that says credentials.
struct Stage {
    gateway: Gateway,
    namespace: String,
    agent: Kubectl,
    admin: Kubectl,
    /// What it says, without the last line's end.
    text: String,
    canaries: Canaries,
    evidence: Vec<(String, Vec<u8>)>,
}

/// The last line that the pod says.
const END: &str = "nothing follows";

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let namespace = cluster.namespace_of_agents("format").await;
        let gateway = Gateway::start(cluster).await;
        let agent = gateway.kubectl("agent-ci").await.namespace(&namespace);
        let admin = cluster.admin().namespace(&namespace);
        let (text, canaries) = credentials();
        // The environment holds it under a name that is nobody's secret; the log gets it from there.
        let script = "printf '%s\\n' \"$TEXT\"; while :; do sleep 1; done";
        let env = format!("--env=TEXT={text}");
        let run =
            ["run", "box", "--image=none", "--restart=Never", &env, "--command", "--", "sh", "-c", script];
        admin.run(&run).await.ok();
        agent.run(&["wait", "--for=condition=Ready", "pod/box", "--timeout=50s"]).await.ok();
        wait_until("all that the pod says", || async {
            admin.run(&["logs", "box"]).await.ok().contains(END).then_some(())
        })
        .await;
        Self { gateway, namespace, agent, admin, text, canaries, evidence: Vec::new() }
    }

    /// What was said is whole but for what is secret.
    #[track_caller]
    fn keep(&mut self, what: &str, said: &[u8]) {
        let text = String::from_utf8_lossy(said);
        let masks = text.matches("masked:known-formats:").count();
        assert!(masks >= self.canaries.values.len(), "{what}: {masks} masks in {text}");
        for left in ["github token is ", "as postgres://app:", "@db.example.test/app", END] {
            assert!(text.contains(left), "{what} has no {left:?}: {text}");
        }
        self.evidence.push((what.to_owned(), said.to_vec()));
    }

    async fn end(self) {
        self.canaries.appear_nowhere(self.evidence, self.gateway).await;
    }
}

#[tokio::test]
async fn known_formats_are_found_in_what_commands_say_and_are_told() {
    let cluster = Cluster::from_env();
    let mut stage = Stage::set(&cluster).await;
    let direct = stage.admin.run(&["exec", "box", "--", "printenv", "TEXT"]).await;
    stage.canaries.all_appear_in(&direct.stdout);
    for transport in Transport::BOTH {
        let agent = stage.agent.clone().transport(transport);
        let said = agent.run(&["exec", "box", "--", "printenv", "TEXT"]).await;
        said.ok();
        stage.keep("exec", &said.all());
        let said = agent.run(&["exec", "box", "--", "echo", &stage.text]).await;
        said.ok();
        stage.keep("exec with words", &said.all());
        let said = agent.run(&["exec", "box", "--", "sh", "-c", "printenv TEXT >&2"]).await;
        said.ok();
        stage.keep("exec to its error", &said.all());
        let said =
            agent.run_with_input(&["exec", "-i", "box", "--", "cat"], format!("{}\n", stage.text)).await;
        said.ok();
        stage.keep("exec -i", &said.all());
    }
    stage.end().await;
}

#[tokio::test]
async fn known_formats_are_found_in_logs() {
    let cluster = Cluster::from_env();
    let mut stage = Stage::set(&cluster).await;
    let direct = stage.admin.run(&["logs", "box"]).await;
    stage.canaries.all_appear_in(&direct.stdout);
    for words in [
        &["logs", "box"][..],
        &["logs", "box", "--timestamps"],
        &["logs", "box", "--prefix"],
        &["logs", "box", "--tail=100"],
        &["logs", "box", "--since=1h"],
        &["logs", "box", "--limit-bytes=100000"],
    ] {
        let said = stage.agent.run(words).await;
        said.ok();
        stage.keep(&words.join(" "), &said.all());
    }
    let mut following = stage.agent.start(&["logs", "-f", "box"]);
    following.wait_for_output(|said| said.contains(END)).await;
    stage.keep("logs -f", &following.kill().await.all());
    stage.end().await;
}

/// Where a log is cut off in the middle of a credential, what is left has no known format; so the mask comes first.
#[tokio::test]
async fn a_log_that_is_cut_off_shows_no_part_of_a_credential() {
    let cluster = Cluster::from_env();
    let mut stage = Stage::set(&cluster).await;
    let token = stage.gateway.token("agent-ci").await;
    let path = format!("/api/v1/namespaces/{}/pods/box/log", stage.namespace);
    let whole = stage.gateway.get(&path, Some(&token)).await.into_body();
    for limit in (1..stage.text.len()).step_by(3) {
        let cut_off = stage.gateway.get(&format!("{path}?limitBytes={limit}"), Some(&token)).await;
        assert_eq!(cut_off.body(), &whole[..limit.min(whole.len())], "{limit}");
        stage.evidence.push((limit.to_string(), cut_off.body().to_vec()));
    }
    for words in [
        &["logs", "box", "--limit-bytes=50"][..],
        &["logs", "box", "--limit-bytes=50", "-f"],
        &["logs", "box", "--limit-bytes=50", "--timestamps"],
    ] {
        let said = stage.agent.run(words).await;
        assert_eq!(said.ok().len(), 50, "{said}");
        stage.evidence.push((words.join(" "), said.all()));
    }
    // What the server refuses, it refuses.
    let said = stage.agent.run(&["logs", "box", "--limit-bytes=0"]).await;
    assert_eq!(said.ok(), stage.agent.run(&["logs", "box"]).await.ok());
    let refused = stage.gateway.get(&format!("{path}?limitBytes=0"), Some(&token)).await;
    assert_eq!(refused.status(), 422, "{refused:?}");
    stage.end().await;
}

/// Lines of a log, each with a credential that is nowhere else, and what of them is secret.
fn credentials() -> (String, Canaries) {
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let letters = || format!("{}{}", random(), random());
    let github = letters()[..36].to_owned();
    let key_id = random()[..16].to_uppercase();
    let aws: String = STANDARD.encode(letters()).chars().take(40).collect();
    let claims = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{}\"}}", random()));
    let signature = URL_SAFE_NO_PAD.encode(letters());
    let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\",\"typ\":\"JWT\"}");
    let key = STANDARD.encode(letters());
    let password = letters()[..24].to_owned();
    let words = letters()[..20].to_owned();
    let dashes = "-".repeat(5);
    let text = [
        "begins".to_owned(),
        format!("github token is ghp_{github}, it said"),
        format!("uses {}{key_id} here", "AKIA"),
        format!("aws_secret_access_key = {aws}"),
        format!("session {header}.{claims}.{signature} opened"),
        format!("{dashes}BEGIN PRIVATE KEY{dashes}"),
        key.clone(),
        format!("{dashes}END PRIVATE KEY{dashes}"),
        format!("connects as postgres://app:{password}@db.example.test/app"),
        format!("password={words}"),
        END.to_owned(),
    ]
    .join("\n");
    let values = BTreeMap::from([
        ("github", github),
        ("aws key id", key_id),
        ("aws secret", aws),
        ("claims", claims),
        ("private key", key),
        ("url", password),
        ("password", words),
    ]);
    (text, Canaries { values })
}
