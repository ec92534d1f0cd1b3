//! Pod statuses as a kubelet writes them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::environment::RUNNER;

/// How a pod's containers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Bound, the images cannot be pulled.
    ImagePull,
    /// Everything runs.
    Running,
    /// The container `runner` ended with this exit code; the others still run.
    RunnerEnded(i32),
    /// Every container ended; `runner` with this exit code.
    Ended(i32),
    /// Evicted by the kubelet.
    Evicted,
}

/// The merge patch for the status subresource. It carries the pod's uid, so that it never hits a namesake.
pub(super) fn patch(pod: &Pod, stage: Stage, started: Timestamp, now: Timestamp) -> Value {
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let init = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let has_runner = containers.iter().any(|container| container.name == RUNNER);
    // A pod whose only container was the runner has ended with it.
    let stage = match stage {
        Stage::RunnerEnded(code) if containers.len() == 1 && has_runner => Stage::Ended(code),
        other => other,
    };
    let statuses = containers
        .iter()
        .map(|c| container_status(pod, c, stage, started, now))
        .collect::<Vec<_>>();
    let init = init
        .iter()
        .map(|c| init_status(pod, c, stage, started, now))
        .collect::<Vec<_>>();
    // In a merge patch, null is a field that is not there.
    let address = (stage != Stage::ImagePull).then_some("127.0.0.1");
    let evicted = stage == Stage::Evicted;
    json!({
        "metadata": {"uid": pod.uid()},
        "status": {
            "phase": phase(stage),
            "reason": evicted.then_some("Evicted"),
            "message": evicted.then_some("The node was low on resource: ephemeral-storage."),
            "startTime": time(started),
            "hostIP": "127.0.0.1",
            "hostIPs": [{"ip": "127.0.0.1"}],
            "podIP": address,
            "podIPs": address.map(|ip| json!([{"ip": ip}])),
            "conditions": conditions(pod, stage, now),
            "containerStatuses": statuses,
            "initContainerStatuses": (!init.is_empty()).then_some(init),
        },
    })
}

/// The merge patch by which a scheduler says why no node fits.
pub(super) fn unschedulable(pod: &Pod, message: &str, now: Timestamp) -> Value {
    let said = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut all: Vec<Value> = said
        .filter(|condition| condition.type_ != "PodScheduled")
        .map(|condition| json!(condition))
        .collect();
    all.push(
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": time(now)}),
    );
    json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": all}})
}

fn phase(stage: Stage) -> &'static str {
    match stage {
        Stage::ImagePull => "Pending",
        Stage::Running | Stage::RunnerEnded(_) => "Running",
        Stage::Ended(0) => "Succeeded",
        Stage::Ended(_) | Stage::Evicted => "Failed",
    }
}

/// The kubelet's own conditions, and those of others as they are.
fn conditions(pod: &Pod, stage: Stage, now: Timestamp) -> Value {
    let ready = stage == Stage::Running;
    let reason = match stage {
        Stage::Running => None,
        Stage::ImagePull | Stage::RunnerEnded(_) => Some("ContainersNotReady"),
        Stage::Ended(0) => Some("PodCompleted"),
        Stage::Ended(_) | Stage::Evicted => Some("PodFailed"),
    };
    let condition = |kind: &str, holds: bool, reason: Option<&str>| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": time(now)})
    };
    let mut all = vec![
        condition("PodScheduled", true, None),
        condition("Initialized", true, None),
        condition("ContainersReady", ready, reason),
        condition("Ready", ready, reason),
    ];
    let old = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let foreign = old.filter(|condition| condition.type_.contains('/'));
    all.extend(foreign.map(|condition| json!(condition)));
    Value::Array(all)
}

fn container_status(
    pod: &Pod,
    container: &Container,
    stage: Stage,
    started: Timestamp,
    now: Timestamp,
) -> Value {
    let is_runner = container.name == RUNNER;
    let running = json!({"running": {"startedAt": time(started)}});
    let ended = |code: i32| {
        json!({"terminated": {
            "exitCode": code,
            "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": time(started),
            "finishedAt": time(now),
        }})
    };
    let condition = match stage {
        Stage::ImagePull => json!({"waiting": {"reason": "ImagePullBackOff",
            "message": format!("Back-off pulling image {:?}", container.image.as_deref().unwrap_or_default())}}),
        Stage::RunnerEnded(code) | Stage::Ended(code) if is_runner => ended(code),
        Stage::Running | Stage::RunnerEnded(_) => running,
        Stage::Ended(_) => ended(0),
        Stage::Evicted => ended(137),
    };
    let runs = condition.get("running").is_some();
    described(pod, container, &condition, runs, runs)
}

fn described(pod: &Pod, container: &Container, state: &Value, ready: bool, started: bool) -> Value {
    let has_started = state.get("waiting").is_none();
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": if has_started { "sim://image" } else { "" },
        "containerID": if has_started { format!("sim://{}/{}", pod.uid().unwrap_or_default(), container.name) }
            else { String::new() },
        "ready": ready,
        "started": started,
        "restartCount": 0,
        "state": state,
    })
}

fn init_status(pod: &Pod, container: &Container, stage: Stage, started: Timestamp, now: Timestamp) -> Value {
    // An init container that restarts always is a sidecar.
    if container.restart_policy.as_deref() == Some("Always") {
        return container_status(pod, container, stage, started, now);
    }
    if stage == Stage::ImagePull {
        return described(
            pod,
            container,
            &json!({"waiting": {"reason": "PodInitializing"}}),
            false,
            false,
        );
    }
    let ended = json!({"terminated":
        {"exitCode": 0, "reason": "Completed", "startedAt": time(started), "finishedAt": time(started)}});
    described(pod, container, &ended, true, false)
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str]) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": containers.iter().map(|c| json!({"name": c, "image": "i"})).collect::<Vec<_>>()},
        }))
        .unwrap()
    }

    #[test]
    fn with_a_sidecar_the_pod_stays_running_when_the_runner_ends() {
        let now = Timestamp::UNIX_EPOCH;
        let patch = patch(&pod(&["runner", "docker"]), Stage::RunnerEnded(0), now, now);
        let status = &patch["status"];
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["conditions"][3]["status"], "False");
        assert_eq!(
            status["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            0
        );
        assert!(status["containerStatuses"][1]["state"]["running"].is_object());
    }

    #[test]
    fn without_a_sidecar_the_pod_ends_with_the_runner() {
        let now = Timestamp::UNIX_EPOCH;
        let succeeded = patch(&pod(&["runner"]), Stage::RunnerEnded(0), now, now);
        assert_eq!(succeeded["status"]["phase"], "Succeeded");
        let failed = patch(&pod(&["runner"]), Stage::RunnerEnded(3), now, now);
        assert_eq!(failed["status"]["phase"], "Failed");
        assert_eq!(failed["metadata"]["uid"], "u");
    }
}
