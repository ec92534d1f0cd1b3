//! What a job in kubernetes mode leaves: pods and Secrets that the container hooks made and labelled with the name of the runner's pod (spec 02 §12.1 step 2, Q35).
//!
//! They go after the runner has been unregistered or has stopped, never before: they may be a running job. The finalizer holds the runner's pod until then, for a limited
//! time only, since the right to delete Secrets is optional.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use muster_crds::keys;

/// Time between two attempts to delete them.
const RETRY: SignedDuration = SignedDuration::from_secs(30);
/// A missing right does not come by waiting; somebody may give it within this time.
const GIVE_UP_DENIED: SignedDuration = SignedDuration::from_mins(2);
/// An API server that refuses to delete for so long may refuse for ever.
const GIVE_UP: SignedDuration = SignedDuration::from_mins(10);

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again after this time.
    Retry(SignedDuration),
    /// Let the pod go and say what is left.
    GiveUp,
}

/// Whether the runner of this pod starts pods: the variable is there, whatever its value.
pub fn has_hooks(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
    let runner = containers
        .unwrap_or_default()
        .iter()
        .rfind(|container| container.name == keys::CONTAINER_RUNNER);
    runner.is_some_and(|container| {
        container
            .env
            .iter()
            .flatten()
            .any(|variable| variable.name == keys::ENV_ACTIONS_RUNNER_CONTAINER_HOOKS)
    })
}

/// The finalizers that a live runner pod carries.
pub fn finalizers(pod: &Pod) -> Vec<String> {
    let mut finalizers = vec![keys::FINALIZER_RUNNER_POD.to_owned()];
    if has_hooks(pod) {
        finalizers.push(keys::FINALIZER_LINKED_RESOURCES.to_owned());
    }
    finalizers
}

/// Whether a labelled object is to be deleted: not on its way already, and no runner, whatever labels the user gave it.
pub fn is_removable(object: &ObjectMeta, runner_pod_uid: &str) -> bool {
    let is_runner = object
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(keys::LABEL_ACTIONS_RUNNER));
    object.deletion_timestamp.is_none() && !is_runner && object.uid.as_deref() != Some(runner_pod_uid)
}

/// What follows from a failed attempt, when the first one failed at `since`. `denied`: all failures were the API server's refusals.
pub fn after_failure(since: Timestamp, denied: bool, now: Timestamp) -> Next {
    let limit = if denied { GIVE_UP_DENIED } else { GIVE_UP };
    let left = limit - now.duration_since(since);
    if left.is_positive() {
        Next::Retry(left.min(RETRY))
    } else {
        Next::GiveUp
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_missing_right_holds_a_pod_for_two_minutes_and_not_for_ever() {
        let seconds = SignedDuration::from_secs;
        assert_eq!(after_failure(t(0), true, t(0)), Next::Retry(seconds(30)));
        assert_eq!(after_failure(t(0), true, t(110)), Next::Retry(seconds(10)));
        assert_eq!(after_failure(t(0), true, t(120)), Next::GiveUp);
        assert_eq!(after_failure(t(0), false, t(120)), Next::Retry(seconds(30)));
        assert_eq!(after_failure(t(0), false, t(600)), Next::GiveUp);
    }

    #[test]
    fn the_second_finalizer_follows_the_hooks_variable() {
        let pod = |env: serde_json::Value| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [{"name": "runner", "env": env}, {"name": "x"}]}}),
            )
            .unwrap()
        };
        assert_eq!(finalizers(&pod(json!([]))), ["actions.summerwind.dev/runner-pod"]);
        assert_eq!(
            finalizers(&pod(
                json!([{"name": "ACTIONS_RUNNER_CONTAINER_HOOKS", "value": ""}])
            )),
            [
                "actions.summerwind.dev/runner-pod",
                "actions.summerwind.dev/linked-resources"
            ]
        );
    }

    #[test]
    fn neither_runners_nor_what_goes_already_is_deleted() {
        let meta = |value: serde_json::Value| -> ObjectMeta { serde_json::from_value(value).unwrap() };
        assert!(is_removable(
            &meta(json!({"uid": "u-2", "labels": {"runner-pod": "a"}})),
            "u-1"
        ));
        assert!(!is_removable(
            &meta(json!({"uid": "u-1", "labels": {"runner-pod": "a"}})),
            "u-1"
        ));
        assert!(!is_removable(
            &meta(json!({"uid": "u-2", "labels": {"runner-pod": "a", "actions-runner": ""}})),
            "u-1"
        ));
        assert!(!is_removable(
            &meta(json!({"uid": "u-2", "deletionTimestamp": "2027-01-15T08:00:00Z"})),
            "u-1"
        ));
    }
}
