//! `portcullis kubeconfig`.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use crate::kubeconfig::{KubeconfigSpec, UserAuth};

/// Print a kubeconfig that goes through the gateway
///
/// Its credential plugin exchanges your OIDC token for a grant whenever a client needs one.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portcullis kubeconfig --gateway https://gw:8443 --grant deploy --token-file /run/oidc-token > kubeconfig"
)]
pub(crate) struct KubeconfigArgs {
    /// The gateway's URL
    #[arg(long, env = "PORTCULLIS_GATEWAY", value_name = "URL")]
    gateway: String,
    /// A PEM file with the authority that signed the gateway's certificate
    #[arg(long, env = "PORTCULLIS_CERTIFICATE_AUTHORITY", value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// The cluster, if the gateway has several
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The namespace commands work in without `-n`
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The profile to cut grants from; without it, the OIDC token itself is used
    #[arg(long, value_name = "PROFILE")]
    grant: Option<String>,
    /// The file that holds the OIDC token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Write the kubeconfig here instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn kubeconfig(args: KubeconfigArgs) -> Result<(), CliError> {
    let gateway = args.gateway.trim_end_matches('/');
    let authority = args.certificate_authority.as_ref().map(std::fs::read_to_string).transpose()?;
    let token_file = std::path::absolute(&args.token_file)?;
    let auth = match &args.grant {
        None => UserAuth::TokenFile(token_file),
        Some(profile) => {
            let mut exec: Vec<String> =
                ["credential", "--gateway", gateway, "--grant", profile, "--token-file"]
                    .map(Into::into)
                    .into();
            exec.push(token_file.display().to_string());
            if let Some(file) = &args.certificate_authority {
                exec.push("--certificate-authority".into());
                exec.push(std::path::absolute(file)?.display().to_string());
            }
            UserAuth::Exec { command: std::env::current_exe()?.display().to_string(), args: exec }
        }
    };
    let spec = KubeconfigSpec {
        name: args.cluster.clone().unwrap_or_else(|| "portcullis".into()),
        server: match &args.cluster {
            Some(cluster) => format!("{gateway}/clusters/{cluster}"),
            None => gateway.to_owned(),
        },
        certificate_authority: authority,
        namespace: args.namespace,
        auth,
    };
    match &args.out {
        Some(path) => spec.write(path)?,
        None => print!("{}", spec.render()),
    }
    Ok(())
}
