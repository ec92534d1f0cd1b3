//! Another template while jobs run, see the scenario.

use std::time::Duration;

use muster_tests::{scenarios::template_change, world::Kind};

async fn idle_runners_go_first_and_volumes_follow(kind: Kind) {
    let figures = template_change::run(None, kind, 2, 3, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(
        (figures.at_change, figures.idle_first),
        ((2, 3), 3),
        "{figures:?}"
    );
    assert_eq!(
        (figures.busy_too_early, figures.interrupted, figures.old_left),
        (0, 0, 0),
        "{figures:?}"
    );
    assert!(figures.volumes.is_good(), "{figures:?}");
    let expected = if kind == Kind::RunnerSet { 5 } else { 0 };
    assert_eq!(figures.volumes_followed, expected, "{figures:?}");
}

over_both_kinds!(idle_runners_go_first_and_volumes_follow);
