//! One window of calls: what GitHub (or a configured cap) allows in an hour, and how much of it each lane may take by now.

use jiff::{SignedDuration, Timestamp};

use super::Lane;

/// GitHub's windows, and those of the cap, last an hour.
const SPAN: SignedDuration = SignedDuration::from_hours(1);

/// Answers of one window may state resets that differ by a few seconds; those of two windows lie an hour apart.
const SAME_WINDOW: SignedDuration = SignedDuration::from_secs(10);

/// How soon a call that waits for the outcome of others looks again: they may turn out to be free (304).
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(1);

/// More calls an hour than any GitHub allows; keeps the arithmetic in range whatever a header says.
const MOST_CALLS: i64 = 1_000_000_000;

/// What an answer said about its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Calls per window.
    pub(crate) limit: u64,
    /// Calls left in it.
    pub(crate) remaining: u64,
    /// Its end, by our clock.
    pub(crate) reset_at: Timestamp,
}

/// A window as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    limit: u64,
    remaining: u64,
    /// Calls under way, which may or may not be charged.
    pending: u64,
    reset_at: Timestamp,
    /// End of the window before, when no answer has told about this one yet.
    follows: Option<Timestamp>,
}

/// Parts of the limit, in percent.
#[derive(Clone, Copy)]
struct Share {
    /// Never taken.
    kept: i64,
    /// Taken evenly over the window.
    paced: i64,
}

impl Lane {
    /// A fifth is kept for what is critical. Reconciles may take a fifth at once and the other three as the hour goes by, so that a
    /// burst does not leave the rest of the hour with nothing; what is cosmetic gets a twentieth at once.
    const fn share(self) -> Share {
        match self {
            Self::Critical => Share { kept: 0, paced: 0 },
            Self::Reconcile => Share { kept: 20, paced: 60 },
            Self::Cosmetic => Share { kept: 20, paced: 75 },
        }
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(MOST_CALLS).min(MOST_CALLS)
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

fn milliseconds(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Window {
    /// The window that an answer told about.
    pub(crate) fn of(seen: Seen) -> Self {
        Self {
            limit: seen.limit,
            remaining: seen.remaining,
            pending: 0,
            reset_at: seen.reset_at,
            follows: None,
        }
    }

    /// A window of our own that begins now.
    pub(crate) fn begin(limit: u64, now: Timestamp) -> Self {
        Self::of(Seen {
            limit,
            remaining: limit,
            reset_at: later(now, SPAN),
        })
    }

    /// The window that holds at `now`: a full one when this one is over.
    pub(crate) fn at(self, now: Timestamp) -> Self {
        if self.reset_at > now {
            return self;
        }
        Self {
            remaining: self.limit,
            reset_at: later(now, SPAN),
            follows: Some(self.reset_at),
            ..self
        }
    }

    /// Calls that may still be made.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining.saturating_sub(self.pending)
    }

    /// Calls per window.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// End of the window.
    pub(crate) fn reset_at(&self) -> Timestamp {
        self.reset_at
    }

    /// Whether nothing is left for anybody.
    pub(crate) fn is_used_up(&self) -> bool {
        self.remaining == 0
    }

    /// When a call of `lane` may be made that has `ahead` others before it; `None` is now.
    pub(crate) fn opens(&self, lane: Lane, ahead: u64, now: Timestamp) -> Option<Timestamp> {
        let turn = number(ahead).saturating_add(1);
        let settled = self.opening(lane, number(self.remaining).saturating_sub(turn), now);
        if let Some(at) = settled {
            return Some(if at < self.reset_at {
                at
            } else {
                self.next_opening(lane, turn)
            });
        }
        // Were nothing under way, it could be made.
        let sure = number(self.remaining()).saturating_sub(turn);
        self.opening(lane, sure, now)
            .map(|at| at.min(later(now, LOOK_AGAIN)))
    }

    /// When a call that has to wait for the next window may be made: at its beginning, unless too many are before it.
    fn next_opening(&self, lane: Lane, turn: i64) -> Timestamp {
        let next = self.at(self.reset_at);
        let after = number(next.limit).saturating_sub(turn);
        next.opening(lane, after, self.reset_at)
            .filter(|at| *at < next.reset_at)
            .unwrap_or(self.reset_at)
    }

    /// When `after` calls left are enough for `lane`; `None` is now.
    fn opening(&self, lane: Lane, after: i64, now: Timestamp) -> Option<Timestamp> {
        let share = lane.share();
        let limit = number(self.limit);
        let whole = milliseconds(SPAN);
        let left = milliseconds(self.reset_at.duration_since(now)).clamp(0, whole);
        let spare = after.saturating_sub(limit.saturating_mul(share.kept) / 100);
        if spare < 0 {
            return Some(self.reset_at);
        }
        let paced = i128::from(limit.saturating_mul(share.paced));
        // paced / 100 * left / whole <= spare, without losing a fraction.
        let bound = i128::from(spare) * 100 * i128::from(whole);
        if paced * i128::from(left) <= bound {
            return None;
        }
        let left = i64::try_from(bound / paced).unwrap_or(0);
        let at = self.reset_at.checked_sub(SignedDuration::from_millis(left));
        Some(at.unwrap_or(self.reset_at))
    }

    /// A call is under way.
    pub(crate) fn take(&mut self) {
        self.pending = self.pending.saturating_add(1);
    }

    /// A call has ended and was counted in another window, or not at all.
    pub(crate) fn release(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// A call has ended, and GitHub did not say how much is left: it counts unless it was `free`.
    pub(crate) fn charge(&mut self, free: bool) {
        self.release();
        if !free {
            self.remaining = self.remaining.saturating_sub(1);
        }
    }

    /// An answer told about this window, the next one, or an earlier one.
    pub(crate) fn see(&mut self, seen: Seen, now: Timestamp) {
        let pending = self.pending;
        let current = self.at(now);
        let known = match current.follows {
            // An answer about the window before that took its time.
            Some(_) if seen.reset_at <= now => return,
            Some(_) => None,
            None => Some(current.reset_at),
        };
        match known {
            // Answers may overtake each other: within a window the budget only shrinks.
            Some(reset) if seen.limit == self.limit && seen.reset_at <= later(reset, SAME_WINDOW) => {
                if later(seen.reset_at, SAME_WINDOW) >= reset {
                    self.remaining = self.remaining.min(seen.remaining);
                    self.reset_at = reset.max(seen.reset_at);
                }
            }
            _ => {
                *self = Self {
                    pending,
                    ..Self::of(seen)
                }
            }
        }
    }
}
