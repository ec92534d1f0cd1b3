//! Listings that are cached: all pages, single flight, and what was made of the last answer (part 92 §7).

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, Method, StatusCode, header};

use crate::{
    cache::{Flight, Join, Shelf},
    error::{Attempt, Error},
    rest::{GitHub, Reply, RunnerGroup, RunnerInfo, WorkflowJob, WorkflowRun, link},
    shared::Source,
    wire::Freshness,
};

/// Things per page: the most that GitHub allows.
pub(super) const PAGE_SIZE: u32 = 100;

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
}

/// One listing: who is asking, and what was made of the last answer.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    pub(super) flight: Flight<Arc<Vec<T>>>,
    memo: Mutex<Option<Memo<T>>>,
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
        }
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
        let listing = T::shelf(&self.credential.listings).get(path);
        let join = match freshness {
            Freshness::Revalidated => Join::StartedAfter,
            Freshness::Cached | Freshness::Uncached => Join::Overlapping,
        };
        let work = self.bounded(attempt, self.walk(&listing, path, attempt, freshness));
        listing.flight.run(join, |_| false, work).await
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
        let started = listing.flight.tick();
        let mut pages = self.pages(path, attempt, freshness).await?;
        let from = |source| pages.iter().any(|page: &Reply| page.source == source);
        if from(Source::Full) && from(Source::Hit) {
            self.purge(path).await;
            pages = self.pages(path, attempt, freshness).await?;
        }
        if listing.flight.voided_since(started) {
            // A runner was removed meanwhile: its pages are right for those who asked before, and for nobody after.
            self.purge(path).await;
        }
        listing.read(&pages, attempt)
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
