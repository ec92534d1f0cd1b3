//! The pod-owner adapter: what stands between a set of runners and its pods (spec 02 §7.1, 91 B3).
//!
//! A RunnerDeployment's set owns `Runner`s, a RunnerSet owns `StatefulSet`s. Both go through the same plan; they differ in how their pods are found and in
//! what "synced" means, and only that is in the trait. Everything else is metadata, which is the same for both.

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope, api::apps::v1::StatefulSet, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use muster_crds::{keys, legacy::Runner};

use super::{PodClass, PodView};

/// How the pods of an owner are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSelection {
    /// The one pod of this name in the owner's namespace.
    Named(String),
    /// The pods that the owner controls, matched by UID (spec 02 Q20).
    Controlled,
}

/// The object that stands between a set of runners and their pods.
pub trait PodOwner: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone {
    /// How this owner's pods are found.
    fn pods(&self) -> PodSelection;
    /// True once the controller below has created what this owner asked for.
    fn is_synced(&self) -> bool;
}

impl PodOwner for Runner {
    fn pods(&self) -> PodSelection {
        PodSelection::Named(self.name_any())
    }

    fn is_synced(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.phase.as_ref().is_some_and(|phase| !phase.is_empty()))
    }
}

impl PodOwner for StatefulSet {
    fn pods(&self) -> PodSelection {
        PodSelection::Controlled
    }

    fn is_synced(&self) -> bool {
        let wanted = self.spec.replicas.unwrap_or(1);
        self.status
            .as_ref()
            .is_some_and(|status| status.replicas == wanted)
    }
}

/// The facts of an owner that the plan needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnerView {
    /// Name of the owner.
    pub name: String,
    /// UID, for preconditions.
    pub uid: String,
    /// Label `runner-template-hash`; an owner without one is of no template we know (spec 02 Q9).
    pub hash: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// It is being deleted.
    pub deleting: bool,
    /// The controller below has created what it asked for.
    pub synced: bool,
    /// Annotation `sync-time`: when its set created it.
    pub sync_time: Option<Timestamp>,
    /// Unregistration was asked for.
    pub unregistration_requested: bool,
    /// Annotation of upstream that says that all its pods are unregistered.
    pub unregistration_complete: bool,
    /// Its pods.
    pub pods: Vec<PodView>,
}

impl OwnerView {
    /// The facts of `owner` and its pods.
    pub fn of<O: PodOwner>(owner: &O, pods: Vec<PodView>) -> Self {
        let meta: &ObjectMeta = owner.meta();
        let annotation = |key: &str| {
            meta.annotations
                .as_ref()
                .and_then(|all| all.get(key))
                .filter(|value| !value.is_empty())
        };
        Self {
            name: owner.name_any(),
            uid: meta.uid.clone().unwrap_or_default(),
            hash: meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(keys::LABEL_RUNNER_TEMPLATE_HASH))
                .filter(|hash| !hash.is_empty())
                .cloned(),
            created_at: meta.creation_timestamp.as_ref().map(|time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
            synced: owner.is_synced(),
            sync_time: annotation(keys::ANNOTATION_SYNC_TIME).and_then(|text| text.parse().ok()),
            unregistration_requested: annotation(keys::ANNOTATION_UNREGISTRATION_REQUEST).is_some(),
            unregistration_complete: annotation(keys::ANNOTATION_UNREGISTRATION_COMPLETE).is_some(),
            pods,
        }
    }

    /// Number of pods of a class.
    pub fn count(&self, class: PodClass, now: Timestamp) -> usize {
        self.pods.iter().filter(|pod| pod.class(now) == class).count()
    }

    /// True when the owner has pods and all of them have stopped.
    pub fn is_completed(&self, now: Timestamp) -> bool {
        !self.pods.is_empty() && self.pods.iter().all(|pod| pod.class(now) == PodClass::Completed)
    }

    /// True when all pods are off GitHub or going already; so is an owner without pods.
    pub fn is_unregistered(&self) -> bool {
        self.pods
            .iter()
            .all(|pod| pod.unregistration_complete || pod.deletion_at.is_some())
    }
}
