//! The end of a world on somebody's cluster, where nobody else would clear it away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use muster_crds::legacy::{Runner, RunnerDeployment, RunnerReplicaSet};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::World;

/// The namespace must be gone within this time.
const DEADLINE: Duration = Duration::from_mins(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);

impl World {
    /// Ends everything in order and deletes the namespace: what an existing cluster needs. On an embedded one
    /// dropping the world is enough.
    pub async fn tear_down(self) -> Result<()> {
        self.kill_all().await?;
        let stopped = self.kubelet.stop().await;
        remove_namespace(&self.client, &self.ns).await?;
        stopped
    }
}

/// Deletes a namespace with what is in it, and waits until it is gone. Its controllers are dead by now: finalizers
/// are taken off for them, and pods go without a kubelet's word.
pub(super) async fn remove_namespace(client: &Client, ns: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let end = Instant::now() + DEADLINE;
    loop {
        match namespaces.delete(ns, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            // It is on its way.
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(error).context("could not delete the namespace"),
        }
        release::<RunnerDeployment>(client, ns).await?;
        release::<RunnerReplicaSet>(client, ns).await?;
        release::<Runner>(client, ns).await?;
        release::<Pod>(client, ns).await?;
        if Instant::now() > end {
            bail!("namespace {ns} is not gone after {DEADLINE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes the finalizers off all objects of a kind, and deletes them at once.
async fn release<K>(client: &Client, ns: &str) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), ns);
    let list = api
        .list_metadata(&ListParams::default())
        .await
        .context("could not list what is left in the namespace")?;
    for object in list {
        let name = object.name_any();
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::background()
        };
        let freed = api.patch_metadata(&name, &PatchParams::default(), &free).await;
        for result in [freed.map(drop), api.delete(&name, &at_once).await.map(drop)] {
            match result {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => other.with_context(|| format!("could not remove {name}"))?,
            }
        }
    }
    Ok(())
}
