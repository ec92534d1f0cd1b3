//! Listings that are cached: all pages, single flight, and what was made of the last answer (part 92 §7).

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};

use crate::{
    auth::Credential,
    cache::{Flight, Join, Shelf},
    error::{Attempt, Error},
    rest::{GitHub, Reply, RunnerGroup, RunnerInfo, WorkflowJob, WorkflowRun, link},
    shared::Source,
    wire::Freshness,
};

/// Things per page: the most that GitHub allows.
pub(super) const PAGE_SIZE: u32 = 100;

/// No listing is believed for longer than this, by whichever clock.
const MAX_AGE: SignedDuration = SignedDuration::from_mins(1);

/// How often a caller gets into the flight of a less urgent one before it waits, too.
const MOST_TRIES: u32 = 3;

/// Far beyond GitHub's bound of 10,000 runners per scope.
const MOST_PAGES: u32 = 500;

/// A thing that GitHub lists.
pub(crate) trait Item: Clone + Send + Sync + Sized + 'static {
    /// Tells things of one listing apart.
    type Key: Eq + Hash;

    /// This thing's key.
    fn key(&self) -> Self::Key;

    /// Where a credential keeps such listings.
    fn shelf(listings: &Listings) -> &Shelf<Listing<Self>>;

    /// The things on one page. A missing list must not look like an empty one.
    fn on_page(body: &[u8]) -> serde_json::Result<Vec<Self>>;
}

/// All listings of a credential, by path.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    pub(super) runners: Shelf<Listing<RunnerInfo>>,
    pub(super) groups: Shelf<Listing<RunnerGroup>>,
    pub(super) runs: Shelf<Listing<WorkflowRun>>,
    pub(super) jobs: Shelf<Listing<WorkflowJob>>,
    /// The server lists all runners although one was asked for by its name: an older Enterprise Server.
    pub(super) ignores_names: AtomicBool,
}

/// One listing: who is asking, and what was made of the last answer.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    pub(super) flight: Flight<Arc<Vec<T>>>,
    memo: Mutex<Option<Memo<T>>>,
    confirmed: Mutex<Option<Confirmed>>,
}

/// GitHub told or confirmed all pages of a listing.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    /// When, by the injected clock.
    at: Timestamp,
    /// The same by the clock of the cache.
    since: Instant,
    /// How long the cache would answer without asking (`Cache-Control`): as long as that, what was made of the pages is as good as they are.
    lifetime: Duration,
    /// How many pages there are.
    pages: usize,
}

/// What pages with these entity tags contain, so that thousands of cached calls do not parse the same text each time.
#[derive(Debug)]
struct Memo<T> {
    etags: Vec<HeaderValue>,
    items: Arc<Vec<T>>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self {
            flight: Flight::default(),
            memo: Mutex::default(),
            confirmed: Mutex::default(),
        }
    }
}

impl<T> Listing<T> {
    /// Answers given before are worth nothing any more: something was changed.
    pub(super) fn void(&self) {
        self.flight.void();
        self.confirm(None);
    }

    fn confirm(&self, confirmed: Option<Confirmed>) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = confirmed;
    }

    fn confirmed(&self) -> Option<Confirmed> {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Age of the last answer at `now`, by the injected clock.
    fn age(&self, now: Timestamp) -> Option<SignedDuration> {
        self.confirmed().map(|confirmed| now.duration_since(confirmed.at))
    }

    /// What was made of pages that the cache would answer with, and how many they are: with thousands of runners even reading them from the cache costs.
    fn fresh(&self, now: Timestamp) -> Option<(Arc<Vec<T>>, usize)> {
        let Confirmed {
            at,
            since,
            lifetime,
            pages,
        } = self.confirmed()?;
        let age = Duration::try_from(now.duration_since(at)).ok()?;
        if age.max(since.elapsed()) >= lifetime {
            return None;
        }
        let memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        memo.as_ref().map(|memo| (Arc::clone(&memo.items), pages))
    }
}

impl<T: Item> Listing<T> {
    /// The things on all pages, each once: one that moved between pages while they were read may stand on two.
    fn read(&self, pages: &[Reply], attempt: &Attempt) -> Result<Arc<Vec<T>>, Error> {
        let etags: Option<Vec<HeaderValue>> = pages
            .iter()
            .map(|page| page.headers.get(header::ETAG).cloned())
            .collect();
        let known = || self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(etags), Some(memo)) = (&etags, &*known())
            && memo.etags == *etags
        {
            return Ok(Arc::clone(&memo.items));
        }
        let mut seen = HashSet::new();
        let mut items = Vec::new();
        for page in pages {
            let page = T::on_page(&page.body).map_err(|source| Error::malformed(attempt, source))?;
            items.extend(page.into_iter().filter(|item| seen.insert(item.key())));
        }
        let items = Arc::new(items);
        *known() = etags.filter(|etags| !etags.is_empty()).map(|etags| Memo {
            etags,
            items: Arc::clone(&items),
        });
        Ok(items)
    }
}

impl GitHub {
    /// Everything that is listed at `path`, which may have a query of its own. Callers at the same time cause one walk.
    pub(super) async fn list<T: Item>(
        &self,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Arc<Vec<T>>, Error> {
        let now = self.shared.now();
        let has_answer = |credential: &Credential| {
            let listing = T::shelf(&credential.listings).get(path);
            freshness == Freshness::Cached && listing.age(now).is_some_and(|age| age < MAX_AGE)
        };
        let work = |one: Self| async move { one.list_as_one::<T>(path, attempt, freshness).await };
        self.with_any(path, attempt, has_answer, work).await
    }

    async fn list_as_one<T: Item>(
        &self,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Arc<Vec<T>>, Error> {
        let listing = T::shelf(&self.credential.listings).get(path);
        let join = match freshness {
            Freshness::Revalidated => Join::StartedAfter,
            Freshness::Cached | Freshness::Uncached => Join::Overlapping,
        };
        // The cache goes by the system's clock; what is too old by either is confirmed.
        let is_old = listing.age(self.shared.now()).is_some_and(|age| age >= MAX_AGE);
        let freshness = match freshness {
            Freshness::Cached if is_old => Freshness::Revalidated,
            other => other,
        };
        if freshness == Freshness::Cached
            && let Some((items, pages)) = listing.fresh(self.shared.now())
        {
            self.shared.saved(attempt.family(), pages);
            return Ok(items);
        }
        let lane = self.lane(attempt.family());
        let mut tries = 0;
        loop {
            let work = self.bounded(attempt, self.walk(&listing, path, attempt, freshness));
            match listing.flight.run(join, |_| false, work).await {
                // The flight was a less urgent caller's: it waits, we need not.
                Err(Error::Held { lane: theirs, .. }) if theirs < lane && tries < MOST_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// Reads all pages; a second time when a page had changed while another came from the cache, as a thing may have moved
    /// between them.
    async fn walk<T: Item>(
        &self,
        listing: &Listing<T>,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Arc<Vec<T>>, Error> {
        let (started, asked, since) = (listing.flight.tick(), self.shared.now(), Instant::now());
        let mut pages = self.pages(path, attempt, freshness).await?;
        let from = |source| pages.iter().any(|page: &Reply| page.source == source);
        if from(Source::Full) && from(Source::Hit) {
            self.purge(path).await;
            pages = self.pages(path, attempt, freshness).await?;
        }
        let items = listing.read(&pages, attempt);
        if pages.iter().all(|page| page.source != Source::Hit) {
            let lifetimes = pages.iter().map(|page| lifetime(&page.headers));
            listing.confirm(Some(Confirmed {
                at: asked,
                since,
                lifetime: lifetimes.min().unwrap_or_default(),
                pages: pages.len(),
            }));
        }
        if listing.flight.voided_since(started) {
            // A runner was removed meanwhile: its pages are right for those who asked before, and for nobody after.
            listing.confirm(None);
            self.purge(path).await;
        }
        items
    }

    /// The pages at `path`, followed by number. A 204 is an empty list.
    pub(super) async fn pages(
        &self,
        path: &str,
        attempt: &Attempt,
        freshness: Freshness,
    ) -> Result<Vec<Reply>, Error> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut pages = Vec::new();
        for page in 1..=MOST_PAGES {
            let query = if page == 1 {
                String::new()
            } else {
                format!("&page={page}")
            };
            let path = format!("{path}{joint}per_page={PAGE_SIZE}{query}");
            let reply = self.ask(Method::GET, &path, attempt, freshness).await?;
            match reply.status {
                StatusCode::OK => {}
                StatusCode::NO_CONTENT => return Ok(pages),
                _ => return Err(self.refused(attempt, &reply)),
            }
            let is_last = link::next(&reply.headers).is_none();
            pages.push(reply);
            if is_last {
                return Ok(pages);
            }
        }
        Err(Error::TooManyPages {
            attempt: attempt.clone(),
            pages: MOST_PAGES,
        })
    }
}

/// How long a private cache may answer with a page; nothing where that is not said.
fn lifetime(headers: &HeaderMap) -> Duration {
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    let mut lifetime = Duration::ZERO;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or("no-store").split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => return Duration::ZERO,
                "max-age" => lifetime = seconds(argument.trim().trim_matches('"')).unwrap_or_default(),
                _ => {}
            }
        }
    }
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok());
    lifetime.saturating_sub(age.and_then(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_live_as_long_as_github_says() {
        let cases: [(&[(&str, &str)], u64); 8] = [
            (&[("cache-control", "private, max-age=60, s-maxage=60")], 60),
            (&[("cache-control", "private, max-age=60"), ("age", "20")], 40),
            (&[("cache-control", "max-age=5"), ("age", "20")], 0),
            (&[("cache-control", "private"), ("cache-control", "Max-Age=7")], 7),
            (&[("cache-control", "max-age=60, no-store")], 0),
            (&[("cache-control", "no-cache, max-age=60")], 0),
            (&[("cache-control", "max-age=soon")], 0),
            (&[], 0),
        ];
        for (pairs, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name: http::HeaderName = name.parse().unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(lifetime(&headers), Duration::from_secs(expected), "{pairs:?}");
        }
    }
}
