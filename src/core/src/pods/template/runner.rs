//! The container `runner`: image, privilege and environment (spec 02 §11.3, §11.4).

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec};
use muster_crds::{keys, legacy::RunnerConfig};

use super::{
    Mode, PodDefaults,
    containers::{push, set_if_empty},
    docker, mirror, text, work_dir,
};

const ALWAYS: &str = "Always";

/// Image, pull policy, privilege and the variables that every mode has.
pub(super) fn fill(
    container: &mut Container,
    config: &RunnerConfig,
    mode: Mode,
    has_selinux: bool,
    defaults: &PodDefaults,
    github_url: &str,
) {
    container.image = text(config.image.as_ref())
        .or_else(|| text(container.image.as_ref()))
        .or(Some(&defaults.runner_image))
        .map(str::to_owned);
    if text(container.image_pull_policy.as_ref()).is_none() {
        container.image_pull_policy = Some(ALWAYS.to_owned());
    }
    let context = container.security_context.get_or_insert_default();
    if mode == Mode::WithinRunner && !has_selinux {
        context.privileged = Some(true);
    }

    let env = container.env.get_or_insert_default();
    let value = |field: &Option<String>| field.clone().unwrap_or_default();
    let labels = config.labels.as_ref().map(|labels| labels.join(","));
    push(env, keys::ENV_RUNNER_ORG, &value(&config.organization));
    push(env, keys::ENV_RUNNER_REPO, &value(&config.repository));
    push(env, keys::ENV_RUNNER_ENTERPRISE, &value(&config.enterprise));
    push(env, keys::ENV_RUNNER_LABELS, &labels.unwrap_or_default());
    push(env, keys::ENV_RUNNER_GROUP, &value(&config.group));
    let has_docker = matches!(mode, Mode::Sidecar | Mode::WithinRunner);
    push(env, keys::ENV_DOCKER_ENABLED, flag(has_docker));
    push(env, keys::ENV_DOCKERD_IN_RUNNER, flag(mode == Mode::WithinRunner));
    push(env, keys::ENV_GITHUB_URL, github_url);
    push(env, keys::ENV_RUNNER_WORKDIR, work_dir(config));
    push(
        env,
        keys::ENV_RUNNER_EPHEMERAL,
        flag(config.ephemeral.unwrap_or(true)),
    );
    push(
        env,
        keys::ENV_RUNNER_STATUS_UPDATE_HOOK,
        flag(defaults.status_update_hook),
    );
    push(
        env,
        keys::ENV_GITHUB_ACTIONS_RUNNER_EXTRA_USER_AGENT,
        &format!("actions-runner-controller/{}", defaults.version),
    );
}

/// The variables of one mode. `same_node`: whether job pods must run on the runner's node, in kubernetes mode.
pub(super) fn add_mode_environment(
    container: &mut Container,
    config: &RunnerConfig,
    mode: Mode,
    same_node: Option<bool>,
    defaults: &PodDefaults,
) {
    let env = container.env.get_or_insert_default();
    match mode {
        Mode::Kubernetes => {
            push(
                env,
                keys::ENV_ACTIONS_RUNNER_CONTAINER_HOOKS,
                keys::CONTAINER_HOOK_PATH,
            );
            push(env, keys::ENV_ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER, flag(true));
            env.push(field(keys::ENV_ACTIONS_RUNNER_POD_NAME, "metadata.name"));
            env.push(field(
                keys::ENV_ACTIONS_RUNNER_JOB_NAMESPACE,
                "metadata.namespace",
            ));
            push(
                env,
                keys::ENV_ACTIONS_RUNNER_REQUIRE_SAME_NODE,
                flag(same_node.unwrap_or(true)),
            );
        }
        Mode::WithinRunner => {
            if let Some(mtu) = config.docker_mtu {
                push(env, keys::ENV_MTU, &mtu.to_string());
            }
            if let Some(mirror) = mirror(config, defaults) {
                push(env, keys::ENV_DOCKER_REGISTRY_MIRROR, mirror);
            }
        }
        Mode::Sidecar => push(env, keys::ENV_DOCKER_HOST, docker::SOCKET),
        Mode::NoDocker => {}
    }
}

/// Gives the runner of a pod its name and its registration token, where the user set none (spec 02 §11.4, rows 21 and 22). Does nothing to a pod without a container
/// `runner`.
pub fn register(spec: &mut PodSpec, name: &str, token: &str) {
    let container = spec
        .containers
        .iter_mut()
        .rfind(|container| container.name == keys::CONTAINER_RUNNER);
    if let Some(container) = container {
        let env = container.env.get_or_insert_default();
        set_if_empty(env, keys::ENV_RUNNER_NAME, name);
        set_if_empty(env, keys::ENV_RUNNER_TOKEN, token);
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}

const fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
