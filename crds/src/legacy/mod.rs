//! The five kinds of `actions.summerwind.dev/v1alpha1`, one file each, and what they share (spec 01 §2–§7).
//!
//! Doc comments of types and fields become the descriptions that `kubectl explain` prints, so they address users.
//! Optional fields are `Option` throughout, lists included: absent means "not said", which controllers turn into their
//! own default. Fields that the schema accepts but nothing reads are kept, since existing manifests have them.

#![expect(
    clippy::doc_markdown,
    reason = "the comments are what kubectl prints, and that is plain text"
)]
#![expect(clippy::duplicated_attributes, reason = "printer columns of one type")]

mod horizontal_runner_autoscaler;
mod runner;
mod runner_deployment;
mod runner_replica_set;
mod runner_set;
mod shared;

#[cfg(test)]
mod tests;

pub use horizontal_runner_autoscaler::{
    CacheEntry, CapacityReservation, CheckRunSpec, GitHubEventScaleUpTriggerSpec, HorizontalRunnerAutoscaler,
    HorizontalRunnerAutoscalerSpec, HorizontalRunnerAutoscalerStatus, MetricSpec, PullRequestSpec, PushSpec,
    RecurrenceRule, ScaleTargetRef, ScaleUpTrigger, ScheduledOverride, WorkflowJobSpec,
};
pub use runner::{Runner, RunnerSpec, RunnerStatus, RunnerStatusRegistration, WorkflowStatus};
pub use runner_deployment::{RunnerDeployment, RunnerDeploymentSpec, RunnerDeploymentStatus};
pub use runner_replica_set::{RunnerReplicaSet, RunnerReplicaSetSpec, RunnerReplicaSetStatus};
pub use runner_set::{RunnerSet, RunnerSetSpec, RunnerSetStatus};
pub use shared::{
    EmbeddedMeta, GitHubApiCredentialsFrom, RunnerConfig, RunnerPodSpec, RunnerTemplate, SecretReference,
    WorkVolumeClaimTemplate,
};
