//! A cluster that ARC ran goes on under Muster, and could go back.

use std::time::Duration;

use muster_tests::scenarios::take_over::take_over;

#[tokio::test(flavor = "multi_thread")]
async fn taking_over_recreates_nothing_goes_on_and_could_be_taken_back() {
    let figures = take_over(None, 4, 4, Duration::from_secs(25)).await.unwrap();
    assert_eq!((figures.pods, figures.recreated), (8, 0), "{figures:?}");
    assert_eq!(figures.objections, [""; 0], "{figures:?}");
    assert!(figures.templates_unchanged, "{figures:?}");
    assert_eq!((figures.completed, figures.interrupted), (4, 0), "{figures:?}");
    assert_eq!(figures.pods_created, 9, "one was asked for: {figures:?}");
}
