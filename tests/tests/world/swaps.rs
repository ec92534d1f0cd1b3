//! GitHub gives jobs to other runners than those that were created for them; the plan-level twin is in `muster-core`.

use muster_tests::{scenarios::swaps, world::Kind};

#[tokio::test(flavor = "multi_thread")]
async fn swapped_jobs_strand_nobody_and_cost_no_busy_pod() {
    let world = swaps::builder(Kind::RunnerDeployment, 7).start().await.unwrap();
    let figures = swaps::run(&world, 40, 7).await.unwrap();
    assert!(figures.is_good(40), "{}", figures.line());
}
