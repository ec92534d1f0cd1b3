//! Never kill a busy runner, live: scale-downs, template changes, manager kills and GitHub's refusals in random order, on the real control plane.
//! `MUSTER_SEEDS` says how many seeds to run (4 unless told), four at a time; the plan-level twin is in `muster-core`.

use std::time::Duration;

use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use muster_crds::legacy::{HorizontalRunnerAutoscalerSpec, RunnerDeployment};
use muster_tests::{
    github::{Family, Fault, FaultKind},
    world::World,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

async fn change(world: &World, spec: serde_json::Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    world
        .api::<RunnerDeployment>()
        .patch("pool", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn scenario(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::builder("interleave")
        .seed(seed)
        .github(|options| options.resend_until_2xx = true)
        .start()
        .await
        .unwrap();
    let autoscaled = random.random_bool(0.5);
    world
        .deployment("pool", |spec| {
            spec.replicas = Some(if autoscaled { 0 } else { 3 });
        })
        .await
        .unwrap();
    if autoscaled {
        world
            .autoscaler("pool", "pool", |spec| spec.min_replicas = Some(1))
            .await
            .unwrap();
    }
    let mut image = 0;
    for _ in 0..8 {
        match random.random_range(0..6) {
            0 | 1 => {
                world.queue_job(Duration::from_millis(random.random_range(100..2_500)));
            }
            2 if !autoscaled => change(&world, json!({"replicas": random.random_range(0..5)})).await,
            3 => {
                image += 1;
                change(
                    &world,
                    json!({"template": {"spec": {"image": format!("runner:{image}")}}}),
                )
                .await;
            }
            4 => {
                world.kill_manager().await.unwrap();
                world.restart_manager().await.unwrap();
            }
            _ => {
                let kind = match random.random_range(0..4) {
                    0 => FaultKind::Forbidden,
                    1 => FaultKind::Status(502),
                    2 => FaultKind::ResetAfter,
                    _ => FaultKind::Reset,
                };
                world
                    .github
                    .inject(Fault::on(Family::RemoveRunner, kind).times(2));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
    }
    world.github.clear_faults();
    if !autoscaled {
        change(&world, json!({"replicas": 2})).await;
    }
    let deadline = Duration::from_mins(2);
    world
        .until_jobs_done(deadline)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    if autoscaled {
        // Applied again as a whole: the minimum is 0 now.
        let at_once = |spec: &mut HorizontalRunnerAutoscalerSpec| {
            spec.scale_down_delay_seconds_after_scale_out = Some(0);
        };
        world.autoscaler("pool", "pool", at_once).await.unwrap();
    } else {
        change(&world, json!({"replicas": 0})).await;
    }
    world
        .until_nothing_left(deadline)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    assert_eq!(
        world.github.interrupted(),
        0,
        "seed {seed}: {:?}",
        world.github.violations()
    );
    assert_eq!(world.kubelet.counters().busy_deleted, 0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_seed_interrupts_a_job_or_leaves_anything() {
    #[expect(clippy::disallowed_methods, reason = "how long to run is said from outside")]
    let seeds = std::env::var("MUSTER_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4_u64);
    futures::stream::iter(0..seeds)
        .for_each_concurrent(4, scenario)
        .await;
}
