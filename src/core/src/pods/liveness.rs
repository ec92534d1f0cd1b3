//! Registered runners that are gone from GitHub or offline there while their pod runs (90 PAIN-08).
//!
//! Three parties know a runner: the pod, the registration, the job. A pod that runs without a registration takes no job and would hold its place for ever.

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use super::PodView;
use crate::autoscale::reservation::{self, Kind};

/// What GitHub's listing says of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// It has a connection to GitHub.
    pub online: bool,
    /// It has a job.
    pub busy: bool,
}

/// What to think of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Fine,
    /// It is offline or unknown since then; look again at the deadline.
    Suspect {
        /// Since when.
        since: Timestamp,
        /// When it counts as a ghost.
        until: Timestamp,
    },
    /// It will not take a job any more: ask it to unregister, which is safe whatever is true, and replace it.
    Ghost,
}

/// Whether the ledgers of a pool's autoscalers say that a runner has a job; `None` where there is none, and where the runner is not named while an entry of
/// ARC's making counts: that one stands for a job too, and nobody wrote down who runs it.
pub fn ledgers_say<'a>(
    ledgers: impl IntoIterator<Item = &'a [CapacityReservation]>,
    runner: &str,
    now: Timestamp,
) -> Option<bool> {
    let (mut is_kept, mut is_complete) = (false, true);
    for ledger in ledgers {
        is_kept = true;
        for entry in ledger.iter().filter(|entry| !reservation::is_tombstone(entry)) {
            match reservation::classify(entry) {
                Kind::Job {
                    runner: Some(named), ..
                } if named == runner => return Some(true),
                Kind::Upstream if reservation::is_live(entry, now) => is_complete = false,
                _ => {}
            }
        }
    }
    (is_kept && is_complete).then_some(false)
}

/// What is known of a runner's having a job, by where it is known from; `None` where that source does not know the runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// The ledger of an autoscaler, which hears of a job's beginning and end at once.
    pub by_ledger: Option<bool>,
    /// GitHub's cached listing, a minute old at most.
    pub by_listing: Option<bool>,
}

impl Busy {
    /// Whether the pod is to be protected from evictions; `None` changes nothing.
    pub fn protects(self) -> Option<bool> {
        self.by_ledger.or(self.by_listing)
    }

    /// Whether GitHub need not be asked if the runner is still there. An old listing is no reason: it would hide the end of the job, and a container that hangs
    /// after it, for as long as it is cached.
    pub fn vouches(self) -> bool {
        self.by_ledger == Some(true)
    }
}

/// The limit, [`Deadlines::offline`](super::phase::Deadlines), is spent in fifths: two until somebody looks, two of patience, one that the listing may be old.
const PARTS: i32 = 5;

/// Time between two looks at a runner.
pub fn look_interval(limit: SignedDuration) -> SignedDuration {
    limit * 2 / PARTS
}

/// How old the listing may be.
pub fn listing_age(limit: SignedDuration) -> SignedDuration {
    limit / PARTS
}

/// Judges a registered, running pod. `listed` comes from a successful listing; `since` is when it was first found bad, as remembered.
pub fn assess(pod: &PodView, listed: Option<Listed>, since: Option<Timestamp>, now: Timestamp) -> Verdict {
    let bad = match listed {
        None => true,
        Some(listed) => !listed.online && !listed.busy,
    };
    if !bad || pod.is_stopped() || pod.deletion_at.is_some() {
        return Verdict::Fine;
    }
    let since = since.unwrap_or(now);
    let patience = look_interval(pod.deadlines.offline);
    let until = since.checked_add(patience).unwrap_or(Timestamp::MAX);
    if now >= until {
        Verdict::Ghost
    } else {
        Verdict::Suspect { since, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_listing_protects_a_runner_but_does_not_vouch_for_it() {
        for (by_ledger, by_listing, protects, vouches) in [
            (None, None, None, false),
            (None, Some(true), Some(true), false),
            (None, Some(false), Some(false), false),
            (Some(true), None, Some(true), true),
            (Some(true), Some(false), Some(true), true),
            (Some(false), None, Some(false), false),
            (Some(false), Some(true), Some(false), false),
        ] {
            let busy = Busy {
                by_ledger,
                by_listing,
            };
            assert_eq!((busy.protects(), busy.vouches()), (protects, vouches), "{busy:?}");
        }
    }

    #[test]
    fn a_ledger_with_entries_of_arcs_does_not_know_who_is_idle() {
        let now: Timestamp = "2027-01-01T10:00:00Z".parse().unwrap();
        let entry = |name: Option<&str>, replicas: i64, until: &str| {
            serde_json::from_value::<CapacityReservation>(
                serde_json::json!({"name": name, "replicas": replicas,
                "effectiveTime": "2027-01-01T09:00:00Z", "expirationTime": until}),
            )
            .unwrap()
        };
        let (later, past) = ("2027-01-01T10:30:00Z", "2027-01-01T10:00:00Z");
        let named = vec![entry(Some("7/1@r-1"), 1, later), entry(Some("7/2@r-2"), 0, later)];
        let (arcs, expired) = (vec![entry(None, 1, later)], vec![entry(None, 1, past)]);
        let mixed = [named.clone(), arcs.clone()].concat();
        for (ledgers, runner, says) in [
            (vec![], "r-1", None),
            (vec![&[][..]], "r-1", Some(false)),
            (vec![&named[..]], "r-1", Some(true)),
            (vec![&named[..]], "r-2", Some(false)),
            (vec![&arcs[..]], "r-1", None),
            (vec![&expired[..]], "r-1", Some(false)),
            (vec![&mixed[..]], "r-1", Some(true)),
            (vec![&mixed[..]], "r-3", None),
            (vec![&arcs[..], &named[..]], "r-1", Some(true)),
            (vec![&named[..], &arcs[..]], "r-3", None),
        ] {
            assert_eq!(
                ledgers_say(ledgers.clone(), runner, now),
                says,
                "{runner} in {ledgers:?}"
            );
        }
    }

    #[test]
    fn a_runner_is_a_ghost_after_the_deadline_and_never_while_busy() {
        let t = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let pod = PodView::default();
        let online = |online, busy| Some(Listed { online, busy });
        assert_eq!(
            assess(&pod, online(true, false), Some(t(0)), t(900)),
            Verdict::Fine
        );
        assert_eq!(
            assess(&pod, online(false, true), Some(t(0)), t(900)),
            Verdict::Fine,
            "GitHub waits for it"
        );
        assert_eq!(
            assess(&pod, None, None, t(10)),
            Verdict::Suspect {
                since: t(10),
                until: t(130)
            }
        );
        assert_eq!(
            assess(&pod, online(false, false), Some(t(10)), t(129)),
            Verdict::Suspect {
                since: t(10),
                until: t(130)
            }
        );
        assert_eq!(assess(&pod, None, Some(t(10)), t(130)), Verdict::Ghost);
    }
}
