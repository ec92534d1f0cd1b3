//! GitHub's protection against bursts: 900 points in a minute, one for a reading call and five for any other (part 90 §3.2). Who
//! stays below it is not refused for a minute with everything.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::Lane;

/// GitHub's minute.
const SPAN: SignedDuration = SignedDuration::from_mins(1);

/// Cost of a call that changes nothing.
pub(crate) const READ: u32 = 1;

/// Cost of every other call.
pub(crate) const WRITE: u32 = 5;

/// The points of the last minute, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Points {
    spent: VecDeque<(Timestamp, u32)>,
    sum: u32,
}

/// What a lane may bring a minute's sum to.
const fn most(lane: Lane) -> u32 {
    match lane {
        Lane::Critical => 900,
        Lane::Reconcile => 700,
        Lane::Cosmetic => 400,
    }
}

impl Points {
    /// When a call of this cost may be made; `None` is now.
    pub(crate) fn opens(&self, lane: Lane, cost: u32, now: Timestamp) -> Option<Timestamp> {
        let mut sum = self.sum.saturating_add(cost);
        let mut opens = None;
        for (at, points) in &self.spent {
            let end = at.checked_add(SPAN).unwrap_or(*at);
            if end > now {
                if sum <= most(lane) {
                    break;
                }
                opens = Some(end);
            }
            sum = sum.saturating_sub(*points);
        }
        opens
    }

    /// A call of this cost is made.
    pub(crate) fn spend(&mut self, cost: u32, now: Timestamp) {
        while let Some((at, points)) = self.spent.front().copied() {
            if at.checked_add(SPAN).is_ok_and(|end| end > now) {
                break;
            }
            self.spent.pop_front();
            self.sum = self.sum.saturating_sub(points);
        }
        self.spent.push_back((now, cost));
        self.sum = self.sum.saturating_add(cost);
    }
}
