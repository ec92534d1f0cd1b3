//! What happens when, in the order of the virtual clock.

use std::{cmp::Reverse, collections::BinaryHeap};

use jiff::Timestamp;

/// Something that happens in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// GitHub queues a job.
    Queued { job: usize },
    /// A webhook arrives; `runner` is the one that has the job.
    Webhook {
        job: usize,
        stage: Stage,
        runner: Option<usize>,
    },
    /// The webhook server writes what waits.
    Flush { pool: usize },
    /// The ledger was written.
    Committed { pool: usize },
    /// The autoscaler looks.
    Autoscale { pool: usize },
    /// The number of replicas has come to the set.
    Scaled { pool: usize },
    /// The set looks.
    Plan { pool: usize },
    /// The set's steps have been carried out.
    Planned { pool: usize },
    /// A runner's pod exists.
    Created { pool: usize, runner: usize },
    /// A runner is registered.
    Registered { pool: usize, runner: usize },
    /// A runner has done its job and ends.
    Finished { pool: usize, runner: usize, job: usize },
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Queued,
    InProgress,
    Completed,
}

/// The events to come; those of the same moment in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    added: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Timestamp, event: Event) {
        self.added += 1;
        self.heap.push(Reverse((at, self.added, event)));
    }

    pub(super) fn next(&mut self) -> Option<(Timestamp, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
