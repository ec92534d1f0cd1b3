//! Registration tokens, and listing and removing runners (spec 02 §3.5).

use std::sync::{Arc, atomic::Ordering};

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use muster_core::scope::Scope;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::{
    cache::{Join, Shelf},
    error::{Attempt, Error, message},
    lenient,
    observer::CallFamily,
    rest::{
        GitHub,
        listing::{Item, Listing, Listings},
        path,
    },
    wire::Freshness,
};

/// A cached registration token is handed out while it is good for more than this.
const REGISTRATION_TOKEN_MARGIN: SignedDuration = SignedDuration::from_mins(30);

/// What a runner needs to register.
#[derive(Clone, Debug)]
pub struct RegistrationToken {
    /// The token.
    pub token: SecretString,
    /// When it ceases to be accepted.
    pub expires_at: Timestamp,
}

/// A runner as GitHub lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunnerInfo {
    /// GitHub's id of the runner.
    pub id: u64,
    /// The name it registered with.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// `online` or `offline`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status: String,
    /// Whether it runs a job.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub busy: bool,
}

/// The answer to a removal. A runner that runs a job is not removed, which is an answer and not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// 204: removed by this call.
    Removed,
    /// 404: there is no such runner, any more (spec 02 Q5).
    Gone,
    /// 422: it runs a job.
    Busy {
        /// GitHub's explanation.
        message: String,
    },
}

#[derive(Deserialize)]
struct RunnersPage {
    runners: Vec<RunnerInfo>,
}

#[derive(Deserialize)]
struct RegistrationAnswer {
    #[serde(deserialize_with = "lenient::secret")]
    token: SecretString,
    expires_at: Timestamp,
}

impl RegistrationToken {
    /// The token's text, for a pod's environment.
    pub fn expose(&self) -> &str {
        self.token.expose_secret()
    }
}

impl Item for RunnerInfo {
    type Key = u64;

    fn key(&self) -> u64 {
        self.id
    }

    fn shelf(listings: &Listings) -> &Shelf<Listing<Self>> {
        &listings.runners
    }

    fn on_page(body: &[u8]) -> serde_json::Result<Vec<Self>> {
        serde_json::from_slice(body).map(|page: RunnersPage| page.runners)
    }
}

impl GitHub {
    /// A token for registering runners of this scope. One that is good for more than 30 minutes is shared by all who ask, and
    /// callers at the same time cause one call.
    ///
    /// # Errors
    /// [`Error`]; anything but 201 is one.
    pub async fn registration_token(&self, scope: &Scope) -> Result<RegistrationToken, Error> {
        let attempt = Attempt::new(
            CallFamily::RegistrationToken,
            format!("create a registration token for {scope}"),
        );
        let path = path::of_runners(scope, &attempt)?;
        let fresh = |token: &RegistrationToken| {
            token.expires_at.duration_since(self.shared.now()) > REGISTRATION_TOKEN_MARGIN
        };
        let work = |one: Self| {
            let (path, attempt) = (&path, &attempt);
            async move {
                let call = one.bounded(attempt, one.create_registration_token(path, attempt));
                let flight = one.credential.registrations.get(path);
                flight.run(Join::Overlapping, fresh, call).await
            }
        };
        self.with_any(&path, &attempt, |_| false, work).await
    }

    async fn create_registration_token(
        &self,
        runners: &str,
        attempt: &Attempt,
    ) -> Result<RegistrationToken, Error> {
        let path = format!("{runners}/registration-token");
        let reply = self
            .ask(Method::POST, &path, attempt, Freshness::Uncached)
            .await?;
        if reply.status != StatusCode::CREATED {
            return Err(self.refused(attempt, &reply));
        }
        let answer: RegistrationAnswer =
            serde_json::from_slice(&reply.body).map_err(|source| Error::malformed(attempt, source))?;
        Ok(RegistrationToken {
            token: answer.token,
            expires_at: answer.expires_at,
        })
    }

    /// All runners of the scope, as old as GitHub's `Cache-Control` allows (a minute at most): many callers within a minute cost
    /// one walk over the pages. A removal through this client is seen at once.
    ///
    /// # Errors
    /// [`Error`]; data that could not be confirmed when due is never returned.
    pub async fn list_runners(&self, scope: &Scope) -> Result<Arc<Vec<RunnerInfo>>, Error> {
        self.runners(scope, Freshness::Cached).await
    }

    /// All runners of the scope as of now: every page is confirmed with GitHub even when the cached copy is fresh (an unchanged
    /// page answers 304 and costs nothing of the primary rate limit).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list_runners_fresh(&self, scope: &Scope) -> Result<Arc<Vec<RunnerInfo>>, Error> {
        self.runners(scope, Freshness::Revalidated).await
    }

    /// The runner of this name as of now: by the listing's filter, one small answer, or where the server does not know the filter
    /// by a listing that is confirmed.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn find_runner(&self, scope: &Scope, name: &str) -> Result<Option<RunnerInfo>, Error> {
        let ignores_names = &self.credential.listings.ignores_names;
        let named = |runners: &[RunnerInfo]| runners.iter().find(|runner| runner.name == name).cloned();
        if !ignores_names.load(Ordering::Relaxed) {
            let what = format!("look for the runner {name} of {scope}");
            let attempt = Attempt::new(CallFamily::ListRunners, what);
            let path = path::of_runners(scope, &attempt)?;
            let path = format!("{path}?name={}", path::escaped(name));
            let work = |one: Self| {
                let (path, attempt) = (&path, &attempt);
                async move {
                    let pages = one.pages(path, attempt, Freshness::Uncached);
                    one.bounded(attempt, pages).await
                }
            };
            let pages = self.with_any(&path, &attempt, |_| false, work).await?;
            let mut found = Vec::new();
            for page in &pages {
                let page = RunnerInfo::on_page(&page.body);
                found.extend(page.map_err(|source| Error::malformed(&attempt, source))?);
            }
            if found.iter().any(|runner| !runner.name.eq_ignore_ascii_case(name)) {
                ignores_names.store(true, Ordering::Relaxed);
            }
            // All of them, or the one: either way an answer of now.
            return Ok(named(&found));
        }
        Ok(named(&self.list_runners_fresh(scope).await?))
    }

    /// Removes a runner from the scope. Afterwards its listings are read anew.
    ///
    /// # Errors
    /// [`Error`]; 404 and 422 are answers, see [`Removal`].
    pub async fn remove_runner(&self, scope: &Scope, id: u64) -> Result<Removal, Error> {
        let attempt = Attempt::new(CallFamily::RemoveRunner, format!("remove runner {id} of {scope}"));
        let listing = path::of_runners(scope, &attempt)?;
        let work = |one: Self| {
            let (listing, attempt) = (&listing, &attempt);
            async move { one.remove_as_one(scope, listing, id, attempt).await }
        };
        let removal = self.with_any(&listing, &attempt, |_| false, work).await?;
        if !matches!(removal, Removal::Busy { .. }) {
            for credential in self.pool.members() {
                credential.listings.runners.get(&listing).void();
                self.purge_of(credential, &listing).await;
            }
        }
        Ok(removal)
    }

    async fn remove_as_one(
        &self,
        scope: &Scope,
        listing: &str,
        id: u64,
        attempt: &Attempt,
    ) -> Result<Removal, Error> {
        let path = format!("{listing}/{id}");
        let reply = self
            .bounded(
                attempt,
                self.ask(Method::DELETE, &path, attempt, Freshness::Uncached),
            )
            .await?;
        match reply.status {
            StatusCode::NO_CONTENT => Ok(Removal::Removed),
            StatusCode::NOT_FOUND => {
                if self.may_be_hidden(listing) {
                    // Whoever may not see the scope would call every runner gone, busy ones too: it has to show that it may.
                    let proof = Attempt::new(CallFamily::ListRunners, format!("list the runners of {scope}"));
                    self.pages(listing, &proof, Freshness::Revalidated).await?;
                }
                Ok(Removal::Gone)
            }
            StatusCode::UNPROCESSABLE_ENTITY => Ok(Removal::Busy {
                message: message(reply.status, &reply.body, &reply.secrets),
            }),
            _ => Err(self.refused(attempt, &reply)),
        }
    }

    async fn runners(&self, scope: &Scope, freshness: Freshness) -> Result<Arc<Vec<RunnerInfo>>, Error> {
        let attempt = Attempt::new(CallFamily::ListRunners, format!("list the runners of {scope}"));
        let path = path::of_runners(scope, &attempt)?;
        self.list(&path, &attempt, freshness).await
    }
}
