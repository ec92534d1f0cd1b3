//! The condition `Reconciled`: written when a reconcile fails for a reason that a person can act on, and when it works again.

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Type of the condition that every kind has.
pub(crate) const RECONCILED: &str = "Reconciled";
/// Type of the condition of a RunnerDeployment whose runners fail when they start.
pub(crate) const STARTUP_FAILING: &str = "StartupFailing";

/// Type of the condition of a RunnerDeployment whose runners could not be removed from GitHub.
pub(crate) const LEFT_ON_GITHUB: &str = "RunnersLeftOnGitHub";

/// Type of the condition of an autoscaler whose pull metrics GitHub does not answer.
pub(crate) const METRICS_PULLED: &str = "MetricsPulled";
/// Type of the condition of an autoscaler with scheduled overrides that are ignored.
pub(crate) const SCHEDULE_VALID: &str = "ScheduleValid";

/// Kinds that carry our condition in their status.
pub(crate) trait Conditioned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// Conditions as they stand.
    fn conditions(&self) -> &[Condition];
    /// Fields that the status must have besides.
    fn required(&self) -> Value {
        json!({})
    }
}

macro_rules! conditioned {
    ($($kind:ty),*) => {$(
        impl Conditioned for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
            }
        }
    )*};
}
conditioned!(HorizontalRunnerAutoscaler, RunnerDeployment, RunnerSet, Runner);

impl Conditioned for RunnerReplicaSet {
    fn conditions(&self) -> &[Condition] {
        self.status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
    }

    fn required(&self) -> Value {
        let status = self.status.clone().unwrap_or_default();
        json!({"readyReplicas": status.ready_replicas, "availableReplicas": status.available_replicas})
    }
}

/// What the condition shall say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict<'a> {
    pub(crate) type_: &'a str,
    pub(crate) status: bool,
    /// What an object without the condition is taken for: not written then.
    pub(crate) default: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

impl Verdict<'_> {
    /// Nothing is wrong.
    pub(crate) const HEALTHY: Verdict<'static> = Verdict {
        type_: RECONCILED,
        status: true,
        default: true,
        reason: "Reconciled",
        message: "",
    };

    /// Something is wrong, and a person can do something about it.
    pub(crate) const fn wrong<'a>(reason: &'a str, message: &'a str) -> Verdict<'a> {
        Verdict {
            type_: RECONCILED,
            status: false,
            default: true,
            reason,
            message,
        }
    }

    /// Whether GitHub may still list runners whose pods are gone.
    pub(crate) const fn left_on_github<'a>(left: bool, reason: &'a str, message: &'a str) -> Verdict<'a> {
        Verdict {
            type_: LEFT_ON_GITHUB,
            status: left,
            default: false,
            reason,
            message,
        }
    }

    /// Whether runners fail when they start.
    pub(crate) const fn startup<'a>(failing: bool, reason: &'a str, message: &'a str) -> Verdict<'a> {
        Verdict {
            type_: STARTUP_FAILING,
            status: failing,
            default: false,
            reason,
            message,
        }
    }
}

/// The new conditions, or `None` when nothing changes. A healthy object that never had the condition does not get one: a write per object for nothing.
pub(crate) fn with(
    existing: &[Condition],
    verdict: &Verdict<'_>,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let status = if verdict.status { "True" } else { "False" };
    let known = existing.iter().find(|condition| condition.type_ == verdict.type_);
    match known {
        None if verdict.status == verdict.default => return None,
        Some(known)
            if known.status == status
                && known.reason == verdict.reason
                && known.message == verdict.message =>
        {
            return None;
        }
        _ => {}
    }
    let since = known
        .filter(|known| known.status == status)
        .map_or(Time(now), |known| known.last_transition_time.clone());
    let mut all: Vec<Condition> = existing
        .iter()
        .filter(|condition| condition.type_ != verdict.type_)
        .cloned()
        .collect();
    all.push(Condition {
        type_: verdict.type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    });
    Some(all)
}

/// As [`with`], for several conditions.
pub(crate) fn with_all<'a>(
    existing: &[Condition],
    verdicts: impl IntoIterator<Item = &'a Verdict<'a>>,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    verdicts
        .into_iter()
        .fold(None, |changed: Option<Vec<Condition>>, verdict| {
            let known = changed.as_deref().unwrap_or(existing);
            with(known, verdict, generation, now).or(changed)
        })
}

/// Writes the condition when it changes. A failure is logged only: the next reconcile tries again.
pub(crate) async fn report<K: Conditioned>(
    client: &Client,
    object: &K,
    verdict: &Verdict<'_>,
    now: Timestamp,
) {
    let Some(conditions) = with(object.conditions(), verdict, object.meta().generation, now) else {
        return;
    };
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut status = object.required();
    if let Some(fields) = status.as_object_mut() {
        fields.insert("conditions".to_owned(), json!(conditions));
    }
    let patch = Patch::Merge(json!({ "status": status }));
    if let Err(error) = api
        .patch_status(&object.name_any(), &PatchParams::default(), &patch)
        .await
    {
        tracing::debug!(kind = %K::kind(&()), object = %format_args!("{namespace}/{}", object.name_any()), error = %muster_runtime::telemetry::chain(&error), "A condition could not be written.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written_and_the_transition_time_stays() {
        let t = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(with(&[], &Verdict::HEALTHY, Some(1), t(1)).is_none());
        let bad = Verdict::wrong("InvalidSpec", "spec.maxReplicas is missing");
        let first = with(&[], &bad, Some(1), t(1)).unwrap();
        assert!(with(&first, &bad, Some(1), t(2)).is_none());
        let other = with(
            &first,
            &Verdict {
                message: "another",
                ..bad
            },
            Some(2),
            t(3),
        )
        .unwrap();
        assert_eq!(other[0].last_transition_time.0, t(1));
        let good = with(&other, &Verdict::HEALTHY, Some(3), t(4)).unwrap();
        assert_eq!(
            (good[0].status.as_str(), good[0].last_transition_time.0),
            ("True", t(4))
        );
    }
}
