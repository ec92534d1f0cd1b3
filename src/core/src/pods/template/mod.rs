//! Runner → Pod (spec 02 §11), in every mode: dockerd as a sidecar, dockerd within the runner's container, no docker, and jobs as pods of their own
//! (`containerMode: kubernetes`).
//!
//! Pure: the same input gives the same pod. Two entry points share all of it: [`runner_pod`] for Runners, whose fields are those of a `RunnerSpec`, and [`complete`] for
//! `RunnerSet`s, which bring a whole pod template. Containers are addressed by name, never by position (spec 02 Q30).

mod containers;
mod docker;
mod kubernetes;
mod runner;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, LocalObjectReference, Pod, PodSpec, PodTemplateSpec, ResourceRequirements, Volume,
        VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use muster_crds::{
    keys,
    legacy::{Runner, RunnerConfig, RunnerPodSpec},
};

use super::{linked, rbac};

pub use self::{kubernetes::claim_work_volume, runner::register};

const DEFAULT_WORK_DIR: &str = "/runner/_work";

/// What the manager's flags say about pods (spec 02 §2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDefaults {
    /// `--runner-image`.
    pub runner_image: String,
    /// `--docker-image`.
    pub docker_image: String,
    /// `--docker-gid`.
    pub docker_gid: String,
    /// `--runner-image-pull-secret`, repeated.
    pub image_pull_secrets: Vec<String>,
    /// `--docker-registry-mirror`; empty is none.
    pub docker_registry_mirror: String,
    /// `--runner-status-update-hook`.
    pub status_update_hook: bool,
    /// Version in the runner's extra user agent.
    pub version: String,
}

/// How a runner becomes known to GitHub.
#[derive(Clone)]
pub struct Registration<'a> {
    /// Base URL that runners register against, with a trailing slash (`GITHUB_URL`).
    pub github_url: &'a str,
    /// Registration token (`RUNNER_TOKEN`).
    pub token: &'a str,
}

// The token is a secret: it must not reach a log by `Debug`.
impl std::fmt::Debug for Registration<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("github_url", &self.github_url)
            .field("token", &"[REDACTED]")
            .finish()
    }
}

/// Why a pod cannot be built. The sentence names the field and the remedy; it goes to a condition and an Event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `volumeSizeLimit: 0` with the sidecar.
    #[error(
        "spec.volumeSizeLimit: 0 removes the volume that the runner and its docker sidecar share: give it a size, or set dockerEnabled: false"
    )]
    NoSharedVolume,
    /// Kubernetes mode without a claim for the work directory.
    #[error(
        "spec.workVolumeClaimTemplate is missing: containerMode \"kubernetes\" keeps the work directory on a volume that job pods can mount too: give it storageClassName, accessModes and resources"
    )]
    NoWorkVolumeClaim,
    /// Kubernetes mode, and a volume `work` of the user's own.
    #[error(
        "{field}: a volume named \"work\" is given, but containerMode \"kubernetes\" makes that one from spec.workVolumeClaimTemplate: remove it or rename it"
    )]
    WorkVolumeTaken {
        /// Path of the field with the volume.
        field: &'static str,
    },
    /// Kubernetes mode, and a mount of `work` of the user's own.
    #[error(
        "{field}: \"work\" is mounted, but containerMode \"kubernetes\" mounts that volume at the work directory by itself: remove the mount; spec.workDir says where it goes"
    )]
    WorkMountTaken {
        /// Path of the field with the mount.
        field: &'static str,
    },
    /// An access mode that job pods cannot work with.
    #[error(
        "spec.workVolumeClaimTemplate.accessModes: \"{mode}\" cannot hold a work directory: use ReadWriteOnce (job pods on the runner's node) or ReadWriteMany (on any node)"
    )]
    AccessMode {
        /// The access mode.
        mode: String,
    },
    /// Two containers of one name, which the API server would refuse.
    #[error(
        "container name \"{name}\" is there more than once: names are unique among containers, initContainers and sidecarContainers, and \"runner\" and \"docker\" belong to the runner and its docker sidecar: rename one"
    )]
    DuplicateContainer {
        /// The name.
        name: String,
    },
}

/// Something that a Runner asks for and does not get; the pod works without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `PascalCase` reason of the Event.
    pub reason: &'static str,
    /// A sentence with the remedy.
    pub message: String,
}

/// Where containers of jobs run (spec 02 §11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// By dockerd in the container `docker`.
    Sidecar,
    /// By dockerd in the container `runner`.
    WithinRunner,
    /// Not at all.
    NoDocker,
    /// As pods.
    Kubernetes,
}

impl Mode {
    fn of(config: &RunnerConfig) -> Self {
        if is_kubernetes(config) {
            Self::Kubernetes
        } else if config.dockerd_within_runner_container.unwrap_or(false) {
            Self::WithinRunner
        } else if config.docker_enabled.unwrap_or(true) {
            Self::Sidecar
        } else {
            Self::NoDocker
        }
    }
}

/// Whether jobs run as pods of their own: only this exact value has an effect (spec 01 §2.1).
pub fn is_kubernetes(config: &RunnerConfig) -> bool {
    config.container_mode.as_deref() == Some(keys::CONTAINER_MODE_KUBERNETES)
}

/// What comes after the generated parts of a pod (spec 02 §11.9).
#[derive(Debug, Default)]
struct Late {
    /// Mounts of the runner.
    mounts: Vec<VolumeMount>,
    volumes: Vec<Volume>,
    containers: Vec<Container>,
}

/// Builds the pod of a Runner.
///
/// # Errors
/// [`TemplateError`] when the Runner asks for what cannot be built.
pub fn runner_pod(
    runner: &Runner,
    defaults: &PodDefaults,
    registration: &Registration<'_>,
) -> Result<Pod, TemplateError> {
    let config = &runner.spec.config;
    let mut template = PodTemplateSpec {
        metadata: Some(metadata(runner)),
        spec: Some(pod_spec(runner, defaults)),
    };
    let late = late(&runner.spec.pod);
    if is_kubernetes(config) {
        if late.volumes.iter().any(|volume| volume.name == volumes::WORK) {
            return Err(TemplateError::WorkVolumeTaken {
                field: "spec.volumes",
            });
        }
        if late.mounts.iter().any(|mount| mount.name == volumes::WORK) {
            return Err(TemplateError::WorkMountTaken {
                field: "spec.volumeMounts",
            });
        }
        let claim = runner.spec.pod.work_volume_claim_template.as_ref();
        claim_work_volume(&mut template, config, claim)?;
    }
    let template = build(template, late, config, defaults, registration.github_url)?;
    let mut pod = Pod {
        metadata: template.metadata.unwrap_or_default(),
        spec: template.spec,
        status: None,
    };
    if let Some(spec) = &mut pod.spec {
        register(spec, &runner.name_any(), registration.token);
    }
    // In the create, so that no write adds them later and no pod lives without them (spec 20, "cost of a runner's life").
    pod.metadata.finalizers = Some(linked::finalizers(&pod));
    Ok(pod)
}

/// Completes the pod template of a `RunnerSet` (spec 02 §9.2 step 4): everything but the runner's name and token, which each pod gets when it is created ([`register`]).
/// In kubernetes mode [`claim_work_volume`] comes before.
///
/// # Errors
/// [`TemplateError`] when the configuration asks for what cannot be built.
pub fn complete(
    template: PodTemplateSpec,
    config: &RunnerConfig,
    defaults: &PodDefaults,
    github_url: &str,
) -> Result<PodTemplateSpec, TemplateError> {
    build(template, Late::default(), config, defaults, github_url)
}

/// What a Runner asks for in vain: each goes to a Warning Event once per generation.
pub fn notices(runner: &Runner) -> Vec<Notice> {
    let (config, spec) = (&runner.spec.config, &runner.spec.pod);
    let mut notices = Vec::new();
    let mut note = |reason, message| notices.push(Notice { reason, message });
    if spec.ephemeral_containers.iter().flatten().next().is_some() {
        note(
            "EphemeralContainersIgnored",
            "spec.ephemeralContainers is ignored: Kubernetes takes no pods that begin with ephemeral containers: use sidecarContainers, or attach one with kubectl debug".to_owned(),
        );
    }
    if let Some(mode) = text(config.container_mode.as_ref()).filter(|_| !is_kubernetes(config)) {
        note(
            "ContainerModeIgnored",
            format!(
                "spec.containerMode: \"{mode}\" is ignored: only \"kubernetes\" has an effect; dockerEnabled and dockerdWithinRunnerContainer choose among the docker modes"
            ),
        );
    }
    let has_docker = spec
        .containers
        .iter()
        .flatten()
        .any(|container| container.name == keys::CONTAINER_DOCKER);
    if has_docker && Mode::of(config) != Mode::Sidecar {
        note(
            "DockerContainerIgnored",
            "spec.containers: \"docker\" is left out, since this runner has no docker sidecar: rename it if it is something else".to_owned(),
        );
    }
    if is_kubernetes(config) && spec.automount_service_account_token == Some(false) {
        note(
            "ServiceAccountTokenNotMounted",
            "spec.automountServiceAccountToken: false keeps the container hooks from starting job pods: remove the field, or mount a token by spec.volumes".to_owned(),
        );
    }
    notices
}

/// One pass over a pod template, in the order of spec 02 §11.3.
fn build(
    template: PodTemplateSpec,
    late: Late,
    config: &RunnerConfig,
    defaults: &PodDefaults,
    github_url: &str,
) -> Result<PodTemplateSpec, TemplateError> {
    let mode = Mode::of(config);
    let without_runner_volume = config.volume_size_limit.as_ref().is_some_and(volumes::is_zero);
    if mode == Mode::Sidecar && without_runner_volume {
        return Err(TemplateError::NoSharedVolume);
    }
    let mut metadata = template.metadata.unwrap_or_default();
    mark(&mut metadata, config);
    let mut spec = template.spec.unwrap_or_default();
    let selinux = spec
        .security_context
        .as_ref()
        .and_then(|context| context.se_linux_options.clone());
    let work_dir = work_dir(config);

    // A user's `docker` container without a dockerd to run would only fail beside the agent (spec 02 Q30 d).
    if mode != Mode::Sidecar {
        spec.containers
            .retain(|container| container.name != keys::CONTAINER_DOCKER);
    }
    let mut agent = containers::take(&mut spec.containers, keys::CONTAINER_RUNNER);
    runner::fill(
        &mut agent.container,
        config,
        mode,
        selinux.is_some(),
        defaults,
        github_url,
    );
    let same_node = match mode {
        Mode::Kubernetes => Some(kubernetes::same_node(&spec)?),
        _ => None,
    };
    runner::add_mode_environment(&mut agent.container, config, mode, same_node, defaults);

    let mounts = agent.container.volume_mounts.get_or_insert_default();
    volumes::mount_in_runner(mounts, late.mounts, mode, without_runner_volume, work_dir);
    let mut generated = volumes::generate(config, mode, without_runner_volume);
    let given = spec.volumes.take().unwrap_or_default();
    generated.retain(|volume| {
        !given
            .iter()
            .chain(&late.volumes)
            .any(|other| other.name == volume.name)
    });
    spec.volumes = some(given.into_iter().chain(generated).chain(late.volumes).collect());

    if mode == Mode::Sidecar {
        let mut sidecar = containers::take(&mut spec.containers, keys::CONTAINER_DOCKER);
        docker::fill(
            &mut sidecar.container,
            config,
            &agent.container,
            selinux,
            defaults,
        );
        containers::put_back(&mut spec.containers, sidecar, usize::MAX);
    }
    containers::put_back(&mut spec.containers, agent, 0);
    spec.containers.extend(late.containers);
    containers::check_names(&spec)?;

    // Kubernetes takes no new pod with ephemeral containers (spec 01 quirk 18); see `notices`.
    spec.ephemeral_containers = None;
    spec.restart_policy = Some("Never".to_owned());
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = some(
            defaults
                .image_pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect(),
        );
    }
    Ok(PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(spec),
    })
}

/// The labels that runner pods are found by, and the annotation that says with which credentials (spec 02 §11.3 step 1). The label `pod-template-hash` of upstream is
/// left out: nothing reads it (spec 02 Q7).
fn mark(metadata: &mut ObjectMeta, config: &RunnerConfig) {
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(keys::LABEL_ACTIONS_RUNNER.to_owned(), String::new());
    labels.insert(
        keys::LABEL_INJECT_REGISTRATION_TOKEN.to_owned(),
        keys::LABEL_VALUE_TRUE.to_owned(),
    );
    let secret = config
        .github_api_credentials_from
        .as_ref()
        .and_then(|from| from.secret_ref.as_ref());
    if let Some(secret) = secret.filter(|secret| !secret.name.is_empty()) {
        metadata.annotations.get_or_insert_default().insert(
            keys::ANNOTATION_GITHUB_API_CREDS_SECRET.to_owned(),
            secret.name.clone(),
        );
    }
}

/// What a Runner's pod takes from the Runner's own metadata.
fn metadata(runner: &Runner) -> ObjectMeta {
    let mut annotations: BTreeMap<String, String> = runner.metadata.annotations.clone().unwrap_or_default();
    // Client-side apply's copy of the owner belongs to the owner alone.
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    ObjectMeta {
        name: runner.metadata.name.clone(),
        namespace: runner.metadata.namespace.clone(),
        labels: runner.metadata.labels.clone(),
        annotations: Some(annotations),
        owner_references: runner.controller_owner_ref(&()).map(|mut reference| {
            reference.block_owner_deletion = Some(true);
            vec![reference]
        }),
        ..ObjectMeta::default()
    }
}

/// The pod template of a Runner (spec 02 §11.1, and of §11.9 what does not depend on the generated parts).
fn pod_spec(runner: &Runner, defaults: &PodDefaults) -> PodSpec {
    let spec = &runner.spec.pod;
    let mut list = spec.containers.clone().unwrap_or_default();
    let mut agent = containers::take(&mut list, keys::CONTAINER_RUNNER);
    runner_fields(&mut agent.container, spec);
    containers::put_back(&mut list, agent, 0);
    if Mode::of(&runner.spec.config) == Mode::Sidecar {
        let mut sidecar = containers::take(&mut list, keys::CONTAINER_DOCKER);
        docker_fields(&mut sidecar.container, spec);
        containers::put_back(&mut list, sidecar, usize::MAX);
    }
    let own_account = text(spec.service_account_name.as_ref()).map(str::to_owned);
    PodSpec {
        containers: list,
        image_pull_secrets: spec.image_pull_secrets.clone(),
        security_context: spec.security_context.clone(),
        enable_service_links: spec.enable_service_links,
        init_containers: spec.init_containers.clone(),
        node_selector: spec.node_selector.clone(),
        service_account_name: own_account
            .or_else(|| rbac::is_generated(runner, defaults.status_update_hook).then(|| rbac::name(runner))),
        automount_service_account_token: spec.automount_service_account_token,
        affinity: spec.affinity.clone(),
        tolerations: spec.tolerations.clone(),
        priority_class_name: text(spec.priority_class_name.as_ref()).map(str::to_owned),
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        host_aliases: spec.host_aliases.clone(),
        topology_spread_constraints: spec.topology_spread_constraints.clone(),
        runtime_class_name: text(spec.runtime_class_name.as_ref()).map(str::to_owned),
        dns_policy: text(spec.dns_policy.as_ref()).map(str::to_owned),
        dns_config: spec.dns_config.clone(),
        ..PodSpec::default()
    }
}

fn late(spec: &RunnerPodSpec) -> Late {
    Late {
        mounts: spec.volume_mounts.clone().unwrap_or_default(),
        volumes: spec.volumes.clone().unwrap_or_default(),
        containers: spec.sidecar_containers.clone().unwrap_or_default(),
    }
}

/// A Runner's fields for its container `runner`, each where the container says nothing itself.
fn runner_fields(container: &mut Container, spec: &RunnerPodSpec) {
    if text(container.image_pull_policy.as_ref()).is_none() {
        container.image_pull_policy = text(spec.image_pull_policy.as_ref()).map(str::to_owned);
    }
    if container.env_from.as_ref().is_none_or(Vec::is_empty) {
        container.env_from.clone_from(&spec.env_from);
    }
    if container.env.as_ref().is_none_or(Vec::is_empty) {
        container.env.clone_from(&spec.env);
    }
    container.resources = resources(container.resources.take(), spec.resources.as_ref());
}

/// A Runner's fields for its container `docker`. They count also when the user lists containers without one of that name (spec 01 quirk 17).
fn docker_fields(container: &mut Container, spec: &RunnerPodSpec) {
    if container.volume_mounts.as_ref().is_none_or(Vec::is_empty) {
        container.volume_mounts.clone_from(&spec.docker_volume_mounts);
    }
    if container.env.as_ref().is_none_or(Vec::is_empty) {
        container.env.clone_from(&spec.docker_env);
    }
    container.resources = resources(
        container.resources.take(),
        spec.dockerd_container_resources.as_ref(),
    );
}

/// Requests and limits, each from the default only where the container has none; claims are not copied (spec 01 §2.3).
fn resources(
    own: Option<ResourceRequirements>,
    default: Option<&ResourceRequirements>,
) -> Option<ResourceRequirements> {
    let mut own = own.unwrap_or_default();
    if let Some(default) = default {
        if own.requests.as_ref().is_none_or(BTreeMap::is_empty) {
            own.requests.clone_from(&default.requests);
        }
        if own.limits.as_ref().is_none_or(BTreeMap::is_empty) {
            own.limits.clone_from(&default.limits);
        }
    }
    (own != ResourceRequirements::default()).then_some(own)
}

fn work_dir(config: &RunnerConfig) -> &str {
    text(config.work_dir.as_ref()).unwrap_or(DEFAULT_WORK_DIR)
}

/// The registry mirror: an empty string in the spec switches the flag's default off.
fn mirror<'a>(config: &'a RunnerConfig, defaults: &'a PodDefaults) -> Option<&'a str> {
    let mirror = config
        .docker_registry_mirror
        .as_deref()
        .unwrap_or(&defaults.docker_registry_mirror);
    (!mirror.is_empty()).then_some(mirror)
}

fn text(field: Option<&String>) -> Option<&str> {
    field.map(String::as_str).filter(|text| !text.is_empty())
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
