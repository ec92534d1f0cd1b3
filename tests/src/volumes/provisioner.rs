//! The storage driver: makes volumes for the claims that the binder hands to it, deletes released ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use super::{SELECTED_NODE, SimStorage, ZONE, bytes, placement::waits_for_consumer};

/// Annotation of a volume: the driver that made it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotations of a claim: the driver that the binder asks for a volume.
const ASKED: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
/// A look without a reason: what failed is tried again.
const LOOK: Duration = Duration::from_secs(1);

/// Serves until the storage is gone.
pub(super) async fn run(storage: Weak<SimStorage>) {
    let Some(mut changes) = storage.upgrade().map(|storage| storage.changes()) else {
        return;
    };
    // Made, and not in the store yet.
    let mut unseen = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        match storage.upgrade() {
            Some(storage) => serve(&storage, &mut unseen).await,
            None => return,
        }
        // Either is a reason to look again.
        drop(tokio::time::timeout(LOOK, changes.changed()).await);
    }
}

async fn serve(storage: &Arc<SimStorage>, unseen: &mut BTreeSet<String>) {
    let volumes = storage.volumes();
    let names: BTreeSet<String> = volumes.iter().map(ResourceExt::name_any).collect();
    unseen.retain(|name| !names.contains(name));
    for claim in storage.claims.state() {
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        if names.contains(&name) || unseen.contains(&name) || !is_asked(storage, &claim) {
            continue;
        }
        let Some(class) = class_of(storage, &claim) else {
            continue;
        };
        tokio::time::sleep(storage.options.provision_delay).await;
        if let Some(volume) = volume_for(storage, &claim, &class, &name) {
            let api: Api<PersistentVolume> = Api::all(storage.client.clone());
            match api.create(&PostParams::default(), &volume).await {
                Ok(_) => {
                    let deletes = class.reclaim_policy.as_deref() == Some("Delete");
                    storage.book.created(&name, deletes);
                    unseen.insert(name);
                }
                Err(error) => tracing::warn!(%error, name, "The simulated provisioner tries again"),
            }
        }
    }
    for volume in volumes.iter().filter(|volume| is_to_delete(volume)) {
        delete(storage, volume).await;
    }
    let objects: BTreeMap<String, bool> = volumes
        .iter()
        .map(|volume| (volume.name_any(), goes_with_object(volume)))
        .collect();
    storage.book.compare(&objects, unseen);
}

fn is_asked(storage: &SimStorage, claim: &PersistentVolumeClaim) -> bool {
    let own = storage.provisioner();
    let asked = ASKED
        .iter()
        .any(|key| claim.annotations().get(*key) == Some(&own));
    let spec = claim.spec.as_ref();
    let is_bound = spec.is_none_or(|spec| spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()));
    asked && !is_bound && claim.metadata.deletion_timestamp.is_none()
}

fn class_of(storage: &SimStorage, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
    let name = claim.spec.as_ref()?.storage_class_name.as_deref()?;
    storage
        .classes
        .state()
        .into_iter()
        .find(|class| class.name_any() == name)
}

/// The volume for a claim. `None` while a claim that waits for its consumer has no node.
fn volume_for(
    storage: &SimStorage,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
) -> Option<PersistentVolume> {
    let selected = claim.annotations().get(SELECTED_NODE);
    if waits_for_consumer(class) && selected.is_none() {
        return None;
    }
    let nodes = &storage.options.nodes;
    let node = match selected {
        Some(selected) => nodes.iter().find(|node| node.name == *selected),
        // Wherever it may be: a driver knows nothing of pods.
        None => nodes.get(
            storage
                .book
                .counters()
                .created
                .checked_rem(nodes.len())
                .unwrap_or_default(),
        ),
    };
    let affinity = node.and_then(|node| node.zone()).map(|zone| {
        json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}]}})
    });
    let spec = claim.spec.as_ref()?;
    let wanted = bytes(spec.resources.as_ref().and_then(|all| all.requests.as_ref()));
    let volume: Value = json!({
        "metadata": {"name": name, "annotations": {(PROVISIONED_BY): storage.provisioner()}},
        "spec": {
            "capacity": {"storage": Quantity(wanted.to_string())},
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": class.reclaim_policy,
            "storageClassName": class.name_any(),
            "volumeMode": spec.volume_mode,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.name_any(),
                "namespace": claim.namespace(), "uid": claim.uid(), "resourceVersion": claim.resource_version()},
            "csi": {"driver": storage.provisioner(), "volumeHandle": name},
            "nodeAffinity": affinity,
        },
    });
    serde_json::from_value(volume).ok()
}

fn goes_with_object(volume: &PersistentVolume) -> bool {
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy == Some("Delete")
}

fn is_to_delete(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    goes_with_object(volume) && phase == Some("Released") && volume.metadata.deletion_timestamp.is_none()
}

async fn delete(storage: &SimStorage, volume: &PersistentVolume) {
    let api: Api<PersistentVolume> = Api::all(storage.client.clone());
    // What has changed since is decided anew.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: volume.uid(),
            resource_version: volume.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(&volume.name_any(), &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => tracing::warn!(%error, "The simulated provisioner could not delete a volume"),
    }
}
