//! `make demo`: the main job, end to end, on real parts, shown live.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use muster_tests::{
    demo::{self, Options, Outcome},
    terminal::{Signals, Terminal},
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let signals = Signals::listen()?;
    let terminal = Terminal::detect();
    let outcome = demo::run(&options, None, terminal, signals.stop()).await?;
    Ok(match outcome {
        Outcome::Stopped => {
            terminal.say("Stopped; nothing is left behind.");
            signals.exit_code()
        }
        Outcome::Ended(report) if report.problems().is_empty() => ExitCode::SUCCESS,
        Outcome::Ended(_) => ExitCode::FAILURE,
    })
}
