//! The calls that Muster makes: registration tokens, runners, runner groups, workflow runs and jobs, hooks and their deliveries
//! (spec 02 §3.5, part 20 "Recovery").
//!
//! octocrab builds requests and carries them to the leaf, which knows the address, logs in and speaks to the cache. Answers are
//! read into structs of our own, which are more lenient than octocrab's models and cover enterprises too (part 92 §8).

mod groups;
mod hooks;
mod leaf;
mod link;
mod listing;
mod logs;
mod path;
mod pooled;
mod repositories;
mod runners;
mod runs;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use octocrab::{AuthState, Octocrab, OctocrabBuilder};

use self::leaf::{Leaf, Sent};
pub(crate) use self::listing::Listings;
pub use self::{
    groups::RunnerGroup,
    hooks::{Delivery, DeliveryPages, DeliverySummary, Hook, HookInfo},
    path::RepositoryName,
    runners::{RegistrationToken, Removal, RunnerInfo},
    runs::{RunStatus, WorkflowJob, WorkflowRun},
};
use crate::{
    auth::{Auth, Credential, Login, secrets_in},
    budget::Lane,
    cache,
    error::{Attempt, BuildError, Error, refusal},
    observer::{CallFamily, Identity},
    pool::Pool,
    shared::{Shared, Source},
    urls::Urls,
    wire::{Call, Freshness},
};

/// What all calls accept; upstream's value (spec 02 §3.3).
pub(crate) const ACCEPT: HeaderValue = HeaderValue::from_static("application/vnd.github.v3+json");

/// The API version that octocrab asks for, for the one call that does not go through it.
pub(crate) const API_VERSION: HeaderValue = HeaderValue::from_static("2022-11-28");

/// A client for one GitHub with one credential, or several that may be used for each other. Clones are cheap and the same thing.
#[derive(Clone)]
pub struct GitHub {
    octocrab: Octocrab,
    shared: Shared,
    /// The credential of this call; of those in the pool the first where nobody has chosen.
    credential: Arc<Credential>,
    /// Its position in the pool.
    member: usize,
    pool: Arc<Pool>,
    /// How urgent the calls are; by default that depends on the call.
    lane: Option<Lane>,
    urls: Arc<Urls>,
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub")
            .field("urls", &self.urls)
            .field("credentials", &self.pool.members())
            .finish_non_exhaustive()
    }
}

pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    source: Source,
    /// What an error must not repeat of this answer.
    secrets: Vec<String>,
}

impl GitHub {
    /// A client for this credential at these addresses. No call is made, but key and token are checked for their form. Clients
    /// of equal credentials and addresses share their tokens, limits and cached listings.
    ///
    /// # Errors
    /// [`BuildError`] for a key that is none, a token that cannot be sent, or when called outside of a tokio runtime.
    pub fn new(auth: Auth, urls: Urls, shared: &Shared) -> Result<Self, BuildError> {
        Self::pooled(vec![Login::new("default", auth)], urls, shared)
    }

    /// As [`Self::new`] with several credentials that may be used for each other: each question goes to the one that has most left of
    /// its budget and may see the place. Deliveries of an App's hook are asked of the first only.
    ///
    /// # Errors
    /// As [`Self::new`], and for no credential at all.
    pub fn pooled(logins: Vec<Login>, urls: Urls, shared: &Shared) -> Result<Self, BuildError> {
        for (what, address) in [("API", &urls.api), ("app token", &urls.app_token)] {
            let usable = reqwest::Url::parse(address)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !usable {
                return Err(BuildError::Address { what });
            }
        }
        // octocrab starts a task for its queue and would panic without a runtime.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        let mut members: Vec<Arc<Credential>> = Vec::with_capacity(logins.len());
        for login in &logins {
            let credential = shared.credential(login, &urls)?;
            if !members.iter().any(|member| member.id == credential.id) {
                members.push(credential);
            }
        }
        // The secrets are not needed any more: dropping them here wipes the caller's copies.
        drop(logins);
        let credential = members.first().cloned();
        let credential = credential.ok_or(BuildError::Empty {
            what: "list of credentials",
        })?;
        let leaf = Leaf {
            base: urls.api.trim_end_matches('/').into(),
            shared: shared.clone(),
        };
        let octocrab = match OctocrabBuilder::new_empty()
            .with_service(leaf)
            .with_auth(AuthState::None)
            .build()
        {
            Ok(octocrab) => octocrab,
            Err(never) => match never {},
        };
        Ok(Self {
            octocrab,
            shared: shared.clone(),
            credential,
            member: 0,
            pool: Arc::new(Pool::new(members)),
            lane: None,
            urls: Arc::new(urls),
        })
    }

    /// The same client for calls of this urgency, whatever they ask.
    #[must_use]
    pub fn in_lane(&self, lane: Lane) -> Self {
        Self {
            lane: Some(lane),
            ..self.clone()
        }
    }

    /// The lane of such a call.
    fn lane(&self, family: CallFamily) -> Lane {
        self.lane.unwrap_or_else(|| Lane::of(family))
    }

    /// What runner pods get as `GITHUB_URL`; ends in a slash.
    pub fn runner_base_url(&self) -> &str {
        &self.urls.runner
    }

    /// One request through octocrab, with a deadline that covers login and body.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Reply, Error> {
        self.ask_as(Identity::Credential, method, path, attempt, freshness)
            .await
    }

    /// As [`Self::ask`], with the GitHub App's own login if `identity` says so.
    async fn ask_as(
        &self,
        identity: Identity,
        method: Method,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Reply, Error> {
        let call = Call {
            attempt: attempt.clone(),
            credential: Arc::clone(&self.credential),
            identity,
            lane: self.lane(attempt.family()),
            freshness,
        };
        let request = http::request::Builder::new()
            .method(method)
            .uri(path)
            .extension(call);
        let request = self
            .octocrab
            .build_request(request, None::<&()>)
            .map_err(|e| typed(attempt, e))?;
        let answer = async {
            let response = self
                .octocrab
                .execute(request)
                .await
                .map_err(|e| typed(attempt, e))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| typed(attempt, e))?.to_bytes();
            let source = parts.extensions.get::<Source>().copied().unwrap_or(Source::Full);
            let secrets = parts
                .extensions
                .get::<Sent>()
                .map(|sent| secrets_in(&sent.0))
                .unwrap_or_default();
            Ok(Reply {
                status: parts.status,
                headers: parts.headers,
                body,
                source,
                secrets,
            })
        };
        // The HTTP client has this deadline too, but knows nothing of what stands before it.
        let deadline = self.shared.request_timeout().saturating_mul(2);
        // Boxed, as octocrab's future is large and every caller's would contain it.
        within(deadline, attempt, Box::pin(answer)).await
    }

    async fn bounded<T>(
        &self,
        attempt: &Attempt,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        within(self.shared.operation_timeout(), attempt, work).await
    }

    fn refused(&self, attempt: &Attempt, reply: &Reply) -> Error {
        refusal(
            attempt,
            reply.status,
            &reply.headers,
            &reply.body,
            &reply.secrets,
            self.shared.now(),
        )
    }

    /// Forgets this credential's copies of the listing.
    async fn purge(&self, path: &str) {
        self.purge_of(&self.credential, path).await;
    }

    async fn purge_of(&self, credential: &Credential, path: &str) {
        let address = format!("{}{path}", self.urls.api.trim_end_matches('/'));
        cache::purge(self.shared.store(), &credential.id, &address).await;
    }
}

async fn within<T>(
    deadline: Duration,
    attempt: &Attempt,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        Err(Error::Deadline {
            attempt: attempt.clone(),
            after: Some(deadline),
        })
    })
}

/// Our own error out of octocrab's wrapping.
fn typed(attempt: &Attempt, error: octocrab::Error) -> Error {
    match error {
        octocrab::Error::Service { source, .. } => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Internal {
                attempt: attempt.clone(),
                source: Arc::from(source),
            },
        },
        other => Error::internal(attempt.clone(), other),
    }
}
