//! RunnerSet, which upstream does not validate (spec 01 quirk 12). Refused is only what never gave a runner: upstream fails at every
//! reconcile, or its own webhook at every pod.

use muster_crds::keys;
use serde_json::Value;

use super::{Verdict, get, items, runner, selector, text};

const WORK: &str = "work";

pub(super) fn check(spec: &Value, verdict: &mut Verdict) {
    match runner::scopes(spec) {
        0 => runner::no_scope("spec", verdict),
        1 => {}
        _ => verdict.warn(
            "spec: only one of enterprise, organization and repository may be set; a runner whose token is of another place than it \
             registers with does not come up",
        ),
    }
    let template = get(spec, "template");
    let labels = get(get(template, "metadata"), "labels");
    let added = [
        keys::LABEL_RUNNER_TEMPLATE_HASH,
        keys::LABEL_RUNNERSET_NAME,
        keys::LABEL_INJECT_REGISTRATION_TOKEN,
        keys::LABEL_ACTIONS_RUNNER,
    ];
    let wanted = get(spec, "selector");
    if let Some(why) = selector::mismatch(wanted, labels, &added) {
        verdict.refuse(
            "spec.selector",
            wanted,
            format!("{why} in spec.template.metadata.labels: Kubernetes takes no StatefulSet whose selector does not match its pods"),
        );
    }
    if runner::is_kubernetes_mode(spec) {
        kubernetes_mode(spec, get(template, "spec"), verdict);
    } else {
        shared_volume(spec, verdict);
    }
    if get(spec, "replicas")
        .as_i64()
        .is_some_and(|replicas| replicas < 0)
    {
        verdict.warn("spec.replicas: a negative number means 0");
    }
    runner::remarks(spec, "spec", verdict);
}

/// Pods of kubernetes mode get a volume `work` of their own.
fn kubernetes_mode(spec: &Value, pod: &Value, verdict: &mut Verdict) {
    let claim = get(spec, "workVolumeClaimTemplate");
    if claim.is_null() {
        runner::no_claim("spec", verdict);
    } else if items(claim, "accessModes").is_empty() {
        verdict.warn("spec.workVolumeClaimTemplate: accessModes needs at least one entry");
    }
    for (index, volume) in items(pod, "volumes").iter().enumerate() {
        if text(volume, "name") == WORK {
            verdict.refuse(
                format!("spec.template.spec.volumes[{index}].name"),
                get(volume, "name"),
                "containerMode: kubernetes makes the volume work itself, from workVolumeClaimTemplate",
            );
        }
    }
    for (index, container) in items(pod, "containers").iter().enumerate() {
        let mounts_work = items(container, "volumeMounts")
            .iter()
            .any(|mount| text(mount, "name") == WORK);
        if mounts_work && text(container, "name") == keys::CONTAINER_RUNNER {
            verdict.refuse(
                format!("spec.template.spec.containers[{index}].volumeMounts"),
                get(container, "volumeMounts"),
                "containerMode: kubernetes mounts the volume work itself, at workDir",
            );
        }
    }
}

/// The runner and its docker sidecar share the volume that a zero limit removes.
fn shared_volume(spec: &Value, verdict: &mut Verdict) {
    let limit = get(spec, "volumeSizeLimit");
    let has_sidecar = get(spec, "dockerEnabled").as_bool().unwrap_or(true)
        && !get(spec, "dockerdWithinRunnerContainer")
            .as_bool()
            .unwrap_or(false);
    if has_sidecar && is_zero(limit) {
        verdict.refuse(
            "spec.volumeSizeLimit",
            limit,
            "0 removes the volume that a runner shares with its docker sidecar: give it a size, or set dockerEnabled: false",
        );
    }
}

/// A quantity of nothing: `0`, `"0"`, `"0.0Gi"`.
fn is_zero(quantity: &Value) -> bool {
    match quantity {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            let number = text.trim_start_matches(['+', '-']);
            let end = number
                .find(|character: char| !character.is_ascii_digit() && character != '.')
                .unwrap_or(number.len());
            let digits = number.get(..end).unwrap_or_default();
            digits.contains('0') && digits.chars().all(|digit| matches!(digit, '0' | '.'))
        }
        _ => false,
    }
}
