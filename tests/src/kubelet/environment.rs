//! What the runner image reads from its environment (spec 02 §11.10): nothing else tells the simulated agent what
//! to do.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::agent::RunnerScope;

/// Name of the container that the agent lives in.
pub(super) const RUNNER: &str = "runner";

/// The environment of container `runner`, as far as it is given literally. Of a variable that is there twice the
/// later one counts, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// `None` when the pod has no container `runner`.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let runner = spec
            .containers
            .iter()
            .rfind(|container| container.name == RUNNER)?;
        Some(Self::of_container(runner))
    }

    fn of_container(container: &Container) -> Self {
        let mut variables = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            match &variable.value {
                Some(value) => variables.insert(variable.name.clone(), value.clone()),
                // A value from a Secret or field, which the simulation cannot resolve.
                None => variables.remove(&variable.name),
            };
        }
        Self(variables)
    }

    /// The value, unless it is missing or empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn seconds(&self, name: &str) -> Option<Duration> {
        self.get(name)?.parse().ok().map(Duration::from_secs)
    }

    /// `GITHUB_URL` with a trailing slash.
    pub(super) fn github_url(&self) -> String {
        let url = self.get("GITHUB_URL").unwrap_or("https://github.com/");
        if url.ends_with('/') {
            url.to_owned()
        } else {
            format!("{url}/")
        }
    }

    /// Where to register: all three set means `org/repo`, else the organization, the repository, the enterprise.
    pub(super) fn scope(&self) -> Option<RunnerScope> {
        let (org, repo) = (self.get("RUNNER_ORG"), self.get("RUNNER_REPO"));
        match (org, repo, self.get("RUNNER_ENTERPRISE")) {
            (Some(org), Some(repo), Some(_)) => Some(RunnerScope::Repository(format!("{org}/{repo}"))),
            (Some(org), _, _) => Some(RunnerScope::Organization(org.to_owned())),
            (None, Some(repo), _) => Some(RunnerScope::Repository(repo.to_owned())),
            (None, None, Some(enterprise)) => Some(RunnerScope::Enterprise(enterprise.to_owned())),
            (None, None, None) => None,
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.get("RUNNER_NAME")
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.get("RUNNER_TOKEN")
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.get("RUNNER_LABELS")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|label| !label.is_empty())
    }

    /// The group is passed on only when there is no repository.
    pub(super) fn group(&self) -> Option<&str> {
        if self.get("RUNNER_REPO").is_some() {
            None
        } else {
            self.get("RUNNER_GROUP")
        }
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.get("RUNNER_EPHEMERAL") == Some("true")
    }

    pub(super) fn startup_delay(&self) -> Duration {
        self.seconds("STARTUP_DELAY_IN_SECONDS").unwrap_or_default()
    }

    /// How long the image waits for a running job after SIGTERM.
    pub(super) fn graceful_stop(&self) -> Duration {
        self.seconds("RUNNER_GRACEFUL_STOP_TIMEOUT")
            .unwrap_or(Duration::from_secs(15))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EnvVar;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let env = pairs.iter().map(|(name, value)| EnvVar {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            value_from: None,
        });
        Environment::of_container(&Container {
            env: Some(env.collect()),
            ..Container::default()
        })
    }

    #[test]
    fn the_last_occurrence_counts() {
        let env = environment(&[("RUNNER_NAME", "a"), ("RUNNER_NAME", "b")]);
        assert_eq!(env.name(), Some("b"));
    }

    #[test]
    fn the_organization_wins_unless_all_three_are_set() {
        let both = environment(&[("RUNNER_ORG", "o"), ("RUNNER_REPO", "o/r")]);
        assert_eq!(both.scope(), Some(RunnerScope::Organization("o".into())));
        let all = environment(&[
            ("RUNNER_ORG", "o"),
            ("RUNNER_REPO", "r"),
            ("RUNNER_ENTERPRISE", "e"),
        ]);
        assert_eq!(all.scope(), Some(RunnerScope::Repository("o/r".into())));
        let enterprise = environment(&[
            ("RUNNER_ORG", ""),
            ("RUNNER_REPO", ""),
            ("RUNNER_ENTERPRISE", "e"),
        ]);
        assert_eq!(enterprise.scope(), Some(RunnerScope::Enterprise("e".into())));
        assert_eq!(environment(&[]).scope(), None);
    }

    #[test]
    fn a_repository_runner_has_no_group() {
        let env = environment(&[("RUNNER_GROUP", "g"), ("RUNNER_REPO", "o/r")]);
        assert_eq!(env.group(), None);
        assert_eq!(environment(&[("RUNNER_GROUP", "g")]).group(), Some("g"));
    }

    #[test]
    fn the_url_ends_in_a_slash() {
        assert_eq!(
            environment(&[("GITHUB_URL", "http://127.0.0.1:1/x")]).github_url(),
            "http://127.0.0.1:1/x/"
        );
        assert_eq!(environment(&[]).github_url(), "https://github.com/");
    }
}
