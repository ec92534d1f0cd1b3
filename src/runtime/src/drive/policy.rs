//! What follows from a failed reconcile: a table, not code (91 B5).

use std::time::Duration;

const CONFLICT: Duration = Duration::from_millis(250);
const FORBIDDEN: Duration = Duration::from_mins(5);
const UNAVAILABLE_MAX: Duration = Duration::from_mins(2);
const INVALID: Duration = Duration::from_mins(10);

/// Kinds of failure that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The object asks for what cannot be: wait for a change.
    Invalid,
    /// Somebody else wrote first: read again.
    Conflict,
    /// Nothing is wrong, but GitHub may be asked again only after this long: repeated exactly then, and no failure.
    Waits(Duration),
    /// A refusal that is not worth repeating soon; not before this long.
    Throttled(Duration),
    /// Permissions are missing.
    Forbidden,
    /// The other side does not answer, or not now.
    Unavailable,
    /// A defect of ours.
    Bug,
}

impl Class {
    /// Whether nothing failed: it is only too early.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Waits(_))
    }

    /// Delay before attempt number `failures + 1`.
    pub fn delay(self, failures: u32) -> Duration {
        match self {
            // Nothing but an edit helps, and an edit triggers; the slow repeat heals what changed elsewhere.
            Self::Invalid => INVALID,
            Self::Conflict => CONFLICT.min(Duration::from_millis(10).saturating_mul(1 << failures.min(5))),
            Self::Waits(left) => left.max(Duration::from_millis(1)),
            Self::Throttled(until) => until.clamp(Duration::from_secs(1), Duration::from_mins(15)),
            // GitHub says 403 for a moment, too: soon once, and seldom only when it stays.
            Self::Forbidden => Duration::from_secs(5)
                .saturating_mul(1 << failures.saturating_sub(1).min(6))
                .min(FORBIDDEN),
            Self::Bug => FORBIDDEN,
            Self::Unavailable => Duration::from_secs(1)
                .saturating_mul(1 << failures.saturating_sub(1).min(8))
                .min(UNAVAILABLE_MAX),
        }
    }

    /// Metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Waits(_) => "waits",
            Self::Throttled(_) => "throttled",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Bug => "bug",
        }
    }

    /// False for what is part of ordinary operation.
    pub const fn is_noteworthy(self) -> bool {
        !matches!(self, Self::Conflict)
    }
}

/// An error of a reconciler.
pub trait Failure: std::error::Error + 'static {
    /// Its class.
    fn class(&self) -> Class;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_where_that_helps_and_are_bounded() {
        let seconds = |class: Class, count| class.delay(count).as_secs();
        assert_eq!(
            [1, 2, 5, 9, 40].map(|n| seconds(Class::Unavailable, n)),
            [1, 2, 16, 120, 120]
        );
        assert_eq!(Class::Conflict.delay(40), Duration::from_millis(250));
        assert_eq!(seconds(Class::Throttled(Duration::ZERO), 1), 1);
        assert_eq!(seconds(Class::Throttled(Duration::from_hours(2)), 1), 900);
        assert_eq!(
            Class::Waits(Duration::from_mins(42)).delay(9),
            Duration::from_mins(42),
            "exactly"
        );
        assert!(Class::Waits(Duration::ZERO).delay(1) > Duration::ZERO);
    }
}
