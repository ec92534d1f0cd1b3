//! Who calls, and how much of the rate limit is left.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::options::{FakeApp, FakeGitHubOptions};

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A person or an installation: may do everything but act as an app.
    Account { bucket: String },
    /// A GitHub App by its JWT.
    App { app_id: String },
}

impl Caller {
    /// The credential, in words.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Account { bucket } => bucket.clone(),
            Self::App { app_id } => format!("app {app_id}"),
        }
    }
}

/// What a credential was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialUse {
    /// Organization, enterprise, or owner of a repository.
    pub owner: String,
    /// `token …`, `installation …` or `user …`.
    pub credential: String,
    /// How often.
    pub calls: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// Remaining calls of one credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) calls: u64,
    pub(crate) used: u64,
    pub(crate) reset: i64,
}

impl Limit {
    pub(crate) fn remaining(&self) -> u64 {
        self.calls.saturating_sub(self.used)
    }
}

/// Credentials that are accepted, and what they have used.
#[derive(Debug)]
pub(crate) struct Credentials {
    tokens: Vec<String>,
    basic: Vec<(String, String)>,
    apps: Vec<FakeApp>,
    installation_tokens: HashMap<String, (u64, Timestamp)>,
    limits: HashMap<String, Limit>,
    limit: u64,
    /// The only owner that a credential is for.
    confined: HashMap<String, String>,
    uses: BTreeMap<(String, String), CredentialUse>,
}

impl Credentials {
    pub(crate) fn new(options: &FakeGitHubOptions) -> Self {
        Self {
            tokens: options.tokens.clone(),
            basic: options.basic.clone(),
            apps: options.apps.clone(),
            installation_tokens: HashMap::new(),
            limits: HashMap::new(),
            limit: options.rate_limit,
            confined: HashMap::new(),
            uses: BTreeMap::new(),
        }
    }

    pub(crate) fn accept(&mut self, token: &str) {
        self.tokens.push(token.to_owned());
    }

    /// Forgets a token of any kind.
    pub(crate) fn revoke(&mut self, token: &str) {
        self.tokens.retain(|candidate| candidate != token);
        self.installation_tokens.remove(token);
    }

    /// Forgets every installation token, as when an App's installation is suspended and resumed.
    pub(crate) fn revoke_installation_tokens(&mut self) {
        self.installation_tokens.clear();
    }

    /// Who presents this `Authorization`; else the message of the 401.
    pub(crate) fn identify(&self, authorization: Option<&str>, now: Timestamp) -> Result<Caller, String> {
        let header = authorization.ok_or_else(|| "Requires authentication".to_owned())?;
        let bad = || "Bad credentials".to_owned();
        let (scheme, value) = header.split_once(' ').ok_or_else(bad)?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD
                .decode(value)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.ok_or_else(bad)?;
            let (user, password) = pair.split_once(':').ok_or_else(bad)?;
            let known = self.tokens.iter().any(|token| token == password)
                || self
                    .basic
                    .iter()
                    .any(|(name, secret)| name == user && secret == password);
            return if known {
                Ok(Caller::Account {
                    bucket: format!("user {user}"),
                })
            } else {
                Err(bad())
            };
        }
        if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
            return Err(bad());
        }
        if self.tokens.iter().any(|token| token == value) {
            return Ok(Caller::Account {
                bucket: format!("token {value}"),
            });
        }
        if let Some((installation, expires_at)) = self.installation_tokens.get(value) {
            let bucket = format!("installation {installation}");
            return if *expires_at > now {
                Ok(Caller::Account { bucket })
            } else {
                Err(bad())
            };
        }
        if value.split('.').count() == 3 {
            self.identify_app(value, now)
        } else {
            Err(bad())
        }
    }

    fn identify_app(&self, jwt: &str, now: Timestamp) -> Result<Caller, String> {
        let undecodable = || "A JSON web token could not be decoded".to_owned();
        let mut parts = jwt.split('.').map(|part| URL_SAFE_NO_PAD.decode(part));
        let mut next = || -> Option<Value> { serde_json::from_slice(&parts.next()?.ok()?).ok() };
        let header = next().ok_or_else(undecodable)?;
        let claims = next().ok_or_else(undecodable)?;
        if header.get("alg").and_then(Value::as_str) != Some("RS256") {
            return Err(undecodable());
        }
        let issuer = match claims.get("iss") {
            Some(Value::String(issuer)) => issuer.clone(),
            Some(Value::Number(issuer)) => issuer.to_string(),
            _ => return Err("Missing 'issuer' claim ('iss') in assertion".to_owned()),
        };
        let app = self.apps.iter().find(|app| app.app_id == issuer);
        let app = app.ok_or_else(|| "Integration not found".to_owned())?;
        let issued_at = claims.get("iat").and_then(Value::as_i64);
        if issued_at.is_none_or(|issued_at| issued_at > now.as_second()) {
            return Err(
                "'Issued at' claim ('iat') must be an Integer representing the time that the \
                        assertion was issued"
                    .to_owned(),
            );
        }
        let expires_at = claims.get("exp").and_then(Value::as_i64).unwrap_or(0);
        if expires_at <= now.as_second() {
            return Err(
                "'Expiration time' claim ('exp') must be a numeric value representing the future \
                        time at which the assertion expires"
                    .to_owned(),
            );
        }
        if expires_at > now.as_second() + 600 {
            return Err("'Expiration time' claim ('exp') is too far in the future".to_owned());
        }
        if let Some(pem) = &app.public_key {
            let key = jsonwebtoken::DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| undecodable())?;
            let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
            // The times were compared with GitHub's clock above.
            rules.validate_exp = false;
            rules.required_spec_claims.clear();
            jsonwebtoken::decode::<Value>(jwt, &key, &rules).map_err(|_| undecodable())?;
        }
        Ok(Caller::App { app_id: issuer })
    }

    pub(crate) fn confine(&mut self, credential: String, owner: &str) {
        self.confined.insert(credential, owner.to_lowercase());
    }

    /// Takes note of a use; whether the credential is for that owner.
    pub(crate) fn note_use(&mut self, caller: &Caller, owner: &str, now: Timestamp) -> bool {
        let (credential, owner) = (caller.name(), owner.to_lowercase());
        let allowed = self.confined.get(&credential).is_none_or(|only| *only == owner);
        let noted = self
            .uses
            .entry((owner.clone(), credential.clone()))
            .or_insert(CredentialUse {
                owner,
                credential,
                calls: 0,
                first: now,
                last: now,
            });
        noted.calls += 1;
        noted.last = now;
        allowed
    }

    pub(crate) fn uses(&self) -> Vec<CredentialUse> {
        self.uses.values().cloned().collect()
    }

    /// Is this an installation of the app?
    pub(crate) fn has_installation(&self, app_id: &str, installation: u64) -> bool {
        self.apps
            .iter()
            .any(|app| app.app_id == app_id && app.installation_id == installation)
    }

    pub(crate) fn issue(&mut self, token: &str, installation: u64, now: Timestamp, expires_at: Timestamp) {
        self.installation_tokens.retain(|_, (_, expiry)| *expiry > now);
        self.installation_tokens
            .insert(token.to_owned(), (installation, expires_at));
    }

    /// The caller's limit now; a new hour starts when the last one is over.
    pub(crate) fn limit(&mut self, caller: &Caller, now: Timestamp) -> &mut Limit {
        let bucket = caller.name();
        let fresh = Limit {
            calls: self.limit,
            used: 0,
            reset: now
                .checked_add(SignedDuration::from_hours(1))
                .unwrap_or(now)
                .as_second(),
        };
        let limit = self.limits.entry(bucket).or_insert(fresh);
        if limit.reset <= now.as_second() {
            *limit = fresh;
        }
        limit
    }

    /// Changes the limit of every credential, and forgets what was used.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.limits.clear();
    }
}
