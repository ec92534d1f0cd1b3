//! Every label, annotation, finalizer, container and environment variable name that components share (spec 01 §9, §10).
//!
//! The names are part of the contract with existing objects, runner images and users' tooling and never change; those
//! beginning with `muster.dev/` are our own.

/// API group of the five legacy kinds.
pub const GROUP: &str = "actions.summerwind.dev";
/// API version of the five legacy kinds.
pub const VERSION: &str = "v1alpha1";

/// Field manager of our writes.
pub const FIELD_MANAGER: &str = "muster";

// Labels (spec 01 §9.1).

/// Hash of the template an object was made from; tells current from outdated owners.
pub const LABEL_RUNNER_TEMPLATE_HASH: &str = "runner-template-hash";
/// Name of the RunnerDeployment an object belongs to.
pub const LABEL_RUNNER_DEPLOYMENT_NAME: &str = "runner-deployment-name";
/// Name of the RunnerSet an object belongs to.
pub const LABEL_RUNNERSET_NAME: &str = "runnerset-name";
/// Present, with an empty value, on every runner pod.
pub const LABEL_ACTIONS_RUNNER: &str = "actions-runner";
/// `"true"` on every runner pod; the pod webhook selects by it.
pub const LABEL_INJECT_REGISTRATION_TOKEN: &str = "actions-runner-controller/inject-registration-token";
/// Hash on runner pods that belong to a Runner; written by the Go controller, read by nobody.
pub const LABEL_POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Name of the StatefulSet a volume claim was made for.
pub const LABEL_RUNNER_STATEFULSET_NAME: &str = "runner-statefulset-name";
/// Name of the StatefulSet whose volume is to be released.
pub const LABEL_PENDING_CLEANUP: &str = "pending-cleanup";
/// Name of the runner pod on job pods and secrets that the container hooks made.
pub const LABEL_RUNNER_POD: &str = "runner-pod";

/// Value of [`LABEL_INJECT_REGISTRATION_TOKEN`].
pub const LABEL_VALUE_TRUE: &str = "true";

// Annotations (spec 01 §9.2). Times are RFC 3339 in whole seconds.

/// Creation time of a Runner (hence on its pod too) or StatefulSet.
pub const ANNOTATION_SYNC_TIME: &str = "sync-time";
/// Decimal id of the runner at GitHub, on its pod.
pub const ANNOTATION_RUNNER_ID: &str = "actions-runner/id";
/// Time at which the graceful stop of a pod, or of its owner, was asked for.
pub const ANNOTATION_UNREGISTRATION_REQUEST: &str = "actions-runner/unregistration-request-timestamp";
/// Time at which the graceful stop of a pod began.
pub const ANNOTATION_UNREGISTRATION_START: &str = "actions-runner/unregistration-start-timestamp";
/// Time at which a pod, then its owner, was done with unregistering.
pub const ANNOTATION_UNREGISTRATION_COMPLETE: &str = "actions-runner/unregistration-complete-timestamp";
/// GitHub's message when it refused to remove a busy runner.
pub const ANNOTATION_UNREGISTRATION_FAILURE: &str = "actions-runner/unregistration-failure-message";
/// Time since when the end of a busy ephemeral runner's job is awaited.
pub const ANNOTATION_RUNNER_COMPLETION_WAIT_START: &str =
    "actions-runner/runner-completion-wait-start-timestamp";
/// Name of the Secret with the credentials a runner pod was made with.
pub const ANNOTATION_GITHUB_API_CREDS_SECRET: &str = "actions-runner/github-api-creds-secret";
/// Expiry of the injected registration token; informational.
pub const ANNOTATION_TOKEN_EXPIRES_AT: &str = "actions-runner-controller/token-expires-at";
/// Known from old objects; neither written nor read.
pub const ANNOTATION_LAST_REGISTRATION_CHECK_TIME: &str =
    "actions-runner-controller/last-registration-check-time";

/// Our own: time until which an idle owner is kept although it is not demanded.
pub const ANNOTATION_RETAIN_IDLE_UNTIL: &str = "muster.dev/retain-idle-until";
/// Our own: ends of jobs that are already part of the count.
pub const ANNOTATION_ENDS_ACCOUNTED: &str = "muster.dev/ends-accounted";
/// Our own: effective time that was served.
pub const ANNOTATION_SERVED: &str = "muster.dev/served";
/// Annotation of a busy runner's pod: the annotations that were added because it is busy, separated by commas. Others of their names are the user's.
pub const ANNOTATION_ADDED_WHILE_BUSY: &str = "muster.dev/added-while-busy";
/// On a runner pod while it has a job: the PodDisruptionBudget of the namespace selects it.
pub const LABEL_BUSY: &str = "muster.dev/busy";
/// Condition of a runner pod, `False` while GitHub gives no clear answer to the removal of its runner.
pub const CONDITION_UNREGISTERED: &str = "muster.dev/Unregistered";
/// On a busy runner pod: the cluster autoscaler does not evict it.
pub const ANNOTATION_CLUSTER_AUTOSCALER_SAFE_TO_EVICT: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// On a busy runner pod: Karpenter does not disrupt its node.
pub const ANNOTATION_KARPENTER_DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";

/// On volumes: namespace of the RunnerSet that keeps them; its name is in [`LABEL_RUNNERSET_NAME`].
pub const LABEL_RUNNERSET_NAMESPACE: &str = "muster.dev/runnerset-namespace";
/// On volumes: claim template that they were made for.
pub const LABEL_CLAIM_TEMPLATE: &str = "muster.dev/claim-template";
/// On volumes: the reclaim policy that they had before a RunnerSet kept them.
pub const ANNOTATION_RECLAIM_POLICY: &str = "muster.dev/reclaim-policy";
/// On a `RunnerSet`: how many free volumes of each claim template are kept.
pub const ANNOTATION_KEPT_VOLUMES: &str = "muster.dev/kept-volumes";
/// On a `RunnerSet`: how long a free volume is kept, as a Go duration.
pub const ANNOTATION_KEPT_VOLUME_AGE: &str = "muster.dev/kept-volume-age";

/// What begins the names of our own labels and annotations.
pub const PREFIX: &str = "muster.dev/";
/// Name of the PodDisruptionBudget of busy runner pods, one per namespace.
pub const BUDGET_BUSY_RUNNERS: &str = "muster-busy-runners";
/// On the Lease of delivery replay: how far each hook was read.
pub const ANNOTATION_REPLAY: &str = "muster.dev/replay";
/// On the Secret of a certificate that the manager made itself: until when it holds.
pub const ANNOTATION_NOT_AFTER: &str = "muster.dev/not-after";

// Finalizers (spec 01 §9.3).

/// On Runners. It has no slash, unlike newer finalizers; existing objects carry it in this form.
pub const FINALIZER_RUNNER: &str = "runner.actions.summerwind.dev";
/// On runner pods, until they are unregistered.
pub const FINALIZER_RUNNER_POD: &str = "actions.summerwind.dev/runner-pod";
/// On runner pods with container hooks, until the job pods and secrets they made are gone.
pub const FINALIZER_LINKED_RESOURCES: &str = "actions.summerwind.dev/linked-resources";

// Containers.

/// The container that runs the GitHub runner.
pub const CONTAINER_RUNNER: &str = "runner";
/// The sidecar that runs dockerd.
pub const CONTAINER_DOCKER: &str = "docker";

/// The only `containerMode` with an effect.
pub const CONTAINER_MODE_KUBERNETES: &str = "kubernetes";
/// Where the runner image keeps its container hooks.
pub const CONTAINER_HOOK_PATH: &str = "/runner/k8s/index.js";

// Environment of the container `runner` (spec 01 §10.1).

/// Organization of an organization-wide runner, else empty.
pub const ENV_RUNNER_ORG: &str = "RUNNER_ORG";
/// `OWNER/REPO` of a repository's runner, else empty.
pub const ENV_RUNNER_REPO: &str = "RUNNER_REPO";
/// Slug of an enterprise-wide runner, else empty.
pub const ENV_RUNNER_ENTERPRISE: &str = "RUNNER_ENTERPRISE";
/// Runner labels, joined with commas.
pub const ENV_RUNNER_LABELS: &str = "RUNNER_LABELS";
/// Runner group.
pub const ENV_RUNNER_GROUP: &str = "RUNNER_GROUP";
/// Whether docker can be used: by a sidecar or by dockerd in the runner container.
pub const ENV_DOCKER_ENABLED: &str = "DOCKER_ENABLED";
/// Whether dockerd runs in the runner container.
pub const ENV_DOCKERD_IN_RUNNER: &str = "DOCKERD_IN_RUNNER";
/// Web base URL with a trailing slash.
pub const ENV_GITHUB_URL: &str = "GITHUB_URL";
/// Work directory.
pub const ENV_RUNNER_WORKDIR: &str = "RUNNER_WORKDIR";
/// Whether the runner takes one job only.
pub const ENV_RUNNER_EPHEMERAL: &str = "RUNNER_EPHEMERAL";
/// Whether the image reports the runner's state to the Runner's status.
pub const ENV_RUNNER_STATUS_UPDATE_HOOK: &str = "RUNNER_STATUS_UPDATE_HOOK";
/// Addition to the runner's user agent.
pub const ENV_GITHUB_ACTIONS_RUNNER_EXTRA_USER_AGENT: &str = "GITHUB_ACTIONS_RUNNER_EXTRA_USER_AGENT";
/// Where the docker client finds dockerd (sidecar only).
pub const ENV_DOCKER_HOST: &str = "DOCKER_HOST";
/// Name the runner registers with: the pod's.
pub const ENV_RUNNER_NAME: &str = "RUNNER_NAME";
/// Registration token.
pub const ENV_RUNNER_TOKEN: &str = "RUNNER_TOKEN";
/// MTU of dockerd in the runner container.
pub const ENV_MTU: &str = "MTU";
/// Registry mirror of dockerd in the runner container.
pub const ENV_DOCKER_REGISTRY_MIRROR: &str = "DOCKER_REGISTRY_MIRROR";

// Additional environment in kubernetes mode (spec 01 §10.2).

/// Path of the container hooks; its presence marks kubernetes mode.
pub const ENV_ACTIONS_RUNNER_CONTAINER_HOOKS: &str = "ACTIONS_RUNNER_CONTAINER_HOOKS";
/// Whether jobs without a container are refused.
pub const ENV_ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER: &str = "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER";
/// Name of the runner's pod.
pub const ENV_ACTIONS_RUNNER_POD_NAME: &str = "ACTIONS_RUNNER_POD_NAME";
/// Namespace for job pods.
pub const ENV_ACTIONS_RUNNER_JOB_NAMESPACE: &str = "ACTIONS_RUNNER_JOB_NAMESPACE";
/// Whether job pods must run on the runner's node.
pub const ENV_ACTIONS_RUNNER_REQUIRE_SAME_NODE: &str = "ACTIONS_RUNNER_REQUIRE_SAME_NODE";

// Environment of the container `docker` (spec 01 §10.3).

/// Group id of docker's socket.
pub const ENV_DOCKER_GROUP_GID: &str = "DOCKER_GROUP_GID";
/// MTU of rootless dockerd.
pub const ENV_DOCKERD_ROOTLESS_ROOTLESSKIT_MTU: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU";

// Variables that users set and the stock images understand (spec 01 §10.5); ours to know where we act on them.

/// Seconds that the image waits at a stop for the runner to finish its job.
pub const ENV_RUNNER_GRACEFUL_STOP_TIMEOUT: &str = "RUNNER_GRACEFUL_STOP_TIMEOUT";

// Keys of a credentials Secret (spec 01 §2.2).

/// Personal access token; wins over the App keys.
pub const SECRET_GITHUB_TOKEN: &str = "github_token";
/// App id, decimal.
pub const SECRET_GITHUB_APP_ID: &str = "github_app_id";
/// App installation id, decimal.
pub const SECRET_GITHUB_APP_INSTALLATION_ID: &str = "github_app_installation_id";
/// App private key, PEM.
pub const SECRET_GITHUB_APP_PRIVATE_KEY: &str = "github_app_private_key";
/// Base URL of a GitHub Enterprise Server.
pub const SECRET_GITHUB_ENTERPRISE_URL: &str = "github_enterprise_url";
/// REST base URL.
pub const SECRET_GITHUB_URL: &str = "github_url";
/// Upload base URL.
pub const SECRET_GITHUB_UPLOAD_URL: &str = "github_upload_url";
/// Base URL given to runners.
pub const SECRET_GITHUB_RUNNER_URL: &str = "github_runner_url";

/// Spec and metric names of the `HorizontalRunnerAutoscaler` (spec 01 §7).
pub mod autoscaler {
    /// Metric that counts queued and running workflow runs.
    pub const METRIC_QUEUED_AND_IN_PROGRESS: &str = "TotalNumberOfQueuedAndInProgressWorkflowRuns";
    /// Metric that takes the share of busy runners.
    pub const METRIC_PERCENTAGE_BUSY: &str = "PercentageRunnersBusy";
    /// Target kind, and the default when `scaleTargetRef.kind` is absent.
    pub const TARGET_RUNNER_DEPLOYMENT: &str = "RunnerDeployment";
    /// Target kind.
    pub const TARGET_RUNNER_SET: &str = "RunnerSet";
}
