//! Busy pods are protected from evictions that ask first, idle ones are not: also where no webhook says who is busy.

use std::time::Duration;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use muster_tests::world::World;

const MINUTE: Duration = Duration::from_mins(1);
const MARKS: [&str; 2] = [
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
    "karpenter.sh/do-not-disrupt",
];

/// Whether the only pod is marked as busy: by the label that the budget selects, and by both annotations.
async fn marks(world: &World) -> anyhow::Result<(bool, usize)> {
    let pods = world.pods().await?;
    let Some(pod) = pods.first() else {
        return Ok((false, 0));
    };
    let known = MARKS.iter().filter(|key| pod.annotations().contains_key(**key));
    Ok((pod.labels().contains_key("muster.dev/busy"), known.count()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_runner_of_a_fixed_pool_is_protected_while_it_is_busy() {
    // GitHub's listing is the only source: fresh at once here, and looked at every second.
    let world = World::builder("protection")
        .github(|options| options.max_age = 1)
        .manager_flag("--sync-period=1s")
        .start()
        .await
        .unwrap();
    world
        .deployment("pool", |spec| {
            spec.replicas = Some(1);
            spec.template.spec.config.ephemeral = Some(false);
        })
        .await
        .unwrap();
    let known = async |world: &World| {
        let pods = world.pods().await?;
        Ok(pods
            .iter()
            .any(|pod| pod.annotations().contains_key("actions-runner/id")))
    };
    world.until("the runner is known", MINUTE, known).await.unwrap();
    assert_eq!(marks(&world).await.unwrap(), (false, 0));
    world.queue_job(Duration::from_secs(6));
    let busy = async |world: &World| Ok(marks(world).await? == (true, 2));
    world
        .until("the busy pod is protected", MINUTE, busy)
        .await
        .unwrap();
    assert_eq!(world.github.job_stats().in_progress, 1);
    let budget: PodDisruptionBudget = world.api().get("muster-busy-runners").await.unwrap();
    let selected = budget.spec.and_then(|spec| spec.selector?.match_labels).unwrap();
    assert!(selected.contains_key("muster.dev/busy"), "{selected:?}");
    world.until_jobs_done(MINUTE).await.unwrap();
    let idle = async |world: &World| Ok(marks(world).await? == (false, 0));
    world.until("the idle pod is not", MINUTE, idle).await.unwrap();
}
