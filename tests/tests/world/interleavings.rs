//! Never kill a busy runner, live; the plan-level twin is in `muster-core`. `MUSTER_SEEDS` says how many seeds to run.

use muster_tests::{control_plane::ControlPlane, scenarios::interleavings, world::Kind};

async fn no_seed_interrupts_a_job_or_leaves_anything(kind: Kind) {
    #[expect(clippy::disallowed_methods, reason = "how long to run is said from outside")]
    let seeds = std::env::var("MUSTER_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_u64);
    let plane = ControlPlane::shared().await.unwrap();
    let figures = interleavings::run(&plane, kind, 0..seeds, 8).await;
    assert!(figures.failures.is_empty(), "{}", figures.failures.join("\n\n"));
    // Whether GitHub had to refuse a removal is left to chance with so few seeds.
    assert!(
        figures.is_kept() && figures.leader_changes >= figures.seeds,
        "{}",
        figures.line()
    );
}

over_both_kinds!(no_seed_interrupts_a_job_or_leaves_anything);
