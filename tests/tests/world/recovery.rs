//! Webhooks that get lost: the queue is the truth (spec 20 "Recovery").

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use muster_tests::{
    github::{Family, Fault, FaultKind, WebhookChaos},
    scenarios::recovery::{self, BOTH, Loops, Losses, QUEUE, Quiet, REPLAY, calls, losses, quiet},
    world::World,
};
use serde_json::json;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_mins(1);
const PERIOD: Duration = Duration::from_secs(3);
/// What a look, a write, a pod's start and a loaded machine add to a period.
const SLACK: Duration = Duration::from_secs(20);

async fn metric(world: &World, process: &str, name: &str, labels: &[&str]) -> u64 {
    world.metric(process, name, labels).await.unwrap()
}

async fn drift(world: &World, kind: &str) -> u64 {
    recovery::drift(world, kind).await.unwrap()
}

async fn pool(name: &str, loops: Loops, chaos: WebhookChaos) -> World {
    recovery::pool(name, loops, PERIOD, chaos).await.unwrap()
}

/// Queues 30 jobs, half of them while the webhook server is down; returns when it is up again.
async fn thirty_jobs_and_an_outage(world: &World) -> Instant {
    world.queue_jobs(15, Duration::from_millis(300));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.kill_webhook_server().await.unwrap();
    world.queue_jobs(15, Duration::from_millis(300));
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.restart_webhook_server().await.unwrap();
    Instant::now()
}

async fn all_is_well(world: &World, up: Instant) {
    world.until_jobs_done(PERIOD + SLACK).await.unwrap();
    world.until_nothing_left(2 * PERIOD + SLACK).await.unwrap();
    let took = up.elapsed();
    assert!(took < 2 * PERIOD + SLACK, "nothing was left after {took:?} only");
    let counters = world.kubelet.counters();
    assert_eq!(
        (counters.busy_deleted, world.github.interrupted()),
        (0, 0),
        "no job was harmed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_alone_recovers_what_webhooks_did_not_tell() {
    let chaos = WebhookChaos {
        lose: 0.07,
        swallow: 0.07,
        forget: 0.07,
        ..WebhookChaos::default()
    };
    let world = pool("recovery-queue", QUEUE, chaos).await;
    let up = thirty_jobs_and_an_outage(&world).await;
    all_is_well(&world, up).await;
    let missing = drift(&world, "missing").await;
    assert!(missing > 0 && missing <= 30, "{missing} jobs were missing");
    let looks = metric(
        &world,
        "manager",
        "muster_queue_reconciliations_total",
        &["outcome=\"ok\""],
    )
    .await;
    assert!(looks > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_both_loops_keep_to_their_budgets_and_find_nothing() {
    let wanted = Quiet {
        jobs: 8,
        every: Duration::from_millis(800),
        period: PERIOD,
    };
    let figures = quiet("recovery-budget", &wanted).await.unwrap();
    assert!(
        figures.is_within_budget() && figures.drift == [0, 0],
        "{figures:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_for_runs_webhooks_work_and_the_autoscaler_says_so() {
    let world = pool("recovery-forbidden", QUEUE, WebhookChaos::default()).await;
    world
        .github
        .inject(Fault::on(Family::ListRuns, FaultKind::Forbidden));
    world.queue_jobs(3, Duration::from_millis(300));
    world.until_jobs_done(MINUTE).await.unwrap();
    world
        .until("the condition is there", MINUTE, async |world: &World| {
            let status = world.get_autoscaler("pool").await?.status.unwrap_or_default();
            let found = status.conditions.into_iter().flatten().find(|condition| {
                condition.type_ == "QueueReconciled"
                    && condition.status == "False"
                    && condition.message.contains("muster/demo")
            });
            Ok(found.is_some())
        })
        .await
        .unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    tokio::time::sleep(PERIOD + Duration::from_secs(1)).await;
    let asked = calls(&world, "list_runs");
    assert_eq!(asked, 1, "what was refused is not asked for again soon");
    let refused = metric(
        &world,
        "manager",
        "muster_queue_reconciliations_total",
        &["outcome=\"refused\""],
    )
    .await;
    assert_eq!(refused, 1);
}

/// Queues 30 jobs, half of them while nothing listens where the webhook points to; returns when something does again.
async fn thirty_jobs_and_a_wrong_address(world: &World) -> Instant {
    let hook = world.hook.unwrap();
    world.queue_jobs(15, Duration::from_millis(300));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.github.set_hook_url(hook, "http://127.0.0.1:1/"));
    world.queue_jobs(15, Duration::from_millis(300));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.github.set_hook_url(hook, &world.webhook_url));
    Instant::now()
}

async fn the_metric_equals_the_log(world: &World) -> u64 {
    let hook = world.hook.unwrap();
    recovery::until_the_metric_equals_the_log(world, hook, PERIOD + SLACK)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_alone_recovers_what_github_logged_as_failed() {
    let chaos = WebhookChaos {
        lose: 0.2,
        ..WebhookChaos::default()
    };
    let world = pool("recovery-replay", REPLAY, chaos).await;
    let up = thirty_jobs_and_a_wrong_address(&world).await;
    all_is_well(&world, up).await;
    assert!(the_metric_equals_the_log(&world).await >= 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_loops_recover_lost_and_untold_webhooks_and_an_outage() {
    let wanted = Losses {
        jobs: 30,
        length: Duration::from_millis(300),
        lose: 0.1,
        forget: 0.1,
        outage: Duration::from_secs(2),
        period: PERIOD,
        untold: 3,
    };
    let figures = losses("recovery-both", &wanted).await.unwrap();
    assert!(figures.started < PERIOD + SLACK, "{figures:#?}");
    assert!(figures.gone < 2 * PERIOD + SLACK, "{figures:#?}");
    assert_eq!((figures.untold, figures.harmed), (3, 0), "{figures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_server_that_was_down_goes_on_where_it_had_read_to() {
    let world = pool("recovery-restart", REPLAY, WebhookChaos::default()).await;
    world.queue_job(Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    world
        .until("the hook is written down", MINUTE, async |world: &World| {
            let leases = world.api::<k8s_openapi::api::coordination::v1::Lease>();
            let lease = leases.get("github-webhook-server-replay").await?;
            let note = lease.metadata.annotations.unwrap_or_default();
            Ok(note
                .get("muster.dev/replay")
                .is_some_and(|note| note.contains("cursor")))
        })
        .await
        .unwrap();
    world.kill_webhook_server().await.unwrap();
    world.queue_jobs(5, Duration::from_millis(200));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.restart_webhook_server().await.unwrap();
    let up = Instant::now();
    all_is_well(&world, up).await;
    the_metric_equals_the_log(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_its_lease_replay_is_off_and_says_so() {
    let loops = Loops {
        queue: true,
        replay: Some(false),
    };
    let world = pool("recovery-no-lease", loops, WebhookChaos::default()).await;
    world.queue_jobs(3, Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    tokio::time::sleep(PERIOD).await;
    let enabled = world.metrics("github-webhook-server").await.unwrap();
    assert!(enabled.contains("muster_replay_enabled 0"), "{enabled}");
    assert_eq!(calls(&world, "deliveries"), 0);
    let log = std::fs::read_to_string(world.dir().join("github-webhook-server.log")).unwrap();
    assert_eq!(log.matches("Delivery replay is off").count(), 1, "said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_for_deliveries_replay_backs_off_and_says_so_once() {
    let world = pool("recovery-replay-forbidden", BOTH, WebhookChaos::default()).await;
    world
        .github
        .inject(Fault::on(Family::Deliveries, FaultKind::Forbidden));
    world.queue_jobs(3, Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    world
        .until("replay was refused", MINUTE, async |world: &World| {
            let refused = metric(
                world,
                "github-webhook-server",
                "muster_replay_scans_total",
                &["outcome=\"refused\""],
            );
            Ok(refused.await == 1)
        })
        .await
        .unwrap();
    world
        .until("the condition is there", MINUTE, async |world: &World| {
            let status = world.get_autoscaler("pool").await?.status.unwrap_or_default();
            let mut conditions = status.conditions.into_iter().flatten();
            Ok(conditions.any(|condition| {
                condition.type_ == "DeliveriesReplayed"
                    && condition.status == "False"
                    && condition.message.contains("of muster ")
            }))
        })
        .await
        .unwrap();
    tokio::time::sleep(2 * PERIOD).await;
    assert_eq!(calls(&world, "deliveries"), 1);
    let log = std::fs::read_to_string(world.dir().join("github-webhook-server.log")).unwrap();
    assert_eq!(log.matches("does not show the deliveries").count(), 1);
}

/// Whoever replaces the list has their way, but jobs that wait do not wait for the next period.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_empties_is_told_of_and_compared_with_the_queue_at_once() {
    let world = recovery::pool("recovery-emptied", QUEUE, 2 * MINUTE, WebhookChaos::default())
        .await
        .unwrap();
    let api = world.api::<HorizontalRunnerAutoscaler>();
    let patch = async |spec: serde_json::Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch("pool", &PatchParams::default(), &patch).await.unwrap();
    };
    patch(json!({"maxReplicas": 0})).await;
    world.queue_jobs(3, Duration::from_millis(200));
    world
        .until("the queue was looked at", MINUTE, async |world: &World| {
            let looks = world.metric(
                "manager",
                "muster_queue_reconciliations_total",
                &["outcome=\"ok\""],
            );
            Ok(looks.await? == 1 && world.leftovers().await?.live_reservations == 3)
        })
        .await
        .unwrap();
    patch(json!({"capacityReservations": null})).await;
    world
        .until("the jobs count again", MINUTE, async |world: &World| {
            Ok(drift(world, "missing").await == 3 && world.leftovers().await?.live_reservations == 3)
        })
        .await
        .unwrap();
    world
        .until("the condition says so", MINUTE, async |world: &World| {
            let status = world.get_autoscaler("pool").await?.status.unwrap_or_default();
            let mut conditions = status.conditions.into_iter().flatten();
            Ok(conditions.any(|condition| {
                condition.type_ == "LedgerReplaced"
                    && condition.status == "True"
                    && condition.message.starts_with("3 entries vanished")
            }))
        })
        .await
        .unwrap();
    patch(json!({"maxReplicas": 3})).await;
    world.until_jobs_done(MINUTE).await.unwrap();
}
