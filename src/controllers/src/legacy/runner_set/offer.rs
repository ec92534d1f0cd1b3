//! Promises free volumes to the claims of new StatefulSets, as `core::volumes::allocate` decides. Every write to a volume carries the resource version
//! of the decision.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use muster_core::{
    pods::{
        OwnerView,
        stateful_set::{claim_name, claim_templates, first_ordinal, new_name},
    },
    volumes::{
        ClaimWant, Holder, VolumeView,
        allocate::{Allocation, Freeing, Input, allocate},
        node::PodWant,
    },
};
use muster_crds::{keys, legacy::RunnerSet};
use serde_json::{Value, json};
use uuid::Uuid;

use super::storage;
use crate::{
    context::Context,
    error::{Error, is_conflict, is_not_found},
};

/// Name of the controller of volumes.
pub(super) const COMPONENT: &str = "runnerpersistentvolume-controller";
/// The value of `whenDeleted` that leaves claims to the StatefulSet controller.
const DELETE: &str = "Delete";

/// Names of StatefulSets whose volumes are promised to them.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) names: Vec<String>,
    /// When those that wait for a volume have waited long enough.
    pub(super) retry_at: Option<Timestamp>,
}

/// Chooses names for `count` new StatefulSets and promises free volumes to their claims. Fewer names come back where a volume is about to be free.
///
/// # Errors
/// When the API server refuses a promise for another reason than that the volume has changed.
pub(super) async fn reserve(
    context: &Context,
    set: &RunnerSet,
    owners: &[OwnerView],
    count: usize,
    now: Timestamp,
) -> Result<Reserved, Error> {
    let templates: Vec<ClaimWant> = claim_templates(set)
        .map(|(name, claim)| ClaimWant::of(name, claim))
        .collect();
    if templates.is_empty() || !keeps(set) {
        let names = (0..count).map(|_| random_name(set)).collect();
        return Ok(Reserved {
            names,
            retry_at: None,
        });
    }
    let mut free = free(context, set, owners);
    let freeing = freeing(context, set, owners, now);
    let pod = set
        .spec
        .template
        .spec
        .as_ref()
        .map(PodWant::of)
        .unwrap_or_default();
    let nodes = if free.iter().any(|volume| volume.affinity.is_some()) {
        storage::nodes(context, now).await
    } else {
        None
    };
    let mut reserved = Reserved::default();
    let mut left = count;
    // A promise that comes too late is made of another volume.
    'again: loop {
        let offer = free.clone();
        let Allocation {
            bundles, retry_at, ..
        } = allocate(&Input {
            count: left,
            templates: &templates,
            free: &offer,
            freeing: &freeing,
            pod: &pod,
            nodes: nodes.as_deref(),
            patience: context.settings.volumes.patience,
            now,
        });
        reserved.retry_at = retry_at;
        for bundle in bundles {
            let name = random_name(set);
            for (template, volume) in bundle {
                free.retain(|other| other.name != volume.name);
                if !promise(context, set, template, &name, volume).await? {
                    continue 'again;
                }
            }
            reserved.names.push(name);
            left -= 1;
        }
        return Ok(reserved);
    }
}

fn random_name(set: &RunnerSet) -> String {
    new_name(&set.name_any(), Uuid::new_v4().as_u128())
}

/// Volumes of StatefulSets are kept, unless their claims go with them.
pub(super) fn keeps(set: &RunnerSet) -> bool {
    set.spec
        .persistent_volume_claim_retention_policy
        .as_ref()
        .is_none_or(|policy| policy.when_deleted.as_deref() != Some(DELETE))
}

/// The kept volumes of a RunnerSet, in use or not.
pub(super) fn kept(context: &Context, namespace: &str, set: &str) -> Vec<Arc<PersistentVolume>> {
    let mut volumes = context.caches.volumes.all();
    volumes.retain(|volume| keeper(volume).is_some_and(|keeper| keeper == (namespace, set)));
    volumes
}

/// Namespace and name of the RunnerSet that keeps a volume.
pub(super) fn keeper(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let labels = volume.metadata.labels.as_ref()?;
    let namespace = labels.get(keys::LABEL_RUNNERSET_NAMESPACE)?;
    Some((namespace, labels.get(keys::LABEL_RUNNERSET_NAME)?))
}

/// Names of claims that volumes may be promised to or bound by: those that exist, and those of StatefulSets that exist.
pub(super) fn living_claims<'a>(
    context: &Context,
    namespace: &str,
    set: Option<&RunnerSet>,
    owners: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<String> {
    let claims = context.caches.claims.in_namespace(namespace);
    let mut names: BTreeSet<String> = claims.iter().map(|claim| claim.name_any()).collect();
    if let Some(set) = set {
        for owner in owners {
            names.extend(
                claim_templates(set).map(|(template, _)| claim_name(template, owner, first_ordinal(set))),
            );
        }
    }
    names
}

fn free(context: &Context, set: &RunnerSet, owners: &[OwnerView]) -> Vec<VolumeView> {
    let namespace = set.namespace().unwrap_or_default();
    let owners = owners.iter().map(|owner| owner.name.as_str());
    let claims = living_claims(context, &namespace, Some(set), owners);
    kept(context, &namespace, &set.name_any())
        .iter()
        .filter_map(|volume| VolumeView::of(volume))
        .filter(|volume| volume.is_free(&claims))
        .collect()
}

/// Volumes whose runner has ended: bound claims of StatefulSets that go or are gone.
fn freeing(context: &Context, set: &RunnerSet, owners: &[OwnerView], now: Timestamp) -> Vec<Freeing> {
    let namespace = set.namespace().unwrap_or_default();
    let stays = |name: &str| {
        owners.iter().any(|owner| {
            let has_left = owner.unregistration_requested && owner.is_unregistered();
            owner.name == name && !owner.deleting && !has_left && !owner.is_completed(now)
        })
    };
    let mut all = Vec::new();
    for claim in context.caches.claims.in_namespace(&namespace) {
        let of_set = claim.labels().get(keys::LABEL_RUNNERSET_NAME) == Some(&set.name_any());
        let Some((owner, template)) = parts(set, &claim).filter(|_| of_set) else {
            continue;
        };
        if is_bound(&claim) && !stays(&owner) {
            let since = context.storage.since(&claim.uid().unwrap_or_default(), now);
            all.push(Freeing { template, since });
        }
    }
    // Released by Kubernetes' reckoning a moment from now: the claim is gone, the volume does not say so yet.
    let claims = context.caches.claims.in_namespace(&namespace);
    for volume in kept(context, &namespace, &set.name_any()) {
        let Some(view) = VolumeView::of(&volume) else {
            continue;
        };
        let Holder::Bound(claim) = &view.holder else {
            continue;
        };
        let is_there = claims.iter().any(|other| other.name_any() == *claim);
        if !is_there && !view.is_lost {
            let since = context.storage.since(&volume.uid().unwrap_or_default(), now);
            all.push(Freeing {
                template: view.template,
                since,
            });
        }
    }
    all
}

/// StatefulSet and template of a claim.
pub(super) fn parts(set: &RunnerSet, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let name = claim.name_any();
    let start = first_ordinal(set);
    claim_templates(set).find_map(|(template, _)| {
        let owner = name
            .strip_prefix(template)?
            .strip_prefix('-')?
            .strip_suffix(&format!("-{start}"))?;
        (claim_name(template, owner, start) == name).then(|| (owner.to_owned(), template.to_owned()))
    })
}

pub(super) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref())
        .is_some_and(|name| !name.is_empty())
}

/// Promises a volume to the claim of a StatefulSet that is about to be made. False when the volume has changed since the decision.
async fn promise(
    context: &Context,
    set: &RunnerSet,
    template: &str,
    name: &str,
    volume: &VolumeView,
) -> Result<bool, Error> {
    let start = first_ordinal(set);
    let claim = claim_name(template, name, start);
    // The fields of the former claim have to go, else it would still be that one's.
    let reference = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": set.namespace(), "name": claim,
        "uid": null, "resourceVersion": null,
    });
    let patch = json!({"spec": {"claimRef": reference}});
    let promised = write(context, &volume.name, &volume.resource_version, patch).await?;
    if promised {
        tracing::info!(controller = COMPONENT, object = %super::super::key(set), volume = %volume.name, claim = %claim, "Promised a kept volume to the next runner.");
    }
    Ok(promised)
}

/// Changes a volume if it still has this resource version; false when it has not.
pub(super) async fn write(
    context: &Context,
    name: &str,
    resource_version: &str,
    mut patch: Value,
) -> Result<bool, Error> {
    if let Some(metadata) = patch
        .as_object_mut()
        .map(|patch| patch.entry("metadata").or_insert_with(|| json!({})))
    {
        metadata["resourceVersion"] = json!(resource_version);
    }
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(false),
        Err(error) => Err(Error::apply(format!("change PersistentVolume {name}"))(error)),
    }
}
