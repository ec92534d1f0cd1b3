//! Back to ARC and forth again.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PersistentVolume};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use muster_tests::{
    scenarios::handback::{Plugin, as_upstream, left, there_and_back, upstream},
    world::World,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_arc_left_is_arcs_again() {
    let back = there_and_back(None, 3, 3, Duration::from_mins(2)).await.unwrap();
    assert!(back.is_good(3), "{back:#?}");
}

/// A ledger with everything in it: jobs that run and wait, and tombstones. After handing back ARC's algorithm counts as many jobs as there are;
/// after coming back Muster ends with none.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_musters_making_goes_to_arc_and_comes_back() {
    let world = World::new("handback").await.unwrap();
    world.pool("linux", |_| {}).await.unwrap();
    world
        .autoscaler("linux", "linux", |spec| spec.max_replicas = Some(2))
        .await
        .unwrap();
    world.queue_jobs(2, Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.queue_jobs(4, Duration::from_mins(1));
    let ready = async |world: &World| {
        let ledger = world.get_autoscaler("linux").await?.spec.capacity_reservations;
        let ledger = ledger.unwrap_or_default();
        let named = ledger.iter().filter(|entry| {
            entry.name.as_ref().is_some_and(|name| name.contains('@')) && entry.replicas == Some(1)
        });
        let tombstones = ledger.iter().filter(|entry| entry.replicas == Some(0));
        Ok(named.count() == 2 && tombstones.count() == 2 && ledger.len() == 6)
    };
    world
        .until("two run, two wait, two are over", MINUTE, ready)
        .await
        .unwrap();

    let hook = world.hook.unwrap();
    world.kill_manager().await.unwrap();
    world.github.set_hook_active(hook, false);
    let mut heard = world.github.job_stats().completed;
    world.kill_webhook_server().await.unwrap();
    let plugin = Plugin::new(&world).await.unwrap();
    assert_eq!(plugin.run(&[]).await.unwrap().code, Some(0));
    assert_eq!(left(&world).await.unwrap(), [""; 0]);
    let ledger = world
        .get_autoscaler("linux")
        .await
        .unwrap()
        .spec
        .capacity_reservations
        .unwrap();
    assert_eq!(ledger.len(), 4, "{ledger:?}");

    // As ARC would go on: entries beyond the maximum live as long as the trigger says from each batch on, and expire like its own.
    let later = world.github.now() + SignedDuration::from_mins(11);
    assert_eq!(upstream(&ledger, Some(2), &[], later).len(), 2, "{ledger:?}");
    let much_later = later + SignedDuration::from_mins(11);
    assert!(upstream(&ledger, None, &[], much_later).is_empty(), "{ledger:?}");

    // What ends meanwhile ARC hears of: an entry of its making that nobody takes would stay until it expires, which is all that is promised for it.
    world.restart_webhook_server().await.unwrap();
    loop {
        let completed = world.github.job_stats().completed;
        if completed == heard {
            world.github.set_hook_active(hook, true);
            break;
        }
        let gone = heard.cast_signed() - completed.cast_signed();
        as_upstream(&world, "linux", &[(gone, SignedDuration::ZERO)])
            .await
            .unwrap();
        heard = completed;
    }
    world.restart_manager().await.unwrap();
    world.until_jobs_done(4 * MINUTE).await.unwrap();
    world.until_nothing_left(2 * MINUTE).await.unwrap();
    assert_eq!(world.github.interrupted(), 0);
}

/// Who would write again is found, and stopped where that is asked for; volumes get their policy back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_back_while_a_manager_runs() {
    let world = World::builder("handback-writers")
        .without_processes()
        .start()
        .await
        .unwrap();
    let plugin = Plugin::new(&world).await.unwrap();
    let name = format!("{}-manager", world.ns);
    world.apply(&manager(&name, &world.ns)).await.unwrap();
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let volume = kept(&world.ns);
    volumes
        .patch(&world.ns, &PatchParams::apply("test"), &Patch::Apply(&volume))
        .await
        .unwrap();

    let refused = plugin.run(&[]).await.unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert_eq!(refused.changes(), 0);
    assert!(
        refused.report["refused"].to_string().contains(&name),
        "{refused:?}"
    );

    let stop = format!("{}/{name}", world.ns);
    let flags = ["--stop", stop.as_str()];
    let done = plugin.run(&flags);
    let stopped = stop_pods(&world, &name);
    let (done, ()) = tokio::join!(done, stopped);
    let done = done.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let deployment = world.api::<Deployment>().get(&name).await.unwrap();
    assert_eq!(deployment.spec.replicas, Some(0));
    let volume = serde_json::to_value(volumes.get(&world.ns).await.unwrap()).unwrap();
    assert_eq!(
        volume["spec"]["persistentVolumeReclaimPolicy"], "Delete",
        "{volume}"
    );
    assert_eq!(volume["metadata"]["labels"], Value::Null, "{volume}");
    volumes
        .delete(&world.ns, &kube::api::DeleteParams::default())
        .await
        .unwrap();
}

fn manager(name: &str, ns: &str) -> String {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "manager", "image": "registry.example.com/muster:1", "command": ["/manager"],
                "args": ["--runner-image=x", format!("--watch-namespace={ns}")]}]}}}})
    .to_string()
}

/// A volume that a RunnerSet kept for its claim, which is bound.
fn kept(ns: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": ns, "annotations": {"muster.dev/reclaim-policy": "Delete"},
            "labels": {"runnerset-name": "caches", "muster.dev/runnerset-namespace": ns, "muster.dev/claim-template": "cache"}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": ns, "name": "cache-a-0", "uid": "1"}}})
}

/// What the controller of Deployments would say once the pods are gone.
async fn stop_pods(world: &World, name: &str) {
    let scaled = async |world: &World| {
        let deployment = world.api::<Deployment>().get(name).await?;
        Ok(deployment.spec.replicas == Some(0))
    };
    world
        .until("the Deployment is scaled down", MINUTE, scaled)
        .await
        .unwrap();
    let api = world.api::<Deployment>();
    let generation = api.get(name).await.unwrap().metadata.generation;
    let status = Patch::Merge(json!({"status": {"observedGeneration": generation, "replicas": 0}}));
    api.patch_status(name, &PatchParams::default(), &status)
        .await
        .unwrap();
}
