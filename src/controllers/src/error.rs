//! Errors of reconcilers, one variant per stage.

use std::time::Duration;

use jiff::Timestamp;
use muster_core::explain::Code;
use muster_github::ErrorClass;
use muster_runtime::drive::{Class, Failure};

/// What a quota refused is tried again after this long.
const QUOTA_RETRY: Duration = Duration::from_secs(15);

/// Why a reconcile did not finish. The next one starts from fresh facts.
#[derive(Debug, thiserror::Error)]
#[expect(
    clippy::error_impl_error,
    reason = "the one error of all reconcilers; the crate name says whose"
)]
pub enum Error {
    /// Reading from Kubernetes failed.
    #[error("could not read {what}")]
    Gather {
        /// What was read.
        what: String,
        /// Cause.
        #[source]
        source: kube::Error,
    },
    /// The object asks for what cannot be.
    #[error("{message}")]
    Invalid {
        /// A sentence that names the field, its value and the remedy.
        message: String,
    },
    /// Writing to Kubernetes failed.
    #[error("could not {what}")]
    Apply {
        /// What was to be done.
        what: String,
        /// Cause.
        #[source]
        source: kube::Error,
    },
    /// Writing to Kubernetes failed, perhaps for a right that only some features need.
    #[error("could not {what}")]
    OptionalRight {
        /// What was to be done.
        what: String,
        /// Where the right comes from, and how to do without.
        remedy: &'static str,
        /// Cause.
        #[source]
        source: kube::Error,
    },
    /// GitHub did not do it.
    #[error("could not {what}")]
    GitHub {
        /// What was asked of GitHub.
        what: String,
        /// When GitHub takes calls again, where it said so: time left from now.
        retry: Option<Duration>,
        /// Cause.
        #[source]
        source: muster_github::Error,
    },
    /// The GitHub login cannot be used.
    #[error("{message}")]
    Credentials {
        /// A sentence that names the Secret or flag and the remedy.
        message: String,
        /// Cause in the API server, if it is one.
        #[source]
        source: Option<Box<kube::Error>>,
    },
    /// A defect of ours.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    /// For `map_err` of reads.
    pub(crate) fn gather(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Gather { what, source }
    }

    /// For `map_err` of writes.
    pub(crate) fn apply(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Apply { what, source }
    }

    /// For `map_err` of writes that need a right which the manager has only where its feature is used.
    pub(crate) fn optional_right(
        what: impl Into<String>,
        remedy: &'static str,
    ) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::OptionalRight { what, remedy, source }
    }

    /// For `map_err` of calls to GitHub.
    pub(crate) fn github(
        what: impl Into<String>,
        now: Timestamp,
    ) -> impl FnOnce(muster_github::Error) -> Self {
        let what = what.into();
        move |source| {
            let retry = match source.class() {
                ErrorClass::Throttled { until: Some(until) } => {
                    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::from_secs(1)))
                }
                ErrorClass::Throttled { until: None } => Some(Duration::from_mins(1)),
                _ => None,
            };
            Self::GitHub { what, retry, source }
        }
    }

    /// When what it waits for comes, where that is known.
    pub(crate) fn opens_at(&self) -> Option<Timestamp> {
        match self {
            Self::GitHub { source, .. } => match source.class() {
                ErrorClass::Throttled { until } => until,
                _ => None,
            },
            _ => None,
        }
    }

    /// Word for conditions and Events, of the vocabulary that explanations share.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Gather { source, .. } | Self::Apply { source, .. } | Self::OptionalRight { source, .. } => {
                kube_code(source)
            }
            Self::Invalid { .. } => Code::InvalidSpec,
            Self::GitHub { source, .. } => match source.class() {
                ErrorClass::Unauthorized => Code::GitHubUnauthorized,
                ErrorClass::Forbidden => Code::GitHubForbidden,
                ErrorClass::Throttled { .. } => Code::GitHubRateLimited,
                ErrorClass::NotFound => Code::GitHubNotFound,
                ErrorClass::Rejected => Code::GitHubRejected,
                ErrorClass::Unavailable | ErrorClass::Bug => Code::GitHubUnavailable,
            },
            Self::Credentials { .. } => Code::InvalidCredentials,
            Self::Bug(_) => Code::InternalError,
        }
    }

    /// [`Error::code`] as a word.
    pub(crate) fn reason(&self) -> &'static str {
        self.code().as_str()
    }

    /// What the user can do, as a sentence; empty where the message says it.
    pub(crate) fn remedy(&self) -> &'static str {
        match (self, self.code()) {
            (Self::OptionalRight { remedy, .. }, Code::Forbidden) => remedy,
            (Self::Invalid { .. } | Self::Credentials { .. } | Self::Bug(_), _)
            | (_, Code::GitHubRejected | Code::KubernetesUnavailable) => "",
            (_, code) => code.remedy(),
        }
    }
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Self::Gather { source, .. } | Self::Apply { source, .. } | Self::OptionalRight { source, .. } => {
                kube_class(source)
            }
            Self::Invalid { .. } => Class::Invalid,
            Self::GitHub {
                retry: Some(retry), ..
            } => Class::Waits(*retry),
            Self::GitHub { source, .. } => match source.class() {
                // Upstream waits three minutes after a failed token request (spec 02 §21).
                ErrorClass::Unauthorized
                | ErrorClass::Forbidden
                | ErrorClass::NotFound
                | ErrorClass::Rejected => Class::Throttled(Duration::from_mins(3)),
                _ => Class::Unavailable,
            },
            Self::Credentials {
                source: Some(source), ..
            } if !is_not_found(source) => kube_class(source),
            Self::Credentials { .. } => Class::Throttled(Duration::from_secs(30)),
            Self::Bug(_) => Class::Bug,
        }
    }
}

/// The word for an error of the API server.
fn kube_code(error: &kube::Error) -> Code {
    match (error, kube_class(error)) {
        (kube::Error::Api(status), _) if status.is_forbidden() => Code::of_refusal(&status.message),
        (_, Class::Invalid) => Code::InvalidSpec,
        _ => Code::KubernetesUnavailable,
    }
}

/// Whether a quota refused the object.
fn is_over_quota(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden()
        && Code::of_refusal(&status.message) == Code::QuotaExceeded)
}

/// The class of an error of the API server.
pub(crate) fn kube_class(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Class::Conflict,
        // Room comes back when a pod of the namespace ends.
        _ if is_over_quota(error) => Class::Throttled(QUOTA_RETRY),
        kube::Error::Api(status) if status.is_forbidden() => Class::Forbidden,
        kube::Error::Api(status) if status.is_invalid() => Class::Invalid,
        // A failed `test` of a JSON patch.
        kube::Error::Api(status) if status.code == 422 => Class::Conflict,
        _ => Class::Unavailable,
    }
}

pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

pub(crate) fn already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> Error {
        let status =
            serde_json::json!({"status": "Failure", "reason": "Forbidden", "code": 403, "message": message});
        Error::apply("create pod a")(kube::Error::Api(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn admission_is_told_from_the_authorizer_and_the_reason_brings_its_remedy() {
        let cases = [
            (
                "pods \"a\" is forbidden: exceeded quota: q, requested: pods=1",
                Code::QuotaExceeded,
            ),
            (
                "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": privileged",
                Code::PodSecurityViolated,
            ),
            (
                "admission webhook \"policy.example.com\" denied the request: no",
                Code::AdmissionDenied,
            ),
            (
                "User \"manager\" cannot create resource \"pods\"",
                Code::Forbidden,
            ),
        ];
        for (message, code) in cases {
            let error = refused(message);
            assert_eq!((error.code(), error.remedy()), (code, code.remedy()), "{message}");
        }
        assert_eq!(refused("exceeded quota").class(), Class::Throttled(QUOTA_RETRY));
        assert_eq!(refused("no").class(), Class::Forbidden);
        let invalid = Error::Invalid {
            message: "spec.x: y".to_owned(),
        };
        assert_eq!((invalid.reason(), invalid.remedy()), ("InvalidSpec", ""));
    }
}
