//! The container `docker`: dockerd beside the runner (spec 02 §11.6).

use k8s_openapi::api::core::v1::{
    Container, ExecAction, Lifecycle, LifecycleHandler, SELinuxOptions, SecurityContext,
};
use muster_crds::{keys, legacy::RunnerConfig};

use super::{
    PodDefaults,
    containers::{push, set_if_empty},
    mirror, text, volumes, work_dir,
};

/// Where the two containers meet: in the volume that both have at `/run`. There is no TLS between them.
pub(super) const SOCKET: &str = "unix:///run/docker.sock";

/// Waits for the agent to stop and de-configure itself, then for dockerd to exist so that the SIGTERM that follows is not lost while docker starts
/// (spec 02 §11.6). It kills nothing.
const PRE_STOP: &str = "timeout \"${RUNNER_GRACEFUL_STOP_TIMEOUT:-15}\" /bin/sh -c '\
echo \"Prestop hook started\"; \
while [ -f /runner/.runner ]; do sleep 1; done; \
echo \"Waiting for dockerd to start\"; \
while ! pgrep -x dockerd; do sleep 1; done; \
echo \"Prestop hook stopped\"' > /proc/1/fd/1 2>&1";

/// Completes the sidecar. `runner` is the finished container `runner`, whose image and mounts it follows.
pub(super) fn fill(
    container: &mut Container,
    config: &RunnerConfig,
    runner: &Container,
    selinux: Option<SELinuxOptions>,
    defaults: &PodDefaults,
) {
    if text(container.image.as_ref()).is_none() {
        container.image = Some(defaults.docker_image.clone());
    }
    let mut args = vec!["dockerd".to_owned(), format!("--host={SOCKET}")];
    args.append(&mut container.args.take().unwrap_or_default());
    args.push(format!("--group=$({})", keys::ENV_DOCKER_GROUP_GID));
    let env = container.env.get_or_insert_default();
    set_if_empty(
        env,
        keys::ENV_DOCKER_GROUP_GID,
        group(runner.image.as_deref().unwrap_or_default(), defaults),
    );
    if let Some(mtu) = config.docker_mtu {
        args.extend(["--mtu".to_owned(), mtu.to_string()]);
        push(env, keys::ENV_DOCKERD_ROOTLESS_ROOTLESSKIT_MTU, &mtu.to_string());
    }
    if let Some(mirror) = mirror(config, defaults) {
        args.push(format!("--registry-mirror={mirror}"));
    }
    container.args = Some(args);
    if container.security_context.is_none() {
        container.security_context = Some(SecurityContext {
            privileged: Some(selinux.is_none()),
            se_linux_options: selinux,
            ..SecurityContext::default()
        });
    }
    volumes::mount_in_docker(
        container.volume_mounts.get_or_insert_default(),
        runner.volume_mounts.as_deref().unwrap_or_default(),
        work_dir(config),
    );
    // A lifecycle of the user's is lost, as it is upstream: a stop without this hook loses jobs.
    container.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            exec: Some(ExecAction {
                command: Some(["/bin/sh", "-c", PRE_STOP].map(str::to_owned).to_vec()),
            }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
}

/// The group that owns docker's socket, as the runner's image knows it: by the Ubuntu version in the image's name, else by the flag.
fn group<'a>(runner_image: &str, defaults: &'a PodDefaults) -> &'a str {
    if runner_image.contains("22.04") || runner_image.contains("24.04") {
        "121"
    } else if runner_image.contains("20.04") {
        "1001"
    } else {
        &defaults.docker_gid
    }
}
