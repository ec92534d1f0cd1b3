//! Generated volumes and mounts (spec 02 §11.5), each left out where the user has one of its own.

use k8s_openapi::{
    api::core::v1::{EmptyDirVolumeSource, Volume, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};
use muster_crds::legacy::RunnerConfig;

use super::Mode;

const RUNNER: &str = "runner";
/// The volume of the work directory.
pub(super) const WORK: &str = "work";
const VAR_RUN: &str = "var-run";
const RUNNER_PATH: &str = "/runner";
const RUN_PATH: &str = "/run";
const DEFAULT_VAR_RUN_SIZE: &str = "1M";

/// The volumes of a mode, in upstream's order. The work volume of kubernetes mode belongs to the template already.
pub(super) fn generate(config: &RunnerConfig, mode: Mode, without_runner_volume: bool) -> Vec<Volume> {
    let mut volumes = Vec::new();
    if !without_runner_volume {
        let medium = config.volume_storage_medium.clone();
        volumes.push(empty_dir(
            RUNNER,
            medium.filter(|medium| !medium.is_empty()),
            config.volume_size_limit.clone(),
        ));
    }
    if mode == Mode::Sidecar {
        volumes.push(empty_dir(WORK, None, None));
        let size = config.docker_var_run_volume_size_limit.clone();
        volumes.push(empty_dir(
            VAR_RUN,
            Some("Memory".to_owned()),
            Some(size.unwrap_or_else(|| Quantity(DEFAULT_VAR_RUN_SIZE.to_owned()))),
        ));
    }
    volumes
}

/// Adds the generated mounts to the container `runner`, then the Runner's own. One of those named `work` takes the place of any other mount of that volume.
pub(super) fn mount_in_runner(
    mounts: &mut Vec<VolumeMount>,
    late: Vec<VolumeMount>,
    mode: Mode,
    without_runner_volume: bool,
    work_dir: &str,
) {
    if late.iter().any(|mount| mount.name == WORK) {
        mounts.retain(|mount| mount.name != WORK);
    }
    let mut generated = Vec::new();
    if !without_runner_volume {
        generated.push((RUNNER, RUNNER_PATH));
    }
    if mode == Mode::Sidecar {
        generated.extend([(WORK, work_dir), (VAR_RUN, RUN_PATH)]);
    }
    for (name, path) in generated {
        if !is_taken(mounts, name, path) && !is_taken(&late, name, path) {
            mounts.push(volume_mount(name, path));
        }
    }
    mounts.extend(late);
}

/// Adds the generated mounts to the container `docker`. What the runner has at one of those paths, dockerd needs there too: paths of the runner are bind-mounted into
/// jobs, and the socket is how they meet.
pub(super) fn mount_in_docker(mounts: &mut Vec<VolumeMount>, runner: &[VolumeMount], work_dir: &str) {
    for (name, path) in [(RUNNER, RUNNER_PATH), (VAR_RUN, RUN_PATH), (WORK, work_dir)] {
        if is_taken(mounts, name, path) {
            continue;
        }
        // An expression is made of the runner's variables, which dockerd's container does not have.
        let shared = runner
            .iter()
            .find(|mount| is_at(mount, path) && mount.sub_path_expr.is_none());
        mounts.push(shared.cloned().unwrap_or_else(|| volume_mount(name, path)));
    }
}

/// Whether a generated mount has no place: its path is in use, or its volume is mounted elsewhere. A second mount of `runner` elsewhere takes nothing away.
fn is_taken(mounts: &[VolumeMount], name: &str, path: &str) -> bool {
    mounts
        .iter()
        .any(|mount| is_at(mount, path) || (mount.name == name && name != RUNNER))
}

fn is_at(mount: &VolumeMount, path: &str) -> bool {
    mount.mount_path.trim_end_matches('/') == path.trim_end_matches('/')
}

pub(super) fn volume_mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

fn empty_dir(name: &str, medium: Option<String>, size_limit: Option<Quantity>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium,
            size_limit,
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Whether a quantity is zero, whatever its unit and notation.
pub(super) fn is_zero(quantity: &Quantity) -> bool {
    let digits: String = quantity
        .0
        .chars()
        .take_while(|c| c.is_ascii_digit() || "+-.".contains(*c))
        .collect();
    !digits.is_empty() && !digits.chars().any(|c| ('1'..='9').contains(&c))
}
