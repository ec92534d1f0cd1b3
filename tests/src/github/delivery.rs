//! Webhook deliveries built by hand: for tests that want a certain request, and for the load generator.

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

use super::payload::JobPayload;

/// What a hook hangs on (`X-GitHub-Hook-Installation-Target-Type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookTarget {
    /// A repository's own hook.
    #[default]
    Repository,
    /// An organization's hook.
    Organization,
    /// The hook of a GitHub App.
    App,
    /// An enterprise's hook: it has no delivery API here.
    Enterprise,
}

impl HookTarget {
    /// The word in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Organization => "organization",
            Self::App => "integration",
            Self::Enterprise => "business",
        }
    }
}

/// Which hook a delivery says it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookIdentity {
    /// `X-GitHub-Hook-ID`.
    pub id: u64,
    /// `X-GitHub-Hook-Installation-Target-Type`.
    pub target: HookTarget,
    /// `X-GitHub-Hook-Installation-Target-ID`.
    pub target_id: u64,
}

/// A delivery before it is signed.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `X-GitHub-Event`.
    pub event: String,
    /// `X-GitHub-Delivery`.
    pub guid: String,
    /// Which hook it comes from.
    pub hook: HookIdentity,
    /// `Content-Type`.
    pub content_type: String,
    /// The raw body; signatures cover exactly these bytes.
    pub body: Bytes,
}

impl Delivery {
    /// Any event with any body, sent as JSON, with a GUID of its own.
    pub fn new(event: &str, body: impl Into<Bytes>) -> Self {
        Self {
            event: event.to_owned(),
            guid: uuid::Uuid::new_v4().to_string(),
            hook: HookIdentity {
                id: 1,
                target: HookTarget::Repository,
                target_id: 1,
            },
            content_type: "application/json".to_owned(),
            body: body.into(),
        }
    }

    /// A `workflow_job` event with this action about this job, as a hook of its repository sends it.
    pub fn workflow_job(action: &str, job: &JobPayload) -> Self {
        let mut delivery = Self::new("workflow_job", job.render(action));
        delivery.hook.target_id = job.repository.id;
        delivery
    }

    /// The `ping` that GitHub sends to a new hook.
    pub fn ping() -> Self {
        Self::new(
            "ping",
            r#"{"zen":"Keep it logically awesome.","hook_id":1,"hook":{"type":"Repository"}}"#,
        )
    }

    /// Gives it this GUID, for example to repeat an earlier delivery.
    #[must_use]
    pub fn with_guid(mut self, guid: &str) -> Self {
        guid.clone_into(&mut self.guid);
        self
    }

    /// Says that it comes from this hook.
    #[must_use]
    pub fn from_hook(mut self, hook: HookIdentity) -> Self {
        self.hook = hook;
        self
    }

    /// Wraps the JSON body into a form field `payload`, as hooks with content type `form` send it.
    #[must_use]
    pub fn form_encoded(mut self) -> Self {
        "application/x-www-form-urlencoded".clone_into(&mut self.content_type);
        self.body = form_body(&self.body);
        self
    }

    /// Signs it with the hook's secret: both `X-Hub-Signature-256` and `X-Hub-Signature`, as GitHub does.
    pub fn sign(self, secret: &str) -> SignedDelivery {
        let signatures = (!secret.is_empty()).then(|| {
            (
                signature_sha256(secret.as_bytes(), &self.body),
                signature_sha1(secret.as_bytes(), &self.body),
            )
        });
        SignedDelivery {
            delivery: self,
            signatures,
        }
    }
}

/// A delivery ready to be sent.
#[derive(Clone, Debug)]
pub struct SignedDelivery {
    /// What is sent.
    pub delivery: Delivery,
    /// Values of `X-Hub-Signature-256` and `X-Hub-Signature`; `None` for a hook without a secret.
    pub signatures: Option<(String, String)>,
}

impl SignedDelivery {
    /// The headers, `Content-Type` included.
    pub fn header_pairs(&self) -> Vec<(&'static str, String)> {
        let delivery = &self.delivery;
        let mut headers = vec![
            ("accept", "*/*".to_owned()),
            ("content-type", delivery.content_type.clone()),
            ("user-agent", "GitHub-Hookshot/muster".to_owned()),
            ("x-github-delivery", delivery.guid.clone()),
            ("x-github-event", delivery.event.clone()),
            ("x-github-hook-id", delivery.hook.id.to_string()),
            (
                "x-github-hook-installation-target-id",
                delivery.hook.target_id.to_string(),
            ),
            (
                "x-github-hook-installation-target-type",
                delivery.hook.target.as_str().to_owned(),
            ),
        ];
        if let Some((sha256, sha1)) = &self.signatures {
            headers.push(("x-hub-signature", sha1.clone()));
            headers.push(("x-hub-signature-256", sha256.clone()));
        }
        headers
    }

    /// The headers as a map; values that HTTP cannot carry are left out.
    pub fn headers(&self) -> HeaderMap {
        self.header_pairs()
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
            })
            .collect()
    }

    /// Sends it and returns the answer's status code and the first 64 KB of its body.
    pub async fn send(&self, client: &reqwest::Client, url: &str) -> anyhow::Result<(u16, String)> {
        let response = client
            .post(url)
            .headers(self.headers())
            .body(self.delivery.body.clone())
            .send()
            .await
            .context("sending the delivery")?;
        let status = response.status().as_u16();
        Ok((
            status,
            read_capped(response, 64 * 1024)
                .await
                .context("reading the answer")?,
        ))
    }
}

/// Reads an answer to its end (so that the connection can be used again) and keeps the first `limit` bytes.
pub(crate) async fn read_capped(mut response: reqwest::Response, limit: usize) -> reqwest::Result<String> {
    let mut kept = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit.saturating_sub(kept.len());
        kept.extend(chunk.iter().take(room));
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// `payload=<percent encoded body>`.
pub(crate) fn form_body(body: &[u8]) -> Bytes {
    let mut form = String::with_capacity(body.len() * 2 + 8);
    form.push_str("payload=");
    for byte in body {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                form.push(char::from(*byte));
            }
            b' ' => form.push('+'),
            other => {
                form.push('%');
                form.push_str(&hex(&[*other]).to_uppercase());
            }
        }
    }
    Bytes::from(form)
}

/// Value of `X-Hub-Signature-256` for these bytes.
pub fn signature_sha256(secret: &[u8], body: &[u8]) -> String {
    Hmac::<Sha256>::new_from_slice(secret).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(body);
            format!("sha256={}", hex(&mac.finalize().into_bytes()))
        },
    )
}

/// Value of `X-Hub-Signature` for these bytes.
pub fn signature_sha1(secret: &[u8], body: &[u8]) -> String {
    Hmac::<Sha1>::new_from_slice(secret).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(body);
            format!("sha1={}", hex(&mac.finalize().into_bytes()))
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::github::{OwnerType, RepositoryInfo};

    #[test]
    fn signatures_agree_with_the_vectors_of_part_03() {
        let json = br#"{"zen":"hello"}"#;
        assert_eq!(
            signature_sha256(b"s3cr3t", json),
            "sha256=40d69f7c0a5c0dc9e8c44e71160f5ab1ca329afdc9c030994c47dda66aee4eb0"
        );
        assert_eq!(
            signature_sha1(b"s3cr3t", json),
            "sha1=2dcb35f6b3aa78772a4e65e928b80bacbc2a6c50"
        );
        let form = form_body(json);
        assert_eq!(&form[..], b"payload=%7B%22zen%22%3A%22hello%22%7D");
        assert_eq!(
            signature_sha256(b"s3cr3t", &form),
            "sha256=cc01ffed1a2b133fb6460ca5a7bb9a61ef285daa2ab1b7dee6dbe093d9ffeaf8"
        );
        assert_eq!(
            signature_sha1(b"s3cr3t", &form),
            "sha1=0bbc2d8648046f5844dc7ec2ae76c47b78a5f137"
        );
    }

    #[test]
    fn payloads_are_as_big_as_the_real_ones_and_say_what_they_should() {
        let repository = RepositoryInfo::new("acme", OwnerType::Organization, "api", Some("bigco"));
        let now = "2026-11-21T03:41:00.123456Z".parse().unwrap();
        let mut job = JobPayload::new(
            Arc::new(repository),
            48_000_000_001,
            vec!["self-hosted".into(), "linux".into()],
            now,
        );
        job.installation = Some(77);
        let delivery = Delivery::workflow_job("queued", &job);
        assert!(
            (7_500..10_000).contains(&delivery.body.len()),
            "{} bytes",
            delivery.body.len()
        );
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
        assert_eq!(body["action"], "queued");
        assert_eq!(body["workflow_job"]["id"], 48_000_000_001_u64);
        assert_eq!(body["workflow_job"]["created_at"], "2026-11-21T03:41:00Z");
        assert_eq!(body["workflow_job"]["runner_id"], serde_json::Value::Null);
        assert_eq!(body["repository"]["owner"]["type"], "Organization");
        assert_eq!(body["repository"]["full_name"], "acme/api");
        assert_eq!(body["organization"]["login"], "acme");
        assert_eq!(body["enterprise"]["slug"], "bigco");
        assert_eq!(body["installation"]["id"], 77);
        let headers = delivery.sign("s").headers();
        assert!(
            headers["x-hub-signature-256"]
                .to_str()
                .unwrap()
                .starts_with("sha256=")
        );
        assert!(headers["x-hub-signature"].to_str().unwrap().starts_with("sha1="));
        assert_eq!(headers["x-github-hook-installation-target-type"], "repository");
    }
}
