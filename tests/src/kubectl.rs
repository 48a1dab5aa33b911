//! kubectl, the real one.

use std::path::PathBuf;

use tokio::process::Command;

use crate::cluster::tool;
use crate::process::{Finished, Running};

/// How kubectl carries exec, attach, cp and port-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `v5.channel.k8s.io` and SPDY inside WebSocket: kubectl's default since 1.31.
    WebSocket,
    /// SPDY/3.1, as kubectl up to 1.29 and most other clients.
    Spdy,
}

impl Transport {
    /// Both, for tests that must hold for each.
    pub const BOTH: [Self; 2] = [Self::WebSocket, Self::Spdy];
}

/// kubectl with one kubeconfig. A home of its own keeps its discovery cache out of other tests'
/// way.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: Option<String>,
    transport: Transport,
    env: Vec<(String, String)>,
}

impl Kubectl {
    /// kubectl as the current context of this file.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            namespace: None,
            transport: Transport::WebSocket,
            env: Vec::new(),
        }
    }

    /// In this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// With this transport for streams.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command, for what the other calls do not offer.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.dress(Command::new(tool("kubectl")), &self.arguments(arguments))
    }

    /// Runs to the end, with empty input.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> impl Future<Output = Finished> + use<> {
        self.start(arguments).finish()
    }

    /// Runs to the end with this input, as in `kubectl apply -f -`.
    pub async fn run_with_input(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Finished {
        let mut running = self.start(arguments);
        running.write(input).await;
        running.finish().await
    }

    /// Starts it, for what goes on until it is stopped.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Starts it on a terminal of this size, as a person does; the terminal's echo and line ends
    /// are in the output.
    #[track_caller]
    pub fn start_on_terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Running {
        let kubectl = tool("kubectl");
        let kubectl = kubectl.to_string_lossy();
        let words: Vec<String> = std::iter::once(kubectl.into_owned())
            .chain(self.arguments(arguments))
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect();
        let line = format!("stty rows {rows} cols {columns}; exec {}", words.join(" "));
        let script = ["-q", "-e", "-f", "-c", &line, "/dev/null"].map(str::to_owned);
        Running::start(self.dress(Command::new("script"), &script))
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let namespace = self.namespace.iter().flat_map(|namespace| ["--namespace", namespace]);
        namespace.chain(arguments.iter().copied()).map(str::to_owned).collect()
    }

    fn dress(&self, mut command: Command, arguments: &[String]) -> Command {
        let websockets = match self.transport {
            Transport::WebSocket => "true",
            Transport::Spdy => "false",
        };
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"))
            .env("TERM", "xterm")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}
