//! Benchmarks. `make bench BENCH=webhook` measures an optimized webhook server on a real API server, beside what the
//! machine could do at best in the same minutes: machines are noisy, ratios hold.

mod memory;
mod process;
mod webhook;
mod wire;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::ControlPlane,
    terminal::{Terminal, write_line},
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The webhook server.
    Webhook,
}

/// The command line of the benchmarks.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures the webhook server beside what the machine can do. The last line is JSON."
)]
pub struct Options {
    /// What is measured.
    #[arg(default_value = "webhook")]
    pub subject: Subject,
    /// Watch the server's memory for a while under a steady load, instead of its speed.
    #[arg(long)]
    pub memory: bool,
    /// Requests of each scenario.
    #[arg(long, value_name = "N", default_value = "4000")]
    pub requests: usize,
    /// Autoscalers that the deliveries are for.
    #[arg(long, value_name = "N", default_value = "20")]
    pub autoscalers: usize,
    /// With --memory: for how long.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub seconds: u32,
    /// With --memory: requests per second.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub rate: u32,
    /// Log level of the server; debug is its default.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    pub log_level: String,
}

/// Runs a benchmark and prints a table and a line of JSON. `None` when it was told to stop.
pub async fn run(options: &Options, terminal: Terminal, stop: &CancellationToken) -> Result<Option<()>> {
    stop.run_until_cancelled(measure(options, terminal))
        .await
        .transpose()
}

async fn measure(options: &Options, terminal: Terminal) -> Result<()> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    if profile == "debug" {
        terminal.say("This is not an optimized build: `make bench` makes one.");
    }
    let step = terminal.step("control plane");
    let plane = Arc::new(ControlPlane::start().await?);
    step.done("ready");
    let bench = webhook::Bench::start(options, plane, terminal).await?;
    let figures = if options.memory {
        memory::watch(
            &bench,
            Duration::from_secs(options.seconds.into()),
            options.rate,
            terminal,
        )
        .await?
    } else {
        bench.run(options.requests, terminal).await?
    };
    write_line(json!({"bench": "webhook", "profile": profile, "figures": figures}));
    Ok(())
}
