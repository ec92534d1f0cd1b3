//! What bounds the number of runners itself: the autoscaler's bounds and delays.

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::HorizontalRunnerAutoscaler;

use super::{
    Code, Reason,
    facts::{Pool, subject_of},
    text::span,
};
use crate::autoscale::{
    desired::UNCHARGED_LIMIT,
    reservation,
    schedule::{Clock, Window, evaluate},
};

/// The manager's default of `--default-scale-down-delay`.
const DEFAULT_DELAY: SignedDuration = SignedDuration::from_mins(10);
/// What was written this long ago has been looked at, and the status says so.
const SETTLING: SignedDuration = SignedDuration::from_secs(5);
/// So many holders of places are named.
const NAMED: usize = 5;

/// The bounds in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    /// Fewest runners.
    pub(super) min: i64,
    /// Most runners.
    pub(super) max: i64,
    /// The override that sets one of them.
    active: Option<Window>,
    /// The maximum is the override's.
    is_max_scheduled: bool,
    /// Overrides that are ignored.
    problems: Vec<String>,
}

impl Bounds {
    /// Which bounds hold now. Recurrences follow the clock that they are written with.
    pub(super) fn of(autoscaler: &HorizontalRunnerAutoscaler, now: Timestamp) -> Self {
        let spec = &autoscaler.spec;
        let overrides = spec.scheduled_overrides.as_deref().unwrap_or_default();
        let schedule = evaluate(overrides, &Clock::Written, now);
        let sets = schedule.min.is_some() || schedule.max.is_some();
        Self {
            min: schedule.min.or(spec.min_replicas).unwrap_or(0).max(0),
            max: schedule.max.or(spec.max_replicas).unwrap_or(0).max(0),
            is_max_scheduled: schedule.max.is_some(),
            active: schedule.active.filter(|_| sets),
            problems: schedule.problems,
        }
    }

    /// Why no more than so many runners are made.
    pub(super) fn limit(&self, pool: &Pool<'_>, asked: &str, now: Timestamp) -> Option<Reason> {
        let autoscaler = pool.autoscaler()?;
        let field = if self.is_max_scheduled {
            "the scheduled override's maxReplicas"
        } else {
            "spec.maxReplicas"
        };
        let object = subject_of(autoscaler);
        let sentence = format!(
            "{asked}, and {field} of {} is {}. {}",
            object.name,
            self.max,
            holders(pool, now)
        );
        let code = match (self.is_max_scheduled, self.max) {
            (true, _) => Code::ScheduledOverride,
            (false, 0) => Code::Paused,
            (false, _) => Code::MaxReplicasReached,
        };
        let ends = self.active.as_ref().map(|window| window.period.end);
        Some(Reason::new(code, object, sentence).until(ends.filter(|_| self.is_max_scheduled)))
    }
}

/// What bounds the number itself.
pub(super) fn reasons(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let Some(autoscaler) = pool.autoscaler() else {
        let sentence = "spec.replicas is 0, and no autoscaler changes it";
        let paused = Reason::new(Code::Paused, pool.subject(), sentence);
        return Some(paused)
            .filter(|_| pool.replicas() == Some(0))
            .into_iter()
            .collect();
    };
    let mut reasons = Vec::new();
    let demand = reservation::demand(pool.ledger(), now);
    let bounds = Bounds::of(autoscaler, now);
    let is_limited = bounds.max == 0 || demand > bounds.max;
    if is_limited {
        reasons.extend(bounds.limit(pool, &format!("{demand} jobs want a runner"), now));
    }
    if let Some(window) = bounds
        .active
        .as_ref()
        .filter(|_| !(is_limited && bounds.is_max_scheduled))
    {
        let say =
            |bound: Option<i64>| bound.map_or_else(|| "unchanged".to_owned(), |bound| bound.to_string());
        let sentence = format!(
            "spec.scheduledOverrides[{}] holds: minReplicas {}, maxReplicas {}",
            window.index,
            say(window.min),
            say(window.max)
        );
        let reason = Reason::new(Code::ScheduledOverride, subject_of(autoscaler), sentence);
        reasons.push(
            reason
                .since(Some(window.period.start))
                .until(Some(window.period.end)),
        );
    }
    for problem in &bounds.problems {
        reasons.push(Reason::new(
            Code::ScheduleInvalid,
            subject_of(autoscaler),
            problem.clone(),
        ));
    }
    reasons.extend(kept(pool, autoscaler, &bounds, demand, now));
    reasons.extend(uncharged(pool, autoscaler, &bounds, demand, now));
    reasons
}

/// A number that is lower than the ledger says, although the manager has seen all of it: it counts ends that no event has named (spec 20).
fn uncharged(
    pool: &Pool<'_>,
    autoscaler: &HorizontalRunnerAutoscaler,
    bounds: &Bounds,
    demand: i64,
    now: Timestamp,
) -> Option<Reason> {
    let newest = reservation::live(pool.ledger(), now)
        .into_iter()
        .filter_map(|entry| entry.effective_time)
        .max()?
        .0;
    // The status follows the target within a second.
    let has_settled = now.duration_since(newest) > SETTLING;
    let has_seen = has_settled && pool.effective_time().is_some_and(|seen| seen >= newest);
    if !pool.is_ephemeral() || pool.has_metrics() || !has_seen {
        return None;
    }
    let counted = bounds.min.saturating_add(demand).min(bounds.max);
    let desired = autoscaler.status.as_ref()?.desired_replicas?;
    let missing = counted.checked_sub(desired).filter(|missing| *missing > 0)?;
    let object = subject_of(autoscaler);
    if now.duration_since(newest) > UNCHARGED_LIMIT.saturating_mul(2) {
        let sentence = format!("{counted} runners are wanted, and the manager still says {desired}");
        return Some(Reason::new(Code::NotReconciled, object, sentence).since(Some(newest)));
    }
    let sentence = format!(
        "{missing} of {demand} jobs are taken for done: as many runners ended, and no event has said yet which jobs they had"
    );
    Some(Reason::new(Code::EndsUncharged, object, sentence))
}

/// A number that is not lowered yet.
fn kept(
    pool: &Pool<'_>,
    autoscaler: &HorizontalRunnerAutoscaler,
    bounds: &Bounds,
    demand: i64,
    now: Timestamp,
) -> Option<Reason> {
    let status = autoscaler.status.as_ref().filter(|_| !pool.is_ephemeral())?;
    let delay = autoscaler
        .spec
        .scale_down_delay_seconds_after_scale_out
        .map_or(DEFAULT_DELAY, |seconds| SignedDuration::from_secs(seconds.max(0)));
    let until = status
        .last_successful_scale_out_time
        .as_ref()?
        .0
        .checked_add(delay)
        .ok()?;
    let enough = bounds.min.saturating_add(demand).min(bounds.max);
    let desired = status
        .desired_replicas
        .filter(|desired| *desired > enough && until > now)?;
    let sentence = format!("{desired} runners are kept although {enough} would do");
    Some(Reason::new(Code::ScaleDownDelayed, subject_of(autoscaler), sentence).until(Some(until)))
}

/// Who has the places, oldest first.
pub(super) fn holders(pool: &Pool<'_>, now: Timestamp) -> String {
    let held: Vec<String> = pool
        .jobs(now)
        .into_iter()
        .filter_map(|job| {
            let age = job
                .since
                .map_or_else(String::new, |at| format!(", {}", span(now.duration_since(at))));
            job.runner
                .map(|runner| format!("{runner} (job {}{age})", job.key))
        })
        .collect();
    if held.is_empty() {
        return "No job runs yet.".to_owned();
    }
    let more = held.len().saturating_sub(NAMED);
    let named = held.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("The places are held by {named}{more}.")
}
