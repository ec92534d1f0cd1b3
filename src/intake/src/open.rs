//! Whether a delivery is GitHub's, and what is in it: signature over the raw body first, then content type and form (spec 03 §1.5).

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};
use muster_github::{
    events::{DELIVERY_HEADER, EVENT_HEADER},
    signature::{SignatureError, SignatureHeaders, payload, verify},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::Refusal;

/// A delivery that is GitHub's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The event's name; empty where there is none.
    pub event: &'a str,
    /// The payload.
    pub json: Cow<'a, [u8]>,
    /// Position of the secret that it is signed with; none where there is no secret.
    pub signed_with: Option<usize>,
}

/// Verifies a delivery. Any of the secrets will do; without one nothing is verified, and a body that is no form is JSON whatever its content
/// type.
///
/// # Errors
/// What is not in order.
pub fn open<'a>(
    secrets: &[SecretString],
    headers: &'a HeaderMap,
    body: &'a [u8],
) -> Result<Opened<'a>, Refusal> {
    let signed_with = verify_any(secrets, headers, body)?;
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let json = match payload(content_type, body) {
        Ok(json) => json,
        Err(
            SignatureError::NoContentType
            | SignatureError::InvalidContentType
            | SignatureError::UnsupportedContentType,
        ) if secrets.is_empty() => Cow::Borrowed(body),
        Err(error) => return Err(error.into()),
    };
    let event = headers
        .get(EVENT_HEADER)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let event = std::str::from_utf8(event).map_err(|_| Refusal::malformed("the event's name is not text"))?;
    Ok(Opened {
        event,
        json,
        signed_with,
    })
}

/// Position of the secret that fits; none where there is no secret.
fn verify_any(
    secrets: &[SecretString],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<usize>, SignatureError> {
    let mut result = Ok(None);
    for (position, secret) in secrets.iter().enumerate() {
        let signatures = SignatureHeaders::of(headers);
        result = verify(secret.expose_secret().as_bytes(), signatures, body).map(|()| Some(position));
        // Another secret mends only a mismatch.
        if result != Err(SignatureError::Mismatch) {
            break;
        }
    }
    result
}

/// The delivery's GUID, where it has one that can be remembered.
pub fn guid(headers: &HeaderMap) -> Option<&str> {
    let guid = headers.get(DELIVERY_HEADER)?.to_str().ok()?;
    (!guid.is_empty() && guid.len() <= 64).then_some(guid)
}
