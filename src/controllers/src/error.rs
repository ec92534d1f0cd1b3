//! Errors of reconcilers, one variant per stage.

use std::time::Duration;

use jiff::Timestamp;
use muster_github::ErrorClass;
use muster_runtime::drive::{Class, Failure};

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

    /// `PascalCase` word for conditions and Events.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Gather { .. } | Self::Apply { .. } | Self::OptionalRight { .. } => match self.class() {
                Class::Forbidden => "Forbidden",
                _ => "KubernetesUnavailable",
            },
            Self::Invalid { .. } => "InvalidSpec",
            Self::GitHub { source, .. } => match source.class() {
                ErrorClass::Unauthorized => "GitHubUnauthorized",
                ErrorClass::Forbidden => "GitHubForbidden",
                ErrorClass::Throttled { .. } => "GitHubRateLimited",
                ErrorClass::NotFound => "GitHubNotFound",
                ErrorClass::Rejected => "GitHubRejected",
                ErrorClass::Unavailable | ErrorClass::Bug => "GitHubUnavailable",
            },
            Self::Credentials { .. } => "InvalidCredentials",
            Self::Bug(_) => "InternalError",
        }
    }

    /// What the user can do, as a sentence; empty where the message says it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::GitHub { source, .. } => match source.class() {
                ErrorClass::Unauthorized => {
                    "GitHub does not accept the credentials: renew the token or the App's private key in the Secret that the manager or githubAPICredentialsFrom uses."
                }
                ErrorClass::Forbidden => {
                    "The credentials lack a permission: self-hosted runners (organization) or administration (repository), read and write."
                }
                ErrorClass::NotFound => {
                    "GitHub knows no such repository, organization or enterprise, or the credentials may not see it: check the name and the permissions."
                }
                ErrorClass::Throttled { .. } => {
                    "GitHub's rate limit is used up; Muster continues when it resets."
                }
                ErrorClass::Unavailable => {
                    "GitHub does not answer properly; Muster keeps what is there and tries again."
                }
                ErrorClass::Rejected | ErrorClass::Bug => "",
            },
            Self::OptionalRight { remedy, .. } if self.class() == Class::Forbidden => remedy,
            Self::Gather { .. } | Self::Apply { .. } if self.class() == Class::Forbidden => {
                "The manager's ServiceAccount lacks a permission: apply the ClusterRole of this version."
            }
            _ => "",
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
            } => Class::Throttled(*retry),
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

/// The class of an error of the API server.
pub(crate) fn kube_class(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Class::Conflict,
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
