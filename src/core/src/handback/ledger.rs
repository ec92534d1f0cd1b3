//! The ledger as upstream's webhook server would have written it: anonymous entries, oldest first, without tombstones.
//!
//! Upstream counts positions: `completed` takes the first entry of the list, whoever's it is (spec 03 §1.12). So a name that stayed would soon stand
//! for another job's capacity, a tombstone would be taken in place of an entry that counts, and what only expires (a trigger's, the user's) must stand behind the jobs.

use jiff::{SignedDuration, Timestamp};
use muster_crds::{
    legacy::{CapacityReservation, HorizontalRunnerAutoscalerSpec},
    time::MicroTime,
};

use crate::{
    autoscale::reservation::{self, Kind},
    go,
};

/// What became of a ledger's entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HandedBack {
    /// The list that upstream gets.
    pub(super) entries: Vec<CapacityReservation>,
    /// Jobs' entries that lost their name.
    pub(super) anonymous: usize,
    /// Tombstones that went.
    pub(super) tombstones: usize,
    /// Expired entries and further entries of one job that went.
    pub(super) stale: usize,
}

/// How long the entries that a `workflow_job` trigger of this autoscaler adds live.
pub(super) fn duration(spec: &HorizontalRunnerAutoscalerSpec) -> SignedDuration {
    let triggers = spec.scale_up_triggers.iter().flatten();
    let written = triggers
        .filter_map(|trigger| go::parse_duration(trigger.duration.as_deref()?).ok())
        .find(SignedDuration::is_positive);
    written.unwrap_or(reservation::DEFAULT_DURATION)
}

/// Makes upstream's list of ours. Done twice, it changes nothing the second time.
pub(super) fn hand_back(
    ledger: &[CapacityReservation],
    duration: SignedDuration,
    now: Timestamp,
) -> HandedBack {
    let mut result = HandedBack {
        tombstones: ledger
            .iter()
            .filter(|entry| reservation::is_tombstone(entry))
            .count(),
        ..HandedBack::default()
    };
    let (distinct, _) = reservation::distinct(ledger, now);
    let kept: Vec<&CapacityReservation> = distinct
        .iter()
        .filter(|entry| !reservation::is_tombstone(entry) && !reservation::is_expired(entry, now))
        .collect();
    result.stale = ledger.len().saturating_sub(kept.len() + result.tombstones);
    let (mut jobs, mut rest) = (Vec::new(), Vec::new());
    for entry in kept {
        match reservation::classify(entry) {
            Kind::Job { .. } => {
                result.anonymous += 1;
                jobs.push(anonymous(entry, duration));
            }
            Kind::Upstream => jobs.push(entry.clone()),
            Kind::Trigger | Kind::Foreign => rest.push(entry.clone()),
        }
    }
    jobs.sort_by_key(|entry| entry.effective_time);
    jobs.extend(rest);
    result.entries = jobs;
    result
}

/// Upstream's entry for a job. It lasts as long as before; where it was kept alive beyond the trigger's duration, it begins that much later, as
/// upstream begins an entry anew that waits for a place: the span between the two times is what upstream prolongs it by.
fn anonymous(entry: &CapacityReservation, duration: SignedDuration) -> CapacityReservation {
    let earliest = entry
        .expiration_time
        .and_then(|until| until.0.checked_sub(duration).ok())
        .map(MicroTime);
    CapacityReservation {
        name: None,
        replicas: Some(1),
        effective_time: entry.effective_time.max(earliest),
        expiration_time: entry.expiration_time,
    }
}
