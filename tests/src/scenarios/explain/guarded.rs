//! Causes of the namespace: a quota, a Pod Security level; and a job that only queue reconciliation finds.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Namespace, ResourceQuota, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    control_plane::manifests,
    github::{JobSpec, WebhookChaos},
    world::{LABEL, REPOSITORY, World},
};

use super::Case;

/// Jobs that are to be there as long as anybody asks.
const LONG: Duration = Duration::from_mins(30);

/// A namespace that lets no privileged pod in, and of those with requests none at all.
pub(super) async fn all() -> Result<(World, Vec<Case>)> {
    let world = World::builder("explain-guarded")
        .repository(REPOSITORY)
        .manager_flag("--queue-reconciliation-period=1s")
        .manager_flag("--queue-reconciliation-grace=1s")
        .manager_flag(&format!("--queue-reconciliation-repository={REPOSITORY}"))
        .start()
        .await?;
    guard(&world).await?;
    world
        .deployment("privileged", |spec| spec.replicas = Some(1))
        .await?;
    world
        .deployment("greedy", |spec| {
            spec.replicas = Some(1);
            spec.template.spec.config.docker_enabled = Some(false);
            spec.template.spec.pod.resources = Some(ResourceRequirements {
                requests: Some(BTreeMap::from([("cpu".to_owned(), Quantity("100m".to_owned()))])),
                ..ResourceRequirements::default()
            });
        })
        .await?;
    // The runner starts so slowly that the job stays queued.
    world
        .deployment("found", |spec| {
            spec.template.spec.config.docker_enabled = Some(false);
            let meta = spec.template.metadata.get_or_insert_default();
            let fault = ("sim.muster.dev/fault".to_owned(), "slow-start=900".to_owned());
            meta.annotations = Some(BTreeMap::from([fault]));
        })
        .await?;
    world.autoscaler("found", "found", |_| {}).await?;
    world.github.set_webhook_chaos(WebhookChaos {
        forget: 1.0,
        ..WebhookChaos::default()
    });
    let job = world
        .github
        .queue_job(JobSpec::new(REPOSITORY, ["self-hosted", LABEL]).duration(LONG));
    let key = format!("{}/{}", job.repository_id, job.id);
    let cases = vec![
        Case::new(
            "Pod Security refuses the pod",
            &world.ns,
            "pool",
            "privileged",
            "PodSecurityViolated",
        ),
        Case::new(
            "the quota is used up",
            &world.ns,
            "pool",
            "greedy",
            "QuotaExceeded",
        ),
        Case::new("the webhook was lost", &world.ns, "job", key, "WebhookMissed"),
    ];
    Ok((world, cases))
}

async fn guard(world: &World) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    namespaces
        .patch(&world.ns, &PatchParams::default(), &Patch::Merge(labels))
        .await
        .context("could not label the namespace")?;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-requests"},
        "spec": {"hard": {"pods": "0"}, "scopes": ["NotBestEffort"]}});
    manifests::apply_value(&world.client, &world.ns, &quota).await?;
    // The quota controller is not among those that run here: its part is to write down what is used.
    let status = json!({"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
    world
        .api::<ResourceQuota>()
        .patch_status("no-requests", &PatchParams::default(), &Patch::Merge(status))
        .await
        .context("could not write the quota's status")?;
    Ok(())
}
