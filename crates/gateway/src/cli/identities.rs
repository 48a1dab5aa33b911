//! `portcullis identities`

use anstream::println;
use clap::{Args, Subcommand};

use super::{
    CliError,
    output::{OutputArgs, table},
};
use crate::{
    api::identities::{ChangeBody, IdentityList},
    client::GatewayArgs,
};

const PATH: &str = "/portcullis/api/v1/identities";

#[derive(Debug, Subcommand)]
pub(crate) enum IdentitiesCommand {
    /// List who is disabled
    List(ListArgs),
    /// Refuse somebody from now on: their grants end, and their open streams are cut
    Disable(ChangeArgs),
    /// Let somebody in again; what ended stays ended
    Enable(ChangeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// The `iss` of their tokens
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// The `sub` of their tokens, which need not be the user name (see `identity` in the audit log)
    #[arg(long, value_name = "SUBJECT")]
    subject: String,
    /// Why; the auditors will read it
    #[arg(long, short, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(crate) async fn identities(command: IdentitiesCommand) -> Result<(), CliError> {
    match command {
        IdentitiesCommand::List(args) => {
            let found: IdentityList = args.gateway.connect().await?.get(PATH).await?;
            args.output.print(&found, list)
        }
        IdentitiesCommand::Disable(args) => change(args, "disable", "disabled").await,
        IdentitiesCommand::Enable(args) => change(args, "enable", "enabled").await,
    }
}

async fn change(args: ChangeArgs, what: &str, done: &str) -> Result<(), CliError> {
    let body = ChangeBody { issuer: args.issuer, subject: args.subject, reason: args.reason };
    let _: IdentityList = args.gateway.connect().await?.post(&format!("{PATH}/{what}"), &body).await?;
    println!("{done}  {} at {}", body.subject, body.issuer);
    Ok(())
}

fn list(found: &IdentityList) {
    if found.items.is_empty() {
        println!("nobody is disabled");
        return;
    }
    let rows = found.items.iter().map(|who| {
        vec![who.subject.clone(), who.issuer.clone(), who.at.to_string(), who.by.clone(), who.reason.clone()]
    });
    table(&["SUBJECT", "ISSUER", "SINCE", "BY", "WHY"], rows.collect());
}
