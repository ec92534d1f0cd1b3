//! What the types make of objects as they are stored: by users, by us, and by the controller we replace.

use std::{fs, path::Path};

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::{keys, time::MicroTime};

fn read<T: DeserializeOwned>(value: &Value) -> T {
    // By text, as it comes from the API server.
    serde_json::from_str(&value.to_string()).unwrap()
}

fn written<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap()
}

/// Asserts that a value reads and is written again without change.
fn survives<T: Serialize + DeserializeOwned>(value: &Value) {
    assert_eq!(&written(&read::<T>(value)), value);
}

fn samples() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples/legacy");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        found.extend(documents.into_iter().map(|document| (name.clone(), document)));
    }
    found
}

/// What the API server and the model make of a manifest: nulls go, quantities become strings.
fn stored(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match (name.as_str(), value) {
                ("cpu" | "memory" | "storage", Value::Number(number)) => (name, json!(number.to_string())),
                (_, value) => (name, stored(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(stored).collect(),
        other => other,
    }
}

#[test]
fn every_field_of_the_samples_is_kept() {
    let samples = samples();
    assert_eq!(samples.len(), 17);
    for (name, manifest) in samples {
        let kind = manifest["kind"].as_str().unwrap().to_owned();
        let spec = &manifest["spec"];
        let kept = match kind.as_str() {
            "Runner" => written(&read::<RunnerSpec>(spec)),
            "RunnerReplicaSet" => written(&read::<RunnerReplicaSetSpec>(spec)),
            "RunnerDeployment" => written(&read::<RunnerDeploymentSpec>(spec)),
            "RunnerSet" => written(&read::<RunnerSetSpec>(spec)),
            "HorizontalRunnerAutoscaler" => written(&read::<HorizontalRunnerAutoscalerSpec>(spec)),
            "Secret" => continue,
            other => panic!("{other}"),
        };
        assert_eq!(
            comparable(kept),
            comparable(stored(spec.clone())),
            "{name} {kind}"
        );
    }
}

/// Forgets how times are written and what the model of a claim adds to one.
fn comparable(value: Value) -> Value {
    match value {
        Value::String(text) => match text.parse::<jiff::Timestamp>() {
            Ok(at) => json!(at.as_second()),
            Err(_) => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(comparable).collect(),
        Value::Object(mut fields) => {
            if fields
                .get("kind")
                .is_some_and(|kind| kind == "PersistentVolumeClaim")
            {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            fields
                .into_iter()
                .map(|(name, value)| (name, comparable(value)))
                .collect()
        }
        other => other,
    }
}

#[test]
fn integer_quantities_are_read() {
    let spec: RunnerSpec = read(&json!({
        "repository": "meridian-maps/atlas",
        "volumeSizeLimit": 1_000_000,
        "resources": {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"cpu": "500m"}},
        "containers": [{"name": "runner", "resources": {"limits": {"cpu": 4}}}],
    }));
    let resources = spec.pod.resources.unwrap();
    assert_eq!(resources.requests.unwrap()["cpu"], Quantity("1".to_owned()));
    assert_eq!(resources.limits.unwrap()["cpu"], Quantity("500m".to_owned()));
    assert_eq!(
        spec.config.volume_size_limit,
        Some(Quantity("1000000".to_owned()))
    );
    let container = &spec.pod.containers.unwrap()[0];
    assert_eq!(
        container.resources.clone().unwrap().limits.unwrap()["cpu"],
        Quantity("4".to_owned())
    );
}

#[test]
fn flattened_parts_are_one_object_on_the_wire() {
    let spec = RunnerSpec {
        config: RunnerConfig {
            organization: Some("meridian-maps".to_owned()),
            docker_mtu: Some(1400),
            ..RunnerConfig::default()
        },
        pod: RunnerPodSpec {
            service_account_name: Some("builder".to_owned()),
            ..RunnerPodSpec::default()
        },
    };
    assert_eq!(
        written(&spec),
        json!({"organization": "meridian-maps", "dockerMTU": 1400, "serviceAccountName": "builder"})
    );
    survives::<RunnerSpec>(&written(&spec));
}

#[test]
fn names_on_the_wire_that_do_not_follow_from_ours() {
    survives::<RunnerSpec>(&json!({
        "dockerMTU": 1450,
        "githubAPICredentialsFrom": {"secretRef": {"name": "meridian-app"}},
        "dockerdWithinRunnerContainer": true,
        "dockerVarRunVolumeSizeLimit": "1M",
        "dnsConfig": {"nameservers": ["10.0.0.10"]},
        "workVolumeClaimTemplate": {
            "storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        },
    }));
    survives::<WorkflowStatus>(&json!({"runID": "9", "runNumber": "8", "repositoryOwner": "meridian-maps"}));
    survives::<HorizontalRunnerAutoscalerSpec>(&json!({
        "githubAPICredentialsFrom": {"secretRef": {"name": "meridian-app"}},
        "scaleDownDelaySecondsAfterScaleOut": 300,
        "metrics": [{"type": "PercentageRunnersBusy", "scaleUpThreshold": "0.75"}],
        "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "amount": 1, "duration": "30m"}],
    }));
}

#[test]
fn nulls_read_as_absent() {
    let spec: RunnerDeploymentSpec = read(&json!({
        "replicas": null,
        "effectiveTime": null,
        "selector": null,
        "template": {"metadata": null, "spec": {"env": null, "enterprise": null, "resources": null}},
    }));
    assert_eq!(spec, RunnerDeploymentSpec::default());
    let scheduled: ScheduledOverride = read(&json!({
        "startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-02T00:00:00Z", "minReplicas": null,
    }));
    assert_eq!(scheduled.min_replicas, None);
    let status: HorizontalRunnerAutoscalerStatus = read(&json!({"lastSuccessfulScaleOutTime": null}));
    assert_eq!(status, HorizontalRunnerAutoscalerStatus::default());
}

#[test]
fn objects_of_the_go_controller_are_understood() {
    let set: RunnerReplicaSet = read(&json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1",
        "kind": "RunnerReplicaSet",
        "metadata": {
            "name": "atlas-build-x7k2p",
            "generateName": "atlas-build-",
            "creationTimestamp": "2026-05-04T11:22:33Z",
            "labels": {"runner-template-hash": "6c8f9d7b5", "runner-deployment-name": "atlas-build"},
            "managedFields": [{"manager": "manager", "operation": "Update"}],
        },
        "spec": {
            "effectiveTime": null,
            "replicas": 2,
            "selector": {"matchLabels": {"runner-template-hash": "6c8f9d7b5"}},
            "template": {
                "metadata": {"labels": {"runner-template-hash": "6c8f9d7b5"}},
                "spec": {
                    "repository": "meridian-maps/atlas", "image": "", "resources": {},
                    "dockerdContainerResources": {},
                },
            },
        },
        "status": {"availableReplicas": 0, "readyReplicas": 0},
    }));
    assert_eq!(set.spec.effective_time, None);
    assert_eq!(set.spec.template.spec.config.image.as_deref(), Some(""));
    assert_eq!(
        set.spec.template.spec.pod.resources,
        Some(ResourceRequirements::default())
    );
    assert_eq!(set.status, Some(RunnerReplicaSetStatus::default()));
    let labels = set.metadata.labels.unwrap();
    assert_eq!(labels[keys::LABEL_RUNNER_TEMPLATE_HASH], "6c8f9d7b5");

    let runner: Runner = read(&json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1",
        "kind": "Runner",
        "metadata": {
            "name": "atlas-build-x7k2p-q4wzn",
            "annotations": {"sync-time": "2026-05-04T11:22:33Z"},
            "finalizers": ["runner.actions.summerwind.dev"],
        },
        "spec": {"repository": "meridian-maps/atlas", "image": "", "resources": {}, "dockerdContainerResources": {}},
        "status": {
            "phase": "Running", "ready": true, "lastRegistrationCheckTime": null, "message": "",
            "registration": {
                "repository": "meridian-maps/atlas", "token": "SENTINEL", "expiresAt": "2026-05-04T12:22:33Z",
            },
            "workflow": {"name": "", "runID": ""},
        },
    }));
    assert_eq!(
        runner.metadata.finalizers.as_deref(),
        Some(&[keys::FINALIZER_RUNNER.to_owned()][..])
    );
    assert_eq!(runner.status.as_ref().and_then(|status| status.ready), Some(true));
    assert!(!format!("{runner:?}").contains("SENTINEL"));
}

#[test]
fn reservations_keep_their_microseconds() {
    let text = "2026-05-04T11:22:33.000007Z";
    let reservation = CapacityReservation {
        name: Some("0/1/2".to_owned()),
        effective_time: Some(text.parse().unwrap()),
        expiration_time: Some("2026-05-04T11:52:33Z".parse().unwrap()),
        replicas: Some(1),
    };
    let wire = json!({
        "name": "0/1/2", "effectiveTime": text, "expirationTime": "2026-05-04T11:52:33.000000Z", "replicas": 1,
    });
    assert_eq!(written(&reservation), wire);
    assert_eq!(read::<CapacityReservation>(&wire), reservation);
    survives::<RunnerDeploymentSpec>(&json!({"effectiveTime": text, "template": {"spec": {}}}));
}

#[test]
fn a_duration_that_cannot_be_parsed_does_not_break_decoding() {
    let spec: HorizontalRunnerAutoscalerSpec = read(&json!({
        "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "banana"}],
    }));
    let trigger = &spec.scale_up_triggers.unwrap()[0];
    assert_eq!(trigger.duration.as_deref(), Some("banana"));
    assert_eq!(
        trigger.github_event.as_ref().unwrap().workflow_job,
        Some(WorkflowJobSpec {})
    );
}

#[test]
fn an_empty_event_is_not_a_workflow_job() {
    let trigger: ScaleUpTrigger = read(&json!({"githubEvent": {}}));
    assert_eq!(
        trigger.github_event,
        Some(GitHubEventScaleUpTriggerSpec::default())
    );
}

#[test]
fn times_are_read_in_lower_case_and_with_offsets() {
    let scheduled: ScheduledOverride = read(&json!({
        "startTime": "2026-01-01t00:00:00z", "endTime": "2026-01-02T09:00:00+09:00",
    }));
    assert_eq!(
        scheduled
            .end_time
            .at
            .duration_since(scheduled.start_time.at)
            .as_hours(),
        24
    );
}

#[test]
fn unknown_fields_are_passed_over() {
    let spec: RunnerSpec = read(&json!({"repository": "meridian-maps/atlas", "ofTheFuture": {"a": [1]}}));
    assert_eq!(written(&spec), json!({"repository": "meridian-maps/atlas"}));
}

#[test]
fn absent_lists_and_empty_lists_differ() {
    let absent: RunnerSpec = read(&json!({}));
    let empty: RunnerSpec = read(&json!({"labels": []}));
    assert_eq!(absent.config.labels, None);
    assert_eq!(empty.config.labels, Some(Vec::new()));
    survives::<RunnerSpec>(&json!({"labels": []}));
}

#[test]
fn a_status_writes_both_required_counts() {
    let status = RunnerReplicaSetStatus {
        replicas: Some(0),
        ..RunnerReplicaSetStatus::default()
    };
    assert_eq!(
        written(&status),
        json!({"replicas": 0, "readyReplicas": 0, "availableReplicas": 0})
    );
}

#[test]
fn the_epoch_is_no_time_of_a_default() {
    assert_eq!(CapacityReservation::default().expiration_time, None::<MicroTime>);
}
