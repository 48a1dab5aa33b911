//! `portcullis completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  source <(portcullis completions bash)")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<u8, CliError> {
    clap_complete::generate(args.shell, &mut Cli::command(), "portcullis", &mut std::io::stdout());
    Ok(0)
}
