//! What an autoscaler scales, in either kind: the same few facts, and one patch.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use muster_core::{
    pods::Served,
    target::{TargetId, TargetKind},
};
use muster_crds::legacy::{RunnerConfig, RunnerDeployment, RunnerSet};
use serde_json::Value;

use super::owner_set::alive;
use crate::{
    context::Context,
    error::Error,
    pod_owner::{never_served, served},
};

/// A scale target as cached, or as this process wrote it last.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Deployment(Arc<RunnerDeployment>),
    Set(Arc<RunnerSet>),
}

impl Target {
    /// The cached object.
    pub(super) fn find(context: &Context, id: &TargetId) -> Option<Self> {
        let caches = &context.caches;
        match id.kind {
            TargetKind::Deployment => caches
                .deployments
                .get(&id.namespace, &id.name)
                .map(Self::Deployment),
            TargetKind::Set => caches.runner_sets.get(&id.namespace, &id.name).map(Self::Set),
        }
    }

    pub(super) fn id(&self) -> TargetId {
        let kind = match self {
            Self::Deployment(_) => TargetKind::Deployment,
            Self::Set(_) => TargetKind::Set,
        };
        let meta = self.meta();
        TargetId::new(
            kind,
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    pub(super) fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Deployment(target) => &target.metadata,
            Self::Set(target) => &target.metadata,
        }
    }

    pub(super) fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Deployment(target) => target.annotations(),
            Self::Set(target) => target.annotations(),
        }
    }

    /// `spec.replicas`.
    pub(super) fn replicas(&self) -> Option<i64> {
        match self {
            Self::Deployment(target) => target.spec.replicas,
            Self::Set(target) => target.spec.replicas.map(i64::from),
        }
    }

    /// `spec.effectiveTime`.
    pub(super) fn effective_time(&self) -> Option<Timestamp> {
        let time = match self {
            Self::Deployment(target) => target.spec.effective_time,
            Self::Set(target) => target.spec.effective_time,
        };
        time.map(|time| time.0)
    }

    /// What its runners are to GitHub.
    pub(super) fn config(&self) -> &RunnerConfig {
        match self {
            Self::Deployment(target) => &target.spec.template.spec.config,
            Self::Set(target) => &target.spec.config,
        }
    }

    /// Whether its runners take one job each.
    pub(super) fn is_ephemeral(&self) -> bool {
        self.config().ephemeral.unwrap_or(true)
    }

    /// Runners of the current template that are alive, and what their set has served.
    ///
    /// # Errors
    /// When the current set of a RunnerDeployment cannot be told.
    pub(super) fn supply(&self, context: &Context, now: Timestamp) -> Result<(usize, Option<Served>), Error> {
        match self {
            Self::Deployment(target) => {
                let set = super::runner_deployment::current_set(context, target)?;
                Ok(set.map_or((0, None), |set| (alive(context, &*set, now), served(&*set))))
            }
            Self::Set(target) => {
                let alive = alive(context, &**target, now);
                let record = served(&**target).or_else(|| (alive == 0).then(never_served));
                Ok((alive, record))
            }
        }
    }

    /// Applies a merge patch; answers the object as it is then.
    ///
    /// # Errors
    /// What the API server said.
    pub(super) async fn patch(&self, context: &Context, patch: Value) -> Result<Self, kube::Error> {
        let id = self.id();
        let (client, params, patch) = (
            context.client.clone(),
            PatchParams::default(),
            Patch::Merge(patch),
        );
        match self {
            Self::Deployment(_) => {
                let api: Api<RunnerDeployment> = Api::namespaced(client, &id.namespace);
                let written = api.patch(&id.name, &params, &patch).await?;
                Ok(Self::Deployment(Arc::new(written)))
            }
            Self::Set(_) => {
                let api: Api<RunnerSet> = Api::namespaced(client, &id.namespace);
                Ok(Self::Set(Arc::new(api.patch(&id.name, &params, &patch).await?)))
            }
        }
    }
}
