//! What vanished from a ledger although none of Muster's writers removes it: somebody has replaced the list (spec 20 "Record").
//!
//! A job's entry becomes a tombstone before it goes, and goes when it has expired or when there are too many tombstones. An entry that
//! counted a moment ago and has left no trace was removed by somebody else, and that is their will.

use std::collections::{BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use super::hot::RepositoryRef;
use crate::autoscale::reservation::{self, JobKey, Kind, MAX_TOMBSTONES};

/// How long an autoscaler's condition tells of it, and its repositories are looked at.
pub const TOLD_FOR: SignedDuration = SignedDuration::from_hours(1);

/// An entry that is as near to its end may have been tidied away by a writer whose clock is ahead.
const CLOCKS: SignedDuration = SignedDuration::from_mins(1);

/// A list of so many entries may have pushed out those of finished jobs.
const CROWDED: usize = 2_000;

/// Entries that went without a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// How many.
    pub entries: usize,
    /// The repositories of their jobs.
    pub repositories: BTreeSet<RepositoryRef>,
}

/// Compares two looks at one autoscaler's ledger. What could be Muster's own tidying is not among the answer.
pub fn vanished(
    before: &[CapacityReservation],
    after: &[CapacityReservation],
    now: Timestamp,
) -> Option<Vanished> {
    let tombstones = after
        .iter()
        .filter(|entry| reservation::is_tombstone(entry))
        .count();
    if tombstones >= MAX_TOMBSTONES || after.len() >= CROWDED {
        return None;
    }
    let soon = now.checked_add(CLOCKS).unwrap_or(Timestamp::MAX);
    let mut names = HashSet::new();
    let mut keys: HashSet<JobKey> = HashSet::new();
    for entry in after {
        match reservation::classify(entry) {
            Kind::Job { key, .. } => drop(keys.insert(key)),
            Kind::Trigger => drop(names.insert(entry.name.as_deref())),
            Kind::Upstream | Kind::Foreign => {}
        }
    }
    let mut found = Vanished::default();
    for entry in reservation::live(before, soon) {
        match reservation::classify(entry) {
            Kind::Job { key, .. } if !keys.contains(&key) => {
                found.entries += 1;
                found.repositories.insert(RepositoryRef::Id {
                    host: key.host().map(str::to_owned),
                    id: key.repository_id(),
                });
            }
            Kind::Trigger if !names.contains(&entry.name.as_deref()) => found.entries += 1,
            _ => {}
        }
    }
    (found.entries > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use muster_crds::time::MicroTime;
    use proptest::prelude::*;

    use super::*;
    use crate::autoscale::reservation::{JobAction, JobEvent, apply, compact};

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(name: &str, replicas: i64, expires: i64) -> CapacityReservation {
        CapacityReservation {
            name: (!name.is_empty()).then(|| name.to_owned()),
            replicas: Some(replicas),
            effective_time: Some(MicroTime(t(1))),
            expiration_time: Some(MicroTime(t(expires))),
        }
    }

    fn id(id: u64) -> RepositoryRef {
        RepositoryRef::Id { host: None, id }
    }

    /// A name, the ledger before and after, and what vanished.
    type Case<'a> = (
        &'a str,
        Vec<CapacityReservation>,
        Vec<CapacityReservation>,
        Option<(usize, &'a [u64])>,
    );

    #[test]
    fn only_what_counted_and_left_no_trace_has_vanished() {
        let live = || entry("7/1", 1, 1_000);
        let none = &[][..];
        let cases: &[Case<'_>] = &[
            ("still there", vec![live()], vec![entry("7/1@a", 1, 1_100)], None),
            ("finished", vec![live()], vec![entry("7/1@a", 0, 2_000)], None),
            ("replaced", vec![live()], vec![], Some((1, &[7]))),
            (
                "by others",
                vec![live(), entry("8/2", 1, 900)],
                vec![entry("mine", 5, 900)],
                Some((2, &[7, 8])),
            ),
            (
                "expired, or nearly",
                vec![entry("7/1", 1, 50), entry("7/2", 1, 150)],
                vec![],
                None,
            ),
            ("a tombstone", vec![entry("7/1", 0, 2_000)], vec![], None),
            (
                "the user's own",
                vec![entry("mine", 5, 2_000), entry("", 1, 2_000)],
                vec![],
                None,
            ),
            (
                "a trigger's",
                vec![entry("push/1a", 2, 2_000)],
                vec![],
                Some((1, none)),
            ),
        ];
        for (what, before, after, expected) in cases {
            let expected = expected.map(|(entries, ids)| Vanished {
                entries,
                repositories: ids.iter().copied().map(id).collect(),
            });
            assert_eq!(vanished(before, after, t(100)), expected, "{what}");
        }
        // Finished jobs may have been pushed out meanwhile.
        let full: Vec<_> = (0..500).map(|job| entry(&format!("9/{job}"), 0, 2_000)).collect();
        assert_eq!(vanished(&[live()], &full, t(100)), None);
    }

    proptest! {
        /// Whatever Muster's own writers do to a ledger, nothing has vanished.
        #[test]
        fn our_own_writers_make_nothing_vanish(
            steps in proptest::collection::vec((0_u64..12, 0_u8..4, 0_i64..200), 1..60),
        ) {
            let (mut ledger, mut now) = (Vec::new(), 1_000);
            for (job, action, passed) in steps {
                let before = ledger.clone();
                now += passed;
                let event = JobEvent {
                    key: JobKey::new(None, 7, job),
                    action: match action {
                        0 => JobAction::Queued,
                        1 => JobAction::InProgress,
                        2 => JobAction::Completed,
                        _ => JobAction::InProgressElsewhere,
                    },
                    runner: (action == 1).then(|| "runner".to_owned()),
                    created_at: None,
                };
                ledger = apply(&ledger, &event, SignedDuration::from_secs(90), t(now));
                if action == 2 {
                    ledger = compact(&ledger, t(now));
                }
                prop_assert_eq!(vanished(&before, &ledger, t(now)), None);
            }
        }
    }
}
