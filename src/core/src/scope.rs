//! What a runner belongs to: a repository, an organization or an enterprise (spec 01 §2.1, 02 §3.5).

use std::fmt;

/// The place on GitHub that a runner registers with and takes jobs from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One repository.
    Repository {
        /// Login of the owner.
        owner: String,
        /// Name without the owner.
        name: String,
    },
    /// All repositories of an organization that its runner group admits; the organization's login.
    Organization(String),
    /// All organizations of an enterprise; the enterprise's slug.
    Enterprise(String),
}

/// Why a scope could not be made of the three fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// None of the three fields has a value.
    #[error("none of repository, organization and enterprise is set: set exactly one of them")]
    Missing,
    /// `repository` is not of the form `owner/name`.
    #[error("repository {0:?} is not of the form OWNER/NAME")]
    InvalidRepository(String),
}

impl Scope {
    /// The scope named by the three fields of a runner's configuration. Where more than one is set the narrowest wins,
    /// as for upstream's GitHub calls (spec 02 §3.5); empty strings count as unset.
    ///
    /// # Errors
    /// [`ScopeError`] when nothing is set or the repository is not `owner/name`.
    pub fn from_fields(
        repository: Option<&str>,
        organization: Option<&str>,
        enterprise: Option<&str>,
    ) -> Result<Self, ScopeError> {
        let set = |field: Option<&str>| {
            field
                .map(str::trim)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        if let Some(repository) = set(repository) {
            return match repository.split_once('/') {
                Some((owner, name)) if !owner.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok(Self::Repository {
                        owner: owner.to_owned(),
                        name: name.to_owned(),
                    })
                }
                _ => Err(ScopeError::InvalidRepository(repository)),
            };
        }
        if let Some(organization) = set(organization) {
            return Ok(Self::Organization(organization));
        }
        set(enterprise).map(Self::Enterprise).ok_or(ScopeError::Missing)
    }

    /// First part of this scope's paths in GitHub's REST API, without slashes at either end: `repos/o/r`, `orgs/o` or `enterprises/e`.
    pub fn api_path(&self) -> String {
        match self {
            Self::Repository { owner, name } => format!("repos/{owner}/{name}"),
            Self::Organization(login) => format!("orgs/{login}"),
            Self::Enterprise(slug) => format!("enterprises/{slug}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { owner, name } => write!(f, "{owner}/{name}"),
            Self::Organization(login) => f.write_str(login),
            Self::Enterprise(slug) => write!(f, "enterprises/{slug}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_scope_wins_and_empty_means_unset() {
        let scope = |r, o, e| Scope::from_fields(r, o, e);
        assert_eq!(
            scope(Some("acme/api"), Some("acme"), None),
            Ok(Scope::Repository {
                owner: "acme".into(),
                name: "api".into()
            })
        );
        assert_eq!(
            scope(Some(""), Some("acme"), Some("big")),
            Ok(Scope::Organization("acme".into()))
        );
        assert_eq!(
            scope(None, None, Some("big")),
            Ok(Scope::Enterprise("big".into()))
        );
        assert_eq!(scope(None, Some(""), None), Err(ScopeError::Missing));
        for bad in ["acme", "a/b/c", "/b", "a/"] {
            assert_eq!(
                scope(Some(bad), None, None),
                Err(ScopeError::InvalidRepository(bad.into()))
            );
        }
    }
}
