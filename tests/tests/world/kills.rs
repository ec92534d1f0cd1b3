//! Processes that die at any moment, see the scenario.

use muster_tests::{scenarios::kills, world::Kind};

async fn killed_processes_leave_no_job_behind(kind: Kind) {
    let (seed, jobs, kills) = (1, 25, 4);
    let figures = kills::run(None, kind, seed, jobs, kills).await.unwrap();
    assert!(figures.pods <= jobs + kills, "{figures:?}");
    assert_eq!((figures.busy_deleted, figures.interrupted), (0, 0), "{figures:?}");
    assert!(figures.volumes.is_good(), "{figures:?}");
}

over_both_kinds!(killed_processes_leave_no_job_behind);
