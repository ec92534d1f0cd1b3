//! The five rules of upstream (spec 01 §11.4, V1–V5) and what is remarked upon beside them.

use serde_json::{Value, json};

use super::{Kind, Verdict, get, items, selector, text};
use muster_crds::keys;

const CLAIM: &str = "workVolumeClaimTemplate";
const ACCESS_MODES: [&str; 2] = ["ReadWriteOnce", "ReadWriteMany"];

/// Checks the spec of a runner that is found at `path`.
pub(super) fn check(spec: &Value, path: &str, verdict: &mut Verdict) {
    let scopes = scopes(spec);
    let repository = || json!(text(spec, "repository"));
    match scopes {
        0 => no_scope(path, verdict),
        1 => {}
        _ => verdict.refuse(
            format!("{path}.repository"),
            &repository(),
            "a runner registers with one place: only one of enterprise, organization and repository may be set",
        ),
    }
    if is_kubernetes_mode(spec) {
        let claim = get(spec, CLAIM);
        if claim.is_null() {
            no_claim(path, verdict);
        } else {
            let modes = items(claim, "accessModes");
            let unsupported = modes
                .iter()
                .find(|mode| mode.as_str().is_none_or(|mode| !ACCESS_MODES.contains(&mode)));
            if modes.is_empty() {
                verdict.refuse(
                    format!("{path}.{CLAIM}"),
                    claim,
                    "accessModes needs at least one entry",
                );
            } else if let Some(mode) = unsupported {
                verdict.refuse(
                    format!("{path}.{CLAIM}"),
                    claim,
                    format!(
                        "accessModes has the unsupported entry {mode}: use ReadWriteOnce or ReadWriteMany"
                    ),
                );
            }
        }
    }
    remarks(spec, path, verdict);
}

/// How many of the three scope fields have a value.
pub(super) fn scopes(spec: &Value) -> usize {
    ["enterprise", "organization", "repository"]
        .iter()
        .filter(|field| !text(spec, field).is_empty())
        .count()
}

/// Refuses a spec that has none of the three.
pub(super) fn no_scope(path: &str, verdict: &mut Verdict) {
    verdict.refuse(
        format!("{path}.repository"),
        &json!(""),
        "a runner registers with a place: one of enterprise, organization and repository must be set",
    );
}

/// Whether job steps run in pods of their own.
pub(super) fn is_kubernetes_mode(spec: &Value) -> bool {
    text(spec, "containerMode") == keys::CONTAINER_MODE_KUBERNETES
}

/// Refuses kubernetes mode without a claim for the work directory.
pub(super) fn no_claim(path: &str, verdict: &mut Verdict) {
    verdict.refuse(
        format!("{path}.{CLAIM}"),
        &Value::Null,
        "containerMode: kubernetes needs it, for the volume that a runner shares with the pods of its job",
    );
}

/// What was never refused and is still not what its author expects.
pub(super) fn remarks(spec: &Value, path: &str, verdict: &mut Verdict) {
    let mode = text(spec, "containerMode");
    if !mode.is_empty() && mode != keys::CONTAINER_MODE_KUBERNETES {
        verdict.warn(format!(
            "{path}.containerMode: {mode:?} is not known and means docker mode; the only other mode is \"kubernetes\""
        ));
    }
}

/// A selector that its own template does not match finds none of the objects made from it (spec 01 quirk 4).
pub(super) fn check_selector(kind: Kind, spec: &Value, verdict: &mut Verdict) {
    let wanted = get(spec, "selector");
    let labels = get(get(get(spec, "template"), "metadata"), "labels");
    // The controllers add these themselves.
    let added = [
        keys::LABEL_RUNNER_TEMPLATE_HASH,
        keys::LABEL_RUNNER_DEPLOYMENT_NAME,
    ];
    if let Some(why) = selector::mismatch(wanted, labels, &added) {
        verdict.warn(format!(
            "spec.selector: {why} in spec.template.metadata.labels: a {} cannot recognise its runners this way",
            kind.name()
        ));
    }
}
