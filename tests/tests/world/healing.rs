//! Runners that do not do what they should: each place is filled again within its deadline.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use muster_tests::{
    control_plane::ControlPlane,
    scenarios::{
        abandoned::{self, Outage},
        credentials::{self, ROTATED_WITHIN},
        healing,
    },
    world::{Kind, World},
};

const MINUTE: Duration = Duration::from_mins(1);

/// A machine that is busy with other tests may be slow.
const SLACK: Duration = Duration::from_secs(15);

async fn each_fault_costs_a_place_no_longer_than_its_deadline(kind: Kind) {
    let healed = healing::faults(None, kind, 1).await.unwrap();
    assert_eq!(healed.len(), 13);
    for fault in healed {
        assert!(fault.is_within(SLACK), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_ups_that_all_fail_are_bounded_said_and_healed_at_full_speed() {
    let figures = healing::start_ups(None, 4, Duration::from_secs(28))
        .await
        .unwrap();
    assert_eq!(figures.len(), 3);
    for figure in figures {
        assert!(figure.created > 4 && figure.created_late <= 4, "{figure:?}");
        assert!(figure.reason.contains("in a row failed"), "{figure:?}");
        assert!(
            figure.healed_after < Duration::from_secs(30) + SLACK,
            "{figure:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_runners_are_retired_before_busy_ones_and_busy_pods_are_protected() {
    let world = World::new("idle-first").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(0))
        .await
        .unwrap();
    world
        .autoscaler("pool", "pool", |spec| spec.min_replicas = Some(3))
        .await
        .unwrap();
    world
        .until("three runners", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 3)
        })
        .await
        .unwrap();
    world.queue_job(Duration::from_secs(25));
    world
        .until("the busy pod is protected", MINUTE, async |world: &World| {
            let pods = world.pods().await?;
            let marked: Vec<_> = pods
                .iter()
                .filter(|pod| pod.labels().contains_key("muster.dev/busy"))
                .collect();
            let busy: Vec<_> = world
                .github
                .runners()
                .into_iter()
                .filter(|runner| runner.busy)
                .collect();
            Ok(marked.len() == 1
                && busy.len() == 1
                && marked.iter().all(|pod| {
                    pod.name_any() == busy[0].name
                        && pod
                            .annotations()
                            .get("karpenter.sh/do-not-disrupt")
                            .is_some_and(|value| value == "true")
                }))
        })
        .await
        .unwrap();
    let budgets = world.api::<k8s_openapi::api::policy::v1::PodDisruptionBudget>();
    budgets.get("muster-busy-runners").await.unwrap();
    world.until_jobs_done(MINUTE).await.unwrap();
    assert_eq!(world.github.interrupted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_can_be_deleted_while_github_is_dark_and_what_is_left_goes_later() {
    let figures = abandoned::namespace(None, 10, 0, Outage::Down).await.unwrap();
    assert!(figures.gone_after < Duration::from_mins(1), "{figures:?}");
    assert!(figures.reasons.contains("GitHubUnavailable"), "{figures:?}");
    assert_eq!((figures.on_github, figures.reported), (10, 10), "{figures:?}");
    assert!(figures.settled_after.is_some(), "{figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_logins_are_used_side_by_side_and_rotated_without_a_restart() {
    let plane = Arc::new(ControlPlane::start().await.unwrap());
    let figures = credentials::credentials(plane, 1, Duration::ZERO).await.unwrap();
    assert_eq!((figures.foreign, figures.stale_calls), (0, 0), "{figures:?}");
    assert_eq!(figures.rotated_after.len(), 3, "{figures:?}");
    for after in figures
        .rotated_after
        .values()
        .chain(figures.healed_after.values())
    {
        assert!(*after < ROTATED_WITHIN + SLACK, "{figures:?}");
    }
    let logins: usize = figures.uses.values().map(Vec::len).sum();
    assert_eq!(
        logins, 7,
        "two for each owner, and one more after the revocation: {figures:?}"
    );
}

over_both_kinds!(each_fault_costs_a_place_no_longer_than_its_deadline);
