//! Writes of busy objects that nobody waits for: at most one per second, the last one always (spec 20, "cost of a runner's life").

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// Between two writes of one object.
const INTERVAL: SignedDuration = SignedDuration::from_secs(1);
/// Counts that change together, one runner after the other or up and down again, are written together.
const SETTLE: SignedDuration = SignedDuration::from_millis(1_250);
/// No wait is longer, whatever the clock says.
const LONGEST: SignedDuration = SignedDuration::from_secs(30);
/// Entries beyond this are swept.
const SWEEP_ABOVE: usize = 10_000;

/// What is remembered of an object.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// When its status was written last.
    written: Option<Timestamp>,
    /// Since when a write of its counts waits.
    changed: Option<Timestamp>,
}

impl Entry {
    const fn written(at: Timestamp) -> Self {
        Self {
            written: Some(at),
            changed: None,
        }
    }
}

/// When each object's status was written last.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Gate {
    /// `None` when the object with this UID was last written `interval` ago or longer, and may be written now (and counts as written); else how long to
    /// wait.
    pub(crate) fn admit_after(
        &self,
        uid: &str,
        interval: SignedDuration,
        now: Timestamp,
    ) -> Option<Duration> {
        self.open(uid, interval, now, |_| None)
    }

    /// The same for a status that only counts, once a second: a moment more than a second is given to what changes next.
    pub(crate) fn admit_counts(&self, uid: &str, now: Timestamp) -> Option<Duration> {
        self.open(uid, INTERVAL, now, |entry| {
            let changed = *entry.changed.get_or_insert(now);
            changed.checked_add(SETTLE).ok()
        })
    }

    /// A write that could not wait has been made now: the next one has its second again.
    pub(crate) fn note(&self, uid: &str, now: Timestamp) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(uid.to_owned()).or_default();
        *entry = Entry::written(now);
    }

    fn open(
        &self,
        uid: &str,
        interval: SignedDuration,
        now: Timestamp,
        settled: impl FnOnce(&mut Entry) -> Option<Timestamp>,
    ) -> Option<Duration> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() > SWEEP_ABOVE {
            let is_old = |at: Timestamp| now.duration_since(at) >= LONGEST;
            entries.retain(|_, entry| {
                let latest = entry.written.max(entry.changed);
                latest.is_some_and(|at| !is_old(at))
            });
        }
        let entry = entries.entry(uid.to_owned()).or_default();
        let again = entry.written.and_then(|at| at.checked_add(interval).ok());
        let opens = again.max(settled(entry)).filter(|at| *at > now);
        if let Some(at) = opens {
            // By a clock that was set back it would be longer.
            let wait = at.duration_since(now).min(LONGEST);
            return Some(Duration::try_from(wait).unwrap_or_default());
        }
        *entry = Entry::written(now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
    }

    #[test]
    fn one_write_per_second_and_object() {
        let gate = Gate::default();
        let second = SignedDuration::from_secs(1);
        assert_eq!(gate.admit_after("a", second, t(0)), None);
        assert_eq!(gate.admit_after("b", second, t(0)), None);
        assert_eq!(
            gate.admit_after("a", second, t(400)),
            Some(Duration::from_millis(600))
        );
        assert_eq!(gate.admit_after("a", second, t(1_000)), None);
        let five = SignedDuration::from_secs(5);
        assert_eq!(
            gate.admit_after("a", five, t(2_000)),
            Some(Duration::from_secs(4))
        );
        assert_eq!(gate.admit_after("a", five, t(6_000)), None);
    }

    #[test]
    fn counts_wait_for_what_changes_next() {
        let gate = Gate::default();
        let wait = |ms| Some(Duration::from_millis(ms));
        assert_eq!(gate.admit_counts("a", t(0)), wait(1_250));
        assert_eq!(gate.admit_counts("a", t(200)), wait(1_050));
        assert_eq!(gate.admit_counts("a", t(1_250)), None);
        assert_eq!(gate.admit_counts("a", t(1_350)), wait(1_250));
        assert_eq!(gate.admit_counts("a", t(2_600)), None);
        assert_eq!(gate.admit_counts("a", t(9_000)), wait(1_250));
    }

    #[test]
    fn a_write_that_could_not_wait_is_followed_by_none_within_the_second() {
        let gate = Gate::default();
        gate.note("a", t(0));
        let second = SignedDuration::from_secs(1);
        assert_eq!(
            gate.admit_after("a", second, t(10)),
            Some(Duration::from_millis(990))
        );
        assert_eq!(gate.admit_after("a", second, t(1_000)), None);
        // What waits since before it waits with what it changed.
        assert_eq!(gate.admit_counts("b", t(0)), Some(Duration::from_millis(1_250)));
        gate.note("b", t(1_000));
        assert_eq!(
            gate.admit_counts("b", t(1_250)),
            Some(Duration::from_millis(1_250))
        );
    }
}
