//! A certificate of our own for clusters without cert-manager (`--admission-self-signed`).
//!
//! It lives in a Secret that all replicas share, and is renewed long before it expires. Each renewal makes a new authority, signs one
//! certificate with it and forgets its key. The API server learns of authorities through the `caBundle` of the webhook configurations
//! that point at our Service: the new one beside the one before, so that replicas may change at different times.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use muster_runtime::{
    clock::Clock,
    serve::{Certificate, CertificateError},
    telemetry::chain,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::{already_exists, is_conflict, is_not_found};

/// How long a certificate lasts.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// What is left when it is renewed.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(120 * 24);
/// A certificate is valid for clocks that are late by this much.
const SKEW: SignedDuration = SignedDuration::from_hours(1);
/// Time between two looks at the Secret and the webhook configurations.
const LOOK: Duration = Duration::from_mins(1);
/// Replicas that renew at once meet here as often.
const ATTEMPTS: usize = 5;

/// When the certificate expires, on the Secret.
const ANNOTATION_NOT_AFTER: &str = muster_crds::keys::ANNOTATION_NOT_AFTER;
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";
const PEM_END: &str = "-----END CERTIFICATE-----\n";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum SelfSignedError {
    #[error("could not {what} the Secret {name}, which keeps the webhooks' certificate")]
    Secret {
        what: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("other replicas kept changing the Secret {0}")]
    Contended(String),
    #[error("could not make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("could not write the authority into the webhook configurations")]
    Configurations(#[source] kube::Error),
    #[error("could not use the certificate")]
    Use(#[from] CertificateError),
}

/// Keeps a certificate for the Service that the API server calls us by.
pub struct SelfSigned {
    /// Kubernetes.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Namespace of the Service, and of this process.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned")
            .field("namespace", &self.namespace)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// A certificate and who vouches for it.
#[derive(Clone)]
struct Material {
    certificate: String,
    key: SecretString,
    /// PEM certificates of authorities, the newest first.
    authorities: String,
    not_after: Timestamp,
}

impl SelfSigned {
    /// A certificate that the API server trusts from now on.
    pub(super) async fn certificate(&self) -> Result<Certificate, SelfSignedError> {
        let material = self.current().await?;
        self.announce(&material.authorities).await?;
        let key = material.key.expose_secret().as_bytes();
        Ok(Certificate::of_pem(material.certificate.as_bytes(), key)?)
    }

    /// Keeps `certificate` valid and trusted until `stop`.
    pub(super) async fn keep(&self, certificate: &Certificate, stop: CancellationToken) {
        let mut last = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let renewed = async {
                let material = self.current().await?;
                // Trusted first, used after.
                self.announce(&material.authorities).await?;
                let key = material.key.expose_secret().as_bytes();
                certificate.replace(material.certificate.as_bytes(), key)?;
                Ok::<_, SelfSignedError>(())
            };
            match renewed.await {
                Ok(()) => last.clear(),
                Err(error) => {
                    let error = chain(&error);
                    if error != last {
                        tracing::warn!(%error, "Could not look after the webhooks' certificate.");
                        last = error;
                    }
                }
            }
        }
    }

    fn secret_name(&self) -> String {
        format!("{}-self-signed", self.service)
    }

    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// What the Secret holds, made or renewed if need be.
    async fn current(&self) -> Result<Material, SelfSignedError> {
        let name = self.secret_name();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let failed = |what| {
            let name = name.clone();
            move |source| SelfSignedError::Secret { what, name, source }
        };
        for _ in 0..ATTEMPTS {
            let known = api.get_opt(&name).await.map_err(failed("read"))?;
            let now = self.clock.now();
            let old = known.as_ref().and_then(Material::of);
            if let Some(old) = &old
                && old.not_after.duration_since(now) > RENEW_BEFORE
            {
                return Ok(old.clone());
            }
            let made = make(
                &self.host(),
                now,
                old.as_ref().map(|old| old.authorities.as_str()),
            )?;
            let mut secret = made.secret(&name);
            let written = match &known {
                None => api.create(&PostParams::default(), &secret).await,
                Some(known) => {
                    // Fails when another replica has renewed it meanwhile.
                    secret.metadata.resource_version = known.resource_version();
                    secret.type_.clone_from(&known.type_);
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(&secret))
                        .await
                }
            };
            match written {
                Ok(_) => {
                    tracing::info!(object = %format!("{}/{name}", self.namespace), not_after = %made.not_after, "Made a certificate for the admission webhooks.");
                    return Ok(made);
                }
                Err(error) if already_exists(&error) || is_conflict(&error) || is_not_found(&error) => {}
                Err(error) => return Err(failed("write")(error)),
            }
        }
        Err(SelfSignedError::Contended(name))
    }

    /// Writes the authorities into all webhook configurations that point at our Service.
    async fn announce(&self, authorities: &str) -> Result<(), SelfSignedError> {
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&gvk));
            let all = api
                .list(&ListParams::default())
                .await
                .map_err(SelfSignedError::Configurations)?;
            for configuration in all {
                let operations =
                    bundle_patch(&configuration.data, &self.namespace, &self.service, authorities);
                if operations.is_empty() {
                    continue;
                }
                let operations = serde_json::from_value(operations.into())
                    .map_err(|error| SelfSignedError::Configurations(kube::Error::SerdeError(error)))?;
                let name = configuration.name_any();
                api.patch(&name, &PatchParams::default(), &Patch::<()>::Json(operations))
                    .await
                    .map_err(SelfSignedError::Configurations)?;
                tracing::info!(kind, object = %name, "Wrote the authority of the webhooks' certificate.");
            }
        }
        Ok(())
    }
}

impl Material {
    fn of(secret: &Secret) -> Option<Self> {
        let text = |key: &str| {
            let bytes = secret.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        Some(Self {
            certificate: text(CERTIFICATE)?,
            key: SecretString::from(text(KEY)?),
            authorities: text(AUTHORITIES)?,
            not_after: secret.annotations().get(ANNOTATION_NOT_AFTER)?.parse().ok()?,
        })
    }

    fn secret(&self, name: &str) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations: Some(BTreeMap::from([(
                    ANNOTATION_NOT_AFTER.to_owned(),
                    self.not_after.to_string(),
                )])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                (CERTIFICATE.to_owned(), bytes(&self.certificate)),
                (KEY.to_owned(), bytes(self.key.expose_secret())),
                (AUTHORITIES.to_owned(), bytes(&self.authorities)),
            ])),
            ..Secret::default()
        }
    }
}

/// A certificate for `host` by a new authority, whose predecessor stays trusted.
fn make(host: &str, now: Timestamp, former: Option<&str>) -> Result<Material, rcgen::Error> {
    let not_after = now.checked_add(LIFE).unwrap_or(Timestamp::MAX);
    let params = |names: Vec<String>, common_name: String| {
        let mut params = CertificateParams::new(names)?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, common_name);
        params.distinguished_name = subject;
        let epoch = || rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch() + since_epoch(now.checked_sub(SKEW).unwrap_or(now));
        params.not_after = epoch() + since_epoch(not_after);
        Ok::<_, rcgen::Error>(params)
    };
    // A name of its own, so that a client that knows two authorities takes the right one.
    let mut authority = params(Vec::new(), format!("muster admission {}", now.as_second()))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_pem = lines(&authority.self_signed(&authority_key)?.pem());
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = params(
        vec![host.to_owned(), format!("{host}.cluster.local")],
        host.to_owned(),
    )?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = lines(&leaf.signed_by(&key, &issuer)?.pem());
    let former = former
        .and_then(|former| former.split_inclusive(PEM_END).next())
        .unwrap_or_default();
    Ok(Material {
        certificate,
        key: SecretString::from(key.serialize_pem()),
        authorities: format!("{authority_pem}{former}"),
        not_after,
    })
}

/// PEM with plain line ends.
fn lines(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}

fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
}

/// The JSON patch that gives the webhooks of a configuration that point at the Service this `caBundle`.
fn bundle_patch(configuration: &Value, namespace: &str, service: &str, authorities: &str) -> Vec<Value> {
    let bundle = STANDARD.encode(authorities);
    let webhooks = configuration.get("webhooks").and_then(Value::as_array);
    webhooks
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, webhook)| {
            let at = |path: &str| webhook.pointer(path).and_then(Value::as_str);
            at("/clientConfig/service/namespace") == Some(namespace)
                && at("/clientConfig/service/name") == Some(service)
                && at("/clientConfig/caBundle") != Some(&bundle)
        })
        .flat_map(|(index, webhook)| {
            // The list has no keys for a patch: make sure that it is still the same webhook.
            let name = webhook.get("name").cloned().unwrap_or_default();
            [
                json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": name}),
                json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_leaves_the_former_authority_trusted() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = make("webhook-service.muster-system.svc", now, None).unwrap();
        assert_eq!(first.authorities.matches(PEM_END).count(), 1);
        assert_eq!(first.not_after, "2027-01-01T00:00:00Z".parse().unwrap());
        let second = make("h.ns.svc", now, Some(&first.authorities)).unwrap();
        let third = make("h.ns.svc", now, Some(&second.authorities)).unwrap();
        assert!(second.authorities.ends_with(&first.authorities));
        assert_eq!(third.authorities.matches(PEM_END).count(), 2);
        assert!(!third.authorities.contains(&first.authorities));

        let secret = third.secret("name");
        let read = Material::of(&secret).unwrap();
        assert_eq!(
            (read.not_after, &read.authorities),
            (third.not_after, &third.authorities)
        );
        let key = read.key.expose_secret().as_bytes();
        Certificate::of_pem(read.certificate.as_bytes(), key).unwrap();
        assert!(Certificate::of_pem(first.certificate.as_bytes(), key).is_err());
    }

    #[test]
    fn only_webhooks_of_our_service_get_the_authority() {
        let hook = |name: &str, namespace: &str, bundle: Option<&str>| json!({"name": name, "clientConfig": {"service": {"namespace": namespace, "name": "s"}, "caBundle": bundle}});
        let current = STANDARD.encode("PEM");
        let configuration = json!({"webhooks": [
            hook("a", "ns", None),
            hook("b", "other", None),
            hook("c", "ns", Some(&current)),
            {"name": "d", "clientConfig": {"url": "https://127.0.0.1"}},
            hook("e", "ns", Some("b2xk")),
        ]});
        let patch = bundle_patch(&configuration, "ns", "s", "PEM");
        let paths: Vec<&str> = patch
            .iter()
            .filter_map(|operation| operation["path"].as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "/webhooks/0/name",
                "/webhooks/0/clientConfig/caBundle",
                "/webhooks/4/name",
                "/webhooks/4/clientConfig/caBundle"
            ]
        );
        assert_eq!(patch[1]["value"], current);
        assert!(bundle_patch(&json!({}), "ns", "s", "PEM").is_empty());
    }
}
