//! Structures that several kinds inline or nest (spec 01 §2).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, EnvFromSource, EnvVar, EphemeralContainer, HostAlias, LocalObjectReference,
        PodDNSConfig, PodSecurityContext, ResourceRequirements, Toleration, TopologySpreadConstraint, Volume,
        VolumeMount, VolumeResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunnerSpec;

/// What a runner is to GitHub and how its containers are put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerConfig {
    /// Slug of the enterprise the runner registers with. Exactly one of enterprise, organization and repository is
    /// to be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[^/]+$"))]
    pub enterprise: Option<String>,
    /// Login of the organization the runner registers with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[^/]+$"))]
    pub organization: Option<String>,
    /// Repository the runner registers with, as OWNER/REPO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[^/]+/[^/]+$"))]
    pub repository: Option<String>,
    /// Labels of the runner beside those GitHub gives it by itself; workflows ask for them in runs-on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Runner group of an organization or enterprise runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether the runner takes a single job and is then replaced. True when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// Image of the container "runner"; wins over the image given in containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Work directory of the runner. /runner/_work when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    /// Whether dockerd runs inside the runner container, which needs an image made for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerd_within_runner_container: Option<bool>,
    /// Whether the pod gets a docker sidecar. True when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_enabled: Option<bool>,
    /// MTU of docker's networks.
    #[serde(default, rename = "dockerMTU", skip_serializing_if = "Option::is_none")]
    pub docker_mtu: Option<i64>,
    /// URL of a registry mirror for dockerd. An empty string turns off the controller's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_registry_mirror: Option<String>,
    /// Size limit of the in-memory volume that holds docker's socket. 1M when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_var_run_volume_size_limit: Option<Quantity>,
    /// Size limit of the volume mounted at /runner. Zero leaves the volume out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_limit: Option<Quantity>,
    /// Medium of the volume mounted at /runner: empty, Memory, HugePages, or HugePages- with a size after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_storage_medium: Option<String>,
    /// "kubernetes" runs the steps of a job in pods of their own; anything else means docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_mode: Option<String>,
    /// Credentials for GitHub, when other than the controller's own.
    #[serde(
        default,
        rename = "githubAPICredentialsFrom",
        skip_serializing_if = "Option::is_none"
    )]
    pub github_api_credentials_from: Option<GitHubApiCredentialsFrom>,
}

/// Where credentials for GitHub are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitHubApiCredentialsFrom {
    /// Secret in the namespace of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// Names a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    pub name: String,
}

/// What of a pod can be set for runners that Runner objects own. Names follow those of a pod, but resources, env,
/// envFrom, volumeMounts and imagePullPolicy are those of the container "runner".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerPodSpec {
    /// Resources of the docker sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerd_container_resources: Option<ResourceRequirements>,
    /// Volume mounts of the docker sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_volume_mounts: Option<Vec<VolumeMount>>,
    /// Environment of the docker sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_env: Option<Vec<EnvVar>>,
    /// Containers to start from; those named "runner" and "docker" are completed, or added when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<Container>>,
    /// Pull policy of the runner's image. Always when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Environment of the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Sources of the runner's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// Resources of the runner container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further volume mounts of the runner container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Further volumes of the pod. One named "work" replaces the generated one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// Whether services of the namespace appear in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_service_links: Option<bool>,
    /// Containers that run before the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_containers: Option<Vec<Container>>,
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Service account of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Whether the service account's token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount_service_account_token: Option<bool>,
    /// Containers that run beside the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_containers: Option<Vec<Container>>,
    /// Security context of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Secrets for pulling images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// Affinity of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Tolerations of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Priority class of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Seconds the pod is given to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
    /// Accepted for old manifests; Kubernetes does not allow these on new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_containers: Option<Vec<EphemeralContainer>>,
    /// Entries of the pod's hosts file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_aliases: Option<Vec<HostAlias>>,
    /// How pods spread over the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Runtime class of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// DNS policy of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_policy: Option<String>,
    /// DNS parameters of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<PodDNSConfig>,
    /// Claim for the work directory; needed when containerMode is "kubernetes", not read otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_volume_claim_template: Option<WorkVolumeClaimTemplate>,
}

/// Claim that is made for a pod's work directory and goes away with the pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkVolumeClaimTemplate {
    /// Storage class of the claim.
    pub storage_class_name: String,
    /// Access modes of the claim: ReadWriteOnce or ReadWriteMany.
    pub access_modes: Vec<String>,
    /// Size of the claim.
    pub resources: VolumeResourceRequirements,
}

/// The part of an object's metadata that a template may carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddedMeta {
    /// Annotations for the objects made from the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Finalizers for the objects made from the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalizers: Option<Vec<String>>,
    /// Labels for the objects made from the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Fixed name; useful for claims only, since several runners cannot share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Accepted, and replaced by the owner's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Template of the Runners that a RunnerReplicaSet or RunnerDeployment makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerTemplate {
    /// Metadata of the Runners, and of their pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<EmbeddedMeta>,
    /// Specification of the Runners.
    #[serde(default)]
    pub spec: RunnerSpec,
}
