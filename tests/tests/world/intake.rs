//! The intake under faults: what was answered is in the ledger, once, whatever happens to servers and writes; and the
//! main job through a fault proxy, with its price in writes.

use std::time::{Duration, Instant};

use muster_tests::{
    proxy::{ApiFault, Call, Verb},
    scenarios::intake::{Burst, Queued, burst, client, compare, pools, until_known},
    world::World,
};
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
/// Part 20: an answer within 8 s; the rest is for a loaded machine.
const ANSWER_WITHIN: Duration = Duration::from_millis(9_500);

/// Each of these jobs is in the ledger of pool 0 once, and nothing else is.
async fn assert_ledger(world: &World, jobs: impl IntoIterator<Item = &Queued>) {
    let expected = jobs.into_iter().map(|queued| (queued, false));
    let faults = compare(world, [0], expected).await.unwrap();
    assert!(faults.is_none(), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_to_kills_refused_writes_and_a_deleted_autoscaler() {
    let figures = burst(
        "intake",
        &Burst {
            pools: 5,
            jobs: 300,
            per_second: 100,
            replicas: 3,
            kill_every: Duration::from_secs(1),
            faulty: 0.05,
            seed: 4,
            program: None,
        },
    )
    .await
    .unwrap();
    println!("{figures:#?}");
    let [_, _, longest] = figures.answers;
    assert!(longest < ANSWER_WITHIN, "{figures:#?}");
    assert!(
        figures.faults >= 3 && figures.kills > 0,
        "too few mishaps to prove anything: {figures:#?}"
    );
    assert!(figures.wrong.is_empty(), "{figures:#?}");
    assert!(
        figures.ledgers.is_none() && figures.repeated.is_none(),
        "{figures:#?}"
    );
}

/// Jobs that come while the API server cannot be reached for 12 s.
async fn deliveries_outlast(name: &str, black_out: impl Fn(&World, bool)) -> Duration {
    let world = World::builder(name)
        .through_proxy()
        .without_manager()
        .start()
        .await
        .unwrap();
    pools(&world, 1).await.unwrap();
    let probes = until_known(&world, 1).await.unwrap();
    let jobs: Vec<Queued> = (1_000..1_020).map(|job| Queued::new(&world, 0, job)).collect();
    black_out(&world, true);
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for queued in jobs.clone() {
        let url = world.webhook_url.clone();
        senders.spawn(async move { queued.deliver(&client().unwrap(), &url).await.unwrap() });
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    black_out(&world, false);
    let over = begun.elapsed();
    let sent = senders.join_all().await;
    let recovered = begun.elapsed().saturating_sub(over);
    for attempts in &sent {
        assert!(attempts.len() > 1, "{attempts:#?}");
        for attempt in attempts {
            assert!(attempt.took < ANSWER_WITHIN, "{attempts:#?}");
            let ended = attempt.begun + attempt.took;
            if ended < begun + over {
                assert!(
                    attempt.status == 503 && attempt.retry_after.is_some_and(|seconds| seconds > 0),
                    "{attempts:#?}"
                );
            }
        }
    }
    assert_ledger(&world, jobs.iter().chain(&probes)).await;
    recovered
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_refused_in_time_while_the_api_server_resets_connections() {
    let recovered = deliveries_outlast("black-out", |world, dark| {
        for proxy in world.webhook_proxies() {
            proxy.set_dark(dark);
        }
    })
    .await;
    println!("resets: everything was accepted {recovered:?} after the black-out");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_refused_in_time_while_the_api_server_is_silent() {
    let recovered = deliveries_outlast("silence", |world, hung| {
        for proxy in world.webhook_proxies() {
            proxy.set_hung(hung);
        }
    })
    .await;
    println!("silence: everything was accepted {recovered:?} after the black-out");
}

/// A world with one RunnerDeployment and its autoscaler, everything through proxies.
async fn pool(name: &str, seed: u64) -> World {
    let world = World::builder(name)
        .seed(seed)
        .through_proxy()
        .start()
        .await
        .unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world
}

/// The main job with 20 jobs while writes are refused, answers are lost and watches drop. What it cost.
async fn main_job_under_faults(seed: u64) -> String {
    let world = pool("faulty", seed).await;
    let manager = world.manager_proxy().unwrap();
    for proxy in world.webhook_proxies().chain([manager]) {
        proxy.inject(ApiFault::statuses(&[409, 500]).share(0.05).lost_answers(0.5));
    }
    manager.inject(ApiFault::cut_watches(Duration::from_secs(1)).share(0.5));
    manager.inject(ApiFault::end_watches(Duration::from_secs(2)));
    manager.drop_watches();
    world.queue_jobs(20, Duration::from_millis(500));
    world.until_jobs_done(2 * MINUTE).await.unwrap();
    world.until_nothing_left(2 * MINUTE).await.unwrap();
    let calls = manager.calls();
    let count = |wanted: &dyn Fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
    let watches = count(&|call| call.target.verb == Verb::Watch);
    let lost_creates = count(&|call| {
        call.target.verb == Verb::Create && call.target.path() == "runners" && call.is_lost_write()
    });
    let counters = world.kubelet.counters();
    assert!(manager.injected() > 0 && watches > 0);
    assert!(
        counters.pods_created <= 20 + lost_creates,
        "seed {seed}: {lost_creates} unanswered creates of runners, {counters:?}"
    );
    assert_eq!(
        (counters.busy_deleted, world.github.interrupted()),
        (0, 0),
        "seed {seed}"
    );
    format!(
        "{} of {} calls faulty, {watches} watches, {lost_creates} creates of runners unanswered; {} pods for 20 jobs",
        manager.injected(),
        calls.len(),
        counters.pods_created
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_writes_lost_answers_and_dropped_watches_cost_a_pod_per_lost_create_at_most() {
    println!("{}", main_job_under_faults(11).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runners_life_costs_fourteen_writes_at_most() {
    const JOBS: u64 = 20;
    let world = pool("writes", 0).await;
    world.queue_jobs(20, Duration::from_millis(500));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    let writes = world.writes();
    for (component, writes) in &writes {
        let sum: u64 = writes.values().sum();
        println!("{component}: {sum} writes for {JOBS} runners: {writes:?}");
    }
    let manager: u64 = writes["manager"].values().sum();
    assert!(manager <= 14 * JOBS, "{manager} writes: {writes:?}");
}
