//! Acceptance lists: what a piece of work promised, run item by item, with a line for each (`ok` or `FAIL`, the item,
//! its figure). `make accept SUITE=main-job` runs one; a clean clone is enough.

mod autoscaler;
mod command;
mod install;
mod install_migrate;
mod intake;
mod main_job;
mod runner_life;
mod runnerset;
mod speed;
mod traces;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use futures::future::LocalBoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{keeper::target_dir, terminal::Terminal};

use self::{
    command::{Ran, Runner},
    traces::Traces,
};

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The main job, end to end: webhook, runners, jobs, nothing left.
    MainJob,
    /// Webhook intake: every event, durable, several replicas, nothing missed that matters.
    Intake,
    /// A runner's whole life: busy ones never killed, faults healed, credentials, take-over.
    RunnerLife,
    /// The autoscaler: metrics, schedules, budgets, explanations.
    Autoscaler,
    /// RunnerSets: the same promises with StatefulSets and volumes.
    Runnerset,
    /// Moving from ARC and back: doctor, take-over, hand back, image, documents.
    Migrate,
    /// Speed: time, memory and writes, as medians beside the limits of the same runs.
    Speed,
    /// Installation: the chart, its rights, upgrade from ARC, the end.
    Install,
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
    check: Check,
}

/// How an item is checked, on the thread that runs the list. An error is a FAIL, too.
type Check = for<'a> fn(&'a Running<'a>) -> LocalBoxFuture<'a, Result<Verdict>>;

/// A line of a list.
const fn item(name: &'static str, about: &'static str, check: Check) -> Item {
    Item { name, about, check }
}

/// The last item of every list.
const TRACES: Item = item(
    "traces",
    "no process and no file is left outside of the build folders",
    |running| Box::pin(std::future::ready(traces(running))),
);

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

/// What a check works with.
struct Running<'a> {
    /// The item's name; its log has it too.
    item: &'a str,
    runner: &'a Runner,
    /// What was there before the list began.
    before: &'a Traces,
}

impl Running<'_> {
    /// A program, in the workspace.
    async fn run(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Ran> {
        let program = Path::new(program);
        self.runner.run(self.item, program, args, env, None).await
    }

    /// A tool whose exit code says all.
    async fn tool(&self, program: &str, args: &[&str], good: &str) -> Result<Verdict> {
        let ran = self.run(program, args, &[]).await?;
        let figure = if ran.is_success() { good } else { ran.last_line() };
        Ok(Verdict::new(ran.is_success(), figure))
    }

    /// A make target whose last line is the figure.
    async fn make(&self, target: &str) -> Result<Verdict> {
        let ran = self.run("make", &[target], &[]).await?;
        Ok(Verdict::new(ran.is_success(), ran.last_line()))
    }

    /// A scenario of [`crate::scenarios`], in this process; it ends when the list is interrupted.
    async fn scenario<T>(&self, scenario: impl Future<Output = Result<T>>) -> Result<T> {
        let ended = self.runner.stop.run_until_cancelled(scenario).await;
        ended.context("told to stop")?
    }

    /// Runs the demo and reads its last line.
    async fn demo(&self, args: &[&str]) -> Result<(Ran, Value)> {
        let program = std::env::current_exe()
            .context("could not find this program's own path")?
            .with_file_name("demo");
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.runner.run(self.item, &program, &args, &[], None).await?;
        let report = serde_json::from_str(ran.last_line())
            .with_context(|| format!("the demo's last line is no JSON: {}", ran.last_line()))?;
        Ok((ran, report))
    }
}

/// A number of a report; a missing one is as bad as it gets.
fn number(report: &Value, pointer: &str) -> u64 {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or(u64::MAX)
}

fn traces(running: &Running<'_>) -> Result<Verdict> {
    let left = running.before.left()?;
    let figure = if left.is_empty() {
        "nothing".to_owned()
    } else {
        left.join("; ")
    };
    Ok(Verdict::new(left.is_empty(), format!("left behind: {figure}")))
}

/// Runs the list. Answers whether all items are ok; `None` when it was told to stop.
pub async fn run(options: &Options, terminal: Terminal, stop: &CancellationToken) -> Result<Option<bool>> {
    let items = match options.suite.unwrap_or(options.list) {
        Suite::MainJob => main_job::ITEMS,
        Suite::Intake => intake::ITEMS,
        Suite::RunnerLife => runner_life::ITEMS,
        Suite::Autoscaler => autoscaler::ITEMS,
        Suite::Runnerset => runnerset::ITEMS,
        Suite::Migrate => install_migrate::ALONE,
        Suite::Speed => speed::ITEMS,
        Suite::Install => install::ITEMS,
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
        let running = Running {
            item: item.name,
            runner: &runner,
            before: &before,
        };
        let checked = (item.check)(&running).await;
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
