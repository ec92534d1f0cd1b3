//! Graceful stop of one runner pod: a pure state machine (spec 02 §12.3 with the deviations of issue "a runner's whole life").
//!
//! A runner is off GitHub before its pod goes. GitHub removes an idle runner atomically and refuses a busy one (422), so the removal call is the only proof of idleness. Whatever is not a clear
//! answer (403, 429, 5xx, a time-out) is *unknown* and treated like busy.

use jiff::{SignedDuration, Timestamp};

use super::{PodView, phase::PodPhase};

/// How long to wait before a busy or unknown runner is asked for again (spec 02 §21).
pub const RETRY_DELAY: SignedDuration = SignedDuration::from_mins(1);
/// How long to wait after an answer that was none, when GitHub did not say.
pub const UNKNOWN_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// How long to wait for a starting runner to appear on GitHub (spec 02 §21).
pub const REGISTRATION_POLL: SignedDuration = SignedDuration::from_secs(10);

/// Why a pod may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safe {
    /// It was found safe before.
    AlreadyComplete,
    /// Its agent has stopped; an ephemeral runner has removed itself.
    Stopped,
    /// It never got as far as running.
    NeverStarted,
    /// It runs for long and GitHub does not know it.
    NeverRegistered,
    /// GitHub removed the runner just now.
    Removed,
    /// GitHub did not have it any more.
    Gone,
    /// The container was restarted after its job.
    Restarted,
    /// GitHub gave no clear answer, and no container is left that could have a job: GitHub may still list the runner.
    Abandoned,
}

impl Safe {
    /// Whether that stays true whatever happens next, so that it can be written down and acted upon later. A pod that has not started, or whose runner GitHub
    /// does not know, may do so a moment later and take a job: it can only be deleted on the spot, as it was seen (precondition `resourceVersion`).
    pub const fn lasts(self) -> bool {
        !matches!(self, Self::NeverStarted | Self::NeverRegistered)
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The pod may go.
    Safe(Safe),
    /// Ask GitHub for the runner's id by its name.
    LookUp,
    /// Ask GitHub to remove the runner.
    Remove {
        /// GitHub's id of the runner.
        id: u64,
    },
    /// Look again after this long, or when the pod changes.
    Wait(SignedDuration),
    /// The runner has a job. Record that; an ephemeral runner ends by itself and its pod's change wakes us, a persistent one is asked again.
    Busy {
        /// Mark the pod as waiting for the end of its container.
        await_completion: bool,
        /// When to ask again.
        retry: Option<SignedDuration>,
    },
}

/// GitHub's answer to the removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 204.
    Removed,
    /// 404.
    Gone,
    /// 422: it runs a job.
    Busy,
    /// Anything else; when GitHub said how long to wait, until then.
    Unknown {
        /// When to ask again at the earliest.
        until: Option<Timestamp>,
    },
}

/// First question about a pod that is to go.
pub fn begin(pod: &PodView, now: Timestamp) -> Next {
    if pod.unregistration_complete {
        return Next::Safe(Safe::AlreadyComplete);
    }
    // A persistent runner whose agent stopped stays behind on GitHub as an offline runner (spec 02 Q44); an ephemeral one has removed itself: no call, unless
    // GitHub could not be reached when it was told to stop: its agent could not reach it either.
    if pod.is_stopped() {
        return match pod.runner_id {
            Some(id) if !pod.ephemeral || pod.unregistration_unclear => Next::Remove { id },
            None if pod.unregistration_unclear => Next::LookUp,
            _ => Next::Safe(Safe::Stopped),
        };
    }
    if pod.awaiting_completion {
        return if pod.ephemeral && pod.runner_restarted {
            Next::Safe(Safe::Restarted)
        } else if pod.deletion_at.is_some_and(|end| now > end) {
            // The kubelet may never report the end (node lost): ask GitHub again (spec 02 Q51).
            pod.runner_id.map_or(Next::LookUp, |id| Next::Remove { id })
        } else {
            Next::Wait(RETRY_DELAY)
        };
    }
    if pod.phase == PodPhase::Pending && pod.runner_id.is_none() {
        let stuck = pod.start_deadline().is_some_and(|deadline| now > deadline);
        // A scheduled pod may start and take a job at any moment, so it is retired when it runs; a pod that is being deleted already must not wait for that.
        return if !pod.scheduled || stuck || pod.deletion_at.is_some() {
            Next::Safe(Safe::NeverStarted)
        } else {
            Next::Wait(REGISTRATION_POLL)
        };
    }
    pod.runner_id.map_or(Next::LookUp, |id| Next::Remove { id })
}

/// After the look-up by name; `found` is `None` only when a *successful* and fresh listing did not have the runner.
pub fn after_look_up(pod: &PodView, found: Option<u64>, now: Timestamp) -> Next {
    match found {
        Some(id) => Next::Remove { id },
        None if pod.is_stopped() => Next::Safe(Safe::Stopped),
        None if pod.is_ready_long(now) => Next::Safe(Safe::NeverRegistered),
        None if pod.deletion_at.is_some_and(|end| now > end) => Next::Safe(Safe::Gone),
        None => Next::Wait(REGISTRATION_POLL),
    }
}

/// When a deleted pod is released whatever GitHub says: the grace period is over for so long that no container can be left.
pub fn abandoned_at(pod: &PodView) -> Option<Timestamp> {
    pod.deletion_at
        .and_then(|end| end.checked_add(pod.deadlines.unregistration).ok())
}

/// After a look-up or a removal without a clear answer; `until` is when to ask again at the earliest, where that is known.
pub fn after_no_answer(pod: &PodView, until: Option<Timestamp>, now: Timestamp) -> Next {
    let release_at = abandoned_at(pod);
    // GitHub forgets an offline ephemeral runner by itself within a day.
    let harmless = pod.deletion_at.is_some() && pod.is_stopped() && pod.ephemeral;
    if harmless || release_at.is_some_and(|at| now > at) {
        return Next::Safe(Safe::Abandoned);
    }
    let wait = until.map_or(UNKNOWN_DELAY, |until| until.duration_since(now));
    let wait = release_at.map_or(wait, |at| wait.min(at.duration_since(now)));
    Next::Wait(wait.clamp(SignedDuration::from_secs(1), SignedDuration::from_mins(15)))
}

/// After the removal.
pub fn after_removal(pod: &PodView, answer: Answer, now: Timestamp) -> Next {
    match answer {
        Answer::Removed => Next::Safe(Safe::Removed),
        Answer::Gone => Next::Safe(Safe::Gone),
        Answer::Busy if pod.is_stopped() => Next::Safe(Safe::Stopped),
        Answer::Busy => Next::Busy {
            await_completion: pod.ephemeral && !pod.awaiting_completion,
            retry: (!pod.ephemeral || pod.deletion_at.is_some()).then_some(RETRY_DELAY),
        },
        Answer::Unknown { until } => after_no_answer(pod, until, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::phase::RunnerContainer;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn running() -> PodView {
        PodView {
            phase: PodPhase::Running,
            runner: RunnerContainer::Running,
            scheduled: true,
            reported: true,
            ephemeral: true,
            ..PodView::default()
        }
    }

    #[test]
    fn the_first_question_follows_the_table() {
        let base = running();
        let cases: Vec<(&str, PodView, Next)> = vec![
            (
                "complete",
                PodView {
                    unregistration_complete: true,
                    ..base.clone()
                },
                Next::Safe(Safe::AlreadyComplete),
            ),
            (
                "stopped, ephemeral: no call",
                PodView {
                    runner: RunnerContainer::Terminated { exit_code: 0 },
                    runner_id: Some(3),
                    ..base.clone()
                },
                Next::Safe(Safe::Stopped),
            ),
            (
                "stopped, persistent: removed from GitHub",
                PodView {
                    runner: RunnerContainer::Terminated { exit_code: 1 },
                    runner_id: Some(3),
                    ephemeral: false,
                    ..base.clone()
                },
                Next::Remove { id: 3 },
            ),
            (
                "known id",
                PodView {
                    runner_id: Some(3),
                    ..base.clone()
                },
                Next::Remove { id: 3 },
            ),
            ("unknown id", base.clone(), Next::LookUp),
            (
                "pending, unscheduled",
                PodView {
                    phase: PodPhase::Pending,
                    scheduled: false,
                    ..base.clone()
                },
                Next::Safe(Safe::NeverStarted),
            ),
            (
                "pending, scheduled: may start any moment",
                PodView {
                    phase: PodPhase::Pending,
                    ..base.clone()
                },
                Next::Wait(REGISTRATION_POLL),
            ),
            (
                "pending, scheduled, being deleted",
                PodView {
                    phase: PodPhase::Pending,
                    deletion_at: Some(t(5)),
                    ..base.clone()
                },
                Next::Safe(Safe::NeverStarted),
            ),
            (
                "busy before: wait without a call",
                PodView {
                    awaiting_completion: true,
                    runner_id: Some(3),
                    ..base.clone()
                },
                Next::Wait(RETRY_DELAY),
            ),
            (
                "busy before, container restarted",
                PodView {
                    awaiting_completion: true,
                    runner_restarted: true,
                    ..base.clone()
                },
                Next::Safe(Safe::Restarted),
            ),
            (
                "busy before, grace period over: ask again",
                PodView {
                    awaiting_completion: true,
                    runner_id: Some(3),
                    deletion_at: Some(t(-5)),
                    ..base
                },
                Next::Remove { id: 3 },
            ),
        ];
        for (name, pod, next) in cases {
            assert_eq!(begin(&pod, t(0)), next, "{name}");
        }
    }

    /// Spec 02 §19, "Unregistration", with issue "a runner's whole life": a 403 is no proof.
    #[test]
    fn what_github_says_to_a_removal_decides() {
        let unknown = |until| Answer::Unknown { until };
        let busy = |await_completion, retry| Next::Busy {
            await_completion,
            retry,
        };
        let (ephemeral, wait) = (true, Next::Wait);
        let rows = [
            ("204", ephemeral, Answer::Removed, Next::Safe(Safe::Removed)),
            ("404", ephemeral, Answer::Gone, Next::Safe(Safe::Gone)),
            ("403", ephemeral, unknown(None), wait(UNKNOWN_DELAY)),
            (
                "403, X-RateLimit-Remaining: 0",
                ephemeral,
                unknown(Some(t(40))),
                wait(SignedDuration::from_secs(40)),
            ),
            ("422, ephemeral", ephemeral, Answer::Busy, busy(true, None)),
            (
                "422, static",
                !ephemeral,
                Answer::Busy,
                busy(false, Some(RETRY_DELAY)),
            ),
        ];
        for (name, ephemeral, answer, next) in rows {
            let pod = PodView {
                ephemeral,
                runner_id: Some(3),
                ..running()
            };
            assert_eq!(begin(&pod, t(0)), Next::Remove { id: 3 }, "{name}");
            assert_eq!(after_removal(&pod, answer, t(0)), next, "{name}");
        }
    }

    #[test]
    fn nobody_is_safe_on_an_unclear_answer() {
        let pod = running();
        assert_eq!(
            after_removal(&pod, Answer::Unknown { until: None }, t(0)),
            Next::Wait(UNKNOWN_DELAY)
        );
        assert_eq!(
            after_removal(&pod, Answer::Unknown { until: Some(t(30)) }, t(0)),
            Next::Wait(SignedDuration::from_secs(30))
        );
        assert_eq!(
            after_removal(&pod, Answer::Busy, t(0)),
            Next::Busy {
                await_completion: true,
                retry: None
            }
        );
        let persistent = PodView {
            ephemeral: false,
            ..pod
        };
        assert_eq!(
            after_removal(&persistent, Answer::Busy, t(0)),
            Next::Busy {
                await_completion: false,
                retry: Some(RETRY_DELAY)
            }
        );
    }

    #[test]
    fn a_deleted_pod_is_released_in_time_whatever_github_says() {
        let unknown = |pod: &PodView, now| after_removal(pod, Answer::Unknown { until: None }, now);
        let deleted = PodView {
            deletion_at: Some(t(0)),
            runner_id: Some(3),
            unregistration_unclear: true,
            ..running()
        };
        assert_eq!(unknown(&deleted, t(0)), Next::Wait(UNKNOWN_DELAY));
        assert_eq!(
            unknown(&deleted, t(295)),
            Next::Wait(SignedDuration::from_secs(5)),
            "not beyond the end"
        );
        assert_eq!(
            after_removal(&deleted, Answer::Unknown { until: Some(t(900)) }, t(290)),
            Next::Wait(SignedDuration::from_secs(10)),
            "whatever GitHub's rate limit says"
        );
        assert_eq!(unknown(&deleted, t(301)), Next::Safe(Safe::Abandoned));
        assert_eq!(
            after_no_answer(&deleted, None, t(301)),
            Next::Safe(Safe::Abandoned)
        );
        // Its agent has stopped: nothing can be hurt any more, but GitHub is asked once more.
        let stopped = PodView {
            runner: RunnerContainer::Terminated { exit_code: 0 },
            ..deleted
        };
        assert_eq!(begin(&stopped, t(0)), Next::Remove { id: 3 });
        assert_eq!(unknown(&stopped, t(0)), Next::Safe(Safe::Abandoned));
        assert_eq!(
            after_removal(&stopped, Answer::Gone, t(0)),
            Next::Safe(Safe::Gone)
        );
        let nameless = PodView {
            runner_id: None,
            ..stopped.clone()
        };
        assert_eq!(begin(&nameless, t(0)), Next::LookUp);
        assert_eq!(after_look_up(&nameless, None, t(0)), Next::Safe(Safe::Stopped));
        let persistent = PodView {
            ephemeral: false,
            ..stopped
        };
        assert_eq!(
            unknown(&persistent, t(0)),
            Next::Wait(UNKNOWN_DELAY),
            "GitHub keeps it for long"
        );
        // A pod that nobody deletes waits for ever: it may be busy.
        assert_eq!(unknown(&running(), t(9_999_999)), Next::Wait(UNKNOWN_DELAY));
    }

    #[test]
    fn a_runner_that_github_does_not_know_is_given_up_after_ten_minutes() {
        let mut pod = running();
        assert_eq!(after_look_up(&pod, None, t(0)), Next::Wait(REGISTRATION_POLL));
        pod.ready_since = Some(t(-601));
        assert_eq!(after_look_up(&pod, None, t(0)), Next::Safe(Safe::NeverRegistered));
        assert_eq!(after_look_up(&pod, Some(9), t(0)), Next::Remove { id: 9 });
    }
}
