//! One GitHub client per credential (spec 02 §4).
//!
//! The process-wide client is made of flags and environment; others of Secrets in the namespace of the object that names them. Each Secret in use is watched, metadata
//! only, and its client is made anew when it changed: rotation needs no restart. Where the watch is not allowed or broken the Secret is read again after a few seconds.
//! A client that nobody uses for an hour goes, with its watch.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use muster_crds::{keys, legacy::GitHubApiCredentialsFrom};
use muster_github::{GitHub, Shared, UrlSettings, Urls};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::{Error, is_not_found},
    logins::logins,
};

/// A rotated Secret is in use this soon without a watch.
const REREAD: SignedDuration = SignedDuration::from_secs(5);
const IDLE: SignedDuration = SignedDuration::from_hours(1);
/// Secrets that wait for their watch; one that finds no room is read again and again.
const WANTED: usize = 1_024;
/// Time between two sweeps of what nobody uses any more.
const SWEEP: Duration = Duration::from_mins(5);

/// Namespace and name of a Secret.
type Key = (String, String);
type Seen = (
    Key,
    Result<watcher::Event<PartialObjectMeta<Secret>>, watcher::Error>,
);

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
    /// [`Watch::news`] when the Secret was about to be read.
    read_after: u64,
}

/// The watch of a Secret, whether or not there is one.
#[derive(Debug)]
struct Watch {
    /// It works: what it has not reported has not happened.
    live: bool,
    /// How often it reported something.
    news: u64,
    used_at: Timestamp,
    _end: DropGuard,
}

#[derive(Debug, Default)]
struct BySecret {
    entries: HashMap<Key, Entry>,
    watches: HashMap<Key, Watch>,
}

impl BySecret {
    fn sweep(&mut self, now: Timestamp) {
        let Self { entries, watches } = self;
        watches.retain(|_, watch| now.duration_since(watch.used_at) < IDLE);
        entries.retain(|key, _| watches.contains_key(key));
    }
}

/// All clients of the process.
pub struct Clients {
    kube: Client,
    default: DefaultClient,
    by_secret: Mutex<BySecret>,
    /// Secrets to be watched, with the end of each watch.
    wanted: mpsc::Sender<(Key, CancellationToken)>,
    to_watch: Mutex<Option<mpsc::Receiver<(Key, CancellationToken)>>>,
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
        let (wanted, to_watch) = mpsc::channel(WANTED);
        Self {
            kube,
            default,
            by_secret: Mutex::default(),
            wanted,
            to_watch: Mutex::new(Some(to_watch)),
        }
    }

    /// Watches the Secrets in use until `shutdown`; `changed` is told the namespace of one that came, changed or went. Where this does not run (a replica that does
    /// not lead), Secrets are read again after a few seconds.
    pub(crate) async fn follow(
        &self,
        now: impl Fn() -> Timestamp,
        changed: impl Fn(&str),
        shutdown: CancellationToken,
    ) {
        let receiver = self
            .to_watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut wanted) = receiver else { return };
        let mut watches = futures::stream::SelectAll::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                Some((key, end)) = wanted.recv() => watches.push(self.watch(key, end)),
                Some((key, event)) = watches.next(), if !watches.is_empty() => {
                    if self.saw(&key, event) {
                        tracing::info!(object = %format_args!("{}/{}", key.0, key.1), "A Secret with a GitHub login came, changed or went; it is read anew.");
                        changed(&key.0);
                    }
                }
                _ = sweep.tick() => self.lock().sweep(now()),
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn watch(&self, key: Key, end: CancellationToken) -> BoxStream<'static, Seen> {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.kube.clone(), &key.0);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
        watcher(api, only)
            .default_backoff()
            .map(move |event| (key.clone(), event))
            .take_until(async move { end.cancelled().await })
            .boxed()
    }

    /// Takes note of what a watch reports; whether the Secret has to be read anew.
    fn saw(
        &self,
        key: &Key,
        event: Result<watcher::Event<PartialObjectMeta<Secret>>, watcher::Error>,
    ) -> bool {
        let mut all = self.lock();
        let BySecret { entries, watches } = &mut *all;
        let Some(watch) = watches.get_mut(key) else {
            return false;
        };
        let read = entries.get(key).and_then(|entry| entry.resource_version.as_ref());
        let news = match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => {
                secret.metadata.resource_version.as_ref() != read
            }
            Ok(watcher::Event::Delete(_)) => true,
            // The list may lack it: the next use asks again.
            Ok(watcher::Event::Init) => {
                watch.news += 1;
                false
            }
            Ok(watcher::Event::InitDone) => {
                watch.live = true;
                false
            }
            Err(error) => {
                if watch.live {
                    tracing::debug!(%error, object = %format_args!("{}/{}", key.0, key.1), "The watch of a Secret broke; it is read again and again meanwhile.");
                }
                watch.live = false;
                false
            }
        };
        watch.news += u64::from(news);
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BySecret> {
        self.by_secret.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (known, read_after) = {
            let mut all = self.lock();
            let BySecret { entries, watches } = &mut *all;
            let watch = watches.entry(key.clone()).or_insert_with(|| {
                let end = CancellationToken::new();
                // Where nobody follows the watch is never live.
                drop(self.wanted.try_send((key.clone(), end.clone())));
                Watch {
                    live: false,
                    news: 0,
                    used_at: now,
                    _end: end.drop_guard(),
                }
            });
            watch.used_at = now;
            let news = watch.news;
            let is_current = |entry: &Entry| {
                entry.read_after == news && (watch.live || now.duration_since(entry.read_at) < REREAD)
            };
            let entry = entries.get(&key);
            if let Some(entry) = entry.filter(|entry| is_current(entry)) {
                return Ok(entry.github.clone());
            }
            let known = entry.map(|entry| (entry.github.clone(), entry.resource_version.clone()));
            (known, news)
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
            read_after,
        };
        let mut all = self.lock();
        all.sweep(now);
        all.entries.insert(key, entry);
        Ok(github)
    }

    /// The client for removing runners: when the Secret is gone or unusable, the login that it had the last time, as long as this process knows it. A namespace
    /// that is deleted loses its Secrets and its pods in any order.
    pub(crate) async fn for_removal(
        &self,
        namespace: &str,
        secret: Option<&str>,
        now: Timestamp,
    ) -> Result<GitHub, Error> {
        match self.for_secret(namespace, secret, now).await {
            Err(error @ Error::Credentials { .. }) => {
                let key = (namespace.to_owned(), secret.unwrap_or_default().to_owned());
                let last = self.lock().entries.get(&key).map(|entry| entry.github.clone());
                last.ok_or(error)
            }
            other => other,
        }
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
        let logins = logins(&format!("{namespace}/{name}"), value).map_err(|what| invalid(&what))?;
        let default = &self.default.urls;
        let enterprise = value(keys::SECRET_GITHUB_ENTERPRISE_URL).or_else(|| default.enterprise.clone());
        let settings = UrlSettings {
            enterprise,
            api: value(keys::SECRET_GITHUB_URL).or_else(|| default.api.clone()),
            upload: value(keys::SECRET_GITHUB_UPLOAD_URL).or_else(|| default.upload.clone()),
            runner: value(keys::SECRET_GITHUB_RUNNER_URL).or_else(|| default.runner.clone()),
        };
        let urls = Urls::resolve(&settings).map_err(|error| invalid(&error.to_string()))?;
        GitHub::pooled(logins, urls, &self.default.shared).map_err(|error| invalid(&error.to_string()))
    }
}
