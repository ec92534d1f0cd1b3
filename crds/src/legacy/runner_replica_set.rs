//! `RunnerReplicaSet`: a number of equal Runners (spec 01 §4).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunnerTemplate;
use crate::time::MicroTime;

/// Specification of a set of equal Runners.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "actions.summerwind.dev",
    version = "v1alpha1",
    kind = "RunnerReplicaSet",
    plural = "runnerreplicasets",
    singular = "runnerreplicaset",
    shortname = "rrs",
    namespaced,
    status = "RunnerReplicaSetStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "RunnerReplicaSet keeps a number of equal Runners. RunnerDeployments make them; users rarely do.",
    printcolumn(name = "Desired", type_ = "number", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "number", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "number", json_path = ".status.readyReplicas"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RunnerReplicaSetSpec {
    /// How many Runners there shall be. 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Instant of the demand that replicas stands for. Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_time: Option<MicroTime>,
    /// Labels of the Runners that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Template of the Runners.
    pub template: RunnerTemplate,
}

/// Observed state of a set of equal Runners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerReplicaSetStatus {
    /// Pods of Runners made from the current template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Those whose pod runs.
    pub ready_replicas: i64,
    /// Same as readyReplicas.
    pub available_replicas: i64,
    /// What stands in the way of the set, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}
