//! A world that is measured: who wrote what, what the processes used, when pods and jobs came.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use muster_crds::legacy::HorizontalRunnerAutoscalerSpec;

use crate::{
    control_plane::{
        ControlPlane,
        audit::{Audit, Write, Writer},
    },
    demo::{Spread, metric_value},
    github::{JobSpec, JobView},
    kubelet::PodTrace,
    world::{REPOSITORY, World, WorldBuilder},
};

use super::{
    figures::{Bound, Figures, count, count64},
    process::Usage,
};

/// Kinds of objects that belong to one runner.
const PER_RUNNER: [&str; 2] = ["pods", "runners"];

/// Objects that every event of a job changes, and is answered after that.
const LEDGERS: &str = "horizontalrunnerautoscalers";

/// A world under measurement.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) world: World,
    pub(super) audit: Audit,
    manager: u32,
}

impl Rig {
    pub(super) async fn start(plane: &Arc<ControlPlane>, builder: WorldBuilder) -> Result<Self> {
        let world = builder.on(plane.clone()).start().await?;
        let manager = match world.manager.lock().await.as_mut() {
            Some(manager) => manager.running_mut().map(|running| running.pid()),
            None => None,
        };
        Ok(Self {
            manager: manager.context("the manager does not run")?,
            audit: plane.audit(),
            world,
        })
    }

    /// Makes pools with an autoscaler each; returns when both processes know them.
    pub(super) async fn pools(
        &self,
        names: &[String],
        change: impl Fn(&mut HorizontalRunnerAutoscalerSpec),
    ) -> Result<()> {
        for name in names {
            let labels = vec![name.clone()];
            self.world
                .deployment(name, |spec| spec.template.spec.config.labels = Some(labels))
                .await?;
            self.world.autoscaler(name, name, &change).await?;
        }
        let wanted = count(names.len());
        let known = async |world: &World| {
            let metrics = world.metrics("github-webhook-server").await?;
            if metric_value(&metrics, "muster_webhook_autoscalers").unwrap_or_default() < wanted {
                return Ok(false);
            }
            for name in names {
                if world.get_autoscaler(name).await?.status.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        self.world
            .until("both processes know the pools", Duration::from_mins(1), known)
            .await
    }

    /// Queues a job for a pool.
    pub(super) fn queue(&self, pool: &str, duration: Duration) {
        let spec = JobSpec::new(REPOSITORY, ["self-hosted", pool]).duration(duration);
        self.world.github.queue_job(spec);
    }

    /// What the manager has used.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.manager)
    }

    /// The writes in this world's namespace since the book was opened.
    pub(super) async fn writes(&self) -> Result<Writes> {
        let all = self.audit.writes().await?;
        let ours = all.into_iter().filter(|write| write.namespace == self.world.ns);
        Ok(Writes(ours.collect()))
    }

    /// Pods in the order of their creation.
    pub(super) fn pods(&self) -> Vec<PodTrace> {
        let mut pods = self.world.kubelet.pods();
        pods.sort_by_key(|pod| pod.created);
        pods
    }

    /// Milliseconds from the `n`th job's queueing to the `n`th pod's creation.
    pub(super) fn queued_to_pod(&self) -> Spread {
        let mut queued: Vec<Timestamp> = self.jobs().iter().filter_map(|job| job.queued_at).collect();
        queued.sort_unstable();
        let pairs = queued.iter().zip(self.pods());
        Spread::of(pairs.map(|(queued, pod)| millis(*queued, pod.created)).collect())
    }

    /// Milliseconds from a job's queueing until a runner took it.
    pub(super) fn queued_to_started(&self) -> Spread {
        let jobs = self.jobs();
        let times = jobs
            .iter()
            .filter_map(|job| Some(millis(job.queued_at?, job.started_at?)));
        Spread::of(times.collect())
    }

    pub(super) fn jobs(&self) -> Vec<JobView> {
        self.world.github.jobs()
    }

    /// Seconds from the first job's queueing to the last moment of a kind.
    pub(super) fn last<T>(&self, items: &[T], when: impl Fn(&T) -> Option<Timestamp>) -> f64 {
        let first = self.jobs().iter().filter_map(|job| job.queued_at).min();
        let last = items.iter().filter_map(when).max();
        match (first, last) {
            (Some(first), Some(last)) => count64(millis(first, last)) / 1_000.0,
            _ => f64::MAX,
        }
    }

    /// Waits until nothing is left of the runners, so that whole lives are counted.
    pub(super) async fn finish(&self, within: Duration) -> Result<()> {
        self.world.until_jobs_done(within).await?;
        self.world.until_nothing_left(within).await
    }

    /// Pods that are gone and never ran a job, in percent of all.
    pub(super) fn idle_share(&self) -> f64 {
        let counters = self.world.kubelet.counters();
        let unused = counters.pods_created.saturating_sub(counters.jobs_started);
        count(unused) * 100.0 / count(counters.pods_created.max(1))
    }
}

/// Milliseconds between two moments.
pub(super) fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or_default()
}

/// The writes of a run.
#[derive(Clone, Debug)]
pub(super) struct Writes(Vec<Write>);

impl Writes {
    fn by(&self, ours: bool) -> impl Iterator<Item = &Write> {
        self.0.iter().filter(move |write| {
            let muster = matches!(write.writer, Writer::Manager | Writer::WebhookServer);
            muster == ours
        })
    }

    /// Those of Muster.
    pub(super) fn muster(&self) -> usize {
        self.by(true).count()
    }

    /// Everybody's.
    pub(super) fn all(&self) -> usize {
        self.0.len()
    }

    /// Muster's on objects that belong to one runner.
    pub(super) fn per_runner(&self) -> usize {
        self.by(true).filter(|write| belongs_to_a_runner(write)).count()
    }

    /// Muster's writes a second on that shared object that it wrote most often, over the time in which it wrote at all, and which that was.
    pub(super) fn busiest_shared(&self) -> (f64, String) {
        self.busiest(|_| true)
    }

    fn busiest(&self, counts: impl Fn(&str) -> bool) -> (f64, String) {
        let mut objects: BTreeMap<(&str, &str), Vec<Timestamp>> = BTreeMap::new();
        for write in self.by(true).filter(|write| !belongs_to_a_runner(write)) {
            let kind = write.resource.split('/').next().unwrap_or_default();
            if kind != "events" && counts(kind) {
                objects.entry((kind, &write.object)).or_default().push(write.at);
            }
        }
        let rate = |times: &[Timestamp]| match (times.iter().min(), times.iter().max()) {
            (Some(first), Some(last)) => {
                let span = count64(millis(*first, *last).max(1_000)) / 1_000.0;
                count(times.len()) / span
            }
            _ => 0.0,
        };
        let rates = objects
            .iter()
            .map(|((kind, name), times)| (rate(times), format!("{kind} {name}")));
        rates.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    }

    /// What Muster wrote, by verb and resource.
    pub(super) fn kinds(&self) -> BTreeMap<String, u64> {
        crate::control_plane::audit::count(self.by(true))
    }

    /// Adds how many writes a job cost.
    pub(super) fn figures(&self, jobs: usize, figures: &mut Figures) {
        let jobs = count(jobs.max(1));
        figures.promise(
            "writes_per_runner",
            "writes on Runner and pod per runner's life",
            count(self.per_runner()) / jobs,
            "",
            Bound::AtMost(8.0),
        );
        figures.add(
            "muster_writes_per_job",
            "all writes of Muster per job",
            count(self.muster()) / jobs,
            "",
        );
        figures.add(
            "all_writes_per_job",
            "all writes per job, the kubelet's and Kubernetes' included",
            count(self.all()) / jobs,
            "",
        );
        let (rate, _) = self.busiest_shared();
        figures.promise(
            "shared_writes",
            "writes on the busiest shared object",
            rate,
            "/s",
            Bound::AtMost(1.0),
        );
        let (rate, _) = self.busiest(|kind| kind != LEDGERS);
        figures.add("shared_writes_besides", "the same without ledgers", rate, "/s");
    }
}

fn belongs_to_a_runner(write: &Write) -> bool {
    let kind = write.resource.split('/').next().unwrap_or_default();
    PER_RUNNER.contains(&kind)
}

/// Runs `work` and answers the CPU seconds that the manager used meanwhile, and how long it took.
pub(super) async fn cpu_of<T>(
    rig: &Rig,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, f64, Duration)> {
    let (before, begun) = (rig.usage()?, Instant::now());
    let out = work.await?;
    let after = rig.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    Ok((out, cpu, begun.elapsed()))
}

/// A world to be built with autoscalers for the organization's runners.
pub(super) fn builder(name: &str) -> WorldBuilder {
    World::builder(name).github(|options| options.rate_limit = 100_000)
}
