//! `portcullis approvals`

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{
    CliError,
    output::{BOLD, DIM, GREEN, ListOutputArgs, OutputArgs, PLAIN, RED, table},
};
use crate::{
    api::approvals::{DecisionBody, TicketList, TicketView},
    client::GatewayArgs,
};
use anstream::println;
use portcullis_core::{Clock, SystemClock, Timestamp};
use portcullis_hold::{HeldBody, TicketState};

const PATH: &str = "/portcullis/api/v1/approvals";

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// List requests that wait for a decision
    List(ListArgs),
    /// Show one: who asks, for what, and what the server says it would change
    Show(ShowArgs),
    /// Let a request through, once
    Approve(DecideArgs),
    /// Refuse a request
    Deny(DecideArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Which ones
    #[arg(long, value_enum, default_value_t = State::Pending)]
    state: State,
    #[command(flatten)]
    output: ListOutputArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Pending,
    Approved,
    Claimed,
    Spent,
    Denied,
    Expired,
    Withdrawn,
    All,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The ticket's id
    ticket: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// The ticket's id
    ticket: String,
    /// Why; the requester and the auditors will read it
    #[arg(long, short, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(crate) async fn approvals(command: ApprovalsCommand) -> Result<(), CliError> {
    match command {
        ApprovalsCommand::List(args) => {
            let state =
                args.state.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let found: TicketList =
                args.gateway.connect().await?.get(&format!("{PATH}?state={state}")).await?;
            let ids = found.items.iter().map(|view| view.ticket.id.as_str());
            args.output.print(&found, ids, |found| list(found, args.state))
        }
        ApprovalsCommand::Show(args) => {
            let path = format!("{PATH}/{}", segment(&args.ticket));
            let found: TicketView = args.gateway.connect().await?.get(&path).await?;
            args.output.print(&found, show)
        }
        ApprovalsCommand::Approve(args) => decide(args, "approve").await,
        ApprovalsCommand::Deny(args) => decide(args, "deny").await,
    }
}

async fn decide(args: DecideArgs, what: &str) -> Result<(), CliError> {
    let path = format!("{PATH}/{}/{what}", segment(&args.ticket));
    let body = DecisionBody { reason: args.reason };
    let decided: TicketView = args.gateway.connect().await?.post(&path, &body).await?;
    args.output.print(&decided, |view| {
        let ticket = &view.ticket;
        let missing = ticket.missing_approvals();
        match &ticket.state {
            TicketState::Denied { .. } => println!("{RED}denied{PLAIN}  {}", ticket.request.command),
            TicketState::Pending => {
                println!("approved by you, {missing} more needed  {}", ticket.request.command)
            }
            _ => println!("{GREEN}approved{PLAIN}  {}", ticket.request.command),
        }
    })
}

fn list(found: &TicketList, state: State) {
    if found.items.is_empty() {
        match state {
            State::Pending => println!("nothing waits for a decision"),
            _ => println!("no such tickets"),
        }
        return;
    }
    let now = SystemClock.now();
    let rows = found.items.iter().map(|view| {
        let ticket = &view.ticket;
        vec![
            ticket.id.clone(),
            ticket.state.name().to_owned(),
            age(now, ticket.created_at),
            ticket.identity.user.clone(),
            ticket.request.command.clone(),
            ticket.rule.clone(),
        ]
    });
    table(&["TICKET", "STATE", "AGE", "WHO", "COMMAND", "RULE"], rows.collect());
}

fn show(view: &TicketView) {
    let ticket = &view.ticket;
    let request = &ticket.request;
    println!("{BOLD}{}{PLAIN}", request.command);
    let field = |name: &str, value: &str| println!("{DIM}{name:>10}{PLAIN}  {value}");
    field("ticket", &ticket.id);
    field("state", ticket.state.name());
    field("who", &format!("{} ({})", ticket.identity.user, ticket.identity.issuer));
    if let Some(grant) = &ticket.grant {
        field("task", &format!("{} ({})", grant.task.as_deref().unwrap_or("-"), grant.profile));
    }
    field("rule", &ticket.rule);
    for (name, text) in
        [("because", &ticket.message), ("reason", &request.reason), ("client", &request.user_agent)]
    {
        if let Some(text) = text {
            field(name, text);
        }
    }
    field("request", &format!("{} {}", request.method, request.uri));
    field("expires", &ticket.expires_at.to_string());
    for approval in &ticket.approvals {
        field("approved", &format!("{} at {}", approval.by.user, approval.at));
    }
    if let TicketState::Denied { by, reason, .. } = &ticket.state {
        field("denied", &format!("{}: {}", by.user, reason.as_deref().unwrap_or("no reason given")));
    }
    println!();
    match ticket.preview.as_ref().and_then(|preview| preview.unavailable.as_deref()) {
        Some(why) => println!("{DIM}no preview: {why}{PLAIN}"),
        None if view.changes.is_empty() => println!("{DIM}the server says nothing would change{PLAIN}"),
        None => changes(view),
    }
    if view.changes.is_empty()
        && let HeldBody::Redacted { text } = &request.body
    {
        println!("\n{text}");
    }
}

fn changes(view: &TicketView) {
    println!("{DIM}what the server says would change (dry run, masked):{PLAIN}");
    for change in &view.changes {
        if let Some(before) = &change.before {
            println!("  {RED}- {}{PLAIN} {}", change.path, value(before));
        }
        if let Some(after) = &change.after {
            println!("  {GREEN}+ {}{PLAIN} {}", change.path, value(after));
        }
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_debug().to_string(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

pub(crate) fn age(now: Timestamp, then: Timestamp) -> String {
    match now.duration_since(then).as_secs() {
        seconds @ ..=119 => format!("{}s", seconds.max(0)),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Whatever is typed stays one segment of the path.
pub(crate) fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}
