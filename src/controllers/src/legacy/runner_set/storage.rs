//! What the flags say about kept volumes, and what this process remembers of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{ListParams, NotUsed, Object},
    core::ApiResource,
};
use muster_core::{
    go,
    volumes::{keep::Limits, node::NodeView},
};
use muster_crds::{keys, legacy::RunnerSet};
use serde::{Deserialize, Serialize};

use crate::context::Context;

/// Nodes are listed again after this time, when they matter.
const NODES_AGE: SignedDuration = SignedDuration::from_secs(30);
/// Taints of nodes that start no pod, whatever the pod tolerates.
const DOWN: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/out-of-service",
];

/// `--runner-set-…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// `--runner-set-kept-volumes`: free volumes kept for each RunnerSet and claim template.
    pub count: usize,
    /// `--runner-set-kept-volume-age`: how long each.
    pub age: SignedDuration,
    /// `--runner-set-volume-wait`: how long a new runner waits for a volume that is about to be free.
    pub patience: SignedDuration,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        Self {
            count: 100,
            age: SignedDuration::from_hours(7 * 24),
            patience: SignedDuration::from_secs(10),
        }
    }
}

impl VolumeSettings {
    /// The limits of a RunnerSet: its annotations win. A value that cannot be read counts as absent.
    pub(super) fn limits(&self, set: &RunnerSet) -> Limits {
        let annotation = |key: &str| set.metadata.annotations.as_ref()?.get(key);
        Limits {
            count: annotation(keys::ANNOTATION_KEPT_VOLUMES)
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(self.count),
            age: annotation(keys::ANNOTATION_KEPT_VOLUME_AGE)
                .and_then(|text| go::parse_duration(text.trim()).ok())
                .unwrap_or(self.age),
        }
    }
}

/// What this process has seen of volumes and claims, where the API server does not say since when.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    /// Since when a claim is on its way out, or a volume free, by UID.
    first_seen: Mutex<HashMap<String, Timestamp>>,
    /// What each RunnerSet keeps, by namespace and name.
    limits: Mutex<HashMap<(String, String), Limits>>,
    nodes: Mutex<Option<(Timestamp, Option<Vec<NodeView>>)>>,
}

impl Storage {
    /// When the state of this object was seen first.
    pub(super) fn since(&self, uid: &str, now: Timestamp) -> Timestamp {
        let mut seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(uid.to_owned()).or_insert(now)
    }

    /// Remembers what a RunnerSet keeps, `None` for one that is gone; true when that has changed.
    pub(super) fn limits_changed(&self, namespace: &str, set: &str, limits: Option<Limits>) -> bool {
        let mut all = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), set.to_owned());
        let before = match limits {
            Some(limits) => all.insert(key, limits),
            None => all.remove(&key),
        };
        before != limits
    }

    /// The object is gone, or in another state.
    pub(super) fn forget(&self, uid: &str) {
        self.first_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

/// The part of a node that says whether it takes pods.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct NodeSpec {
    #[serde(default)]
    unschedulable: bool,
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Taint {
    #[serde(default)]
    key: String,
}

/// Nodes that take pods, at most half a minute old; `None` when they may not be read (ARC's own `ClusterRole`) or the API server does not answer.
pub(super) async fn nodes(context: &Context, now: Timestamp) -> Option<Vec<NodeView>> {
    let cached = context
        .storage
        .nodes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some((at, nodes)) = cached.filter(|(at, _)| now.duration_since(*at) < NODES_AGE) {
        tracing::trace!(age_ms = now.duration_since(at).as_millis(), "Nodes from memory.");
        return nodes;
    }
    let nodes = match list(&context.client).await {
        Ok(nodes) => Some(nodes),
        Err(error) => {
            tracing::debug!(error = %muster_runtime::telemetry::chain(&error), "The nodes cannot be read: volumes are offered without knowing whether their node is there.");
            None
        }
    };
    *context
        .storage
        .nodes
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some((now, nodes.clone()));
    nodes
}

async fn list(client: &Client) -> Result<Vec<NodeView>, kube::Error> {
    type Slim = Object<NodeSpec, NotUsed>;
    let api: Api<Slim> = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let all = api.list(&ListParams::default()).await?;
    let takes_pods = |spec: &NodeSpec| {
        !spec.unschedulable && !spec.taints.iter().any(|taint| DOWN.contains(&taint.key.as_str()))
    };
    Ok(all
        .items
        .into_iter()
        .filter(|node| takes_pods(&node.spec))
        .map(|node| NodeView {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_limits_is_told_once() {
        let storage = Storage::default();
        let limits = |count| {
            Some(Limits {
                count,
                age: SignedDuration::ZERO,
            })
        };
        let told = [limits(1), limits(1), limits(2), None, None, limits(2)]
            .map(|limits| storage.limits_changed("a", "b", limits));
        assert_eq!(told, [true, false, true, true, false, true]);
        assert!(storage.limits_changed("a", "another", limits(2)));
    }

    #[test]
    fn annotations_of_the_runner_set_win_over_the_flags() {
        let set = |annotations: &[(&str, &str)]| {
            let mut set = RunnerSet::new("a", muster_crds::legacy::RunnerSetSpec::default());
            set.metadata.annotations = Some(
                annotations
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            );
            set
        };
        let settings = VolumeSettings::default();
        let of = |annotations: &[(&str, &str)]| settings.limits(&set(annotations));
        let default = Limits {
            count: 100,
            age: SignedDuration::from_hours(168),
        };
        assert_eq!(of(&[]), default);
        assert_eq!(
            of(&[
                ("muster.dev/kept-volumes", "3"),
                ("muster.dev/kept-volume-age", "90m")
            ]),
            Limits {
                count: 3,
                age: SignedDuration::from_mins(90)
            }
        );
        assert_eq!(
            of(&[
                ("muster.dev/kept-volumes", "many"),
                ("muster.dev/kept-volume-age", "long")
            ]),
            default
        );
    }
}
