//! Objects that wait for a reconcile: each at most once, so the queue is bounded by the number of objects and never drops a trigger.

use std::{
    collections::{HashSet, VecDeque},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use futures::Stream;
use kube::{
    Resource,
    runtime::{controller::ReconcileRequest, reflector::ObjectRef},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Waiting<K: Resource<DynamicType = ()>> {
    order: VecDeque<ObjectRef<K>>,
    known: HashSet<ObjectRef<K>>,
}

/// A coalescing queue of object references. Cheap to clone; all clones are the same queue.
#[derive(Debug)]
pub struct Queue<K: Resource<DynamicType = ()>> {
    waiting: Arc<Mutex<Waiting<K>>>,
    ready: Arc<Notify>,
}

impl<K: Resource<DynamicType = ()>> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            waiting: Arc::clone(&self.waiting),
            ready: Arc::clone(&self.ready),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Default for Queue<K> {
    fn default() -> Self {
        Self {
            waiting: Arc::new(Mutex::new(Waiting {
                order: VecDeque::new(),
                known: HashSet::new(),
            })),
            ready: Arc::new(Notify::new()),
        }
    }
}

impl<K: Resource<DynamicType = ()> + 'static> Queue<K> {
    /// Asks for a reconcile of this object; an object of no namespace has an empty one.
    pub fn add(&self, namespace: &str, name: &str) {
        let object = super::reference(namespace, name);
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.known.insert(object.clone()) {
                return;
            }
            waiting.order.push_back(object);
        }
        self.ready.notify_one();
    }

    fn take(&self) -> Option<ObjectRef<K>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let object = waiting.order.pop_front()?;
        waiting.known.remove(&object);
        Some(object)
    }

    /// The stream that empties the queue; it ends with `shutdown`.
    pub(super) fn into_stream(
        self,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = ReconcileRequest<K>> + Send
    where
        K: Send + Sync,
    {
        futures::stream::unfold((self, shutdown), |(queue, shutdown)| async move {
            loop {
                if shutdown.is_cancelled() {
                    return None;
                }
                if let Some(object) = queue.take() {
                    return Some((ReconcileRequest::from(object), (queue, shutdown)));
                }
                tokio::select! {
                    () = queue.ready.notified() => {}
                    () = shutdown.cancelled() => return None,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[tokio::test]
    async fn an_object_waits_once_and_the_stream_ends_with_shutdown() {
        let queue = Queue::<Pod>::default();
        queue.add("ns", "a");
        queue.add("ns", "b");
        queue.add("ns", "a");
        let shutdown = CancellationToken::new();
        let mut stream = Box::pin(queue.clone().into_stream(shutdown.clone()));
        assert_eq!(stream.next().await.unwrap().obj_ref.name, "a");
        queue.add("ns", "a");
        assert_eq!(stream.next().await.unwrap().obj_ref.name, "b");
        assert_eq!(
            stream.next().await.unwrap().obj_ref.name,
            "a",
            "again after it was taken"
        );
        shutdown.cancel();
        assert!(stream.next().await.is_none());
    }
}
