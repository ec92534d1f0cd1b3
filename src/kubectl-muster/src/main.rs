//! `kubectl muster`: what Muster knows, for people at a terminal.
//!
//! ```text
//! args (kubectl's flags) -> cluster (kubeconfig, lists) -> muster_core::explain  -> render (text or JSON)
//!                                                       -> top (a table, once or live)
//!                                                       -> muster_core::doctor   -> findings
//!                                                       -> muster_core::handback -> writes, one for each step
//! ```
//!
//! Each subcommand is a file with `run`; all but `handback` write nothing to the cluster.

mod args;
mod budget;
mod cluster;
mod doctor;
mod explain;
mod handback;
mod output;
mod render;
mod top;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};

/// Asked, and there is nothing of that name.
const NOT_FOUND: u8 = 2;
/// Could not ask.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    muster_runtime::client::install_crypto_provider();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no mistakes.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&args)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("error: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Explain(asked) => {
            let found = explain::run(&args.cluster, asked).await?;
            Ok(if found {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(NOT_FOUND)
            })
        }
        Command::Doctor(asked) => doctor::run(&args.cluster, asked).await.map(ExitCode::from),
        Command::Handback(asked) => handback::run(&args.cluster, asked).await.map(ExitCode::from),
        Command::Top(asked) => top::run(&args.cluster, asked).await.map(|()| ExitCode::SUCCESS),
    }
}
