//! What an autoscaler scales: a RunnerDeployment or a RunnerSet, by namespace and name.

use std::collections::BTreeMap;

use muster_crds::{keys, legacy::ScaleTargetRef};

/// The two kinds that an autoscaler can scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    /// Runners in `Runner` objects.
    Deployment,
    /// Runners in StatefulSets.
    Set,
}

impl TargetKind {
    /// From `scaleTargetRef.kind`, where nothing means a RunnerDeployment. `None` for any other kind.
    pub fn of(kind: Option<&str>) -> Option<Self> {
        match kind.unwrap_or_default() {
            "" | keys::autoscaler::TARGET_RUNNER_DEPLOYMENT => Some(Self::Deployment),
            keys::autoscaler::TARGET_RUNNER_SET => Some(Self::Set),
            _ => None,
        }
    }

    /// As in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => keys::autoscaler::TARGET_RUNNER_DEPLOYMENT,
            Self::Set => keys::autoscaler::TARGET_RUNNER_SET,
        }
    }

    /// The label that carries the target's name on its pods.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deployment => keys::LABEL_RUNNER_DEPLOYMENT_NAME,
            Self::Set => keys::LABEL_RUNNERSET_NAME,
        }
    }
}

/// One scale target; also the name of the pool that its runners form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId {
    /// Its kind.
    pub kind: TargetKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl TargetId {
    /// A target of this kind.
    pub fn new(kind: TargetKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// What an autoscaler of `namespace` refers to; `None` when it names nothing, or a kind that is not scaled.
    pub fn of(namespace: &str, reference: Option<&ScaleTargetRef>) -> Option<Self> {
        let reference = reference?;
        let name = reference.name.as_deref().filter(|name| !name.is_empty())?;
        let kind = TargetKind::of(reference.kind.as_deref())?;
        Some(Self::new(kind, namespace, name))
    }

    /// Whose the object with these labels is.
    pub fn of_labels(namespace: &str, labels: &BTreeMap<String, String>) -> Option<Self> {
        [TargetKind::Deployment, TargetKind::Set]
            .into_iter()
            .find_map(|kind| {
                labels
                    .get(kind.label())
                    .map(|name| Self::new(kind, namespace, name))
            })
    }
}

impl std::fmt::Display for TargetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_kind_means_a_runner_deployment() {
        let of = |kind: Option<&str>, name: Option<&str>| {
            let reference = ScaleTargetRef {
                kind: kind.map(str::to_owned),
                name: name.map(str::to_owned),
            };
            TargetId::of("ci", Some(&reference)).map(|id| id.to_string())
        };
        for (kind, name, expected) in [
            (None, Some("a"), Some("RunnerDeployment ci/a")),
            (Some(""), Some("a"), Some("RunnerDeployment ci/a")),
            (Some("RunnerDeployment"), Some("a"), Some("RunnerDeployment ci/a")),
            (Some("RunnerSet"), Some("a"), Some("RunnerSet ci/a")),
            (Some("Deployment"), Some("a"), None),
            (Some("RunnerSet"), Some(""), None),
            (Some("RunnerSet"), None, None),
        ] {
            assert_eq!(of(kind, name).as_deref(), expected, "{kind:?} {name:?}");
        }
        assert_eq!(TargetId::of("ci", None), None);
    }
}
