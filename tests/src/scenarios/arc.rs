//! Objects as ARC 0.27 writes them, and what it needs to find when it comes back (spec parts 01 §9, 02 §1, §6-§11).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use jiff::{Timestamp, Zoned, tz};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use muster_crds::{
    keys,
    legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    github::DEFAULT_TOKEN,
    world::{LABEL, ORGANIZATION, World},
};

/// The template's hash in ARC's words: a label, compared for equality only.
pub const HASH: &str = "7b9c5d6f84";
/// The RunnerReplicaSet.
pub const SET: &str = "pool-x7k2p";
/// RunnerDeployment and autoscaler.
pub const POOL: &str = "pool";
const API_VERSION: &str = "actions.summerwind.dev/v1alpha1";

/// A time as ARC writes it: seconds, in the zone of its process.
fn time(at: Timestamp) -> String {
    let zone = tz::TimeZone::fixed(tz::offset(9));
    Zoned::new(at, zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

async fn create<K>(world: &World, object: Value) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).context("a fixture is no such object")?;
    let created = world.api::<K>().create(&PostParams::default(), &object).await;
    created.with_context(|| format!("could not create {}", object.name_any()))
}

async fn set_status<K>(world: &World, name: &str, status: Value) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let patch = Patch::Merge(json!({ "status": status }));
    let patched = world
        .api::<K>()
        .patch_status(name, &PatchParams::default(), &patch)
        .await;
    patched
        .map(drop)
        .with_context(|| format!("could not write the status of {name}"))
}

fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Value {
    json!([{"apiVersion": K::api_version(&()), "kind": K::kind(&()), "name": owner.name_any(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true}])
}

/// A registration token as ARC would have got it.
async fn token(world: &World) -> Result<String> {
    let base = world.github.base_url();
    let url = format!("{base}orgs/{ORGANIZATION}/actions/runners/registration-token");
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client
        .post(url)
        .header("authorization", format!("Bearer {DEFAULT_TOKEN}"))
        .header("user-agent", "actions-runner-controller/0.27.6");
    let answer: Value = request.send().await?.error_for_status()?.json().await?;
    let token = answer.get("token").and_then(Value::as_str);
    Ok(token.context("the fake gave no registration token")?.to_owned())
}

/// Go's zero values stand in what its controllers create.
fn runner_spec() -> Value {
    json!({"organization": ORGANIZATION, "labels": [LABEL], "image": "", "resources": {}, "dockerdContainerResources": {}})
}

/// A pool of so many runners that ARC has scaled: `demand` of them for anonymous reservations, the others are `minReplicas`.
pub async fn pool(world: &World, runners: usize, demand: usize) -> Result<()> {
    let now = world.github.now();
    let labels = json!({"runner-template-hash": HASH, "runner-deployment-name": POOL});
    let deployment: RunnerDeployment = create(
        world,
        json!({"apiVersion": API_VERSION, "kind": "RunnerDeployment", "metadata": {"name": POOL},
            "spec": {"replicas": runners, "effectiveTime": time(now),
                "template": {"spec": {"organization": ORGANIZATION, "labels": [LABEL]}}}}),
    )
    .await?;
    let status = json!({"availableReplicas": runners, "readyReplicas": runners, "replicas": runners,
        "desiredReplicas": runners, "updatedReplicas": runners});
    set_status::<RunnerDeployment>(world, POOL, status).await?;
    let set: RunnerReplicaSet = create(
        world,
        json!({"apiVersion": API_VERSION, "kind": "RunnerReplicaSet",
            "metadata": {"name": SET, "generateName": "pool-", "labels": labels, "ownerReferences": owned_by(&deployment)},
            "spec": {"replicas": runners, "effectiveTime": time(now), "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": runner_spec()}}}),
    )
    .await?;
    let status = json!({"availableReplicas": runners, "readyReplicas": runners, "replicas": runners});
    set_status::<RunnerReplicaSet>(world, SET, status).await?;
    let token = token(world).await?;
    for index in 0..runners {
        let name = format!("{SET}-{index:05}");
        let annotations = json!({"sync-time": time(now)});
        let runner: Runner = create(
            world,
            json!({"apiVersion": API_VERSION, "kind": "Runner",
                "metadata": {"name": name, "generateName": format!("{SET}-"), "labels": labels,
                    "ownerReferences": owned_by(&set), "annotations": annotations,
                    "finalizers": [keys::FINALIZER_RUNNER]},
                "spec": runner_spec()}),
        )
        .await?;
        create::<Pod>(world, pod(world, &runner, &token, now)).await?;
        let registration = json!({"organization": ORGANIZATION, "repository": "", "labels": [LABEL], "token": token,
            "expiresAt": time(now)});
        let status = json!({"phase": "Running", "ready": true, "reason": "", "message": "", "registration": registration});
        set_status::<Runner>(world, &name, status).await?;
    }
    autoscaler(world, runners, demand, now).await
}

/// Its autoscaler: `replicas: 1` and two times make a reservation of ARC's.
async fn autoscaler(world: &World, runners: usize, demand: usize, now: Timestamp) -> Result<()> {
    let later = now + jiff::SignedDuration::from_mins(30);
    let entry = json!({"effectiveTime": time(now), "expirationTime": time(later), "replicas": 1});
    let entries = vec![entry; demand];
    create::<HorizontalRunnerAutoscaler>(
        world,
        json!({"apiVersion": API_VERSION, "kind": "HorizontalRunnerAutoscaler", "metadata": {"name": POOL},
            "spec": {"minReplicas": runners - demand, "maxReplicas": 2 * runners,
                "scaleDownDelaySecondsAfterScaleOut": 3, "capacityReservations": entries,
                "scaleTargetRef": {"kind": "RunnerDeployment", "name": POOL},
                "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "30m"}]}}),
    )
    .await?;
    let status = json!({"desiredReplicas": runners, "lastSuccessfulScaleOutTime": time(now)});
    set_status::<HorizontalRunnerAutoscaler>(world, POOL, status).await
}

/// A runner pod of ARC's default mode (spec 02 §11.7), with what its pod webhook and its pod controller add.
fn pod(world: &World, runner: &Runner, token: &str, now: Timestamp) -> Value {
    let name = runner.name_any();
    let base = world.github.base_url();
    let mut labels: BTreeMap<String, String> = runner.labels().clone();
    for (key, value) in [
        ("pod-template-hash", "6f8b9d54c7"),
        (keys::LABEL_ACTIONS_RUNNER, ""),
        ("actions-runner-controller/inject-registration-token", "true"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let env: Vec<Value> = [
        ("RUNNER_ORG", ORGANIZATION),
        ("RUNNER_REPO", ""),
        ("RUNNER_ENTERPRISE", ""),
        ("RUNNER_LABELS", LABEL),
        ("RUNNER_GROUP", ""),
        ("DOCKER_ENABLED", "true"),
        ("DOCKERD_IN_RUNNER", "false"),
        ("GITHUB_URL", &base),
        ("RUNNER_WORKDIR", "/runner/_work"),
        ("RUNNER_EPHEMERAL", "true"),
        ("RUNNER_STATUS_UPDATE_HOOK", "false"),
        (
            "GITHUB_ACTIONS_RUNNER_EXTRA_USER_AGENT",
            "actions-runner-controller/v0.27.6",
        ),
        ("DOCKER_HOST", "unix:///run/docker.sock"),
        ("RUNNER_NAME", &name),
        ("RUNNER_TOKEN", token),
    ]
    .into_iter()
    .map(|(name, value)| json!({"name": name, "value": value}))
    .collect();
    let mounts = json!([{"name": "runner", "mountPath": "/runner"}, {"name": "work", "mountPath": "/runner/_work"},
        {"name": "var-run", "mountPath": "/run"}]);
    let stop = "timeout \"${RUNNER_GRACEFUL_STOP_TIMEOUT:-15}\" /bin/sh -c 'until [ -f /runner/.stopped ]; do sleep 1; done'";
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": owned_by(runner),
            "annotations": {"sync-time": time(now), "actions-runner-controller/token-expires-at": time(now)},
            "finalizers": [keys::FINALIZER_RUNNER_POD]},
        "spec": {"restartPolicy": "Never", "volumes": [{"name": "runner", "emptyDir": {}}, {"name": "work", "emptyDir": {}},
                {"name": "var-run", "emptyDir": {"medium": "Memory", "sizeLimit": "1M"}}],
            "containers": [
                {"name": "runner", "image": "summerwind/actions-runner:latest", "imagePullPolicy": "Always",
                    "securityContext": {}, "env": env, "volumeMounts": mounts},
                {"name": "docker", "image": "docker:dind",
                    "args": ["dockerd", "--host=unix:///run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
                    "env": [{"name": "DOCKER_GROUP_GID", "value": "1001"}], "securityContext": {"privileged": true},
                    "volumeMounts": mounts, "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}}}]}})
}

/// Annotates the pods with the ids that GitHub gave their runners, as ARC's pod controller does.
pub async fn note_ids(world: &World) -> Result<()> {
    for runner in world.github.runners() {
        let patch = json!({"metadata": {"annotations": {keys::ANNOTATION_RUNNER_ID: runner.id.to_string()}}});
        let api = world.api::<Pod>();
        let patched = api
            .patch(&runner.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.with_context(|| format!("could not annotate {}", runner.name))?;
    }
    Ok(())
}

/// The parts that ARC compares with its own idea of them: if they change, it rolls the pool.
pub async fn templates(world: &World) -> Result<Value> {
    let deployment = world.get_deployment(POOL).await?;
    let sets = world
        .api::<RunnerReplicaSet>()
        .list(&ListParams::default())
        .await?;
    let sets: Vec<Value> = sets
        .items
        .iter()
        .map(|set| json!({"name": set.name_any(), "labels": set.labels(), "template": set.spec.template, "selector": set.spec.selector}))
        .collect();
    Ok(json!({"deployment": deployment.spec.template, "selector": deployment.spec.selector, "sets": sets}))
}

/// What ARC could not work with if it came back now, in sentences.
pub async fn objections(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut object = |what: String| found.push(what);
    let runners = world.runners().await?;
    for runner in &runners {
        let name = runner.name_any();
        if runner.labels().get("runner-template-hash").map(String::as_str) != Some(HASH) {
            object(format!(
                "Runner {name} would count as outdated: {:?}",
                runner.labels()
            ));
        }
        if runner.finalizers() != [keys::FINALIZER_RUNNER] {
            object(format!("Runner {name} has finalizers {:?}", runner.finalizers()));
        }
        let synced = runner
            .annotations()
            .get("sync-time")
            .map(|text| text.parse::<Timestamp>());
        if !matches!(synced, Some(Ok(_))) {
            object(format!("Runner {name} has sync-time {synced:?}"));
        }
        let phase = runner.status.as_ref().and_then(|status| status.phase.clone());
        if phase.is_none_or(|phase| phase.is_empty()) {
            object(format!("Runner {name} has no phase, which stops its whole set"));
        }
        if runner.owner_references().len() != 1 {
            object(format!(
                "Runner {name} has owners {:?}",
                runner.owner_references()
            ));
        }
    }
    let ours = [keys::FINALIZER_RUNNER_POD, keys::FINALIZER_LINKED_RESOURCES];
    for pod in world.pods().await? {
        let name = pod.name_any();
        if !runners.iter().any(|runner| runner.name_any() == name) {
            object(format!("pod {name} has no Runner"));
        }
        if pod
            .finalizers()
            .iter()
            .any(|finalizer| !ours.contains(&finalizer.as_str()))
        {
            object(format!("pod {name} has finalizers {:?}", pod.finalizers()));
        }
        let id = pod.annotations().get(keys::ANNOTATION_RUNNER_ID);
        if id.is_some_and(|id| id.parse::<u64>().is_err()) {
            object(format!("pod {name} has id {id:?}"));
        }
        for key in [
            keys::ANNOTATION_UNREGISTRATION_REQUEST,
            keys::ANNOTATION_UNREGISTRATION_START,
            keys::ANNOTATION_UNREGISTRATION_COMPLETE,
        ] {
            let value = pod.annotations().get(key);
            if value.is_some_and(|value| value.parse::<Timestamp>().is_err()) {
                object(format!("pod {name} has {key} {value:?}"));
            }
        }
    }
    let autoscaler = world.get_autoscaler(POOL).await?;
    for entry in autoscaler.spec.capacity_reservations.iter().flatten() {
        if entry.replicas.is_none() || entry.effective_time.is_none() || entry.expiration_time.is_none() {
            object(format!("an incomplete reservation: {entry:?}"));
        }
    }
    Ok(found)
}
