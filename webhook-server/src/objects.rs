//! Watched objects, read only as far as routing and the ledger need it.
//!
//! The spec is kept as text until somebody wants it: a ledger of thousands of entries that we wrote ourselves
//! is not parsed again, and an object that cannot be read costs nobody else anything.

use std::borrow::Cow;
use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::NamespaceResourceScope;
use muster_crds::legacy::{CapacityReservation, ScaleTargetRef, ScaleUpTrigger};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of kind `K` with the few facts of its metadata that we use and its spec unread.
#[derive(Clone, Debug)]
pub struct Watched<K> {
    metadata: ObjectMeta,
    spec: Option<Box<RawValue>>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Meta,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
}

/// What is read of an object's metadata; managed fields and annotations can be larger than the rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Identity across re-creations.
    pub uid: Option<String>,
    /// Moves with every change of the spec.
    pub generation: Option<i64>,
    /// Moves with every change.
    pub resource_version: Option<String>,
    /// Creation time.
    pub creation_timestamp: Option<Time>,
    /// Set once deletion was asked for.
    pub deletion_timestamp: Option<Time>,
}

impl<'de, K> Deserialize<'de> for Watched<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wire { metadata, spec } = Wire::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            generation: metadata.generation,
            resource_version: metadata.resource_version,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            ..ObjectMeta::default()
        };
        Ok(Self {
            metadata,
            spec,
            kind: PhantomData,
        })
    }
}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>> Resource for Watched<K> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(dt: &()) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &()) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &()) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &()) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<K> Watched<K> {
    /// Name; empty where the object has none.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Namespace; empty where the object has none.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Identity across re-creations.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Moves with every change of the spec.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or(0)
    }

    /// Creation time.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }

    /// True once deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Length of the spec as JSON.
    pub fn spec_bytes(&self) -> usize {
        self.spec.as_ref().map_or(0, |spec| spec.get().len())
    }

    /// Reads the spec.
    ///
    /// # Errors
    /// When it is not of the form `T`.
    pub fn spec<T: DeserializeOwned + Default>(&self) -> Result<T, serde_json::Error> {
        self.spec
            .as_ref()
            .map_or_else(|| Ok(T::default()), |spec| serde_json::from_str(spec.get()))
    }
}

/// What is read of an autoscaler's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerSpec {
    /// What is scaled.
    pub scale_target_ref: Option<ScaleTargetRef>,
    /// Events that add runners.
    pub scale_up_triggers: Option<Vec<ScaleUpTrigger>>,
    /// The ledger.
    pub capacity_reservations: Option<Vec<CapacityReservation>>,
}

/// What is read of a RunnerDeployment's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeploymentSpec {
    template: Option<Template>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    spec: Option<TargetSpec>,
}

impl From<DeploymentSpec> for TargetSpec {
    fn from(spec: DeploymentSpec) -> Self {
        spec.template
            .and_then(|template| template.spec)
            .unwrap_or_default()
    }
}

/// What is read of a RunnerSet's spec, and of a RunnerDeployment's template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetSpec {
    /// `owner/name`.
    pub repository: Option<String>,
    /// Login of an organization.
    pub organization: Option<String>,
    /// Slug of an enterprise.
    pub enterprise: Option<String>,
    /// Name of a runner group.
    pub group: Option<String>,
    /// Labels of the runners.
    pub labels: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};
    use muster_crds::legacy::{HorizontalRunnerAutoscaler, RunnerDeployment};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_broken_spec_breaks_neither_a_list_nor_a_watch() {
        let object = |name: &str, spec: serde_json::Value| {
            json!({"apiVersion": "a", "kind": "k", "metadata": {"name": name, "namespace": "ci", "generation": 3,
                "creationTimestamp": "2026-11-21T00:00:00Z", "managedFields": [{"fieldsV1": {}}]}, "spec": spec})
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": [
            object("good", json!({"scaleTargetRef": {"name": "x"}})),
            object("broken", json!({"scaleTargetRef": 7})),
        ]});
        let list: ObjectList<Watched<HorizontalRunnerAutoscaler>> =
            serde_json::from_str(&list.to_string()).unwrap();
        let [good, broken] = &list.items[..] else {
            panic!("{list:?}")
        };
        assert_eq!(
            (
                good.name(),
                good.generation(),
                good.metadata.managed_fields.as_ref()
            ),
            ("good", 3, None)
        );
        let spec: AutoscalerSpec = good.spec().unwrap();
        assert_eq!(spec.scale_target_ref.unwrap().name.as_deref(), Some("x"));
        assert!(broken.spec::<AutoscalerSpec>().is_err());
        let event = format!(
            r#"{{"type":"MODIFIED","object":{}}}"#,
            object("b", json!({"template": {"spec": {"labels": ["a"]}}}))
        );
        let event: WatchEvent<Watched<RunnerDeployment>> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Modified(object) = event else {
            panic!("{event:?}")
        };
        let spec: TargetSpec = object.spec::<DeploymentSpec>().unwrap().into();
        assert_eq!(spec.labels, Some(vec!["a".to_owned()]));
    }
}
