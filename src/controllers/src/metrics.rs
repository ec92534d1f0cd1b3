//! Metrics of the legacy reconcilers, with upstream's names (spec 02 §16.1).

use std::sync::atomic::AtomicI64;

use muster_core::target::{TargetId, TargetKind};
use muster_runtime::metrics::Announce as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::legacy::{autoscaler::gauges::PullGauges, reconciliation::QueueMetrics};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeploymentLabels {
    runnerdeployment: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunnerSetLabels {
    runnerset: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AutoscalerLabels {
    horizontalrunnerautoscaler: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

type ByAutoscaler = Family<AutoscalerLabels, Gauge<i64, AtomicI64>>;

/// Gauges and counters of the reconcilers. Cheap to clone. A gauge about an object goes with the object (spec 02 Q39).
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    deployment_replicas: Family<DeploymentLabels, Gauge<i64, AtomicI64>>,
    runner_set_replicas: Family<RunnerSetLabels, Gauge<i64, AtomicI64>>,
    min: ByAutoscaler,
    max: ByAutoscaler,
    desired: ByAutoscaler,
    live_jobs: ByAutoscaler,
    pods_created: Counter,
    unregistrations: Family<ReasonLabels, Counter>,
    failures: Family<ReasonLabels, Counter>,
    leftovers: Gauge<i64, AtomicI64>,
    pub(crate) queue: QueueMetrics,
    pub(crate) pull: PullGauges,
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self {
            queue: QueueMetrics::register(registry),
            pull: PullGauges::register(registry),
            ..Self::default()
        };
        registry.announce(
            "runnerdeployment_spec_replicas",
            "Wanted runners of a RunnerDeployment",
            this.deployment_replicas.clone(),
        );
        registry.announce(
            "runnerset_spec_replicas",
            "Wanted runners of a RunnerSet",
            this.runner_set_replicas.clone(),
        );
        let mut autoscaler = |name: &str, help: &str, family: &ByAutoscaler| {
            registry.announce(format!("horizontalrunnerautoscaler_{name}"), help, family.clone());
        };
        autoscaler("spec_min_replicas", "minReplicas of an autoscaler", &this.min);
        autoscaler("spec_max_replicas", "maxReplicas of an autoscaler", &this.max);
        autoscaler(
            "status_desired_replicas",
            "Desired replicas of an autoscaler",
            &this.desired,
        );
        registry.announce(
            "muster_autoscaler_live_jobs",
            "Jobs that count as demand",
            this.live_jobs.clone(),
        );
        registry.announce(
            "muster_runner_pods_created",
            "Runner pods created",
            this.pods_created.clone(),
        );
        registry.announce(
            "muster_unregistrations",
            "Runner pods found safe to delete, by reason",
            this.unregistrations.clone(),
        );
        registry.announce(
            "muster_leftover_runners",
            "Runners whose pods are gone and that GitHub may still list, since it gave no clear answer",
            this.leftovers.clone(),
        );
        registry.announce(
            "muster_reconcile_failures",
            "Failed reconciles, by class",
            this.failures.clone(),
        );
        this
    }

    /// Wanted runners of a scale target; `None` removes the series.
    pub(crate) fn target(&self, target: &TargetId, replicas: Option<i64>) {
        let (name, namespace) = (target.name.clone(), target.namespace.clone());
        match target.kind {
            TargetKind::Deployment => {
                let labels = DeploymentLabels {
                    runnerdeployment: name,
                    namespace,
                };
                show(&self.deployment_replicas, &labels, replicas);
            }
            TargetKind::Set => {
                let labels = RunnerSetLabels {
                    runnerset: name,
                    namespace,
                };
                show(&self.runner_set_replicas, &labels, replicas);
            }
        }
    }

    pub(crate) fn bounds(&self, namespace: &str, name: &str, min: Option<i64>, max: Option<i64>) {
        for (family, value) in [(&self.min, min), (&self.max, max)] {
            set(family, namespace, name, value);
        }
    }

    pub(crate) fn desired(&self, namespace: &str, name: &str, desired: Option<i64>, live: Option<i64>) {
        set(&self.desired, namespace, name, desired);
        set(&self.live_jobs, namespace, name, live);
    }

    pub(crate) fn pod_created(&self) {
        self.pods_created.inc();
    }

    pub(crate) fn unregistered(&self, reason: &'static str) {
        self.unregistrations.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn leftovers(&self, count: usize) {
        self.leftovers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabels { reason }).inc();
    }
}

fn set(family: &ByAutoscaler, namespace: &str, name: &str, value: Option<i64>) {
    let labels = AutoscalerLabels {
        horizontalrunnerautoscaler: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    show(family, &labels, value);
}

/// Sets a series, or removes it.
fn show<L>(family: &Family<L, Gauge<i64, AtomicI64>>, labels: &L, value: Option<i64>)
where
    L: Clone + std::hash::Hash + Eq,
{
    match value {
        Some(value) => {
            family.get_or_create(labels).set(value);
        }
        None => {
            family.remove(labels);
        }
    }
}
