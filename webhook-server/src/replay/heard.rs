//! What arrived by itself: the hooks that deliver here, and which deliveries were accepted.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use muster_core::autoscale::recovery::replay::Seen;
use muster_github::{Hook, RepositoryName};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Id of the hook that delivered.
const HOOK_ID_HEADER: &str = "x-github-hook-id";

/// What the hook hangs on.
const HOOK_TARGET_HEADER: &str = "x-github-hook-installation-target-type";

/// Hooks that are remembered: headers are not signed, and a sender must not fill the memory.
const MOST_HOOKS: usize = 100;

/// What a hook hangs on, in the words of the header. An enterprise's hook has no log that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A repository.
    Repository,
    /// An organization.
    Organization,
    /// A GitHub App.
    Integration,
}

/// A hook whose deliveries can be listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HookName {
    /// What it hangs on.
    #[serde(rename = "type")]
    pub target: Target,
    /// `owner/name`, login, or nothing for a GitHub App's.
    pub name: String,
    /// Its id; 0 for a GitHub App's, which has one hook only.
    pub id: u64,
}

impl HookName {
    const APP: Self = Self {
        target: Target::Integration,
        name: String::new(),
        id: 0,
    };

    /// The hook as the client knows it; none when the name is not one.
    pub(super) fn hook(&self) -> Option<Hook> {
        Some(match self.target {
            Target::Repository => Hook::Repository {
                repository: self.name.parse::<RepositoryName>().ok()?,
                id: self.id,
            },
            Target::Organization => Hook::Organization {
                login: self.name.clone(),
                id: self.id,
            },
            Target::Integration => Hook::App,
        })
    }

    /// The hook that a delivery about this repository says it comes from.
    fn of(headers: &HeaderMap, repository: &str) -> Option<Self> {
        let text = |name| headers.get(name)?.to_str().ok();
        let (owner, _) = repository.split_once('/')?;
        let (target, name) = match text(HOOK_TARGET_HEADER)? {
            "repository" => (Target::Repository, repository),
            "organization" => (Target::Organization, owner),
            "integration" => return Some(Self::APP),
            _ => return None,
        };
        let id = text(HOOK_ID_HEADER)?.parse().ok()?;
        let hook = Self {
            target,
            name: name.to_owned(),
            id,
        };
        (name.len() <= 200).then_some(hook)
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Repository | Target::Organization => write!(f, "{}={}", self.name, self.id),
            Target::Integration => f.write_str("app"),
        }
    }
}

/// A hook that a flag names in another way than `owner/name=ID`, `organization=ID` or `app`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected owner/name=ID, organization=ID or app")]
pub struct HookNameError;

impl FromStr for HookName {
    type Err = HookNameError;

    fn from_str(text: &str) -> Result<Self, HookNameError> {
        if text == "app" {
            return Ok(Self::APP);
        }
        let (name, id) = text.split_once('=').ok_or(HookNameError)?;
        let id = id.parse().map_err(|_| HookNameError)?;
        let target = match name.split('/').collect::<Vec<_>>().as_slice() {
            [login] if !login.is_empty() => Target::Organization,
            [owner, name] if !owner.is_empty() && !name.is_empty() => Target::Repository,
            _ => return Err(HookNameError),
        };
        Ok(Self {
            target,
            name: name.to_owned(),
            id,
        })
    }
}

/// Shared by the handlers, who write, and the replay, which reads.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hooks: Mutex<BTreeSet<HookName>>,
    accepted: Mutex<Seen>,
    news: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    /// Notes a genuine delivery about a repository, with its GUID if it was accepted. Hooks are learned from the others too: when all of
    /// its deliveries were put off, nothing else would lead to the hook.
    pub fn note(&self, headers: &HeaderMap, accepted: Option<&str>, repository: &str) {
        if let Some(guid) = accepted {
            lock(&self.0.accepted).insert(guid);
        }
        let Some(hook) = HookName::of(headers, repository) else {
            return;
        };
        let mut hooks = lock(&self.0.hooks);
        if hooks.len() < MOST_HOOKS && !hooks.contains(&hook) {
            tracing::debug!(hook = %hook, "Heard of a hook");
            hooks.insert(hook);
            self.0.news.notify_one();
        }
    }

    /// Whether a delivery was accepted here.
    pub(super) fn is_accepted(&self, guid: &str) -> bool {
        lock(&self.0.accepted).contains(guid)
    }

    pub(super) fn hooks(&self) -> Vec<HookName> {
        lock(&self.0.hooks).iter().cloned().collect()
    }

    /// Completes when a hook is new.
    pub(super) async fn news(&self) {
        self.0.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(target: &str, id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOOK_TARGET_HEADER, target.parse().unwrap());
        headers.insert(HOOK_ID_HEADER, id.parse().unwrap());
        headers
    }

    #[test]
    fn hooks_are_learned_from_deliveries() {
        let heard = Heard::default();
        heard.note(&headers("repository", "7"), Some("a"), "acme/api");
        heard.note(&headers("organization", "8"), None, "acme/api");
        heard.note(&headers("integration", "9"), None, "acme/api");
        for (target, id, repository) in [
            ("business", "1", "acme/api"),
            ("repository", "x", "acme/api"),
            ("repository", "1", "acme"),
        ] {
            heard.note(&headers(target, id), None, repository);
        }
        heard.note(&HeaderMap::new(), None, "acme/api");
        let names: Vec<String> = heard.hooks().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["acme/api=7", "acme=8", "app"]);
        assert!(heard.is_accepted("a") && !heard.is_accepted("b"));
        for number in 0..500 {
            heard.note(&headers("repository", &number.to_string()), None, "acme/api");
        }
        assert_eq!(heard.hooks().len(), MOST_HOOKS);
    }

    #[test]
    fn flags_name_hooks() {
        for text in ["acme/api=7", "acme=8", "app"] {
            assert_eq!(text.parse::<HookName>().unwrap().to_string(), text);
        }
        for text in ["", "acme", "acme=", "=1", "a/b/c=1", "/b=1", "acme/api=x"] {
            assert_eq!(text.parse::<HookName>(), Err(HookNameError), "{text}");
        }
    }
}
