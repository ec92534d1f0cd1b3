//! The demo is a test as well: it says of itself whether everything went as it should.

use std::time::Duration;

use muster_tests::{
    control_plane::ControlPlane,
    demo::{self, Options, Outcome},
    terminal::Terminal,
    world::Kind,
};
use tokio_util::sync::CancellationToken;

async fn the_demo_runs_every_job_and_leaves_nothing(kind: Kind) {
    let plane = ControlPlane::shared().await.unwrap();
    let options = Options {
        kind,
        jobs: Some(6),
        wave: Some(4),
        job_seconds: Duration::from_millis(300),
        ..Options::default()
    };
    let stop = CancellationToken::new();
    let outcome = demo::run(&options, Some(plane), Terminal::silent(), &stop).await;
    let Outcome::Ended(report) = outcome.unwrap() else {
        panic!("nobody stopped it");
    };
    assert!(report.problems().is_empty(), "{:?}", report.problems());
    let line = serde_json::to_value(&*report).unwrap();
    for (field, value) in [
        ("jobs", 6),
        ("completed", 6),
        ("stranded", 0),
        ("busy_deleted", 0),
        ("leftovers", 0),
        ("pods_created", 6),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    for field in ["queued_to_pod_ms", "queued_to_running_ms"] {
        assert!(
            line[field]["p50"].is_u64() && line[field]["p99"].is_u64(),
            "{line}"
        );
    }
    assert_eq!(line["github_calls"]["registration_token"], 1, "{line}");
    for field in ["volumes_created", "volumes_reused", "volume_leaks"] {
        assert_eq!(line[field].is_u64(), kind == Kind::RunnerSet, "{line}");
    }
}

over_both_kinds!(the_demo_runs_every_job_and_leaves_nothing);

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_told_to_stop_ends() {
    let plane = ControlPlane::shared().await.unwrap();
    let options = Options {
        jobs: Some(3),
        job_seconds: Duration::from_mins(10),
        ..Options::default()
    };
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(
        demo::run(&options, Some(plane), Terminal::silent(), &stop),
        stopping
    );
    assert!(matches!(outcome.unwrap(), Outcome::Stopped));
}
