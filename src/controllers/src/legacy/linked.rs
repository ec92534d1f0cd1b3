//! What jobs in kubernetes mode leave behind: pods and Secrets labelled with the name of the runner's pod (spec 02 §12.1 step 2, Q35).
//! gather → plan (`core::pods::linked`) → apply → report
//!
//! Lists and deletes are live calls: pods of jobs are not runner pods, so no cache has them, and Secrets are kept in no cache at all.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, Secret},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use muster_core::pods::{
    PodView,
    linked::{self, Next},
};
use muster_crds::keys;
use muster_runtime::{drive::Class, telemetry::chain};
use serde::de::DeserializeOwned;

use crate::{
    context::Context,
    error::{is_conflict, is_not_found, kube_class},
    events::Severity,
};

const COMPONENT: &str = "runnerpod-controller";
/// A label's value is no longer than this; nothing can be labelled with a longer name.
const LABEL_LIMIT: usize = 63;
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// Since when the resources of which pod (by UID) could not be deleted. A restart begins anew, which only makes the wait longer once.
#[derive(Debug, Default)]
pub(crate) struct FirstFailures(Mutex<HashMap<String, Timestamp>>);

impl FirstFailures {
    fn note(&self, uid: &str, now: Timestamp) -> Timestamp {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, since| now.duration_since(*since) < REMEMBERED);
        *known.entry(uid.to_owned()).or_insert(now)
    }

    fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Whether a live runner pod carries the finalizers that it needs.
pub(super) fn has_finalizers(pod: &Pod) -> bool {
    linked::finalizers(pod)
        .iter()
        .all(|finalizer| pod.finalizers().contains(finalizer))
}

/// Deletes the pods and Secrets of the jobs of a runner that has stopped or is off GitHub. `Some` is the time after which to try again.
pub(super) async fn clean(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Option<Duration> {
    let is_held = pod
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == keys::FINALIZER_LINKED_RESOURCES);
    if !is_held || view.name.len() > LABEL_LIMIT {
        return None;
    }
    let namespace = pod.namespace().unwrap_or_default();
    let (pods, secrets) = futures::join!(
        delete_all::<Pod>(Api::namespaced(context.client.clone(), &namespace), view),
        delete_all::<Secret>(Api::namespaced(context.client.clone(), &namespace), view),
    );
    let failures: Vec<(&str, kube::Error)> = [("pods", pods.err()), ("Secrets", secrets.err())]
        .into_iter()
        .filter_map(|(what, error)| error.map(|error| (what, error)))
        .collect();
    let Some((what, error)) = failures.first() else {
        context.linked_failures.forget(&view.uid);
        return None;
    };
    let is_denied = failures
        .iter()
        .all(|(_, error)| kube_class(error) == Class::Forbidden);
    let since = context.linked_failures.note(&view.uid, now);
    let next = linked::after_failure(since, is_denied, now);
    let (reason, ending) = match next {
        Next::Retry(_) => ("LinkedResourcesNotDeleted", "Muster tries again for a while."),
        Next::GiveUp => ("LinkedResourcesLeft", "They are left, and the runner's pod goes."),
    };
    let remedy = if is_denied {
        " The right to delete them is in config/rbac/allow_granting_kubernetes_container_mode_permissions_role.yaml."
    } else {
        ""
    };
    let cause = chain(error);
    let note = format!(
        "The {what} of jobs (label {}={}) could not be deleted: {cause}. {ending}{remedy}",
        keys::LABEL_RUNNER_POD,
        view.name
    );
    context
        .recorder
        .record(pod, COMPONENT, Severity::Warning, reason, &note);
    tracing::warn!(controller = COMPONENT, object = %super::key(pod), reason, error = %cause, "Could not delete what jobs left.");
    match next {
        Next::Retry(delay) => Some(Duration::try_from(delay).unwrap_or_default()),
        Next::GiveUp => {
            context.linked_failures.forget(&view.uid);
            None
        }
    }
}

/// Deletes every object of a kind that is labelled with this pod's name; the first failure ends it.
async fn delete_all<K>(api: Api<K>, view: &PodView) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let labelled = ListParams::default().labels(&format!("{}={}", keys::LABEL_RUNNER_POD, view.name));
    // Names are enough, and the contents of Secrets are nobody's business.
    for object in api.list_metadata(&labelled).await?.items {
        if !linked::is_removable(&object.metadata, &view.uid) {
            continue;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&object.name_any(), &params).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
