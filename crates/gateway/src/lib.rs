//! The Portcullis gateway: one binary that stacks the layers into a road from agents to clusters.
//!
//! The binary is thin: what it does can be embedded. A [`Config`] is read and checked whole, and [`Gateway::start`] makes a
//! running gateway of it.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = portcullis::Config::load("portcullis.yaml".as_ref())?;
//! let gateway = portcullis::Gateway::start(config, String::new).await?;
//! println!("serving at {}", gateway.url());
//! gateway.stop().await;
//! # Ok(())
//! # }
//! ```

mod api;
mod causes;
mod cli;
mod client;
pub mod config;
mod cut;
mod demo;
mod exports;
mod gateway;
mod grants;
mod identities;
mod kubeconfig;
mod limits;
mod log_limit;
mod ops;
mod server;
mod stack;
mod telemetry;
mod tls;
mod upkeep;
mod while_open;

pub use cli::Cli;
pub use config::Config;
pub use gateway::{Gateway, StartError, ledger_dir};
