//! The command line.

mod approvals;
mod audit;
mod check;
mod completions;
mod credential;
mod demo;
mod files;
mod grants;
mod identities;
mod kubeconfig;
mod mask;
pub(crate) mod output;
mod run;
mod serve;
mod sessions;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{client::ClientError, config::Diagnostics};

/// Puts CI jobs, bots and AI agents under control when they talk to Kubernetes
///
/// Portcullis is the only road from an agent to the cluster. On that road every session is recorded, every identity verified,
/// every secret masked, every risky command held for a human, and every credential ends with its task.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Start here:  portcullis demo\n\n\
    Exit codes:  0 done · 1 failed · 2 wrong usage · 65 wrong configuration or tampered log · 66 no such record · \
    69 gateway unreachable, or gone while it was followed · 73 a file is there already, or cannot be made · 74 a file cannot be read or written · \
    75 the log is in use · 77 refused, or not all that the log names could be read")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See everything work on this machine: gateway, cluster and identity provider in one process
    Demo(demo::DemoArgs),
    /// Run the gateway
    Serve(serve::ServeArgs),
    /// Check a configuration, and explain what is wrong with it
    Check(check::CheckArgs),
    Run(run::RunArgs),
    Credential(credential::CredentialArgs),
    /// Print a kubeconfig that goes through the gateway
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// See what waits for a decision, and decide
    #[command(subcommand)]
    Approvals(approvals::ApprovalsCommand),
    /// See which grants are out, and end them
    #[command(subcommand)]
    Grants(grants::GrantsCommand),
    /// Disable identities, for good or until they are enabled again
    #[command(subcommand)]
    Identities(identities::IdentitiesCommand),
    /// Search, read and verify the record of what was done
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// See what sessions did, and replay their terminals
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Mask what comes on standard input, as the gateway masks an answer
    Mask(mask::MaskArgs),
    /// Print a completion script for your shell
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Does what was asked. Prints errors to standard error.
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Check(args) => check::check(args),
            Command::Sessions(command) => sessions::sessions(command),
            Command::Mask(args) => mask::mask(&args),
            Command::Completions(args) => completions::completions(&args),
            command => tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(CliError::from)
                .and_then(|runtime| runtime.block_on(asynchronous(command))),
        };
        match outcome {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                error.print();
                ExitCode::from(error.exit_code())
            }
        }
    }
}

async fn asynchronous(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Demo(args) => demo::demo(args).await,
        Command::Serve(args) => serve::serve(args).await,
        Command::Run(args) => run::run(args).await,
        Command::Credential(args) => credential::credential(args).await.map(|()| 0),
        Command::Kubeconfig(args) => kubeconfig::kubeconfig(args).map(|()| 0),
        Command::Approvals(command) => approvals::approvals(command).await.map(|()| 0),
        Command::Grants(command) => grants::grants(command).await.map(|()| 0),
        Command::Identities(command) => identities::identities(command).await.map(|()| 0),
        Command::Check(args) => check::check(args),
        Command::Audit(command) => audit::audit(command).await,
        Command::Sessions(command) => sessions::sessions(command),
        Command::Mask(args) => mask::mask(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] Diagnostics),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl CliError {
    fn print(&self) {
        use std::io::IsTerminal;
        match self {
            Self::Config(diagnostics) => eprint!("{}", diagnostics.render(std::io::stderr().is_terminal())),
            other => anstream::eprintln!("{}error:{} {}", output::RED, output::PLAIN, other.text()),
        }
    }

    /// What is printed of it. Strangers may have written some of that: whoever damaged a log, or answers in a gateway's place.
    fn text(&self) -> String {
        let lines: Vec<_> = self.to_string().lines().map(output::printable).collect();
        lines.join("\n")
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => 69,
            Self::Client(ClientError::Refused { .. }) => 77,
            Self::Client(_) => 2,
            Self::Config(_) => 65,
            Self::Failure(failure) => failure.code,
            Self::Other(_) => 1,
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for CliError {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Other(error)
    }
}

/// A failure with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn what_an_error_says_cannot_move_a_terminal_s_cursor() {
        let error = CliError::from(Failure::new(65, "record \u{1b}[2J7\r\u{9b}A\nand more"));
        assert_eq!(error.text(), "record \u{fffd}[2J7\u{fffd}\u{fffd}A\nand more");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
