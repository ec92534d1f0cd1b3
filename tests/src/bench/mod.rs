//! Benchmarks. `make bench BENCH=burst` measures optimized binaries on a real control plane, beside what that control
//! plane does at best in the same minutes: machines are noisy, ratios hold.

mod document;
mod figures;
mod jobs;
mod loops;
mod memory;
mod process;
mod rig;
mod simulate;
mod webhook;
mod wire;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::{ControlPlane, Options as PlaneOptions},
    terminal::{Terminal, write_line},
};

pub use self::figures::{Book, Bound, Entry, Figure, Figures};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The webhook server: deliveries per second, CPU and memory.
    Webhook,
    /// From a queued webhook to a pod, one cold job after the other.
    Latency,
    /// Many jobs at once.
    Burst,
    /// Idle runners.
    Steady,
    /// A stream of short jobs.
    Churn,
    /// Lost webhooks.
    Lossy,
    /// From 100 to 1,000 runners: does anything grow faster than they do?
    Growth,
    /// The decisions alone, with a virtual clock: 100,000 jobs.
    Simulate,
}

impl Subject {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Latency => "latency",
            Self::Burst => "burst",
            Self::Steady => "steady",
            Self::Churn => "churn",
            Self::Lossy => "lossy",
            Self::Growth => "growth",
            Self::Simulate => "simulate",
        }
    }
}

/// The command line of the benchmarks.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures Muster beside what the machine can do. The last line is JSON; docs/performance.md follows."
)]
pub struct Options {
    /// What is measured.
    #[arg(default_value = "webhook")]
    pub subject: Subject,
    /// So many runs; the figures are the medians.
    #[arg(long, value_name = "N", default_value = "1")]
    pub runs: usize,
    /// Leave docs/performance.md and its figures as they are.
    #[arg(long)]
    pub no_docs: bool,
    /// What must be known about these runs: a line for docs/performance.md.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
    /// webhook: watch the server's memory for a while under a steady load, instead of its speed.
    #[arg(long)]
    pub memory: bool,
    /// webhook: requests of each scenario.
    #[arg(long, value_name = "N", default_value = "4000")]
    pub requests: usize,
    /// webhook: autoscalers that the deliveries are for.
    #[arg(long, value_name = "N", default_value = "20")]
    pub autoscalers: usize,
    /// webhook --memory: for how long.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub seconds: u32,
    /// webhook --memory: requests per second.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub rate: u32,
    /// webhook: log level of the server; debug is its default.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    pub log_level: String,
    /// burst: jobs.
    #[arg(long, value_name = "N", default_value = "300")]
    pub jobs: usize,
    /// steady: idle runners.
    #[arg(long, value_name = "N", default_value = "500")]
    pub runners: usize,
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
    if options.memory {
        let bench = webhook::Bench::start(options, plane(terminal, false).await?, terminal).await?;
        let length = Duration::from_secs(options.seconds.into());
        let figures = memory::watch(&bench, length, options.rate, terminal).await?;
        write_line(json!({"bench": "webhook", "profile": profile, "figures": figures}));
        return Ok(());
    }
    let mut runs = Vec::new();
    for run in 0..options.runs.max(1) {
        if options.runs > 1 {
            terminal.say(format_args!("Run {} of {}", run + 1, options.runs));
        }
        runs.push(once(options, terminal).await?);
    }
    let entry = Entry {
        at: document::hour(),
        profile: profile.to_owned(),
        runs: runs.len(),
        note: options.note.clone(),
        figures: Figures::median(&runs),
    };
    terminal.say("");
    for line in entry.figures.table() {
        terminal.say(line);
    }
    if !options.no_docs {
        document::keep(options.subject, &entry)?;
    }
    let figures: serde_json::Map<_, _> = entry
        .figures
        .iter()
        .map(|(name, figure)| (name.to_owned(), json!(figure)))
        .collect();
    write_line(json!({
        "bench": options.subject.name(),
        "profile": entry.profile,
        "at": entry.at,
        "runs": entry.runs,
        "figures": figures,
    }));
    Ok(())
}

/// Each run has a control plane of its own: what a former one has left in etcd makes the next one slower.
async fn once(options: &Options, terminal: Terminal) -> Result<Figures> {
    match options.subject {
        Subject::Simulate => return simulate::run(terminal).await,
        Subject::Lossy => return jobs::lossy(terminal).await,
        _ => {}
    }
    let plane = plane(terminal, options.subject != Subject::Webhook).await?;
    match options.subject {
        Subject::Webhook => {
            let bench = webhook::Bench::start(options, plane, terminal).await?;
            bench.run(options.requests, terminal).await
        }
        Subject::Latency => jobs::latency(&plane, terminal).await,
        Subject::Burst => jobs::burst(&plane, options.jobs, terminal).await,
        Subject::Steady => jobs::steady(&plane, options.runners, terminal).await,
        Subject::Churn => jobs::churn(&plane, terminal).await,
        Subject::Growth => jobs::growth(&plane, terminal).await,
        Subject::Lossy | Subject::Simulate => Ok(Figures::default()),
    }
}

/// A control plane, with a book of all writes where they are counted.
async fn plane(terminal: Terminal, audit: bool) -> Result<Arc<ControlPlane>> {
    let step = terminal.step("control plane");
    let options = PlaneOptions {
        audit,
        ..PlaneOptions::default()
    };
    let plane = Arc::new(ControlPlane::start_with(options).await?);
    step.done("ready");
    Ok(plane)
}
