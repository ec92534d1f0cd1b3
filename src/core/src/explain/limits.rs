//! What bounds the number of runners itself: the autoscaler's bounds and delays.

use jiff::{SignedDuration, Timestamp};

use super::{
    Code, Reason,
    facts::{Pool, subject_of},
    text::span,
};
use crate::autoscale::reservation;

/// The manager's default of `--default-scale-down-delay`.
const DEFAULT_DELAY: SignedDuration = SignedDuration::from_mins(10);
/// So many holders of places are named.
const NAMED: usize = 5;

/// What bounds the number itself.
pub(super) fn reasons(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let Some(autoscaler) = pool.autoscaler() else {
        if pool.replicas() == Some(0) {
            reasons.push(Reason::new(
                Code::Paused,
                pool.subject(),
                "spec.replicas is 0, and no autoscaler changes it",
            ));
        }
        return reasons;
    };
    let spec = &autoscaler.spec;
    let demand = reservation::demand(pool.ledger(), now);
    let (min, max) = (
        spec.min_replicas.unwrap_or(0).max(0),
        spec.max_replicas.unwrap_or(0),
    );
    let base = min.saturating_add(demand);
    if max <= 0 {
        let sentence = format!("spec.maxReplicas is {max}: no runner is made, whatever is queued");
        reasons.push(Reason::new(Code::Paused, subject_of(autoscaler), sentence));
    } else if base > max {
        let sentence = format!(
            "{base} runners are wanted and spec.maxReplicas is {max}: {} jobs wait for a place. {}",
            base.saturating_sub(max),
            holders(pool, now)
        );
        reasons.push(Reason::new(
            Code::MaxReplicasReached,
            subject_of(autoscaler),
            sentence,
        ));
    }
    let status = autoscaler.status.clone().unwrap_or_default();
    let delay = spec
        .scale_down_delay_seconds_after_scale_out
        .map_or(DEFAULT_DELAY, |seconds| SignedDuration::from_secs(seconds.max(0)));
    let until = status
        .last_successful_scale_out_time
        .and_then(|time| time.0.checked_add(delay).ok())
        .filter(|until| *until > now);
    if let (false, Some(desired), Some(until)) = (pool.is_ephemeral(), status.desired_replicas, until)
        && desired > base.clamp(min.min(max), max.max(0))
    {
        let sentence = format!("{desired} runners are kept although {base} would do");
        reasons
            .push(Reason::new(Code::ScaleDownDelayed, subject_of(autoscaler), sentence).until(Some(until)));
    }
    reasons
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
