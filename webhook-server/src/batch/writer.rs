//! The writer of one autoscaler.

use std::time::Duration;

use muster_core::autoscale::reservation::{LedgerEvent, Outcome};
use muster_core::routing::AutoscalerId;
use muster_runtime::telemetry::chain;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::prepare::{Bucket, Mode, Prepared, prepare};
use super::{MAX_BATCH, NotWritten, Shared, Waiting};
use crate::api::ApiError;
use crate::metrics::count;

/// Least silence after which nobody is expected to join a batch any more.
const QUIET: Duration = Duration::from_millis(2);

/// Time in which the senders of a batch send again when they are busy.
const ECHO: Duration = Duration::from_millis(10);

/// Attempts in one turn, where others change the ledger meanwhile.
const TRIES: usize = 4;

/// Refusals in a row after which changes are appended as second entries instead.
const PATIENCE: u32 = 2;

/// For so long: others that write as often as that do not stop at once.
const CONTENDED: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    id: AutoscalerId,
    shared: Shared,
    events: mpsc::Receiver<Waiting>,
    gone: CancellationToken,
    waiting: Vec<Waiting>,
    bucket: Bucket,
    committed: Option<Committed>,
    refusals: u32,
    failures: u32,
    /// The ledger in the index may lack what we wrote: read before the next patch.
    stale: bool,
    /// Until then changes are appended.
    contended_until: Option<Instant>,
    /// Some of what waits cannot be appended, and it is their turn.
    in_place_next: bool,
}

/// The last patch: what arrived before it was answered has company, and so has, shortly after a patch of several, what their senders send next.
struct Committed {
    /// When it was answered.
    at: Instant,
    /// How long that took.
    took: Duration,
    /// Events in it.
    events: usize,
    /// These, and those that waited for the next one by then: as many may wait soon.
    crowd: usize,
}

/// Others who may join a batch.
struct Company {
    /// How many they are, with whoever waits already.
    crowd: usize,
    /// Silence after which no more of them are expected.
    quiet: Duration,
}

/// What comes after a try.
enum Next {
    Continue,
    /// The ledger is not what it was: once more, and nobody else's turn before.
    Again,
    /// The API server is not well, or something else writes all the time.
    BackOff,
    Gone,
}

impl Writer {
    pub(super) fn new(
        id: AutoscalerId,
        shared: Shared,
        events: mpsc::Receiver<Waiting>,
        gone: CancellationToken,
    ) -> Self {
        Self {
            id,
            shared,
            events,
            gone,
            waiting: Vec::new(),
            bucket: Bucket::new(Instant::now()),
            committed: None,
            refusals: 0,
            failures: 0,
            stale: false,
            contended_until: None,
            in_place_next: false,
        }
    }

    /// Commits until the autoscaler is gone or nobody can send any more.
    pub(super) async fn run(mut self) {
        // A new autoscaler of the same name has another token, and another writer.
        while !self.gone.is_cancelled() {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    () = self.gone.cancelled() => break,
                    first = self.events.recv() => match first {
                        Some(first) => self.waiting.push(first),
                        None => return,
                    },
                }
            }
            self.gather().await;
            match self.turn().await {
                Next::Continue | Next::Again => {}
                Next::BackOff => self.back_off().await,
                Next::Gone => break,
            }
        }
        self.events.close();
        while let Ok(late) = self.events.try_recv() {
            self.waiting.push(late);
        }
        for waiting in self.waiting {
            waiting.answer(Err(NotWritten::Gone));
        }
    }

    /// Waits for company: not at all when the writer was idle, otherwise until nobody has come for a moment,
    /// at most the window; longer, up to a second, when too many bytes were written lately.
    async fn gather(&mut self) {
        self.drain();
        let Some(first) = self.waiting.first() else { return };
        let arrived = first.arrived;
        let now = Instant::now();
        let size = self
            .shared
            .index
            .with_ledger(&self.id, |ledger, _| ledger.object_bytes())
            .unwrap_or(0);
        let stretch = self.bucket.wait(size, now);
        if let Some(company) = self.company(arrived) {
            let until = now + self.shared.window;
            let (quiet, crowd) = (company.quiet, company.crowd.min(MAX_BATCH));
            while self.waiting.len() < crowd {
                let silence = (Instant::now() + quiet).min(until);
                match tokio::time::timeout_at(silence, self.events.recv()).await {
                    Ok(Some(next)) => self.waiting.push(next),
                    Ok(None) | Err(_) => break,
                }
                self.drain();
            }
        }
        if !stretch.is_zero() {
            tokio::select! {
                () = tokio::time::sleep_until(now + stretch) => {}
                () = self.gone.cancelled() => {}
            }
            self.drain();
        }
    }

    /// Whom an event that arrived then may expect beside it.
    fn company(&self, arrived: Instant) -> Option<Company> {
        let last = self.committed.as_ref()?;
        let has_company =
            arrived < last.at || last.events > 1 && arrived.saturating_duration_since(last.at) < ECHO;
        has_company.then(|| Company {
            crowd: last.crowd,
            // Patience for those who are a little late costs a part of what a patch of their own would.
            quiet: (last.took / 8).max(QUIET),
        })
    }

    fn drain(&mut self) {
        while self.waiting.len() < MAX_BATCH {
            let Ok(next) = self.events.try_recv() else { break };
            self.waiting.push(next);
        }
    }

    /// Waits until this writer may call the API server, and writes what waits by then.
    async fn turn(&mut self) -> Next {
        // The semaphore is never closed: without a turn there is no bound, and nothing else is lost.
        let _turn = self.shared.turns.clone().acquire_owned().await.ok();
        for _ in 0..TRIES {
            self.drain();
            self.waiting.retain(|waiting| !waiting.reply.is_closed());
            if self.waiting.is_empty() {
                break;
            }
            match self.attempt().await {
                Next::Again => {}
                next => return next,
            }
        }
        Next::Continue
    }

    async fn attempt(&mut self) -> Next {
        if self.stale {
            if let Next::Gone = self.read_again().await {
                return Next::Gone;
            }
            if self.stale {
                return Next::BackOff;
            }
        }
        let is_contended = self.contended_until.is_some_and(|until| Instant::now() < until);
        let mode = if is_contended && !self.in_place_next {
            Mode::Appending
        } else {
            Mode::InPlace
        };
        let now = self.shared.clock.now();
        let events: Vec<&LedgerEvent> = self.waiting.iter().map(|waiting| &waiting.event).collect();
        let prepared = self.shared.index.with_ledger(&self.id, |ledger, view| {
            let mut prepared = prepare(ledger, &events, mode, view.duration, now);
            if mode == Mode::Appending && prepared.included.is_empty() {
                prepared = prepare(ledger, &events, Mode::InPlace, view.duration, now);
            }
            // Others have written since: a precondition could only fail, and a job that we added would look
            // unknown.
            let is_behind_on = |event: &LedgerEvent| match event {
                LedgerEvent::Job(event) => ledger.is_behind_on(&event.key),
                LedgerEvent::Trigger(_) => false,
            };
            let is_behind = ledger.is_behind()
                && (needs_generation(&prepared)
                    || ledger.is_far_behind()
                    || events.iter().any(|event| is_behind_on(event)));
            (prepared, is_behind)
        });
        let Some((prepared, is_behind)) = prepared else {
            return Next::Gone;
        };
        if is_behind {
            self.stale = true;
            return Next::Again;
        }
        if prepared.operations.is_empty() {
            self.answer(&prepared);
            return Next::Continue;
        }
        self.write(prepared).await
    }

    async fn write(&mut self, prepared: Prepared) -> Next {
        let begun = Instant::now();
        self.bucket.take(prepared.object_bytes, begun);
        let result = self.shared.api.patch(&self.id, &prepared.operations).await;
        let metrics = &self.shared.metrics;
        match result {
            Ok(generation) => {
                let now = Instant::now();
                self.committed = Some(Committed {
                    at: now,
                    took: now - begun,
                    events: prepared.included.len(),
                    crowd: self.waiting.len() + self.events.len(),
                });
                self.failures = 0;
                let is_in_place = needs_generation(&prepared);
                self.refusals = if is_in_place {
                    0
                } else {
                    // One more is enough for the next turn.
                    self.refusals.min(PATIENCE - 1)
                };
                self.in_place_next = !is_in_place && prepared.included.len() < self.waiting.len();
                metrics.commit("ok");
                metrics.batch_size.observe(count(prepared.included.len()));
                metrics
                    .written_bytes
                    .inc_by(u64::try_from(prepared.object_bytes).unwrap_or(0));
                self.log(&prepared, now - begun);
                let Prepared {
                    included,
                    delta,
                    base,
                    uid,
                    ..
                } = prepared;
                let outcomes = delta.outcomes.clone();
                self.shared
                    .index
                    .committed(&self.id, &uid, base, generation, delta);
                self.answer_each(&included, &outcomes);
                Next::Continue
            }
            Err(ApiError::Refused { message, .. }) => {
                metrics.commit("refused");
                metrics.conflicts.inc();
                self.refusals += 1;
                self.in_place_next = false;
                if self.refusals >= PATIENCE {
                    self.contended_until = Some(Instant::now() + CONTENDED);
                }
                if self.refusals.is_power_of_two() && self.refusals > 4 * PATIENCE {
                    tracing::warn!(
                        object = %self.id, reason = %message, refusals = self.refusals, waiting = self.waiting.len(),
                        "Capacity is refused again and again"
                    );
                } else {
                    tracing::debug!(object = %self.id, reason = %message, "Autoscaler changed meanwhile; folding again");
                }
                self.stale = true;
                // Two refusals of a ledger that was just read: something other than a race, which haste makes
                // no better.
                if self.refusals > 2 * PATIENCE {
                    return Next::BackOff;
                }
                Next::Again
            }
            Err(error @ (ApiError::NotFound(_) | ApiError::Timeout(_) | ApiError::Failed { .. })) => {
                let is_gone = matches!(error, ApiError::NotFound(_));
                metrics.commit(if is_gone { "gone" } else { "failed" });
                // Whether the patch was applied is unknown: read before adding anything twice.
                self.stale = true;
                if is_gone {
                    return Next::Continue;
                }
                self.failed(&error);
                Next::BackOff
            }
        }
    }

    /// Reads the autoscaler from the API server; clears `stale` if that worked.
    async fn read_again(&mut self) -> Next {
        match self.shared.api.get(&self.id).await {
            Ok(object) => {
                // A ledger that was refused again and again is not what it seems, whatever its generation
                // says.
                self.shared
                    .index
                    .observe_autoscaler(&object, self.refusals >= PATIENCE);
                self.stale = false;
                if self.shared.index.gone(&self.id).is_none() {
                    Next::Gone
                } else {
                    Next::Continue
                }
            }
            Err(ApiError::NotFound(_)) => {
                tracing::info!(object = %self.id, waiting = self.waiting.len(), "Autoscaler was deleted; its writer ends");
                self.shared.index.remove_autoscaler(&self.id, None);
                Next::Gone
            }
            Err(error) => {
                self.failed(&error);
                Next::Continue
            }
        }
    }

    fn failed(&mut self, error: &ApiError) {
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(
            object = %self.id, error = %chain(error), failures = self.failures, waiting = self.waiting.len(),
            "Could not write capacity; trying again until the deliveries' deadline"
        );
    }

    /// Longer with every failure in a row, half a second at most: deliveries wait.
    async fn back_off(&mut self) {
        let exponent = self
            .failures
            .max(self.refusals.saturating_sub(2 * PATIENCE))
            .clamp(1, 5);
        let pause = Duration::from_millis(15) * 2_u32.pow(exponent);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.gone.cancelled() => {}
        }
    }

    fn answer(&mut self, prepared: &Prepared) {
        self.answer_each(&prepared.included, &prepared.delta.outcomes);
    }

    /// Answers the events at these positions, which ascend; the others stay.
    fn answer_each(&mut self, included: &[usize], outcomes: &[Outcome]) {
        let now = Instant::now();
        let mut outcomes = included.iter().copied().zip(outcomes.iter().copied()).peekable();
        let mut rest = Vec::new();
        for (position, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            match outcomes.next_if(|(included, _)| *included == position) {
                Some((_, outcome)) => {
                    self.shared
                        .metrics
                        .committed_after(now.saturating_duration_since(waiting.arrived));
                    waiting.answer(Ok(outcome));
                }
                None => rest.push(waiting),
            }
        }
        self.waiting = rest;
    }

    fn log(&self, prepared: &Prepared, elapsed: Duration) {
        let outcomes = &prepared.delta.outcomes;
        let number = |wanted: &[Outcome]| outcomes.iter().filter(|outcome| wanted.contains(outcome)).count();
        tracing::info!(
            object = %self.id,
            added = number(&[Outcome::Added]),
            finished = number(&[Outcome::Finished, Outcome::Consumed]),
            events = outcomes.len(),
            operations = prepared.operations.len(),
            elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "Wrote capacity"
        );
    }
}

/// True for a patch that holds only at one generation.
fn needs_generation(prepared: &Prepared) -> bool {
    prepared
        .operations
        .first()
        .is_some_and(|operation| operation.get("op").is_some_and(|op| op == "test"))
}
