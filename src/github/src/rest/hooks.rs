//! Webhooks and what GitHub remembers of their deliveries (spec 03 part 3, part 20 "Recovery"). Nothing here is cached.

use std::{collections::HashMap, fmt};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::{Attempt, Error},
    lenient,
    observer::{CallFamily, Identity},
    rest::{GitHub, RepositoryName, link, listing::PAGE_SIZE, path},
    signature,
    wire::Freshness,
};

/// A million deliveries: more than a busy organization has in the days for which GitHub remembers them.
const MOST_PAGES: u32 = 10_000;

/// A webhook whose deliveries can be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// A repository's.
    Repository {
        /// The repository.
        repository: RepositoryName,
        /// The hook's id.
        id: u64,
    },
    /// An organization's.
    Organization {
        /// The organization's login.
        login: String,
        /// The hook's id.
        id: u64,
    },
    /// The one of the GitHub App that is logged in: only an App's own JWT can read it.
    App,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { repository, id } => write!(f, "hook {id} of {repository}"),
            Self::Organization { login, id } => write!(f, "hook {id} of {login}"),
            Self::App => f.write_str("the hook of the GitHub App"),
        }
    }
}

impl Hook {
    fn deliveries(&self, attempt: &Attempt) -> Result<String, Error> {
        Ok(match self {
            Self::Repository { repository, id } => {
                format!(
                    "{}/hooks/{id}/deliveries",
                    path::of_repository(repository, attempt)?
                )
            }
            Self::Organization { login, id } => {
                format!("{}/hooks/{id}/deliveries", path::of(&["orgs", login], attempt)?)
            }
            Self::App => "/app/hook/deliveries".to_owned(),
        })
    }

    fn identity(&self) -> Identity {
        match self {
            Self::Repository { .. } | Self::Organization { .. } => Identity::Credential,
            Self::App => Identity::App,
        }
    }
}

/// A webhook as GitHub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookInfo {
    /// GitHub's id of the hook.
    pub id: u64,
    /// Whether GitHub delivers.
    pub active: bool,
    /// What it delivers; `*` is everything.
    pub events: Vec<String>,
    /// Where to; empty where GitHub does not say.
    pub url: String,
}

/// One attempt to deliver, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DeliverySummary {
    /// GitHub's id of the attempt.
    pub id: u64,
    /// The delivery's GUID, which a redelivery repeats (`X-GitHub-Delivery`).
    pub guid: String,
    /// When the attempt was made.
    pub delivered_at: Timestamp,
    /// Whether somebody asked for the delivery to be repeated.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub redelivery: bool,
    /// How it went in words, such as `OK` or `timed out`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status: String,
    /// The receiver's status code; 0 where there was none.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status_code: u16,
    /// The event's name (`X-GitHub-Event`).
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub event: String,
    /// The event's action, if it has one.
    #[serde(default, deserialize_with = "lenient::or_none")]
    pub action: Option<String>,
    /// Id of the App's installation, if it concerns one.
    #[serde(default, deserialize_with = "lenient::id")]
    pub installation_id: Option<u64>,
    /// Id of the repository, if it concerns one.
    #[serde(default, deserialize_with = "lenient::id")]
    pub repository_id: Option<u64>,
}

impl DeliverySummary {
    /// Whether the receiver answered with a 2xx.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status_code)
    }
}

/// One attempt to deliver, with its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What the listing says of it.
    pub summary: DeliverySummary,
    /// The headers of the request. The content type among them need not be that of [`Self::payload`].
    pub headers: HeaderMap,
    /// The payload as JSON, also where the hook sends forms; empty when GitHub does not have it any more. Its text is not the
    /// one that was signed: GitHub writes it anew.
    pub payload: Bytes,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Signatures and the payload stay out of logs.
        f.debug_struct("Delivery")
            .field("summary", &self.summary)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct RawHook {
    id: u64,
    #[serde(default, deserialize_with = "lenient::or_default")]
    active: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    events: Vec<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    config: RawConfig,
}

#[derive(Default, Deserialize)]
struct RawConfig {
    #[serde(default, deserialize_with = "lenient::or_default")]
    url: String,
}

/// The part of a delivery that its summary lacks.
#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    request: Option<Request<'a>>,
}

#[derive(Default, Deserialize)]
struct Request<'a> {
    #[serde(default, deserialize_with = "lenient::or_default")]
    headers: HashMap<String, serde_json::Value>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

impl Request<'_> {
    fn headers(&self) -> HeaderMap {
        let pairs = self.headers.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let value = HeaderValue::from_str(value.as_str()?).ok()?;
            Some((name, value))
        });
        pairs.collect()
    }

    fn payload(&self, headers: &HeaderMap) -> serde_json::Result<Bytes> {
        let raw = self.payload.map_or("", RawValue::get);
        if !raw.starts_with('"') {
            return Ok(Bytes::copy_from_slice(raw.as_bytes()));
        }
        // The body as it went over the wire, which for a form holds the JSON in a field.
        let body: String = serde_json::from_str(raw)?;
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        Ok(match signature::payload(content_type, body.as_bytes()) {
            Ok(json) => Bytes::copy_from_slice(&json),
            Err(_) => Bytes::from(body),
        })
    }
}

/// The pages of a hook's deliveries, newest first. Nothing is asked before [`Self::next_page`].
#[derive(Debug)]
pub struct DeliveryPages {
    github: GitHub,
    attempt: Attempt,
    path: String,
    identity: Identity,
    position: Position,
    read: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Position {
    Newest,
    At(String),
    End,
}

impl DeliveryPages {
    /// The next page of up to 100 deliveries; `None` after the last one. After an error the same page can be asked for again.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<DeliverySummary>>, Error> {
        let path = match &self.position {
            Position::Newest => format!("{}?per_page={PAGE_SIZE}", self.path),
            Position::At(cursor) => format!("{}?per_page={PAGE_SIZE}&cursor={cursor}", self.path),
            Position::End => return Ok(None),
        };
        if self.read == MOST_PAGES {
            return Err(Error::TooManyPages {
                attempt: self.attempt.clone(),
                pages: MOST_PAGES,
            });
        }
        let (github, attempt) = (&self.github, &self.attempt);
        let reply = github
            .ask_as(self.identity, Method::GET, &path, attempt, Freshness::Uncached)
            .await?;
        if reply.status != StatusCode::OK {
            return Err(github.refused(attempt, &reply));
        }
        let page = serde_json::from_slice(&reply.body).map_err(|source| Error::malformed(attempt, source))?;
        let next = match link::next(&reply.headers) {
            None => Position::End,
            // A page that cannot be reached must not look like the end.
            Some(address) => link::cursor(address)
                .map(|cursor| Position::At(cursor.to_owned()))
                .filter(|next| *next != self.position)
                .ok_or_else(|| Error::Paging {
                    attempt: attempt.clone(),
                })?,
        };
        self.position = next;
        self.read = self.read.saturating_add(1);
        Ok(Some(page))
    }

    /// Where the next page begins, for [`Self::resume`] in another process; `None` before the first page and after the last.
    pub fn cursor(&self) -> Option<&str> {
        match &self.position {
            Position::At(cursor) => Some(cursor),
            Position::Newest | Position::End => None,
        }
    }

    /// Goes on at a [`Self::cursor`] of earlier. One that cannot be a cursor is ignored.
    #[must_use]
    pub fn resume(mut self, cursor: &str) -> Self {
        if link::is_cursor(cursor) {
            self.position = Position::At(cursor.to_owned());
        }
        self
    }
}

impl GitHub {
    /// The webhooks of a repository.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn repository_hooks(&self, repository: &RepositoryName) -> Result<Vec<HookInfo>, Error> {
        let attempt = Attempt::new(CallFamily::ListHooks, format!("list the hooks of {repository}"));
        let path = path::of_repository(repository, &attempt)? + "/hooks";
        self.hooks(&path, &attempt).await
    }

    /// The webhooks of an organization.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn organization_hooks(&self, login: &str) -> Result<Vec<HookInfo>, Error> {
        let attempt = Attempt::new(CallFamily::ListHooks, format!("list the hooks of {login}"));
        let path = path::of(&["orgs", login], &attempt)? + "/hooks";
        self.hooks(&path, &attempt).await
    }

    async fn hooks(&self, path: &str, attempt: &Attempt) -> Result<Vec<HookInfo>, Error> {
        let pages = self
            .bounded(attempt, self.pages(path, attempt, Freshness::Uncached))
            .await?;
        let mut hooks: Vec<HookInfo> = Vec::new();
        for page in pages {
            let page: Vec<RawHook> =
                serde_json::from_slice(&page.body).map_err(|source| Error::malformed(attempt, source))?;
            hooks.extend(page.into_iter().map(|hook| HookInfo {
                id: hook.id,
                active: hook.active,
                events: hook.events,
                url: hook.config.url,
            }));
        }
        Ok(hooks)
    }

    /// The deliveries of a hook, newest first, to be read page by page for as long as budget and interest last.
    ///
    /// # Errors
    /// [`Error::Scope`] for a name that cannot stand in an address; no call is made.
    pub fn deliveries(&self, hook: &Hook) -> Result<DeliveryPages, Error> {
        let attempt = Attempt::new(
            CallFamily::ListDeliveries,
            format!("list the deliveries of {hook}"),
        );
        Ok(DeliveryPages {
            github: self.clone(),
            path: hook.deliveries(&attempt)?,
            attempt,
            identity: hook.identity(),
            position: Position::Newest,
            read: 0,
        })
    }

    /// The newest deliveries of a hook up to the first for which `wanted` says no, which is left out. No page is read beyond it.
    ///
    /// # Errors
    /// [`Error`]; what was read before is lost then (see [`Self::deliveries`]).
    pub async fn deliveries_while(
        &self,
        hook: &Hook,
        mut wanted: impl FnMut(&DeliverySummary) -> bool,
    ) -> Result<Vec<DeliverySummary>, Error> {
        let mut pages = self.deliveries(hook)?;
        let mut found = Vec::new();
        while let Some(page) = pages.next_page().await? {
            for delivery in page {
                if !wanted(&delivery) {
                    return Ok(found);
                }
                found.push(delivery);
            }
        }
        Ok(found)
    }

    /// One delivery with its headers and payload.
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] when GitHub has forgotten the delivery or does not know the hook.
    pub async fn get_delivery(&self, hook: &Hook, id: u64) -> Result<Delivery, Error> {
        let attempt = Attempt::new(CallFamily::GetDelivery, format!("read delivery {id} of {hook}"));
        let path = format!("{}/{id}", hook.deliveries(&attempt)?);
        let reply = self
            .ask_as(hook.identity(), Method::GET, &path, &attempt, Freshness::Uncached)
            .await?;
        if reply.status != StatusCode::OK {
            return Err(self.refused(&attempt, &reply));
        }
        let malformed = |source| Error::malformed(&attempt, source);
        let summary = serde_json::from_slice(&reply.body).map_err(malformed)?;
        let content: Content<'_> = serde_json::from_slice(&reply.body).map_err(malformed)?;
        let request = content.request.unwrap_or_default();
        let headers = request.headers();
        let payload = request.payload(&headers).map_err(malformed)?;
        Ok(Delivery {
            summary,
            headers,
            payload,
        })
    }
}
