//! What a writer sends: a fold of the events that wait, and the patch that it amounts to.

use jiff::{SignedDuration, Timestamp};
use muster_core::autoscale::reservation::{Delta, EventRef};
use serde_json::Value;

use crate::index::Ledger;

/// Most events in one patch; the API server refuses more than 10,000 operations or 3 MiB.
pub const MAX_BATCH: usize = 2_000;

/// Above this size of the ledger the intake itself drops what says nothing any more; below it leaves that to
/// the autoscaler.
pub const COMPACT_ABOVE: usize = 200 << 10;

/// Largest object: etcd refuses 1.5 MiB, and updates by others need room too.
pub const OBJECT_LIMIT: usize = 1 << 20;

/// So many expired entries are worth a precondition.
const WORTH_COMPACTING: usize = 32;

/// How events get into the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All; what exists is changed in place.
    InPlace,
    /// Those that can take effect by adding alone, which nothing can refuse: others write so often that changes in
    /// place keep being refused.
    Appending,
}

/// A patch and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Positions, among the events given, of those that are in the patch.
    pub included: Vec<usize>,
    /// What changes; its outcomes are those of the included events.
    pub delta: Delta,
    /// The patch; empty when there is nothing to write.
    pub operations: Vec<Value>,
    /// Generation that the ledger had.
    pub base: i64,
    /// Identity of the object.
    pub uid: String,
    /// About the size of the object afterwards.
    pub object_bytes: usize,
}

/// Folds events into a ledger. Nothing is included where appending is not possible at all.
pub fn prepare<'e, E>(
    ledger: &Ledger,
    events: &[E],
    mode: Mode,
    duration: SignedDuration,
    now: Timestamp,
) -> Prepared
where
    E: Copy + Into<EventRef<'e>>,
{
    let can_append = |event: E| ledger.list_exists && !ledger.book.must_remove_for(event);
    let mut included: Vec<usize> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| mode == Mode::InPlace || can_append(**event))
        .map(|(position, _)| position)
        .take(MAX_BATCH)
        .collect();
    let chosen: Vec<E> = included
        .iter()
        .filter_map(|position| events.get(*position).copied())
        .collect();
    let besides = ledger.object_bytes().saturating_sub(ledger.book.bytes());
    let room = OBJECT_LIMIT.saturating_sub(besides);
    let mut delta = match mode {
        Mode::InPlace => {
            let chosen = chosen.iter().copied();
            ledger.book.fold_within(chosen, duration, now, room)
        }
        Mode::Appending => ledger.book.fold_appending(chosen, duration, now),
    };
    if mode == Mode::Appending && ledger.book.bytes_after(&delta) > room {
        included.clear();
        delta = Delta::default();
    }
    if mode == Mode::InPlace
        && ledger.book.bytes() > COMPACT_ABOVE
        && !delta.is_empty()
        && ledger.book.expired(now) >= WORTH_COMPACTING
    {
        ledger.book.prune(&mut delta, now);
    }
    let operations = ledger.book.patch(&delta, ledger.list_exists, ledger.generation);
    let object_bytes = besides + ledger.book.bytes_after(&delta);
    Prepared {
        included,
        operations,
        base: ledger.generation,
        uid: ledger.uid.clone(),
        object_bytes,
        delta,
    }
}

/// Bytes that may be written to one object: etcd keeps every version for minutes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    bytes: f64,
    filled_at: tokio::time::Instant,
}

impl Bucket {
    const CAPACITY: f64 = 64.0 * 1024.0 * 1024.0;
    const PER_SECOND: f64 = 1024.0 * 1024.0;

    pub(super) fn new(now: tokio::time::Instant) -> Self {
        Self {
            bytes: Self::CAPACITY,
            filled_at: now,
        }
    }

    fn refill(&mut self, now: tokio::time::Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.bytes = (self.bytes + elapsed * Self::PER_SECOND).min(Self::CAPACITY);
        self.filled_at = now;
    }

    /// How long to wait until an object of this size may be written; a second at most, whatever the bucket
    /// holds.
    pub(super) fn wait(&mut self, size: usize, now: tokio::time::Instant) -> std::time::Duration {
        self.refill(now);
        let missing = crate::metrics::count(size) - self.bytes;
        std::time::Duration::from_secs_f64((missing / Self::PER_SECOND).clamp(0.0, 1.0))
    }

    pub(super) fn take(&mut self, size: usize, now: tokio::time::Instant) {
        self.refill(now);
        // Debt would only punish later writes that have waited already.
        self.bytes = (self.bytes - crate::metrics::count(size)).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bucket_stretches_up_to_a_second_once_it_is_empty() {
        let start = tokio::time::Instant::now();
        let mut bucket = Bucket::new(start);
        let object = 512 << 10;
        for _ in 0..128 {
            assert_eq!(bucket.wait(object, start), Duration::ZERO);
            bucket.take(object, start);
        }
        assert_eq!(bucket.wait(object, start), Duration::from_millis(500));
        assert_eq!(bucket.wait(4 * object, start), Duration::from_secs(1));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.wait(object, later), Duration::ZERO);
    }
}
