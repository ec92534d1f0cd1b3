//! A runner pod → its reason: what it waits for, or what it does.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodCondition};
use kube::ResourceExt;
use muster_crds::keys;

use super::{Code, Reason, facts::subject_of, notice::seen_at, text::span};
use crate::pods::{
    PodView,
    phase::{PodPhase, RunnerContainer},
};

/// A runner that registered may be unknown to the manager for so long: GitHub's listing is cached for a minute and looked at every ten seconds.
const REGISTRATION_PATIENCE: SignedDuration = SignedDuration::from_secs(75);

/// Words of the kubelet for an image that it does not get.
const IMAGE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];
/// Words of the kubelet for a container that cannot be made.
const CONFIG: [&str; 3] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];
/// Words of the kubelet and the attach controller for a volume that is not there.
const VOLUME: [&str; 3] = ["FailedMount", "FailedAttachVolume", "FailedMapVolume"];

/// Why a pod is as it is. `job` is the one that the ledger says it has.
pub(super) fn reason(pod: &Pod, job: Option<&str>, events: &[Event], now: Timestamp) -> Reason {
    let view = PodView::of(pod);
    if view.is_stopped() {
        return stopped(pod, &view);
    }
    if view.deletion_at.is_some() || view.unregistration_requested {
        return leaving(pod, &view);
    }
    if is_lost(pod, &view) {
        let sentence = format!("the node {} of pod {} does not answer", node(pod), view.name);
        return about(pod, Code::NodeLost, sentence).since(not_ready_since(pod));
    }
    if view.phase == PodPhase::Running {
        running(pod, &view, job, now)
    } else if view.scheduled {
        starting(pod, &view, events, now)
    } else {
        unscheduled(pod, &view, now)
    }
}

fn about(pod: &Pod, code: Code, sentence: impl Into<String>) -> Reason {
    Reason::new(code, subject_of(pod), sentence)
}

fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(
        || "an unknown time".to_owned(),
        |since| span(now.duration_since(since)),
    )
}

fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("(none)")
}

fn stopped(pod: &Pod, view: &PodView) -> Reason {
    let status = pod.status.as_ref();
    let said = |text: Option<&String>| text.map(String::as_str).unwrap_or_default().to_owned();
    if status.and_then(|status| status.reason.as_deref()) == Some("Evicted") {
        let why = said(status.and_then(|status| status.message.as_ref()));
        return about(
            pod,
            Code::PodEvicted,
            format!("pod {} was evicted: {why}", view.name),
        );
    }
    match view.runner {
        RunnerContainer::Terminated { exit_code } if exit_code != 0 => {
            let sentence = format!("the runner of pod {} ended with exit code {exit_code}", view.name);
            about(pod, Code::RunnerCrashed, sentence)
        }
        _ => about(
            pod,
            Code::RunnerFinished,
            format!("the runner of pod {} has ended and its pod goes", view.name),
        ),
    }
}

/// A pod that was asked to go.
fn leaving(pod: &Pod, view: &PodView) -> Reason {
    if view.busy || view.awaiting_completion {
        let sentence = format!(
            "runner {} is surplus and has a job: it goes when the job is done",
            view.runner_name
        );
        return about(pod, Code::RetiringBusy, sentence);
    }
    match unclear(pod).filter(|_| !view.unregistration_complete) {
        Some(condition) => {
            let said = condition.message.as_deref().unwrap_or_default();
            let word = condition.reason.as_deref().unwrap_or_default();
            let since = condition.last_transition_time.as_ref().map(|time| time.0);
            let sentence = format!("runner {} is not off GitHub ({word}): {said}", view.runner_name);
            about(pod, Code::UnregistrationDelayed, sentence).since(since)
        }
        None => about(
            pod,
            Code::Unregistering,
            format!(
                "runner {} is taken off GitHub, then its pod goes",
                view.runner_name
            ),
        ),
    }
}

/// The condition that says that GitHub gives no clear answer to the removal.
fn unclear(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == keys::CONDITION_UNREGISTERED && condition.status == "False")
}

/// The newest Event about a pod whose reason is wanted.
fn newest<'a>(events: &'a [Event], pod: &Pod, wanted: impl Fn(&str) -> bool) -> Option<&'a Event> {
    let (name, namespace) = (pod.name_any(), pod.namespace());
    events
        .iter()
        .filter(|event| {
            event.involved_object.name.as_deref() == Some(name.as_str())
                && event.involved_object.namespace == namespace
                && event.involved_object.kind.as_deref() == Some("Pod")
                && event.reason.as_deref().is_some_and(&wanted)
        })
        .max_by_key(|event| seen_at(event))
}

fn is_lost(pod: &Pod, view: &PodView) -> bool {
    let status = pod.status.as_ref();
    view.phase == PodPhase::Unknown
        || status.and_then(|status| status.reason.as_deref()) == Some("NodeLost")
        || status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
            .iter()
            .any(|condition| {
                condition.type_ == "Ready"
                    && condition.status != "True"
                    && condition.reason.as_deref() == Some("NodeStatusUnknown")
            })
}

fn not_ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn unscheduled(pod: &Pod, view: &PodView, now: Timestamp) -> Reason {
    let refused = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let reason = match refused {
        Some(condition) => {
            let said = condition.message.as_deref().unwrap_or("no reason given");
            about(
                pod,
                Code::Unschedulable,
                format!("no node for pod {}: {said}", view.name),
            )
        }
        None => about(
            pod,
            Code::WaitingForNode,
            format!(
                "pod {} waits for a node for {}",
                view.name,
                age(view.created_at, now)
            ),
        ),
    };
    reason.since(view.created_at).until(view.start_deadline())
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten())
    })
}

/// The first container that waits for something out of order, and what the kubelet says.
fn stuck(pod: &Pod) -> Option<(Code, String)> {
    statuses(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let word = waiting.reason.as_deref()?;
        let code = if IMAGE.contains(&word) {
            Code::ImagePullFailed
        } else if CONFIG.contains(&word) {
            Code::ContainerConfigInvalid
        } else if word == "CrashLoopBackOff" {
            Code::RunnerCrashed
        } else {
            return None;
        };
        let said = waiting.message.as_deref().unwrap_or_default();
        Some((
            code,
            format!(
                "container {} of image {}: {word}: {said}",
                container.name, container.image
            ),
        ))
    })
}

fn starting(pod: &Pod, view: &PodView, events: &[Event], now: Timestamp) -> Reason {
    let reason = if let Some((code, said)) = stuck(pod) {
        about(pod, code, format!("pod {}: {said}", view.name))
    } else if let Some(event) = newest(events, pod, |reason| VOLUME.contains(&reason)) {
        let said = event.message.as_deref().unwrap_or_default();
        about(pod, Code::VolumeNotMounted, format!("pod {}: {said}", view.name))
    } else {
        let sentence = format!(
            "pod {} starts on node {} for {}",
            view.name,
            node(pod),
            age(view.created_at, now)
        );
        about(pod, Code::PodStarting, sentence)
    };
    reason.since(view.created_at).until(view.start_deadline())
}

fn running(pod: &Pod, view: &PodView, job: Option<&str>, now: Timestamp) -> Reason {
    if let Some((code, said)) = stuck(pod) {
        return about(pod, code, format!("pod {}: {said}", view.name));
    }
    if let Some(job) = job {
        return about(
            pod,
            Code::RunnerBusy,
            format!("runner {} has job {job}", view.runner_name),
        );
    }
    if view.busy {
        return about(
            pod,
            Code::RunnerBusy,
            format!("runner {} has a job", view.runner_name),
        );
    }
    if view.runner_id.is_some() {
        let sentence = format!("runner {} is registered and waits for a job", view.runner_name);
        return about(pod, Code::RunnerIdle, sentence).since(view.ready_since);
    }
    let late = view
        .ready_since
        .is_some_and(|since| now.duration_since(since) >= REGISTRATION_PATIENCE);
    let up = age(view.ready_since, now);
    if late {
        let sentence = format!(
            "runner {} runs for {up} and is not registered with GitHub",
            view.runner_name
        );
        return about(pod, Code::RunnerNotRegistered, sentence)
            .since(view.ready_since)
            .until(view.deadline());
    }
    let sentence = format!("runner {} is up for {up} and about to register", view.runner_name);
    about(pod, Code::RunnerRegistering, sentence)
        .since(view.ready_since)
        .until(view.deadline())
}
