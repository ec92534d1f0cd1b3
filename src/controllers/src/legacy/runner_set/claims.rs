//! Claims of RunnerSets: their volumes are taken into keeping, and they go after their runner, as `core::volumes::claim` decides (spec 02 §13.2).

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::{Api, ResourceExt, runtime::controller::Action};
use muster_core::{
    pods::stateful_set::{first_ordinal, pod_name},
    volumes::claim::{self, ClaimView},
};
use muster_crds::{keys, legacy::RunnerSet};
use serde_json::json;

use super::offer::{is_bound, keeper, keeps, parts, write};
use crate::{context::Context, error::Error, pod_owner::delete};

const COMPONENT: &str = "runnerpersistentvolumeclaim-controller";
/// A claim's pod or StatefulSet is about to go: their own events wake the claim, this is the safety net.
const RECHECK: Duration = Duration::from_secs(30);

/// One look at a claim of a RunnerSet (spec 02 §13.2).
pub(super) async fn reconcile(
    claim: Arc<PersistentVolumeClaim>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let Some(set_name) = claim.labels().get(keys::LABEL_RUNNERSET_NAME).cloned() else {
        return Ok(Action::await_change());
    };
    let set = context.caches.runner_sets.get(&namespace, &set_name);
    let Some((owner, template, pod)) = place(set.as_deref(), &claim) else {
        return Ok(Action::await_change());
    };
    let caches = &context.caches;
    let cached_owner = caches.stateful_sets.get(&namespace, &owner);
    let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let known = volume_name.as_ref().and_then(|name| caches.volumes.get("", name));
    let mut view = ClaimView {
        is_deleting: claim.metadata.deletion_timestamp.is_some(),
        has_owner: Some(cached_owner.is_some_and(|owner| owner.metadata.deletion_timestamp.is_none())),
        has_pod: caches.pods.get(&namespace, &pod).is_some(),
        is_bound: is_bound(&claim),
        is_kept: known.is_some_and(|volume| keeper(&volume).is_some()),
        keeps: set.is_none_or(|set| keeps(&set)),
    };
    if claim::next(view).keep_volume
        && let Some(volume) = &volume_name
    {
        keep_volume(&context, (&namespace, &set_name), &template, volume).await?;
        view.is_kept = true;
    }
    if claim::next(view).delete {
        // The caches of claims and StatefulSets are not ordered: the StatefulSet may be newer than what we see.
        let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
        let owner = api
            .get_metadata_opt(&owner)
            .await
            .map_err(Error::gather(format!("StatefulSet {owner}")))?;
        view.has_owner = Some(owner.is_some());
    }
    if claim::next(view).delete {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
        delete(&api, &claim.name_any(), &claim.uid().unwrap_or_default()).await?;
        tracing::debug!(controller = COMPONENT, object = %super::super::key(&*claim), "Deleted the claim of a runner that is gone.");
    }
    let wait = match view.has_owner {
        Some(false) => RECHECK,
        _ => context.resync(&claim.uid().unwrap_or_default()),
    };
    Ok(Action::requeue(wait))
}

/// StatefulSet, template and pod of a claim. Without its RunnerSet the label tells (spec 02 §13.1).
fn place(set: Option<&RunnerSet>, claim: &PersistentVolumeClaim) -> Option<(String, String, String)> {
    let name = claim.name_any();
    let label = claim.labels().get(keys::LABEL_RUNNER_STATEFULSET_NAME);
    if let Some(owner) = label {
        let (template, number) = name.split_once(&format!("-{owner}-"))?;
        return Some((
            owner.clone(),
            template.to_owned(),
            pod_name(owner, number.parse().ok()?),
        ));
    }
    let (owner, template) = parts(set?, claim)?;
    let pod = pod_name(&owner, first_ordinal(set?));
    Some((owner, template, pod))
}

/// Labels a volume as its RunnerSet's and keeps it from being deleted with its claim.
async fn keep_volume(
    context: &Context,
    (namespace, set): (&str, &str),
    template: &str,
    name: &str,
) -> Result<(), Error> {
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let Some(volume) = api
        .get_opt(name)
        .await
        .map_err(Error::gather(format!("PersistentVolume {name}")))?
    else {
        return Ok(());
    };
    if keeper(&volume).is_some() {
        return Ok(());
    }
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.clone())
        .unwrap_or_else(|| "Retain".to_owned());
    let patch = json!({
        "metadata": {
            "labels": {
                keys::LABEL_RUNNERSET_NAME: set, keys::LABEL_RUNNERSET_NAMESPACE: namespace, keys::LABEL_CLAIM_TEMPLATE: template,
                // Upstream's mark: its work is ours now.
                keys::LABEL_PENDING_CLEANUP: null,
            },
            "annotations": {keys::ANNOTATION_RECLAIM_POLICY: policy},
        },
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    });
    let version = volume.resource_version().unwrap_or_default();
    if write(context, name, &version, patch).await? {
        tracing::info!(controller = COMPONENT, object = %format_args!("{namespace}/{set}"), volume = name, "Keeps a volume.");
        return Ok(());
    }
    Err(Error::Gather {
        what: format!("PersistentVolume {name}"),
        source: kube::Error::Api(Box::new(
            kube::core::Status::failure("it has changed meanwhile", "Conflict").with_code(409),
        )),
    })
}
