//! The same thing twice: through the gateway and directly, as the same person, in two namespaces
//! that are alike. What differs and is not a matter of chance is a fault of the gateway.

use std::sync::LazyLock;

use regex::Regex;

use crate::cluster::Cluster;
use crate::gateway::Gateway;
use crate::kubectl::{Kubectl, Transport};
use crate::oracle::Comparison;
use crate::process::Finished;

/// What a test writes where its namespace's name goes.
const PLACEHOLDER: &str = "NAMESPACE";

/// One person with two ways to the API server.
pub struct Twins {
    /// Through the gateway.
    pub through: Twin,
    /// Directly.
    pub direct: Twin,
    /// The gateway.
    pub gateway: Gateway,
    /// Where the direct way leads.
    api_server: String,
}

/// One of the two ways.
pub struct Twin {
    /// kubectl, in the namespace.
    pub kubectl: Kubectl,
    /// A namespace that this side has for itself. The group `agents` may edit it.
    pub namespace: String,
}

impl Twins {
    /// `agent-ci`, twice, with a gateway and namespaces of their own.
    pub async fn start(cluster: &Cluster, prefix: &str) -> Self {
        Self::with(cluster, prefix, Gateway::start(cluster).await).await
    }

    /// As [`start`](Self::start), with this gateway.
    pub async fn with(cluster: &Cluster, prefix: &str, gateway: Gateway) -> Self {
        let (one, two) =
            tokio::join!(cluster.namespace_of_agents(prefix), cluster.namespace_of_agents(prefix));
        let through = gateway.kubectl("agent-ci").await;
        let direct = cluster.kubectl_as(gateway.dir(), "agent-ci", &["agents"]).await;
        Self {
            through: Twin { kubectl: through.namespace(&one), namespace: one },
            direct: Twin { kubectl: direct.namespace(&two), namespace: two },
            gateway,
            api_server: cluster.url.clone(),
        }
    }

    /// Both, the gateway's first.
    pub fn both(&self) -> [&Twin; 2] {
        [&self.through, &self.direct]
    }

    /// Runs kubectl on both sides. `NAMESPACE` in an argument is the side's own.
    pub async fn run(&self, arguments: &[&str]) -> Both {
        self.run_over(Transport::WebSocket, arguments).await
    }

    /// Runs kubectl on both sides over this transport.
    pub async fn run_over(&self, transport: Transport, arguments: &[&str]) -> Both {
        let run = |twin: &Twin| {
            let arguments = twin.fill_in(arguments);
            let kubectl = twin.kubectl.clone().transport(transport);
            async move { kubectl.run(&as_strs(&arguments)).await }
        };
        let (through, direct) = tokio::join!(run(&self.through), run(&self.direct));
        self.pair(through, direct)
    }

    /// Runs kubectl with this input on both sides. `NAMESPACE` in it is the side's own.
    pub async fn feed(&self, arguments: &[&str], input: &str) -> Both {
        let feed = |twin: &Twin| {
            let (arguments, input) = (twin.fill_in(arguments), input.replace(PLACEHOLDER, &twin.namespace));
            let kubectl = twin.kubectl.clone();
            async move { kubectl.run_with_input(&as_strs(&arguments), input).await }
        };
        let (through, direct) = tokio::join!(feed(&self.through), feed(&self.direct));
        self.pair(through, direct)
    }

    /// Two ends of what was done on both sides.
    pub fn pair(&self, through: Finished, direct: Finished) -> Both {
        let namespaces = [self.through.namespace.clone(), self.direct.namespace.clone()];
        let servers = [self.gateway.url.clone(), self.api_server.clone()];
        Both { through, direct, namespaces, servers }
    }

    /// The end of a test: everything that went through the gateway is on record, and each request was
    /// read as the API server read it.
    pub async fn agree_with_the_server(self) -> Comparison {
        self.gateway.agrees_with_the_server().await
    }

    /// Both ways see the same objects, but for what is a matter of chance.
    #[track_caller]
    pub fn see_the_same(&self, what: &str) -> impl Future<Output = ()> + use<'_> {
        let what: Vec<String> = what.split(' ').map(str::to_owned).collect();
        async move {
            let words: Vec<&str> =
                ["get", "-o", "yaml"].into_iter().chain(what.iter().map(String::as_str)).collect();
            self.run(&words).await.same().ok();
        }
    }
}

impl Twin {
    fn fill_in(&self, arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|argument| argument.replace(PLACEHOLDER, &self.namespace)).collect()
    }
}

/// What came of one command on both sides.
pub struct Both {
    /// Through the gateway.
    pub through: Finished,
    /// Directly.
    pub direct: Finished,
    namespaces: [String; 2],
    servers: [String; 2],
}

impl Both {
    /// They said the same and ended alike; returns what came through the gateway.
    #[track_caller]
    pub fn same(self) -> Finished {
        let view = |finished: &Finished| {
            let text = |bytes: &[u8]| self.without_chance(&String::from_utf8_lossy(bytes));
            (finished.code(), text(&finished.stdout), text(&finished.stderr))
        };
        let (through, direct) = (view(&self.through), view(&self.direct));
        assert!(
            through == direct,
            "`{}` differs\n-- through the gateway: {:?}\n{}{}\n-- directly: {:?}\n{}{}",
            self.through.command,
            through.0,
            through.1,
            through.2,
            direct.0,
            direct.1,
            direct.2
        );
        self.through
    }

    fn without_chance(&self, text: &str) -> String {
        let named = |text: String, name: &String| text.replace(name.as_str(), PLACEHOLDER);
        let text = self.namespaces.iter().fold(text.to_owned(), named);
        without_chance(&self.servers.iter().fold(text, |text, server| text.replace(server, "SERVER")))
    }
}

/// Replaces what two equal objects may differ in: ids, times, ages, addresses.
pub fn without_chance(text: &str) -> String {
    static CHANCE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
            (r"(?m)^([EIW])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+:)\d+\]", "$1 $2"),
            (r#"(?i)(resource-?version"?[:=] ?"?)\d+"#, "${1}VERSION"),
            // Where a list goes on: there is a resource version in it.
            (r#"(\bcontinue"?[:=] ?"?)eyJ[\w-]+=*"#, "${1}PLACE"),
            // Ages, and the columns that move with them.
            (r"\b(\d+[dhms])+\b", "AGE"),
            (r"(\S) {2,}", "$1  "),
            (r"\b\d{1,3}(\.\d{1,3}){3}\b", "ADDRESS"),
            (r"\b(ADDRESS|127\.0\.0\.1):\d+", "ADDRESS:PORT"),
            // What the API server and controllers append to names.
            (r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-RANDOM"),
            (r"\w+://[0-9a-f]{12,}", "CONTAINER"),
        ]
        .into_iter()
        .map(|(pattern, replacement)| (Regex::new(pattern).expect("a pattern"), replacement))
        .collect()
    });
    CHANCE.iter().fold(text.to_owned(), |text, (pattern, replacement)| {
        pattern.replace_all(&text, *replacement).into_owned()
    })
}

fn as_strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_taken_out_and_nothing_else() {
        let check = |text: &str, expected: &str| assert_eq!(without_chance(text), expected);
        check(
            "web-7d4f8b9c6-x2x4z   1/1     Running   0     2m31s",
            "web-7d4f8b9c6-RANDOM  1/1  Running  0  AGE",
        );
        check("  resourceVersion: \"812\"", "  resourceVersion: \"VERSION\"");
        check("creationTimestamp: \"2026-01-02T03:04:05Z\"", "creationTimestamp: \"TIME\"");
        check("replicas: 2", "replicas: 2");
        check("\"continue\":\"eyJ2IjoibWV0YS5r_-c\",\"x\":1", "\"continue\":\"PLACE\",\"x\":1");
        check("  continue: eyJ2Ijo=", "  continue: PLACE");
    }
}
