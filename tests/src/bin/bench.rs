//! `make bench`: measures an optimized build.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use muster_tests::{
    bench::{self, Options},
    terminal::{Signals, Terminal},
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let signals = Signals::listen()?;
    let done = bench::run(&options, Terminal::detect(), signals.stop()).await?;
    Ok(done.map_or_else(|| signals.exit_code(), |()| ExitCode::SUCCESS))
}
