//! One watch per kind: the cache that it fills and the reconcilers that it wakes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// Called with an object that was added, changed, deleted or seen again, after the cache shows that.
pub type Sink<K> = Box<dyn Fn(&K) + Send + Sync>;

type Hook<K> = Box<dyn FnMut(&K, bool) + Send>;
type BrokenSink = Box<dyn Fn(&Broken) + Send + Sync>;
type Owned = HashMap<String, BTreeSet<(String, String)>>;

/// An object of the kind that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What is wrong with it.
    pub error: String,
}

/// Read access to the objects of one kind. Cheap to clone.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    owned: Arc<RwLock<Owned>>,
    broken: Arc<RwLock<BTreeMap<(String, String), String>>>,
    synced: Arc<AtomicBool>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            owned: Arc::clone(&self.owned),
            broken: Arc::clone(&self.broken),
            synced: Arc::clone(&self.synced),
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Debug for Cache<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("kind", &K::kind(&()))
            .finish_non_exhaustive()
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// The object of this name; an object of no namespace by an empty one.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&super::reference(namespace, name))
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// The objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.store
            .state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
    }

    /// The objects that the owner with this UID controls.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let names = self
            .owned
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
            .unwrap_or_default();
        names
            .iter()
            .filter_map(|(namespace, name)| self.get(namespace, name))
            .filter(|object| controller_uid(&**object).as_deref() == Some(uid))
            .collect()
    }

    /// Objects that cannot be read.
    pub fn broken(&self) -> Vec<Broken> {
        self.broken
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|((namespace, name), error)| Broken {
                namespace: namespace.clone(),
                name: name.clone(),
                error: error.clone(),
            })
            .collect()
    }

    /// True once the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The store, for the driver.
    pub(super) fn store(&self) -> Store<K> {
        self.store.clone()
    }
}

fn controller_uid<K: Resource>(object: &K) -> Option<String> {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
}

/// The task that fills a cache.
pub struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    cache: Cache<K>,
    sinks: Vec<Sink<K>>,
    hook: Option<Hook<K>>,
    broken_sink: Option<BrokenSink>,
    prune: fn(&mut K),
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Debug for Feed<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed")
            .field("kind", &K::kind(&()))
            .finish_non_exhaustive()
    }
}

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A feed and the cache that it fills.
    pub fn new() -> (Self, Cache<K>) {
        let (store, writer) = reflector::store();
        let cache = Cache {
            store,
            owned: Arc::default(),
            broken: Arc::default(),
            synced: Arc::new(AtomicBool::new(false)),
        };
        let feed = Self {
            writer,
            cache: cache.clone(),
            sinks: Vec::new(),
            hook: None,
            broken_sink: None,
            prune: |_| {},
        };
        (feed, cache)
    }

    /// Calls `sink` with every object that changed, after the cache shows it.
    #[must_use]
    pub fn wakes(mut self, sink: impl Fn(&K) + Send + Sync + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Calls `hook` with every object *before* the cache shows it (`false`) or after it was deleted (`true`), in the order of the watch.
    #[must_use]
    pub fn hook(mut self, hook: impl FnMut(&K, bool) + Send + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Calls `sink` with every object that cannot be read.
    #[must_use]
    pub fn on_broken(mut self, sink: impl Fn(&Broken) + Send + Sync + 'static) -> Self {
        self.broken_sink = Some(Box::new(sink));
        self
    }

    /// Takes fields out of objects before they are kept; `managedFields` go always.
    #[must_use]
    pub fn prune(mut self, prune: fn(&mut K)) -> Self {
        self.prune = prune;
        self
    }

    /// Watches until `shutdown`. Errors are logged once per streak and retried with back-off; an object that cannot be read is set aside and never stops the others (spec 01 §8.5).
    pub async fn run(
        mut self,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        shutdown: CancellationToken,
    ) {
        let events = watcher(api, config).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut failing = false;
        let mut relist: Vec<Arc<K>> = Vec::new();
        let mut listed: BTreeSet<(String, String)> = BTreeSet::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    if failing {
                        tracing::debug!(kind = %K::kind(&()), error = %crate::telemetry::chain(&error), "The watch fails still.");
                    } else {
                        failing = true;
                        tracing::warn!(kind = %K::kind(&()), error = %crate::telemetry::chain(&error), "The watch failed and is repeated.");
                    }
                }
                Some(Ok(event)) => {
                    failing = false;
                    self.take(event, &mut relist, &mut listed);
                }
            }
        }
    }

    fn take(
        &mut self,
        event: Event<DeserializeGuard<K>>,
        relist: &mut Vec<Arc<K>>,
        listed: &mut BTreeSet<(String, String)>,
    ) {
        match event {
            Event::Init => {
                relist.clear();
                listed.clear();
                self.writer.apply_watcher_event(&Event::Init);
            }
            Event::InitApply(guard) => {
                if let Some(object) = self.read(guard) {
                    listed.insert(key(&object));
                    self.before(&object, false);
                    self.index(&object);
                    self.writer.apply_watcher_event(&Event::InitApply(object.clone()));
                    relist.push(Arc::new(object));
                }
            }
            Event::InitDone => {
                // What vanished while the watch was cut was deleted.
                let gone: Vec<Arc<K>> = self
                    .cache
                    .all()
                    .into_iter()
                    .filter(|object| !listed.contains(&key(&**object)))
                    .collect();
                self.writer.apply_watcher_event(&Event::InitDone);
                self.cache.synced.store(true, Ordering::Release);
                for object in gone {
                    self.unindex(&object);
                    self.before(&object, true);
                    self.wake(&object);
                }
                for object in relist.drain(..) {
                    self.wake(&object);
                }
            }
            Event::Apply(guard) => {
                if let Some(object) = self.read(guard) {
                    self.before(&object, false);
                    self.index(&object);
                    self.writer.apply_watcher_event(&Event::Apply(object.clone()));
                    self.wake(&object);
                }
            }
            Event::Delete(guard) => {
                let place = (guard.namespace().unwrap_or_default(), guard.name_any());
                let last = guard
                    .0
                    .ok()
                    .or_else(|| self.cache.get(&place.0, &place.1).map(|object| (*object).clone()));
                self.cache
                    .broken
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&place);
                if let Some(object) = last {
                    self.writer.apply_watcher_event(&Event::Delete(object.clone()));
                    self.unindex(&object);
                    self.before(&object, true);
                    self.wake(&object);
                }
            }
        }
    }

    fn read(&self, guard: DeserializeGuard<K>) -> Option<K> {
        let place = (guard.namespace().unwrap_or_default(), guard.name_any());
        match guard.0 {
            Ok(mut object) => {
                object.meta_mut().managed_fields = None;
                (self.prune)(&mut object);
                self.cache
                    .broken
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&place);
                Some(object)
            }
            Err(invalid) => {
                let broken = Broken {
                    namespace: place.0.clone(),
                    name: place.1.clone(),
                    error: invalid.error,
                };
                let new = {
                    let mut all = self.cache.broken.write().unwrap_or_else(PoisonError::into_inner);
                    all.insert(place, broken.error.clone()).as_ref() != Some(&broken.error)
                };
                if new {
                    tracing::warn!(kind = %K::kind(&()), object = %format_args!("{}/{}", broken.namespace, broken.name), error = %broken.error, "An object cannot be read and is left alone until it is corrected.");
                    if let Some(sink) = &self.broken_sink {
                        sink(&broken);
                    }
                }
                None
            }
        }
    }

    fn before(&mut self, object: &K, deleted: bool) {
        if let Some(hook) = &mut self.hook {
            hook(object, deleted);
        }
    }

    fn wake(&self, object: &K) {
        for sink in &self.sinks {
            sink(object);
        }
    }

    fn index(&self, object: &K) {
        if let Some(uid) = controller_uid(object) {
            self.cache
                .owned
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(uid)
                .or_default()
                .insert(key(object));
        }
    }

    fn unindex(&self, object: &K) {
        let Some(uid) = controller_uid(object) else { return };
        let mut owned = self.cache.owned.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = owned.get_mut(&uid) {
            names.remove(&key(object));
            if names.is_empty() {
                owned.remove(&uid);
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}
