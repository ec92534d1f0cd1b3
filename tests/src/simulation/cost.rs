//! What decisions cost on this machine.

use std::time::{Duration, Instant};

/// Calls of one decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often.
    pub calls: u64,
    /// For how long, together.
    pub took: Duration,
}

impl Cost {
    /// Measures one call.
    pub(super) fn of<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = call();
        self.took += begun.elapsed();
        self.calls += 1;
        answer
    }
}

/// All decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Which autoscaler does an event concern?
    pub route: Cost,
    /// What does it change in the ledger?
    pub fold: Cost,
    /// How many runners are wanted?
    pub desired: Cost,
    /// Who is created, asked to go, deleted?
    pub plan: Cost,
}

impl Costs {
    /// The time of all of them.
    pub fn took(&self) -> Duration {
        [self.route, self.fold, self.desired, self.plan]
            .iter()
            .map(|cost| cost.took)
            .sum()
    }
}
