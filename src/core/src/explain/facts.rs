//! Which objects belong together: a target, its autoscalers, sets, runners and pods.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Resource, ResourceExt};
use muster_crds::{
    keys,
    legacy::{
        CapacityReservation, HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet,
        RunnerSet,
    },
};

use super::{Observed, Subject};
use crate::{
    autoscale::reservation::{self, JobKey, Kind},
    pods::PodView,
};

/// What an autoscaler scales.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Deployment(&'a RunnerDeployment),
    Set(&'a RunnerSet),
    /// Named by an autoscaler, and not there.
    Missing,
}

/// A target and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Pool<'a> {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) target: Target<'a>,
    /// Those that refer to the target, oldest first.
    pub(super) autoscalers: Vec<&'a HorizontalRunnerAutoscaler>,
    /// Newest first.
    pub(super) sets: Vec<&'a RunnerReplicaSet>,
    pub(super) runners: Vec<&'a Runner>,
    pub(super) pods: Vec<&'a Pod>,
    pub(super) events: &'a [Event],
}

/// A live entry of the ledger that is a job's.
#[derive(Clone, Debug)]
pub(super) struct LiveJob<'a> {
    pub(super) key: JobKey,
    pub(super) runner: Option<&'a str>,
    pub(super) since: Option<Timestamp>,
}

/// The conditions of an object of ours.
macro_rules! conditions_of {
    ($object:expr) => {
        $object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
    };
}
pub(super) use conditions_of;

pub(super) fn subject_of<K: Resource<DynamicType = ()>>(object: &K) -> Subject {
    Subject::new(
        &K::kind(&()),
        &object.namespace().unwrap_or_default(),
        &object.name_any(),
    )
}

pub(super) fn created_at<K: Resource>(object: &K) -> Option<Timestamp> {
    object.meta().creation_timestamp.as_ref().map(|time| time.0)
}

fn is_in<K: Resource>(object: &K, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| object.meta().namespace.as_deref() == Some(namespace))
}

fn is_controlled_by<K: Resource, O: Resource>(object: &K, owner: &O) -> bool {
    let references = object.meta().owner_references.as_deref().unwrap_or_default();
    references.iter().any(|reference| {
        reference.controller == Some(true) && Some(&reference.uid) == owner.meta().uid.as_ref()
    })
}

fn refers_to(autoscaler: &HorizontalRunnerAutoscaler, namespace: &str, kind: &str, name: &str) -> bool {
    autoscaler.metadata.namespace.as_deref() == Some(namespace)
        && autoscaler.metadata.deletion_timestamp.is_none()
        && autoscaler.spec.scale_target_ref.as_ref().is_some_and(|target| {
            let named = target.kind.as_deref().filter(|kind| !kind.is_empty());
            target.name.as_deref() == Some(name)
                && named.unwrap_or(keys::autoscaler::TARGET_RUNNER_DEPLOYMENT) == kind
        })
}

impl<'a> Pool<'a> {
    /// The pools of this name: of a target, or else of an autoscaler.
    pub(super) fn named(observed: &'a Observed, namespace: Option<&str>, name: &str) -> Vec<Self> {
        let deployments = observed
            .deployments
            .iter()
            .filter(|object| object.name_any() == name && is_in(*object, namespace))
            .map(|object| Self::of_deployment(observed, object));
        let sets = observed
            .runner_sets
            .iter()
            .filter(|object| object.name_any() == name && is_in(*object, namespace))
            .map(|object| Self::of_runner_set(observed, object));
        let found: Vec<Self> = deployments.chain(sets).collect();
        if !found.is_empty() {
            return found;
        }
        observed
            .autoscalers
            .iter()
            .filter(|object| object.name_any() == name && is_in(*object, namespace))
            .map(|object| Self::of_autoscaler(observed, object))
            .collect()
    }

    /// Every pool there is.
    pub(super) fn all(observed: &'a Observed, namespace: Option<&str>) -> Vec<Self> {
        let deployments = observed
            .deployments
            .iter()
            .filter(|object| is_in(*object, namespace))
            .map(|object| Self::of_deployment(observed, object));
        let sets = observed
            .runner_sets
            .iter()
            .filter(|object| is_in(*object, namespace))
            .map(|object| Self::of_runner_set(observed, object));
        let orphans = observed
            .autoscalers
            .iter()
            .filter(|object| is_in(*object, namespace))
            .map(|object| Self::of_autoscaler(observed, object))
            .filter(|pool| matches!(pool.target, Target::Missing));
        deployments.chain(sets).chain(orphans).collect()
    }

    /// The pool that an autoscaler scales.
    pub(super) fn of_autoscaler(observed: &'a Observed, autoscaler: &'a HorizontalRunnerAutoscaler) -> Self {
        let namespace = autoscaler.namespace().unwrap_or_default();
        for deployment in &observed.deployments {
            let kind = keys::autoscaler::TARGET_RUNNER_DEPLOYMENT;
            if deployment.metadata.namespace.as_deref() == Some(namespace.as_str())
                && refers_to(autoscaler, &namespace, kind, &deployment.name_any())
            {
                return Self::of_deployment(observed, deployment);
            }
        }
        for set in &observed.runner_sets {
            let kind = keys::autoscaler::TARGET_RUNNER_SET;
            if set.metadata.namespace.as_deref() == Some(namespace.as_str())
                && refers_to(autoscaler, &namespace, kind, &set.name_any())
            {
                return Self::of_runner_set(observed, set);
            }
        }
        Self {
            name: autoscaler.name_any(),
            namespace,
            target: Target::Missing,
            autoscalers: vec![autoscaler],
            sets: Vec::new(),
            runners: Vec::new(),
            pods: Vec::new(),
            events: &observed.events,
        }
    }

    fn of_deployment(observed: &'a Observed, deployment: &'a RunnerDeployment) -> Self {
        let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        let mut sets: Vec<&RunnerReplicaSet> = observed
            .replica_sets
            .iter()
            .filter(|set| set.metadata.deletion_timestamp.is_none() && is_controlled_by(*set, deployment))
            .collect();
        sets.sort_by_key(|set| (std::cmp::Reverse(created_at(*set)), set.name_any()));
        let runners = observed
            .runners
            .iter()
            .filter(|runner| sets.iter().any(|set| is_controlled_by(*runner, *set)))
            .collect();
        let mut pool = Self::empty(observed, namespace, name, Target::Deployment(deployment));
        pool.sets = sets;
        pool.runners = runners;
        pool
    }

    fn of_runner_set(observed: &'a Observed, set: &'a RunnerSet) -> Self {
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        Self::empty(observed, namespace, name, Target::Set(set))
    }

    fn empty(observed: &'a Observed, namespace: String, name: String, target: Target<'a>) -> Self {
        let (kind, label) = match target {
            Target::Set(_) => (keys::autoscaler::TARGET_RUNNER_SET, keys::LABEL_RUNNERSET_NAME),
            _ => (
                keys::autoscaler::TARGET_RUNNER_DEPLOYMENT,
                keys::LABEL_RUNNER_DEPLOYMENT_NAME,
            ),
        };
        let mut autoscalers: Vec<&HorizontalRunnerAutoscaler> = observed
            .autoscalers
            .iter()
            .filter(|autoscaler| refers_to(autoscaler, &namespace, kind, &name))
            .collect();
        autoscalers.sort_by_key(|autoscaler| (created_at(*autoscaler), autoscaler.name_any()));
        let pods = observed
            .pods
            .iter()
            .filter(|pod| {
                pod.metadata.namespace.as_deref() == Some(namespace.as_str())
                    && pod.labels().get(label) == Some(&name)
            })
            .collect();
        Self {
            namespace,
            name,
            target,
            autoscalers,
            sets: Vec::new(),
            runners: Vec::new(),
            pods,
            events: &observed.events,
        }
    }

    /// Whose pool it is, for people and programs.
    pub(super) fn subject(&self) -> Subject {
        match self.target {
            Target::Deployment(deployment) => subject_of(deployment),
            Target::Set(set) => subject_of(set),
            Target::Missing => Subject::new("HorizontalRunnerAutoscaler", &self.namespace, &self.name),
        }
    }

    /// The autoscaler that decides.
    pub(super) fn autoscaler(&self) -> Option<&'a HorizontalRunnerAutoscaler> {
        self.autoscalers.first().copied()
    }

    /// `spec.replicas` of the target.
    pub(super) fn replicas(&self) -> Option<i64> {
        match self.target {
            Target::Deployment(deployment) => deployment.spec.replicas,
            Target::Set(set) => set.spec.replicas.map(i64::from),
            Target::Missing => None,
        }
    }

    /// `spec.effectiveTime` of the target.
    pub(super) fn effective_time(&self) -> Option<Timestamp> {
        let time = match self.target {
            Target::Deployment(deployment) => deployment.spec.effective_time,
            Target::Set(set) => set.spec.effective_time,
            Target::Missing => None,
        };
        time.map(|time| time.0)
    }

    /// Its runners take one job each.
    pub(super) fn is_ephemeral(&self) -> bool {
        let ephemeral = match self.target {
            Target::Deployment(deployment) => deployment.spec.template.spec.config.ephemeral,
            Target::Set(set) => set.spec.config.ephemeral,
            Target::Missing => None,
        };
        ephemeral.unwrap_or(true)
    }

    /// Its autoscaler pulls metrics, so that the ledger is not all of the demand.
    pub(super) fn has_metrics(&self) -> bool {
        let metrics = self
            .autoscaler()
            .and_then(|autoscaler| autoscaler.spec.metrics.as_ref());
        metrics.is_some_and(|metrics| !metrics.is_empty())
    }

    /// Conditions of the target.
    pub(super) fn conditions(&self) -> &'a [Condition] {
        match self.target {
            Target::Deployment(deployment) => conditions_of!(deployment),
            Target::Set(set) => conditions_of!(set),
            Target::Missing => &[],
        }
    }

    /// The ledger of the autoscaler that decides.
    pub(super) fn ledger(&self) -> &'a [CapacityReservation] {
        self.autoscaler()
            .and_then(|autoscaler| autoscaler.spec.capacity_reservations.as_deref())
            .unwrap_or_default()
    }

    /// Jobs that count, oldest first.
    pub(super) fn jobs(&self, now: Timestamp) -> Vec<LiveJob<'a>> {
        let mut jobs: Vec<LiveJob<'a>> = reservation::live(self.ledger(), now)
            .into_iter()
            .filter_map(|entry| match reservation::classify(entry) {
                Kind::Job { key, runner } => Some(LiveJob {
                    key,
                    runner,
                    since: entry.effective_time.map(|time| time.0),
                }),
                _ => None,
            })
            .collect();
        jobs.sort_by_key(|job| (job.since, job.key.clone()));
        jobs
    }

    /// The pod of a Runner.
    pub(super) fn pod_of(&self, runner: &Runner) -> Option<&'a Pod> {
        let name = runner.metadata.name.as_deref();
        self.pods
            .iter()
            .copied()
            .find(|pod| pod.metadata.name.as_deref() == name)
    }

    /// The views of its pods.
    pub(super) fn views(&self) -> impl Iterator<Item = (&'a Pod, PodView)> {
        self.pods.iter().map(|pod| (*pod, PodView::of(pod)))
    }
}

/// The pool that a runner or pod of this name belongs to.
pub(super) fn pool_of_runner<'a>(
    observed: &'a Observed,
    namespace: Option<&str>,
    name: &str,
) -> Option<Pool<'a>> {
    Pool::all(observed, namespace).into_iter().find(|pool| {
        pool.runners.iter().any(|runner| runner.name_any() == name)
            || pool
                .views()
                .any(|(pod, view)| pod.name_any() == name || view.runner_name == name)
    })
}
