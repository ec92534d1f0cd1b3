//! Upstream's metrics of workflow jobs (spec 03 §2.3), and a few about this server.

use std::sync::{Arc, Mutex, PoisonError};

use muster_core::job_metrics::{BOUNDS, Bounds, JobLabel, JobView, LabelSet, Labeller, Observation};
use muster_runtime::metrics::{Announce as _, Registry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// Labels of `muster_actions_metrics_deliveries_total`, from closed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    event: &'static str,
    outcome: &'static str,
}

/// Labels of `muster_actions_metrics_logs_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogLabels {
    outcome: &'static str,
}

type Durations = Family<LabelSet, Histogram, fn() -> Histogram>;

/// The metrics of one server. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    queued: Family<LabelSet, Counter>,
    started: Family<LabelSet, Counter>,
    completed: Family<LabelSet, Counter>,
    conclusions: Family<LabelSet, Counter>,
    failures: Family<LabelSet, Counter>,
    queue: Durations,
    run: Durations,
    deliveries: Family<DeliveryLabels, Counter>,
    logs: Family<LogLabels, Counter>,
    waiting: Gauge,
    overflows: Counter,
    labeller: Arc<Mutex<Labeller>>,
}

impl Metrics {
    /// Metrics that `registry` shows, with these labels of jobs.
    pub fn register(registry: &mut Registry, labels: Vec<JobLabel>, bounds: Bounds) -> Self {
        let durations = || Durations::new_with_constructor(|| Histogram::new(BOUNDS));
        let metrics = Self {
            queued: Family::default(),
            started: Family::default(),
            completed: Family::default(),
            conclusions: Family::default(),
            failures: Family::default(),
            queue: durations(),
            run: durations(),
            deliveries: Family::default(),
            logs: Family::default(),
            waiting: Gauge::default(),
            overflows: Counter::default(),
            labeller: Arc::new(Mutex::new(Labeller::new(labels, bounds))),
        };
        let counters = [
            ("jobs_queued", "Jobs that were queued", &metrics.queued),
            ("jobs_started", "Jobs that a runner took", &metrics.started),
            ("jobs_completed", "Jobs that ended", &metrics.completed),
            ("job_conclusions", "Jobs that ended, by how", &metrics.conclusions),
            (
                "job_failures",
                "Jobs that failed, by the step (from 0) and what it returned",
                &metrics.failures,
            ),
        ];
        for (name, help, family) in counters {
            registry.announce(format!("github_workflow_{name}"), help, family.clone());
        }
        registry.announce(
            "github_workflow_job_queue_duration_seconds",
            "Time that jobs waited for a runner",
            metrics.queue.clone(),
        );
        registry.announce(
            "github_workflow_job_run_duration_seconds",
            "Time that jobs ran",
            metrics.run.clone(),
        );
        registry.announce(
            "muster_actions_metrics_deliveries",
            "Deliveries by event and outcome",
            metrics.deliveries.clone(),
        );
        registry.announce(
            "muster_actions_metrics_logs",
            "Logs of jobs that were asked for, by outcome",
            metrics.logs.clone(),
        );
        registry.register(
            "muster_actions_metrics_logs_waiting",
            "Jobs whose log has not been read yet",
            metrics.waiting.clone(),
        );
        registry.register(
            "muster_actions_metrics_label_overflows",
            "Events with a label that is shown as other for want of room",
            metrics.overflows.clone(),
        );
        metrics
    }

    /// The labels of a job.
    pub fn labels(&self, job: &JobView<'_>) -> LabelSet {
        let (labels, overflowed) = self.labeller(|labeller| labeller.label(job));
        if overflowed {
            self.overflows.inc();
        }
        labels
    }

    fn labeller<T>(&self, ask: impl FnOnce(&mut Labeller) -> T) -> T {
        ask(&mut self.labeller.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what was seen of a job with these labels.
    pub fn note(&self, labels: &LabelSet, seen: &[Observation]) {
        let with = |more: &[(&'static str, String)]| [labels.as_slice(), more].concat();
        let concluded = |conclusion: &str| {
            let conclusion = self.labeller(|labeller| labeller.conclusion(conclusion));
            with(&[("job_conclusion", conclusion)])
        };
        for one in seen {
            match one {
                Observation::Queued => {
                    self.queued.get_or_create(labels).inc();
                }
                Observation::Started => {
                    self.started.get_or_create(labels).inc();
                }
                Observation::Completed => {
                    self.completed.get_or_create(labels).inc();
                }
                Observation::Concluded(conclusion) => {
                    self.conclusions.get_or_create(&concluded(conclusion)).inc();
                }
                Observation::Failed { step, exit_code } => {
                    let (step, code) = self
                        .labeller(|labeller| (labeller.failed_step(*step), labeller.exit_code(*exit_code)));
                    let labels = with(&[("failed_step", step), ("exit_code", code)]);
                    self.failures.get_or_create(&labels).inc();
                }
                Observation::QueuedFor(seconds) => self.queue.get_or_create(labels).observe(*seconds),
                Observation::RanFor { conclusion, seconds } => {
                    self.run.get_or_create(&concluded(conclusion)).observe(*seconds);
                }
            }
        }
    }

    pub(crate) fn delivery(&self, event: &'static str, outcome: &'static str) {
        self.deliveries
            .get_or_create(&DeliveryLabels { event, outcome })
            .inc();
    }

    pub(crate) fn log(&self, outcome: &'static str) {
        self.logs.get_or_create(&LogLabels { outcome }).inc();
    }

    pub(crate) fn waiting(&self, jobs: i64) {
        self.waiting.inc_by(jobs);
    }
}
