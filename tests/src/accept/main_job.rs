//! The list of the main job: a webhook comes in, runners come up, jobs finish, runners go.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    control_plane::ControlPlane,
    github::Family,
    keeper::{target_dir, workspace_dir},
    world::World,
};

use super::{Item, Running, Verdict, command::Ran, item, number, traces::Traces};

/// Jobs of a run.
const JOBS: u64 = 50;
/// Cases that every property must hold for.
const CASES: &str = "10000";
/// Inputs that every fuzz target must stand.
const INPUTS: u64 = 1_000_000;
/// The fuzz targets.
const FUZZ_TARGETS: [&str; 3] = ["signature", "payload", "routing"];
/// When a fuzz target is given up.
const FUZZ_SECONDS: &str = "900";
/// How long memory is watched; it must be flat in the last third.
const MEMORY_SECONDS: &str = "210";
/// What ARC's webhook server had under load (spec part 93), in KiB.
const MEMORY: i64 = 64 * 1024;
/// Growth in a minute that still counts as none: a leak of a hundred bytes a request is three times as much.
const GROWTH: i64 = 2 * 1024;

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item("format", "cargo fmt --check", |running| Box::pin(format(running))),
    item(
        "clippy",
        "clippy on all targets, warnings are errors",
        |running| Box::pin(clippy(running)),
    ),
    item("deny", "licences, bans, sources", |running| {
        Box::pin(deny(running))
    }),
    item(
        "purity",
        "muster-core has neither a runtime nor a client",
        |running| Box::pin(purity(running)),
    ),
    item("test", "make test is green", |running| Box::pin(test(running))),
    item(
        "properties",
        "10,000 event schedules for every property of the core",
        |running| Box::pin(properties(running)),
    ),
    item("caching", "listings are cached for 60 s at the wire", |running| {
        Box::pin(caching(running))
    }),
    item("burst", "50 jobs at once", |running| Box::pin(burst(running))),
    item("sequential", "50 jobs one after the other", |running| {
        Box::pin(sequential(running))
    }),
    item(
        "list-calls",
        "as many list calls for 50 runners as for 10",
        |running| Box::pin(list_calls(running)),
    ),
    item(
        "kills",
        "SIGKILL of both processes at random moments",
        |running| Box::pin(kills(running)),
    ),
    item("interrupt", "Ctrl-C at any moment leaves nothing", |running| {
        Box::pin(interrupt(running))
    }),
    item(
        "fuzz",
        "no input makes the readers of GitHub's bytes panic",
        |running| Box::pin(fuzz(running)),
    ),
    item("memory", "the webhook server's memory does not grow", |running| {
        Box::pin(memory(running))
    }),
    super::TRACES,
];

async fn format(running: &Running<'_>) -> Result<Verdict> {
    running
        .tool("cargo", &["fmt", "--all", "--check"], "formatted")
        .await
}

async fn clippy(running: &Running<'_>) -> Result<Verdict> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    running.tool("cargo", &args, "no warning").await
}

async fn deny(running: &Running<'_>) -> Result<Verdict> {
    running.make("deny").await
}

async fn purity(running: &Running<'_>) -> Result<Verdict> {
    running.make("purity").await
}

async fn test(running: &Running<'_>) -> Result<Verdict> {
    running.make("test").await
}

async fn properties(running: &Running<'_>) -> Result<Verdict> {
    let args = ["test", "-p", "muster-core"];
    let ran = running.run("cargo", &args, &[("PROPTEST_CASES", CASES)]).await?;
    let (properties, fewest) = properties_of(&workspace_dir().join("src").join("core").join("src"))?;
    let ok = ran.is_success() && fewest.is_none_or(|fewest| fewest >= 10_000) && properties > 0;
    let cases = fewest.map_or_else(|| CASES.to_owned(), |fewest| fewest.to_string());
    let passed = ran.tests_passed();
    Ok(Verdict::new(
        ok,
        format!(
            "{properties} groups of properties with at least {cases} cases each, among {passed} tests that passed"
        ),
    ))
}

async fn caching(running: &Running<'_>) -> Result<Verdict> {
    let args = ["test", "--workspace", "--test", "wire", "--", "caching::"];
    let ran = running.run("cargo", &args, &[]).await?;
    let thirty = "thirty_callers_of_one_scope_within_a_minute_are_one_request ... ok";
    let passed = ran.tests_passed();
    Ok(Verdict::new(
        ran.is_success() && ran.output.contains(thirty),
        format!("30 runners of one scope: one request a minute; {passed} tests at the wire"),
    ))
}

async fn burst(running: &Running<'_>) -> Result<Verdict> {
    let (ran, report) = running.demo(&["--jobs", "50"]).await?;
    Ok(judge(&ran, &report, 0))
}

async fn sequential(running: &Running<'_>) -> Result<Verdict> {
    let args = ["--jobs", "50", "--sequential", "--job-seconds", "0.2"];
    let (ran, report) = running.demo(&args).await?;
    Ok(judge(&ran, &report, 0))
}

async fn kills(running: &Running<'_>) -> Result<Verdict> {
    let (mut ok, mut figures) = (true, Vec::new());
    for seed in ["1", "2", "3"] {
        // A spare runner may be kept for the scale-down delay; its end is to be seen.
        let args = [
            "--jobs",
            "50",
            "--job-seconds",
            "4",
            "--kill-every",
            "900",
            "--scale-down-delay",
            "10s",
            "--seed",
            seed,
        ];
        let (ran, report) = running.demo(&args).await?;
        let kills = number(&report, "/kills");
        let verdict = judge(&ran, &report, kills);
        ok &= verdict.ok && kills > 0;
        let pods = number(&report, "/pods_created");
        let words = if verdict.ok { "" } else { ", BAD" };
        figures.push(format!("seed {seed}: {kills} kills, {pods} pods{words}"));
    }
    Ok(Verdict::new(ok, figures.join("; ")))
}

async fn interrupt(running: &Running<'_>) -> Result<Verdict> {
    let program = std::env::current_exe()
        .context("could not find this program's own path")?
        .with_file_name("demo");
    let (mut ok, mut figures) = (true, Vec::new());
    for after in [300, 2_000, 6_000, 9_000] {
        let before = Traces::now()?;
        let args = ["--jobs", "200", "--job-seconds", "5", "--max-replicas", "20"];
        let after = Duration::from_millis(after);
        let ran = running
            .runner
            .run(running.item, &program, &args, &[], Some(after))
            .await?;
        let left = before.left()?;
        ok &= ran.code == Some(130) && left.is_empty();
        let left = if left.is_empty() {
            "nothing left".to_owned()
        } else {
            left.join(", ")
        };
        figures.push(format!(
            "after {:.1} s: exit {:?} {:.1} s later, {left}",
            after.as_secs_f32(),
            ran.code.unwrap_or(-1),
            ran.took.saturating_sub(after).as_secs_f32()
        ));
    }
    Ok(Verdict::new(ok, figures.join("; ")))
}

/// With coverage where nightly and cargo-fuzz are installed, else by random damage to real payloads: the checks are the same.
pub(super) async fn fuzz(running: &Running<'_>) -> Result<Verdict> {
    let installed = running
        .run("cargo", &["+nightly", "fuzz", "--version"], &[])
        .await;
    if installed.is_ok_and(|ran| ran.is_success()) {
        return fuzz_with_coverage(running).await;
    }
    let args = ["test", "--workspace", "--test", "fuzz"];
    let inputs = INPUTS.to_string();
    let ran = running
        .run("cargo", &args, &[("PROPTEST_CASES", &inputs)])
        .await?;
    let passed = |target: &&str| ran.output.contains(&format!("test {target} ... ok"));
    let ok = ran.is_success() && FUZZ_TARGETS.iter().all(passed);
    Ok(Verdict::new(
        ok,
        format!(
            "without cargo-fuzz: {INPUTS} damaged payloads for each of {}",
            FUZZ_TARGETS.join(", ")
        ),
    ))
}

async fn fuzz_with_coverage(running: &Running<'_>) -> Result<Verdict> {
    let (mut ok, mut figures) = (true, Vec::new());
    for target in FUZZ_TARGETS {
        let fuzz = format!("FUZZ={target}");
        let (seconds, runs) = (
            format!("FUZZ_SECONDS={FUZZ_SECONDS}"),
            format!("FUZZ_RUNS={INPUTS}"),
        );
        let ran = running
            .run("make", &["fuzz", &fuzz, &seconds, &runs], &[])
            .await?;
        let runs = ran.output.lines().rev().find_map(|line| {
            let (runs, _) = line.strip_prefix("Done ")?.split_once(" runs")?;
            runs.parse::<u64>().ok()
        });
        let runs = runs.unwrap_or_default();
        ok &= ran.is_success() && runs >= INPUTS;
        figures.push(format!("{target} {runs}"));
    }
    Ok(Verdict::new(
        ok,
        format!("cargo-fuzz, inputs: {}", figures.join(", ")),
    ))
}

/// Makes an optimized build of these programs; answers their folder.
pub(super) async fn optimized(running: &Running<'_>, programs: &[&str]) -> Result<PathBuf> {
    let mut args = vec!["build", "--workspace", "--release"];
    args.extend(programs.iter().flat_map(|program| ["--bin", *program]));
    let built = running.run("cargo", &args, &[]).await?;
    ensure!(built.is_success(), "{}", built.last_line());
    Ok(target_dir().join("release"))
}

pub(super) async fn memory(running: &Running<'_>) -> Result<Verdict> {
    let program = optimized(running, &["github-webhook-server", "bench"])
        .await?
        .join("bench");
    // Nothing but the server tidies these ledgers, once they have 200 KiB: few of them reach that in the first third.
    let args = [
        "webhook",
        "--memory",
        "--autoscalers",
        "5",
        "--seconds",
        MEMORY_SECONDS,
    ];
    let ran = running
        .runner
        .run(running.item, &program, &args, &[], None)
        .await?;
    let report: Value = serde_json::from_str(ran.last_line()).context("the last line is no JSON")?;
    let figure = |name: &str| {
        let figure = report.pointer(&format!("/figures/{name}"));
        figure.and_then(Value::as_i64).unwrap_or(i64::MAX)
    };
    let (highest, slope) = (figure("rss_max_kib"), figure("rss_slope_kib_per_min"));
    let (requests, bad) = (figure("requests"), figure("unexpected"));
    let ok = ran.is_success() && highest <= MEMORY && slope <= GROWTH && bad == 0;
    Ok(Verdict::new(
        ok,
        format!(
            "{requests} deliveries, {bad} not 2xx; RSS {} KiB idle, {highest} KiB at most, {slope} KiB/min in the last {} s",
            figure("rss_first_kib"),
            figure("settled_seconds")
        ),
    ))
}

/// Whether a demo did what it must, with at most so many pods more than jobs.
fn judge(ran: &Ran, report: &Value, spare: u64) -> Verdict {
    let get = |name: &str| number(report, name);
    let ok = ran.is_success()
        && get("/completed") == JOBS
        && ["/stranded", "/busy_deleted", "/leftovers"]
            .iter()
            .all(|name| get(name) == 0)
        && get("/pods_created") <= JOBS + spare;
    let calls = report
        .pointer("/github_calls/list_runners")
        .and_then(Value::as_u64);
    Verdict::new(
        ok,
        format!(
            "{} completed, {} stranded, {} busy deleted, {} left over, {} pods, {} list calls; \
             queued to pod p50 {} p99 {} ms, to running p50 {} p99 {} ms; {:.1} s in all",
            get("/completed"),
            get("/stranded"),
            get("/busy_deleted"),
            get("/leftovers"),
            get("/pods_created"),
            calls.unwrap_or_default(),
            get("/queued_to_pod_ms/p50"),
            get("/queued_to_pod_ms/p99"),
            get("/queued_to_running_ms/p50"),
            get("/queued_to_running_ms/p99"),
            ran.took.as_secs_f32(),
        ),
    )
}

/// How many groups of property tests a folder has, and the lowest number of cases that one of them sets itself.
fn properties_of(folder: &Path) -> Result<(usize, Option<u32>)> {
    let (mut groups, mut fewest) = (0, None);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("could not list a source folder")?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("could not read {}", path.display()))?;
                groups += text.matches("proptest! {").count();
                let set = text.lines().filter_map(|line| {
                    let digits = line
                        .trim()
                        .strip_prefix("cases: ")?
                        .trim_end_matches(',')
                        .replace('_', "");
                    digits.parse::<u32>().ok()
                });
                fewest = set.chain(fewest).min();
            }
        }
    }
    Ok((groups, fewest))
}

async fn list_calls(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(count_list_calls()).await
}

/// Idle runners, first few, then many: how often is their scope listed in any minute?
async fn count_list_calls() -> Result<Verdict> {
    let plane = Arc::new(ControlPlane::start().await?);
    let mut figures = Vec::new();
    let mut most = Vec::new();
    for runners in [10, 50] {
        let world = World::builder("list-calls").on(plane.clone()).start().await?;
        world
            .deployment("pool", |spec| spec.replicas = Some(runners))
            .await?;
        let wanted = usize::try_from(runners).unwrap_or_default();
        world.until_known(wanted, Duration::from_mins(2)).await?;
        let in_a_minute = world.github.calls_per_minute(Family::ListRunners);
        let calls = in_a_minute.into_iter().max().unwrap_or_default();
        figures.push(format!("{runners} runners: {calls} in a minute"));
        most.push(calls);
    }
    let ok = most.iter().all(|calls| (1..=2).contains(calls));
    Ok(Verdict::new(ok, figures.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_demo_is_judged_by_its_report() {
        let ran = Ran {
            code: Some(0),
            output: String::new(),
            took: Duration::ZERO,
        };
        let mut report =
            json!({"completed": 50, "stranded": 0, "busy_deleted": 0, "leftovers": 0, "pods_created": 51});
        assert!(judge(&ran, &report, 1).ok);
        assert!(!judge(&ran, &report, 0).ok);
        report["pods_created"] = json!(50);
        assert!(judge(&ran, &report, 0).ok);
        report["leftovers"] = Value::Null;
        assert!(!judge(&ran, &report, 0).ok);
    }

    #[test]
    fn the_core_has_properties() {
        let (groups, fewest) = properties_of(&workspace_dir().join("src").join("core").join("src")).unwrap();
        assert!(groups > 2 && fewest.is_some_and(|fewest| fewest >= 10_000));
    }
}
