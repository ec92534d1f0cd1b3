//! `HorizontalRunnerAutoscaler`: what decides the replicas of a RunnerDeployment or RunnerSet (spec 01 §7).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GitHubApiCredentialsFrom;
use crate::{local_time::LocalTime, time::MicroTime};

/// Specification of an autoscaler.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "actions.summerwind.dev",
    version = "v1alpha1",
    kind = "HorizontalRunnerAutoscaler",
    plural = "horizontalrunnerautoscalers",
    singular = "horizontalrunnerautoscaler",
    shortname = "hra",
    namespaced,
    status = "HorizontalRunnerAutoscalerStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "HorizontalRunnerAutoscaler decides how many runners a RunnerDeployment or RunnerSet has.",
    printcolumn(name = "Min", type_ = "number", json_path = ".spec.minReplicas"),
    printcolumn(name = "Max", type_ = "number", json_path = ".spec.maxReplicas"),
    printcolumn(name = "Desired", type_ = "number", json_path = ".status.desiredReplicas"),
    printcolumn(
        name = "Schedule",
        type_ = "string",
        json_path = ".status.scheduledOverridesSummary"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct HorizontalRunnerAutoscalerSpec {
    /// What is scaled; in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_target_ref: Option<ScaleTargetRef>,
    /// Fewest runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i64>,
    /// Most runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
    /// Seconds after a scale-out during which the number is not lowered. The controller's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_delay_seconds_after_scale_out: Option<i64>,
    /// Metrics to pull from GitHub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<MetricSpec>>,
    /// Webhook events that add runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_triggers: Option<Vec<ScaleUpTrigger>>,
    /// Runners held ready for queued jobs. Written by the webhook server; entries of your own are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_reservations: Option<Vec<CapacityReservation>>,
    /// Times with another minReplicas. The first active one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_overrides: Option<Vec<ScheduledOverride>>,
    /// Credentials for GitHub, when other than the controller's own.
    #[serde(
        default,
        rename = "githubAPICredentialsFrom",
        skip_serializing_if = "Option::is_none"
    )]
    pub github_api_credentials_from: Option<GitHubApiCredentialsFrom>,
}

/// Names what is scaled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleTargetRef {
    /// Kind of the target. RunnerDeployment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["RunnerDeployment", "RunnerSet"]))]
    pub kind: Option<String>,
    /// Name of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A metric to pull from GitHub. Thresholds and factors are strings: quote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricSpec {
    /// TotalNumberOfQueuedAndInProgressWorkflowRuns or PercentageRunnersBusy.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Names, without owner, of the repositories whose runs are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_names: Option<Vec<String>>,
    /// Share of busy runners from which on runners are added. 0.8 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_threshold: Option<String>,
    /// Share of busy runners below which runners are removed. 0.3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_threshold: Option<String>,
    /// Factor of scaling up. 1.3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_factor: Option<String>,
    /// Factor of scaling down. 0.7 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_factor: Option<String>,
    /// Runners to add at once, instead of a factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_adjustment: Option<i64>,
    /// Runners to remove at once, instead of a factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_adjustment: Option<i64>,
}

/// An event that adds runners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleUpTrigger {
    /// Which event.
    #[serde(default, rename = "githubEvent", skip_serializing_if = "Option::is_none")]
    pub github_event: Option<GitHubEventScaleUpTriggerSpec>,
    /// Runners to add. 1 when absent. Not read for workflowJob, where each queued job counts one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// How long the added capacity is held, for example 30m or 1h30m. 10m when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// Which event of GitHub. workflowJob has an effect only where it is the only trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitHubEventScaleUpTriggerSpec {
    /// Check runs that add runners for the duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_run: Option<CheckRunSpec>,
    /// Pull requests that add runners for the duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequestSpec>,
    /// Pushes add runners for the duration. Write it as an empty object: {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushSpec>,
    /// Jobs that are queued. Write it as an empty object: {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_job: Option<WorkflowJobSpec>,
}

/// Filter of check run events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckRunSpec {
    /// Actions of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Status of the check run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Patterns of the check run's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Names of repositories. Read only without names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
}

/// Filter of pull request events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestSpec {
    /// Actions of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Patterns of the base branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branches: Option<Vec<String>>,
}

/// Any push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushSpec {}

/// Stands for workflow job events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowJobSpec {}

/// Capacity held ready until a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapacityReservation {
    /// What the capacity is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Until when the entry counts. Without it the entry does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<MicroTime>,
    /// How many runners the entry adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Since when the capacity is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_time: Option<MicroTime>,
}

/// A time, once or recurring, with other bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledOverride {
    /// Start of the first occurrence. Recurrences follow the clock of the offset that is written here.
    pub start_time: LocalTime,
    /// End of the first occurrence, itself outside it.
    pub end_time: LocalTime,
    /// Fewest runners meanwhile. Unchanged when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub min_replicas: Option<i64>,
    /// Most runners meanwhile. Unchanged when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub max_replicas: Option<i64>,
    /// Time zone whose clock recurrences follow, for example Europe/Berlin. The offset of startTime when absent, which knows no summer time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// How it recurs. Once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrence_rule: Option<RecurrenceRule>,
}

/// How a scheduled override recurs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecurrenceRule {
    /// Daily, Weekly, Monthly or Yearly. Once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Daily", "Weekly", "Monthly", "Yearly"]))]
    pub frequency: Option<String>,
    /// Last time at which an occurrence may start. For ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_time: Option<LocalTime>,
}

/// Observed state of an autoscaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HorizontalRunnerAutoscalerStatus {
    /// Generation of the object the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many runners the target shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i64>,
    /// When the number last grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_scale_out_time: Option<Time>,
    /// Left from old versions, not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_entries: Option<Vec<CacheEntry>>,
    /// The next change by scheduled overrides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_overrides_summary: Option<String>,
    /// What stands in the way of scaling, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// A cached number of old versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheEntry {
    /// What the number is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// Until when it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
}
