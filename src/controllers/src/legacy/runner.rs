//! Runner: one pod of the same name, with a registration token, and a mirror of its phase (spec 02 §10).
//! gather → check → plan → apply → report

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use muster_core::{
    pods::{
        PodView,
        template::{self, Registration, runner_pod},
    },
    scope::Scope,
};
use muster_crds::{keys, legacy::Runner};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::{
    conditions,
    context::Context,
    error::{Error, already_exists, is_not_found},
    events::Severity,
    owner::ControllerOwner,
    pod_owner,
};

const COMPONENT: &str = "runner-controller";
/// A phase that most pods leave within this time is not worth a write.
const SETTLING: SignedDuration = SignedDuration::from_secs(2);

pub(super) async fn reconcile(runner: Arc<Runner>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = runner.namespace().unwrap_or_default();
    let name = runner.name_any();
    let api: Api<Runner> = Api::namespaced(context.client.clone(), &namespace);
    if runner.metadata.deletion_timestamp.is_some() {
        // The finalizer protects nothing: the pod's own does (spec 02 Q34). It is removed for objects that carry it.
        set_finalizer(&api, &runner, false).await?;
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    let pod = context
        .caches
        .pods
        .get(&namespace, &name)
        .filter(|pod| super::owner_set::is_pod_of(pod, &runner.uid().unwrap_or_default()));
    let Some(pod) = pod else {
        if context.settings.draining {
            return Ok(Action::await_change());
        }
        return create(&context, &api, &runner, now).await;
    };
    if !runner
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == keys::FINALIZER_RUNNER)
    {
        set_finalizer(&api, &runner, true).await?;
    }
    if context.settings.draining && runner.controller_owner().is_none() {
        end_lone_pod(&context, &pod, &runner, now).await?;
    }
    mirror(&context, &api, &runner, &pod, now).await
}

async fn set_finalizer(api: &Api<Runner>, runner: &Runner, present: bool) -> Result<(), Error> {
    let mut finalizers: Vec<&str> = runner.finalizers().iter().map(String::as_str).collect();
    let had = finalizers.contains(&keys::FINALIZER_RUNNER);
    if had == present {
        return Ok(());
    }
    finalizers.retain(|finalizer| *finalizer != keys::FINALIZER_RUNNER);
    if present {
        finalizers.push(keys::FINALIZER_RUNNER);
    }
    // The resource version keeps finalizers that others added meanwhile.
    let patch = json!({"metadata": {"resourceVersion": runner.resource_version(), "finalizers": finalizers}});
    match api
        .patch_metadata(&runner.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::apply("change the Runner's finalizer")(error)),
    }
}

/// Draining: no set decides about the pod of a Runner that a user wrote. It goes as all do, off GitHub first.
async fn end_lone_pod(context: &Context, pod: &Pod, runner: &Runner, now: Timestamp) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &runner.namespace().unwrap_or_default());
    let view = context.view(pod);
    if view.deletion_at.is_some() {
        return Ok(());
    }
    if view.unregistration_complete {
        return pod_owner::delete(&pods, &view.name, &view.uid).await;
    }
    if view.unregistration_requested {
        return Ok(());
    }
    let requested = keys::ANNOTATION_UNREGISTRATION_REQUEST;
    pod_owner::annotate(&pods, &view.name, requested, &now.to_string()).await
}

async fn create(
    context: &Context,
    api: &Api<Runner>,
    runner: &Runner,
    now: Timestamp,
) -> Result<Action, Error> {
    let namespace = runner.namespace().unwrap_or_default();
    let name = runner.name_any();
    let uid = runner.uid().unwrap_or_default();
    if context.memory.pod_was_created(&uid) || has_phase(runner) || !is_fresh(runner, now) {
        // It had a pod, or may have had one before this process came up. The two watches are not ordered: ask whether the Runner still wants one.
        match api.get(&name).await {
            Ok(live) if live.uid() == runner.uid() && live.metadata.deletion_timestamp.is_none() => {}
            Ok(_) => return Ok(Action::await_change()),
            Err(error) if is_not_found(&error) => return Ok(Action::await_change()),
            Err(error) => return Err(Error::gather("the Runner")(error)),
        }
    }
    let config = &runner.spec.config;
    let scope = Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    )
    .map_err(|error| Error::Invalid {
        message: format!("spec: {error}"),
    })?;
    let github = context
        .clients
        .for_spec(&namespace, config.github_api_credentials_from.as_ref(), now)
        .await?;
    let token = github.registration_token(&scope).await.map_err(Error::github(
        format!("get a registration token for {scope}"),
        now,
    ))?;
    let registration = Registration {
        github_url: github.runner_base_url(),
        token: token.token.expose_secret(),
    };
    let pod = runner_pod(runner, &context.settings.pods, &registration).map_err(|error| Error::Invalid {
        message: error.to_string(),
    })?;
    super::runner_rbac::ensure(context, runner).await?;

    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let params = PostParams {
        field_manager: Some(keys::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match pods.create(&params, &pod).await {
        Ok(_) => {
            context.memory.note_pod_created(&uid);
            context.metrics.pod_created();
            tracing::info!(controller = COMPONENT, object = %super::key(runner), "Created a runner pod.");
            let note = format!("Created pod '{name}'");
            context
                .recorder
                .record(runner, COMPONENT, Severity::Normal, "PodCreated", &note);
            for notice in template::notices(runner) {
                context.recorder.record(
                    runner,
                    COMPONENT,
                    Severity::Warning,
                    notice.reason,
                    &notice.message,
                );
            }
        }
        Err(error) if already_exists(&error) => context.memory.note_pod_created(&uid),
        Err(error) => return Err(Error::apply(format!("create pod {name}"))(error)),
    }
    conditions::report(&context.client, runner, &conditions::Verdict::HEALTHY, now).await;
    Ok(Action::requeue(context.resync(&uid)))
}

fn has_phase(runner: &Runner) -> bool {
    runner
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| !phase.is_empty())
}

/// Created a moment ago, so that nobody can have given it a pod and taken it away since.
fn is_fresh(runner: &Runner, now: Timestamp) -> bool {
    runner
        .creation_timestamp()
        .is_some_and(|created| now.duration_since(created.0) < SignedDuration::from_secs(5))
}

/// Phase and readiness of the pod, once per transition that a user can see (spec 02 §10.5).
async fn mirror(
    context: &Context,
    api: &Api<Runner>,
    runner: &Runner,
    pod: &Pod,
    now: Timestamp,
) -> Result<Action, Error> {
    let resync = Action::requeue(context.resync(&runner.uid().unwrap_or_default()));
    let view = PodView::of(pod);
    let status = pod.status.clone().unwrap_or_default();
    let phase = status
        .phase
        .filter(|phase| !phase.is_empty())
        .unwrap_or_else(|| "Created".to_owned());
    let ready = view.ready_since.is_some();
    let old = runner.status.clone().unwrap_or_default();
    let unchanged = old.phase.as_deref() == Some(phase.as_str()) && old.ready.unwrap_or(false) == ready;
    // With the hook, the runner in the pod owns the phase after the first write, until its container has ended and can say nothing more (spec 02 Q33).
    let owned_by_hook = context.settings.pods.status_update_hook && has_phase(runner) && !view.is_stopped();
    let unchanged = unchanged || (owned_by_hook && old.ready.unwrap_or(false) == ready);
    // Its set deletes a stopped Runner at once: nobody would see the write.
    let goes_now = view.is_stopped() && runner.controller_owner().is_some();
    if unchanged || goes_now || view.deletion_at.is_some() {
        return Ok(resync);
    }
    let age = view
        .created_at
        .map_or(SETTLING, |created| now.duration_since(created));
    if !ready && !view.is_stopped() && age < SETTLING {
        let wait = Duration::try_from(SETTLING - age).unwrap_or(Duration::from_secs(2));
        return Ok(Action::requeue(wait));
    }
    let patch = if owned_by_hook {
        json!({"status": {"ready": ready}})
    } else {
        json!({"status": {"phase": phase, "ready": ready, "reason": status.reason.unwrap_or_default(), "message": status.message.unwrap_or_default()}})
    };
    match api
        .patch_status(&runner.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(resync),
        Err(error) if is_not_found(&error) => Ok(Action::await_change()),
        Err(error) => Err(Error::apply("write the Runner's phase")(error)),
    }
}
