//! Runner pods: registration tracking and graceful stop (spec 02 §12).
//! gather → plan (`core::pods::unregister`) → apply → report
//!
//! The runner is off GitHub before its pod goes, and a busy one is never deleted: the finalizer holds the pod until GitHub has removed the runner or its container has ended.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    pods::{
        PodView,
        phase::{env, is_runner_pod},
        unregister::{self, ABANDON_AFTER, Answer, Next, Safe},
    },
    scope::Scope,
};
use muster_crds::{keys, legacy::Runner};
use muster_github::{ErrorClass, GitHub, Removal};
use serde_json::{Map, Value, json};

use crate::{
    context::Context,
    error::{Error, is_conflict, is_not_found},
    events::Severity,
    owner::ControllerOwner,
    pod_owner::delete,
};

const COMPONENT: &str = "runnerpod-controller";
const RECHECK_AFTER_FORCE: Duration = Duration::from_secs(3);

pub(super) async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, Error> {
    if !is_runner_pod(&pod) {
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    let view = context.view(&pod);
    if view.deletion_at.is_some() {
        return terminate(&context, &pod, &view, now).await;
    }
    if !super::linked::has_finalizers(&pod) {
        set_finalizer(&context, &pod, true).await?;
    }
    if view.unregistration_requested && !view.unregistration_complete {
        return match stop(&context, &pod, &view, now).await? {
            Stop::Safe => Ok(Action::await_change()),
            Stop::Wait(delay) => Ok(Action::requeue(delay)),
        };
    }
    super::tracking::track(&context, &pod, &view, now).await
}

/// A pod that is being deleted: parent first, then the graceful stop, then the finalizer (spec 02 §12.1).
async fn terminate(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Result<Action, Error> {
    let namespace = pod.namespace().unwrap_or_default();
    delete_parent(context, pod, &namespace).await?;
    if has_finalizer(pod) {
        let outcome = match stop(context, pod, view, now).await {
            // Nobody can be asked any more (the Secret is gone): the pod must not stay for ever (spec 02 Q29).
            Err(Error::Credentials { message, .. })
                if view
                    .deletion_at
                    .is_some_and(|end| now.duration_since(end) > ABANDON_AFTER) =>
            {
                context.recorder.record(
                    pod,
                    COMPONENT,
                    Severity::Warning,
                    "UnregistrationSkipped",
                    &message,
                );
                tracing::warn!(controller = COMPONENT, object = %super::key(pod), reason = %message, "Released a pod without unregistering its runner.");
                Stop::Safe
            }
            other => other?,
        };
        return match outcome {
            Stop::Safe => {
                // Only now: pods of jobs are work of a runner that may still be busy (spec 02 Q35).
                if let Some(delay) = super::linked::clean(context, pod, view, now).await {
                    return Ok(Action::requeue(delay));
                }
                set_finalizer(context, pod, false).await?;
                Ok(Action::requeue(Duration::from_mins(1)))
            }
            Stop::Wait(delay) => Ok(Action::requeue(delay)),
        };
    }
    // The kubelet did not confirm: a minute after the grace period the object is removed by force (spec 02 §12.1 step 4).
    let force_at = view
        .deletion_at
        .and_then(|end| end.checked_add(SignedDuration::from_mins(1)).ok());
    match force_at {
        Some(at) if now > at => {
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(kube::api::Preconditions {
                    uid: Some(view.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(&view.name, &params).await {
                Ok(_) => {
                    let note = format!("Forcefully deleted pod '{}'", view.name);
                    context
                        .recorder
                        .record(pod, COMPONENT, Severity::Normal, "PodDeleted", &note);
                    Ok(Action::requeue(RECHECK_AFTER_FORCE))
                }
                Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Action::await_change()),
                Err(error) => Err(Error::apply("delete the pod by force")(error)),
            }
        }
        _ => Ok(Action::requeue(
            super::until(force_at, now).unwrap_or(Duration::from_mins(1)),
        )),
    }
}

/// Without its Runner gone the pod would be made again.
async fn delete_parent(context: &Context, pod: &Pod, namespace: &str) -> Result<(), Error> {
    let Some(owner) = pod.controller_owner().filter(|owner| owner.kind == "Runner") else {
        return Ok(());
    };
    let Some(runner) = context.caches.runners.get(namespace, &owner.name) else {
        return Ok(());
    };
    if runner.metadata.deletion_timestamp.is_some() || runner.uid().as_deref() != Some(owner.uid.as_str()) {
        return Ok(());
    }
    let api: Api<Runner> = Api::namespaced(context.client.clone(), namespace);
    delete(&api, &owner.name, &owner.uid).await
}

/// Outcome of one tick of the graceful stop.
enum Stop {
    Safe,
    Wait(Duration),
}

async fn stop(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Result<Stop, Error> {
    let mut next = unregister::begin(view, now);
    loop {
        next = match next {
            Next::Safe(why) => return finish(context, pod, view, why, now).await,
            Next::Wait(delay) => return Ok(Stop::Wait(positive(delay))),
            Next::LookUp => {
                let (github, scope) = access(context, pod, now).await?;
                let found = look_up(&github, &scope, &view.runner_name)
                    .await
                    .map_err(Error::github(format!("list the runners of {scope}"), now))?;
                unregister::after_look_up(view, found, now)
            }
            Next::Remove { id } => {
                let (github, scope) = access(context, pod, now).await?;
                let (answer, message) = remove(&github, &scope, id, view).await;
                let next = unregister::after_removal(view, answer, now);
                if let Next::Busy {
                    await_completion,
                    retry,
                } = next
                {
                    return busy(context, pod, view, (await_completion, retry), message, now).await;
                }
                next
            }
            Next::Busy { retry, .. } => {
                return Ok(Stop::Wait(retry.map_or(context.settings.sync_period, positive)));
            }
        };
    }
}

/// GitHub's id of a runner by its name: from the cached listing, and where that lacks it from a fresh one, since "not there" may be a minute old.
async fn look_up(github: &GitHub, scope: &Scope, name: &str) -> Result<Option<u64>, muster_github::Error> {
    let by_name = |runners: &[muster_github::RunnerInfo]| {
        runners
            .iter()
            .find(|runner| runner.name == name)
            .map(|runner| runner.id)
    };
    if let Some(id) = by_name(&github.list_runners(scope).await?) {
        return Ok(Some(id));
    }
    Ok(by_name(&github.list_runners_fresh(scope).await?))
}

async fn remove(github: &GitHub, scope: &Scope, id: u64, view: &PodView) -> (Answer, String) {
    match github.remove_runner(scope, id).await {
        Ok(Removal::Removed) => (Answer::Removed, String::new()),
        Ok(Removal::Gone) => (Answer::Gone, String::new()),
        Ok(Removal::Busy { message }) => (Answer::Busy, message),
        Err(error) => {
            let until = match error.class() {
                ErrorClass::Throttled { until } => until,
                _ => None,
            };
            tracing::warn!(controller = COMPONENT, runner = %view.runner_name, error = %muster_runtime::telemetry::chain(&error), "GitHub gave no clear answer to a removal; the runner is treated as busy.");
            (Answer::Unknown { until }, String::new())
        }
    }
}

/// Marks the pod as unregistered, unless it is being deleted anyway: then only the finalizer matters.
async fn finish(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    why: Safe,
    now: Timestamp,
) -> Result<Stop, Error> {
    if why != Safe::AlreadyComplete {
        context.metrics.unregistered(label(why));
        if !matches!(why, Safe::Stopped) {
            tracing::info!(controller = COMPONENT, object = %super::key(pod), reason = label(why), "The runner is off GitHub.");
        }
        if view.deletion_at.is_none() {
            let mut marks = vec![(keys::ANNOTATION_UNREGISTRATION_COMPLETE, now.to_string())];
            if !view.unregistration_started {
                marks.push((keys::ANNOTATION_UNREGISTRATION_START, now.to_string()));
            }
            mark(context, pod, marks).await?;
        }
    }
    Ok(Stop::Safe)
}

async fn busy(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    (await_completion, retry): (bool, Option<SignedDuration>),
    message: String,
    now: Timestamp,
) -> Result<Stop, Error> {
    let mut marks = Vec::new();
    if !view.unregistration_started {
        marks.push((keys::ANNOTATION_UNREGISTRATION_START, now.to_string()));
    }
    if !view.failure_recorded {
        let message = if message.is_empty() {
            "the runner is running a job".to_owned()
        } else {
            message
        };
        marks.push((keys::ANNOTATION_UNREGISTRATION_FAILURE, message));
    }
    if await_completion {
        marks.push((keys::ANNOTATION_RUNNER_COMPLETION_WAIT_START, now.to_string()));
    }
    if !marks.is_empty() {
        tracing::info!(controller = COMPONENT, object = %super::key(pod), "The runner is busy and is left to finish.");
        mark(context, pod, marks).await?;
    }
    // An ephemeral runner ends by itself and its pod's change wakes us; the wait is the safety net.
    Ok(Stop::Wait(retry.map_or(context.settings.sync_period, positive)))
}

const fn label(why: Safe) -> &'static str {
    match why {
        Safe::AlreadyComplete => "already_complete",
        Safe::Stopped => "stopped",
        Safe::NeverStarted => "never_started",
        Safe::NeverRegistered => "never_registered",
        Safe::Removed => "removed",
        Safe::Gone => "gone",
        Safe::Restarted => "restarted",
        Safe::Abandoned => "abandoned",
    }
}

fn positive(delay: SignedDuration) -> Duration {
    Duration::try_from(delay)
        .unwrap_or_default()
        .max(Duration::from_secs(1))
}

/// The client and the scope of a pod, from what stands in the pod (spec 01 §10.4).
pub(super) async fn access(context: &Context, pod: &Pod, now: Timestamp) -> Result<(GitHub, Scope), Error> {
    let value = |name| env(pod, name);
    let scope = Scope::from_fields(
        value(keys::ENV_RUNNER_REPO).as_deref(),
        value(keys::ENV_RUNNER_ORG).as_deref(),
        value(keys::ENV_RUNNER_ENTERPRISE).as_deref(),
    )
    .map_err(|error| Error::Invalid {
        message: format!("environment of container runner: {error}"),
    })?;
    let secret = pod
        .annotations()
        .get(keys::ANNOTATION_GITHUB_API_CREDS_SECRET)
        .map(String::as_str);
    let github = context
        .clients
        .for_secret(&pod.namespace().unwrap_or_default(), secret, now)
        .await?;
    Ok((github, scope))
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| is_ours(finalizer))
}

fn is_ours(finalizer: &str) -> bool {
    finalizer == keys::FINALIZER_RUNNER_POD || finalizer == keys::FINALIZER_LINKED_RESOURCES
}

async fn set_finalizer(context: &Context, pod: &Pod, present: bool) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let mut finalizers = pod.finalizers().to_vec();
    finalizers.retain(|finalizer| !is_ours(finalizer));
    if present {
        finalizers.extend(muster_core::pods::linked::finalizers(pod));
    }
    let patch = json!({"metadata": {"resourceVersion": pod.resource_version(), "finalizers": finalizers}});
    match api
        .patch_metadata(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::apply("change the pod's finalizer")(error)),
    }
}

pub(super) async fn mark(
    context: &Context,
    pod: &Pod,
    annotations: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<(), Error> {
    let annotations: Map<String, Value> = annotations
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect();
    // Only this very pod: another one by its name has another runner.
    let patch = json!({"metadata": {"uid": pod.uid(), "annotations": annotations}});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    match api
        .patch_metadata(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::apply("annotate the pod")(error)),
    }
}
