//! `portcullis check`

use std::path::PathBuf;

use anstream::println;
use clap::Args;

use super::{
    CliError, Failure,
    output::{GREEN, PLAIN},
};
use crate::config::Config;

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 it is right, 65 it is not (each problem with file:line:column).")]
pub(crate) struct CheckArgs {
    /// The configuration
    #[arg(
        long,
        short,
        env = "PORTCULLIS_CONFIG",
        value_name = "FILE",
        required_unless_present = "print_schema"
    )]
    config: Option<PathBuf>,
    /// Print the configuration's JSON Schema, for editors
    #[arg(long)]
    print_schema: bool,
}

pub(crate) fn check(args: CheckArgs) -> Result<u8, CliError> {
    if args.print_schema {
        let schema = schemars::schema_for!(Config);
        std::println!("{}", serde_json::to_string_pretty(&schema)?);
        return Ok(0);
    }
    let path = args.config.ok_or_else(|| Failure::usage("pass --config FILE"))?;
    let config = Config::load(&path)?;
    let clusters: Vec<_> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    println!("{GREEN}✔{PLAIN} {} is right", path.display());
    println!("  clusters  {}", clusters.join(", "));
    println!("  issuers   {}", config.authentication.jwt.len());
    println!("  rules     {}", config.policy.rules.len());
    println!("  profiles  {}", config.grants.profiles.len());
    Ok(0)
}
