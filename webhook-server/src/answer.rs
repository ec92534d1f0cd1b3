//! Answers to deliveries: upstream's words where a script may read them, better status codes than its
//! universal 500 (spec 03 §1.16, §1.18).

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use muster_core::routing::AutoscalerId;
use muster_intake::{Reason, Refusal};

/// Header that names the autoscalers of an answer as `namespace/name`, comma-separated.
pub const AUTOSCALER_HEADER: HeaderName = HeaderName::from_static("x-muster-autoscaler");

/// Header that says why those were chosen, in the same order.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-muster-reason");

/// What became of a delivery: the `outcome` label of `muster_webhook_deliveries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `ping`.
    Pong,
    /// A job counts as demand.
    ScaledUp,
    /// A job no longer counts.
    ScaledDown,
    /// Something was noted about a job that changes no number.
    Recorded,
    /// Nothing was left to note.
    Unchanged,
    /// No autoscaler is concerned.
    Unmatched,
    /// A `workflow_job` that changes no demand.
    Ignored,
    /// An event that this server does not act on.
    Unsupported,
    /// It is not in order, or there is no room for it.
    Refused(Reason),
    /// The write could not be confirmed in time.
    Unconfirmed,
    /// The autoscaler's ledger is full.
    Full,
    /// The autoscalers have not been read yet.
    NotReady,
    /// Which runner groups the repository may use decides, and GitHub did not say.
    GroupsUnknown,
}

impl Outcome {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::ScaledUp => "scaled_up",
            Self::ScaledDown => "scaled_down",
            Self::Recorded => "recorded",
            Self::Unchanged => "unchanged",
            Self::Unmatched => "unmatched",
            Self::Ignored => "ignored",
            Self::Unsupported => "unsupported",
            Self::Refused(reason) => reason.as_str(),
            Self::Unconfirmed => "unconfirmed",
            Self::Full => "full",
            Self::NotReady => "not_ready",
            Self::GroupsUnknown => "groups_unknown",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Pong
            | Self::ScaledUp
            | Self::ScaledDown
            | Self::Recorded
            | Self::Unchanged
            | Self::Unmatched
            | Self::Ignored
            | Self::Unsupported => StatusCode::OK,
            Self::Refused(reason) => reason.status(),
            Self::Unconfirmed | Self::Full | Self::NotReady | Self::GroupsUnknown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Seconds after which it is worth trying again.
    fn retry_after(self) -> Option<u64> {
        match self {
            Self::Unconfirmed | Self::NotReady => Some(5),
            Self::GroupsUnknown => Some(30),
            Self::Full => Some(60),
            _ => None,
        }
    }

    /// All outcomes, for the documentation's table.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 19] = [
        Self::Pong,
        Self::ScaledUp,
        Self::ScaledDown,
        Self::Recorded,
        Self::Unchanged,
        Self::Unmatched,
        Self::Ignored,
        Self::Unsupported,
        Self::Refused(Reason::Unauthorized),
        Self::Refused(Reason::Malformed),
        Self::Refused(Reason::UnsupportedMediaType),
        Self::Refused(Reason::TooLarge),
        Self::Refused(Reason::Timeout),
        Self::Refused(Reason::Method),
        Self::Unconfirmed,
        Self::Refused(Reason::Busy),
        Self::Full,
        Self::NotReady,
        Self::GroupsUnknown,
    ];
}

/// An autoscaler that a delivery was led to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The autoscaler.
    pub autoscaler: AutoscalerId,
    /// A word.
    pub reason: &'static str,
    /// How many would have done; this is the best of them.
    pub candidates: usize,
}

impl std::fmt::Display for Matched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)?;
        if self.candidates > 1 {
            write!(f, " (first of {})", self.candidates)?;
        }
        Ok(())
    }
}

/// An answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of the delivery; decides the status code.
    pub outcome: Outcome,
    /// A plain sentence, or nothing.
    pub body: Cow<'static, str>,
    /// Where the delivery was led to.
    pub matched: Vec<Matched>,
    /// Seconds to wait, where that is known better than by the outcome.
    pub retry_after: Option<u64>,
}

impl Answer {
    /// An answer.
    pub fn new(outcome: Outcome, body: impl Into<Cow<'static, str>>) -> Self {
        Self {
            outcome,
            body: body.into(),
            matched: Vec::new(),
            retry_after: None,
        }
    }

    /// With the autoscalers that the delivery was led to.
    #[must_use]
    pub fn matched(mut self, matched: Vec<Matched>) -> Self {
        self.matched = matched;
        self
    }

    /// Status code.
    pub fn status(&self) -> StatusCode {
        self.outcome.status()
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::new(Outcome::Refused(refusal.reason), refusal.text)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = match self.body {
            Cow::Borrowed("") => Response::new(Body::empty()),
            Cow::Borrowed(text) => Response::new(Body::from(text)),
            Cow::Owned(text) => Response::new(Body::from(text)),
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if !matches!(self.outcome, Outcome::Ignored) {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
        }
        if let Outcome::Refused(reason) = self.outcome
            && let Some((name, value)) = reason.header()
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(seconds) = self.retry_after.or_else(|| self.outcome.retry_after()) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let mut list = |name, items: Vec<String>| {
            if let Some(value) = HeaderValue::from_str(&items.join(", "))
                .ok()
                .filter(|_| !items.is_empty())
            {
                headers.insert(name, value);
            }
        };
        let matched = || self.matched.iter();
        list(
            AUTOSCALER_HEADER,
            matched().map(|matched| matched.autoscaler.to_string()).collect(),
        );
        list(REASON_HEADER, matched().map(ToString::to_string).collect());
        response
    }
}
