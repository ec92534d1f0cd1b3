//! GitHub gives jobs to other runners than those that were created for them: to any idle one of the pool, and to the
//! runners of another pool that match as well.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use muster_crds::legacy::HorizontalRunnerAutoscalerSpec;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    github::{JobHandle, JobSpec},
    world::{Kind, LABEL, REPOSITORY, World},
};

/// Its runners have this label beside [`LABEL`].
const BOTH: &str = "both";
/// Its runners have [`LABEL`] alone.
const ONE: &str = "one";
/// The further label.
const FURTHER: &str = "further";
/// Runners of a pool at most.
const MAX: i64 = 15;

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Jobs that ran to their end.
    pub completed: u64,
    /// Jobs that no runner took, or that did not end.
    pub stranded: u64,
    /// Jobs that a runner took which was there before the job was: it had been made for another one.
    pub older: usize,
    /// Jobs that a runner of the other pool took.
    pub crossed: usize,
    /// Pods that were made.
    pub pods: usize,
    /// Pods that were told to end while their job ran.
    pub busy_deleted: usize,
    /// Jobs that lost their runner.
    pub interrupted: usize,
    /// Runners whose name says a job's id.
    pub named_after_jobs: usize,
    /// What was left in the end.
    pub left: usize,
}

impl Figures {
    /// Whether the promise was kept for so many jobs, and put to the test.
    pub fn is_good(&self, jobs: usize) -> bool {
        let bad = [
            self.busy_deleted,
            self.interrupted,
            self.named_after_jobs,
            self.left,
        ];
        usize::try_from(self.completed).is_ok_and(|completed| completed == jobs)
            && self.stranded == 0
            && bad.iter().all(|count| *count == 0)
            && self.older > 0
            && self.crossed > 0
    }

    /// The figures in a line.
    pub fn line(&self) -> String {
        format!(
            "{} jobs, {} of them by a runner that was made for another one, {} by one of another pool: {} stranded, {} interrupted, {} busy \
             pods deleted, {} runners named after a job, {} left over; {} pods",
            self.completed,
            self.older,
            self.crossed,
            self.stranded,
            self.interrupted,
            self.busy_deleted,
            self.named_after_jobs,
            self.left,
            self.pods
        )
    }
}

/// Queues so many jobs in waves while idle runners are retired at once and the minimum goes up and down.
pub async fn run(world: &World, jobs: usize, seed: u64) -> Result<Figures> {
    let mut random = StdRng::seed_from_u64(seed);
    for (name, labels) in [(BOTH, vec![LABEL, FURTHER]), (ONE, vec![LABEL])] {
        let labels = labels.into_iter().map(str::to_owned).collect();
        world.pool(name, |pool| pool.config.labels = Some(labels)).await?;
        world.autoscaler(name, name, bounds(1)).await?;
    }
    let mut queued: BTreeMap<u64, bool> = BTreeMap::new();
    while queued.len() < jobs {
        let wave = random.random_range(1..12).min(jobs - queued.len());
        for _ in 0..wave {
            let further = random.random_bool(0.3);
            queued.insert(queue(world, &mut random, further).id, further);
        }
        if random.random_bool(0.3) {
            let name = if random.random_bool(0.5) { BOTH } else { ONE };
            let min = random.random_range(0..4);
            world.autoscaler(name, name, bounds(min)).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
    }
    let done = world.until_jobs_done(Duration::from_mins(2)).await;
    let stranded = world.github.job_stats().open();
    if stranded > 0 {
        done?;
    }
    for name in [BOTH, ONE] {
        world.autoscaler(name, name, bounds(0)).await?;
    }
    world.until_nothing_left(Duration::from_mins(3)).await?;
    let mut figures = count(world, &queued);
    figures.left = world.leftovers().await?.total();
    Ok(figures)
}

/// Nothing is kept for the next job: a runner that its job did not take goes while others are busy.
fn bounds(min: i64) -> impl FnOnce(&mut HorizontalRunnerAutoscalerSpec) {
    move |spec| {
        spec.min_replicas = Some(min);
        spec.max_replicas = Some(MAX);
        spec.scale_down_delay_seconds_after_scale_out = Some(0);
    }
}

fn queue(world: &World, random: &mut StdRng, further: bool) -> JobHandle {
    let duration = Duration::from_millis(random.random_range(50..1_500));
    let labels = ["self-hosted", LABEL, FURTHER];
    let asked = if further { 3 } else { 2 };
    let spec = JobSpec::new(REPOSITORY, labels.into_iter().take(asked));
    world.github.queue_job(spec.duration(duration))
}

fn count(world: &World, queued: &BTreeMap<u64, bool>) -> Figures {
    let (runs, pods) = (world.kubelet.jobs(), world.kubelet.pods());
    let of = |pool: &str, pod: &str| pod.strip_prefix(pool).is_some_and(|rest| rest.starts_with('-'));
    let crossed = runs.iter().filter(|run| {
        let further = queued.get(&run.job_id).copied().unwrap_or_default();
        of(if further { ONE } else { BOTH }, &run.pod)
    });
    let older = runs.iter().filter(|run| {
        let job = world.github.job(run.job_id);
        job.is_some_and(|job| run.pod_created < job.created_at)
    });
    let named = pods
        .iter()
        .filter(|pod| queued.keys().any(|job| pod.name.contains(&job.to_string())));
    let (stats, counters) = (world.github.job_stats(), world.kubelet.counters());
    Figures {
        completed: stats.completed,
        stranded: stats.open(),
        older: older.count(),
        crossed: crossed.count(),
        pods: pods.len(),
        busy_deleted: counters.busy_deleted,
        interrupted: world.github.interrupted(),
        named_after_jobs: named.count(),
        left: 0,
    }
}

/// A world whose GitHub gives a polling runner any job that it matches.
pub fn builder(kind: Kind, seed: u64) -> crate::world::WorldBuilder {
    World::builder("swaps")
        .kind(kind)
        .seed(seed)
        .github(|options| options.shuffle_jobs = true)
}
