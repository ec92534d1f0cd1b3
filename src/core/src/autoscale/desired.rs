//! Ledger + runners + bounds + now → desired replicas, EffectiveTime and what to write (spec 20, "ephemeral runners: demand decides").
//!
//! For ephemeral targets the number of pods wanted now is written at once, in both directions; the scale-down delay only retains idle runners. Runners that ended are taken out of the number
//! before GitHub's `completed` arrives, so a finished job never costs a second pod. Targets that are not ephemeral keep upstream's hold (spec 02 §5.5).

use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use super::{
    demand::{DemandMerge, Pull},
    reservation::{self, Kind},
};

/// A tombstone's runner counts as still up for this long at most (spec 20, "ending").
const ENDING_LIMIT: SignedDuration = SignedDuration::from_mins(1);
/// A number that only follows runners that ended is written this long after the last one at the latest.
const WITH_THE_NEXT_END: SignedDuration = SignedDuration::from_secs(1);
/// As [`WITH_THE_NEXT_END`], for an EffectiveTime that no runner waits for.
const AHEAD: SignedDuration = SignedDuration::from_secs(30);
/// An end that no entry names is forgotten after this long (spec 20, "uncharged ends").
pub const UNCHARGED_LIMIT: SignedDuration = SignedDuration::from_mins(10);
/// An end that is some entry's is kept for so long, for metrics that were pulled before it.
const CHARGED_LIMIT: SignedDuration = SignedDuration::from_mins(3);
/// The webhook gets this long to write the tombstone of a job whose runner ended, before the autoscaler does it. Nothing waits for the write: the number is computed as if it was there.
const TOMBSTONE_GRACE: SignedDuration = SignedDuration::from_secs(3);
/// Entries that expired are dropped when something else is written, or so long after.
const COMPACTION_DELAY: SignedDuration = SignedDuration::from_mins(10);
/// The smallest step of an EffectiveTime.
const STEP: SignedDuration = SignedDuration::from_micros(1);

/// What became of a runner that an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the target's, and up.
    Alive,
    /// It is the target's, and has stopped.
    Ended {
        /// When that was seen.
        at: Timestamp,
    },
    /// It is not the target's, or no longer there: a fresh read did not find it.
    Gone,
}

/// A runner of the target that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its name.
    pub runner: String,
    /// When that was seen.
    pub at: Timestamp,
    /// Rises with every end that this process sees.
    pub sequence: u64,
    /// An entry has named the runner: the end is that job's, also when the entry is gone (spec 20, "uncharged ends").
    pub is_charged: bool,
}

impl End {
    /// Whether the end still has an effect on the number: without a job until it is given up, with one as long as a metric may be behind.
    pub fn matters(&self, now: Timestamp) -> bool {
        let limit = if self.is_charged {
            CHARGED_LIMIT
        } else {
            UNCHARGED_LIMIT
        };
        now.duration_since(self.at) < limit
    }
}

/// Marks the ends whose runner an entry of the ledger names: what gathers the ends does so before [`decide`].
pub fn charge<'e>(ends: impl IntoIterator<Item = &'e mut End>, ledger: &[CapacityReservation]) {
    let mut open = ends.into_iter().filter(|end| !end.is_charged).peekable();
    if open.peek().is_none() {
        return;
    }
    let named: HashSet<&str> = ledger.iter().filter_map(reservation::runner_of).collect();
    for end in open {
        end.is_charged = named.contains(end.runner.as_str());
    }
}

/// The scale target as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetView {
    /// `spec.replicas`; while it is absent nobody has decided yet.
    pub replicas: Option<i64>,
    /// `spec.effectiveTime`.
    pub effective_time: Option<Timestamp>,
    /// Its runners take one job each.
    pub ephemeral: bool,
    /// Annotation `muster.dev/retain-idle-until`.
    pub retain_idle_until: Option<Timestamp>,
    /// Ends up to this one are accounted for in `replicas`; 0 when another process wrote that.
    pub accounted: u64,
    /// Runners that are up or starting and were not asked to go.
    pub alive: i64,
    /// EffectiveTime that the newest set has served.
    pub served: Option<Timestamp>,
}

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// `spec.capacityReservations`.
    pub ledger: &'a [CapacityReservation],
    /// Fate of the runners that entries name; a name that is missing here is unknown and changes nothing.
    pub fates: &'a BTreeMap<String, Fate>,
    /// Ends that this process has seen, oldest first.
    pub ends: &'a [End],
    /// Effective minimum.
    pub min: i64,
    /// Maximum.
    pub max: i64,
    /// What the pull metrics say.
    pub pull: Pull,
    /// How they and the ledger become one number.
    pub merge: DemandMerge,
    /// The target.
    pub target: TargetView,
    /// `status.desiredReplicas`.
    pub last_desired: Option<i64>,
    /// `status.lastSuccessfulScaleOutTime`.
    pub last_scale_out: Option<Timestamp>,
    /// Scale-down delay.
    pub delay: SignedDuration,
    /// Life of an entry (`scaleUpTriggers[].duration`).
    pub duration: SignedDuration,
    /// The time.
    pub now: Timestamp,
}

/// What to write to the target, all in one patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPatch {
    /// `spec.replicas`.
    pub replicas: i64,
    /// `spec.effectiveTime`; `None` leaves it alone.
    pub effective_time: Option<Timestamp>,
    /// Annotation `muster.dev/retain-idle-until`; `None` takes it away.
    pub retain_idle_until: Option<Timestamp>,
    /// Ends accounted for.
    pub accounted: u64,
}

/// The decision about one autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Desired replicas.
    pub desired: i64,
    /// Patch of the target, when something changes.
    pub target: Option<TargetPatch>,
    /// How long after the last patch of the target this one may wait, to be written together with the next change: it makes nobody come or go. `None`:
    /// it is written now.
    pub target_may_wait: Option<SignedDuration>,
    /// New ledger, when it is to be rewritten.
    pub ledger: Option<Vec<CapacityReservation>>,
    /// New `status.lastSuccessfulScaleOutTime`, when it changes.
    pub scaled_out_at: Option<Timestamp>,
    /// The number is held at a former value until then (targets that are not ephemeral).
    pub held_until: Option<Timestamp>,
    /// When time alone changes the decision.
    pub next_due: Option<Timestamp>,
    /// Jobs and other capacity that count.
    pub live: i64,
    /// Runners that still stand though their job is done.
    pub ending: i64,
    /// Runners that ended before anybody said which job they had.
    pub uncharged: i64,
}

/// Collects the earliest of several future instants.
#[derive(Debug)]
struct Due {
    now: Timestamp,
    at: Option<Timestamp>,
}

impl Due {
    fn add(&mut self, at: Timestamp) {
        if at > self.now {
            self.at = Some(self.at.map_or(at, |known| known.min(at)));
        }
    }
}

/// Decides about one autoscaler.
pub fn decide(input: &Input<'_>) -> Decision {
    let now = input.now;
    let mut due = Due { now, at: None };
    let book = settle(input, &mut due);
    let entries = reservation::live(&book.ledger, now);
    let live = reservation::demand_of(&entries);
    for expires in entries.iter().filter_map(|entry| entry.expiration_time) {
        due.add(expires.0);
    }

    let mut uncharged = 0;
    let mut ending = Ending::default();
    let mut ended = 0;
    if input.target.ephemeral {
        for end in input.ends.iter().filter(|end| !end.is_charged) {
            let forgotten = after(end.at, UNCHARGED_LIMIT);
            if forgotten > now {
                uncharged += 1;
                due.add(forgotten);
            }
        }
        ending = count_ending(input, &book, &mut due);
        if let Pull::Known { as_of, .. } = input.pull {
            // The metric still counts the jobs of runners that ended, or finished theirs, after GitHub answered.
            let since = input.ends.iter().filter(|end| end.at > as_of).count();
            ended = i64::try_from(since)
                .unwrap_or(i64::MAX)
                .saturating_add(ending.since_pull);
        }
    }

    let max = input.max.max(0);
    let reserved = live.saturating_sub(uncharged).max(0);
    let mut desired = input.pull.wanted(input.merge, (input.min, max), reserved, ended);
    let mut held_until = None;
    if input.target.ephemeral && !input.pull.counts_runners() {
        desired = desired.saturating_add(ending.runners).min(max.max(desired));
    }
    if matches!(input.pull, Pull::Unknown { .. }) {
        // Never fewer for want of an answer; compat: absent is 1.
        desired = desired.max(input.target.replicas.unwrap_or(1).min(max));
    }
    if !input.target.ephemeral
        && let (Some(last), Some(scaled_out)) = (input.last_desired, input.last_scale_out)
    {
        let until = after(scaled_out, input.delay);
        if last >= desired && until > now {
            if last > desired {
                due.add(until);
                held_until = Some(until);
            }
            desired = last;
        }
    }

    let newest = entries.iter().filter_map(|entry| entry.effective_time).max();
    let (target, scaled_out_at) = patch(input, newest.map(|at| at.0), desired);
    let target_may_wait = target.as_ref().and_then(|patch| may_wait(input, patch));
    Decision {
        desired,
        target,
        target_may_wait,
        ledger: book.rewrite.then_some(book.ledger),
        scaled_out_at,
        held_until,
        next_due: due.at,
        live,
        ending: ending.runners,
        uncharged,
    }
}

/// The ledger as the runners say it is, and whether it must be written.
struct Settled {
    ledger: Vec<CapacityReservation>,
    rewrite: bool,
}

fn settle(input: &Input<'_>, due: &mut Due) -> Settled {
    let now = input.now;
    // An intake that others keep from changing entries appends second ones.
    let (mut ledger, doubles) = reservation::distinct(input.ledger, now);
    let mut rewrite = false;
    let mut finished = Vec::new();

    for entry in &ledger {
        let Kind::Job {
            key,
            runner: Some(runner),
        } = reservation::classify(entry)
        else {
            continue;
        };
        if reservation::is_tombstone(entry) {
            continue;
        }
        match input.fates.get(runner) {
            Some(Fate::Ended { at }) => {
                // Sooner or later somebody writes it; until then it is computed.
                let write_at = after(*at, TOMBSTONE_GRACE);
                rewrite |= write_at <= now;
                due.add(write_at);
                finished.push(key);
            }
            Some(Fate::Gone) => {
                rewrite = true;
                finished.push(key);
            }
            Some(Fate::Alive) | None => {}
        }
    }
    ledger = reservation::tombstones(ledger, &finished, now);
    rewrite |= rearm(input, &mut ledger, due);

    let mut expired = 0_usize;
    for entry in ledger.iter().filter(|entry| reservation::is_expired(entry, now)) {
        expired += 1;
        let drop_at = entry
            .expiration_time
            .map_or(now, |at| after(at.0, COMPACTION_DELAY));
        rewrite |= drop_at <= now;
        due.add(drop_at);
    }
    let tombstones = ledger
        .iter()
        .filter(|entry| reservation::is_tombstone(entry))
        .count();
    rewrite |= expired > 50 || doubles > 50 || tombstones > reservation::MAX_TOMBSTONES;
    if rewrite {
        ledger = reservation::compact(&ledger, now);
        rewrite = ledger != input.ledger;
    }
    Settled { ledger, rewrite }
}

/// Re-arms what must not expire: entries beyond what max admits, and those whose ephemeral runner is up (spec 20, "expiry"). Answers whether a write is due.
fn rearm(input: &Input<'_>, ledger: &mut [CapacityReservation], due: &mut Due) -> bool {
    let now = input.now;
    let margin = input.duration / 4;
    let mut waiting = Vec::new();
    let mut keep = Vec::new();
    let mut running = 0_usize;
    for (index, entry) in ledger.iter().enumerate() {
        let Kind::Job { runner, .. } = reservation::classify(entry) else {
            continue;
        };
        if reservation::is_tombstone(entry) {
            continue;
        }
        match runner.map(|runner| input.fates.get(runner)) {
            Some(Some(Fate::Alive)) => {
                running += 1;
                // compat: where the metric counts the job as well, the reservation ends as upstream's does.
                if input.target.ephemeral && !input.pull.adds_to(input.merge) {
                    keep.push(index);
                }
            }
            _ if reservation::is_expired(entry, now) => {}
            Some(_) => running += 1,
            None => waiting.push((entry.effective_time, index)),
        }
    }
    waiting.sort_unstable();
    let admitted = usize::try_from(input.max.max(0))
        .unwrap_or(usize::MAX)
        .saturating_sub(running);
    keep.extend(waiting.into_iter().skip(admitted).map(|(_, index)| index));

    let is_due = |entry: &CapacityReservation| {
        entry
            .expiration_time
            .is_none_or(|at| at.0.checked_sub(margin).unwrap_or(Timestamp::MIN) <= now)
    };
    let any_due = keep.iter().filter_map(|index| ledger.get(*index)).any(is_due);
    for index in keep {
        let Some(entry) = ledger.get_mut(index) else {
            continue;
        };
        if any_due {
            *entry = reservation::rearm(entry, now, input.duration);
        }
        if let Some(expires) = entry.expiration_time {
            due.add(expires.0.checked_sub(margin).unwrap_or(now));
        }
    }
    any_due
}

/// Runners that are up though their job is done.
#[derive(Clone, Copy, Debug, Default)]
struct Ending {
    runners: i64,
    /// Those whose job was known to be done only after the pull metrics were read.
    since_pull: i64,
}

fn count_ending(input: &Input<'_>, book: &Settled, due: &mut Due) -> Ending {
    let mut ending = BTreeMap::new();
    let (tombstones, others): (Vec<_>, Vec<_>) = book
        .ledger
        .iter()
        .partition(|entry| reservation::is_tombstone(entry));
    for entry in tombstones {
        if let Some(runner) = reservation::runner_of(entry)
            && matches!(input.fates.get(runner), Some(Fate::Alive))
            && let Some(expires) = entry.expiration_time
        {
            let written = expires.0.checked_sub(reservation::TOMBSTONE_LIFETIME).ok();
            let until = written.map_or(input.now, |written| after(written, ENDING_LIMIT));
            if until > input.now {
                ending.insert(runner, written);
                due.add(until);
            }
        }
    }
    if ending.is_empty() {
        return Ending::default();
    }
    for runner in others.into_iter().filter_map(reservation::runner_of) {
        ending.remove(runner);
    }
    let as_of = match input.pull {
        Pull::Known { as_of, .. } => as_of,
        Pull::Off | Pull::Unknown { .. } => Timestamp::MAX,
    };
    let since = ending.values().filter(|written| **written > Some(as_of)).count();
    Ending {
        runners: i64::try_from(ending.len()).unwrap_or(i64::MAX),
        since_pull: i64::try_from(since).unwrap_or(i64::MAX),
    }
}

fn patch(
    input: &Input<'_>,
    newest: Option<Timestamp>,
    desired: i64,
) -> (Option<TargetPatch>, Option<Timestamp>) {
    let target = &input.target;
    let now = input.now;
    let raise = desired > target.replicas.unwrap_or(0);
    let scaled_out_at = if target.ephemeral {
        (raise && desired > target.alive).then_some(now)
    } else {
        match input.last_desired {
            None => (desired > 1).then_some(now),
            Some(last) => (desired > last).then_some(now),
        }
    };
    if !target.ephemeral {
        let write = (Some(desired) != target.replicas).then_some(TargetPatch {
            replicas: desired,
            effective_time: None,
            retain_idle_until: None,
            accounted: target.accounted,
        });
        return (write, scaled_out_at);
    }

    let known = input.ends.last().map_or(0, |end| end.sequence);
    // A runner's end is in the number and more are wanted than are up, or the set says it has served what we asked and yet too few are up.
    let backlog = desired > target.alive
        && (known > target.accounted
            || target
                .served
                .is_some_and(|served| target.effective_time.is_none_or(|asked| asked <= served)));
    let mut effective_time = target.effective_time.max(newest);
    if (raise || backlog) && effective_time == target.effective_time {
        effective_time = Some(
            target
                .effective_time
                .map_or(now, |asked| now.max(after(asked, STEP))),
        );
    }
    let retain = scaled_out_at
        .or(input.last_scale_out)
        .map(|at| after(at, input.delay))
        .filter(|until| *until > now && !input.delay.is_zero());
    // The annotation matters while there is something to retain; otherwise it travels with the next write.
    // (The status keeps whole seconds: a smaller difference is none.)
    let known_retain = target.retain_idle_until.filter(|until| *until > now);
    let same_retain = match (retain, known_retain) {
        (Some(wanted), Some(known)) => wanted.duration_since(known).abs() <= SignedDuration::from_secs(1),
        (wanted, known) => wanted.is_none() && known.is_none(),
    };
    let retain_matters = target.alive > desired && !same_retain;
    let write = Some(desired) != target.replicas || effective_time != target.effective_time || retain_matters;
    let patch = write.then_some(TargetPatch {
        replicas: desired,
        effective_time: effective_time.filter(|at| Some(*at) != target.effective_time),
        retain_idle_until: retain,
        accounted: known,
    });
    (patch, scaled_out_at)
}

/// How long a patch may wait that changes nothing for the set now.
fn may_wait(input: &Input<'_>, patch: &TargetPatch) -> Option<SignedDuration> {
    let target = &input.target;
    let stands = target.replicas.filter(|_| target.ephemeral)?;
    if target.alive > patch.replicas {
        return None;
    }
    // A lower number: the set has no runner to retire, and with the ends that it knows of none to create under the number that stands.
    let unaccounted = input.ends.iter().filter(|end| end.sequence > target.accounted);
    let supply = i64::try_from(unaccounted.count())
        .unwrap_or(i64::MAX)
        .saturating_add(target.alive);
    if patch.effective_time.is_none() && patch.replicas < stands && supply >= stands {
        return Some(WITH_THE_NEXT_END);
    }
    // A newer EffectiveTime: all that may be up are, and the one that stands has not been served, so that the next end is made good at once.
    let is_unserved = target.effective_time.is_some() && target.effective_time > target.served;
    (patch.replicas == stands && target.alive == stands && is_unserved).then_some(AHEAD)
}

fn after(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
