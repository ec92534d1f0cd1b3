//! Every shape of a runner's pod on the real API server: the Runner and its pod, strictly validated. Their contents are snapshots in `muster-core`.

use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass, scheduling::v1::PriorityClass};
use kube::{Api, Client, api::PostParams};
use muster_core::pods::{
    rbac,
    template::{PodDefaults, Registration, runner_pod},
};
use muster_crds::legacy::Runner;
use muster_tests::{control_plane::ControlPlane, keeper::workspace_dir};
use serde::Serialize;
use serde_json::{Value, json};

fn defaults(flags: &Value) -> PodDefaults {
    let text = |flag: &str| flags.get(flag).and_then(Value::as_str).map(str::to_owned);
    PodDefaults {
        runner_image: "summerwind/actions-runner:latest".to_owned(),
        docker_image: "docker:dind".to_owned(),
        docker_gid: text("docker-gid").unwrap_or_else(|| "1001".to_owned()),
        image_pull_secrets: serde_json::from_value(
            flags
                .get("runner-image-pull-secret")
                .cloned()
                .unwrap_or_else(|| json!([])),
        )
        .unwrap(),
        docker_registry_mirror: text("docker-registry-mirror").unwrap_or_default(),
        status_update_hook: flags.get("runner-status-update-hook") == Some(&json!(true)),
        version: "0.1.0".to_owned(),
    }
}

/// What `kubectl create --dry-run=server --validate=strict` does.
async fn try_out(client: &Client, path: &str, object: &impl Serialize) -> kube::Result<Value> {
    let request = http::Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object).unwrap())
        .unwrap();
    client.request(request).await
}

/// Admission refuses pods of classes that are not there.
async fn make_classes(client: &Client) {
    let batch: PriorityClass =
        serde_json::from_value(json!({"metadata": {"name": "batch"}, "value": 10})).unwrap();
    let gvisor: RuntimeClass =
        serde_json::from_value(json!({"metadata": {"name": "gvisor"}, "handler": "runsc"})).unwrap();
    let params = PostParams::default();
    Api::<PriorityClass>::all(client.clone())
        .create(&params, &batch)
        .await
        .unwrap();
    Api::<RuntimeClass>::all(client.clone())
        .create(&params, &gvisor)
        .await
        .unwrap();
    // Admission knows of them by watches of its own.
    let probe: Pod = serde_json::from_value(json!({"metadata": {"name": "probe"}, "spec": {
        "priorityClassName": "batch", "runtimeClassName": "gvisor", "containers": [{"name": "x", "image": "x"}]}}))
    .unwrap();
    for _ in 0..200 {
        if try_out(client, "/api/v1/namespaces/default/pods", &probe)
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("admission does not see the classes");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_a_pod_is_accepted() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let ns = plane.namespace("shapes").await.unwrap();
    make_classes(&client).await;
    let text = std::fs::read_to_string(workspace_dir().join("tests/fixtures/pod_shapes.json")).unwrap();
    let shapes: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut refused = Vec::new();
    for shape in &shapes {
        let name = shape["name"].as_str().unwrap();
        let mut metadata = shape.get("metadata").cloned().unwrap_or_else(|| json!({}));
        metadata["name"] = json!(name.replace('_', "-"));
        metadata["namespace"] = json!(ns);
        let mut object = json!({
            "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner",
            "metadata": metadata, "spec": shape["spec"]
        });
        let runners = format!("/apis/actions.summerwind.dev/v1alpha1/namespaces/{ns}/runners");
        if let Err(error) = try_out(&client, &runners, &object).await {
            refused.push(format!("Runner {name}: {error}"));
        }
        object["metadata"]["uid"] = json!("0fc1a1de-0000-4000-8000-000000000000");
        let runner: Runner = serde_json::from_value(object).unwrap();
        let defaults = defaults(shape.get("flags").unwrap_or(&Value::Null));
        let registration = Registration {
            github_url: "https://github.com/",
            token: "AAA",
        };
        let pod = runner_pod(&runner, &defaults, &registration).unwrap();
        if let Err(error) = try_out(&client, &format!("/api/v1/namespaces/{ns}/pods"), &pod).await {
            refused.push(format!("Pod {name}: {error}"));
        }
        if let Some(made) = rbac::generated(&runner, defaults.status_update_hook) {
            let accounts = format!("/api/v1/namespaces/{ns}/serviceaccounts");
            let rights = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
            for answer in [
                try_out(&client, &accounts, &made.service_account).await,
                try_out(&client, &format!("{rights}/roles"), &made.role).await,
                try_out(&client, &format!("{rights}/rolebindings"), &made.role_binding).await,
            ] {
                if let Err(error) = answer {
                    refused.push(format!("account of {name}: {error}"));
                }
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(shapes.len() >= 40, "{} shapes", shapes.len());
}
