//! The simulated storage beside the real binder and the real StatefulSet controller, without any controller of ours.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use muster_tests::{
    volumes::{BindingMode, ReclaimPolicy, ZONE},
    world::{World, WorldBuilder},
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn world(name: &str, binding: BindingMode, reclaim: ReclaimPolicy) -> WorldBuilder {
    World::builder(name).storage(binding, reclaim).without_processes()
}

/// A StatefulSet of one pod with a claim of the world's class; node labels as the pod selects them.
async fn stateful_set(world: &World, name: &str, node: &Value) {
    let set = json!({
        "metadata": {"name": name},
        "spec": {"serviceName": name, "selector": {"matchLabels": {"set": name}},
            "template": {"metadata": {"labels": {"set": name}},
                "spec": {"containers": [{"name": "app", "image": "app"}], "nodeSelector": node}},
            "volumeClaimTemplates": [claim(world, "data", "ReadWriteOnce")]},
    });
    let set: StatefulSet = serde_json::from_value(set).unwrap();
    world.api().create(&PostParams::default(), &set).await.unwrap();
}

fn claim(world: &World, name: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": [mode], "storageClassName": world.ns,
        "resources": {"requests": {"storage": "1Gi"}}}})
}

async fn delete<K>(world: &World, name: &str)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api = world.api::<K>();
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

async fn pod(world: &World, name: &str, claim: &str) {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "app", "image": "app"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    world.api().create(&PostParams::default(), &pod).await.unwrap();
}

async fn until_runs(world: &World, name: &str) {
    world
        .until(&format!("{name} runs"), SOON, async |world| {
            let pod = world.api::<Pod>().get_opt(name).await?;
            let status = pod.and_then(|pod| pod.status);
            Ok(status.is_some_and(|status| status.phase.as_deref() == Some("Running")))
        })
        .await
        .unwrap();
}

async fn until_phase(world: &World, phase: &str) -> PersistentVolume {
    let only = |world: &World| world.storage().unwrap().volumes().pop();
    let is_in_phase = |volume: &PersistentVolume| {
        volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)
    };
    world
        .until(&format!("the volume is {phase}"), SOON, async |world| {
            Ok(only(world).is_some_and(|volume| is_in_phase(&volume)))
        })
        .await
        .unwrap();
    only(world).unwrap()
}

fn zone_of(volume: &PersistentVolume) -> Option<String> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let expression = affinity
        .node_selector_terms
        .first()?
        .match_expressions
        .as_ref()?
        .first()?;
    expression.values.as_ref()?.first().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_volume_goes_from_one_stateful_set_to_the_next_in_its_zone() {
    let world = world("kept", BindingMode::WaitForFirstConsumer, ReclaimPolicy::Retain)
        .zones(&["a", "b"])
        .start()
        .await
        .unwrap();
    stateful_set(&world, "first", &json!({(ZONE): world.zone("b")})).await;
    until_runs(&world, "first-0").await;
    let volume = until_phase(&world, "Bound").await;
    assert_eq!(zone_of(&volume), Some(world.zone("b")));

    delete::<StatefulSet>(&world, "first").await;
    world
        .until("the pod is gone", SOON, async |world| {
            Ok(world.pods().await?.is_empty())
        })
        .await
        .unwrap();
    delete::<PersistentVolumeClaim>(&world, "data-first-0").await;
    until_phase(&world, "Released").await;
    // Given to a claim that does not exist yet.
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let reference =
        json!({"namespace": world.ns, "name": "data-second-0", "uid": null, "resourceVersion": null});
    let patch = Patch::Merge(json!({"spec": {"claimRef": reference}}));
    volumes
        .patch(&volume.name_any(), &PatchParams::default(), &patch)
        .await
        .unwrap();
    stateful_set(&world, "second", &json!({})).await;
    until_runs(&world, "second-0").await;
    let pod = world.api::<Pod>().get("second-0").await.unwrap();
    assert_eq!(pod.spec.unwrap().node_name, Some(world.zone("b")));

    // Where the volume cannot be, the pod waits, and says so.
    delete::<StatefulSet>(&world, "second").await;
    world
        .until("the pod is gone", SOON, async |world| {
            Ok(world.pods().await?.is_empty())
        })
        .await
        .unwrap();
    stateful_set(&world, "second", &json!({(ZONE): world.zone("a")})).await;
    world
        .until("it is said why the pod waits", SOON, async |world| {
            let pod = world.api::<Pod>().get_opt("second-0").await?;
            let conditions = pod
                .and_then(|pod| pod.status)
                .and_then(|status| status.conditions);
            Ok(conditions.into_iter().flatten().any(|condition| {
                condition.reason.as_deref() == Some("Unschedulable")
                    && condition
                        .message
                        .is_some_and(|message| message.contains("affinity"))
            }))
        })
        .await
        .unwrap();
    let counters = world.storage().unwrap().counters();
    assert_eq!(
        (
            counters.created,
            counters.mounts,
            counters.reused,
            counters.double_mounts
        ),
        (1, 2, 1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn released_storage_is_deleted_and_every_use_is_written_down() {
    let world = world("released", BindingMode::Immediate, ReclaimPolicy::Delete)
        .start()
        .await
        .unwrap();
    let claims = world.api::<PersistentVolumeClaim>();
    for (name, mode) in [("shared", "ReadWriteOnce"), ("single", "ReadWriteOncePod")] {
        let claim = serde_json::from_value(claim(&world, name, mode)).unwrap();
        claims.create(&PostParams::default(), &claim).await.unwrap();
    }
    // Nothing but a claim's mode keeps two pods of one node from its volume.
    for (name, claim) in [("a", "shared"), ("b", "shared"), ("c", "single"), ("d", "single")] {
        pod(&world, name, claim).await;
    }
    until_runs(&world, "a").await;
    until_runs(&world, "b").await;
    assert_eq!(world.storage().unwrap().counters().double_mounts, 1);
    let running = async |world: &World| {
        let pods = world.pods().await?;
        let runs = |pod: &&Pod| {
            ["c", "d"].contains(&pod.name_any().as_str())
                && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
        };
        anyhow::Ok(
            pods.iter()
                .filter(runs)
                .map(ResourceExt::name_any)
                .collect::<Vec<_>>(),
        )
    };
    world
        .until("one of two has the volume", SOON, async |world| {
            Ok(running(world).await?.len() == 1)
        })
        .await
        .unwrap();
    let first = running(&world).await.unwrap().remove(0);
    delete::<Pod>(&world, &first).await;
    let second = if first == "c" { "d" } else { "c" };
    until_runs(&world, second).await;
    let counters = world.storage().unwrap().counters();
    assert_eq!(
        (counters.mounts, counters.reused, counters.double_mounts),
        (4, 2, 1)
    );

    for pod in ["a", "b", second] {
        delete::<Pod>(&world, pod).await;
    }
    for name in ["shared", "single"] {
        delete::<PersistentVolumeClaim>(&world, name).await;
    }
    world
        .until("both volumes are deleted", SOON, async |world| {
            Ok(world.storage()?.counters().deleted == 2)
        })
        .await
        .unwrap();
    assert!(world.volume_leaks().await.unwrap().is_empty());
}
