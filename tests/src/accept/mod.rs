//! Acceptance lists: what a piece of work promised, run item by item, with a line for each (`ok` or `FAIL`, the item,
//! its figure). `make accept SUITE=main-job` runs one; a clean clone is enough.

mod command;
mod main_job;
mod traces;

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::{keeper::target_dir, terminal::Terminal};

use self::{command::Runner, traces::Traces};

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The main job, end to end: webhook, runners, jobs, nothing left.
    MainJob,
}

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "accept",
    about = "Runs an acceptance list: a line per item, exit code 0 when all are ok."
)]
pub struct Options {
    /// The list.
    #[arg(value_name = "SUITE", default_value = "main-job")]
    pub list: Suite,
    /// The list, as an option.
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<Suite>,
    /// Run these items only; may be repeated.
    #[arg(long, value_name = "ITEM", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these items out; may be repeated.
    #[arg(long, value_name = "ITEM", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Print the names of the items, and what each is.
    #[arg(long)]
    pub items: bool,
}

/// One promise.
#[derive(Clone, Copy, Debug)]
struct Item {
    name: &'static str,
    about: &'static str,
    check: main_job::Check,
}

/// What came out of a check.
#[derive(Clone, Debug)]
struct Verdict {
    ok: bool,
    figure: String,
}

impl Verdict {
    fn new(ok: bool, figure: impl Into<String>) -> Self {
        Self {
            ok,
            figure: figure.into(),
        }
    }
}

/// Runs the list. Answers whether all items are ok; `None` when it was told to stop.
pub async fn run(options: &Options, terminal: Terminal, stop: &CancellationToken) -> Result<Option<bool>> {
    let items = match options.suite.unwrap_or(options.list) {
        Suite::MainJob => main_job::ITEMS,
    };
    if options.items {
        for item in items {
            terminal.say(format_args!("{:<12} {}", item.name, item.about));
        }
        return Ok(Some(true));
    }
    for name in options.only.iter().chain(&options.skip) {
        if !items.iter().any(|item| item.name == name) {
            bail!("there is no item {name}; --items lists them");
        }
    }
    let wanted = |item: &&Item| {
        let named = |names: &[String]| names.iter().any(|name| name == item.name);
        (options.only.is_empty() || named(&options.only)) && !named(&options.skip)
    };
    let logs = target_dir().join("accept");
    fs::create_dir_all(&logs).with_context(|| format!("could not make {}", logs.display()))?;
    let before = Traces::now()?;
    let runner = Runner {
        temporary: before.temporary().to_path_buf(),
        logs: logs.clone(),
        stop: stop.clone(),
    };

    let (begun, mut failed, mut passed) = (Instant::now(), 0, 0);
    for item in items.iter().filter(wanted) {
        let log = logs.join(format!("{}.log", item.name));
        if log.exists() {
            fs::remove_file(&log).with_context(|| format!("could not remove {}", log.display()))?;
        }
        let (begun, step) = (
            Instant::now(),
            terminal.step(format!("{}: {}", item.name, item.about)),
        );
        let checked = main_job::check(item.check, item.name, &runner, &before).await;
        drop(step);
        if stop.is_cancelled() {
            return Ok(None);
        }
        let verdict = checked.unwrap_or_else(|error| Verdict::new(false, format!("{error:#}")));
        let word = if verdict.ok { "ok" } else { "FAIL" };
        let seconds = begun.elapsed().as_secs();
        terminal.say(format_args!(
            "{word:<4} {:<12} {} ({seconds} s)",
            item.name, verdict.figure
        ));
        if verdict.ok {
            passed += 1;
        } else {
            failed += 1;
            if log.exists() {
                terminal.say(format_args!("     see {}", log.display()));
            }
        }
    }
    terminal.say(format_args!(
        "{passed} ok, {failed} failed, in {} s",
        begun.elapsed().as_secs()
    ));
    Ok(Some(failed == 0 && passed > 0))
}
