//! Runner pods: registration tracking and graceful stop (spec 02 §12).
//! gather → plan (`core::pods::unregister`) → apply → report
//!
//! The runner is off GitHub before its pod goes, and a busy one is never deleted: the finalizer holds the pod until GitHub has removed the runner or its container has ended.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    pods::{
        PodOwner, PodView,
        phase::{env, is_runner_pod},
        unregister::{self, Answer, Next, Safe},
    },
    scope::Scope,
};
use muster_crds::keys;
use muster_github::{GitHub, Lane, Removal};
use muster_runtime::drive::Cache;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{leftovers::Leftover, unclear};
use crate::{
    context::Context,
    ends::pool_of,
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
    let mut view = context.view(&pod);
    if view.deletion_at.is_some() {
        // Its agent was told to stop, and may not have reached GitHub.
        let told = view.is_stopped() && view.reported && !context.ends.ended_by_itself(&view.uid);
        view.unregistration_unclear |= told;
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
        return match stop(context, pod, view, now).await? {
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

/// Without its Runner, or StatefulSet, gone the pod would be made again, with a name and a token that were used.
async fn delete_parent(context: &Context, pod: &Pod, namespace: &str) -> Result<(), Error> {
    async fn delete_from<K>(
        context: &Context,
        cache: &Cache<K>,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<(), Error>
    where
        K: PodOwner + DeserializeOwned + std::fmt::Debug,
    {
        let Some(known) = cache.get(namespace, &owner.name) else {
            return Ok(());
        };
        // A drain makes no pods, and leaves what users wrote.
        if context.settings.draining && known.controller_owner().is_none() {
            return Ok(());
        }
        if known.meta().deletion_timestamp.is_some() || known.uid().as_deref() != Some(owner.uid.as_str()) {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
        delete(&api, &owner.name, &owner.uid).await
    }
    let Some(owner) = pod.controller_owner() else {
        return Ok(());
    };
    match owner.kind.as_str() {
        "Runner" => delete_from(context, &context.caches.runners, namespace, &owner).await,
        "StatefulSet" => delete_from(context, &context.caches.stateful_sets, namespace, &owner).await,
        _ => Ok(()),
    }
}

/// Outcome of one tick of the graceful stop.
enum Stop {
    Safe,
    Wait(Duration),
}

async fn stop(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Result<Stop, Error> {
    let mut next = unregister::begin(view, now);
    let mut trouble: Option<Error> = None;
    loop {
        next = match next {
            Next::Safe(Safe::Abandoned) => {
                give_up(context, pod, view, trouble.as_ref(), now);
                return finish(context, pod, view, Safe::Abandoned, now).await;
            }
            Next::Safe(why) => return finish(context, pod, view, why, now).await,
            Next::Wait(delay) => {
                if let Some(error) = &trouble {
                    unclear::report(context, pod, view, error, now).await;
                }
                return Ok(Stop::Wait(positive(delay)));
            }
            Next::LookUp => match look_up(context, pod, view, now).await {
                Ok(found) => unregister::after_look_up(view, found, now),
                Err(error) => unregister::after_no_answer(view, ask_again(trouble.insert(error), now), now),
            },
            Next::Remove { id } => {
                let (answer, message) = match remove(context, pod, id, now).await {
                    Ok(clear) => clear,
                    Err(error) => {
                        let until = ask_again(trouble.insert(error), now);
                        (Answer::Unknown { until }, String::new())
                    }
                };
                let next = unregister::after_removal(view, answer, now);
                if let Next::Busy {
                    await_completion,
                    retry,
                } = next
                {
                    unclear::clear(context, pod, view, now).await;
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

/// When GitHub said that it takes calls again.
fn ask_again(error: &Error, now: Timestamp) -> Option<Timestamp> {
    match error {
        Error::GitHub {
            retry: Some(retry), ..
        } => SignedDuration::try_from(*retry)
            .ok()
            .and_then(|retry| now.checked_add(retry).ok()),
        _ => None,
    }
}

/// A pod is released although nobody said that its runner is off GitHub: people are told, and it is tried again without the pod.
fn give_up(context: &Context, pod: &Pod, view: &PodView, trouble: Option<&Error>, now: Timestamp) {
    let reason = trouble.map_or("GitHubUnavailable", Error::reason);
    let chain = trouble
        .map(|error| muster_runtime::telemetry::chain(error))
        .unwrap_or_default();
    let note = format!(
        "Runner {} may still be listed by GitHub: {chain}",
        view.runner_name
    );
    context
        .recorder
        .record(pod, COMPONENT, Severity::Warning, "UnregistrationSkipped", &note);
    tracing::warn!(controller = COMPONENT, object = %super::key(pod), reason, error = %chain, "Released a pod without knowing that its runner is off GitHub.");
    let Ok(scope) = scope_of(pod) else { return };
    let count = context.leftovers.add(Leftover {
        namespace: pod.namespace().unwrap_or_default(),
        runner: view.runner_name.clone(),
        id: view.runner_id,
        scope,
        secret: secret_of(pod).map(str::to_owned),
        pool: pool_of(pod),
        ephemeral: view.ephemeral,
        reason,
        since: now,
    });
    context.metrics.leftovers(count);
}

/// GitHub's id of a runner by its name: from the cached listing, and where that lacks it asked for by name, since "not there" may be a minute old.
async fn look_up(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Result<Option<u64>, Error> {
    let (github, scope) = access_for_removal(context, pod, now).await?;
    // A pod cannot go before this is known: as urgent as the removal itself.
    let github = github.in_lane(Lane::Critical);
    let failed = || Error::github(format!("list the runners of {scope}"), now);
    let cached = github.list_runners(&scope).await.map_err(failed())?;
    let known = cached.iter().find(|runner| runner.name == view.runner_name);
    if let Some(runner) = known {
        return Ok(Some(runner.id));
    }
    let found = github.find_runner(&scope, &view.runner_name).await;
    Ok(found.map_err(failed())?.map(|runner| runner.id))
}

/// Asks GitHub to remove a runner; an error is no clear answer.
async fn remove(context: &Context, pod: &Pod, id: u64, now: Timestamp) -> Result<(Answer, String), Error> {
    let (github, scope) = access_for_removal(context, pod, now).await?;
    let removal = github.remove_runner(&scope, id).await;
    let failed = Error::github(format!("remove runner {id} of {scope}"), now);
    Ok(match removal.map_err(failed)? {
        Removal::Removed => (Answer::Removed, String::new()),
        Removal::Gone => (Answer::Gone, String::new()),
        Removal::Busy { message } => (Answer::Busy, message),
    })
}

/// Marks the pod as unregistered, unless it is being deleted anyway: then only the finalizer matters. What is true of this moment only is acted upon at once.
async fn finish(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    why: Safe,
    now: Timestamp,
) -> Result<Stop, Error> {
    if view.deletion_at.is_none() && !why.lasts() {
        return delete_as_seen(context, pod, why).await;
    }
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

/// Deletes a pod whose runner cannot have a job, unless it has changed since it was looked at: it may have started.
async fn delete_as_seen(context: &Context, pod: &Pod, why: Safe) -> Result<Stop, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: pod.uid(),
            resource_version: pod.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(&pod.name_any(), &params).await {
        Ok(_) => {
            tracing::info!(controller = COMPONENT, object = %super::key(pod), reason = label(why), "Deleted a pod whose runner has never worked.");
            Ok(Stop::Safe)
        }
        Err(error) if is_not_found(&error) => Ok(Stop::Safe),
        // Its change is on its way to the cache.
        Err(error) if is_conflict(&error) => Ok(Stop::Wait(Duration::from_secs(1))),
        Err(error) => Err(Error::apply("delete the pod")(error)),
    }
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
    let scope = scope_of(pod)?;
    let github = context
        .clients
        .for_secret(&pod.namespace().unwrap_or_default(), secret_of(pod), now)
        .await?;
    Ok((github, scope))
}

/// The same for a removal, which the last known login may still do.
async fn access_for_removal(context: &Context, pod: &Pod, now: Timestamp) -> Result<(GitHub, Scope), Error> {
    let scope = scope_of(pod)?;
    let github = context
        .clients
        .for_removal(&pod.namespace().unwrap_or_default(), secret_of(pod), now)
        .await?;
    Ok((github, scope))
}

fn scope_of(pod: &Pod) -> Result<Scope, Error> {
    let value = |name| env(pod, name);
    Scope::from_fields(
        value(keys::ENV_RUNNER_REPO).as_deref(),
        value(keys::ENV_RUNNER_ORG).as_deref(),
        value(keys::ENV_RUNNER_ENTERPRISE).as_deref(),
    )
    .map_err(|error| Error::Invalid {
        message: format!("environment of container runner: {error}"),
    })
}

fn secret_of(pod: &Pod) -> Option<&str> {
    pod.annotations()
        .get(keys::ANNOTATION_GITHUB_API_CREDS_SECRET)
        .map(String::as_str)
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
