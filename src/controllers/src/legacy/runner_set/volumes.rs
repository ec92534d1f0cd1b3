//! Carries out what `core::volumes` decides: promises free volumes to the claims of new StatefulSets, takes volumes into keeping, deletes claims
//! whose runner is gone, and hands back what is not kept any longer. Every write to a volume carries the resource version of the decision.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::controller::Action,
};
use muster_core::{
    pods::{
        OwnerView,
        stateful_set::{claim_name, claim_templates, new_name, ordinal, pod_name},
    },
    volumes::{
        ClaimWant, VolumeView,
        allocate::{Allocation, Freeing, Input, allocate},
        claim::{self, ClaimView},
        keep::{self, Fate, Limits},
        node::PodWant,
    },
};
use muster_crds::{keys, legacy::RunnerSet};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{claims_of, storage};
use crate::{
    context::Context,
    error::{Error, is_conflict, is_not_found},
    events::Severity,
    pod_owner::delete,
};

const COMPONENT: &str = "runnerpersistentvolume-controller";
/// The value of `whenDeleted` that leaves claims to the StatefulSet controller.
const DELETE: &str = "Delete";
/// A claim's pod or StatefulSet is about to go: their own events wake the claim, this is the safety net.
const RECHECK: Duration = Duration::from_secs(30);
/// A UID that no claim has: a volume with it is released.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

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
    let nodes = match free.iter().any(|volume| volume.affinity.is_some()) {
        true => storage::nodes(context, now).await,
        false => None,
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
fn keeps(set: &RunnerSet) -> bool {
    set.spec
        .persistent_volume_claim_retention_policy
        .as_ref()
        .is_none_or(|policy| policy.when_deleted.as_deref() != Some(DELETE))
}

/// The kept volumes of a RunnerSet, in use or not.
fn kept(context: &Context, namespace: &str, set: &str) -> Vec<Arc<PersistentVolume>> {
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
fn living_claims<'a>(
    context: &Context,
    namespace: &str,
    set: Option<&RunnerSet>,
    owners: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<String> {
    let claims = context.caches.claims.in_namespace(namespace);
    let mut names: BTreeSet<String> = claims.iter().map(|claim| claim.name_any()).collect();
    if let Some(set) = set {
        let number = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
        let owners = owners.into_iter().map(|name| (name, number.unwrap_or(0)));
        names.extend(claims_of(set, owners));
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
            owner.name == name
                && !owner.deleting
                && !(owner.unregistration_requested && owner.is_unregistered())
                && !owner.is_completed(now)
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
        let muster_core::volumes::Holder::Bound(claim) = &view.holder else {
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
fn parts(set: &RunnerSet, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let name = claim.name_any();
    let start = set
        .spec
        .ordinals
        .as_ref()
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    claim_templates(set).find_map(|(template, _)| {
        let owner = name
            .strip_prefix(template)?
            .strip_prefix('-')?
            .strip_suffix(&format!("-{start}"))?;
        (claim_name(template, owner, start) == name).then(|| (owner.to_owned(), template.to_owned()))
    })
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
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
    let start = set
        .spec
        .ordinals
        .as_ref()
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
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
async fn write(
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

/// One look at a claim of a RunnerSet (spec 02 §13.2).
pub(super) async fn reconcile_claim(
    claim: Arc<PersistentVolumeClaim>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let Some(set_name) = claim.labels().get(keys::LABEL_RUNNERSET_NAME).cloned() else {
        return Ok(Action::await_change());
    };
    let set = context.caches.runner_sets.get(&namespace, &set_name);
    let Some((owner, template, pod)) = place(&context, set.as_deref(), &claim) else {
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
fn place(
    context: &Context,
    set: Option<&RunnerSet>,
    claim: &PersistentVolumeClaim,
) -> Option<(String, String, String)> {
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
    let namespace = claim.namespace().unwrap_or_default();
    let number = context
        .caches
        .stateful_sets
        .get(&namespace, &owner)
        .map_or(0, |owner| ordinal(&owner));
    let pod = pod_name(&owner, number);
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

/// One look at a kept volume: whether it is kept any longer.
pub(super) async fn reconcile_volume(
    volume: Arc<PersistentVolume>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let uid = volume.uid().unwrap_or_default();
    let (Some((namespace, name)), Some(view)) = (keeper(&volume), VolumeView::of(&volume)) else {
        return Ok(Action::await_change());
    };
    let now = context.clock.now();
    let set = context.caches.runner_sets.get(namespace, name);
    let limits = match &set {
        Some(set) if keeps(set) => context.settings.volumes.limits(set),
        _ => Limits {
            count: usize::MAX,
            age: keep::ORPHANED,
        },
    };
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
    let since = |volume: &VolumeView| {
        let seen = || context.storage.since(&when_free(&volume.name), now);
        volume.since.unwrap_or_else(seen)
    };
    match keep::fate(&view, &all, &claims, limits, since, now) {
        Fate::Busy => return Ok(Action::requeue(context.resync(&uid))),
        Fate::Kept { until } => {
            let wait = super::until(Some(until), now).unwrap_or_default();
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

/// Under what it is remembered since when a volume is free, on clusters that do not say (before Kubernetes 1.28).
pub(super) fn when_free(volume: &str) -> String {
    format!("free/{volume}")
}

const fn is_promised(view: &VolumeView) -> bool {
    matches!(view.holder, muster_core::volumes::Holder::Promised(_))
}

/// Long enough in this phase for every cache to know.
fn is_settled(view: &VolumeView, now: Timestamp) -> bool {
    view.since
        .is_some_and(|since| now.duration_since(since) > jiff::SignedDuration::from_mins(1))
}

/// The policy from before counts again: Kubernetes, or the driver, deletes the volume with its storage.
async fn hand_back(context: &Context, volume: &PersistentVolume, view: &VolumeView) -> Result<(), Error> {
    let policy = volume
        .annotations()
        .get(keys::ANNOTATION_RECLAIM_POLICY)
        .map_or(DELETE, String::as_str);
    let mut spec = json!({"persistentVolumeReclaimPolicy": policy});
    if is_promised(view) {
        // Only a volume whose claim is gone is reclaimed.
        spec["claimRef"] = json!({"uid": NOBODY});
    }
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
