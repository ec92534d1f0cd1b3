//! Runners that do not do what they should: how soon each place is filled again, and what a start-up that always fails
//! costs (90 PAIN-08…10, FEATURE 3).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::{
    control_plane::ControlPlane,
    github::JobSpec,
    kubelet::{Fault, FaultRule, PodTrace, Strike, When},
    world::{Kind, REPOSITORY, World},
};

/// The manager's deadlines in these worlds.
const LIMIT: Duration = Duration::from_secs(5);
/// After how long the fake GitHub calls a silent runner offline.
const OFFLINE_AFTER: Duration = Duration::from_secs(1);
/// How long the jobs of these scenarios take.
const JOB: Duration = Duration::from_secs(2);
/// What a wait may take before the world is broken.
const PATIENCE: Duration = Duration::from_mins(2);

/// A world whose deadlines are [`LIMIT`].
async fn impatient(name: &str, plane: Option<Arc<ControlPlane>>, kind: Kind) -> Result<World> {
    let mut builder = World::builder(name)
        .kind(kind)
        .github(|options| options.offline_after = OFFLINE_AFTER);
    for step in ["scheduling", "start", "registration", "offline"] {
        builder = builder.manager_flag(&format!("--runner-{step}-timeout={}s", LIMIT.as_secs()));
    }
    match plane {
        Some(plane) => builder.on(plane).start().await,
        None => builder.start().await,
    }
}

/// A fault, and from when on its deadline runs.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    fault: Option<Fault>,
    /// Needs a job to come about.
    job: bool,
    begin: Begin,
    deadline: Duration,
}

/// What the deadline of a fault counts from.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Created,
    Running,
    Registered,
    JobStarted,
    JobEnded,
}

const fn strike(when: When, strike: Strike) -> Fault {
    Fault::Strike {
        when,
        after: Duration::ZERO,
        strike,
    }
}

const fn case(name: &'static str, fault: Option<Fault>, begin: Begin, deadline: Duration) -> Case {
    Case {
        name,
        fault,
        job: matches!(begin, Begin::JobStarted | Begin::JobEnded),
        begin,
        deadline,
    }
}

/// What GitHub and Muster together take to find a runner offline.
const OFFLINE: Duration = LIMIT.saturating_add(OFFLINE_AFTER);
const NONE: Duration = Duration::ZERO;

/// Every fault. A name is part of no other name.
const CASES: &[Case] = &[
    case("unscheduled", Some(Fault::NeverScheduled), Begin::Created, LIMIT),
    case("image-pull", Some(Fault::NeverReady), Begin::Created, LIMIT),
    case("unregistered", Some(Fault::NeverRegisters), Begin::Running, LIMIT),
    case(
        "crash-start",
        Some(strike(When::Started, Strike::Crash(1))),
        Begin::Running,
        NONE,
    ),
    case(
        "crash-idle",
        Some(strike(When::Idle, Strike::Crash(137))),
        Begin::Registered,
        NONE,
    ),
    case(
        "crash-busy",
        Some(strike(When::Busy, Strike::Crash(137))),
        Begin::JobStarted,
        NONE,
    ),
    case(
        "evict-idle",
        Some(strike(When::Idle, Strike::Evict)),
        Begin::Registered,
        NONE,
    ),
    case(
        "evict-busy",
        Some(strike(When::Busy, Strike::Evict)),
        Begin::JobStarted,
        NONE,
    ),
    case(
        "lost-idle",
        Some(strike(When::Idle, Strike::LoseNode)),
        Begin::Registered,
        OFFLINE,
    ),
    case(
        "lost-busy",
        Some(strike(When::Busy, Strike::LoseNode)),
        Begin::JobStarted,
        OFFLINE,
    ),
    case("offline", Some(Fault::GoesOffline), Begin::Registered, OFFLINE),
    case("lingers", Some(Fault::Lingers), Begin::JobEnded, LIMIT),
    case("deregistered", None, Begin::Registered, NONE),
];

/// How soon a place was filled again.
#[derive(Clone, Debug)]
pub struct Healed {
    /// The fault.
    pub fault: &'static str,
    /// What it may take until the runner is given up.
    pub deadline: Duration,
    /// From the fault to the registration of the replacement, the slowest place first.
    pub took: Vec<Duration>,
}

impl Healed {
    /// Whether every place was filled within the deadline and this much.
    pub fn is_within(&self, slack: Duration) -> bool {
        !self.took.is_empty() && self.took.iter().all(|took| *took <= self.deadline + slack)
    }
}

/// Lets every fault strike `places` runners, each of a pool of its own, all at once.
pub async fn faults(plane: Option<Arc<ControlPlane>>, kind: Kind, places: usize) -> Result<Vec<Healed>> {
    let world = impatient("faults", plane, kind).await?;
    let all = || {
        CASES
            .iter()
            .flat_map(|case| (0..places).map(move |place| (case, name_of(case, place))))
    };
    for (case, name) in all() {
        if let Some(fault) = case.fault {
            world.kubelet.inject(FaultRule::new(fault).named(&name).times(1));
        }
        world
            .pool(&name, |pool| {
                pool.replicas = Some(1);
                pool.config.labels = Some(vec![name.clone()]);
            })
            .await?;
        if case.job {
            let job = JobSpec::new(REPOSITORY, ["self-hosted", &name]);
            world.github.queue_job(job.duration(JOB));
        }
    }
    for (case, name) in all().filter(|(case, _)| case.fault.is_none()) {
        let gone = async |world: &World| {
            let first = traces(world, &name).into_iter().next();
            Ok(first.is_some_and(|trace| world.github.deregister(&trace.name)))
        };
        world.until(case.name, PATIENCE, gone).await?;
    }
    let mut healed = Vec::new();
    for case in CASES {
        let mut took = Vec::new();
        for place in 0..places {
            let name = name_of(case, place);
            let filled = async |world: &World| Ok(filled_after(world, case, &name).is_some());
            world.until(&name, PATIENCE, filled).await?;
            took.extend(filled_after(&world, case, &name));
        }
        took.sort();
        took.reverse();
        healed.push(Healed {
            fault: case.name,
            deadline: case.deadline,
            took,
        });
    }
    Ok(healed)
}

fn name_of(case: &Case, place: usize) -> String {
    format!("{}-{place}", case.name)
}

/// The pods of a pool, oldest first.
fn traces(world: &World, pool: &str) -> Vec<PodTrace> {
    let prefix = format!("{pool}-");
    let mut traces = world.kubelet.pods();
    traces.retain(|trace| trace.name.starts_with(&prefix));
    traces.sort_by_key(|trace| trace.created);
    traces
}

/// From the fault of the first pod to the registration of its successor.
fn filled_after(world: &World, case: &Case, deployment: &str) -> Option<Duration> {
    let traces = traces(world, deployment);
    let (first, later) = traces.split_first()?;
    // A StatefulSet may make another pod by the same name, which its owner takes away again.
    let registered = later.iter().filter_map(|trace| trace.registered).min()?;
    let job_ended = || {
        let mut jobs = world.kubelet.jobs().into_iter();
        jobs.find(|job| job.pod == first.name).map(|job| job.ended)
    };
    let begin: Timestamp = match case.begin {
        Begin::Created => Some(first.created),
        Begin::Running => first.running,
        Begin::Registered => first.registered,
        Begin::JobStarted => first.job_started,
        Begin::JobEnded => job_ended(),
    }?;
    Some(registered.duration_since(begin).unsigned_abs())
}

/// What failing start-ups cost, and how soon a healed pool is full.
#[derive(Clone, Debug)]
pub struct StartUps {
    /// The fault.
    pub fault: &'static str,
    /// Pods created in all until the fault ended.
    pub created: usize,
    /// Of those, in the last minute (or the whole time, if that was shorter), after the back-off had begun.
    pub created_late: usize,
    /// What the condition said.
    pub reason: String,
    /// From the end of the fault until the pool was full.
    pub healed_after: Duration,
}

/// Pools of `replicas` runners each whose start-ups all fail for `time` in three ways, and then work.
pub async fn start_ups(
    plane: Option<Arc<ControlPlane>>,
    replicas: usize,
    time: Duration,
) -> Result<Vec<StartUps>> {
    let faults = [
        ("crashes", Fault::crash(1, When::Started)),
        ("image-pull", Fault::NeverReady),
        ("unregistered", Fault::NeverRegisters),
    ];
    let world = impatient("start-ups", plane, Kind::RunnerDeployment).await?;
    for (name, fault) in faults {
        world.kubelet.inject(FaultRule::new(fault).named(name));
        let replicas = i64::try_from(replicas).context("so many runners")?;
        world
            .deployment(name, |spec| spec.replicas = Some(replicas))
            .await?;
    }
    let begun = Instant::now();
    let all_failing = async |world: &World| {
        for (name, _) in faults {
            if startup_condition(world, name)
                .await?
                .is_none_or(|(failing, _)| !failing)
            {
                return Ok(false);
            }
        }
        Ok(true)
    };
    world
        .until("the conditions say so", PATIENCE, all_failing)
        .await?;
    // The first minute has the runners that were wanted at once, and the short delays.
    let settled = Duration::from_secs(if time > Duration::from_mins(1) { 30 } else { 8 });
    tokio::time::sleep(settled.saturating_sub(begun.elapsed())).await;
    let before: Vec<usize> = faults
        .iter()
        .map(|(name, _)| traces(&world, name).len())
        .collect();
    tokio::time::sleep(time.saturating_sub(begun.elapsed())).await;
    let mut figures = Vec::new();
    for ((fault, _), before) in faults.into_iter().zip(before) {
        let created = traces(&world, fault).len();
        let (_, reason) = startup_condition(&world, fault).await?.unwrap_or_default();
        figures.push(StartUps {
            fault,
            created,
            created_late: created.saturating_sub(before),
            reason,
            healed_after: PATIENCE,
        });
    }
    world.kubelet.clear_faults();
    let healed = Instant::now();
    for figure in &mut figures {
        let prefix = format!("{}-", figure.fault);
        let full = async |world: &World| {
            let online = world.github.runners().into_iter();
            Ok(online
                .filter(|runner| runner.online && runner.name.starts_with(&prefix))
                .count()
                == replicas)
        };
        world.until("the pool is full", PATIENCE, full).await?;
        figure.healed_after = healed.elapsed();
    }
    let none_failing = async |world: &World| {
        for (name, _) in faults {
            if startup_condition(world, name)
                .await?
                .is_none_or(|(failing, _)| failing)
            {
                return Ok(false);
            }
        }
        Ok(true)
    };
    world
        .until("the conditions are false again", PATIENCE, none_failing)
        .await?;
    Ok(figures)
}

/// Status and message of the condition `StartupFailing`.
async fn startup_condition(world: &World, deployment: &str) -> Result<Option<(bool, String)>> {
    let status = world.get_deployment(deployment).await?.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ours = conditions
        .into_iter()
        .find(|condition| condition.type_ == "StartupFailing");
    Ok(ours.map(|condition| (condition.status == "True", condition.message)))
}
