//! The cache policy: one bounded store per process, keys per credential, single flight, and purging (part 92 §6 and §7).

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::request::Parts;
use http_cache_reqwest::{
    Cache, CacheMode, CacheOptions, HttpCache, HttpCacheOptions, HttpResponse, MokaManager,
};
use tokio::sync::Mutex;

use crate::{
    auth::CredentialId,
    error::Error,
    wire::{Call, Freshness},
};

/// What the cache keeps: answers of listings, as bytes that include the request's `Authorization`. In memory only.
pub(crate) type Store = moka::future::Cache<String, Arc<Vec<u8>>>;

/// Bound of the store in bytes of keys and answers.
const CAPACITY: u64 = 32 << 20;

/// Longer than any freshness, so that the `ETag` is still there when it is needed.
const IDLE: Duration = Duration::from_mins(15);

/// No listing is believed for longer than this, whatever GitHub says.
const MAX_TTL: Duration = Duration::from_mins(1);

pub(crate) fn store() -> Store {
    moka::future::Cache::builder()
        .max_capacity(CAPACITY)
        .weigher(|key: &String, value: &Arc<Vec<u8>>| {
            u32::try_from(key.len().saturating_add(value.len())).unwrap_or(u32::MAX)
        })
        .time_to_idle(IDLE)
        .support_invalidation_closures()
        .build()
}

/// The middleware over `store`. Requests say through their [`Call`] extension whose they are and how fresh they must be.
pub(crate) fn layer(store: Store) -> Cache<MokaManager> {
    let options = HttpCacheOptions {
        // GitHub's `private` answers are not storable by a shared cache, and must never be guessed to be fresh.
        cache_options: Some(CacheOptions {
            shared: false,
            cache_heuristic: 0.0,
            ..CacheOptions::default()
        }),
        cache_key: Some(Arc::new(|parts: &Parts| match parts.extensions.get::<Call>() {
            Some(call) => key(&call.credential.id, parts.method.as_str(), &parts.uri.to_string()),
            None => String::new(),
        })),
        cache_mode_fn: Some(Arc::new(|parts: &Parts| match parts.extensions.get::<Call>() {
            Some(Call {
                freshness: Freshness::Cached,
                ..
            }) => CacheMode::Default,
            Some(Call {
                freshness: Freshness::Revalidated,
                ..
            }) => CacheMode::NoCache,
            Some(Call {
                freshness: Freshness::Uncached,
                ..
            })
            | None => CacheMode::NoStore,
        })),
        // The library would also keep 204, 301, 404 and others, and drop a warning that came with an answer.
        response_cache_mode_fn: Some(Arc::new(|_: &Parts, response: &HttpResponse| {
            (response.status != 200 || response.headers.contains_key("warning")).then_some(CacheMode::NoStore)
        })),
        max_ttl: Some(MAX_TTL),
        ..HttpCacheOptions::default()
    };
    Cache(HttpCache {
        mode: CacheMode::NoStore,
        manager: MokaManager::new(store),
        options,
    })
}

fn key(credential: &CredentialId, method: &str, uri: &str) -> String {
    format!("{credential} {method} {uri}")
}

/// Forgets every page of the listing at `address` (absolute, with the query that all its pages have, if any) for this credential.
pub(crate) async fn purge(store: &Store, credential: &CredentialId, address: &str) {
    let listing = key(credential, "GET", address);
    let joint = if address.contains('?') { '&' } else { '?' };
    let is_page = move |key: &String, _: &Arc<Vec<u8>>| {
        key.strip_prefix(listing.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(joint))
    };
    // An error would mean a store without invalidation closures, which `store` does not build.
    if store.invalidate_entries_if(is_page).is_err() {
        store.invalidate_all();
    }
    // Drops the predicate again: thousands of removals must not leave thousands of predicates to be asked on each read.
    store.run_pending_tasks().await;
}

/// Things by the path that they belong to, made when first asked for.
#[derive(Debug)]
pub(crate) struct Shelf<T>(std::sync::Mutex<HashMap<String, Arc<T>>>);

/// Things that stand on a shelf before those that nobody uses are forgotten.
const MOST_IDLE: usize = 256;

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(std::sync::Mutex::default())
    }
}

impl<T: Default> Shelf<T> {
    /// The thing for `path`; idle ones are forgotten when there are many.
    pub(crate) fn get(&self, path: &str) -> Arc<T> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = map.get(path) {
            return Arc::clone(found);
        }
        if map.len() >= MOST_IDLE {
            map.retain(|_, value| Arc::strong_count(value) > 1);
        }
        Arc::clone(map.entry(path.to_owned()).or_default())
    }
}

/// Which result of somebody else's flight a caller accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// One that landed after the caller arrived.
    Overlapping,
    /// One that took off after the caller arrived, so that it cannot be older than the question.
    StartedAfter,
}

/// Work that is done once for all who ask at the same time; they share its result, errors included, so that a GitHub that does
/// not answer costs a crowd of callers one deadline and not one each.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    /// Counts arrivals, take-offs and landings, which orders them.
    ticks: AtomicU64,
    /// The tick at which earlier flights became worthless.
    voided: AtomicU64,
    slot: Mutex<Option<Landed<T>>>,
}

#[derive(Debug)]
struct Landed<T> {
    started: u64,
    finished: u64,
    outcome: Result<T, Error>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self {
            ticks: AtomicU64::new(1),
            voided: AtomicU64::new(0),
            slot: Mutex::new(None),
        }
    }
}

impl<T> Flight<T> {
    /// A tick later than everything that has happened so far.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes results of flights that have already taken off unacceptable to callers that arrive from now on.
    pub(crate) fn void(&self) {
        self.voided.fetch_max(self.tick(), Ordering::SeqCst);
    }

    /// Whether [`Self::void`] was called after `tick`.
    pub(crate) fn voided_since(&self, tick: u64) -> bool {
        self.voided.load(Ordering::SeqCst) > tick
    }

    /// Forgets a result that `unwanted` says is worthless.
    pub(crate) async fn forget_if(&self, unwanted: impl FnOnce(&T) -> bool) {
        let mut slot = self.slot.lock().await;
        if slot
            .as_ref()
            .is_some_and(|landed| landed.outcome.as_ref().is_ok_and(unwanted))
        {
            *slot = None;
        }
    }
}

impl<T: Clone> Flight<T> {
    /// The result of the last flight if the caller may `join` it or `good` says that it is still good, else of `work`.
    /// A caller that gives up during its work leaves nothing behind: the next one takes over.
    pub(crate) async fn run(
        &self,
        join: Join,
        good: impl FnOnce(&T) -> bool,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let arrived = self.tick();
        let mut slot = self.slot.lock().await;
        if let Some(landed) = slot.as_ref() {
            let joined = match join {
                Join::Overlapping => landed.finished > arrived,
                Join::StartedAfter => landed.started > arrived,
            };
            // Those that arrived before the void are content with what was true when they asked.
            let voided = self.voided.load(Ordering::SeqCst);
            let joined = joined && (landed.started > voided || arrived < voided);
            match &landed.outcome {
                Ok(value) if joined || good(value) => return Ok(value.clone()),
                Err(error) if joined => return Err(error.clone()),
                _ => {}
            }
        }
        let started = self.tick();
        let outcome = work.await;
        let finished = self.tick();
        *slot = Some(Landed {
            started,
            finished,
            outcome: outcome.clone(),
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::atomic::AtomicU32};

    use super::*;
    use crate::{error::Attempt, observer::CallFamily};

    async fn count(calls: &AtomicU32) -> Result<u32, Error> {
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        Ok(calls.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn never<T>(_: &T) -> bool {
        false
    }

    #[tokio::test]
    async fn callers_that_meet_share_one_flight_and_later_ones_do_not() {
        let (flight, calls) = (Flight::default(), AtomicU32::new(0));
        let ask = || flight.run(Join::Overlapping, never, count(&calls));
        let shared = futures::future::join_all((0..8).map(|_| ask())).await;
        assert_eq!(shared.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1; 8]);
        assert_eq!(ask().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_caller_that_wants_the_present_does_not_accept_a_flight_that_had_taken_off() {
        let (flight, calls) = (Flight::default(), AtomicU32::new(0));
        let ask = |join| flight.run(join, never, count(&calls));
        let all = futures::future::join(
            ask(Join::Overlapping),
            futures::future::join_all((0..4).map(|_| ask(Join::StartedAfter))),
        );
        let (first, fresh) = all.await;
        assert_eq!(first.unwrap(), 1);
        assert_eq!(fresh.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [2; 4]);
    }

    #[tokio::test]
    async fn a_flight_that_took_off_before_a_removal_is_not_joined_after_it() {
        let (flight, calls) = (Flight::default(), AtomicU32::new(0));
        let ask = || flight.run(Join::Overlapping, never, count(&calls));
        let late = async {
            tokio::task::yield_now().await;
            flight.void();
            ask().await
        };
        let (first, second, late) = futures::future::join3(ask(), ask(), late).await;
        assert_eq!((first.unwrap(), second.unwrap(), late.unwrap()), (1, 1, 2));
    }

    #[tokio::test]
    async fn errors_are_shared_but_not_kept() {
        let (flight, calls) = (Flight::<Infallible>::default(), AtomicU32::new(0));
        let ask = || {
            flight.run(Join::Overlapping, never, async {
                count(&calls).await.unwrap();
                let attempt = Attempt::new(CallFamily::ListRunners, "list");
                Err(Error::Deadline { attempt, after: None })
            })
        };
        let shared = futures::future::join_all((0..8).map(|_| ask())).await;
        assert!(shared.iter().all(Result::is_err));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        ask().await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_hands_over() {
        let (flight, calls) = (Flight::default(), AtomicU32::new(0));
        let stuck = flight.run(
            Join::Overlapping,
            never,
            std::future::pending::<Result<u32, Error>>(),
        );
        tokio::select! {
            biased;
            _ = stuck => unreachable!(),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(
            flight.run(Join::Overlapping, never, count(&calls)).await.unwrap(),
            1
        );
    }

    #[tokio::test]
    async fn a_purge_takes_the_listings_pages_and_nothing_else() {
        use secrecy::SecretString;
        let urls = crate::Urls::resolve(&crate::UrlSettings::default()).unwrap();
        let id = |token: &str| {
            crate::auth::Credential::id_of(&crate::Auth::Token(SecretString::from(token)), &urls)
        };
        let store = store();
        let address = "https://api.github.com/orgs/acme/actions/runners";
        let goes = [
            key(&id("a"), "GET", address),
            key(&id("a"), "GET", &format!("{address}?per_page=100&page=2")),
        ];
        let stays = [
            key(&id("b"), "GET", address),
            key(&id("a"), "GET", &format!("{address}-x?per_page=100")),
            key(&id("a"), "GET", &format!("{address}/7")),
        ];
        for key in goes.iter().chain(&stays) {
            store.insert(key.clone(), Arc::new(vec![0; 9])).await;
        }
        purge(&store, &id("a"), address).await;
        for key in &goes {
            assert!(store.get(key).await.is_none(), "{key}");
        }
        for key in &stays {
            assert!(store.get(key).await.is_some(), "{key}");
        }
        store.insert(goes[0].clone(), Arc::new(vec![0; 9])).await;
        assert!(
            store.get(&goes[0]).await.is_some(),
            "what is stored after the purge stays"
        );
        assert!(store.weighted_size() > 0);
    }

    #[tokio::test]
    async fn a_purge_keeps_listings_of_another_query() {
        let urls = crate::Urls::resolve(&crate::UrlSettings::default()).unwrap();
        let token = crate::Auth::Token(secrecy::SecretString::from("a"));
        let id = crate::auth::Credential::id_of(&token, &urls);
        let store = store();
        let runs = "https://api.github.com/repos/acme/api/actions/runs";
        let goes = key(&id, "GET", &format!("{runs}?status=queued&per_page=100&page=2"));
        let stays = [
            key(&id, "GET", &format!("{runs}?status=queued_x&per_page=100")),
            key(&id, "GET", &format!("{runs}?status=in_progress&per_page=100")),
            key(&id, "GET", &format!("{runs}?per_page=1")),
        ];
        for key in stays.iter().chain([&goes]) {
            store.insert(key.clone(), Arc::new(vec![0; 9])).await;
        }
        purge(&store, &id, &format!("{runs}?status=queued")).await;
        assert!(store.get(&goes).await.is_none());
        for key in &stays {
            assert!(store.get(key).await.is_some(), "{key}");
        }
    }

    #[test]
    fn a_shelf_forgets_what_nobody_uses() {
        let shelf = Shelf::<AtomicU32>::default();
        let used = shelf.get("used");
        used.store(7, Ordering::SeqCst);
        for at in 0..MOST_IDLE * 2 {
            shelf.get(&format!("/{at}")).store(1, Ordering::SeqCst);
        }
        assert!(shelf.0.lock().unwrap().len() <= MOST_IDLE);
        assert_eq!(shelf.get("used").load(Ordering::SeqCst), 7);
        assert_eq!(shelf.get("/0").load(Ordering::SeqCst), 0);
    }
}
