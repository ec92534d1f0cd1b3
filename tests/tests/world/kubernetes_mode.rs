//! Jobs as pods of their own: the account that a runner gets, what the manager says without the right to make it, and what is left of a job.

use std::{fs, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Event, Pod, Secret, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use muster_crds::legacy::{Runner, RunnerDeployment};
use muster_tests::{
    control_plane::{ControlPlane, MANAGER, manifests},
    keeper::workspace_dir,
    world::{World, wait_until_allowed},
};
use serde_json::json;

const MINUTE: Duration = Duration::from_mins(1);

/// Gives the manager the rights that are optional.
async fn grant(plane: &ControlPlane) {
    let admin = plane.admin().await.unwrap();
    for file in [
        "runner_status_update_hook_role.yaml",
        "allow_granting_kubernetes_container_mode_permissions_role.yaml",
    ] {
        let text = fs::read_to_string(workspace_dir().join("config/rbac").join(file)).unwrap();
        manifests::apply_yaml(&admin, "default", &text).await.unwrap();
    }
    let manager = plane.client(MANAGER).await.unwrap();
    for (verb, group, resource) in [
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("delete", "", "secrets"),
    ] {
        wait_until_allowed(&manager, verb, group, resource).await.unwrap();
    }
}

async fn names<K>(world: &World) -> anyhow::Result<Vec<String>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let all: Api<K> = world.api();
    Ok(all
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| name != "default")
        .collect())
}

async fn reasons(world: &World) -> anyhow::Result<Vec<String>> {
    let events = world.api::<Event>().list(&ListParams::default()).await?.items;
    Ok(events.into_iter().filter_map(|event| event.reason).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_gets_rights_for_job_pods_and_takes_what_is_left_of_them_along() {
    // Rights are cluster-wide: those of the other tests' manager must stay as they are.
    let plane = Arc::new(ControlPlane::start().await.unwrap());
    let world = World::builder("kubernetes-mode")
        .on(Arc::clone(&plane))
        .start()
        .await
        .unwrap();
    world
        .deployment("jobs", |spec| {
            spec.replicas = Some(1);
            spec.template.spec.config.container_mode = Some("kubernetes".to_owned());
            spec.template.spec.pod.work_volume_claim_template = Some(
                serde_json::from_value(
                    json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}),
                )
                .unwrap(),
            );
        })
        .await
        .unwrap();
    until_the_missing_right_is_named(&world).await;
    assert!(world.pods().await.unwrap().is_empty());

    grant(&plane).await;
    world.restart_manager().await.unwrap();
    world
        .until("the runner is online", MINUTE, async |world: &World| {
            Ok(world.github.runners().len() == 1)
        })
        .await
        .unwrap();
    let pod = world.pods().await.unwrap().remove(0);
    let name = pod.name_any();
    assert_eq!(
        pod.spec.as_ref().unwrap().service_account_name.as_deref(),
        Some(name.as_str())
    );
    assert_eq!(names::<ServiceAccount>(&world).await.unwrap(), [name.as_str()]);
    assert_eq!(names::<Role>(&world).await.unwrap(), [name.as_str()]);
    assert_eq!(names::<RoleBinding>(&world).await.unwrap(), [name.as_str()]);
    world
        .until("the events are written", MINUTE, async |world: &World| {
            let reasons = reasons(world).await?;
            let expected = ["ServiceAccountCreated", "RoleCreated", "RoleBindingCreated"];
            Ok(expected
                .iter()
                .all(|reason| reasons.iter().any(|found| found == reason)))
        })
        .await
        .unwrap();

    leave_behind(&world, &name).await;
    world.queue_job(Duration::from_secs(4));
    world
        .until("the job runs", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 1)
        })
        .await
        .unwrap();
    delete_while_busy(&world, &name).await;
    world
        .until("only the others' is left", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().open() == 0
                && names::<Pod>(world).await?.is_empty()
                && names::<Secret>(world).await? == ["of-another"]
                && names::<Role>(world).await?.is_empty()
                && names::<ServiceAccount>(world).await?.is_empty())
        })
        .await
        .unwrap();
    // The one deletion of a busy pod is the test's own; the job was finished all the same.
    assert_eq!(
        (world.kubelet.counters().busy_deleted, world.github.interrupted()),
        (1, 0)
    );
}

/// What the container hooks leave when a job is cut short.
async fn leave_behind(world: &World, runner_pod: &str) {
    for (name, label) in [("of-the-job", runner_pod), ("of-another", "another-runner")] {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"runner-pod": label}}}))
                .unwrap();
        world
            .api::<Secret>()
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
    }
    let job: Pod = serde_json::from_value(json!({
        "metadata": {"name": "job", "labels": {"runner-pod": runner_pod}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "job", "image": "node:24"}]}
    }))
    .unwrap();
    world
        .api::<Pod>()
        .create(&PostParams::default(), &job)
        .await
        .unwrap();
}

async fn until_the_missing_right_is_named(world: &World) {
    world
        .until("the missing right is named", MINUTE, async |world: &World| {
            let runners = world.api::<Runner>().list(&ListParams::default()).await?.items;
            let messages = runners
                .into_iter()
                .filter_map(|runner| runner.status?.conditions)
                .flatten()
                .map(|condition| condition.message);
            Ok(messages.into_iter().any(|message| {
                message.contains("serviceaccounts") && message.contains("spec.serviceAccountName")
            }))
        })
        .await
        .unwrap();
}

async fn delete_while_busy(world: &World, name: &str) {
    // Somebody deletes the pod of a busy runner, as a node drain does: what its job made stays until the job is done.
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    world
        .api::<RunnerDeployment>()
        .patch("jobs", &PatchParams::default(), &none)
        .await
        .unwrap();
    world
        .api::<Pod>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    world
        .until(
            "GitHub has said that it is busy",
            MINUTE,
            async |world: &World| {
                let pod = world.api::<Pod>().get(name).await?;
                let asked = pod
                    .annotations()
                    .contains_key("actions-runner/unregistration-failure-message");
                Ok(asked && pod.metadata.deletion_timestamp.is_some())
            },
        )
        .await
        .unwrap();
    let secrets = names::<Secret>(world).await.unwrap();
    if world.github.job_stats().in_progress == 1 {
        assert_eq!(secrets, ["of-another", "of-the-job"]);
    }
}
