//! The environment, read once at start and passed on as a value.

use std::{collections::BTreeMap, ffi::OsString, fmt};

/// Where a pod learns its namespace from, in this order (the first is the name that ARC's chart sets).
pub const POD_NAMESPACE_VARIABLES: [&str; 2] = ["CONTROLLER_MANAGER_POD_NAMESPACE", "POD_NAMESPACE"];

/// A variable that is set to something unusable. Values of secret variables are never part of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The value is not UTF-8.
    #[error("environment variable {0} is not valid UTF-8")]
    NotUnicode(String),
    /// The value does not parse into the variable's type; an empty integer is one of these (spec 02 §2.1 step 1).
    #[error("environment variable {name} has the value {value:?}: {reason}")]
    Invalid {
        /// Name of the variable.
        name: String,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
}

/// A snapshot of the environment. `Debug` shows names only, because values may be secret.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// The environment of this process.
    pub fn process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// An environment made of the given pairs, for tests.
    pub fn of<N: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value of `name`; `None` when it is not set. A variable set to the empty text yields `Some("")`.
    ///
    /// # Errors
    /// [`EnvError::NotUnicode`].
    pub fn get(&self, name: &str) -> Result<Option<&str>, EnvError> {
        self.0
            .get(std::ffi::OsStr::new(name))
            .map(|value| {
                value
                    .to_str()
                    .ok_or_else(|| EnvError::NotUnicode(name.to_owned()))
            })
            .transpose()
    }

    /// The value of `name` unless it is unset, empty or not text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).ok().flatten().filter(|value| !value.is_empty())
    }

    /// The namespace that the pod's manifest told us through [`POD_NAMESPACE_VARIABLES`].
    pub fn pod_namespace(&self) -> Option<&str> {
        POD_NAMESPACE_VARIABLES.iter().find_map(|name| self.text(name))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_but_empty_differs_from_unset() {
        let env = Env::of([("A", ""), ("B", "b")]);
        assert_eq!(env.get("A"), Ok(Some("")));
        assert_eq!(env.text("A"), None);
        assert_eq!(env.get("B"), Ok(Some("b")));
        assert_eq!(env.get("C"), Ok(None));
    }

    #[test]
    fn debug_shows_no_values() {
        let shown = format!("{:?}", Env::of([("GITHUB_TOKEN", "sentinel-secret")]));
        assert!(
            shown.contains("GITHUB_TOKEN") && !shown.contains("sentinel"),
            "{shown}"
        );
    }

    #[test]
    fn the_pod_namespace_prefers_the_charts_name() {
        assert_eq!(Env::default().pod_namespace(), None);
        assert_eq!(Env::of([("POD_NAMESPACE", "two")]).pod_namespace(), Some("two"));
        let both = Env::of([
            ("POD_NAMESPACE", "two"),
            ("CONTROLLER_MANAGER_POD_NAMESPACE", "one"),
        ]);
        assert_eq!(both.pod_namespace(), Some("one"));
        let empty = Env::of([("POD_NAMESPACE", "two"), ("CONTROLLER_MANAGER_POD_NAMESPACE", "")]);
        assert_eq!(empty.pod_namespace(), Some("two"));
    }
}
