//! Who may take the lock: a function of what was read and of the local clock.
//!
//! The times inside the Lease come from other machines' clocks and are never compared with ours. A candidate remembers since when *it* has
//! seen the record unchanged; once that is longer than the holder's term, the holder is gone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// Terms in a record beyond this are not believed: a typing error must not lock everybody out for hours.
const LONGEST_TERM: Duration = Duration::from_mins(5);

/// What the Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The holder's identity; `None` when it released the lock.
    pub(super) holder: Option<String>,
    /// The holder's term.
    pub(super) term: Option<Duration>,
    /// The holder's clock at its last renewal; only ever compared for equality.
    pub(super) renewed: Option<Timestamp>,
    /// How often the lock changed hands.
    pub(super) transitions: i32,
}

impl Record {
    pub(super) fn of(lease: &Lease) -> Self {
        let Some(spec) = &lease.spec else {
            return Self::default();
        };
        Self {
            holder: spec.holder_identity.clone().filter(|holder| !holder.is_empty()),
            term: spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

/// Remembers since when the record has looked as it does.
#[derive(Debug, Default)]
pub(super) struct Observer(Option<(Record, Instant)>);

impl Observer {
    /// Takes note of a record read at `now` and says since when it has been like this.
    pub(super) fn unchanged_since(&mut self, record: &Record, now: Instant) -> Instant {
        match &self.0 {
            Some((known, since)) if known == record => *since,
            _ => {
                self.0 = Some((record.clone(), now));
                now
            }
        }
    }
}

/// What to do about the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no Lease: create it.
    Create,
    /// Nobody holds it, or its holder is gone: write ourselves in, with this number of transitions.
    Claim {
        /// `leaseTransitions` to write.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it, at least until then unless the record changes.
    Wait {
        /// When the holder counts as gone.
        until: Instant,
    },
}

/// Decides for the candidate `identity`, whose own term is `term`. `found` is the record and since when it has been unchanged.
pub(super) fn decide(
    identity: &str,
    found: Option<(&Record, Instant)>,
    term: Duration,
    now: Instant,
) -> Step {
    let Some((record, unchanged_since)) = found else {
        return Step::Create;
    };
    let claim = Step::Claim {
        transitions: record.transitions.saturating_add(1),
    };
    match &record.holder {
        None => claim,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) => {
            let term = record
                .term
                .map_or(term, |theirs| theirs.min(LONGEST_TERM).max(term));
            let until = unchanged_since + term;
            if now >= until { claim } else { Step::Wait { until } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, renewed: i64) -> Record {
        Record {
            holder: Some(holder.to_owned()),
            term: Some(TERM),
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            transitions: 4,
        }
    }

    #[test]
    fn an_absent_lease_is_created_and_a_released_one_claimed() {
        let now = Instant::now();
        assert_eq!(decide("me", None, TERM, now), Step::Create);
        let released = Record {
            holder: None,
            ..held_by("", 0)
        };
        assert_eq!(
            decide("me", Some((&released, now)), TERM, now),
            Step::Claim { transitions: 5 }
        );
    }

    #[test]
    fn our_own_lease_is_renewed() {
        let now = Instant::now();
        assert_eq!(
            decide("me", Some((&held_by("me", 0), now)), TERM, now),
            Step::Renew
        );
    }

    #[test]
    fn a_silent_holder_loses_the_lock_after_its_term_on_our_clock() {
        let start = Instant::now();
        let mut observer = Observer::default();
        let mut step = |record: &Record, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let since = observer.unchanged_since(record, now);
            decide("me", Some((record, since)), TERM, now)
        };
        let until = |seconds| Step::Wait {
            until: start + Duration::from_secs(seconds),
        };
        assert_eq!(step(&held_by("other", 100), 0), until(15));
        assert_eq!(step(&held_by("other", 100), 14), until(15));
        // It renewed: the time starts anew.
        assert_eq!(step(&held_by("other", 102), 14), until(29));
        assert_eq!(step(&held_by("other", 102), 28), until(29));
        assert_eq!(step(&held_by("other", 102), 29), Step::Claim { transitions: 5 });
    }

    #[test]
    fn a_holder_whose_clock_is_wrong_is_not_robbed() {
        let now = Instant::now();
        for renewed in [-2_000_000_000, 0, 4_000_000_000] {
            let record = held_by("other", renewed);
            assert_eq!(
                decide("me", Some((&record, now)), TERM, now),
                Step::Wait { until: now + TERM }
            );
        }
    }

    #[test]
    fn the_longer_of_both_terms_counts_within_reason() {
        let start = Instant::now();
        let wait = |term: Option<Duration>| {
            let record = Record {
                term,
                ..held_by("other", 0)
            };
            match decide("me", Some((&record, start)), TERM, start) {
                Step::Wait { until } => until - start,
                step => panic!("{step:?}"),
            }
        };
        assert_eq!(wait(None), TERM);
        assert_eq!(wait(Some(Duration::from_secs(1))), TERM);
        assert_eq!(wait(Some(Duration::from_mins(1))), Duration::from_mins(1));
        assert_eq!(wait(Some(Duration::from_hours(100))), LONGEST_TERM);
    }
}
