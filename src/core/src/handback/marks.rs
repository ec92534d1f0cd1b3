//! Labels, annotations and conditions of ours.

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use muster_crds::keys;
use serde_json::{Map, Value, json};

/// Annotations that people write to set something. They are not ours to take away unasked.
const SETTINGS: [&str; 2] = [keys::ANNOTATION_KEPT_VOLUMES, keys::ANNOTATION_KEPT_VOLUME_AGE];

/// Settings for us on an object.
pub(super) fn settings<K: Resource>(object: &K) -> Vec<&str> {
    let annotations = object.meta().annotations.iter().flatten();
    annotations
        .map(|(key, _)| key.as_str())
        .filter(|key| SETTINGS.contains(key))
        .collect()
}

/// The members of a merge patch's metadata that take our marks away; none where there are none. With `all`, settings for us go too.
pub(super) fn removal<K: Resource>(object: &K, all: bool) -> Map<String, Value> {
    let meta = object.meta();
    let goes = |key: &&String| key.starts_with(keys::PREFIX) && (all || !SETTINGS.contains(&key.as_str()));
    let nulls = |keys: Vec<&String>| -> Map<String, Value> {
        keys.into_iter().map(|key| (key.clone(), Value::Null)).collect()
    };
    let labels = nulls(
        meta.labels
            .iter()
            .flat_map(|all| all.keys())
            .filter(goes)
            .collect(),
    );
    let mut annotations = nulls(
        meta.annotations
            .iter()
            .flat_map(|all| all.keys())
            .filter(goes)
            .collect(),
    );
    annotations.extend(added_while_busy(object));
    let parts = [("labels", labels), ("annotations", annotations)];
    parts
        .into_iter()
        .filter(|(_, members)| !members.is_empty())
        .map(|(name, members)| (name.to_owned(), Value::Object(members)))
        .collect()
}

/// The annotations that protect a busy runner from evictions, where it was us who added them.
fn added_while_busy<K: Resource>(object: &K) -> Vec<(String, Value)> {
    let protection = [
        keys::ANNOTATION_CLUSTER_AUTOSCALER_SAFE_TO_EVICT,
        keys::ANNOTATION_KARPENTER_DO_NOT_DISRUPT,
    ];
    let Some(added) = object.annotations().get(keys::ANNOTATION_ADDED_WHILE_BUSY) else {
        return Vec::new();
    };
    let ours = protection
        .into_iter()
        .filter(|key| added.split(',').any(|one| one == *key));
    ours.map(|key| (key.to_owned(), Value::Null)).collect()
}

/// Names of the marks that a removal takes away.
pub(super) fn names(removal: &Map<String, Value>) -> Vec<String> {
    let members = removal.values().filter_map(Value::as_object);
    members.flat_map(|members| members.keys().cloned()).collect()
}

/// The patch of a pod's status that takes our condition away, where it has it.
pub(super) fn condition(pod: &Pod) -> Option<Value> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ours: Vec<Value> = conditions
        .iter()
        .filter(|condition| condition.type_.starts_with(keys::PREFIX))
        .map(|condition| json!({"$patch": "delete", "type": condition.type_}))
        .collect();
    (!ours.is_empty()).then(|| json!({"status": {"conditions": ours}}))
}
