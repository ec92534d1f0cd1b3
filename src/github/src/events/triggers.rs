//! Payloads of the events that an autoscaler's triggers may wait for besides jobs (spec 03 §1.15).

use serde::Deserialize;

use super::{Enterprise, Organization, PayloadError, RawRepository, Repository, object};
use crate::lenient;

/// The payload of `check_run`, `push` or `pull_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerPayload {
    /// What happened.
    pub kind: TriggerKind,
    /// Where.
    pub repository: Repository,
    /// The organization, if the owner is one.
    pub organization: Option<Organization>,
    /// The enterprise, if there is one.
    pub enterprise: Option<Enterprise>,
}

/// What triggers look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TriggerKind {
    /// `check_run`.
    CheckRun {
        /// `created`, `completed`, `rerequested`, …
        action: String,
        /// Its name.
        name: String,
        /// `queued`, `in_progress`, `completed`, …
        status: String,
    },
    /// `push`.
    Push,
    /// `pull_request`.
    PullRequest {
        /// `opened`, `synchronize`, …
        action: String,
        /// The branch that it is to be merged into.
        base: String,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "lenient::or_default")]
    action: String,
    #[serde(default)]
    check_run: Option<RawCheckRun>,
    #[serde(default)]
    pull_request: Option<RawPullRequest>,
    #[serde(default)]
    repository: Option<RawRepository>,
    #[serde(default, deserialize_with = "lenient::or_none")]
    organization: Option<Organization>,
    #[serde(default, deserialize_with = "lenient::or_none")]
    enterprise: Option<Enterprise>,
}

#[derive(Deserialize)]
struct RawCheckRun {
    #[serde(default, deserialize_with = "lenient::or_default")]
    name: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    status: String,
}

#[derive(Deserialize)]
struct RawPullRequest {
    #[serde(default)]
    base: Option<RawBase>,
}

#[derive(Deserialize)]
struct RawBase {
    #[serde(default, rename = "ref", deserialize_with = "lenient::or_default")]
    name: String,
}

/// Reads a payload; `None` for an event that no trigger can wait for.
///
/// # Errors
/// [`PayloadError`].
pub(super) fn parse(event: &str, body: &[u8]) -> Option<Result<TriggerPayload, PayloadError>> {
    let event = match event {
        "check_run" => "check_run",
        "push" => "push",
        "pull_request" => "pull_request",
        _ => return None,
    };
    Some(read(event, body))
}

fn read(event: &'static str, body: &[u8]) -> Result<TriggerPayload, PayloadError> {
    let missing = |object| PayloadError::Missing { event, object };
    let raw: Raw = object(event, body)?;
    let repository = raw.repository.ok_or_else(|| missing("repository"))?;
    let repository = repository.whole(event)?;
    let kind = match event {
        "check_run" => {
            let run = raw.check_run.ok_or_else(|| missing("check_run"))?;
            TriggerKind::CheckRun {
                action: raw.action,
                name: run.name,
                status: run.status,
            }
        }
        "pull_request" => {
            let base = raw.pull_request.and_then(|request| request.base);
            TriggerKind::PullRequest {
                action: raw.action,
                base: base.ok_or_else(|| missing("pull_request base"))?.name,
            }
        }
        _ => TriggerKind::Push,
    };
    Ok(TriggerPayload {
        kind,
        repository,
        organization: raw
            .organization
            .filter(|organization| !organization.login.is_empty()),
        enterprise: raw.enterprise.filter(|enterprise| !enterprise.slug.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: &str = r#""repository":{"id":2,"name":"api","full_name":"acme/api","owner":{"name":"acme","login":"acme","type":"Organization"}}"#;

    fn kind(event: &str, rest: &str) -> Result<TriggerKind, PayloadError> {
        let body = format!("{{{REPOSITORY}{rest}}}");
        let payload = parse(event, body.as_bytes()).unwrap()?;
        assert_eq!(payload.repository.full_name, "acme/api");
        assert_eq!(payload.repository.owner.kind, "Organization");
        Ok(payload.kind)
    }

    #[test]
    fn what_triggers_look_at() {
        assert_eq!(
            kind("push", r#","ref":"refs/heads/main","commits":[]"#),
            Ok(TriggerKind::Push)
        );
        assert_eq!(
            kind(
                "pull_request",
                r#","action":"opened","number":7,"pull_request":{"id":1,"base":{"ref":"main","sha":"x"}}"#
            ),
            Ok(TriggerKind::PullRequest {
                action: "opened".into(),
                base: "main".into()
            })
        );
        assert_eq!(
            kind(
                "check_run",
                r#","action":"created","check_run":{"name":"unit","status":"queued","conclusion":null}"#
            ),
            Ok(TriggerKind::CheckRun {
                action: "created".into(),
                name: "unit".into(),
                status: "queued".into()
            })
        );
        assert!(parse("watch", b"").is_none());
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = |event, object| Err(PayloadError::Missing { event, object });
        assert_eq!(kind("check_run", ""), missing("check_run", "check_run"));
        assert_eq!(
            kind("pull_request", r#","pull_request":{}"#),
            missing("pull_request", "pull_request base")
        );
        assert_eq!(
            parse("push", b"{}").unwrap(),
            Err(PayloadError::Missing {
                event: "push",
                object: "repository"
            })
        );
        let broken = parse("push", b"{").unwrap();
        assert!(
            matches!(broken, Err(PayloadError::NotJson { event: "push", .. })),
            "{broken:?}"
        );
    }
}
