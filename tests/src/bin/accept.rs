//! `make accept`: the acceptance list of a piece of work, a line per item.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use muster_tests::{
    accept::{self, Options},
    terminal::{Signals, Terminal},
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let signals = Signals::listen()?;
    let all_ok = accept::run(&options, Terminal::detect(), signals.stop()).await?;
    Ok(match all_ok {
        None => signals.exit_code(),
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
    })
}
