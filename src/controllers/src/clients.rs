//! One GitHub client per credential (spec 02 §4).
//!
//! The process-wide client is made of flags and environment; others of Secrets in the namespace of the object that names them. A Secret is read again after a few
//! seconds, and its client is made anew when its values changed: rotation needs no restart.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use muster_crds::{keys, legacy::GitHubApiCredentialsFrom};
use muster_github::{Auth, GitHub, Shared, UrlSettings, Urls};
use secrecy::SecretString;

use crate::error::{Error, is_not_found};

/// A rotated Secret is in use this soon.
const REREAD: SignedDuration = SignedDuration::from_secs(5);
const IDLE: SignedDuration = SignedDuration::from_hours(1);

/// The process-wide client and the settings that Secrets inherit.
#[derive(Debug)]
pub struct DefaultClient {
    /// The client itself.
    pub github: GitHub,
    /// Its URL settings: a Secret without URLs of its own uses them (spec 02 Q28).
    pub urls: UrlSettings,
    /// What all clients of the process share.
    pub shared: Shared,
}

#[derive(Debug)]
struct Entry {
    github: GitHub,
    resource_version: Option<String>,
    read_at: Timestamp,
    used_at: Timestamp,
}

/// All clients of the process.
pub struct Clients {
    kube: Client,
    default: DefaultClient,
    by_secret: Mutex<HashMap<(String, String), Entry>>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients beside a default one.
    pub fn new(kube: Client, default: DefaultClient) -> Self {
        Self {
            kube,
            default,
            by_secret: Mutex::default(),
        }
    }

    /// The client for `githubAPICredentialsFrom` of an object in `namespace`.
    pub(crate) async fn for_spec(
        &self,
        namespace: &str,
        from: Option<&GitHubApiCredentialsFrom>,
        now: Timestamp,
    ) -> Result<GitHub, Error> {
        let secret = from
            .and_then(|from| from.secret_ref.as_ref())
            .map(|reference| reference.name.as_str());
        self.for_secret(namespace, secret, now).await
    }

    /// The client of a Secret, or the process-wide one.
    pub(crate) async fn for_secret(
        &self,
        namespace: &str,
        secret: Option<&str>,
        now: Timestamp,
    ) -> Result<GitHub, Error> {
        let Some(name) = secret.filter(|name| !name.is_empty()) else {
            return Ok(self.default.github.clone());
        };
        let key = (namespace.to_owned(), name.to_owned());
        let known = {
            let mut all = self.by_secret.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, entry| now.duration_since(entry.used_at) < IDLE);
            match all.get_mut(&key) {
                Some(entry) => {
                    entry.used_at = now;
                    if now.duration_since(entry.read_at) < REREAD {
                        return Ok(entry.github.clone());
                    }
                    Some((entry.github.clone(), entry.resource_version.clone()))
                }
                None => None,
            }
        };
        let api: Api<Secret> = Api::namespaced(self.kube.clone(), namespace);
        let secret = api.get(name).await.map_err(|source| {
            let message = if is_not_found(&source) {
                format!(
                    "githubAPICredentialsFrom.secretRef.name: there is no Secret {namespace}/{name}: create it with github_token, or with github_app_id, github_app_installation_id and github_app_private_key"
                )
            } else {
                format!("the Secret {namespace}/{name} that githubAPICredentialsFrom names could not be read")
            };
            Error::Credentials { message, source: Some(Box::new(source)) }
        })?;
        let github = match known {
            Some((github, version)) if version == secret.metadata.resource_version => github,
            _ => self.build(namespace, name, &secret)?,
        };
        let entry = Entry {
            github: github.clone(),
            resource_version: secret.metadata.resource_version,
            read_at: now,
            used_at: now,
        };
        self.by_secret
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, entry);
        Ok(github)
    }

    fn build(&self, namespace: &str, name: &str, secret: &Secret) -> Result<GitHub, Error> {
        let invalid = |what: &str| Error::Credentials {
            message: format!(
                "the Secret {namespace}/{name} that githubAPICredentialsFrom names cannot be used: {what}"
            ),
            source: None,
        };
        let value = |key: &str| -> Option<String> {
            let bytes = secret.data.as_ref()?.get(key)?;
            let text = String::from_utf8_lossy(&bytes.0).trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let auth = if let Some(token) = value(keys::SECRET_GITHUB_TOKEN) {
            Auth::Token(SecretString::from(token))
        } else {
            let part = |key: &str| {
                value(key).ok_or_else(|| {
                    invalid(&format!(
                        "it has neither github_token nor {key}, which a GitHub App login needs"
                    ))
                })
            };
            Auth::App {
                app_id: part(keys::SECRET_GITHUB_APP_ID)?,
                installation_id: part(keys::SECRET_GITHUB_APP_INSTALLATION_ID)?
                    .parse()
                    .map_err(|_| invalid("github_app_installation_id is not a whole number"))?,
                private_key: SecretString::from(part(keys::SECRET_GITHUB_APP_PRIVATE_KEY)?),
            }
        };
        let default = &self.default.urls;
        let enterprise = value(keys::SECRET_GITHUB_ENTERPRISE_URL).or_else(|| default.enterprise.clone());
        let settings = UrlSettings {
            enterprise,
            api: value(keys::SECRET_GITHUB_URL).or_else(|| default.api.clone()),
            upload: value(keys::SECRET_GITHUB_UPLOAD_URL).or_else(|| default.upload.clone()),
            runner: value(keys::SECRET_GITHUB_RUNNER_URL).or_else(|| default.runner.clone()),
        };
        let urls = Urls::resolve(&settings).map_err(|error| invalid(&error.to_string()))?;
        GitHub::new(auth, urls, &self.default.shared).map_err(|error| invalid(&error.to_string()))
    }
}
