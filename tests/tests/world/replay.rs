//! Delivery replay in all its places: several replicas, a GitHub App on an Enterprise Server, other events than jobs.

use std::time::Duration;

use muster_crds::legacy::{GitHubEventScaleUpTriggerSpec, PushSpec, ScaleUpTrigger};
use muster_tests::{
    github::{HookSpec, WebhookChaos},
    scenarios::{
        credentials::key_pair,
        recovery::{self, REPLAY, missed_by_the_log, recovered, until_the_metric_equals_the_log},
    },
    world::{APP, REPOSITORY, SECRET, World},
};
use serde_json::json;

const PERIOD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(45);

/// Nothing arrives, and the log says so.
fn lost() -> WebhookChaos {
    WebhookChaos {
        lose: 1.0,
        ..WebhookChaos::default()
    }
}

/// The webhook servers that have scanned a log.
async fn scanning(world: &World) -> Vec<usize> {
    let mut found = Vec::new();
    for (replica, component) in world.webhook_components().iter().enumerate() {
        let scans = world.metric(component, "muster_replay_scans_total", &[]).await;
        if scans.is_ok_and(|scans| scans > 0) {
            found.push(replica);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_replays_and_another_takes_over_when_it_is_killed() {
    let world = recovery::builder("replay-replicas", REPLAY, PERIOD, WebhookChaos::default())
        .webhook_replicas(2)
        .start()
        .await
        .unwrap();
    let world = recovery::with_pool(world).await.unwrap();
    let hook = world.hook.unwrap();
    world.queue_jobs(2, Duration::from_millis(200));
    world.until_jobs_done(PATIENCE).await.unwrap();
    world.github.set_webhook_chaos(lost());
    world.queue_jobs(5, Duration::from_millis(200));
    world.until_jobs_done(PATIENCE).await.unwrap();
    let before = until_the_metric_equals_the_log(&world, hook, PATIENCE)
        .await
        .unwrap();
    assert!(before >= 15, "queued, in_progress and completed of five jobs");
    let scanned = scanning(&world).await;
    assert_eq!(scanned.len(), 1, "one replica at a time");

    world.kill_webhook_replica(scanned[0]).await.unwrap();
    world.queue_jobs(5, Duration::from_millis(200));
    world.until_jobs_done(PATIENCE).await.unwrap();
    let other = &world.webhook_components()[1 - scanned[0]];
    world
        .until(
            "the other replica has found the rest",
            PATIENCE,
            async |world: &World| {
                let log = u64::try_from(missed_by_the_log(world, hook).len())?;
                let missed = world.metric(other, "muster_missed_deliveries_total", &[]).await?;
                // What the first one found shortly before its end may be found again: its effect is none.
                Ok(missed >= log - before && missed <= log)
            },
        )
        .await
        .unwrap();
    world.until_nothing_left(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deliveries_of_an_apps_hook_on_an_enterprise_server_are_replayed() {
    let (private, public) = key_pair().unwrap();
    let world = recovery::builder("replay-app", REPLAY, PERIOD, WebhookChaos::default())
        .replay_as_app(&private, &public)
        .start()
        .await
        .unwrap();
    let world = recovery::with_pool(world).await.unwrap();
    world.github.set_hook_active(world.hook.unwrap(), false);
    let spec = HookSpec::app(APP, 77, &world.webhook_url, SECRET);
    let hook = world.github.add_hook(spec);
    // The hook is learned from what arrives.
    world.queue_job(Duration::from_millis(200));
    world.until_jobs_done(PATIENCE).await.unwrap();
    world.github.set_webhook_chaos(lost());
    world.queue_jobs(3, Duration::from_millis(200));
    world.until_jobs_done(PATIENCE).await.unwrap();
    until_the_metric_equals_the_log(&world, hook, PATIENCE)
        .await
        .unwrap();
    world.until_nothing_left(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_failed_adds_its_triggers_runners_once() {
    let world = recovery::builder("replay-push", REPLAY, PERIOD, WebhookChaos::default())
        .without_manager()
        .start()
        .await
        .unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    let push = ScaleUpTrigger {
        github_event: Some(GitHubEventScaleUpTriggerSpec {
            push: Some(PushSpec::default()),
            ..GitHubEventScaleUpTriggerSpec::default()
        }),
        amount: Some(3),
        duration: Some("5m".to_owned()),
    };
    world
        .autoscaler("pool", "pool", |spec| {
            spec.scale_up_triggers = Some(vec![push]);
        })
        .await
        .unwrap();
    recovery::until_ready(&world).await.unwrap();
    let hook = world.hook.unwrap();
    let (owner, name) = REPOSITORY.split_once('/').unwrap();
    let body = json!({
        "ref": "refs/heads/main",
        "repository": {"id": 7, "name": name, "full_name": REPOSITORY, "owner": {"login": owner, "type": "Organization"}},
    });
    let entries = async |world: &World| {
        let spec = world.get_autoscaler("pool").await?.spec;
        let entries = spec.capacity_reservations.into_iter().flatten();
        anyhow::Ok(
            entries
                .map(|entry| (entry.name.unwrap_or_default(), entry.replicas))
                .collect::<Vec<_>>(),
        )
    };
    world.github.send_event(hook, "push", body.to_string());
    world
        .until(
            "the first push has added its runners",
            PATIENCE,
            async |world: &World| Ok(entries(world).await?.len() == 1),
        )
        .await
        .unwrap();
    world.github.set_webhook_chaos(lost());
    world.github.send_event(hook, "push", body.to_string());
    world
        .until("so has the one that failed", PATIENCE, async |world: &World| {
            Ok(recovered(world).await? == 1 && entries(world).await?.len() == 2)
        })
        .await
        .unwrap();
    let missed = missed_by_the_log(&world, hook);
    let name = format!("push/{}", missed.first().unwrap());
    assert!(entries(&world).await.unwrap().contains(&(name, Some(3))));
}
