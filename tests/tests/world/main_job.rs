//! The main job: a webhook comes in, runners come up, jobs finish, runners go.

use std::time::Duration;

use muster_tests::world::World;

const MINUTE: Duration = Duration::from_mins(1);

/// A world with one RunnerDeployment and its autoscaler.
async fn pool(name: &str) -> World {
    let world = World::new(name).await.unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world
}

fn assert_cost(world: &World, jobs: usize, spare: usize) {
    let counters = world.kubelet.counters();
    let created = counters.pods_created;
    assert!(created <= jobs + spare, "{created} pods for {jobs} jobs");
    assert_eq!(counters.busy_deleted, 0, "no busy runner was deleted");
    assert_eq!(world.github.interrupted(), 0, "no job was interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_jobs_costs_a_pod_each_and_leaves_nothing() {
    let world = pool("burst").await;
    world.queue_jobs(20, Duration::from_millis(500));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 20, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_one_after_the_other_cost_a_pod_each() {
    let world = pool("sequential").await;
    for _ in 0..8 {
        world.queue_job(Duration::from_millis(50));
        world.until_jobs_done(MINUTE).await.unwrap();
    }
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 8, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_max_is_worked_off_and_runners_are_refilled_at_once() {
    let world = World::new("backlog").await.unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    world
        .autoscaler("pool", "pool", |spec| spec.max_replicas = Some(3))
        .await
        .unwrap();
    world.queue_jobs(15, Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 15, 0);
    // No more than three at a time.
    let runs = world.kubelet.jobs();
    for run in &runs {
        let beside = runs
            .iter()
            .filter(|other| other.started <= run.started && run.started < other.ended)
            .count();
        assert!(beside <= 3, "{beside} jobs at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_run_elsewhere_and_cancelled_jobs_leave_the_ledger() {
    let world = pool("elsewhere").await;
    world
        .deployment("pool", |spec| {
            spec.template.spec.config.docker_enabled = Some(false);
        })
        .await
        .unwrap();
    // Nobody starts here: the runners hang before they register.
    world.kubelet.inject(muster_tests::kubelet::FaultRule::new(
        muster_tests::kubelet::Fault::NeverRegisters,
    ));
    let taken = world.queue_job(Duration::from_secs(1));
    let cancelled = world.queue_job(Duration::from_secs(1));
    world
        .until("both are wanted", MINUTE, async |world: &World| {
            Ok(world.get_deployment("pool").await?.spec.replicas == Some(2))
        })
        .await
        .unwrap();
    assert!(world.github.start_elsewhere(taken.id, "somebody-elses-runner"));
    assert!(world.github.cancel_job(cancelled.id));
    world
        .until("none is wanted", MINUTE, async |world: &World| {
            Ok(world.get_deployment("pool").await?.spec.replicas == Some(0))
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn github_in_the_dark_keeps_what_is_there() {
    let world = pool("dark").await;
    world.queue_job(Duration::from_secs(2));
    world
        .until("the job runs", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 1)
        })
        .await
        .unwrap();
    let status = muster_tests::github::FaultKind::Status(503);
    let fault = world.github.inject(muster_tests::github::Fault::on(
        muster_tests::github::Family::RegistrationToken,
        status,
    ));
    world.queue_job(Duration::from_millis(50));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.github.clear_fault(fault);
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 2, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_calls_do_not_grow_with_the_number_of_runners() {
    let world = World::new("list-calls").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(30))
        .await
        .unwrap();
    world
        .until(
            "every pod carries its runner's id",
            MINUTE,
            async |world: &World| {
                let pods = world.pods().await?;
                let known = pods.iter().filter(|pod| {
                    pod.metadata
                        .annotations
                        .iter()
                        .flatten()
                        .any(|(key, _)| key == "actions-runner/id")
                });
                Ok(known.count() == 30)
            },
        )
        .await
        .unwrap();
    let calls = world
        .github
        .counters()
        .get("list_runners")
        .copied()
        .unwrap_or_default();
    assert!(calls <= 2, "{calls} list calls for 30 runners of one scope");
}
