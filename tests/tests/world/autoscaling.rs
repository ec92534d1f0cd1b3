//! Pull metrics and scheduled overrides, small.

use muster_tests::{github::FaultKind, scenarios::autoscaling};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_only_github_tells_of_get_a_runner_each() {
    let burst = autoscaling::burst("metric-jobs", 4, false, "sum").await.unwrap();
    assert_eq!((burst.done, burst.pods), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_and_a_metric_are_one_demand() {
    let burst = autoscaling::burst("metric-merged", 6, true, "max").await.unwrap();
    assert_eq!((burst.done, burst.pods), (6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pool_grows_by_steps_and_shrinks_to_zero() {
    let seen = autoscaling::busy_share("metric-busy", 3).await.unwrap();
    let last = seen.len() - 1;
    assert_eq!((seen[0], seen[last - 1], seen[last]), (0, 3, 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_keeps_the_runners_and_the_condition_says_so() {
    let kind = FaultKind::Status(502);
    let fewest = autoscaling::silence("metric-silence", 2, kind, "GitHubUnavailable").await;
    assert_eq!(fewest.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_takes_effect_at_its_edges() {
    let seen = autoscaling::schedule("schedule").await.unwrap();
    assert!(seen.is_good(), "{seen:#?}");
}
