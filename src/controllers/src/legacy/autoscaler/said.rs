//! What an autoscaler's status and Events say of a decision.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use muster_core::{
    autoscale::{desired::Decision, schedule::Schedule},
    explain::{Code, LIMITED},
};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use serde_json::{Map, json};

use super::{COMPONENT, pull::Reading};
use crate::{
    conditions::{self, Verdict},
    context::Context,
    error::Error,
    events::Severity,
};

/// What a condition of an autoscaler says that scales all the same.
pub(super) struct Said {
    type_: &'static str,
    /// Reason and message of what is wrong.
    trouble: Option<(&'static str, String)>,
}

impl Said {
    pub(super) fn verdict(&self) -> Verdict<'_> {
        let (reason, message) = match &self.trouble {
            Some((reason, message)) => (*reason, message.as_str()),
            None => (self.type_, ""),
        };
        Verdict {
            type_: self.type_,
            status: self.trouble.is_none(),
            default: true,
            reason,
            message,
        }
    }
}

/// Metrics that are unknown and overrides that are ignored stop nothing; they are said.
pub(super) fn verdicts(reading: &Reading, schedule: &Schedule) -> Vec<Said> {
    let mut all = vec![Said {
        type_: conditions::SCHEDULE_VALID,
        trouble: (!schedule.problems.is_empty())
            .then(|| (Code::ScheduleInvalid.as_str(), schedule.problems.join("; "))),
    }];
    // Before GitHub has been asked the condition stays as it is.
    if reading.is_settled {
        all.push(Said {
            type_: conditions::METRICS_PULLED,
            trouble: reading.trouble.clone(),
        });
    }
    all
}

/// Whether more jobs want a runner than may have one.
pub(super) fn limited(decision: &Decision, schedule: &Schedule, max: i64) -> Verdict<'static> {
    let status = decision.live > schedule.max.unwrap_or(max).max(0);
    let code = if schedule.max.is_some() {
        Code::ScheduledOverride
    } else {
        Code::MaxReplicasReached
    };
    let (reason, message) = if status {
        (
            code.as_str(),
            "More jobs are queued than maxReplicas allows runners.",
        )
    } else {
        ("WithinBounds", "")
    };
    Verdict {
        type_: LIMITED,
        status,
        default: false,
        reason,
        message,
    }
}

/// An Event for each new trouble, as upstream's when it cannot compute replicas.
pub(super) fn complain(context: &Context, autoscaler: &HorizontalRunnerAutoscaler, verdicts: &[Said]) {
    for (_, message) in verdicts.iter().filter_map(|said| said.trouble.as_ref()) {
        context.recorder.record(
            autoscaler,
            COMPONENT,
            Severity::Warning,
            "RunnerAutoscalingFailure",
            message,
        );
    }
}

/// Writes the status where it differs, or says when it may be written.
pub(super) async fn report(
    context: &Context,
    autoscaler: &HorizontalRunnerAutoscaler,
    decision: &Decision,
    (verdicts, summary): (&[Verdict<'_>], Option<String>),
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    let old = autoscaler.status.clone().unwrap_or_default();
    let conditions = conditions::with_all(
        old.conditions.as_deref().unwrap_or_default(),
        [Verdict::HEALTHY].iter().chain(verdicts),
        autoscaler.metadata.generation,
        now,
    );
    if old.desired_replicas == Some(decision.desired)
        && decision.scaled_out_at.is_none()
        && conditions.is_none()
        && old.scheduled_overrides_summary == summary
    {
        return Ok(None);
    }
    // What the next decision depends on is written at once, and counts as this second's write; the rest waits for what changes next.
    let uid = autoscaler.uid().unwrap_or_default();
    if decision.scaled_out_at.is_some() {
        context.gate.note(&uid, now);
    } else if let Some(wait) = context.gate.admit_counts(&uid, now) {
        return Ok(Some(wait));
    }
    let mut status = Map::new();
    status.insert("desiredReplicas".to_owned(), json!(decision.desired));
    if old.scheduled_overrides_summary != summary {
        status.insert("scheduledOverridesSummary".to_owned(), json!(summary));
    }
    if let Some(at) = decision.scaled_out_at {
        status.insert("lastSuccessfulScaleOutTime".to_owned(), json!(Time(at)));
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".to_owned(), json!(conditions));
    }
    let api: Api<HorizontalRunnerAutoscaler> = Api::namespaced(
        context.client.clone(),
        &autoscaler.namespace().unwrap_or_default(),
    );
    api.patch_status(
        &autoscaler.name_any(),
        &PatchParams::default(),
        &Patch::Merge(json!({ "status": status })),
    )
    .await
    .map_err(Error::apply("write the status"))?;
    Ok(None)
}
