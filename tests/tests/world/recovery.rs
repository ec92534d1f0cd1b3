//! Webhooks that get lost: the queue is the truth (spec 20 "Recovery").

use std::{collections::BTreeSet, time::Duration};

use muster_tests::{
    github::{Family, Fault, FaultKind, WebhookChaos},
    world::World,
};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_mins(1);
const PERIOD: Duration = Duration::from_secs(3);
/// What a look, a write, a pod's start and a loaded machine add to a period.
const SLACK: Duration = Duration::from_secs(20);

/// The value of a metric's series that has all these label pairs; 0 when there is none.
async fn metric(world: &World, process: &str, name: &str, labels: &[&str]) -> u64 {
    let text = world.metrics(process).await.unwrap();
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

async fn drift(world: &World, kind: &str) -> u64 {
    let label = format!("kind=\"{kind}\"");
    metric(world, "manager", "muster_demand_drift_jobs_total", &[&label]).await
}

fn calls(world: &World, family: &str) -> u64 {
    world.github.counters().get(family).copied().unwrap_or_default()
}

/// Which loops run; replay with or without the right to its Lease.
#[derive(Clone, Copy)]
struct Loops {
    queue: bool,
    replay: Option<bool>,
}

const QUEUE: Loops = Loops {
    queue: true,
    replay: None,
};
const REPLAY: Loops = Loops {
    queue: false,
    replay: Some(true),
};
const BOTH: Loops = Loops {
    queue: true,
    replay: Some(true),
};

/// A world with a pool, fast loops, and a GitHub that sends every webhook once, as the real one does.
async fn pool(name: &str, loops: Loops, chaos: WebhookChaos) -> World {
    let seconds = |on: bool| if on { PERIOD.as_secs() } else { 0 };
    let mut builder = World::builder(name)
        .github(|options| {
            options.resend_until_2xx = false;
            options.webhook_chaos = chaos;
            options.seed = 20;
        })
        .manager_flag(&format!(
            "--queue-reconciliation-period={}s",
            seconds(loops.queue)
        ))
        .manager_flag("--queue-reconciliation-grace=1s")
        .webhook_flag(&format!("--replay-period={}s", seconds(loops.replay.is_some())));
    if let Some(lease) = loops.replay {
        builder = builder.replay(lease);
    }
    let world = builder.start().await.unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    // What comes before the server has read the autoscaler is a fault too, and not one of those that the tests count.
    world
        .until("the webhook server is ready", MINUTE, async |world: &World| {
            let seen = metric(world, "github-webhook-server", "muster_webhook_autoscalers", &[]);
            Ok(seen.await == 1)
        })
        .await
        .unwrap();
    world
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
async fn without_faults_reconciliation_keeps_to_its_budget_and_finds_nothing() {
    let world = pool("recovery-budget", QUEUE, WebhookChaos::default()).await;
    let jobs = 8;
    for number in 0..jobs {
        world.queue_job(Duration::from_millis(500 * (1 + number % 4)));
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    let looks = metric(&world, "manager", "muster_queue_reconciliations_total", &[]).await;
    let (runs, jobs_read, single) = (
        calls(&world, "list_runs"),
        calls(&world, "list_jobs"),
        calls(&world, "get_job"),
    );
    assert!(looks > 0);
    assert!(
        runs <= 2 * (looks + 1),
        "{runs} lists of runs in {looks} looks; one may be under way"
    );
    assert!(jobs_read <= jobs, "{jobs_read} lists of jobs for {jobs} runs");
    assert_eq!(single, 0, "no job had to be asked for");
    assert_eq!(
        (drift(&world, "missing").await, drift(&world, "leaked").await),
        (0, 0)
    );
    assert_eq!(calls(&world, "get_repository"), 1);
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

/// GUIDs of deliveries that no attempt of was answered 2xx, by the fake's own log.
fn missed_by_the_log(world: &World) -> BTreeSet<String> {
    let log = world.github.deliveries(world.hook.unwrap());
    let accepted: BTreeSet<&str> = log
        .iter()
        .filter(|delivery| (200..300).contains(&delivery.status_code))
        .map(|delivery| delivery.guid.as_str())
        .collect();
    log.iter()
        .filter(|delivery| !accepted.contains(delivery.guid.as_str()))
        .map(|delivery| delivery.guid.clone())
        .collect()
}

async fn missed(world: &World) -> u64 {
    metric(
        world,
        "github-webhook-server",
        "muster_missed_deliveries_total",
        &[],
    )
    .await
}

async fn recovered(world: &World) -> u64 {
    metric(
        world,
        "github-webhook-server",
        "muster_recovered_deliveries_total",
        &[],
    )
    .await
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

async fn the_metric_equals_the_log(world: &World) {
    world
        .until(
            "the metric equals the log",
            PERIOD + SLACK,
            async |world: &World| {
                let log = u64::try_from(missed_by_the_log(world).len())?;
                let (missed, recovered) = (missed(world).await, recovered(world).await);
                Ok(log == missed && missed == recovered)
            },
        )
        .await
        .unwrap();
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
    the_metric_equals_the_log(&world).await;
    assert!(missed(&world).await >= 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_loops_recover_lost_and_swallowed_webhooks_and_an_outage() {
    let chaos = WebhookChaos {
        lose: 0.1,
        swallow: 0.1,
        ..WebhookChaos::default()
    };
    let world = pool("recovery-both", BOTH, chaos).await;
    let up = thirty_jobs_and_a_wrong_address(&world).await;
    all_is_well(&world, up).await;
    the_metric_equals_the_log(&world).await;
    assert!(drift(&world, "missing").await <= 30);
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
async fn without_faults_replay_keeps_to_its_budget_and_finds_nothing() {
    let world = pool("recovery-replay-budget", REPLAY, WebhookChaos::default()).await;
    for _ in 0..3 {
        world.queue_jobs(5, Duration::from_millis(300));
        tokio::time::sleep(PERIOD).await;
    }
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    let scans = metric(&world, "github-webhook-server", "muster_replay_scans_total", &[]).await;
    let lists = calls(&world, "deliveries");
    assert!(scans > 0);
    assert!(
        lists <= scans + 1,
        "{lists} lists in {scans} scans; one may be under way"
    );
    assert_eq!((missed(&world).await, recovered(&world).await), (0, 0));
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
    tokio::time::sleep(2 * PERIOD).await;
    assert_eq!(calls(&world, "deliveries"), 1);
    let log = std::fs::read_to_string(world.dir().join("github-webhook-server.log")).unwrap();
    assert_eq!(log.matches("does not show the deliveries").count(), 1);
}
