//! What pull metrics said, as gauges with upstream's names and labels (spec 02 §16.1). They go with their autoscaler.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use muster_runtime::metrics::Announce as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ask::Answer;
use crate::legacy::target::Target;

/// Whose number it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Place {
    horizontalrunnerautoscaler: String,
    namespace: String,
    enterprise: String,
    organization: String,
    repository: String,
    kind: String,
    name: String,
}

impl Place {
    pub(super) fn new((namespace, name): &(String, String), target: &Target) -> Self {
        let (id, config) = (target.id(), target.config());
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            horizontalrunnerautoscaler: name.clone(),
            namespace: namespace.clone(),
            enterprise: text(&config.enterprise),
            organization: text(&config.organization),
            repository: text(&config.repository),
            kind: id.kind.name().to_lowercase(),
            name: id.name,
        }
    }
}

type ByPlace = Family<Place, Gauge>;

/// The gauges. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct PullGauges {
    replicas_desired: ByPlace,
    runners: ByPlace,
    registered: ByPlace,
    busy: ByPlace,
    terminating_busy: ByPlace,
    necessary_replicas: ByPlace,
    completed: ByPlace,
    in_progress: ByPlace,
    queued: ByPlace,
    unknown: ByPlace,
    shown: Arc<Mutex<HashMap<(String, String), Place>>>,
}

impl PullGauges {
    /// Registers everything in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        for (name, help, family) in [
            (
                "replicas_desired",
                "Replicas that PercentageRunnersBusy suggests",
                &this.replicas_desired,
            ),
            ("runners", "Runners of the target", &this.runners),
            (
                "runners_registered",
                "Runners of the target that GitHub lists",
                &this.registered,
            ),
            ("runners_busy", "Runners of the target with a job", &this.busy),
            (
                "terminating_busy",
                "Runners of the target that cannot be unregistered for their job",
                &this.terminating_busy,
            ),
            (
                "necessary_replicas",
                "Queued and running jobs that match",
                &this.necessary_replicas,
            ),
            (
                "workflow_runs_completed",
                "Listed runs that are over",
                &this.completed,
            ),
            (
                "workflow_runs_in_progress",
                "Running jobs that match",
                &this.in_progress,
            ),
            ("workflow_runs_queued", "Queued jobs that match", &this.queued),
            (
                "workflow_runs_unknown",
                "Runs and jobs in other states",
                &this.unknown,
            ),
        ] {
            registry.announce(format!("horizontalrunnerautoscaler_{name}"), help, family.clone());
        }
        this
    }

    /// Shows an answer.
    pub(super) fn show(&self, place: &Place, answer: &Answer) {
        let key = (place.namespace.clone(), place.horizontalrunnerautoscaler.clone());
        {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(former) = shown.insert(key, place.clone())
                && former != *place
            {
                self.remove(&former);
            }
        }
        let set = |family: &ByPlace, value: i64| {
            family.get_or_create(place).set(value);
        };
        if let Some((counts, replicas)) = &answer.runners {
            set(&self.replicas_desired, *replicas);
            set(&self.runners, counts.runners);
            set(&self.registered, counts.registered);
            set(&self.busy, counts.busy);
            set(&self.terminating_busy, counts.terminating_busy);
        }
        if let Some(counts) = &answer.jobs {
            set(&self.necessary_replicas, counts.demand());
            set(&self.completed, counts.completed);
            set(&self.in_progress, counts.in_progress);
            set(&self.queued, counts.queued);
            set(&self.unknown, counts.unknown);
        }
    }

    /// Forgets an autoscaler.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let place = self
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        if let Some(place) = place {
            self.remove(&place);
        }
    }

    fn remove(&self, place: &Place) {
        for family in [
            &self.replicas_desired,
            &self.runners,
            &self.registered,
            &self.busy,
            &self.terminating_busy,
            &self.necessary_replicas,
            &self.completed,
            &self.in_progress,
            &self.queued,
            &self.unknown,
        ] {
            family.remove(place);
        }
    }
}
