//! Answers to deliveries that are not in order: better status codes than upstream's universal 500 (spec 03 §1.18).

use std::borrow::Cow;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use muster_github::signature::SignatureError;

/// Why a delivery is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Signature missing or wrong.
    Unauthorized,
    /// Not a delivery as GitHub sends them.
    Malformed,
    /// Neither JSON nor a form.
    UnsupportedMediaType,
    /// More than GitHub ever sends.
    TooLarge,
    /// Too slow in sending.
    Timeout,
    /// Not POST.
    Method,
    /// Too much waits.
    Busy,
}

impl Reason {
    /// The reason as a metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Method => "method",
            Self::Busy => "busy",
        }
    }

    /// What the sender's side has to know beside the status code.
    pub fn header(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::Method => Some((header::ALLOW, "GET, HEAD, POST")),
            Self::Busy => Some((header::RETRY_AFTER, "1")),
            // The rest of the body was not read.
            Self::TooLarge | Self::Timeout => Some((header::CONNECTION, "close")),
            Self::Unauthorized | Self::Malformed | Self::UnsupportedMediaType => None,
        }
    }

    /// The status code to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A delivery that is not taken, and a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Decides the status code.
    pub reason: Reason,
    /// For the sender.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }

    /// The payload is not what GitHub sends.
    pub fn malformed(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::Malformed, text)
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        let reason = match error {
            SignatureError::NoContentType
            | SignatureError::InvalidContentType
            | SignatureError::UnsupportedContentType => Reason::UnsupportedMediaType,
            SignatureError::InvalidForm => Reason::Malformed,
            SignatureError::Missing
            | SignatureError::NoAlgorithm
            | SignatureError::UnknownAlgorithm
            | SignatureError::NotHex
            | SignatureError::Mismatch => Reason::Unauthorized,
        };
        Self::new(reason, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(match self.text {
            Cow::Borrowed(text) => Body::from(text),
            Cow::Owned(text) => Body::from(text),
        });
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAIN));
        if let Some((name, value)) = self.reason.header() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The content type of all answers.
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";
