//! Compares a year of scheduled overrides with the oracle's answers. A program of its own, because tens of millions of minutes are
//! for an optimized build: `make accept SUITE=autoscaler` makes and runs it.

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use muster_tests::scenarios::schedule;

#[derive(Parser)]
struct Options {
    /// File with what `tools/scheduleoracle` answered; the question is the whole year, as it was asked.
    answers: PathBuf,
}

/// Prints what came out as a line of JSON.
fn main() -> Result<()> {
    let options = Options::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let compared = schedule::compare(&schedule::question()?, &options.answers)?;
    let line = serde_json::to_string(&compared).context("could not write the figures")?;
    writeln!(std::io::stdout(), "{line}").context("could not print the figures")
}
