//! `Runner`: one self-hosted runner, and the pod it runs in (spec 01 §3).

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RunnerConfig, RunnerPodSpec};

/// Specification of a runner.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "actions.summerwind.dev",
    version = "v1alpha1",
    kind = "Runner",
    plural = "runners",
    singular = "runner",
    namespaced,
    status = "RunnerStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Runner is one self-hosted runner; its pod and its name at GitHub have the name of the object.",
    printcolumn(name = "Enterprise", type_ = "string", json_path = ".spec.enterprise"),
    printcolumn(name = "Organization", type_ = "string", json_path = ".spec.organization"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.group"),
    printcolumn(name = "Labels", type_ = "string", json_path = ".spec.labels"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "WF Repo", type_ = "string", json_path = ".status.workflow.repository"),
    printcolumn(name = "WF Run", type_ = "string", json_path = ".status.workflow.runID"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct RunnerSpec {
    /// What the runner is to GitHub and how its containers are put together.
    #[serde(flatten)]
    pub config: RunnerConfig,
    /// What of the pod is set.
    #[serde(flatten)]
    pub pod: RunnerPodSpec,
}

/// Observed state of a runner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerStatus {
    /// Whether the pod is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Registration token as older controllers kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RunnerStatusRegistration>,
    /// Phase of the pod, "Created" before it has one, or what the runner image reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Reason the pod gives for its phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Message the pod gives for its phase, or what the runner image reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Job the runner is at, as the runner image reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowStatus>,
    /// Not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_registration_check_time: Option<Time>,
    /// What stands in the way of the runner, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// Registration token with the scope it was made for. Read from old objects, never written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerStatusRegistration {
    /// Enterprise of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enterprise: Option<String>,
    /// Organization of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Repository of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Labels of the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// The token.
    pub token: String,
    /// When the token expires.
    pub expires_at: Time,
}

// The token is a secret although it stands in the object in clear text: it must not reach a log by `Debug`.
impl fmt::Debug for RunnerStatusRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunnerStatusRegistration")
            .field("enterprise", &self.enterprise)
            .field("organization", &self.organization)
            .field("repository", &self.repository)
            .field("labels", &self.labels)
            .field("token", &"[REDACTED]")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Job a runner is at. The runner image writes all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowStatus {
    /// Name of the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Repository of the workflow, as OWNER/REPO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Owner of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_owner: Option<String>,
    /// Number of the run within its workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_number: Option<String>,
    /// Id of the run.
    #[serde(default, rename = "runID", skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Id of the job within its workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Id of the action or step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}
