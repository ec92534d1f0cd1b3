//! The simulated kubelet and runner against the real API server and the fake GitHub, without any controller.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use muster_tests::{
    github::{DEFAULT_TOKEN, FakeGitHub, JobState},
    kubelet::{Fault, FaultRule, Strike, When},
    world::{LABEL, ORGANIZATION, World},
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_mins(10);

async fn world(name: &str) -> World {
    World::builder(name).without_processes().start().await.unwrap()
}

async fn registration_token(github: &FakeGitHub) -> String {
    let url = format!(
        "{}orgs/{ORGANIZATION}/actions/runners/registration-token",
        github.base_url()
    );
    let client = reqwest::Client::builder()
        .no_proxy()
        .user_agent("test")
        .build()
        .unwrap();
    let answer = client.post(url).bearer_auth(DEFAULT_TOKEN).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    body["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{body}"))
        .to_owned()
}

/// A runner pod as the manager would make it, with or without the docker sidecar.
async fn runner_pod(world: &World, name: &str, sidecar: bool, change: impl FnOnce(&mut Value)) -> Api<Pod> {
    let env: Vec<Value> = [
        ("RUNNER_ORG", ORGANIZATION),
        ("RUNNER_REPO", ""),
        ("RUNNER_ENTERPRISE", ""),
        ("RUNNER_LABELS", LABEL),
        ("RUNNER_GROUP", ""),
        ("GITHUB_URL", &world.github.base_url()),
        ("RUNNER_EPHEMERAL", "true"),
        ("RUNNER_NAME", name),
        ("RUNNER_TOKEN", &registration_token(&world.github).await),
    ]
    .into_iter()
    .map(|(name, value)| json!({"name": name, "value": value}))
    .collect();
    let mut containers = vec![json!({"name": "runner", "image": "runner", "env": env})];
    if sidecar {
        containers
            .push(json!({"name": "docker", "image": "docker:dind", "securityContext": {"privileged": true}}));
    }
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": containers},
    });
    change(&mut pod);
    let api: Api<Pod> = world.api();
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    api
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().unwrap().phase.as_deref().unwrap()
}

fn condition(pod: &Pod, kind: &str) -> String {
    let conditions = pod.status.as_ref().unwrap().conditions.iter().flatten();
    conditions
        .filter(|c| c.type_ == kind)
        .map(|c| c.status.clone())
        .next()
        .unwrap_or_default()
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let mut statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    statuses
        .find(|c| c.name == "runner")?
        .state
        .as_ref()?
        .terminated
        .as_ref()
        .map(|t| t.exit_code)
}

async fn until_registered(world: &World, count: usize) {
    let registered = async |world: &World| Ok(world.github.runners().len() == count);
    world
        .until("the runners are registered", SOON, registered)
        .await
        .unwrap();
}

async fn until_ended(world: &World, name: &str) -> Pod {
    let ended = async |world: &World| Ok(exit_code(&world.api::<Pod>().get(name).await?).is_some());
    world
        .until("the runner's container has ended", SOON, ended)
        .await
        .unwrap();
    world.api::<Pod>().get(name).await.unwrap()
}

async fn until_gone(world: &World, name: &str) {
    let gone = async |world: &World| Ok(world.api::<Pod>().get_opt(name).await?.is_none());
    world.until("the pod is gone", SOON, gone).await.unwrap();
}

#[tokio::test]
async fn runner_with_sidecar_takes_one_job_and_only_its_container_ends() {
    let world = world("sidecar").await;
    let job = world.queue_job(SHORT);
    let api = runner_pod(&world, "a", true, |_| {}).await;
    world.until_jobs_done(SOON).await.unwrap();
    let pod = until_ended(&world, "a").await;
    assert_eq!((phase(&pod), exit_code(&pod)), ("Running", Some(0)));
    assert_eq!(condition(&pod, "Ready"), "False");
    assert_eq!(
        pod.spec.as_ref().unwrap().node_name.as_deref(),
        Some("muster-sim")
    );
    let job = world.github.job(job.id).unwrap();
    assert_eq!(
        (job.state, job.conclusion.as_deref()),
        (JobState::Completed, Some("success"))
    );
    assert_eq!(job.runner.unwrap().name, "a");
    assert!(world.github.runners().is_empty());

    api.delete("a", &DeleteParams::default()).await.unwrap();
    until_gone(&world, "a").await;
    let counters = world.kubelet.counters();
    assert_eq!(
        (
            counters.pods_created,
            counters.jobs_succeeded,
            counters.busy_deleted
        ),
        (1, 1, 0)
    );
    // Bound, running, runner ended, all ended, deleted: what a real kubelet and scheduler write.
    assert_eq!(counters.writes, 5);
}

#[tokio::test]
async fn runner_without_sidecar_succeeds_with_its_job() {
    let world = world("plain").await;
    let api = runner_pod(&world, "a", false, |_| {}).await;
    until_registered(&world, 1).await;
    let pod = api.get("a").await.unwrap();
    assert_eq!(
        (phase(&pod), condition(&pod, "Ready").as_str()),
        ("Running", "True")
    );
    world.queue_job(SHORT);
    world.until_jobs_done(SOON).await.unwrap();
    let pod = until_ended(&world, "a").await;
    assert_eq!((phase(&pod), exit_code(&pod)), ("Succeeded", Some(0)));
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until_gone(&world, "a").await;
}

#[tokio::test]
async fn idle_runner_unregisters_itself_when_its_pod_is_deleted_and_finalizers_are_honoured() {
    let world = world("idle").await;
    let keep = |pod: &mut Value| pod["metadata"]["finalizers"] = json!(["muster.dev/test"]);
    let api = runner_pod(&world, "a", true, keep).await;
    until_registered(&world, 1).await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until_registered(&world, 0).await;
    let pod = until_ended(&world, "a").await;
    let released = async |world: &World| {
        Ok(world
            .api::<Pod>()
            .get("a")
            .await?
            .metadata
            .deletion_grace_period_seconds
            == Some(0))
    };
    world
        .until("the kubelet has confirmed the end", SOON, released)
        .await
        .unwrap();
    assert_eq!(pod.finalizers().len(), 1);
    let release = json!({"metadata": {"finalizers": null}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&release))
        .await
        .unwrap();
    until_gone(&world, "a").await;
    assert_eq!(world.kubelet.counters().busy_deleted, 0);
}

#[tokio::test]
async fn runner_removed_from_github_ends_by_itself() {
    let world = world("removed").await;
    runner_pod(&world, "a", false, |_| {}).await;
    until_registered(&world, 1).await;
    let id = world.github.runners()[0].id;
    let url = format!(
        "{}orgs/{ORGANIZATION}/actions/runners/{id}",
        world.github.base_url()
    );
    let client = reqwest::Client::builder()
        .no_proxy()
        .user_agent("test")
        .build()
        .unwrap();
    let answer = client
        .delete(url)
        .bearer_auth(DEFAULT_TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 204);
    assert_eq!(phase(&until_ended(&world, "a").await), "Succeeded");
}

#[tokio::test]
async fn busy_pod_that_is_deleted_loses_its_job_at_the_end_of_the_grace_period() {
    let world = world("busy").await;
    let job = world.queue_job(LONG);
    let api = runner_pod(&world, "a", true, |_| {}).await;
    let busy = async |world: &World| Ok(world.kubelet.counters().jobs_started == 1);
    world.until("the job runs", SOON, busy).await.unwrap();
    api.delete(
        "a",
        &DeleteParams {
            grace_period_seconds: Some(1),
            ..Default::default()
        },
    )
    .await
    .unwrap();
    until_gone(&world, "a").await;
    assert_eq!(world.kubelet.counters().busy_deleted, 1);
    world.until_jobs_done(SOON).await.unwrap();
    assert_eq!(
        world.github.job(job.id).unwrap().conclusion.as_deref(),
        Some("failure")
    );
    assert_eq!(world.github.interrupted(), 1);
}

#[tokio::test]
async fn job_that_ends_within_the_grace_period_is_not_lost() {
    let world = world("grace").await;
    let job = world.queue_job(Duration::from_secs(2));
    let api = runner_pod(&world, "a", true, |_| {}).await;
    let busy = async |world: &World| Ok(world.kubelet.counters().jobs_started == 1);
    world.until("the job runs", SOON, busy).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until_gone(&world, "a").await;
    assert_eq!(
        world.github.job(job.id).unwrap().conclusion.as_deref(),
        Some("success")
    );
}

#[tokio::test]
async fn faults_look_as_they_do_on_a_real_node() {
    let world = world("faults").await;
    let fault = |text: &'static str| {
        move |pod: &mut Value| {
            pod["metadata"]["annotations"] = json!({muster_tests::kubelet::fault::ANNOTATION: text});
        }
    };
    let api = runner_pod(&world, "crash", true, fault("crash=3@idle")).await;
    runner_pod(&world, "evicted", true, fault("evict@started")).await;
    runner_pod(&world, "pending", true, fault("never-ready")).await;
    runner_pod(&world, "unscheduled", true, fault("never-scheduled")).await;
    let pod = until_ended(&world, "crash").await;
    assert_eq!((phase(&pod), exit_code(&pod)), ("Running", Some(3)));
    let pod = until_ended(&world, "evicted").await;
    assert_eq!(
        (phase(&pod), pod.status.as_ref().unwrap().reason.as_deref()),
        ("Failed", Some("Evicted"))
    );
    let waiting = async |world: &World| {
        let pod = world.api::<Pod>().get("pending").await?;
        Ok(phase(&pod) == "Pending" && pod.status.unwrap().container_statuses.is_some())
    };
    world
        .until("the image cannot be pulled", SOON, waiting)
        .await
        .unwrap();
    assert_eq!(
        api.get("unscheduled").await.unwrap().spec.unwrap().node_name,
        None
    );
    for name in ["crash", "evicted", "pending", "unscheduled"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    for name in ["crash", "evicted", "pending", "unscheduled"] {
        until_gone(&world, name).await;
    }
}

#[tokio::test]
async fn pod_on_a_lost_node_is_not_confirmed() {
    let world = world("lost").await;
    world.kubelet.inject(
        FaultRule::new(Fault::crash(1, When::Idle))
            .named("other")
            .times(1),
    );
    let api = runner_pod(&world, "a", true, |_| {}).await;
    until_registered(&world, 1).await;
    assert!(world.kubelet.strike("a", Strike::LoseNode));
    let offline = async |world: &World| Ok(world.github.runners().iter().all(|runner| !runner.online));
    world
        .until("GitHub has lost the runner", SOON, offline)
        .await
        .unwrap();
    api.delete(
        "a",
        &DeleteParams {
            grace_period_seconds: Some(1),
            ..Default::default()
        },
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(api.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    api.delete(
        "a",
        &DeleteParams {
            grace_period_seconds: Some(0),
            ..Default::default()
        },
    )
    .await
    .unwrap();
    until_gone(&world, "a").await;
}

#[tokio::test]
async fn a_hundred_runners_take_a_hundred_jobs() {
    let world = world("hundred").await;
    world.queue_jobs(100, SHORT);
    let names: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    for name in &names {
        runner_pod(&world, name, true, |_| {}).await;
    }
    world.until_jobs_done(Duration::from_mins(1)).await.unwrap();
    let counters = world.kubelet.counters();
    assert_eq!(
        (counters.pods_created, counters.jobs_succeeded, counters.jobs_lost),
        (100, 100, 0)
    );
    assert_eq!(world.kubelet.jobs().len(), 100);
    assert!(world.github.runners().is_empty());
}
