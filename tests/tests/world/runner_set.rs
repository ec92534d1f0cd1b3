//! RunnerSets beyond what both kinds of pools promise: take-over of upstream's StatefulSets, limits of kept volumes, and what is said without the
//! webhook.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolume};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use muster_crds::legacy::RunnerSet;
use muster_tests::{
    volumes::{BindingMode, ReclaimPolicy},
    world::{Kind, World},
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);
/// Shorter than the manager's `--sync-period`: what is done by then was not left to the safety net.
const BEFORE_RESYNC: Duration = Duration::from_secs(40);

async fn until_registered(world: &World, count: usize) {
    world
        .until("the runners are registered", MINUTE, async |world| {
            Ok(world.github.runners().len() == count)
        })
        .await
        .unwrap();
}

async fn annotate(world: &World, annotations: Value) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    let api = world.api::<RunnerSet>();
    api.patch("pool", &PatchParams::default(), &patch).await.unwrap();
}

/// Spec 02 Q8, Q16: upstream's hash cannot be computed anew, and its StatefulSets say what ours would.
#[tokio::test(flavor = "multi_thread")]
async fn stateful_sets_of_upstream_are_kept_and_take_part_in_the_next_change() {
    let world = World::builder("adopted")
        .kind(Kind::RunnerSet)
        .start()
        .await
        .unwrap();
    world.pool("pool", |pool| pool.replicas = Some(3)).await.unwrap();
    until_registered(&world, 3).await;
    world.kill_manager().await.unwrap();
    // What is there now looks as ARC leaves it: its hash, its version, no record and no label on claims that its manager has not seen.
    annotate(&world, json!({"muster.dev/served": null})).await;
    for set in world.stateful_sets().await.unwrap() {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"runner-template-hash": "7b9c5d6f84"}}}));
        let api = world.api::<StatefulSet>();
        api.patch(&set.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    let names =
        |sets: &[StatefulSet]| -> BTreeSet<String> { sets.iter().map(ResourceExt::name_any).collect() };
    let before = names(&world.stateful_sets().await.unwrap());
    world.restart_manager().await.unwrap();
    let status = async |world: &World| Ok(world.pool_state("pool").await?.replicas == Some(3));
    world
        .until("they count as its own", MINUTE, status)
        .await
        .unwrap();
    world.scale_pool("pool", 4).await.unwrap();
    until_registered(&world, 4).await;
    let after = names(&world.stateful_sets().await.unwrap());
    assert_eq!(after.len(), 4);
    assert!(after.is_superset(&before), "{before:?} became {after:?}");

    world.change_image("pool", "runner:2").await.unwrap();
    world
        .until("all runners are new", MINUTE, async |world| {
            let sets = names(&world.stateful_sets().await?);
            Ok(sets.len() == 4 && sets.is_disjoint(&after) && world.github.runners().len() == 4)
        })
        .await
        .unwrap();
    assert_eq!(world.volume_figures().await.unwrap().created, 4, "volumes follow");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_free_volumes_than_are_to_be_kept_go_as_their_policy_says() {
    for policy in [ReclaimPolicy::Delete, ReclaimPolicy::Retain] {
        let world = World::builder("limits")
            .kind(Kind::RunnerSet)
            .storage(BindingMode::WaitForFirstConsumer, policy)
            .start()
            .await
            .unwrap();
        world.pool("pool", |pool| pool.replicas = Some(3)).await.unwrap();
        // Either the limit is there when the volumes become free, or it comes afterwards.
        let limit = json!({"muster.dev/kept-volumes": "1"});
        let is_early = policy == ReclaimPolicy::Delete;
        if is_early {
            annotate(&world, limit.clone()).await;
        }
        until_registered(&world, 3).await;
        world.scale_pool("pool", 0).await.unwrap();
        world.until_nothing_left(MINUTE).await.unwrap();
        if !is_early {
            let is_released = |volume: &PersistentVolume| {
                volume
                    .status
                    .as_ref()
                    .is_some_and(|status| status.phase.as_deref() == Some("Released"))
            };
            world
                .until("three volumes are free", MINUTE, async |world| {
                    let volumes = world.storage()?.volumes();
                    let free = volumes.iter().filter(|volume| is_released(volume)).count();
                    Ok((free, volumes.len()) == (3, 3))
                })
                .await
                .unwrap();
            annotate(&world, limit).await;
        }
        world
            .until("one volume is kept", BEFORE_RESYNC, async |world| {
                Ok(world.storage()?.volumes().len() == 1 && world.claims().await?.is_empty())
            })
            .await
            .unwrap();
        world.scale_pool("pool", 1).await.unwrap();
        until_registered(&world, 1).await;
        let figures = world.volume_figures().await.unwrap();
        assert_eq!(
            (figures.created, figures.reused),
            (3, 1),
            "{policy:?}: {figures:?}"
        );
        assert_eq!(figures.double_mounts, 0, "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_webhook_the_runner_set_says_what_is_missing() {
    let world = World::new("no-webhook").await.unwrap();
    let manifest = json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerSet", "metadata": {"name": "pool"},
        "spec": {"organization": "muster", "selector": {"matchLabels": {"pool": "pool"}},
            "template": {"metadata": {"labels": {"pool": "pool"}}}},
    });
    world.apply(&manifest.to_string()).await.unwrap();
    world
        .until("the condition says so", MINUTE, async |world| {
            let set: RunnerSet = world.api().get("pool").await?;
            let conditions = set
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            Ok(conditions.iter().any(|condition| {
                condition.reason == "PodsNotReady" && condition.message.contains("mutate-runner-pod")
            }))
        })
        .await
        .unwrap();
}
