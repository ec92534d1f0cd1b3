//! The condition `muster.dev/Unregistered` of a runner pod: `False` while GitHub gives no clear answer to the removal of its runner, with the reason.
//!
//! It is written once per reason, for people, and for the process that comes after this one. With ARC's own `ClusterRole`, which does not allow it, the log says the same.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use muster_core::pods::{PodView, unregister};
use muster_crds::keys;
use muster_runtime::drive::Failure;
use serde_json::json;

use crate::{context::Context, error::Error};

const COMPONENT: &str = "runnerpod-controller";
/// The reason once GitHub said that the runner has a job.
const BUSY: &str = "Busy";

/// Says that GitHub could not be asked, or gave no clear answer.
pub(super) async fn report(context: &Context, pod: &Pod, view: &PodView, error: &Error, now: Timestamp) {
    context.metrics.failed(error.class().as_str());
    let reason = error.reason();
    let chain = muster_runtime::telemetry::chain(error);
    if view.unregistration_unclear && reason_of(pod) == Some(reason) {
        tracing::debug!(controller = COMPONENT, object = %super::key(pod), reason, error = %chain, "GitHub still gives no clear answer.");
        return;
    }
    tracing::warn!(controller = COMPONENT, object = %super::key(pod), reason, error = %chain, "GitHub gave no clear answer to a removal; the runner is treated as busy.");
    let end = unregister::abandoned_at(view).map_or_else(
        || "It is treated as busy until then.".to_owned(),
        |at| format!("The pod is released at {at} at the latest."),
    );
    write(
        context,
        pod,
        reason,
        &format!("{chain}. {}. {end}", error.remedy().trim_end_matches('.')),
        now,
    )
    .await;
}

/// Says that the answer is clear: the runner has a job.
pub(super) async fn clear(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) {
    if view.unregistration_unclear {
        write(context, pod, BUSY, "The runner has a job.", now).await;
    }
}

fn reason_of(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ours = conditions
        .iter()
        .find(|condition| condition.type_ == keys::CONDITION_UNREGISTERED)?;
    ours.reason.as_deref()
}

async fn write(context: &Context, pod: &Pod, reason: &str, message: &str, now: Timestamp) {
    // `Unknown` asks for nothing: a busy runner is no trouble.
    let status = if reason == BUSY { "Unknown" } else { "False" };
    let condition = json!({"type": keys::CONDITION_UNREGISTERED, "status": status, "reason": reason,
        "message": message, "lastTransitionTime": muster_crds::time::MicroTime::from(now).to_string()});
    // A strategic merge leaves the kubelet's conditions alone, and the uid hits this very pod only.
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    if let Err(error) = api
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        tracing::debug!(controller = COMPONENT, object = %super::key(pod), error = %muster_runtime::telemetry::chain(&error), "A pod's condition could not be written.");
    }
}
