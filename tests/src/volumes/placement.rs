//! Which node a pod with claims goes to: the scheduler's rules for volumes (binding, node affinity, `ReadWriteOncePod`).

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{
        PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec, PodSpec,
    },
    storage::v1::StorageClass,
};
use kube::ResourceExt;

use super::{Bound, Node, SELECTED_NODE, bytes};

/// Annotation of a claim whose binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What is known when a pod looks for a node.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) claims: &'a [Arc<PersistentVolumeClaim>],
    pub(super) volumes: &'a [Arc<PersistentVolume>],
    pub(super) classes: &'a [Arc<StorageClass>],
    pub(super) nodes: &'a [Node],
    /// Counts up, so that equal nodes take turns.
    pub(super) turn: usize,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    On {
        node: String,
        volumes: Vec<Bound>,
        /// Claims that no other pod may use at the same time.
        alone: Vec<String>,
    },
    Acts(Vec<Step>),
    /// With a sentence where nothing that is under way will change it.
    Waits(Option<String>),
}

/// What brings a claim nearer to its volume. Claims are named by name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give a free volume, in this version, to a claim.
    Reserve {
        volume: String,
        version: String,
        claim: (String, String),
    },
    /// Have a volume made that can be reached from a node.
    Provision { claim: (String, String), node: String },
}

/// Whether the volumes of a class come to be when a pod needs them.
pub(super) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The scheduler's decision for one pod.
pub(super) fn decide(view: &View<'_>) -> Decision {
    let (mut bound, mut open, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for name in claim_names(view.spec) {
        let Some(claim) = view.claims.iter().find(|claim| claim.name_any() == name) else {
            return Decision::Waits(None);
        };
        let Some(spec) = claim
            .spec
            .as_ref()
            .filter(|_| claim.metadata.deletion_timestamp.is_none())
        else {
            return Decision::Waits(Some(format!("persistentvolumeclaim {name:?} is being deleted")));
        };
        if has_mode(spec.access_modes.as_deref(), "ReadWriteOncePod") {
            alone.push(claim.uid().unwrap_or_default());
        }
        match volume_of(view, claim, spec) {
            Ok(Some(volume)) => bound.push((name, volume)),
            Ok(None) => open.push((claim, spec)),
            Err(waits) => return waits,
        }
    }
    let suits = |node: &&Node| {
        node.suits(view.spec)
            && bound
                .iter()
                .all(|(_, volume)| reaches(node, volume.spec.as_ref()))
    };
    let nodes: Vec<&Node> = view.nodes.iter().filter(suits).collect();
    if nodes.is_empty() {
        let nowhere = "no node matches the pod's node selector and its volumes' node affinity";
        return Decision::Waits(Some(nowhere.to_owned()));
    }
    if !open.is_empty() {
        return bind(view, &nodes, &open);
    }
    let at = view.turn.checked_rem(nodes.len()).unwrap_or_default();
    let volumes = bound.into_iter().map(|(claim, volume)| Bound {
        volume: volume.name_any(),
        claim,
        shared: volume.spec.as_ref().is_some_and(|spec| {
            let modes = spec.access_modes.as_deref();
            has_mode(modes, "ReadWriteMany") || has_mode(modes, "ReadOnlyMany")
        }),
    });
    Decision::On {
        node: nodes.get(at).map(|node| node.name.clone()).unwrap_or_default(),
        volumes: volumes.collect(),
        alone,
    }
}

fn claim_names(spec: &PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let named = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    named.map(|source| source.claim_name.clone()).collect()
}

/// The volume of a claim that is bound, `None` for one that waits for its consumer, or the reason to wait.
fn volume_of<'a>(
    view: &'a View<'_>,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
) -> Result<Option<&'a Arc<PersistentVolume>>, Decision> {
    let under_way = Err(Decision::Waits(None));
    match spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if claim.annotations().contains_key(BIND_COMPLETED) => {
            let volume = view.volumes.iter().find(|volume| volume.name_any() == name);
            volume.map(Some).ok_or(Decision::Waits(None))
        }
        Some(_) => under_way,
        // The binder's work: a volume that waits for exactly this claim, or a class that needs no pod.
        None if view.volumes.iter().any(|volume| is_meant_for(volume, claim)) => under_way,
        None => match class_of(view, spec) {
            Some(class) if waits_for_consumer(class) => Ok(None),
            _ => under_way,
        },
    }
}

fn class_of<'a>(view: &'a View<'_>, spec: &PersistentVolumeClaimSpec) -> Option<&'a Arc<StorageClass>> {
    let name = spec.storage_class_name.as_deref()?;
    view.classes.iter().find(|class| class.name_any() == name)
}

/// Whether the volume's reference names this very claim, or any of its name.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name.as_deref() == claim.metadata.name.as_deref()
            && reference.namespace.as_deref() == claim.metadata.namespace.as_deref()
            && reference
                .uid
                .as_deref()
                .is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid))
    })
}

/// Finds each open claim a volume on one node: a free one, else a new one.
fn bind(
    view: &View<'_>,
    nodes: &[&Node],
    open: &[(&Arc<PersistentVolumeClaim>, &PersistentVolumeClaimSpec)],
) -> Decision {
    let mut plans = BTreeMap::new();
    for at in 0..nodes.len() {
        let turned = (view.turn + at).checked_rem(nodes.len()).unwrap_or_default();
        let Some(node) = nodes.get(turned) else { continue };
        let mut taken = Vec::new();
        let steps: Option<Vec<Step>> = open
            .iter()
            .map(|(claim, spec)| step(view, node, claim, spec, &mut taken))
            .collect();
        if let Some(steps) = steps {
            let made = steps
                .iter()
                .filter(|step| matches!(step, Step::Provision { .. }))
                .count();
            let elsewhere = !open.iter().any(|(claim, _)| is_selected(claim, node));
            // The node that was selected before, then the one where most is there already, then by turns.
            plans.entry((elsewhere, made, at)).or_insert(steps);
        }
    }
    let steps = plans.into_values().next();
    let Some(steps) = steps else {
        let nothing = "there is no volume for a claim, and its class makes none";
        return Decision::Waits(Some(nothing.to_owned()));
    };
    let is_new = |step: &Step| match step {
        Step::Provision { claim, node } => {
            let known = open.iter().find(|(open, _)| open.name_any() == claim.0);
            known.is_none_or(|(open, _)| open.annotations().get(SELECTED_NODE) != Some(node))
        }
        Step::Reserve { .. } => true,
    };
    let steps: Vec<Step> = steps.into_iter().filter(is_new).collect();
    if steps.is_empty() {
        Decision::Waits(None)
    } else {
        Decision::Acts(steps)
    }
}

fn is_selected(claim: &PersistentVolumeClaim, node: &Node) -> bool {
    claim.annotations().get(SELECTED_NODE) == Some(&node.name)
}

fn step(
    view: &View<'_>,
    node: &Node,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    taken: &mut Vec<String>,
) -> Option<Step> {
    let named = (claim.name_any(), claim.uid().unwrap_or_default());
    let fitting = view.volumes.iter().filter(|volume| {
        is_free(volume)
            && !taken.contains(&volume.name_any())
            && volume
                .spec
                .as_ref()
                .is_some_and(|offer| fits(offer, volume.labels(), spec))
            && reaches(node, volume.spec.as_ref())
    });
    let size =
        |volume: &&Arc<PersistentVolume>| bytes(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()));
    if let Some(volume) = fitting.min_by_key(size) {
        taken.push(volume.name_any());
        return Some(Step::Reserve {
            volume: volume.name_any(),
            version: volume.resource_version().unwrap_or_default(),
            claim: named,
        });
    }
    let class = class_of(view, spec).filter(|class| class.provisioner != NO_PROVISIONER)?;
    let allowed = class.allowed_topologies.as_deref().unwrap_or_default();
    let is_allowed = allowed.is_empty()
        || allowed.iter().any(|term| {
            let mut labels = term.match_label_expressions.iter().flatten();
            labels.all(|label| {
                node.labels
                    .get(&label.key)
                    .is_some_and(|value| label.values.contains(value))
            })
        });
    is_allowed.then(|| Step::Provision {
        claim: named,
        node: node.name.clone(),
    })
}

fn is_free(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_referred = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    phase == Some("Available") && !is_referred && volume.metadata.deletion_timestamp.is_none()
}

/// Whether a volume has what a claim asks for: class, mode, access, size, labels.
fn fits(
    offer: &PersistentVolumeSpec,
    labels: &BTreeMap<String, String>,
    asked: &PersistentVolumeClaimSpec,
) -> bool {
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = asked.access_modes.iter().flatten();
    let mut wanted = asked
        .selector
        .iter()
        .flat_map(|selector| selector.match_labels.iter().flatten());
    class(&offer.storage_class_name) == class(&asked.storage_class_name)
        && mode(&offer.volume_mode) == mode(&asked.volume_mode)
        && modes
            .into_iter()
            .all(|mode| has_mode(offer.access_modes.as_deref(), mode))
        && bytes(offer.capacity.as_ref())
            >= bytes(asked.resources.as_ref().and_then(|all| all.requests.as_ref()))
        && wanted.all(|(key, value)| labels.get(key) == Some(value))
}

fn has_mode(modes: Option<&[String]>, mode: &str) -> bool {
    modes.unwrap_or_default().iter().any(|other| other == mode)
}

/// Whether a volume can be used on a node.
fn reaches(node: &Node, volume: Option<&PersistentVolumeSpec>) -> bool {
    let affinity = volume.and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|selector| node.is_meant(selector))
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
