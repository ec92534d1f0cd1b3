//! The definitions: there, served, and not older than the programs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::ResourceExt;
use muster_crds::keys;

use super::{Fault, Finding, Observed, subject};
use crate::explain::Subject;

/// Plurals, and the fields that the programs write: without the first ones capacity is lost, without the second ones what they have to say.
const KINDS: [(&str, &[&str], &[&str]); 5] = [
    (
        "horizontalrunnerautoscalers",
        &[
            "spec.capacityReservations[].name",
            "spec.capacityReservations[].effectiveTime",
            "spec.capacityReservations[].expirationTime",
            "spec.capacityReservations[].replicas",
        ],
        &["status.conditions", "spec.scheduledOverrides[].timeZone"],
    ),
    (
        "runnerdeployments",
        &["spec.replicas", "spec.effectiveTime"],
        &["status.conditions"],
    ),
    (
        "runnerreplicasets",
        &["spec.replicas", "spec.effectiveTime"],
        &["status.conditions"],
    ),
    (
        "runnersets",
        &["spec.replicas", "spec.effectiveTime"],
        &["status.conditions"],
    ),
    ("runners", &["status.registration.token"], &["status.conditions"]),
];
const APPLY: &str =
    "Apply the definitions of this version: kubectl apply -f crds/ (objects that exist stay).";

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    let Some(definitions) = &observed.definitions else {
        return;
    };
    for (plural, vital, told) in KINDS {
        let name = format!("{plural}.{}", keys::GROUP);
        match definitions
            .iter()
            .find(|definition| definition.name_any() == name)
        {
            None => findings.push(Finding::new(
                Fault::DefinitionMissing,
                Subject::new("CustomResourceDefinition", "", &name),
                format!("{name} is not defined"),
                APPLY,
            )),
            Some(definition) => one(definition, vital, told, findings),
        }
    }
}

fn one(definition: &CustomResourceDefinition, vital: &[&str], told: &[&str], findings: &mut Vec<Finding>) {
    let object = subject(definition);
    let name = definition.name_any();
    let version = definition
        .spec
        .versions
        .iter()
        .find(|version| version.name == keys::VERSION);
    let Some(version) = version.filter(|version| version.served) else {
        findings.push(Finding::new(
            Fault::DefinitionVersionMissing,
            object,
            format!("{name} does not serve version {}", keys::VERSION),
            APPLY,
        ));
        return;
    };
    let schema = version
        .schema
        .as_ref()
        .and_then(|schema| schema.open_api_v3_schema.as_ref());
    if let Some(schema) = schema {
        for (fields, fault, loss) in [
            (
                vital,
                Fault::DefinitionFieldMissing,
                "the API server drops what is written there",
            ),
            (
                told,
                Fault::DefinitionOutdated,
                "the definition is ARC's or an older one's",
            ),
        ] {
            let missing: Vec<&str> = fields.iter().copied().filter(|path| !has(schema, path)).collect();
            if !missing.is_empty() {
                findings.push(Finding::new(
                    fault,
                    object.clone(),
                    format!("{name} lacks {}: {loss}", missing.join(", ")),
                    APPLY,
                ));
            }
        }
    }
    let stored = definition
        .status
        .as_ref()
        .and_then(|status| status.stored_versions.clone());
    let old: Vec<String> = stored
        .unwrap_or_default()
        .into_iter()
        .filter(|stored| stored != keys::VERSION)
        .collect();
    if !old.is_empty() {
        findings.push(Finding::new(
            Fault::StoredVersionOld,
            object,
            format!("objects of {name} are stored in version {}", old.join(", ")),
            format!(
                "Write every object once (kubectl get {name} -A -o json | kubectl replace -f -), then take the version out of status.storedVersions."
            ),
        ));
    }
}

/// Whether a schema has a field, or takes any.
fn has(schema: &JSONSchemaProps, path: &str) -> bool {
    let mut at = schema;
    for part in path.split('.') {
        if at.x_kubernetes_preserve_unknown_fields == Some(true) {
            return true;
        }
        let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let Some(next) = at.properties.as_ref().and_then(|properties| properties.get(name)) else {
            return false;
        };
        at = next;
        if is_list {
            match &at.items {
                Some(JSONSchemaPropsOrArray::Schema(items)) => at = items,
                _ => return false,
            }
        }
    }
    true
}
