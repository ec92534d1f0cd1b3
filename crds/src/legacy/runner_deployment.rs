//! `RunnerDeployment`: what users declare and autoscalers scale (spec 01 §5).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunnerTemplate;
use crate::time::MicroTime;

/// Specification of a fleet of runners.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "actions.summerwind.dev",
    version = "v1alpha1",
    kind = "RunnerDeployment",
    plural = "runnerdeployments",
    singular = "runnerdeployment",
    shortname = "rdeploy",
    namespaced,
    status = "RunnerDeploymentStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "RunnerDeployment is a fleet of equal runners whose template can change.",
    printcolumn(
        name = "Enterprise",
        type_ = "string",
        json_path = ".spec.template.spec.enterprise"
    ),
    printcolumn(
        name = "Organization",
        type_ = "string",
        json_path = ".spec.template.spec.organization"
    ),
    printcolumn(
        name = "Repository",
        type_ = "string",
        json_path = ".spec.template.spec.repository"
    ),
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.template.spec.group"),
    printcolumn(name = "Labels", type_ = "string", json_path = ".spec.template.spec.labels"),
    printcolumn(name = "Desired", type_ = "number", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "number", json_path = ".status.replicas"),
    printcolumn(name = "Up-To-Date", type_ = "number", json_path = ".status.updatedReplicas"),
    printcolumn(name = "Available", type_ = "number", json_path = ".status.availableReplicas"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RunnerDeploymentSpec {
    /// How many runners there shall be. 1 when absent. Leave it out when an autoscaler has this object as target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Instant of the demand that replicas stands for. Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_time: Option<MicroTime>,
    /// Labels of the Runners that count; to match the template's labels when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Template of the Runners.
    pub template: RunnerTemplate,
}

/// Observed state of a fleet of runners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerDeploymentStatus {
    /// Available runners of all owned RunnerReplicaSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i64>,
    /// Same as availableReplicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i64>,
    /// Runners made from the current template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i64>,
    /// How many runners there shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i64>,
    /// Runners of all owned RunnerReplicaSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// What stands in the way of the fleet, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}
