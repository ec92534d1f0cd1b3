//! CRDs as they are installed: what the derives give, made to accept, keep and prune what users' manifests hold.
//!
//! A generator from Rust types gets several things wrong for this group (spec 01 §8.6): it allows nulls everywhere, it
//! knows no list types, patterns of quantities or embedded metadata, and its descriptions of Kubernetes' own types
//! outgrow the annotation that `kubectl apply` keeps. [`crds`] sets these right from tables and fails when a table
//! names a field that is not there.

mod core_types;
mod shape;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;
use thiserror::Error;

use self::{
    core_types::{
        AFFINITY, CLAIMS, CONTAINER, DNS_CONFIG, ENV_FROM, ENV_VAR, HOST_ALIAS, KEYED_BY_TYPE,
        LABEL_SELECTOR, LOCAL_REFERENCE, PLAIN, POD_SECURITY, POD_TEMPLATE, SPREAD, UPDATE_STRATEGY, VOLUME,
        VOLUME_MOUNT,
    },
    shape::{Shape, children, find, int_or_string, join, scalar},
};
use crate::legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet};

/// Why a CRD could not be made.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// A table names a field that the types do not have.
    #[error("the schema has no field {path}")]
    NoSuchPath {
        /// Where the field should be.
        path: String,
    },
    /// A derive gave no schema.
    #[error("there is no schema for {kind}")]
    NoSchema {
        /// Kind of the resource.
        kind: String,
    },
    /// A CRD could not be written as YAML.
    #[error("could not write the definition of {kind} as YAML")]
    Yaml {
        /// Kind of the resource.
        kind: String,
        /// What the serializer says.
        #[source]
        source: serde_saphyr::SerializeError,
    },
}

/// A part of a kind's schema where Kubernetes' own types begin.
type Part = (&'static str, &'static Shape);

/// How a kind differs from what the derive gives.
struct Kind {
    derived: fn() -> CustomResourceDefinition,
    /// Where the fields of `RunnerPodSpec` are, if anywhere.
    runner_pod: Option<&'static str>,
    parts: &'static [Part],
    /// All fields in which a null is stored; elsewhere nulls are pruned (spec 01 §8.4, §8.5).
    nullable: &'static [&'static str],
}

/// Embedded types in the fields of `RunnerPodSpec`. The lists themselves are ours and carry no list type, unlike the
/// same lists of a real pod template (spec 01 §8.3).
const RUNNER_POD_PARTS: &[Part] = &[
    ("affinity", &AFFINITY),
    ("containers[]", &CONTAINER),
    ("dnsConfig", &DNS_CONFIG),
    ("dockerEnv[]", &ENV_VAR),
    ("dockerVolumeMounts[]", &VOLUME_MOUNT),
    ("dockerdContainerResources", &PLAIN),
    ("env[]", &ENV_VAR),
    ("envFrom[]", &ENV_FROM),
    ("ephemeralContainers[]", &CONTAINER),
    ("hostAliases[]", &HOST_ALIAS),
    ("imagePullSecrets[]", &LOCAL_REFERENCE),
    ("initContainers[]", &CONTAINER),
    ("resources", &PLAIN),
    ("securityContext", &POD_SECURITY),
    ("sidecarContainers[]", &CONTAINER),
    ("tolerations[]", &PLAIN),
    ("topologySpreadConstraints[]", &SPREAD),
    ("volumeMounts[]", &VOLUME_MOUNT),
    ("volumes[]", &VOLUME),
    ("workVolumeClaimTemplate.resources", &PLAIN),
];

const CONDITIONS: Part = ("status.conditions", &KEYED_BY_TYPE);

const KINDS: &[Kind] = &[
    Kind {
        derived: Runner::crd,
        runner_pod: Some("spec"),
        parts: &[CONDITIONS],
        nullable: &["status.lastRegistrationCheckTime"],
    },
    Kind {
        derived: RunnerReplicaSet::crd,
        runner_pod: Some("spec.template.spec"),
        parts: &[("spec.selector", &LABEL_SELECTOR), CONDITIONS],
        nullable: &["spec.effectiveTime", "spec.replicas", "spec.selector"],
    },
    Kind {
        derived: RunnerDeployment::crd,
        runner_pod: Some("spec.template.spec"),
        parts: &[("spec.selector", &LABEL_SELECTOR), CONDITIONS],
        nullable: &["spec.effectiveTime", "spec.replicas", "spec.selector"],
    },
    Kind {
        derived: RunnerSet::crd,
        runner_pod: None,
        parts: &[
            ("spec.ordinals", &PLAIN),
            ("spec.persistentVolumeClaimRetentionPolicy", &PLAIN),
            ("spec.selector", &LABEL_SELECTOR),
            ("spec.template", &POD_TEMPLATE),
            ("spec.updateStrategy", &UPDATE_STRATEGY),
            ("spec.volumeClaimTemplates", &CLAIMS),
            ("spec.workVolumeClaimTemplate.resources", &PLAIN),
            CONDITIONS,
        ],
        nullable: &["spec.effectiveTime"],
    },
    Kind {
        derived: HorizontalRunnerAutoscaler::crd,
        runner_pod: None,
        parts: &[CONDITIONS],
        nullable: &[
            "spec.scheduledOverrides[].minReplicas",
            "status.lastSuccessfulScaleOutTime",
        ],
    },
];

/// Integers of ours whose width upstream's schema states; the others are plain (spec 01 §8.6).
const INT64: &[&str] = &["dockerMTU", "observedGeneration", "terminationGracePeriodSeconds"];

/// The CRDs of all kinds, in the order in which they are listed in the documentation.
///
/// # Errors
///
/// A table that does not fit the types, which a test of this crate rules out.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, SchemaError> {
    KINDS.iter().map(Kind::crd).collect()
}

/// The generated files by name, as they are committed under `crds/`.
///
/// # Errors
///
/// As for [`crds`].
pub fn files() -> Result<BTreeMap<PathBuf, String>, SchemaError> {
    crds()?
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            let yaml = serde_saphyr::to_string(crd).map_err(|source| SchemaError::Yaml {
                kind: names.kind.clone(),
                source,
            })?;
            let name = format!("{}_{}.yaml", crd.spec.group, names.plural);
            Ok((
                name.into(),
                format!(
                    "# Made by crdgen from the types in crds/src. Do not edit; run `make crds`.\n---\n{yaml}"
                ),
            ))
        })
        .collect()
}

impl Kind {
    fn crd(&self) -> Result<CustomResourceDefinition, SchemaError> {
        let mut crd = (self.derived)();
        let kind = crd.spec.names.kind.clone();
        crd.spec.names.list_kind = Some(format!("{kind}List"));
        let root = crd
            .spec
            .versions
            .first_mut()
            .and_then(|version| version.schema.as_mut())
            .and_then(|validation| validation.open_api_v3_schema.as_mut())
            .ok_or(SchemaError::NoSchema { kind })?;
        self.finish(root)?;
        Ok(crd)
    }

    fn finish(&self, root: &mut JSONSchemaProps) -> Result<(), SchemaError> {
        clear(root);
        let parts = self.parts();
        tidy_ours(root, "", &parts);
        for (path, shape) in &parts {
            let node = find(root, path).ok_or_else(|| SchemaError::NoSuchPath { path: path.clone() })?;
            strip_descriptions(node);
            if path.ends_with("[]") {
                node.description = None;
            }
            shape.apply(node, path)?;
        }
        for path in self.nullable {
            let node = find(root, path).ok_or_else(|| SchemaError::NoSuchPath {
                path: (*path).to_owned(),
            })?;
            node.nullable = Some(true);
        }
        quantities(root);
        head(root);
        Ok(())
    }

    /// Where types of Kubernetes begin, with absolute paths.
    fn parts(&self) -> Vec<(String, &'static Shape)> {
        let pod = self.runner_pod.into_iter().flat_map(|at| {
            RUNNER_POD_PARTS
                .iter()
                .map(move |&(path, shape)| (join(at, path), shape))
        });
        let others = self.parts.iter().map(|&(path, shape)| (path.to_owned(), shape));
        pod.chain(others).collect()
    }
}

/// Takes away what the derive says everywhere and we say from tables: nulls, defaults, titles.
fn clear(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.title = None;
    for (_, child) in children(schema, "") {
        clear(child);
    }
}

/// Goes through our own part of the schema: descriptions in one line, integers without a width.
fn tidy_ours(schema: &mut JSONSchemaProps, at: &str, parts: &[(String, &'static Shape)]) {
    if let Some(text) = &mut schema.description {
        *text = text.replace('\n', " ");
    }
    if parts.iter().any(|(part, _)| part == at) {
        return;
    }
    let name = at.rsplit('.').next().unwrap_or(at);
    if schema.format.as_deref() == Some("int64") && !INT64.contains(&name) {
        schema.format = None;
    }
    for (path, child) in children(schema, at) {
        tidy_ours(child, &path, parts);
    }
}

/// Removes the descriptions below `schema`. They are Kubernetes' own, four fifths of the whole, and would keep
/// `kubectl apply` from working (spec 01 §1).
fn strip_descriptions(schema: &mut JSONSchemaProps) {
    for (_, child) in children(schema, "") {
        child.description = None;
        strip_descriptions(child);
    }
}

/// Gives every integer-or-string that is not marked otherwise the form of a quantity.
fn quantities(schema: &mut JSONSchemaProps) {
    if schema.x_kubernetes_int_or_string == Some(true) && schema.any_of.is_none() {
        int_or_string(schema);
        schema.pattern = Some(shape::QUANTITY.to_owned());
    }
    for (_, child) in children(schema, "") {
        quantities(child);
    }
}

/// The fields that every object has. Neither spec nor status is required.
fn head(root: &mut JSONSchemaProps) {
    let properties = root.properties.get_or_insert_with(BTreeMap::new);
    let described = |description: &str| JSONSchemaProps {
        description: Some(description.to_owned()),
        ..scalar("string")
    };
    properties.insert(
        "apiVersion".to_owned(),
        described("Version of the schema of this object."),
    );
    properties.insert("kind".to_owned(), described("Kind of this object."));
    properties.insert("metadata".to_owned(), scalar("object"));
    root.required = None;
}
