//! What all GitHub clients of a process have in common: connections, the cache store, clock, observer, deadlines.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use http::{Extensions, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

use crate::{
    auth::{Credential, CredentialId, Login},
    cache::{self, Store},
    error::{BuildError, Error},
    observer::{NoObserver, Observer},
    urls::Urls,
    wire::{Call, Report, Wire},
};

/// A source of the present instant, for token expiry and rate limits. (HTTP freshness follows the system clock.)
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The common part of a process' GitHub clients; build one and keep it. Clones are the same thing.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    http: ClientWithMiddleware,
    /// The same connections without cache, budget and login, for what is not GitHub's API.
    plain: reqwest::Client,
    store: Store,
    clock: Clock,
    observer: Arc<dyn Observer>,
    user_agent: HeaderValue,
    request_timeout: Duration,
    operation_timeout: Duration,
    credentials: Mutex<HashMap<CredentialId, Weak<Credential>>>,
    calls_per_hour: Option<u64>,
}

/// The budget of one credential as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    /// The credential's name.
    pub credential: String,
    /// Whether GitHub accepts it, as far as is known.
    pub is_accepted: bool,
    /// End of a secondary limit that holds for all its calls.
    pub blocked_until: Option<Timestamp>,
    /// What is left, by bucket; empty while GitHub has stated no limits.
    pub buckets: Vec<BucketView>,
    /// Calls that had to wait so far, by lane (as in [`crate::Lane::ALL`]).
    pub waits: [u64; 3],
    /// Calls that GitHub refused for the primary limit, and for a secondary one.
    pub refusals: [u64; 2],
}

/// What is left in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// GitHub's name of the bucket: `core`, `actions_runner_registration`, …; `app/core` for an App's own calls, `cap` for the configured
    /// calls per hour.
    pub bucket: String,
    /// Calls per hour.
    pub limit: u64,
    /// Calls left, those under way taken off.
    pub remaining: u64,
    /// When the hour ends.
    pub reset_at: Timestamp,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("user_agent", &self.0.user_agent)
            .finish_non_exhaustive()
    }
}

/// Settings of [`Shared`]; every one has a default.
pub struct SharedBuilder {
    clock: Clock,
    observer: Arc<dyn Observer>,
    version: String,
    connect_timeout: Duration,
    request_timeout: Duration,
    operation_timeout: Duration,
    max_body: usize,
    system_proxy: bool,
    calls_per_hour: Option<u64>,
}

impl fmt::Debug for SharedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuilder")
            .field("version", &self.version)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_body", &self.max_body)
            .field("system_proxy", &self.system_proxy)
            .field("calls_per_hour", &self.calls_per_hour)
            .finish_non_exhaustive()
    }
}

impl SharedBuilder {
    /// Receives what happens on the wire; by default nobody does.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// The version in `User-Agent: actions-runner-controller/<version>`; by default `NA`, as upstream's development builds say.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// How long connecting may take, TLS included; by default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take, connecting and the last byte of its answer included; by default 20 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long one operation may take, with all its requests (pages, login); by default 60 s.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// The largest answer that is read, in bytes; by default 32 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The most calls that each credential makes in an hour, whatever GitHub allows; by default only GitHub's own limits count. For servers
    /// that state none, and for credentials that others use too.
    #[must_use]
    pub fn calls_per_hour(mut self, calls: u64) -> Self {
        self.calls_per_hour = Some(calls);
        self
    }

    /// Ignores the proxy variables of the environment, for loopback.
    #[must_use]
    pub fn without_proxy(mut self) -> Self {
        self.system_proxy = false;
        self
    }

    /// Builds it. The process-wide rustls provider is used if there is one, else aws-lc-rs.
    ///
    /// # Errors
    /// [`BuildError`] when the version cannot stand in a header or the HTTP client cannot be set up.
    pub fn build(self) -> Result<Shared, BuildError> {
        let user_agent = HeaderValue::from_str(&format!("actions-runner-controller/{}", self.version))
            .map_err(|_| BuildError::Characters { what: "version" })?;
        let client = reqwest::Client::builder()
            .connect_timeout(self.connect_timeout)
            .timeout(self.request_timeout)
            .redirect(reqwest::redirect::Policy::custom(follow_on_the_same_host));
        let client = if self.system_proxy {
            client
        } else {
            client.no_proxy()
        };
        let client = client.build().map_err(|error| BuildError::HttpClient {
            reason: error.to_string(),
        })?;
        let store = cache::store();
        let wire = Wire {
            clock: Arc::clone(&self.clock),
            observer: Arc::clone(&self.observer),
            max_body: self.max_body,
        };
        Ok(Shared(Arc::new(Inner {
            plain: client.clone(),
            http: ClientBuilder::new(client)
                .with(cache::layer(store.clone()))
                .with(wire)
                .build(),
            store,
            clock: self.clock,
            observer: self.observer,
            user_agent,
            request_timeout: self.request_timeout,
            operation_timeout: self.operation_timeout,
            credentials: Mutex::default(),
            calls_per_hour: self.calls_per_hour,
        })))
    }
}

/// Renamed repositories answer with a redirect on the same host; a credential must not follow one to elsewhere, nor to a log that is kept on
/// the same host: that is fetched without it.
fn follow_on_the_same_host(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let to_log = attempt.status() == StatusCode::FOUND
        && attempt
            .previous()
            .last()
            .is_some_and(|previous| previous.path().ends_with("/logs"));
    let same_host = attempt
        .previous()
        .last()
        .is_some_and(|previous| previous.origin() == attempt.url().origin());
    if same_host && !to_log && attempt.previous().len() <= 5 {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

impl Shared {
    /// Begins with the defaults and this clock.
    pub fn builder(clock: Clock) -> SharedBuilder {
        SharedBuilder {
            clock,
            observer: Arc::new(NoObserver),
            version: "NA".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_mins(1),
            max_body: 32 << 20,
            system_proxy: true,
            calls_per_hour: None,
        }
    }

    /// The budgets of all credentials in use, by name.
    pub fn budgets(&self) -> Vec<BudgetView> {
        let credentials: Vec<Arc<Credential>> = {
            let credentials = self.0.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            credentials.values().filter_map(Weak::upgrade).collect()
        };
        let now = self.now();
        let mut views: Vec<BudgetView> = credentials
            .iter()
            .map(|credential| {
                let (windows, blocked_until, counts) = credential.limits.report(now);
                let buckets = windows.into_iter().map(|(bucket, seen)| BucketView {
                    bucket,
                    limit: seen.limit,
                    remaining: seen.remaining,
                    reset_at: seen.reset_at,
                });
                BudgetView {
                    credential: credential.name.to_string(),
                    is_accepted: !credential.is_refused(now),
                    blocked_until,
                    buckets: buckets.collect(),
                    waits: counts.waits,
                    refusals: [counts.primary, counts.secondary],
                }
            })
            .collect();
        views.sort_by(|a, b| a.credential.cmp(&b.credential));
        views
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    pub(crate) fn user_agent(&self) -> HeaderValue {
        self.0.user_agent.clone()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    pub(crate) fn operation_timeout(&self) -> Duration {
        self.0.operation_timeout
    }

    /// The client for addresses that GitHub named, to which no credential is sent.
    pub(crate) fn plain(&self) -> &reqwest::Client {
        &self.0.plain
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.0.observer
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// The credential, shared with all clients that were built from equal settings and still live.
    pub(crate) fn credential(&self, login: &Login, urls: &Urls) -> Result<Arc<Credential>, BuildError> {
        let id = Credential::id_of(&login.auth, urls);
        let known = |map: &HashMap<CredentialId, Weak<Credential>>| map.get(&id).and_then(Weak::upgrade);
        let lock = || self.0.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = known(&lock()) {
            return Ok(credential);
        }
        // Reading a key takes a while: not under the lock.
        let credential = Arc::new(Credential::new(login, urls, self.0.calls_per_hour, self.now())?);
        let mut credentials = lock();
        credentials.retain(|_, credential| credential.strong_count() > 0);
        if let Some(credential) = known(&credentials) {
            return Ok(credential);
        }
        credentials.insert(id, Arc::downgrade(&credential));
        Ok(credential)
    }

    /// Sends a request through cache and wire. Refusals are answers here; everything that is not GitHub's present (or, within
    /// its freshness, recent) word is an error: a stored answer that could not be revalidated among them.
    pub(crate) async fn exchange(
        &self,
        request: reqwest::Request,
        call: Call,
    ) -> Result<(http::Response<reqwest::Body>, Source), Error> {
        let mut extensions = Extensions::new();
        let attempt = call.attempt.clone();
        extensions.insert(call);
        let result = self
            .0
            .http
            .execute_with_extensions(request, &mut extensions)
            .await;
        let report = extensions.remove::<Report>();
        match (result, report) {
            // Also where the cache papered over a failure with a stale copy (part 92 §6 D3).
            (_, Some(Report::Failed(error))) => Err(error),
            (Ok(response), report) => {
                let response = http::Response::<reqwest::Body>::from(response);
                match report {
                    Some(Report::Answered {
                        refusal: Some(error), ..
                    }) if is_stale(&response) => Err(error),
                    _ if is_stale(&response) => Err(Error::Stale { attempt }),
                    Some(Report::Answered {
                        status: StatusCode::NOT_MODIFIED,
                        ..
                    }) => Ok((response, Source::Revalidated)),
                    Some(Report::Answered { .. }) => Ok((response, Source::Full)),
                    Some(Report::Failed(error)) => Err(error),
                    None => {
                        self.0.observer.cache_hit(attempt.family());
                        Ok((response, Source::Hit))
                    }
                }
            }
            (Err(source), _) => Err(Error::internal(attempt, source)),
        }
    }

    /// So many calls were answered without GitHub.
    pub(crate) fn saved(&self, family: crate::CallFamily, calls: usize) {
        for _ in 0..calls {
            self.0.observer.cache_hit(family);
        }
    }
}

/// A stored answer whose revalidation failed carries warning 111.
fn is_stale(response: &http::Response<reqwest::Body>) -> bool {
    response
        .headers()
        .get_all(header::WARNING)
        .iter()
        .any(|value| value.as_bytes().starts_with(b"111"))
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The cache, without asking.
    Hit,
    /// The cache, after GitHub confirmed it.
    Revalidated,
    /// GitHub.
    Full,
}
