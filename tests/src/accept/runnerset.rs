//! The list of RunnerSets: what a `RunnerDeployment` promises, with StatefulSets and volumes, by the same code.

mod likeness;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    control_plane::ControlPlane,
    keeper::workspace_dir,
    scenarios::{healing, interleavings, kills, template_change, warm_pool},
    volumes::BindingMode,
    world::{Kind, VolumeFigures},
};

use super::{Item, Running, Verdict, command::Ran, item, number};

/// Jobs of a demo.
const JOBS: u64 = 50;
/// Seeds of the fault suite, each kind.
const SEEDS: u64 = 12;
/// Worlds at once: more would measure the machine.
const AT_ONCE: usize = 4;
/// Processes killed in a world, and the jobs that run meanwhile.
const KILLS: (usize, usize) = (8, 40);
/// Places that each fault strikes, each kind, and what is promised beyond a deadline.
const PLACES: usize = 2;
const SLACK: Duration = Duration::from_secs(5);
/// Busy and idle runners of a template change.
const BUSY_AND_IDLE: (usize, usize) = (10, 10);
/// Runners of a wave, and waves.
const WAVES: (usize, usize) = (20, 5);
/// Lines of code that may be alike by chance.
const BY_CHANCE: usize = 8;
/// What the reconciler of RunnerSets may have beside the shared plan, in lines.
const RECONCILER: usize = 500;

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item("burst", "50 jobs at once, with volumes", |running| {
        Box::pin(demo(running, &["--jobs", "50"]))
    }),
    item(
        "sequential",
        "50 jobs one after the other: each with the volume of the one before",
        |running| {
            Box::pin(demo(
                running,
                &["--jobs", "50", "--sequential", "--job-seconds", "0.3"],
            ))
        },
    ),
    item(
        "interleave",
        "never a busy runner interrupted: random interleavings, both kinds",
        |running| Box::pin(interleave(running)),
    ),
    item(
        "kills",
        "SIGKILL of both processes at random moments, both kinds",
        |running| Box::pin(killed(running)),
    ),
    item(
        "faults",
        "every fault healed within its deadline, both kinds",
        |running| Box::pin(faults(running)),
    ),
    item(
        "template",
        "another template with 10 busy and 10 idle runners, both kinds",
        |running| Box::pin(template(running)),
    ),
    item(
        "warm",
        "5 waves of 20 runners in 3 zones work with 20 volumes",
        |running| Box::pin(warm(running)),
    ),
    item("shared", "nothing that both kinds share is written twice", |_| {
        Box::pin(async { shared() })
    }),
    item(
        "both-kinds",
        "one suite of tests runs over both kinds",
        |running| Box::pin(both_kinds(running)),
    ),
    super::TRACES,
];

async fn demo(running: &Running<'_>, args: &[&str]) -> Result<Verdict> {
    let args: Vec<&str> = ["--kind", "runnerset"].iter().chain(args).copied().collect();
    let (ran, report) = running.demo(&args).await?;
    Ok(judge(&ran, &report))
}

/// Whether a demo did what it must, and made no volume that it did not need.
fn judge(ran: &Ran, report: &Value) -> Verdict {
    let get = |name: &str| number(report, name);
    let (most, created, reused) = (get("/most_pods"), get("/volumes_created"), get("/volumes_reused"));
    let none = [
        "/stranded",
        "/busy_deleted",
        "/leftovers",
        "/volume_leaks",
        "/volume_double_mounts",
    ];
    let ok = ran.is_success()
        && get("/completed") == JOBS
        && none.iter().all(|name| get(name) == 0)
        && created <= most
        && reused != u64::MAX
        && reused >= JOBS.saturating_sub(most);
    Verdict::new(
        ok,
        format!(
            "{} completed, {} stranded, {} busy deleted, {} left over, {} pods, {most} at once; {created} volumes made, \
             {reused} times used again, {} leaked, {} in use twice; queued to pod p50 {} p99 {} ms; {:.1} s in all",
            get("/completed"),
            get("/stranded"),
            get("/busy_deleted"),
            get("/leftovers"),
            get("/pods_created"),
            get("/volume_leaks"),
            get("/volume_double_mounts"),
            get("/queued_to_pod_ms/p50"),
            get("/queued_to_pod_ms/p99"),
            ran.took.as_secs_f32(),
        ),
    )
}

async fn plane() -> Result<Arc<ControlPlane>> {
    ControlPlane::start().await.map(Arc::new)
}

async fn interleave(running: &Running<'_>) -> Result<Verdict> {
    let shaken = async {
        let (mut lines, mut ok) = (Vec::new(), true);
        for kind in Kind::ALL {
            let figures = interleavings::run(&plane().await?, kind, 0..SEEDS, AT_ONCE).await;
            let has_volumes = kind == Kind::RunnerDeployment || figures.volumes.reused > 0;
            ok &= figures.is_good() && has_volumes;
            lines.push(format!("{}: {}", kind.name(), figures.line()));
        }
        Ok(Verdict::new(ok, lines.join(" | ")))
    };
    running.scenario(shaken).await
}

async fn killed(running: &Running<'_>) -> Result<Verdict> {
    let (times, jobs) = KILLS;
    let killing = async {
        let (mut lines, mut ok) = (Vec::new(), true);
        for kind in Kind::ALL {
            let (mut pods, mut completed, mut lost, mut volumes) = (0, 0, 0, VolumeFigures::default());
            for seed in 1..=3 {
                let figures = kills::run(Some(plane().await?), kind, seed, jobs, times).await?;
                ok &= figures.pods <= jobs + times;
                pods += figures.pods;
                completed += figures.completed;
                lost += figures.interrupted + figures.busy_deleted;
                volumes.add(figures.volumes);
            }
            ok &= lost == 0 && volumes.is_good() && completed == u64::try_from(3 * jobs)?;
            let counts = format!(
                "{completed} jobs with {pods} pods, {lost} interrupted, {} kills",
                3 * times
            );
            lines.push(format!("{}: {counts}; {}", kind.name(), volumes.line()));
        }
        Ok(Verdict::new(ok, lines.join(" | ")))
    };
    running.scenario(killing).await
}

async fn faults(running: &Running<'_>) -> Result<Verdict> {
    let healing = async {
        let (mut lines, mut ok) = (Vec::new(), true);
        for kind in Kind::ALL {
            let healed = healing::faults(Some(plane().await?), kind, PLACES).await?;
            let late = healed.iter().filter(|fault| !fault.is_within(SLACK));
            let late: Vec<String> = late.map(|fault| format!("{fault:?}")).collect();
            ok &= late.is_empty() && !healed.is_empty();
            let all = healed.len();
            lines.push(format!(
                "{}: {all} faults, {} late {}",
                kind.name(),
                late.len(),
                late.join(", ")
            ));
        }
        Ok(Verdict::new(ok, lines.join(" | ")))
    };
    running.scenario(healing).await
}

async fn template(running: &Running<'_>) -> Result<Verdict> {
    let (busy, idle) = BUSY_AND_IDLE;
    let changing = async {
        let (mut lines, mut ok) = (Vec::new(), true);
        for kind in Kind::ALL {
            let job = Duration::from_secs(40);
            let figures = template_change::run(Some(plane().await?), kind, busy, idle, job).await?;
            let all_followed = kind == Kind::RunnerDeployment || figures.volumes_followed == busy + idle;
            ok &= figures.at_change == BUSY_AND_IDLE
                && figures.idle_first == idle
                && figures.busy_too_early + figures.interrupted + figures.old_left == 0
                && figures.volumes.is_good()
                && all_followed;
            lines.push(format!(
                "{}: {} of {idle} idle ones replaced before the first job ended, the last told {:.1} s after the change; {} of \
                 {busy} busy ones told too early, {} interrupted, {} old ones left; {} volumes followed; {}",
                kind.name(),
                figures.idle_first,
                figures.idle_told_after.as_secs_f32(),
                figures.busy_too_early,
                figures.interrupted,
                figures.old_left,
                figures.volumes_followed,
                figures.volumes.line()
            ));
        }
        Ok(Verdict::new(ok, lines.join(" | ")))
    };
    running.scenario(changing).await
}

async fn warm(running: &Running<'_>) -> Result<Verdict> {
    let (size, waves) = WAVES;
    let waving = async {
        let (mut lines, mut ok) = (Vec::new(), true);
        for binding in [BindingMode::WaitForFirstConsumer, BindingMode::Immediate] {
            let figures = warm_pool::run(Some(plane().await?), binding, size, waves).await?;
            let volumes = figures.volumes;
            ok &= figures.runners >= size * waves
                && volumes.created <= size.min(figures.most_at_once)
                && volumes.reused >= figures.runners - size
                && volumes.is_good()
                && figures.left == 0;
            lines.push(format!(
                "{binding:?}: {} runners, {} at once; {}; {} volumes left after the RunnerSet",
                figures.runners,
                figures.most_at_once,
                volumes.line(),
                figures.left
            ));
        }
        Ok(Verdict::new(ok, lines.join(" | ")))
    };
    running.scenario(waving).await
}

/// Both kinds go through one plan, the reconciler of RunnerSets is small, and no code of it stands elsewhere too.
fn shared() -> Result<Verdict> {
    let source = workspace_dir().join("src");
    let mut files = likeness::sources(&source.join("controllers"))?;
    let calls = files
        .iter()
        .map(|(_, text)| text.matches(" plan(&").count())
        .sum::<usize>();
    let planners = files.iter().filter(|(_, text)| text.contains(" plan(&")).count();
    let is_of_sets = |name: &str| {
        let path = Path::new(name);
        path.ends_with("legacy/runner_set.rs") || path.ends_with("legacy/runner_set/mod.rs")
    };
    let reconciler = files.iter().find(|(name, _)| is_of_sets(name));
    let (_, text) = reconciler.context("there is no reconciler of RunnerSets")?;
    let lines = text.lines().count();
    files.extend(likeness::sources(&source.join("core"))?);
    let twice = likeness::alike(&files, BY_CHANCE);
    let all: Vec<String> = twice
        .iter()
        .map(|alike| format!("{} lines at {} and {}", alike.lines, alike.first, alike.second))
        .collect();
    let ok = planners == 1 && calls > 0 && lines <= RECONCILER && all.is_empty();
    let figure = format!(
        "the plan is asked in {planners} file; the RunnerSet's reconciler has {lines} lines; {} places of {BY_CHANCE} lines or \
         more that are alike {}",
        all.len(),
        all.join("; ")
    );
    Ok(Verdict::new(ok, figure))
}

/// The names of the tests that passed, for one kind.
fn passed(output: &str, kind: &str) -> BTreeSet<String> {
    let part = format!("::{kind}::");
    let names = output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    names
        .filter(|name| name.contains(&part))
        .map(|name| name.replace(&part, "::"))
        .collect()
}

async fn both_kinds(running: &Running<'_>) -> Result<Verdict> {
    let args = [
        "test",
        "--workspace",
        "--test",
        "world",
        "--",
        "::runner_deployment::",
        "::runner_set::",
    ];
    let ran = running.run("cargo", &args, &[]).await?;
    let (deployments, sets) = (
        passed(&ran.output, "runner_deployment"),
        passed(&ran.output, "runner_set"),
    );
    let ok = ran.is_success() && deployments == sets && sets.len() >= 8;
    let figure = format!(
        "{} tests passed over RunnerDeployments, {} over RunnerSets",
        deployments.len(),
        sets.len()
    );
    Ok(Verdict::new(ok, figure))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_demo_with_volumes_is_judged_by_its_report() {
        let ran = Ran {
            code: Some(0),
            output: String::new(),
            took: Duration::ZERO,
        };
        let mut report = json!({"completed": 50, "stranded": 0, "busy_deleted": 0, "leftovers": 0, "pods_created": 50,
            "most_pods": 20, "volumes_created": 20, "volumes_reused": 30, "volume_leaks": 0, "volume_double_mounts": 0});
        assert!(judge(&ran, &report).ok);
        for (field, bad) in [
            ("volumes_created", 21),
            ("volumes_reused", 29),
            ("volume_leaks", 1),
        ] {
            let mut worse = report.clone();
            worse[field] = json!(bad);
            assert!(!judge(&ran, &worse).ok, "{field}");
        }
        report["volumes_reused"] = Value::Null;
        assert!(!judge(&ran, &report).ok);
    }

    #[test]
    fn tests_are_counted_by_kind() {
        let output = "test a::runner_set::x ... ok\ntest a::runner_deployment::x ... ok\ntest a::runner_set::y ... FAILED\n";
        let one: BTreeSet<String> = ["a::x".to_owned()].into();
        assert_eq!(passed(output, "runner_set"), one);
        assert_eq!(passed(output, "runner_deployment"), one);
    }
}
