//! Runners that come and go without a webhook: fixed sizes, graceful stops, template changes, deletions, GitHub's faults.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use muster_crds::legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet};
use muster_tests::{
    github::{Family, Fault, FaultKind},
    world::World,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_mins(1);

async fn scale(world: &World, name: &str, replicas: i64) {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    world
        .api::<RunnerDeployment>()
        .patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn until_online(world: &World, count: usize) {
    world
        .until("the runners are online", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == count)
        })
        .await
        .unwrap();
}

/// The message of condition `Reconciled=False`, once it is there.
fn complaint(
    conditions: Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>>,
) -> Option<String> {
    conditions?
        .into_iter()
        .find(|c| c.type_ == "Reconciled" && c.status == "False")
        .map(|c| c.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_runners_are_off_github_before_their_pods_go() {
    let world = World::new("scale-down").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(3))
        .await
        .unwrap();
    until_online(&world, 3).await;
    world
        .until("status is reported", MINUTE, async |world: &World| {
            let status = world.get_deployment("pool").await?.status.unwrap_or_default();
            Ok(status.replicas == Some(3) && status.available_replicas == Some(3))
        })
        .await
        .unwrap();
    scale(&world, "pool", 1).await;
    world
        .until("two runners went", MINUTE, async |world: &World| {
            Ok(world.runners().await?.len() == 1 && world.pods().await?.len() == 1)
        })
        .await
        .unwrap();
    assert_eq!(world.github.runners().len(), 1);
    assert_eq!(
        world.github.counters().get("remove_runner"),
        Some(&2),
        "each was removed by GitHub's API, once"
    );
    assert_eq!(world.kubelet.counters().busy_deleted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_runner_is_left_to_finish() {
    let world = World::new("busy").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(1))
        .await
        .unwrap();
    until_online(&world, 1).await;
    world.queue_job(Duration::from_secs(4));
    world
        .until("the job runs", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 1)
        })
        .await
        .unwrap();
    scale(&world, "pool", 0).await;
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_eq!(
        (world.kubelet.counters().busy_deleted, world.github.interrupted()),
        (0, 0)
    );
    assert_eq!(world.kubelet.counters().pods_created, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_runner_of_a_fixed_set_is_replaced() {
    let world = World::new("fixed").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(1))
        .await
        .unwrap();
    for _ in 0..3 {
        world.queue_job(Duration::from_millis(50));
    }
    world.until_jobs_done(MINUTE).await.unwrap();
    until_online(&world, 1).await;
    let counters = world.github.counters();
    assert_eq!(
        counters.get("remove_runner").copied().unwrap_or(0),
        0,
        "finished ephemeral runners remove themselves"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_by_hand_is_unregistered_and_replaced() {
    let world = World::new("deleted").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(1))
        .await
        .unwrap();
    until_online(&world, 1).await;
    let first = world.pods().await.unwrap().remove(0).name_any();
    world
        .api::<Pod>()
        .delete(&first, &DeleteParams::default())
        .await
        .unwrap();
    world
        .until("another runner took its place", MINUTE, async |world: &World| {
            let pods = world.pods().await?;
            let runners = world.github.runners();
            Ok(pods.len() == 1 && pods.iter().all(|pod| pod.name_any() != first) && runners.len() == 1)
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_change_brings_new_runners_up_and_lets_old_ones_finish() {
    let world = World::new("rollout").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(2))
        .await
        .unwrap();
    until_online(&world, 2).await;
    world.queue_job(Duration::from_secs(3));
    world
        .until("the job runs", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 1)
        })
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"image": "runner:2"}}}}));
    world
        .api::<RunnerDeployment>()
        .patch("pool", &PatchParams::default(), &patch)
        .await
        .unwrap();
    world
        .until("only the new template is left", MINUTE, async |world: &World| {
            let sets = world
                .api::<RunnerReplicaSet>()
                .list(&ListParams::default())
                .await?
                .items;
            let pods = world.pods().await?;
            let new = pods.iter().filter(|pod| {
                let spec = pod.spec.as_ref();
                spec.is_some_and(|spec| {
                    spec.containers
                        .iter()
                        .any(|c| c.image.as_deref() == Some("runner:2"))
                })
            });
            Ok(sets.len() == 1 && pods.len() == 2 && new.count() == 2)
        })
        .await
        .unwrap();
    world.until_jobs_done(MINUTE).await.unwrap();
    assert_eq!(
        (world.kubelet.counters().busy_deleted, world.github.interrupted()),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_on_the_object_and_stops_nobody_else() {
    let world = World::new("invalid").await.unwrap();
    world.deployment("good", |_| {}).await.unwrap();
    world.autoscaler("good", "good", |_| {}).await.unwrap();
    world
        .autoscaler("no-max", "good", |spec| spec.max_replicas = None)
        .await
        .unwrap();
    world.autoscaler("no-target", "missing", |_| {}).await.unwrap();
    world
        .autoscaler("no-duration", "good", |spec| {
            spec.scale_up_triggers.as_mut().unwrap()[0].duration = Some("banana".to_owned());
        })
        .await
        .unwrap();
    world
        .deployment("mismatch", |spec| {
            spec.replicas = Some(1);
            spec.selector = Some(serde_json::from_value(json!({"matchLabels": {"app": "other"}})).unwrap());
        })
        .await
        .unwrap();
    world
        .deployment("kubernetes", |spec| {
            spec.replicas = Some(1);
            spec.template.spec.config.container_mode = Some("kubernetes".to_owned());
        })
        .await
        .unwrap();

    for (name, words) in [
        ("no-max", "spec.maxReplicas"),
        ("no-target", "missing"),
        ("no-duration", "banana"),
    ] {
        world
            .until(name, MINUTE, async |world: &World| {
                let autoscaler: HorizontalRunnerAutoscaler = world.get_autoscaler(name).await?;
                let message = complaint(autoscaler.status.unwrap_or_default().conditions);
                Ok(message.is_some_and(|message| message.contains(words)))
            })
            .await
            .unwrap();
    }
    world
        .until("the selector is named", MINUTE, async |world: &World| {
            let message = complaint(
                world
                    .get_deployment("mismatch")
                    .await?
                    .status
                    .unwrap_or_default()
                    .conditions,
            );
            Ok(message.is_some_and(|message| message.contains("spec.selector")))
        })
        .await
        .unwrap();
    world
        .until("the mode is named", MINUTE, async |world: &World| {
            let runners = world.api::<Runner>().list(&ListParams::default()).await?.items;
            let said = |runner: Runner| complaint(runner.status.unwrap_or_default().conditions);
            Ok(runners
                .into_iter()
                .filter_map(said)
                .any(|message| message.contains("containerMode")))
        })
        .await
        .unwrap();
    let events = world
        .api::<Event>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("RunnerAutoscalingFailure"))
    );

    // The mismatched selector makes no runners without end, and the good pool works.
    world.queue_job(Duration::from_millis(50));
    world.until_jobs_done(MINUTE).await.unwrap();
    let runners = world
        .api::<Runner>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(runners.len() <= 2, "{}", runners.len());

    a_correction_heals(&world).await;
}

async fn a_correction_heals(world: &World) {
    let patch = Patch::Merge(json!({"spec": {"maxReplicas": 3}}));
    world
        .api::<HorizontalRunnerAutoscaler>()
        .patch("no-max", &PatchParams::default(), &patch)
        .await
        .unwrap();
    world
        .until("the condition is true", MINUTE, async |world: &World| {
            let status = world.get_autoscaler("no-max").await?.status.unwrap_or_default();
            Ok(status
                .conditions
                .unwrap_or_default()
                .iter()
                .any(|c| c.type_ == "Reconciled" && c.status == "True"))
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_said_and_scales_nothing() {
    let world = World::new("refused").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(1))
        .await
        .unwrap();
    until_online(&world, 1).await;
    world
        .github
        .inject(Fault::on(Family::RegistrationToken, FaultKind::Unauthorized));
    world
        .github
        .inject(Fault::on(Family::ListRunners, FaultKind::Unauthorized));
    // The token that is cached still serves this scope; another scope needs a new one.
    world
        .deployment("other", |spec| {
            spec.replicas = Some(1);
            spec.template.spec.config.organization = None;
            spec.template.spec.config.repository = Some("muster/other".to_owned());
        })
        .await
        .unwrap();
    world
        .until("the condition says what to do", MINUTE, async |world: &World| {
            let runners = world.api::<Runner>().list(&ListParams::default()).await?.items;
            let said = |runner: Runner| complaint(runner.status.unwrap_or_default().conditions);
            Ok(runners
                .into_iter()
                .filter_map(said)
                .any(|message| message.contains("renew the token")))
        })
        .await
        .unwrap();
    let events = world
        .api::<Event>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("FailedUpdateRegistrationToken"))
    );
    let runners = world
        .api::<Runner>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(runners.len(), 2, "nothing was scaled by the error");
    assert_eq!(world.pods().await.unwrap().len(), 1);
}
