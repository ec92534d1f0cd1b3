//! Runners that do not do what they should: each place is filled again within its deadline.

use std::time::{Duration, Instant};

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use muster_crds::legacy::RunnerDeployment;
use muster_tests::{
    kubelet::{Fault, FaultRule, Strike, When},
    world::World,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_mins(1);

/// A world whose deadlines are seconds.
async fn impatient(name: &str) -> World {
    World::builder(name)
        .github(|options| options.offline_after = Duration::from_secs(1))
        .manager_flag("--runner-scheduling-timeout=3s")
        .manager_flag("--runner-start-timeout=3s")
        .manager_flag("--runner-registration-timeout=3s")
        .manager_flag("--runner-offline-timeout=3s")
        .start()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_costs_a_place_no_longer_than_its_deadline() {
    let world = impatient("faults").await;
    let strike = |when, strike| Fault::Strike {
        when,
        after: Duration::ZERO,
        strike,
    };
    let faults = [
        ("never-scheduled", Fault::NeverScheduled),
        ("never-ready", Fault::NeverReady),
        ("never-registers", Fault::NeverRegisters),
        ("crashes-at-start", Fault::crash(1, When::Started)),
        ("crashes-idle", Fault::crash(137, When::Idle)),
        ("evicted", strike(When::Idle, Strike::Evict)),
        ("node-lost", strike(When::Idle, Strike::LoseNode)),
    ];
    for (name, fault) in faults {
        world.kubelet.inject(FaultRule::new(fault).named(name).times(1));
        world
            .deployment(name, |spec| spec.replicas = Some(1))
            .await
            .unwrap();
    }
    for (name, _) in faults {
        let begun = Instant::now();
        world
            .until(name, MINUTE, async |world: &World| {
                // A second pod of this deployment is up and online.
                let traces = world.kubelet.pods();
                let mut names: Vec<_> = traces
                    .iter()
                    .map(|trace| trace.name.clone())
                    .filter(|pod| pod.starts_with(name))
                    .collect();
                names.sort();
                let online = world.github.runners();
                let second = names
                    .iter()
                    .filter(|pod| online.iter().any(|runner| &runner.name == *pod && runner.online));
                Ok(names.len() >= 2 && second.count() == 1)
            })
            .await
            .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_ups_that_all_fail_are_bounded_said_and_healed_at_full_speed() {
    let world = impatient("failing").await;
    world
        .kubelet
        .inject(FaultRule::new(Fault::crash(1, When::Started)));
    world
        .deployment("pool", |spec| spec.replicas = Some(5))
        .await
        .unwrap();
    world
        .until("the condition says why", MINUTE, async |world: &World| {
            let status = world.get_deployment("pool").await?.status.unwrap_or_default();
            let failing = status
                .conditions
                .unwrap_or_default()
                .into_iter()
                .find(|c| c.type_ == "StartupFailing");
            Ok(failing.is_some_and(|c| c.status == "True" && c.message.contains("exit code 1")))
        })
        .await
        .unwrap();
    let before = world.kubelet.counters().pods_created;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let created = world.kubelet.counters().pods_created - before;
    assert!(created <= 4, "{created} pods in 20 s of failure");
    world.kubelet.clear_faults();
    let healed = Instant::now();
    world
        .until("all runners are online", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 5)
        })
        .await
        .unwrap();
    assert!(
        healed.elapsed() < Duration::from_secs(35),
        "{:?}",
        healed.elapsed()
    );
    world
        .until("the condition is false", MINUTE, async |world: &World| {
            let status = world.get_deployment("pool").await?.status.unwrap_or_default();
            Ok(status
                .conditions
                .unwrap_or_default()
                .iter()
                .any(|c| c.type_ == "StartupFailing" && c.status == "False"))
        })
        .await
        .unwrap();
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
async fn a_deployment_can_be_deleted_while_github_is_dark() {
    let world = World::new("dark-delete").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(10))
        .await
        .unwrap();
    world
        .until("ten runners", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 10)
        })
        .await
        .unwrap();
    world.github.set_dark(true);
    world
        .api::<RunnerDeployment>()
        .delete("pool", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    world
        .until("all objects are gone", MINUTE, async |world: &World| {
            Ok(world.pods().await?.is_empty() && world.runners().await?.is_empty())
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_in_use_within_seconds() {
    let world = World::new("rotation").await.unwrap();
    world.github.accept_token("first");
    let secret = |token: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: login}}\nstringData: {{github_token: \"{token}\\n\"}}\n"
        )
    };
    world.apply(&secret("first")).await.unwrap();
    world
        .deployment("pool", |spec| {
            spec.replicas = Some(1);
            let from = json!({"secretRef": {"name": "login"}});
            spec.template.spec.config.github_api_credentials_from =
                Some(serde_json::from_value(from).unwrap());
        })
        .await
        .unwrap();
    world
        .until("a runner", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 1)
        })
        .await
        .unwrap();
    world.github.accept_token("second");
    world.apply(&secret("second")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.github.revoke_token("first");
    // A removal needs the new token.
    let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
    world
        .api::<RunnerDeployment>()
        .patch("pool", &PatchParams::default(), &patch)
        .await
        .unwrap();
    world
        .until(
            "the runner went",
            Duration::from_secs(20),
            async |world: &World| Ok(world.pods().await?.is_empty() && world.github.runners().is_empty()),
        )
        .await
        .unwrap();
}
