//! Group commit: one writer per autoscaler turns everything that waits into one patch, and answers only once
//! the API server has it (spec 20 "Intake").
//!
//! A slow or deleted autoscaler delays nobody else. A writer that is idle writes at once; what arrives while
//! a patch is under way goes into the next one, together with what follows within a moment, at most the
//! window.

mod prepare;
#[cfg(test)]
mod tests;
mod writer;

pub use prepare::{COMPACT_ABOVE, MAX_BATCH, Mode, OBJECT_LIMIT, Prepared, prepare};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::autoscale::reservation::{LedgerEvent, Outcome};
use muster_core::routing::AutoscalerId;
use muster_runtime::clock::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::api::Autoscalers;
use crate::index::Index;
use crate::metrics::Metrics;

/// Writers that call the API server at the same time. An API server that is busy answers more of them no faster: what has to wait waits here, where
/// it joins a batch.
const CALLS: usize = 4;

/// Why an event was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The autoscaler does not exist any more.
    Gone,
    /// Too many deliveries wait.
    Busy,
    /// The write could not be confirmed in time.
    Unconfirmed,
}

/// Bounds of the writers.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// Longest time that an event waits for company.
    pub window: Duration,
    /// Deliveries that may wait at the same time, over all autoscalers.
    pub queue_limit: usize,
}

/// An event on its way into a ledger.
#[derive(Debug)]
struct Waiting {
    event: LedgerEvent,
    arrived: Instant,
    reply: oneshot::Sender<Result<Outcome, NotWritten>>,
    /// One place in the queue.
    _place: OwnedSemaphorePermit,
}

impl Waiting {
    fn answer(self, outcome: Result<Outcome, NotWritten>) {
        // Who does not wait any more has got another answer.
        self.reply.send(outcome).ok();
    }
}

/// The writers of one server.
#[derive(Debug)]
pub struct Writers {
    shared: Shared,
    settings: BatchSettings,
    places: Arc<Semaphore>,
    channels: Mutex<HashMap<AutoscalerId, mpsc::Sender<Waiting>>>,
    tasks: TaskTracker,
}

/// What every writer uses.
#[derive(Clone, Debug)]
struct Shared {
    index: Arc<Index>,
    api: Autoscalers,
    metrics: Metrics,
    clock: Clock,
    window: Duration,
    /// One permit for each call to the API server that is under way.
    turns: Arc<Semaphore>,
}

impl Writers {
    /// No writers yet; the first event of an autoscaler starts its own.
    pub fn new(
        index: Arc<Index>,
        api: Autoscalers,
        metrics: Metrics,
        clock: Clock,
        settings: BatchSettings,
    ) -> Self {
        Self {
            shared: Shared {
                index,
                api,
                metrics,
                clock,
                window: settings.window,
                turns: Arc::new(Semaphore::new(CALLS)),
            },
            settings,
            places: Arc::new(Semaphore::new(settings.queue_limit)),
            channels: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Hands an event to an autoscaler's writer and waits until it is in the ledger, at most until
    /// `deadline`.
    ///
    /// # Errors
    /// [`NotWritten`]; after `Unconfirmed` the event may be in the ledger nevertheless.
    pub async fn commit(
        &self,
        id: &AutoscalerId,
        event: impl Into<LedgerEvent>,
        deadline: Instant,
    ) -> Result<Outcome, NotWritten> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(NotWritten::Busy);
        };
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting {
            event: event.into(),
            arrived: Instant::now(),
            reply,
            _place: place,
        };
        self.send(id, waiting)?;
        self.shared.metrics.waiting.inc();
        let answer = tokio::time::timeout_at(deadline, answer).await;
        self.shared.metrics.waiting.dec();
        match answer {
            Ok(Ok(outcome)) => outcome,
            // The writer ended without an answer, which only a bug can cause, or it takes too long.
            Ok(Err(_)) | Err(_) => Err(NotWritten::Unconfirmed),
        }
    }

    fn send(&self, id: &AutoscalerId, waiting: Waiting) -> Result<(), NotWritten> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = match channels.get(id) {
            None => waiting,
            Some(channel) => match channel.try_send(waiting) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(NotWritten::Busy),
                // The autoscaler was deleted; there may be a new one of that name.
                Err(mpsc::error::TrySendError::Closed(waiting)) => waiting,
            },
        };
        let Some(gone) = self.shared.index.gone(id) else {
            channels.remove(id);
            return Err(NotWritten::Gone);
        };
        // As many places as the queue has: a full channel cannot happen.
        let (channel, events) = mpsc::channel(self.settings.queue_limit.max(1));
        let sent = channel.try_send(waiting).map_err(|_| NotWritten::Busy);
        channels.insert(id.clone(), channel);
        self.tasks
            .spawn(writer::Writer::new(id.clone(), self.shared.clone(), events, gone).run());
        sent
    }

    /// Lets the writers commit what waits and end.
    pub async fn close(&self) {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
