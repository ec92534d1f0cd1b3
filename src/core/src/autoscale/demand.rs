//! Pull metrics and reservations describe the same jobs: how the two become one number (spec 20 "Desired replicas", spec 01 §7.6).

use std::str::FromStr;

use jiff::Timestamp;

use super::metrics::{Source, Value};

/// `--demand-merge`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DemandMerge {
    /// Metric + reservations, upstream's: a job that both know of counts twice.
    #[default]
    Sum,
    /// The larger of metric and minimum + reservations.
    Max,
}

impl FromStr for DemandMerge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sum" => Ok(Self::Sum),
            "max" => Ok(Self::Max),
            _ => Err(format!("{text:?} is neither sum nor max")),
        }
    }
}

/// What the pull metrics say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// There are none.
    #[default]
    Off,
    /// GitHub has answered.
    Known {
        /// The value.
        value: Value,
        /// The answer is not older.
        as_of: Timestamp,
    },
    /// GitHub has not answered, or not to all that was asked. The target keeps its runners.
    Unknown {
        /// Jobs that are known to want or have a runner all the same.
        at_least: i64,
    },
}

impl Pull {
    /// Whether reservations and a metric are added, so that a job may count twice.
    pub fn adds_to(self, merge: DemandMerge) -> bool {
        self != Self::Off && merge == DemandMerge::Sum
    }

    /// Whether the number is one of runners, whatever they do: one that ends is wanted again.
    pub(super) fn counts_runners(self) -> bool {
        matches!(self, Self::Known { value, .. } if value.source == Source::Busy)
    }

    /// The wanted number within the bounds. `reserved` are the reservations that count, `ended` the counted jobs that have ended since the metric was
    /// read.
    ///
    /// compat: a minimum above the maximum wins only over a metric that says less (spec 01 §7.6).
    pub(super) fn wanted(self, merge: DemandMerge, (min, max): (i64, i64), reserved: i64, ended: i64) -> i64 {
        let suggestion = match self {
            Self::Off => None,
            Self::Known { value, .. } => value.suggestion(ended),
            Self::Unknown { at_least } => (at_least > 0).then_some(at_least),
        };
        let total = match merge {
            DemandMerge::Sum => suggestion.unwrap_or(min).saturating_add(reserved),
            DemandMerge::Max => min.saturating_add(reserved).max(suggestion.unwrap_or(0)),
        };
        if total < min { min } else { total.min(max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(replicas: i64, source: Source) -> Pull {
        Pull::Known {
            value: Value {
                replicas,
                source,
                is_second: false,
            },
            as_of: Timestamp::UNIX_EPOCH,
        }
    }

    /// Spec 01 §15.4, 02 §19 and Q22.
    #[test]
    fn wanted_table() {
        use DemandMerge::{Max, Sum};
        let (busy, jobs) = (|n| known(n, Source::Busy), |n| known(n, Source::Jobs));
        let second = |replicas| Pull::Known {
            value: Value {
                replicas,
                source: Source::Jobs,
                is_second: true,
            },
            as_of: Timestamp::UNIX_EPOCH,
        };
        // pull, merge, min, max, reserved, ended → wanted
        for (pull, merge, bounds, reserved, ended, wanted) in [
            (Pull::Off, Sum, (1, 5), 0, 0, 1),
            (Pull::Off, Sum, (1, 5), 3, 0, 4),
            (Pull::Off, Max, (1, 5), 3, 0, 4),
            (Pull::Off, Sum, (1, 5), 9, 0, 5),
            (Pull::Off, Sum, (3, 2), 0, 0, 2), // minimum above maximum: the maximum
            (jobs(1), Sum, (3, 2), 0, 0, 3),   // … unless a metric says less than the minimum
            (Pull::Off, Sum, (10, 5), 0, 0, 5),
            (Pull::Off, Sum, (10, 20), 2, 0, 12),
            (busy(6), Sum, (1, 10), 2, 0, 8),
            (busy(6), Max, (1, 10), 2, 0, 6),
            (busy(2), Max, (1, 10), 4, 0, 5),
            (busy(2), Sum, (1, 10), 0, 0, 2),
            (jobs(0), Sum, (2, 3), 0, 0, 2),
            (jobs(5), Sum, (2, 10), 0, 0, 5),
            (jobs(3), Sum, (2, 2), 0, 0, 2),
            (jobs(0), Sum, (2, 10), 3, 0, 5), // an only metric's 0 says nothing: minimum + reservations
            (second(0), Sum, (2, 10), 3, 0, 3), // the second one's 0 is a number
            (second(0), Max, (2, 10), 3, 0, 5),
            (jobs(5), Sum, (0, 10), 0, 2, 3), // jobs that ended since
            (jobs(2), Sum, (1, 10), 0, 5, 1),
            (busy(5), Sum, (1, 10), 0, 2, 5),
            (Pull::Unknown { at_least: 0 }, Sum, (1, 10), 2, 0, 3),
            (Pull::Unknown { at_least: 4 }, Sum, (1, 10), 2, 0, 6),
            (Pull::Unknown { at_least: 4 }, Max, (1, 10), 2, 0, 4),
        ] {
            let answer = pull.wanted(merge, bounds, reserved, ended);
            assert_eq!(answer, wanted, "{pull:?} {merge:?} {bounds:?} {reserved} {ended}");
        }
    }

    #[test]
    fn the_flag_has_two_values() {
        assert_eq!("sum".parse(), Ok(DemandMerge::Sum));
        assert_eq!("max".parse(), Ok(DemandMerge::Max));
        assert!("both".parse::<DemandMerge>().is_err());
    }
}
