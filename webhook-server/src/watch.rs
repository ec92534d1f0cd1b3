//! The watches that feed the index.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use muster_runtime::serve::Gate;
use muster_runtime::telemetry::chain;
use tokio_util::sync::CancellationToken;

use crate::index::{Feed, Index, Watching};
use crate::objects::Watched;

/// Objects per page of a list: an autoscaler can be a mebibyte.
const PAGE: u32 = 50;

/// Watches the objects of one kind until `stop`, and opens `gate` once all have been seen.
pub async fn watch<K>(
    client: Client,
    namespace: Option<String>,
    index: Arc<Index>,
    gate: Gate,
    stop: CancellationToken,
) where
    K: Watching + Clone + Debug + Send + 'static,
{
    let api: Api<Watched<K>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let kind = K::kind(&());
    let mut events = pin!(watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff());
    let mut feed = Feed::default();
    let mut failures = 0_u32;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => {
                failures = 0;
                if feed.apply(&index, event) {
                    tracing::debug!(kind = %kind, "Read all objects");
                    gate.open();
                }
            }
            Some(Err(error)) => {
                failures = failures.saturating_add(1);
                // The index stays as it is: old facts are better than none. A watch that merely ended is
                // renewed without a word.
                if failures.is_power_of_two() {
                    tracing::warn!(kind = %kind, error = %chain(&error), failures, "Could not watch");
                }
            }
            None => return,
        }
    }
}
