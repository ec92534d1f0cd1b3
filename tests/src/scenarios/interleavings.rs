//! Never kill a busy runner, live: scale-downs, template changes, killed managers, leader changes, GitHub's refusals and
//! silences, and jobs that are given between the check and the removal, in a random order for each seed.
//! build a world → shake it → let it settle → empty it → count

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use kube::api::ListParams;
use muster_crds::legacy::RunnerReplicaSet;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    control_plane::ControlPlane,
    github::{Family, Fault, FaultKind},
    world::{Kind, VolumeFigures, World},
};

/// The pool and its autoscaler.
const POOL: &str = "pool";
/// The API client gives up after 20 s: an answer that comes later is a time-out.
const TOO_LATE: Duration = Duration::from_secs(22);
/// A Lease is free 15 s after its holder fell silent.
const TAKE_OVER: Duration = Duration::from_mins(1);
/// A persistent runner that was busy is asked again after a minute.
const DEADLINE: Duration = Duration::from_mins(4);
/// Actions of a seed beside one of each sort.
const MORE: usize = 3;

/// What came out, summed over all seeds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Seeds that were run to their end, or to a failure.
    pub seeds: usize,
    /// Seeds that failed, each with what was wrong.
    pub failures: Vec<String>,
    /// Jobs that ran to their end.
    pub jobs: u64,
    /// Jobs that lost their runner.
    pub interrupted: usize,
    /// Pods that were told to end while their job ran.
    pub busy_deleted: usize,
    /// Pods, Runners, sets, registrations and reservations that were there at the end.
    pub stuck: usize,
    /// Managers that were killed.
    pub kills: usize,
    /// Times when the other manager took over.
    pub leader_changes: usize,
    /// Changes of the template.
    pub template_changes: usize,
    /// Times when fewer runners were asked for.
    pub scale_downs: usize,
    /// Faults that GitHub was given: 403, 429, 5xx, resets, time-outs.
    pub faults: usize,
    /// Removals that GitHub refused because a job had come in between.
    pub refused: u64,
    /// What became of the volumes; nothing in worlds without.
    pub volumes: VolumeFigures,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.failures.extend(other.failures);
        self.jobs += other.jobs;
        self.interrupted += other.interrupted;
        self.busy_deleted += other.busy_deleted;
        self.stuck += other.stuck;
        self.kills += other.kills;
        self.leader_changes += other.leader_changes;
        self.template_changes += other.template_changes;
        self.scale_downs += other.scale_downs;
        self.faults += other.faults;
        self.refused += other.refused;
        self.volumes.add(other.volumes);
    }

    /// Whether the promise was kept, and put to the test.
    pub fn is_good(&self) -> bool {
        let kept = self.failures.is_empty() && self.is_kept();
        // Each seed does each of these at least once; whether a job came in between is GitHub's affair.
        let each = [
            self.leader_changes,
            self.kills,
            self.template_changes,
            self.scale_downs,
        ];
        kept && each.iter().all(|count| *count >= self.seeds) && self.faults >= self.seeds && self.refused > 0
    }

    /// Whether nothing was interrupted, left or lost.
    pub fn is_kept(&self) -> bool {
        self.interrupted == 0 && self.busy_deleted == 0 && self.stuck == 0 && self.volumes.is_good()
    }

    /// The figures in a line.
    pub fn line(&self) -> String {
        let first = self.failures.iter().take(3);
        let failures: Vec<_> = first
            .map(|failure| failure.lines().next().unwrap_or_default())
            .collect();
        let failures = if failures.is_empty() {
            String::new()
        } else {
            format!("; {}", failures.join("; "))
        };
        let volumes = match self.volumes.created {
            0 => String::new(),
            _ => format!("; {}", self.volumes.line()),
        };
        format!(
            "{} seeds, {} jobs: {} interrupted, {} busy pods deleted, {} objects stuck; {} scale-downs, {} template changes, {} managers \
             killed, {} leader changes, {} faults of GitHub, {} removals refused because of a job{volumes}{failures}",
            self.seeds,
            self.jobs,
            self.interrupted,
            self.busy_deleted,
            self.stuck,
            self.scale_downs,
            self.template_changes,
            self.kills,
            self.leader_changes,
            self.faults,
            self.refused,
        )
    }
}

/// Runs a world for each seed, so many at once, all on one control plane.
pub async fn run(plane: &Arc<ControlPlane>, kind: Kind, seeds: Range<u64>, at_once: usize) -> Figures {
    let mut all = Figures::default();
    let mut ran = stream::iter(seeds)
        .map(
            async |seed| match Box::pin(interleave(plane.clone(), kind, seed)).await {
                Ok(figures) => figures,
                Err(error) => Figures {
                    seeds: 1,
                    failures: vec![format!("seed {seed}: {error:#}")],
                    ..Figures::default()
                },
            },
        )
        .buffer_unordered(at_once.max(1));
    while let Some(figures) = ran.next().await {
        all.add(figures);
    }
    all
}

/// What can happen to a pool.
#[derive(Clone, Copy, Debug)]
enum Act {
    Queue,
    ScaleDown,
    ChangeTemplate,
    KillManager,
    ChangeLeader,
    BreakGitHub,
    /// A job for a runner whose removal is on its way.
    Race,
}

/// Each seed does each of these.
const EACH: [Act; 7] = [
    Act::Queue,
    Act::ScaleDown,
    Act::ChangeTemplate,
    Act::KillManager,
    Act::ChangeLeader,
    Act::BreakGitHub,
    Act::Race,
];

/// One seed's world while it is shaken.
struct Shaken {
    world: World,
    random: StdRng,
    autoscaled: bool,
    wanted: i32,
    images: usize,
    figures: Figures,
}

async fn interleave(plane: Arc<ControlPlane>, kind: Kind, seed: u64) -> Result<Figures> {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::builder("interleave")
        .on(plane)
        .kind(kind)
        .seed(seed)
        .standby_manager()
        .start()
        .await?;
    let autoscaled = random.random_bool(0.5);
    let persistent = !autoscaled && random.random_bool(0.3);
    world
        .pool(POOL, |pool| {
            pool.replicas = Some(if autoscaled { 0 } else { 3 });
            pool.config.ephemeral = Some(!persistent);
        })
        .await?;
    let mut shaken = Shaken {
        world,
        random,
        autoscaled,
        wanted: 3,
        images: 0,
        figures: Figures::default(),
    };
    if autoscaled {
        shaken.scale(3).await?;
    }
    shaken.shake().await?;
    shaken.settle().await?;
    shaken.empty().await
}

impl Shaken {
    async fn shake(&mut self) -> Result<()> {
        // So that there is something to lose from the start on.
        let up = async |world: &World| Ok(world.github.runners().len() >= 2);
        self.world
            .until("two runners are registered", DEADLINE, up)
            .await?;
        let mut acts = EACH.to_vec();
        for _ in 0..MORE {
            let index = self.random.random_range(0..EACH.len());
            acts.extend(EACH.get(index));
        }
        acts.shuffle(&mut self.random);
        for act in acts {
            self.act(act).await.with_context(|| format!("{act:?}"))?;
            let pause = Duration::from_millis(self.random.random_range(0..600));
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Queue => self.queue(1..4),
            Act::ScaleDown => {
                let fewer = self.random.random_range(0..self.wanted.max(1));
                self.scale(fewer).await?;
            }
            Act::ChangeTemplate => {
                self.images += 1;
                let image = format!("runner:{}", self.images);
                self.world.change_image(POOL, &image).await?;
                self.figures.template_changes += 1;
            }
            Act::KillManager => {
                // Whichever it is: the leader, or the one that would follow it.
                let index = usize::from(self.random.random_bool(0.3));
                self.kill(index).await?;
            }
            Act::ChangeLeader => self.change_leader().await?,
            Act::BreakGitHub => self.break_github(),
            Act::Race => {
                let slow = FaultKind::Slow(Duration::from_millis(self.random.random_range(200..1_500)));
                self.world
                    .github
                    .inject(Fault::on(Family::RemoveRunner, slow).times(3));
                let more = self.random.random_range(2..5);
                self.scale(more).await?;
                let fewer = self.random.random_range(0..2);
                self.scale(fewer).await?;
                let pause = Duration::from_millis(self.random.random_range(0..800));
                tokio::time::sleep(pause).await;
                self.queue(1..4);
            }
        }
        Ok(())
    }

    fn queue(&mut self, count: Range<usize>) {
        for _ in 0..self.random.random_range(count) {
            let duration = Duration::from_millis(self.random.random_range(100..3_000));
            self.world.queue_job(duration);
        }
    }

    /// Asks for so many runners: as the user of a fixed pool, or through the minimum of an autoscaler that keeps nothing.
    async fn scale(&mut self, replicas: i32) -> Result<()> {
        if self.autoscaled {
            self.world
                .autoscaler(POOL, POOL, |spec| {
                    spec.min_replicas = Some(i64::from(replicas));
                    spec.scale_down_delay_seconds_after_scale_out = Some(0);
                })
                .await?;
        } else {
            self.world.scale_pool(POOL, replicas).await?;
        }
        self.figures.scale_downs += usize::from(replicas < self.wanted);
        self.wanted = replicas;
        Ok(())
    }

    async fn kill(&mut self, index: usize) -> Result<()> {
        let [first, second] = self.world.managers();
        let manager = if index == 0 { first } else { second };
        let mut manager = manager.lock().await;
        manager.as_mut().context("there is no manager")?.restart().await?;
        drop(manager);
        self.figures.kills += 1;
        Ok(())
    }

    /// The leader ends, or falls silent and wakes up again when the other one leads already.
    async fn change_leader(&mut self) -> Result<()> {
        let led = async |world: &World| Ok(world.leader().await?.is_some());
        self.world.until("a manager leads", TAKE_OVER, led).await?;
        let old = self.world.leader().await?.context("nobody leads any more")?;
        let other = 1 - old;
        let [first, second] = self.world.managers();
        let leader = if old == 0 { first } else { second };
        let pause = self.random.random_bool(0.5);
        {
            let mut leader = leader.lock().await;
            let process = leader.as_mut().context("there is no manager")?;
            if pause {
                process
                    .running_mut()
                    .context("the leader does not run")?
                    .pause()?;
            } else {
                process.stop(Duration::from_secs(40)).await?;
            }
        }
        let follows = async |world: &World| world.leads(other).await;
        self.world
            .until("the other manager leads", TAKE_OVER, follows)
            .await?;
        let mut leader = leader.lock().await;
        let process = leader.as_mut().context("there is no manager")?;
        if let Some(running) = process.running_mut().filter(|_| pause) {
            // It still believes that it leads, and must end before it has done anything.
            running.resume()?;
            running.wait(Duration::from_secs(20)).await?;
        }
        process.restart().await?;
        drop(leader);
        self.figures.leader_changes += 1;
        Ok(())
    }

    fn break_github(&mut self) {
        let second = Duration::from_secs(1);
        let kind = match self.random.random_range(0..9) {
            0 => FaultKind::Forbidden,
            1 => FaultKind::TooManyRequests(second),
            2 => FaultKind::SecondaryRateLimit(2 * second),
            3 => FaultKind::PrimaryRateLimit(2 * second),
            4 => FaultKind::Status(500),
            5 => FaultKind::Status(502),
            6 => FaultKind::ResetAfter,
            7 => FaultKind::Reset,
            _ => FaultKind::Slow(TOO_LATE),
        };
        let family = match self.random.random_range(0..5) {
            0 => Family::ListRunners,
            1 => Family::RegistrationToken,
            _ => Family::RemoveRunner,
        };
        let times = self.random.random_range(1..4);
        self.world.github.inject(Fault::on(family, kind).times(times));
        self.figures.faults += 1;
    }

    /// Nothing goes wrong any more: every job finds a runner.
    async fn settle(&mut self) -> Result<()> {
        self.world.github.clear_faults();
        if !self.autoscaled {
            self.world.scale_pool(POOL, 2).await?;
        }
        self.world.until_jobs_done(DEADLINE).await
    }

    /// Everything goes, in the orderly way, and then the pool itself.
    async fn empty(mut self) -> Result<Figures> {
        let world = &self.world;
        if self.autoscaled {
            self.world
                .autoscaler(POOL, POOL, |spec| {
                    spec.scale_down_delay_seconds_after_scale_out = Some(0);
                })
                .await?;
        } else {
            world.scale_pool(POOL, 0).await?;
        }
        world.until_nothing_left(DEADLINE).await?;
        world.delete_pool(POOL).await?;
        let no_sets = async |world: &World| Ok(sets(world).await? == 0);
        world.until("no set is left", DEADLINE, no_sets).await?;
        // A spare runner that was made last is on its way out with its set; what stays is counted below.
        world.until_nothing_left(DEADLINE).await.ok();
        world.until_volumes_settle(DEADLINE).await?;
        let left = world.leftovers().await?.total() + sets(world).await?;
        let (stats, counters) = (world.github.job_stats(), world.kubelet.counters());
        self.figures.seeds = 1;
        self.figures.jobs = stats.completed;
        self.figures.interrupted = world.github.interrupted();
        self.figures.busy_deleted = counters.busy_deleted;
        self.figures.stuck = left;
        self.figures.volumes = world.volume_figures().await?;
        self.figures.refused = world.github.calls(Family::RemoveRunner).refused;
        Ok(self.figures)
    }
}

/// What stands between a pool and its runners.
async fn sets(world: &World) -> Result<usize> {
    match world.kind {
        Kind::RunnerDeployment => {
            let list = world.api::<RunnerReplicaSet>().list(&ListParams::default()).await;
            Ok(list.context("could not list the RunnerReplicaSets")?.items.len())
        }
        Kind::RunnerSet => Ok(world.stateful_sets().await?.len()),
    }
}
