//! Runs reconcilers: shared watch caches, coalescing trigger queues, error policy and metrics (91 B4-B7).
//!
//! Every kind is watched once per process, whoever needs it. A watch task updates the cache and then triggers the reconcilers concerned; a reconciler reads caches, never the
//! event. Built on kube-runtime's `watcher`, `Store` and `applier`.

mod cache;
mod policy;
mod queue;

use std::{
    collections::HashMap,
    fmt::Debug,
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt};
use kube::{
    Resource,
    runtime::{
        controller::{Action, Config, applier},
        reflector::ObjectRef,
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub use self::{
    cache::{Broken, Cache, Feed, Sink},
    policy::{Class, Failure},
    queue::Queue,
};
use crate::{metrics::ReconcileMetrics, telemetry};

/// A reconcile that takes longer than this is given up and tried again.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(90);

/// What a controller is made of.
#[derive(Debug)]
pub struct Drive<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    /// Name in logs and metrics, as upstream's (`runner-controller`, …).
    pub name: &'static str,
    /// Cache of the primary kind.
    pub cache: Cache<K>,
    /// Objects to reconcile.
    pub queue: Queue<K>,
    /// Reconciles at a time.
    pub concurrency: u16,
    /// Counters and histograms.
    pub metrics: ReconcileMetrics,
}

/// The error that the driver sees; the chain has been logged when it is made.
#[derive(Debug, thiserror::Error)]
#[error("the reconcile failed and will be retried")]
struct Retry(Duration);

impl<K> Drive<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Reconciles until `shutdown`; then finishes what is under way. `failed` is called with every failure and its count in a row for that object, to
    /// make the Event and the condition that its class asks for; and with count 0 where a reconcile only has to wait.
    pub async fn run<Ctx, Reconcile, Fut, Error, Failed>(
        self,
        context: Arc<Ctx>,
        shutdown: CancellationToken,
        reconcile: Reconcile,
        failed: Failed,
    ) where
        Ctx: Send + Sync + 'static,
        Reconcile: Fn(Arc<K>, Arc<Ctx>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Action, Error>> + Send,
        Error: Failure + Send + Sync + 'static,
        Failed: Fn(Arc<K>, Arc<Ctx>, &Error, u32) + Send + Sync + 'static,
    {
        let Self {
            name,
            cache,
            queue,
            concurrency,
            metrics,
        } = self;
        metrics.set_max_concurrent(name, i64::from(concurrency));
        let failures: Arc<Failures<ObjectRef<K>>> = Arc::default();
        let reconcile = Arc::new(reconcile);
        let failed = Arc::new(failed);
        let work = move |object: Arc<K>, context: Arc<Ctx>| {
            let (reconcile, failed) = (Arc::clone(&reconcile), Arc::clone(&failed));
            let (metrics, failures) = (metrics.clone(), Arc::clone(&failures));
            async move {
                let key = ObjectRef::from_obj(&*object);
                let started = Instant::now();
                metrics.started(name);
                let attempt = AssertUnwindSafe(reconcile(Arc::clone(&object), Arc::clone(&context))).catch_unwind();
                let outcome = tokio::time::timeout(RECONCILE_TIMEOUT, attempt).await;
                metrics.finished(name);
                let (result, action) = match outcome {
                    Ok(Ok(Ok(action))) => {
                        failures.reset(&key);
                        let result = if action == Action::await_change() { "success" } else { "requeue_after" };
                        (result, Ok(action))
                    }
                    Ok(Ok(Err(error))) if error.class().is_waiting() => {
                        failures.reset(&key);
                        let delay = error.class().delay(0);
                        tracing::debug!(controller = name, object = %key, error = %telemetry::chain(&error), retry_in_ms = delay.as_millis(), "Reconcile waits.");
                        failed(object, context, &error, 0);
                        ("requeue_after", Ok(Action::requeue(delay)))
                    }
                    Ok(Ok(Err(error))) => {
                        let count = failures.add(&key);
                        let class = error.class();
                        let delay = class.delay(count);
                        if class.is_noteworthy() {
                            tracing::warn!(controller = name, object = %key, reason = class.as_str(), error = %telemetry::chain(&error), retry_in_ms = delay.as_millis(), "Reconcile failed.");
                        } else {
                            tracing::debug!(controller = name, object = %key, reason = class.as_str(), error = %telemetry::chain(&error), "Reconcile will be repeated.");
                        }
                        failed(object, context, &error, count);
                        ("error", Err(Retry(delay)))
                    }
                    Ok(Err(_panic)) => {
                        metrics.panicked(name);
                        tracing::error!(controller = name, object = %key, "A reconcile panicked; this is a defect, please report it.");
                        ("error", Err(Retry(Class::Bug.delay(failures.add(&key)))))
                    }
                    Err(_elapsed) => {
                        tracing::warn!(controller = name, object = %key, "A reconcile took longer than 90 s and will be repeated.");
                        ("error", Err(Retry(Class::Unavailable.delay(failures.add(&key)))))
                    }
                };
                metrics.observe(name, result, started.elapsed());
                action
            }
            .boxed()
        };
        let requests = queue.into_stream(shutdown);
        applier(
            work,
            |_object, retry: &Retry, _context| Action::requeue(retry.0),
            context,
            cache.store(),
            requests.map(Ok::<_, std::convert::Infallible>),
            Config::default().concurrency(concurrency),
        )
        .for_each(|_| std::future::ready(()))
        .await;
    }
}

/// A reference to an object, of no namespace when that is empty.
fn reference<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> ObjectRef<K> {
    let reference = ObjectRef::new(name);
    if namespace.is_empty() {
        return reference;
    }
    reference.within(namespace)
}

/// Failures in a row, by object.
#[derive(Debug)]
struct Failures<Key> {
    counts: Mutex<HashMap<Key, u32>>,
}

impl<Key> Default for Failures<Key> {
    fn default() -> Self {
        Self {
            counts: Mutex::new(HashMap::new()),
        }
    }
}

impl<Key: Eq + Hash + Clone> Failures<Key> {
    fn add(&self, key: &Key) -> u32 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    fn reset(&self, key: &Key) {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}
