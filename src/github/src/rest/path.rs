//! Paths of GitHub's REST API, with everything escaped that could lead elsewhere.

use std::{fmt, str::FromStr};

use muster_core::scope::{Scope, ScopeError};

use crate::error::{Attempt, Error};

/// A repository by its owner's login and its own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName {
    /// Login of the owner.
    pub owner: String,
    /// Name without the owner.
    pub name: String,
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl FromStr for RepositoryName {
    type Err = ScopeError;

    /// Reads `owner/name`.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        match Scope::from_fields(Some(text), None, None)? {
            Scope::Repository { owner, name } => Ok(Self { owner, name }),
            _ => Err(ScopeError::InvalidRepository(text.to_owned())),
        }
    }
}

impl From<RepositoryName> for Scope {
    fn from(repository: RepositoryName) -> Self {
        Self::Repository {
            owner: repository.owner,
            name: repository.name,
        }
    }
}

/// `/orgs/acme` and the like: each name stands between slashes as it is meant.
pub(super) fn of(names: &[&str], attempt: &Attempt) -> Result<String, Error> {
    let mut path = String::new();
    for name in names {
        if matches!(*name, "" | "." | "..") {
            return Err(Error::Scope {
                attempt: attempt.clone(),
                name: (*name).to_owned(),
            });
        }
        path.push('/');
        escape(name, &mut path);
    }
    Ok(path)
}

/// `/repos/acme/api`.
pub(super) fn of_repository(repository: &RepositoryName, attempt: &Attempt) -> Result<String, Error> {
    of(&["repos", &repository.owner, &repository.name], attempt)
}

/// `/orgs/acme/actions/runners` and the like.
pub(super) fn of_runners(scope: &Scope, attempt: &Attempt) -> Result<String, Error> {
    let mut path = match scope {
        Scope::Repository { owner, name } => of(&["repos", owner, name], attempt),
        Scope::Organization(login) => of(&["orgs", login], attempt),
        Scope::Enterprise(slug) => of(&["enterprises", slug], attempt),
    }?;
    path.push_str("/actions/runners");
    Ok(path)
}

/// The text as it may stand in a path or in the value of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    escape(text, &mut escaped);
    escaped
}

fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            other => into.extend(['%', hex_digit(other >> 4), hex_digit(other & 15)]),
        }
    }
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16)
        .unwrap_or('0')
        .to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::CallFamily;

    #[test]
    fn paths_are_escaped_and_cannot_climb() {
        let attempt = Attempt::new(CallFamily::ListRunners, "list");
        let path = |scope: Scope| of_runners(&scope, &attempt);
        let repository = |owner: &str, name: &str| Scope::Repository {
            owner: owner.into(),
            name: name.into(),
        };
        assert_eq!(
            path(repository("acme", "a.b_c-d")).unwrap(),
            "/repos/acme/a.b_c-d/actions/runners"
        );
        assert_eq!(
            path(Scope::Organization("a b/é?#%".into())).unwrap(),
            "/orgs/a%20b%2F%C3%A9%3F%23%25/actions/runners"
        );
        assert_eq!(
            path(Scope::Enterprise("big".into())).unwrap(),
            "/enterprises/big/actions/runners"
        );
        for bad in [
            repository("acme", ".."),
            repository(".", "x"),
            Scope::Organization(String::new()),
        ] {
            assert!(matches!(path(bad), Err(Error::Scope { .. })));
        }
    }

    #[test]
    fn a_repositorys_name_has_two_parts() {
        let name: RepositoryName = "acme/api".parse().unwrap();
        assert_eq!((name.owner.as_str(), name.name.as_str()), ("acme", "api"));
        assert_eq!(name.to_string(), "acme/api");
        assert_eq!(Scope::from(name).to_string(), "acme/api");
        for bad in ["", "acme", "acme/", "/api", "a/b/c"] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }
}
