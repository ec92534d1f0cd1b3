//! Kept volumes: which are not kept any longer, and how they go, as `core::volumes::keep` decides.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::controller::Action,
};
use muster_core::volumes::{
    Holder, VolumeView,
    keep::{self, Fate, Limits},
};
use muster_crds::{keys, legacy::RunnerSet};
use serde_json::json;

use super::{
    super::Queues,
    offer::{COMPONENT, keeper, keeps, kept, living_claims, write},
};
use crate::{
    context::Context,
    error::{Error, is_conflict, is_not_found},
    events::Severity,
};

/// A promise that nobody may have seen yet is looked at again after this time.
const RECHECK: Duration = Duration::from_secs(30);
/// A UID that no claim has: a volume with it is released.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// One look at a kept volume: whether it is kept any longer.
pub(super) async fn reconcile(
    volume: Arc<PersistentVolume>,
    context: Arc<Context>,
    queues: Arc<Queues>,
) -> Result<Action, Error> {
    let uid = volume.uid().unwrap_or_default();
    let (Some((namespace, name)), Some(view)) = (keeper(&volume), VolumeView::of(&volume)) else {
        return Ok(Action::await_change());
    };
    let now = context.clock.now();
    let set = context.caches.runner_sets.get(namespace, name);
    let limits = limits(&context, set.as_deref());
    let is_orphan = !set.as_deref().is_some_and(keeps);
    let owners = context.caches.stateful_sets.in_namespace(namespace);
    let owners: Vec<String> = owners.iter().map(|owner| owner.name_any()).collect();
    let claims = living_claims(
        &context,
        namespace,
        set.as_deref(),
        owners.iter().map(String::as_str),
    );
    let all: Vec<VolumeView> = kept(&context, namespace, name)
        .iter()
        .filter_map(|volume| VolumeView::of(volume))
        .collect();
    if !view.is_free(&claims) {
        context.storage.forget(&when_free(&view.name));
    }
    if !is_orphan {
        context.storage.forget(&when_orphan(&view.name));
    }
    let since = |volume: &VolumeView| {
        let seen = || context.storage.since(&when_free(&volume.name), now);
        let free = volume.since.unwrap_or_else(seen);
        // However long it was free before: a RunnerSet that is made again finds it.
        if is_orphan {
            free.max(context.storage.since(&when_orphan(&volume.name), now))
        } else {
            free
        }
    };
    match keep::fate(&view, &all, &claims, limits, since, now) {
        Fate::Busy => return Ok(Action::requeue(context.resync(&uid))),
        Fate::Kept { until } => {
            // This one may have taken the place of others, whose own last look found them kept.
            for name in keep::displaced(&view, &all, &claims, limits, since) {
                queues.volumes.add("", name);
            }
            let wait = super::super::until(Some(until), now).unwrap_or_default();
            return Ok(Action::requeue(wait.min(context.resync(&uid))));
        }
        // A promise was made a moment ago, and its StatefulSet is not in the cache yet.
        Fate::HandBack | Fate::Forget if is_promised(&view) && !is_settled(&view, now) => {
            return Ok(Action::requeue(RECHECK));
        }
        Fate::HandBack => hand_back(&context, &volume, &view).await?,
        Fate::Forget => forget(&context, &view, &uid).await?,
    }
    if let Some(set) = &set {
        let note = format!("Volume {} is not kept any longer", view.name);
        context
            .recorder
            .record(&**set, COMPONENT, Severity::Normal, "VolumeDiscarded", &note);
    }
    tracing::info!(controller = COMPONENT, object = %format_args!("{namespace}/{name}"), volume = %view.name, reclaim = ?view.reclaim, "A volume is not kept any longer.");
    Ok(Action::requeue(RECHECK))
}

/// What a RunnerSet keeps; one that is gone, or keeps no volumes, leaves them for a moment.
pub(super) fn limits(context: &Context, set: Option<&RunnerSet>) -> Limits {
    set.filter(|set| keeps(set)).map_or(
        Limits {
            count: usize::MAX,
            age: keep::ORPHANED,
        },
        |set| context.settings.volumes.limits(set),
    )
}

/// Under what it is remembered since when nobody keeps a volume.
pub(super) fn when_orphan(volume: &str) -> String {
    format!("orphan/{volume}")
}

/// Under what it is remembered since when a volume is free, on clusters that do not say (before Kubernetes 1.28).
pub(super) fn when_free(volume: &str) -> String {
    format!("free/{volume}")
}

const fn is_promised(view: &VolumeView) -> bool {
    matches!(view.holder, Holder::Promised(_))
}

/// Long enough in this phase for every cache to know.
fn is_settled(view: &VolumeView, now: Timestamp) -> bool {
    view.since
        .is_some_and(|since| now.duration_since(since) > SignedDuration::from_mins(1))
}

/// The policy from before counts again: Kubernetes, or the driver, deletes the volume with its storage.
async fn hand_back(context: &Context, volume: &PersistentVolume, view: &VolumeView) -> Result<(), Error> {
    let policy = volume
        .annotations()
        .get(keys::ANNOTATION_RECLAIM_POLICY)
        .map_or("Delete", String::as_str);
    let spec = if is_promised(view) {
        // Only a volume whose claim is gone is reclaimed.
        json!({"persistentVolumeReclaimPolicy": policy, "claimRef": {"uid": NOBODY}})
    } else {
        json!({"persistentVolumeReclaimPolicy": policy})
    };
    let patch = json!({
        "metadata": {
            "labels": {keys::LABEL_RUNNERSET_NAME: null, keys::LABEL_RUNNERSET_NAMESPACE: null, keys::LABEL_CLAIM_TEMPLATE: null},
            "annotations": {keys::ANNOTATION_RECLAIM_POLICY: null},
        },
        "spec": spec,
    });
    write(context, &view.name, &view.resource_version, patch)
        .await
        .map(drop)
}

/// Deletes the object; its policy is to keep the storage.
async fn forget(context: &Context, view: &VolumeView, uid: &str) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: Some(view.resource_version.clone()),
        }),
        ..DeleteParams::default()
    };
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    match api.delete(&view.name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(Error::apply(format!("delete PersistentVolume {}", view.name))(
            error,
        )),
    }
}
