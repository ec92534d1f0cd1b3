//! The demand ledger: one entry of `spec.capacityReservations` per job (spec part 20).
//!
//! Every function is a function of the ledger, an event and a time. The transitions form a join: a job only
//! moves from absent over live to tombstone, and a runner's name is only ever added, so that any order and
//! repetition of a job's events ends in the same ledger. [`apply`] and [`apply_all`] work on plain lists; a
//! writer that keeps a ledger between batches uses [`Book`].

mod book;
mod key;
mod patch;
#[cfg(test)]
mod tests;

pub use book::{Book, Delta, Outcome};
pub use key::{EntryName, JobKey};
pub use patch::diff_patch;

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;
use muster_crds::time::MicroTime;

/// How long an entry lives without a proof that its job is alive where the trigger says nothing (spec 03
/// §1.7).
pub const DEFAULT_DURATION: SignedDuration = SignedDuration::from_mins(10);

/// How long a finished job is remembered, so that a late or repeated event of it has no effect.
pub const TOMBSTONE_LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// Tombstones kept per autoscaler; the oldest go first.
pub const MAX_TOMBSTONES: usize = 500;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A job's, written by Muster; live or tombstone.
    Job {
        /// The job.
        key: JobKey,
        /// The runner that has or had it.
        runner: Option<&'a str>,
    },
    /// Capacity that a `check_run`, `push` or `pull_request` trigger added; it only expires.
    Trigger,
    /// Written by upstream's webhook server: anonymous, one replica, both times.
    Upstream,
    /// The user's: never changed, dropped when expired.
    Foreign,
}

/// Tells whose an entry is (spec 20 "Record").
pub fn classify(entry: &CapacityReservation) -> Kind<'_> {
    match entry.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => match EntryName::parse(name) {
            Some(EntryName { key, runner }) => Kind::Job { key, runner },
            None if is_trigger(name) => Kind::Trigger,
            None => Kind::Foreign,
        },
        None if entry.replicas == Some(1)
            && entry.effective_time.is_some()
            && entry.expiration_time.is_some() =>
        {
            Kind::Upstream
        }
        None => Kind::Foreign,
    }
}

/// The runner that a job's entry names: it has the job, or had it.
pub fn runner_of(entry: &CapacityReservation) -> Option<&str> {
    match classify(entry) {
        Kind::Job { runner, .. } => runner,
        Kind::Trigger | Kind::Upstream | Kind::Foreign => None,
    }
}

/// `<event>/<delivery id>` of an event whose trigger adds expiring capacity.
fn is_trigger(name: &str) -> bool {
    name.split_once('/').is_some_and(|(event, delivery)| {
        matches!(event, "check_run" | "push" | "pull_request")
            && !delivery.is_empty()
            && !delivery.contains('/')
    })
}

/// True while an entry adds capacity. An entry without an expiration time counts as expired, as it does for
/// upstream.
pub fn is_live(entry: &CapacityReservation, now: Timestamp) -> bool {
    replicas(entry) > 0 && !is_expired(entry, now)
}

/// True for the entry of a finished job. It may have expired.
pub fn is_tombstone(entry: &CapacityReservation) -> bool {
    replicas(entry) <= 0
        && entry
            .name
            .as_deref()
            .is_some_and(|name| EntryName::parse(name).is_some())
}

/// True when an entry no longer says anything.
pub fn is_expired(entry: &CapacityReservation, now: Timestamp) -> bool {
    entry.expiration_time.is_none_or(|at| at.0 <= now)
}

fn replicas(entry: &CapacityReservation) -> i64 {
    entry.replicas.unwrap_or(0)
}

/// What stands for one thing although it may stand in a ledger more than once, which two writers at one moment
/// can cause, and one writer that is not let change what exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity<'a> {
    Job(JobKey),
    Trigger(&'a str),
}

fn identity(entry: &CapacityReservation) -> Option<Identity<'_>> {
    match classify(entry) {
        Kind::Job { key, .. } => Some(Identity::Job(key)),
        Kind::Trigger => entry.name.as_deref().map(Identity::Trigger),
        Kind::Upstream | Kind::Foreign => None,
    }
}

/// The entries that add capacity now: of a job's several entries one, and none when one of them is a
/// tombstone that has not expired.
pub fn live(ledger: &[CapacityReservation], now: Timestamp) -> Vec<&CapacityReservation> {
    let mut known: HashMap<Identity<'_>, (usize, bool)> = HashMap::with_capacity(ledger.len());
    let mut found = Vec::with_capacity(ledger.len());
    for entry in ledger.iter().filter(|entry| !is_expired(entry, now)) {
        let is_finished = replicas(entry) <= 0;
        match identity(entry) {
            Some(identity) => {
                let slot = known.entry(identity).or_insert_with(|| {
                    found.push(None);
                    (found.len() - 1, false)
                });
                slot.1 |= is_finished;
                if let Some(place) = found.get_mut(slot.0) {
                    *place = if slot.1 { None } else { place.or(Some(entry)) };
                }
            }
            None if is_finished => {}
            None => found.push(Some(entry)),
        }
    }
    found.into_iter().flatten().collect()
}

/// The ledger with each job once, for those who look at single entries: a tombstone that has not expired wins
/// over all other entries of its job, and live ones are joined. Order and expired entries otherwise stay. Second,
/// how many entries that saves: [`compact`] would drop them for good.
pub fn distinct(ledger: &[CapacityReservation], now: Timestamp) -> (Vec<CapacityReservation>, usize) {
    let mut seen: HashSet<Identity<'_>> = HashSet::with_capacity(ledger.len());
    if ledger
        .iter()
        .filter_map(identity)
        .all(|identity| seen.insert(identity))
    {
        return (ledger.to_vec(), 0);
    }
    let says_finished = |entry: &&CapacityReservation| is_tombstone(entry) && !is_expired(entry, now);
    let finished: HashSet<Identity<'_>> = ledger.iter().filter(says_finished).filter_map(identity).collect();
    let mut places: HashMap<Identity<'_>, usize> = HashMap::new();
    let mut kept: Vec<CapacityReservation> = Vec::with_capacity(ledger.len());
    for entry in ledger {
        if let Some(identity) = identity(entry) {
            let speaks = !is_expired(entry, now);
            if finished.contains(&identity) && !(speaks && is_tombstone(entry)) {
                continue;
            }
            // An expired entry joins another one only as a live one: an expired tombstone says nothing.
            if speaks || !is_tombstone(entry) {
                if let Some(first) = places.get(&identity).and_then(|place| kept.get_mut(*place)) {
                    *first = merged(first, entry);
                    continue;
                }
                places.insert(identity, kept.len());
            }
        }
        kept.push(entry.clone());
    }
    let saved = ledger.len().saturating_sub(kept.len());
    (kept, saved)
}

/// Capacity that the ledger asks for now: jobs count one each, other entries what they say.
pub fn demand(ledger: &[CapacityReservation], now: Timestamp) -> i64 {
    demand_of(&live(ledger, now))
}

/// The same, of the ledger's [`live`] entries.
pub fn demand_of(live: &[&CapacityReservation]) -> i64 {
    let counts = |entry: &CapacityReservation| match replicas(entry) {
        1 => 1,
        _ if matches!(classify(entry), Kind::Job { .. }) => 1,
        replicas => replicas,
    };
    live.iter()
        .map(|entry| counts(entry))
        .fold(0, i64::saturating_add)
}

/// How far a job has come, from the event's sender or from the autoscaler that looks at pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobAction {
    /// It waits for a runner.
    Queued,
    /// A runner has it. Whether that runner is the target's is the autoscaler's to decide.
    InProgress,
    /// A runner that is known not to be the target's has it: no demand here.
    InProgressElsewhere,
    /// It ended, however.
    Completed,
}

/// One event of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// The job.
    pub key: JobKey,
    /// What happened.
    pub action: JobAction,
    /// Name of the runner that has or had the job.
    pub runner: Option<String>,
    /// When GitHub created the job.
    pub created_at: Option<Timestamp>,
}

/// A `check_run`, `push` or `pull_request` event that a trigger waited for: capacity that only expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerEvent {
    /// `<event>/<delivery id>`, see [`TriggerEvent::name_of`]: the same delivery again has no effect.
    pub name: String,
    /// Runners to add.
    pub replicas: i64,
    /// For how long; ≤ 0 means [`DEFAULT_DURATION`].
    pub duration: SignedDuration,
}

impl TriggerEvent {
    /// The name of the entry for a delivery; none where the two cannot make one.
    pub fn name_of(event: &str, delivery: &str) -> Option<String> {
        let name = format!("{event}/{delivery}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (is_trigger(&name) && delivery.len() <= 64 && delivery.chars().all(is_plain)).then_some(name)
    }
}

/// What may happen to a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerEvent {
    /// Something about a job.
    Job(JobEvent),
    /// Something that adds capacity for a time.
    Trigger(TriggerEvent),
}

impl From<JobEvent> for LedgerEvent {
    fn from(event: JobEvent) -> Self {
        Self::Job(event)
    }
}

/// A [`LedgerEvent`] that is looked at.
#[derive(Clone, Copy, Debug)]
pub enum EventRef<'e> {
    /// Something about a job.
    Job(&'e JobEvent),
    /// Something that adds capacity for a time.
    Trigger(&'e TriggerEvent),
}

impl<'e> From<&'e JobEvent> for EventRef<'e> {
    fn from(event: &'e JobEvent) -> Self {
        Self::Job(event)
    }
}

impl<'e> From<&'e LedgerEvent> for EventRef<'e> {
    fn from(event: &'e LedgerEvent) -> Self {
        match event {
            LedgerEvent::Job(event) => Self::Job(event),
            LedgerEvent::Trigger(event) => Self::Trigger(event),
        }
    }
}

/// The ledger after one event (spec 20 "Transitions"). Entries keep their places and new ones are appended,
/// so that the difference is a small patch; [`compact`] orders. `duration` ≤ 0 means [`DEFAULT_DURATION`].
pub fn apply(
    ledger: &[CapacityReservation],
    event: &JobEvent,
    duration: SignedDuration,
    now: Timestamp,
) -> Vec<CapacityReservation> {
    apply_all(ledger, std::slice::from_ref(event), duration, now)
}

/// The ledger after several events, in their order.
pub fn apply_all(
    ledger: &[CapacityReservation],
    events: &[JobEvent],
    duration: SignedDuration,
    now: Timestamp,
) -> Vec<CapacityReservation> {
    applied(Book::new(ledger.to_vec()), events, duration, now)
}

fn applied(
    mut book: Book,
    events: &[JobEvent],
    duration: SignedDuration,
    now: Timestamp,
) -> Vec<CapacityReservation> {
    let delta = book.fold(events, duration, now);
    book.commit(delta);
    book.into_entries()
}

/// The ledger with these jobs' entries turned into tombstones; unchanged where a job has none.
pub fn tombstones(
    ledger: Vec<CapacityReservation>,
    keys: &[JobKey],
    now: Timestamp,
) -> Vec<CapacityReservation> {
    if keys.is_empty() {
        return ledger;
    }
    let book = Book::new(ledger);
    let known = keys.iter().filter(|key| book.holds(key));
    let events: Vec<JobEvent> = known
        .map(|key| JobEvent {
            key: key.clone(),
            action: JobAction::InProgressElsewhere,
            runner: None,
            created_at: None,
        })
        .collect();
    applied(book, &events, DEFAULT_DURATION, now)
}

/// An entry whose job has just been seen alive: it expires `duration` from now, or when it did if that is
/// later.
pub fn rearm(entry: &CapacityReservation, now: Timestamp, duration: SignedDuration) -> CapacityReservation {
    let mut entry = entry.clone();
    entry.expiration_time = entry
        .expiration_time
        .max(Some(MicroTime(after(now, positive(duration)))));
    entry
}

/// The ledger without what no longer says anything: expired entries go, a job's several entries become one,
/// and what remains stands in order: capacity from the oldest on, then at most [`MAX_TOMBSTONES`] tombstones.
/// Upstream's server counts list positions.
pub fn compact(ledger: &[CapacityReservation], now: Timestamp) -> Vec<CapacityReservation> {
    let mut seen: HashMap<Identity<'_>, usize> = HashMap::new();
    let mut kept: Vec<CapacityReservation> = Vec::with_capacity(ledger.len());
    for entry in ledger.iter().filter(|entry| !is_expired(entry, now)) {
        if let Some(identity) = identity(entry) {
            if let Some(first) = seen.get(&identity).and_then(|&index| kept.get_mut(index)) {
                *first = merged(first, entry);
                continue;
            }
            seen.insert(identity, kept.len());
        }
        kept.push(entry.clone());
    }
    let (mut tombstones, mut others): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_tombstone);
    others.sort_by_key(|entry| entry.effective_time);
    tombstones.sort_by_key(|entry| entry.expiration_time);
    let surplus = tombstones.len().saturating_sub(MAX_TOMBSTONES);
    others.extend(tombstones.into_iter().skip(surplus));
    others
}

/// Two entries of one job as one: a tombstone wins, the older time and the known runner stay, the later
/// expiry holds.
fn merged(a: &CapacityReservation, b: &CapacityReservation) -> CapacityReservation {
    let winner = if is_tombstone(b) && !is_tombstone(a) { b } else { a };
    let same_state = is_tombstone(a) == is_tombstone(b);
    let with_runner = [winner, a, b]
        .into_iter()
        .find(|entry| matches!(classify(entry), Kind::Job { runner: Some(_), .. }));
    CapacityReservation {
        name: with_runner.unwrap_or(winner).name.clone(),
        effective_time: match (a.effective_time, b.effective_time) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        },
        expiration_time: if same_state {
            a.expiration_time.max(b.expiration_time)
        } else {
            winner.expiration_time
        },
        ..winner.clone()
    }
}

fn positive(duration: SignedDuration) -> SignedDuration {
    if duration.is_positive() {
        duration
    } else {
        DEFAULT_DURATION
    }
}

/// `duration` after a time, in whole microseconds; the end of time where it would be passed.
fn after(time: Timestamp, duration: SignedDuration) -> Timestamp {
    micros(time.checked_add(duration).unwrap_or(Timestamp::MAX))
}

/// Without what the API's microseconds cannot hold, so that what is compared is what was written.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
