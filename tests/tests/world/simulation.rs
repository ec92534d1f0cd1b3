//! The simulation decides as the real processes do.

use std::{cell::RefCell, time::Duration};

use muster_tests::{
    simulation::{Job, Parameters, simulate},
    world::World,
};

const MINUTE: Duration = Duration::from_mins(1);
/// When each job is queued and how long it runs, in tenths of a second: everything that happens is more than a second
/// and a half apart from everything else, so that no two decisions fall into one.
const TRACE: [(u64, u64); 5] = [(0, 55), (20, 75), (38, 125), (75, 40), (190, 20)];

fn tenths(number: u64) -> Duration {
    Duration::from_millis(number * 100)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_is_decided_alike_by_the_processes_and_by_the_simulation() {
    let world = World::new("simulation").await.unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world
        .until("nobody is wanted", MINUTE, async |world: &World| {
            Ok(world.get_deployment("pool").await?.spec.replicas == Some(0))
        })
        .await
        .unwrap();

    let seen = RefCell::new(vec![0]);
    let watching = async {
        loop {
            if let Ok(deployment) = world.get_deployment("pool").await
                && let Some(replicas) = deployment.spec.replicas
                && seen.borrow().last() != Some(&replicas)
            {
                seen.borrow_mut().push(replicas);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let playing = async {
        let begun = tokio::time::Instant::now();
        for (at, length) in TRACE {
            tokio::time::sleep_until(begun + tenths(at)).await;
            world.queue_job(tenths(length));
        }
        world.until_jobs_done(MINUTE).await.unwrap();
        world.until_nothing_left(MINUTE).await.unwrap();
    };
    tokio::select! {
        () = watching => {}
        () = playing => {}
    }
    let last = world.get_deployment("pool").await.unwrap().spec.replicas.unwrap();
    let mut live = seen.into_inner();
    if live.last() != Some(&last) {
        live.push(last);
    }

    // What really happened is the trace: a busy machine is late, in both worlds alike.
    let jobs = world.github.jobs();
    let first = jobs.iter().filter_map(|job| job.queued_at).min().unwrap();
    let since =
        |from: jiff::Timestamp, to: jiff::Timestamp| Duration::try_from(to.duration_since(from)).unwrap();
    let trace: Vec<Job> = jobs
        .iter()
        .map(|job| Job {
            at: since(first, job.queued_at.unwrap()),
            pool: 0,
            length: since(job.started_at.unwrap(), job.completed_at.unwrap()),
        })
        .collect();
    let parameters = Parameters {
        start: Duration::from_millis(100),
        ..Parameters::default()
    };
    let outcome = simulate(&parameters, &trace).unwrap();
    let simulated: Vec<i64> = [0]
        .into_iter()
        .chain(outcome.scaled.iter().map(|scaled| scaled.replicas))
        .collect();
    assert_eq!(live, simulated, "numbers of replicas, live and simulated");
    assert_eq!(
        (world.kubelet.counters().pods_created, outcome.done),
        (outcome.runners, jobs.len())
    );
    assert!(live.len() > 2 * TRACE.len() - 2, "few decisions: {live:?}");
}
