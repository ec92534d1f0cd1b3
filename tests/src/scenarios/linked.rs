//! What jobs in kubernetes mode leave when Muster may not delete Secrets, a right that is optional: it is said, and it
//! holds nothing up for ever.

use std::{collections::BTreeSet, time::Duration, time::Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::{
    ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use crate::world::World;

/// A runner starts, and a job ends, within this time.
const MINUTE: Duration = Duration::from_mins(1);
/// For so long the right may still be given.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// What came out.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How long the pod was held after its job.
    pub held: Duration,
    /// Reasons of the Events that people were told.
    pub reasons: BTreeSet<String>,
    /// Whether the Secret that nobody may delete is still there.
    pub secret_is_left: bool,
    /// Whether what may be deleted is gone.
    pub job_pod_is_gone: bool,
}

impl Figures {
    /// Whether the pod was held for the time that is promised, not much longer, and everything was said.
    pub fn is_good(&self) -> bool {
        let told = |reason: &str| self.reasons.contains(reason);
        let held = (PATIENCE..PATIENCE + Duration::from_secs(20)).contains(&self.held);
        held && self.secret_is_left
            && self.job_pod_is_gone
            && told("LinkedResourcesNotDeleted")
            && told("LinkedResourcesLeft")
    }
}

/// Runs one job that leaves a Secret and a pod, under the rights of `config/rbac` without the optional ones.
pub async fn without_the_right(world: &World) -> Result<Figures> {
    let claim = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = serde_json::from_value(claim).context("the claim template is none")?;
    world
        .deployment("jobs", |spec| {
            spec.template.spec.config.container_mode = Some("kubernetes".to_owned());
            let pod = &mut spec.template.spec.pod;
            pod.work_volume_claim_template = Some(claim);
            // An account of its own: no right to make one is needed.
            pod.service_account_name = Some("default".to_owned());
        })
        .await?;
    world.autoscaler("jobs", "jobs", |_| {}).await?;
    world.queue_job(Duration::from_secs(6));
    let runs = async |world: &World| Ok(world.github.job_stats().in_progress == 1);
    world.until("the job runs", MINUTE, runs).await?;
    let pods = world.pods().await?;
    let runner = pods.first().context("there is no runner's pod")?.name_any();
    leave_behind(world, &runner).await?;
    world.until_jobs_done(MINUTE).await?;

    let begun = Instant::now();
    let gone = {
        let runner = runner.clone();
        async move |world: &World| Ok(world.pods().await?.iter().all(|pod| pod.name_any() != runner))
    };
    world
        .until("the runner's pod is gone", PATIENCE + MINUTE, gone)
        .await?;
    let held = begun.elapsed();
    let secrets = world.api::<Secret>().list(&ListParams::default()).await;
    let secrets = secrets.context("could not list the Secrets")?;
    let events = world.api::<Event>().list(&ListParams::default()).await;
    let events = events.context("could not list the Events")?;
    Ok(Figures {
        held,
        reasons: events
            .items
            .into_iter()
            .filter_map(|event| event.reason)
            .collect(),
        secret_is_left: secrets.iter().any(|secret| secret.name_any() == "of-the-job"),
        job_pod_is_gone: world.pods().await?.is_empty(),
    })
}

/// What the container hooks make for a job.
async fn leave_behind(world: &World, runner: &str) -> Result<()> {
    let labels = json!({"runner-pod": runner});
    let secret = json!({"metadata": {"name": "of-the-job", "labels": labels}});
    let secret: Secret = serde_json::from_value(secret).context("the Secret is none")?;
    let made = world.api().create(&PostParams::default(), &secret).await;
    made.context("could not make the Secret")?;
    let job = json!({
        "metadata": {"name": "job", "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "job", "image": "node:24"}]}
    });
    let job: Pod = serde_json::from_value(job).context("the job's pod is none")?;
    let made = world.api().create(&PostParams::default(), &job).await;
    made.map(drop).context("could not make the job's pod")
}
