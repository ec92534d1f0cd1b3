//! Logging in: basic authentication, personal access token or GitHub App, and what one credential knows (spec 02 §3.1).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    budget::Lane,
    cache::{Flight, Join, Shelf},
    error::{Attempt, BuildError, Error, refusal},
    lenient,
    limits::Limits,
    observer::{CallFamily, Identity},
    rest::{Listings, RegistrationToken},
    shared::Shared,
    urls::Urls,
    wire::{Call, Freshness},
};

/// The credential settings as users give them. Empty and blank values, and ids of 0, mean unset.
#[derive(Clone, Debug, Default)]
pub struct AuthSettings {
    /// User for basic authentication.
    pub username: Option<String>,
    /// Password for basic authentication.
    pub password: Option<SecretString>,
    /// Personal access token.
    pub token: Option<SecretString>,
    /// Id or client id of the GitHub App.
    pub app_id: Option<String>,
    /// Installation of the GitHub App.
    pub installation_id: Option<u64>,
    /// The app's private key as PEM text (a path is resolved by the caller).
    pub private_key: Option<SecretString>,
}

/// A credential. White space around its parts does not count (spec 02 Q28).
#[derive(Clone, Debug)]
pub enum Auth {
    /// Basic authentication, for API proxies.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: SecretString,
    },
    /// Personal access token.
    Token(SecretString),
    /// Installation of a GitHub App.
    App {
        /// The app's id, or its client id.
        app_id: String,
        /// The installation's id.
        installation_id: u64,
        /// RSA private key as PEM text, PKCS#1 or PKCS#8.
        private_key: SecretString,
    },
}

/// A credential and what people call it.
#[derive(Clone, Debug)]
pub struct Login {
    /// Names the credential in metrics and logs: a Secret's `namespace/name`, an App's id. It must not be secret.
    pub name: String,
    /// The credential.
    pub auth: Auth,
}

impl Login {
    /// A credential under this name.
    pub fn new(name: impl Into<String>, auth: Auth) -> Self {
        Self {
            name: name.into(),
            auth,
        }
    }
}

/// Why the settings do not make a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing is set.
    #[error("there is no GitHub credential: set a token, a GitHub App, or a user and a password")]
    Missing,
    /// A GitHub App is begun but not complete.
    #[error("the GitHub App's {0} is missing")]
    Incomplete(&'static str),
}

fn given(secret: Option<SecretString>) -> Option<SecretString> {
    secret.filter(|secret| !secret.expose_secret().trim().is_empty())
}

impl Auth {
    /// The credential that the settings stand for: basic authentication when both its parts are set, else a token, else a
    /// GitHub App (spec 02 §3.1).
    ///
    /// # Errors
    /// [`AuthError`] when none of them is complete.
    pub fn choose(settings: AuthSettings) -> Result<Self, AuthError> {
        let username = settings.username.filter(|name| !name.trim().is_empty());
        if let (Some(username), Some(password)) = (username, given(settings.password)) {
            return Ok(Self::Basic { username, password });
        }
        if let Some(token) = given(settings.token) {
            return Ok(Self::Token(token));
        }
        let app_id = settings.app_id.filter(|id| !matches!(id.trim(), "" | "0"));
        let installation_id = settings.installation_id.filter(|id| *id != 0);
        match (app_id, installation_id, given(settings.private_key)) {
            (None, None, None) => Err(AuthError::Missing),
            (None, _, _) => Err(AuthError::Incomplete("id")),
            (_, None, _) => Err(AuthError::Incomplete("installation id")),
            (_, _, None) => Err(AuthError::Incomplete("private key")),
            (Some(app_id), Some(installation_id), Some(private_key)) => Ok(Self::App {
                app_id,
                installation_id,
                private_key,
            }),
        }
    }
}

/// Stands for a credential at one GitHub in cache keys: changes with every part of it, and does not reveal it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CredentialId(Arc<str>);

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl CredentialId {
    fn of(auth: &Auth, urls: &Urls) -> Self {
        let mut digest = Sha256::new();
        let mut part = |text: &str| {
            digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(text);
        };
        part(&urls.api);
        part(&urls.app_token);
        match auth {
            Auth::Basic { username, password } => {
                part("basic");
                part(username.trim());
                part(password.expose_secret().trim());
            }
            Auth::Token(token) => {
                part("token");
                part(token.expose_secret().trim());
            }
            Auth::App {
                app_id,
                installation_id,
                private_key,
            } => {
                part("app");
                part(app_id.trim());
                part(&installation_id.to_string());
                part(private_key.expose_secret().trim());
            }
        }
        Self(
            format!("{:x}", Bytes::copy_from_slice(&digest.finalize()))
                .chars()
                .take(32)
                .collect::<String>()
                .into(),
        )
    }
}

/// Everything that belongs to one credential at one GitHub: how to log in, its limits, its tokens, its listings. Clients that
/// are built from equal settings share it, so a rebuilt client keeps its tokens and knows its limits.
pub(crate) struct Credential {
    pub(crate) id: CredentialId,
    /// What people call it; not secret.
    pub(crate) name: Arc<str>,
    /// GitHub did not accept it; believed until then.
    refused_until: Mutex<Option<Timestamp>>,
    pub(crate) limits: Limits,
    access: Access,
    pub(crate) listings: Listings,
    /// Registration tokens by the scope's path.
    pub(crate) registrations: Shelf<Flight<RegistrationToken>>,
}

enum Access {
    Fixed(HeaderValue),
    App(Box<App>),
}

struct App {
    id: String,
    installation: u64,
    key: EncodingKey,
    base: String,
    token: Flight<InstallationToken>,
}

#[derive(Clone, Debug)]
struct InstallationToken {
    /// Marked sensitive, so its `Debug` does not show it.
    header: HeaderValue,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct AccessToken {
    #[serde(deserialize_with = "lenient::secret")]
    token: SecretString,
    expires_at: Timestamp,
}

/// A token is not used in its last minute (spec 02 §3.1).
const INSTALLATION_TOKEN_MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// How long a credential that GitHub did not accept is passed over where there are others.
const REFUSED: SignedDuration = SignedDuration::from_mins(1);

/// JWTs are issued a minute in the past and live for five, so that clocks may differ (GitHub's bound is ten).
const JWT_BACKDATE: i64 = 60;
const JWT_LIFETIME: i64 = 300;

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.access {
            Access::Fixed(_) => "fixed",
            Access::App(_) => "app",
        };
        f.debug_struct("Credential")
            .field("name", &self.name)
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Builds the credential, checking its key or token without any call.
    pub(crate) fn new(
        login: &crate::Login,
        urls: &Urls,
        calls_per_hour: Option<u64>,
        now: Timestamp,
    ) -> Result<Self, BuildError> {
        let auth = &login.auth;
        let name = Arc::from(login.name.as_str());
        let access = match auth {
            Auth::Basic { username, password } => {
                let (username, password) = (username.trim(), password.expose_secret().trim());
                if username.is_empty() || password.is_empty() {
                    return Err(BuildError::Empty {
                        what: "user or password",
                    });
                }
                if username.contains(':') || username.chars().chain(password.chars()).any(char::is_control) {
                    return Err(BuildError::Characters {
                        what: "user or password",
                    });
                }
                let pair = BASE64_STANDARD.encode(format!("{username}:{password}"));
                Access::Fixed(secret_header(&format!("Basic {pair}"), "user or password")?)
            }
            Auth::Token(token) => {
                let token = token.expose_secret().trim();
                if token.is_empty() {
                    return Err(BuildError::Empty { what: "token" });
                }
                Access::Fixed(secret_header(&format!("Bearer {token}"), "token")?)
            }
            Auth::App {
                app_id,
                installation_id,
                private_key,
            } => {
                let id = app_id.trim().to_owned();
                let key = EncodingKey::from_rsa_pem(private_key.expose_secret().trim().as_bytes())
                    .map_err(|_| BuildError::PrivateKey { app_id: id.clone() })?;
                let app = App {
                    installation: *installation_id,
                    key,
                    base: urls.app_token.trim_end_matches('/').to_owned(),
                    token: Flight::default(),
                    id,
                };
                // A key can be well-formed and still be none: sign once now rather than fail at the first call.
                app.jwt(now).map_err(|_| BuildError::PrivateKey {
                    app_id: app.id.clone(),
                })?;
                Access::App(Box::new(app))
            }
        };
        Ok(Self {
            id: CredentialId::of(auth, urls),
            name,
            refused_until: Mutex::new(None),
            limits: Limits::new(calls_per_hour),
            access,
            listings: Listings::default(),
            registrations: Shelf::default(),
        })
    }

    /// GitHub does not accept it, or did: a token may be renewed, a suspended installation resumed.
    pub(crate) fn note_refused(&self, refused: bool, now: Timestamp) {
        let until = refused.then(|| now.checked_add(REFUSED).unwrap_or(now));
        *self.refused_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Whether GitHub did not accept it lately.
    pub(crate) fn is_refused(&self, now: Timestamp) -> bool {
        let until = self.refused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > now)
    }

    pub(crate) fn id_of(auth: &Auth, urls: &Urls) -> CredentialId {
        CredentialId::of(auth, urls)
    }

    /// The `Authorization` header for an API call; for a GitHub App this may exchange a JWT for a token first.
    pub(crate) async fn authorization(
        self: &Arc<Self>,
        shared: &Shared,
        attempt: &Attempt,
    ) -> Result<HeaderValue, Error> {
        let app = match &self.access {
            Access::Fixed(header) => return Ok(header.clone()),
            Access::App(app) => app,
        };
        let usable = |token: &InstallationToken| {
            token.expires_at.duration_since(shared.now()) > INSTALLATION_TOKEN_MARGIN
        };
        let exchange = async {
            let work = app.exchange(self, shared);
            let result = tokio::time::timeout(shared.request_timeout(), work).await;
            result.unwrap_or_else(|_| {
                Err(Error::Deadline {
                    attempt: app.attempt(),
                    after: Some(shared.request_timeout()),
                })
            })
        };
        match app.token.run(Join::Overlapping, usable, exchange).await {
            Ok(token) => Ok(token.header),
            Err(error) => Err(Error::Login {
                attempt: attempt.clone(),
                source: Arc::new(error),
            }),
        }
    }

    /// The `Authorization` header for a call as the GitHub App itself.
    pub(crate) fn app_authorization(&self, now: Timestamp, attempt: &Attempt) -> Result<HeaderValue, Error> {
        match &self.access {
            Access::App(app) => app.bearer(now, attempt),
            Access::Fixed(_) => Err(Error::NotAnApp {
                attempt: attempt.clone(),
            }),
        }
    }

    /// GitHub did not accept this header: a token that is not accepted is not used again.
    pub(crate) async fn refused(&self, header: &HeaderValue) {
        if let Access::App(app) = &self.access {
            app.token.forget_if(|token| token.header == header).await;
        }
    }
}

/// What must not be repeated of an `Authorization` header: the credential, and the password within basic authentication.
pub(crate) fn secrets_in(header: &HeaderValue) -> Vec<String> {
    let Some((scheme, secret)) = header.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Vec::new();
    };
    let mut secrets = vec![secret.to_owned()];
    if scheme == "Basic"
        && let Some(pair) = BASE64_STANDARD
            .decode(secret)
            .ok()
            .and_then(|pair| String::from_utf8(pair).ok())
        && let Some((_, password)) = pair.split_once(':')
    {
        secrets.push(password.to_owned());
    }
    secrets
}

fn secret_header(value: &str, what: &'static str) -> Result<HeaderValue, BuildError> {
    let mut header = HeaderValue::from_str(value).map_err(|_| BuildError::Characters { what })?;
    header.set_sensitive(true);
    Ok(header)
}

impl App {
    fn attempt(&self) -> Attempt {
        let what = format!(
            "log in as installation {} of GitHub App {}",
            self.installation, self.id
        );
        Attempt::new(CallFamily::InstallationToken, what)
    }

    fn jwt(&self, now: Timestamp) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = now.as_second().saturating_sub(JWT_BACKDATE);
        let claims = Claims {
            iss: &self.id,
            iat,
            exp: iat.saturating_add(JWT_LIFETIME),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)
    }

    /// The header that proves the app's identity.
    fn bearer(&self, now: Timestamp, attempt: &Attempt) -> Result<HeaderValue, Error> {
        let jwt = self
            .jwt(now)
            .map_err(|source| Error::internal(attempt.clone(), source))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {jwt}"))
            .map_err(|source| Error::internal(attempt.clone(), source))?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    /// Exchanges a JWT for an installation token: `POST {base}/app/installations/{id}/access_tokens`, any 2xx is success.
    async fn exchange(
        &self,
        credential: &Arc<Credential>,
        shared: &Shared,
    ) -> Result<InstallationToken, Error> {
        let attempt = self.attempt();
        let internal = |source| Error::internal(attempt.clone(), source);
        let bearer = self.bearer(shared.now(), &attempt)?;
        let secrets = secrets_in(&bearer);
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(format!(
                "{}/app/installations/{}/access_tokens",
                self.base, self.installation
            ))
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, crate::rest::ACCEPT)
            .header(header::USER_AGENT, shared.user_agent())
            .header(header::CONTENT_LENGTH, 0)
            .header("x-github-api-version", crate::rest::API_VERSION)
            .body(Vec::<u8>::new())
            .map_err(internal)?;
        let request = reqwest::Request::try_from(request)
            .map_err(|source| Error::transport(attempt.clone(), source))?;
        let call = Call {
            attempt: attempt.clone(),
            credential: Arc::clone(credential),
            identity: Identity::App,
            lane: Lane::Critical,
            freshness: Freshness::Uncached,
        };
        let (response, _) = shared.exchange(request, call).await?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|source| Error::transport(attempt.clone(), source))?
            .to_bytes();
        if !parts.status.is_success() || parts.status == StatusCode::ACCEPTED {
            return Err(refusal(
                &attempt,
                parts.status,
                &parts.headers,
                &body,
                &secrets,
                shared.now(),
            ));
        }
        let answer: AccessToken =
            serde_json::from_slice(&body).map_err(|source| Error::malformed(&attempt, source))?;
        let mut header = HeaderValue::from_str(&format!("token {}", answer.token.expose_secret().trim()))
            .map_err(|e| internal(e.into()))?;
        header.set_sensitive(true);
        Ok(InstallationToken {
            header,
            expires_at: answer.expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    fn urls() -> Urls {
        Urls::resolve(&crate::UrlSettings::default()).unwrap()
    }

    fn full() -> AuthSettings {
        AuthSettings {
            username: Some("me".into()),
            password: Some(secret("pw")),
            token: Some(secret("t")),
            app_id: Some("7".into()),
            installation_id: Some(42),
            private_key: Some(secret("key")),
        }
    }

    #[test]
    fn basic_authentication_comes_before_a_token_and_a_token_before_an_app() {
        assert!(matches!(Auth::choose(full()).unwrap(), Auth::Basic { .. }));
        let half = AuthSettings {
            password: Some(secret(" \n")),
            ..full()
        };
        assert!(matches!(Auth::choose(half.clone()).unwrap(), Auth::Token(_)));
        let app = AuthSettings {
            token: Some(secret("")),
            ..half
        };
        assert!(matches!(
            Auth::choose(app.clone()).unwrap(),
            Auth::App {
                installation_id: 42,
                ..
            }
        ));
        let incomplete = |settings| Auth::choose(settings).unwrap_err();
        assert_eq!(
            incomplete(AuthSettings {
                app_id: Some("0".into()),
                ..app.clone()
            }),
            AuthError::Incomplete("id")
        );
        assert_eq!(
            incomplete(AuthSettings {
                installation_id: Some(0),
                ..app.clone()
            }),
            AuthError::Incomplete("installation id")
        );
        assert_eq!(
            incomplete(AuthSettings {
                private_key: None,
                ..app
            }),
            AuthError::Incomplete("private key")
        );
        assert_eq!(incomplete(AuthSettings::default()), AuthError::Missing);
    }

    #[test]
    fn the_id_changes_with_every_part_and_not_with_white_space() {
        let app = |app_id: &str, installation_id, key: &str| Auth::App {
            app_id: app_id.into(),
            installation_id,
            private_key: secret(key),
        };
        let mut elsewhere = urls();
        elsewhere.api = "https://ghes.example.com/api/v3/".into();
        let ids = [
            CredentialId::of(&Auth::Token(secret("a")), &urls()),
            CredentialId::of(&Auth::Token(secret("b")), &urls()),
            CredentialId::of(&Auth::Token(secret("a")), &elsewhere),
            CredentialId::of(
                &Auth::Basic {
                    username: "a".into(),
                    password: secret("bc"),
                },
                &urls(),
            ),
            CredentialId::of(
                &Auth::Basic {
                    username: "ab".into(),
                    password: secret("c"),
                },
                &urls(),
            ),
            CredentialId::of(&app("1", 2, "k"), &urls()),
            CredentialId::of(&app("12", 2, "k"), &urls()),
            CredentialId::of(&app("1", 3, "k"), &urls()),
            CredentialId::of(&app("1", 2, "l"), &urls()),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(CredentialId::of(&Auth::Token(secret(" a\n")), &urls()), ids[0]);
    }

    #[test]
    fn unusable_credentials_are_refused_at_once_without_showing_them() {
        let sentinel = "s3ntinel";
        let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{sentinel}\n-----END RSA PRIVATE KEY-----");
        let bad = [
            Auth::Token(secret("s3ntinel\nsecond line")),
            Auth::Token(secret("  \n")),
            Auth::Basic {
                username: "s3ntinel:x".into(),
                password: secret(sentinel),
            },
            Auth::Basic {
                username: String::new(),
                password: secret(sentinel),
            },
            Auth::App {
                app_id: "7".into(),
                installation_id: 1,
                private_key: secret(sentinel),
            },
            Auth::App {
                app_id: "7".into(),
                installation_id: 1,
                private_key: secret(&pem),
            },
        ];
        for auth in bad {
            let login = crate::Login::new("default", auth.clone());
            let error = Credential::new(&login, &urls(), None, Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(sentinel), "{error}");
            assert!(!format!("{auth:?}").contains(sentinel) || matches!(auth, Auth::Basic { .. }));
        }
        let login = crate::Login::new("default", Auth::Token(secret(sentinel)));
        let good = Credential::new(&login, &urls(), None, Timestamp::UNIX_EPOCH).unwrap();
        assert!(!format!("{good:?}").contains(sentinel));
    }
}
