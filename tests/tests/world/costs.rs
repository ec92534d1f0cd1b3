//! What a runner costs, in writes to the API server and calls to GitHub. Counts do not depend on the machine: whoever adds a
//! write sees it here, long before a benchmark would.

use std::time::Duration;

use muster_tests::world::World;

const MINUTE: Duration = Duration::from_mins(1);
/// Status writes wait for their second, and the Runner of a pod that is gone for its finalizer.
const SETTLED: Duration = Duration::from_secs(3);
/// Writes that Muster may make on a Runner and its pod, from creation to removal.
const PER_RUNNER: u64 = 8;
/// Writes of both processes for a cold job, the shared objects included. The target is 20, and a quiet machine takes 17 to 19; on a busy one counts
/// that change together are seen apart.
const COLD: u64 = 22;

async fn world(name: &str) -> World {
    let world = World::builder(name).through_proxy().start().await.unwrap();
    world.pool("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world
        .until("the autoscaler has a status", MINUTE, async |world: &World| {
            Ok(world.get_autoscaler("pool").await?.status.is_some())
        })
        .await
        .unwrap();
    settle(&world).await;
    world
}

/// Waits until what was put off has been written, and begins to count.
async fn settle(world: &World) {
    tokio::time::sleep(SETTLED).await;
    world.manager_proxy().unwrap().forget_calls();
    for proxy in world.webhook_proxies() {
        proxy.forget_calls();
    }
}

async fn finish(world: &World) {
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    tokio::time::sleep(SETTLED).await;
}

/// Writes to resources of these names, of both processes.
fn writes(world: &World, resources: &[&str]) -> u64 {
    let all = world.writes();
    let of = |path: &str| path.split('/').next().unwrap().to_owned();
    all.values()
        .flatten()
        .filter(|(path, _)| resources.is_empty() || resources.contains(&of(path).as_str()))
        .map(|(_, count)| count)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_job_costs_a_bounded_number_of_writes() {
    let world = world("cost-cold").await;
    for _ in 0..3 {
        settle(&world).await;
        world.queue_job(Duration::from_millis(100));
        finish(&world).await;
        let (all, own) = (writes(&world, &[]), writes(&world, &["pods", "runners"]));
        assert!(all <= COLD, "{all} writes for one job: {:?}", world.writes());
        assert!(
            (4..=PER_RUNNER).contains(&own),
            "{own} writes on a Runner and its pod: {:?}",
            world.writes()
        );
    }
    assert_eq!(world.kubelet.counters().pods_created, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_costs_eight_writes_a_runner_and_few_on_what_they_share() {
    let world = world("cost-burst").await;
    let jobs = 30;
    let begun = std::time::Instant::now();
    world.queue_jobs(usize::try_from(jobs).unwrap(), Duration::from_secs(3));
    finish(&world).await;
    let seconds = begun.elapsed().as_secs();
    let own = writes(&world, &["pods", "runners"]);
    assert!(
        own <= PER_RUNNER * jobs,
        "{own} writes on {jobs} Runners and their pods: {:?}",
        world.writes()
    );
    // Per phase of the burst a few at once, and then one a second at most.
    for shared in ["runnerreplicasets", "runnerdeployments"] {
        let count = writes(&world, &[shared]);
        assert!(
            count <= jobs + 2 * seconds,
            "{count} writes on {shared} in {seconds} s: {:?}",
            world.writes()
        );
    }
    assert_eq!(writes(&world, &["secrets", "serviceaccounts"]), 0);
    // Registration tokens and listings belong to the scope, not to the runner.
    let calls = world.github.counters();
    let of = |family: &str| calls.get(family).copied().unwrap_or_default();
    assert!(of("registration_token") <= 2, "{calls:?}");
    assert!(of("list_runners") <= 2, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_runners_cost_no_write_and_no_call() {
    let world = world("cost-idle").await;
    world.pool("idle", |pool| pool.replicas = Some(15)).await.unwrap();
    world.until_known(15, MINUTE).await.unwrap();
    settle(&world).await;
    world.github.reset_counters();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(writes(&world, &[]), 0, "{:?}", world.writes());
    let calls = world.github.counters();
    let ours: u64 = calls
        .iter()
        .filter(|(family, _)| !family.starts_with("agent_"))
        .map(|(_, count)| count)
        .sum();
    assert!(ours <= 1, "{calls:?}");
}
