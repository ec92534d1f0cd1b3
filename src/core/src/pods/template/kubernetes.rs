//! `containerMode: kubernetes`: jobs run as pods of their own, on a work volume that they share with the runner (spec 02 §11.8).

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, PodSpec,
    PodTemplateSpec, Volume,
};
use muster_crds::{
    keys,
    legacy::{RunnerConfig, WorkVolumeClaimTemplate},
};

use super::{TemplateError, containers, volumes, work_dir};

const READ_WRITE_ONCE: &str = "ReadWriteOnce";
const READ_WRITE_MANY: &str = "ReadWriteMany";

/// Gives a pod template the volume `work`, a claim that lives as long as the pod, and mounts it in the runner at its work directory. The container `runner` is added
/// first where there is none: upstream does so for `RunnerSet`s only and fails for Runners.
///
/// # Errors
/// When the claim is missing, has an access mode that does not work, or `work` is in use already.
pub fn claim_work_volume(
    template: &mut PodTemplateSpec,
    config: &RunnerConfig,
    claim: Option<&WorkVolumeClaimTemplate>,
) -> Result<(), TemplateError> {
    let claim = claim.ok_or(TemplateError::NoWorkVolumeClaim)?;
    requires_same_node(&claim.access_modes)?;
    let spec = template.spec.get_or_insert_default();
    if spec
        .volumes
        .iter()
        .flatten()
        .any(|volume| volume.name == volumes::WORK)
    {
        return Err(TemplateError::WorkVolumeTaken {
            field: "volumes of the pod template",
        });
    }
    let mut runner = containers::take(&mut spec.containers, keys::CONTAINER_RUNNER);
    let mounts = runner.container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.name == volumes::WORK) {
        return Err(TemplateError::WorkMountTaken {
            field: "volumeMounts of container \"runner\"",
        });
    }
    mounts.push(volumes::volume_mount(volumes::WORK, work_dir(config)));
    containers::put_back(&mut spec.containers, runner, 0);
    spec.volumes.get_or_insert_default().push(Volume {
        name: volumes::WORK.to_owned(),
        ephemeral: Some(EphemeralVolumeSource {
            volume_claim_template: Some(PersistentVolumeClaimTemplate {
                metadata: None,
                spec: PersistentVolumeClaimSpec {
                    access_modes: Some(claim.access_modes.clone()),
                    // Also when empty: "no class" and "the default class" are not the same.
                    storage_class_name: Some(claim.storage_class_name.clone()),
                    resources: Some(claim.resources.clone()),
                    ..PersistentVolumeClaimSpec::default()
                },
            }),
        }),
        ..Volume::default()
    });
    Ok(())
}

/// Whether job pods must run on the node of the runner, which a pod's work volume tells.
pub(super) fn same_node(spec: &PodSpec) -> Result<bool, TemplateError> {
    let claim = spec
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name == volumes::WORK)
        .and_then(|volume| volume.ephemeral.as_ref())
        .and_then(|ephemeral| ephemeral.volume_claim_template.as_ref())
        .ok_or(TemplateError::NoWorkVolumeClaim)?;
    requires_same_node(claim.spec.access_modes.as_deref().unwrap_or_default())
}

/// A volume for one node keeps job pods on that node (spec 02 §11.4 row 17): the first mode that decides, decides.
fn requires_same_node(access_modes: &[String]) -> Result<bool, TemplateError> {
    for mode in access_modes {
        match mode.as_str() {
            READ_WRITE_ONCE => return Ok(true),
            READ_WRITE_MANY => {}
            other => {
                return Err(TemplateError::AccessMode {
                    mode: other.to_owned(),
                });
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_modes_tell_where_job_pods_may_run() {
        let of = |modes: &[&str]| {
            requires_same_node(&modes.iter().map(|mode| (*mode).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["ReadWriteOnce"]), Ok(true));
        assert_eq!(of(&["ReadWriteMany", "ReadWriteOnce"]), Ok(true));
        assert_eq!(of(&["ReadWriteOnce", "ReadOnlyMany"]), Ok(true));
        assert_eq!(of(&["ReadWriteMany"]), Ok(false));
        assert_eq!(of(&[]), Ok(false));
        for modes in [
            &["ReadWriteOncePod"][..],
            &["ReadOnlyMany", "ReadWriteOnce"],
            &["ReadWriteMany", "ReadOnlyMany"],
        ] {
            assert!(
                matches!(of(modes), Err(TemplateError::AccessMode { .. })),
                "{modes:?}"
            );
        }
    }
}
