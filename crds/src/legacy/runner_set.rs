//! `RunnerSet`: runners in StatefulSets, for volumes that outlive a runner (spec 01 §6).

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetUpdateStrategy,
        },
        core::v1::{PersistentVolumeClaim, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RunnerConfig, WorkVolumeClaimTemplate};
use crate::time::MicroTime;

/// Specification of runners in StatefulSets: the runner's own settings beside those of a StatefulSet.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "actions.summerwind.dev",
    version = "v1alpha1",
    kind = "RunnerSet",
    plural = "runnersets",
    singular = "runnerset",
    namespaced,
    status = "RunnerSetStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "RunnerSet is a fleet of runners, each in a StatefulSet of its own, so that claims can outlive runners.",
    printcolumn(name = "Desired", type_ = "number", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "number", json_path = ".status.replicas"),
    printcolumn(name = "Up-To-Date", type_ = "number", json_path = ".status.updatedReplicas"),
    printcolumn(name = "Available", type_ = "number", json_path = ".status.availableReplicas"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RunnerSetSpec {
    /// What the runners are to GitHub and how their containers are put together.
    #[serde(flatten)]
    pub config: RunnerConfig,
    /// Instant of the demand that replicas stands for. Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_time: Option<MicroTime>,
    /// Service account of the pods when containerMode is "kubernetes".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Claim for the work directory; needed when containerMode is "kubernetes", not read otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_volume_claim_template: Option<WorkVolumeClaimTemplate>,
    /// How many runners there shall be. 1 when absent. Leave it out when an autoscaler has this object as target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Labels of the pods; must match those of the template.
    pub selector: LabelSelector,
    /// Template of the pods. Containers "runner" and "docker" are completed, or added when missing.
    pub template: PodTemplateSpec,
    /// Claims made for each runner and used again after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_templates: Option<Vec<PersistentVolumeClaim>>,
    /// Service of the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_management_policy: Option<String>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<StatefulSetUpdateStrategy>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<i32>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_retention_policy: Option<StatefulSetPersistentVolumeClaimRetentionPolicy>,
    /// Passed to the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinals: Option<StatefulSetOrdinals>,
}

/// Observed state, summed over the StatefulSets made from the current template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerSetStatus {
    /// Available runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i64>,
    /// Ready runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i64>,
    /// Runners made from the current template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i64>,
    /// How many runners there shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i64>,
    /// Runners there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// What stands in the way of the fleet, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}
