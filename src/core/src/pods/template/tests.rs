//! Every shape of `tests/fixtures/pod_shapes.json` as a snapshot (the world tests create each on a real API server), and what a snapshot does not say by itself.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

/// A Runner's spec under some flags of the manager.
#[derive(Deserialize)]
struct Shape {
    name: String,
    #[serde(default)]
    flags: Flags,
    #[serde(default)]
    metadata: Value,
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Flags {
    #[serde(default)]
    runner_image_pull_secret: Vec<String>,
    #[serde(default)]
    docker_registry_mirror: String,
    #[serde(default)]
    runner_status_update_hook: bool,
    docker_gid: Option<String>,
}

fn shapes() -> Vec<Shape> {
    serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/pod_shapes.json"
    )))
    .unwrap()
}

fn defaults() -> PodDefaults {
    PodDefaults {
        runner_image: "summerwind/actions-runner:latest".into(),
        docker_image: "docker:dind".into(),
        docker_gid: "1001".into(),
        version: "0.1.0".into(),
        ..PodDefaults::default()
    }
}

fn under(flags: &Flags) -> PodDefaults {
    let base = defaults();
    PodDefaults {
        image_pull_secrets: flags.runner_image_pull_secret.clone(),
        docker_registry_mirror: flags.docker_registry_mirror.clone(),
        status_update_hook: flags.runner_status_update_hook,
        docker_gid: flags
            .docker_gid
            .clone()
            .unwrap_or_else(|| base.docker_gid.clone()),
        ..base
    }
}

#[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
fn runner(spec: Value) -> Runner {
    serde_json::from_value(json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner",
        "metadata": {"name": "rd-abcde-fghij", "namespace": "ci", "uid": "u-1",
            "labels": {"runner-template-hash": "6d9f", "runner-deployment-name": "rd"},
            "annotations": {"sync-time": "2026-01-01T00:00:00Z"}},
        "spec": spec
    }))
    .unwrap()
}

const REGISTRATION: Registration<'static> = Registration {
    github_url: "https://github.com/",
    token: "AAA",
};

fn build_under(spec: Value, defaults: &PodDefaults) -> Result<PodSpec, TemplateError> {
    runner_pod(&runner(spec), defaults, &REGISTRATION).map(|pod| pod.spec.unwrap())
}

fn build(spec: Value) -> Result<PodSpec, TemplateError> {
    build_under(spec, &defaults())
}

fn container<'a>(spec: &'a PodSpec, name: &str) -> &'a Container {
    spec.containers
        .iter()
        .find(|container| container.name == name)
        .unwrap()
}

/// What the container sees: of two variables of one name the later.
fn variable(spec: &PodSpec, container_name: &str, name: &str) -> Option<String> {
    let env = container(spec, container_name).env.as_ref()?;
    env.iter().rfind(|variable| variable.name == name)?.value.clone()
}

fn mounts(spec: &PodSpec, name: &str) -> Vec<String> {
    let mounts = container(spec, name).volume_mounts.iter().flatten();
    mounts
        .map(|mount| format!("{}:{}", mount.name, mount.mount_path))
        .collect()
}

fn volumes(spec: &PodSpec) -> Vec<String> {
    spec.volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.clone())
        .collect()
}

#[test]
fn every_shape_is_as_it_was() {
    let shapes = shapes();
    assert!(shapes.len() >= 40, "{} shapes", shapes.len());
    let names: BTreeSet<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    assert_eq!(names.len(), shapes.len(), "two shapes of one name");
    for shape in &shapes {
        let mut runner = runner(shape.spec.clone());
        let meta: ObjectMeta = serde_json::from_value(match &shape.metadata {
            Value::Null => json!({}),
            other => other.clone(),
        })
        .unwrap();
        runner.labels_mut().extend(meta.labels.unwrap_or_default());
        runner
            .annotations_mut()
            .extend(meta.annotations.unwrap_or_default());
        let pod = runner_pod(&runner, &under(&shape.flags), &REGISTRATION)
            .unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        insta::assert_json_snapshot!(shape.name.as_str(), pod);
    }
}

#[test]
fn every_field_of_a_runner_is_in_some_shape() {
    let crd = serde_json::to_value(Runner::crd()).unwrap();
    let fields = crd
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties")
        .and_then(Value::as_object)
        .unwrap();
    assert!(fields.len() > 40, "{} fields", fields.len());
    let shapes = shapes();
    let missing: Vec<&String> = fields
        .keys()
        .filter(|field| {
            !shapes
                .iter()
                .any(|shape| shape.spec.get(field.as_str()).is_some())
        })
        .collect();
    assert!(missing.is_empty(), "in no shape: {missing:?}");
}

/// Spec 02 §19, "Docker GID".
#[test]
fn the_docker_group_follows_flag_image_and_variable() {
    for (flag, image, own, expected) in [
        ("1234", "r:latest", None, "1234"),
        ("1234", "r:ubuntu-20.04", None, "1001"),
        ("1234", "r:ubuntu-22.04", None, "121"),
        ("1234", "r:ubuntu-24.04", None, "121"),
        ("1234", "r:ubuntu-22.04", Some("2345"), "2345"),
        ("1001", "r:latest", None, "1001"),
    ] {
        let env: Vec<Value> = own
            .map(|value| json!({"name": "DOCKER_GROUP_GID", "value": value}))
            .into_iter()
            .collect();
        let defaults = PodDefaults {
            docker_gid: flag.to_owned(),
            ..defaults()
        };
        let spec = json!({"repository": "a/b", "image": image, "dockerEnv": env});
        let built = build_under(spec, &defaults).unwrap();
        assert_eq!(
            variable(&built, "docker", "DOCKER_GROUP_GID").as_deref(),
            Some(expected),
            "{flag} {image} {own:?}"
        );
    }
}

/// Spec 02 §19, "Pod".
#[test]
fn volumes_and_mounts_of_the_user_replace_generated_ones() {
    // A template with its own `work` volume: none is generated.
    let template: PodTemplateSpec = serde_json::from_value(json!({"spec": {
        "containers": [{"name": "runner", "volumeMounts": [{"name": "work", "mountPath": "/w"}, {"name": "var-run", "mountPath": "/r"}]}],
        "volumes": [{"name": "work", "hostPath": {"path": "/mnt"}}]
    }}))
    .unwrap();
    let config: RunnerConfig = serde_json::from_value(json!({"repository": "a/b"})).unwrap();
    let spec = complete(template, &config, &defaults(), "https://github.com/")
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(volumes(&spec), ["work", "runner", "var-run"]);
    // Its mounts of `work` and `var-run` are not doubled.
    assert_eq!(
        mounts(&spec, "runner"),
        ["work:/w", "var-run:/r", "runner:/runner"]
    );
    // A Runner's own `work` comes last, instead of the generated one.
    let spec = build(
        json!({"repository": "a/b", "volumes": [{"name": "work", "emptyDir": {}}, {"name": "x", "emptyDir": {}}]}),
    )
    .unwrap();
    assert_eq!(volumes(&spec), ["runner", "var-run", "work", "x"]);
    // Volumes called `runner` and `var-run` are the user's too; upstream doubles them and the API server refuses the pod.
    let spec = build(
        json!({"repository": "a/b", "volumes": [{"name": "var-run", "emptyDir": {}}, {"name": "runner", "emptyDir": {}}]}),
    )
    .unwrap();
    assert_eq!(volumes(&spec), ["work", "var-run", "runner"]);
}

#[test]
fn dockerd_has_what_the_runner_has_at_the_shared_paths() {
    let spec = build(json!({"repository": "a/b",
        "volumes": [{"name": "sock", "emptyDir": {}}, {"name": "big", "emptyDir": {}}],
        "volumeMounts": [{"name": "sock", "mountPath": "/run/"}, {"name": "big", "mountPath": "/runner/_work", "subPath": "w"}]}))
    .unwrap();
    assert_eq!(
        mounts(&spec, "runner"),
        ["runner:/runner", "sock:/run/", "big:/runner/_work"]
    );
    assert_eq!(
        mounts(&spec, "docker"),
        ["runner:/runner", "sock:/run/", "big:/runner/_work"]
    );
    let work = container(&spec, "docker").volume_mounts.as_ref().unwrap();
    assert_eq!(work[2].sub_path.as_deref(), Some("w"));
}

#[test]
fn containers_are_addressed_by_name() {
    for (mode, names) in [
        (json!({}), &["first", "runner", "docker"][..]),
        (
            json!({"containerMode": "kubernetes", "workVolumeClaimTemplate":
                {"storageClassName": "", "accessModes": ["ReadWriteMany"], "resources": {}}}),
            &["first", "runner"],
        ),
    ] {
        let mut spec = json!({"repository": "a/b", "containers": [{"name": "first", "image": "x"}, {"name": "runner"}],
            "volumes": [{"name": "cache", "emptyDir": {}}], "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]});
        spec.as_object_mut()
            .unwrap()
            .extend(mode.as_object().unwrap().clone());
        let built = build(spec).unwrap();
        let found: Vec<&str> = built
            .containers
            .iter()
            .map(|container| container.name.as_str())
            .collect();
        assert_eq!(found, names);
        assert!(mounts(&built, "runner").contains(&"cache:/cache".to_owned()));
        assert!(
            container(&built, "first").volume_mounts.is_none() && container(&built, "first").env.is_none()
        );
    }
}

#[test]
fn muster_wins_over_the_user_but_for_name_and_token() {
    let spec = build(json!({"repository": "a/b", "env": [
        {"name": "RUNNER_EPHEMERAL", "value": "false"}, {"name": "RUNNER_NAME", "value": "mine"},
        {"name": "RUNNER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}))
    .unwrap();
    assert_eq!(
        variable(&spec, "runner", "RUNNER_EPHEMERAL").as_deref(),
        Some("true")
    );
    assert_eq!(variable(&spec, "runner", "RUNNER_NAME").as_deref(), Some("mine"));
    let tokens = container(&spec, "runner").env.iter().flatten();
    let tokens: Vec<_> = tokens
        .filter(|variable| variable.name == "RUNNER_TOKEN")
        .collect();
    assert!(tokens.len() == 1 && tokens[0].value.is_none());
}

#[test]
fn the_template_of_a_runner_set_is_completed_but_not_registered() {
    let claim: muster_crds::legacy::WorkVolumeClaimTemplate = serde_json::from_value(
        json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
    )
    .unwrap();
    let template: PodTemplateSpec = serde_json::from_value(json!({
        "metadata": {"labels": {"app": "ci"}},
        "spec": {"containers": [{"name": "other", "image": "x"}], "shareProcessNamespace": true,
            "ephemeralContainers": [{"name": "debug", "image": "busybox"}]}
    }))
    .unwrap();
    let config: RunnerConfig = serde_json::from_value(
        json!({"organization": "acme", "containerMode": "kubernetes", "githubAPICredentialsFrom": {"secretRef": {"name": "app"}}}),
    )
    .unwrap();
    let mut template = template;
    claim_work_volume(&mut template, &config, Some(&claim)).unwrap();
    let built = complete(template, &config, &defaults(), "https://github.com/").unwrap();
    let meta = built.metadata.unwrap();
    assert!(meta.labels.unwrap().contains_key("actions-runner"));
    assert_eq!(
        meta.annotations
            .unwrap()
            .get("actions-runner/github-api-creds-secret"),
        Some(&"app".to_owned())
    );
    let mut spec = built.spec.unwrap();
    assert_eq!(spec.share_process_namespace, Some(true));
    assert!(spec.ephemeral_containers.is_none());
    assert_eq!(spec.containers[0].name, "runner");
    assert_eq!(variable(&spec, "runner", "RUNNER_NAME"), None);
    register(&mut spec, "set-x-0", "T");
    assert_eq!(
        variable(&spec, "runner", "RUNNER_NAME").as_deref(),
        Some("set-x-0")
    );
    assert_eq!(variable(&spec, "runner", "RUNNER_TOKEN").as_deref(), Some("T"));
    // Without its claim the template is refused.
    let bare: PodTemplateSpec = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
    assert_eq!(
        complete(bare, &config, &defaults(), "https://github.com/"),
        Err(TemplateError::NoWorkVolumeClaim)
    );
}

#[test]
fn what_cannot_be_built_says_so() {
    let claim = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {}});
    let rows = [
        (
            json!({"volumeSizeLimit": "0Gi"}),
            TemplateError::NoSharedVolume,
            "dockerEnabled: false",
        ),
        (
            json!({"containerMode": "kubernetes"}),
            TemplateError::NoWorkVolumeClaim,
            "containerMode",
        ),
        (
            json!({"containerMode": "kubernetes", "workVolumeClaimTemplate": claim, "volumes": [{"name": "work", "emptyDir": {}}]}),
            TemplateError::WorkVolumeTaken {
                field: "spec.volumes",
            },
            "spec.volumes",
        ),
        (
            json!({"containerMode": "kubernetes", "workVolumeClaimTemplate": claim, "volumeMounts": [{"name": "work", "mountPath": "/x"}]}),
            TemplateError::WorkMountTaken {
                field: "spec.volumeMounts",
            },
            "spec.workDir",
        ),
        (
            json!({"containerMode": "kubernetes", "workVolumeClaimTemplate": claim,
                "containers": [{"name": "runner", "volumeMounts": [{"name": "work", "mountPath": "/x"}]}]}),
            TemplateError::WorkMountTaken {
                field: "volumeMounts of container \"runner\"",
            },
            "remove the mount",
        ),
        (
            json!({"containerMode": "kubernetes", "workVolumeClaimTemplate":
                {"storageClassName": "fast", "accessModes": ["ReadWriteOncePod"], "resources": {}}}),
            TemplateError::AccessMode {
                mode: "ReadWriteOncePod".to_owned(),
            },
            "ReadWriteMany",
        ),
        (
            json!({"sidecarContainers": [{"name": "docker", "image": "x"}]}),
            TemplateError::DuplicateContainer {
                name: "docker".to_owned(),
            },
            "rename",
        ),
        (
            json!({"initContainers": [{"name": "runner", "image": "x"}]}),
            TemplateError::DuplicateContainer {
                name: "runner".to_owned(),
            },
            "initContainers",
        ),
        (
            json!({"containers": [{"name": "runner"}, {"name": "runner"}]}),
            TemplateError::DuplicateContainer {
                name: "runner".to_owned(),
            },
            "more than once",
        ),
    ];
    for (mut spec, error, words) in rows {
        spec["repository"] = json!("a/b");
        let said = error.to_string();
        assert_eq!(build(spec).unwrap_err(), error);
        assert!(said.contains(words), "{said}");
    }
    assert!(
        build(json!({"repository": "a/b", "volumeSizeLimit": 0, "dockerEnabled": false}))
            .unwrap()
            .volumes
            .is_none()
    );
}

#[test]
fn what_is_ignored_is_noticed() {
    let reasons = |spec: Value| -> Vec<&'static str> {
        notices(&runner(spec))
            .into_iter()
            .map(|notice| notice.reason)
            .collect()
    };
    assert!(reasons(json!({"repository": "a/b", "containers": [{"name": "docker"}]})).is_empty());
    assert_eq!(
        reasons(
            json!({"repository": "a/b", "ephemeralContainers": [{"name": "d"}], "containerMode": "dind"})
        ),
        ["EphemeralContainersIgnored", "ContainerModeIgnored"]
    );
    assert_eq!(
        reasons(
            json!({"repository": "a/b", "containerMode": "kubernetes", "automountServiceAccountToken": false,
            "containers": [{"name": "docker"}]})
        ),
        ["DockerContainerIgnored", "ServiceAccountTokenNotMounted"]
    );
}

#[test]
fn the_token_is_not_in_debug_output() {
    assert!(!format!("{REGISTRATION:?}").contains("AAA"));
}
