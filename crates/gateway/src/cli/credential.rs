//! `portcullis credential`: an exec credential plugin (`client.authentication.k8s.io/v1`).

use std::{io::Read, os::unix::net::UnixStream, path::PathBuf};

use clap::Args;

use super::{CliError, Failure};
use crate::{client::GatewayArgs, grants::GrantRequest};

/// Print a credential for kubectl and other clients (an exec credential plugin)
///
/// Kubeconfigs call it; people seldom do. With --socket it asks the `portcullis run` that started the task; otherwise it
/// exchanges your OIDC token for a grant at the gateway.
#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// The socket of a running `portcullis run`
    #[arg(long, value_name = "PATH", conflicts_with = "grant")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    request: Option<GrantRequest>,
}

/// Prints the credential.
pub(crate) async fn credential(args: CredentialArgs) -> Result<(), CliError> {
    if let Some(socket) = &args.socket {
        let ended = || Failure::new(77, "the task this credential belonged to has ended");
        let mut stream = UnixStream::connect(socket).map_err(|_| ended())?;
        let mut credential = String::new();
        stream.read_to_string(&mut credential)?;
        if credential.is_empty() {
            return Err(ended().into());
        }
        println!("{credential}");
        return Ok(());
    }
    let request =
        args.request.as_ref().ok_or_else(|| Failure::usage("pass --grant PROFILE or --socket PATH"))?;
    let gateway = args.gateway.connect_anonymously().await?;
    let issued = request.exchange(&gateway, &args.gateway).await?;
    println!("{}", serde_json::to_string(&issued.credential())?);
    Ok(())
}
