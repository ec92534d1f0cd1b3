//! Pools of runners, whatever keeps them: a scenario that speaks of pools runs over both kinds alike.

use anyhow::{Context, Result};
use clap::ValueEnum;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{
            Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec,
            VolumeMount, VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, LabelSelector},
    },
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
};
use muster_crds::legacy::{
    RunnerConfig, RunnerDeployment, RunnerDeploymentSpec, RunnerSet, RunnerSetSpec, RunnerSpec,
    RunnerTemplate,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{LABEL, ORGANIZATION, World};

/// Name of the claim template that a RunnerSet pool has, and of its mount.
pub const CACHE: &str = "cache";

/// What keeps the runners of a world's pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `RunnerDeployment`: a `Runner` and a pod each.
    #[default]
    #[value(name = "runnerdeployment")]
    RunnerDeployment,
    /// `RunnerSet`: a `StatefulSet` each, with a volume.
    #[value(name = "runnerset")]
    RunnerSet,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::RunnerDeployment, Self::RunnerSet];

    /// The kind in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::RunnerDeployment => "RunnerDeployment",
            Self::RunnerSet => "RunnerSet",
        }
    }
}

/// What is asked of a pool, in either kind.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// How many runners; `None` leaves it to the default or an autoscaler.
    pub replicas: Option<i32>,
    /// The runners: the world's organization and label when nothing is changed.
    pub config: RunnerConfig,
    /// Storage of each runner's volume `cache`, in a RunnerSet.
    pub storage: String,
    /// Its storage class; `None` is the world's.
    pub storage_class: Option<String>,
    /// Its access mode.
    pub access_mode: String,
}

/// What is seen of a pool.
#[derive(Clone, Debug, Default)]
pub struct PoolState {
    /// `spec.replicas`.
    pub desired: Option<i64>,
    /// `status.replicas`.
    pub replicas: Option<i64>,
    /// `status.availableReplicas`.
    pub available: Option<i64>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
}

impl World {
    /// Applies a pool of the world's kind: the organization's runners with the label [`LABEL`]; `change` may alter it.
    pub async fn pool(&self, name: &str, change: impl FnOnce(&mut Pool)) -> Result<()> {
        let config = RunnerConfig {
            organization: Some(ORGANIZATION.to_owned()),
            labels: Some(vec![LABEL.to_owned()]),
            ..RunnerConfig::default()
        };
        let mut pool = Pool {
            replicas: None,
            config,
            storage: "1Gi".to_owned(),
            storage_class: None,
            access_mode: "ReadWriteOnce".to_owned(),
        };
        change(&mut pool);
        let spec = match self.kind {
            Kind::RunnerDeployment => serde_json::to_value(deployment(pool)),
            Kind::RunnerSet => serde_json::to_value(runner_set(name, pool, &self.ns)),
        };
        self.object(self.kind.name(), name, &spec.context("could not write the spec")?)
            .await
    }

    /// Asks for so many runners, as `kubectl patch` does.
    pub async fn scale_pool(&self, name: &str, replicas: i32) -> Result<()> {
        self.patch_pool(name, &json!({"replicas": replicas})).await
    }

    /// Gives the runners another image, which is another template.
    pub async fn change_image(&self, name: &str, image: &str) -> Result<()> {
        let spec = match self.kind {
            Kind::RunnerDeployment => json!({"template": {"spec": {"image": image}}}),
            Kind::RunnerSet => json!({"image": image}),
        };
        self.patch_pool(name, &spec).await
    }

    async fn patch_pool(&self, name: &str, spec: &Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let params = PatchParams::default();
        let patched = match self.kind {
            Kind::RunnerDeployment => self
                .api::<RunnerDeployment>()
                .patch(name, &params, &patch)
                .await
                .map(drop),
            Kind::RunnerSet => self
                .api::<RunnerSet>()
                .patch(name, &params, &patch)
                .await
                .map(drop),
        };
        patched.with_context(|| format!("could not change {} {name}", self.kind.name()))
    }

    /// The pool as it is now.
    pub async fn pool_state(&self, name: &str) -> Result<PoolState> {
        let state = match self.kind {
            Kind::RunnerDeployment => {
                let deployment = self.get_deployment(name).await?;
                let status = deployment.status.unwrap_or_default();
                PoolState {
                    desired: deployment.spec.replicas,
                    replicas: status.replicas,
                    available: status.available_replicas,
                    conditions: status.conditions.unwrap_or_default(),
                }
            }
            Kind::RunnerSet => {
                let set = self.api::<RunnerSet>().get(name).await;
                let set = set.with_context(|| format!("could not get RunnerSet {name}"))?;
                let status = set.status.unwrap_or_default();
                PoolState {
                    desired: set.spec.replicas.map(i64::from),
                    replicas: status.replicas,
                    available: status.available_replicas,
                    conditions: status.conditions.unwrap_or_default(),
                }
            }
        };
        Ok(state)
    }

    /// Deletes a pool, without waiting for its end.
    pub async fn delete_pool(&self, name: &str) -> Result<()> {
        match self.kind {
            Kind::RunnerDeployment => self.delete::<RunnerDeployment>(name).await,
            Kind::RunnerSet => self.delete::<RunnerSet>(name).await,
        }
    }

    async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let deleted = self.api::<K>().delete(name, &DeleteParams::default()).await;
        deleted
            .map(drop)
            .with_context(|| format!("could not delete {} {name}", K::kind(&())))
    }

    /// The StatefulSets in the world's namespace.
    pub async fn stateful_sets(&self) -> Result<Vec<StatefulSet>> {
        let list = self.api::<StatefulSet>().list(&ListParams::default()).await;
        list.map(|list| list.items)
            .context("could not list the StatefulSets")
    }

    /// The claims in the world's namespace.
    pub async fn claims(&self) -> Result<Vec<PersistentVolumeClaim>> {
        let list = self
            .api::<PersistentVolumeClaim>()
            .list(&ListParams::default())
            .await;
        list.map(|list| list.items).context("could not list the claims")
    }

    /// The names of the pods of the world's namespace, sorted.
    pub async fn pod_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.pods().await?.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }
}

fn deployment(pool: Pool) -> RunnerDeploymentSpec {
    RunnerDeploymentSpec {
        replicas: pool.replicas.map(i64::from),
        template: RunnerTemplate {
            spec: RunnerSpec {
                config: pool.config,
                ..RunnerSpec::default()
            },
            ..RunnerTemplate::default()
        },
        ..RunnerDeploymentSpec::default()
    }
}

/// A RunnerSet whose runners mount a volume of `class` unless the pool names another.
fn runner_set(name: &str, pool: Pool, class: &str) -> RunnerSetSpec {
    let labels: std::collections::BTreeMap<_, _> = [("pool".to_owned(), name.to_owned())].into();
    let runner = Container {
        name: "runner".to_owned(),
        volume_mounts: Some(vec![VolumeMount {
            name: CACHE.to_owned(),
            mount_path: "/cache".to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    };
    let requests = [("storage".to_owned(), Quantity(pool.storage))].into();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CACHE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![pool.access_mode]),
            storage_class_name: Some(pool.storage_class.unwrap_or_else(|| class.to_owned())),
            resources: Some(VolumeResourceRequirements {
                requests: Some(requests),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    };
    RunnerSetSpec {
        config: pool.config,
        replicas: pool.replicas,
        selector: LabelSelector {
            match_labels: Some(labels.clone()),
            ..LabelSelector::default()
        },
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                containers: vec![runner],
                ..PodSpec::default()
            }),
        },
        volume_claim_templates: Some(vec![claim]),
        ..RunnerSetSpec::default()
    }
}
