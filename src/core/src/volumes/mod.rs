//! Volumes that outlive the runners of a RunnerSet (90 PAIN-14): which free volume the next runner gets ([`allocate`]), which claim has
//! served its time ([`claim`]), and which volume is not kept any longer ([`keep`]).
//!
//! A volume belongs to one RunnerSet and claim template from its first claim on. Between two runners it stays `Released`, so that nobody
//! else's claim can bind it. It is handed over by one write: `claimRef` is set to the claim of a StatefulSet that does not exist yet,
//! under the resource version that the decision was made from. That write is the lease: it can succeed once only.

pub mod allocate;
pub mod claim;
pub mod keep;
#[cfg(test)]
mod model_tests;
pub mod node;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use muster_crds::keys;

use crate::quantity;

/// How a volume goes when nobody wants it any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reclaim {
    /// Its storage is kept.
    #[default]
    Retain,
    /// Kubernetes, or the driver, deletes it with its storage.
    Reclaimed,
}

/// Whose a volume is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// Nobody's: there is no reference to a claim.
    #[default]
    None,
    /// Promised to the claim of this name, which has not bound it.
    Promised(String),
    /// Bound to the claim of this name.
    Bound(String),
    /// It was bound to a claim that is gone.
    Released,
}

/// The facts of a volume that belongs to a RunnerSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeView {
    /// Name.
    pub name: String,
    /// Resource version, for preconditions.
    pub resource_version: String,
    /// Claim template that it was made for.
    pub template: String,
    /// Who has it.
    pub holder: Holder,
    /// It is being deleted, or failed.
    pub is_lost: bool,
    /// Size, in thousandths of bytes.
    pub capacity: i128,
    /// Storage class; empty is none.
    pub class: String,
    /// Access modes.
    pub access_modes: BTreeSet<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Nodes that can reach it; `None`: all.
    pub affinity: Option<NodeSelector>,
    /// What its reclaim policy was before it was kept.
    pub reclaim: Reclaim,
    /// When its phase changed last.
    pub since: Option<Timestamp>,
}

impl VolumeView {
    /// Extracts the facts; `None` for a volume that belongs to no RunnerSet.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let template = volume.labels().get(keys::LABEL_CLAIM_TEMPLATE)?.clone();
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let holder = match spec.claim_ref {
            None => Holder::None,
            Some(claim) if claim.uid.as_deref().unwrap_or_default().is_empty() => {
                Holder::Promised(claim.name.unwrap_or_default())
            }
            Some(_) if phase == "Released" => Holder::Released,
            Some(claim) => Holder::Bound(claim.name.unwrap_or_default()),
        };
        Some(Self {
            name: volume.name_any(),
            resource_version: volume.resource_version().unwrap_or_default(),
            template,
            holder,
            is_lost: volume.metadata.deletion_timestamp.is_some() || phase == "Failed",
            capacity: spec
                .capacity
                .as_ref()
                .and_then(|capacity| quantity::milli(capacity.get("storage")?))
                .unwrap_or(0),
            class: spec.storage_class_name.unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default().into_iter().collect(),
            volume_mode: mode(spec.volume_mode),
            affinity: spec.node_affinity.and_then(|affinity| affinity.required),
            reclaim: reclaim(volume),
            since: status.last_phase_transition_time.map(|time| time.0),
        })
    }

    /// Whether the next runner may have it. `claims` are the names of all claims that exist or are about to be made by an existing
    /// StatefulSet: what is promised to another one is promised to nobody.
    pub fn is_free(&self, claims: &BTreeSet<String>) -> bool {
        !self.is_lost
            && match &self.holder {
                Holder::None | Holder::Released => true,
                Holder::Promised(claim) => !claims.contains(claim),
                Holder::Bound(_) => false,
            }
    }
}

/// The policy from before the volume was kept.
pub fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let own = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_ref());
    let policy = volume
        .annotations()
        .get(keys::ANNOTATION_RECLAIM_POLICY)
        .or(own)
        .map(String::as_str);
    match policy {
        Some("Delete" | "Recycle") => Reclaim::Reclaimed,
        _ => Reclaim::Retain,
    }
}

/// What a claim template asks of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimWant {
    /// Name of the template.
    pub template: String,
    /// Size, in thousandths of bytes.
    pub storage: i128,
    /// Storage class; `None` leaves it to the cluster's default.
    pub class: Option<String>,
    /// Access modes.
    pub access_modes: BTreeSet<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// The template names a volume or a source of its own: Kubernetes finds it, nothing is offered.
    pub is_fixed: bool,
}

impl ClaimWant {
    /// Reads a claim template.
    pub fn of(name: &str, claim: &PersistentVolumeClaim) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        Self {
            template: name.to_owned(),
            storage: spec
                .resources
                .as_ref()
                .and_then(|resources| quantity::milli(resources.requests.as_ref()?.get("storage")?))
                .unwrap_or(0),
            class: spec.storage_class_name,
            access_modes: spec.access_modes.unwrap_or_default().into_iter().collect(),
            volume_mode: mode(spec.volume_mode),
            is_fixed: spec.volume_name.is_some_and(|name| !name.is_empty()),
        }
    }

    /// Whether a volume of this template fits it as it is now: the template may have changed since.
    pub fn fits(&self, volume: &VolumeView) -> bool {
        !self.is_fixed
            && volume.template == self.template
            && volume.capacity >= self.storage
            && self.class.as_ref().is_none_or(|class| *class == volume.class)
            && volume.access_modes.is_superset(&self.access_modes)
            && volume.volume_mode == self.volume_mode
    }
}

fn mode(mode: Option<String>) -> String {
    mode.filter(|mode| !mode.is_empty())
        .unwrap_or_else(|| "Filesystem".to_owned())
}
