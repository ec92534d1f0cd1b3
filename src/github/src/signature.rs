//! Whether a delivery comes from GitHub: HMAC over the raw body, and what the body means by its content type (spec 03 §1.5).
//!
//! Nothing here repeats a signature, a body or the secret in an error.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, header::CONTENT_TYPE};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

/// Header with GitHub's SHA-256 signature.
pub const SIGNATURE_256_HEADER: &str = "x-hub-signature-256";

/// Header with the older SHA-1 signature, looked at only when the other is absent or empty.
pub const SIGNATURE_HEADER: &str = "x-hub-signature";

/// The signatures that came with a delivery, as bytes: a header may hold anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignatureHeaders<'a> {
    /// `X-Hub-Signature-256`.
    pub sha256: Option<&'a [u8]>,
    /// `X-Hub-Signature`.
    pub sha1: Option<&'a [u8]>,
}

impl<'a> SignatureHeaders<'a> {
    /// The signatures among a request's headers; of several with one name the first counts.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let value = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        Self {
            sha256: value(SIGNATURE_256_HEADER),
            sha1: value(SIGNATURE_HEADER),
        }
    }

    fn chosen(self) -> Option<&'a [u8]> {
        let given = |value: Option<&'a [u8]>| value.filter(|value| !value.is_empty());
        given(self.sha256).or_else(|| given(self.sha1))
    }
}

/// Why a delivery is not believed, in a sentence fit for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no content type, though a secret is configured.
    #[error("the delivery has no content type")]
    NoContentType,
    /// The content type cannot be read.
    #[error("the delivery's content type cannot be read")]
    InvalidContentType,
    /// Neither JSON nor a form.
    #[error("the delivery's content type is neither application/json nor application/x-www-form-urlencoded")]
    UnsupportedContentType,
    /// There is no signature.
    #[error("the delivery has no signature")]
    Missing,
    /// The signature is not of the form `<algorithm>=<hex>`.
    #[error("the delivery's signature has no algorithm")]
    NoAlgorithm,
    /// Neither `sha1` nor `sha256` nor `sha512`.
    #[error("the delivery's signature uses an unknown algorithm")]
    UnknownAlgorithm,
    /// What stands behind the `=` is not hexadecimal.
    #[error("the delivery's signature is not hexadecimal")]
    NotHex,
    /// Signed with another secret, or changed on the way.
    #[error("the delivery's signature does not match")]
    Mismatch,
    /// A form whose encoding is broken.
    #[error("the delivery's form cannot be decoded")]
    InvalidForm,
}

/// Checks the signature over the raw body, in constant time. The signature's prefix selects the algorithm, not the header
/// it came in (spec 03 §1.5).
///
/// # Errors
/// [`SignatureError`] when it is absent, unreadable or wrong.
pub fn verify(secret: &[u8], headers: SignatureHeaders<'_>, body: &[u8]) -> Result<(), SignatureError> {
    let signature = headers.chosen().ok_or(SignatureError::Missing)?;
    let at = signature
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or(SignatureError::NoAlgorithm)?;
    let (algorithm, rest) = signature
        .split_at_checked(at)
        .ok_or(SignatureError::NoAlgorithm)?;
    let hex = rest.strip_prefix(b"=").unwrap_or_default();
    let check = match algorithm {
        b"sha1" => matches::<Hmac<Sha1>>,
        b"sha256" => matches::<Hmac<Sha256>>,
        b"sha512" => matches::<Hmac<Sha512>>,
        _ => return Err(SignatureError::UnknownAlgorithm),
    };
    let tag = unhex(hex).ok_or(SignatureError::NotHex)?;
    if check(secret, body, &tag) {
        Ok(())
    } else {
        Err(SignatureError::Mismatch)
    }
}

fn matches<M: Mac + KeyInit>(secret: &[u8], body: &[u8], tag: &[u8]) -> bool {
    <M as KeyInit>::new_from_slice(secret).is_ok_and(|mac| mac.chain_update(body).verify_slice(tag).is_ok())
}

/// The JSON of a delivery whose content type counts: the body itself, or the form field `payload` (empty when absent).
///
/// # Errors
/// [`SignatureError`] for another content type or a broken form.
pub fn payload<'b>(content_type: Option<&[u8]>, body: &'b [u8]) -> Result<Cow<'b, [u8]>, SignatureError> {
    match media_type(content_type.unwrap_or_default())?.as_str() {
        "application/json" => Ok(Cow::Borrowed(body)),
        "application/x-www-form-urlencoded" => form_field(body, b"payload").map(Cow::Owned),
        _ => Err(SignatureError::UnsupportedContentType),
    }
}

/// The JSON of a delivery that is proven to be GitHub's: signature first, then content type and form. With an empty secret
/// nothing is checked and the body is the JSON, whatever its headers say (spec 03 §1.5).
///
/// # Errors
/// [`SignatureError`].
pub fn validate<'b>(
    secret: &[u8],
    headers: &HeaderMap,
    body: &'b [u8],
) -> Result<Cow<'b, [u8]>, SignatureError> {
    if secret.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    verify(secret, SignatureHeaders::of(headers), body)?;
    payload(headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes), body)
}

fn unhex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = hex.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

/// The type in lower case, without its parameters, which must be well-formed all the same.
fn media_type(value: &[u8]) -> Result<String, SignatureError> {
    let invalid = SignatureError::InvalidContentType;
    let value = std::str::from_utf8(value).map_err(|_| invalid)?;
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    let kind = kind.trim();
    if kind.is_empty() {
        return Err(SignatureError::NoContentType);
    }
    if !kind.split('/').all(is_token) || kind.split('/').count() > 2 {
        return Err(invalid);
    }
    let mut rest = parameters.trim();
    while !rest.is_empty() {
        rest = parameter(rest).ok_or(invalid)?;
    }
    Ok(kind.to_ascii_lowercase())
}

/// What follows the first `name=value` of the parameters and its semicolon.
fn parameter(text: &str) -> Option<&str> {
    let (name, rest) = text.split_once('=')?;
    if !is_token(name.trim()) {
        return None;
    }
    let rest = rest.trim_start();
    let rest = if let Some(quoted) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        quoted.get(end..)?.strip_prefix('"')?
    } else {
        let end = rest.find(';').unwrap_or(rest.len());
        let (value, rest) = rest.split_at_checked(end)?;
        is_token(value.trim()).then_some(rest)?
    };
    let rest = rest.trim_start();
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix(';').map(str::trim_start)
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The first field of this name; broken escapes anywhere are an error, as for upstream.
fn form_field(body: &[u8], name: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let mut found = None;
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        if pair.contains(&b';') {
            return Err(SignatureError::InvalidForm);
        }
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let key = unescape(halves.next().unwrap_or_default())?;
        let value = unescape(halves.next().unwrap_or_default())?;
        if key == name && found.is_none() {
            found = Some(value);
        }
    }
    Ok(found.unwrap_or_default())
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let (hex, after) = after.split_at_checked(2).ok_or(SignatureError::InvalidForm)?;
                plain.extend(unhex(hex).ok_or(SignatureError::InvalidForm)?);
                after
            }
            b'+' => {
                plain.push(b' ');
                after
            }
            other => {
                plain.push(*other);
                after
            }
        };
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"s3cr3t";
    const JSON: &[u8] = br#"{"zen":"hello"}"#;
    const FORM: &[u8] = b"payload=%7B%22zen%22%3A%22hello%22%7D";
    const JSON_256: &str = "sha256=40d69f7c0a5c0dc9e8c44e71160f5ab1ca329afdc9c030994c47dda66aee4eb0";
    const JSON_1: &str = "sha1=2dcb35f6b3aa78772a4e65e928b80bacbc2a6c50";
    const FORM_256: &str = "sha256=cc01ffed1a2b133fb6460ca5a7bb9a61ef285daa2ab1b7dee6dbe093d9ffeaf8";
    const FORM_1: &str = "sha1=0bbc2d8648046f5844dc7ec2ae76c47b78a5f137";

    fn signed<'a>(sha256: &'a str, sha1: &'a str) -> SignatureHeaders<'a> {
        SignatureHeaders {
            sha256: Some(sha256.as_bytes()),
            sha1: Some(sha1.as_bytes()),
        }
    }

    #[test]
    fn the_vectors_of_the_specification_verify() {
        for (body, sha256, sha1) in [(JSON, JSON_256, JSON_1), (FORM, FORM_256, FORM_1)] {
            assert_eq!(verify(SECRET, signed(sha256, ""), body), Ok(()));
            assert_eq!(verify(SECRET, signed("", sha1), body), Ok(()));
            assert_eq!(
                verify(SECRET, signed(sha1, ""), body),
                Ok(()),
                "the prefix selects, not the header"
            );
            assert_eq!(
                verify(b"other", signed(sha256, sha1), body),
                Err(SignatureError::Mismatch)
            );
            assert_eq!(
                verify(SECRET, signed(sha256, sha1), b"{}"),
                Err(SignatureError::Mismatch)
            );
        }
    }

    #[test]
    fn sha512_and_upper_case_are_accepted() {
        let mut mac = <Hmac<Sha512> as KeyInit>::new_from_slice(SECRET).unwrap();
        mac.update(JSON);
        let hex = format!(
            "{:X}",
            bytes::Bytes::copy_from_slice(&mac.finalize().into_bytes())
        );
        assert_eq!(verify(SECRET, signed(&format!("sha512={hex}"), ""), JSON), Ok(()));
    }

    #[test]
    fn unusable_signatures_are_told_apart() {
        let long = format!("{JSON_256}00");
        let table = [
            ("", "", SignatureError::Missing),
            ("nonsense", JSON_1, SignatureError::NoAlgorithm),
            ("=abcd", "", SignatureError::UnknownAlgorithm),
            ("md5=abcd", "", SignatureError::UnknownAlgorithm),
            ("SHA256=abcd", "", SignatureError::UnknownAlgorithm),
            ("sha256=xyz0", "", SignatureError::NotHex),
            ("sha256=abc", "", SignatureError::NotHex),
            ("sha256=", "", SignatureError::Mismatch),
            ("sha256=abcd", JSON_1, SignatureError::Mismatch),
            (&JSON_256[..61], "", SignatureError::Mismatch),
            (&long, "", SignatureError::Mismatch),
        ];
        for (sha256, sha1, error) in table {
            assert_eq!(
                verify(SECRET, signed(sha256, sha1), JSON),
                Err(error),
                "{sha256:?} {sha1:?}"
            );
        }
        assert_eq!(
            verify(SECRET, SignatureHeaders::default(), JSON),
            Err(SignatureError::Missing)
        );
        let binary = SignatureHeaders {
            sha256: Some(b"sha256=\xff\xfe"),
            sha1: None,
        };
        assert_eq!(verify(SECRET, binary, JSON), Err(SignatureError::NotHex));
    }

    type Found = Result<&'static [u8], SignatureError>;

    #[test]
    fn the_content_type_says_where_the_json_is() {
        let form: &[u8] = b"a=1&payload=%7b%7D+x&payload=2";
        let table: [(&str, &[u8], Found); 21] = [
            ("application/json", JSON, Ok(JSON)),
            (" Application/JSON ; charset=utf-8", JSON, Ok(JSON)),
            ("application/json;", JSON, Ok(JSON)),
            (r#"application/json; a="b;\"c"; d=e"#, JSON, Ok(JSON)),
            ("application/x-www-form-urlencoded", FORM, Ok(JSON)),
            (
                "application/x-www-form-urlencoded; charset=utf-8",
                form,
                Ok(b"{} x"),
            ),
            ("application/x-www-form-urlencoded", b"other=1", Ok(b"")),
            ("application/x-www-form-urlencoded", b"", Ok(b"")),
            ("application/x-www-form-urlencoded", b"payload", Ok(b"")),
            (
                "application/x-www-form-urlencoded",
                b"payload=%7",
                Err(SignatureError::InvalidForm),
            ),
            (
                "application/x-www-form-urlencoded",
                b"payload=1&x=%zz",
                Err(SignatureError::InvalidForm),
            ),
            (
                "application/x-www-form-urlencoded",
                b"payload=1;x=2",
                Err(SignatureError::InvalidForm),
            ),
            ("", JSON, Err(SignatureError::NoContentType)),
            ("; charset=utf-8", JSON, Err(SignatureError::NoContentType)),
            (
                "application/json; charset",
                JSON,
                Err(SignatureError::InvalidContentType),
            ),
            (
                "application/json; =x",
                JSON,
                Err(SignatureError::InvalidContentType),
            ),
            (
                r#"application/json; a="b"#,
                JSON,
                Err(SignatureError::InvalidContentType),
            ),
            (
                "application/json/x",
                JSON,
                Err(SignatureError::InvalidContentType),
            ),
            ("application json", JSON, Err(SignatureError::InvalidContentType)),
            ("text/plain", JSON, Err(SignatureError::UnsupportedContentType)),
            (
                "application/vnd.github+json",
                JSON,
                Err(SignatureError::UnsupportedContentType),
            ),
        ];
        for (kind, body, expected) in table {
            let found = payload(Some(kind.as_bytes()), body);
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{kind:?}");
        }
        assert_eq!(payload(None, JSON), Err(SignatureError::NoContentType));
    }

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        entries
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn with_a_secret_signature_and_content_type_both_count() {
        let form = headers(&[
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-hub-signature-256", FORM_256),
        ]);
        assert_eq!(validate(SECRET, &form, FORM).unwrap(), JSON);
        let json = headers(&[("content-type", "application/json"), ("x-hub-signature", JSON_1)]);
        assert_eq!(validate(SECRET, &json, JSON).unwrap(), JSON);
        let plain = headers(&[("x-hub-signature-256", JSON_256)]);
        assert_eq!(validate(SECRET, &plain, JSON), Err(SignatureError::NoContentType));
        let unsigned = headers(&[("content-type", "application/json")]);
        assert_eq!(validate(SECRET, &unsigned, JSON), Err(SignatureError::Missing));
    }

    #[test]
    fn without_a_secret_the_body_is_the_json() {
        let odd = headers(&[
            ("content-type", "text/plain"),
            ("x-hub-signature-256", "sha256=00"),
        ]);
        assert_eq!(validate(b"", &odd, JSON).unwrap(), JSON);
        assert_eq!(validate(b"", &HeaderMap::new(), FORM).unwrap(), FORM);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_pass(
            sha256 in proptest::option::of(any::<Vec<u8>>()),
            tag in any::<Vec<u8>>(),
            kind in any::<Vec<u8>>(),
            body in any::<Vec<u8>>(),
        ) {
            let mut signature = b"sha256=".to_vec();
            signature.extend(tag);
            for sha256 in [sha256.as_deref(), Some(signature.as_slice())] {
                let headers = SignatureHeaders { sha256, sha1: sha256 };
                prop_assert!(verify(SECRET, headers, &body).is_err());
            }
            payload(Some(&kind), &body).ok();
            payload(Some(b"application/x-www-form-urlencoded"), &body).ok();
        }

        #[test]
        fn what_is_signed_verifies(secret in any::<Vec<u8>>(), body in any::<Vec<u8>>()) {
            let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret).unwrap();
            mac.update(&body);
            let hex = format!("{:x}", bytes::Bytes::copy_from_slice(&mac.finalize().into_bytes()));
            prop_assert_eq!(verify(&secret, signed(&format!("sha256={hex}"), ""), &body), Ok(()));
        }

        #[test]
        fn any_json_survives_a_form(json in any::<Vec<u8>>()) {
            let mut body = b"payload=".to_vec();
            for byte in &json {
                body.extend(format!("%{byte:02x}").bytes());
            }
            let found = payload(Some(b"application/x-www-form-urlencoded"), &body).unwrap();
            prop_assert_eq!(found.into_owned(), json);
        }
    }
}
