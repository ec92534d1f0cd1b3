//! Volumes that a RunnerSet keeps, as upstream knows them: their own reclaim policy counts again, and free ones can be bound by anyone's claim.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use muster_crds::keys;
use serde_json::{Map, Value, json};

use super::{Action, Step, marks, subject};
use crate::volumes::{Holder, Reclaim, VolumeView};

/// What is to be done with a volume; nothing where it is not ours.
pub(super) fn step(volume: &PersistentVolume, claims: &[PersistentVolumeClaim]) -> Option<Step> {
    let view = VolumeView::of(volume)?;
    let namespace = volume.labels().get(keys::LABEL_RUNNERSET_NAMESPACE);
    let names: BTreeSet<String> = claims
        .iter()
        .filter(|claim| claim.namespace().as_ref() == namespace)
        .map(ResourceExt::name_any)
        .collect();
    let mut metadata = marks::removal(volume, false);
    let mut spec = Map::new();
    let mut what = vec!["take away the labels of keeping".to_owned()];
    if let Some(policy) = volume.annotations().get(keys::ANNOTATION_RECLAIM_POLICY) {
        spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!(policy));
        what.push(format!("set its reclaim policy back to {policy}"));
    }
    if view.is_free(&names) && !view.is_lost {
        match (&view.holder, view.reclaim) {
            (Holder::Released, Reclaim::Retain) => {
                spec.insert("claimRef".to_owned(), Value::Null);
                what.push("let the next claim bind it".to_owned());
            }
            (Holder::Released, Reclaim::Reclaimed) => {
                what.push("Kubernetes deletes it, as its policy says: no runner uses it".to_owned());
            }
            (Holder::Promised(claim), _) => {
                spec.insert("claimRef".to_owned(), Value::Null);
                what.push(format!("forget that it was promised to {claim}"));
            }
            (Holder::None | Holder::Bound(_), _) => {}
        }
    }
    metadata.insert("resourceVersion".to_owned(), json!(view.resource_version));
    // The set's name is an ordinary label: upstream puts it on pods and StatefulSets only.
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(keys::LABEL_RUNNERSET_NAME.to_owned(), Value::Null);
    }
    let mut patch = Map::new();
    patch.insert("metadata".to_owned(), Value::Object(metadata));
    if !spec.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(spec));
    }
    Some(Step {
        object: subject(volume),
        what,
        action: Action::Merge(Value::Object(patch)),
    })
}
