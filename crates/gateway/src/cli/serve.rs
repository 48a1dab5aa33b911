//! `portcullis serve`

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Failure};
use crate::{config::Config, gateway::Gateway, telemetry};

#[derive(Debug, Args)]
#[command(after_help = "SIGTERM and SIGINT drain: nothing new is taken, what is open may end.\n\n\
    Example:\n  portcullis check --config portcullis.yaml && portcullis serve --config portcullis.yaml")]
pub(crate) struct ServeArgs {
    /// The configuration
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

pub(crate) async fn serve(args: ServeArgs) -> Result<u8, CliError> {
    let config = Config::load(&args.config)?;
    let telemetry = Arc::new(telemetry::start(&config.telemetry)?);
    let metrics = telemetry.clone();
    let gateway = Gateway::start(config, move || metrics.render())
        .await
        .map_err(|error| Failure::new(1, format!("the gateway cannot start: {error}")))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    gateway.stop().await;
    telemetry.shutdown();
    Ok(0)
}
