//! Writes of busy objects that nobody waits for: at most one per second, the last one always (spec 20, "cost of a runner's life").

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

const INTERVAL: SignedDuration = SignedDuration::from_secs(1);
/// Entries beyond this are swept.
const SWEEP_ABOVE: usize = 10_000;

/// When each object's status was written last.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    written: Mutex<HashMap<String, Timestamp>>,
}

impl Gate {
    /// `None` when the status of the object with this UID may be written now (and counts as written); else how long to wait.
    pub(crate) fn admit(&self, uid: &str, now: Timestamp) -> Option<Duration> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |at: &Timestamp| now.duration_since(*at) >= INTERVAL;
        if let Some(at) = written.get(uid).filter(|at| !free(at)) {
            let wait = INTERVAL - now.duration_since(*at);
            return Some(
                Duration::try_from(wait)
                    .unwrap_or(Duration::from_secs(1))
                    .min(Duration::from_secs(1)),
            );
        }
        if written.len() > SWEEP_ABOVE {
            written.retain(|_, at| !free(at));
        }
        written.insert(uid.to_owned(), now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_per_second_and_object() {
        let gate = Gate::default();
        let t = |ms: i64| Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap();
        assert_eq!(gate.admit("a", t(0)), None);
        assert_eq!(gate.admit("b", t(0)), None);
        assert_eq!(gate.admit("a", t(400)), Some(Duration::from_millis(600)));
        assert_eq!(gate.admit("a", t(1_000)), None);
    }
}
