//! Errors of GitHub calls, their classes, and how an answer that is not a success becomes one (spec 02 §3.3, Q4–Q6).

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::{
    budget::{Hold, Lane},
    lenient,
    observer::CallFamily,
};

/// What a call was meant to do, for error messages: `list the runners of acme`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    family: CallFamily,
    what: Arc<str>,
}

impl Attempt {
    pub(crate) fn new(family: CallFamily, what: impl Into<Arc<str>>) -> Self {
        Self {
            family,
            what: what.into(),
        }
    }

    /// The kind of call.
    pub fn family(&self) -> CallFamily {
        self.family
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Which of GitHub's limits was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// The hourly budget of the credential.
    Primary,
    /// Protection against bursts; it holds for all calls of the credential.
    Secondary,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// Why a call to GitHub failed. Cheap to clone, since callers that waited for one flight share its error.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(
    clippy::error_impl_error,
    reason = "the error of this crate's calls: muster_github::Error"
)]
pub enum Error {
    /// The scope's name cannot stand in an address.
    #[error("could not {attempt}: {name:?} cannot be the name of an owner, a repository or an enterprise")]
    Scope {
        /// What was attempted.
        attempt: Attempt,
        /// The offending name.
        name: String,
    },
    /// 401: GitHub does not accept the credential.
    #[error("could not {attempt}: GitHub does not accept the credential ({message})")]
    Unauthorized {
        /// What was attempted.
        attempt: Attempt,
        /// GitHub's explanation.
        message: String,
    },
    /// 403 that is no rate limit: the credential lacks a permission.
    #[error("could not {attempt}: the credential has no permission for it ({message})")]
    Forbidden {
        /// What was attempted.
        attempt: Attempt,
        /// GitHub's explanation.
        message: String,
    },
    /// A rate limit, stated by an answer or known from an earlier one.
    #[error("could not {attempt}: GitHub's {limit} rate limit is used up")]
    Throttled {
        /// What was attempted.
        attempt: Attempt,
        /// Which limit.
        limit: LimitKind,
        /// When calls may be made again, if GitHub said so.
        until: Option<Timestamp>,
    },
    /// The call was not made, to keep within the credential's budget: not before `until`. This is waiting, not failing.
    #[error("could not {attempt} yet: {hold}")]
    Held {
        /// What was attempted.
        attempt: Attempt,
        /// How urgent it was.
        lane: Lane,
        /// Why it waits.
        hold: Hold,
        /// When it may be made.
        until: Timestamp,
    },
    /// 404: absent, or hidden from this credential.
    #[error("could not {attempt}: GitHub does not know it, or hides it from this credential ({message})")]
    NotFound {
        /// What was attempted.
        attempt: Attempt,
        /// GitHub's explanation.
        message: String,
    },
    /// An answer below 500 that is neither the expected success nor one of the above, 202 included.
    #[error("could not {attempt}: GitHub answered {status} ({message})")]
    Rejected {
        /// What was attempted.
        attempt: Attempt,
        /// Status code.
        status: u16,
        /// GitHub's explanation.
        message: String,
    },
    /// 5xx.
    #[error("could not {attempt}: GitHub is in trouble and answered {status} ({message})")]
    Server {
        /// What was attempted.
        attempt: Attempt,
        /// Status code.
        status: u16,
        /// The answer's explanation.
        message: String,
    },
    /// No answer: name resolution, connection, TLS or transfer failed.
    #[error("could not {attempt}: GitHub cannot be reached")]
    Network {
        /// What was attempted.
        attempt: Attempt,
        /// What the HTTP client says, without the address.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// No complete answer in time.
    #[error("could not {attempt}: no complete answer in time")]
    Deadline {
        /// What was attempted.
        attempt: Attempt,
        /// How long the call could have taken, where a deadline of this crate ended it.
        after: Option<Duration>,
    },
    /// Only an outdated answer could be had, of unknown age (HTTP warning 111). It is not used: runners may have come and gone.
    #[error("could not {attempt}: GitHub could not confirm an outdated answer")]
    Stale {
        /// What was attempted.
        attempt: Attempt,
    },
    /// The answer is not the JSON it should be. The text itself is withheld: it may hold a token.
    #[error("could not {attempt}: the answer makes no sense at line {line}, column {column}")]
    Malformed {
        /// What was attempted.
        attempt: Attempt,
        /// Line of the answer, from 1.
        line: usize,
        /// Column of the answer.
        column: usize,
    },
    /// The answer's body is larger than anything GitHub sends.
    #[error("could not {attempt}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was attempted.
        attempt: Attempt,
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// The listing does not come to an end.
    #[error("could not {attempt}: the listing has more than {pages} pages")]
    TooManyPages {
        /// What was attempted.
        attempt: Attempt,
        /// The most that is read.
        pages: u32,
    },
    /// A page follows, but the answer does not say where.
    #[error("could not {attempt}: the link to the next page makes no sense")]
    Paging {
        /// What was attempted.
        attempt: Attempt,
    },
    /// Only a GitHub App may do this, and the credential is none. No call was made.
    #[error("could not {attempt}: only the GitHub App itself may do this, and the credential is none")]
    NotAnApp {
        /// What was attempted.
        attempt: Attempt,
    },
    /// There is no credential to ask with.
    #[error("could not {attempt}: there is no GitHub credential")]
    NoCredential {
        /// What was attempted.
        attempt: Attempt,
    },
    /// The GitHub App could not log in, so the call itself was not made. Its class is never that of the call:
    /// a 403 here says nothing about a runner (spec 02 §3.1).
    #[error("could not {attempt}: the GitHub App cannot log in")]
    Login {
        /// What was attempted.
        attempt: Attempt,
        /// Why there is no installation token.
        #[source]
        source: Arc<Self>,
    },
    /// Something in this program is wrong.
    #[error("could not {attempt}: the client failed")]
    Internal {
        /// What was attempted.
        attempt: Attempt,
        /// What failed.
        #[source]
        source: Arc<dyn StdError + Send + Sync>,
    },
}

/// What an error means for the caller (part 91 B5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The credential is wrong, revoked or suspended: a person must act.
    Unauthorized,
    /// The credential lacks a permission: a person must act.
    Forbidden,
    /// GitHub wants fewer calls; try again at `until`.
    Throttled {
        /// When calls may be made again, if known.
        until: Option<Timestamp>,
    },
    /// The thing does not exist, or the credential cannot see it.
    NotFound,
    /// GitHub or the way to it is broken; try again later.
    Unavailable,
    /// GitHub refuses this very request; repeating it will not help.
    Rejected,
    /// Our fault, or an answer that cannot be understood.
    Bug,
}

impl Error {
    /// What the error means for the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unauthorized { .. } | Self::NoCredential { .. } => ErrorClass::Unauthorized,
            Self::Forbidden { .. } | Self::NotAnApp { .. } => ErrorClass::Forbidden,
            Self::Throttled { until, .. } => ErrorClass::Throttled { until: *until },
            Self::Held { until, .. } => ErrorClass::Throttled { until: Some(*until) },
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Server { .. } | Self::Network { .. } | Self::Deadline { .. } | Self::Stale { .. } => {
                ErrorClass::Unavailable
            }
            Self::Scope { .. } | Self::Rejected { .. } => ErrorClass::Rejected,
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::TooManyPages { .. }
            | Self::Paging { .. }
            | Self::Internal { .. } => ErrorClass::Bug,
            // An unknown installation (404) or a suspended one (403) is a credential that does not work.
            Self::Login { source, .. } => match source.class() {
                ErrorClass::Forbidden | ErrorClass::NotFound | ErrorClass::Rejected => {
                    ErrorClass::Unauthorized
                }
                other => other,
            },
        }
    }

    /// What the failed call was meant to do.
    pub fn attempt(&self) -> &Attempt {
        match self {
            Self::Scope { attempt, .. }
            | Self::Unauthorized { attempt, .. }
            | Self::Forbidden { attempt, .. }
            | Self::Throttled { attempt, .. }
            | Self::Held { attempt, .. }
            | Self::NotFound { attempt, .. }
            | Self::Rejected { attempt, .. }
            | Self::Server { attempt, .. }
            | Self::Network { attempt, .. }
            | Self::Deadline { attempt, .. }
            | Self::Stale { attempt }
            | Self::Malformed { attempt, .. }
            | Self::TooLarge { attempt, .. }
            | Self::TooManyPages { attempt, .. }
            | Self::Paging { attempt }
            | Self::NotAnApp { attempt }
            | Self::NoCredential { attempt }
            | Self::Login { attempt, .. }
            | Self::Internal { attempt, .. } => attempt,
        }
    }

    pub(crate) fn internal(attempt: Attempt, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Internal {
            attempt,
            source: Arc::new(source),
        }
    }

    pub(crate) fn transport(attempt: Attempt, source: reqwest::Error) -> Self {
        if source.is_timeout() {
            Self::Deadline { attempt, after: None }
        } else {
            Self::Network {
                attempt,
                source: Arc::new(source.without_url()),
            }
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "used as an argument of map_err")]
    pub(crate) fn malformed(attempt: &Attempt, source: serde_json::Error) -> Self {
        Self::Malformed {
            attempt: attempt.clone(),
            line: source.line(),
            column: source.column(),
        }
    }
}

/// Why a client could not be built. Never holds any part of a key or a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The private key is not an RSA key in PEM form.
    #[error(
        "the private key of GitHub App {app_id} is not an RSA key in PEM form (PKCS#1 \"RSA PRIVATE KEY\" or PKCS#8 \
         \"PRIVATE KEY\")"
    )]
    PrivateKey {
        /// Id of the app.
        app_id: String,
    },
    /// The credential holds characters that cannot be sent, such as a line break within a token.
    #[error("the {what} holds characters that cannot be sent in a header")]
    Characters {
        /// `token`, or `user or password`.
        what: &'static str,
    },
    /// A part of the credential is empty.
    #[error("the {what} is empty")]
    Empty {
        /// Which part.
        what: &'static str,
    },
    /// An address is not one.
    #[error("the {what} address is not an absolute http or https address")]
    Address {
        /// `API` or `app token`.
        what: &'static str,
    },
    /// The HTTP client could not be set up, for example for want of certificate authorities.
    #[error("could not set up the HTTP client: {reason}")]
    HttpClient {
        /// What the HTTP client says.
        reason: String,
    },
    /// There is no tokio runtime here, and octocrab needs one.
    #[error("a GitHub client can only be built within a tokio runtime")]
    NoRuntime,
}

/// The most that is believed of a stated waiting time: GitHub's windows last an hour.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// What GitHub asks for when it limits bursts without saying for how long.
const SECONDARY_WAIT: SignedDuration = SignedDuration::from_mins(1);

/// How far apart clocks are where logins still work; a `Date` that differs by more is not believed.
const LIKELY_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// `at`, or an hour from now if that is earlier, so that no header can silence a credential for long.
pub(crate) fn bounded(at: Timestamp, now: Timestamp) -> Timestamp {
    now.checked_add(LONGEST_WAIT).map_or(at, |latest| at.min(latest))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(deserialize_with = "lenient::or_default")]
    message: String,
    #[serde(deserialize_with = "lenient::or_default")]
    documentation_url: String,
}

/// The error for an answer that is no success (spec 02 §3.3). `secrets` are taken out of whatever GitHub or a proxy said.
pub(crate) fn refusal(
    attempt: &Attempt,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[String],
    now: Timestamp,
) -> Error {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let message = plain(&refusal.message, status, secrets);
    let attempt = attempt.clone();
    let exhausted = number(headers, "x-ratelimit-remaining") == Some(0);
    let limited = status == StatusCode::FORBIDDEN || status == StatusCode::TOO_MANY_REQUESTS;
    if limited && exhausted {
        let soon = now.checked_add(SignedDuration::from_secs(1)).unwrap_or(now);
        let until = reset_at(headers, now).map(|reset| bounded(reset, now).max(soon));
        return Error::Throttled {
            attempt,
            limit: LimitKind::Primary,
            until,
        };
    }
    let page = refusal.documentation_url.as_str();
    let secondary = page.ends_with("secondary-rate-limits") || page.ends_with("#abuse-rate-limits");
    if status == StatusCode::TOO_MANY_REQUESTS
        || (limited && (secondary || headers.contains_key(RETRY_AFTER)))
    {
        let until = retry_after(headers, now).or_else(|| now.checked_add(SECONDARY_WAIT).ok());
        return Error::Throttled {
            attempt,
            limit: LimitKind::Secondary,
            until,
        };
    }
    match status {
        StatusCode::UNAUTHORIZED => {
            let otp = headers
                .get("x-github-otp")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let message = if otp.starts_with("required") {
                format!("two-factor authentication is required: {message}")
            } else {
                message
            };
            Error::Unauthorized { attempt, message }
        }
        StatusCode::FORBIDDEN => Error::Forbidden { attempt, message },
        StatusCode::NOT_FOUND => Error::NotFound { attempt, message },
        status if status.is_server_error() => Error::Server {
            attempt,
            status: status.as_u16(),
            message,
        },
        status => Error::Rejected {
            attempt,
            status: status.as_u16(),
            message,
        },
    }
}

/// GitHub's message in one short line without the secrets, or the status' own words.
fn plain(message: &str, status: StatusCode, secrets: &[String]) -> String {
    let mut text: String = message.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() > 3) {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    let text = text.trim();
    if text.is_empty() {
        status.canonical_reason().unwrap_or("no explanation").to_owned()
    } else {
        text.to_owned()
    }
}

/// GitHub's message in an answer, for callers that treat a refusal as an answer.
pub(crate) fn message(status: StatusCode, body: &[u8], secrets: &[String]) -> String {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    plain(&refusal.message, status, secrets)
}

pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// When the window of this answer ends, by our clock: GitHub's may differ, and says so in `Date`.
pub(crate) fn reset_at(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let seconds = i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?;
    let reset = Timestamp::from_second(seconds).ok()?;
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    let ahead = date
        .and_then(|date| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(date)
                .ok()
        })
        .map(|date| now.duration_since(date))
        .filter(|ahead| ahead.abs() < LIKELY_SKEW)
        .unwrap_or_default();
    reset.checked_add(ahead).ok()
}

/// `Retry-After` as seconds or as a date, at most an hour from now.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let at = match value.parse::<u32>() {
        Ok(seconds) => now
            .checked_add(SignedDuration::from_secs(i64::from(seconds)))
            .ok()?,
        Err(_) => jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(value)
            .ok()?,
    };
    Some(bounded(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        Attempt::new(CallFamily::ListRunners, "list the runners of acme")
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        refusal(
            &attempt(),
            StatusCode::from_u16(status).unwrap(),
            &headers,
            body.as_bytes(),
            &["s3ntinel".into()],
            now(),
        )
    }

    fn in_seconds(seconds: i64) -> ErrorClass {
        ErrorClass::Throttled {
            until: Some(now() + SignedDuration::from_secs(seconds)),
        }
    }

    type Headers = &'static [(&'static str, &'static str)];

    #[test]
    fn answers_fall_into_the_classes_of_the_table() {
        let abuse =
            r#"{"message":"slow down","documentation_url":"https://docs.github.com/x#abuse-rate-limits"}"#;
        let secondary = r#"{"documentation_url":"https://docs.github.com/rest#about-secondary-rate-limits"}"#;
        let table: [(u16, Headers, &str, ErrorClass); 20] = [
            (202, &[], "", ErrorClass::Rejected),
            (401, &[], "{}", ErrorClass::Unauthorized),
            (
                401,
                &[("x-github-otp", "required; app")],
                "{}",
                ErrorClass::Unauthorized,
            ),
            (403, &[], "{}", ErrorClass::Forbidden),
            (
                403,
                &[("x-ratelimit-remaining", "7")],
                "{}",
                ErrorClass::Forbidden,
            ),
            (
                403,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1700000030"),
                ],
                "",
                in_seconds(30),
            ),
            (
                403,
                &[("x-ratelimit-remaining", "0")],
                "",
                ErrorClass::Throttled { until: None },
            ),
            (403, &[("retry-after", "5")], abuse, in_seconds(5)),
            (403, &[], secondary, in_seconds(60)),
            (403, &[("retry-after", "9")], "not JSON", in_seconds(9)),
            (429, &[("retry-after", "9")], "", in_seconds(9)),
            (429, &[("retry-after", "999999")], "", in_seconds(3600)),
            (
                429,
                &[("retry-after", "Tue, 14 Nov 2023 22:13:50 GMT")],
                "",
                in_seconds(30),
            ),
            (429, &[], "", in_seconds(60)),
            (
                429,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1700000030"),
                ],
                "",
                in_seconds(30),
            ),
            (404, &[], "[]", ErrorClass::NotFound),
            (409, &[], "{}", ErrorClass::Rejected),
            (422, &[], "{}", ErrorClass::Rejected),
            (500, &[], "{}", ErrorClass::Unavailable),
            (503, &[("retry-after", "9")], "<html>", ErrorClass::Unavailable),
        ];
        for (status, headers, body, class) in table {
            assert_eq!(
                refused(status, headers, body).class(),
                class,
                "{status} {headers:?} {body}"
            );
        }
    }

    #[test]
    fn a_failed_login_never_looks_like_an_answer_about_the_thing_itself() {
        for (status, class) in [
            (401, ErrorClass::Unauthorized),
            (403, ErrorClass::Unauthorized),
            (404, ErrorClass::Unauthorized),
            (422, ErrorClass::Unauthorized),
            (500, ErrorClass::Unavailable),
            (429, in_seconds(60)),
        ] {
            let error = Error::Login {
                attempt: attempt(),
                source: Arc::new(refused(status, &[], "{}")),
            };
            assert_eq!(error.class(), class, "{status}");
        }
    }

    #[test]
    fn messages_are_short_plain_and_without_the_secret() {
        let long = format!(r#"{{"message":"bad\ntoken s3ntinel {}"}}"#, "x".repeat(10_000));
        let text = refused(403, &[], &long).to_string();
        assert!(text.contains("bad token [redacted]"), "{text}");
        assert!(text.len() < 500);
        assert!(refused(502, &[], "<html>").to_string().ends_with("(Bad Gateway)"));
        assert!(
            refused(403, &[], r#"{"message":null}"#)
                .to_string()
                .ends_with("(Forbidden)")
        );
    }
}
