//! Registered runners that are gone from GitHub or offline there while their pod runs (90 PAIN-08).
//!
//! Three parties know a runner: the pod, the registration, the job. A pod that runs without a registration takes no job and would hold its place for ever.

use jiff::{SignedDuration, Timestamp};

use super::PodView;

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
