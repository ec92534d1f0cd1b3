//! A cluster that ARC ran: its objects are recognised by what they say, not by its template hash, and none is made anew.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use muster_core::pods::template::{PodDefaults, Registration, runner_pod};
use muster_crds::legacy::{Runner, RunnerDeployment, RunnerReplicaSet};
use muster_tests::{
    github::DEFAULT_TOKEN,
    world::{LABEL, ORGANIZATION, World},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);
const HASH: &str = "7b9c5d6f84";
const SET: &str = "pool-x7k2p";

async fn create<K>(world: &World, object: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    world
        .api::<K>()
        .create(&PostParams::default(), &object)
        .await
        .unwrap()
}

fn owned_by<K: kube::Resource<DynamicType = ()>>(owner: &K) -> Value {
    json!([{"apiVersion": K::api_version(&()), "kind": K::kind(&()), "name": owner.name_any(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true}])
}

/// A registration token as ARC would have got it.
async fn token(world: &World) -> String {
    let url = format!(
        "{}orgs/{ORGANIZATION}/actions/runners/registration-token",
        world.github.base_url()
    );
    let request = reqwest::Client::new()
        .post(url)
        .header("authorization", format!("Bearer {DEFAULT_TOKEN}"));
    let answer: Value = request
        .header("user-agent", "arc")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// A RunnerDeployment of so many runners as ARC 0.27 leaves it: Go's zero values, its hash, its annotations, finalizers and status.
async fn arcs_objects(world: &World, runners: usize) -> BTreeSet<String> {
    let spec = json!({"organization": ORGANIZATION, "labels": [LABEL], "image": "", "resources": {}, "dockerdContainerResources": {}});
    let deployment: RunnerDeployment = create(
        world,
        json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerDeployment", "metadata": {"name": "pool"},
            "spec": {"replicas": runners, "effectiveTime": null, "selector": null, "template": {"metadata": {}, "spec": spec}}}),
    )
    .await;
    let labels = json!({"runner-template-hash": HASH, "runner-deployment-name": "pool"});
    let set: RunnerReplicaSet = create(
        world,
        json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerReplicaSet",
            "metadata": {"name": SET, "labels": labels, "ownerReferences": owned_by(&deployment)},
            "spec": {"replicas": runners, "effectiveTime": null, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec}}}),
    )
    .await;
    let token = token(world).await;
    let mut names = BTreeSet::new();
    for index in 0..runners {
        let runner: Runner = create(
            world,
            json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner",
                "metadata": {"name": format!("{SET}-{index:05}"), "labels": labels, "ownerReferences": owned_by(&set),
                    "annotations": {"sync-time": "2026-11-20T10:00:00+09:00"}, "finalizers": ["runner.actions.summerwind.dev"]},
                "spec": spec}),
        )
        .await;
        let defaults = PodDefaults {
            runner_image: "summerwind/actions-runner:latest".to_owned(),
            docker_image: "docker:dind".to_owned(),
            docker_gid: "1001".to_owned(),
            version: "0.27.6".to_owned(),
            ..PodDefaults::default()
        };
        let base = world.github.base_url();
        let mut pod: Pod = runner_pod(
            &runner,
            &defaults,
            &Registration {
                github_url: &base,
                token: &token,
            },
        )
        .unwrap();
        pod.labels_mut()
            .insert("pod-template-hash".to_owned(), "5d7f".to_owned());
        let pod = world
            .api::<Pod>()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
        names.insert(pod.name_any());
        let registration = json!({"organization": ORGANIZATION, "labels": [LABEL], "token": token, "expiresAt": "2026-11-20T11:00:00Z"});
        let status = json!({"status": {"phase": "Running", "ready": true, "registration": registration}});
        let api = world.api::<Runner>();
        api.patch_status(&runner.name_any(), &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_over_recreates_nothing_and_goes_on() {
    let world = World::new("take-over").await.unwrap();
    world.kill_manager().await.unwrap();
    let before = arcs_objects(&world, 10).await;
    world
        .until("ten runners", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 10)
        })
        .await
        .unwrap();
    for _ in 0..5 {
        world.queue_job(Duration::from_secs(8));
    }
    world
        .until("five are busy", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 5)
        })
        .await
        .unwrap();

    world.restart_manager().await.unwrap();
    world
        .until("the manager has looked at them", MINUTE, async |world: &World| {
            let status = world.get_deployment("pool").await?.status.unwrap_or_default();
            Ok(status.replicas == Some(10) && status.available_replicas == Some(10))
        })
        .await
        .unwrap();
    let names: BTreeSet<String> = world
        .pods()
        .await
        .unwrap()
        .iter()
        .map(kube::ResourceExt::name_any)
        .collect();
    assert_eq!(names, before, "the same pods");
    let sets = world
        .api::<RunnerReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(
        sets.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(),
        [SET],
        "the same set"
    );
    assert_eq!(sets[0].labels()["runner-template-hash"], HASH);

    // Scale-down goes on: the idle ones first, the busy ones finish.
    let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
    world
        .api::<RunnerDeployment>()
        .patch("pool", &PatchParams::default(), &patch)
        .await
        .unwrap();
    world
        .until(
            "the idle ones went",
            Duration::from_secs(20),
            async |world: &World| Ok(world.pods().await?.len() <= 5),
        )
        .await
        .unwrap();
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_eq!(
        (world.kubelet.counters().busy_deleted, world.github.interrupted()),
        (0, 0)
    );
    assert_eq!(world.kubelet.counters().pods_created, 10);
}
