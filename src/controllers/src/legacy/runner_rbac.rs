//! The account, role and binding of a Runner whose pod talks to the API server (spec 02 §10.6): made once before the pod, reused when they are there, gone with the Runner.
//! gather → plan (`core::pods::rbac`) → apply → report

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use muster_core::pods::rbac::{self, Generated};
use muster_crds::{keys, legacy::Runner};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    context::Context,
    error::{Error, already_exists, is_not_found},
    events::Severity,
};

const COMPONENT: &str = "runner-controller";
const REMEDY: &str = "A pod that starts job pods (containerMode \"kubernetes\") or reports its state (--runner-status-update-hook) gets an account of its own. \
Either give the manager the rights in config/rbac/runner_status_update_hook_role.yaml and, for containerMode, in \
config/rbac/allow_granting_kubernetes_container_mode_permissions_role.yaml, or name an account that exists in spec.serviceAccountName";

/// Makes what the Runner's pod needs; nothing where the user names an account or the pod needs no rights.
pub(super) async fn ensure(context: &Context, runner: &Runner) -> Result<(), Error> {
    let Some(generated) = rbac::generated(runner, context.settings.pods.status_update_hook) else {
        return Ok(());
    };
    let Generated {
        service_account,
        role,
        role_binding,
    } = generated;
    ensure_one(context, runner, &service_account).await?;
    ensure_one(context, runner, &role).await?;
    ensure_one(context, runner, &role_binding).await
}

async fn ensure_one<K>(context: &Context, runner: &Runner, wanted: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let api: Api<K> = Api::namespaced(context.client.clone(), &runner.namespace().unwrap_or_default());
    let params = PostParams {
        field_manager: Some(keys::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let record = |done: &str| {
        let (reason, note) = (format!("{kind}{done}"), format!("{done} {kind} '{name}'"));
        context
            .recorder
            .record(runner, COMPONENT, Severity::Normal, &reason, &note);
    };
    let error = match api.create(&params, wanted).await {
        Ok(_) => {
            record("Created");
            return Ok(());
        }
        Err(error) if already_exists(&error) => error,
        Err(error) => return Err(failed("make", &kind, &name)(error)),
    };
    let existing = match api.get(&name).await {
        Ok(existing) => existing,
        // Gone meanwhile: the conflict is tried again in a moment.
        Err(gone) if is_not_found(&gone) => return Err(failed("make", &kind, &name)(error)),
        Err(error) => return Err(failed("read", &kind, &name)(error)),
    };
    if !rbac::is_left_over(existing.meta(), runner) {
        record("Reused");
        return Ok(());
    }
    // The garbage collector would take it away under the new pod.
    let delete = DeleteParams {
        preconditions: Some(Preconditions {
            uid: existing.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &delete).await {
        Ok(_) => Err(failed("make", &kind, &name)(error)),
        Err(gone) if is_not_found(&gone) => Err(failed("make", &kind, &name)(error)),
        Err(error) => Err(failed("replace", &kind, &name)(error)),
    }
}

fn failed(verb: &str, kind: &str, name: &str) -> impl FnOnce(kube::Error) -> Error {
    Error::optional_right(format!("{verb} {kind} {name}"), REMEDY)
}
