//! What should be gone: objects that cannot be deleted, and what belongs to nobody.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use muster_crds::keys;

use super::{
    Fault, Finding, Objects, Observed,
    processes::{deleted_at, held_by},
    subject,
};

/// A deletion takes this long without anything being wrong: a job's pods end, GitHub is asked.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// Condition of a RunnerDeployment whose runners stayed on GitHub.
const LEFT_ON_GITHUB: &str = "RunnersLeftOnGitHub";

pub(super) fn check(observed: &Observed, now: Timestamp, findings: &mut Vec<Finding>) {
    let objects = &observed.objects;
    let patience = observed.stuck_after.unwrap_or(PATIENCE);
    let before = now.checked_sub(patience).unwrap_or(Timestamp::MIN);
    stuck(&objects.runners, now, before, findings);
    stuck(&objects.pods, now, before, findings);
    stuck(&objects.deployments, now, before, findings);
    stuck(&objects.replica_sets, now, before, findings);
    stuck(&objects.runner_sets, now, before, findings);
    for deployment in &objects.deployments {
        let conditions = deployment
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let left = conditions
            .unwrap_or_default()
            .iter()
            .find(|condition| condition.type_ == LEFT_ON_GITHUB && condition.status == "True");
        if let Some(condition) = left {
            findings.push(Finding::new(
                Fault::LeftOnGitHub,
                subject(deployment),
                condition.message.clone(),
                "Remove them on GitHub (Settings, Actions, Runners), or give the login the right to: docs/runner-life.md.",
            ));
        }
    }
    nobodys(objects, findings);
}

fn stuck<K: Resource<DynamicType = ()>>(
    objects: &[K],
    now: Timestamp,
    before: Timestamp,
    findings: &mut Vec<Finding>,
) {
    for object in objects {
        let Some(since) = deleted_at(object).filter(|since| *since < before) else {
            continue;
        };
        let all = object.finalizers();
        if all.is_empty() {
            continue;
        }
        let ours = held_by(object);
        let minutes = now.duration_since(since).as_mins();
        let remedy = if ours.is_empty() {
            "The finalizer is another program's: see why it does not take it away.".to_owned()
        } else {
            format!(
                "The manager takes it away when it runs and GitHub answers: see the findings above. As the last resort, when the runner is gone on GitHub: kubectl -n {} patch {} {} --type=json -p='[{{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}}]'",
                object.namespace().unwrap_or_default(),
                K::plural(&()),
                object.name_any()
            )
        };
        findings.push(Finding::new(
            Fault::DeletionStuck,
            subject(object),
            format!(
                "{} has been on its way out for {minutes} min, held by {}",
                object.name_any(),
                all.join(", ")
            ),
            remedy,
        ));
    }
}

fn nobodys(objects: &Objects, findings: &mut Vec<Finding>) {
    let has_set = |namespace: Option<&str>, name: &str| {
        objects
            .runner_sets
            .iter()
            .any(|set| set.metadata.namespace.as_deref() == namespace && set.name_any() == name)
    };
    for one in &objects.stateful_sets {
        let Some(set) = one.labels().get(keys::LABEL_RUNNERSET_NAME) else {
            continue;
        };
        if deleted_at(one).is_none() && !has_set(one.metadata.namespace.as_deref(), set) {
            findings.push(Finding::new(
                Fault::StatefulSetOfNobody,
                subject(one),
                format!(
                    "{} belongs to RunnerSet {set}, which is not there",
                    one.name_any()
                ),
                format!(
                    "Delete it when its runner is idle: kubectl -n {} delete statefulset {}",
                    one.namespace().unwrap_or_default(),
                    one.name_any()
                ),
            ));
        }
    }
    for pod in &objects.pods {
        if deleted_at(pod).is_none() && is_nobodys(pod, objects) {
            findings.push(Finding::new(
                Fault::PodOfNobody,
                subject(pod),
                format!(
                    "runner pod {} has neither a Runner nor a StatefulSet",
                    pod.name_any()
                ),
                format!(
                    "Delete it when it is idle: kubectl -n {} delete pod {}",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any()
                ),
            ));
        }
    }
    for volume in &objects.volumes {
        let namespace = volume.labels().get(keys::LABEL_RUNNERSET_NAMESPACE);
        let name = volume.labels().get(keys::LABEL_RUNNERSET_NAME);
        if let (Some(namespace), Some(name)) = (namespace, name)
            && !has_set(Some(namespace), name)
        {
            findings.push(Finding::new(
                Fault::VolumeOfNobody,
                subject(volume),
                format!(
                    "volume {} is kept for RunnerSet {namespace}/{name}, which is not there",
                    volume.name_any()
                ),
                format!(
                    "The manager lets it go within a minute while it runs; by hand: kubectl delete pv {}",
                    volume.name_any()
                ),
            ));
        }
    }
}

/// A runner's pod that nothing owns.
fn is_nobodys(pod: &Pod, objects: &Objects) -> bool {
    let owned_by_set = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "StatefulSet");
    let runner = objects
        .runners
        .iter()
        .any(|runner| runner.name_any() == pod.name_any() && runner.namespace() == pod.namespace());
    !owned_by_set && !runner
}
