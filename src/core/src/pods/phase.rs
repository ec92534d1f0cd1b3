//! What state a runner pod is in, from its status and annotations (spec 02 §7.2, §12).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, EnvVar, Pod};
use muster_crds::keys;

/// How long a runner may take for each step of its life before it is replaced (90 FEATURE 3). Flags of the manager change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Until a node is chosen. Below half an hour: the registration token, valid for so long at least when the pod was made, would be too old.
    pub scheduling: SignedDuration,
    /// From creation until the containers run, once a node was chosen (an image that cannot be pulled, a sick node).
    pub start: SignedDuration,
    /// From ready until GitHub knows the runner (spec 02 §21).
    pub registration: SignedDuration,
    /// For which a registered runner may be offline or unknown to GitHub without having a job.
    pub offline: SignedDuration,
    /// From the end of a deleted pod's grace period until it is released although GitHub gave no clear answer about its runner (spec 02 Q29, 90 PAIN-07).
    pub unregistration: SignedDuration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            scheduling: SignedDuration::from_mins(25),
            start: SignedDuration::from_mins(10),
            registration: SignedDuration::from_mins(10),
            offline: SignedDuration::from_mins(5),
            unregistration: SignedDuration::from_mins(5),
        }
    }
}

/// The phase that the kubelet reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Accepted, not all containers started; also an empty phase.
    #[default]
    Pending,
    /// At least one container runs or starts.
    Running,
    /// All containers ended with exit code 0.
    Succeeded,
    /// All containers ended, at least one in failure.
    Failed,
    /// The node cannot be asked.
    Unknown,
}

/// What the container `runner` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunnerContainer {
    /// No status has been reported yet.
    #[default]
    Unreported,
    /// Created or waiting to be.
    Waiting,
    /// The agent runs.
    Running,
    /// The agent has ended with this exit code.
    Terminated {
        /// Exit code as reported by the kubelet.
        exit_code: i32,
    },
}

/// The class of a pod in the pod-owner plan; the first that fits (spec 02 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodClass {
    /// Stopped: it will never take a job again.
    Completed,
    /// Ready for longer than [`Deadlines::registration`] without a runner id: it will not register.
    RegistrationTimeout,
    /// Running, whether or not it has registered.
    Running,
    /// Asked to go while not running.
    Terminating,
    /// Not started within [`Deadlines::scheduling`] or [`Deadlines::start`].
    StartTimeout,
    /// Everything else.
    Pending,
}

/// The facts of a runner pod that decisions need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// How long it may take for each step.
    pub deadlines: Deadlines,
    /// Name; also the name of the runner on GitHub unless the user set `RUNNER_NAME`.
    pub name: String,
    /// UID, for preconditions.
    pub uid: String,
    /// Resource version this view was made of, for preconditions.
    pub resource_version: String,
    /// Phase reported by the kubelet.
    pub phase: PodPhase,
    /// State of the container `runner`.
    pub runner: RunnerContainer,
    /// The runner container was restarted: its last state is a termination.
    pub runner_restarted: bool,
    /// The kubelet has reported container statuses.
    pub reported: bool,
    /// A node was chosen.
    pub scheduled: bool,
    /// Since when condition `Ready` is true.
    pub ready_since: Option<Timestamp>,
    /// When the pod was created.
    pub created_at: Option<Timestamp>,
    /// End of the grace period when the pod is being deleted.
    pub deletion_at: Option<Timestamp>,
    /// GitHub's id of the runner (annotation `actions-runner/id`).
    pub runner_id: Option<u64>,
    /// Unregistration was asked for.
    pub unregistration_requested: bool,
    /// The graceful stop has begun.
    pub unregistration_started: bool,
    /// The runner is not on GitHub any more.
    pub unregistration_complete: bool,
    /// GitHub said that the runner is busy; wait for its container to end.
    pub awaiting_completion: bool,
    /// A failure message was recorded.
    pub failure_recorded: bool,
    /// GitHub was asked to remove the runner and gave no clear answer (pod condition `muster.dev/Unregistered`), or its agent stopped only when the pod was deleted.
    pub unregistration_unclear: bool,
    /// GitHub or the ledger says that the runner has a job. Only ever a hint about who goes first: what proves idleness is GitHub's answer to the removal.
    pub busy: bool,
    /// The runner takes one job only (`RUNNER_EPHEMERAL`, last occurrence).
    pub ephemeral: bool,
    /// Name under which the runner registers (`RUNNER_NAME`, last literal occurrence, else the pod's name).
    pub runner_name: String,
}

impl PodView {
    /// Extracts the facts of a pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let status = pod.status.as_ref();
        let annotation = |key: &str| {
            meta.annotations
                .as_ref()
                .and_then(|all| all.get(key))
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let containers = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        let runner = containers
            .iter()
            .rev()
            .find(|container| container.name == keys::CONTAINER_RUNNER);
        let name = meta.name.clone().unwrap_or_default();
        let busy_label = meta
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(keys::LABEL_BUSY));
        Self {
            deadlines: Deadlines::default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            phase: phase(status.and_then(|status| status.phase.as_deref())),
            runner: runner.map(container_state).unwrap_or_default(),
            runner_restarted: runner.is_some_and(|container| {
                container
                    .last_state
                    .as_ref()
                    .is_some_and(|state| state.terminated.is_some())
            }),
            reported: !containers.is_empty(),
            scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
            ready_since: status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default()
                .iter()
                .find(|condition| condition.type_ == "Ready" && condition.status == "True")
                .and_then(|condition| condition.last_transition_time.as_ref().map(|time| time.0)),
            created_at: meta.creation_timestamp.as_ref().map(|time| time.0),
            deletion_at: meta.deletion_timestamp.as_ref().map(|time| time.0),
            runner_id: annotation(keys::ANNOTATION_RUNNER_ID).and_then(|id| id.parse().ok()),
            unregistration_requested: annotation(keys::ANNOTATION_UNREGISTRATION_REQUEST).is_some(),
            unregistration_started: annotation(keys::ANNOTATION_UNREGISTRATION_START).is_some(),
            unregistration_complete: annotation(keys::ANNOTATION_UNREGISTRATION_COMPLETE).is_some(),
            awaiting_completion: annotation(keys::ANNOTATION_RUNNER_COMPLETION_WAIT_START).is_some(),
            failure_recorded: annotation(keys::ANNOTATION_UNREGISTRATION_FAILURE).is_some(),
            unregistration_unclear: status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default()
                .iter()
                .any(|condition| {
                    condition.type_ == keys::CONDITION_UNREGISTERED && condition.status == "False"
                }),
            busy: busy_label || annotation(keys::ANNOTATION_UNREGISTRATION_FAILURE).is_some(),
            ephemeral: env(pod, keys::ENV_RUNNER_EPHEMERAL).is_some_and(|value| value == "true"),
            runner_name: env(pod, keys::ENV_RUNNER_NAME).unwrap_or_else(|| name.clone()),
            name,
        }
    }

    /// The same facts under other deadlines.
    #[must_use]
    pub fn within(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// True when the pod will never take a job again (spec 02 §7.2, "stopped").
    pub fn is_stopped(&self) -> bool {
        match self.phase {
            PodPhase::Succeeded | PodPhase::Failed => true,
            PodPhase::Running if matches!(self.runner, RunnerContainer::Terminated { .. }) => true,
            _ => self.deletion_at.is_some() && !self.reported && !self.scheduled,
        }
    }

    /// True when the pod is ready for longer than the registration timeout.
    pub fn is_ready_long(&self, now: Timestamp) -> bool {
        self.ready_since
            .is_some_and(|since| now.duration_since(since) > self.deadlines.registration)
    }

    /// When a pod that has not started is given up.
    pub fn start_deadline(&self) -> Option<Timestamp> {
        let limit = if self.scheduled {
            self.deadlines.start
        } else {
            self.deadlines.scheduling
        };
        self.created_at
            .filter(|_| self.phase == PodPhase::Pending)
            .and_then(|created| created.checked_add(limit).ok())
    }

    /// When this pod will be given up unless it makes progress.
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.phase == PodPhase::Running && self.runner_id.is_none() && !self.is_stopped() {
            self.ready_since
                .and_then(|since| since.checked_add(self.deadlines.registration).ok())
        } else {
            self.start_deadline()
        }
    }

    /// The class of this pod in the plan.
    pub fn class(&self, now: Timestamp) -> PodClass {
        if self.is_stopped() {
            PodClass::Completed
        } else if self.phase == PodPhase::Running && self.runner_id.is_none() && self.is_ready_long(now) {
            PodClass::RegistrationTimeout
        } else if self.phase == PodPhase::Running {
            PodClass::Running
        } else if self.deletion_at.is_some() {
            PodClass::Terminating
        } else if self.start_deadline().is_some_and(|deadline| now > deadline) {
            PodClass::StartTimeout
        } else {
            PodClass::Pending
        }
    }

    /// True when the agent ended by itself with success: what an ephemeral runner does after its job. A pod that was being deleted, was evicted or whose agent
    /// failed has not ended but was lost, and nothing follows from it about jobs (spec 20, "demand decides what is created"). Neither does anything from the
    /// end of a runner that was asked to unregister and was not found busy: GitHub may have removed it while it was idle, and its agent stops before that is written down.
    pub fn has_ended(&self) -> bool {
        let exited_well = match self.runner {
            RunnerContainer::Terminated { exit_code } => exit_code == 0,
            _ => self.phase == PodPhase::Succeeded,
        };
        let may_have_been_idle =
            self.unregistration_complete || (self.unregistration_requested && !self.failure_recorded);
        exited_well && self.is_stopped() && self.deletion_at.is_none() && !may_have_been_idle
    }
}

fn phase(text: Option<&str>) -> PodPhase {
    match text {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        _ => PodPhase::Pending,
    }
}

fn container_state(container: &ContainerStatus) -> RunnerContainer {
    let Some(state) = &container.state else {
        return RunnerContainer::Waiting;
    };
    if let Some(terminated) = &state.terminated {
        RunnerContainer::Terminated {
            exit_code: terminated.exit_code,
        }
    } else if state.running.is_some() {
        RunnerContainer::Running
    } else {
        RunnerContainer::Waiting
    }
}

/// The environment of the container `runner`; of several containers of that name the last.
fn runner_env(pod: &Pod) -> &[EnvVar] {
    pod.spec
        .as_ref()
        .and_then(|spec| {
            spec.containers
                .iter()
                .rev()
                .find(|container| container.name == keys::CONTAINER_RUNNER)
        })
        .and_then(|container| container.env.as_deref())
        .unwrap_or_default()
}

/// The literal value of a variable of the container `runner`. The last occurrence counts, as it does in the container (spec 02 Q31); an empty value is none.
pub fn env(pod: &Pod, name: &str) -> Option<String> {
    runner_env(pod)
        .iter()
        .rev()
        .find(|variable| variable.name == name)
        .and_then(|variable| variable.value.clone())
        .filter(|value| !value.is_empty())
}

/// Whether a pod is a runner pod, and so the business of the runner-pod reconciler (spec 02 §12.1).
pub fn is_runner_pod(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| {
        [
            keys::LABEL_ACTIONS_RUNNER,
            keys::LABEL_RUNNERSET_NAME,
            keys::LABEL_RUNNER_DEPLOYMENT_NAME,
        ]
        .iter()
        .any(|key| labels.contains_key(*key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn pod(json: serde_json::Value) -> PodView {
        PodView::of(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_sidecar_keeps_the_phase_but_the_ended_agent_stops_the_pod() {
        let view = pod(serde_json::json!({
            "metadata": {"name": "a"},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "docker", "image": "d", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "runner", "image": "r", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}
        }));
        assert!(view.is_stopped() && view.has_ended());
        assert_eq!(view.class(t(0)), PodClass::Completed);
    }

    #[test]
    fn an_end_says_nothing_of_jobs_when_the_runner_may_have_been_idle() {
        let asked = (keys::ANNOTATION_UNREGISTRATION_REQUEST, "2027-01-15T08:00:00Z");
        let busy = (keys::ANNOTATION_UNREGISTRATION_FAILURE, "it runs a job");
        let removed = (keys::ANNOTATION_UNREGISTRATION_COMPLETE, "2027-01-15T08:00:01Z");
        for (marks, ended) in [
            (&[][..], true),
            (&[asked], false),
            (&[asked, busy], true),
            (&[asked, removed], false),
        ] {
            let marks: std::collections::BTreeMap<_, _> = marks.iter().copied().collect();
            let view = pod(serde_json::json!({
                "metadata": {"name": "a", "annotations": marks}, "status": {"phase": "Succeeded"}}));
            assert!(view.is_stopped());
            assert_eq!(view.has_ended(), ended, "{marks:?}");
        }
    }

    #[test]
    fn an_evicted_pod_has_stopped_but_not_ended() {
        let view = pod(
            serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": "Failed", "reason": "Evicted"}}),
        );
        assert!(view.is_stopped() && !view.has_ended());
    }

    #[test]
    fn a_pod_deleted_before_it_was_scheduled_is_stopped() {
        let deleted = serde_json::json!({"metadata": {"name": "a", "deletionTimestamp": "2027-01-15T08:00:00Z"}, "status": {"phase": "Pending"}});
        assert!(pod(deleted).is_stopped());
        let scheduled = serde_json::json!({"metadata": {"name": "a", "deletionTimestamp": "2027-01-15T08:00:00Z"}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Pending"}});
        assert_eq!(pod(scheduled).class(t(0)), PodClass::Terminating);
    }

    #[test]
    fn ready_without_an_id_is_a_registration_timeout_after_ten_minutes() {
        let ready = |since: Timestamp, id: Option<u64>| PodView {
            phase: PodPhase::Running,
            ready_since: Some(since),
            runner_id: id,
            ..PodView::default()
        };
        assert_eq!(ready(t(0), None).class(t(600)), PodClass::Running);
        assert_eq!(ready(t(0), None).class(t(601)), PodClass::RegistrationTimeout);
        assert_eq!(ready(t(0), Some(7)).class(t(601)), PodClass::Running);
    }

    #[test]
    fn the_last_occurrence_of_a_variable_counts() {
        let view = pod(serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "runner", "env": [
                {"name": "RUNNER_EPHEMERAL", "value": "false"}, {"name": "RUNNER_NAME", "value": "mine"}, {"name": "RUNNER_EPHEMERAL", "value": "true"}]}]}
        }));
        assert!(view.ephemeral);
        assert_eq!(view.runner_name, "mine");
    }
}
