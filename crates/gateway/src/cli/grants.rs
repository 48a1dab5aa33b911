//! `portcullis grants`

use anstream::println;
use clap::{Args, Subcommand};
use portcullis_core::{Clock, SystemClock};

use super::{
    CliError,
    approvals::{age, segment},
    output::{ListOutputArgs, table},
};
use crate::{
    api::{
        approvals::DecisionBody,
        grants::{GrantList, GrantView},
    },
    client::GatewayArgs,
};

const PATH: &str = "/portcullis/api/v1/grants";

#[derive(Debug, Subcommand)]
pub(crate) enum GrantsCommand {
    /// List grants: your own; all of them, if you administer the gateway
    List(ListArgs),
    /// End a grant now; its open streams are cut
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: ListOutputArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The grant's id
    grant: String,
    /// Why; the auditors will read it
    #[arg(long, short, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(crate) async fn grants(command: GrantsCommand) -> Result<(), CliError> {
    match command {
        GrantsCommand::List(args) => {
            let path = format!("{PATH}?all={}", args.all);
            let found: GrantList = args.gateway.connect().await?.get(&path).await?;
            let ids = found.items.iter().map(|view| view.grant.id.as_str());
            args.output.print(&found, ids, list)
        }
        GrantsCommand::Revoke(args) => {
            let path = format!("{PATH}/{}/revoke", segment(&args.grant));
            let body = DecisionBody { reason: args.reason };
            let ended: GrantView = args.gateway.connect().await?.post(&path, &body).await?;
            println!("revoked  {} ({}, {})", ended.grant.id, ended.identity.user, ended.grant.profile);
            Ok(())
        }
    }
}

fn list(found: &GrantList) {
    if found.items.is_empty() {
        println!("no grants are out");
        return;
    }
    let now = SystemClock.now();
    let rows = found.items.iter().map(|view| {
        let grant = &view.grant;
        let state = match (&view.revocation, view.active) {
            (Some(revocation), _) => format!("revoked by {}", revocation.by),
            (None, true) => "active".to_owned(),
            (None, false) => "expired".to_owned(),
        };
        let left = match view.active {
            true => age(grant.expires_at, now),
            false => "-".to_owned(),
        };
        vec![
            grant.id.clone(),
            state,
            left,
            view.identity.user.clone(),
            grant.profile.clone(),
            grant.task.clone().unwrap_or_else(|| "-".into()),
        ]
    });
    table(&["GRANT", "STATE", "LEFT", "WHO", "PROFILE", "TASK"], rows.collect());
}
