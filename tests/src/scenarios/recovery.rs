//! Webhooks that get lost, and what finding them costs: the queue is the truth (spec 20 "Recovery").

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    github::WebhookChaos,
    world::{World, WorldBuilder},
};

const MINUTE: Duration = Duration::from_mins(1);
/// Surplus runners are kept for this long only, so that their end is seen.
const KEEP: &str = "--default-scale-down-delay=2s";

/// Which loops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loops {
    /// Queue reconciliation.
    pub queue: bool,
    /// Delivery replay, with or without the right to its Lease.
    pub replay: Option<bool>,
}

/// Queue reconciliation alone.
pub const QUEUE: Loops = Loops {
    queue: true,
    replay: None,
};
/// Delivery replay alone.
pub const REPLAY: Loops = Loops {
    queue: false,
    replay: Some(true),
};
/// Both.
pub const BOTH: Loops = Loops {
    queue: true,
    replay: Some(true),
};
/// Neither.
pub const NEITHER: Loops = Loops {
    queue: false,
    replay: None,
};

/// A world to be built whose loops run this often, with a GitHub that sends every webhook once, as the real one does.
pub fn builder(name: &str, loops: Loops, period: Duration, chaos: WebhookChaos) -> WorldBuilder {
    let flag = |flag: &str, on: bool| {
        let millis = if on { period.as_millis() } else { 0 };
        format!("{flag}={millis}ms")
    };
    let builder = World::builder(name)
        .github(|options| {
            options.resend_until_2xx = false;
            options.webhook_chaos = chaos;
            options.seed = 20;
        })
        .manager_flag(&flag("--queue-reconciliation-period", loops.queue))
        .manager_flag(KEEP)
        .webhook_flag(&flag("--replay-period", loops.replay.is_some()));
    match loops.replay {
        Some(lease) => builder.replay(lease),
        None => builder,
    }
}

/// Makes the deployment and the autoscaler `pool`; returns when all webhook servers know them: what comes before is a fault too, and
/// not one of those that are counted.
pub async fn with_pool(world: World) -> Result<World> {
    world.deployment("pool", |_| {}).await?;
    world.autoscaler("pool", "pool", |_| {}).await?;
    until_ready(&world).await?;
    // The deployment is watched apart from the autoscaler: an event between the two would be for nobody.
    let seen = async |world: &World| {
        let status = world.get_autoscaler("pool").await?.status;
        Ok(status.is_some_and(|status| status.desired_replicas.is_some()))
    };
    world.until("the pool is known", MINUTE, seen).await?;
    Ok(world)
}

/// Waits until all webhook servers know the one autoscaler that there is.
pub async fn until_ready(world: &World) -> Result<()> {
    world
        .until("the webhook servers are ready", MINUTE, async |world: &World| {
            for component in world.webhook_components() {
                let known = world.metric(&component, "muster_webhook_autoscalers", &[]);
                if known.await? != 1 || !world.is_ready(&component).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
}

/// [`builder`] and [`with_pool`] in one, for webhooks that are lost: those under way are given a second only.
pub async fn pool(name: &str, loops: Loops, period: Duration, chaos: WebhookChaos) -> Result<World> {
    let builder = builder(name, loops, period, chaos).manager_flag("--queue-reconciliation-grace=1s");
    with_pool(builder.start().await?).await
}

/// `muster_demand_drift` of a kind: `missing` or `leaked`.
pub async fn drift(world: &World, kind: &str) -> Result<u64> {
    let label = format!("kind=\"{kind}\"");
    world.metric("manager", "muster_demand_drift", &[&label]).await
}

/// A counter of all webhook servers.
pub async fn of_servers(world: &World, name: &str) -> Result<u64> {
    let mut sum = 0;
    for component in world.webhook_components() {
        sum += world.metric(&component, name, &[]).await?;
    }
    Ok(sum)
}

/// `muster_missed_deliveries_total`.
pub async fn missed(world: &World) -> Result<u64> {
    of_servers(world, "muster_missed_deliveries_total").await
}

/// `muster_recovered_deliveries_total`.
pub async fn recovered(world: &World) -> Result<u64> {
    of_servers(world, "muster_recovered_deliveries_total").await
}

/// Calls of a family that GitHub has answered.
pub fn calls(world: &World, family: &str) -> u64 {
    world.github.counters().get(family).copied().unwrap_or_default()
}

/// GUIDs of the hook's deliveries that no attempt of was answered 2xx, by GitHub's own log.
pub fn missed_by_the_log(world: &World, hook: u64) -> BTreeSet<String> {
    let log = world.github.deliveries(hook);
    let is_accepted = |code: u16| (200..300).contains(&code);
    let accepted: BTreeSet<&str> = log
        .iter()
        .filter(|delivery| is_accepted(delivery.status_code))
        .map(|delivery| delivery.guid.as_str())
        .collect();
    log.iter()
        .filter(|delivery| !accepted.contains(delivery.guid.as_str()))
        .map(|delivery| delivery.guid.clone())
        .collect()
}

/// Waits until the metrics say the same as the hook's log, and all that was missed has been dealt with.
pub async fn until_the_metric_equals_the_log(world: &World, hook: u64, within: Duration) -> Result<u64> {
    world
        .until("the metric equals GitHub's log", within, async |world: &World| {
            let log = u64::try_from(missed_by_the_log(world, hook).len())?;
            let (missed, recovered) = (missed(world).await?, recovered(world).await?);
            Ok(log == missed && missed == recovered)
        })
        .await?;
    missed(world).await
}

/// Jobs whose webhooks get lost, half of them while nothing listens where the webhook points to.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Jobs.
    pub jobs: usize,
    /// How long a job takes.
    pub length: Duration,
    /// Share of the webhooks of each kind that do not arrive and stand in GitHub's log as failed.
    pub lose: f64,
    /// Share that is never sent and stands in no log.
    pub forget: f64,
    /// How long nothing listens.
    pub outage: Duration,
    /// Period of both loops.
    pub period: Duration,
    /// Jobs at the end of which no webhook at all is sent.
    pub untold: usize,
}

/// What came of it. Times are from the end of the outage on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossFigures {
    /// Share of the jobs whose `queued` was not answered 2xx, and the same for `completed`, in percent.
    pub lost: [usize; 2],
    /// When the last job started.
    pub started: Duration,
    /// When the last job ended.
    pub ended: Duration,
    /// When neither pods nor runners nor live entries were left.
    pub gone: Duration,
    /// Deliveries without a 2xx by GitHub's log, once per GUID; the metric says the same.
    pub missed: u64,
    /// `muster_demand_drift{kind="missing"}` by then.
    pub drift: u64,
    /// How much it grew by the jobs that no webhook told of.
    pub untold: u64,
    /// Runners that were deleted at work, and jobs that lost their runner.
    pub harmed: usize,
}

/// Lets webhooks get lost. Waits are bounded by four periods and a minute.
pub async fn losses(name: &str, losses: &Losses) -> Result<LossFigures> {
    let chaos = WebhookChaos {
        lose: losses.lose,
        forget: losses.forget,
        ..WebhookChaos::default()
    };
    let world = pool(name, BOTH, losses.period, chaos.clone()).await?;
    let hook = world.hook.context("the world has no hook")?;
    let patience = losses.period * 4 + MINUTE;
    let (half, pause) = (losses.jobs / 2, losses.outage / 20);
    let queue = async |jobs: usize| {
        for part in 0..20 {
            let count = jobs * (part + 1) / 20 - jobs * part / 20;
            world.queue_jobs(count, losses.length);
            tokio::time::sleep(pause).await;
        }
    };
    queue(half).await;
    world.github.set_hook_url(hook, "http://127.0.0.1:1/");
    queue(losses.jobs - half).await;
    world.github.set_hook_url(hook, &world.webhook_url);
    let (up, up_at) = (Instant::now(), world.github.now());
    world.until_jobs_done(patience).await?;
    let ended = up.elapsed();
    world.until_nothing_left(patience).await?;
    let gone = up.elapsed();
    let started = world.github.jobs().iter().filter_map(|job| job.started_at).max();
    let started = started.context("no job has started")?.duration_since(up_at);
    let missed = until_the_metric_equals_the_log(&world, hook, patience).await?;
    let mut figures = LossFigures {
        lost: ["queued", "completed"].map(|action| losses.jobs - told(&world, hook, action)),
        started: Duration::try_from(started).unwrap_or_default(),
        ended,
        gone,
        missed,
        drift: drift(&world, "missing").await?,
        ..LossFigures::default()
    };
    figures.lost = figures.lost.map(|jobs| jobs * 100 / losses.jobs.max(1));

    world.github.set_webhook_chaos(WebhookChaos {
        forget: 1.0,
        ..WebhookChaos::default()
    });
    world.queue_jobs(losses.untold, losses.length);
    world.until_jobs_done(patience).await?;
    world.until_nothing_left(patience).await?;
    figures.untold = drift(&world, "missing").await?.saturating_sub(figures.drift);
    figures.harmed = world.kubelet.counters().busy_deleted + world.github.interrupted();
    Ok(figures)
}

/// Jobs of which a delivery with this action was answered 2xx.
fn told(world: &World, hook: u64, action: &str) -> usize {
    let log = world.github.deliveries(hook);
    let told: BTreeSet<_> = log
        .iter()
        .filter(|delivery| {
            delivery.action.as_deref() == Some(action) && (200..300).contains(&delivery.status_code)
        })
        .filter_map(|delivery| delivery.job_id)
        .collect();
    told.len()
}

/// Jobs of which every webhook arrives.
#[derive(Clone, Debug)]
pub struct Quiet {
    /// Jobs; each is a run of its own.
    pub jobs: u64,
    /// Time between two of them.
    pub every: Duration,
    /// Period of both loops.
    pub period: Duration,
}

/// What the loops asked of GitHub, and what they found.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuietFigures {
    /// Attempts in the hook's log.
    pub deliveries: u64,
    /// Scans of it, and pages that were listed.
    pub scans: [u64; 2],
    /// Jobs, each in a run of its own.
    pub jobs: u64,
    /// Looks at the repository, lists of runs, lists of a run's jobs.
    pub looks: [u64; 3],
    /// Jobs that were asked for one by one.
    pub singles: u64,
    /// Deliveries that GitHub's log shows without an answer 2xx: 0 unless the machine was too busy to answer within GitHub's time.
    pub unanswered: u64,
    /// Jobs that were missing in the ledger, and that were left in it.
    pub drift: [u64; 2],
}

impl QuietFigures {
    /// Spec 20's budgets: a list call per scan and 100 deliveries; two per look, and one for each run with unknown jobs. A scan or a
    /// look may be under way.
    pub fn is_within_budget(&self) -> bool {
        let [scans, pages] = self.scans;
        let [looks, run_lists, job_lists] = self.looks;
        scans > 0
            && looks > 0
            && pages <= scans + 1 + self.deliveries / 100
            && run_lists <= 2 * (looks + 1)
            && job_lists <= self.jobs
            && self.singles == 0
    }
}

/// Lets jobs come and go while both loops look on.
pub async fn quiet(name: &str, quiet: &Quiet) -> Result<QuietFigures> {
    // Nothing is lost here, and webhooks may be slow on a busy machine: none that is under way shall be taken for lost.
    let builder = builder(name, BOTH, quiet.period, WebhookChaos::default())
        .manager_flag("--queue-reconciliation-grace=60s");
    let world = with_pool(builder.start().await?).await?;
    let hook = world.hook.context("the world has no hook")?;
    for number in 0..quiet.jobs {
        let length = Duration::from_millis(500 * (1 + number % 4));
        world.queue_job(length);
        tokio::time::sleep(quiet.every).await;
    }
    world.until_jobs_done(MINUTE).await?;
    world.until_nothing_left(MINUTE).await?;
    // A sender that gave up on a busy machine is in GitHub's log, and then in the metric.
    until_the_metric_equals_the_log(&world, hook, MINUTE).await?;
    let manager = |name| world.metric("manager", name, &[]);
    Ok(QuietFigures {
        deliveries: u64::try_from(world.github.deliveries(hook).len())?,
        scans: [
            of_servers(&world, "muster_replay_scans_total").await?,
            calls(&world, "deliveries"),
        ],
        jobs: quiet.jobs,
        looks: [
            manager("muster_queue_reconciliations_total").await?,
            calls(&world, "list_runs"),
            calls(&world, "list_jobs"),
        ],
        singles: calls(&world, "get_job"),
        unanswered: u64::try_from(missed_by_the_log(&world, hook).len())?,
        drift: [drift(&world, "missing").await?, drift(&world, "leaked").await?],
    })
}
