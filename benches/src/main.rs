//! Speed, measured: `cargo xtask bench` runs this, in release mode.
//!
//! Absolute times on a shared machine mean little, so every figure stands beside a baseline of the same run, and the candidates
//! take turns. Progress goes to standard error; `--json` prints one object of figures last on standard output.

mod ledger;
mod load;
mod mask;
mod process;
mod proxy;
mod stub;

use clap::{Parser, Subcommand};

/// Measure Portcullis against baselines of the same run
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The whole gateway as a proxy: latency, throughput, CPU and memory, beside nginx and Envoy
    Proxy(proxy::ProxyArgs),
    /// The JSON masker: speed, memory, copies, beside readers and rewriters that do less
    Mask(mask::MaskArgs),
    /// Verifying the audit log, beside the SHA-256 that this takes
    Ledger(ledger::LedgerArgs),
    /// A list of 1 GB, in a process of its own (started by `mask`)
    #[command(hide = true)]
    MaskStream(mask::MaskStreamArgs),
    /// The upstream the others are measured against (started by `proxy`)
    #[command(hide = true)]
    Stub(stub::StubArgs),
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| "a second TLS provider")?;
    match Cli::parse().bench {
        Bench::Proxy(args) => proxy::run(args).await,
        Bench::Mask(args) => mask::run(args).await,
        Bench::Ledger(args) => ledger::run(&args),
        Bench::MaskStream(args) => mask::stream(&args),
        Bench::Stub(args) => stub::run(args).await,
    }
}
